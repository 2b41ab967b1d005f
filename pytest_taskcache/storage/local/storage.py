"""The default storage: a directory that needs no server and no set-up; and what goes from it when
it is pruned: expired, too old, least recently used, unreferenced.

All deciding and deleting of results happens with the index's write lock held. A writer pins a
digest, which takes that lock, before it trusts that a result exists; so either the pin is seen here
and the result stays, or the result is gone before the writer looks.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from sqlite3 import Connection

from pytest_taskcache.dataclass import dataclass
from pytest_taskcache.model.decision import Why
from pytest_taskcache.originals import originals, os_path
from pytest_taskcache.storage.local.index import NAME, Index
from pytest_taskcache.storage.local.results import PIN_SECONDS, TARGETS, LocalResults
from pytest_taskcache.storage.local.runs import RunLock
from pytest_taskcache.storage.local.variants import Records, delete_variants

DEFAULT_MAX_SIZE = 5_000_000_000
_SCAN_SECONDS = 3600.0
_REMOVALS = 10_000
_SECTION, _LOOKED = "house-keeping", "all results were looked at"


@dataclass(frozen=True, slots=True)
class Pruned:
    """What a pruning removed: variants, results, and the bytes of these results."""

    variants: int
    files: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Statistics:
    """Counts of what a cache directory holds; ``bytes`` is what ``max_size`` bounds,
    ``index_bytes`` the index file with its log."""

    variants: int
    traces: int
    results: int
    staged: int
    pins: int
    bytes: int
    index_bytes: int


class LocalStorage(Records, LocalResults):
    """Both storage roles in one directory, shared by any number of processes of one user.

    ``max_size`` in bytes is enforced by ``prune()``. ``readonly`` writes nothing at all; so does
    a cache that is there but cannot be written, whatever was asked for. ``create=False`` fails
    where there is no cache yet. ``run`` is that whose writing keeps results pinned while it lives;
    with ``leads`` this process is the one that it lives as long as. ``on_fault`` is told the reason
    of what went wrong and was mended.
    """

    def __init__(
        self,
        directory: Path,
        *,
        max_size: int = DEFAULT_MAX_SIZE,
        create: bool = True,
        readonly: bool = False,
        on_fault: Callable[[str], None] = lambda reason: None,
        run: str = "",
        leads: bool = False,
    ) -> None:
        # Resolved once: a link that is swapped later leads nowhere new.
        place = Path(os_path.realpath(directory))
        index = Index(place, readonly=readonly, create=create, on_fault=on_fault)
        lock = RunLock(index, run) if leads else None
        Records.__init__(self, index)
        create = create and not readonly
        LocalResults.__init__(self, index, run=run, run_lock=lock, create=create)
        self.max_size = max_size

    @property
    def readonly(self) -> bool:
        """Whether nothing is written: that was asked for, or turned out when it was opened."""
        return self.index.readonly

    def prune(
        self,
        *,
        max_size: int | None = None,
        older_than: float | None = None,
        unused: float | None = None,
        full: bool = False,
    ) -> Pruned:
        """Removes what is expired, unreferenced or beyond ``max_size`` bytes (None: that of this
        object); with ``older_than`` and ``unused`` also records that were made, or last of use,
        more than so many seconds ago. Raises StorageError. Variants go by their expiry and age,
        then least recently used first; results when nothing refers to them or pins them. That needs
        a look at all of them, which is taken if variants were removed, if ``full``, or if the last
        one was an hour ago."""
        limit = self.max_size if max_size is None else max_size
        ages = (("created", older_than), ("used", unused))
        now = originals.seconds()
        with self._told("prune"):
            removed = self.write_index("prune", lambda c: _drop_variants(c, limit, ages, now))
            freed: list[int] = []
            last = float(self.shelf.read(_SECTION).get(_LOOKED, b"0"))
            if removed or full or abs(now - last) > _SCAN_SECONDS:
                # Before the lock is taken: a file that is written meanwhile is none of ours.
                found = {entry.name for entry in self.listing()}
                freed = self.write_index("prune", lambda c: self._delete_unreferenced(c, found))
                self.delete_orphans()
                self.shelf.write(_SECTION, {_LOOKED: repr(now).encode()})
            self._drop_targets(self.shelf.read(TARGETS))
            return Pruned(removed, len(freed), sum(freed))

    def clear(self) -> Pruned:
        """Forgets all records, what tests keep for a retry, and small facts. Runs under way keep
        what they staged and pinned. Raises StorageError."""

        def work(connection: Connection) -> int:
            connection.execute("DELETE FROM shelf")
            _delete(connection, "state != '' AND retained_for IS NOT NULL", None)
            return _delete(connection, "state = ''", Why.CLEARED)

        with self._told("clear"):
            targets = self.shelf.read(TARGETS)
            count = self.write_index("clear", work)
            pruned = self.prune(max_size=1 << 62, full=True)
            self._drop_targets(targets)
            return Pruned(count + pruned.variants, pruned.files, pruned.bytes)

    def _delete_unreferenced(self, connection: Connection, found: Collection[str]) -> list[int]:
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
            self.delete(digest) for digest in found if digest not in needed
        ]

    def _drop_targets(self, noted: Mapping[str, bytes]) -> None:
        kept_for = {name: item.decode().rpartition(" ") for name, item in noted.items()}
        records = self.read_records({key for key, _, _ in kept_for.values()})
        for name, (key, _, digest) in kept_for.items():
            if all(one.result.digest != digest for one in records.get(key, ())):
                self.remove_target(name, digest)
                self.shelf.remove(TARGETS, [name])

    def size(self) -> int:
        """The bytes that ``max_size`` bounds. Raises StorageError."""
        return self.index.read("measure", _total_size)

    def statistics(self) -> Statistics:
        """Counts of what is there. Raises StorageError."""

        files = [self.directory / f"{NAME}{suffix}" for suffix in ("", "-wal")]

        def work(connection: Connection) -> Statistics:
            def count(rows: str) -> int:
                return int(connection.execute(f"SELECT count(*) FROM {rows}").fetchone()[0])

            return Statistics(
                variants=count("variants WHERE state = ''"),
                traces=count("shared WHERE substr(name, 1, 1) != x'3d'"),
                results=count("(SELECT digest FROM refs UNION SELECT digest FROM uses)"),
                staged=count("variants WHERE state != ''"),
                pins=count("pins"),
                bytes=_total_size(connection),
                index_bytes=sum(file.stat().st_size for file in files if file.exists()),
            )

        return self.index.read("count", work)

    def close(self) -> None:
        """As KeyStorage.close. Ends the run that this process leads."""
        if self.run_lock is not None:
            self.run_lock.release()
        super().close()


def _total_size(connection: Connection) -> int:
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


def _delete(connection: Connection, condition: str, reason: Why | None, *values: object) -> int:
    rows = connection.execute(f"SELECT id FROM variants WHERE {condition}", values).fetchall()
    delete_variants(connection, [id_ for (id_,) in rows], reason)
    return len(rows)


def _drop_variants(
    connection: Connection, max_size: int, ages: Sequence[tuple[str, float | None]], now: float
) -> int:
    _delete(connection, "state != '' AND run IS NULL", Why.LOST)
    count = _delete(connection, "state = '' AND expires <= ?", Why.EXPIRED, now)
    for column, age in ages:
        if age is not None:
            count += _delete(connection, f"state = '' AND {column} < ?", Why.PRUNED, now - age)
    excess = _total_size(connection) - max_size
    if excess > 0:
        victims = _least_recently_used(connection, excess)
        delete_variants(connection, victims, Why.EVICTED)
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
