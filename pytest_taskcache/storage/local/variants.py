"""Records in an index: the key storage role of local and memory storage."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from sqlite3 import Connection
from typing import Any, TypeVar

from pytest_taskcache.dataclass import dataclass, field
from pytest_taskcache.errors import StorageError
from pytest_taskcache.model.decision import Why
from pytest_taskcache.model.dependency import Trace
from pytest_taskcache.model.record import VARIANTS, Variant
from pytest_taskcache.originals import originals
from pytest_taskcache.storage.local import encoding
from pytest_taskcache.storage.local.encoding import (
    COLUMNS,
    DAMAGE,
    Row,
    Shared,
    each,
    from_sql,
    to_sql,
)
from pytest_taskcache.storage.local.index import Index

T = TypeVar("T")
_REMEMBERED = 50_000
"""How many records, and how many answers, are remembered at most."""
_PAGE = 500
_DAMAGED = "damaged row in the index"


@dataclass(slots=True)
class Answers:
    """What the index said, for as long as no other connection writes to it: the records of a key,
    the newest record of an identity, what is staged (by run, key and test), whether no record was
    ever removed, and whether there is known to be none. What this process writes is taken in, or
    taken out, as it is written."""

    records: dict[str, tuple[Variant, ...]] = field(default_factory=dict)
    newest: dict[str, Variant | None] = field(default_factory=dict)
    staged: dict[tuple[str, str, str], Any] = field(default_factory=dict)
    nothing_removed: bool = False
    is_empty: bool = False


class Records:
    """Key storage in the tables of an index. What was decoded once in this process is remembered,
    since rows never change; and what the index answered, until somebody writes (`Answers`). Rows
    that are not as they were written read as absent, are told as a fault, and are deleted. What
    uses the index raises StorageError."""

    trusted = True  # memory is ours; owner and mode of a directory are checked before it is read

    def __init__(self, index: Index) -> None:
        self.index = index
        self.shelf = IndexShelf(index)
        self._answers = Answers()
        self._moment: tuple[int, int | None] = (0, None)
        self._epoch = 0
        self._decoded: dict[bytes, Variant] = {}
        self._shared: dict[int, Shared] = {}
        self._interned: dict[bytes, int] = {}
        self._damaged: set[tuple[str, int]] = set()

    def describe(self) -> str:
        """Where the index is."""
        return str(self.index)

    def answers(self) -> Answers:
        """What is remembered of the index as it is now, to be used with its lock held."""
        version = self.index.quick_version()
        moment = (self.index.epoch, version)
        if moment != self._moment or version is None:
            self._answers, self._moment = Answers(), moment
        return self._answers

    def read_index(self, operation: str, work: Callable[[Connection], T]) -> T:
        """``index.read`` for work that decodes."""

        def prepared(connection: Connection) -> T:
            self._renew()
            return work(connection)

        with self.index.lock:
            found = self.index.read(operation, prepared)
            self._put_aside()
        return found

    def read_records(self, keys: Collection[str]) -> Mapping[str, tuple[Variant, ...]]:
        """As KeyStorage.read_records."""
        with self.index.lock:
            # Mostly all of a warm hit (4 µs); a read with its snapshot costs four times as much.
            known = self.answers().records
            unknown = [key for key in keys if key not in known]
            if unknown and self._answers.is_empty:
                known |= dict.fromkeys(unknown, ())
            elif unknown:
                known |= self.read_index("read records", lambda c: self._read(c, unknown))
            return {key: found for key in keys if (found := known[key])}

    def _read(self, connection: Connection, keys: Sequence[str]) -> dict[str, tuple[Variant, ...]]:
        rows = each(
            connection,
            f"SELECT seq, {COLUMNS} FROM variants WHERE key IN (...) AND state = ''"
            " ORDER BY created DESC, id DESC",
            [to_sql(key) for key in keys],
        )
        found: dict[str, list[Variant]] = {key: [] for key in keys}
        for variant in self.decode_rows(connection, rows):
            if variant.key in found:  # else the row's key is damaged
                found[variant.key].append(variant)
        if not any(found.values()):
            ask = "SELECT 1 FROM variants LIMIT 1"
            self._answers.is_empty = connection.execute(ask).fetchone() is None
        return {key: tuple(variants[:VARIANTS]) for key, variants in found.items()}

    def decode_rows(
        self, connection: Connection, rows: Iterable[tuple[Any, ...]], *, remember: bool = True
    ) -> list[Variant]:
        """The variants of rows (``seq`` and COLUMNS), in their order, without the damaged ones. To
        be called within ``read_index`` or ``write_index``."""
        numbered = [(row[0], Row._make(row[1:])) for row in rows]
        fresh = [row for _, row in numbered if row.id not in self._decoded]
        if fresh:
            self._load(connection, {id_ for row in fresh for id_ in (row.trace, row.common)})
        found = []
        for seq, row in numbered:
            variant = self._decoded.get(row.id)
            if variant is None:
                try:
                    trace, common = self._shared[row.trace], self._shared[row.common]
                    variant = encoding.decode(row, trace, common)
                except DAMAGE:
                    self._damaged.add(("variants", int(seq)))
                    continue
                if remember:
                    self._decoded[row.id] = variant
            found.append(variant)
        return found

    def _load(self, connection: Connection, ids: Collection[int]) -> None:
        """Learns the shared rows of these ids, but for damaged and lost ones."""
        for id_, name, body in each(
            connection,
            "SELECT id, name, body FROM shared WHERE id IN (...)",
            [id_ for id_ in ids if id_ not in self._shared],
        ):
            try:
                self._shared[id_] = encoding.decode_shared(name, body)
            except DAMAGE:
                self._damaged.add(("shared", id_))

    def recent(self, identities: Collection[str]) -> Mapping[str, Variant]:
        """As KeyStorage.recent."""
        with self.index.lock:
            known = self.answers().newest
            unknown = [name for name in identities if name not in known]
            if unknown and self._answers.is_empty:
                known |= dict.fromkeys(unknown)
            elif unknown:

                def work(connection: Connection) -> dict[str, Variant | None]:
                    newest = ((name, self._newest(connection, name, 1)) for name in unknown)
                    return {name: found[0] if found else None for name, found in newest}

                known |= self.read_index("read recent records", work)
            return {name: found for name in identities if (found := known[name]) is not None}

    def latest(self, identity: str) -> Sequence[Variant]:
        """The newest variants of an identity, VARIANTS at most, whatever their keys."""
        return self.read_index(
            "read recent records", lambda connection: self._newest(connection, identity, VARIANTS)
        )

    def _newest(self, connection: Connection, identity: str, limit: int) -> list[Variant]:
        rows = connection.execute(
            f"SELECT seq, {COLUMNS} FROM variants WHERE identity = ? AND state = ''"
            f" ORDER BY created DESC, id DESC LIMIT {limit}",
            (to_sql(identity),),
        )
        return self.decode_rows(connection, rows)

    def scan(self) -> Iterator[Variant]:
        """As KeyStorage.scan, oldest first, a few hundred at a time."""
        last = 0

        def page(connection: Connection) -> tuple[int, list[Variant]]:
            rows = connection.execute(
                f"SELECT seq, {COLUMNS} FROM variants WHERE seq > ? AND state = ''"
                f" ORDER BY seq LIMIT {_PAGE}",
                (last,),
            ).fetchall()
            end = int(rows[-1][0]) if rows else -1
            return end, self.decode_rows(connection, rows, remember=False)

        while last >= 0:
            last, variants = self.read_index("list records", page)
            yield from variants

    def last_uses(self) -> Mapping[str, float]:
        """When each committed record, by id, was last of use (POSIX seconds)."""
        rows = self.index.read(
            "list records",
            lambda c: c.execute("SELECT id, used FROM variants WHERE state = ''").fetchall(),
        )
        found = {}
        for id_, used in rows:
            # What is damaged is told, and put aside, by whoever reads the record.
            with contextlib.suppress(*DAMAGE):
                found[from_sql(id_)] = float(used)
        return found

    def gone(self, name: str) -> Why | None:
        """What became of the last removed record of an identity (``file::name``) or key, as far
        back as the ten thousandth of them: evicted is not "never computed". None if nothing did."""
        query = "SELECT reason FROM removals WHERE identity = ?"

        def work(connection: Connection) -> tuple[Any, bool]:
            row = connection.execute(query, (to_sql(name),)).fetchone()
            first = connection.execute("SELECT 1 FROM removals LIMIT 1").fetchone()
            return row, first is None

        with self.index.lock:
            answers = self.answers()
            if answers.nothing_removed:
                return None
            row, answers.nothing_removed = self.index.read("read removals", work)
        return Why.__members__.get(row[0]) if row is not None else None

    def remember(self, variant: Variant) -> None:
        """Spares decoding a variant whose row is known to be in the index."""
        self._decoded[to_sql(variant.id)] = variant

    def _renew(self) -> None:
        """Forgets what was remembered of an earlier index, or what has become too much."""
        answers = self._answers
        if len(answers.records) + len(answers.newest) + len(answers.staged) > _REMEMBERED:
            self._answers = Answers()
        weight = len(self._decoded) + len(self._shared)
        if self.index.epoch != self._epoch or weight > _REMEMBERED:
            self._epoch = self.index.epoch
            self._decoded.clear()
            self._shared.clear()

    def _put_aside(self) -> None:
        """Tells of damaged rows that were read, and deletes them: others take their place."""
        if not self._damaged:
            return
        damaged, self._damaged = self._damaged, set()
        for _ in damaged:
            self.index.tell(_DAMAGED)

        def work(connection: Connection) -> None:
            rows = [number for table, number in damaged if table == "variants"]
            _note_removal(connection, "variants WHERE seq IN (...)", rows, Why.LOST)
            each(connection, "DELETE FROM variants WHERE seq IN (...)", rows)
            shared = [number for table, number in damaged if table == "shared"]
            each(connection, "DELETE FROM shared WHERE id IN (...)", shared)

        try:
            if not self.index.readonly:
                self.write_index("put damaged rows aside", work)
        except StorageError as error:
            self.index.tell(error.reason)

    def write_index(
        self, operation: str, work: Callable[[Connection], T], keys: Iterable[str] | None = None
    ) -> T:
        """``index.write`` for work that adds records of ``keys``, or changes any (None)."""

        def prepared(connection: Connection) -> T:
            self._renew()
            self._interned.clear()
            return work(connection)

        with self.index.lock:
            try:
                return self.index.write(operation, prepared)
            except BaseException:
                self._shared.clear()  # there may be ids among them that were never given out
                raise
            finally:
                self._answers.staged.clear()
                self._answers.is_empty = False
                if keys is None:
                    self._answers = Answers()
                else:
                    for key in keys:
                        self._answers.records.pop(key, None)

    def write_records(self, variants: Sequence[Variant]) -> None:
        """As KeyStorage.write_records, in one SQLite transaction."""
        if not variants:
            return

        def work(connection: Connection) -> None:
            for variant in variants:
                self.insert(connection, variant)
            trim(connection, {to_sql(key) for key, count in added.items() if count > room(key)})

        added = Counter(variant.key for variant in variants)
        there = self._answers.records  # of late: who finds more than fit trims them the next time

        def room(key: str) -> int:
            return VARIANTS - len(there[key]) if key in there else 0

        with self.index.lock:
            self.write_index("write records", work, {variant.key for variant in variants})
            newest = self._answers.newest
            for variant in variants:
                name = str(variant.identity)
                if name in newest:
                    known = newest[name] or variant
                    newest[name] = max(known, variant, key=lambda one: (one.created, one.id))

    def insert(self, connection: Connection, variant: Variant, **staged: object) -> bool:
        """Adds the row of a variant, with what it shares and what it refers to, unless it is there;
        whether it was new. ``staged`` are the columns that make it a staged one. To be called
        within ``write_index``."""
        trace = Shared(encoding.name_of(variant.trace), variant.trace)
        common = encoding.common_of(variant)
        ids = (self._intern(connection, trace), self._intern(connection, common))
        row = encoding.encode(variant, ids, (trace.name, common.name))
        columns = {"used": originals.seconds(), **staged, **row._asdict()}
        names, marks = ", ".join(columns), ",".join("?" * len(columns))
        new = f"INSERT OR IGNORE INTO variants ({names}) VALUES ({marks})"
        if not connection.execute(new, tuple(columns.values())).rowcount:
            return False
        # Which results it needs, so that eviction leaves them; what its trace uses is kept with
        # the trace.
        result = variant.result
        own = [] if result.inline is not None else [(result.digest, row.id, result.size)]
        connection.executemany(
            "INSERT OR IGNORE INTO refs (digest, id, size) VALUES (?, ?, ?)",
            own + [(blob.digest, row.id, blob.size) for blob in result.blobs],
        )
        return True

    def _intern(self, connection: Connection, shared: Shared) -> int:
        """The id of a shared row, which is added if it is new, or mended: whoever refers to a
        damaged one could never be read. It is looked up once a transaction, its content once a
        process."""
        name = shared.name
        if name in self._interned:
            return self._interned[name]
        row = connection.execute("SELECT id, body FROM shared WHERE name = ?", (name,)).fetchone()
        id_: int
        if row is None:
            (id_,) = connection.execute(
                "INSERT INTO shared (name, body) VALUES (?, ?) RETURNING id",
                (name, encoding.encode_shared(shared)),
            ).fetchone()
        else:
            id_, body = row
            try:
                if id_ not in self._shared:
                    encoding.unseal(body, name)
            except DAMAGE:
                self.index.tell(_DAMAGED)
                body = encoding.encode_shared(shared)
                connection.execute("UPDATE shared SET body = ? WHERE id = ?", (body, id_))
        self._shared.setdefault(id_, shared)
        if isinstance(shared.content, Trace) and shared.content.uses:
            connection.executemany(
                "INSERT OR IGNORE INTO uses (trace, digest, size) VALUES (?, ?, ?)",
                [(id_, blob.digest, blob.size) for blob in shared.content.uses],
            )
        self._interned[name] = id_
        return id_

    def remove_records(self, ids: Collection[str], reason: Why | None = Why.CLEARED) -> None:
        """As KeyStorage.remove_records; ``reason`` as in `delete_variants`."""
        rows = [to_sql(id_) for id_ in ids]
        self.write_index("remove records", lambda c: delete_variants(c, rows, reason))

    def mark_used(self, ids: Collection[str]) -> None:
        """Notes that variants were of use, for eviction; once a session, in one write."""
        if ids and not self.index.readonly:
            statement = "UPDATE variants SET used = max(CAST(used AS REAL), ?) WHERE id = ?"
            rows = [(originals.seconds(), to_sql(id_)) for id_ in ids]
            self.index.write("note use", lambda c: c.executemany(statement, rows).close())

    def close(self) -> None:
        """As KeyStorage.close."""
        self.index.close()


def delete_variants(connection: Connection, ids: Collection[bytes], reason: Why | None) -> None:
    """Deletes variants by id, with what they refer to and who uses them; why, so that a later miss
    can tell (None: they were only staged, or newer ones of the same key took their place)."""
    if reason is not None:
        _note_removal(connection, "variants WHERE id IN (...)", ids, reason)
    for table in ("variants", "refs", "claims", "derives"):
        each(connection, f"DELETE FROM {table} WHERE id IN (...)", ids)


def _note_removal(
    connection: Connection, which: str, values: Collection[object], reason: Why
) -> None:
    for name in ("identity", "key"):
        each(
            connection,
            "INSERT OR REPLACE INTO removals (identity, reason, at)"
            f" SELECT {name}, '{reason.name}', {originals.seconds()!r} FROM {which}",
            values,
        )


def trim(connection: Connection, keys: Collection[bytes]) -> None:
    """Drops the oldest variants of keys that have more than VARIANTS."""
    for key in keys:
        surplus = connection.execute(
            "SELECT id FROM variants WHERE key = ? AND state = ''"
            " ORDER BY created DESC, id DESC LIMIT -1 OFFSET ?",
            (key, VARIANTS),
        ).fetchall()
        if surplus:
            delete_variants(connection, [id_ for (id_,) in surplus], None)


class IndexShelf:
    """A ports.Shelf: small derived facts, in a table of the index. What fails is told to the
    index's ``on_fault`` and otherwise ignored."""

    def __init__(self, index: Index) -> None:
        self._index = index

    def read(self, section: str) -> Mapping[str, bytes]:
        """As Shelf.read."""
        try:
            query = "SELECT name, item FROM shelf WHERE section = ?"
            rows = self._index.read(
                "read the shelf", lambda c: c.execute(query, (section,)).fetchall()
            )
        except StorageError as error:
            self._index.tell(error.reason)
            return {}
        found = {}
        for name, item in rows:
            try:
                found[from_sql(name)] = encoding.unseal(item, section.encode(), name)
            except DAMAGE:
                # Nobody finds it, and the next one written takes its place.
                self._index.tell(_DAMAGED)
        return found

    def write(self, section: str, items: Mapping[str, bytes]) -> None:
        """Adds or replaces items. Never raises; a read-only index keeps nothing, silently."""
        named = [(to_sql(name), item) for name, item in items.items()]
        self._change(
            "INSERT OR REPLACE INTO shelf (section, name, item) VALUES (?, ?, ?)",
            [(section, name, encoding.seal(item, section.encode(), name)) for name, item in named],
        )

    def remove(self, section: str, names: Collection[str]) -> None:
        """Forgets items. As `write`."""
        self._change(
            "DELETE FROM shelf WHERE section = ? AND name = ?",
            [(section, to_sql(name)) for name in names],
        )

    def _change(self, statement: str, rows: Sequence[tuple[object, ...]]) -> None:
        if self._index.readonly or not rows:
            return
        try:
            self._index.write("write the shelf", lambda c: c.executemany(statement, rows).close())
        except StorageError as error:
            self._index.tell(error.reason)
