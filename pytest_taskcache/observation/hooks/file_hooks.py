"""Files: opens (failed ones too), listings, databases and every change by audit events; looks at
existence and status, which raise none, by wrappers of `os.stat` and its like.

`os.path.exists`, `Path.exists`, `shutil.which` and their like call the wrapped functions at run
time, so they are covered. Not seen: references taken before arming (``from os import stat``),
``DirEntry.stat``, ``os.fstat``. ``__tracebackhide__`` keeps the wrappers out of pytest's reports
of what fails in them.
"""

from __future__ import annotations

import linecache
import os
from collections.abc import Callable
from types import FrameType, FunctionType
from typing import Any
from urllib.parse import parse_qs, unquote

from pytest_taskcache.code.distributions import installed_directories, library_directories
from pytest_taskcache.model.dependency import Kind
from pytest_taskcache.observation.hooks.callers import ActsFor, asked_by_machinery, origin_of
from pytest_taskcache.observation.hooks.dispatcher import (
    Listener,
    Write,
    dispatcher,
    handles,
    is_muted,
    muted,
)
from pytest_taskcache.observation.hooks.replacing import Replacement
from pytest_taskcache.originals import originals, os_path

_INSTALLED = installed_directories()
_LIBRARIES = library_directories()
_NO_FILES = ("<unknown>", "<string>", "<stdin>", "<fstring>")
_NOT_FILES = ("/proc/", "/dev/", "/sys/")
_IMPORTLIB = "<frozen importlib._bootstrap_external>"
_HOOKS = os.path.join(os.path.dirname(os_path.abspath(__file__)), "")
_METADATA = os.path.join("importlib", "metadata", "__init__.py")
_COMPILED = (".pyc", ".pyo")
_MODULES = (".py", ".pyw", *_COMPILED)
_REMEMBERING = {"cmp": f"{os.sep}filecmp.py", "find": f"{os.sep}gettext.py"}
"""Functions, with their files, that may not read a file again that looks as before, or is there."""
_INSPECT = f"{os.sep}inspect.py"
_LINECACHE = linecache.getlines.__code__.co_filename
_RESOLVING = frozenset({"realpath", "_joinrealpath"})
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def absolute(path: object, directory: object = -1) -> str | None:
    """The absolute path an argument means, now; None for a file descriptor, for what is no
    path, or where the working directory is gone."""
    if path is None:
        path = "."
    if isinstance(path, bool):
        return None
    try:
        text = "" if isinstance(path, int) else os.fsdecode(path)  # type: ignore[arg-type]
    except Exception:  # of an own ``__fspath__``: the call that it is for fails at it, too
        return None
    try:
        if isinstance(path, int):
            return _of_descriptor(path)
        if "\0" in text:
            return None
        if not os.path.isabs(text):
            relative = isinstance(directory, int) and directory >= 0
            base = _of_descriptor(directory) if relative else originals.getcwd()
            if base is None:
                return None
            text = os.path.join(base, text)
        return os.path.normpath(text)
    except (OSError, ValueError):
        return None


def _of_descriptor(descriptor: object) -> str | None:
    path = originals.readlink(f"/proc/self/fd/{descriptor}")
    return path if path.startswith("/") else None


def is_file_of_interest(path: str) -> bool:
    """Whether a path can be a dependency at all: neither installed, nor compiled, nor a window
    into the kernel (``/proc``, ``/dev``, ``/sys``)."""
    return not (
        path.startswith(_INSTALLED)
        or f"{path}/".startswith(_NOT_FILES)
        or path.endswith(_COMPILED)
        or "__pycache__" in path
    )


def see(kind: Kind, path: object, frame: FrameType | None, directory: object = -1) -> None:
    """Tells of a read, a listing or a look at the status."""
    if frame is not None:
        filename = frame.f_code.co_filename
        if filename.endswith(_METADATA):
            _tell_distributions(frame)
            return
        if filename == _IMPORTLIB and (kind is not Kind.FILE or _is_import(frame, path)):
            return
    if asked_by_machinery(frame, path):
        return
    text = absolute(path, directory)
    if text is None:
        return
    if kind is Kind.LISTING and text in _LIBRARIES:  # for what lies there counts by that
        dispatcher.tell(lambda listener: listener.on_distributions("*", frame))
    if not is_file_of_interest(text):
        return
    relative = type(path) is str and path[:1] != os.sep and directory == -1

    def tell(listener: Listener) -> None:
        if relative:
            listener.on_working_directory(frame)
        listener.on_read(kind, text, frame)

    dispatcher.tell(tell)


def _is_import(frame: FrameType | None, path: object) -> bool:
    """Whether a loader reads a module that it is about to execute; else it was asked for text or
    data, or reads what is no module by its name, so that it counts as a file."""
    if not str(path).endswith(_MODULES):
        return False
    while frame is not None and frame.f_code.co_name in ("get_data", "get_code"):
        frame = frame.f_back
    return frame is not None and frame.f_code.co_name == "exec_module"


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


@handles("open", even_muted=True)
def _open(frame: FrameType, path: object, mode: object, flags: int) -> None:
    if isinstance(path, int):
        return
    if not flags & _WRITES:
        if not is_muted() and not _is_no_file(path) and not _is_bare(path, mode, frame):
            see(Kind.FILE, path, frame)
        return
    if flags & os.O_TRUNC:
        write = Write.REPLACE
    elif flags & os.O_EXCL:
        write = Write.CREATE
    else:
        write = Write.ALTER
    if flags & os.O_RDWR and write is Write.ALTER and not is_muted():
        see(Kind.FILE, path, frame)
    change(path, write)


def _is_no_file(path: object) -> bool:
    """Whether it is what code without a file is said to be from: where that cannot be parsed, the
    interpreter looks for the line all the same."""
    if path not in _NO_FILES:
        return False
    with muted():
        return not os_path.exists(path)


def _is_bare(path: object, mode: object, frame: FrameType) -> bool:
    """Whether it is a name in an open directory, which the event of `os.open` leaves out: under
    `shutil.rmtree` and `os.fwalk`."""
    return (
        mode is None
        and frame.f_code.co_name.startswith(("_rmtree", "_fwalk", "fwalk"))
        and not os.path.isabs(os.fsdecode(path))  # type: ignore[arg-type]
    )


@handles("os.listdir")
def _list(frame: FrameType, path: object) -> None:
    see(Kind.LISTING, path, frame)


@handles("os.scandir")
def _scan(frame: FrameType, path: object) -> None:
    see(Kind.LISTING, path, frame)
    if origin_of(frame.f_code.co_filename) is not ActsFor.OUTSIDE:
        return  # the standard library asks its entries for their kind alone, or looks again
    directory = absolute(path)
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


@handles("pathlib.Path.glob")
def _glob(frame: FrameType, directory: Any, pattern: Any) -> None:
    # Patterns without wildcards are looked up, since 3.13, by a call that nothing else shows.
    pattern = os.fspath(pattern)
    if not any(char in pattern for char in "*?["):
        see(Kind.STAT, os.path.join(os.fspath(directory), pattern), frame)


@handles("sqlite3.connect")
def _database(frame: FrameType, name: Any) -> None:
    name = os.fsdecode(name)
    if name.startswith("file:"):
        name, _, query = name[5:].partition("?")
        name = unquote(name)
        if parse_qs(query).get("mode") == ["memory"]:
            return
        if name.startswith("//"):
            name = "/" + name[2:].partition("/")[2]
    if name in ("", ":memory:"):
        return
    path = absolute(name)
    if path is not None and is_file_of_interest(path):
        dispatcher.tell(lambda listener: listener.on_database(path, frame))


def change(path: object, write: Write, directory: object = -1) -> None:
    """Tells of a change that is about to happen; a muted one is the cache's own."""
    _tell_change(absolute(path, directory), lambda listener, text: listener.on_change(text, write))


def _tell_change(target: str | None, tell: Callable[[Listener, str], None]) -> None:
    if target is None or not is_file_of_interest(target):
        return
    if is_muted():
        dispatcher.tell(lambda listener: listener.on_own_write(target))
    else:
        dispatcher.tell(lambda listener: tell(listener, target))


@handles("os.remove", "os.rmdir", "shutil.rmtree", even_muted=True)
def _remove(frame: FrameType, path: object, directory: object = -1) -> None:
    change(path, Write.REMOVE, directory)


@handles("os.mkdir", even_muted=True)
def _make(frame: FrameType, path: object, mode: object, directory: object) -> None:
    change(path, Write.MAKE, directory)


@handles(
    "os.truncate",
    "os.utime",
    "os.chmod",
    "os.chown",
    "os.setxattr",
    "os.removexattr",
    even_muted=True,
)
def _alter(frame: FrameType, path: object, *more: object) -> None:
    change(path, Write.ALTER)


@handles("os.rename", even_muted=True)
def _rename(frame: FrameType, source: object, target: object, above: object, below: object) -> None:
    moved = absolute(source, above)
    if moved is not None:
        _tell_change(absolute(target, below), lambda listener, text: listener.on_move(moved, text))


@handles("os.link", even_muted=True)
def _link(frame: FrameType, source: object, target: object, above: object, below: object) -> None:
    _tell_link(absolute(source, above), absolute(target, below))


@handles("os.symlink", even_muted=True)
def _symlink(frame: FrameType, source: Any, target: object, directory: object) -> None:
    link = absolute(target, directory)
    if link is not None:
        _tell_link(absolute(os.path.join(os.path.dirname(link), os.fsdecode(source))), link)


def _tell_link(source: str | None, target: str | None) -> None:
    if source is not None:
        _tell_change(target, lambda listener, text: listener.on_link(source, text))


@handles("os.chdir", "os.fchdir", even_muted=True)
def _change_directory(frame: FrameType, path: object) -> None:
    dispatcher.tell(lambda listener: listener.on_directory_change())


LOOK = "pytest_taskcache.look"
"""Our own audit event: a path, and the descriptor it is relative to or None. By way of events,
because what an audit hook does is not traced: under `sys.settrace` each call of ours would cost
as much as all of this."""

LINES = "pytest_taskcache.lines"
"""Our own audit event: a path, whose lines `linecache` was asked for."""

WORKING_DIRECTORY = "pytest_taskcache.working_directory"
"""Our own audit event, without arguments."""


def _look(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    path = args[0] if args else kwargs.get("path")
    if path is None or isinstance(path, int) or is_muted() or _is_rendered(path):
        return
    originals.audit(LOOK, path, kwargs.get("dir_fd"))


def _look_at_link(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    # Resolving a path asks of every component whether it is a link. That most are not is
    # noise: it would tie each trace to the checkout's place in the file system.
    caller = None if is_muted() else _caller(originals.getframe(2))
    if caller is not None and caller.f_code.co_name not in _RESOLVING:
        _look(args, kwargs)


@handles(LOOK)
def _looked(frame: FrameType, path: Any, directory: object) -> None:
    asking, kind = _asking(frame), Kind.STAT
    if _seeks_module(asking):
        return
    for caller in (asking, asking and asking.f_back):
        if caller is None:
            break
        code = caller.f_code
        name = code.co_name
        if name == "samefile":
            os.path.realpath(path)  # looks at the links on the way
        elif name in _REMEMBERING and code.co_filename.endswith(_REMEMBERING[name]):
            kind = Kind.FILE
    see(kind, path, asking, -1 if directory is None else directory)


def _seeks_module(frame: FrameType | None) -> bool:
    """Whether `inspect.getmodule` looks, for ``inspect.stack`` say: at the files of all modules, to
    find which is that of one file. Whoever wants the text of that asks for it."""
    for _ in range(3):
        frame = frame and frame.f_back
    if frame is None:
        return False
    code = frame.f_code
    return code.co_name == "getmodule" and code.co_filename.endswith(_INSPECT)


def _ask_where(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    originals.audit(WORKING_DIRECTORY)


@handles(WORKING_DIRECTORY)
def _asked_where(frame: FrameType) -> None:
    caller = _asking(frame)
    if not asked_by_machinery(caller):
        dispatcher.tell(lambda listener: listener.on_working_directory(caller))


def _asking(frame: FrameType | None) -> FrameType | None:
    """Who called the replacement that raised an event of ours."""
    while frame is not None and frame.f_code.co_filename.startswith(_HOOKS):
        frame = frame.f_back
    return _caller(frame)


def _caller(frame: FrameType | None) -> FrameType | None:
    """This frame; its caller where it is that of a wrapper which somebody put around a function of
    ours, as `blockbuster` does."""
    for name in _LOOKING:
        function = getattr(os, name)
        if type(function) is FunctionType and frame and function.__code__ is frame.f_code:
            return frame.f_back
    return frame


def _is_rendered(path: object) -> bool:
    """Whether `traceback` has `linecache` show a line of source, as asyncio's debug mode does for
    each callback: told as by `asked_by_machinery`, before anything else is done."""
    asking: FrameType | None = originals.getframe(3)
    if asking and asking.f_code.co_filename != _LINECACHE:
        asking = _caller(asking)
        if asking is None or asking.f_code.co_filename != _LINECACHE:
            return False
    caller = asking and asking.f_back
    if caller is None or not str(path).endswith((".py", ".pyw")):
        return False
    return origin_of(caller.f_code.co_filename) is ActsFor.RENDERING


def _ask_for_lines(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    # They may be remembered.
    path = args[0] if args else kwargs.get("filename")
    if path is not None and not is_muted() and not _is_rendered(path):
        originals.audit(LINES, path)


@handles(LINES)
def _asked_for_lines(frame: FrameType, path: object) -> None:
    if isinstance(path, str) and not path.startswith("<"):
        see(Kind.FILE, path, _asking(frame))


_LOOKING = {"stat": _look, "access": _look, "readlink": _look, "lstat": _look_at_link}
REPLACED = (
    *(Replacement("os", name, _LOOKING[name]) for name in _LOOKING),
    Replacement("os", "getcwd", _ask_where),
    Replacement("linecache", "getlines", _ask_for_lines),
)
