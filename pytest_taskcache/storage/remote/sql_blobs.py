"""Blobs in a database through SQLAlchemy Core (extra ``sql``; for PostgreSQL ``postgres``).

URLs: ``postgresql+psycopg://user@host/database`` (or ``postgresql://``), ``sqlite:///relative``,
``sqlite:////absolute``. Option ``timeout``: seconds for one statement, 30; other options are
the driver's. SQLite is used in WAL mode and belongs on a local disk: on a network file system
use ``file://`` instead.

Every commit is one transaction. The table is created by the first write; reading creates nothing.
"""

from __future__ import annotations

import sqlite3
import time
import weakref
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from pytest_taskcache.ports import Buffer
from pytest_taskcache.storage.remote.blobs import LIMIT, BatchedBlobs, Listed, batches
from pytest_taskcache.storage.remote.location import Location

T = TypeVar("T")

_NAMES = 500
"""Names in one query."""
_CONNECT_SECONDS = 5
_ADVISORY = 0x7461736B63616368
"""PostgreSQL's lock that lets one session at a time create the table ("taskcach")."""

_text = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
_metadata = sa.MetaData()
_table = sa.Table(
    "taskcache_blobs",
    _metadata,
    sa.Column("name", _text, primary_key=True),
    sa.Column("folder", _text, nullable=False, index=True),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("modified", sa.Double, nullable=False),
    sa.Column("data", sa.LargeBinary, nullable=False),
)
"""A row for each blob; names sort by their bytes. Written in another way some day, blobs will lie
in a table of another name."""
_c = _table.c
_LISTED = sa.select(_c.name, _c.size, _c.modified)

_STATES = {
    "28P01": "wrong credentials",
    "28000": "wrong credentials",
    "3D000": "no such database",
    "42501": "permission denied",
    "25006": "read-only database",
    "57014": "timed out",
    "53100": "no space left",
    "53300": "too many connections",
    "57P03": "server is starting or stopping",
}
"""PostgreSQL's SQLSTATE codes."""


class SqlBlobs(BatchedBlobs):
    """Rows of a table. Raises ConfigurationError if the URL cannot be right, or lacks a driver."""

    concurrency = 8
    atomic = True
    phrases: ClassVar = {
        "wrong credentials": ("password authentication failed", "no password supplied"),
        "no such database or role": ("does not exist",),
        "timed out": ("timeout expired", "onnection timed out"),
        "connection refused": ("onnection refused",),
        "unknown host": ("resolve",),
        "read-only database": ("readonly database",),
        "locked by others for too long": ("database is locked",),
        "file cannot be opened": ("unable to open database file",),
        "no space left": ("disk is full",),
        "not a database, or a damaged one": ("malformed", "not a database"),
        "connection lost": ("server closed the connection", "connection is lost"),
        "too many connections": ("too many connections",),
    }

    def __init__(self, location: Location) -> None:
        super().__init__(location.shown)
        self._seconds = location.seconds("timeout", 30.0)
        self._url = _checked_url(location)
        lite = self._url.get_backend_name() == "sqlite"
        # What a relative URL means must not change with the working directory.
        self._file = Path(self._url.database or "").absolute() if lite else None
        if self._file is not None:
            self._url = self._url.set(database=str(self._file))
        self._insert: Callable[..., Any] = sqlite.insert if lite else postgresql.insert
        self._engine: sa.Engine | None = None
        self._made = False

    def get_many(self, names: Collection[str]) -> Mapping[str, Buffer]:
        """One query for each 500 names."""
        small = sa.select(_c.name, _c.data).where(_c.size <= LIMIT)
        return dict(self._named(small, _c.name, names))

    def sizes(self, names: Collection[str]) -> Mapping[str, int]:
        """One query for each 500 names."""
        return dict(self._named(sa.select(_c.name, _c.size), _c.name, names))

    def list(self, prefix: str) -> Sequence[Listed]:
        """One query."""
        # "0" is the character after "/".
        below = _LISTED.where(_c.name > f"{prefix}/").where(_c.name < f"{prefix}0")
        return [Listed(*row) for row in self._read(lambda c: c.execute(below).all())]

    def list_many(self, prefixes: Collection[str]) -> Iterable[Listed]:
        """One query for each 500 folders, of what lies directly in them."""
        return [Listed(*row) for row in self._named(_LISTED, _c.folder, prefixes)]

    def put_many(self, items: Mapping[str, Buffer]) -> None:
        """One transaction. Rows are written in the order of their names, so that writers of the
        same wait for each other instead of deadlocking."""
        now = time.time()
        rows = [
            {
                "name": name,
                "folder": name.rpartition("/")[0],
                "size": memoryview(data).nbytes,
                "modified": now,
                "data": bytes(data),
            }
            for name, data in sorted(items.items())
        ]
        insert = self._insert(_table)
        new = {column: insert.excluded[column] for column in ("size", "modified", "data")}
        upsert = insert.on_conflict_do_update(index_elements=[_c.name], set_=new)
        self._write(lambda connection: connection.execute(upsert, rows))

    def delete(self, names: Sequence[str]) -> None:
        """One transaction."""

        def remove(connection: sa.Connection) -> None:
            for few in batches(sorted(names), _NAMES):
                connection.execute(sa.delete(_table).where(_c.name.in_(few)))

        if self._read(lambda connection: [True]):
            self._write(remove)

    def close(self) -> None:
        """Closes the connections that are idle; those at work close when they are done."""
        with self.lock:
            engine, self._engine = self._engine, None
        if engine is not None:
            engine.dispose()

    def _start_anew(self) -> None:
        if self._engine is not None:
            self._engine.dispose(close=False)  # a child must not end its parent's sessions
            self._engine = None

    def reason(self, error: BaseException) -> str:
        """As Blobs.reason, of what the driver reported."""
        if isinstance(error, sa.exc.DBAPIError) and error.orig is not None:
            state = getattr(error.orig, "sqlstate", None)
            return _STATES.get(str(state)) or super().reason(error.orig)
        return super().reason(error)

    def _named(
        self, query: sa.Select[Any], column: sa.Column[Any], values: Collection[str]
    ) -> Sequence[Any]:
        def read(connection: sa.Connection) -> Sequence[Any]:
            rows: list[Any] = []
            for few in batches(sorted(values), _NAMES):
                rows += connection.execute(query.where(column.in_(few))).all()
            return rows

        return self._read(read)

    def _read(self, call: Callable[[sa.Connection], Sequence[T]]) -> Sequence[T]:
        """What ``call`` returns in a transaction; nothing where there is no table yet."""

        def read(connection: sa.Connection) -> Sequence[T]:
            self._made = self._made or sa.inspect(connection).has_table(_table.name)
            return call(connection) if self._made else ()

        if self._file is not None and not self._file.exists():
            return ()
        return self._transact(read, writes=False)

    def _write(self, call: Callable[[sa.Connection], object]) -> None:
        def write(connection: sa.Connection) -> None:
            if not self._made:
                if connection.dialect.name == "postgresql":
                    # With SQLite all that write exclude each other from their beginning.
                    connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_ADVISORY)))
                _metadata.create_all(connection)
            call(connection)

        if self._file is not None and not self._file.exists():
            self._file.parent.mkdir(parents=True, exist_ok=True)
            _use_wal(self._connected())
        self._transact(write, writes=True)
        self._made = True

    def _transact(self, call: Callable[[sa.Connection], T], *, writes: bool) -> T:
        engine = self._connected()
        pool = engine.pool
        try:
            with engine.execution_options(taskcache_writes=writes).begin() as connection:
                return call(connection)
        except SQLAlchemyError:
            # The table may have been dropped meanwhile: the next operation looks again.
            self._made = False
            raise
        finally:
            if self._engine is not engine:
                pool.dispose()  # closed meanwhile, when this connection was at work

    def _connected(self) -> sa.Engine:
        with self.lock:
            if self._engine is None:
                self._engine = _engine(self._url, self._seconds, self.concurrency)
                # Drivers warn of connections that are left open, and warnings may be errors.
                weakref.finalize(self, self._engine.dispose)
            return self._engine


def _checked_url(location: Location) -> URL:
    try:
        url = make_url(location.base)
        if url.drivername in {"postgresql", "postgres"}:
            url = url.set(drivername="postgresql+psycopg")
        options = {name: text for name, text in location.options.items() if name != "timeout"}
        url = url.update_query_dict(options)
        url.get_dialect().import_dbapi()
    except ImportError:
        raise location.missing(
            "its driver is not installed", "pip install 'pytest-taskcache[postgres]'"
        ) from None
    except (ArgumentError, NoSuchModuleError, ValueError):
        remedy = "write postgresql+psycopg://user@host/database or sqlite:///path"
        raise location.error("it is no database URL", remedy) from None
    if url.get_backend_name() == "sqlite" and not url.database:
        raise location.error("it names no file", "write sqlite:///path")
    return url


def _engine(url: URL, seconds: float, connections: int) -> sa.Engine:
    if url.get_backend_name() == "sqlite":
        arguments: dict[str, Any] = {"timeout": seconds, "check_same_thread": False}
        engine = sa.create_engine(url, connect_args=arguments, hide_parameters=True)
        sa.event.listen(engine, "connect", _prepare_sqlite)
        sa.event.listen(engine, "begin", _begin_sqlite)
        return engine
    milliseconds = int(seconds * 1000)
    return sa.create_engine(
        url,
        pool_size=connections,
        max_overflow=0,
        pool_timeout=seconds,
        pool_pre_ping=True,
        hide_parameters=True,
        connect_args={
            "connect_timeout": min(_CONNECT_SECONDS, max(2, int(seconds))),
            "tcp_user_timeout": milliseconds,
            "options": f"-c statement_timeout={milliseconds}"
            f" -c idle_in_transaction_session_timeout={2 * milliseconds}",
        },
    )


def _prepare_sqlite(connection: Any, _: object) -> None:
    # The driver begins transactions late and never for DDL; _begin_sqlite does it instead.
    connection.isolation_level = None
    connection.execute("PRAGMA synchronous=NORMAL")


def _use_wal(engine: sa.Engine) -> None:
    """Makes a new database file and sets its mode, which it keeps: readers change nothing."""
    connection = engine.raw_connection()
    try:
        # Where several make the file at once one of them gets to do it.
        with suppress(sqlite3.OperationalError):
            connection.cursor().execute("PRAGMA journal_mode=WAL")
    finally:
        connection.close()


def _begin_sqlite(connection: sa.Connection) -> None:
    # A transaction that turns from reading to writing cannot wait for another writer.
    writes = connection.get_execution_options().get("taskcache_writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
