"""The process-wide state that hooks share: who listens, which thread is muted, and who handles
which audit event.

Hooks are installed once per process and tell every armed listener, so that a pytest run inside
a pytest run is seen by both.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from types import CodeType, FrameType, ModuleType
from typing import Any, Protocol

from pytest_taskcache.model.dependency import Kind


class Write(Enum):
    """What is about to happen to a path, as far as it differs for what was there before."""

    REPLACE = "replace"
    """Created, or emptied and rewritten: nothing of it remains."""
    CREATE = "create"
    """Created, and refused where it exists already."""
    ALTER = "alter"
    """Changed in part: appended to, truncated, its mode or times set."""
    REMOVE = "remove"
    """Unlinked, file or directory."""
    MAKE = "make"
    """Made as a directory."""


class Listener(Protocol):
    """Is told what happens in the process while armed. Paths are absolute; ``frame`` is that of
    the code that did it. May raise: the caller absorbs it."""

    def on_read(self, kind: Kind, path: str, frame: FrameType | None) -> None:
        """A path is about to be read, listed or looked at."""

    def on_working_directory(self, frame: FrameType | None) -> None:
        """A relative path is about to be used, or the working directory asked for."""

    def on_directory_change(self) -> None:
        """The working directory is about to change."""

    def on_change(self, path: str, write: Write) -> None:
        """A path is about to be changed."""

    def on_move(self, source: str, target: str) -> None:
        """A path is about to be renamed."""

    def on_link(self, source: str, target: str) -> None:
        """``target`` is about to become a link to ``source``."""

    def on_database(self, path: str, frame: FrameType | None) -> None:
        """A database file is about to be connected to, for reading and writing."""

    def on_distributions(self, name: str, frame: FrameType | None) -> None:
        """An installed distribution's metadata is looked up; ``*`` for all."""

    def on_variable(self, name: str, frame: FrameType | None) -> None:
        """An environment variable is about to be read."""

    def on_environment(self, frame: FrameType | None) -> None:
        """The whole environment is about to be read."""

    def on_variable_change(self, name: str) -> None:
        """An environment variable is about to be set or deleted."""

    def on_opaque(self, kind: str, detail: str, frame: FrameType | None) -> None:
        """Something whose effects cannot be observed is about to be done."""

    def on_native(self, path: str, kind: str, frame: FrameType | None) -> None:
        """A shared library is about to be loaded."""

    def on_bind(self, sock: Any) -> None:
        """A socket is about to be bound."""

    def on_connect(self, sock: Any, address: object, frame: FrameType | None) -> None:
        """A socket is about to connect or send to an address."""

    def on_code(self, code: CodeType) -> None:
        """Code is about to be executed or made into a function."""

    def on_execution(self, code: CodeType, frame: FrameType | None) -> None:
        """A module's body is about to be executed; ``frame`` is the importer's."""

    def on_import_tried(self, name: str, frame: FrameType | None) -> None:
        """An import that is not in ``sys.modules`` was begun."""

    def on_import_asked(
        self, name: str, module: ModuleType | None, frame: FrameType | None
    ) -> None:
        """``importlib.import_module`` returned this module, or failed."""

    def on_unnamed_code(self, code: CodeType, frame: FrameType | None) -> None:
        """Code that may be in no file of the project is about to be executed."""

    def on_own_write(self, path: str | None = None) -> None:
        """The cache, or someone unseen, changed this path, or any: earlier digests may be wrong."""

    def on_fork(self) -> None:
        """This is a forked child; nothing is observed here any more."""


class _Mute(threading.local):
    depth = 0


_mute = _Mute()


@contextmanager
def muted() -> Iterator[None]:
    """What this thread does inside is credited to no window. Writes inside still make earlier
    digests stale."""
    _mute.depth += 1
    try:
        yield
    finally:
        _mute.depth -= 1


def is_muted() -> bool:
    """Whether this thread is muted, by `muted` or because it is inside a hook."""
    return _mute.depth > 0


class Dispatcher:
    """The armed listeners. ``faults`` counts what hooks could not understand."""

    def __init__(self) -> None:
        self.listeners: tuple[Listener, ...] = ()
        self.faults = 0

    def tell(self, call: Callable[[Listener], None]) -> None:
        """Calls every listener with this thread muted; never raises."""
        _mute.depth += 1
        try:
            for listener in self.listeners:
                call(listener)
        except Exception:
            # A hook runs inside the user's own calls: whatever went wrong in it (a vanished
            # directory, a hostile path object) must not surface there. Counted, for reports.
            self.faults += 1
        finally:
            _mute.depth -= 1


dispatcher = Dispatcher()

# ------------------------------------------------------------------------- audit events

Handler = Callable[..., None]
"""Is given the frame that raised an audit event, and the event's arguments, as documented in the
audit events table of the Python docs."""

_handlers: dict[str, tuple[Handler, bool]] = {}
_active: dict[str, tuple[Handler, bool]] = {}
_installed = False


def handles(*events: str, even_muted: bool = False) -> Callable[[Handler], Handler]:
    """Makes a function the handler of these audit events, while anyone is armed."""

    def enter(handler: Handler) -> Handler:
        _handlers.update(dict.fromkeys(events, (handler, even_muted)))
        return handler

    return enter


def listen() -> None:
    """From now on audit events reach their handlers. The one audit hook of the process cannot be
    removed, so it is gated by its table: while that is empty an event costs one lookup."""
    global _installed
    _active.update(_handlers)
    if not _installed:
        _installed = True
        sys.addaudithook(_hook)


def silence() -> None:
    """No event reaches anyone."""
    _active.clear()


def _hook(
    event: str,
    arguments: tuple[Any, ...],
    find: Callable[[str], tuple[Handler, bool] | None] = _active.get,
) -> None:
    found = find(event)
    if found is None:
        return
    handler, even_muted = found
    if _mute.depth and not even_muted:
        return
    try:
        handler(sys._getframe(1), *arguments)
    except Exception:
        # An exception here would abort the user's own call. Arguments are whatever the user
        # passed (hostile path objects, closed sockets); what cannot be understood is counted.
        dispatcher.faults += 1
