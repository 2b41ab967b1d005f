"""The default storage: a directory that needs no server and no set-up."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import xxhash

from pytest_taskcache.dataclass import dataclass
from pytest_taskcache.errors import StorageError
from pytest_taskcache.model.record import Variant
from pytest_taskcache.ports import Buffer, TargetFile
from pytest_taskcache.storage.local import eviction, faults
from pytest_taskcache.storage.local.eviction import Limits, Pruned
from pytest_taskcache.storage.local.index import NAME, Clock, Index
from pytest_taskcache.storage.local.results import ResultFiles
from pytest_taskcache.storage.local.runs import RunLock
from pytest_taskcache.storage.local.shelf import IndexShelf
from pytest_taskcache.storage.local.targets import read_target, remove_target, write_target
from pytest_taskcache.storage.local.variants import Records, Removal, Usage

T = TypeVar("T")
DEFAULT_MAX_SIZE = 5_000_000_000
SMALL = 8192
"""Results of at most so many bytes are rows of the index; a file each would cost more."""

_TARGETS = "targets"
"""The section of the shelf that says for which key and digest each target is kept."""


@dataclass(frozen=True, slots=True)
class Statistics:
    """Counts of what a cache directory holds; ``bytes`` is what ``max_size`` bounds,
    ``index_bytes`` the index file with its log."""

    keys: int
    variants: int
    traces: int
    results: int
    staged: int
    pins: int
    locks: int
    bytes: int
    index_bytes: int


class LocalStorage:
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
        on_fault: Callable[[str], None] | None = None,
        run: str = "",
        leads: bool = False,
    ) -> None:
        # Resolved once: a link that is swapped later leads nowhere new.
        self.directory = Path(os.path.realpath(directory))
        self.max_size = max_size
        self.run = run
        self.index = Index(self.directory, readonly=readonly, create=create, on_fault=on_fault)
        self.run_lock = RunLock(self.index, run) if leads else None
        self.records = Records(self.index)
        self.shelf = IndexShelf(self.index)
        self._targets = self.directory / "targets"
        self._files = ResultFiles(
            self.directory,
            self.pin,
            readonly=lambda: self.readonly,
            create=create and not readonly,
            tell=self.index.tell,
        )
        self._pinned: dict[str, tuple[int, str, float]] = {}
        self._whole: dict[str, int | None] = {}

    def describe(self) -> str:
        """The directory."""
        return str(self.directory)

    @property
    def trusted(self) -> bool:
        """True: nothing is read before owner and mode of the directory were checked."""
        return True

    @property
    def readonly(self) -> bool:
        """Whether nothing is written: that was asked for, or turned out when it was opened."""
        return self.index.readonly

    def open(self) -> None:
        """Opens the index, as its first use would. Raises StorageError."""
        self.index.read("open", lambda connection: None)

    # ----------------------------------------------------------------------- records

    def read_records(self, keys: Collection[str]) -> Mapping[str, tuple[Variant, ...]]:
        """As KeyStorage.read_records."""
        return self.records.read_records(keys)

    def write_records(self, variants: Sequence[Variant]) -> None:
        """As KeyStorage.write_records."""
        self.records.write_records(variants)

    def recent(self, identities: Collection[str]) -> Mapping[str, Variant]:
        """As KeyStorage.recent."""
        return self.records.recent(identities)

    def scan(self) -> Iterator[Variant]:
        """As KeyStorage.scan."""
        return self.records.scan()

    def remove_records(self, ids: Collection[str]) -> None:
        """As KeyStorage.remove_records."""
        self.records.remove_records(ids)

    def mark_used(self, ids: Collection[str]) -> None:
        """Notes that variants were of use; to be called once, at the end of a session."""
        if not self.readonly:
            self.records.mark_used(ids)

    # ----------------------------------------------------------------------- results

    def pin(self, digest: str) -> None:
        """Keeps a result from eviction for as long as ``run`` lives, or for an hour if there is
        no run. Raises StorageError."""
        now = Clock.now()
        if not self._is_pinned(digest, now):
            self._hold_run()
            self.index.write("pin a result", lambda c: self._pin(c, digest, now))
            self._pinned[digest] = (self.index.epoch, self.run, now)

    def _is_pinned(self, digest: str, now: float) -> bool:
        known = self._pinned.get(digest)
        # A reopened index, which may be a new one, has another epoch.
        if known is None or known[:2] != (self.index.epoch, self.run):
            return False
        return bool(self.run) or now - known[2] < eviction.PIN_SECONDS / 4

    def _pin(self, connection: sqlite3.Connection, digest: str, now: float) -> None:
        connection.execute(
            "INSERT OR REPLACE INTO pins (digest, run, since) VALUES (?, ?, ?)",
            (digest, self.run, now),
        )

    def _hold_run(self) -> None:
        if self.run_lock is not None:
            self.run_lock.hold()

    def write_result(self, digest: str, chunks: Sequence[Buffer]) -> None:
        """As ResultStorage.write_result."""
        if sum(memoryview(chunk).nbytes for chunk in chunks) <= SMALL:
            self._write_small(digest, b"".join(memoryview(chunk).cast("B") for chunk in chunks))
        else:
            self._guarded("write results", lambda: self._files.write(digest, chunks))

    def _write_small(self, digest: str, data: bytes) -> None:
        now = Clock.now()

        def work(connection: sqlite3.Connection) -> None:
            self._pin(connection, digest, now)
            # What is there already is the same, or damaged.
            connection.execute(
                "INSERT OR REPLACE INTO small_results (digest, data) VALUES (?, ?)",
                (digest, data),
            )

        with self.index.lock:
            version = self.index.quick_version()
            if self._is_pinned(digest, now):
                # What others wrote since may have damaged it; here, only unpinned ones are removed.
                if version is not None and self._whole.get(digest) == version:
                    return
                if self._read_small(digest, len(data)) is not None:
                    self._whole[digest] = version
                    return
            self._hold_run()
            self.index.write("write results", work)
            self._pinned[digest] = (self.index.epoch, self.run, now)

    def add_file(self, digest: str, source: Path) -> None:
        """As ResultStorage.add_file."""
        self._guarded("write results", lambda: self._files.add_file(digest, source))

    def read_result(self, digest: str, size: int) -> memoryview | None:
        """As ResultStorage.read_result; large ones are mapped copy-on-write."""
        small = self._read_small(digest, size) if size <= SMALL else None
        if small is not None:
            return memoryview(bytearray(small))
        return self._guarded("read results", lambda: self._files.read(digest, size))

    def _read_small(self, digest: str, size: int | None) -> bytes | None:
        def work(connection: sqlite3.Connection) -> object:
            query = "SELECT data FROM small_results WHERE digest = ?"
            row = connection.execute(query, (digest,)).fetchone()
            return None if row is None else row[0]

        data = self.index.read("read results", work)
        if data is None:
            return None
        if not isinstance(data, bytes) or xxhash.xxh3_128_hexdigest(data) != digest:
            self.index.tell("damaged result")
            return None
        return data if size is None or len(data) == size else None

    def copy_file(self, digest: str, destination: Path, readonly: bool = False) -> bool:
        """As ResultStorage.copy_file."""

        def work() -> bool:
            if self._files.copy_to(digest, destination, readonly):
                return True
            data = self._read_small(digest, None)
            if data is None:
                return False
            with open(destination, "xb") as file:
                file.write(data)
            if readonly:
                os.chmod(destination, 0o444)
            return True

        return self._guarded("read results", work)

    def has_results(self, digests: Collection[str]) -> frozenset[str]:
        """As ResultStorage.has_results."""
        found = self._guarded("read results", lambda: self._files.has(digests))
        rest = [digest for digest in digests if digest not in found]

        def work(connection: sqlite3.Connection) -> frozenset[str]:
            query = "SELECT 1 FROM small_results WHERE digest = ?"
            return frozenset(d for d in rest if connection.execute(query, (d,)).fetchone())

        return found | self.index.read("read results", work) if rest else found

    # ----------------------------------------------------------------------- targets

    def read_target(self, name: str) -> TargetFile | None:
        """As TargetStorage.read_target: a file in ``targets``."""
        return self._guarded("read a target", lambda: read_target(self._targets, name))

    def write_target(self, name: str, data: Buffer, key: str) -> None:
        """As TargetStorage.write_target; what it is kept for is noted on the shelf."""
        if self.readonly:
            raise StorageError(str(self.directory), "write a target", "opened read-only")
        if key:
            self.shelf.write(_TARGETS, {name: f"{key} {xxhash.xxh3_128_hexdigest(data)}".encode()})
        self._guarded("write a target", lambda: write_target(self._targets, name, data))

    def target_path(self, name: str) -> Path:
        """As TargetStorage.target_path."""
        return self._targets / name

    def _drop_targets(self, noted: Mapping[str, bytes]) -> None:
        """Removes the targets whose record is gone."""
        kept_for = {name: item.decode().rpartition(" ") for name, item in noted.items()}
        if not kept_for:
            return
        records = self.read_records({key for key, _, _ in kept_for.values()})
        gone = {
            name: digest
            for name, (key, _, digest) in kept_for.items()
            if all(each.result.digest != digest for each in records.get(key, ()))
        }
        for name, digest in gone.items():
            remove_target(self._targets, name, digest)
        self.shelf.remove(_TARGETS, gone)

    # ------------------------------------------------------------------- house-keeping

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
        more than so many seconds ago. Raises StorageError."""
        limit = self.max_size if max_size is None else max_size
        limits = Limits(limit, older_than, unused)

        def work() -> Pruned:
            pruned = eviction.prune(self.records, self._files, limits, full=full)
            self._drop_targets(self.shelf.read(_TARGETS))
            return pruned

        return self._guarded("prune", work)

    def clear(self, pattern: str = "") -> Pruned:
        """Forgets everything but what runs under way have staged; with a pattern only the records
        of identities (``file::name``) that match it. Raises StorageError."""

        def work() -> Pruned:
            targets = self.shelf.read(_TARGETS)
            pruned = eviction.clear(self.records, self._files, pattern)
            self._drop_targets(targets)
            return pruned

        return self._guarded("clear", work)

    def usage(self) -> Iterator[Usage]:
        """Every committed record with its size and its times, in no order. Raises StorageError."""
        return self.records.usage()

    def latest(self, identity: str) -> Sequence[Variant]:
        """The newest variants of an identity, VARIANTS at most, whatever their keys. Raises
        StorageError."""
        return self.records.latest(identity)

    def removed(self, names: Collection[str]) -> Mapping[str, Removal]:
        """What became of the last removed record of each identity (``file::name``) or key that
        lost one: evicted is not "never computed". Raises StorageError."""
        return self.records.removed(names)

    def size(self) -> int:
        """The bytes that ``max_size`` bounds. Raises StorageError."""
        return self.index.read("measure", eviction.total_size)

    def statistics(self) -> Statistics:
        """Counts of what is there. Raises StorageError."""

        def work(connection: sqlite3.Connection) -> Statistics:
            def count(what: str) -> int:
                return int(connection.execute(f"SELECT count({what}").fetchone()[0])

            return Statistics(
                keys=count("DISTINCT key) FROM variants"),
                variants=count("*) FROM variants"),
                traces=count("*) FROM shared WHERE substr(name, 1, 1) != x'3d'"),
                results=count("*) FROM (SELECT digest FROM refs UNION SELECT digest FROM uses)"),
                staged=count("*) FROM staged"),
                pins=count("*) FROM pins"),
                locks=count("*) FROM locks"),
                bytes=eviction.total_size(connection),
                index_bytes=self._index_bytes(),
            )

        return self.index.read("count", work)

    def close(self) -> None:
        """As KeyStorage.close. Ends the run that this process leads."""
        if self.run_lock is not None:
            self.run_lock.release()
        self.records.close()

    def _index_bytes(self) -> int:
        total = 0
        for suffix in ("", "-wal"):
            path = self.directory / f"{NAME}{suffix}"
            total += path.stat().st_size if path.exists() else 0
        return total

    def _guarded(self, operation: str, work: Callable[[], T]) -> T:
        try:
            return work()
        except StorageError:
            raise
        except (OSError, ValueError) as error:
            raise faults.storage_error(str(self.directory), operation, error) from error
