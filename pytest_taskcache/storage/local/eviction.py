"""What goes when the cache is pruned: expired, too old, least recently used, unreferenced.

All deciding and deleting of results happens with the index's write lock held. A writer pins a
digest, which takes that lock, before it trusts that a result exists; so either the pin is seen here
and the result stays, or the result is gone before the writer looks.
"""

from __future__ import annotations

from collections.abc import Collection
from sqlite3 import Connection
from typing import TypeAlias

from pytest_taskcache.dataclass import dataclass
from pytest_taskcache.storage.local.index import Clock
from pytest_taskcache.storage.local.results import ResultFiles
from pytest_taskcache.storage.local.variants import Reason, Records, delete_variants

PIN_SECONDS = 3600.0
"""How long a pin lasts that belongs to no run; others last as long as their run."""
_SCAN_SECONDS = 3600.0
_REMOVALS = 10_000
Ages: TypeAlias = tuple[float | None, float | None]
_SECTION, _LOOKED = "house-keeping", "all results were looked at"


@dataclass(frozen=True, slots=True)
class Pruned:
    """What a pruning removed: variants, results, and the bytes of these results."""

    variants: int
    files: int
    bytes: int


def prune(
    records: Records, files: ResultFiles, max_size: int, ages: Ages = (None, None), *, full: bool
) -> Pruned:
    """Brings the cache within ``max_size`` bytes in all, and of records that were made, and last of
    use, at most so many seconds ago (``ages``; None: however long); what it removed. Raises
    StorageError, OSError.

    Variants go by their expiry and age, then least recently used first; results when nothing
    refers to them or pins them. That needs a look at all of them, which is taken if variants were
    removed, if ``full``, or if the last one was an hour ago.
    """
    now = Clock.now()
    removed = records.write_index("prune", lambda c: _drop_variants(c, max_size, ages, now))
    last = float(records.shelf.read(_SECTION).get(_LOOKED, b"0"))
    if not (removed or full or abs(now - last) > _SCAN_SECONDS):
        return Pruned(0, 0, 0)
    # Before the lock is taken: a file that is written meanwhile is none of ours.
    found = {entry.name for entry in files.listing()}
    freed = records.write_index("prune", lambda c: _delete_unreferenced(c, files, found))
    files.delete_orphans()
    records.shelf.write(_SECTION, {_LOOKED: repr(now).encode()})
    return Pruned(removed, len(freed), sum(freed))


def clear(records: Records, files: ResultFiles) -> Pruned:
    """Forgets all records, and what tests keep for a retry, and small facts. Runs under way keep
    what they staged and pinned. Raises StorageError, OSError."""

    def work(connection: Connection) -> int:
        rows = connection.execute("SELECT id FROM variants WHERE state = ''").fetchall()
        delete_variants(connection, [id_ for (id_,) in rows], Reason.CLEARED)
        connection.execute("DELETE FROM shelf")
        retained = connection.execute(
            "SELECT id FROM variants WHERE state != '' AND retained_for IS NOT NULL"
        ).fetchall()
        delete_variants(connection, [id_ for (id_,) in retained], None)
        return len(rows)

    count = records.write_index("clear", work)
    pruned = prune(records, files, 1 << 62, full=True)
    return Pruned(count + pruned.variants, pruned.files, pruned.bytes)


def total_size(connection: Connection) -> int:
    """Bytes of all records, of what they share, and of the distinct results that they and staged
    entries refer to."""
    (files,) = connection.execute(
        "SELECT coalesce(sum(size), 0) FROM (SELECT digest, max(size) AS size FROM"
        " (SELECT digest, size FROM refs UNION ALL SELECT digest, size FROM uses) GROUP BY digest)"
    ).fetchone()
    (rows,) = connection.execute(
        "SELECT (SELECT coalesce(sum(length(body) + coalesce(length(inline), 0)), 0)"
        " FROM variants WHERE state = '') + (SELECT coalesce(sum(length(body)), 0) FROM shared)"
    ).fetchone()
    return int(files) + int(rows)


def _drop_variants(connection: Connection, max_size: int, ages: Ages, now: float) -> int:
    bounds = [("expires <= ?", now, Reason.EXPIRED)]
    for column, age in zip(("created", "used"), ages, strict=True):
        if age is not None:
            bounds.append((f"{column} < ?", now - age, Reason.PRUNED))
    count = 0
    lost = connection.execute("SELECT id FROM variants WHERE state != '' AND run IS NULL")
    delete_variants(connection, [id_ for (id_,) in lost], Reason.DAMAGED)
    for condition, bound, reason in bounds:
        rows = connection.execute(
            f"SELECT id FROM variants WHERE state = '' AND {condition}", (bound,)
        ).fetchall()
        delete_variants(connection, [id_ for (id_,) in rows], reason)
        count += len(rows)
    excess = total_size(connection) - max_size
    if excess > 0:
        victims = _least_recently_used(connection, excess)
        delete_variants(connection, victims, Reason.EVICTED)
        count += len(victims)
    connection.execute("DELETE FROM pins WHERE run = '' AND since < ?", (now - PIN_SECONDS,))
    return count


def _least_recently_used(connection: Connection, excess: int) -> list[bytes]:
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
        "SELECT id, length(body) + coalesce(length(inline), 0) FROM variants WHERE state = ''"
        " ORDER BY used, seq"
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


def _delete_unreferenced(
    connection: Connection, files: ResultFiles, found: Collection[str]
) -> list[int]:
    """Deletes shared rows that no record names, what nobody refers to of the results, the files
    that were ``found`` among them, and removals of long ago; the bytes of each result."""
    connection.execute(
        "DELETE FROM shared WHERE id NOT IN"
        " (SELECT trace FROM variants UNION SELECT common FROM variants)"
    )
    connection.execute("DELETE FROM uses WHERE trace NOT IN (SELECT id FROM shared)")
    connection.execute(
        "DELETE FROM removals WHERE identity NOT IN"
        f" (SELECT identity FROM removals ORDER BY at DESC LIMIT {_REMOVALS})"
    )
    kept = " UNION ".join(f"SELECT digest FROM {table}" for table in ("refs", "pins", "uses"))
    rows = connection.execute(
        f"DELETE FROM small_results WHERE digest NOT IN ({kept}) RETURNING length(data)"
    ).fetchall()
    needed = {digest for (digest,) in connection.execute(kept)}
    return [int(size) for (size,) in rows] + [
        files.delete(digest) for digest in found if digest not in needed
    ]
