"""Every touch of pytest's private parts, behind names of ours (checked on pytest 8.4 to 9.2).

Elsewhere are two: `collection.pytest_nodes` makes nodes that stand in, and the plugin itself
reads the ini file before anything else of ours is loaded.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType, MappingProxyType
from typing import Any, NamedTuple

import pytest
from _pytest.doctest import DoctestItem as DoctestItem
from _pytest.fixtures import FixtureDef, FixtureRequest
from _pytest.runner import runtestprotocol

from pytest_taskcache.errors import StorageError
from pytest_taskcache.observation.hooks.replacing import swap
from pytest_taskcache.originals import originals

HANDLES = frozenset(
    {
        "cache", "capfd", "capfdbinary", "caplog", "capsys", "capsysbinary", "capteesys",
        "doctest_namespace", "monkeypatch", "pytestconfig", "pytester", "record_property",
        "record_testsuite_property", "record_xml_attribute", "recwarn", "request", "subtests",
        "taskcache", "testdir", "tmp_path", "tmp_path_factory", "tmpdir", "tmpdir_factory",
    }
)  # fmt: skip
"""Fixtures of pytest's own that are handles: they count by name, not by value."""


ITEM = "_pyfuncitem"
"""The attribute of a request that holds its item."""

_WRITTEN = pytest.StashKey[Mapping[str, object]]()


def written_ini(config: pytest.Config) -> Mapping[str, object]:
    """What stands in the ini file, unparsed, as it was when first asked for: the markers of plugins
    are added to those that are written there."""
    if _WRITTEN not in config.stash:
        found: Mapping[str, object] | None = getattr(config, "_inicfg", None)
        config.stash[_WRITTEN] = copy.deepcopy(dict(config.inicfg if found is None else found))
    return config.stash[_WRITTEN]


def active_definition(request: FixtureRequest, name: str) -> FixtureDef[Any] | None:
    """The definition that a request's fixture of this name resolves to; None for handles of
    pytest's own, ``request`` among them."""
    found = request._get_active_fixturedef(name)
    return found if isinstance(found, FixtureDef) and not is_handle(found) else None


def is_watched(config: pytest.Config) -> bool:
    """Whether a run is about the running of tests, so that none is to be replayed."""
    options = ("usepdb", "trace", "setupplan", "setuponly", "setupshow")
    return any(getattr(config.option, name, False) for name in options)


def keywords_of(item: pytest.Item) -> dict[str, Any]:
    """An item's keywords as its reports carry them. Its own come first, then its parents', which
    are the same for all its neighbours: they are worked out once."""
    parent, own = item.parent, getattr(item.keywords, "_markers", None)
    if parent is None or type(own) is not dict:
        return dict.fromkeys(item.keywords, 1)
    inherited = parent.stash.get(_KEYWORDS, None)
    if inherited is None:
        inherited = parent.stash[_KEYWORDS] = dict.fromkeys(parent.keywords, 1)
    return {**dict.fromkeys(own, 1), **inherited}


_KEYWORDS = pytest.StashKey[dict[str, int]]()


def all_definitions(session: pytest.Session) -> list[FixtureDef[Any]]:
    """Every fixture definition of a run, whoever may see it."""
    manager: Any = session._fixturemanager
    since_9_1 = getattr(manager, "_get_all_fixture_defs", None)
    if since_9_1 is not None:
        return list(since_9_1())
    return [found for group in manager._arg2fixturedefs.values() for found in group]


def is_fixture(name: str, item: pytest.Item) -> bool:
    """Whether a test can see a fixture of this name; ``request`` has no definition."""
    return name in HANDLES or bool(item.session._fixturemanager.getfixturedefs(name, item))


def is_handle(definition: FixtureDef[Any]) -> bool:
    """Whether a fixture is one of pytest's own handles."""
    if definition.argname not in HANDLES:
        return False
    module = getattr(definition.func, "__module__", "") or ""
    return module.split(".")[0] in ("_pytest", "pytest_taskcache")


@contextmanager
def swapped_function(definition: FixtureDef[Any], function: Callable[..., Any]) -> Iterator[None]:
    """Has a fixture definition call another function for a while."""
    original = definition.func
    definition.func = function  # type: ignore[misc] # Final in the annotations, a plain attribute
    try:
        yield
    finally:
        definition.func = original  # type: ignore[misc]


def tear_down_until(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Tears down what the next item does not need. Raises what a teardown raises."""
    item.session._setupstate.teardown_exact(nextitem)


def run_unseen(item: pytest.Item) -> list[pytest.TestReport]:
    """The reports of an item, which nobody is shown; all that is set up is torn down at its end."""
    return runtestprotocol(item, log=False, nextitem=None)


def has_something_set_up(item: pytest.Item) -> bool:
    """Whether any node is set up, so that teardown has something to do."""
    return bool(item.session._setupstate.stack)


_Note = Callable[[FixtureRequest, str, FrameType], None]


def watch_dynamic_requests(note: _Note) -> Callable[[], None]:
    """Has ``note(request, name, frame of the caller)`` called after each
    ``request.getfixturevalue(name)``; returns what ends that. Nested watches (pytest inside
    pytest) all hear it."""
    original = FixtureRequest.getfixturevalue

    def getfixturevalue(self: FixtureRequest, argname: str) -> Any:
        __tracebackhide__ = True
        value = original(self, argname)
        if argname != "request":  # which each parameter asks for, and which is a handle
            note(self, argname, originals.getframe(1))
        return value

    swap(FixtureRequest, "getfixturevalue", original, getfixturevalue)
    return partial(swap, FixtureRequest, "getfixturevalue", getfixturevalue, original)


def asking_definition(request: FixtureRequest) -> FixtureDef[Any] | None:
    """The fixture on whose behalf a request asks; None for a test."""
    return getattr(request, "_fixturedef", None)


class Closure(NamedTuple):
    """The fixtures that an item needs, as found at collection.

    ``token`` is the same object for items that share a closure; ``definitions`` by name, furthest
    first; ``initial`` are the names of those that the item gets, ``named`` of those that it asks
    for (not by autouse or a mark); ``given`` its parameters by name."""

    token: object = None
    definitions: Mapping[str, Sequence[FixtureDef[Any]]] = MappingProxyType({})
    initial: Sequence[str] = ()
    named: Sequence[str] = ()
    given: Mapping[str, Any] = MappingProxyType({})


def closure_of(item: pytest.Item | None) -> Closure:
    """An item's closure; an empty one where it needs no fixtures."""
    info = getattr(item, "_fixtureinfo", None)
    if info is None:
        return Closure()
    given: Mapping[str, Any] = getattr(getattr(item, "callspec", None), "params", {})
    return Closure(info, info.name2fixturedefs, info.initialnames, info.argnames, given)


def fixtures_of(item: pytest.Item) -> Collection[str]:
    """The names of all fixtures that a running item has, those included that it asked for as it
    ran."""
    names: Collection[str] = getattr(getattr(item, "_request", None), "fixturenames", ())
    return names


def marks_of(item: pytest.Item | None) -> list[pytest.Mark]:
    """What ``iter_markers`` gives, the closest first, in a tenth of the calls."""
    found: list[pytest.Mark] = []
    node: Any = item
    while node is not None:
        found += node.own_markers
        node = node.parent
    return found


def leave_out(item: pytest.Item, names: AbstractSet[str]) -> None:
    """Has an item set up without these fixtures, unless others ask for them."""
    present = getattr(item, "fixturenames", ())
    if not names.isdisjoint(present):  # the list is its neighbours', too
        item.fixturenames = [n for n in present if n not in names]  # type: ignore[attr-defined]


def set_arguments(definition: FixtureDef[Any], names: tuple[str, ...]) -> None:
    """Has a fixture definition ask for these fixtures."""
    definition.argnames = names  # type: ignore[misc] # Final in the annotations


def is_async(function: object) -> bool:
    """Whether a fixture's function needs an event loop, as a plugin may run it."""
    return inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)


def restore_subtest(report: object, data: Mapping[str, Any]) -> None:
    """Gives a deserialized subtest's report its parameters as they were written: the context's
    constructor takes ``repr`` of each, a second time for those that were stored."""
    context = getattr(report, "context", None)
    written = data.get("_subtest.context")
    if context is not None and isinstance(written, dict) and "kwargs" in written:
        object.__setattr__(context, "kwargs", written["kwargs"])


def make_cache_directory(config: pytest.Config, inside: Path) -> None:
    """Has pytest make its cache directory, with what it puts there, if ours is to lie in it."""
    cache = getattr(config, "cache", None)
    make = getattr(cache, "_ensure_cache_dir_and_supporting_files", None)
    if make is not None and inside.parent == getattr(cache, "_cachedir", None):
        try:
            make()
        except OSError:
            return  # ours meets the same fault, and reports it


def width_of(reporter: Any) -> int:
    """The terminal's columns; 0 where a program or a file reads the lines, which stay whole."""
    return reporter._tw.fullwidth if reporter.isatty else 0


def temporary_directory(config: pytest.Config, *, make: bool = False) -> Path | None:
    """The run's temporary directory, made now if asked for; None where there is none (yet)."""
    factory: Any = getattr(config, "_tmp_path_factory", None)
    if make and factory is not None:
        factory.getbasetemp()
    base = getattr(factory, "_basetemp", None)
    return Path(base) if base is not None else None


def new_temporary_directory(config: pytest.Config) -> Path:
    """A fresh directory in the run's temporary directory. Raises StorageError."""
    factory: Any = getattr(config, "_tmp_path_factory", None)
    if factory is None:
        raise StorageError("temporary directory", "restore a tree", "-p no:tmpdir")
    return Path(factory.mktemp("taskcache"))


def parameters_of(item: pytest.Item) -> dict[str, Any]:
    """The values that a parametrized test was given, by name."""
    callspec = getattr(item, "callspec", None)
    return dict(callspec.params) if callspec is not None else {}


def index_of_parameter(item: pytest.Item, name: str) -> int:
    """Which of its values a parametrized test was given."""
    indices: Mapping[str, int] = getattr(getattr(item, "callspec", None), "indices", {})
    return indices.get(name, 0)
