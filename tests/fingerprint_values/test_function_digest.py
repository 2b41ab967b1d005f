"""A task's source digest changes with its code, its closure, its defaults and its class."""

from __future__ import annotations

import functools
import importlib
import itertools
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from pytest_taskcache.digests.values.digest import digest_function, digest_value
from pytest_taskcache.errors import UndigestableError

Load = Callable[[str], ModuleType]


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Load]:
    """Imports a module of a given source, each time from a directory of its own and by the same
    name, as two states of one project would."""
    numbers = itertools.count()
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def load_source(source: str) -> ModuleType:
        directory = tmp_path / str(next(numbers))
        directory.mkdir()
        (directory / "digest_subject.py").write_text(source)
        sys.modules.pop("digest_subject", None)
        importlib.invalidate_caches()
        with monkeypatch.context() as context:
            context.syspath_prepend(str(directory))
            return importlib.import_module("digest_subject")

    yield load_source
    sys.modules.pop("digest_subject", None)


def function_digests(load: Load, *sources: str, name: str = "f") -> list[str]:
    digests = []
    for source in sources:
        function: Any = load(source)
        for part in name.split("."):
            function = getattr(function, part)
        digests.append(digest_function(function))
    return digests


def test_comments_and_formatting_do_not_count(load: Load) -> None:
    """A hit survives a reformatted file."""
    first, second = function_digests(
        load, "def f(x):\n    return x+1\n", "# note\n\ndef f( x ):\n    # more\n    return x + 1\n"
    )
    assert first == second


@pytest.mark.parametrize(
    "changed",
    [
        "def f(x, y=1):\n    return x + 2\n",
        "def f(x, y=2):\n    return x + 1\n",
        "def f(x, y: int = 1):\n    return x + 1\n",
        "def f(x, *, y=1):\n    return x + 1\n",
        "def deco(f):\n    return f\n@deco\ndef f(x, y=1):\n    return x + 1\n",
    ],
)
def test_body_defaults_annotations_and_decorators_count(load: Load, changed: str) -> None:
    """What can change the result changes the digest."""
    first, second = function_digests(load, "def f(x, y=1):\n    return x + 1\n", changed)
    assert first != second


def test_evaluated_defaults_count(load: Load) -> None:
    """A default computed elsewhere counts by its value, not only by its source."""
    source = "N = {}\ndef f(x, y=N):\n    return x + y\n"
    first, second, again = function_digests(
        load, source.format(1), source.format(2), source.format(1)
    )
    assert first != second
    assert first == again


def test_mutated_default_counts(load: Load) -> None:
    """A default list that grew is another input."""
    function = load("def f(x, seen=[]):\n    return seen\n").f
    before = digest_function(function)
    function.__defaults__[0].append(1)
    assert digest_function(function) != before


def test_replaced_defaults_and_code_count(load: Load) -> None:
    """A digest that is kept is not kept beyond what it covers."""
    module = load("def f(x, y=1):\n    return x\ndef g(x, y=1):\n    return -x\n")
    before = digest_function(module.f)
    assert digest_function(module.f) == before
    module.f.__defaults__ = (2,)
    changed = digest_function(module.f)
    assert changed != before
    module.f.__code__ = module.g.__code__
    assert digest_function(module.f) not in {before, changed}


def closing_over(value: object, other: object = None) -> Callable[[], object]:
    def inner() -> object:
        return (value, other)

    return inner


def test_closure_values_count() -> None:
    """Two closures of one source differ by what they closed over."""
    assert digest_function(closing_over(1)) == digest_function(closing_over(1))
    assert len({digest_function(closing_over(value)) for value in (1, True, 1.0, [1])}) == 4
    assert digest_function(closing_over(1, 2)) != digest_function(closing_over(2, 1))


def test_closure_over_a_function_counts_by_its_closure() -> None:
    """Decorated all the way down."""
    inner = closing_over(1)
    assert digest_function(closing_over(inner)) == digest_function(closing_over(closing_over(1)))
    assert digest_function(closing_over(inner)) != digest_function(closing_over(closing_over(2)))


def recursive(step: int) -> Callable[[int], int]:
    def down(n: int) -> int:
        return 0 if n <= 0 else up(n - step)

    def up(n: int) -> int:
        return down(n)

    return down


def test_functions_that_refer_to_themselves_have_a_digest() -> None:
    """Mutual recursion through closures ends, and what else they close over counts."""
    assert digest_function(recursive(1)) == digest_function(recursive(1))
    assert digest_function(recursive(1)) != digest_function(recursive(2))


def unset() -> Callable[[], object]:
    def inner() -> object:
        return later

    if inner is None:
        later = 1
    return inner


def test_empty_closure_cells_are_tolerated() -> None:
    """A variable that is assigned later, or never, breaks nothing."""
    assert digest_function(unset()) == digest_function(unset())


def test_undigestable_closure_value_is_named() -> None:
    """The path leads to the variable."""
    with (
        closing(sqlite3.connect(":memory:")) as connection,
        pytest.raises(UndigestableError) as caught,
    ):
        digest_function(closing_over({"db": connection}))
    assert caught.value.path == "inner.<closure>.value['db']"


METHOD = """
class Base:
    def helper(self):
        return {base}

class Task(Base):
    limit = {limit}

    def run(self):
        return super().helper() + self.own()

    def own(self):
        return {own}

class Unrelated:
    x = {other}
"""


def method_digest(load: Load, **parts: int) -> str:
    return function_digests(
        load,
        METHOD.format(**({"base": 1, "limit": 1, "own": 1, "other": 1} | parts)),
        name="Task.run",
    )[0]


@pytest.mark.parametrize("part", ["base", "limit", "own"])
def test_class_and_its_bases_count_for_a_method(load: Load, part: str) -> None:
    """A sibling method, a class constant or a base's method is part of a method's task."""
    assert method_digest(load) != method_digest(load, **{part: 2})


def test_other_classes_do_not_count_for_a_method(load: Load) -> None:
    """A change elsewhere in the file costs no hit."""
    assert method_digest(load) == method_digest(load, other=2)


def test_present_state_of_a_class_does_not_count_for_its_method(load: Load) -> None:
    """A class that counts its calls does not make every call a miss."""
    task = load(METHOD.format(base=1, limit=1, own=1, other=1)).Task
    before = digest_function(task.run)
    task.limit += 1
    assert digest_function(task.run) == before


def test_class_as_an_argument_counts_by_source_and_present_constants(load: Load) -> None:
    """Settings kept on a class, and patched by a test, are input."""
    source = "class Settings:\n    debug = False\n    def f(self):\n        return {}\n"
    settings = load(source.format(1)).Settings
    before = digest_value(settings)
    settings.debug = True
    assert digest_value(settings) != before
    settings.debug = False
    assert digest_value(settings) == before
    assert digest_value(load(source.format(2)).Settings) != before


def test_renamed_field_of_a_dataclass_counts_in_its_values(load: Load) -> None:
    """Swapping two fields in the source does not let old entries be served."""
    source = "from dataclasses import dataclass\n@dataclass\nclass P:\n    {}: int\n    {}: int\n"
    first = digest_value(load(source.format("x", "y")).P(1, 2))
    second = digest_value(load(source.format("y", "x")).P(1, 2))
    assert first != second


def test_default_that_only_the_class_holds_counts(load: Load) -> None:
    """A field with ``init=False`` is read from the class; its default is input all the same."""
    source = (
        "from dataclasses import dataclass, field\n@dataclass\nclass P:\n    x: int\n"
        "    y: int = field(init=False, default={})\n"
    )
    first, second = (digest_value(load(source.format(number)).P(1)) for number in (1, 2))
    assert first != second


def test_function_attributes_do_not_count() -> None:
    """A counter kept on the function does not make every call a miss."""
    function: Any = closing_over(1)
    before = digest_function(function)
    function.calls = 1
    assert digest_function(function) == before


class Callable1:
    def __init__(self, factor: int) -> None:
        self.factor = factor

    def __call__(self, x: int) -> int:
        return x * self.factor


def test_other_callables_count_by_value() -> None:
    """Objects with ``__call__``, partials and methods are tasks, too."""
    assert digest_function(Callable1(1)) == digest_function(Callable1(1))
    assert digest_function(Callable1(1)) != digest_function(Callable1(2))
    assert digest_function(Callable1(1).__call__) != digest_function(Callable1(2).__call__)
    assert digest_function(functools.partial(max, 1)) != digest_function(functools.partial(max, 2))
    assert digest_function(len) != digest_function(abs)
