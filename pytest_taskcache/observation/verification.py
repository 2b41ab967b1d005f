"""Present digests compared with recorded ones, each computed once while nothing changes.

A **generation** lasts until something is observed that may change a digest: a write, a rename,
a chdir, a change of the environment, a child process. Within it a dependency that was found
good stays good, so that thousands of traces which share their dependencies cost one look-up in
a set per dependency, and a trace seen before costs one comparison.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from pytest_taskcache.model.dependency import Change, Dependency, Kind, Trace
from pytest_taskcache.observation.sightings import SLACK, is_newer
from pytest_taskcache.observation.starting_environment import (
    EVERYTHING,
    StartingEnvironment,
    without_mark,
)

if TYPE_CHECKING:
    from pytest_taskcache.ports import Fingerprints

CHANGES = 8
"""How many changes are named."""

_OPENING = 50_000_000
"""Nanoseconds within which a file is certainly open once its opening was announced."""


class Verification:
    """The present, as far as it was asked for.

    Files that this process may be writing without any further event (handles kept open,
    databases) are **unsettled**: they are looked at afresh each time. ``is_scratch`` tells
    temporary paths; writing there ends a generation only where one was asked about.
    """

    def __init__(
        self,
        fingerprints: Fingerprints,
        clock: Callable[[], int],
        is_scratch: Callable[[str], bool],
    ) -> None:
        self._fingerprints = fingerprints
        self._clock = clock
        self._is_scratch = is_scratch
        self._scratch_asked = False
        self._variables_asked: set[str] = set()
        self.start = StartingEnvironment({})
        self._good: set[Dependency] = set()
        self._valid: set[str] = set()
        self._bad: dict[tuple[Kind, str], str] = {}
        self._since = clock()
        self._stirred = False
        self._environment_stirred = False
        self._unsettled: dict[str, tuple[str, int]] = {}
        self.generation = 0

    def stir(self) -> None:
        """Any digest may have changed, or is about to."""
        self._stirred = True
        # At once as well: others ask the fingerprints without asking us.
        self._fingerprints.forget()

    def stir_scratch(self) -> None:
        """Digests of temporary paths may have changed."""
        if self._scratch_asked:
            self._stirred = True

    def unsettle(self, path: str) -> None:
        """A file is about to be opened for writing."""
        self._unsettled[self._fingerprints.name_of(path)] = (path, self._clock())

    def stir_variable(self, name: str) -> None:
        """A variable is about to change."""
        self.start.keep(name, lambda each: self.digest(Kind.ENVIRONMENT, each))
        if name in self._variables_asked or EVERYTHING in self._variables_asked:
            self._environment_stirred = True

    def settle(self) -> None:
        """Starts a new generation if something was stirred."""
        if self._stirred:
            self._stirred = self._environment_stirred = False
            self._good = set()
            self._forget()
        elif self._environment_stirred:
            self._environment_stirred = False
            self._good = {one for one in self._good if one.kind is not Kind.ENVIRONMENT}
            self._forget()

    def _forget(self) -> None:
        self.generation += 1
        self._valid = set()
        self._bad = {}
        self._scratch_asked = False
        self._variables_asked = set()
        self._since = self._clock()
        self._fingerprints.forget()

    def digest(self, kind: Kind, name: str, path: str | None = None) -> str:
        """The present digest. ``path``, where the name stands for one, is checked for changes
        that nobody observed since the generation began."""
        self.settle()
        if name in self._still_written([name]) or (
            path is not None and is_newer(path, self._since)
        ):
            self._stirred = True
            self.settle()
        return self._ask(kind, name)

    def is_older(self, moment: int) -> bool:
        """Whether the generation began after a moment (POSIX nanoseconds), so that no digest
        can be older than it."""
        return moment <= self._since - SLACK

    def _ask(self, kind: Kind, name: str) -> str:
        if kind is Kind.ENVIRONMENT:
            variable = without_mark(name)
            if variable is not None:
                return self.start.digest(variable, lambda each: self._ask(kind, each))
            self._variables_asked.add(name)
        elif name.startswith("<tmp>") or (name.startswith("/") and self._is_scratch(name)):
            self._scratch_asked = True
        return self._fingerprints.digest(kind, name)

    def _still_written(self, names: Iterable[str]) -> set[str]:
        """Those of the names that are unsettled and, as far as the platform tells, still open."""
        if not self._unsettled or self._unsettled.keys().isdisjoint(names):
            return set()
        opened = _open_files()
        if opened is not None:
            now = self._clock()
            for name, (path, since) in list(self._unsettled.items()):
                if now - since > _OPENING and os.path.realpath(path) not in opened:
                    self._unsettled.pop(name, None)
        return self._unsettled.keys() & set(names)

    def is_known(self, trace: Trace) -> bool:
        """Whether the trace was found valid and nothing was stirred since: the warm path."""
        return not self._stirred and not self._environment_stirred and trace.digest in self._valid

    def verify(self, trace: Trace) -> tuple[Change, ...]:
        """The dependencies that differ, CHANGES at most; empty when the trace is valid."""
        self.settle()
        valid, good = self._valid, self._good
        if trace.digest in valid:
            return ()
        dependencies = trace.dependencies
        unsettled = (
            self._still_written([one.name for one in dependencies]) if self._unsettled else ()
        )
        if not unsettled and good.issuperset(dependencies):
            if trace.digest:
                valid.add(trace.digest)
            return ()
        changes: list[Change] = []
        for dependency in dependencies:
            kind, name, before = dependency
            fresh = name in unsettled
            if not fresh and dependency in good:
                continue
            after = self.digest(kind, name) if fresh else self._present(kind, name)
            if after != before:
                changes.append(Change(str(kind), name, before, after))
                if len(changes) == CHANGES:
                    break
            elif not fresh:
                good.add(dependency)
        if not changes and not unsettled and trace.digest:
            valid.add(trace.digest)
        return tuple(changes)

    def _present(self, kind: Kind, name: str) -> str:
        key = (kind, name)
        known = self._bad.get(key)
        if known is None:
            known = self._bad[key] = self._ask(kind, name)
        return known

    def prefetch(self, traces: Iterable[Trace]) -> None:
        """Digests what these traces name, so that their verification only compares."""
        self.settle()
        wanted: set[Dependency] = set()
        for trace in traces:
            wanted.update(trace.dependencies)
        for dependency in wanted - self._good:
            if dependency.name not in self._unsettled and (
                self._present(dependency.kind, dependency.name) == dependency.digest
            ):
                self._good.add(dependency)


def _open_files() -> set[str] | None:
    """The paths this process has open; None where the platform does not tell."""
    try:
        descriptors = os.listdir("/proc/self/fd")
    except OSError:
        return None
    opened = set()
    for descriptor in descriptors:
        try:
            opened.add(os.readlink(f"/proc/self/fd/{descriptor}"))
        except OSError:
            continue  # the listing's own, closed since
    return opened
