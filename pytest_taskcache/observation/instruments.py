"""Installs the process-wide hooks with the first armed listener, removes them with the last.

The audit hook alone stays for good (Python offers no removal); its table is emptied.
"""

from __future__ import annotations

import os
import sys
import threading

from pytest_taskcache.observation import audit, environ, files, imports, network, processes
from pytest_taskcache.observation.code_monitoring import MonitoredCode
from pytest_taskcache.observation.code_tracing import TracedCode, foreign_settrace
from pytest_taskcache.observation.executions import executions
from pytest_taskcache.observation.looks import EVENTS, looks
from pytest_taskcache.observation.segments import segments
from pytest_taskcache.observation.switchboard import Listener, board

MONITORING = sys.version_info >= (3, 12)
"""Whether code is seen by ``sys.monitoring``, in all threads."""

code: MonitoredCode | TracedCode = MonitoredCode() if MONITORING else TracedCode()

_lock = threading.Lock()
_fork_noted = False


def arm(listener: Listener) -> None:
    """From now on the listener is told. Idempotent."""
    global _fork_noted
    with _lock:
        if any(one is listener for one in board.listeners):
            return
        if not board.listeners:
            _install()
        board.listeners = (*board.listeners, listener)
        board.update()
        if not _fork_noted and hasattr(os, "register_at_fork"):
            _fork_noted = True
            os.register_at_fork(after_in_child=_in_child)


def disarm(listener: Listener) -> None:
    """The listener is told nothing any more. Idempotent."""
    with _lock:
        if not any(one is listener for one in board.listeners):
            return
        board.listeners = tuple(one for one in board.listeners if one is not listener)
        if not board.listeners:
            _remove()
        board.update()


def _install() -> None:
    events = {
        **files.EVENTS,
        **EVENTS,
        **environ.EVENTS,
        **processes.EVENTS,
        **network.EVENTS,
        **imports.EVENTS,
    }
    if not MONITORING:
        events["sys.settrace"] = lambda arguments: foreign_settrace()
    looks.install()
    environ.install()
    processes.spawning.install()
    imports.install()
    code.install()
    audit.listen(events)


def _remove() -> None:
    audit.silence()
    code.remove()
    imports.remove()
    processes.spawning.remove()
    environ.remove()
    looks.remove()
    executions.clear()


def _in_child() -> None:
    """A forked child has its parent's windows but nobody to tell: it observes nothing."""
    global _lock
    _lock = threading.Lock()
    if not board.listeners:
        return
    board.tell(lambda listener: listener.on_fork())
    board.listeners = ()
    segments.clear()
    code.abandon()
    _remove()
    board.update()
