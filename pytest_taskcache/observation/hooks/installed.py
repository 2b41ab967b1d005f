"""Installs the process-wide hooks with the first armed listener, removes them with the last.

The audit hook alone stays for good (Python offers no removal); its table is emptied.
"""

from __future__ import annotations

import os
import threading
from typing import Any

from pytest_taskcache.observation.hooks import environ, import_hooks, native_readers
from pytest_taskcache.observation.hooks.dispatcher import Listener, dispatcher, listen, silence
from pytest_taskcache.observation.hooks.file_hooks import REPLACED
from pytest_taskcache.observation.hooks.opaque import spawning, starting, watch_imported
from pytest_taskcache.observation.hooks.patches import patches
from pytest_taskcache.observation.running_code import running_code

_HOOKS: tuple[Any, ...] = (*REPLACED, environ, spawning, starting, import_hooks, running_code)
_lock = threading.Lock()
_fork_noted = False


def arm(listener: Listener) -> None:
    """From now on the listener is told. Idempotent."""
    global _fork_noted
    with _lock:
        if any(one is listener for one in dispatcher.listeners):
            return
        if not dispatcher.listeners:
            for each in _HOOKS:
                each.install()
            native_readers.install()
            patches.install()
            watch_imported()
            listen()
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


def _remove() -> None:
    silence()
    for each in reversed(_HOOKS):
        each.remove()


def _in_child() -> None:
    """A forked child has its parent's windows but nobody to tell: it observes nothing."""
    global _lock
    _lock = threading.Lock()
    if not dispatcher.listeners:
        return
    dispatcher.tell(lambda listener: listener.on_fork())
    dispatcher.listeners = ()
    running_code.abandon()
    _remove()
