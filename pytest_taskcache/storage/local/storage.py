"""The default storage: a directory that needs no server and no set-up."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pytest_taskcache.errors import StorageError
from pytest_taskcache.model.record import Variant
from pytest_taskcache.ports import Buffer
from pytest_taskcache.storage.local import eviction, faults
from pytest_taskcache.storage.local.encoding import from_sql
from pytest_taskcache.storage.local.eviction import Pruned
from pytest_taskcache.storage.local.index import NAME, Index
from pytest_taskcache.storage.local.results import ResultFiles
from pytest_taskcache.storage.local.shelf import IndexShelf
from pytest_taskcache.storage.local.variants import Records

T = TypeVar("T")
DEFAULT_MAX_SIZE = 5_000_000_000


@dataclass(frozen=True, slots=True)
class Statistics:
    """Counts of what a cache directory holds; ``bytes`` is what ``max_size`` bounds,
    ``index_bytes`` the index file with its log."""

    keys: int
    variants: int
    traces: int
    dependencies: int
    results: int
    staged: int
    pins: int
    bytes: int
    index_bytes: int


class LocalStorage:
    """Both storage roles in one directory, shared by any number of processes of one user.

    ``max_size`` in bytes is enforced by ``prune()``. ``readonly`` writes nothing at all.
    ``create=False`` fails where there is no cache yet. ``run`` is set by whoever keeps that
    run's lock, so that what it writes stays pinned while it lives. ``on_fault`` is told the
    reason of what went wrong and was mended.
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
    ) -> None:
        # Resolved once: a link that is swapped later leads nowhere new.
        self.directory = Path(os.path.realpath(directory))
        self.max_size = max_size
        self.readonly = readonly
        self.run = run
        self.index = Index(self.directory, readonly=readonly, create=create, on_fault=on_fault)
        self.records = Records(self.index)
        self.shelf = IndexShelf(self.index)
        self._files = ResultFiles(
            self.directory, self.pin, readonly=readonly, create=create and not readonly
        )
        self._pinned: dict[str, tuple[int, str, float]] = {}

    def describe(self) -> str:
        """The directory."""
        return str(self.directory)

    @property
    def trusted(self) -> bool:
        """True: nothing is read before owner and mode of the directory were checked."""
        return True

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
        yield from self.records.all_records()

    def last_used(self) -> Mapping[str, float]:
        """When each committed variant was last of use, in POSIX seconds, by id. Raises
        StorageError."""

        def work(connection: sqlite3.Connection) -> dict[str, float]:
            rows = connection.execute("SELECT id, used FROM variants")
            return {from_sql(id_): used for id_, used in rows}

        return self.index.read("list records", work)

    def all_records(self) -> list[Variant]:
        """Every committed variant, newest first, for listings. Raises StorageError."""
        return self.records.all_records()

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
        now = time.time()
        known = self._pinned.get(digest)
        lasting = self.run or (known is not None and now - known[2] < eviction.PIN_SECONDS / 4)
        # A reopened index, which may be a new one, has another epoch.
        if known is not None and known[:2] == (self.index.epoch, self.run) and lasting:
            return
        self.index.write(
            "pin a result",
            lambda connection: connection.execute(
                "INSERT OR REPLACE INTO pins (digest, run, since) VALUES (?, ?, ?)",
                (digest, self.run, now),
            ),
        )
        self._pinned[digest] = (self.index.epoch, self.run, now)

    def write_result(self, digest: str, chunks: Sequence[Buffer]) -> None:
        """As ResultStorage.write_result."""
        self._guarded("write results", lambda: self._files.write(digest, chunks))

    def add_file(self, digest: str, source: Path) -> None:
        """As ResultStorage.add_file."""
        self._guarded("write results", lambda: self._files.add_file(digest, source))

    def read_result(self, digest: str, size: int) -> memoryview | None:
        """As ResultStorage.read_result; large ones are mapped copy-on-write."""
        return self._guarded("read results", lambda: self._files.read(digest, size))

    def copy_file(self, digest: str, destination: Path, readonly: bool = False) -> bool:
        """As ResultStorage.copy_file."""
        return self._guarded(
            "read results", lambda: self._files.copy_to(digest, destination, readonly)
        )

    def has_results(self, digests: Collection[str]) -> frozenset[str]:
        """As ResultStorage.has_results."""
        return self._guarded("read results", lambda: self._files.has(digests))

    # ------------------------------------------------------------------- house-keeping

    def prune(self, *, full: bool = False) -> Pruned:
        """Removes what is expired, unreferenced or beyond ``max_size``. Raises StorageError."""
        return self._guarded(
            "prune",
            lambda: eviction.prune(self.records, self._files, self.max_size, full=full),
        )

    def clear(self) -> Pruned:
        """Forgets everything but what runs under way have staged. Raises StorageError."""
        return self._guarded("clear", lambda: eviction.clear(self.records, self._files))

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
                traces=count("*) FROM traces"),
                dependencies=count("*) FROM atoms WHERE kind != ''"),
                results=count("DISTINCT digest) FROM refs"),
                staged=count("*) FROM staged"),
                pins=count("*) FROM pins"),
                bytes=eviction.total_size(connection),
                index_bytes=self._index_bytes(),
            )

        return self.index.read("count", work)

    def close(self) -> None:
        """As KeyStorage.close."""
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


__all__ = ["DEFAULT_MAX_SIZE", "LocalStorage", "Statistics"]
