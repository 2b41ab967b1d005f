"""The file descriptors that a library keeps open, and what to do when somebody closed them.

A test may close what it did not open (``os.closerange(3, 256)``), and open files of its own, which
then get these numbers. A library that goes on writes into the test's files, or waits for locks that
are not there; one that is closed closes the test's files. So descriptors are looked at before they
are used, and lost ones are put back for as long as the library needs to close in peace.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

_ABOVE = 512


def _moved_away(descriptor: int) -> int | None:
    """A copy of a descriptor with a number that is in nobody's way; None if it is closed."""
    for lowest in (_ABOVE, 0):
        with contextlib.suppress(OSError):
            return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, lowest)
    return None


class Descriptors:
    """Those of this process that are open on some paths now, but for those with the numbers
    ``without``; none where they cannot be told."""

    def __init__(self, paths: Iterable[str | Path], without: Collection[int] = ()) -> None:
        self._open: list[tuple[int, int, int, str]] = []
        self._stat = os.fstat
        wanted = {}
        for place in paths:
            with contextlib.suppress(OSError):
                info = os.stat(place)
                wanted[info.st_dev, info.st_ino] = str(place)
        try:
            numbers = sorted(int(name) for name in os.listdir("/dev/fd")) if wanted else []
        except (OSError, ValueError):
            return
        for number in numbers:
            with contextlib.suppress(OSError):
                info = os.fstat(number)
                path = wanted.get((info.st_dev, info.st_ino))
                if path is not None and number not in without:
                    self._open.append((number, info.st_dev, info.st_ino, path))

    def numbers(self) -> set[int]:
        """The descriptors."""
        return {number for number, *_ in self._open}

    def intact(self, every: bool = True) -> bool:
        """Whether all of them, or at least the first, are as they were (half a microsecond each;
        fifteen in a sandbox that emulates the kernel)."""
        try:
            for number, device, inode, _ in self._open if every else self._open[:1]:
                info = self._stat(number)
                if info.st_ino != inode or info.st_dev != device:
                    return False
        except OSError:
            return False
        return True

    @contextlib.contextmanager
    def restored(self) -> Iterator[None]:
        """Inside, the numbers lead to the right files again, so that their owner can close them;
        afterwards to what they led to before, if to anything."""
        others: list[tuple[int, int, bool]] = []
        for number, device, inode, path in self._open:
            with contextlib.suppress(OSError):
                info = os.fstat(number)
                if (info.st_dev, info.st_ino) == (device, inode):
                    continue
                inheritable = os.get_inheritable(number)
                if (copy := _moved_away(number)) is not None:
                    others.append((copy, number, inheritable))
            try:
                right = os.open(path, os.O_RDWR)
            except OSError:
                right = os.open(os.devnull, os.O_RDWR)
            if right != number:
                os.dup2(right, number, inheritable=False)
                os.close(right)
        try:
            yield
        finally:
            for copy, number, inheritable in others:
                os.dup2(copy, number, inheritable=inheritable)
                os.close(copy)
