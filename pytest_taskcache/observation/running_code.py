"""Which code of the project runs: by ``sys.monitoring`` on Python 3.12 and later, by
``sys.settrace`` inside of windows on 3.11. What runs is noted in pieces that windows share.

    noted:      [a b c]   [b d]        [d e]
    windows:              |-- one ------------|
                                       |-two -|

Whenever a window opens a new piece begins; each open window keeps every piece of its time, and
the pieces in order tell what ran first in the process. Nothing is copied and no event takes a
lock; an event that another thread is about to note still arrives in a piece that all windows of
its moment hold.
"""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import CodeType, FrameType
from typing import Any

from pytest_taskcache.code.byte_code import nested
from pytest_taskcache.observation.hooks.dispatcher import handles
from pytest_taskcache.originals import originals

MONITORING = sys.version_info >= (3, 12)
"""Whether code is seen by ``sys.monitoring``, in all threads."""

FREE = 8192
"""Calls that are traced whatever they cost, so that small computations have one trace always."""

SHARE = 0.3
"""Part of a window's time that tracing may take beyond that."""

_CALL = 0.55e-6
_STEP = 1024
_TOOLS = (4, 3)  # 0 to 2 and 5 have customary owners: debugger, coverage, profiler, optimizer
_NAME = "pytest-taskcache"
_UNCHANGED = nullcontext()

Piece = dict[int, CodeType]
"""Code objects by `identity`: as keys, those of two files would collapse, since they compare
equal when their text and position do."""

identity = object.__hash__
"""A number that two living objects never share; unlike ``id`` it raises no audit event."""


class RunningCode:
    """The pieces; ``current`` is what events note code in. How they come is a subclass's."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forgets everything, e.g. in a forked child, where the lock may be held by nobody."""
        self.current: Piece = {}
        self._unread: list[tuple[Piece, list[int]]] = [(self.current, [0])]
        self._open: tuple[list[Piece], ...] = ()
        self._partly_seen: set[int] = set()
        self._lock = threading.Lock()

    def begin(self) -> list[Piece]:
        """A window opens in this thread: its pieces, which grow until `end`."""
        with self._lock:
            pieces: list[Piece] = []
            self._open = (*self._open, pieces)
            self._turn()
        if not self._watch_window():
            self._partly_seen.add(id(pieces))
        return pieces

    def end(self, pieces: list[Piece]) -> bool:
        """A window is about to close in this thread; what runs from now on is noted in a piece
        that it does not hold. Whether all code was seen since it opened."""
        complete = self._is_watching() and id(pieces) not in self._partly_seen
        with self._lock:
            self._open = tuple(each for each in self._open if each is not pieces)
            self._partly_seen.discard(id(pieces))
            self._turn()
        if not self._open:
            self._rest()
        return complete

    def lose_sight(self) -> None:
        """From now on code may run unseen, in the windows that are open."""
        self._partly_seen.update(map(id, self._open))

    def _turn(self) -> None:
        fresh: Piece = {}
        for each in self._open:
            each.append(fresh)
        self._unread.append((fresh, [0]))
        self.current = fresh

    def note(self, code: CodeType) -> None:
        """This code, and all that is nested in it, counts as having run now."""
        self.current.update((identity(each), each) for each in nested(code))

    def unread(self) -> Iterator[tuple[int, CodeType]]:
        """What was noted since this was last asked, in order. The youngest pieces are looked at
        again the next time, because a thread may be about to add to them."""
        with self._lock:
            pieces = list(self._unread)
            del self._unread[:-2]
        for piece, read in pieces:
            if len(piece) > read[0]:
                noted = list(piece.copy().items())  # a copy is made in one go, a list is not
                yield from noted[read[0] :]
                read[0] = len(noted)

    def install(self) -> None:
        """Somebody is armed."""

    def watch(self, code: CodeType) -> None:
        """From now on this code, and all that is nested in it, tells when it runs."""

    def remove(self) -> None:
        """Nobody is armed any more."""

    def abandon(self) -> None:
        """This is a forked child, where nobody listens."""
        self.clear()
        self.remove()

    def unseen(self) -> AbstractContextManager[None]:
        """Inside, this thread works for the observation itself: what it calls is not taken for
        what a window around calls."""
        return _UNCHANGED

    def _watch_window(self) -> bool:
        raise NotImplementedError

    def _is_watching(self) -> bool:
        raise NotImplementedError

    def _rest(self) -> None:
        """No window is open any more."""


class MonitoredCode(RunningCode):
    """Sees code in all threads, in windows and outside.

    Only first-party code is watched: it is found when it is executed, or made into a function,
    for which there are audit events. Each code object tells once that it starts (and once per
    place where it resumes), is then disabled, and enabled again when a window opens. No steady
    cost was measured on 3.12.1 and 3.13.0; about 0.7 µs per distinct function and window, none
    for the runner's and third-party functions.
    """

    def __init__(self) -> None:
        super().__init__()
        self._tool: int | None = None
        self._callbacks: dict[int, Callable[..., object]] = {}
        self._watched: list[weakref.ref[CodeType]] = []
        # Typed for 3.11 too, where this class is never used.
        self._monitoring: Any = getattr(sys, "monitoring", None)

    def install(self) -> None:
        """Claims a free tool id; without one, code stays unseen and windows say so."""
        monitoring = self._monitoring
        tool = next((each for each in _TOOLS if monitoring.get_tool(each) is None), None)
        if tool is None:
            return
        monitoring.use_tool_id(tool, _NAME)
        self._tool = tool
        disable = monitoring.DISABLE
        key = identity

        def begins(code: CodeType, offset: int) -> object:
            # The hot path: once per code object and window.
            self.current[key(code)] = code
            return disable

        def thrown(code: CodeType, offset: int, error: BaseException) -> None:
            # This event cannot be disabled; it is rare.
            begins(code, offset)

        events = monitoring.events
        self._callbacks = {
            events.PY_START: begins,
            events.PY_RESUME: begins,
            events.PY_THROW: thrown,
        }
        for event, callback in self._callbacks.items():
            monitoring.register_callback(tool, event, callback)
        monitoring.set_events(tool, events.PY_THROW)  # there is no local one

    def watch(self, code: CodeType) -> None:
        """As `RunningCode.watch`."""
        if self._tool is None:
            return
        monitoring, tool = self._monitoring, self._tool
        events = monitoring.events.PY_START | monitoring.events.PY_RESUME
        for each in nested(code):
            if monitoring.get_local_events(tool, each) != events:
                monitoring.set_local_events(tool, each, events)
                self._watched.append(weakref.ref(each))

    def abandon(self) -> None:
        """As `RunningCode.abandon`. Leaves watched code marked: unmarking it all would cost more
        than most children run."""
        self._watched = []
        super().abandon()

    def remove(self) -> None:
        """Gives the tool id back."""
        if not self._has_tool():
            return
        monitoring, tool, self._tool = self._monitoring, self._tool, None
        monitoring.set_events(tool, 0)
        watched, self._watched = self._watched, []
        for reference in watched:
            code = reference()
            if code is not None:
                monitoring.set_local_events(tool, code, 0)
        for event in self._callbacks:
            monitoring.register_callback(tool, event, None)
        monitoring.free_tool_id(tool)

    def _watch_window(self) -> bool:
        if not self._is_watching():
            return False
        self._monitoring.restart_events()
        return True

    def _is_watching(self) -> bool:
        if not self._has_tool():
            return False
        register = self._monitoring.register_callback  # gives what was there: someone else's?
        before = [register(self._tool, event, one) for event, one in self._callbacks.items()]
        return before == [*self._callbacks.values()]

    def _has_tool(self) -> bool:
        """Whether we have a tool id; whoever runs here may have freed it."""
        if self._tool is not None and self._monitoring.get_tool(self._tool) != _NAME:
            self._tool = None
        return self._tool is not None


class TracedCode(RunningCode):
    """Sees the code of a window's thread, and of threads that start while one is open.

    Where another tracer is active (coverage, a debugger) it keeps its place: the window is told
    that code was not seen completely, and counts all functions of its modules instead. Threads
    that run already when the window opens are seen by their frames at that moment alone.

    A call costs about half a microsecond while it is traced (measured on 3.11.7; an audit hook,
    which reading ``f_code`` triggers, is a third of it). Code that mostly calls would take many
    times as long, so a window that called FREE times and spends more than SHARE of its time here
    is told the same as with a foreign tracer, and runs on untraced. Calls are counted since the
    latest window opened, for all threads; a lost increment does no harm.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.limit = FREE
        self.spent = False
        self._opened = 0.0

    def is_idle(self) -> bool:
        """Whether nothing is to be traced now."""
        return self.spent or not self._open

    def check_cost(self) -> None:
        """Gives up, or allows for some more calls before the next look at the clock."""
        elapsed = originals.monotonic() - self._opened
        if not self.spent and self.calls * _CALL > SHARE * elapsed:
            self.spent = True
            self.lose_sight()
        self.limit = self.calls + _STEP

    def remove(self) -> None:
        """Takes the trace function back from this thread and from threads to come."""
        if sys.gettrace() is _trace:
            _set(None)
        if threading.gettrace() is _trace:
            threading.settrace(None)

    @contextmanager
    def unseen(self) -> Iterator[None]:
        """As `RunningCode.unseen`."""
        active = sys.gettrace() is _trace
        if active:
            _set(None)
        try:
            yield
        finally:
            if active:
                _set(_trace)

    def _watch_window(self) -> bool:
        self.calls, self.limit, self.spent = 0, FREE, False
        self._opened = originals.monotonic()
        if threading.gettrace() is None:
            threading.settrace(_trace)
        if sys.gettrace() is None:
            _set(_trace)
        return sys.gettrace() is _trace

    def _is_watching(self) -> bool:
        return sys.gettrace() is _trace or self.spent

    def _rest(self) -> None:
        self.remove()


class _Setting(threading.local):
    ours = False


_setting = _Setting()
_traced = TracedCode()


def _trace(frame: FrameType, event: str, arg: object) -> None:
    # The hot path: every call while a window is open.
    code = frame.f_code
    if _traced.is_idle():
        _set(None)
        return
    _traced.current[identity(code)] = code
    _traced.calls += 1
    if _traced.calls > _traced.limit:
        _traced.check_cost()


def _set(function: object) -> None:
    _setting.ours = True
    try:
        sys.settrace(function)  # type: ignore[arg-type]
    finally:
        _setting.ours = False


if not MONITORING:

    @handles("sys.settrace", even_muted=True)
    def _settrace(frame: FrameType) -> None:
        """Unless it is ours, code goes unseen from here on."""
        if _setting.ours:
            return
        # A thread that starts sets the function that `threading` was given.
        starting = frame.f_code.co_name == "_bootstrap_inner"
        if not starting or threading.gettrace() is not _trace:
            _traced.lose_sight()


running_code: RunningCode = MonitoredCode() if MONITORING else _traced
"""What this process runs."""
