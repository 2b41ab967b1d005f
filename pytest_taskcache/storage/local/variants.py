"""Records in an index: the key storage role of local and memory storage."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from functools import partial
from typing import TypeVar

from pytest_taskcache.dataclass import dataclass, replace
from pytest_taskcache.errors import StorageError
from pytest_taskcache.model.dependency import Trace
from pytest_taskcache.model.record import VARIANTS, Variant
from pytest_taskcache.storage.local import encoding
from pytest_taskcache.storage.local.encoding import (
    COLUMNS,
    DAMAGE,
    Common,
    Row,
    Shared,
    chunked,
    from_sql,
    marks,
    to_sql,
)
from pytest_taskcache.storage.local.index import Clock, Index

T = TypeVar("T")
_REMEMBERED_BYTES = 64 << 20
_REMEMBERED = 100_000
_PAGE = 500
_DAMAGED = "damaged row in the index"


class Reason(StrEnum):
    """Why a record is no longer there."""

    EVICTED = "evicted"
    """It was the least recently used one when the cache had grown beyond its size."""
    EXPIRED = "expired"
    PRUNED = "pruned"
    """Too old, or too long unused, for whoever pruned."""
    CLEARED = "cleared"
    REMOVED = "removed"
    DAMAGED = "damaged"


@dataclass(frozen=True, slots=True)
class Removal:
    """What became of the last record of an identity that was removed; ``at`` in POSIX seconds."""

    reason: Reason
    at: float


@dataclass(frozen=True, slots=True)
class Usage:
    """A committed record as house-keeping sees it.

    Times are POSIX seconds; ``used`` is that of the last session it was of use in. ``bytes`` are
    those of its row and of the results it refers to, which other records may refer to as well.
    """

    id: str
    key: str
    identity: str
    created: float
    used: float
    expires: float | None
    bytes: int


class Records:
    """Key storage in the tables of an index.

    What was decoded once in this process is remembered: variants and shared rows for ever, since
    rows never change; the answer for a key while SQLite's ``data_version`` says that no other
    connection committed, and nothing was written to that key here; an identity's newest record,
    and that none was ever removed, while nobody did more than add records here. Rows that are not
    as they were written read as absent, are told as a fault, and are deleted.
    """

    def __init__(self, index: Index) -> None:
        self.index = index
        self._epoch = 0
        self._version = -1
        self._answers: dict[str, tuple[Variant, ...]] = {}
        self._decoded: dict[bytes, Variant] = {}
        self._traces: dict[int, tuple[bytes, Trace]] = {}
        self._commons: dict[int, Common] = {}
        self._objects: dict[bytes, Trace] = {}
        self._sound: set[bytes] = set()
        self._damaged: set[tuple[str, int]] = set()
        self._weight = 0
        self._moment: tuple[int | None, int, int] = (None, 0, 0)
        self._newest: dict[str, Variant | None] = {}
        self._nothing_removed = False

    def describe(self) -> str:
        """Where the index is."""
        return str(self.index)

    # ----------------------------------------------------------------------- reading

    def read(self, operation: str, work: Callable[[sqlite3.Connection], T]) -> T:
        """``index.read`` for work that decodes. Raises StorageError."""

        def prepared(connection: sqlite3.Connection) -> T:
            self._renew(connection)
            return work(connection)

        with self.index.lock:
            found = self.index.read(operation, prepared)
            self._put_aside()
        return found

    def read_records(self, keys: Collection[str]) -> Mapping[str, tuple[Variant, ...]]:
        """As KeyStorage.read_records."""
        if len(keys) == 1:
            (key,) = keys
            found = self._remembered(key)
            if found is not None:
                return {key: found} if found else {}
        return self.read("read records", lambda connection: self._read(connection, keys))

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
        answers = self._answers
        unknown = {to_sql(key): key for key in keys if key not in answers}
        rows: list[tuple[object, ...]] = []
        for chunk in chunked(unknown):
            rows += connection.execute(
                f"SELECT seq, {COLUMNS} FROM variants WHERE key IN ({marks(chunk)})"
                " ORDER BY created DESC, id DESC",
                chunk,
            )
        found: dict[str, list[Variant]] = {}
        for variant in self.decode(connection, "variants", rows):
            found.setdefault(variant.key, []).append(variant)
        for key in unknown.values():
            answers[key] = tuple(found.get(key, ())[:VARIANTS])
        return {key: answers[key] for key in keys if answers[key]}

    def decode(
        self,
        connection: sqlite3.Connection,
        table: str,
        rows: Iterable[tuple[object, ...]],
        *,
        remember: bool = True,
    ) -> list[Variant]:
        """The variants of rows of a table (its ``seq`` and COLUMNS), in their order, without the
        damaged ones. To be called within ``read`` or ``write``."""
        numbered = [(row[0], Row._make(row[1:])) for row in rows]
        fresh = [(seq, row) for seq, row in numbered if row.id not in self._decoded]
        made: dict[bytes, Variant] = {}
        if fresh:
            self._load(connection, {row.trace for _, row in fresh})
            self._load(connection, {row.common for _, row in fresh})
        for seq, row in fresh:
            try:
                trace, common = self._traces[row.trace], self._commons[row.common]
                made[row.id] = encoding.decode(row, trace, common)
            except DAMAGE:
                self._damaged.add((table, int(seq)))  # type: ignore[call-overload]
        if remember:
            for variant in made.values():
                self.remember(variant)
        known = self._decoded
        found = [made.get(row.id) or known.get(row.id) for _, row in numbered]
        return [variant for variant in found if variant is not None]

    def _load(self, connection: sqlite3.Connection, ids: set[int]) -> None:
        """Learns the shared rows of these ids, but for damaged and lost ones."""
        wanted = {id_ for id_ in ids if id_ not in self._traces and id_ not in self._commons}
        for chunk in chunked(wanted):
            rows = connection.execute(
                f"SELECT id, name, body FROM shared WHERE id IN ({marks(chunk)})", chunk
            )
            for id_, name, body in rows:
                try:
                    if name.startswith(b"="):
                        self._commons[id_] = encoding.decode_common(name, body)
                    else:
                        trace = encoding.decode_trace(name, body)
                        self._traces[id_] = (name, self._objects.setdefault(name, trace))
                        self._weight += 200 * len(trace.dependencies)
                except DAMAGE:
                    self._damaged.add(("shared", id_))

    def recent(self, identities: Collection[str]) -> Mapping[str, Variant]:
        """As KeyStorage.recent."""
        with self.index.lock:
            if not (self._is_unwritten() and self._newest.keys() >= set(identities)):
                found = self._recent(identities)
                self._newest.update({name: found.get(name) for name in identities})
            known = ((name, self._newest[name]) for name in identities)
            return {name: variant for name, variant in known if variant is not None}

    def _recent(self, identities: Collection[str]) -> dict[str, Variant]:
        def work(connection: sqlite3.Connection) -> dict[str, Variant]:
            found = {}
            for identity in identities:
                rows = connection.execute(
                    f"SELECT seq, {COLUMNS} FROM variants WHERE identity = ?"
                    " ORDER BY created DESC, id DESC LIMIT 1",
                    (to_sql(identity),),
                ).fetchall()
                for variant in self.decode(connection, "variants", rows):
                    found[identity] = variant
            return found

        return self.read("read recent records", work)

    def latest(self, identity: str) -> Sequence[Variant]:
        """The newest variants of an identity, VARIANTS at most, whatever their keys. Raises
        StorageError."""

        def work(connection: sqlite3.Connection) -> Sequence[Variant]:
            rows = connection.execute(
                f"SELECT seq, {COLUMNS} FROM variants WHERE identity = ?"
                f" ORDER BY created DESC, id DESC LIMIT {VARIANTS}",
                (to_sql(identity),),
            ).fetchall()
            return list(self.decode(connection, "variants", rows))

        return self.read("read recent records", work)

    def scan(self) -> Iterator[Variant]:
        """Every committed variant, oldest first, a few hundred at a time: what is committed
        meanwhile may be among them. Raises StorageError."""
        last = 0

        def page(connection: sqlite3.Connection) -> tuple[int, list[Variant]]:
            rows = connection.execute(
                f"SELECT seq, {COLUMNS} FROM variants WHERE seq > ? ORDER BY seq LIMIT {_PAGE}",
                (last,),
            ).fetchall()
            end = int(rows[-1][0]) if rows else -1
            return end, self.decode(connection, "variants", rows, remember=False)

        while last >= 0:
            last, variants = self.read("list records", page)
            yield from variants

    def all_records(self) -> list[Variant]:
        """Every committed variant, newest first. Raises StorageError."""
        return sorted(self.scan(), key=lambda variant: (variant.created, variant.id), reverse=True)

    def usage(self) -> Iterator[Usage]:
        """Every committed record with its size and its times, in no order. Raises StorageError."""

        def page(connection: sqlite3.Connection) -> list[tuple[object, ...]]:
            return connection.execute(
                "SELECT seq, id, key, identity, created, used, expires,"
                " length(body) + coalesce(length(inline), 0)"
                " + coalesce((SELECT sum(size) FROM refs WHERE refs.id = variants.id), 0)"
                f" FROM variants WHERE seq > ? ORDER BY seq LIMIT {_PAGE}",
                (last,),
            ).fetchall()

        last: object = 0
        while rows := self.index.read("list records", page):
            last = rows[-1][0]
            for _, id_, key, identity, created, used, expires, size in rows:
                try:
                    yield Usage(
                        from_sql(id_),  # type: ignore[arg-type]
                        from_sql(key),  # type: ignore[arg-type]
                        from_sql(identity),  # type: ignore[arg-type]
                        float(created),  # type: ignore[arg-type]
                        float(used),  # type: ignore[arg-type]
                        None if expires is None else float(expires),  # type: ignore[arg-type]
                        int(size),  # type: ignore[call-overload]
                    )
                except DAMAGE:
                    continue  # told, and put aside, by whoever reads the record

    def removed(self, names: Collection[str]) -> Mapping[str, Removal]:
        """What became of the last removed record of each identity or key that lost one, as far
        back as the ten thousandth of them. Raises StorageError."""

        def work(connection: sqlite3.Connection) -> tuple[dict[str, Removal], bool]:
            found = {}
            for chunk in chunked([to_sql(name) for name in names]):
                rows = connection.execute(
                    f"SELECT identity, reason, at FROM removals WHERE identity IN ({marks(chunk)})",
                    chunk,
                )
                for identity, reason, at in rows:
                    if reason in Reason.__members__.values():
                        found[from_sql(identity)] = Removal(Reason(reason), float(at))
            first = connection.execute("SELECT 1 FROM removals LIMIT 1").fetchone()
            return found, first is None

        with self.index.lock:
            if self._is_unwritten() and self._nothing_removed:
                return {}
            found, self._nothing_removed = self.index.read("read removals", work)
        return found

    def _is_unwritten(self) -> bool:
        """Whether what is known of the whole index still holds; else it is forgotten. To be asked
        with the lock held: what another process writes after that shows the next time."""
        moment = (self.index.quick_version(), self.index.epoch, self.index.writes)
        if moment != self._moment or moment[0] is None or len(self._newest) > _REMEMBERED:
            self._newest.clear()
            self._nothing_removed = False
            self._moment = moment
            return False
        return True

    def _renew(self, connection: sqlite3.Connection) -> None:
        epoch = self.index.epoch
        version = connection.execute("PRAGMA data_version").fetchone()[0]
        if epoch != self._epoch or self._weight > _REMEMBERED_BYTES:
            for memory in (self._answers, self._decoded, self._traces, self._commons):
                memory.clear()
            self._objects.clear()
            self._sound.clear()
            self._weight = 0
        elif version != self._version or len(self._answers) > _REMEMBERED:
            self._answers.clear()
        self._epoch, self._version = epoch, version

    def remember(self, variant: Variant) -> None:
        """Spares decoding a variant whose row is known to be in the index."""
        name = to_sql(variant.trace.digest)
        trace = self._objects.setdefault(name, variant.trace) if name else variant.trace
        if trace is not variant.trace:
            variant = replace(variant, trace=trace)
        self._decoded[to_sql(variant.id)] = variant
        self._weight += 500 + len(variant.result.inline or b"")

    def _put_aside(self) -> None:
        """Tells of damaged rows that reading came across, and deletes them, so that what is
        computed again takes their place."""
        if not self._damaged:
            return
        damaged, self._damaged = self._damaged, set()
        for _ in damaged:
            self.index.tell(_DAMAGED)

        def work(connection: sqlite3.Connection) -> None:
            for table, number in damaged:
                column = "id" if table == "shared" else "seq"
                if table != "shared":
                    _note_removal(connection, f"{table} WHERE seq = ?", (number,), Reason.DAMAGED)
                connection.execute(f"DELETE FROM {table} WHERE {column} = ?", (number,))

        try:
            if not self.index.readonly:
                self.write("put damaged rows aside", work)
        except StorageError as error:
            self.index.tell(error.reason)

    # ----------------------------------------------------------------------- writing

    def write_records(self, variants: Sequence[Variant]) -> None:
        """As KeyStorage.write_records, in one SQLite transaction."""
        if not variants:
            return
        now = Clock.now()

        def work(connection: sqlite3.Connection) -> None:
            for variant, row in zip(variants, self.rows(connection, variants), strict=True):
                cursor = connection.execute(
                    f"INSERT OR IGNORE INTO variants ({COLUMNS}, used) VALUES ({marks(row)}, ?)",
                    (*row, now),
                )
                if cursor.rowcount:
                    insert_refs(connection, variant)
            trim(connection, {to_sql(variant.key) for variant in variants})

        with self.index.lock:
            known = self._is_unwritten()
            self.write("write records", work, {variant.key for variant in variants})
            if known:  # and what was just written
                version, epoch, writes = self._moment
                self._moment = version, epoch, writes + 1
                for variant in variants:
                    self._renew_newest(variant)

    def _renew_newest(self, variant: Variant) -> None:
        """Takes a record that was just written; it may be older than what is known, and says
        nothing where nobody looked yet."""
        name = str(variant.identity)
        known = self._newest.get(name)
        newer = known is None or (variant.created, variant.id) >= (known.created, known.id)
        if name in self._newest and newer:
            self._newest[name] = variant

    def rows(self, connection: sqlite3.Connection, variants: Sequence[Variant]) -> list[Row]:
        """The rows of variants, with what they share written; within ``write``."""
        found: dict[bytes, tuple[int, bytes]] = {}
        rows = []
        for variant in variants:
            common = encoding.encode_common(variant)
            if common.name not in found:
                found[common.name] = self._intern(connection, common.name, partial(_same, common))
            trace = variant.trace
            name = to_sql(trace.digest) or encoding.encode_trace(trace).name
            if name not in found:
                found[name] = self._intern_trace(connection, name, trace)
            rows.append(encoding.encode(variant, found[name], found[common.name]))
        return rows

    def _intern_trace(
        self, connection: sqlite3.Connection, name: bytes, trace: Trace
    ) -> tuple[int, bytes]:
        id_, name = self._intern(connection, name, lambda: encoding.encode_trace(trace))
        if trace.uses:
            connection.executemany(
                "INSERT OR IGNORE INTO uses (trace, digest, size) VALUES (?, ?, ?)",
                [(id_, blob.digest, blob.size) for blob in trace.uses],
            )
        return id_, name

    def _intern(
        self, connection: sqlite3.Connection, name: bytes, encoded: Callable[[], Shared]
    ) -> tuple[int, bytes]:
        """Id and name of a shared row, which is added if it is new, or mended: whoever refers to a
        damaged one could never be read. Its content is looked at once a process."""
        columns = "id" if name in self._sound else "id, body"
        row = connection.execute(f"SELECT {columns} FROM shared WHERE name = ?", (name,)).fetchone()
        if row is None:
            cursor = connection.execute("INSERT INTO shared (name, body) VALUES (?, ?)", encoded())
            assert cursor.lastrowid is not None
            return cursor.lastrowid, name
        id_ = int(row[0])
        if len(row) > 1:
            try:
                encoding.unseal(row[1], name)
            except DAMAGE:
                self.index.tell(_DAMAGED)
                connection.execute("UPDATE shared SET body = ? WHERE id = ?", (encoded().body, id_))
            self._sound.add(name)
        return id_, name

    def write(
        self,
        operation: str,
        work: Callable[[sqlite3.Connection], T],
        keys: Iterable[str] | None = None,
    ) -> T:
        """``index.write`` for work that changes the records of ``keys`` (None: of any key)."""

        def prepared(connection: sqlite3.Connection) -> T:
            if self.index.epoch != self._epoch:
                self._renew(connection)
            return work(connection)

        with self.index.lock:
            try:
                return self.index.write(operation, prepared)
            except BaseException:
                self._sound.clear()
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
            lambda connection: delete_variants(
                connection, [to_sql(id_) for id_ in ids], Reason.REMOVED
            ),
        )

    def mark_used(self, ids: Collection[str], now: float | None = None) -> None:
        """Notes that variants were of use, for eviction; once a session, in one write."""
        moment = Clock.now() if now is None else now

        def work(connection: sqlite3.Connection) -> None:
            connection.executemany(
                "UPDATE variants SET used = max(CAST(used AS REAL), ?) WHERE id = ?",
                [(moment, to_sql(id_)) for id_ in ids],
            )

        if ids:
            self.index.write("note use", work)

    def close(self) -> None:
        """As KeyStorage.close."""
        self.index.close()


def _same(shared: Shared) -> Shared:
    return shared


def insert_refs(connection: sqlite3.Connection, variant: Variant) -> None:
    """Says which results a variant needs, so that eviction leaves them."""
    id_ = to_sql(variant.id)
    connection.executemany(
        "INSERT OR IGNORE INTO refs (digest, id, size) VALUES (?, ?, ?)",
        [(digest, id_, size) for digest, size in encoding.files_of(variant.result)],
    )


def delete_variants(
    connection: sqlite3.Connection, ids: Collection[bytes], reason: Reason | None
) -> None:
    """Deletes committed variants and what they refer to, by id; why, so that a later miss can
    tell (None: newer ones of the same key took their place)."""
    for chunk in chunked(ids):
        if reason is not None:
            _note_removal(connection, f"variants WHERE id IN ({marks(chunk)})", chunk, reason)
        connection.execute(f"DELETE FROM variants WHERE id IN ({marks(chunk)})", chunk)
        connection.execute(f"DELETE FROM refs WHERE id IN ({marks(chunk)})", chunk)


def _note_removal(
    connection: sqlite3.Connection, which: str, values: Sequence[object], reason: Reason
) -> None:
    for name in ("identity", "key"):
        connection.execute(
            "INSERT OR REPLACE INTO removals (identity, reason, at)"
            f" SELECT {name}, '{reason}', {Clock.now()!r} FROM {which}",
            values,
        )


def trim(connection: sqlite3.Connection, keys: Collection[bytes]) -> None:
    """Drops the oldest variants of keys that have more than VARIANTS."""
    for key in keys:
        surplus = connection.execute(
            "SELECT id FROM variants WHERE key = ?"
            " ORDER BY created DESC, id DESC LIMIT -1 OFFSET ?",
            (key, VARIANTS),
        ).fetchall()
        if surplus:
            delete_variants(connection, [id_ for (id_,) in surplus], None)
