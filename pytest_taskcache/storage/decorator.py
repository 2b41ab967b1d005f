"""A storage that hands every operation on to another one: what all storage decorators build on."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from pytest_taskcache.model.record import Variant
from pytest_taskcache.ports import Buffer, Storage


class Decorator:
    """Forwards all of Storage; a decorator overrides what it changes."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    @property
    def trusted(self) -> bool:
        """As the decorated storage says."""
        return self._storage.trusted

    @property
    def dropped(self) -> int:
        """How many writes were dropped without an error, here or further in."""
        return dropped_writes(self._storage)

    @property
    def given_up(self) -> bool:
        """Whether it is of no use to ask now, here or further in."""
        return is_given_up(self._storage)

    def describe(self) -> str:
        """As the decorated storage says."""
        return self._storage.describe()

    def read_records(self, keys: Collection[str]) -> Mapping[str, tuple[Variant, ...]]:
        """As KeyStorage.read_records."""
        return self._storage.read_records(keys)

    def write_records(self, variants: Sequence[Variant]) -> None:
        """As KeyStorage.write_records."""
        self._storage.write_records(variants)

    def recent(self, identities: Collection[str]) -> Mapping[str, Variant]:
        """As KeyStorage.recent."""
        return self._storage.recent(identities)

    def remove_records(self, ids: Collection[str]) -> None:
        """As KeyStorage.remove_records."""
        self._storage.remove_records(ids)

    def write_result(self, digest: str, chunks: Sequence[Buffer]) -> None:
        """As ResultStorage.write_result."""
        self._storage.write_result(digest, chunks)

    def add_file(self, digest: str, source: Path) -> None:
        """As ResultStorage.add_file."""
        self._storage.add_file(digest, source)

    def read_result(self, digest: str, size: int) -> memoryview | None:
        """As ResultStorage.read_result."""
        return self._storage.read_result(digest, size)

    def copy_file(self, digest: str, destination: Path, readonly: bool = False) -> bool:
        """As ResultStorage.copy_file."""
        return self._storage.copy_file(digest, destination, readonly)

    def has_results(self, digests: Collection[str]) -> frozenset[str]:
        """As ResultStorage.has_results."""
        return self._storage.has_results(digests)

    def close(self) -> None:
        """As KeyStorage.close."""
        self._storage.close()


def dropped_writes(storage: Storage) -> int:
    """How many writes a storage has dropped without an error so far; 0 if it never does."""
    return storage.dropped if isinstance(storage, Decorator) else 0


def is_given_up(storage: Storage) -> bool:
    """Whether a storage drops writes and reads as empty at present, since it has failed."""
    return isinstance(storage, Decorator) and storage.given_up
