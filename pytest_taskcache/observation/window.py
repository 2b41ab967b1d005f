"""One open observation of one computation: names only, digests where they must be taken early.

A digest is taken early when the thing is about to be changed by the computation itself: the
computation depended on what was there before. What it created is no dependency.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Collection, Sequence
from contextvars import ContextVar
from types import CodeType
from weakref import WeakKeyDictionary

from pytest_taskcache.changed_paths import is_inside
from pytest_taskcache.model.dependency import Blob, Dependency, Kind, Observed, Opaque, Trace
from pytest_taskcache.observation.hooks import environ
from pytest_taskcache.observation.hooks.dispatcher import Write
from pytest_taskcache.observation.hooks.environ import EVERYTHING
from pytest_taskcache.observation.hooks.opaque import Listeners
from pytest_taskcache.observation.running_code import Piece
from pytest_taskcache.originals import originals, os_path

SLACK = 10_000_000
"""Nanoseconds by which a file system's coarse clock may lag behind the system's."""

_at_work: ContextVar[frozenset[OpenWindow]] = ContextVar(
    "pytest_taskcache_at_work", default=frozenset()
)
"""The windows whose computations are what runs in this thread or task."""

_started_in: WeakKeyDictionary[threading.Thread, frozenset[OpenWindow]] = WeakKeyDictionary()
"""By threads that they started, the same."""

PATHS = (Kind.FILE, Kind.STAT, Kind.LISTING)
"""The kinds whose names are paths."""


def _at_work_here() -> frozenset[OpenWindow]:
    found = _at_work.get()
    if _started_in and not found:  # a pool's thread may do now what another task asked for
        found = _started_in.get(threading.current_thread(), found)
    return found


def note_thread(thread: threading.Thread) -> None:
    """A thread is about to be started by whoever is at work here."""
    if windows := _at_work_here():
        _started_in[thread] = windows


def is_newer(path: str, moment: int) -> bool:
    """Whether a path changed after a moment (POSIX nanoseconds), as its times tell.

    An absent path is not newer: nothing tells when it vanished.
    """
    try:
        status = originals.stat(path)
    except (OSError, ValueError):
        return False
    return max(status.st_mtime_ns, status.st_ctime_ns) > moment - SLACK


def changed(name: str) -> str:
    """The reason not to trust a trace in which this is named."""
    return f"{name} changed while the computation ran"


class OpenWindow:
    """Collects what one computation touches until it is closed.

    ``opened`` is when it began, POSIX nanoseconds; ``subject`` the file of what is about to run;
    ``digest`` gives the present digest of an absolute path, or of a variable's name; ``path_of``
    the path that a name in a trace stands for; ``end`` stops the collecting, ``record`` says what
    was seen. What is collected:

    ``pieces``, ``running``: code that ran, and that other threads ran when it was opened.
    ``complete``, once it is closed: no code ran unseen; else all functions of the modules count.
    ``reads``: kinds and absolute paths that were read, listed or looked at. ``early``: digests
    taken before a change, by kind and path or variable. ``variables``: those read, with the value
    found then, ``*`` for all; ``set_here``: those set or deleted; ``environment``: all as they
    were at the opening; ``late``: all were read after a part was changed here. ``tried``,
    ``asked``: modules whose import was begun, or that `importlib.import_module` was asked for.
    ``modules``: files of modules imported or asked for. ``distributions``: those whose metadata
    was looked up. ``opaque``: acts as in `Observed`, with how often each was done. ``moved``: the
    working directory was changed here. ``written``, ``made``: paths, and directories with all
    below, that were put there here; ``left``: what was read of those that it did not write anew
    each time. ``changed``: paths that were changed in any way. ``inherited``: the traces of
    what was set up before and may be something else next time; ``counts`` tells of a path whether
    an input tells what lies there.

    Where it was told who is at work (`enter`), ``others`` is what somebody else changed: a task or
    thread that the computation did not start, a generator's consumer. What the computation then
    reads of that, nothing says what it will be when the value is asked for, so the trace is not
    trusted. ``reads`` tells whether it was the computation that read.
    """

    def __init__(
        self,
        opened: int,
        subject: str | None,
        digest: Callable[[Kind, str], str],
        path_of: Callable[[str], object],
        end: Callable[[OpenWindow], None],
        record: Callable[[OpenWindow], Observed],
    ) -> None:
        self.opened = opened
        self.subject = subject
        self.complete = False
        self.pieces: list[Piece] = []
        self.running: list[CodeType] = []
        self.reads: dict[tuple[Kind, str], bool] = {}
        self.early: dict[tuple[Kind, str], str] = {}
        self.environment = environ.snapshot()
        self.variables: dict[str, bytes | None] = {}
        self.set_here: dict[str, None] = {}
        self.late = self.moved = False
        self.working_directory: str | None = None
        self.tried: dict[str, None] = {}
        self.asked: dict[str, None] = {}
        self.modules: dict[str, None] = {}
        self.distributions: dict[str, None] = {}
        self.opaque: dict[Opaque, int] = {}
        self.listeners = Listeners()
        self.untrusted: dict[str, None] = {}
        self.changed: dict[str, None] = {}
        self.inherited: set[str] = set()
        self.counts: Callable[[str], bool] = lambda path: False
        self.written: set[str] = set()
        self.made: set[str] = set()
        self.left: dict[tuple[Kind, str], None] = {}
        self.others: dict[tuple[Kind, str], None] = {}
        self.absorbed: dict[str, Sequence[Dependency]] = {}
        self.uses: dict[Blob, None] = {}
        self._digest = digest
        self._path_of = path_of
        self._end = end
        self._record = record
        self._observed: Observed | None = None
        self._thread = threading.get_ident()
        self._entered = False
        self._moved_by_others: set[str] = set()
        self._own_acts: dict[Opaque, int] = {}
        self._touched: set[str] = set()
        self._links: dict[str, str] = {}

    def close(self) -> Observed:
        """Ends the window; what it saw. Never raises; asked again, gives the same."""
        if self._observed is None:
            try:
                self._end(self)
                self._observed = self._record(self)
            except Exception as error:
                # The computation is done and its value is right: only its trace is lost, and
                # with it the right to be stored.
                reason = f"observation failed: {type(error).__name__}: {error}"
                self._observed = Observed(untrusted=(reason,))
        return self._observed

    def discard(self) -> None:
        """Ends the window instead, where nobody asks what it saw. Never raises."""
        if self._observed is None:
            self._observed = Observed(untrusted=("nobody asked what it saw",))
            self._end(self)

    def body_of(self, path: str) -> CodeType | None:
        """The body of a module of this file, if it ran in this window."""
        codes = (code for piece in self.pieces for code in list(piece.values()))
        bodies = (code for code in codes if code.co_name == "<module>")
        return next((code for code in bodies if code.co_filename == path), None)

    def enter(self) -> None:
        """What this thread, or task, does until `leave` is the computation's doing, as is what
        tasks and threads do that it starts; what is done elsewhere, or after that, is not."""
        self._entered = True
        self._thread = threading.get_ident()
        _at_work.set(_at_work_here() | {self})

    def leave(self) -> None:
        """Others have their turn."""
        _at_work.set(_at_work.get() - {self})

    def is_at_work(self) -> bool:
        """Whether what is done here and now is the computation's doing; where nobody told, all
        is."""
        return not self._entered or self in _at_work_here()

    def _change_by_others(self, kind: Kind, name: str) -> None:
        self.others[kind, name] = None
        if kind in (Kind.FILE, Kind.LISTING) and self.reads.get((kind, name)):
            self.doubt(name)  # it may be reading still

    def use(self, kind: Kind, name: str) -> None:
        """Something is used; what others changed, by the computation or, for all we know, on its
        behalf: by a thread that works for it."""
        if not self.others:
            return
        if (kind, name) in self.others or is_inside(name, self._moved_by_others):
            elsewhere = threading.get_ident() != self._thread and not _at_work_here()
            if elsewhere or self.is_at_work():
                self.doubt(name)

    def doubt(self, name: str) -> None:
        """Others changed this, and the computation may have met it."""
        remedy = "have that done before the call, or by the function itself"
        self.untrusted[f"{name} was changed by others while it was computed: {remedy}"] = None

    def act(self, opaque: Opaque) -> None:
        """Something that cannot be observed was done."""
        self.opaque[opaque] = self.opaque.get(opaque, 0) + 1
        if threading.get_ident() == self._thread:
            self._own_acts[opaque] = self._own_acts.get(opaque, 0) + 1

    def acts(self) -> Collection[Opaque]:
        """What cannot be observed and was done in it until now. What its code rests on besides,
        such as children that an import ran, is known when it is closed."""
        return tuple(self.opaque)

    def opaque_so_far(self) -> int:
        """How many deeds that cannot be observed were done in it until now, forgiven ones not
        counted."""
        return sum(self.opaque.values())

    def forgive(self, other: OpenWindow) -> None:
        """Takes back the opaque deeds that ``other``, which was opened later and is closed, was
        credited with as well: the author of the value it was opened for answers for them. What
        other threads did meanwhile is not taken back."""
        for opaque, times in other._own_acts.items():
            for counts in (self.opaque, self._own_acts):
                left = counts.pop(opaque, 0) - times
                if left > 0:
                    counts[opaque] = left

    def absorb(self, trace: Trace) -> None:
        """Adds what a reused value rests on, with the digests as stored.

        Left out is what this computation brought about itself: files that it wrote, variables
        that it set.
        """
        if trace.digest in self.absorbed:
            return
        self.uses.update(dict.fromkeys(trace.uses))
        found: Sequence[Dependency] = trace.dependencies
        if self.written or self.made or self.early or self.set_here:
            found = [one for one in found if not self._owes_to_itself(one)]
        self.absorbed[trace.digest] = found

    def _owes_to_itself(self, dependency: Dependency) -> bool:
        kind, name, _ = dependency
        if kind is Kind.ENVIRONMENT:
            present = environ.present(name)
            if self.is_outer(name, present):
                return False
            self.use(kind, name)
            return name in self.set_here
        if kind not in PATHS:
            return False
        path = self._resolve(str(self._path_of(name)))
        self.use(kind, path)
        if self.covers(path):
            return True
        if (kind, path) in self.early:
            self.reads[kind, path] = True  # counts as it was before it was changed here
            return True
        return False

    def covers(self, path: str) -> bool:
        """Whether what is at a path was put there by this computation."""
        if path in self.written or path in self.made:
            return True
        return bool(self.made) and is_inside(path, self.made)

    def has_touched(self, kind: Kind, path: str) -> bool:
        """Whether what is at a path is, in part at least, this computation's own doing."""
        return self.covers(path) or path in self._touched or (kind, path) in self.early

    def changed_here(self, path: str) -> bool:
        """Whether this computation changed the path, so that new times prove nothing."""
        return path in self._touched

    def read(self, kind: Kind, path: str) -> None:
        """Something was read that this computation did not put there itself."""
        self.use(kind, path)
        if self._links:
            path = self._resolve(path)
            self.use(kind, path)
        self._note_read(kind, path)

    def _note_read(self, kind: Kind, path: str) -> None:
        if not self.reads.get((kind, path)) and path not in self.written:
            if self.covers(path):
                self.left[kind, path] = None
            else:
                self.reads[kind, path] = self.is_at_work()

    def change(self, path: str, write: Write, exists: bool, listed: bool) -> None:
        """A path is about to change. ``listed``: its directory's listing may matter later."""
        path = self._resolve(path)
        self.changed[path] = None
        parent = os.path.dirname(path)
        comes_or_goes = write is not Write.ALTER and (write is Write.REMOVE) == exists
        if not self.is_at_work():
            for kind in PATHS:
                self._change_by_others(kind, path)
            if comes_or_goes:
                self._change_by_others(Kind.LISTING, parent)
        elif write is Write.MAKE:
            self.others.pop((Kind.STAT, path), None)  # it is there now, whoever made it
        if self.covers(path):
            if write is Write.REPLACE and (Kind.FILE, path) not in self.left:
                self.written.add(path)
            return
        self._keep_read(path)
        if comes_or_goes and not self.covers(parent):
            self._keep_read(parent)
            if listed:
                self._keep(Kind.LISTING, parent)
            self._touched.add(parent)
        if write is Write.ALTER:
            self._keep(Kind.FILE, path)
            self._keep(Kind.STAT, path)
        elif write in (Write.MAKE, Write.CREATE) and not exists:
            self.made.add(path)
        elif write is not Write.REPLACE:
            # It works, or fails, by what was there.
            self.reads[Kind.STAT, path] = True
            self._keep(Kind.STAT, path)
            if write is Write.REMOVE:
                self.written.add(path)
        else:
            self.written.add(path)
        self._touched.add(path)

    def restore(self, path: str, *, tree: bool) -> None:
        """The cache puts something there for this computation, which did not read it."""
        path = self._resolve(path)
        if not self.covers(path):
            (self.made if tree else self.written).add(path)

    def move(self, source: str, target: str, directory: bool, listed: bool) -> None:
        """A path is about to be renamed to another."""
        source, target = self._resolve(source), self._resolve(target)
        tree = source in self.made
        if directory and not self.is_at_work():
            self._moved_by_others.update((source, target))
        if self.covers(source):
            tree = tree or directory
        else:
            if directory:
                self.untrusted[f"{source} was moved while the computation ran"] = None
            else:
                self._note_read(Kind.FILE, source)
            self._keep(Kind.FILE, source)
        self.change(source, Write.REMOVE, True, listed)
        self.change(target, Write.REPLACE, os_path.lexists(target), listed)
        if tree:
            self.made.add(target)

    def link(self, source: str, target: str, listed: bool) -> None:
        """``target`` is about to become a link: what is read through it is the source's."""
        self.change(target, Write.CREATE, os_path.lexists(target), listed)
        self.written.discard(target)
        self.made.discard(target)
        if not self.is_at_work():
            self._moved_by_others.add(target)
        self._links[target] = self._resolve(source)

    def database(self, path: str) -> None:
        """A database file is read, and perhaps written, from now on."""
        path = self._resolve(path)
        if self.is_at_work():
            self.use(Kind.FILE, path)
        else:
            self._change_by_others(Kind.FILE, path)
        if not self.covers(path):
            self._note_read(Kind.FILE, path)
            self._keep(Kind.FILE, path)
            self._touched.update((path, os.path.dirname(path)))

    def _resolve(self, path: str) -> str:
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

    def _keep(self, kind: Kind, path: str) -> None:
        """Takes the digest now, unless it was taken before."""
        key = (kind, path)
        if key in self.early:
            return
        if key in self.reads and path not in self._touched and is_newer(path, self.opened):
            self.untrusted[changed(path)] = None  # by someone else
        self.early[key] = self._digest(kind, path)

    def _keep_read(self, path: str) -> None:
        """Keeps the digests of a path that was read and is about to change."""
        for kind in PATHS:
            if (kind, path) in self.reads:
                self._keep(kind, path)

    def lose_sight(self) -> None:
        """Anything may change from here on with nobody to be seen who does it."""
        for kind, path in list(self.reads):
            self._keep(kind, path)

    def variable(self, name: str, present: bytes | None) -> None:
        """A variable was read; one that was set since the window opened is our own."""
        if not self.is_outer(name, present):
            self.use(Kind.ENVIRONMENT, name)
        elif name not in self.variables:
            self.variables[name] = present

    def whole_environment(self, present: dict[bytes, bytes]) -> None:
        """All variables were read at once."""
        if not environ.same(self.environment, present):
            self.late = True
            self.use(Kind.ENVIRONMENT, EVERYTHING)
        self.variables.setdefault(EVERYTHING)

    def is_outer(self, name: str, present: bytes | None) -> bool:
        """Whether a variable has the value that it had when the window opened."""
        return self.environment.get(os.fsencode(name)) == present

    def keep_variable(self, name: str) -> None:
        """A variable is about to change."""
        self.set_here[name] = None
        for each in (name, EVERYTHING):
            if not self.is_at_work():
                self._change_by_others(Kind.ENVIRONMENT, each)
            if each in self.variables:
                self._keep(Kind.ENVIRONMENT, each)

    def leave_directory(self) -> None:
        """The working directory is about to change."""
        self.moved = True
        if not self.is_at_work():
            self._change_by_others(Kind.WORKING_DIRECTORY, "the working directory")
