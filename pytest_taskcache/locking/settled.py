"""A lock manager that gives nothing back before others can see what was done under the lock."""

from __future__ import annotations

from collections.abc import Callable

from pytest_taskcache.ports import Lease, LockManager


class FlushedFirst:
    """``manager``, but that ``settle()`` is called before it gives up a lease.

    A commit ends in local storage and reaches a remote one a little later; whoever gets the lock
    next, on another host, looks for the value there.
    """

    def __init__(self, manager: LockManager, settle: Callable[[], None]) -> None:
        self.describe = manager.describe
        self.acquire = manager.acquire
        self.confirm = manager.confirm
        self.close = manager.close
        self._release = manager.release
        self._settle = settle

    def release(self, lease: Lease) -> None:
        """As LockManager.release, once all is settled."""
        self._settle()
        self._release(lease)
