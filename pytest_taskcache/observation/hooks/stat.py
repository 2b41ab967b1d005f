"""Existence and status checks, which raise no audit event: `os.stat`, `os.lstat`, `os.access`,
`os.readlink` and `os.getcwd` are replaced by wrappers while anything is armed.

`os.path.exists`, `Path.exists`, `shutil.which` and their like call them at run time, so they
are covered. Bound methods, because plain functions would rebind as class attributes. Not seen:
references taken before arming (``from os import stat``), ``DirEntry.stat``, ``os.fstat``.
``__tracebackhide__`` keeps the wrappers out of pytest's reports of what fails in them.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from pytest_taskcache.model.dependency import Kind
from pytest_taskcache.observation.hooks.audit import Handler
from pytest_taskcache.observation.hooks.callers import asked_by_machinery
from pytest_taskcache.observation.hooks.dispatcher import Dispatcher, dispatcher, is_muted
from pytest_taskcache.observation.hooks.files import see

_WRAPPED = ("stat", "lstat", "access", "readlink", "getcwd")
_CAPABILITIES = (
    "supports_dir_fd",
    "supports_effective_ids",
    "supports_fd",
    "supports_follow_symlinks",
)
_RESOLVING = frozenset({"realpath", "_joinrealpath"})


class StatHooks:
    """The wrappers. Each behaves as what it wraps, and pickles as it."""

    def __init__(self, told: Dispatcher) -> None:
        self._told = told
        self._stat = os.stat
        self._lstat = os.lstat
        self._access = os.access
        self._readlink = os.readlink
        self._getcwd = os.getcwd

    def __reduce__(self) -> tuple[Any, ...]:
        return (__import__, ("os",))

    def stat(self, *args: Any, **kwargs: Any) -> os.stat_result:
        """As `os.stat`."""
        __tracebackhide__ = True
        if self._told.listeners:
            _look(args, kwargs)
        return self._stat(*args, **kwargs)

    def lstat(self, *args: Any, **kwargs: Any) -> os.stat_result:
        """As `os.lstat`."""
        __tracebackhide__ = True
        # Resolving a path asks of every component whether it is a link. That most are not is
        # noise: it would tie each trace to the checkout's place in the file system.
        if self._told.listeners and sys._getframe(1).f_code.co_name not in _RESOLVING:
            _look(args, kwargs)
        return self._lstat(*args, **kwargs)

    def access(self, *args: Any, **kwargs: Any) -> bool:
        """As `os.access`."""
        __tracebackhide__ = True
        if self._told.listeners:
            _look(args, kwargs)
        return self._access(*args, **kwargs)

    def readlink(self, *args: Any, **kwargs: Any) -> Any:
        """As `os.readlink`."""
        __tracebackhide__ = True
        if self._told.listeners:
            _look(args, kwargs)
        return self._readlink(*args, **kwargs)

    def getcwd(self) -> str:
        """As `os.getcwd`."""
        __tracebackhide__ = True
        if self._told.listeners:
            sys.audit(WORKING_DIRECTORY)
        return self._getcwd()

    def install(self) -> None:
        """Puts the wrappers in place."""
        for name in _WRAPPED:
            self._swap(name, getattr(self, f"_{name}"), getattr(self, name))

    def remove(self) -> None:
        """Puts the originals back; references to the wrappers go on working, unseen."""
        for name in _WRAPPED:
            self._swap(name, getattr(self, name), getattr(self, f"_{name}"))

    def _swap(self, name: str, before: Any, after: Any) -> None:
        if getattr(os, name) != before:
            return  # someone wrapped it after us; theirs calls ours, which are gated
        for capability in _CAPABILITIES:
            group = getattr(os, capability)
            if before in group:
                group.discard(before)
                group.add(after)
        setattr(os, name, after)


def _look(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    path = args[0] if args else kwargs.get("path")
    if path is None or is_muted():
        return
    # By way of an audit event, because what an audit hook does is not traced: under
    # `sys.settrace` each call of ours would cost as much as all of this.
    sys.audit(LOOK, path, kwargs.get("dir_fd"))


def _looked(arguments: tuple[Any, ...]) -> None:
    path, directory = arguments
    if not isinstance(path, int):
        # Frames: this, the audit hook, _look, the wrapper, its caller.
        see(Kind.STAT, path, sys._getframe(4), -1 if directory is None else directory)


def _asked_where(arguments: tuple[Any, ...]) -> None:
    if is_muted():
        return
    frame = sys._getframe(3)  # this, the audit hook, the wrapper, its caller
    if not asked_by_machinery(frame):
        dispatcher.tell(lambda listener: listener.on_working_directory(frame))


LOOK = "pytest_taskcache.look"
"""Our own audit event: a path, and the descriptor it is relative to or None."""

WORKING_DIRECTORY = "pytest_taskcache.working_directory"
"""Our own audit event, without arguments."""

EVENTS: dict[str, Handler] = {LOOK: _looked, WORKING_DIRECTORY: _asked_where}
"""Handlers by audit event."""

stat_hooks = StatHooks(dispatcher)
