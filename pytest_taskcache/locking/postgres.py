"""Locks on a PostgreSQL server: session-level advisory locks, freed when the connection dies."""

from __future__ import annotations

import os
import selectors
import time
from collections.abc import Sequence
from typing import Any, TypeAlias

import xxhash

from pytest_taskcache.errors import ConfigurationError, LockError
from pytest_taskcache.locking.leases import TIMEOUT, ServerLeases, from_text, library, to_text
from pytest_taskcache.ports import Holder, Lease
from pytest_taskcache.storage.remote.location import shown

_Row: TypeAlias = tuple[bytes | None, ...]

# An idle session is what holds the locks; keepalives tell the server after 10 + 3 * 5 seconds that
# this host is gone. Older servers lack some of the settings.
_CONFIGURE = """
SELECT set_config(s.name, wanted.value, false)
FROM (VALUES
    ('idle_session_timeout', '0'),
    ('statement_timeout', '2s'),
    ('tcp_keepalives_idle', '10'),
    ('tcp_keepalives_interval', '5'),
    ('tcp_keepalives_count', '3')
) AS wanted (name, value)
JOIN pg_settings s ON s.name = wanted.name
"""
_PREPARED = "SELECT to_regclass('taskcache_locks') IS NOT NULL"
_PREPARE = (
    "BEGIN",
    # Two who create the same table at once would both fail.
    "SELECT pg_advisory_xact_lock(hashtext('taskcache_locks'))",
    "CREATE SEQUENCE IF NOT EXISTS taskcache_lock_tokens",
    """
    CREATE UNLOGGED TABLE IF NOT EXISTS taskcache_locks (
        key text PRIMARY KEY,
        holder text NOT NULL,
        token bigint NOT NULL,
        backend integer NOT NULL
    )
    """,
    "COMMIT",
)
_SWEEP = """
DELETE FROM taskcache_locks t
WHERE NOT EXISTS (SELECT FROM pg_stat_activity a WHERE a.pid = t.backend)
"""
# The row tells others who has the lock; the lock itself is the advisory one.
_ACQUIRE = """
WITH tried AS MATERIALIZED (SELECT pg_try_advisory_lock($1::bigint) AS got),
told AS (
    INSERT INTO taskcache_locks (key, holder, token, backend)
    SELECT $2, $3, nextval('taskcache_lock_tokens'), pg_backend_pid() FROM tried WHERE got
    ON CONFLICT (key) DO UPDATE
    SET holder = excluded.holder, token = excluded.token, backend = excluded.backend
    RETURNING token
)
SELECT told.token FROM tried LEFT JOIN told ON true WHERE tried.got
"""
_ADVISORY = """
    l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
    AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
    AND l.classid = (($1::bigint >> 32) & 4294967295)::oid
    AND l.objid = ($1::bigint & 4294967295)::oid
"""
_WHO = f"""
SELECT t.holder, l.pid FROM pg_locks l
LEFT JOIN taskcache_locks t ON t.key = $2 AND t.backend = l.pid
WHERE {_ADVISORY}
"""
_CONFIRM = f"""
SELECT 1 FROM taskcache_locks t
WHERE t.key = $2 AND t.token = $3::bigint AND t.backend = pg_backend_pid()
AND EXISTS (SELECT FROM pg_locks l WHERE l.pid = t.backend AND {_ADVISORY})
"""
_RELEASE = """
WITH untold AS (DELETE FROM taskcache_locks WHERE key = $2 AND token = $3::bigint)
SELECT pg_advisory_unlock($1::bigint)
"""
_UNLOCK = "SELECT pg_advisory_unlock($1::bigint)"


class PostgresLockManager(ServerLeases):
    """Mutual exclusion between all who use the same database.

    Each object has one session of its own, opened at first use, and takes advisory locks
    (``pg_try_advisory_lock``) on 64-bit digests of the keys. The server frees them when the session
    ends: at once when the process dies, within half a minute when its host vanishes. The unlogged
    table ``taskcache_locks`` and the sequence ``taskcache_lock_tokens`` name the holders and give
    the tokens; they are made at first use, in the first schema of the search path, if they are
    missing. Connecting and each operation take 2 seconds at most; a session that did not answer in
    time is given up with all its leases, and the server is left alone for ``pause`` seconds, in
    which everything raises LockError at once.

    ``url`` is ``postgresql://`` or ``postgresql+psycopg://``. It must lead to the server itself or
    to a pooler in session mode: a pooler that shares sessions between clients (PgBouncer in
    transaction mode) makes advisory locks meaningless. After a failover the new primary has none
    of the locks; the session to the old one is gone too, so ``confirm`` does not say True.
    """

    def __init__(self, url: str, *, pause: float = 30.0) -> None:
        super().__init__(shown(url), pause)
        self._psycopg = library("psycopg", "PostgreSQL", "postgres")
        scheme, _, rest = url.partition("://")
        try:
            self._conninfo: str = self._psycopg.conninfo.make_conninfo(
                f"{scheme.removesuffix('+psycopg')}://{rest}",
                fallback_application_name="taskcache locks",
            )
        except self._psycopg.Error:
            # The library's message quotes the URL, with the password in it.
            problem = f"{self._name} is no PostgreSQL URL"
            remedy = "write postgresql://[user[:password]@][host][:port][/database]"
            raise ConfigurationError("lock_manager", problem, remedy) from None
        # A psycopg.pq.PGconn, the wrapper of libpq, whose calls do not block: psycopg's own
        # `execute` has no time limit on the client's side, and a server that hangs would hang the
        # tests.
        self._session: Any = None

    def _take(self, key: str, holder: Holder) -> Lease | Holder:
        # Advisory locks are granted again to the session that has them.
        mine = self._held.get(key)
        if mine is not None and self._session is not None:
            return mine.holder
        number, row = _names(key)
        try:
            rows = self._run(_ACQUIRE, number, row, to_text(holder))
        except LockError:
            if self._session is not None:
                # The lock may have been taken before the row could not be written.
                self._run(_UNLOCK, number, in_spite=True)
            raise
        if rows:
            return Lease(key, holder, int(rows[0][0] or 0))
        for text, backend in self._run(_WHO, number, row):
            return from_text(text, process=f"PostgreSQL backend {(backend or b'?').decode()}")
        return from_text(None, "somebody who has just released it")

    def _give_back(self, leases: Sequence[Lease]) -> None:
        for lease in leases:
            self._run(_RELEASE, *_names(lease.key), lease.token)

    def _still_has(self, lease: Lease) -> bool:
        return bool(self._run(_CONFIRM, *_names(lease.key), lease.token))

    def _end(self) -> None:
        if self._session is not None:
            self._session.finish()
            self._session = None

    def _start_anew(self) -> None:
        super()._start_anew()
        if self._session is not None:
            # Lets go of the parent's socket without ending the parent's session, and without
            # keeping it open after the parent died. The number stays taken, so that nothing can be
            # mistaken for the socket.
            nowhere = os.open(os.devnull, os.O_RDWR)
            os.dup2(nowhere, self._session.socket, inheritable=False)
            os.close(nowhere)
            self._session = None

    def _run(self, statement: str, *values: str | int, in_spite: bool = False) -> list[_Row]:
        """The rows of one statement, in a session that is opened if need be. Raises LockError; a
        broken session is given up with all its leases."""
        with self._asking(in_spite=in_spite):
            try:
                if self._session is None:
                    self._open()
                return self._rows(statement, *values)
            except (self._psycopg.Error, OSError) as error:
                self._end()
                self._held.clear()
                raise LockError(self.describe(), _first_line(str(error))) from error

    def _open(self) -> None:
        pq, end = self._psycopg.pq, time.monotonic() + TIMEOUT
        waits = {
            pq.PollingStatus.READING: selectors.EVENT_READ,
            pq.PollingStatus.WRITING: selectors.EVENT_WRITE,
        }
        self._session = pq.PGconn.connect_start(self._conninfo.encode())
        try:
            while (polled := self._session.connect_poll()) != pq.PollingStatus.OK:
                if polled not in waits:
                    raise self._psycopg.OperationalError(pq.error_message(self._session))
                self._wait(waits[polled], end)
            self._session.nonblocking = 1
            self._rows(_CONFIGURE)
            if self._rows(_PREPARED) != [(b"t",)]:
                for statement in _PREPARE:
                    self._rows(statement)
            self._rows(_SWEEP)
        except BaseException:
            self._end()
            raise

    def _rows(self, statement: str, *values: str | int) -> list[_Row]:
        """The rows of one statement, as text; ``$1``, ``$2``, ... stand for the values."""
        pq, session, end = self._psycopg.pq, self._session, time.monotonic() + TIMEOUT
        session.send_query_params(statement.encode(), [str(value).encode() for value in values])
        while session.flush():
            self._wait(selectors.EVENT_READ | selectors.EVENT_WRITE, end)
            session.consume_input()
        result: Any = None
        while (more := self._result(end)) is not None:
            result = more  # there is one of a statement, and then the sign that there is no other
        if result.status in (pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK):
            columns, rows = range(result.nfields), range(result.ntuples)
            return [tuple(result.get_value(row, column) for column in columns) for row in rows]
        if session.status != pq.ConnStatus.OK:
            raise self._psycopg.OperationalError(pq.error_message(result))
        raise LockError(self.describe(), _first_line(pq.error_message(result)))

    def _result(self, end: float) -> Any:
        while self._session.is_busy():
            self._wait(selectors.EVENT_READ, end)
            self._session.consume_input()
        return self._session.get_result()

    def _wait(self, events: int, end: float) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._session.socket, events)
            if not selector.select(max(0.0, end - time.monotonic())):
                raise TimeoutError(f"no answer within {TIMEOUT:g} s")


def _names(key: str) -> tuple[int, str]:
    """The number of the advisory lock (signed, 64 bits) and the row's key (hexadecimal)."""
    digest = xxhash.xxh3_128_digest(b"taskcache lock " + key.encode("utf-8", "surrogatepass"))
    return int.from_bytes(digest[:8], "big", signed=True), digest.hex()


def _first_line(text: str) -> str:
    # libpq's messages name host, port and user, never the password.
    return text.strip().partition("\n")[0][:200] or "no reason given"
