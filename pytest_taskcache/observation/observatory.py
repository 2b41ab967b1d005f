"""Sees what computations touch, and verifies what was seen."""

from __future__ import annotations

import gc
import os
import sys
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from types import CodeType, CoroutineType, FrameType, FunctionType, GeneratorType, ModuleType
from typing import TYPE_CHECKING, Any

from pytest_taskcache.model.dependency import Change, Kind, Observed, Opaque, Trace
from pytest_taskcache.observation import environ, instruments
from pytest_taskcache.observation.aside import Aside
from pytest_taskcache.observation.callers import asked_by_machinery
from pytest_taskcache.observation.closures import Closures
from pytest_taskcache.observation.deeds import Deed
from pytest_taskcache.observation.executions import executions
from pytest_taskcache.observation.findings import Findings
from pytest_taskcache.observation.imports import imported_by, source_of
from pytest_taskcache.observation.ledger import Ledger
from pytest_taskcache.observation.network import describe
from pytest_taskcache.observation.processes import NETWORK
from pytest_taskcache.observation.scratch import Scratch
from pytest_taskcache.observation.segments import segments
from pytest_taskcache.observation.settling import Settling
from pytest_taskcache.observation.sightings import Sightings
from pytest_taskcache.observation.sources import Sources, file_of_subject
from pytest_taskcache.observation.starting_environment import StartingEnvironment
from pytest_taskcache.observation.switchboard import board, muted
from pytest_taskcache.observation.verification import Verification
from pytest_taskcache.observation.windows import OpenWindow

if TYPE_CHECKING:
    from pytest_taskcache.ports import Fingerprints

_EXPOSED = "targets"
"""What users may read and edit in a cache's own directory: files that stand for values."""

_STANDARD_LIBRARY = sys.stdlib_module_names


class Observatory:
    """The process's `ports.Observation` for one project; a `Listener` while it is armed.

    ``clock`` gives POSIX nanoseconds. ``scratch`` are the run's temporary trees (the system's
    directory for temporary files counts without being named), ``own`` the cache's own
    directories, which are nobody's dependency.
    """

    def __init__(
        self,
        fingerprints: Fingerprints,
        *,
        clock: Callable[[], int] = time.time_ns,
        scratch: Sequence[Path] = (),
        own: Sequence[Path] = (),
    ) -> None:
        self._fingerprints = fingerprints
        self._clock = clock
        self._own = tuple(os.path.join(os.path.abspath(path), "") for path in own)
        self._exposed = tuple(os.path.join(path, _EXPOSED, "") for path in self._own)
        self._scratch = Scratch(Path(fingerprints.path_of(".")), scratch)
        self._verification = Verification(fingerprints, clock, self._scratch.holds)
        self._windows: tuple[OpenWindow, ...] = ()
        self._aside = Aside()
        self._armed = False
        self._forked = False
        self._start()

    def _start(self) -> None:
        self._sources = Sources(self._fingerprints, self._is_own)
        self._ledger = Ledger(self._sources, self._sightings())
        findings = Findings(
            self._fingerprints.name_of, self._sources, self._scratch, self._verification
        )
        closures = Closures(
            self._fingerprints, self._sources, self._ledger, self._verification, findings
        )
        self._settling = Settling(
            self._fingerprints, self._sources, self._ledger, self._scratch, closures, findings
        )

    def arm(self) -> None:
        """Starts listening; to be called before the project's first module is imported."""
        if self._armed:
            return
        self._forked = False
        with muted():
            self._start()
            self._verification.start = StartingEnvironment(environ.snapshot())
            self._scratch.add_system_directory()
            self._verification.stir()
            self._armed = True
            instruments.arm(self)
            if self._ledger.take_stock():
                self._watch_loaded()

    def _watch_loaded(self) -> None:
        """Watches the first-party code that was loaded before arming."""
        for one in gc.get_objects():
            code = (
                one.__code__
                if isinstance(one, FunctionType)
                else one.gi_code
                if isinstance(one, GeneratorType)
                else one.cr_code
                if isinstance(one, CoroutineType)
                else None
            )
            if code is not None:
                self.on_code(code)

    def disarm(self) -> None:
        """Stops listening. Windows still open close as untrusted."""
        if not self._armed:
            return
        self._armed = False
        for window in self._windows:
            self._end(window)
            window.sightings.untrusted["observation ended before the computation"] = None
        instruments.disarm(self)

    def add_scratch(self, directory: Path) -> None:
        """Counts one more directory as temporary, e.g. once the runner made it."""
        self._scratch.add(directory)

    def add_module(self, filename: str) -> None:
        """A module was handed to what runs now: it counts as if imported by name."""
        for window in self._windows:
            window.sightings.modules[filename] = None

    # ------------------------------------------------------------------- observation

    def open_window(self, subject: Callable[..., object] | None) -> OpenWindow:
        """Starts observing all threads; ``subject`` is the function about to run.

        The opener's own callers do not count: none of them runs before the window closes.
        """
        with muted():
            window = OpenWindow(
                self._sightings(environ.snapshot()),
                file_of_subject(subject),
                self._close,
                self._settle,
                self._settling.inherit,
            )
            if not self._armed:
                window.sightings.untrusted["nothing was observed (not armed)"] = None
                return window
            segments.open(window.log)
            self._windows = (*self._windows, window)
            window.complete = instruments.code.begin()
            frames = sys._current_frames()
            if board.executing:
                executions.prune(frames)
            if len(frames) > 1:
                self._note_running(window, frames)
            board.update()
            return window

    def muted(self) -> Aside:
        """As ports.Observation.muted."""
        return self._aside

    def verify(self, trace: Trace) -> tuple[Change, ...]:
        """The dependencies whose present digest differs, at most 8; empty when valid."""
        if self._verification.is_known(trace):
            return ()
        with muted(), instruments.code.unseen():
            return self._verification.verify(trace)

    def prefetch(self, traces: Iterable[Trace]) -> None:
        """Digests what these traces name, once for all of them."""
        with muted(), instruments.code.unseen():
            self._verification.prefetch(traces)

    def _sightings(self, environment: dict[bytes, bytes] | None = None) -> Sightings:
        return Sightings(self._clock(), self._digest, environment)

    def _digest(self, kind: Kind, name: str) -> str:
        with muted():
            if kind is Kind.ENVIRONMENT:
                return self._verification.digest(kind, name)
            return self._verification.digest(kind, self._fingerprints.name_of(name), name)

    def _is_own(self, path: str) -> bool:
        if path.startswith(self._own):
            return not path.startswith(self._exposed)
        return path + os.sep in self._own

    def _is_temporary(self, filename: str) -> bool:
        """Whether this is a temporary file's name, of which the project knows nothing."""
        return self._sources.find(filename) is None and self._scratch.holds(
            os.path.abspath(filename)
        )

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

    def _note_running(self, window: OpenWindow, frames: Mapping[int, FrameType]) -> None:
        here = sys._getframe()
        own = {id(here)}
        outer: FrameType | None = here
        while outer is not None:
            own.add(id(outer))
            outer = outer.f_back
        for frame in frames.values():
            each: FrameType | None = frame
            while each is not None and id(each) not in own:
                window.running.append(each.f_code)
                each = each.f_back

    def _end(self, window: OpenWindow) -> None:
        if not instruments.code.end():
            window.complete = False
        segments.close(window.log)
        if segments.current is None:
            instruments.code.rest()

    def _close(self, window: OpenWindow) -> None:
        # In a forked child any lock of ours may be held for ever, by a thread that is not here.
        if self._forked or not any(one is window for one in self._windows):
            return
        with muted():
            if self._armed:
                self._end(window)
            self._windows = tuple(one for one in self._windows if one is not window)
            board.update()

    def _settle(self, window: OpenWindow) -> Observed:
        if self._forked:
            return Observed(untrusted=("nothing was observed (forked child)",))
        with muted(), instruments.code.unseen():
            return self._settling.settle(window)

    # ---------------------------------------------------------------------- listening

    @property
    def watching(self) -> bool:
        """Whether a window is open."""
        return bool(self._windows)

    def _targets(self, frame: FrameType | None) -> Collection[Sightings]:
        """Who is credited: the import this thread is in, else every open window."""
        if board.executing:
            body = executions.innermost(frame)
            if body is not None:
                record = self._ledger.of_body(body.co_filename)
                if record is self._ledger.ambient and self._is_temporary(body.co_filename):
                    # No distribution stands for it: whoever is about counts, too.
                    return (record.sightings, *(window.sightings for window in self._windows))
                return (record.sightings,)
        if self._aside.depth:
            return ()
        return [window.sightings for window in self._windows]

    def _askers(self, frame: FrameType | None) -> Collection[Sightings]:
        targets = self._targets(frame)
        return () if not targets or asked_by_machinery(frame) else targets

    def on_read(self, kind: Kind, path: str, frame: FrameType | None) -> bool:
        """A path is about to be read, listed or looked at; False if nobody was credited."""
        if self._is_own(path):
            return True
        targets = self._targets(frame)
        for target in targets:
            target.read(kind, path)
        return bool(targets) or not self._windows

    def on_change(self, path: str, deed: Deed) -> None:
        """A path is about to be changed."""
        if self._is_own(path) or self._is_newest(path):
            return
        if self._is_export(path):
            self._stir(path)
            return
        exists = os.path.lexists(path)
        scratch = self._before_change(path)
        for target in self._changers():
            target.change(path, deed, exists, not scratch)
        if self._aside.depth and not exists:
            for window in self._windows:
                window.sightings.restore(path, tree=deed is Deed.MAKE)
        if scratch:
            if not self._windows and deed is not Deed.ALTER and not exists:
                self._scratch.own([path], None)
        elif deed in (Deed.REPLACE, Deed.ALTER, Deed.CREATE):
            self._verification.unsettle(path)

    def _changers(self) -> Collection[Sightings]:
        """Whose doing a change is: that of every open window, and of the import this thread is
        in, which would else take what it made itself for something it depends on."""
        if self._aside.depth:
            return ()
        found = [window.sightings for window in self._windows]
        body = executions.innermost(sys._getframe(1)) if board.executing else None
        if body is not None:
            found.append(self._ledger.of_body(body.co_filename).sightings)
        return found

    def _before_change(self, path: str) -> bool:
        """Takes early what imports depend on, ends the generation; whether it is scratch."""
        for record in self._ledger.all():
            if record.sightings.reads:
                record.sightings.keep_read(path)
                record.sightings.keep_read(os.path.dirname(path))
        return self._stir(path)

    def _stir(self, path: str) -> bool:
        """Ends the generation where the path may matter; whether it is scratch."""
        if self._scratch.holds(path):
            self._verification.stir_scratch()
            return True
        self._verification.stir()
        return False

    def on_move(self, source: str, target: str) -> None:
        """A path is about to be renamed."""
        if self._is_own(source) and self._is_own(target):
            return
        if self._is_export(target):
            self._stir(target)
            return
        directory = os.path.isdir(source)
        self._before_change(source)
        scratch = self._before_change(target)
        for changer in self._changers():
            changer.move(source, target, directory, not scratch)
        if self._aside.depth:
            for window in self._windows:
                window.sightings.restore(target, tree=directory)
        if scratch and not self._windows:
            self._scratch.own([target], None)

    def on_link(self, source: str, target: str) -> None:
        """``target`` is about to become a link to ``source``."""
        if self._is_newest(target):
            return
        scratch = self._before_change(target)
        for changer in self._changers():
            changer.link(source, target, not scratch)

    def on_database(self, path: str, frame: FrameType | None) -> None:
        """A database file is about to be connected to."""
        if self._is_own(path):
            return
        for target in self._askers(frame):
            target.database(path)
        self._before_change(path)
        self._verification.unsettle(path)

    def on_distributions(self, name: str, frame: FrameType | None) -> None:
        """An installed distribution's metadata is looked up; ``*`` for all."""
        for target in self._askers(frame):
            target.distributions[name] = None

    def on_variable(self, name: str, frame: FrameType | None) -> bool:
        """An environment variable is about to be read; False if nobody was credited."""
        value = environ.present(name)
        targets = self._targets(frame)
        for target in targets:
            target.variable(name, value)
        return bool(targets) or not self._windows

    def on_environment(self, frame: FrameType | None) -> None:
        """The whole environment is about to be read."""
        present = environ.snapshot(copy=False)
        for target in self._targets(frame):
            target.whole_environment(present)

    def on_variable_change(self, name: str) -> None:
        """An environment variable is about to be set or deleted."""
        for record in self._ledger.all():
            if record.sightings.variables:
                record.sightings.keep_variable(name)
        for window in self._windows:
            window.sightings.keep_variable(name)
        self._verification.stir_variable(name)

    def on_opaque(self, kind: str, detail: str, frame: FrameType | None) -> None:
        """A deed that cannot be observed is about to be done."""
        self._verification.stir()
        for target in self._askers(frame):
            target.deed(Opaque(kind, detail))

    def on_native(self, path: str, kind: str, frame: FrameType | None) -> None:
        """A shared library of the project is about to be loaded."""
        if not self._fingerprints.is_first_party(path):
            return
        opaque = Opaque(kind, self._fingerprints.name_of(path))
        for target in self._askers(frame):
            target.deed(opaque)
            target.reads[Kind.FILE, path] = None
        if kind == "native":
            module = os.path.basename(path).partition(".")[0]
            self._ledger.add_native(module, opaque, path)

    def on_bind(self, sock: Any) -> None:
        """A socket is about to be bound."""
        for window in self._windows:
            window.listeners.add(sock)

    def on_connect(self, sock: Any, address: object, frame: FrameType | None) -> None:
        """A socket is about to connect or send to an address."""
        windows = self._windows
        if any(window.listeners.include(address) for window in windows):
            windows = tuple(one for one in windows if not one.listeners.include(address))
        if not windows or self._aside.depth or asked_by_machinery(frame):
            return
        for window in windows:
            window.sightings.deed(Opaque(NETWORK, describe(address)))

    def on_code(self, code: CodeType) -> None:
        """Code is about to be executed or made into a function."""
        if self._sources.find(code.co_filename) is not None:
            instruments.code.watch(code)

    def on_execution(self, code: CodeType, frame: FrameType | None) -> None:
        """A module's body is about to be executed."""
        filename = code.co_filename
        record = self._ledger.begin(filename, self._sightings())
        body = executions.innermost(frame) if board.executing else None
        if record is not None:
            instruments.code.begin_import()
            if body is not None:
                self._ledger.of_body(body.co_filename).children[filename] = None
            if body is None or self._ledger.of_body(body.co_filename) is self._ledger.ambient:
                for window in self._windows:
                    window.sightings.modules[filename] = None

    def on_import_code(self, filename: str, code: CodeType) -> None:
        """Code runs while the module of this file is being executed."""
        if self._sources.find(code.co_filename) is not None:
            self._ledger.of_body(filename).codes[id(code)] = code

    def on_import_tried(self, name: str, frame: FrameType | None) -> None:
        """An import that is not in ``sys.modules`` was begun."""
        for target in self._askers(frame):
            target.tried[name] = None

    def on_import_asked(
        self, name: str, module: ModuleType | None, frame: FrameType | None
    ) -> None:
        """``importlib.import_module`` returned this module, or failed."""
        top = name.partition(".")[0]
        if top in _STANDARD_LIBRARY:
            return
        filename = source_of(module)
        source = self._sources.find(filename) if filename else None
        for target in self._askers(frame):
            if module is None or source is not None:
                target.asked[name] = None
                if source is not None:
                    target.modules[source.path] = None
            else:
                for distribution in self._fingerprints.owners(top):
                    target.distributions[distribution] = None

    def on_unnamed_code(self, code: CodeType, frame: FrameType | None) -> None:
        """Code without a file, or of a temporary one, is about to be executed: the modules that
        it imports count, loaded or not. Its own text was made by what ran."""
        filename = code.co_filename
        if filename.startswith("<") or self._is_temporary(filename):
            for name in imported_by(code):
                self.on_import_asked(name, sys.modules.get(name), frame)

    def on_foreign_trace(self) -> None:
        """Someone else set a trace function: code goes unseen."""
        for window in self._windows:
            window.complete = False

    def on_stir(self, path: str | None = None) -> None:
        """Something happened, to this path or anywhere, after which digests may be wrong."""
        if path is None:
            self._verification.stir()
        elif not self._is_own(path):
            self._stir(path)

    def on_fork(self) -> None:
        """This is a forked child; nothing is observed here any more."""
        self._armed = False
        self._windows = ()
        self._forked = True
