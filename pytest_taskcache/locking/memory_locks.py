"""Locks between the threads of one process."""

from __future__ import annotations

from pytest_taskcache.locking.leases import Leases
from pytest_taskcache.ports import Holder, Lease


class MemoryLockManager(Leases):
    """Mutual exclusion between all threads that share this object.

    Tokens grow by one with each acquisition. A forked child starts with nothing held: the
    parent's leases are in another memory.
    """

    def __init__(self) -> None:
        super().__init__()
        self._last = 0

    def describe(self) -> str:
        """What this is, for people."""
        return "locks in memory"

    def acquire(self, key: str, holder: Holder) -> Lease | Holder:
        """The lease, or who has it."""
        with self.lock:
            held = self._held.get(key)
            if held is not None:
                return held.holder
            self._last += 1
            lease = Lease(key, holder, self._last)
            self._held[key] = lease
            return lease

    def release(self, lease: Lease) -> None:
        """Gives up the lease, if it is the present one."""
        with self.lock:
            if self._holds(lease):
                del self._held[lease.key]

    def confirm(self, lease: Lease) -> bool:
        """Whether the lease is the present one."""
        with self.lock:
            return self._holds(lease)

    def close(self) -> None:
        """Releases all leases."""
        with self.lock:
            self._held.clear()
