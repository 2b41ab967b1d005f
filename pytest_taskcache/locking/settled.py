"""A lock manager that gives nothing back before others can see what was done under the lock."""

from __future__ import annotations

from collections.abc import Callable

from pytest_taskcache.ports import Holder, Lease, LockManager


class Settled:
    """Hands everything on to ``manager``, and calls ``settle()`` before it gives up a lease.

    A commit ends in local storage and reaches a remote one a little later; whoever gets the lock
    next, on another host, looks for the value there.
    """

    def __init__(self, manager: LockManager, settle: Callable[[], None]) -> None:
        self._manager = manager
        self._settle = settle

    def describe(self) -> str:
        """As the lock manager says."""
        return self._manager.describe()

    def acquire(self, key: str, holder: Holder) -> Lease | Holder:
        """As LockManager.acquire."""
        return self._manager.acquire(key, holder)

    def release(self, lease: Lease) -> None:
        """As LockManager.release, once all is settled."""
        self._settle()
        self._manager.release(lease)

    def confirm(self, lease: Lease) -> bool:
        """As LockManager.confirm."""
        return self._manager.confirm(lease)

    def close(self) -> None:
        """As LockManager.close."""
        self._manager.close()
