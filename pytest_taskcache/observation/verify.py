"""Recorded digests compared with present ones, each present one worked out once while it stands.

What is observed to change is forgotten by its path: the file, its status, its directory's listing,
and verdicts only if one of these was asked for and really differs. A suite whose tests write files
pays nothing for it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import TypeAlias

from pytest_taskcache.changed_paths import ChangedPaths, stamp_of
from pytest_taskcache.model.dependency import ABSENT, Blob, Change, Dependency, Kind, Trace
from pytest_taskcache.observation.code_verdicts import CHANGES, CodeVerdicts
from pytest_taskcache.observation.hooks import environ
from pytest_taskcache.observation.hooks.environ import EVERYTHING, at_start, without_mark
from pytest_taskcache.observation.hooks.opaque import has_children
from pytest_taskcache.observation.source_archive import SourceArchive
from pytest_taskcache.originals import originals, os_path
from pytest_taskcache.ports import Fingerprints

_Key: TypeAlias = tuple[Kind, str]

_OPENING = 50_000_000
"""Nanoseconds within which a file is certainly open once its opening was announced."""

_MANY = 1_000
"""Files opened for writing, after which those that were closed are forgotten."""

_OF_PATH = (Kind.FILE, Kind.STAT, Kind.SOURCE)
_LOOKED = frozenset({Kind.FILE, Kind.STAT, Kind.LISTING})
_STAMPED = _LOOKED | {Kind.SOURCE}
_WIDE = (Kind.FILES, Kind.IMPORT)
_PLACES = frozenset({*_OF_PATH, *_WIDE, Kind.LISTING})


class Verification:
    """The present, as far as it was asked for.

    Files that this process may be writing without any further event (handles kept open,
    databases) are **unsettled**: they are looked at afresh each time.
    """

    def __init__(self, fingerprints: Fingerprints) -> None:
        self._fingerprints = fingerprints
        self.begin()
        self.archive = SourceArchive(fingerprints.source, self._has)
        self.code = CodeVerdicts(self.digest, self.archive)
        self._asked: dict[_Key, str] = {}
        self._wide: set[_Key] = set()
        self._dirty: set[_Key] = set()
        self._changed = ChangedPaths()
        self._children = False
        self._good: set[Dependency] = set()
        self._valid: dict[str, tuple[_Key, ...]] = {}
        self._stamps: dict[_Key, object] = {}
        self._paths: dict[str, str] = {}
        self._invalid: dict[str, tuple[Change, ...]] = {}
        self._unsettled: dict[str, tuple[str, int]] = {}
        self._path = tuple(sys.path)

    def begin(self) -> None:
        """Variables that a session has from its start are those of now."""
        self._start = environ.snapshot()
        self._given: set[str] = set()

    def give_variable(self, name: str) -> None:
        """A variable is about to be set of which the session has this value from its start."""
        self._given.add(name)
        self._doubt((Kind.ENVIRONMENT, at_start(name)), (Kind.ENVIRONMENT, at_start(EVERYTHING)))

    @property
    def start(self) -> dict[bytes, bytes]:
        """The variables that a session has from its start."""
        if self._given:
            present = environ.snapshot()
            for name in map(os.fsencode, self._given):
                self._start.pop(name, None)
                self._start.update({name: present[name]} if name in present else {})
            self._given = set()
        return self._start

    def change(self, path: str, *, tree: bool = False) -> None:
        """This path is about to change; with ``tree``, all that is below it too. To be told once
        nothing is digested any more as it was before."""
        self._fingerprints.forget(path, tree=tree)
        if self._asked:
            self._changed.note(path, tree=tree)

    def _catch_up(self) -> None:
        """Doubts what was asked of paths that changed since."""
        paths, trees = self._changed.take()
        name_of = self._fingerprints.name_of
        for path in paths:
            name, parent = name_of(path), name_of(os.path.dirname(path))
            self._doubt(*((kind, name) for kind in _OF_PATH), (Kind.LISTING, parent))
        below = tuple(name_of(path) + "/" for path in trees)
        self._dirty.update(key for key in self._asked if below and key[1].startswith(below))
        self._dirty.update(key for key in self._wide if key in self._asked)

    def change_by_child(self) -> None:
        """A child process starts, which may change any file without a sign for as long as it
        lives."""
        self._children = True
        self._fingerprints.doubt(has_children)

    def change_anything(self) -> None:
        """Any digest may have changed: somebody unseen may have written anywhere."""
        self._fingerprints.forget()
        self._dirty.update(key for key in self._asked if key[0] is not Kind.ENVIRONMENT)

    def change_variable(self, name: str) -> None:
        """A variable is about to change."""
        self._doubt((Kind.ENVIRONMENT, name), (Kind.ENVIRONMENT, EVERYTHING))

    def _notice_path(self) -> None:
        """Where imports are found may differ if ``sys.path`` does."""
        path = tuple(sys.path)
        if path != self._path:
            self._path = path
            self._dirty.update(key for key in self._asked if key[0] is Kind.IMPORT)

    def change_directory(self) -> None:
        """The working directory is about to change."""
        self._doubt((Kind.WORKING_DIRECTORY, "."))

    def _doubt(self, *keys: _Key) -> None:
        self._dirty.update(key for key in keys if key in self._asked)

    def unsettle(self, path: str) -> None:
        """A file is about to be opened for writing."""
        name = self._fingerprints.name_of(path)
        if any((kind, name) in self._asked for kind in _OF_PATH):
            self._good, self._valid = set(), {}
        self._unsettled[name] = (path, originals.now())
        if len(self._unsettled) % _MANY == 0:
            self._is_written(name)

    def _settle(self) -> None:
        """Looks again at what changed; verdicts stand unless something differs."""
        if self._changed.noted:
            self._catch_up()
        if self._children:
            self._children = has_children()
            self._dirty.update(filter(self._may_differ, self._asked))
        if not self._dirty:
            return
        dirty, self._dirty = self._dirty, set()
        differs = False
        for key in dirty:
            before = self._asked.pop(key, None)
            if before is not None:
                after = self.digest(*key)
                self._asked.setdefault(key, after)
                differs = differs or after != before
        if differs:
            self._good, self._valid, self._invalid = set(), {}, {}
            self.code.reconsider()

    def digest(self, kind: Kind, name: str) -> str:
        """The present digest."""
        key = (kind, name)
        if kind is Kind.IMPORT:
            self._notice_path()
        is_written = name in self._unsettled and self._is_written(name)
        if key in self._stamps and key in self._asked:
            self._stands((key,))
        if self._changed.noted:
            self._catch_up()
        if is_written:
            # To be looked at again before anything that was concluded from it is believed.
            self._fingerprints.forget(str(self._fingerprints.path_of(name)))
            self._asked[key] = present = self._fingerprints.digest(kind, name)
            self._dirty.add(key)
            return present
        if key in self._dirty:
            return self._ask(kind, name)  # what others rest on is settled once one of them asks
        found = self._asked.get(key)
        if found is None or (self._children and kind in _PLACES):
            if kind in _STAMPED:
                self._stamps[key] = self._stamp(name)
            found = self._ask(kind, name)
            self._asked.setdefault(key, found)
            if kind in _WIDE:
                self._wide.add(key)
        return found

    def _stamp(self, name: str) -> object:
        return stamp_of(self._paths.get(name) or self._path_of(name))

    def _may_differ(self, key: _Key) -> bool:
        """Whether this may not be what it was, for all that its file's times tell."""
        if key in self._stamps:
            return self._stamp(key[1]) != self._stamps[key]
        return key[0] in _PLACES

    def _path_of(self, name: str) -> str:
        path = str(self._fingerprints.path_of(name))
        if os.path.isabs(name) or not name.startswith("<"):
            self._paths[name] = path
        return path

    def _stands(self, keys: Iterable[_Key]) -> bool:
        """Whether nobody changed these, unseen, since they were digested."""
        stands = True
        for key in keys:
            if self._stamp(key[1]) != self._stamps.get(key):
                path = self._path_of(key[1])
                # Of a listing it is what lies in the directory that may have come or gone.
                self.change(os.path.join(path, "*") if key[0] is Kind.LISTING else path)
                stands = False
        return stands

    def _ask(self, kind: Kind, name: str) -> str:
        if kind is Kind.ENVIRONMENT:
            plain = without_mark(name)
            variables = environ.snapshot() if plain == name else self.start
            return self._fingerprints.variable_digest(plain, variables)
        return self._fingerprints.digest(kind, name)

    def _has(self, name: str, digest: str) -> bool:
        """Whether a file has this digest, looked at afresh."""
        self._fingerprints.forget(str(self._fingerprints.path_of(name)))
        return self._fingerprints.digest(Kind.FILE, name) == digest

    def _is_written(self, name: str) -> bool:
        """Whether a file that was opened for writing is, as far as the platform tells, open
        still, so that it may change without a sign."""
        opened = _open_files()
        if opened is None:
            return True
        now = originals.now()
        for each, (path, since) in list(self._unsettled.items()):
            if now - since > _OPENING and os_path.realpath(path) not in opened:
                del self._unsettled[each]
                self.change(path)
        return name in self._unsettled

    def is_known(self, trace: Trace) -> bool:
        """Whether the trace was found valid and nothing changed since. What it names itself is
        looked at each time, as native code and other processes write unseen."""
        self._notice_path()
        doubtful = self._dirty or self._changed.noted or self._children
        if doubtful or trace.digest not in self._valid:
            return False
        keys = self._valid[trace.digest]
        return not keys or self._stands(keys)

    def verify(self, trace: Trace) -> tuple[Change, ...]:
        """The dependencies that differ, CHANGES at most; empty when the trace is valid."""
        if not self._children:
            return self._verify(trace)
        with self._fingerprints.one_look():
            return self._verify(trace)

    def _verify(self, trace: Trace) -> tuple[Change, ...]:
        self._notice_path()
        asked = [_asked_of(one) for one in trace.dependencies]
        looked = tuple(key for key in asked if key[0] in _LOOKED)
        self._stands(key for key in looked if key in self._asked)
        self._settle()
        names = (name for _, name in asked if name in self._unsettled)
        unsettled = {name for name in names if self._is_written(name)}
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
                self._valid[trace.digest] = looked
        return changes

    def meet(self, files: Iterable[str]) -> bool:
        """These files are imported in this run, or stood in for: where a log has not met one of
        them that is there for what it does to others, its records are judged anew. True if so."""
        if not self.code.meet(files):
            return False
        self._valid, self._invalid = {}, {}
        return True

    def _check(self, dependency: Dependency, uses: Iterable[Blob]) -> list[Change]:
        if dependency.kind is Kind.CODE:
            return self.code.check(dependency, uses)
        kind, name = _asked_of(dependency)
        before, after = dependency.digest, self.digest(kind, name)
        if dependency.kind is Kind.LEFT and after == ABSENT:
            return []
        if after != before:
            return [Change(str(kind), without_mark(name), before, after)]
        if name not in self._unsettled:
            self._good.add(dependency)
        return []

    def prefetch(self, traces: Iterable[Trace]) -> None:
        """Digests what these traces name, so that their verification only compares."""
        with self._fingerprints.one_look():
            self._settle()
            for trace in traces:
                for dependency in trace.dependencies:
                    if dependency.kind is Kind.CODE:
                        self.code.expect(dependency, trace.uses)
                    elif dependency not in self._good:
                        self._check(dependency, ())


def _asked_of(dependency: Dependency) -> _Key:
    """What is asked of the present for a dependency."""
    if dependency.kind is not Kind.LEFT:
        return dependency.kind, dependency.name
    kind, _, name = dependency.name.partition(" ")
    return Kind(kind), name


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
