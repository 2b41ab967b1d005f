"""Lock managers and ``os.fork``: a child owns none of what its parent holds."""

from __future__ import annotations

import os
import threading
import weakref

_WAIT = 5.0
"""Seconds a fork waits for an operation under way in another thread."""


class ForkAware:
    """Keeps a forked child from acting for its parent.

    Operations that must not be cut in half by a fork run under ``_mutex``: a fork waits for them.
    In the child the mutex is new and ``_forget`` is called before anything else runs.
    """

    def __init__(self) -> None:
        self._mutex = threading.RLock()
        _living.add(self)

    def _forget(self) -> None:
        """In a forked child: drops all that belongs to the parent, without giving it up."""
        raise NotImplementedError


_living: weakref.WeakSet[ForkAware] = weakref.WeakSet()
_paused: list[threading.RLock] = []


def _before() -> None:
    for manager in list(_living):
        if manager._mutex.acquire(timeout=_WAIT):
            _paused.append(manager._mutex)


def _in_parent() -> None:
    while _paused:
        _paused.pop().release()


def _in_child() -> None:
    _paused.clear()
    for manager in list(_living):
        manager._mutex = threading.RLock()
        manager._forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
