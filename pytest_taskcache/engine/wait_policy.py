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
import threading
import time
from collections.abc import Callable, Generator
from contextvars import ContextVar

from pytest_taskcache.engine.keys import Keyed
from pytest_taskcache.engine.lookup import Attempt, Found, Looked, Lookup
from pytest_taskcache.errors import StorageError, fault_of
from pytest_taskcache.forking import ForkAware
from pytest_taskcache.model.event import Event, Faulted, Waited
from pytest_taskcache.ports import Holder, Lease, LockManager
from pytest_taskcache.storage.local.runs import this_process
from pytest_taskcache.transactions.staging import Run

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


computing: ContextVar[frozenset[str]] = ContextVar(
    "pytest_taskcache_computing", default=frozenset()
)
"""The keys this thread or task is computing, innermost included: it must not wait for them."""


class Locks(ForkAware):
    """The leases of one worker, and the rules by which it waits for those of others. A forked child
    starts without its parent's, under a name of its own."""

    def __init__(self, run: Run, lookup: Lookup, notify: Callable[[Event], None]) -> None:
        super().__init__()
        self.run = run
        self.process = this_process()
        self.lookup = lookup
        self.notify = notify
        self.longest = LONGEST_WAIT
        self._taken: dict[Lease, tuple[LockManager, int | None]] = {}
        """Where each lease is from, and the thread that computes under it (None once the value is
        staged and the lease only waits for its transaction)."""
        self._numbers = itertools.count(1)

    def _start_anew(self) -> None:
        self._taken = {}
        self.process = this_process()

    def acquire(
        self,
        attempt: Attempt,
        keyed: Keyed,
        manager: LockManager,
        look_up: Callable[[], Looked],
        blocks: bool,
    ) -> Generator[float, None, tuple[Lease | None, Looked]]:
        """Takes the key's lock, looking the key up again after every wait; yields seconds to
        sleep (``blocks``: and nothing else runs in this thread meanwhile). Returns the lease with
        the last look: None where something was found, and where the computation goes on unlocked
        since waiting could deadlock, took too long, or the manager failed."""
        identity, name = keyed.key.identity, f"{self.process}#{next(self._numbers)}"
        label = attempt.computation.test or str(identity)
        me = Holder(self.run.id, self.run.started, self.process, name, label)
        began, waited = time.monotonic(), 0.0
        longest: float | None = None
        announced: Holder | None = None
        while True:
            try:
                got = manager.acquire(keyed.key.digest, me)
            except Exception as error:  # LockError, or what a user's own manager raised
                self._fault("lock manager failed", error)
                return None, look_up()
            # Before the look: what is done by now, the look sees.
            waits = isinstance(got, Holder) and self._may_wait(attempt, keyed, blocks, me, got)
            looked = look_up() if isinstance(got, Holder) else self._under(got, manager, look_up)
            if isinstance(got, Lease) or isinstance(looked, Found):
                if announced is not None:
                    self.notify(Waited(identity, _named(announced), waited, done=True))
                return None if isinstance(looked, Found) or isinstance(got, Holder) else got, looked
            # What was staged before the look, and is gone, was of use to nobody.
            if not (waits or self._may_wait(attempt, keyed, blocks, me, got)):
                return None, looked
            longest = self._longest(attempt, keyed) if longest is None else longest
            waited = time.monotonic() - began
            if waited > longest:
                text = f"{identity}: {_named(got)} has it for {waited:.0f} s"
                self.notify(Faulted("waited too long, computed unlocked", text))
                return None, looked
            if announced is None and waited >= min(ANNOUNCE_AFTER, longest):
                announced = got
                self.notify(Waited(identity, _named(got), waited, done=False))
            # Short at first, never more than a twentieth of a second.
            yield min(_LAST_STEP, max(_FIRST_STEP, waited / 4))

    def _under(self, lease: Lease, manager: LockManager, look_up: Callable[[], Looked]) -> Looked:
        """The look under a lease that was just taken, which is kept only if nothing was found."""
        with self.lock:
            self._taken[lease] = manager, threading.get_ident()
        looked: Looked | None = None
        try:
            looked = look_up()
        finally:
            if looked is None or isinstance(looked, Found):
                self.release(lease)
        return looked

    def _longest(self, attempt: Attempt, keyed: Keyed) -> float:
        timeout, name = attempt.computation.options.policy.lock_timeout, str(keyed.key.identity)
        if timeout is not None:
            return timeout.total_seconds()
        try:
            last = attempt.route.records.recent([name]).get(name)
        except StorageError:
            last = None  # the look-up reports the fault
        return patience(last.duration if last is not None else 0.0, self.longest)

    def _may_wait(
        self, attempt: Attempt, keyed: Keyed, blocks: bool, me: Holder, other: Holder
    ) -> bool:
        """Whether waiting for the holder is of use, and free of deadlock."""
        key = keyed.key.digest
        if key in computing.get():
            return False  # this very thread or task has it, further out on its stack
        if other.run != me.run:
            return not self._taken or me.age < other.age
        if not attempt.access.consult:
            return False
        if other.process != me.process:
            return not self.lookup.is_staged(keyed, attempt.computation.test)
        threads = [
            thread
            for lease, (_, thread) in list(self._taken.items())
            if lease.key == key and lease.holder.attempt == other.attempt
        ]
        if threads == [None]:
            return False  # it is staged, was looked at, and is of no use here
        return not (blocks and threads == [threading.get_ident()])

    def rest(self, lease: Lease) -> None:
        """The value computed under a lease is staged; the lease stays until its transaction
        ends, but nobody here need wait for it any more."""
        with self.lock:
            if lease in self._taken:
                self._taken[lease] = self._taken[lease][0], None

    def release(self, lease: Lease) -> None:
        """Gives a lease back; one that is not known any more, or is a forked child's parent's,
        is ignored."""
        with self.lock:
            taken = self._taken.pop(lease, None)
        if taken is None:
            return
        try:
            taken[0].release(lease)
        except Exception as error:  # LockError, or what a user's own manager raised
            self._fault("lock not released", error)

    def still_held(self, lease: Lease) -> bool:
        """Whether a lease is still ours, asked right before a commit."""
        taken = self._taken.get(lease)
        if taken is None:
            return True
        try:
            return taken[0].confirm(lease)
        except Exception as error:  # LockError, or what a user's own manager raised
            self._fault("lock not confirmed", error)
            return False

    def release_all(self) -> None:
        """Gives back whatever is left at the end of the run."""
        for lease in list(self._taken):
            self.release(lease)

    def _fault(self, reason: str, error: Exception) -> None:
        self.notify(Faulted(*fault_of(error, reason)))


def _named(holder: Holder) -> str:
    return f"{holder.label} ({holder.process})" if holder.label else holder.process
