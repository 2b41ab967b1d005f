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

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from heapq import heappop, heappush

from pytest_taskcache.code.definitions import (
    ALL_MODULES,
    ALL_NAMES,
    EVERYTHING,
    EXAMPLES,
    IN_NO_FUNCTION,
    NEW_NAMES,
    OWN_NAMES,
    Analysis,
    Changes,
    Definition,
    DefinitionKind,
    definition_name,
)
from pytest_taskcache.code.import_graph import closure_masks
from pytest_taskcache.dataclass import dataclass, field

NEVER = 1 << 60
"""The position of what never ran."""

MODULE = "<module>"
"""The name of the node that stands for a module's body."""

FILE = "<file>"
"""The node of what acts on all of a file, whatever of it ran: its imports' effects, its hooks."""


@dataclass(frozen=True, slots=True)
class Log:
    """What one process ran, and the code as it was then.

    ``nodes``: file and ``co_qualname`` of each code object in the order of first runs;
    ``<module>`` for a module's body. ``files``: the analyses of the project's files, by name.
    ``imports``: the files that a file imported, at import or later. ``plugins``: files whose
    hooks apply to all, conftests excepted, which are known by name. ``loaded``: the position at
    which a module's body was done, where that is known: its statements called nothing that ran
    for the first time later. ``whole``: files any function of which may have run, unseen, as soon
    as they were imported.
    """

    nodes: Sequence[tuple[str, str]]
    files: Mapping[str, Analysis]
    imports: Mapping[str, Collection[str]] = field(default_factory=dict)
    plugins: Collection[str] = ()
    loaded: Mapping[str, int] = field(default_factory=dict)
    whole: Collection[str] = ()


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


def affected(
    log: Log, changes: Mapping[str, Changes], touched: Mapping[int, tuple[int, str]] | None = None
) -> Reached:
    """Which nodes reach a changed definition of these files, or a node whose footprint changed.

    ``touched`` gives for such a node the position at which it touched what changed, and what
    that is. Takes time in proportion to what the files of the log mention.
    """
    walk = _Walk(log, changes)
    walk.start(changes)
    for node, (position, cause) in (touched or {}).items():
        walk.touch(node, position, cause)
    walk.run()
    return walk.answer()


class _Walk:
    """The graph, backwards, and the costs found so far.

    Vertices are definitions and module bodies, by number.
    """

    def __init__(self, log: Log, changes: Mapping[str, Changes]) -> None:
        self._log = log
        self._files: dict[str, int] = {}
        for name in (*log.files, *changes):
            self._files.setdefault(name, len(self._files))
        self._names = list(self._files)
        self._starred = {
            self._files[name]: {
                self._files[one] for one in log.imports.get(name, ()) if one in self._files
            }
            for name, analysis in log.files.items()
            if any("*" in each.names for each in analysis.imports)
        }
        self._closures = [*closure_masks(_imports(log, self._files)), (1 << len(self._files)) - 1]
        self._ids: dict[tuple[str, str], int] = {}
        self._definitions: list[list[Definition]] = []
        self._file_of: list[int] = []
        self._scope: list[int] = []
        self._position: list[int] = []
        self._done: list[int] = []
        self._mentioning: dict[str, list[int]] = {}
        self._taking: dict[str, list[int]] = {}
        self._handing: dict[str, list[int]] = {}
        self._rebound: dict[str, int] = {}
        self._mutable: dict[str, int] = {}
        self._ran: dict[tuple[str, str], int] = {}
        self._add_log()
        self._add_changed(changes)
        for vertex in range(len(self._definitions)):
            self._index(vertex)
        count = len(self._definitions)
        self._cost = [NEVER] * count
        self._cause = [""] * count
        self._settled = bytearray(count)
        self._seeds: set[int] = set()
        self._new: set[int] = set()
        self._effects: dict[int, tuple[int, str]] = {}
        self._implicit: dict[int, tuple[int, str]] = {}
        self._heap: list[tuple[int, int]] = []
        # Names of classes only, whose call makes a new object.
        every = [item for items in self._definitions for item in items if item.binds]
        self._makers = {item.binds[0] for item in every if item.kind is DefinitionKind.CLASS}
        self._makers -= {item.binds[0] for item in every if item.kind is not DefinitionKind.CLASS}

    def _add_log(self) -> None:
        first: dict[str, int] = {}
        for index, (file, qualname) in enumerate(self._log.nodes):
            self._ran.setdefault((file, definition_name(qualname)), index)
            first.setdefault(file, index)
        for file, analysis in self._log.files.items():
            loaded = self._ran.get((file, MODULE), first.get(file, NEVER))
            self._vertex(file, MODULE, loaded)
            for item in analysis.definitions:
                self._add(file, item, loaded)
        for file, name in filter(_is_of_examples, self._log.nodes):
            mentions = frozenset({ALL_MODULES, *name.split()})
            item = Definition(name, DefinitionKind.FUNCTION, "", mentions=mentions)
            self._add(file, item, self._ran[file, name])

    def _add_changed(self, changes: Mapping[str, Changes]) -> None:
        for file, found in changes.items():
            known = self._ids.get((file, MODULE))
            loaded = 0 if known is None else self._position[known]
            self._vertex(file, MODULE, loaded)
            for item in found.definitions:
                for definition in (item.before, item.after):
                    if definition is not None:
                        self._add(file, definition, loaded)

    def _vertex(self, file: str, name: str, position: int) -> int:
        known = self._ids.get((file, name))
        if known is None:
            known = self._ids[file, name] = len(self._definitions)
            self._definitions.append([])
            self._file_of.append(self._files[file])
            self._scope.append(self._files[file])
            self._position.append(position)
            self._done.append(NEVER)
        return known

    def _add(self, file: str, item: Definition, loaded: int) -> None:
        if item.kind is DefinitionKind.FUNCTION and file not in self._log.whole:
            loaded = self._ran.get((file, item.name), NEVER)
        vertex = self._vertex(file, item.name, loaded)
        if item.kind in (DefinitionKind.STATEMENT, DefinitionKind.CLASS):
            self._done[vertex] = self._log.loaded.get(file, NEVER)
        if item not in self._definitions[vertex]:
            self._definitions[vertex].append(item)
        if ALL_MODULES in item.mentions:
            self._scope[vertex] = len(self._files)

    def _index(self, vertex: int) -> None:
        if self._position[vertex] >= NEVER:
            return
        bit = 1 << self._file_of[vertex]
        for item in self._definitions[vertex]:
            for name in item.mentions:
                if name == OWN_NAMES:
                    name = f"{OWN_NAMES} {self._file_of[vertex]}"
                self._mentioning.setdefault(name, []).append(vertex)
            if item.takes:
                for name in item.binds:
                    self._taking.setdefault(name, []).append(vertex)
            if item.hands:
                for name in item.binds:
                    self._handing.setdefault(name, []).append(vertex)
            for name in item.stores:
                name = name.partition("<")[0].removeprefix(".")
                self._rebound[name] = self._rebound.get(name, 0) | bit
                self._mutable[name] = self._mutable.get(name, 0) | bit
            if item.kind is DefinitionKind.STATEMENT or item.wrapped:
                for name in item.binds:
                    self._rebound[name] = self._rebound.get(name, 0) | bit
                    if not item.constant and not item.name.endswith("()"):
                        self._mutable[name] = self._mutable.get(name, 0) | bit

    def vertex_of(self, node: int) -> int:
        """The vertex of a node of the log; its module's where no definition is known by that
        name."""
        file, qualname = self._log.nodes[node]
        for name in (definition_name(qualname), EVERYTHING, MODULE):
            found = self._ids.get((file, name))
            if found is not None:
                return found
        return -1

    def start(self, changes: Mapping[str, Changes]) -> None:
        """What changed costs what it took to run it."""
        for file, found in changes.items():
            for item in found.definitions:
                vertex = self._ids[file, item.name]
                self.seed(vertex, self._position[vertex], f"{file}::{item}")
                if item.before is None or item.after is None:
                    self._new.add(vertex)
            if found.reordered:
                module = self._ids[file, MODULE]
                self._note(self._effects, module, self._position[module], f"{file} reordered")

    def touch(self, node: int, position: int, cause: str) -> None:
        """What a node touched has changed: that of a module's body counts for all who import it,
        and for all who get at what its statements bind or set elsewhere, since nothing tells which
        of them did."""
        vertex = self.vertex_of(node)
        file, qualname = self._log.nodes[node]
        if vertex >= 0 and qualname in IN_NO_FUNCTION:
            self._note(self._effects, vertex, position, cause)
            for item in self._log.files[file].definitions:
                if item.kind in (DefinitionKind.STATEMENT, DefinitionKind.CLASS):
                    self.seed(self._ids[file, item.name], position, cause)
        self.seed(vertex, position, cause)

    def seed(self, vertex: int, position: int, cause: str) -> None:
        """Something about a vertex changed, which mattered from a position on."""
        if vertex < 0 or position >= NEVER:
            return
        self._seeds.add(vertex)
        self._relax(vertex, position, cause)

    def _relax(self, vertex: int, cost: int, cause: str) -> None:
        if cost < self._cost[vertex]:
            self._cost[vertex] = cost
            self._cause[vertex] = cause
            # What leads on through a vertex leads through its own first run.
            heappush(self._heap, (max(cost, self._position[vertex]), vertex))

    def run(self) -> None:
        """Finds all costs, cheapest first."""
        while self._heap:
            cost, vertex = heappop(self._heap)
            if not self._settled[vertex] and cost < NEVER:
                self._settled[vertex] = True
                self._leave(vertex, cost)

    def _leave(self, vertex: int, cost: int) -> None:
        cause = self._cause[vertex]
        for item in self._definitions[vertex]:
            # What applies to all of a file, or to all who import it.
            if item.acts or (item.effect and vertex in self._seeds):
                self._note(self._effects, vertex, cost, cause)
            if item.implicit:
                self._note(self._implicit, vertex, cost, cause)
            for name, ran, shared in self._names_of(vertex, item):
                if name in self._mentioning:
                    for user in self._users(name, vertex, ran, shared):
                        self._relax(user, cost, cause)
            for other in self._partners(vertex, item):
                self._relax(other, cost, cause)

    def _names_of(self, vertex: int, item: Definition) -> Iterator[tuple[str, int, int]]:
        """The names by which others get at what a definition does, and, as `_users` takes them,
        from when on and in which files."""
        file = self._file_of[vertex]
        # A statement called no plain function that ran first after its module was loaded.
        plain = item.kind is DefinitionKind.FUNCTION and not item.wrapped
        ran = self._position[vertex] if plain else -1
        for name in item.binds:
            yield name, ran, 0
            for end in range(2, len(name) + 1):
                yield name[:end] + "*", ran, 0
                yield "*" + name[-end:], ran, 0
        if vertex in self._seeds or item.kind in (DefinitionKind.STATEMENT, DefinitionKind.CLASS):
            yield ALL_NAMES, -1, 0
            yield f"{OWN_NAMES} {file}", -1, 0
        if vertex in self._new:
            yield NEW_NAMES, -1, 0
        if item.kind is not DefinitionKind.FUNCTION and not item.name.endswith("()"):
            yield f"={_leaf(self._names[file])}", -1, 0
        if item.kind is DefinitionKind.IMPORT and vertex in self._seeds:
            yield ALL_MODULES, -1, -1
        for name in item.stores:
            if name in (ALL_NAMES, OWN_NAMES):
                yield from ((each, -1, 0) for each in list(self._mentioning))
            elif name.startswith("."):
                yield name[1:], -1, 0
            else:
                name, _, maker = name.partition("<")
                if not maker or maker not in self._makers:
                    # On what binds the name, or, where nothing known here does, on any of all that.
                    own = 1 << file
                    known = self._closures[self._scope[vertex]] & ~own
                    shared = self._rebound.get(name, 0) & known or known
                    yield name, -1, shared | own
        for name in item.changes:
            if bound := self._mutable.get(name, 0):
                yield name.removeprefix("~"), -1, bound

    def _users(self, name: str, vertex: int, ran: int, shared: int) -> Iterator[int]:
        """All that mention a name, statements only of modules that were not done yet at position
        ``ran``: where the closure holds this file, or, if ``shared`` tells in which files the name
        is bound, one of these that this file imports too (all for -1)."""
        mask = 1 << self._file_of[vertex]
        if shared:
            mask = shared if shared < 0 else shared & self._closures[self._scope[vertex]]
        seen: dict[int, bool] = {}
        left: list[int] = []
        for user in self._mentioning[name]:
            scope = self._scope[user]
            inside = seen.get(scope)
            if inside is None:
                inside = seen[scope] = bool(self._closures[scope] & mask)
            if inside and self._done[user] >= ran:
                yield user
            else:
                left.append(user)
        # Costs only grow from here on: who was found once need not be found again.
        self._mentioning[name] = left

    def _partners(self, vertex: int, item: Definition) -> Iterator[int]:
        """What a definition leads to without a name: what a function keeps depends on who calls it,
        and what it returns on who changes that; a module's body runs all its statements; who makes
        a class is given what is in it; a ``def`` makes its function."""
        known = self._closures[self._scope[vertex]]
        users = [each for name in item.mentions for each in self._taking.get(name, ())]
        for name in item.changes:
            users += self._handing.get(name.removesuffix("()"), ())
        yield from (each for each in users if known >> self._file_of[each] & 1)
        file = self._names[self._file_of[vertex]]
        names = []
        if item.kind is not DefinitionKind.FUNCTION:
            names = [MODULE, item.name.rpartition(".")[0] + ":"]
        if item.name.endswith("()"):
            names = [MODULE, item.name[:-2]]
        for name in names:
            if (file, name) in self._ids:
                yield self._ids[file, name]

    def _note(self, found: dict[int, tuple[int, str]], vertex: int, cost: int, cause: str) -> None:
        file = self._file_of[vertex]
        if file not in found or cost < found[file][0]:
            found[file] = (cost, cause)

    def answer(self) -> Reached:
        """The positions and causes of the nodes of the log."""
        around = self._by_file()
        positions: list[int] = []
        causes: list[str] = []
        for node, (file, name) in enumerate(self._log.nodes):
            vertex = self.vertex_of(node)
            found = (NEVER, "")
            if name == FILE:
                found = around[self._files[file]] if file in self._files else found
            elif vertex >= 0:
                own = (self._cost[vertex], self._cause[vertex])
                found = min(own, around[self._file_of[vertex]])
            positions.append(found[0])
            causes.append(found[1] if found[0] < NEVER else "")
        return Reached(positions, causes)

    def _by_file(self) -> list[tuple[int, str]]:
        """For each file, what applies to all that is in it."""
        found: list[tuple[int, str]] = []
        applying = {self._files[name] for name in self._log.plugins if name in self._files}
        for name, file in self._files.items():
            closure = self._closures[file]
            best = min(
                (each for one, each in self._effects.items() if closure >> one & 1),
                default=(NEVER, ""),
            )
            for one in self._with_stars({file, *applying, *_conftests(name, self._files)}):
                best = min(best, self._implicit.get(one, best))
            found.append(best)
        return found

    def _with_stars(self, files: set[int]) -> set[int]:
        """The files, and all whose names they have by star imports, hooks and fixtures too."""
        todo = files & self._starred.keys()
        while todo:
            more = set().union(*(self._starred[file] for file in todo)) - files
            files |= more
            todo = more & self._starred.keys()
        return files


def _is_of_examples(node: tuple[str, str]) -> bool:
    return node[1].startswith(EXAMPLES)


def _leaf(name: str) -> str:
    """The last name of a file's module."""
    directory, _, last = name.rpartition("/")
    leaf = last.partition(".")[0]
    return directory.rpartition("/")[2] if leaf == "__init__" else leaf


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
