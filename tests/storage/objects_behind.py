"""What happens to objects behind a storage's back: writers that die, bytes that change."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_taskcache.model.record import Variant
from pytest_taskcache.ports import Storage
from pytest_taskcache.storage.object_layout import commit_name, record_path, result_path
from pytest_taskcache.storage.object_store import ObjectStore
from pytest_taskcache.storage.records import encode_variant
from pytest_taskcache.testing.storages import StorageConformance


class ObjectConformance(StorageConformance):
    """The suite for storages in objects; subclasses define ``behind`` too."""

    def behind(self, storage: Storage) -> ObjectStore:
        raise NotImplementedError

    def damage(self, storage: Storage, digest: str, data: bytes) -> None:
        self.behind(storage).put(result_path(digest), data)

    def abandon(self, storage: Storage, variants: Sequence[Variant]) -> None:
        store = self.behind(storage)
        commit = commit_name(variant.id for variant in variants)
        for variant in variants:
            path = record_path(variant.key, variant.id, commit)
            store.put(path, encode_variant(variant))
