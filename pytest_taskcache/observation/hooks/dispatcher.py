"""The process-wide state that hooks share: who listens, which thread is muted, and who handles
which audit event.

Hooks are installed once per process and tell every armed listener, so that a pytest run inside
a pytest run is seen by both.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from enum import Enum
from types import FrameType
from typing import Any, TypeAlias

from pytest_taskcache.originals import originals


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


Listener: TypeAlias = Any
"""Is told what happens in the process while armed: an `Observatory`, whose ``on_...`` methods say
what. Paths are absolute; ``frame`` is that of the code that did it. May raise: the caller absorbs
it."""


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
    """The armed listeners."""

    def __init__(self) -> None:
        self.listeners: tuple[Listener, ...] = ()

    def tell(self, call: Callable[[Listener], None]) -> None:
        """Calls every listener with this thread muted; never raises."""
        _mute.depth += 1
        try:
            for listener in self.listeners:
                call(listener)
        except Exception as error:
            self.fail("something", error, originals.getframe(1))
        finally:
            _mute.depth -= 1

    def fail(self, what: str, error: Exception, frame: FrameType) -> None:
        """A hook runs inside the user's own calls: whatever went wrong in it (a vanished directory,
        a hostile path object) must not surface there. Each listener is told that it missed
        something, and may not fail at that before it has noted it."""
        for listener in self.listeners:
            with muted(), suppress(Exception):
                listener.on_fault(f"{what} ({type(error).__name__}: {error})", frame)


dispatcher = Dispatcher()

Handler = Callable[..., None]
"""Is given the frame that raised an audit event, and the event's arguments, as documented in the
audit events table of the Python docs. ``object.__getattr__`` is known by the attribute's name."""

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
    if event == "object.__getattr__":
        event = arguments[1]  # most are of `f_code`: reading that shall cost no more than this
    found = find(event)
    if found is None:
        return
    handler, even_muted = found
    if _mute.depth and not even_muted:
        return
    try:
        handler(originals.getframe(1), *arguments)
    except Exception as error:  # arguments are whatever the user passed
        dispatcher.fail(event, error, originals.getframe(1))
