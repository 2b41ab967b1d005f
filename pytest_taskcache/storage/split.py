"""Records in one place, results in another, as one storage."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from pytest_taskcache.model.record import Variant
from pytest_taskcache.ports import Storage
from pytest_taskcache.storage.decorator import Decorator, dropped_writes, is_given_up


class Split(Decorator):
    """Hands what concerns records on to ``records``, and what concerns results to ``results``.

    Compose it inside of Signed, so that the records of the one vouch for the results of the
    other.
    """

    def __init__(self, records: Storage, results: Storage) -> None:
        super().__init__(results)
        self._records = records

    @property
    def dropped(self) -> int:
        """How many writes either has dropped without an error."""
        return dropped_writes(self._records) + super().dropped

    @property
    def given_up(self) -> bool:
        """Whether it is of no use to ask either now: one without the other is worth nothing."""
        return is_given_up(self._records) or super().given_up

    def describe(self) -> str:
        """Both places."""
        return f"records in {self._records.describe()}, results in {super().describe()}"

    def read_records(self, keys: Collection[str]) -> Mapping[str, tuple[Variant, ...]]:
        """As KeyStorage.read_records."""
        return self._records.read_records(keys)

    def write_records(self, variants: Sequence[Variant]) -> None:
        """As KeyStorage.write_records."""
        self._records.write_records(variants)

    def recent(self, identities: Collection[str]) -> Mapping[str, Variant]:
        """As KeyStorage.recent."""
        return self._records.recent(identities)

    def remove_records(self, ids: Collection[str]) -> None:
        """As KeyStorage.remove_records."""
        self._records.remove_records(ids)

    def close(self) -> None:
        """Closes both."""
        self._records.close()
        super().close()
