"""Code that runs, by ``sys.monitoring`` (Python 3.12 and later).

Only first-party code is watched: it is found when it is executed, or made into a function, for
which there are audit events. Each code object tells once that it starts (and once per place
where it resumes), is then disabled, and enabled again when a window opens. No steady cost was
measured on 3.12.1 and 3.13.0; about 0.7 µs per distinct function and window, none for the
runner's and third-party functions.
"""

from __future__ import annotations

import sys
import weakref
from contextlib import AbstractContextManager, nullcontext
from types import CodeType
from typing import Any

from pytest_taskcache.observation.code_runs import code_runs, identity

_TOOLS = (4, 3)  # 0 to 2 and 5 have customary owners: debugger, coverage, profiler, optimizer

_NAME = "pytest-taskcache"

_UNCHANGED = nullcontext()


class MonitoredCode:
    """Notes code in the current piece of `code_runs`."""

    def __init__(self) -> None:
        self._tool: int | None = None
        self._watched: list[weakref.ref[CodeType]] = []
        # Typed for 3.11 too, where this module is never used.
        self._monitoring: Any = getattr(sys, "monitoring", None)

    def install(self) -> None:
        """Claims a free tool id; without one, code stays unseen and windows say so."""
        monitoring = self._monitoring
        for tool in _TOOLS:
            if monitoring.get_tool(tool) is None:
                monitoring.use_tool_id(tool, _NAME)
                self._tool = tool
                break
        else:
            return
        disable = monitoring.DISABLE
        runs = code_runs
        key = identity

        def begins(code: CodeType, offset: int) -> object:
            # The hot path: once per code object and window.
            runs.current[key(code)] = code
            return disable

        def thrown(code: CodeType, offset: int, error: BaseException) -> None:
            # This event cannot be disabled; it is rare.
            begins(code, offset)

        events = monitoring.events
        monitoring.register_callback(self._tool, events.PY_START, begins)
        monitoring.register_callback(self._tool, events.PY_RESUME, begins)
        monitoring.register_callback(self._tool, events.PY_THROW, thrown)
        monitoring.set_events(self._tool, events.PY_THROW)  # there is no local one

    def watch(self, code: CodeType) -> None:
        """From now on this code, and all that is nested in it, tells when it runs."""
        if self._tool is None:
            return
        monitoring, tool = self._monitoring, self._tool
        events = monitoring.events.PY_START | monitoring.events.PY_RESUME
        found = [code]
        while found:
            each = found.pop()
            if monitoring.get_local_events(tool, each) != events:
                monitoring.set_local_events(tool, each, events)
                self._watched.append(weakref.ref(each))
            found += [one for one in each.co_consts if isinstance(one, CodeType)]

    def abandon(self) -> None:
        """As `remove`, but leaves watched code marked: in a forked child nobody listens, and
        unmarking it all would cost more than most children run."""
        self._watched = []
        self.remove()

    def remove(self) -> None:
        """Gives the tool id back."""
        if self._tool is None:
            return
        monitoring, tool, self._tool = self._monitoring, self._tool, None
        events = monitoring.events
        monitoring.set_events(tool, 0)
        watched, self._watched = self._watched, []
        for reference in watched:
            code = reference()
            if code is not None:
                monitoring.set_local_events(tool, code, 0)
        for event in (events.PY_START, events.PY_RESUME, events.PY_THROW):
            monitoring.register_callback(tool, event, None)
        monitoring.free_tool_id(tool)

    def begin(self) -> bool:
        """A window opens in this thread; whether code will be seen completely."""
        if self._tool is None:
            return False
        self._monitoring.restart_events()
        return True

    def end(self) -> bool:
        """A window is about to close in this thread; whether code was still being seen."""
        return self._tool is not None

    def rest(self) -> None:
        """No window is open any more: nothing to do, what ran once is disabled."""

    def unseen(self) -> AbstractContextManager[None]:
        """Nothing to do: only first-party code tells."""
        return _UNCHANGED
