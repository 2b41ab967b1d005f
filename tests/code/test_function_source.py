"""A function's source digest finds the right function and counts what it should."""

from __future__ import annotations

import functools
import importlib
import subprocess
import sys
import textwrap
from collections import namedtuple
from dataclasses import dataclass
from types import FunctionType, ModuleType

import pytest

from pytest_taskcache.code.function_source import (
    code_digest,
    function_source_digest,
    module_name,
    unwrapped,
)


@pytest.fixture
def load(tmp_path, monkeypatch):
    """Imports source text as a fresh module of always the same name from always another file."""
    count = iter(range(1000))

    def loaded(source: str) -> ModuleType:
        directory = tmp_path / str(next(count))
        directory.mkdir()
        (directory / "subject_module.py").write_text(textwrap.dedent(source), encoding="utf-8")
        monkeypatch.syspath_prepend(directory)
        monkeypatch.delitem(sys.modules, "subject_module", raising=False)
        return importlib.import_module("subject_module")

    yield loaded
    sys.modules.pop("subject_module", None)


def test_layout_does_not_count(load) -> None:
    """Comments, blank lines, parentheses, quotes and position leave the digest as it is."""
    one = load("def f(x, y=1):\n    return x + y, 'a'\n").f
    two = load(
        """
        # a comment
        OTHER = 1

        def f(x,
              y=1):  # why

            return (x + y), \"a\"
        """
    ).f
    assert function_source_digest(one) == function_source_digest(two)


@pytest.mark.parametrize(
    "changed",
    [
        "def f(x, y=2):\n    return x\n",
        "def f(x, y: int = 1):\n    return x\n",
        "def f(x, y=1) -> int:\n    return x\n",
        "def f(x, y=1):\n    return +x\n",
        "def f(x, y=1):\n    'text'\n    return x\n",
        "def g(x, y=1):\n    return x\nf = g\n",
        "async def f(x, y=1):\n    return x\n",
        "def f(x, *, y=1):\n    return x\n",
        "def f(x, y=True):\n    return x\n",
        "def f(x, y=1.0):\n    return x\n",
        "import functools\n@functools.lru_cache\ndef f(x, y=1):\n    return x\n",
    ],
)
def test_what_a_function_is_counts(load, changed) -> None:
    """Body, defaults, annotations, decorators, name and docstring count."""
    base = load("def f(x, y=1):\n    return x\n").f
    assert function_source_digest(base) != function_source_digest(load(changed).f)


def test_lambdas_on_one_line_are_told_apart(load) -> None:
    """Several lambdas of one line, nested ones too, have digests of their own."""
    module = load(
        "fs = [lambda x: x, lambda x: x + 1, (lambda x: lambda x: x + 2), lambda x: (x)]\n"
    )
    inner = module.fs[2](0)
    digests = [function_source_digest(function) for function in (*module.fs, inner)]
    assert len(set(digests)) == 4
    assert digests[0] == digests[3]


def test_definitions_of_one_name_are_told_apart(load) -> None:
    """Of several definitions of one qualified name, the one that was made is digested."""
    module = load(
        """
        made = []
        def f():
            return 1
        made.append(f)
        def f():
            return 2
        made.append(f)
        def outer():
            def inner():
                return 3
            yield inner
            def inner():
                return 4
            yield inner
        made.extend(outer())
        """
    )
    assert len({function_source_digest(function) for function in module.made}) == 4


def test_methods_partials_and_wrappers_lead_to_their_function(load) -> None:
    """What wraps a function does not stand in its place."""
    module = load(
        """
        import functools
        def log(function):
            @functools.wraps(function)
            def wrapper(*args):
                return function(*args)
            return wrapper
        class C:
            @log
            def m(self):
                return 1
            @staticmethod
            def s():
                return 2
            @classmethod
            def c(cls):
                return 3
        """
    )
    assert unwrapped(module.C.m).__qualname__ == "C.m"
    assert unwrapped(module.C().m).__code__.co_qualname == "C.m"
    assert unwrapped(functools.partial(module.C.c)).__name__ == "c"
    assert (
        len({function_source_digest(unwrapped(f)) for f in (module.C.m, module.C.s, module.C.c)})
        == 3
    )
    with pytest.raises(TypeError, match="no Python function"):
        unwrapped(len)


def test_assertion_rewriting_does_not_matter() -> None:
    """This very function, rewritten by pytest, is found by its source."""
    me = globals()["test_assertion_rewriting_does_not_matter"]
    assert function_source_digest(me) != function_source_digest(
        globals()["test_layout_does_not_count"]
    )


def test_functions_without_source_count_by_code() -> None:
    """Functions made by exec, namedtuple and dataclasses are digested, the same for the same
    code and differently for different code."""

    def made(source: str) -> FunctionType:
        namespace: dict[str, FunctionType] = {"__name__": "made"}
        exec(source, namespace)
        return namespace["f"]

    one = made("def f(x):\n    return {x: (1, frozenset({1, 2}))}\n")
    two = made("\n\n# moved\ndef f(x):\n    return {x: (1, frozenset({1, 2}))}\n")
    other = made("def f(x):\n    return {x: (1.0, frozenset({1, 2}))}\n")
    assert function_source_digest(one) == function_source_digest(two)
    assert function_source_digest(one) != function_source_digest(other)

    @dataclass
    class Point:
        x: int

    assert len(function_source_digest(Point.__init__)) == 32
    assert len(function_source_digest(namedtuple("P", "x").__new__)) == 32


def test_digest_of_code_is_the_same_in_every_process() -> None:
    """String hashing, and so the order of constant sets, does not leak into a digest."""
    program = (
        "from pytest_taskcache.code.function_source import code_digest\n"
        'print(code_digest(compile(\'x in {"a", "b", "c", (1, "d")}\', \'f\', \'eval\')))'
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(filter(None, sys.path))},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(digests) == 1


def test_unparsable_or_missing_files_fall_back_to_code() -> None:
    """Code that claims a file which is none is digested by itself."""
    code = compile("def f():\n    return 1\n", "/nonexistent/x.py", "exec").co_consts[0]
    function = FunctionType(code, {"__name__": "m"})
    assert len(function_source_digest(function)) == 32
    assert code_digest(code) == code_digest(code.replace(co_filename="y", co_firstlineno=7))


def test_the_main_module_has_the_identity_it_is_imported_under(load, monkeypatch) -> None:
    """A function of a script that is run, and of the same file when imported, is one."""
    module = load("def f():\n    return 1\n")
    imported = function_source_digest(module.f)
    main = ModuleType("__main__")
    main.__file__ = module.__file__
    monkeypatch.setitem(sys.modules, "__main__", main)
    monkeypatch.setattr(module.f, "__module__", "__main__")
    assert function_source_digest(module.f) == imported
    assert module_name("elsewhere") == "elsewhere"


def test_a_script_in_a_package_has_the_name_it_is_imported_under(monkeypatch, tmp_path) -> None:
    """With its packages, and as the package where it is what ``python -m`` runs."""
    (tmp_path / "outer" / "inner").mkdir(parents=True)
    for package in ("outer", "outer/inner"):
        (tmp_path / package / "__init__.py").touch()
    main = ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", main)
    main.__file__ = str(tmp_path / "outer" / "inner" / "job.py")
    assert module_name("__main__") == "outer.inner.job"
    main.__file__ = str(tmp_path / "outer" / "inner" / "__main__.py")
    assert module_name("__main__") == "outer.inner"
