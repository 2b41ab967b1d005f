"""Storage in the memory of one process: for tests, and for caches without a path."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import xxhash

from pytest_taskcache.ports import Buffer
from pytest_taskcache.storage.local.faults import told
from pytest_taskcache.storage.local.index import Index
from pytest_taskcache.storage.local.results import write_new
from pytest_taskcache.storage.local.variants import Records


class MemoryStorage(Records):
    """Both storage roles, for the threads of one process. ``close()`` keeps what is stored.

    Records live in an index of the same making as local storage's, so that entries can be staged
    in it; results in a dictionary.
    """

    def __init__(self) -> None:
        super().__init__(Index(":memory:"))
        self._results: dict[str, bytes] = {}
        self._checked: set[str] = set()

    def write_result(self, digest: str, chunks: Sequence[Buffer]) -> None:
        """As ResultStorage.write_result."""
        if digest not in self._results:
            # Copied now: chunks may alias a value that its owner goes on to change.
            data = b"".join(memoryview(chunk).cast("B") for chunk in chunks)
            self._results.setdefault(digest, data)

    def add_file(self, digest: str, source: Path) -> None:
        """As ResultStorage.add_file."""
        with told("memory", "write results"):
            self._results.setdefault(digest, source.read_bytes())

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
        with told("memory", "read results"):
            write_new(destination, data, readonly)
        return True

    def has_results(self, digests: Collection[str]) -> frozenset[str]:
        """As ResultStorage.has_results."""
        return frozenset(digest for digest in digests if digest in self._results)

    def _intact(self, digest: str) -> bytes | None:
        data = self._results.get(digest)
        if data is not None and digest not in self._checked:
            if xxhash.xxh3_128_hexdigest(data) != digest:
                self._results.pop(digest, None)  # the next writer puts the right bytes there
                return None
            self._checked.add(digest)
        return data
