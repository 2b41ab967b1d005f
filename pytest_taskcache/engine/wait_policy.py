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


def patience(last_duration: float, longest: float = LONGEST_WAIT) -> float:
    """Seconds that one wait may last: ``longest``, or three times the last duration if that is
    more."""
    return max(longest, 3 * last_duration)


def next_step(waited: float) -> float:
    """Seconds to sleep before asking again: short at first, never more than a twentieth."""
    return min(_LAST_STEP, max(_FIRST_STEP, waited / 4))


computing: ContextVar[frozenset[str]] = ContextVar(
    "pytest_taskcache_computing", default=frozenset()
)
"""The keys this thread or task is computing, innermost included: it must not wait for them."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A lock that is wanted, and what the one who wants it can tell.

    ``look_up()`` looks the key up again; ``staged()`` says whether a value of the key is staged in
    this run; ``longest()`` is how many seconds to wait at most. ``consult``: whether it would use
    what it waits for. ``blocks``: whether its thread sleeps meanwhile.
    """

    key: Key
    label: str
    look_up: Callable[[], Found | Miss | Fault]
    staged: Callable[[], bool]
    longest: Callable[[], float]
    consult: bool
    blocks: bool


@dataclass(slots=True)
class _Taken:
    """A lease of this process: where it is from, and the thread that computes under it (None
    once the value is staged and the lease only waits for its transaction)."""

    manager: LockManager
    thread: int | None


@dataclass
class Locks:
    """The leases of one worker, and the rules by which it waits for those of others. ``clock``
    is monotonic."""

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
    ) -> Generator[float, None, tuple[Lease | None, Found | Miss | Fault]]:
        """Takes the key's lock, looking the key up again after every wait; yields seconds to
        sleep. Returns the lease with the last look: None where something was found, and where
        the computation goes on unlocked since waiting could deadlock, took too long, or the
        manager failed."""
        self._disown()
        attempt = f"{self.process}#{next(self._numbers)}"
        me = Holder(self.run, self.started, self.process, attempt, wanted.label)
        began, waited = self.clock(), 0.0
        longest: float | None = None
        announced: Holder | None = None
        while True:
            try:
                got = manager.acquire(wanted.key.digest, me)
            except Exception as error:  # LockError, or what a user's own manager raised
                self.notify(Faulted("lock manager failed", _told(error)))
                return None, wanted.look_up()
            if isinstance(got, Lease):
                looked = self._look_under(got, manager, wanted)
                self._tell_done(wanted, announced, waited)
                return None if isinstance(looked, Found) else got, looked
            # Before the look: what is done by now, the look sees.
            may_wait = self._may_wait(wanted, me, got)
            looked = wanted.look_up()
            if isinstance(looked, Found):
                self._tell_done(wanted, announced, waited)
                return None, looked
            # What was staged before the look, and is gone, was of use to nobody.
            if not (may_wait or self._may_wait(wanted, me, got)):
                return None, looked
            longest = wanted.longest() if longest is None else longest
            waited = self.clock() - began
            if waited > longest:
                text = f"{wanted.key.identity}: {_named(got)} has it for {waited:.0f} s"
                self.notify(Faulted("waited too long, computed unlocked", text))
                return None, looked
            if announced is None and waited >= min(ANNOUNCE_AFTER, longest):
                announced = got
                self.notify(Waited(wanted.key.identity, _named(got), waited, done=False))
            yield next_step(waited)

    def _look_under(
        self, lease: Lease, manager: LockManager, wanted: Wanted
    ) -> Found | Miss | Fault:
        """The look under a lease that was just taken, which is kept only if nothing was found."""
        with self._guard:
            self._taken[lease] = _Taken(manager, threading.get_ident())
        looked: Found | Miss | Fault | None = None
        try:
            looked = wanted.look_up()
        finally:
            if looked is None or isinstance(looked, Found):
                self.release(lease)
        return looked

    def _tell_done(self, wanted: Wanted, announced: Holder | None, waited: float) -> None:
        if announced is not None:
            self.notify(Waited(wanted.key.identity, _named(announced), waited, done=True))

    def _may_wait(self, wanted: Wanted, me: Holder, other: Holder) -> bool:
        """Whether waiting for the holder is of use, and free of deadlock."""
        if wanted.key.digest in computing.get():
            return False  # this very thread or task has it, further out on its stack
        if other.run != me.run:
            return not self._taken or me.age < other.age
        if not wanted.consult:
            return False
        if other.process != me.process:
            return not wanted.staged()
        threads = [
            taken.thread
            for lease, taken in list(self._taken.items())
            if lease.key == wanted.key.digest and lease.holder.attempt == other.attempt
        ]
        if threads == [None]:
            return False  # it is staged, was looked at, and is of no use here
        return not (wanted.blocks and threads == [threading.get_ident()])

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
