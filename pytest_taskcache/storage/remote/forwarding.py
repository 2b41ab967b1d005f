"""What everything that is put around a storage builds on."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from pytest_taskcache.errors import StorageError
from pytest_taskcache.model.record import Variant
from pytest_taskcache.ports import Buffer, Storage, TargetFile, TargetStorage


class Forwarding:
    """A Storage that hands what concerns records on to ``records``, and what concerns results to
    ``results`` (or the same one). As it is, it makes one storage of two; those that change
    something override it."""

    def __init__(self, records: Storage, results: Storage | None = None) -> None:
        self._storage = records
        self._results = records if results is None else results

    @property
    def trusted(self) -> bool:
        """As the storage of the results says."""
        return self._results.trusted

    @property
    def dropped(self) -> int:
        """How many writes were dropped without an error, here or further in."""
        return sum(getattr(storage, "dropped", 0) for storage in self._both())

    @property
    def given_up(self) -> bool:
        """Whether it is of no use to ask now, here or further in."""
        return any(getattr(storage, "given_up", False) for storage in self._both())

    def _both(self) -> list[Storage]:
        same = self._storage is self._results
        return [self._storage] if same else [self._storage, self._results]

    def describe(self) -> str:
        """Both places."""
        names = [storage.describe() for storage in self._both()]
        return names[0] if len(names) == 1 else f"records in {names[0]}, results in {names[1]}"

    def read_records(self, keys: Collection[str]) -> Mapping[str, tuple[Variant, ...]]:
        """As KeyStorage.read_records."""
        return self._storage.read_records(keys)

    def write_records(self, variants: Sequence[Variant]) -> None:
        """As KeyStorage.write_records."""
        self._storage.write_records(variants)

    def recent(self, identities: Collection[str]) -> Mapping[str, Variant]:
        """As KeyStorage.recent."""
        return self._storage.recent(identities)

    def scan(self) -> Iterator[Variant]:
        """As KeyStorage.scan."""
        return self._storage.scan()

    def remove_records(self, ids: Collection[str]) -> None:
        """As KeyStorage.remove_records."""
        self._storage.remove_records(ids)

    def mark_used(self, ids: Collection[str]) -> None:
        """Notes what a writing run had use for, where the storage keeps such notes."""
        mark: Callable[[Collection[str]], None] | None = getattr(self._storage, "mark_used", None)
        if mark is not None:
            mark(ids)

    def write_result(self, digest: str, chunks: Sequence[Buffer]) -> None:
        """As ResultStorage.write_result."""
        self._results.write_result(digest, chunks)

    def add_file(self, digest: str, source: Path) -> None:
        """As ResultStorage.add_file."""
        self._results.add_file(digest, source)

    def read_result(self, digest: str, size: int) -> memoryview | None:
        """As ResultStorage.read_result."""
        return self._results.read_result(digest, size)

    def copy_file(self, digest: str, destination: Path, readonly: bool = False) -> bool:
        """As ResultStorage.copy_file."""
        return self._results.copy_file(digest, destination, readonly)

    def has_results(self, digests: Collection[str]) -> frozenset[str]:
        """As ResultStorage.has_results."""
        return self._results.has_results(digests)

    def read_target(self, name: str) -> TargetFile | None:
        """As TargetStorage.read_target; nothing where the storage keeps no targets."""
        if not isinstance(self._results, TargetStorage):
            return None
        return self._results.read_target(name)

    def write_target(self, name: str, data: Buffer, key: str) -> None:
        """As TargetStorage.write_target."""
        if not isinstance(self._results, TargetStorage):
            raise StorageError(self.describe(), "write a target", "it keeps no targets")
        self._results.write_target(name, data, key)

    def target_path(self, name: str) -> Path | None:
        """As TargetStorage.target_path."""
        if not isinstance(self._results, TargetStorage):
            return None
        return self._results.target_path(name)

    def close(self) -> None:
        """As KeyStorage.close."""
        for storage in self._both():
            storage.close()


@contextmanager
def file_errors(storage: Storage, operation: str) -> Iterator[None]:
    """What the file system does is a StorageError."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise StorageError(storage.describe(), operation, reason) from error


class Tally:
    """Faults by reason; ``warn`` calls ``on_fault`` the first time only. Thread-safe."""

    def __init__(self, on_fault: Callable[[str], None] | None = None) -> None:
        self._on_fault = on_fault
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._warned = False

    def count(self, reason: str, times: int = 1) -> None:
        """Adds to the count of a reason."""
        with self._lock:
            self._counts[reason] += times

    def warn(self, text: str) -> None:
        """Tells the one warning; every later one is dropped."""
        with self._lock:
            told, self._warned = self._warned, True
        if not told and self._on_fault is not None:
            self._on_fault(text)

    @property
    def counts(self) -> Mapping[str, int]:
        """A copy of the counts."""
        with self._lock:
            return dict(self._counts)


__all__ = ["Forwarding", "Tally", "file_errors"]
