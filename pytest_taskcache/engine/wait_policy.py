"""Taking, and giving back, the locks under which computations run; and the rules of waiting.

Deadlock is prevented, not detected (wait-die, Rosenkrantz, Stearns and Lewis 1978): a worker
whose run holds uncommitted keys waits only for younger runs; else it computes unlocked at once.
Within one run a worker waits only for keys that are being computed, since what is computed is
staged and visible to it, so no cycle of waits can form.

For example, run A (older) holds ``k1`` uncommitted and wants ``k2``, which run B (younger) holds
while it wants ``k1``. A waits for B. B must not wait for A: it computes ``k1`` unlocked, ends,
and A goes on.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Callable, Generator
from contextvars import ContextVar

from pytest_taskcache.dataclass import dataclass, field
from pytest_taskcache.engine.lookup import Found
from pytest_taskcache.errors import LockError
from pytest_taskcache.model.decision import Fault, Miss
from pytest_taskcache.model.event import Event, Faulted, Waited
from pytest_taskcache.model.key import Key
from pytest_taskcache.ports import Holder, Lease, LockManager

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


# ---- the locks of a worker

computing: ContextVar[frozenset[str]] = ContextVar(
    "pytest_taskcache_computing", default=frozenset()
)
"""The keys this thread or task is computing, innermost included: it must not wait for them."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A lock that is wanted, and what the one who wants it can tell.

    ``look_up`` looks the key up again; ``staged()`` says whether a value of the key is staged in
    this run; ``last_duration()`` is how many seconds the computation took last. ``consult``:
    whether it would use what it waits for. ``blocks``: whether its thread sleeps meanwhile.
    ``timeout``: seconds that its author wants it to wait at most.
    """

    key: Key
    label: str
    look_up: Callable[[], Found | Miss | Fault]
    staged: Callable[[], bool]
    last_duration: Callable[[], float]
    consult: bool
    blocks: bool
    timeout: float | None = None


@dataclass(frozen=True, slots=True)
class Locked:
    """The wait is over and nothing was found: compute. ``lease`` is None where the computation
    goes on unlocked. ``decision`` is that of the last look."""

    lease: Lease | None
    decision: Miss | Fault


@dataclass(slots=True)
class _Taken:
    """A lease of this process: where it is from, and the thread that computes under it (None
    once the value is staged and the lease only waits for its transaction)."""

    manager: LockManager
    thread: int | None


@dataclass
class Locks:
    """The leases of one worker, and the rules by which it waits for those of others.

    ``longest`` bounds a wait in seconds, as `waiting.patience` says; ``clock`` is monotonic.
    """

    run: str
    started: float
    process: str
    notify: Callable[[Event], None]
    longest: float = LONGEST_WAIT
    clock: Callable[[], float] = time.monotonic
    _taken: dict[Lease, _Taken] = field(default_factory=dict)
    _guard: threading.Lock = field(default_factory=threading.Lock)
    _numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))
    _pid: int = field(default_factory=os.getpid)

    def acquire(
        self, wanted: Wanted, manager: LockManager
    ) -> Generator[float, None, Found | Locked]:
        """Takes the key's lock, looking the key up again after every wait; yields seconds to
        sleep. Gives up the lock, not the computation, where waiting could deadlock, takes too
        long, or the manager fails."""
        self._disown()
        attempt = f"{self.process}#{next(self._numbers)}"
        me = Holder(self.run, self.started, self.process, attempt, wanted.label)
        began, bound = self.clock(), -1.0
        announced: Holder | None = None
        waited = 0.0
        while True:
            try:
                got = manager.acquire(wanted.key.digest, me)
            except Exception as error:  # LockError, or what a user's own manager raised
                self.notify(Faulted("lock manager failed", _told(error)))
                found = wanted.look_up()
                return found if isinstance(found, Found) else Locked(None, found)
            if isinstance(got, Lease):
                with self._guard:
                    self._taken[got] = _Taken(manager, threading.get_ident())
            # Before the look: what is done by now, the look sees.
            obstacle = self._obstacle(wanted, me, got) if isinstance(got, Holder) else None
            try:
                again = wanted.look_up()
            except BaseException:
                if isinstance(got, Lease):
                    self.release(got)
                raise
            if isinstance(again, Found) or obstacle is None:
                if announced is not None:
                    text = _named(announced)
                    self.notify(Waited(wanted.key.identity, text, waited, done=True))
                if isinstance(got, Lease) and not isinstance(again, Found):
                    return Locked(got, again)
                if isinstance(got, Lease):
                    self.release(got)
                return again if isinstance(again, Found) else Locked(None, again)
            if not may_wait(me, obstacle, holding=bool(self._taken)):
                return Locked(None, again)
            if bound < 0:
                bound = wanted.timeout or patience(wanted.last_duration(), self.longest)
            other = obstacle.holder
            waited = self.clock() - began
            if waited > bound:
                text = f"{wanted.key.identity}: {_named(other)} has it for {waited:.0f} s"
                self.notify(Faulted("waited too long, computed unlocked", text))
                return Locked(None, again)
            if announced is None and waited >= min(ANNOUNCE_AFTER, bound):
                announced = other
                self.notify(Waited(wanted.key.identity, _named(other), waited, done=False))
            yield next_step(waited)

    def rest(self, lease: Lease) -> None:
        """The value computed under a lease is staged; the lease stays until its transaction
        ends, but nobody here need wait for it any more."""
        taken = self._taken.get(lease)
        if taken is not None:
            taken.thread = None

    def release(self, lease: Lease) -> None:
        """Gives a lease back; one that is not known any more, or is a forked child's parent's,
        is ignored."""
        self._disown()
        with self._guard:
            taken = self._taken.pop(lease, None)
        if taken is None:
            return
        try:
            taken.manager.release(lease)
        except Exception as error:  # LockError, or what a user's own manager raised
            self.notify(Faulted("lock not released", _told(error)))

    def still_held(self, lease: Lease) -> bool:
        """Whether a lease is still ours, asked right before a commit."""
        taken = self._taken.get(lease)
        if taken is None:
            return True
        try:
            return taken.manager.confirm(lease)
        except Exception as error:  # LockError, or what a user's own manager raised
            self.notify(Faulted("lock not confirmed", _told(error)))
            return False

    def release_all(self) -> None:
        """Gives back whatever is left at the end of the run."""
        for lease in list(self._taken):
            self.release(lease)

    def _obstacle(self, wanted: Wanted, me: Holder, other: Holder) -> Obstacle:
        own = wanted.key.digest in computing.get()
        if other.run != me.run:
            return Obstacle(other, own)
        if other.process != me.process:
            return Obstacle(other, own, done=not wanted.consult or wanted.staged())
        taken = next(
            (
                taken
                for lease, taken in list(self._taken.items())
                if lease.key == wanted.key.digest and lease.holder.attempt == other.attempt
            ),
            None,
        )
        thread = taken.thread if taken is not None else 0
        return Obstacle(
            other,
            own,
            stuck=wanted.blocks and thread == threading.get_ident(),
            done=not wanted.consult or thread is None,
        )

    def _disown(self) -> None:
        """A forked child starts without its parent's leases, under a name of its own."""
        pid = os.getpid()
        if pid == self._pid:
            return
        self._pid = pid
        self._taken = {}
        self._guard = threading.Lock()
        self.process = f"{pid}@{self.process.partition('@')[2]}"


def _told(error: Exception) -> str:
    return str(error) if isinstance(error, LockError) else f"{type(error).__name__}: {error}"


def _named(holder: Holder) -> str:
    return f"{holder.label} ({holder.process})" if holder.label else holder.process
