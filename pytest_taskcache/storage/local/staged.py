"""Rows of the `staged`, `claims` and `derives` tables, and the graph they make."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Mapping

from pytest_taskcache.dataclass import dataclass, field
from pytest_taskcache.storage.local.encoding import COLUMNS, chunked, marks
from pytest_taskcache.storage.local.variants import trim


@dataclass(slots=True)
class Node:
    """A staged entry as far as its fate goes: what it is (`held`, `retryable`), how it stands
    (``state``), whom it derives from among those that are still staged, who uses it."""

    id: bytes
    key: bytes
    destination: bytes
    producer: bytes
    held: bool
    retryable: bool
    state: str
    sources: set[bytes] = field(default_factory=set)
    claimants: set[bytes] = field(default_factory=set)


def claimed_by(
    connection: sqlite3.Connection, run: str, claimants: Collection[bytes]
) -> set[bytes]:
    """The entries that any of these claims in a run."""
    return _ids(connection, "claims", "claimant", run, claimants)


def produced_by(
    connection: sqlite3.Connection, run: str, claimants: Collection[bytes]
) -> set[bytes]:
    """The entries that any of these staged in a run."""
    return _ids(connection, "staged", "producer", run, claimants)


def _ids(
    connection: sqlite3.Connection, table: str, column: str, run: str, names: Collection[bytes]
) -> set[bytes]:
    found: set[bytes] = set()
    for chunk in chunked(names):
        rows = connection.execute(
            f"SELECT id FROM {table} WHERE {column} IN ({marks(chunk)}) AND run = ?", (*chunk, run)
        )
        found |= {id_ for (id_,) in rows}
    return found


def load(
    connection: sqlite3.Connection, ids: Iterable[bytes], *, related: bool
) -> dict[bytes, Node]:
    """The entries and what they derive from, transitively; if ``related`` also what derives from
    any of these, and so on: all whose fate may depend on one another."""
    graph: dict[bytes, Node] = {}
    seen = edge = set(ids)
    while edge:
        further: set[bytes] = set()
        for chunk in chunked(edge):
            rows = connection.execute(
                "SELECT id, key, destination, producer, held, retryable, state"
                f" FROM staged WHERE id IN ({marks(chunk)})",
                chunk,
            )
            fresh = {
                id_: Node(id_, key, destination, producer, bool(held), bool(retryable), state)
                for id_, key, destination, producer, held, retryable, state in rows
            }
            inside = f"IN ({marks(fresh)})"
            for id_, source in connection.execute(
                f"SELECT id, source FROM derives WHERE id {inside}", [*fresh]
            ):
                fresh[id_].sources.add(source)
                further.add(source)
            for id_, claimant in connection.execute(
                f"SELECT id, claimant FROM claims WHERE id {inside}", [*fresh]
            ):
                fresh[id_].claimants.add(claimant)
            if related:
                rows = connection.execute(f"SELECT id FROM derives WHERE source {inside}", [*fresh])
                further |= {id_ for (id_,) in rows}
            graph |= fresh
        edge = further - seen
        seen = seen | edge
    for node in graph.values():
        node.sources &= graph.keys()  # one that was committed meanwhile is no concern any more
    return graph


def save(
    connection: sqlite3.Connection,
    before: Mapping[bytes, str],
    graph: Mapping[bytes, Node],
    gone: Collection[bytes],
) -> None:
    """Writes the states that changed."""
    connection.executemany(
        "UPDATE staged SET state = ? WHERE id = ?",
        [
            (node.state, id_)
            for id_, node in graph.items()
            if id_ not in gone and node.state != before[id_]
        ],
    )


def read_rows(connection: sqlite3.Connection, ids: Collection[bytes]) -> list[tuple[object, ...]]:
    """The rows of entries (``seq`` and COLUMNS), oldest first."""
    rows: list[tuple[object, ...]] = []
    for chunk in chunked(ids):
        rows += connection.execute(
            f"SELECT seq, {COLUMNS} FROM staged WHERE id IN ({marks(chunk)})", chunk
        ).fetchall()
    return sorted(rows, key=lambda row: int(row[0]))  # type: ignore[call-overload]


def move(connection: sqlite3.Connection, entries: Collection[Node], now: float) -> None:
    """Makes entries committed variants of this index; what they refer to goes with them."""
    ids = [entry.id for entry in entries]
    for chunk in chunked(ids):
        connection.execute(
            f"INSERT OR IGNORE INTO variants ({COLUMNS}, used)"
            f" SELECT {COLUMNS}, {now!r} FROM staged WHERE id IN ({marks(chunk)}) ORDER BY seq",
            chunk,
        )
    trim(connection, {entry.key for entry in entries})
    _unstage(connection, ids)


def delete(connection: sqlite3.Connection, ids: Collection[bytes]) -> None:
    """Deletes entries with their claims, their edges and what they refer to."""
    for chunk in chunked(ids):
        connection.execute(
            f"DELETE FROM refs WHERE id IN ({marks(chunk)})"
            " AND id NOT IN (SELECT id FROM variants)",
            chunk,
        )
    _unstage(connection, ids)


def _unstage(connection: sqlite3.Connection, ids: Collection[bytes]) -> None:
    for chunk in chunked(ids):
        for table in ("staged", "claims", "derives"):
            connection.execute(f"DELETE FROM {table} WHERE id IN ({marks(chunk)})", chunk)
