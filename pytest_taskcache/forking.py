"""``os.fork``, as those see it who have a lock and something that a child must not use."""

from __future__ import annotations

import os
import threading
import weakref
from itertools import count

_WAIT = 11.0
"""Seconds a fork waits for an operation under way in another thread; an index's takes ten."""


class ForkAware:
    """Keeps a forked child from acting for its parent.

    Operations that must not be cut in half by a fork run under ``lock``: a fork waits for them. In
    the child the lock is new.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        _living[next(_numbers)] = self

    def _before_fork(self) -> None:
        """With the lock held: gives up what works in neither process after a fork."""

    def _start_anew(self) -> None:
        """In the child: drops all that belongs to the parent, without giving it up."""


_numbers = count()
_living: weakref.WeakValueDictionary[int, ForkAware] = weakref.WeakValueDictionary()
_paused: list[threading.RLock] = []


def _latest_first() -> list[ForkAware]:
    """What is made later uses what was there before, and so takes its own lock first."""
    return list(_living.values())[::-1]


def _before() -> None:
    for each in _latest_first():
        if each.lock.acquire(timeout=_WAIT):
            _paused.append(each.lock)
            each._before_fork()


def _in_parent() -> None:
    while _paused:
        _paused.pop().release()


def _in_child() -> None:
    _paused.clear()
    for each in _latest_first():
        each.lock = threading.RLock()
        each._start_anew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
