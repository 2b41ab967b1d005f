"""The trace of a window that closes: names from what it saw, digests from the present."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from itertools import chain, islice
from types import CodeType
from typing import TYPE_CHECKING

from pytest_taskcache.model.dependency import Dependency, Kind, Observed, Opaque
from pytest_taskcache.observation import environ
from pytest_taskcache.observation.closures import Closures
from pytest_taskcache.observation.findings import Findings, changed
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
        for group in window.absorbed:
            # Mostly the closure has it all: a set tells in a fraction of the time.
            for dependency in self._set_of(group).difference(closure.ordered):
                key = (dependency.kind, dependency.name)
                if extra.setdefault(key, dependency.digest) != dependency.digest:
                    doubts[changed(dependency.name)] = None
                    extra[key] = dependency.digest
        untrusted = {**sightings.untrusted, **closure.untrusted, **doubts}
        new: list[Dependency] = []
        for (kind, name), digest in extra.items():
            known = closure.digest(kind, name)
            if known is None:
                new.append(Dependency(kind, name, digest))
            elif known != digest:
                untrusted[changed(name)] = None
        ordered = closure.ordered
        trace = self._traces.of((*ordered, *new)) if new else self._traces.of_sorted(ordered)
        self._own(window, trace.digest)
        written = islice(sightings.changed, _WRITTEN)
        names = tuple(self._fingerprints.name_of(path) for path in written)
        return Observed(trace, tuple(opaque), tuple(untrusted), names)

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
