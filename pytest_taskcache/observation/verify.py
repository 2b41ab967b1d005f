"""Recorded digests compared with present ones, each present one worked out once while it stands.

What is observed to change is forgotten by its path: the file, its status, its directory's listing,
and verdicts only if one of these was asked for and really differs. A suite whose tests write files
pays nothing for it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable

from pytest_taskcache.model.dependency import Blob, Change, Dependency, Kind, Trace
from pytest_taskcache.observation.code_verdicts import CodeVerdicts, without_mark
from pytest_taskcache.observation.hooks import environ
from pytest_taskcache.observation.hooks.environ import EVERYTHING
from pytest_taskcache.observation.source_archive import SourceArchive
from pytest_taskcache.ports import Fingerprints

CHANGES = 8
"""How many changes are named."""

_OPENING = 50_000_000
"""Nanoseconds within which a file is certainly open once its opening was announced."""

_MARK = " (at start)"
_SEPARATOR = "/"
_OF_PATH = (Kind.FILE, Kind.STAT, Kind.SOURCE)


def at_start(name: str) -> str:
    """The name, in traces, of a variable's value when observation began.

    What a module read while it was imported hangs on the value of that moment. A later look-up
    happens after all imports, when the project itself may have set the variable.
    """
    return name + _MARK


class Verification:
    """The present, as far as it was asked for.

    Files that this process may be writing without any further event (handles kept open,
    databases) are **unsettled**: they are looked at afresh each time. ``is_scratch`` tells
    temporary paths; ``digest_variables`` digests a variable, or all, of an environment.
    """

    def __init__(
        self,
        fingerprints: Fingerprints,
        clock: Callable[[], int],
        digest_variable: Callable[[str, dict[bytes, bytes]], str],
    ) -> None:
        self._fingerprints = fingerprints
        self._clock = clock
        self._digest_variable = digest_variable
        self.start = environ.snapshot()
        self.archive = SourceArchive(fingerprints.source, self._has)
        self.code = CodeVerdicts(self.digest, self.archive)
        self._asked: dict[tuple[Kind, str], str] = {}
        self._dirty: set[tuple[Kind, str]] = set()
        self._good: set[Dependency] = set()
        self._valid: set[str] = set()
        self._invalid: dict[str, tuple[Change, ...]] = {}
        self._unsettled: dict[str, tuple[str, int]] = {}
        self._path = tuple(sys.path)

    # ---------------------------------------------------------------------------- changes

    def change(self, path: str, *, tree: bool = False) -> None:
        """This path is about to change; with ``tree``, all that is below it too."""
        name = self._fingerprints.name_of(path)
        self._fingerprints.forget(name, tree=tree)
        if not self._asked:
            return
        parent = self._fingerprints.name_of(os.path.dirname(path))
        self._dirty.update(
            key
            for key in [*((kind, name) for kind in _OF_PATH), (Kind.LISTING, parent)]
            if key in self._asked
        )
        below = name + _SEPARATOR
        for key in self._asked:
            kind, each = key
            if kind in (Kind.FILES, Kind.IMPORT) or (tree and each.startswith(below)):
                self._dirty.add(key)

    def change_anything(self) -> None:
        """Any digest may have changed: somebody unseen may have written anywhere."""
        self._fingerprints.forget()
        self._dirty.update(key for key in self._asked if key[0] is not Kind.ENVIRONMENT)

    def change_variable(self, name: str) -> None:
        """A variable is about to change."""
        for each in (name, EVERYTHING):
            if (Kind.ENVIRONMENT, each) in self._asked:
                self._dirty.add((Kind.ENVIRONMENT, each))

    def _notice_path(self) -> None:
        """Where imports are found may differ if ``sys.path`` does."""
        path = tuple(sys.path)
        if path != self._path:
            self._path = path
            self._dirty.update(key for key in self._asked if key[0] is Kind.IMPORT)

    def change_directory(self) -> None:
        """The working directory is about to change."""
        if (Kind.WORKING_DIRECTORY, ".") in self._asked:
            self._dirty.add((Kind.WORKING_DIRECTORY, "."))

    def unsettle(self, path: str) -> None:
        """A file is about to be opened for writing."""
        self._unsettled[self._fingerprints.name_of(path)] = (path, self._clock())

    def _settle(self) -> None:
        """Looks again at what changed; verdicts stand unless something differs."""
        if not self._dirty:
            return
        dirty, self._dirty = self._dirty, set()
        differs = False
        for key in dirty:
            before = self._asked.pop(key, None)
            if before is not None and self.digest(*key) != before:
                differs = True
        if differs:
            self._good, self._valid, self._invalid = set(), set(), {}
            self.code.reconsider()

    # ----------------------------------------------------------------------------- digests

    def digest(self, kind: Kind, name: str, path: str | None = None) -> str:
        """The present digest. ``path`` is where the name leads, if it stands for a path."""
        key = (kind, name)
        if kind is Kind.IMPORT:
            self._notice_path()
        if name in self._unsettled and self._is_written(name):
            # To be looked at again before anything that was concluded from it is believed.
            self._fingerprints.forget(name)
            self._asked[key] = present = self._fingerprints.digest(kind, name)
            self._dirty.add(key)
            return present
        if key in self._dirty:
            self._settle()
        found = self._asked.get(key)
        if found is None:
            found = self._asked[key] = self._ask(kind, name)
        return found

    def _ask(self, kind: Kind, name: str) -> str:
        if kind is Kind.ENVIRONMENT:
            if name.endswith(_MARK):
                return self._digest_variable(name.removesuffix(_MARK), self.start)
            return self._digest_variable(name, environ.snapshot())
        return self._fingerprints.digest(kind, name)

    def _has(self, name: str, digest: str) -> bool:
        """Whether a file has this digest, looked at afresh."""
        self._fingerprints.forget(name)
        return self._fingerprints.digest(Kind.FILE, name) == digest

    def _is_written(self, name: str) -> bool:
        """Whether a file that was opened for writing is, as far as the platform tells, open
        still, so that it may change without a sign."""
        opened = _open_files()
        if opened is None:
            return True
        now = self._clock()
        for each, (path, since) in list(self._unsettled.items()):
            if now - since > _OPENING and os.path.realpath(path) not in opened:
                del self._unsettled[each]
                self.change(path)
        return name in self._unsettled

    # -------------------------------------------------------------------------- verification

    def is_known(self, trace: Trace) -> bool:
        """Whether the trace was found valid and nothing was seen to change since."""
        self._notice_path()
        return not self._dirty and not self._unsettled and trace.digest in self._valid

    def verify(self, trace: Trace) -> tuple[Change, ...]:
        """The dependencies that differ, CHANGES at most; empty when the trace is valid."""
        self._notice_path()
        self._settle()
        unsettled = {one.name for one in trace.dependencies if one.name in self._unsettled}
        unsettled = {name for name in unsettled if self._is_written(name)}
        if trace.digest and not unsettled:
            if trace.digest in self._valid:
                return ()
            known = self._invalid.get(trace.digest)
            if known is not None:
                return known
        found: dict[tuple[str, str], Change] = {}
        # What a window touched itself is told before what its functions touched at other times.
        for dependency in sorted(trace.dependencies, key=lambda one: one.kind is Kind.CODE):
            if dependency not in self._good or dependency.name in unsettled:
                for change in self._check(dependency, trace.uses):
                    found.setdefault((change.kind, change.name), change)
                if len(found) >= CHANGES:
                    break
        changes = tuple(found.values())[:CHANGES]
        if trace.digest and not unsettled:
            if changes:
                self._invalid[trace.digest] = changes
            else:
                self._valid.add(trace.digest)
        return changes

    def _check(self, dependency: Dependency, uses: Iterable[Blob]) -> list[Change]:
        kind, name, before = dependency
        if kind is Kind.CODE:
            return self.code.check(dependency, uses)
        after = self.digest(kind, name)
        if after != before:
            return [Change(str(kind), without_mark(name), before, after)]
        if name not in self._unsettled:
            self._good.add(dependency)
        return []

    def prefetch(self, traces: Iterable[Trace]) -> None:
        """Digests what these traces name, so that their verification only compares."""
        self._settle()
        for trace in traces:
            for dependency in trace.dependencies:
                if dependency.kind is Kind.CODE:
                    self.code.expect(dependency, trace.uses)
                elif dependency not in self._good:
                    self._check(dependency, ())


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
