"""Files, by audit events: opens (failed ones too), listings, databases and every change."""

from __future__ import annotations

import os
import sys
from types import FrameType
from typing import Any
from urllib.parse import parse_qs, unquote

from pytest_taskcache.model.dependency import Kind
from pytest_taskcache.observation.hooks.audit import Handler
from pytest_taskcache.observation.hooks.callers import (
    Origin,
    asked_by_machinery,
    installed_directories,
    origin_of,
)
from pytest_taskcache.observation.hooks.dispatcher import (
    Listener,
    Write,
    dispatcher,
    is_muted,
    muted,
)

_INSTALLED = installed_directories()
_NO_FILES = ("<unknown>", "<string>", "<stdin>", "<fstring>")
_NOT_FILES = ("/proc/", "/dev/", "/sys/")
_IMPORTLIB = "<frozen importlib._bootstrap_external>"
_METADATA = os.path.join("importlib", "metadata", "__init__.py")
_COMPILED = (".pyc", ".pyo")
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def absolute(path: object, directory: object = -1) -> str | None:
    """The absolute path an argument means, now; None for a file descriptor, for what is no
    path, or where the working directory is gone."""
    if path is None:
        path = "."
    if isinstance(path, bool):
        return None
    if isinstance(path, int):
        return _of_descriptor(path)
    try:
        text = os.fsdecode(path)  # type: ignore[arg-type]
        if "\0" in text:
            return None
        if isinstance(directory, int) and directory >= 0 and not os.path.isabs(text):
            base = _of_descriptor(directory)
            return None if base is None else os.path.normpath(os.path.join(base, text))
        return os.path.abspath(text)
    except (TypeError, OSError, ValueError):
        return None


def _of_descriptor(descriptor: int) -> str | None:
    try:
        path = os.readlink(f"/proc/self/fd/{descriptor}")
    except OSError:
        return None
    return path if path.startswith("/") else None


def is_file_of_interest(path: str) -> bool:
    """Whether a path can be a dependency at all: neither installed, nor compiled, nor a window
    into the kernel (``/proc``, ``/dev``, ``/sys``)."""
    return not (
        path.startswith(_INSTALLED)
        or path.startswith(_NOT_FILES)
        or path.endswith(_COMPILED)
        or "__pycache__" in path
    )


def see(kind: Kind, path: object, frame: FrameType | None, directory: object = -1) -> None:
    """Tells of a read, a listing or a look at the status, if anyone listens."""
    if not dispatcher.listeners or is_muted():
        return
    if frame is not None:
        filename = frame.f_code.co_filename
        if filename.endswith(_METADATA):
            _tell_distributions(frame)
            return
        if filename == _IMPORTLIB and (
            kind is not Kind.FILE or str(path).endswith((".py", *_COMPILED))
        ):
            return
    if asked_by_machinery(frame, path):
        return
    text = absolute(path, directory)
    if text is None or not is_file_of_interest(text):
        return
    relative = type(path) is str and path[:1] != os.sep and directory == -1

    def tell(listener: Listener) -> None:
        if relative:
            listener.on_working_directory(frame)
        listener.on_read(kind, text, frame)

    dispatcher.tell(tell)


def _tell_distributions(frame: FrameType) -> None:
    """`importlib.metadata` looks at the import path: for one distribution, or for all."""
    name = "*"
    outer: FrameType | None = frame
    while outer is not None:
        if outer.f_code.co_name == "from_name" and outer.f_code.co_filename.endswith(_METADATA):
            name = str(outer.f_locals.get("name", "*"))
            break
        outer = outer.f_back
    dispatcher.tell(lambda listener: listener.on_distributions(name, frame))


def change(path: object, write: Write, directory: object = -1) -> None:
    """Tells of a change that is about to happen; a muted one is the cache's own."""
    text = absolute(path, directory)
    if text is None or not is_file_of_interest(text):
        return
    if is_muted():
        dispatcher.tell(lambda listener: listener.on_own_write(text))
    else:
        dispatcher.tell(lambda listener: listener.on_change(text, write))


def _is_no_file(path: object) -> bool:
    """Whether it is what code without a file is said to be from: where that cannot be parsed, the
    interpreter looks for the line all the same."""
    if path not in _NO_FILES:
        return False
    with muted():
        return not os.path.exists(path)


def _open(arguments: tuple[Any, ...]) -> None:
    path, mode, flags = arguments
    if isinstance(path, int):
        return
    if not flags & _WRITES:
        if dispatcher.listeners and not _is_no_file(path):
            frame = sys._getframe(2)
            if mode is None and _relative_to_descriptor(path, frame):
                return
            see(Kind.FILE, path, frame)
        return
    if flags & os.O_TRUNC:
        write = Write.REPLACE
    elif flags & os.O_EXCL:
        write = Write.CREATE
    else:
        write = Write.ALTER
    if flags & os.O_RDWR and write is Write.ALTER:
        see(Kind.FILE, path, sys._getframe(2))
    change(path, write)


def _relative_to_descriptor(path: object, frame: FrameType) -> bool:
    """`os.open` under `shutil.rmtree` and `os.fwalk`: the event leaves the directory out."""
    name = frame.f_code.co_name
    return name.startswith(("_rmtree", "_fwalk", "fwalk")) and not os.path.isabs(
        os.fsdecode(path)  # type: ignore[arg-type]
    )


def _list(arguments: tuple[Any, ...]) -> None:
    if dispatcher.listeners:
        see(Kind.LISTING, arguments[0], sys._getframe(2))


def _scan(arguments: tuple[Any, ...]) -> None:
    if not dispatcher.listeners or is_muted():
        return
    frame = sys._getframe(2)
    see(Kind.LISTING, arguments[0], frame)
    if origin_of(frame.f_code.co_filename) is not Origin.OUTSIDE:
        return  # the standard library asks its entries for their kind alone, or looks again
    directory = absolute(arguments[0])
    if directory is None or not is_file_of_interest(directory):
        return
    # Nothing shows what whoever has the entries asks them.
    with muted():
        try:
            names = os.listdir(directory)
        except OSError:
            return
    for name in names:
        see(Kind.STAT, os.path.join(directory, name), frame)


def _glob(arguments: tuple[Any, ...]) -> None:
    # Patterns without wildcards are looked up, since 3.13, by a call that nothing else shows.
    directory, pattern = arguments[0], os.fspath(arguments[1])
    if dispatcher.listeners and not any(char in pattern for char in "*?["):
        see(Kind.STAT, os.path.join(os.fspath(directory), pattern), sys._getframe(2))


def _rename(arguments: tuple[Any, ...]) -> None:
    source = absolute(arguments[0], arguments[2])
    target = absolute(arguments[1], arguments[3])
    if source is None or target is None or not is_file_of_interest(target):
        return
    if is_muted():
        dispatcher.tell(lambda listener: listener.on_own_write(target))
    else:
        dispatcher.tell(lambda listener: listener.on_move(source, target))


def _link(arguments: tuple[Any, ...]) -> None:
    _tell_link(absolute(arguments[0], arguments[2]), absolute(arguments[1], arguments[3]))


def _symlink(arguments: tuple[Any, ...]) -> None:
    target = absolute(arguments[1], arguments[2])
    if target is not None:
        base = os.path.dirname(target)
        _tell_link(absolute(os.path.join(base, os.fsdecode(arguments[0]))), target)


def _tell_link(source: str | None, target: str | None) -> None:
    if source is not None and target is not None and is_file_of_interest(target):
        dispatcher.tell(lambda listener: listener.on_link(source, target))


def _remove(arguments: tuple[Any, ...]) -> None:
    change(arguments[0], Write.REMOVE, arguments[1])


def _make(arguments: tuple[Any, ...]) -> None:
    change(arguments[0], Write.MAKE, arguments[2])


def _alter(arguments: tuple[Any, ...]) -> None:
    change(arguments[0], Write.ALTER)


def _remove_tree(arguments: tuple[Any, ...]) -> None:
    change(arguments[0], Write.REMOVE, -1 if len(arguments) < 2 else arguments[1])


def _change_directory(arguments: tuple[Any, ...]) -> None:
    dispatcher.tell(lambda listener: listener.on_directory_change())


def _database(arguments: tuple[Any, ...]) -> None:
    name = os.fsdecode(arguments[0])
    if name.startswith("file:"):
        name, _, query = name[5:].partition("?")
        name = unquote(name)
        if parse_qs(query).get("mode") == ["memory"]:
            return
        if name.startswith("//"):
            name = "/" + name[2:].partition("/")[2]
    if name in ("", ":memory:") or is_muted():
        return
    path = absolute(name)
    if path is not None and is_file_of_interest(path):
        frame = sys._getframe(2)
        dispatcher.tell(lambda listener: listener.on_database(path, frame))


EVENTS: dict[str, Handler] = {
    "open": _open,
    "os.listdir": _list,
    "os.scandir": _scan,
    "pathlib.Path.glob": _glob,
    "os.rename": _rename,
    "os.link": _link,
    "os.symlink": _symlink,
    "os.remove": _remove,
    "os.rmdir": _remove,
    "os.mkdir": _make,
    "os.truncate": _alter,
    "os.utime": _alter,
    "os.chmod": _alter,
    "os.chown": _alter,
    "os.setxattr": _alter,
    "os.removexattr": _alter,
    "shutil.rmtree": _remove_tree,
    "os.chdir": _change_directory,
    "os.fchdir": _change_directory,
    "sqlite3.connect": _database,
}
"""Handlers by audit event."""
