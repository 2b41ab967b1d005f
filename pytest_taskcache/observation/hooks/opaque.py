"""Acts whose effects cannot be observed: child processes, forks, shared libraries, connections.

Details name the program, never its arguments, which may be secrets.
"""

from __future__ import annotations

import ipaddress
import os
import sys
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from types import FrameType, ModuleType
from typing import Any

from pytest_taskcache.observation.hooks.dispatcher import dispatcher, handles, is_muted
from pytest_taskcache.observation.hooks.file_hooks import absolute, is_file_of_interest
from pytest_taskcache.observation.hooks.replacing import Replacement, amend
from pytest_taskcache.originals import originals

SUBPROCESS = "subprocess"
FORK = "fork"
MULTIPROCESSING = "multiprocessing"
NATIVE = "native"
CTYPES = "ctypes"
NETWORK = "network"

POOLS = "concurrent.futures.thread"

CHILDREN = (SUBPROCESS, FORK, MULTIPROCESSING)
"""The kinds of acts that start another process."""

# The platform asks itself through a child, and the platform is in every key.
_PLATFORM = tuple(
    os.path.join("", *parts) for parts in (("platform.py",), ("uuid.py",), ("ctypes", "util.py"))
)
_wait: Callable[[int, int, int], object] | None = getattr(os, "waitid", None)
_MULTIPROCESSING = os.path.join("multiprocessing", "")
_LOCAL_NAMES = frozenset({"", "localhost", "localhost.localdomain", "ip6-localhost"})
_ANY = frozenset({"", "0.0.0.0", "::"})


def tell(kind: str, detail: str, frame: FrameType | None) -> None:
    """Tells of an opaque act; a muted one may have written anything."""
    if is_muted():
        dispatcher.tell(lambda listener: listener.on_own_write())
    else:
        dispatcher.tell(lambda listener: listener.on_opaque(kind, detail, frame))


def has_children() -> bool:
    """Whether a process that this one started may be alive; where the platform does not tell,
    always. One that outlives its parent is nobody's child, and what multiprocessing starts to
    clean up after it (`multiprocessing.resource_tracker`), and never ends, writes no files."""
    if _wait is None:
        return True
    try:
        _wait(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    tracker = _tracker()
    return not tracker or _started() != {tracker}


def children() -> set[str]:
    """The ids of the processes that `has_children` is about; none where the platform does not
    tell."""
    return _started() - {_tracker()}


def _tracker() -> str:
    module = sys.modules.get("multiprocessing.resource_tracker")
    return str(getattr(getattr(module, "_resource_tracker", None), "_pid", None) or "")


_LOOKS = 5
"""How often children are looked for while threads end."""


def _started() -> set[str]:
    """The ids of the processes that this one started and has not waited for; none where the
    platform does not tell (Linux does, if it was built so)."""
    found: set[str] = set()
    for _ in range(_LOOKS):
        missed = False
        with suppress(OSError):
            for thread in originals.listdir("/proc/self/task"):
                try:
                    with originals.open(f"/proc/self/task/{thread}/children") as stream:
                        found.update(stream.read().split())
                except OSError:  # it has ended since: its children are another one's
                    missed = True
        if not missed:
            break
    return found


@handles("subprocess.Popen", even_muted=True)
def _popen(frame: FrameType, executable: object, args: object, *more: object) -> None:
    outer: FrameType | None = frame
    while outer is not None and outer.f_code.co_filename.endswith("subprocess.py"):
        outer = outer.f_back
    if outer is None or not outer.f_code.co_filename.endswith(_PLATFORM):
        tell(SUBPROCESS, _program(executable) or _program(args), frame)


@handles("os.posix_spawn", "os.exec", even_muted=True)
def _spawn(frame: FrameType, path: object, *more: object) -> None:
    tell(SUBPROCESS, _program(path), frame)


@handles("os.system", even_muted=True)
def _system(frame: FrameType, command: object) -> None:
    tell(SUBPROCESS, "shell", frame)


@handles("os.fork", "os.forkpty", even_muted=True)
def _fork(frame: FrameType) -> None:
    tell(MULTIPROCESSING if _is_in_multiprocessing(frame) else FORK, "", frame)


def _fork_exec(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    caller = originals.getframe(2)
    if _is_in_multiprocessing(caller):
        tell(MULTIPROCESSING, "", caller)
    else:
        tell(SUBPROCESS, _program(args[0]), caller)


# Children that `multiprocessing` spawns raise no audit event. On Windows they do: spawning goes
# through _winapi there, and there is no such function.
spawning = Replacement("_posixsubprocess", "fork_exec", _fork_exec)


def _amend_subprocess(module: ModuleType) -> None:
    """Gives it the plain function: it has an audit event of its own."""
    space = vars(module)
    if space.get("_fork_exec") is spawning:
        space["_fork_exec"] = spawning.plain


def _amend_connections(module: ModuleType) -> None:
    """Has all that goes through a connection told: a pool that is there already starts no child."""
    for kind in filter(None, map(vars(module).get, ("Connection", "PipeConnection"))):
        for name in ("_send_bytes", "_recv_bytes"):
            setattr(kind, name, _talking(getattr(kind, name)))


def _talking(plain: Callable[..., Any]) -> Callable[..., Any]:
    def talk(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        if dispatcher.listeners and not is_muted():
            frame = originals.getframe(1)
            dispatcher.tell(lambda listener: listener.on_talk(frame))
        return plain(*args, **kwargs)

    return talk


def watch_imported() -> None:
    """Watches the connections of `multiprocessing`, what is handed to pools of threads, and
    `subprocess` as it is meant to be, from now on, once they are imported. Idempotent."""
    amend("subprocess", _amend_subprocess)
    amend("multiprocessing.connection", _amend_connections)
    amend(POOLS, _amend_pools)


def _start_thread(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    thread = getattr(args[0], "__self__", None)  # of its `_bootstrap`
    if isinstance(thread, threading.Thread):
        frame = originals.getframe(2)
        dispatcher.tell(lambda listener: listener.on_thread(thread, frame))


def _amend_pools(module: ModuleType) -> None:
    """Has what is handed to a pool of threads told, for which no thread may have to be started."""
    plain = module._WorkItem.__init__

    def note(self: Any, *args: Any, **kwargs: Any) -> None:
        plain(self, *args, **kwargs)
        if dispatcher.listeners and not is_muted():
            frame = originals.getframe(1)
            dispatcher.tell(lambda listener: listener.on_sent(self, frame))

    module._WorkItem.__init__ = note


# No audit event tells of it on 3.11.
_START = ("_start_joinable_thread", "_start_new_thread")
starting = Replacement(
    "threading", next(each for each in _START if hasattr(threading, each)), _start_thread
)


def _is_in_multiprocessing(frame: FrameType | None, depth: int = 8) -> bool:
    while frame is not None and depth:
        if _MULTIPROCESSING in frame.f_code.co_filename:
            return True
        frame, depth = frame.f_back, depth - 1
    return False


def _program(value: object) -> str:
    if isinstance(value, (list, tuple)) and value:
        value = value[0]
    if isinstance(value, (str, bytes, os.PathLike)):
        return os.path.basename(os.fsdecode(value).split()[0] if value else "")
    return ""


@handles("ctypes.dlopen", even_muted=True)
def _load_library(frame: FrameType, name: object) -> None:
    if isinstance(name, (str, bytes, os.PathLike)) and os.sep in os.fsdecode(name):
        _tell_native(name, CTYPES, frame)


@handles("import", even_muted=True)
def _load_extension(frame: FrameType, module: object, filename: object, *more: object) -> None:
    if filename is not None:
        _tell_native(filename, NATIVE, frame)


def _tell_native(name: object, kind: str, frame: FrameType) -> None:
    path = absolute(name)
    if path is not None and is_file_of_interest(path):
        dispatcher.tell(lambda listener: listener.on_native(path, kind, frame))


@handles("socket.bind")
def _bind(frame: FrameType, sock: Any, address: object) -> None:
    dispatcher.tell(lambda listener: listener.on_bind(sock))


@handles("socket.connect", "socket.sendto", "socket.sendmsg")
def _connect(frame: FrameType, sock: Any, address: object) -> None:
    if address is not None:
        dispatcher.tell(lambda listener: listener.on_connect(sock, address, frame))


@handles("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr", even_muted=True)
def _resolve(frame: FrameType, host: object, *more: object) -> None:
    if not _is_local_name(host):
        tell(NETWORK, describe(host), frame)


def describe(address: object) -> str:
    """An address for people: host and port, or a socket's path."""
    if isinstance(address, tuple) and len(address) >= 2:
        return f"{address[0]}:{address[1]}"
    if isinstance(address, (bytes, bytearray)):
        return bytes(address).decode("utf-8", "replace")
    return str(address)


def _is_local_name(host: object) -> bool:
    """Whether resolving a host asks nobody: none, localhost, or a literal address."""
    if host is None:
        return True
    if isinstance(host, (bytes, bytearray)):
        host = bytes(host).decode("ascii", "replace")
    if not isinstance(host, str):
        return False
    if host in _LOCAL_NAMES:
        return True
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


class Listeners:
    """The sockets bound during one window, held weakly."""

    def __init__(self) -> None:
        self._sockets: list[weakref.ref[Any]] = []

    def add(self, sock: Any) -> None:
        """A socket is about to be bound; its address is asked for when it matters."""
        self._sockets.append(weakref.ref(sock))

    def include(self, address: object) -> bool:
        """Whether one of them is bound to the address now."""
        found = (reference() for reference in self._sockets)
        return any(sock is not None and _same(_bound(sock), address) for sock in found)


def _bound(sock: Any) -> object:
    try:
        return sock.getsockname()
    except OSError:
        return None  # closed since


def _same(bound: object, address: object) -> bool:
    if isinstance(bound, tuple) and isinstance(address, tuple):
        return bound[1] == address[1] and (
            bound[0] == address[0] or bound[0] in _ANY or _is_local_name(address[0])
        )
    if bound in (None, "", b""):
        return False
    return describe(bound) == describe(address)
