"""The code that may matter, given what ran: by imports and by name."""

from __future__ import annotations

import os
import sys
import time
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import chain
from pathlib import Path
from types import FunctionType
from typing import NamedTuple

from pytest_taskcache.digests.values.collecting import uncollected
from pytest_taskcache.fingerprint.graph import NameGraph, Reached
from pytest_taskcache.fingerprint.links import Linker, Links
from pytest_taskcache.fingerprint.mentions import STAR
from pytest_taskcache.fingerprint.modules import Modules
from pytest_taskcache.fingerprint.qualnames import function_around, function_key, interface_name
from pytest_taskcache.model.dependency import Dependency, Kind


class _Closed(NamedTuple):
    """The import closure of some modules: names of files, and what the imports rest on."""

    modules: frozenset[str]
    facts: tuple[tuple[Kind, str], ...]


_PIECES = 4096
"""Pieces kept at a time, each of a few kilobytes."""


class _Seed(NamedTuple):
    """What a function that ran counts as: a module and a qualified name; and its own name in
    traces where no syntax tree has it, else ""."""

    counts_as: tuple[str, str]
    unknown: str


class _Inside(NamedTuple):
    """What the imports inside of some functions lead to, and what they rest on."""

    modules: frozenset[str]
    facts: frozenset[tuple[Kind, str]]


class _Functions:
    """The dependencies that the functions of a graph are, each made when it is first met."""

    def __init__(self, digest: Callable[[Kind, str], str]) -> None:
        self._digest = digest
        self._graph: NameGraph | None = None
        # Most questions share most of their pieces.
        self._pieces: dict[tuple[int, bytes, bytes], list[Dependency]] = {}

    def forget(self) -> None:
        """Digests may have changed."""
        self._graph = None

    def of(self, graph: NameGraph, mask: int, seen: int) -> list[Dependency]:
        """Those that a mask has for what they do, and another for how they look, sorted."""
        if graph is not self._graph or len(self._pieces) > _PIECES:
            self._graph = graph
            self._pieces = {}
        found: list[Dependency] = []
        known = self._pieces
        in_order = True
        pairs = zip(graph.pieces(mask), graph.pieces(seen), strict=True)
        for number, (ran, at_hand) in enumerate(pairs):
            key = (number, ran, at_hand)
            some = known.get(key)
            if some is None:
                some = known[key] = self._made(graph, *key)
            if some:
                in_order = in_order and (not found or found[-1] < some[0])
                found += some
        return found if in_order else sorted(found)

    def _made(self, graph: NameGraph, number: int, ran: bytes, at_hand: bytes) -> list[Dependency]:
        functions = graph.functions
        names = [functions[place] for place in graph.members(number, ran)]
        names += (interface_name(functions[one]) for one in graph.members(number, at_hand))
        digest = self._digest
        return sorted([Dependency(Kind.FUNCTION, one, digest(Kind.FUNCTION, one)) for one in names])


class Closure:
    """Reachability over the project's modules.

    ``digest`` returns the present digest of a dependency; ``loaded`` the names of the project's
    files that are imported now, so that one graph serves a whole session. ``graphs`` counts the
    graphs that were built.
    """

    def __init__(
        self,
        modules: Modules,
        linker: Linker,
        digest: Callable[[Kind, str], str],
        loaded: Callable[[], Iterable[str]],
    ) -> None:
        self.graphs = 0
        self._modules = modules
        self._linker = linker
        self._digest = digest
        self._loaded = loaded
        self._graph: NameGraph | None = None
        self._graphed: dict[str, str] = {}
        self._present: frozenset[str] = frozenset()
        self._counted = (0, "")
        self._ran: tuple[NameGraph, int, int] | None = None
        self._unseen: tuple[frozenset[str], int] = (frozenset(), 0)
        self._closed: dict[tuple[frozenset[str], frozenset[str] | None], _Closed] = {}
        self._closed_of: dict[tuple[str, frozenset[str] | None], frozenset[str]] = {}
        self._closed_sets: dict[tuple[frozenset[str], frozenset[str] | None], _Closed] = {}
        self._checked: set[frozenset[str]] = set()
        self._answers: dict[tuple[frozenset[str], frozenset[str]], tuple[Dependency, ...]] = {}
        self._around: dict[
            tuple[frozenset[str], frozenset[tuple[Kind, str]]], list[Dependency]
        ] = {}
        self._seeds: dict[str, _Seed] = {}
        self._insides: dict[int, _Inside] = {}
        self._linked = -1
        self._functions = _Functions(digest)
        self._by_mask: dict[tuple[frozenset[str], int, int, int], tuple[Dependency, ...]] = {}

    def forget(self) -> None:
        """Files may have changed. The graph stays until a module of it has."""
        self._closed.clear()
        self._closed_of.clear()
        self._closed_sets.clear()
        self._checked.clear()
        self._around.clear()
        self._seeds.clear()
        self._insides.clear()
        self._functions.forget()
        self._answers.clear()
        self._by_mask.clear()

    def reach(
        self,
        functions: Collection[str],
        modules: Collection[str],
        ran: Sequence[str] | None = None,
    ) -> tuple[Dependency, ...]:
        """What may matter, sorted, each once; see ``ports.Fingerprints.reach``."""
        question = (frozenset(functions), frozenset(modules))
        if ran is None:
            known = self._answers.get(question)
            if known is None:
                known = self._answers[question] = self._compute(*question, None)
            return known
        return self._compute(*question, ran)

    def _compute(
        self, functions: frozenset[str], modules: frozenset[str], ran: Sequence[str] | None
    ) -> tuple[Dependency, ...]:
        counted = [self._seed(function) for function in functions]
        seeds = [one.counts_as for one in counted]
        wanted = modules.union([path for path, _ in seeds])
        unseen = None if ran is None else self._unseen_in(ran)
        while True:
            closed = self._close(wanted, unseen)
            # What no function has imported yet may be next: one graph for all of it.
            graph = self._graph_of(self._close(wanted, None).modules)
            among = None if ran is None else self._among(graph, ran)
            reached = graph.reach(seeds, closed.modules, among)
            # What acts on the reached from outside of its imports does so only once loaded.
            more = reached.acting & self._present
            if reached.asks:
                more = self._present
            if unseen is not None:
                more |= self._inside(graph, reached.importing).modules
            if more <= closed.modules:
                break
            wanted |= more
        found = self._dependencies(graph, closed, reached)
        # A function that is in no syntax tree (generated code) still has a digest: none.
        unknown = {one.unknown for one in counted if one.unknown}
        if not unknown:
            return found
        extra = (self._dependency(Kind.FUNCTION, name) for name in unknown)
        return tuple(sorted({*found, *extra}))

    def _unseen_in(self, ran: Sequence[str]) -> frozenset[str]:
        """The modules among what ran that count as a whole; only those added since are looked
        for."""
        found, count = self._unseen
        if count > len(ran):
            found, count = frozenset(), 0
        if count < len(ran):
            found = found.union(one[:-2] for one in ran[count:] if one.endswith("::"))
            self._unseen = (found, len(ran))
        return found

    def _inside(self, graph: NameGraph, importing: int) -> _Inside:
        """What the imports inside of these functions lead to: of those that were reached, and
        of all others around that ran but tests. What these loaded may have left something
        behind."""
        version = self._linker.version()
        if version != self._linked or len(self._insides) > _PIECES:
            self._insides.clear()
            self._linked = version
        known = self._insides.get(importing)
        if known is None:
            links = [self._linker.of_function(*one) for one in graph.places(importing)]
            known = self._insides[importing] = _Inside(
                frozenset(chain.from_iterable(one.modules for one in links)),
                frozenset(chain.from_iterable(one.facts for one in links)),
            )
        return known

    def _among(self, graph: NameGraph, ran: Sequence[str]) -> int:
        """The mask of the functions that ran; only those added since are looked at."""
        known = self._ran
        if known is None or known[0] is not graph or known[1] > len(ran):
            known = (graph, 0, 0)
        if known[1] < len(ran):
            more = graph.mask_of(map(_split, ran[known[1] :]))
            known = (graph, len(ran), known[2] | more)
        self._ran = known
        return known[2]

    def _seed(self, function: str) -> _Seed:
        """What a function that ran counts as: the innermost function of the syntax tree that
        holds it."""
        known = self._seeds.get(function)
        if known is None:
            path, name = _split(function)
            digests = self._modules.digests(path)
            functions: Collection[str] = () if digests is None else digests.functions
            while name not in functions and (around := function_around(name)):
                name = around
            unknown = f"{path}::{name}" if name and name not in functions else ""
            known = self._seeds[function] = _Seed((path, name), unknown)
        return known

    def _dependencies(
        self, graph: NameGraph, closed: _Closed, reached: Reached
    ) -> tuple[Dependency, ...]:
        key = (closed.modules, reached.mask, reached.seen, reached.importing)
        known = self._by_mask.get(key)
        if known is None:
            place = (closed.modules, self._inside(graph, reached.importing).facts)
            around = self._around.get(place)
            if around is None:
                wanted = {*closed.facts, *place[1]}
                wanted.update((Kind.MODULE, name) for name in closed.modules)
                around = sorted(self._dependency(kind, name) for kind, name in wanted)
                self._around[place] = around
            found = self._functions.of(graph, reached.mask, reached.seen)
            # Sorted already: kinds before functions, functions, kinds after them.
            first = bisect_left(around, (Kind.FUNCTION,))
            last = bisect_left(around, (Kind.FUNCTION + "\0",))
            for one in around[first:last]:
                index = bisect_left(found, one)
                if index == len(found) or found[index] != one:
                    found.insert(index, one)
            known = (*around[:first], *found, *around[last:])
            self._by_mask[key] = known
        return known

    def _dependency(self, kind: Kind, name: str) -> Dependency:
        return Dependency(kind, name, self._digest(kind, name))

    def _close(self, modules: frozenset[str], unseen: frozenset[str] | None) -> _Closed:
        """The import closure of modules. Imports inside of functions belong to it only in
        modules whose functions may have run unseen; in all for None."""
        known = self._closed.get((modules, unseen))
        if known is None:
            found: set[str] = set()
            for name in modules:
                if name not in found:
                    found |= self._closure_of(name, unseen)
            whole = frozenset(found)
            # Most questions lead to one of a few closures: one object for each.
            known = self._closed_sets.get((whole, unseen))
            if known is None:
                facts: set[tuple[Kind, str]] = set()
                for name in whole:
                    facts.update(self._links_of(name, unseen).facts)
                known = self._closed_sets[whole, unseen] = _Closed(whole, tuple(facts))
            self._closed[modules, unseen] = known
        return known

    def _closure_of(self, start: str, unseen: frozenset[str] | None) -> frozenset[str]:
        """The import closure of one module, by the known ones of those it leads to."""
        known = self._closed_of.get((start, unseen))
        if known is None:
            found = {start}
            pending = [start]
            while pending:
                for name in self._links_of(pending.pop(), unseen).modules:
                    if name in found:
                        continue
                    further = self._closed_of.get((name, unseen))
                    if further is None:
                        found.add(name)
                        pending.append(name)
                    else:
                        found |= further
            known = self._closed_of[start, unseen] = frozenset(found)
        return known

    def _links_of(self, name: str, unseen: frozenset[str] | None) -> Links:
        return self._linker.of(name, functions=unseen is None or name in unseen)

    def _graph_of(self, modules: frozenset[str]) -> NameGraph:
        """A graph that holds at least these modules as they are now, and all that are loaded
        and may act on them."""
        acting = self._newly_acting()
        if self._graph is not None and not acting:
            if modules in self._checked:
                return self._graph
            if all(self._graphed.get(name) == self._modules.content(name) for name in modules):
                self._checked.add(modules)
                return self._graph
        self._checked.clear()
        wanted = {*modules, *self._graphed, *self._present}
        self._graphed = {name: self._modules.content(name) for name in wanted}
        with uncollected():
            mentions = {name: self._modules.mentions(name) for name in wanted}
            self._graph = NameGraph(mentions, self._linker)
        self.graphs += 1
        self._insides.clear()
        self._by_mask.clear()
        self._answers.clear()
        return self._graph

    def _newly_acting(self) -> bool:
        """Whether a module was loaded that the graph lacks and that acts on others."""
        counted = (len(sys.modules), next(reversed(sys.modules), ""))
        if counted == self._counted:
            return False
        self._counted = counted
        before, self._present = self._present, frozenset(self._loaded())
        return any(self._acts(name) for name in self._present - before if name not in self._graphed)

    def _acts(self, name: str) -> bool:
        mentions = self._modules.mentions(name)
        roots = {chain.partition(".")[0] for chain, _ in mentions.effects}
        for item in (item for root in roots for item in mentions.aliases.get(root, ())):
            reference = self._linker.reference(name, item.level, item.module)
            if reference is not None and not reference.foreign:
                return True
        return any(item.name == STAR for item in mentions.imports)


def _split(function: str) -> tuple[str, str]:
    """The module and the name that a function counts under."""
    path, _, qualname = function.rpartition("::")
    return path, function_key(qualname)


def loaded_files(is_first_party: Callable[[str], bool]) -> list[str]:
    """The source files of the project's modules that are imported now."""
    found: list[str] = []
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if isinstance(file, str) and file.endswith(".py") and is_first_party(file):
            found.append(os.path.abspath(file))
    return found


def reachable_source(function: FunctionType, root: Path) -> list[Dependency]:
    """The source of everything of the project that is reachable by name from a function, its
    modules' skeletons included; needs no observation. Empty for a function from elsewhere."""
    from pytest_taskcache.digests.present import Present

    present = Present(root, temporary=None, ignore=(), shelf=None, clock=time.time_ns)
    code = function.__code__
    if not present.is_first_party(code.co_filename):
        return []
    name = present.name_of(code.co_filename)
    return list(present.reach({f"{name}::{code.co_qualname}"}, {name}))
