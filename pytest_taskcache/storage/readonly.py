"""A storage that is read and never written."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from pytest_taskcache.model.record import Variant
from pytest_taskcache.ports import Buffer, Storage
from pytest_taskcache.storage.decorator import Decorator


class ReadOnly(Decorator):
    """Passes reads; drops writes and removals before they reach the storage.

    Dropping is the contract, not a fault, so nothing is raised; ``refused`` counts it.
    """

    def __init__(self, storage: Storage) -> None:
        super().__init__(storage)
        self.refused = 0

    def describe(self) -> str:
        """The decorated storage, marked."""
        return f"{self._storage.describe()} (read-only)"

    def write_records(self, variants: Sequence[Variant]) -> None:
        """Writes nothing."""
        self.refused += len(variants)

    def remove_records(self, ids: Collection[str]) -> None:
        """Removes nothing."""
        self.refused += len(ids)

    def write_result(self, digest: str, chunks: Sequence[Buffer]) -> None:
        """Writes nothing."""
        self.refused += 1

    def add_file(self, digest: str, source: Path) -> None:
        """Writes nothing."""
        self.refused += 1
