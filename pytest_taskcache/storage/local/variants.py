"""Records in an index: the key storage role of local and memory storage."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TypeVar

from pytest_taskcache.model.record import VARIANTS, Variant
from pytest_taskcache.storage.local import encoding
from pytest_taskcache.storage.local.atoms import Atoms, chunked, marks
from pytest_taskcache.storage.local.encoding import COLUMNS, Row
from pytest_taskcache.storage.local.index import Index

T = TypeVar("T")
_REMEMBERED_BYTES = 64 << 20
_REMEMBERED = 100_000


class Records:
    """Key storage in the tables of an index.

    What was read or decoded once in this process is remembered: variants by their row, for ever,
    since rows never change; the answer for a key while SQLite's ``data_version`` says that no
    other connection committed, and nothing was written to that key here.
    """

    def __init__(self, index: Index) -> None:
        self.index = index
        self.atoms = Atoms()
        self._epoch = 0
        self._version = -1
        self._answers: dict[str, tuple[Variant, ...]] = {}
        self._decoded: dict[bytes, Variant] = {}
        self._weight = 0

    def describe(self) -> str:
        """Where the index is."""
        return str(self.index)

    # ----------------------------------------------------------------------- reading

    def read_records(self, keys: Collection[str]) -> Mapping[str, tuple[Variant, ...]]:
        """As KeyStorage.read_records."""
        if len(keys) == 1:
            (key,) = keys
            found = self._remembered(key)
            if found is not None:
                return {key: found} if found else {}
        return self.index.read("read records", lambda connection: self._read(connection, keys))

    def _remembered(self, key: str) -> tuple[Variant, ...] | None:
        # The whole of a warm hit (4 µs); a `read` with its snapshot costs four times as much.
        index = self.index
        with index.lock:
            version = index.quick_version()
            if version != self._version or index.epoch != self._epoch:
                return None
            return self._answers.get(key)

    def _read(
        self, connection: sqlite3.Connection, keys: Collection[str]
    ) -> dict[str, tuple[Variant, ...]]:
        self._renew(connection)
        answers = self._answers
        unknown = {encoding.to_sql(key): key for key in keys if key not in answers}
        rows: list[Row] = []
        for chunk in chunked(unknown):
            rows += map(
                Row._make,
                connection.execute(
                    f"SELECT {COLUMNS} FROM variants WHERE key IN ({marks(chunk)})"
                    " ORDER BY created DESC, id DESC",
                    chunk,
                ),
            )
        found: dict[str, list[Variant]] = {}
        for variant in self.decode(connection, rows):
            found.setdefault(variant.key, []).append(variant)
        for key in unknown.values():
            answers[key] = tuple(found.get(key, ())[:VARIANTS])
        return {key: answers[key] for key in keys if answers[key]}

    def decode(self, connection: sqlite3.Connection, rows: Iterable[Row]) -> list[Variant]:
        """The variants of rows, in their order; damaged ones are left out.

        To be called within ``index.read`` or on rows that were committed before.
        """
        self.atoms.renew(self.index.epoch)
        fresh = [row for row in rows if row.id not in self._decoded and encoding.intact(row)]
        if fresh:
            self.atoms.load_traces(connection, {row.trace for row in fresh})
            bodies = [encoding.fields_of(row) for row in fresh]
            self.atoms.load_parts(connection, set().union(*map(encoding.part_ids, bodies)))
            for row, fields in zip(fresh, bodies, strict=True):
                trace = self.atoms.traces.get(row.trace)
                variant = trace and encoding.decode(row, fields, trace, self.atoms.parts)
                if variant:
                    self.remember(variant)
        return [self._decoded[row.id] for row in rows if row.id in self._decoded]

    def recent(self, identities: Collection[str]) -> Mapping[str, Variant]:
        """As KeyStorage.recent."""

        def work(connection: sqlite3.Connection) -> dict[str, Variant]:
            self._renew(connection)
            found = {}
            for identity in identities:
                rows = connection.execute(
                    f"SELECT {COLUMNS} FROM variants WHERE identity = ?"
                    " ORDER BY created DESC, id DESC LIMIT 1",
                    (encoding.to_sql(identity),),
                )
                for variant in self.decode(connection, [Row._make(row) for row in rows]):
                    found[identity] = variant
            return found

        return self.index.read("read recent records", work)

    def all_records(self) -> list[Variant]:
        """Every committed variant, newest first, for listings. Raises StorageError."""

        def work(connection: sqlite3.Connection) -> list[Variant]:
            self._renew(connection)
            rows = connection.execute(
                f"SELECT {COLUMNS} FROM variants ORDER BY created DESC, id DESC"
            )
            return self.decode(connection, [Row._make(row) for row in rows])

        return self.index.read("list records", work)

    def _renew(self, connection: sqlite3.Connection) -> None:
        epoch = self.index.epoch
        self.atoms.renew(epoch)
        version = connection.execute("PRAGMA data_version").fetchone()[0]
        if epoch != self._epoch or self._weight > _REMEMBERED_BYTES:
            self._decoded.clear()
            self._answers.clear()
            self._weight = 0
        elif version != self._version or len(self._answers) > _REMEMBERED:
            self._answers.clear()
        self._epoch, self._version = epoch, version

    def remember(self, variant: Variant) -> None:
        """Spares decoding a variant whose row is known to be in the index."""
        self._decoded[encoding.to_sql(variant.id)] = variant
        self._weight += 500 + len(variant.result.inline or b"")

    # ----------------------------------------------------------------------- writing

    def write_records(self, variants: Sequence[Variant]) -> None:
        """As KeyStorage.write_records, in one SQLite transaction."""
        if not variants:
            return
        now = time.time()

        def work(connection: sqlite3.Connection) -> None:
            for variant, row in zip(variants, self.rows(connection, variants), strict=True):
                cursor = connection.execute(
                    f"INSERT OR IGNORE INTO variants ({COLUMNS}, used) VALUES ({marks(row)}, ?)",
                    (*row, now),
                )
                if cursor.rowcount:
                    insert_refs(connection, variant)
            trim(connection, {encoding.to_sql(variant.key) for variant in variants})

        self.write("write records", work, {variant.key for variant in variants})

    def rows(self, connection: sqlite3.Connection, variants: Sequence[Variant]) -> list[Row]:
        """The rows of variants, interning what they name; only within ``write``."""
        rows = []
        for variant in variants:
            trace = self.atoms.intern_trace(connection, variant.trace)
            parts = [("", part.name, part.digest) for part in variant.parts]
            rows.append(encoding.encode(variant, trace, self.atoms.intern(connection, parts)))
        return rows

    def write(
        self,
        operation: str,
        work: Callable[[sqlite3.Connection], T],
        keys: Iterable[str] | None = None,
    ) -> T:
        """``index.write`` for work that interns, or that changes the records of ``keys`` (None:
        of any key)."""

        def prepared(connection: sqlite3.Connection) -> T:
            self.atoms.renew(self.index.epoch)
            self.atoms.expect(connection)
            return work(connection)

        with self.index.lock:
            try:
                return self.index.write(operation, prepared)
            except BaseException:
                self.atoms.revoke()
                raise
            finally:
                if keys is None:
                    self._answers.clear()
                else:
                    for key in keys:
                        self._answers.pop(key, None)

    def remove_records(self, ids: Collection[str]) -> None:
        """As KeyStorage.remove_records."""
        self.write(
            "remove records",
            lambda connection: delete_variants(connection, [encoding.to_sql(id_) for id_ in ids]),
        )

    def mark_used(self, ids: Collection[str], now: float | None = None) -> None:
        """Notes that variants were of use, for eviction; once a session, in one write."""
        moment = time.time() if now is None else now

        def work(connection: sqlite3.Connection) -> None:
            connection.executemany(
                "UPDATE variants SET used = max(used, ?) WHERE id = ?",
                [(moment, encoding.to_sql(id_)) for id_ in ids],
            )

        if ids:
            self.index.write("note use", work)

    def close(self) -> None:
        """As KeyStorage.close."""
        self.index.close()


def insert_refs(connection: sqlite3.Connection, variant: Variant) -> None:
    """Says which result files a variant needs, so that eviction leaves them."""
    id_ = encoding.to_sql(variant.id)
    connection.executemany(
        "INSERT OR IGNORE INTO refs (digest, id, size) VALUES (?, ?, ?)",
        [(digest, id_, size) for digest, size in encoding.files_of(variant.result)],
    )


def delete_variants(connection: sqlite3.Connection, ids: Collection[bytes]) -> None:
    """Deletes committed variants and what they refer to, by id."""
    for chunk in chunked(ids):
        connection.execute(f"DELETE FROM variants WHERE id IN ({marks(chunk)})", chunk)
        connection.execute(f"DELETE FROM refs WHERE id IN ({marks(chunk)})", chunk)


def trim(connection: sqlite3.Connection, keys: Collection[bytes]) -> None:
    """Drops the oldest variants of keys that have more than VARIANTS."""
    for key in keys:
        surplus = connection.execute(
            "SELECT id FROM variants WHERE key = ?"
            " ORDER BY created DESC, id DESC LIMIT -1 OFFSET ?",
            (key, VARIANTS),
        ).fetchall()
        if surplus:
            delete_variants(connection, [id_ for (id_,) in surplus])


__all__ = ["Records", "delete_variants", "insert_refs", "trim"]
