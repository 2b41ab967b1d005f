"""The code that may matter, with all that its imports rest on; worked out once per question
while nothing changes."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import islice
from types import CodeType
from typing import TYPE_CHECKING, NamedTuple

from pytest_taskcache.model.dependency import Dependency, Kind, Opaque
from pytest_taskcache.observation import instruments
from pytest_taskcache.observation.findings import Digests, Findings, changed
from pytest_taskcache.observation.imports import ImportRecord
from pytest_taskcache.observation.ledger import Ledger
from pytest_taskcache.observation.segments import segments
from pytest_taskcache.observation.sources import Sources, function_name
from pytest_taskcache.observation.switchboard import board
from pytest_taskcache.observation.verification import Verification

if TYPE_CHECKING:
    from pytest_taskcache.ports import Fingerprints

_KEPT = 512


class Closure(NamedTuple):
    """What a set of functions and modules rests on: dependencies, sorted, the functions among
    them from ``first`` to ``last``; all others as a mapping; the names of the modules reached;
    opaque deeds and doubts of their imports; when the latest of their sources last changed."""

    ordered: tuple[Dependency, ...]
    first: int
    last: int
    others: Digests
    modules: frozenset[str]
    opaque: dict[Opaque, None]
    untrusted: dict[str, None]
    latest: int

    def digest(self, kind: Kind, name: str) -> str | None:
        """The digest of one dependency; None if it is none."""
        if kind is not Kind.FUNCTION:
            return self.others.get((kind, name))
        place = bisect_left(self.ordered, (kind, name), self.first, self.last)
        found = self.ordered[place : min(place + 1, self.last)]
        return found[0].digest if found and found[0].name == name else None


class _Imported(NamedTuple):
    """What the imports of a set of modules add: the functions that ran in them, and the modules
    these and their children are of; and all that does not hang on which functions are reached."""

    ran: frozenset[str]
    among: frozenset[str]
    before: tuple[Dependency, ...]
    after: tuple[Dependency, ...]
    others: Digests
    opaque: dict[Opaque, None]
    untrusted: dict[str, None]
    latest: int


class Closures:
    """Answers by question; a new generation, or a new import, forgets them."""

    def __init__(
        self,
        fingerprints: Fingerprints,
        sources: Sources,
        ledger: Ledger,
        verification: Verification,
        findings: Findings,
    ) -> None:
        self._fingerprints = fingerprints
        self._sources = sources
        self._ledger = ledger
        self._verification = verification
        self._findings = findings
        self._known: dict[tuple[frozenset[str], frozenset[str], bool], tuple[int, Closure]] = {}
        self._seeds: dict[frozenset[str], _Imported] = {}
        self._imported: dict[
            tuple[frozenset[str], bool], tuple[tuple[Dependency, ...], _Imported]
        ] = {}
        self._state = (-1, -1)
        self._ran: list[str] = []
        self._ran_names: set[str] = set()
        self._read = 0

    def credit(self, codes: Iterable[CodeType]) -> tuple[set[str], set[str], list[str]]:
        """First-party functions and modules by name, and the files of other first-party code
        (templates)."""
        functions: set[str] = set()
        modules: set[str] = set()
        others: list[str] = []
        find = self._sources.find
        for code in codes:
            source = find(code.co_filename)
            if source is None:
                continue
            if not source.python:
                others.append(source.path)
                continue
            modules.add(source.name)
            name = function_name(code)
            if name is not None:
                functions.add(f"{source.name}::{name}")
        return functions, modules, others

    def find(self, functions: set[str], modules: set[str], complete: bool) -> Closure:
        """What these rest on. ``complete`` is false where functions may have run unseen: then
        the modules reached count as a whole."""
        self._verification.settle()
        state = (self._verification.generation, self._ledger.version)
        if state != self._state or len(self._known) >= _KEPT:
            self._forget()
            self._state = state
        key = (frozenset(functions), frozenset(modules), complete)
        ran = self._ran_so_far() if complete and instruments.code.sees_all else None
        moment = 0 if ran is None else len(ran)
        known = self._known.get(key)
        if known is not None and known[0] == moment:
            return known[1]
        closure = self._reach(functions, modules, complete, ran)
        if not self._verification.is_older(closure.latest):
            # A source changed since the generation began, before it was imported: digests may
            # be older than what ran.
            self._verification.stir()
            self._verification.settle()
            self._forget()
            closure = self._reach(functions, modules, complete, ran)
        state = (self._verification.generation, self._ledger.version)
        if not board.executing and state == self._state:
            self._known[key] = (moment, closure)
        return closure

    def _forget(self) -> None:
        self._known, self._seeds, self._imported = {}, {}, {}

    def _ran_so_far(self) -> list[str]:
        """All functions that ran in this process, and all functions of the modules that were
        loaded before anyone looked. Only grows."""
        if not self._ran:
            self._add_ran(f"{name}::" for name in self._ledger.loaded_before)
        codes = segments.ran()
        if len(codes) > self._read:
            fresh = list(islice(codes.values(), self._read, None))
            self._read += len(fresh)
            self._add_ran(self.credit(fresh)[0])
        return self._ran

    def _add_ran(self, names: Iterable[str]) -> None:
        fresh = [name for name in names if name not in self._ran_names]
        self._ran += fresh
        self._ran_names.update(fresh)

    def _reach(
        self, functions: set[str], modules: set[str], complete: bool, ran: list[str] | None
    ) -> Closure:
        """The fixed point of: reach from what ran; add what ran when the reached was imported."""
        # Which modules are reached hangs on the modules asked for, so what their imports add is
        # mostly the same for all functions: known beforehand, one question does instead of two.
        asked = frozenset(modules)
        functions, modules = set(functions), set(modules)
        while True:
            known = self._seeds.get(asked)
            if known is not None:
                functions |= known.ran
                modules |= known.among
            found = tuple(self._fingerprints.reach(functions, modules, ran))
            first, last = _span(found, Kind.FUNCTION)
            reached = frozenset(one.name for one in found[slice(*_span(found, Kind.MODULE))])
            imported = self._of_imports(
                reached | modules, (*found[:first], *found[last:]), complete
            )
            if imported.ran <= functions and imported.among <= modules:
                break
            functions |= imported.ran
            modules |= imported.among
        if not board.executing:
            self._seeds[asked] = imported
        begin = len(imported.before)
        return Closure(
            (*imported.before, *found[first:last], *imported.after),
            begin,
            begin + last - first,
            imported.others,
            reached | modules,
            imported.opaque,
            imported.untrusted,
            imported.latest,
        )

    def _of_imports(
        self, reached: frozenset[str], around: tuple[Dependency, ...], complete: bool
    ) -> _Imported:
        """What the imports of these modules add to what is around the functions of a closure;
        the same for all closures with these modules."""
        known = self._imported.get((reached, complete))
        if known is not None and known[0] == around:
            return known[1]
        records = [record for record in map(self._ledger.of_module, reached) if record is not None]
        ran: set[str] = set()
        among: set[str] = set()
        digests: Digests = {(one.kind, one.name): one.digest for one in around}
        if not complete:
            for name in reached:
                digests[Kind.SOURCE, name] = self._verification.digest(Kind.SOURCE, name)
        opaque: dict[Opaque, None] = {}
        untrusted: dict[str, None] = {changed(name): None for name in self._ledger.changed(reached)}
        for record in (self._ledger.ambient, *records):
            ambient = record is self._ledger.ambient
            found, doubts = self._findings.of_import(record.sightings, ambient)
            untrusted.update(doubts)
            for one, digest in found.items():
                if digests.setdefault(one, digest) != digest:
                    untrusted[changed(one[1])] = None
            if not ambient:
                opaque.update(dict.fromkeys(record.sightings.opaque))
                untrusted.update(record.sightings.untrusted)
                more = self._credit_import(record)
                ran |= more[0]
                among |= more[1]
        ordered = tuple(sorted(Dependency(*one, digest) for one, digest in digests.items()))
        place = bisect_left(ordered, (Kind.FUNCTION,))
        imported = _Imported(
            frozenset(ran),
            frozenset(among),
            ordered[:place],
            ordered[place:],
            digests,
            opaque,
            untrusted,
            self._ledger.latest(reached),
        )
        if not board.executing:
            self._imported[reached, complete] = (around, imported)
        return imported

    def _credit_import(self, record: ImportRecord) -> tuple[set[str], set[str]]:
        """The functions that ran in an import, and the modules they and its children are of."""
        functions, modules, _ = self.credit(list(record.codes.values()))
        children = (self._sources.find(child) for child in list(record.children))
        modules.update(source.name for source in children if source is not None)
        return functions, modules


def _span(ordered: Sequence[Dependency], kind: Kind) -> tuple[int, int]:
    """Where the dependencies of a kind begin and end."""
    return bisect_left(ordered, (kind,)), bisect_left(ordered, (kind + "\0",))
