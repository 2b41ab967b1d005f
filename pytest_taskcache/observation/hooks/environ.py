"""Reads and writes of `os.environ` and `os.environb`, by a class swapped in place.

References taken early (``from os import environ, getenv``) are covered, since the objects stay
the same. Not seen: ``os.environ._data``, what a child process inherits, C code that reads TZ,
LANG and their like: those belong in the base key. ``__tracebackhide__`` keeps the recorder out
of pytest's reports, e.g. of a variable that is missing.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

from pytest_taskcache.observation.hooks.callers import asked_by_machinery
from pytest_taskcache.observation.hooks.dispatcher import dispatcher, handles
from pytest_taskcache.originals import originals

EVERYTHING = "*"
"""The name that stands for all variables."""

_MARK = " (at start)"

NEVER = frozenset({"PYTEST_CURRENT_TEST"})
"""Set by the runner for each phase of each test; says nothing that the key does not."""

_MONKEYPATCH = os.path.join("_pytest", "monkeypatch.py")
_AROUND = (_MONKEYPATCH, os.path.join("hooks", "patches.py"))
_MOCK = os.path.join("unittest", "mock.py")
_OS = os.__file__
_PLAIN: Any = os._Environ
_MAPPINGS = "<frozen _collections_abc>"


READ = "pytest_taskcache.read_variable"
READ_ALL = "pytest_taskcache.read_environment"
WRITE = "pytest_taskcache.change_variable"
"""Our own audit events: by way of them, because what an audit hook does is not traced."""


class _Iteration(threading.local):
    """The names that a thread's last iteration yielded and has not looked up yet, last first:
    looking them up in this order is part of reading the whole."""

    pending: list[Any] = []  # noqa: RUF012 - the default of every thread, never mutated


_iteration = _Iteration()


def _counts(key: object) -> bool:
    return isinstance(key, (str, bytes)) and key not in NEVER


class _Recorder(os._Environ[Any]):
    """Tells of what is done to an environment mapping, and is one in all else."""

    def __getitem__(self, key: Any) -> Any:
        __tracebackhide__ = True
        if dispatcher.listeners and _counts(key):
            pending = _iteration.pending
            if pending and pending[-1] == key:
                pending.pop()
            else:
                if pending:
                    _iteration.pending = []
                originals.audit(READ, key)
        return super().__getitem__(key)

    def __setitem__(self, key: Any, value: Any) -> None:
        __tracebackhide__ = True
        if dispatcher.listeners and _counts(key):
            originals.audit(WRITE, key)
        super().__setitem__(key, value)

    def __delitem__(self, key: Any) -> None:
        __tracebackhide__ = True
        if dispatcher.listeners and _counts(key):
            originals.audit(WRITE, key)
        super().__delitem__(key)

    def __iter__(self) -> Iterator[Any]:
        names = list(super().__iter__())
        if dispatcher.listeners:
            originals.audit(READ_ALL, [name for name in names if _counts(name)])
        return iter(names)

    def clear(self) -> None:
        """Reads nothing: the inherited one looks at all that is left for each that goes."""
        for name in list(super().__iter__()):
            del self[name]

    def __len__(self) -> int:
        if dispatcher.listeners:
            originals.audit(READ_ALL, None)
        return super().__len__()

    def __repr__(self) -> str:
        if dispatcher.listeners:
            originals.audit(READ_ALL, None)
        return super().__repr__()

    def __reduce_ex__(self, protocol: Any) -> Any:
        # Copies are plain: they are no longer the process's environment.
        reduced = super().__reduce_ex__(protocol)
        if isinstance(reduced, tuple) and reduced[1] and reduced[1][0] is type(self):
            return (reduced[0], (os._Environ, *reduced[1][1:]), *reduced[2:])
        return reduced


# A type check by name, a repr of the class and a pickle must not show the difference.
_Recorder.__name__ = _Recorder.__qualname__ = "_Environ"
_Recorder.__module__ = "os"


def _name(key: object) -> str | None:
    if isinstance(key, bytes):
        key = os.fsdecode(key)
    return key if isinstance(key, str) and key not in NEVER else None


@handles(READ)
def _read(frame: FrameType, key: object) -> None:
    name = _name(key)
    caller = _outside_os(frame.f_back)
    if name is None or _is_bookkeeping(caller):
        return
    caller = _beyond_monkeypatch(caller)
    if not asked_by_machinery(caller):
        dispatcher.tell(lambda listener: listener.on_variable(name, caller))


@handles(READ_ALL)
def _read_all(frame: FrameType, names: list[Any] | None) -> None:
    caller = _outside_os(frame.f_back)
    if names is not None:
        _iteration.pending = names[::-1]
    if not _is_bookkeeping(caller) and not asked_by_machinery(caller):
        dispatcher.tell(lambda listener: listener.on_environment(caller))


@handles(WRITE, even_muted=True)
def _write(frame: FrameType, key: object) -> None:
    name = _name(key)
    if name is not None:
        caller = _outside_os(frame.f_back)
        dispatcher.tell(lambda listener: listener.on_variable_change(name, caller))


def _outside_os(frame: FrameType | None) -> FrameType | None:
    while frame is not None and frame.f_code.co_filename in (_OS, _MAPPINGS, "<frozen os>"):
        frame = frame.f_back
    return frame


def _is_bookkeeping(frame: FrameType | None) -> bool:
    """Whether `mock.patch.dict` saves or restores the environment: that is no read."""
    return frame is not None and (
        frame.f_code.co_filename.endswith(_MOCK)
        and frame.f_code.co_name in ("_patch_dict", "_unpatch_dict", "_clear_dict")
    )


def _beyond_monkeypatch(frame: FrameType | None) -> FrameType | None:
    """The frame to credit. `monkeypatch` reads what it is about to replace, which does not
    matter, unless it prepends to it or fails where it is missing."""
    if frame is None or not frame.f_code.co_filename.endswith(_MONKEYPATCH):
        return frame
    name = frame.f_code.co_name
    matters = name == "setenv" or (
        name in ("delitem", "delenv") and bool(frame.f_locals.get("raising"))
    )
    outer: FrameType | None = frame
    while matters and outer is not None and outer.f_code.co_filename.endswith(_AROUND):
        outer = outer.f_back
    return outer


def install() -> None:
    """Starts recording."""
    for environment in _ENVIRONMENTS:
        if type(environment) is os._Environ:
            environment.__class__ = _Recorder


def remove() -> None:
    """Stops recording."""
    for environment in _ENVIRONMENTS:
        if type(environment) is _Recorder:
            environment.__class__ = _PLAIN


def present(name: str) -> bytes | None:
    """A variable's value now, encoded; None where it is not set."""
    return _DATA.get(os.fsencode(name))


def snapshot() -> dict[bytes, bytes]:
    """A copy of the environment now, encoded, read past the recorder."""
    return _DATA.copy()


# Taken when this is imported: a test may put any mapping in place of `os.environ`. Both objects
# share one dictionary, which is written through to the process's environment.
_ENVIRONMENTS: list[Any] = [os.environ, *([os.environb] if os.supports_bytes_environ else [])]
_DATA: dict[bytes, bytes] = os.environ._data  # type: ignore[attr-defined]


def same(left: dict[bytes, bytes], right: dict[bytes, bytes]) -> bool:
    """Whether two encoded environments are equal in all that counts."""
    return left == right or _counting(left) == _counting(right)


def _counting(environment: dict[bytes, bytes]) -> dict[bytes, bytes]:
    counting = environment.copy()
    for name in NEVER:
        counting.pop(os.fsencode(name), None)
    return counting


def at_start(name: str) -> str:
    """The name, in traces, of a variable's value when observation began.

    What a module read while it was imported hangs on the value of that moment. A later look-up
    happens after all imports, when the project itself may have set the variable.
    """
    return name + _MARK


def without_mark(name: str) -> str:
    """The inverse of `at_start`; other names as they are."""
    return name.removesuffix(_MARK)
