"""Acts whose effects cannot be observed: child processes, forks, shared libraries.

Details name the program, never its arguments, which may be secrets.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from types import FrameType
from typing import Any

from pytest_taskcache.observation.hooks.audit import Handler
from pytest_taskcache.observation.hooks.dispatcher import dispatcher, is_muted
from pytest_taskcache.observation.hooks.files import absolute, is_file_of_interest

SUBPROCESS = "subprocess"
FORK = "fork"
MULTIPROCESSING = "multiprocessing"
NATIVE = "native"
CTYPES = "ctypes"
NETWORK = "network"

# The platform asks itself through a child, and the platform is in every key.
_PLATFORM = tuple(
    os.path.join("", *parts) for parts in (("platform.py",), ("uuid.py",), ("ctypes", "util.py"))
)
_MULTIPROCESSING = os.path.join("multiprocessing", "")


def tell(kind: str, detail: str, frame: FrameType | None) -> None:
    """Tells of an opaque act; a muted one may have written anything."""
    if is_muted():
        dispatcher.tell(lambda listener: listener.on_own_write())
    else:
        dispatcher.tell(lambda listener: listener.on_opaque(kind, detail, frame))


def _within(frame: FrameType | None, part: str, depth: int = 8) -> bool:
    while frame is not None and depth:
        if part in frame.f_code.co_filename:
            return True
        frame, depth = frame.f_back, depth - 1
    return False


def _program(value: object) -> str:
    if isinstance(value, (list, tuple)) and value:
        value = value[0]
    if isinstance(value, (str, bytes, os.PathLike)):
        return os.path.basename(os.fsdecode(value).split()[0] if value else "")
    return ""


def _popen(arguments: tuple[Any, ...]) -> None:
    frame = sys._getframe(2)
    outer: FrameType | None = frame
    while outer is not None and outer.f_code.co_filename.endswith("subprocess.py"):
        outer = outer.f_back
    if outer is not None and outer.f_code.co_filename.endswith(_PLATFORM):
        return
    tell(SUBPROCESS, _program(arguments[0]) or _program(arguments[1]), frame)


def _spawn(arguments: tuple[Any, ...]) -> None:
    tell(SUBPROCESS, _program(arguments[0]), sys._getframe(2))


def _system(arguments: tuple[Any, ...]) -> None:
    tell(SUBPROCESS, "shell", sys._getframe(2))


def _fork(arguments: tuple[Any, ...]) -> None:
    frame = sys._getframe(2)
    tell(MULTIPROCESSING if _within(frame, _MULTIPROCESSING) else FORK, "", frame)


def _load_library(arguments: tuple[Any, ...]) -> None:
    name = arguments[0]
    if isinstance(name, (str, bytes, os.PathLike)) and os.sep in os.fsdecode(name):
        _tell_native(name, CTYPES, sys._getframe(2))


def _load_extension(arguments: tuple[Any, ...]) -> None:
    if arguments[1] is not None:
        _tell_native(arguments[1], NATIVE, sys._getframe(2))


def _tell_native(name: object, kind: str, frame: FrameType) -> None:
    path = absolute(name)
    if path is not None and is_file_of_interest(path):
        dispatcher.tell(lambda listener: listener.on_native(path, kind, frame))


EVENTS: dict[str, Handler] = {
    "subprocess.Popen": _popen,
    "os.posix_spawn": _spawn,
    "os.exec": _spawn,
    "os.system": _system,
    "os.fork": _fork,
    "os.forkpty": _fork,
    "ctypes.dlopen": _load_library,
    "import": _load_extension,
}
"""Handlers by audit event."""


class Spawning:
    """A wrapper of ``_posixsubprocess.fork_exec``: children that `multiprocessing` spawns raise
    no audit event. `subprocess` took its reference early and has an event of its own."""

    def __init__(self) -> None:
        self._module: Any = None
        self._fork_exec: Any = None

    def __reduce__(self) -> tuple[Any, ...]:
        return (__import__, ("_posixsubprocess",))

    def fork_exec(self, *args: Any) -> Any:
        """As ``_posixsubprocess.fork_exec``."""
        if dispatcher.listeners:
            frame = sys._getframe(1)
            kind = MULTIPROCESSING if _within(frame, _MULTIPROCESSING) else SUBPROCESS
            tell(kind, "" if kind == MULTIPROCESSING else _program(args[0]), frame)
        return self._fork_exec(*args)

    def install(self) -> None:
        """Puts the wrapper in place, where the platform has the function."""
        try:
            self._module = import_module("_posixsubprocess")
        except ImportError:
            return  # Windows: spawning goes through _winapi, which multiprocessing audits itself
        import subprocess  # noqa: F401 - it must take its own reference before

        self._fork_exec = self._module.fork_exec
        self._module.fork_exec = self.fork_exec

    def remove(self) -> None:
        """Puts the original back."""
        if self._module is not None and self._module.fork_exec == self.fork_exec:
            self._module.fork_exec = self._fork_exec
        self._module = None


spawning = Spawning()
