"""One PostgreSQL session that never waits longer than its time limit.

Built on psycopg's libpq wrapper (``psycopg.pq``), whose calls do not block: psycopg's own
``execute`` has no time limit on the client's side, and a server that hangs would hang the tests.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import time
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

from pytest_taskcache.errors import MissingExtraError

Row: TypeAlias = tuple[bytes | None, ...]


class SessionError(Exception):
    """The session failed: text for people. ``broken`` is false if only the statement did, and the
    session goes on."""

    def __init__(self, reason: str, broken: bool) -> None:
        super().__init__(reason, broken)
        self.reason = reason
        self.broken = broken


class Session:
    """An open session in autocommit mode; one thread at a time may use it.

    ``conninfo`` is libpq's connection string. Connecting and each statement take ``timeout``
    seconds at most (looking up the host's name aside). Raises SessionError.
    """

    def __init__(self, conninfo: str, timeout: float) -> None:
        self._psycopg = library()
        self._pq = self._psycopg.pq
        self._timeout = timeout
        end = time.monotonic() + timeout
        with self._told():
            self._connection = self._pq.PGconn.connect_start(conninfo.encode())
            try:
                self._establish(end)
                self._connection.nonblocking = 1
            except BaseException:
                self._connection.finish()
                raise

    def run(self, statement: str, *values: str | int) -> list[Row]:
        """The rows of one statement, as text; ``$1``, ``$2``, ... stand for the values."""
        end = time.monotonic() + self._timeout
        with self._told():
            self._send(statement, values, end)
            return self._rows(self._results(end))

    def close(self) -> None:
        """Ends the session; the server frees its locks. Never raises."""
        self._connection.finish()

    def abandon(self) -> None:
        """In a forked child: lets go of the parent's socket without ending the parent's session,
        and without keeping it open after the parent died."""
        # The number stays taken, so that nothing can be mistaken for the socket.
        nowhere = os.open(os.devnull, os.O_RDWR)
        os.dup2(nowhere, self._connection.socket, inheritable=False)
        os.close(nowhere)

    def _establish(self, end: float) -> None:
        status = self._pq.PollingStatus
        while (polled := self._connection.connect_poll()) != status.OK:
            if polled == status.READING:
                self._wait(selectors.EVENT_READ, end)
            elif polled == status.WRITING:
                self._wait(selectors.EVENT_WRITE, end)
            else:
                raise SessionError(self._message(self._connection), broken=True)

    def _send(self, statement: str, values: Sequence[str | int], end: float) -> None:
        texts = [str(value).encode() for value in values]
        self._connection.send_query_params(statement.encode(), texts)
        while self._connection.flush():
            self._wait(selectors.EVENT_READ | selectors.EVENT_WRITE, end)
            self._connection.consume_input()

    def _results(self, end: float) -> list[Any]:
        results: list[Any] = []
        while True:
            while self._connection.is_busy():
                self._wait(selectors.EVENT_READ, end)
                self._connection.consume_input()
            result = self._connection.get_result()
            if result is None:
                return results
            results.append(result)

    def _rows(self, results: Sequence[Any]) -> list[Row]:
        status = self._pq.ExecStatus
        for result in results:
            if result.status not in (status.TUPLES_OK, status.COMMAND_OK):
                broken = self._connection.status != self._pq.ConnStatus.OK
                raise SessionError(self._message(result), broken)
        return [
            tuple(result.get_value(row, column) for column in range(result.nfields))
            for result in results
            for row in range(result.ntuples)
        ]

    def _wait(self, events: int, end: float) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._connection.socket, events)
            if not selector.select(max(0.0, end - time.monotonic())):
                raise SessionError(f"no answer within {self._timeout:g} s", broken=True)

    def _message(self, source: Any) -> str:
        return _first_line(self._pq.error_message(source))

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except (self._psycopg.Error, OSError) as error:
            raise SessionError(_first_line(str(error)), broken=True) from error


def _first_line(text: str) -> str:
    # libpq's messages name host, port and user, never the password.
    return text.strip().partition("\n")[0][:200] or "no reason given"


def library() -> Any:
    """The psycopg package. Raises MissingExtraError where it cannot be imported."""
    try:
        import psycopg
        import psycopg.conninfo
    except ImportError as error:
        raise MissingExtraError(
            "lock_manager",
            "locks on PostgreSQL need the psycopg package",
            "pip install 'pytest-taskcache[postgres]'",
        ) from error
    return psycopg
