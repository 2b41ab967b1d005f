"""What one window has seen so far: names only, digests where they must be taken early.

A digest is taken early when the thing is about to be changed by the computation itself: the
computation depended on what was there before. What it created is no dependency.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

from pytest_taskcache.model.dependency import Kind, Opaque
from pytest_taskcache.observation.hooks.dispatcher import Write
from pytest_taskcache.observation.hooks.environ import EVERYTHING, same
from pytest_taskcache.observation.hooks.originals import originals

Digest = Callable[[Kind, str], str]
"""The present digest of an absolute path, or of a variable's name."""

SLACK = 10_000_000
"""Nanoseconds by which a file system's coarse clock may lag behind the system's."""


def is_newer(path: str, moment: int) -> bool:
    """Whether a path changed after a moment (POSIX nanoseconds), as its times tell.

    An absent path is not newer: nothing tells when it vanished.
    """
    try:
        status = originals.stat(path)
    except (OSError, ValueError):
        return False
    return max(status.st_mtime_ns, status.st_ctime_ns) > moment - SLACK


class AccessLog:
    """What a window is credited with, until it closes.

    Attributes:
        opened: when it began, POSIX nanoseconds.
        reads: kinds and absolute paths that were read, listed or looked at.
        early: digests taken before a change, by kind and path or variable name.
        variables: environment variables read, with the value found then; ``*`` for all.
        set_here: environment variables that were set or deleted.
        late: the whole environment was read after a part of it was changed here.
        tried: absolute module names whose import was begun.
        asked: absolute module names that `importlib.import_module` was asked for.
        modules: absolute paths of first-party modules imported or asked for.
        distributions: installed distributions whose metadata was looked up.
        opaque: acts as in `Observed`, in order of sight, with how often each was done; ``own``
            are those that the thread did which opened the window.
        moved: the working directory was changed here.
        untrusted: as in `Observed`, in order of sight.
        written, made: paths, and directories with all below, that were put there here.
        environment: the environment at the opening.
    """

    def __init__(self, opened: int, digest: Digest, environment: dict[bytes, bytes]) -> None:
        self.opened = opened
        self.reads: dict[tuple[Kind, str], None] = {}
        self.early: dict[tuple[Kind, str], str] = {}
        self.variables: dict[str, bytes | None] = {}
        self.set_here: dict[str, None] = {}
        self.late = False
        self.moved = False
        self.working_directory: str | None = None
        self.tried: dict[str, None] = {}
        self.asked: dict[str, None] = {}
        self.modules: dict[str, None] = {}
        self.distributions: dict[str, None] = {}
        self.opaque: dict[Opaque, int] = {}
        self.own: dict[Opaque, int] = {}
        self.untrusted: dict[str, None] = {}
        self.changed: dict[str, None] = {}
        self._digest = digest
        self._thread = threading.get_ident()
        self.environment = environment
        self.written: set[str] = set()
        self.made: set[str] = set()
        self._changed: set[str] = set()
        self._links: dict[str, str] = {}

    # ---------------------------------------------------------------------- opaque acts

    def act(self, opaque: Opaque) -> None:
        """Something that cannot be observed was done."""
        self.opaque[opaque] = self.opaque.get(opaque, 0) + 1
        if threading.get_ident() == self._thread:
            self.own[opaque] = self.own.get(opaque, 0) + 1

    def forgive(self, other: AccessLog) -> None:
        """Takes back acts that were credited here and to the other record, done by its thread."""
        for opaque, times in other.own.items():
            for counts in (self.opaque, self.own):
                left = counts.pop(opaque, 0) - times
                if left > 0:
                    counts[opaque] = left

    # -------------------------------------------------------------------------- paths

    def resolve(self, path: str) -> str:
        """The path itself, or what a link made here leads to."""
        if not self._links:
            return path
        for _ in range(8):
            for target, source in self._links.items():
                if path == target or path.startswith(target + os.sep):
                    path = source + path[len(target) :]
                    break
            else:
                return path
        return path

    def covers(self, path: str) -> bool:
        """Whether what is at a path was put there by this computation."""
        if path in self.written or path in self.made:
            return True
        return bool(self.made) and inside(path, self.made)

    def read(self, kind: Kind, path: str) -> None:
        """Something was read that this computation did not put there itself."""
        path = self.resolve(path)
        if (kind, path) not in self.reads and not self.covers(path):
            self.reads[kind, path] = None

    def has_touched(self, kind: Kind, path: str) -> bool:
        """Whether what is at a path is, in part at least, this computation's own doing."""
        return self.covers(path) or path in self._changed or (kind, path) in self.early

    def changed_here(self, path: str) -> bool:
        """Whether this computation changed the path, so that new times prove nothing."""
        return path in self._changed

    def keep(self, kind: Kind, path: str) -> None:
        """Takes the digest now, unless it was taken before."""
        key = (kind, path)
        if key in self.early:
            return
        if kind is not Kind.ENVIRONMENT and path not in self._changed:
            self.check(kind, path)
        self.early[key] = self._digest(kind, path)

    def check(self, kind: Kind, path: str) -> None:
        """Distrusts a path that was read here and changed since by someone else."""
        if (kind, path) in self.reads and is_newer(path, self.opened):
            self.untrusted[f"{path} changed while the computation ran"] = None

    def keep_read(self, path: str) -> None:
        """Keeps the digests of a path that was read and is about to change."""
        for kind in (Kind.FILE, Kind.STAT, Kind.LISTING):
            if (kind, path) in self.reads:
                self.keep(kind, path)

    def change(self, path: str, write: Write, exists: bool, listed: bool) -> None:
        """A path is about to change. ``listed``: its directory's listing may matter later."""
        path = self.resolve(path)
        self.changed[path] = None
        if self.covers(path):
            return
        self.keep_read(path)
        parent = os.path.dirname(path)
        if (
            (write is Write.REMOVE) == exists
            and write is not Write.ALTER
            and not self.covers(parent)
        ):
            self.keep_read(parent)
            if listed:
                self.keep(Kind.LISTING, parent)
            self._changed.add(parent)
        if write is Write.ALTER:
            self.keep(Kind.FILE, path)
            self.keep(Kind.STAT, path)
        elif write is Write.MAKE and not exists:
            self.made.add(path)
        elif write is Write.REMOVE or (exists and write in (Write.MAKE, Write.CREATE)):
            # It works, or fails, by what was there.
            self.reads[Kind.STAT, path] = None
            self.keep(Kind.STAT, path)
            if write is Write.REMOVE:
                self.written.add(path)
        else:
            self.written.add(path)
        self._changed.add(path)

    def restore(self, path: str, *, tree: bool) -> None:
        """The cache puts something there for this computation, which did not read it."""
        path = self.resolve(path)
        if not self.covers(path):
            (self.made if tree else self.written).add(path)

    def move(self, source: str, target: str, directory: bool, listed: bool) -> None:
        """A path is about to be renamed to another."""
        source, target = self.resolve(source), self.resolve(target)
        tree = source in self.made
        if not self.covers(source):
            if directory:
                self.untrusted[f"{source} was moved while the computation ran"] = None
            else:
                self.reads[Kind.FILE, source] = None
            self.keep(Kind.FILE, source)
        elif directory:
            tree = True
        self.change(source, Write.REMOVE, True, listed)
        self.change(target, Write.REPLACE, os.path.lexists(target), listed)
        if tree:
            self.made.add(target)

    def link(self, source: str, target: str, listed: bool) -> None:
        """``target`` is about to become a link: what is read through it is the source's."""
        self.change(target, Write.CREATE, os.path.lexists(target), listed)
        self.written.discard(target)
        self._links[target] = self.resolve(source)

    def database(self, path: str) -> None:
        """A database file is read, and perhaps written, from now on."""
        path = self.resolve(path)
        if not self.covers(path):
            self.reads[Kind.FILE, path] = None
            self.keep(Kind.FILE, path)
            self._changed.add(path)
            self._changed.add(os.path.dirname(path))

    @property
    def has_changed_something(self) -> bool:
        """Whether anything was put somewhere, changed or set here."""
        return bool(self.written or self.made or self.early or self.set_here)

    def inherits(self, kind: Kind, path: str) -> bool:
        """Whether what a reused value read counts here as well, with its digest as stored; what
        was put there or changed here counts as it was before, or not at all."""
        path = self.resolve(path)
        if self.covers(path):
            return False
        if (kind, path) in self.early:
            self.reads[kind, path] = None
            return False
        return True

    # ---------------------------------------------------------------------- environment

    def variable(self, name: str, present: bytes | None) -> None:
        """A variable was read; one that was set since the window opened is our own."""
        if name not in self.variables and self.is_outer(name, present):
            self.variables[name] = present

    def whole_environment(self, present: dict[bytes, bytes]) -> None:
        """All variables were read at once."""
        if not same(self.environment, present):
            self.late = True
        self.variables.setdefault(EVERYTHING)

    def is_outer(self, name: str, present: bytes | None) -> bool:
        """Whether a variable has the value that it had when the window opened."""
        return self.environment.get(os.fsencode(name)) == present

    def keep_variable(self, name: str) -> None:
        """A variable is about to change."""
        self.set_here[name] = None
        for each in (name, EVERYTHING):
            if each in self.variables:
                self.keep(Kind.ENVIRONMENT, each)


def inside(path: str, directories: set[str]) -> bool:
    """Whether one of the directories holds the path, at any depth."""
    parent = os.path.dirname(path)
    while parent != path:
        if parent in directories:
            return True
        path, parent = parent, os.path.dirname(parent)
    return False
