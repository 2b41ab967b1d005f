"""The trace of a window that closes: names from what it saw, digests from the present."""

from __future__ import annotations

import operator
import os
import sys
from collections.abc import Iterable, Sequence
from itertools import chain, islice
from types import CodeType
from typing import TYPE_CHECKING, NamedTuple

from pytest_taskcache.model.dependency import Dependency, Kind, Observed, Opaque, Trace
from pytest_taskcache.observation import environ
from pytest_taskcache.observation.closures import Closure, Closures
from pytest_taskcache.observation.findings import Digests, Doubts, Findings, changed
from pytest_taskcache.observation.imports import source_of
from pytest_taskcache.observation.ledger import Ledger
from pytest_taskcache.observation.scratch import Scratch
from pytest_taskcache.observation.sources import Sources
from pytest_taskcache.observation.traces import Traces
from pytest_taskcache.observation.windows import OpenWindow

if TYPE_CHECKING:
    from pytest_taskcache.ports import Fingerprints

_PATHS = (Kind.FILE, Kind.STAT, Kind.LISTING)
_WRITTEN = 8
_SETS = 64


class _Composed(NamedTuple):
    """A trace, what it was made of, and what that did not agree on."""

    closure: Closure
    absorbed: tuple[Sequence[Dependency], ...]
    found: Digests
    trace: Trace
    changes: Doubts

    def is_of(
        self, closure: Closure, absorbed: Sequence[Sequence[Dependency]], found: Digests
    ) -> bool:
        """Whether these very objects, and equal findings, would make the same."""
        return (
            self.closure is closure
            and len(self.absorbed) == len(absorbed)
            and all(map(operator.is_, self.absorbed, absorbed))
            and self.found == found
        )


class Settling:
    """Turns closed windows into what they observed."""

    def __init__(
        self,
        fingerprints: Fingerprints,
        sources: Sources,
        ledger: Ledger,
        scratch: Scratch,
        closures: Closures,
        findings: Findings,
    ) -> None:
        self._fingerprints = fingerprints
        self._sources = sources
        self._ledger = ledger
        self._scratch = scratch
        self._closures = closures
        self._findings = findings
        self._traces = Traces()
        self._variables: dict[str, tuple[bytes | None, set[str]]] = {}
        self._composed: dict[int, _Composed] = {}
        self._sets: dict[int, tuple[Sequence[Dependency], frozenset[Dependency]]] = {}

    def settle(self, window: OpenWindow) -> Observed:
        """What a window saw, whose collecting has ended."""
        sightings = window.sightings
        codes = [*window.log.codes(), *window.running]
        functions, modules, others = self._closures.credit(codes)
        self._credit_modules(window, modules)
        closure = self._closures.find(functions, modules, window.complete)
        opaque: dict[Opaque, None] = dict.fromkeys(sightings.opaque)
        for path in others:
            sightings.reads.setdefault((Kind.FILE, path))
        for deed, path in self._natives(closure.modules, codes):
            opaque[deed] = None
            sightings.reads.setdefault((Kind.FILE, path))
        opaque.update(closure.opaque)

        extra, doubts = self._findings.of_window(
            sightings, lambda kind, path: self._is_derived(window, kind, path)
        )
        trace, changes = self._compose(closure, window.absorbed, extra)
        untrusted = {**sightings.untrusted, **closure.untrusted, **doubts, **changes}
        self._own(window, trace.digest)
        written = islice(sightings.changed, _WRITTEN)
        names = tuple(self._fingerprints.name_of(path) for path in written)
        return Observed(trace, tuple(opaque), tuple(untrusted), names)

    def _compose(
        self, closure: Closure, absorbed: Sequence[Sequence[Dependency]], found: Digests
    ) -> tuple[Trace, Doubts]:
        """The trace of a closure, of what was absorbed, and of what else was found; and what
        these do not agree on. The same for all rows of a parametrized test."""
        known = self._composed.get(id(closure))
        if known is not None and known.is_of(closure, absorbed, found):
            return known.trace, known.changes
        extra = dict(found)
        changes: Doubts = {}
        for group in absorbed:
            # Mostly the closure has it all: a set tells in a fraction of the time.
            for dependency in self._set_of(group).difference(closure.ordered):
                key = (dependency.kind, dependency.name)
                if extra.setdefault(key, dependency.digest) != dependency.digest:
                    changes[changed(dependency.name)] = None
                    extra[key] = dependency.digest
        new: list[Dependency] = []
        for (kind, name), digest in extra.items():
            present = closure.digest(kind, name)
            if present is None:
                new.append(Dependency(kind, name, digest))
            elif present != digest:
                changes[changed(name)] = None
        ordered = closure.ordered
        trace = self._traces.of((*ordered, *new)) if new else self._traces.of_sorted(ordered)
        if len(self._composed) >= _SETS:
            self._composed.clear()
        self._composed[id(closure)] = _Composed(closure, tuple(absorbed), found, trace, changes)
        return trace, changes

    def _set_of(self, group: Sequence[Dependency]) -> frozenset[Dependency]:
        """A group of dependencies as a set, made once: that of a conftest comes with each test."""
        known = self._sets.get(id(group))
        if known is None or known[0] is not group:
            if len(self._sets) >= _SETS:
                self._sets.clear()
            known = self._sets[id(group)] = (group, frozenset(group))
        return known[1]

    def inherit(
        self, window: OpenWindow, dependencies: Sequence[Dependency]
    ) -> Sequence[Dependency]:
        """Those dependencies of a reused value that this window does not owe to itself."""
        sightings = window.sightings
        if not sightings.has_changed_something:
            return dependencies
        kept = []
        for dependency in dependencies:
            kind, name, _ = dependency
            if kind in _PATHS:
                path = os.fspath(self._fingerprints.path_of(name))
                if not sightings.inherits(kind, path):
                    continue
            elif (
                kind is Kind.ENVIRONMENT
                and name in sightings.set_here
                and not sightings.is_outer(name, environ.present(name))
            ):
                continue
            kept.append(dependency)
        return kept

    # ------------------------------------------------------------------- derived state

    def _own(self, window: OpenWindow, trace: str) -> None:
        """Notes what this computation leaves behind for those that reuse it."""
        sightings = window.sightings
        self._scratch.own(chain(sightings.written, sightings.made), trace)
        for name in sightings.set_here:
            value = environ.present(name)
            before, owners = self._variables.get(name, (None, set()))
            if sightings.is_outer(name, value):
                continue
            self._variables[name] = (value, {*owners, trace} if before == value else {trace})

    def _is_derived(self, window: OpenWindow, kind: Kind, name: str) -> bool:
        """Whether a path or a variable is what an inherited computation (a fixture) made."""
        if kind is Kind.ENVIRONMENT:
            value, owners = self._variables.get(name, (None, set()))
            return (
                not owners.isdisjoint(window.upstream) and window.sightings.variables[name] == value
            )
        return self._scratch.holds(name) and self._scratch.is_derived(name, window.upstream)

    # ----------------------------------------------------------------------------- code

    def _credit_modules(self, window: OpenWindow, modules: set[str]) -> None:
        sightings = window.sightings
        loaded = (source_of_name(name) for name in chain(sightings.tried, sightings.asked))
        for filename in chain([window.subject], sightings.modules, loaded):
            source = self._sources.find(filename) if filename else None
            if source is not None and source.python:
                modules.add(source.name)

    def _natives(
        self, modules: frozenset[str], codes: Iterable[CodeType]
    ) -> list[tuple[Opaque, str]]:
        own = (code for code in codes if self._sources.find(code.co_filename) is not None)
        return self._ledger.natives_of(modules, own)


def source_of_name(name: str) -> str | None:
    """The absolute path a loaded module came from, by its name."""
    return source_of(sys.modules.get(name))
