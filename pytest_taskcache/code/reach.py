"""Who reaches a changed definition: one walk backwards, for all records of a process together.

Worked example. A process ran, in this order::

    0  lib.py     <module>      LIMIT = 2
    1  lib.py     fill          def fill(): STORE["x"] = scale()
    2  lib.py     scale         def scale(): return LIMIT
    3  test_a.py  <module>      import lib
    4  test_a.py  test_read     def test_read(): assert lib.STORE["x"]
    5  lib.py     limit         def limit(): return LIMIT + 1
    6  test_a.py  test_limit    def test_limit(): assert lib.limit()

``scale`` is edited. It ran at 2, so its cost is 2. ``fill`` mentions it: 2. ``fill`` changes
STORE, which ``test_read`` mentions, in a file whose imports lead to lib.py: 2. So a record that
ran ``test_read`` and was closed at any position from 2 on is invalid; one that ran ``test_limit``
alone is not. The cost of a way is the position at which all that it leads through had run, so the
walk is Dijkstra's with ``max`` instead of ``+``.

Identifiers lead to all definitions that bind them in the import closure of the file they stand
in, and to all that store into them, or may change the object, wherever these are, as long as both
files import one that binds the identifier to something that can be changed. See `source_file` for
what mentions, binds and stores.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from heapq import heappop, heappush
from typing import TypeAlias

from pytest_taskcache.code.definitions import (
    ALL_MODULES,
    ALL_NAMES,
    ANY_MODULE,
    EVERYTHING,
    EXAMPLES,
    GIVEN,
    IN_NO_FUNCTION,
    KEPT,
    LISTED,
    MEMBERS,
    MENTIONS,
    OF_CLASS,
    OWN_NAMES,
    SESSION_HOOKS,
    SET_ON,
    TEARDOWN,
    Analysis,
    Changes,
    Definition,
    DefinitionKind,
    definition_name,
)
from pytest_taskcache.code.import_graph import closure_masks, module_of
from pytest_taskcache.dataclass import dataclass, field

NEVER = 1 << 60
"""The position of what never ran."""

MODULE = "<module>"
"""The name of the node that stands for a module's body."""

FILE = "<file>"
"""The node of what acts on all of a file, whatever of it ran: its imports' effects, its hooks."""


BEGUN = "<begun>"
"""The node after which tests run."""

COLLECTED = "<collected>"
"""The node of what libraries read while the runner looks at the objects of a file."""


@dataclass(frozen=True, slots=True)
class Log:
    """What one process ran, and the code as it was then.

    ``nodes``: file and ``co_qualname`` of each code object in the order of first runs;
    ``<module>`` for a module's body. ``files``: the analyses of the project's files, by name.
    ``imports``: the files that a file imported, at import or later. ``whole``: files any function
    of which may have run, unseen, as soon as they were imported. ``asked``: files that a library
    imported by itself, as one does with a settings module: it may read all that is in them.
    """

    nodes: Sequence[tuple[str, str]]
    files: Mapping[str, Analysis]
    imports: Mapping[str, Collection[str]] = field(default_factory=dict)
    whole: Collection[str] = ()
    asked: Collection[str] = ()


@dataclass(frozen=True, slots=True)
class Reached:
    """For each node of a log, the position from which on it reaches something that changed
    (`NEVER` if it does not), and what: ``file::name changed``."""

    positions: Sequence[int]
    causes: Sequence[str]

    def invalid(self, ran: Iterable[int], position: int) -> str:
        """What changed of what a record rests on that ran these nodes and was closed at this
        position; empty while it is valid."""
        positions = self.positions
        first = min(ran, key=positions.__getitem__, default=-1)
        return self.causes[first] if first >= 0 and positions[first] <= position else ""

    def reasons(self, ran: Iterable[int], position: int) -> list[str]:
        """All that `invalid` might have told, the earliest first."""
        earliest = sorted(ran, key=self.positions.__getitem__)
        late = (self.causes[node] for node in earliest if self.positions[node] <= position)
        return list(dict.fromkeys(late))


def affected(
    log: Log,
    changes: Mapping[str, Changes],
    touched: Mapping[int, tuple[int, str]] | None = None,
    handed: Iterable[tuple[int, int, int]] = (),
) -> Reached:
    """Which nodes reach a changed definition of these files, or a node whose footprint changed.

    ``touched`` gives for such a node the position at which it touched what changed, and what
    that is; ``handed`` nodes of which one made what the other touched at a position. Takes time in
    proportion to what the files of the log mention.
    """
    walk = _Walk(log, changes)
    walk.start(changes)
    for node, (position, cause) in (touched or {}).items():
        walk.touch(node, position, cause)
    for maker, node, position in handed:
        walk.hand(maker, node, position)
    walk.run()
    return walk.answer()


_Cause: TypeAlias = tuple[int, str]
_NONE: _Cause = (NEVER, "")


@dataclass(slots=True, eq=False)
class _Vertex:
    """A definition, as it was and as it is, or a module's body.

    ``position`` is that of its first run, ``closure`` that of its file among all closures, or the
    last of them, which is everything. ``cost`` is the cheapest that was found; ``seed``: it
    changed itself.
    """

    number: int
    file: int
    position: int
    closure: int
    definitions: list[Definition] = field(default_factory=list)
    cost: int = NEVER
    cause: str = ""
    seed: bool = False


class _Walk:
    """The graph, backwards, and the costs found so far."""

    def __init__(self, log: Log, changes: Mapping[str, Changes]) -> None:
        self._log = log
        self._files = {name: number for number, name in enumerate({**log.files, **changes})}
        self._names = list(self._files)
        self._imports = _imports(log, self._files)
        self._starred = {
            self._files[name]: set(self._imports[self._files[name]])
            for name, analysis in log.files.items()
            if any("*" in each.names for each in analysis.imports)
        }
        # The names of its packages, too, and of modules that have its names by star imports.
        self._parts = [{*module_of(name).split("/")} for name in self._names]
        for file in self._starred:
            for other in self._by_stars({file}):
                self._parts[other].add(module_of(self._names[file]).rpartition("/")[2])
        self._asked = self._by_stars({self._files[name] for name in log.asked})
        self._closures = [*closure_masks(self._imports), (1 << len(self._files)) - 1]
        self._vertices: dict[tuple[str, str], _Vertex] = {}
        self._mentioning: dict[str, list[_Vertex]] = {}
        self._taking: dict[str, list[_Vertex]] = {}
        self._handing: dict[str, list[_Vertex]] = {}
        self._rebound: dict[str, int] = {}
        self._mutable: dict[str, int] = {}
        self._ran: dict[tuple[str, str], int] = {}
        self._tested: dict[str, int] = {}
        self._effects: dict[int, _Cause] = {}
        self._implicit: dict[int, _Cause] = {}
        self._everywhere = _NONE
        self._handed: dict[int, dict[int, tuple[_Vertex, int]]] = {}
        self._heap: list[tuple[int, int, int, _Vertex, str]] = []
        self._done: set[tuple[int, int]] = set()
        self._bound: set[str] = set()
        self._begun = 0
        self._teardowns: list[tuple[int, int]] = []
        every = ((file, each) for file, found in changes.items() for each in found)
        self._appeared = {(file, each.name) for file, each in every if not each.before}
        self._add_log()
        for name, found in changes.items():
            self._add_all(name, (each for item in found for each in item if each), 0)
        for vertex in self._vertices.values():
            if vertex.position < NEVER:
                self._index(vertex)
        for vertex in self._vertices.values():
            for item in vertex.definitions:  # who is affected may call what never ran before
                for name in item.binds if self._takes(item) else ():
                    self._taking.setdefault(name, []).append(vertex)

    def _takes(self, item: Definition) -> bool:
        """Whether its callers say what it stores in globals, of another module too."""
        if item.takes:
            return True
        kept = {name[1:] for name in item.changes if name.startswith(KEPT)}
        rebound = {name[1:] for name in kept if name.startswith(KEPT)}
        known = self._bound.isdisjoint((kept | item.stores) if len(kept) > len(rebound) else ())
        return not (known and self._mutable.keys().isdisjoint(rebound))

    def _add_log(self) -> None:
        first: dict[str, int] = {}
        for index, (file, qualname) in enumerate(self._log.nodes):
            if qualname.startswith(TEARDOWN):
                self._teardowns.append((index, int(qualname.split()[1])))
                continue
            self._ran.setdefault((file, definition_name(qualname)), self._since(index))
            if qualname == BEGUN:
                self._begun = index
            first.setdefault(file, self._since(index))
        for file, analysis in self._log.files.items():
            tests = (each.name for each in analysis.definitions if _is_test(each))
            ran = (self._ran.get((file, name), NEVER) for name in tests)
            self._tested[file] = min(ran, default=NEVER)
            self._add_all(file, analysis.definitions, first.get(file, NEVER))
        for file, name in self._log.nodes:
            if name.startswith(EXAMPLES):
                mentions = frozenset({ALL_MODULES, *name.split()})
                item = Definition(name, _FUNCTION, "", mentions=mentions)
                self._add(file, item, self._ran[file, name])
            elif name.startswith(GIVEN):
                item = Definition(name, _FUNCTION, "", mentions=frozenset(name.split()))
                self._add(file, item, self._ran[file, name])
            elif name.startswith(MENTIONS):
                self._add(file, _mentioning(*name.split()[1:]), first[file])

    def _since(self, position: int) -> int:
        """The position from which on it matters what happened at this one: while something was
        torn down, that of its set-up."""
        teardown = bisect_left(self._teardowns, (position,)) - 1
        return min(position, self._teardowns[teardown][1]) if teardown >= 0 else position

    def _add_all(self, file: str, definitions: Iterable[Definition], loaded: int) -> None:
        """Adds a module's body, which ran at its own position or else at this one, and these."""
        loaded = self._ran.get((file, MODULE), loaded)
        loaded = self._vertex(file, MODULE, loaded).position
        for item in definitions:
            self._add(file, item, loaded)

    def _vertex(self, file: str, name: str, position: int) -> _Vertex:
        known = self._vertices.get((file, name))
        if known is None:
            where, number = self._files[file], len(self._vertices)
            known = self._vertices[file, name] = _Vertex(number, where, position, where)
        return known

    def _add(self, file: str, item: Definition, loaded: int) -> None:
        if item.kind is _FUNCTION and file not in self._log.whole:
            asleep = NEVER
            if (file, item.name) in self._appeared:
                # A new method that a library may call did run, for all that is known; a new test
                # runs among those of its file.
                tested = self._tested.get(file, NEVER) if _is_test(item) else NEVER
                asleep = loaded if item.called else tested
            loaded = self._ran.get((file, item.name), asleep)
        vertex = self._vertex(file, item.name, loaded)
        if item not in vertex.definitions:
            vertex.definitions.append(item)
        if ALL_MODULES in item.mentions or item.mentions.issuperset((ANY_MODULE, LISTED)):
            vertex.closure = len(self._files)

    def _index(self, vertex: _Vertex) -> None:
        bit = 1 << vertex.file
        for item in vertex.definitions:
            for name in item.mentions:
                if name == OWN_NAMES:
                    name = f"{OWN_NAMES} {vertex.file}"
                self._mentioning.setdefault(name, []).append(vertex)
            for name in item.call_names if item.hands else ():
                self._handing.setdefault(name, []).append(vertex)
            self._bound.update(item.binds if item.kind is not DefinitionKind.IMPORT else ())
            rebound = {name.removeprefix(".") for name in item.stores}
            mutable = set(rebound)
            if item.kind is DefinitionKind.STATEMENT or item.wrapped:
                rebound.update(item.binds)
                if not item.constant and not item.name.endswith("()"):
                    mutable.update(item.binds)
                    if "." in item.name:
                        mutable.update(OF_CLASS + name for name in item.binds)
            for found, names in ((self._rebound, rebound), (self._mutable, mutable)):
                for name in names:
                    found[name] = found.get(name, 0) | bit

    def vertex_of(self, node: int) -> _Vertex | None:
        """The vertex of a node of the log; its module's where no definition is known by that
        name."""
        file, qualname = self._log.nodes[node]
        names = (definition_name(qualname), EVERYTHING, MODULE)
        found = (self._vertices.get((file, name)) for name in names)
        return next((each for each in found if each is not None), None)

    def start(self, changes: Mapping[str, Changes]) -> None:
        """What changed costs what it took to run it."""
        for file, found in changes.items():
            for item in found:
                vertex = self._vertices[file, item.name]
                self._seed(vertex, vertex.position, f"{file}::{item}")

    def touch(self, node: int, position: int, cause: str) -> None:
        """What a node touched has changed: that of a module's body counts for all who import it,
        and for all who get at what its statements bind or set elsewhere, since nothing tells which
        of them did."""
        position = self._since(position)
        file, qualname = self._log.nodes[node]
        if qualname == COLLECTED:  # a settings object that loads itself is there for every test
            self._everywhere = min(self._everywhere, (position, cause))
            return
        vertex = self.vertex_of(node)
        if vertex is None:
            return
        if qualname in IN_NO_FUNCTION:
            _note(self._effects, vertex, position, cause)
            for item in self._log.files[file].definitions:
                if item.kind in (DefinitionKind.STATEMENT, DefinitionKind.CLASS):
                    self._seed(self._vertices[file, item.name], position, cause)
        self._seed(vertex, position, cause)

    def hand(self, maker: int, node: int, position: int) -> None:
        """What a node touched at a position, another had made."""
        one, other = self.vertex_of(maker), self.vertex_of(node)
        if one is not None and other is not None:
            users = self._handed.setdefault(one.number, {})
            known = users.get(other.number, (other, position))[1]
            users[other.number] = other, min(known, position)

    def _seed(self, vertex: _Vertex, position: int, cause: str) -> None:
        """Something about a vertex changed, which mattered from a position on."""
        if position < NEVER:
            vertex.seed = True
            self._relax(vertex, position, cause)

    def _relax(self, vertex: _Vertex, cost: int, cause: str) -> None:
        """Whoever ran this from a position on is affected."""
        if cost < vertex.cost:
            vertex.cost, vertex.cause = cost, cause
            self._push(_LEAD, vertex, cost, cause)

    def _push(self, step: int, vertex: _Vertex, cost: int, cause: str) -> None:
        """Goes on from a vertex, in one of three ways, once each: what leads through it leads
        through its own first run, if it did run."""
        if (step, vertex.number) not in self._done:
            since = vertex.position if vertex.position < NEVER else cost
            heappush(self._heap, (max(cost, since), step, vertex.number, vertex, cause))

    def run(self) -> None:
        """Finds all costs, cheapest first."""
        steps = (self._lead, self._keep, self._hand)
        while self._heap:
            cost, step, number, vertex, cause = heappop(self._heap)
            if cost < NEVER and (step, number) not in self._done:
                self._done.add((step, number))
                steps[step](vertex, cost, cause)

    def _lead(self, vertex: _Vertex, cost: int, cause: str) -> None:
        """What a definition does may differ."""
        for user, position in self._handed.get(vertex.number, {}).values():
            self._relax(user, max(cost, position), cause)
        for item in vertex.definitions:
            # What applies to all of a file, or to all who import it.
            early = item.called and vertex.position < self._begun
            if item.acts or early or (item.effect and vertex.seed):
                _note(self._effects, vertex, cost, cause)
            if item.implicit:
                _note(self._implicit, vertex, cost, cause)
                if item.label in SESSION_HOOKS:
                    self._everywhere = min(self._everywhere, (cost, cause))
            # What was computed before any test was read as another value, or called.
            read = cost < self._begun or (vertex.seed and item.kind is not _FUNCTION)
            if read and vertex.file in self._asked:
                self._everywhere = min(self._everywhere, (cost, cause))
            self._reach(self._names_of(vertex, item), vertex, cost, cause)
            for other in self._partners(vertex, item):
                self._relax(other, cost, cause)
        self._push(_KEEP, vertex, cost, cause)

    def _keep(self, vertex: _Vertex, cost: int, cause: str) -> None:
        """What a definition keeps may differ, and what those keep, and hand out, that it calls."""
        known = self._closures[vertex.closure]
        listed = MEMBERS in self._mentioning
        for item in vertex.definitions:
            self._reach(self._kept_names(vertex, item), vertex, cost, cause)
            changed = (name for name in item.changes if listed or not name.startswith(SET_ON))
            for step, names, found in (
                (_KEEP, item.mentions, self._taking),
                (_HAND, map(_called, changed), self._handing),
            ):
                for name in names:
                    for other in found.get(name, ()):
                        if known >> other.file & 1:
                            self._push(step, other, cost, cause)

    def _hand(self, vertex: _Vertex, cost: int, cause: str) -> None:
        """What a function hands out was changed."""
        known = self._closures[vertex.closure]
        for item in vertex.definitions:
            unknown = False  # what no definition that is known here binds
            for name in item.hands:
                if found := self._mutable.get(name, 0):
                    self._reach([(name.removeprefix(OF_CLASS), found)], vertex, cost, cause)
                elif name.isidentifier() and name not in self._bound:
                    unknown |= item.kind is _FUNCTION
                for other in self._handing.get(_called(name), ()):
                    if known >> other.file & 1:
                        self._push(_HAND, other, cost, cause)
            if unknown:
                self._relax(vertex, cost, cause)

    def _reach(
        self, names: Iterable[tuple[str, int]], vertex: _Vertex, cost: int, cause: str
    ) -> None:
        """Whoever mentions one of these names is affected."""
        for name, shared in names:
            if name in self._mentioning:
                for user in self._users(name, vertex, shared):
                    self._relax(user, cost, cause)

    def _names_of(self, vertex: _Vertex, item: Definition) -> Iterator[tuple[str, int]]:
        """The names by which others get at what a definition does, and, as `_users` takes them,
        in which files. Nobody gets anything of a test but what it keeps."""
        if _is_test(item):
            return
        for name in item.binds:
            yield name, 0
            for end in range(2, len(name) + 1):
                yield name[:end] + "*", 0
                yield "*" + name[-end:], 0
        if vertex.seed or item.kind in (DefinitionKind.STATEMENT, DefinitionKind.CLASS):
            yield ALL_NAMES, 0
            if ANY_MODULE in self._mentioning:
                yield LISTED, 0
        if vertex.seed or item.kind is not _FUNCTION:
            yield f"{OWN_NAMES} {vertex.file}", 0
        if vertex.seed or not item.name.endswith("()"):
            for part in self._parts[vertex.file]:
                yield f"={part}", 0
        if item.loads and vertex.seed:
            yield ALL_MODULES, -1

    def _kept_names(self, vertex: _Vertex, item: Definition) -> Iterator[tuple[str, int]]:
        """The same of the names by which others get at what it stored, or changed."""
        own = 1 << vertex.file
        # Nobody who has a special method called mentions it: all do who mention its class.
        special = any(name.startswith("__") and name.endswith("__") for name in item.stores)
        for name in item.stores:
            if name in (ALL_NAMES, OWN_NAMES):
                yield from ((each, 0) for each in list(self._mentioning))
            elif name.startswith("."):
                yield name[1:], 0
            else:
                # On what binds the name, or, where nothing known here does, on any of all that.
                known = self._closures[vertex.closure] & ~own
                yield name, (self._rebound.get(name, 0) & known or known) | own
        for name in item.changes:
            if name.startswith(SET_ON):
                if special:
                    yield name[1:].removesuffix("()"), self._closures[vertex.closure]
                if MEMBERS not in self._mentioning:
                    continue
                name = name.removeprefix(SET_ON)
                yield f"={name}", 0
            if bound := self._mutable.get(name, 0):
                yield name.lstrip("~" + OF_CLASS), bound

    def _users(self, name: str, vertex: _Vertex, shared: int) -> Iterator[_Vertex]:
        """All that mention a name where the closure holds this file, or, if ``shared`` tells in
        which files the name is bound, one of these that this file imports too (all for -1)."""
        mask = 1 << vertex.file
        if shared:
            mask = shared if shared < 0 else shared & self._closures[vertex.closure]
        seen: dict[int, bool] = {}
        left: list[_Vertex] = []
        for user in self._mentioning[name]:
            inside = seen.get(user.closure)
            if inside is None:
                inside = seen[user.closure] = bool(self._closures[user.closure] & mask)
            if inside:
                yield user
            else:
                left.append(user)
        # Costs only grow from here on: who was found once need not be found again.
        self._mentioning[name] = left

    def _partners(self, vertex: _Vertex, item: Definition) -> Iterator[_Vertex]:
        """What a definition leads to without a name: a module's body runs all its statements; who
        makes a class is given what is in it; a ``def`` makes its function."""
        names = []
        if item.kind is not _FUNCTION:
            names = [MODULE, item.name.rpartition(".")[0] + ":"]
        if item.name.endswith("()"):
            names = [MODULE, item.name[:-2]]
        for name in names:
            if found := self._vertices.get((self._names[vertex.file], name)):
                yield found

    def answer(self) -> Reached:
        """The positions and causes of the nodes of the log."""
        around = self._by_file()
        found: list[_Cause] = []
        for node, (file, name) in enumerate(self._log.nodes):
            vertex = self.vertex_of(node)
            if name == FILE:
                found.append(around[self._files[file]] if file in self._files else _NONE)
            elif vertex is None:
                found.append(_NONE)
            else:
                found.append(min((vertex.cost, vertex.cause), around[vertex.file]))
        return Reached([position for position, _ in found], [cause for _, cause in found])

    def _by_stars(self, files: set[int]) -> set[int]:
        """These files, and those whose names they have by star imports."""
        todo = files & self._starred.keys()
        while todo:
            more = set().union(*(self._starred[each] for each in todo)) - files
            files |= more
            todo = more & self._starred.keys()
        return files

    def _by_file(self) -> list[_Cause]:
        """For each file, what applies to all that is in it."""
        found = []
        for name, file in self._files.items():
            closure = self._closures[file]
            causes = [each for one, each in self._effects.items() if closure >> one & 1]
            causes.append(self._everywhere)
            # Hooks and fixtures are also those of files whose names these have by star imports.
            applying = self._by_stars({file, *_conftests(name, self._files)})
            causes += (self._implicit[one] for one in applying if one in self._implicit)
            found.append(min(causes, default=_NONE))
        return found


_FUNCTION = DefinitionKind.FUNCTION
_LEAD, _KEEP, _HAND = range(3)


def _is_test(item: Definition) -> bool:
    return item.kind is _FUNCTION and not item.binds


def _called(name: str) -> str:
    """What may give the object that this name of ``changes`` or ``hands`` stands for."""
    return name.lstrip(OF_CLASS + SET_ON).removesuffix("()")


def _note(found: dict[int, _Cause], vertex: _Vertex, cost: int, cause: str) -> None:
    if cost < found.get(vertex.file, _NONE)[0]:
        found[vertex.file] = cost, cause


def _mentioning(owner: str, *names: str) -> Definition:
    """What a `MENTIONS` node tells of another. What a module's body evaluates acts as a statement
    of its own does."""
    mentions = frozenset(names) | ({ALL_MODULES} if "__import__" in names else set())
    if owner not in IN_NO_FUNCTION:
        return Definition(owner, _FUNCTION, "", mentions=mentions)
    acts = any(not name.startswith("=") for name in names)
    return Definition(MODULE, DefinitionKind.STATEMENT, "", mentions=mentions, acts=acts)


def _conftests(name: str, files: Mapping[str, int]) -> Iterator[int]:
    """The conftests that apply to a file, the innermost first."""
    directory = name
    while directory:
        directory = directory.rpartition("/")[0]
        found = files.get(f"{directory}/conftest.py" if directory else "conftest.py")
        if found is not None:
            yield found


def _imports(log: Log, files: Mapping[str, int]) -> list[list[int]]:
    """For each file those it imports, and its conftests."""
    found = ((files[one] for one in log.imports.get(name, ()) if one in files) for name in files)
    return [[*leads, *_conftests(name, files)] for name, leads in zip(files, found, strict=True)]
