"""The one audit hook of the process. It cannot be removed, so it is gated by its own table:
while nothing is armed the table is empty and an event costs one lookup."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from pytest_taskcache.observation.hooks.dispatcher import dispatcher

Handler = Callable[[tuple[Any, ...]], None]
"""Is given the event's arguments, as documented in the audit events table of the Python docs."""

_handlers: dict[str, Handler] = {}
_installed = False


def listen(handlers: dict[str, Handler]) -> None:
    """From now on these events reach their handlers; installs the hook the first time."""
    global _installed
    _handlers.update(handlers)
    if not _installed:
        _installed = True
        sys.addaudithook(_hook)


def silence() -> None:
    """No event reaches anyone."""
    _handlers.clear()


def _hook(
    event: str,
    arguments: tuple[Any, ...],
    find: Callable[[str], Handler | None] = _handlers.get,
) -> None:
    handler = find(event)
    if handler is None:
        return
    try:
        handler(arguments)
    except Exception:
        # An exception here would abort the user's own call. Arguments are whatever the user
        # passed (hostile path objects, closed sockets); what cannot be understood is counted.
        dispatcher.faults += 1
