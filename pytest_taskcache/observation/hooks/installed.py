"""Installs the process-wide hooks with the first armed listener, removes them with the last.

The audit hook alone stays for good (Python offers no removal); its table is emptied.
"""

from __future__ import annotations

import os
import sys
import threading

from pytest_taskcache.observation.code_monitoring import MonitoredCode
from pytest_taskcache.observation.code_runs import code_runs
from pytest_taskcache.observation.code_tracing import TracedCode, foreign_settrace
from pytest_taskcache.observation.hooks import (
    audit,
    environ,
    files,
    imports,
    native_readers,
    network,
    processes,
)
from pytest_taskcache.observation.hooks.dispatcher import Listener, dispatcher
from pytest_taskcache.observation.hooks.patches import patches
from pytest_taskcache.observation.hooks.stat import EVENTS, stat_hooks

MONITORING = sys.version_info >= (3, 12)
"""Whether code is seen by ``sys.monitoring``, in all threads."""

code: MonitoredCode | TracedCode = MonitoredCode() if MONITORING else TracedCode()

_lock = threading.Lock()
_fork_noted = False


def arm(listener: Listener) -> None:
    """From now on the listener is told. Idempotent."""
    global _fork_noted
    with _lock:
        if any(one is listener for one in dispatcher.listeners):
            return
        if not dispatcher.listeners:
            _install()
        dispatcher.listeners = (*dispatcher.listeners, listener)
        if not _fork_noted and hasattr(os, "register_at_fork"):
            _fork_noted = True
            os.register_at_fork(after_in_child=_in_child)


def disarm(listener: Listener) -> None:
    """The listener is told nothing any more. Idempotent."""
    with _lock:
        if not any(one is listener for one in dispatcher.listeners):
            return
        dispatcher.listeners = tuple(one for one in dispatcher.listeners if one is not listener)
        if not dispatcher.listeners:
            _remove()


def _install() -> None:
    events = {
        **files.EVENTS,
        **EVENTS,
        **environ.EVENTS,
        **processes.EVENTS,
        **network.EVENTS,
        **native_readers.EVENTS,
        **imports.EVENTS,
    }
    if not MONITORING:
        events["sys.settrace"] = lambda arguments: foreign_settrace()
    stat_hooks.install()
    environ.install()
    processes.spawning.install()
    imports.install()
    native_readers.install()
    patches.install()
    code.install()
    audit.listen(events)


def _remove() -> None:
    audit.silence()
    code.remove()
    imports.remove()
    processes.spawning.remove()
    environ.remove()
    stat_hooks.remove()


def _in_child() -> None:
    """A forked child has its parent's windows but nobody to tell: it observes nothing."""
    global _lock
    _lock = threading.Lock()
    if not dispatcher.listeners:
        return
    dispatcher.tell(lambda listener: listener.on_fork())
    dispatcher.listeners = ()
    code_runs.clear()
    code.abandon()
    _remove()
