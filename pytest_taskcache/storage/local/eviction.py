"""What goes when the cache is pruned: expired, too old, least recently used, unreferenced.

All deciding and deleting of results happens with the index's write lock held. A writer pins a
digest, which takes that lock, before it trusts that a result exists; so either the pin is seen here
and the result stays, or the result is gone before the writer looks.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable
from fnmatch import fnmatchcase

from pytest_taskcache.dataclass import dataclass
from pytest_taskcache.storage.local.encoding import chunked, from_sql, marks
from pytest_taskcache.storage.local.index import Clock
from pytest_taskcache.storage.local.results import ResultFiles, is_digest
from pytest_taskcache.storage.local.variants import Reason, Records, delete_variants

PIN_SECONDS = 3600.0
"""How long a pin lasts that belongs to no run; others last as long as their run."""
_SCAN_SECONDS = 3600.0
_REMOVALS = 10_000
_SETTING = "damaged setting of the index"


@dataclass(frozen=True, slots=True)
class Pruned:
    """What a pruning removed: variants, results, and the bytes of these results."""

    variants: int
    files: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Limits:
    """What may stay: ``max_size`` bytes in all; records that were made, and last of use, at most
    so many seconds ago (None: however long)."""

    max_size: int
    older_than: float | None = None
    unused: float | None = None


def prune(
    records: Records, files: ResultFiles, limits: Limits, *, now: float | None = None, full: bool
) -> Pruned:
    """Brings the cache within its limits; what it removed. Raises StorageError, OSError.

    Variants go by their expiry and age, then least recently used first; results when nothing
    refers to them or pins them. Those that nothing ever referred to need a look at all of them,
    which is taken if ``full``, or if the last one was an hour ago.
    """
    moment = Clock.now() if now is None else now
    removed, suspects = records.write(
        "prune", lambda connection: _drop_variants(connection, limits, moment)
    )
    due = full or moment - _scanned(records) > _SCAN_SECONDS
    if due:
        records.write("prune", lambda connection: _forget_shared(connection, moment))
        suspects |= {entry.name for entry in files.listing()}
        suspects |= records.index.read("prune", _small_results)
    deleted, freed = _delete_results(records, files, suspects)
    if due:
        files.delete_orphans()
    return Pruned(removed, deleted, freed)


def clear(records: Records, files: ResultFiles, pattern: str = "") -> Pruned:
    """Forgets all records, and what tests keep for a retry, and small facts; or only the records
    of the identities (``file::name``) that match the pattern (``*``, ``?``, ``[...]``). Runs under
    way keep what they staged and pinned. Raises StorageError, OSError."""

    def work(connection: sqlite3.Connection) -> int:
        rows = connection.execute("SELECT id, identity FROM variants").fetchall()
        victims = [id_ for id_, identity in rows if not pattern or _matches(identity, pattern)]
        delete_variants(connection, victims, Reason.CLEARED)
        if not pattern:
            connection.execute("DELETE FROM shelf")
            retained = "SELECT id FROM staged WHERE retained_for != x''"
            for table in ("refs", "claims", "derives"):
                connection.execute(f"DELETE FROM {table} WHERE id IN ({retained})")
            connection.execute("DELETE FROM staged WHERE retained_for != x''")
        return len(victims)

    count = records.write("clear", work)
    pruned = prune(records, files, Limits(1 << 62), full=True)
    return Pruned(count + pruned.variants, pruned.files, pruned.bytes)


def total_size(connection: sqlite3.Connection) -> int:
    """Bytes of all records, of what they share, and of the distinct results that they and staged
    entries refer to."""
    (files,) = connection.execute(
        "SELECT coalesce(sum(size), 0) FROM (SELECT digest, max(size) AS size FROM"
        " (SELECT digest, size FROM refs UNION ALL SELECT digest, size FROM uses) GROUP BY digest)"
    ).fetchone()
    (rows,) = connection.execute(
        "SELECT (SELECT coalesce(sum(length(body) + coalesce(length(inline), 0)), 0)"
        " FROM variants) + (SELECT coalesce(sum(length(body)), 0) FROM shared)"
    ).fetchone()
    return int(files) + int(rows)


def _matches(identity: bytes, pattern: str) -> bool:
    try:
        return fnmatchcase(from_sql(identity), pattern)
    except (AttributeError, UnicodeDecodeError):
        return True  # damaged: whoever clears wants it gone


def _drop_variants(
    connection: sqlite3.Connection, limits: Limits, now: float
) -> tuple[int, set[str]]:
    ages = [("expires <= ?", now, Reason.EXPIRED)]
    if limits.older_than is not None:
        ages.append(("created < ?", now - limits.older_than, Reason.PRUNED))
    if limits.unused is not None:
        ages.append(("used < ?", now - limits.unused, Reason.PRUNED))
    count = 0
    suspects: set[str] = set()
    for condition, bound, reason in ages:
        rows = connection.execute(f"SELECT id FROM variants WHERE {condition}", (bound,))
        count += _drop(connection, [id_ for (id_,) in rows], reason, suspects)
    excess = total_size(connection) - limits.max_size
    if excess > 0:
        victims = _least_recently_used(connection, excess)
        count += _drop(connection, victims, Reason.EVICTED, suspects)
    connection.execute("DELETE FROM pins WHERE run = '' AND since < ?", (now - PIN_SECONDS,))
    return count, suspects


def _drop(
    connection: sqlite3.Connection, ids: Collection[bytes], reason: Reason, suspects: set[str]
) -> int:
    for chunk in chunked(ids):
        rows = connection.execute(f"SELECT digest FROM refs WHERE id IN ({marks(chunk)})", chunk)
        suspects |= {digest for (digest,) in rows}
    delete_variants(connection, ids, reason)
    return len(ids)


def _least_recently_used(connection: sqlite3.Connection, excess: int) -> list[bytes]:
    """Variants whose going frees that many bytes. A result counts as freed with the last of
    those that refer to it, and one that is staged or pinned not at all."""
    users: dict[str, int] = {}
    sizes: dict[str, int] = {}
    needs: dict[bytes, list[str]] = {}
    for digest, id_, size in connection.execute("SELECT digest, id, size FROM refs"):
        users[digest] = users.get(digest, 0) + 1
        sizes[digest] = size
        needs.setdefault(id_, []).append(digest)
    pinned = {digest for (digest,) in connection.execute("SELECT digest FROM pins")}
    victims = []
    rows = connection.execute(
        "SELECT id, length(body) + coalesce(length(inline), 0) FROM variants ORDER BY used, seq"
    )
    for id_, weight in rows:
        if excess <= 0:
            break
        digests = needs.get(id_, ())
        if any(digest in pinned for digest in digests):
            continue
        victims.append(id_)
        excess -= weight
        for digest in digests:
            users[digest] -= 1
            if not users[digest]:
                excess -= sizes[digest]
    return victims


def _small_results(connection: sqlite3.Connection) -> set[str]:
    return {digest for (digest,) in connection.execute("SELECT digest FROM small_results")}


def _delete_results(
    records: Records, files: ResultFiles, suspects: Iterable[str]
) -> tuple[int, int]:
    def work(connection: sqlite3.Connection) -> tuple[int, int]:
        kept: set[str] = set()
        for table in ("refs", "pins", "uses"):
            kept |= {digest for (digest,) in connection.execute(f"SELECT digest FROM {table}")}
        freed = []
        for digest in sorted(set(suspects) - kept):
            rows = connection.execute(
                "DELETE FROM small_results WHERE digest = ? RETURNING length(data)", (digest,)
            ).fetchall()
            size = sum(int(row[0]) for row in rows)
            freed.append(size + (files.delete(digest) if is_digest(digest) else 0))
        return sum(1 for size in freed if size), sum(freed)

    return records.index.write("prune", work) if suspects else (0, 0)


def _forget_shared(connection: sqlite3.Connection, now: float) -> None:
    """Deletes shared rows that no record names, and what they used; and removals of long ago."""
    named = " UNION ".join(
        f"SELECT {column} FROM {table}"
        for table in ("variants", "staged")
        for column in ("trace", "common")
    )
    connection.execute(f"DELETE FROM shared WHERE id NOT IN ({named})")
    connection.execute("DELETE FROM uses WHERE trace NOT IN (SELECT id FROM shared)")
    connection.execute(
        "DELETE FROM removals WHERE identity NOT IN"
        f" (SELECT identity FROM removals ORDER BY at DESC LIMIT {_REMOVALS})"
    )
    connection.execute("INSERT OR REPLACE INTO meta VALUES ('scanned', ?)", (now,))


def _scanned(records: Records) -> float:
    """When all results were last looked at; 0.0 for never, or where the setting is odd."""
    row = records.index.read(
        "prune",
        lambda c: c.execute("SELECT value FROM meta WHERE name = 'scanned'").fetchone(),
    )
    if row is None:
        return 0.0
    if not isinstance(row[0], float) or row[0] > Clock.now() + _SCAN_SECONDS:
        records.index.tell(_SETTING)
        return 0.0
    return row[0]
