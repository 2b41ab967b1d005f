"""A file's collection, written down; and stand-ins: nodes made from that record that become the
real ones, in place, when they are needed.

A record of a file with one class and one parametrized test::

    {"format": 6, "module": "tests.test_rates",
     "marks": ["slow"],
     "children": [{"n": "TestRates", "c": [...]},
                  {"n": "test_rate[1]", "g": {"fixtures": ["x"], ...}, "s": [...]},
                  {"n": "test_rate[2]", "s": [...]}],      of the same function
     "tests": {"TestRates::test_all": "<fixtures and marks>", "test_rate[1]": ...}}

Reading one executes nothing. It is decoded only when its file is collected.

Stand-ins touch pytest's private parts (checked on pytest 8.4 to 9.2). A stand-in is
of a subclass of the recorded item's own type, so ``isinstance`` holds. What the record knows it
answers; whatever needs the test's code (``obj``, ``module``, ``setup``, a parameter that is no
plain value, ...) has the file collected really, on the very same module node, and every stand-in
of the file takes over the state of its real item while it stays the object that others hold.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import json
import math
import sys
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, cast
from warnings import WarningMessage

import pytest
from _pytest import nodes, python
from _pytest.mark.structures import Mark, NodeKeywords
from _pytest.pathlib import CouldNotResolvePathError, resolve_pkg_root_and_module_name
from _pytest.python import Class, Function, Module
from _pytest.scope import Scope

from pytest_taskcache.dataclass import dataclass, field
from pytest_taskcache.originals import originals
from pytest_taskcache.plugin.pytest_private import marks_of

FORMAT = 7
"""Version of this encoding; part of the key of every record."""

Json = dict[str, Any]


class UnrecordableError(Exception):
    """Why a file has to be collected really; never leaves this room."""


class DamagedRecordError(ValueError):
    """A record that is not what was written."""


@dataclass
class CollectionRecord:
    """One file's collection. ``children`` and ``marks`` as `Description` writes them; ``tests``
    holds for each test, by the rest of its node id, a text of the marks and fixtures that it had
    when its outcome could be looked up ("" if it could not); ``warnings`` is what collecting the
    file warned of, ``module`` what it is called when imported."""

    module: str
    children: list[Json]
    marks: list[Any]
    warnings: list[Json] = field(default_factory=list)
    tests: dict[str, str] = field(default_factory=dict)
    skip: list[Any] = field(default_factory=list)
    """Where a file skips itself when it is imported: the line, and what it says."""
    reason: str = ""
    """Why the file cannot be stood in for; then there is no tree."""

    def encode(self) -> bytes:
        """The record as JSON."""
        document = {"format": FORMAT, **vars(self)}
        return json.dumps(document, separators=(",", ":"), allow_nan=False).encode()

    @classmethod
    def decode(cls, data: bytes) -> CollectionRecord:
        """The record again. Raises DamagedRecordError."""
        try:
            found = json.loads(data)
            if found.pop("format") != FORMAT:
                raise DamagedRecordError("written in another format")
            record = cls(**found)
            tests = [entry for entry in record.entries() if "c" not in entry]
            if len(tests) != len(record.tests):
                raise DamagedRecordError("incomplete")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise DamagedRecordError(str(error)) from error
        return record

    def has_mark(self, names: Container[str]) -> bool:
        """Whether the file, or anything in it, has a mark of one of these names."""
        entries = list(self.entries())
        sets = (entry["s"][4] for entry in entries if "s" in entry)
        marks = itertools.chain(self.marks, *(entry["m"] for entry in entries), *sets)
        return any((mark if type(mark) is str else mark[0]) in names for mark in marks)

    def entries(self) -> Iterator[Json]:
        """Every entry of the tree, those of tests in order."""
        pending = self.children[::-1]
        while pending:
            entry = pending.pop()
            yield entry
            pending += reversed(entry.get("c", ()))


SKIPPING = frozenset({"skip", "skipif"})
"""Marks for which pytest may skip a test."""

_PRIMITIVES = frozenset({str, int, bool, type(None)})


def to_plain(value: object) -> Any:
    """A value as JSON, for `from_plain`. Raises UnrecordableError for what is not plain."""
    kind = type(value)
    if kind in _PRIMITIVES or (kind is float and math.isfinite(value)):  # type: ignore[arg-type]
        return value
    if isinstance(value, (list, tuple)) and kind in (list, tuple):
        return {kind.__name__: [to_plain(each) for each in value]}
    if isinstance(value, dict) and kind is dict and all(type(key) is str for key in value):
        return {"dict": {key: to_plain(each) for key, each in value.items()}}
    raise UnrecordableError(f"a {kind.__qualname__} is no plain value")


def from_plain(value: Any) -> Any:
    """The value again."""
    if type(value) is not dict:
        return value
    ((kind, content),) = value.items()
    if kind == "dict":
        return {key: from_plain(each) for key, each in content.items()}
    parts = [from_plain(each) for each in content]
    return tuple(parts) if kind == "tuple" else parts


_KINDS = frozenset({"_pytest.python", "_pytest.unittest", "pytest_asyncio.plugin"})
"""Modules whose types of items and classes are known to be made of what is recorded."""

_HELD = frozenset(
    {
        "_report_sections", "user_properties", "own_markers", "keywords", "extra_keyword_matches",
        "stash", "_store", "_id", "_nodeid",
    }
)  # fmt: skip
"""Attributes that stay a stand-in's own when it becomes real: others hold the lists and mappings,
and pytest-xdist adds to the id."""

_PLAIN = _HELD | {
    "originalname", "fixturenames", "_fixtureinfo", "funcargs", "_request", "_obj", "_instance",
    "callspec", "location", "name", "parent", "config", "session", "path",
}  # fmt: skip
"""Attributes that every function item has."""

_OURS = frozenset({"_entry", "_group", "_stand", "_made"})
"""Those that a stand-in has besides."""

_LONGEST = 200
"""Characters of a parameter's value that is worth keeping; a longer one needs the real item."""


class Description:
    """Writes nodes down as they are right after their collection, before any hook sees them. Of the
    tests that one function was parametrized to, the first tells what all have in common."""

    def __init__(self) -> None:
        self._shape: object = None

    def node(self, node: nodes.Node) -> Json:
        """An entry for an item, or for an empty class. Raises UnrecordableError."""
        kind = type(node)
        if kind.__module__ not in _KINDS or not isinstance(node, Class | Function):
            raise UnrecordableError(f"{kind.__name__} is not known to be a plain item")
        known = node.obj  # a class has its marks once this is read
        entry: Json = {"n": node.name, "m": describe_marks(node.own_markers)}
        if kind not in (Function, Class):
            entry["T"] = f"{kind.__module__}:{kind.__qualname__}"
        if node.extra_keyword_matches:
            entry["e"] = sorted(node.extra_keyword_matches)
        if isinstance(node, Class):
            return entry | {"q": [known.__module__, known.__qualname__], "c": []}
        if hasattr(node, "callspec"):
            entry["s"] = _describe_callspec(node.callspec)
        known_as = (node.parent, node.function, node.originalname, kind)
        shape = (*known_as, *node.fixturenames, len(vars(node)))
        if shape != self._shape:
            self._shape, entry["g"] = shape, _describe_function(node)
        return entry


def _describe_function(item: Function) -> Json:
    """What the tests of one function have in common; ``place`` is where it is, and what stands
    before a test's name to say so, ``more`` the attributes that a hook gave the items."""
    function, ids = item.function, item.callspec.id if hasattr(item, "callspec") else ""
    relative, line, name = item.location
    path = item.path if relative == item.nodeid.partition("::")[0] else item.reportinfo()[0]
    if not name.endswith(item.name):
        raise UnrecordableError("a test is reported under a name that is not its own")
    attributes = {
        key: value if type(value) in (bool, str, int) else None
        for key, value in getattr(function, "__dict__", {}).items()
    }
    known = {item.name, ids, *attributes, *(mark.name for mark in item.own_markers)}
    keywords: Iterable[str] = getattr(item.keywords, "_markers", ())
    inherited: Any = item.parent and item.parent.keywords
    return {
        "name": item.originalname,
        "known as": [str(function.__module__), str(function.__name__)],
        "fixtures": list(item.fixturenames),
        "place": [str(path), line, relative, name.removesuffix(item.name)],
        "async": inspect.iscoroutinefunction(function),
        "generator": inspect.isgeneratorfunction(function),
        "attributes": attributes,
        "keywords": [key for key in keywords if key not in known and key not in inherited],
        "more": sorted(vars(item).keys() - _PLAIN),
    }


def _describe_callspec(callspec: Any) -> list[Any]:
    """The ids of the parameters; their indices, scopes (but a function's) and values by name, as
    far as these are short and plain; the marks."""
    wide = {n: scope.value for n, scope in callspec._arg2scope.items() if scope != Scope.Function}
    values: Json = {}
    for name, value in callspec.params.items():
        try:
            plain = to_plain(value)
        except UnrecordableError:
            if name in wide:  # pytest groups tests by these values: none can stand for them
                raise UnrecordableError(f"parameter {name!r} is no plain value") from None
            continue
        if name in wide or len(repr(plain)) <= _LONGEST:
            values[name] = plain
    marks = describe_marks(callspec.marks)
    return [list(callspec._idlist), dict(callspec.indices), wide, values, marks]


def describe_marks(marks: Iterable[Mark]) -> list[Any]:
    """The marks of a node; one whose arguments are no plain values keeps its name only."""
    found: list[Any] = []
    for mark in marks:
        entry: Any = mark.name
        if isinstance(mark, LazyMark) or mark.name == "parametrize":  # parameters stand apart
            entry = [mark.name]
        elif mark.args or mark.kwargs:
            entry = [mark.name]
            with suppress(UnrecordableError):
                entry = [mark.name, to_plain(mark.args), to_plain(dict(mark.kwargs))]
        found.append(entry)
    return found


def signature(item: pytest.Item) -> str:
    """The marks and fixtures that an item, or its stand-in, has now, as a text."""
    fixtures = ",".join(getattr(item, "fixturenames", ()))
    return "\n".join((f"fixtures: {fixtures}", *map(repr, describe_marks(marks_of(item)))))


def is_skipped_by_mark(item: pytest.Item) -> bool:
    """Whether pytest will skip this item for a mark before it touches the test: ``skip``, or
    ``skipif`` with a condition that was true when it was recorded."""
    for mark in marks_of(item):
        if mark.name not in SKIPPING or isinstance(mark, LazyMark):
            continue
        conditions = (*mark.args, mark.kwargs.get("condition", False))
        known = all(isinstance(one, bool) for one in conditions)
        if mark.name == "skip" or (known and any(conditions)):
            return True
    return False


def loaded_type(name: str) -> type | None:
    """The type that an entry names, if its module is loaded; nothing is imported for it."""
    module, _, qualified = name.partition(":")
    found: Any = sys.modules.get(module) if module in _KINDS else None
    for part in qualified.split("."):
        found = getattr(found, part, None)
    return found if isinstance(found, type) else None


def import_root(config: pytest.Config, file: Path) -> Path | None:
    """The directory that pytest imports a test file from; None where it needs none."""
    if config.getoption("importmode") == "importlib":
        return None
    try:
        root, _ = resolve_pkg_root_and_module_name(
            file, consider_namespace_packages=config.getini("consider_namespace_packages")
        )
    except CouldNotResolvePathError:
        return file.parent
    return root


def prepare_import(config: pytest.Config, file: Path) -> None:
    """Has ``sys.path`` as it is when the file was imported: other files may import from there."""
    root, mode = import_root(config, file), config.getoption("importmode")
    if root is None:
        return
    if mode == "append" and str(root) not in sys.path:
        sys.path.append(str(root))
    elif mode == "prepend" and sys.path[:1] != [str(root)]:
        sys.path.insert(0, str(root))


def sources_of(module: Module, items: Sequence[pytest.Item]) -> set[str]:
    """The files of a module, of its tests' functions, and of its classes' bases."""
    files, classes = {str(module.path)}, set[type]()
    for item in items:
        code = getattr(inspect.unwrap(item.function), "__code__", None)  # type: ignore[attr-defined]
        files.add(getattr(code, "co_filename", ""))
        owner = item.getparent(Class)
        classes.update(owner.obj.__mro__ if owner is not None else ())
    modules = (sys.modules.get(one.__module__) for one in classes)
    files.update(getattr(module, "__file__", None) or "" for module in modules)
    return {path for path in files if path.endswith(".py")}


class StandIns:
    """The stand-ins of one file. ``replayable`` names the tests of which an outcome is valid;
    ``realised(self)`` is called when it was collected really after all, however that went."""

    def __init__(
        self, node: Module, record: CollectionRecord, realised: Callable[[StandIns], None]
    ) -> None:
        self.node = node
        self.record = record
        self.items: dict[str, pytest.Item] = {}
        """By the rest of their node ids, in order."""
        self.replayable: Container[str] = ()
        self.warned: Sequence[WarningMessage] = ()
        """What pytest was had show for the file."""
        self.is_real = False
        self.is_mended = False
        """Whether the run has the real tests, where the record proved wrong."""
        self.proved_wrong = ""
        """What the real collection found otherwise than recorded; "" if nothing."""
        self.real: list[pytest.Item] = []
        self.failures: list[pytest.CollectReport] = []
        self.classes: dict[str, nodes.Node] = {}
        """The real classes by node id, once there are some."""
        self._realised = realised
        self._stands: list[nodes.Node] = []
        self._made = _marks(record.marks, node, self)
        _add_marks(node, (), self._made)
        self.children = self._build_all(node, record.children)
        node.__dict__["_stand"] = self
        node.__class__ = _StandInModule

    def _build_all(self, parent: nodes.Collector, entries: Sequence[Json]) -> list[nodes.Node]:
        found, group = [], None
        for entry in entries:
            group = entry.get("g", group)
            found.append(self._build(parent, entry, group))
        return found

    def _build(self, parent: nodes.Collector, entry: Json, group: Any) -> nodes.Node:
        is_class = "c" in entry
        plain, mixin = (Class, _StandInClass) if is_class else (Function, _StandInItem)
        node: Any = nodes.Node.__new__(_class_for(entry.get("T"), plain, mixin))
        ids: str | None = None
        nodeid: Any = None
        if not is_class:
            idlist = entry["s"][0] if "s" in entry else ()
            ids = "-".join(idlist) if idlist else None
            if hasattr(nodes.Node, "id"):  # since pytest 9.1
                nodeid = parent.id.child(group["name"]).with_params(ids)
        # Without what its own constructor would look for.
        nodes.Node.__init__(node, entry["n"], parent, nodeid=nodeid)
        made = _marks(entry["m"], node, self)
        node.__dict__.update(_stand=self, _entry=entry, _made=made)
        node.extra_keyword_matches.update(entry.get("e", ()))
        if is_class:
            _add_marks(node, (), made)
            self._stands.append(node)
            node.__dict__["_children"] = self._build_all(node, entry["c"])
        else:
            node.own_markers.extend(made)
            self._fill(node, group, ids)
        return node  # type: ignore[no-any-return]

    def _fill(self, item: Any, group: Json, ids: str | None) -> None:
        _, line, file, prefix = group["place"]
        item.__dict__.update(
            _group=group,
            _report_sections=[],
            user_properties=[],
            originalname=group["name"],
            fixturenames=list(group["fixtures"]),
            location=(file, line, prefix + item.name),
            funcargs={},
        )
        item.keywords = _LazyKeywords(item)
        keywords = item.keywords._markers  # in the order in which pytest adds them
        keywords.update((mark.name, mark) for mark in item.own_markers)
        keywords.update(group["attributes"])
        keywords.update(dict.fromkeys(group["keywords"]))
        if ids is not None:
            keywords[ids] = True
        self.items[item.nodeid.partition("::")[2]] = item

    def realise(self) -> None:
        """Collects the file really and turns the stand-ins into what it gave."""
        if self.is_real:
            return
        self.is_real = True
        node = self.node
        added = _added(node.own_markers, self._made)
        self.withdraw()
        node.own_markers.clear()  # reading ``obj`` adds the module's own
        self._collect(node)
        _add_marks(node, *added)
        for stand in self._stands:
            real = self.classes.get(stand.nodeid)
            if real is not None:
                _add_marks(real, *_added(stand.own_markers, stand.__dict__["_made"]))
        found = [item.nodeid.partition("::")[2] for item in self.real]
        for place, name in enumerate(found):
            if name in self.items:
                _become(self.items[name], self.real[place])
                self.real[place] = self.items[name]
        known = list(self.items)
        if getattr(node.config.option, "lf", False):  # it collects no others of a file
            chosen = set(map(id, node.session.items))
            known = [name for name in known if name in found or id(self.items[name]) in chosen]
        odd = sorted(set(known) ^ set(found))
        if self.record.skip and self.failures and self.failures[0].skipped:
            self.failures.clear()
        elif self.failures:
            self.proved_wrong = "collecting it fails"
        elif odd:
            self.proved_wrong = f"it has other tests now, e.g. {odd[0]}"
        elif known != found:
            self.proved_wrong = "its tests are reordered"
        self._realised(self)

    def withdraw(self) -> None:
        """Leaves the module as if there had been no record."""
        node: Any = self.node
        node.__class__ = Module
        node.__dict__.pop("_stand", None)
        node.own_markers[:] = [m for m in node.own_markers if not any(m is o for o in self._made)]
        for mark in self._made:
            node.keywords._markers.pop(mark.name, None)

    def _collect(self, collector: nodes.Collector) -> None:
        report = collector.ihook.pytest_make_collect_report(collector=collector)
        report.__dict__.pop("call", None)
        if not report.passed:
            self.failures.append(report)
            return
        for node in report.result:
            if isinstance(node, pytest.Item):
                self.real.append(node)
            else:
                self.classes[node.nodeid] = node
                self._collect(node)


def _asker() -> str:
    """The module whose code reads the property, or calls the method, that asks this."""
    return str(originals.getframe(2).f_globals.get("__name__"))


def _real(node: Any) -> Any:
    """The real node; for a module or an item the same object."""
    stand: StandIns = node.__dict__["_stand"]
    stand.realise()
    if isinstance(node, _StandInClass):
        return stand.classes.get(node.nodeid) or _gone(node)  # type: ignore[attr-defined]
    return _gone(node) if isinstance(node, _StandInItem) else node


def _of_the_real_one(name: str, known: Callable[[Any, str], Any] = lambda node, asker: None) -> Any:
    """A property; ``known(node, asker)`` is what some are content with."""

    def get(node: Any) -> Any:
        return known(node, _asker()) or getattr(_real(node), name)

    return property(get, lambda node, value: setattr(_real(node), name, value))


class _StandInModule(Module):
    """A module node whose file is not imported until someone asks for its contents."""

    obj = _of_the_real_one("obj")

    def collect(self) -> Iterable[nodes.Item | nodes.Collector]:
        stand: StandIns = self.__dict__["_stand"]
        if stand.record.skip:
            raise pytest.skip.Exception(stand.record.skip[1], allow_module_level=True)
        return stand.children  # type: ignore[return-value]


_StandInModule.__name__ = _StandInModule.__qualname__ = "Module"


def stand_ins_of(node: nodes.Node) -> StandIns | None:
    """The stand-ins that a node belongs to; None for a node that is real."""
    stand = node.__dict__.get("_stand")
    return stand if isinstance(stand, StandIns) and not stand.is_real else None


class LazyMark(Mark):  # type: ignore[misc] # final for authors of tests
    """A mark whose name is known; its arguments need the real node."""

    def _real(self) -> Mark:
        owner, place, stand = self.__dict__["_of"]
        stand.realise()
        same = [mark for mark in owner.own_markers if mark.name == self.name]
        found: Mark = same[place] if place < len(same) and same[place] is not self else _gone(owner)
        return found

    args = property(lambda mark: mark._real().args)
    kwargs = property(lambda mark: mark._real().kwargs)


class _LazyKeywords(NodeKeywords):  # type: ignore[misc] # as above
    """Keywords of which the names are known; a value that is none of ours needs the item."""

    __slots__ = ()

    def __getitem__(self, key: str) -> Any:
        found = super().__getitem__(key)
        stand = stand_ins_of(self.node)
        if found is None and stand is not None and key in self._markers:
            stand.realise()
            return self.node.keywords[key]
        return found

    def become(self, real: NodeKeywords) -> None:
        """Makes them the real ones, with those that hooks added."""
        own = {key: value for key, value in self._markers.items() if value is not None}
        self.__class__ = NodeKeywords  # type: ignore[assignment]
        self.parent = real.parent
        self._markers = {**own, **real._markers}


@functools.cache
def _named(module: str, qualified: str = "") -> type:
    """Stands for a module or class where only its name is asked for; always the same object."""
    namespace = {"__module__": module, "__qualname__": qualified}
    return type(qualified.rpartition(".")[2] or module, (), namespace)


_READ_ATTRIBUTES = frozenset(
    {"_pytest.mark", "anyio.pytest_plugin", "_hypothesis_pytestplugin", "syrupy.location"}
)
"""Who looks at a test's function, of every test there is, only for its name, the names of its
attributes and whether it is a coroutine (pytest 8.4 to 9.2, anyio 4, Hypothesis 6, syrupy 5)."""


def _function_like(item: Any, asker: str) -> Any:
    if asker not in _READ_ATTRIBUTES:
        return None
    group = item.__dict__["_group"]

    async def coroutine() -> None: ...

    def generator() -> Iterator[None]:
        yield

    def plain() -> None: ...

    function = coroutine if group["async"] else generator if group["generator"] else plain
    function.__dict__.update(group["attributes"])
    function.__module__, function.__name__ = group["known as"]
    return function


class _StandInItem:
    """Mixed in before an item's own type."""

    __slots__ = ()
    __dict__: dict[str, Any]
    taskcache_stand_in = True

    @property
    def cls(self) -> Any:
        owner, asker = self.getparent(Class), _asker()
        if owner is None or asker == "_pytest.fixtures":
            return owner  # which only groups tests by it
        if asker == "pytest_randomly":
            return _named(*owner.__dict__["_entry"]["q"])
        return _real(self).cls

    def reportinfo(self) -> Any:
        path, line, _, prefix = self.__dict__["_group"]["place"]
        return path, line, prefix + self.__dict__["_entry"]["n"]

    obj = _of_the_real_one("obj", _function_like)
    function = _of_the_real_one("function", _function_like)
    module = _of_the_real_one(
        "module",
        lambda item, asker: asker == "pytest_randomly" and _named(item._stand.record.module),
    )
    instance = _of_the_real_one("instance")
    setup = _of_the_real_one("setup")
    runtest = _of_the_real_one("runtest")
    teardown = _of_the_real_one("teardown")

    def __getattr__(self, name: str) -> Any:
        known = self.__dict__
        entry = known.get("_entry")
        if entry is None:
            raise AttributeError(name)
        if name == "callspec" and "s" in entry:
            ids, indices, wide, values, marks = entry["s"]
            found = known["callspec"] = object.__new__(_LazyCallSpec)
            found.__dict__.update(
                indices=dict(indices),
                _arg2scope={name: Scope(wide.get(name, "function")) for name in indices},
                _idlist=tuple(ids),
                marks=_marks(marks, cast(nodes.Node, self), known["_stand"]),
                _owner=self,
                _values=values,
            )
            return found
        if name == "_request" and _asker() == "_pytest.runner":
            return True  # asks whether there is one, before the first hook of the test
        own = name in ("_fixtureinfo", "_request", "_obj", "_instance", "_initrequest")
        if own or name in known["_group"]["more"]:
            return getattr(_real(self), name)
        kind = type(self).__name__
        raise AttributeError(f"{kind!r} object has no attribute {name!r}")


class _StandInClass:
    """Mixed in before a class node's own type."""

    __slots__ = ()
    __dict__: dict[str, Any]
    obj = _of_the_real_one("obj")

    def collect(self) -> list[nodes.Node]:
        return self.__dict__["_children"]  # type: ignore[no-any-return]


_CallSpec: Any = getattr(python, "CallSpec", None) or python.CallSpec2  # before pytest 9.2


class _LazyCallSpec(_CallSpec):  # type: ignore[misc] # found at run time
    """pytest's own, but that a parameter that is no plain value needs the real item."""

    @property
    def params(self) -> dict[str, Any]:
        values, owner = self.__dict__["_values"], self.__dict__["_owner"]
        if len(values) < len(self.indices) and _asker() != "_pytest.fixtures":
            return _real(owner).callspec.params  # type: ignore[no-any-return]
        return {name: from_plain(values[name]) for name in self.indices if name in values}


@functools.cache
def _class_for(name: str | None, plain: type, mixin: type) -> type:
    base = plain if name is None else loaded_type(name)
    assert base is not None  # asked before the first stand-in of the file was made
    namespace = {"__module__": base.__module__, "__slots__": ()}
    return type(base)(base.__name__, (mixin, base), namespace)


def _marks(described: Sequence[Any], owner: nodes.Node, stand: StandIns) -> list[Mark]:
    found: list[Mark] = []
    names: list[str] = []
    for one in described:
        name = one if type(one) is str else one[0]
        if name is one:
            found.append(_bare_mark(name))
        elif len(one) == 3:
            found.append(Mark(name, from_plain(one[1]), from_plain(one[2]), _ispytest=True))
        else:
            lazy = object.__new__(LazyMark)
            lazy.__dict__.update(name=name, _of=(owner, names.count(name), stand))
            found.append(lazy)
        names.append(name)
    return found


@functools.cache
def _bare_mark(name: str) -> Mark:
    return Mark(name, (), {}, _ispytest=True)


def _add_marks(node: nodes.Node, before: Sequence[Mark], after: Sequence[Mark]) -> None:
    """Puts marks before and behind those that a node has."""
    node.own_markers[:] = [*before, *node.own_markers, *after]
    node.keywords.update({mark.name: mark for mark in (*before, *after)})


def _become(item: Any, real: Any) -> None:
    """Gives a stand-in the state of its real item. It stays the object that others hold, and so
    do the lists and mappings that they may have taken from it."""
    old = dict(vars(item))
    added = _added(old["own_markers"], old["_made"])
    names, recorded = real.fixturenames, old["_group"]["fixtures"]  # a list with its closure
    for place, name in enumerate(old["fixturenames"]):
        if name not in recorded and name not in names:  # a hook added it
            names.insert(0 if place == 0 else len(names), name)
    old["own_markers"][:] = real.own_markers
    old["keywords"].become(real.keywords)
    old["extra_keyword_matches"].update(real.extra_keyword_matches)
    old["fixturenames"][:] = names
    old["user_properties"][:0] = real.user_properties
    for key, value in real.stash._storage.items():
        old["stash"]._storage.setdefault(key, value)
    item.__dict__.clear()
    item.__class__, item.parent = real.__class__, real.parent
    item.__dict__.update(real.__dict__)
    replaced = _PLAIN - _HELD | _OURS  # anything else was put on it by a hook
    item.__dict__.update({name: value for name, value in old.items() if name not in replaced})
    _add_marks(item, *added)
    item._initrequest()


def _added(marks: list[Mark], made: Sequence[Mark]) -> tuple[list[Mark], list[Mark]]:
    """What hooks put before and behind the marks that a stand-in was made with."""
    places = [place for place, mark in enumerate(marks) if any(mark is one for one in made)]
    first = places[0] if places else 0
    last = places[-1] + 1 if places else 0
    return marks[:first], marks[last:]


def _gone(node: Any) -> Any:
    """Raises: what is asked for is not in the file any more."""
    raise pytest.Collector.CollectError(
        f"{node.nodeid}: taskcache's record of this file's collection was wrong: the file has "
        "other tests now. The record is dropped; run again"
    )
