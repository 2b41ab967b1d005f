"""Sees what computations touch, and verifies what was seen.

What is touched is credited twice: to every window that is open, whichever thread did it, and to
the innermost function of the project that was running, in a window or outside of any. The first
makes a window's trace; the second, kept in the code log, is what whoever reaches that function
later inherits.
"""

from __future__ import annotations

import gc
import inspect
import os
import stat as stats
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.machinery import EXTENSION_SUFFIXES
from itertools import islice
from pathlib import Path
from types import (
    AsyncGeneratorType,
    CodeType,
    CoroutineType,
    FrameType,
    FunctionType,
    GeneratorType,
    ModuleType,
)
from typing import Any

from pytest_taskcache.code.asleep import namespace_of
from pytest_taskcache.code.definitions import IN_NO_FUNCTION, definition_name
from pytest_taskcache.code.distributions import normalized
from pytest_taskcache.model.dependency import (
    ABSENT,
    INTERPRETER,
    Blob,
    Change,
    Kind,
    Observed,
    Opaque,
    Trace,
)
from pytest_taskcache.observation.code_log import CodeLog, SourceFile, decode_code, file_of_subject
from pytest_taskcache.observation.doers import NOBODY, Doers
from pytest_taskcache.observation.global_state import Before, GlobalState
from pytest_taskcache.observation.hooks import environ, installed
from pytest_taskcache.observation.hooks.callers import (
    ActsFor,
    Aside,
    asked_by_machinery,
    is_collecting,
    origin_of,
)
from pytest_taskcache.observation.hooks.dispatcher import Write, muted
from pytest_taskcache.observation.hooks.environ import EVERYTHING, at_start
from pytest_taskcache.observation.hooks.file_hooks import is_file_of_interest
from pytest_taskcache.observation.hooks.import_hooks import imported_by, mentioned_by, source_of
from pytest_taskcache.observation.hooks.opaque import (
    CHILDREN,
    MULTIPROCESSING,
    NETWORK,
    describe,
    has_children,
)
from pytest_taskcache.observation.hooks.patches import Ambient, PatchedState, patches
from pytest_taskcache.observation.running_code import running_code
from pytest_taskcache.observation.scratch import BY_CODE, Scratch
from pytest_taskcache.observation.trace_recorder import UNNAMED, TraceRecorder
from pytest_taskcache.observation.verify import Verification
from pytest_taskcache.observation.window import PATHS, OpenWindow, note_thread
from pytest_taskcache.originals import originals, os_path
from pytest_taskcache.ports import Fingerprints, Shelf

_EXPOSED = "targets"
"""What users may read and edit in a cache's own directory: files that stand for values."""

_PYTHON = (".py", ".pyw")
_EXTENSIONS = tuple(EXTENSION_SUFFIXES)
_CODE_OF: dict[type, str] = {
    FunctionType: "__code__",
    GeneratorType: "gi_code",
    CoroutineType: "cr_code",
    AsyncGeneratorType: "ag_code",
}
_STANDARD_LIBRARY = sys.stdlib_module_names
_HERE = "."


class Observatory:
    """Sees what one project's computations touch, and verifies what was seen; a `Listener` while
    it is armed.

    ``scratch`` are the run's temporary trees (the system's
    directory for temporary files counts without being named), ``own`` the cache's own
    directories, which are nobody's dependency, ``notes`` those of the test runner, which gain and
    lose files with each run: what is in a file of them counts, but not which there are.
    """

    def __init__(
        self,
        fingerprints: Fingerprints,
        *,
        scratch: Sequence[Path] = (),
        own: Sequence[Path] = (),
        notes: Sequence[Path] = (),
    ) -> None:
        self._fingerprints = fingerprints
        self._own = tuple(os.path.join(os_path.abspath(path), "") for path in own)
        self._notes = frozenset(map(os_path.abspath, notes))
        self._exposed = tuple(os.path.join(path, _EXPOSED, "") for path in self._own)
        self._scratch = Scratch(Path(fingerprints.path_of(_HERE)), scratch)
        self._verification = Verification(fingerprints)
        self._windows: tuple[OpenWindow, ...] = ()
        self._aside = Aside()
        self._armed = False
        self._forked = False
        self._sources: dict[str, SourceFile | None] = {}
        self._ambient = Ambient()
        self._patched = PatchedState(lambda filename: self._find(filename) is not None)
        self._globals = GlobalState(self._patched, self._fingerprints.name_of)
        self._start()
        self.read_parts_by(lambda blob: None)

    def _start(self) -> None:
        self._began = originals.now()
        self._settled_path: tuple[str, ...] | None = None
        self._listed_path: tuple[str, ...] = ()
        self.read_early = set[str]()  # before the tests, by no code of the project: by plugins
        self._looked_for: dict[str, set[tuple[SourceFile, int]]] = {}
        self._log = CodeLog(self._find, self._digest_touched)
        self._doers = Doers(self._find, self._log, self._aside, self._verification.archive)
        self._recorder = TraceRecorder(
            self._fingerprints, self._find, self._scratch, self._verification, self._log
        )

    def arm(self) -> None:
        """Starts listening; to be called before the project's first module is imported."""
        if self._armed:
            return
        self._forked = False
        with muted():
            self._start()
            self._verification.begin()
            self._scratch.add_system_directory()
            self._verification.change_anything()
            self._armed = True
            installed.arm(self)
            self._take_stock()

    def _take_stock(self) -> None:
        """Enters the project's modules that were loaded before anyone looked, with all their
        functions: which of them ran is not known."""
        loaded = False
        for module in list(sys.modules.values()):
            filename = source_of(module)
            source = self._find(filename) if filename else None
            if source is None:
                continue
            loaded = True
            if source.python:
                self._log.add_loaded(source)
                self._log.add_import(None, source)
            elif source.path.endswith(_EXTENSIONS):  # a script that started us is none
                self.on_native(source.path, "native", None)
        if not loaded:
            return
        found: dict[str, list[CodeType]] = {}
        for one in gc.get_objects():
            # By its type alone: a lazy object acts as soon as it is asked for its class.
            attribute = _CODE_OF.get(type(one))
            if attribute is not None:
                code = getattr(one, attribute)
                found.setdefault(code.co_filename, []).append(code)
        for codes in found.values():
            if self._find(codes[0].co_filename) is not None:
                for code in codes:
                    running_code.watch(code)

    def disarm(self) -> None:
        """Stops listening. Windows still open close as untrusted."""
        if not self._armed:
            return
        self._armed = False
        for window in self._windows:
            window.complete = running_code.end(window.pieces)
            window.untrusted["observation ended before the computation"] = None
        installed.disarm(self)

    def add_scratch(self, directory: Path) -> None:
        """Counts one more directory as temporary, e.g. once the runner made it."""
        self._scratch.add(directory)

    def add_module(self, filename: str) -> None:
        """A module was handed to what runs now: it counts as if imported by name."""
        for window in self._windows:
            window.modules[filename] = None

    def open_window(self, subject: Callable[..., object] | None) -> OpenWindow:
        """Starts observing all threads; ``subject`` is the function about to run.

        The opener's own callers do not count: none of them runs before the window closes.
        """
        with muted():
            window = OpenWindow(
                originals.now(),
                file_of_subject(subject),
                self._digest_path,
                self._fingerprints.path_of,
                self._close,
                self._record,
            )
            if not self._armed:
                window.untrusted["nothing was observed (not armed)"] = None
                return window
            self._windows = (*self._windows, window)
            window.pieces = running_code.begin()
            here = threading.get_ident()
            for thread, running in sys._current_frames().items():
                frame: FrameType | None = running if thread != here else None
                while frame is not None:
                    window.running.append(frame.f_code)
                    frame = frame.f_back
            return window

    def muted(self) -> Aside:
        """What this thread reads and does inside is the cache's own work and credited to no
        window; imports and writes count as ever. Reentrant."""
        return self._aside

    @contextmanager
    def unseen(self) -> Iterator[None]:
        """As `muted`, for work that runs no code of the project: where calls are traced (on Python
        3.11), this thread's are not meanwhile."""
        with self._aside, running_code.unseen():
            yield

    def _close(self, window: OpenWindow) -> None:
        # In a forked child any lock of ours may be held for ever, by a thread that is not here.
        if self._forked or not any(one is window for one in self._windows):
            return
        with muted():
            if self._armed:
                window.complete = running_code.end(window.pieces)
            self._windows = tuple(one for one in self._windows if one is not window)

    def _record(self, window: OpenWindow) -> Observed:
        if self._forked:
            return Observed(untrusted=("nothing was observed (forked child)",))
        with muted(), running_code.unseen():
            return self._recorder.record(window)

    def patched(self, function: Callable[..., object], values: Iterable[object] = ()) -> str:
        """What is patched at the moment of what this function may reach, by itself or through
        those of its arguments that can be called, e.g. ``lib.K``; empty where nothing is."""
        if what := self._ambient.changed():
            return what
        if not patches.any:
            return ""
        with muted(), running_code.unseen():
            return self._patched.of(function, values)

    def reached(
        self, function: Callable[..., object], values: Iterable[object]
    ) -> tuple[str, dict[str, object]]:
        """As `patched`, and as `disturbed` for all code that this function may reach: what a
        computation is about to meet, when others have had their turn."""
        patch = self.patched(function, values)
        with muted(), running_code.unseen():
            code = inspect.unwrap(function).__code__
            name = f"{code.co_filename}:{code.co_firstlineno}:{code.co_qualname}"
            standing = self._globals.standing(name)
            if standing is not None:
                return patch, standing
            ran = self._reach
            return patch, self._globals.changed(name, lambda: ran(function), code)

    def _reach(self, function: Callable[..., object]) -> Iterator[tuple[str, str]]:
        for each in self._patched.reach(function):
            code = each.__code__
            yield self._fingerprints.name_of(code.co_filename), definition_name(code.co_qualname)

    def globals(self) -> Before:
        """What globals of the project hold, for a computation that is about to begin."""
        with muted(), running_code.unseen():
            return self._globals.present()

    def disturbed(
        self, trace: Trace, function: Callable[..., object], since: Before | None = None
    ) -> dict[str, object]:
        """The globals of the project that code of a function's trace reads, and that other code has
        changed since collection ended, by name, e.g. ``lib.K``, with what they hold now; always the
        same object while nothing changes. ``since`` is what `globals` told
        when a computation began that has just ended: what it put there itself is left out."""
        standing = self._globals.standing(trace.digest)
        if standing is not None:
            return standing
        with muted(), running_code.unseen():
            code = getattr(inspect.unwrap(function), "__code__", None)
            return self._globals.changed(trace.digest, lambda: self._ran(trace), code, since)

    def _ran(self, trace: Trace) -> Iterator[tuple[str, str]]:
        """The files and definitions of the code that a trace names."""
        for dependency in trace.dependencies:
            if dependency.kind is Kind.CODE:
                part = decode_code(dependency)
                if part.log == self._log.name:
                    nodes = [(self._log.files[file].name, name) for file, name in self._log.nodes]
                else:
                    nodes = self._verification.code.nodes(part.log)
                for positions in part.ran:
                    yield from nodes[positions.start : positions.stop]

    def renewed(self, trace: Trace) -> Trace:
        """A trace of this process that says the same, and shares more of its parts with others
        that are renewed at the same time."""
        with muted(), running_code.unseen():
            return self._recorder.renewed(trace)

    def part(self, digest: str) -> bytes | None:
        """The bytes of a shared part (`Trace.uses`) of a trace that was observed in this process;
        None for any other. Whoever writes a record writes these first."""
        return self._log.parts.get(digest)

    def read_parts_by(self, read: Callable[[Blob], bytes | None]) -> None:
        """Says how the shared parts of recorded traces are read that this process did not make."""

        def find(blob: Blob) -> bytes | None:
            own = self.part(blob.digest)
            return read(blob) if own is None else own

        self._verification.code.read = find

    def keep_on(self, shelf: Shelf) -> None:
        """Keeps sources on this shelf, so that a later session can tell what changed in them, and
        where to find all of a log at once."""
        self._verification.archive.keep_on(shelf)
        self._verification.code.shelf = shelf

    def sources(self) -> Mapping[str, str]:
        """The project's source files that the log knows, by the digests that they had then."""
        return self._log.digests

    def save(self) -> None:
        """Keeps the sources of what ran, and how far its log came. Never raises."""
        with muted(), running_code.unseen():
            self._verification.code.keep_head(self._log)
            for source in self._log.files:
                digest = self._log.digests[source.name]
                if self._verification.digest(Kind.FILE, source.name) == digest:
                    self._verification.archive.keep(source.name, digest)

    def verify(self, trace: Trace) -> tuple[Change, ...]:
        """The dependencies whose present digest differs (at most 8 are named); empty when the
        trace is valid. Memoized while nothing changes. Never raises."""
        if self._verification.is_known(trace):
            return ()
        with muted(), running_code.unseen():
            return self._verification.verify(trace)

    def meet(self, stood_in: Iterable[Trace]) -> bool:
        """The tests are known: the files of these valid traces are stood in for, all others are
        imported. True where records may be found invalid that were not before."""
        with muted(), running_code.unseen():
            code = self._verification.code
            files = {*code.imported(stood_in, seen=True), *(one.name for one in self._log.files)}
            return self._verification.meet(files)

    def outward(self, traces: Sequence[Trace], plugins: Iterable[Path]) -> list[bool]:
        """Of each of these valid traces, whether what was imported when it was recorded, and is not
        now, changes what others have: then it is to be imported before any test runs. The code of
        ``plugins`` ran then, and now, for other reasons."""
        with muted(), running_code.unseen():
            apart = {*map(self._fingerprints.name_of, plugins)}
            return self._verification.code.outward(traces, self._log.imported(), apart)

    def stand_in(self, traces: Iterable[Trace]) -> None:
        """Enters in the log what was imported when these valid traces were recorded, as if it were
        now: whoever changes it later will know what ran beside it."""
        with muted(), running_code.unseen():
            graph = self._verification.code.imported(traces)
            paths = {name: str(self._fingerprints.path_of(name)) for name in graph}
            sources = {name: self._find(path) for name, path in paths.items()}
            for name, source in sources.items():
                if source is not None and source.python:
                    self._log.add_body(source)
                    for each in map(sources.get, graph[name]):
                        if each is not None:
                            self._log.add_import(source, each)

    def prefetch(self, traces: Iterable[Trace]) -> None:
        """Digests what these traces name, once for all of them: they are about to be verified."""
        with muted(), running_code.unseen():
            self._verification.prefetch(traces)

    def _find(self, filename: str) -> SourceFile | None:
        """The project's file that a code object's file name stands for, or None."""
        try:
            return self._sources[filename]
        except KeyError:
            source = self._sources[filename] = self._look_for(filename)
            return source

    def _look_for(self, filename: str) -> SourceFile | None:
        if filename.startswith("<"):
            return None
        path = os_path.abspath(filename)
        if self._is_own(path) or not self._fingerprints.is_project_file(path):
            return None
        if self._scratch.holds(path) and self._is_new(path):
            return None  # what is made in a temporary directory is a matter of who made it
        return SourceFile(path, self._fingerprints.name_of(path), path.endswith(_PYTHON))

    def _is_new(self, path: str) -> bool:
        """Whether a file was made, or changed, since this process began to look: one that lay in
        a temporary directory before (a checkout beside the project's) is code like any other."""
        try:
            return originals.stat(path).st_ctime_ns >= self._began
        except OSError:
            return True

    def _digest_path(self, kind: Kind, name: str) -> str:
        with muted():
            if kind is Kind.ENVIRONMENT:
                return self._verification.digest(kind, name)
            return self._verification.digest(kind, self._fingerprints.name_of(name))

    def _digest_touched(self, kind: Kind, name: str) -> str:
        with muted():
            if kind is Kind.IMPORT and self._is_foreign(name):
                return ""  # counts by its distribution
            return self._verification.digest(kind, name)

    def _is_foreign(self, module: str) -> bool:
        """Whether a module is loaded, and not the project's."""
        loaded = sys.modules.get(module)
        if loaded is None:
            return False
        filename = source_of(loaded)
        if filename is None:
            return not getattr(loaded, "__path__", ())  # a namespace package may become a real one
        return self._find(filename) is None

    def _is_own(self, path: str) -> bool:
        if path.startswith(self._own):
            return not path.startswith(self._exposed)
        return path + os.sep in self._own

    def _is_newest(self, path: str) -> bool:
        """Whether this is pytest's link to the newest directory of tests of one name, which the
        test before of that name has set a moment ago. Nothing depends on it."""
        if not path.endswith("current"):
            return False
        directory, _, name = self._fingerprints.name_of(path).partition("/")
        return directory == "<tmp>" and "/" not in name

    def _is_export(self, path: str) -> bool:
        """Whether the cache itself writes, or moves, a file that users may edit."""
        return bool(self._aside.depth) and path.startswith(self._exposed)

    def _credited(self) -> tuple[OpenWindow, ...]:
        """The windows to credit, whichever thread it is; none for the cache's own work."""
        return () if self._aside.depth else self._windows

    def _touch(self, frame: FrameType | None, kind: Kind, where: str, name: str) -> None:
        owner = self._doers.owner(frame)
        if owner == NOBODY and self._settled_path is None and not self._aside.depth:
            owner = self._log.collector if is_collecting(frame) else NOBODY
        if owner != NOBODY:
            self._log.touch(owner, kind, where, name)
        elif self._settled_path is None and kind is Kind.FILE:
            self.read_early.add(where)
        for module in self._doers.loading(frame):
            self._log.touch_imported(module, kind, where, name)

    def on_read(self, kind: Kind, path: str, frame: FrameType | None) -> None:
        """A path is about to be read, listed or looked at."""
        if self._is_own(path) or (kind is not Kind.FILE and path in self._notes):
            return
        for window in self._credited():
            window.read(kind, path)
        if not self._scratch.holds(path) and not any(
            window.has_touched(kind, path) for window in self._windows
        ):
            self._touch(frame, kind, path, self._fingerprints.name_of(path))

    def on_working_directory(self, frame: FrameType | None) -> None:
        """A relative path is about to be used, or the working directory asked for."""
        for window in self._credited():
            window.use(Kind.WORKING_DIRECTORY, "the working directory")
        fresh = [one for one in self._credited() if not one.moved and one.working_directory is None]
        if fresh:
            digest = self._verification.digest(Kind.WORKING_DIRECTORY, _HERE)
            for window in fresh:
                window.working_directory = digest
        if not any(window.moved for window in self._windows):
            self._touch(frame, Kind.WORKING_DIRECTORY, _HERE, _HERE)

    def on_directory_change(self) -> None:
        """The working directory is about to change."""
        for window in self._credited():
            window.leave_directory()
        self._log.before_change(_HERE)
        self._verification.change_directory()

    def on_database(self, path: str, frame: FrameType | None) -> None:
        """A database file is about to be connected to."""
        if self._is_own(path) or asked_by_machinery(frame):
            return
        made = not os_path.lexists(path) or any(
            window.has_touched(Kind.FILE, path) for window in self._windows
        )
        if not made and not self._scratch.holds(path):
            self._touch(frame, Kind.FILE, path, self._fingerprints.name_of(path))
        self._before_change(path)
        try:
            for window in self._credited():
                window.database(path)
        finally:
            self._verification.change(path)
        self._verification.unsettle(path)

    def on_distributions(self, name: str, frame: FrameType | None) -> None:
        """An installed distribution's metadata is looked up; ``*`` for all."""
        if not asked_by_machinery(frame):
            for window in self._credited():
                window.distributions[name] = None
            kind = Kind.DISTRIBUTIONS if name == EVERYTHING else Kind.DISTRIBUTION
            self._touch(frame, kind, name, normalized(name))

    def on_variable(self, name: str, frame: FrameType | None) -> None:
        """An environment variable is about to be read."""
        value = environ.present(name)
        for window in self._credited():
            window.variable(name, value)
        if self._verification.start.get(os.fsencode(name)) == value:
            # What the process set itself is a matter of the code that did.
            self._touch(frame, Kind.ENVIRONMENT, name, at_start(name))

    def on_environment(self, frame: FrameType | None) -> None:
        """The whole environment is about to be read."""
        present = environ.snapshot()
        for window in self._credited():
            window.whole_environment(present)
        self._touch(frame, Kind.ENVIRONMENT, EVERYTHING, at_start(EVERYTHING))

    def on_change(self, path: str, write: Write) -> None:
        """A path is about to be changed."""
        if self._is_own(path) or self._is_newest(path):
            return
        if self._is_export(path):
            self._verification.change(path)
            return
        exists, leads_on = _look_at(path)
        scratch = self._before_change(path)
        if not scratch and write is not Write.ALTER and (write is Write.REMOVE) == exists:
            self._note_made(path, comes=not exists)
        try:
            for window in self._credited():
                window.change(path, write, exists, not scratch)
            if self._aside.depth and not exists:
                for window in self._windows:
                    window.restore(path, tree=write is Write.MAKE)
            if scratch:
                self._scratch.note_change(path, originals.now())
                if not self._windows:
                    self._note_maker(path, is_new=not exists and write is not Write.ALTER)
        finally:
            self._verification.change(path, tree=write is Write.REMOVE and leads_on)
        if write in (Write.REPLACE, Write.ALTER, Write.CREATE):
            self._verification.unsettle(path)

    def _before_change(self, path: str) -> bool:
        """Digests what was touched there while it is as it was; whether the path is scratch."""
        self._log.before_change(path)
        self._log.before_change(os.path.dirname(path))
        return self._scratch.holds(path)

    def _note_made(self, path: str, *, comes: bool) -> None:
        """Notes who brings about that something comes, or goes, in the project's tree."""
        if self._aside.depth or self._scratch.holds(path):
            return
        makers = self._doers.makers(originals.getframe(1))
        name, above = map(self._fingerprints.name_of, (path, os.path.dirname(path)))
        with muted():
            self._log.make(Kind.LISTING, above, makers, self._fingerprints.digest)
        for kind in PATHS:
            self._log.make(kind, name, makers, lambda *_: ABSENT if comes else "")

    def _note_maker(self, path: str, *, is_new: bool) -> None:
        """Notes who makes, or changes, a temporary path while nothing is watched."""
        before_tests = self._settled_path is None
        maker, makers = self._doers.maker(originals.getframe(1), before_tests=before_tests)
        if maker == BY_CODE or is_new:
            self._scratch.own_unwatched(path, maker, makers)

    def on_move(self, source: str, target: str) -> None:
        """A path is about to be renamed."""
        if self._is_own(source) and self._is_own(target):
            return
        if self._is_export(target):
            self._verification.change(target)
            return
        directory = os_path.isdir(source)
        self._before_change(source)
        scratch = self._before_change(target)
        self._note_made(source, comes=False)
        if not os_path.lexists(target):
            self._note_made(target, comes=True)
        try:
            for window in self._credited():
                window.move(source, target, directory, not scratch)
        finally:
            self._verification.change(source, tree=directory)
            self._verification.change(target, tree=directory)
        if self._aside.depth:
            for window in self._windows:
                window.restore(target, tree=directory)
        if scratch and not self._windows:
            self._note_maker(target, is_new=True)

    def on_link(self, source: str, target: str) -> None:
        """``target`` is about to become a link to ``source``."""
        if self._is_newest(target):
            return
        scratch = self._before_change(target)
        self._note_made(target, comes=True)
        try:
            for window in self._credited():
                window.link(source, target, not scratch)
        finally:
            self._verification.change(target, tree=True)

    def on_variable_change(self, name: str, frame: FrameType | None) -> None:
        """An environment variable is about to be set or deleted: for the whole session, where it is
        another plugin that does."""
        for window in self._windows:
            window.keep_variable(name)
        self._verification.change_variable(name)
        if self._windows or self._settled_path is not None or asked_by_machinery(frame):
            return
        if next(self._doers.sources(frame), None) is None:
            self._verification.give_variable(name)

    def on_own_write(self, path: str | None = None) -> None:
        """The cache, or someone unseen, changed this path, or any: earlier digests may be wrong."""
        if path is None:
            self._log.lose_sight()
            self._verification.change_anything()
        elif not self._is_own(path):
            self._verification.change(path)

    def on_opaque(self, kind: str, detail: str, frame: FrameType | None) -> None:
        """Something whose effects cannot be observed is about to be done."""
        for window in self._windows:
            window.lose_sight()
        self._log.lose_sight()
        self._verification.change_anything()
        if kind in CHILDREN:
            self._verification.change_by_child()
        if asked_by_machinery(frame):
            return
        opaque = Opaque(kind, detail)
        credited = self._credited()
        for window in credited:
            window.act(opaque)
        self._hand_on(opaque, frame, watched=bool(credited))

    def on_fault(self, what: str, frame: FrameType | None) -> None:
        """A hook could not make out what was done: nothing that is open now is known to the full,
        and a function may have kept what came of it."""
        for window in self._windows:  # all, before anything else that might fail
            window.untrusted[f"the cache could not observe {what}"] = None
        for window in self._windows:
            window.lose_sight()
        self._log.lose_sight()
        self._verification.change_anything()
        self._hand_on(Opaque("unobserved", what), frame, watched=bool(self._windows))

    def on_talk(self, frame: FrameType | None) -> None:
        """Something goes through a connection of `multiprocessing`: while a child lives, to it or
        from it, for all we know."""
        known = (Opaque(MULTIPROCESSING) in window.opaque for window in self._credited())
        if not all(known) and has_children():
            self.on_opaque(MULTIPROCESSING, "", frame)

    def _hand_on(self, opaque: Opaque, frame: FrameType | None, *, watched: bool) -> None:
        """Credits an act to the code that did it, for whoever uses that code later."""
        owner = self._doers.owner(frame)
        # What an import did is everyone's who imports it, whoever is being watched meanwhile; what
        # came of a deed may be kept by any function on the way that can.
        if owner != NOBODY and (not watched or self._log.nodes[owner][1] in IN_NO_FUNCTION):
            self._log.act(owner, opaque)
        for keeper in self._doers.keepers(frame) if watched else ():
            self._log.keep_act(keeper, opaque)

    def on_native(self, path: str, kind: str, frame: FrameType | None) -> None:
        """A shared library of the project is about to be loaded."""
        if not self._fingerprints.is_project_file(path):
            return
        opaque = Opaque(kind, self._fingerprints.name_of(path))
        for window in self._credited() if not asked_by_machinery(frame) else ():
            window.act(opaque)
            window.reads[Kind.FILE, path] = True
        if kind == "native":
            self._recorder.natives[opaque.detail] = opaque, path

    def on_bind(self, sock: Any) -> None:
        """A socket is about to be bound."""
        for window in self._windows:
            window.listeners.add(sock)

    def on_connect(self, sock: Any, address: object, frame: FrameType | None) -> None:
        """A socket is about to connect or send to an address."""
        if self._aside.depth or asked_by_machinery(frame):
            return
        foreign = [each for each in self._windows if not each.listeners.include(address)]
        if foreign:
            opaque = Opaque(NETWORK, describe(address))
            for window in foreign:
                window.act(opaque)
            self._hand_on(opaque, frame, watched=True)

    def on_thread(self, thread: threading.Thread, frame: FrameType | None) -> None:
        """A thread is about to be started."""
        note_thread(thread)
        self.on_sent(thread, frame)

    def on_sent(self, work: object, frame: FrameType | None) -> None:
        """A thread, or an item of work for one, is about to be sent off."""
        self._doers.send(work, frame)

    def on_code(self, code: CodeType) -> None:
        """Code is about to be executed or made into a function."""
        if self._find(code.co_filename) is not None:
            running_code.watch(code)

    def on_execution(self, code: CodeType, frame: FrameType | None) -> None:
        """A module's body is about to be executed."""
        source = self._find(code.co_filename)
        if source is None or not source.python:
            return
        self._globals.note_module()
        self._log.read_runs()
        importer = next(self._doers.sources(frame), None)
        if importer is not None or not asked_by_machinery(frame):
            self._log.add_import(importer, source)
        names = _names_of_import(frame)
        if importer is not None and names and self._is_librarys_own(names[-1], frame):
            self._log.add_import(None, source)  # a lazy object keeps settings, for whoever comes
        body = self._log.position(code)
        self._look_at_path()
        # Who looked for it may have left it to another to load (`importlib.util.LazyLoader`).
        for importing, owner in self._looked_for.pop(names[-1], ()) if names else ():
            self._give(source, importing, owner, _names_got(names[-1]))
        if importer is not None:
            for name in names:
                self._log.touch(body, Kind.IMPORT, name, name)
            added = {place for name in names[:-1] for place in _added_places(name)}
            if self._settled_path not in (None, tuple(sys.path)):
                # Another process finds it only once the same code has changed the path there.
                for each in set(self._doers.sources(frame)):
                    self._log.touch(body, Kind.FILE, each.path, each.name)
                added.update(map(os_path.abspath, {*sys.path}.difference(self._settled_path or ())))
            self._look_in(added, frame, body)
        for window in self._windows:
            window.modules[source.path] = None

    def _look_at_path(self) -> None:
        """A file that hides a module of the standard library is a matter of all: who imports it is
        not asked, and libraries do, too."""
        path = tuple(sys.path)
        if path != self._listed_path:
            self._listed_path = path
            for name in self._fingerprints.hiding(path):
                self._log.touch(self._log.collector, Kind.IMPORT, name, name)

    def note_start(self, *, calls: bool = True) -> None:
        """Says that ``sys.path``, the locale, the decimal context and the project's globals are
        now as a later process has them when it verifies. A module that is found only because
        somebody changes the path from here on rests on who did, too; while the locale or the
        context are changed, all counts as patched. ``calls``: functions or fixtures are cached,
        for which globals are held."""
        self._ambient.keep()
        self._log.begin()
        if calls:
            with muted(), running_code.unseen():
                self._globals.keep()
                for name in INTERPRETER:
                    self._verification.digest(Kind.INTERPRETER, name)
        self._settled_path = tuple(sys.path)
        self._verification.archive.forget()

    def set_up(self) -> int:
        """The position of the log at which something is about to be set up."""
        with self.unseen():
            self._log.read_runs()
            return len(self._log.nodes)

    def tear_down(self, position: int | None) -> None:
        """What was set up at a position is about to be torn down; None: it was."""
        with self.unseen():
            self._log.tear_down(position)

    def begin_late(self, digest: Callable[[object], str]) -> None:
        """Says that the project was loaded before anything could be observed: what its globals
        hold, nobody knows why, counts by its ``digest`` for code that reads it."""
        with muted(), running_code.unseen():
            self._globals.keep(digest)

    def _look_in(self, places: Iterable[str], frame: FrameType | None, body: int = NOBODY) -> None:
        """An import looks in these places too, which another process does only once the same code
        has run there: what would hide the module, or be found, counts here."""
        for place in places:
            if is_file_of_interest(os.path.join(place, "")):
                kind = Kind.LISTING if os_path.isdir(place) else Kind.FILE  # an archive, or nothing
                self.on_read(kind, place, frame)
                if body != NOBODY and not self._scratch.holds(place):
                    self._log.touch(body, kind, place, self._fingerprints.name_of(place))

    def on_import_tried(self, name: str, frame: FrameType | None) -> None:
        """An import that is not in ``sys.modules`` was begun."""
        if asked_by_machinery(frame):
            return
        self._look_in(_added_places(name.rpartition(".")[0]), frame)
        for window in self._credited():
            window.tried[name] = None
        if name.rpartition(".")[2] not in UNNAMED:
            self._touch(frame, Kind.IMPORT, name, name)
            for importer in islice(self._doers.sources(frame), 1):
                self._looked_for.setdefault(name, set()).add((importer, NOBODY))

    def on_import_asked(
        self, name: str, module: ModuleType | None, frame: FrameType | None, wanted: str = ""
    ) -> None:
        """``importlib.import_module`` returned this module, or failed; ``wanted`` is what alone is
        taken from it, "" where all may be."""
        top = name.partition(".")[0]
        if top in _STANDARD_LIBRARY or asked_by_machinery(frame):
            return
        filename = source_of(module)
        source = self._find(filename) if filename else None
        for window in self._credited():
            if module is None or source is not None:
                window.asked[name] = None
                if source is not None:
                    window.modules[source.path] = None
            else:
                for distribution in self._fingerprints.owners(top):
                    window.distributions[distribution] = None
        importer = self._lazy(name, frame) or next(self._doers.sources(frame), None)
        if importer is None:
            return
        owner = self._doers.owner(frame)
        if owner != NOBODY and self._log.nodes[owner][1].endswith("__getattr__"):
            owner = NOBODY  # is asked for a name that its user's source tells
        if module is None:
            self._looked_for.setdefault(name, set()).add((importer, owner))
        elif source is not None and source.python:
            self._give(source, importer, owner, _names_got(name, wanted))

    def _lazy(self, name: str, frame: FrameType | None) -> SourceFile | None:
        """The package around a module for which a library's function asks as the package's
        ``__getattr__`` (lazy_loader): it may keep what it hands out, for whoever asks next."""
        package = sys.modules.get(name.rpartition(".")[0])
        asking = getattr(namespace_of(package).get("__getattr__"), "__code__", None)
        filename = source_of(package) if frame is not None and asking is frame.f_code else None
        return self._find(filename) if filename else None

    def _is_librarys_own(self, name: str, frame: FrameType | None) -> bool:
        """Whether it is a library that imports this module, whoever called it. A loader of a
        library's (`beartype`, `typeguard`) acts for who imports."""
        while frame is not None:
            code = frame.f_code
            if origin_of(code.co_filename) is not ActsFor.LIBRARY and code.co_name != "exec_module":
                break
            frame = frame.f_back
        if frame is None or origin_of(frame.f_code.co_filename) is not ActsFor.OUTSIDE:
            return False
        return self._find(frame.f_code.co_filename) is None and self._lazy(name, frame) is None

    def _give(
        self, source: SourceFile, importer: SourceFile, owner: int, names: Iterable[str]
    ) -> None:
        """A module goes to a file that imports it, or to a node that gets at these names in it."""
        self._log.add_import(importer, source)
        if owner != NOBODY:
            self._log.mention(owner, names)

    def on_unnamed_code(self, code: CodeType, frame: FrameType | None) -> None:
        """Code of no Python file, or of a temporary one, is about to be executed: the modules that
        it imports count, loaded or not, and what it mentions, where the project executes it. Its
        own text was made by what ran."""
        filename = code.co_filename
        source = self._find(filename)
        if source is not None and source.python:
            return
        ours = frame is not None and self._find(frame.f_code.co_filename) is not None
        if ours or filename.startswith("<") or self._scratch.holds(os_path.abspath(filename)):
            for name in imported_by(code):
                self.on_import_asked(name, sys.modules.get(name), frame)
            owner = self._doers.owner(frame) if ours else NOBODY
            if owner != NOBODY:
                self._log.mention(owner, mentioned_by(code))

    def on_fork(self) -> None:
        """This is a forked child; nothing is observed here any more."""
        self._armed = False
        self._windows = ()
        self._forked = True


def _names_got(module: str, wanted: str = "") -> list[str]:
    """What is mentioned by who gets a module by its name, or this of it, a module of it as well."""
    if not wanted:
        return ["=" + module.rpartition(".")[2]]
    return [sign + part for part in wanted.split(".") for sign in ("", "=")]


def _look_at(path: str) -> tuple[bool, bool]:
    """Whether there is anything at a path, and whether it leads on, as a directory or a link."""
    try:
        found = originals.lstat(path)
    except (OSError, ValueError):
        return False, False
    return True, not stats.S_ISREG(found.st_mode)


def _added_places(package: str) -> list[str]:
    """Where a loaded package looks for its submodules besides its own directory: its ``__path__``
    is anyone's to change."""
    module = sys.modules.get(package)
    filename = source_of(module)
    if filename is None:
        return []  # a namespace package, whose directories are found anew
    own = os.path.dirname(filename)
    places = (each for each in namespace_of(module).get("__path__", ()) if isinstance(each, str))
    return [place for place in map(os_path.abspath, places) if place != own]


def _names_of_import(frame: FrameType | None) -> list[str]:
    """The module whose body is about to run, and the packages around it, given the frame of
    whoever runs it: an importer's."""
    module = frame.f_locals.get("module") if frame is not None else None
    name = getattr(module, "__name__", None)
    if name is None and frame is not None:
        space = next((each for each in frame.f_locals.get("args", ()) if type(each) is dict), {})
        name = space.get("__name__")
    if not isinstance(name, str) or name.rpartition(".")[2] in UNNAMED:
        return []
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts) + 1)]
