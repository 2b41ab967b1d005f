"""A lock on a file that the operating system frees when its holder dies.

``filelock`` offers the same and more, but importing it costs more than the whole of a cold hit
may (74 ms measured), and its release also frees a lock that a forked child merely inherited.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

if os.name == "nt":
    import msvcrt

    def _lock(descriptor: int) -> None:
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
else:
    import fcntl

    def _lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


class OsLock:
    """An exclusive lock, held until ``release`` or the end of this process.

    A forked child that outlives the holder keeps it too: it may still use what the lock guards.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    @property
    def held(self) -> bool:
        """Whether this object holds the lock."""
        return self._descriptor is not None

    def try_acquire(self, *, create: bool = True) -> bool:
        """True if the lock is now held. Raises OSError if the file cannot be opened."""
        if self._descriptor is not None:
            return True
        flags = os.O_RDWR | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)
        descriptor = os.open(self.path, flags | (os.O_CREAT if create else 0), 0o600)
        try:
            _lock(descriptor)
            # Whoever removed a dead holder's file held the lock while doing so: the file that
            # was opened before that is no longer the one that others will lock.
            current = os.path.samestat(os.fstat(descriptor), os.stat(self.path))
        except OSError:
            current = False
        if not current:
            os.close(descriptor)
            return False
        self._descriptor = descriptor
        return True

    def acquire(self, seconds: float) -> bool:
        """True once the lock is held, False if it was not to be had in that time."""
        deadline = time.monotonic() + seconds
        while not self.try_acquire():
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.01)
        return True

    def release(self, *, remove: bool = False) -> None:
        """Gives the lock up, and removes its file first if asked to."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is None:
            return
        try:
            if remove:
                self.path.unlink(missing_ok=True)
        finally:
            # Closing, not unlocking: an inherited copy in a forked child goes on holding it.
            os.close(descriptor)


__all__ = ["OsLock"]
