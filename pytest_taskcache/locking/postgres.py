"""Locks on a PostgreSQL server: session-level advisory locks, freed when the connection dies."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import xxhash

from pytest_taskcache.breaker import Breaker
from pytest_taskcache.dataclass import dataclass
from pytest_taskcache.errors import ConfigurationError, LockError
from pytest_taskcache.locking.encoding import from_text, to_text, unknown
from pytest_taskcache.locking.forking import ForkAware
from pytest_taskcache.locking.postgres_session import Session, SessionError, library
from pytest_taskcache.locking.secrecy import without_secrets
from pytest_taskcache.ports import Holder, Lease

TIMEOUT = 2.0
"""Seconds to connect, and seconds for each operation."""
_SLOW = 1.0

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
_UNTELL_ALL = "DELETE FROM taskcache_locks WHERE backend = pg_backend_pid()"
_UNLOCK_ALL = "SELECT pg_advisory_unlock_all()"


@dataclass(frozen=True, slots=True)
class _Held:
    """A lease, and its names on the server: the advisory lock's number and the row's key."""

    lease: Lease
    number: int
    row: str


class PostgresLockManager(ForkAware):
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
        super().__init__()
        self._name = without_secrets(url)
        self._conninfo = _conninfo(url, self._name)
        self._breaker = Breaker(_SLOW, pause=pause)
        self._session: Session | None = None
        self._held: dict[str, _Held] = {}

    def describe(self) -> str:
        """Which database, for people; without secrets."""
        return f"locks on {self._name}"

    def acquire(self, key: str, holder: Holder) -> Lease | Holder:
        """The lease, or who has it. Raises LockError."""
        with self._mutex:
            # Advisory locks are granted again to the session that has them.
            mine = self._held.get(key)
            if mine is not None and self._session is not None:
                return mine.lease.holder
            number, row = _names(key)
            with self._asking() as session:
                try:
                    rows = session.run(_ACQUIRE, number, row, to_text(holder))
                except SessionError as error:
                    if not error.broken:
                        # The lock may have been taken before the row could not be written.
                        session.run(_UNLOCK, number)
                    raise
                if not rows:
                    return self._who(session, number, row)
                lease = Lease(key, holder, int(rows[0][0] or 0))
                self._held[key] = _Held(lease, number, row)
                return lease

    def release(self, lease: Lease) -> None:
        """Gives up the lease, if it is still ours. Raises LockError."""
        with self._mutex:
            held = self._held.get(lease.key)
            if held is None or held.lease != lease:
                return
            with self._asking() as session:
                session.run(_RELEASE, held.number, held.row, lease.token)
            self._held.pop(lease.key, None)

    def confirm(self, lease: Lease) -> bool:
        """Whether our session lives and has the lock. Raises LockError."""
        with self._mutex:
            held = self._held.get(lease.key)
            if held is None or held.lease != lease:
                return False
            with self._asking() as session:
                return bool(session.run(_CONFIRM, held.number, held.row, lease.token))

    def close(self) -> None:
        """Releases all leases of this object and ends its session. Never raises."""
        with self._mutex:
            session, self._session = self._session, None
            held = bool(self._held)
            self._held.clear()
            if session is None:
                return
            if held and self._breaker.closed():
                # The end of the session would do, but not before the server notices it.
                with contextlib.suppress(SessionError):
                    session.run(_UNTELL_ALL)
                    session.run(_UNLOCK_ALL)
            session.close()

    def _forget(self) -> None:
        self._held = {}
        if self._session is not None:
            self._session.abandon()
            self._session = None

    def _who(self, session: Session, number: int, row: str) -> Holder:
        for text, backend in session.run(_WHO, number, row):
            if text is not None and (holder := from_text(text)) is not None:
                return holder
            process = f"PostgreSQL backend {(backend or b'?').decode()}"
            return unknown("somebody who cannot be named", process)
        return unknown("somebody who has just released it")

    @contextlib.contextmanager
    def _asking(self) -> Iterator[Session]:
        """The session, opened if need be; a broken one is given up with all its leases."""
        if not self._breaker.closed():
            raise LockError(self.describe(), "no answer before; left alone for now")
        started = self._breaker.now()
        try:
            if self._session is None:
                self._session = self._open()
            yield self._session
        except SessionError as error:
            self._breaker.failed(started)
            if error.broken and self._session is not None:
                self._session.close()
                self._session = None
                self._held.clear()
            raise LockError(self.describe(), error.reason) from error
        self._breaker.succeeded()

    def _open(self) -> Session:
        session = Session(self._conninfo, TIMEOUT)
        try:
            session.run(_CONFIGURE)
            if session.run(_PREPARED) != [(b"t",)]:
                for statement in _PREPARE:
                    session.run(statement)
            session.run(_SWEEP)
        except BaseException:
            session.close()
            raise
        return session


def _names(key: str) -> tuple[int, str]:
    """The number of the advisory lock (signed, 64 bits) and the row's key (hexadecimal)."""
    digest = xxhash.xxh3_128_digest(b"taskcache lock " + key.encode("utf-8", "surrogatepass"))
    return int.from_bytes(digest[:8], "big", signed=True), digest.hex()


def _conninfo(url: str, name: str) -> str:
    psycopg = library()
    scheme, _, rest = url.partition("://")
    try:
        text: str = psycopg.conninfo.make_conninfo(
            f"{scheme.removesuffix('+psycopg')}://{rest}",
            fallback_application_name="taskcache locks",
        )
    except psycopg.Error:
        # The library's message quotes the URL, with the password in it.
        raise ConfigurationError(
            "lock_manager",
            f"{name} is no PostgreSQL URL",
            "write postgresql://[user[:password]@][host][:port][/database]",
        ) from None
    return text
