"""Connections and look-ups of names, by audit events of `socket`."""

from __future__ import annotations

import ipaddress
import sys
import weakref
from typing import Any

from pytest_taskcache.observation.hooks.audit import Handler
from pytest_taskcache.observation.hooks.dispatcher import dispatcher, is_muted
from pytest_taskcache.observation.hooks.processes import NETWORK, tell

_LOCAL_NAMES = frozenset({"", "localhost", "localhost.localdomain", "ip6-localhost"})
_ANY = frozenset({"", "0.0.0.0", "::"})


def is_local_name(host: object) -> bool:
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


def describe(address: object) -> str:
    """An address for people: host and port, or a socket's path."""
    if isinstance(address, tuple) and len(address) >= 2:
        return f"{address[0]}:{address[1]}"
    if isinstance(address, (bytes, bytearray)):
        return bytes(address).decode("utf-8", "replace")
    return str(address)


class Listeners:
    """The sockets bound during one window, held weakly."""

    def __init__(self) -> None:
        self._sockets: list[weakref.ref[Any]] = []

    def add(self, sock: Any) -> None:
        """A socket is about to be bound; its address is asked for when it matters."""
        self._sockets.append(weakref.ref(sock))

    def include(self, address: object) -> bool:
        """Whether one of them is bound to the address now."""
        return any(
            sock is not None and _same(_bound(sock), address)
            for sock in [reference() for reference in self._sockets]
        )


def _bound(sock: Any) -> object:
    try:
        return sock.getsockname()
    except OSError:
        return None  # closed since


def _same(bound: object, address: object) -> bool:
    if isinstance(bound, tuple) and isinstance(address, tuple):
        return bound[1] == address[1] and (
            bound[0] == address[0] or bound[0] in _ANY or is_local_name(address[0])
        )
    if bound in (None, "", b""):
        return False
    return describe(bound) == describe(address)


def _bind(arguments: tuple[Any, ...]) -> None:
    if dispatcher.listeners and not is_muted():
        dispatcher.tell(lambda listener: listener.on_bind(arguments[0]))


def _connect(arguments: tuple[Any, ...]) -> None:
    if dispatcher.listeners and not is_muted() and arguments[1] is not None:
        frame = sys._getframe(2)
        dispatcher.tell(lambda listener: listener.on_connect(arguments[0], arguments[1], frame))


def _resolve(arguments: tuple[Any, ...]) -> None:
    if not is_local_name(arguments[0]):
        tell(NETWORK, describe(arguments[0]), sys._getframe(2))


EVENTS: dict[str, Handler] = {
    "socket.bind": _bind,
    "socket.connect": _connect,
    "socket.sendto": _connect,
    "socket.sendmsg": _connect,
    "socket.getaddrinfo": _resolve,
    "socket.gethostbyname": _resolve,
    "socket.gethostbyaddr": _resolve,
}
"""Handlers by audit event."""
