"""What the cache itself uses of the interpreter, taken before any test runs.

A test may replace ``time``, ``os``, ``sys`` or ``open`` by what it likes (mock, freezegun,
pyfakefs, time-machine). What lies in the slots here, and in `os_path`, is reached by no such
replacement: not by one of module attributes, nor by one that searches modules for references. The
wall clock is derived from ``perf_counter``, which time-machine leaves alone, since it changes the C
functions themselves.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from types import FrameType, FunctionType, SimpleNamespace
from typing import IO, TYPE_CHECKING, Any


class Originals:
    """Functions as they were when this module was imported."""

    __slots__ = (
        "_begin",
        "_epoch",
        "audit",
        "getcwd",
        "getframe",
        "listdir",
        "lstat",
        "open",
        "perf",
        "readlink",
        "scandir",
        "stat",
    )

    def __init__(self) -> None:
        self.perf: Callable[[], int] = time.perf_counter_ns
        self.stat: Callable[..., os.stat_result] = os.stat
        self.lstat: Callable[..., os.stat_result] = os.lstat
        self.listdir: Callable[[str | os.PathLike[str]], list[str]] = os.listdir
        self.scandir: Callable[[str | os.PathLike[str]], os._ScandirIterator[str]] = os.scandir
        self.open: Callable[[str], IO[str]] = open
        self.readlink: Callable[[str], str] = os.readlink
        self.getcwd: Callable[[], str] = os.getcwd
        self.audit: Callable[..., None] = sys.audit
        self.getframe: Callable[[int], FrameType] = sys._getframe
        self._begin = self.perf()
        self._epoch = time.time_ns()

    def now(self) -> int:
        """POSIX nanoseconds."""
        return self._epoch + self.perf() - self._begin

    def seconds(self) -> float:
        """POSIX seconds."""
        return self.now() / 1e9

    def monotonic(self) -> float:
        """Seconds of a clock that never goes back."""
        return self.perf() / 1e9


originals = Originals()


def _own_path() -> SimpleNamespace:
    """The functions of ``os.path``; what they call, each other and ``os``, is as it was, too."""
    names: dict[str, Any] = dict(vars(os.path))
    for name, found in names.items():
        if isinstance(found, FunctionType):
            copied = names[name] = FunctionType(
                found.__code__, names, name, found.__defaults__, found.__closure__
            )
            copied.__kwdefaults__ = found.__kwdefaults__
    names["os"] = SimpleNamespace(**vars(os))
    return SimpleNamespace(**names)


if TYPE_CHECKING:
    os_path = os.path
else:
    os_path = _own_path()
