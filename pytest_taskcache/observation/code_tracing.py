"""Code that runs, by ``sys.settrace`` (Python 3.11), inside windows only.

Where another tracer is active (coverage, a debugger) it keeps its place: the window is told
that code was not seen completely, and counts all functions of its modules instead. Threads
that run already when the window opens are seen by their frames at that moment alone.

A call costs about half a microsecond while it is traced (measured on 3.11.7; an audit hook,
which reading ``f_code`` triggers, is a third of it). Code that mostly calls would take many
times as long, so a window that called FREE times and spends more than SHARE of its time here
is told the same as with a foreign tracer, and runs on untraced.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import CodeType, FrameType

from pytest_taskcache.observation.code_runs import code_runs, identity
from pytest_taskcache.observation.hooks.dispatcher import dispatcher
from pytest_taskcache.observation.hooks.originals import originals

FREE = 8192
"""Calls that are traced whatever they cost, so that small computations have one trace always."""

SHARE = 0.3
"""Part of a window's time that tracing may take beyond that."""

_CALL = 0.55e-6
_STEP = 1024


class _Budget:
    """Calls traced since the latest window opened, and how many may be before a look at the
    clock. Shared by all threads; a lost increment does no harm."""

    def __init__(self) -> None:
        self.calls = 0
        self.limit = FREE
        self.spent = False
        self._opened = originals.monotonic()

    def start(self) -> None:
        """A window opens."""
        self.calls, self.limit, self.spent = 0, FREE, False
        self._opened = originals.monotonic()

    def check(self) -> None:
        """Gives up, or allows for some more calls."""
        elapsed = originals.monotonic() - self._opened
        if not self.spent and self.calls * _CALL > SHARE * elapsed:
            self.spent = True
            dispatcher.tell(lambda listener: listener.on_foreign_trace())
        self.limit = self.calls + _STEP


_budget = _Budget()


_OURS = frozenset({"foreign_settrace", "<lambda>", "_hook"})
"""The frames between the audit event and whoever set the trace function: a thread that starts sets
the one that `threading` was given, which is ours."""


class _Setting(threading.local):
    ours = False


_setting = _Setting()


def _trace(frame: FrameType, event: str, arg: object) -> None:
    # The hot path: every call while a window is open.
    code = frame.f_code
    if _budget.spent or not code_runs.watched:
        _set(None)
        return
    code_runs.current[identity(code)] = code
    _budget.calls += 1
    if _budget.calls > _budget.limit:
        _budget.check()


def _set(function: object) -> None:
    _setting.ours = True
    try:
        sys.settrace(function)  # type: ignore[arg-type]
    finally:
        _setting.ours = False


def foreign_settrace() -> None:
    """The audit event ``sys.settrace``: unless it is ours, code goes unseen from here on."""
    if _setting.ours:
        return
    frame: FrameType | None = sys._getframe()
    while frame is not None and frame.f_code.co_name != "_bootstrap_inner":
        frame = frame.f_back if frame.f_code.co_name in _OURS else None
    if frame is None or threading.gettrace() is not _trace:
        dispatcher.tell(lambda listener: listener.on_foreign_trace())


class TracedCode:
    """Notes code in the current piece of `code_runs`."""

    def install(self) -> None:
        """Nothing to do: the trace function is set while it is needed."""

    def watch(self, code: CodeType) -> None:
        """Nothing to do: all calls are traced."""

    def remove(self) -> None:
        """Takes the trace function back from this thread and from threads to come."""
        if sys.gettrace() is _trace:
            _set(None)
        if threading.gettrace() is _trace:
            threading.settrace(None)

    def abandon(self) -> None:
        """As `remove`, in a forked child."""
        self.remove()

    def begin(self) -> bool:
        """A window opens in this thread; whether code will be seen completely."""
        _budget.start()
        if threading.gettrace() is None:
            threading.settrace(_trace)
        return self._claim()

    def end(self) -> bool:
        """A window is about to close in this thread; whether code was still being seen."""
        return sys.gettrace() is _trace or _budget.spent

    def rest(self) -> None:
        """No window is open any more."""
        self.remove()

    @contextmanager
    def unseen(self) -> Iterator[None]:
        """Inside, this thread works for the observation itself: what it calls is not traced, and
        is not taken for what a window around calls."""
        active = sys.gettrace() is _trace
        if active:
            _set(None)
        try:
            yield
        finally:
            if active:
                _set(_trace)

    def _claim(self) -> bool:
        active = sys.gettrace()
        if active is None:
            _set(_trace)
            return True
        return active is _trace
