"""Whether to wait for a lock's holder, for how long, and in which steps. Pure.

Deadlock is prevented, not detected (wait-die, Rosenkrantz, Stearns and Lewis 1978): a worker
whose run holds uncommitted keys waits only for younger runs; else it computes unlocked at once.
Within one run a worker waits only for keys that are being computed, since what is computed is
staged and visible to it, so no cycle of waits can form.
"""

from __future__ import annotations

from dataclasses import dataclass

from pytest_taskcache.ports import Holder

LONGEST_WAIT = 600.0
"""Seconds to wait for a holder at most, unless the computation itself took longer last time."""

ANNOUNCE_AFTER = 1.0
"""Seconds of waiting after which people are told whom for."""

_FIRST_STEP = 0.002
_LAST_STEP = 0.05


@dataclass(frozen=True, slots=True)
class Obstacle:
    """What is known about whoever has the lock.

    ``own``: it is this very computation's thread or task, further out on its stack.
    ``stuck``: it cannot go on while this thread sleeps. ``done``: it has computed already, its
    value was looked at, and it is of no use here.
    """

    holder: Holder
    own: bool = False
    stuck: bool = False
    done: bool = False


def patience(last_duration: float, longest: float = LONGEST_WAIT) -> float:
    """Seconds that one wait may last: ``longest``, or three times the last duration if that is
    more."""
    return max(longest, 3 * last_duration)


def may_wait(me: Holder, obstacle: Obstacle, *, holding: bool) -> bool:
    """Whether waiting for the holder is of use, and free of deadlock. ``holding``: this worker
    holds uncommitted keys."""
    other = obstacle.holder
    if obstacle.own or obstacle.stuck:
        return False
    if other.run == me.run:
        return not obstacle.done
    return not holding or me.age < other.age


def next_step(waited: float) -> float:
    """Seconds to sleep before asking again: short at first, never more than a twentieth."""
    return min(_LAST_STEP, max(_FIRST_STEP, waited / 4))
