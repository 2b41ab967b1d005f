"""Records and results in a database through SQLAlchemy Core (extra ``sql``; for PostgreSQL
``postgres``).

URLs: ``postgresql+psycopg://user@host/database`` (or ``postgresql://``), ``sqlite:///relative``,
``sqlite:////absolute``. Option ``timeout``: seconds for one operation, 30; other options are
the driver's. SQLite is used in WAL mode and belongs on a local disk: on a network file system
use ``file://`` instead.

Every commit is one transaction. The tables are created by the first write and migrated by
version; reading creates nothing.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import xxhash
from sqlalchemy import Connection, Engine, create_engine, delete, event, func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from pytest_taskcache.errors import SchemaVersionError, StorageError
from pytest_taskcache.model.record import VARIANTS, Variant
from pytest_taskcache.ports import Buffer
from pytest_taskcache.storage.concurrency import Stalled, Workers
from pytest_taskcache.storage.database_faults import reason_of
from pytest_taskcache.storage.database_schema import (
    CHUNK,
    VERSION,
    NewerSchemaError,
    chunks,
    prepare,
    records,
    results,
    version_of,
)
from pytest_taskcache.storage.location import Location
from pytest_taskcache.storage.object_layout import digest_text, id_segment
from pytest_taskcache.storage.placing import place
from pytest_taskcache.storage.records import decode_variant, encode_variant

T = TypeVar("T")

SECONDS = 30.0
SLOWEST = 1024 * 1024
"""Bytes per second: slower transfers are given up."""
_CONNECTIONS = 8
_CONNECT_SECONDS = 5
_KEYS = 500
"""Keys in one query."""
_ROWS = 8
"""Chunks of a result in one query."""


def open_database(location: Location) -> DatabaseStorage:
    """The storage at a URL. Connects when it is first used. Raises ConfigurationError if the
    URL cannot be right or its driver is missing."""
    seconds = location.seconds("timeout", SECONDS) or SECONDS
    try:
        url = make_url(location.base)
        if url.drivername in {"postgresql", "postgres"}:
            url = url.set(drivername="postgresql+psycopg")
        url = url.update_query_dict(
            {name: value for name, value in location.options.items() if name != "timeout"}
        )
        url.get_dialect().import_dbapi()
    except ImportError:
        raise location.missing(
            "its driver is not installed", "pip install 'pytest-taskcache[postgres]'"
        ) from None
    except (ArgumentError, NoSuchModuleError, ValueError):
        raise location.error(
            "it is no database URL",
            "write postgresql+psycopg://user@host/database or sqlite:///path",
        ) from None
    if url.get_backend_name() == "sqlite" and not url.database:
        raise location.error("it names no file", "write sqlite:///path")
    return DatabaseStorage(url, location.shown, seconds=seconds)


class DatabaseStorage:
    """Records and results in the database at ``url``; ``shown`` says where, without secrets.

    ``seconds`` bounds every operation, and transfers of results in proportion to their size.
    """

    trusted = False

    def __init__(self, url: URL, shown: str, *, seconds: float = SECONDS) -> None:
        self._url = url
        self._shown = shown
        self._seconds = seconds
        self._file = _sqlite_file(url)
        self._insert = (sqlite if url.get_backend_name() == "sqlite" else postgresql).insert
        self._workers = Workers(_CONNECTIONS)
        self._lock = threading.Lock()
        self._engine: Engine | None = None
        self._pid = 0
        self._current = False
        # Results that were found damaged: they are written anew, whatever is there.
        self._damaged: set[str] = set()

    def describe(self) -> str:
        """The URL, without name and password."""
        return self._shown

    def close(self) -> None:
        """Closes the connections that are idle; those at work close when they are done."""
        with self._lock:
            engine, self._engine = self._engine, None
        if engine is not None:
            _dispose(engine, self._pid)

    # -------------------------------------------------------------------------- records

    def read_records(self, keys: Collection[str]) -> Mapping[str, tuple[Variant, ...]]:
        """One query for each 500 keys."""
        wanted = {digest_text(key): key for key in keys}

        def read(connection: Connection) -> list[Any]:
            rank = func.row_number().over(
                partition_by=records.c.key_digest, order_by=records.c.id.desc()
            )
            rows: list[Any] = []
            for batch in _batches(sorted(wanted), _KEYS):
                ranked = (
                    select(records, rank.label("rank"))
                    .where(records.c.key_digest.in_(batch))
                    .subquery()
                )
                newest = select(ranked.c.key_digest, ranked.c.body).where(ranked.c.rank <= VARIANTS)
                rows += connection.execute(newest)
            return rows

        found: dict[str, list[Variant]] = {}
        for key_digest, body in self._read("read records", read) or ():
            variant = decode_variant(body)
            if variant is not None and variant.key == wanted.get(key_digest):
                found.setdefault(variant.key, []).append(variant)
        return {
            key: tuple(sorted(variants, key=lambda variant: variant.id, reverse=True))
            for key, variants in found.items()
        }

    def write_records(self, variants: Sequence[Variant]) -> None:
        """One transaction. Rows are inserted in the order of their ids, so that writers of the
        same records wait for each other instead of deadlocking."""
        unique = {variant.id: variant for variant in variants}
        rows = [
            {
                "id": id_segment(identifier),
                "key_digest": digest_text(variant.key),
                "identity_digest": digest_text(str(variant.identity)),
                "body": encode_variant(variant),
            }
            for identifier, variant in sorted(unique.items())
        ]
        statement = self._insert(records).on_conflict_do_nothing()
        if rows:
            self._write("write records", lambda connection: connection.execute(statement, rows))

    def recent(self, identities: Collection[str]) -> Mapping[str, Variant]:
        """One query for each 500 identities."""
        asked = set(identities)
        wanted = {digest_text(identity) for identity in asked}

        def read(connection: Connection) -> list[Any]:
            rows: list[Any] = []
            for batch in _batches(sorted(wanted), _KEYS):
                newest = (
                    select(func.max(records.c.id).label("id"))
                    .where(records.c.identity_digest.in_(batch))
                    .group_by(records.c.identity_digest)
                    .subquery()
                )
                rows += connection.execute(
                    select(records.c.body).join(newest, newest.c.id == records.c.id)
                )
            return rows

        decoded = (decode_variant(body) for (body,) in self._read("read records", read) or ())
        return {
            str(variant.identity): variant
            for variant in decoded
            if variant is not None and str(variant.identity) in asked
        }

    def remove_records(self, ids: Collection[str]) -> None:
        """Deletes rows, and on the way those of the same keys that newer ones pushed out."""

        def remove(connection: Connection) -> None:
            for batch in _batches(sorted(map(id_segment, ids)), _KEYS):
                keys = connection.scalars(
                    select(records.c.key_digest).where(records.c.id.in_(batch)).distinct()
                ).all()
                connection.execute(delete(records).where(records.c.id.in_(batch)))
                rank = func.row_number().over(
                    partition_by=records.c.key_digest, order_by=records.c.id.desc()
                )
                ranked = (
                    select(records.c.id, rank.label("rank"))
                    .where(records.c.key_digest.in_(keys))
                    .subquery()
                )
                pushed_out = select(ranked.c.id).where(ranked.c.rank > VARIANTS)
                connection.execute(delete(records).where(records.c.id.in_(pushed_out)))

        if ids:
            self._write("remove records", remove)

    # -------------------------------------------------------------------------- results

    def write_result(self, digest: str, chunks: Sequence[Buffer]) -> None:
        """One transaction, a row for each MiB."""
        size = sum(memoryview(chunk).nbytes for chunk in chunks)
        self._store(digest, size, lambda: _rows_of(chunks))

    def add_file(self, digest: str, source: Path) -> None:
        """One transaction, a row for each MiB; the file is read as it is sent."""
        try:
            size = source.stat().st_size
        except OSError as error:
            raise StorageError(self._shown, "write result", _os_reason(error)) from None
        self._store(digest, size, lambda: _file_rows(source))

    def _store(self, digest: str, size: int, rows: Callable[[], Iterator[bytes]]) -> None:
        def write(connection: Connection) -> None:
            present = connection.scalar(select(results.c.size).where(results.c.digest == digest))
            if present is not None and (present != size or digest in self._damaged):
                connection.execute(delete(chunks).where(chunks.c.digest == digest))
                connection.execute(delete(results).where(results.c.digest == digest))
            elif present is not None:
                return
            claim = self._insert(results).values(digest=digest, size=size).on_conflict_do_nothing()
            claimed = connection.execute(claim, execution_options={"preserve_rowcount": True})
            if claimed.rowcount == 0:
                return  # another writer was faster, and has committed
            batch = []
            for number, data in enumerate(rows()):
                batch.append({"digest": digest, "number": number, "data": data})
                if len(batch) == _ROWS:
                    connection.execute(chunks.insert(), batch)
                    batch = []
            if batch:
                connection.execute(chunks.insert(), batch)

        self._write("write result", write, size)
        self._damaged.discard(digest)

    def read_result(self, digest: str, size: int) -> memoryview | None:
        """The bytes, after their size and digest have been checked."""

        def read(connection: Connection) -> memoryview | None:
            if self._size(connection, digest) != size:
                return None
            data = bytearray(size)
            position = 0
            for piece in self._pieces(connection, digest):
                end = position + len(piece)
                if end > size:
                    break
                data[position:end] = piece
                position = end
            if position != size or xxhash.xxh3_128_hexdigest(data) != digest:
                self._damaged.add(digest)
                return None
            return memoryview(data)

        return self._read("read result", read, size)

    def copy_file(self, digest: str, destination: Path, readonly: bool = False) -> bool:
        """Into a file beside the destination, which is renamed when it is right."""
        size = self._read("read result", lambda connection: self._size(connection, digest))
        if size is None:
            return False

        def copy(connection: Connection) -> bool:
            placed = place(digest, size, self._pieces(connection, digest), destination)
            if not placed:
                self._damaged.add(digest)
            return placed

        return bool(self._read("read result", copy, size))

    def has_results(self, digests: Collection[str]) -> frozenset[str]:
        """One query for each 500 digests."""

        def read(connection: Connection) -> frozenset[str]:
            found: set[str] = set()
            for batch in _batches(sorted(set(digests)), _KEYS):
                found.update(
                    connection.scalars(select(results.c.digest).where(results.c.digest.in_(batch)))
                )
            return frozenset(found)

        return self._read("look for results", read) or frozenset()

    def _size(self, connection: Connection, digest: str) -> int | None:
        return connection.scalar(select(results.c.size).where(results.c.digest == digest))

    def _pieces(self, connection: Connection, digest: str) -> Iterator[bytes]:
        start = 0
        while True:
            query = (
                select(chunks.c.data)
                .where(chunks.c.digest == digest)
                .where(chunks.c.number.between(start, start + _ROWS - 1))
                .order_by(chunks.c.number)
            )
            rows = connection.scalars(query).all()
            yield from rows
            if len(rows) < _ROWS:
                return
            start += _ROWS

    # --------------------------------------------------------------------- transactions

    def _read(self, verb: str, call: Callable[[Connection], T], size: int = 0) -> T | None:
        """What ``call`` returns in a transaction; None where there are no tables yet."""

        def transact() -> T | None:
            if self._file is not None and not self._file.exists():
                return None
            with self._transaction(writes=False) as connection:
                if not self._current:
                    version = version_of(connection)
                    if version is None:
                        return None
                    if version > VERSION:
                        raise NewerSchemaError(version)
                    self._current = version == VERSION
                return call(connection)

        return self._bounded(verb, transact, size)

    def _write(self, verb: str, call: Callable[[Connection], object], size: int = 0) -> None:
        def transact() -> None:
            if self._file is not None:
                self._file.parent.mkdir(parents=True, exist_ok=True)
                if not self._file.exists():
                    _use_wal(self._connected())
            with self._transaction(writes=True) as connection:
                if not self._current:
                    prepare(connection)
                call(connection)
            self._current = True

        self._bounded(verb, transact, size)

    def _bounded(self, verb: str, transact: Callable[[], T], size: int) -> T:
        seconds = self._seconds + size / SLOWEST
        try:
            return self._workers.map(lambda _: transact(), [None], seconds)[0]
        except Stalled:
            # The pool may be full of connections that nobody answers. Whoever still waits for an
            # answer there closes it in the end.
            with self._lock:
                self._engine = None
            raise StorageError(self._shown, verb, "timed out") from None
        except NewerSchemaError as error:
            raise SchemaVersionError(
                self._shown, verb, f"its tables have version {error.args[0]}, newer than {VERSION}"
            ) from None
        except SQLAlchemyError as error:
            # Tables may have been dropped meanwhile: the next operation looks again.
            self._current = False
            raise StorageError(self._shown, verb, reason_of(error)) from None
        except MemoryError:
            raise StorageError(self._shown, verb, "out of memory") from None
        except OSError as error:
            raise StorageError(self._shown, verb, _os_reason(error)) from None
        except Exception as error:
            # Drivers have errors of their own that reach us here and there unwrapped.
            raise StorageError(self._shown, verb, type(error).__name__) from None

    def _connected(self) -> Engine:
        with self._lock:
            if self._engine is None or self._pid != os.getpid():
                if self._engine is not None:
                    _dispose(self._engine, self._pid)
                self._engine = _engine(self._url, self._seconds)
                self._pid = os.getpid()
                # Drivers warn of connections that are left open, and warnings may be errors.
                weakref.finalize(self, _dispose, self._engine, self._pid)
            return self._engine

    @contextmanager
    def _transaction(self, *, writes: bool) -> Iterator[Connection]:
        engine = self._connected()
        try:
            with engine.execution_options(taskcache_writes=writes).begin() as connection:
                yield connection
        finally:
            if engine is not self._engine:
                _dispose(engine, os.getpid())


def _dispose(engine: Engine, pid: int) -> None:
    # A forked child must not end its parent's sessions.
    engine.dispose(close=pid == os.getpid())


def _engine(url: URL, seconds: float) -> Engine:
    if url.get_backend_name() == "sqlite":
        engine = create_engine(
            url,
            connect_args={"timeout": seconds, "check_same_thread": False},
            hide_parameters=True,
        )
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    engine = create_engine(
        url,
        pool_size=_CONNECTIONS,
        max_overflow=0,
        pool_timeout=seconds,
        pool_pre_ping=True,
        hide_parameters=True,
        connect_args={
            "connect_timeout": min(_CONNECT_SECONDS, max(2, int(seconds))),
            "tcp_user_timeout": int(seconds * 1000),
        },
    )

    def prepare_session(connection: Any, _: object) -> None:
        milliseconds = int(seconds * 1000)
        with connection.cursor() as cursor:
            cursor.execute(f"SET statement_timeout = {milliseconds}")
            cursor.execute(f"SET idle_in_transaction_session_timeout = {2 * milliseconds}")
        connection.commit()

    event.listen(engine, "connect", prepare_session)
    return engine


def _prepare_sqlite(connection: Any, _: object) -> None:
    # The driver begins transactions late and never for DDL; _begin_sqlite does it instead.
    connection.isolation_level = None
    connection.execute("PRAGMA synchronous=NORMAL")


def _use_wal(engine: Engine) -> None:
    """Makes a new database file and sets its mode, which it keeps: readers change nothing."""
    connection = engine.raw_connection()
    try:
        # Where several make the file at once one of them gets to do it.
        with suppress(sqlite3.OperationalError):
            connection.cursor().execute("PRAGMA journal_mode=WAL")
    finally:
        connection.close()


def _begin_sqlite(connection: Connection) -> None:
    # A transaction that turns from reading to writing cannot wait for another writer.
    writes = connection.get_execution_options().get("taskcache_writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _sqlite_file(url: URL) -> Path | None:
    if url.get_backend_name() != "sqlite" or not url.database:
        return None
    # What a relative URL means must not change with the working directory.
    return Path(url.database).absolute()


def _batches(items: Sequence[T], length: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), length):
        yield items[start : start + length]


def _rows_of(chunks: Iterable[Buffer]) -> Iterator[bytes]:
    """The same bytes in rows of CHUNK bytes, only the last one shorter."""
    row = bytearray()
    for chunk in chunks:
        view = memoryview(chunk).cast("B")
        position = 0
        while position < view.nbytes:
            taken = min(CHUNK - len(row), view.nbytes - position)
            row += view[position : position + taken]
            position += taken
            if len(row) == CHUNK:
                yield bytes(row)
                row.clear()
    if row:
        yield bytes(row)


def _file_rows(source: Path) -> Iterator[bytes]:
    with source.open("rb") as stream:
        while row := stream.read(CHUNK):
            yield row


def _os_reason(error: OSError) -> str:
    return os.strerror(error.errno).lower() if error.errno else type(error).__name__


__all__ = ["DatabaseStorage", "open_database"]
