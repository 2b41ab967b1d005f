"""A real server on loopback that does to its clients what networks do."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator


def resets(connection: socket.socket, over: threading.Event) -> None:
    """Breaks every connection after the request."""
    connection.recv(65536)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def is_silent(connection: socket.socket, over: threading.Event) -> None:
    """Takes everything and never answers."""
    connection.recv(65536)
    over.wait()


def drips(connection: socket.socket, over: threading.Event) -> None:
    """Answers a byte now and then, for ever."""
    connection.recv(65536)
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    while not over.wait(0.1):
        connection.sendall(b"<")


def talks_nonsense(connection: socket.socket, over: threading.Event) -> None:
    """Speaks another protocol."""
    connection.recv(65536)
    connection.sendall(b"\x00\xff 220 mail.example ready\r\n" * 3)


def truncates(connection: socket.socket, over: threading.Event) -> None:
    """Promises more than it sends."""
    connection.recv(65536)
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\nETag: x\r\n\r\n<?xml")


def is_a_portal(connection: socket.socket, over: threading.Event) -> None:
    """Answers every request with the same friendly page, as networks in hotels do."""
    connection.recv(65536)
    page = b"<html>please log in</html>"
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close\r\nETag: x\r\n"
    head += b"Last-Modified: Wed, 21 Oct 2015 07:28:00 GMT\r\n"
    connection.sendall(head + b"Content-Length: %d\r\n\r\n%s" % (len(page), page))


def is_broken(connection: socket.socket, over: threading.Event) -> None:
    """Fails at everything."""
    connection.recv(65536)
    connection.sendall(b"HTTP/1.1 500 No\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")


BEHAVIOURS = (resets, is_silent, drips, talks_nonsense, truncates, is_a_portal, is_broken)


@contextlib.contextmanager
def misbehaving_server(
    behaviour: Callable[[socket.socket, threading.Event], None],
) -> Iterator[int]:
    """The port of a server that treats every connection alike."""
    over = threading.Event()
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)
    threads: list[threading.Thread] = []

    def treat(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):  # the client may be gone first
            connection.settimeout(5)
            behaviour(connection, over)

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=treat, args=(connection,), daemon=True)
            threads.append(thread)
            thread.start()

    acceptor = threading.Thread(target=accept, daemon=True)
    acceptor.start()
    try:
        yield int(listener.getsockname()[1])
    finally:
        over.set()
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for thread in (acceptor, *threads):
            thread.join(10)
