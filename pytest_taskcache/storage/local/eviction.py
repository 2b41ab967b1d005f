"""What goes when the cache is pruned: expired, least recently used, unreferenced, orphaned.

All deciding and deleting of result files happens with the index's write lock held. A writer pins
a digest, which takes that lock, before it trusts that a file exists; so either the pin is seen
here and the file stays, or the file is gone before the writer looks.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable
from dataclasses import dataclass

from pytest_taskcache.storage.local import encoding
from pytest_taskcache.storage.local.atoms import chunked, marks
from pytest_taskcache.storage.local.deltas import added_by
from pytest_taskcache.storage.local.results import ResultFiles
from pytest_taskcache.storage.local.variants import Records, delete_variants

PIN_SECONDS = 3600.0
"""How long a pin lasts that belongs to no run; others last as long as their run."""
_SCAN_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class Pruned:
    """What a pruning removed: variants, result files, and the bytes of these files."""

    variants: int
    files: int
    bytes: int


def prune(
    records: Records, files: ResultFiles, max_size: int, *, now: float | None = None, full: bool
) -> Pruned:
    """Brings the cache under ``max_size`` bytes; what it removed. Raises StorageError, OSError.

    Variants go by their expiry, then least recently used first; files when nothing refers to
    them or pins them. Files that nothing ever referred to need a scan of the whole directory,
    which is made if ``full``, or if the last one was an hour ago.
    """
    moment = time.time() if now is None else now
    removed, suspects, due = records.write(
        "prune", lambda connection: _drop_variants(connection, max_size, moment)
    )
    if full or due:
        suspects |= {entry.name for entry in files.listing()}
    deleted, freed = _delete_files(records, files, suspects)
    if full or due:
        files.delete_orphans()
        records.write("prune", lambda connection: _forget_atoms(connection, moment))
    return Pruned(removed, deleted, freed)


def total_size(connection: sqlite3.Connection) -> int:
    """Bytes of all records and of the distinct results they and staged entries refer to."""
    (files,) = connection.execute(
        "SELECT coalesce(sum(size), 0) FROM (SELECT max(size) AS size FROM refs GROUP BY digest)"
    ).fetchone()
    (rows,) = connection.execute(
        "SELECT coalesce(sum(length(body) + coalesce(length(inline), 0)), 0) FROM variants"
    ).fetchone()
    return int(files) + int(rows)


def clear(records: Records, files: ResultFiles) -> Pruned:
    """Forgets all that is committed, retained or shelved, in one transaction; runs that are
    under way keep what they staged and pinned. Raises StorageError, OSError."""

    def work(connection: sqlite3.Connection) -> int:
        (count,) = connection.execute("SELECT count(*) FROM variants").fetchone()
        connection.execute("DELETE FROM refs WHERE id NOT IN (SELECT id FROM staged)")
        connection.execute("DELETE FROM variants")
        connection.execute("DELETE FROM shelf")
        retained = "SELECT id FROM staged WHERE retained_for != x''"
        for table in ("refs", "claims", "derives"):
            connection.execute(f"DELETE FROM {table} WHERE id IN ({retained})")
        connection.execute("DELETE FROM staged WHERE retained_for != x''")
        return int(count)

    count = records.write("clear", work)
    deleted, freed = _delete_files(records, files, {entry.name for entry in files.listing()})
    files.delete_orphans()
    records.write("clear", lambda connection: _forget_atoms(connection, time.time()))
    return Pruned(count, deleted, freed)


def _drop_variants(
    connection: sqlite3.Connection, max_size: int, now: float
) -> tuple[int, set[str], bool]:
    victims = [
        id_ for (id_,) in connection.execute("SELECT id FROM variants WHERE expires <= ?", (now,))
    ]
    suspects = _digests(connection, victims)
    delete_variants(connection, victims)
    total = total_size(connection)
    if total > max_size:
        more = _least_recently_used(connection, total - max_size)
        suspects |= _digests(connection, more)
        delete_variants(connection, more)
        victims += more
    connection.execute("DELETE FROM pins WHERE run = '' AND since < ?", (now - PIN_SECONDS,))
    (scanned,) = connection.execute("SELECT value FROM meta WHERE name = 'scanned'").fetchone()
    return len(victims), suspects, now - scanned > _SCAN_SECONDS


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


def _digests(connection: sqlite3.Connection, ids: Iterable[bytes]) -> set[str]:
    found = set()
    for chunk in chunked(list(ids)):
        rows = connection.execute(f"SELECT digest FROM refs WHERE id IN ({marks(chunk)})", chunk)
        found |= {digest for (digest,) in rows}
    return found


def _delete_files(records: Records, files: ResultFiles, suspects: set[str]) -> tuple[int, int]:
    def work(connection: sqlite3.Connection) -> tuple[int, int]:
        kept = {digest for (digest,) in connection.execute("SELECT digest FROM refs")}
        kept |= {digest for (digest,) in connection.execute("SELECT digest FROM pins")}
        freed = [files.delete(digest) for digest in sorted(suspects - kept)]
        return sum(1 for size in freed if size), sum(freed)

    return records.index.write("prune", work) if suspects else (0, 0)


def _forget_atoms(connection: sqlite3.Connection, now: float) -> None:
    """Deletes traces that no row names, and atoms that no trace and no row names."""
    named = "SELECT trace FROM variants UNION SELECT trace FROM staged"
    connection.execute(f"DELETE FROM traces WHERE base IS NOT NULL AND id NOT IN ({named})")
    bases = "SELECT base FROM traces WHERE base IS NOT NULL"
    connection.execute(f"DELETE FROM traces WHERE id NOT IN ({named} UNION {bases})")
    used: set[int] = set()
    for packed, base in connection.execute("SELECT atoms, base FROM traces"):
        numbers = encoding.unpack(packed) or ()
        used.update(numbers if base is None else added_by(numbers))
    for table in ("variants", "staged"):
        for columns in connection.execute(f"SELECT {encoding.COLUMNS} FROM {table}"):
            row = encoding.Row._make(columns)
            if encoding.intact(row):
                used.update(encoding.part_ids(encoding.fields_of(row)))
    unused = [id_ for (id_,) in connection.execute("SELECT id FROM atoms") if id_ not in used]
    connection.executemany("DELETE FROM atoms WHERE id = ?", [(id_,) for id_ in unused])
    # Other processes remember the ids of atoms they would name again.
    connection.execute("UPDATE meta SET value = value + 1 WHERE name = 'generation'")
    connection.execute("UPDATE meta SET value = ? WHERE name = 'scanned'", (now,))


__all__ = ["PIN_SECONDS", "Pruned", "clear", "prune", "total_size"]
