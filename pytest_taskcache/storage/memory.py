"""Storage in the memory of one process: for tests, and for caches without a path."""

from __future__ import annotations

import os
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

import xxhash

from pytest_taskcache.errors import StorageError
from pytest_taskcache.model.record import Variant
from pytest_taskcache.ports import Buffer
from pytest_taskcache.storage.local.faults import reason_of
from pytest_taskcache.storage.local.index import Index
from pytest_taskcache.storage.local.shelf import IndexShelf
from pytest_taskcache.storage.local.variants import Records


class MemoryStorage:
    """Both storage roles, for the threads of one process. ``close()`` keeps what is stored.

    Records live in an index of the same making as local storage's, so that entries can be staged
    in it; results in a dictionary.
    """

    def __init__(self) -> None:
        self.index = Index(":memory:")
        self.records = Records(self.index)
        self.shelf = IndexShelf(self.index)
        self._results: dict[str, bytes] = {}
        self._checked: set[str] = set()
        self._lock = threading.Lock()

    def describe(self) -> str:
        """What this is."""
        return "memory"

    @property
    def trusted(self) -> bool:
        """True: only this process can have written it."""
        return True

    def read_records(self, keys: Collection[str]) -> Mapping[str, tuple[Variant, ...]]:
        """As KeyStorage.read_records."""
        return self.records.read_records(keys)

    def write_records(self, variants: Sequence[Variant]) -> None:
        """As KeyStorage.write_records."""
        self.records.write_records(variants)

    def recent(self, identities: Collection[str]) -> Mapping[str, Variant]:
        """As KeyStorage.recent."""
        return self.records.recent(identities)

    def all_records(self) -> list[Variant]:
        """Every committed variant, newest first."""
        return self.records.all_records()

    def scan(self) -> Iterator[Variant]:
        """As KeyStorage.scan."""
        return iter(self.records.all_records())

    def remove_records(self, ids: Collection[str]) -> None:
        """As KeyStorage.remove_records."""
        self.records.remove_records(ids)

    def write_result(self, digest: str, chunks: Sequence[Buffer]) -> None:
        """As ResultStorage.write_result."""
        with self._lock:
            if digest in self._results:
                return
        # Copied now: chunks may alias a value that its owner goes on to change.
        data = b"".join(memoryview(chunk).cast("B") for chunk in chunks)
        self._keep(digest, data)

    def add_file(self, digest: str, source: Path) -> None:
        """As ResultStorage.add_file."""
        try:
            data = source.read_bytes()
        except OSError as error:
            raise StorageError("memory", "write results", reason_of(error)) from error
        self._keep(digest, data)

    def _keep(self, digest: str, data: bytes) -> None:
        with self._lock:
            self._results.setdefault(digest, data)

    def read_result(self, digest: str, size: int) -> memoryview | None:
        """As ResultStorage.read_result; a copy of the caller's own."""
        data = self._intact(digest)
        if data is None or len(data) != size:
            return None
        return memoryview(bytearray(data))

    def copy_file(self, digest: str, destination: Path, readonly: bool = False) -> bool:
        """As ResultStorage.copy_file; always a copy."""
        data = self._intact(digest)
        if data is None:
            return False
        try:
            with open(destination, "xb") as file:
                file.write(data)
            if readonly:
                os.chmod(destination, 0o444)
        except OSError as error:
            raise StorageError("memory", "read results", reason_of(error)) from error
        return True

    def has_results(self, digests: Collection[str]) -> frozenset[str]:
        """As ResultStorage.has_results."""
        with self._lock:
            return frozenset(digest for digest in digests if digest in self._results)

    def close(self) -> None:
        """Does nothing: there is no handle to release, and what is stored stays."""

    def _intact(self, digest: str) -> bytes | None:
        with self._lock:
            data = self._results.get(digest)
            if data is None or digest in self._checked:
                return data
        if xxhash.xxh3_128_hexdigest(data) != digest:
            # Let the next writer put the right bytes there.
            with self._lock:
                self._results.pop(digest, None)
            return None
        with self._lock:
            self._checked.add(digest)
        return data


__all__ = ["MemoryStorage"]
