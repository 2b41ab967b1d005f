"""The default storage: a directory that needs no server and no set-up."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from sqlite3 import Connection

import xxhash

from pytest_taskcache.dataclass import dataclass
from pytest_taskcache.errors import StorageError
from pytest_taskcache.ports import Buffer, TargetFile
from pytest_taskcache.storage.local import eviction, faults
from pytest_taskcache.storage.local.encoding import each
from pytest_taskcache.storage.local.eviction import Pruned
from pytest_taskcache.storage.local.index import NAME, Clock, Index
from pytest_taskcache.storage.local.results import (
    ResultFiles,
    read_target,
    remove_target,
    write_new,
    write_target,
)
from pytest_taskcache.storage.local.runs import RunLock
from pytest_taskcache.storage.local.variants import Records

DEFAULT_MAX_SIZE = 5_000_000_000
SMALL = 8192
"""Results of at most so many bytes are rows of the index; a file each would cost more."""

_TARGETS = "targets"
"""The section of the shelf that says for which key and digest each target is kept."""


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


class LocalStorage(Records):
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
        super().__init__(Index(self.directory, readonly=readonly, create=create, on_fault=on_fault))
        self.max_size = max_size
        self.run = run
        self.run_lock = RunLock(self.index, run) if leads else None
        self._targets = self.directory / "targets"
        self._files = ResultFiles(self.index, self.pin, create=create and not readonly)
        self._pinned: dict[str, tuple[int, float]] = {}

    @property
    def readonly(self) -> bool:
        """Whether nothing is written: that was asked for, or turned out when it was opened."""
        return self.index.readonly

    def open(self) -> None:
        """Opens the index, as its first use would. Raises StorageError."""
        self.index.read("open", lambda connection: None)

    def pin(self, digest: str) -> None:
        """Keeps a result from eviction for as long as ``run`` lives, or for an hour if there is
        no run. Raises StorageError."""
        if not self._is_pinned(digest):
            self._pin("pin a result", digest)

    def _is_pinned(self, digest: str) -> bool:
        # A reopened index, which may be a new one, has another epoch.
        epoch, since = self._pinned.get(digest, (-1, 0.0))
        lasts = bool(self.run) or Clock.now() - since < eviction.PIN_SECONDS / 4
        return epoch == self.index.epoch and lasts

    def _pin(self, operation: str, digest: str, small: bytes | None = None) -> None:
        """Pins a result, and writes it too if it is a small one."""
        now = Clock.now()

        def work(connection: Connection) -> None:
            connection.execute(
                "INSERT OR REPLACE INTO pins (digest, run, since) VALUES (?, ?, ?)",
                (digest, self.run, now),
            )
            if small is not None:
                # What is there already is the same, or damaged.
                connection.execute(
                    "INSERT OR REPLACE INTO small_results (digest, data) VALUES (?, ?)",
                    (digest, small),
                )

        if self.run_lock is not None:
            self.run_lock.hold()
        self.index.write(operation, work)
        self._pinned[digest] = (self.index.epoch, now)

    def write_result(self, digest: str, chunks: Sequence[Buffer]) -> None:
        """As ResultStorage.write_result."""
        views = [memoryview(chunk).cast("B") for chunk in chunks if memoryview(chunk).nbytes]
        if sum(view.nbytes for view in views) > SMALL:
            with self._told("write results"):
                self._files.write(digest, views)
        elif not self._is_pinned(digest):  # else this process has written it
            self._pin("write results", digest, b"".join(views))

    def add_file(self, digest: str, source: Path) -> None:
        """As ResultStorage.add_file."""
        with self._told("write results"):
            self._files.add_file(digest, source)

    def read_result(self, digest: str, size: int) -> memoryview | None:
        """As ResultStorage.read_result; large ones are mapped copy-on-write."""
        small = self._read_small(digest) if size <= SMALL else None
        if small is not None and len(small) == size:
            return memoryview(bytearray(small))
        with self._told("read results"):
            return self._files.read(digest, size)

    def _read_small(self, digest: str) -> bytes | None:
        query = "SELECT data FROM small_results WHERE digest = ?"
        row = self.index.read("read results", lambda c: c.execute(query, (digest,)).fetchone())
        if row is None:
            return None
        (data,) = row
        if not isinstance(data, bytes) or xxhash.xxh3_128_hexdigest(data) != digest:
            self._pinned.pop(digest, None)  # the next writer mends it
            self.index.tell("damaged result")
            return None
        return data

    def copy_file(self, digest: str, destination: Path, readonly: bool = False) -> bool:
        """As ResultStorage.copy_file."""
        with self._told("read results"):
            if self._files.copy_to(digest, destination, readonly):
                return True
            data = self._read_small(digest)
            if data is None:
                return False
            write_new(destination, data, readonly)
            return True

    def has_results(self, digests: Collection[str]) -> frozenset[str]:
        """As ResultStorage.has_results."""
        found = self._files.has(digests)
        rest = [digest for digest in digests if digest not in found]
        query = "SELECT digest FROM small_results WHERE digest IN (...)"
        rows = self.index.read("read results", lambda c: each(c, query, rest)) if rest else []
        return found | {digest for (digest,) in rows}

    def read_target(self, name: str) -> TargetFile | None:
        """As TargetStorage.read_target: a file in ``targets``."""
        with self._told("read a target"):
            return read_target(self._targets, name)

    def write_target(self, name: str, data: Buffer, key: str) -> None:
        """As TargetStorage.write_target; what it is kept for is noted on the shelf."""
        if self.readonly:
            raise StorageError(str(self.directory), "write a target", "opened read-only")
        if key:
            self.shelf.write(_TARGETS, {name: f"{key} {xxhash.xxh3_128_hexdigest(data)}".encode()})
        with self._told("write a target"):
            write_target(self._targets, name, data)

    def target_path(self, name: str) -> Path:
        """As TargetStorage.target_path."""
        return self._targets / name

    def _drop_targets(self, noted: Mapping[str, bytes]) -> None:
        """Removes the targets whose record is gone."""
        kept_for = {name: item.decode().rpartition(" ") for name, item in noted.items()}
        if not kept_for:
            return
        records = self.read_records({key for key, _, _ in kept_for.values()})
        for name, (key, _, digest) in kept_for.items():
            if all(one.result.digest != digest for one in records.get(key, ())):
                remove_target(self._targets, name, digest)
                self.shelf.remove(_TARGETS, [name])

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
        with self._told("prune"):
            pruned = eviction.prune(self, self._files, limit, (older_than, unused), full=full)
            self._drop_targets(self.shelf.read(_TARGETS))
            return pruned

    def clear(self) -> Pruned:
        """Forgets everything but what runs under way have staged. Raises StorageError."""
        with self._told("clear"):
            targets = self.shelf.read(_TARGETS)
            pruned = eviction.clear(self, self._files)
            self._drop_targets(targets)
            return pruned

    def size(self) -> int:
        """The bytes that ``max_size`` bounds. Raises StorageError."""
        return self.index.read("measure", eviction.total_size)

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
                bytes=eviction.total_size(connection),
                index_bytes=sum(file.stat().st_size for file in files if file.exists()),
            )

        return self.index.read("count", work)

    def close(self) -> None:
        """As KeyStorage.close. Ends the run that this process leads."""
        if self.run_lock is not None:
            self.run_lock.release()
        super().close()

    def _told(self, operation: str) -> AbstractContextManager[None]:
        return faults.told(str(self.directory), operation)
