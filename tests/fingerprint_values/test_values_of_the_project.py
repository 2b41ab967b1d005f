"""Values whose meaning lies in the project's own code count by what that code says."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType

import pytest

from pytest_taskcache.digests.values.digest import changed_argument, digest_arguments, digest_value
from pytest_taskcache.errors import UndigestableError

Load = Callable[..., ModuleType]


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Load]:
    """Writes modules of a project and imports the first anew, as a later run would."""
    monkeypatch.syspath_prepend(tmp_path)
    made: set[str] = set()
    count = iter(range(1_000))

    def load(order: Sequence[str] = (), **texts: str) -> ModuleType:
        for name in made:
            sys.modules.pop(name, None)
        made.update(texts)
        for name, text in texts.items():
            file = tmp_path / f"{name}.py"
            file.write_text(text)
            stamp = 1_000_000_000 + next(count)
            os.utime(file, (stamp, stamp))  # so that no byte code of the same second is used
        importlib.invalidate_caches()
        for name in order or texts:
            importlib.import_module(name)
        return sys.modules[next(iter(texts))]

    yield load
    for name in made:
        sys.modules.pop(name, None)


# --------------------------------------------------------------------------------- modules


def test_a_module_counts_by_its_source(load: Load) -> None:
    """An edited module is another input; a comment in it is not."""
    before = digest_value(load(conf="V = [1]\n"))
    assert digest_value(load(conf="V = [1]  # one\n")) == before
    assert digest_value(load(conf="V = [2]\n")) != before


def test_a_module_counts_by_what_it_took_from_others(load: Load) -> None:
    """A constant that came from elsewhere changes though the module's own text does not."""
    conf = "from base import V\n"
    before = digest_value(load(conf=conf, base="V = 1\n"))
    assert digest_value(load(conf=conf, base="V = 1\n")) == before
    assert digest_value(load(conf=conf, base="V = 2\n")) != before


def test_a_module_counts_with_the_modules_behind_it(load: Load) -> None:
    """What can be reached as ``conf.base.V`` counts, in modules that import each other, too."""
    conf = "import base\n"
    before = digest_value(load(conf=conf, base="import conf\nV = [1]\n"))
    assert digest_value(load(conf=conf, base="import conf\nV = [1]\n")) == before
    assert digest_value(load(conf=conf, base="import conf\nV = [2]\n")) != before


def test_a_patched_constant_of_a_module_counts(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    """The module as it is now is the input, whatever its file says."""
    module = load(conf="V = 1\n")
    before = digest_value(module)
    monkeypatch.setattr(module, "V", 2)
    assert digest_value(module) != before


def test_installed_modules_count_by_name() -> None:
    """Their version counts elsewhere, and their state is their own."""
    assert digest_value(os) != digest_value(sys)
    assert digest_value([os]) == digest_value([os])


# ------------------------------------------------------------------------------- instances

CLASS = """
import functools
class Base:
    FACTOR = {factor}
class Order(Base):
    RATE = {rate}
    def total(self):
        return {body}
    @functools.lru_cache
    def kept(self):
        return {kept}
def make():
    return Order()
"""


def order(load: Load, rate: str = "1", body: str = "1", kept: str = "1", factor: str = "1") -> str:
    text = CLASS.format(rate=rate, body=body, kept=kept, factor=factor)
    return digest_value({"order": load(models=text).make()})


def test_an_instance_counts_by_the_constants_of_its_class_and_bases(load: Load) -> None:
    """Functions read them through the instance, whose module they need not import."""
    before = order(load)
    assert order(load) == before
    assert order(load, rate="2") != before
    assert order(load, factor="2") != before
    assert order(load, rate="[1]") != order(load, rate="[2]")


def test_a_methods_body_counts_where_it_runs_not_in_the_instance(load: Load) -> None:
    """An edited method makes nothing new of an instance, but for one behind a cache, whose later
    calls run nothing."""
    before = order(load)
    assert order(load, body="2") == before
    assert order(load, kept="2") != before


def test_a_patched_constant_of_a_class_counts(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is at the call, and again after the patch is undone."""
    module = load(models=CLASS.format(rate=1, body=1, kept=1, factor=1))
    before = digest_value(module.make())
    with monkeypatch.context() as patch:
        patch.setattr(module.Base, "FACTOR", 2)
        assert digest_value(module.make()) != before
    assert digest_value(module.make()) == before


def test_counters_and_registries_of_a_class_make_no_new_input(load: Load) -> None:
    """What instances enter into a class's containers is not what they are."""
    module = load(
        models="class Node:\n    seen = []\n    def __init__(self): self.seen.append(self)\n"
    )
    assert digest_value(module.Node()) == digest_value(module.Node())


@pytest.mark.parametrize(
    "kind", ["@dataclasses.dataclass\nclass A:", "@dataclasses.dataclass(slots=True)\nclass A:"]
)
def test_a_dataclass_counts_by_its_statements(load: Load, kind: str) -> None:
    """A class variable, and a default that instances made earlier do not show."""
    text = f"import dataclasses, typing\n{kind}\n    x: int\n    RATE: typing.ClassVar = "
    assert digest_value(load(models=text + "1\n").A(5)) != digest_value(
        load(models=text + "2\n").A(5)
    )


# ------------------------------------------------------------------------------- sentinels


def test_a_sentinel_has_one_name_whatever_else_is_loaded(load: Load) -> None:
    """A module that imports it, before or after, changes no key."""
    own = "MISSING = object()\n"
    others = {"aaa": "from zzz import MISSING\n", "aab": "import zzz\nALIAS = zzz.MISSING\n"}
    alone = digest_value([load(zzz=own).MISSING])
    assert digest_value([load(zzz=own, **others).MISSING]) == alone
    assert digest_value([load(("aab", "aaa", "zzz"), zzz=own, **others).MISSING]) == alone


def test_two_sentinels_of_a_module_differ(load: Load) -> None:
    """They have nothing in common but their type."""
    module = load(zzz="A = object()\nB = object()\nC = A\n")
    assert digest_value(module.A) != digest_value(module.B)
    assert digest_value(module.A) == digest_value(module.C)


@pytest.mark.parametrize("slots", ["pass", "__slots__ = ()"])
def test_two_instances_without_content_differ_by_their_names(load: Load, slots: str) -> None:
    """Where their module holds them: they are all that ``is`` has to go by. Others are alike."""
    module = load(zzz=f"class _Mark:\n    {slots}\nA = _Mark()\nB = _Mark()\n")
    assert digest_value([module.A]) != digest_value([module.B])
    assert digest_value([module._Mark()]) == digest_value([module._Mark()])
    assert digest_value([module._Mark()]) != digest_value([module.A])


# ------------------------------------------------------------------------------- arguments


def test_an_argument_that_was_changed_in_place_is_told() -> None:
    """By name; what cannot change, or has no digest, is not looked at."""
    arguments: dict[str, object] = {"rows": [1], "n": 3, "kept": {"a": [1]}, "left": [1]}
    before = digest_arguments({name: arguments[name] for name in ("rows", "n", "kept")})
    assert changed_argument(arguments, before) == ""
    arguments["rows"].append(2)  # type: ignore[attr-defined]
    arguments["left"].append(2)  # type: ignore[attr-defined]
    assert changed_argument(arguments, before) == "rows"


def test_an_argument_that_lost_its_digest_has_changed() -> None:
    """A file opened into a list of arguments, say."""
    rows: list[object] = [1]
    before = digest_arguments({"rows": rows})
    rows.append(iter(()))
    with pytest.raises(UndigestableError):
        digest_arguments({"rows": rows})
    assert changed_argument({"rows": rows}, before) == "rows"
