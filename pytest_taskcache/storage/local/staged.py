"""Rows of the `staged`, `claims` and `derives` tables, and the graph they make."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable

from pytest_taskcache.dataclass import dataclass, field
from pytest_taskcache.storage.local.encoding import COLUMNS, each
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


def concerning(connection: sqlite3.Connection, run: str, claimant: bytes) -> set[bytes]:
    """The entries that somebody claims or produced in a run."""
    rows = connection.execute(
        "SELECT id FROM claims WHERE claimant = ? AND run = ?"
        " UNION ALL SELECT id FROM staged WHERE producer = ? AND run = ?",
        (claimant, run, claimant, run),
    )
    return {id_ for (id_,) in rows}


def load(connection: sqlite3.Connection, ids: Iterable[bytes]) -> dict[bytes, Node]:
    """The entries, what they derive from, what derives from any of these, and so on: all whose
    fate may depend on one another."""
    graph: dict[bytes, Node] = {}
    seen: set[bytes] = set()
    edge = set(ids)
    while edge:
        seen |= edge
        rows = each(
            connection,
            "SELECT id, key, destination, producer, held, retryable, state"
            " FROM staged WHERE id IN (...)",
            edge,
        )
        fresh = {row[0]: Node(*row) for row in rows}
        further = set()
        for id_, source in each(
            connection, "SELECT id, source FROM derives WHERE id IN (...)", fresh
        ):
            fresh[id_].sources.add(source)
            further.add(source)
        for id_, claimant in each(
            connection, "SELECT id, claimant FROM claims WHERE id IN (...)", fresh
        ):
            fresh[id_].claimants.add(claimant)
        rows = each(connection, "SELECT id FROM derives WHERE source IN (...)", fresh)
        graph |= fresh
        edge = (further | {id_ for (id_,) in rows}) - seen
    for node in graph.values():
        node.sources &= graph.keys()  # one that was committed meanwhile is no concern any more
    return graph


def move(connection: sqlite3.Connection, entries: Collection[Node], now: float) -> None:
    """Makes entries committed variants of this index; what they refer to goes with them."""
    ids = [entry.id for entry in entries]
    each(
        connection,
        f"INSERT OR IGNORE INTO variants ({COLUMNS}, used)"
        f" SELECT {COLUMNS}, {now!r} FROM staged WHERE id IN (...) ORDER BY seq",
        ids,
    )
    trim(connection, {entry.key for entry in entries})
    _unstage(connection, ids)


def delete(connection: sqlite3.Connection, ids: Collection[bytes]) -> None:
    """Deletes entries with their claims, their edges and, where no variant has it, what they refer
    to."""
    each(
        connection,
        "DELETE FROM refs WHERE id IN (...) AND id NOT IN (SELECT id FROM variants)",
        ids,
    )
    _unstage(connection, ids)


def _unstage(connection: sqlite3.Connection, ids: Collection[bytes]) -> None:
    for table in ("staged", "claims", "derives"):
        each(connection, f"DELETE FROM {table} WHERE id IN (...)", ids)
