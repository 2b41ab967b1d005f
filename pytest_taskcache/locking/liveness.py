"""Whether a process still lives, told by an operating system lock that it holds for its life."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import sys
import time
import weakref
from collections.abc import Iterator
from pathlib import Path

if sys.platform == "win32":
    import msvcrt

    def _take(descriptor: int, shared: bool) -> bool:
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except PermissionError:
            return False
        return True
else:
    import fcntl

    # flock, and not a lock library: a forked child shares the lock through its copy of the
    # descriptor, so whoever holds the descriptor must be able to close it there. And not lockf:
    # that lock is lost as soon as anything in the process closes any descriptor of the file, e.g.
    # a test that reads the cache's directory.
    def _take(descriptor: int, shared: bool) -> bool:
        mode = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        try:
            fcntl.flock(descriptor, mode | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            return False
        return True


_NAME = re.compile(r"[A-Za-z0-9_.-]{1,200}\.lock")
_FLAGS = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
_ATTEMPTS = 16


class Liveness:
    """A lock file that is locked as long as this process lives, or until ``close``.

    ``name`` is unique over hosts and time. Raises OSError where the directory cannot be written
    or its file system has no locks.
    """

    def __init__(self, directory: Path) -> None:
        host = re.sub(r"[^A-Za-z0-9-]", "_", socket.gethostname())[:64] or "host"
        for _ in range(_ATTEMPTS):
            # Not `random`, which tests seed.
            self.name = f"{host}-{os.getpid()}-{time.time_ns()}-{os.urandom(4).hex()}.lock"
            self._path = directory / self.name
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | _FLAGS, 0o666)
            # Somebody who sweeps may have seen the file before it was locked.
            if _take(descriptor, shared=False) and os.fstat(descriptor).st_nlink:
                break
            os.close(descriptor)
        else:
            raise OSError(f"no lock can be taken in {directory.name}")
        self._descriptor = descriptor
        # Garbage that still held its lock would look alive until the process ends.
        self._closing = weakref.finalize(self, os.close, descriptor)
        self._closing.atexit = False

    def intact(self) -> bool:
        """Whether others can see it: the file was not removed under us."""
        return os.fstat(self._descriptor).st_nlink > 0

    def now(self) -> float:
        """The file system's own time, POSIX seconds; another host may keep another time."""
        os.utime(self._path)
        return os.stat(self._path).st_mtime

    def abandon(self) -> None:
        """Drops a forked child's copy; the lock stays with the parent."""
        self._closing()

    def close(self) -> None:
        """Ends it and removes its file. Never raises."""
        self._closing()
        # A file that stays is swept by whoever comes next.
        with contextlib.suppress(OSError):
            self._path.unlink()


def is_alive(directory: Path, name: str) -> bool:
    """Whether the process that a liveness file belongs to still lives; a missing file is a dead
    process. Raises OSError where the file cannot be read."""
    if not _NAME.fullmatch(name):
        return False
    with _probe(directory / name) as dead:
        return not dead


def sweep(directory: Path, own: str) -> Iterator[str]:
    """The names of dead processes' files, each removed after the caller is done with it."""
    for entry in sorted(directory.iterdir()):
        if entry.name == own or not _NAME.fullmatch(entry.name):
            continue
        # What another user left behind is theirs to remove.
        with contextlib.suppress(PermissionError), _probe(entry) as dead:
            if dead:
                yield entry.name
                entry.unlink(missing_ok=True)


@contextlib.contextmanager
def _probe(path: Path) -> Iterator[bool]:
    # Shared, so that two who look at once do not take each other for the owner. Held meanwhile, so
    # that a process that is just starting cannot lock a file that is about to be removed.
    try:
        descriptor = os.open(path, os.O_RDONLY | _FLAGS)
    except FileNotFoundError:
        yield True
        return
    try:
        yield _take(descriptor, shared=True)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[bool]:
    """Whether this process alone is inside; does not wait. Freed when the process dies."""
    # Imported where it is needed, which is rarely: it takes as long as a cold hit may.
    from filelock import FileLock, Timeout

    lock = FileLock(path, mode=0o666, thread_local=False)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()
