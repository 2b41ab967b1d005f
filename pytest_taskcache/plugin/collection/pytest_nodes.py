"""Stand-ins: nodes made from a record that become the real ones, in place, when they are needed.

They touch pytest's private parts (checked on pytest 8.4 to 9.2). A stand-in is
of a subclass of the recorded item's own type, so ``isinstance`` holds. What the record knows it
answers; whatever needs the test's code (``obj``, ``module``, ``setup``, a parameter that is no
plain value, ...) has the file collected really, on the very same module node, and every stand-in
of the file takes over the state of its real item while it stays the object that others hold.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Collection, Container, Hashable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from _pytest import nodes, python
from _pytest.mark.structures import Mark, NodeKeywords
from _pytest.pathlib import CouldNotResolvePathError, resolve_pkg_root_and_module_name
from _pytest.python import Class, Function, Module
from _pytest.scope import Scope

from pytest_taskcache.plugin.collection.collection_record import (
    CollectionRecord,
    Json,
    UnrecordableError,
    from_plain,
    to_plain,
)

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

_OURS = frozenset({"_entry", "_stand", "_made"})
"""Those that a stand-in has besides."""

_LONGEST = 200
"""Characters of a parameter's value that is worth keeping; a longer one needs the real item."""


class Description:
    """Writes nodes down as they are right after their collection, before any hook sees them. What
    many entries share is in the table once."""

    def __init__(self, table: list[Any]) -> None:
        self._table = table
        self._places: dict[Hashable, int] = {}
        self._groups: dict[tuple[object, ...], int] = {}

    def share(self, value: Any, key: Hashable = None) -> int:
        """The place in the table of a value that many entries have; ``key`` stands for it."""
        place = self._places.setdefault(key or repr(value), len(self._table))
        if place == len(self._table):
            self._table.append(value)
        return place

    def marks(self, marks: Collection[Mark]) -> int:
        """The marks of a node; one whose arguments are no plain values keeps its name only."""
        if not marks:
            return self.share([])
        return self.share([_describe_mark(mark) for mark in marks])

    def node(self, node: nodes.Node) -> Json:
        """An entry for an item, or for an empty class. Raises UnrecordableError."""
        kind = type(node)
        if kind.__module__ not in _KINDS or not isinstance(node, Class | Function):
            raise UnrecordableError(f"{kind.__name__} is not known to be a plain item")
        entry: Json = {"n": node.name, "m": self.marks(node.own_markers)}
        if kind not in (Function, Class):
            entry["T"] = f"{kind.__module__}:{kind.__qualname__}"
        if node.extra_keyword_matches:
            entry["e"] = sorted(node.extra_keyword_matches)
        if isinstance(node, Class):
            entry["q"] = [node.obj.__module__, node.obj.__qualname__]
            entry["c"] = []
        else:
            self._item(entry, node)
        return entry

    def _item(self, entry: Json, item: Function) -> None:
        callspec = getattr(item, "callspec", None)
        ids = None if callspec is None else callspec.id
        own = [
            None if k == ids else k
            for k in getattr(item.keywords, "_markers", ())
            if k != item.name
        ]
        entry["k"] = self.share(own, ("keywords", *own))
        if callspec is not None:
            entry["s"] = self._callspec(callspec)
        # The tests that one function was parametrized to differ in nothing else.
        known, known_as = vars(item), (item.parent, item.function, item.originalname, type(item))
        shape = (*known_as, *item.fixturenames, len(known))
        group = self._groups.get(shape)
        if group is None:
            group = self._groups[shape] = self._group(item)
        entry["g"] = group

    def _group(self, item: Function) -> int:
        """What the tests of one function have in common: its name; their fixtures; where it is;
        what stands before a test's name to say so; the kind of function, its attributes, and those
        that a hook gave the items."""
        function = item.function
        path, line, name = item.reportinfo()
        relative, _, _ = item.location
        if not name.endswith(item.name):
            raise UnrecordableError("a test is reported under a name that is not its own")
        place = [str(path), line, relative, name.removesuffix(item.name)]
        attributes = {
            key: value if type(value) in (bool, str, int) else None
            for key, value in getattr(function, "__dict__", {}).items()
        }
        flavour = "a" if inspect.iscoroutinefunction(function) else ""
        flavour += "g" if inspect.isgeneratorfunction(function) else ""
        more = sorted(vars(item).keys() - _PLAIN)
        names = list(item.fixturenames)
        return self.share([item.originalname, names, place, flavour, attributes, more])

    def _callspec(self, callspec: Any) -> list[Any]:
        scopes = {name: scope.value for name, scope in callspec._arg2scope.items()}
        values: Json = {}
        for name, value in callspec.params.items():
            wide = scopes.get(name) != Scope.Function.value
            try:
                plain = to_plain(value)
            except UnrecordableError:
                if wide:  # pytest groups tests by these values: none can stand for them
                    raise UnrecordableError(f"parameter {name!r} is no plain value") from None
                continue
            if wide or len(repr(plain)) <= _LONGEST:
                values[name] = plain
        shared = self.share([dict(callspec.indices), scopes])
        return [list(callspec._idlist), shared, values, self.marks(callspec.marks)]


def _describe_mark(mark: Mark) -> Any:
    try:
        if mark.name == "parametrize":
            raise UnrecordableError  # its arguments are the parameters, which stand elsewhere
        if not mark.args and not mark.kwargs:
            return mark.name
        return [mark.name, to_plain(mark.args), to_plain(dict(mark.kwargs))]
    except UnrecordableError:
        return [mark.name]


def signature(item: pytest.Item) -> str:
    """The marks and fixtures that an item, or its stand-in, has now, as a text."""
    marks = [
        repr([mark.name] if isinstance(mark, LazyMark) else _describe_mark(mark))
        for mark in item.iter_markers()
    ]
    return "\n".join((f"fixtures: {','.join(getattr(item, 'fixturenames', ()))}", *marks))


def is_skipped_by_mark(item: pytest.Item) -> bool:
    """Whether pytest will skip this item for a mark before it touches the test: ``skip``, or
    ``skipif`` with a condition that was true when it was recorded."""
    for mark in item.iter_markers():
        if mark.name not in ("skip", "skipif") or isinstance(mark, LazyMark):
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
    found = {str(module.path)}
    classes = set()
    for item in items:
        code = getattr(inspect.unwrap(item.function), "__code__", None)  # type: ignore[attr-defined]
        if code is not None:
            found.add(code.co_filename)
        owner = item.getparent(Class)
        if owner is not None:
            classes.update(owner.obj.__mro__)
    for one in classes:
        found.add(getattr(sys.modules.get(one.__module__), "__file__", None) or "")
    return {path for path in found if path.endswith(".py")}


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
        self.is_real = False
        self.is_mended = False
        """Whether the run has the real tests, where the record proved wrong."""
        self.real: list[pytest.Item] = []
        self.failures: list[pytest.CollectReport] = []
        self.classes: dict[str, nodes.Node] = {}
        """The real classes by node id, once there are some."""
        self._realised = realised
        self._found: list[str] = []
        self._stands: list[nodes.Node] = []
        self._made = _marks(record.table[record.marks], node, self)
        _add_marks(node, (), self._made)
        self.children = [self._build(node, entry) for entry in record.children]
        node.__dict__["_stand"] = self
        node.__class__ = _StandInModule

    @property
    def proved_wrong(self) -> str:
        """What the real collection found otherwise than recorded; "" if nothing."""
        if self.failures:
            return "collecting it fails"
        recorded = list(self.items)
        if not self.is_real or recorded == self._found:
            return ""
        odd = sorted(set(recorded) ^ set(self._found))
        return f"it has other tests now, e.g. {odd[0]}" if odd else "its tests are reordered"

    def _build(self, parent: nodes.Collector, entry: Json) -> nodes.Node:
        if "c" not in entry:
            return self._build_item(parent, entry)
        node = _bare(_class_for(entry.get("T"), Class, _StandInClass), entry["n"], parent, None)
        made = _marks(self.record.table[entry["m"]], node, self)
        node.__dict__.update(_stand=self, _entry=entry, _made=made)
        _add_marks(node, (), made)
        node.extra_keyword_matches.update(entry.get("e", ()))
        self._stands.append(node)
        node.__dict__["_children"] = [self._build(node, one) for one in entry["c"]]
        return node  # type: ignore[no-any-return]

    def _build_item(self, parent: nodes.Collector, entry: Json) -> pytest.Item:
        table = self.record.table
        callspec = entry.get("s")
        ids = "-".join(callspec[0]) if callspec and callspec[0] else None
        name, fixtures, (_, line, file, prefix), _, attributes, _ = table[entry["g"]]
        kind = _class_for(entry.get("T"), Function, _StandInItem)
        item: Any = _bare(kind, entry["n"], parent, (name, ids))
        marks = _marks(table[entry["m"]], item, self)
        item.__dict__.update(
            _stand=self,
            _entry=entry,
            _made=marks,
            _report_sections=[],
            user_properties=[],
            originalname=name,
            fixturenames=list(fixtures),
            location=(file, line, prefix + entry["n"]),
            funcargs={},
        )
        item.own_markers.extend(marks)
        item.extra_keyword_matches.update(entry.get("e", ()))
        values: Any = {**{mark.name: mark for mark in marks}, **attributes, None: True}
        keywords: Any = _LazyKeywords(item)
        own = table[entry["k"]]
        keywords._markers.update((ids if key is None else key, values.get(key)) for key in own)
        item.keywords = keywords
        self.items[item.nodeid.partition("::")[2]] = item
        return item  # type: ignore[no-any-return]

    def realise(self) -> None:
        """Collects the file really and turns the stand-ins into what it gave. Raises
        pytest.Collector.CollectError for a test that is no longer there."""
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
        self._found = [item.nodeid.partition("::")[2] for item in self.real]
        found = dict(zip(self._found, self.real, strict=True))
        taken: dict[int, pytest.Item] = {}
        for name, stand_in in self.items.items():
            if name in found:
                taken[id(found[name])] = stand_in
                _become(stand_in, found[name])
            else:
                stand_in.__dict__["_gone"] = True
        self.real = [taken.get(id(item), item) for item in self.real]
        self._realised(self)

    def withdraw(self) -> None:
        """Leaves the module as if there had been no record."""
        node: Any = self.node
        node.__class__ = Module
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
    return str(sys._getframe(2).f_globals.get("__name__"))


class _StandInModule(Module):
    """A module node whose file is not imported until someone asks for its contents."""

    def collect(self) -> Iterable[nodes.Item | nodes.Collector]:
        """The stand-ins."""
        return self.__dict__["_stand"].children  # type: ignore[no-any-return]

    @property
    def obj(self) -> Any:
        """The module itself."""
        stand: StandIns = self.__dict__["_stand"]
        if _asker() == "pytest_randomly":
            return _named(stand.record.module)
        stand.realise()
        return self.obj

    @obj.setter
    def obj(self, value: Any) -> None:
        self._obj = value


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


_READ_ATTRIBUTES = frozenset({"_pytest.mark", "anyio.pytest_plugin", "_hypothesis_pytestplugin"})
"""Who looks at a test's function, of every test there is, only for the names of its attributes and
for whether it is a coroutine (pytest 8.4 to 9.2, anyio 4, Hypothesis 6)."""


def _of_the_real_one(name: str) -> property:
    return property(lambda item: getattr(item._become_real(), name))


class _StandInItem:
    """Mixed in before an item's own type."""

    __slots__ = ()
    __dict__: dict[str, Any]
    taskcache_stand_in = True

    def _become_real(self) -> Any:
        self.__dict__["_stand"].realise()
        if self.__dict__.get("_gone"):
            _gone(self)
        return self

    @property
    def obj(self) -> Any:
        return _function_like(self) if _asker() in _READ_ATTRIBUTES else self._become_real().obj

    @obj.setter
    def obj(self, value: Any) -> None:
        self._become_real().obj = value

    @property
    def function(self) -> Any:
        if _asker() in _READ_ATTRIBUTES:
            return _function_like(self)
        return self._become_real().function

    @property
    def module(self) -> Any:
        if _asker() == "pytest_randomly":
            return _named(self.__dict__["_stand"].record.module)
        return self._become_real().module

    @property
    def cls(self) -> Any:
        owner, asker = self.getparent(Class), _asker()
        if owner is None or asker == "_pytest.fixtures":
            return owner  # which only groups tests by it
        if asker == "pytest_randomly":
            return _named(*owner.__dict__["_entry"]["q"])
        return self._become_real().cls

    def reportinfo(self) -> Any:
        path, line, _, prefix = _group_of(self)[2]
        return path, line, prefix + self.__dict__["_entry"]["n"]

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
            known["callspec"] = _callspec_of(self)
            return known["callspec"]
        if name == "_request" and _asker() == "_pytest.runner":
            return True  # asks whether there is one, before the first hook of the test
        own = name in ("_fixtureinfo", "_request", "_obj", "_instance", "_initrequest")
        if own or name in _group_of(self)[5]:
            return getattr(self._become_real(), name)
        kind = type(self).__name__
        raise AttributeError(f"{kind!r} object has no attribute {name!r}")


class _StandInClass:
    """Mixed in before a class node's own type."""

    __slots__ = ()
    __dict__: dict[str, Any]

    def collect(self) -> list[nodes.Node]:
        return self.__dict__["_children"]  # type: ignore[no-any-return]

    @property
    def obj(self) -> Any:
        if _asker() == "pytest_randomly":
            return _named(*self.__dict__["_entry"]["q"])
        stand: StandIns = self.__dict__["_stand"]
        stand.realise()
        real: Any = stand.classes.get(self.nodeid) or _gone(self)  # type: ignore[attr-defined]
        return real.obj

    @obj.setter
    def obj(self, value: Any) -> None:
        self.__dict__["_obj"] = value


_CallSpec: Any = getattr(python, "CallSpec", None) or python.CallSpec2  # before pytest 9.2


class _LazyCallSpec(_CallSpec):  # type: ignore[misc] # found at run time
    """pytest's own, but that a parameter that is no plain value needs the real item."""

    @property
    def params(self) -> dict[str, Any]:
        """The values by name, in order."""
        values, owner = self.__dict__["_values"], self.__dict__["_owner"]
        if len(values) < len(self.indices) and _asker() != "_pytest.fixtures":
            owner.__dict__["_stand"].realise()
            real: dict[str, Any] = owner.callspec.params
            return real
        return {name: from_plain(values[name]) for name in self.indices if name in values}


def _callspec_of(owner: Any) -> Any:
    stand: StandIns = owner.__dict__["_stand"]
    ids, shared, values, marks = owner.__dict__["_entry"]["s"]
    indices, scopes = stand.record.table[shared]
    found = object.__new__(_LazyCallSpec)
    found.__dict__.update(
        indices=dict(indices),
        _arg2scope={name: Scope(scope) for name, scope in scopes.items()},
        _idlist=tuple(ids),
        marks=_marks(stand.record.table[marks], owner, stand),
        _owner=owner,
        _values=values,
    )
    return found


def _bare(
    kind: type, name: str, parent: nodes.Collector, test: tuple[str, str | None] | None
) -> Any:
    """A node without what its own constructor would look for."""
    node: Any = nodes.Node.__new__(kind)
    nodeid: Any = None
    if test is not None and hasattr(nodes.Node, "id"):  # since pytest 9.1
        nodeid = parent.id.child(test[0]).with_params(test[1])
    nodes.Node.__init__(node, name, parent, nodeid=nodeid)
    return node


@functools.cache
def _class_for(name: str | None, plain: type, mixin: type) -> type:
    base = plain if name is None else loaded_type(name)
    assert base is not None  # asked before the first stand-in of the file was made
    namespace = {"__module__": base.__module__, "__slots__": ()}
    return type(base)(base.__name__, (mixin, base), namespace)


def _marks(described: Sequence[Any], owner: nodes.Node, stand: StandIns) -> list[Mark]:
    found: list[Mark] = []
    for one in described:
        if type(one) is str:
            found.append(Mark(one, (), {}, _ispytest=True))
        elif len(one) == 3:
            found.append(Mark(one[0], from_plain(one[1]), from_plain(one[2]), _ispytest=True))
        else:
            lazy = object.__new__(LazyMark)
            place = sum(mark.name == one[0] for mark in found)
            lazy.__dict__.update(name=one[0], _of=(owner, place, stand))
            found.append(lazy)
    return found


def _add_marks(node: nodes.Node, before: Sequence[Mark], after: Sequence[Mark]) -> None:
    """Puts marks before and behind those that a node has."""
    node.own_markers[:] = [*before, *node.own_markers, *after]
    node.keywords.update({mark.name: mark for mark in (*before, *after)})


def _group_of(item: Any) -> Any:
    """What `Description` says of the function behind a stand-in."""
    return item.__dict__["_stand"].record.table[item.__dict__["_entry"]["g"]]


def _function_like(item: Any) -> Any:
    _, _, _, flavour, attributes, _ = _group_of(item)

    async def coroutine() -> None: ...

    def generator() -> Iterator[None]:
        yield

    def plain() -> None: ...

    function = coroutine if "a" in flavour else generator if "g" in flavour else plain
    function.__dict__.update(attributes)
    return function


def _become(item: Any, real: Any) -> None:
    """Gives a stand-in the state of its real item. It stays the object that others hold, and so
    do the lists and mappings that they may have taken from it."""
    old = dict(vars(item))
    added = _added(old["own_markers"], old["_made"])
    names = _with_additions(real.fixturenames, old["fixturenames"], _group_of(item)[1])
    old["own_markers"][:] = real.own_markers
    old["keywords"].become(real.keywords)
    old["extra_keyword_matches"].update(real.extra_keyword_matches)
    old["fixturenames"][:] = names
    old["user_properties"][:0] = real.user_properties
    for key, value in real.stash._storage.items():
        old["stash"]._storage.setdefault(key, value)
    item.__dict__.clear()
    item.__class__ = real.__class__
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


def _with_additions(real: list[str], asked: list[str], recorded: list[str]) -> list[str]:
    """The real item's list of fixtures (one with its closure), with the names that hooks added."""
    for place, name in enumerate(asked):
        if name not in recorded and name not in real:
            real.insert(0 if place == 0 else len(real), name)
    return real


def _gone(node: Any) -> Any:
    """Raises: what is asked for is not in the file any more."""
    raise pytest.Collector.CollectError(
        f"{node.nodeid}: taskcache's record of this file's collection was wrong: the file has "
        "other tests now. The record is dropped; run again"
    )
