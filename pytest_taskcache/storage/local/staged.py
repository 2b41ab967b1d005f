"""Rows of the `staged`, `claims` and `derives` tables, and the graph they make."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable
from typing import NamedTuple

from pytest_taskcache.storage.local.atoms import chunked, marks
from pytest_taskcache.storage.local.encoding import COLUMNS, Row
from pytest_taskcache.storage.local.variants import trim


class Standing(NamedTuple):
    """How a staged entry stands; all but the first two as SQLite's 0 and 1."""

    id: bytes
    key: bytes
    destination: bytes
    producer: bytes
    held: int
    retryable: int
    hidden: int
    approved: int
    poisoned: int
    decided: int
    retained_for: bytes


_STANDING = ", ".join(Standing._fields)


def standings(connection: sqlite3.Connection, ids: Collection[bytes]) -> dict[bytes, Standing]:
    """How those of the entries stand that are still staged."""
    found = {}
    for chunk in chunked(ids):
        rows = connection.execute(
            f"SELECT {_STANDING} FROM staged WHERE id IN ({marks(chunk)})", chunk
        )
        found.update({row[0]: Standing._make(row) for row in rows})
    return found


def upstream(connection: sqlite3.Connection, ids: Collection[bytes]) -> set[bytes]:
    """The entries and the staged ones they derive from, transitively."""
    return _reach(connection, ids, "id", "source")


def downstream(connection: sqlite3.Connection, ids: Collection[bytes]) -> set[bytes]:
    """The entries and the staged ones that derive from them, transitively."""
    return _reach(connection, ids, "source", "id")


def _reach(connection: sqlite3.Connection, ids: Collection[bytes], at: str, to: str) -> set[bytes]:
    # Breadth first, in a few statements, rather than a recursive query for each entry; a source
    # that has been committed meanwhile has no row any more, and ends the path.
    seen = set(standings(connection, ids))
    edge = set(seen)
    while edge:
        further: set[bytes] = set()
        for chunk in chunked(edge):
            rows = connection.execute(
                f"SELECT derives.{to} FROM derives JOIN staged ON staged.id = derives.{to}"
                f" WHERE derives.{at} IN ({marks(chunk)})",
                chunk,
            )
            further |= {id_ for (id_,) in rows}
        edge = further - seen
        seen |= edge
    return seen


def in_use(connection: sqlite3.Connection, id_: bytes) -> bool:
    """Whether anyone claims the entry, or one that derives from it."""
    if _claimed(connection, [id_]):
        return True
    return _claimed(connection, downstream(connection, [id_]))


def _claimed(connection: sqlite3.Connection, ids: Collection[bytes]) -> bool:
    for chunk in chunked(ids):
        row = connection.execute(
            f"SELECT 1 FROM claims WHERE id IN ({marks(chunk)}) LIMIT 1", chunk
        ).fetchone()
        if row is not None:
            return True
    return False


def set_flag(connection: sqlite3.Connection, flag: str, ids: Iterable[bytes]) -> None:
    """Sets one of the flags of entries."""
    connection.executemany(f"UPDATE staged SET {flag} = 1 WHERE id = ?", [(id_,) for id_ in ids])


def read_rows(connection: sqlite3.Connection, ids: Collection[bytes]) -> list[Row]:
    """The encoded variants of entries, oldest first."""
    rows = []
    for chunk in chunked(ids):
        rows += connection.execute(
            f"SELECT seq, {COLUMNS} FROM staged WHERE id IN ({marks(chunk)})", chunk
        ).fetchall()
    return [Row._make(row[1:]) for row in sorted(rows, key=lambda row: int(row[0]))]


def move(connection: sqlite3.Connection, entries: Collection[Standing], now: float) -> None:
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


__all__ = [
    "Standing",
    "delete",
    "downstream",
    "in_use",
    "move",
    "read_rows",
    "set_flag",
    "standings",
    "upstream",
]
