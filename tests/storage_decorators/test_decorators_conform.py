"""Every decorator is a storage like any other."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
from decorator_parts import KEY

from pytest_taskcache.model.record import Variant
from pytest_taskcache.ports import Storage
from pytest_taskcache.storage.memory import MemoryStorage
from pytest_taskcache.storage.remote.bounded import Bounded
from pytest_taskcache.storage.remote.signed import Signed
from pytest_taskcache.storage.remote.tiered import Split, Tier, Tiered
from pytest_taskcache.testing.storages import MakeStorage, StorageConformance


class Damageable(MemoryStorage):
    """Its results can be replaced behind its back."""

    def __init__(self) -> None:
        super().__init__()
        self.replaced: dict[str, bytes] = {}

    def write_result(self, digest: str, chunks: Sequence[Any]) -> None:
        super().write_result(digest, chunks)
        self.replaced.pop(digest, None)

    def read_result(self, digest: str, size: int) -> memoryview | None:
        return None if digest in self.replaced else super().read_result(digest, size)

    def copy_file(self, digest: str, destination: Any, readonly: bool = False) -> bool:
        return digest not in self.replaced and super().copy_file(digest, destination, readonly)


class _Suite(StorageConformance):
    def damage(self, storage: Storage, digest: str, data: bytes) -> None:
        self.memory.replaced[digest] = data

    @pytest.fixture(autouse=True)
    def _memory(self) -> None:
        self.memory = Damageable()


class TestSplit(_Suite):
    """Records in one place and results in another are one storage."""

    @pytest.fixture
    def make_storage(self) -> MakeStorage:
        records = MemoryStorage()
        return lambda: Split(records, Bounded(self.memory, timeout=60.0))


class TestBounded(_Suite):
    """With a remote that answers, nothing is different."""

    @pytest.fixture
    def make_storage(self) -> MakeStorage:
        return lambda: Bounded(self.memory, timeout=60.0)


class TestTiered(_Suite):
    """Two storages behave as one."""

    @pytest.fixture
    def make_storage(self) -> MakeStorage:
        far = MemoryStorage()
        return lambda: Tiered([Tier(self.memory), Tier(far, write=False)])


class Unattested(Signed):
    """Takes out what signing fills in, so that the rest can be compared."""

    def read_records(self, keys: Collection[str]) -> Mapping[str, tuple[Variant, ...]]:
        found = super().read_records(keys)
        return {key: tuple(map(self._plain, found[key])) for key in found}

    def recent(self, identities: Collection[str]) -> Mapping[str, Variant]:
        found = super().recent(identities)
        return {identity: self._plain(found[identity]) for identity in found}

    def scan(self) -> Iterator[Variant]:
        return map(self._plain, super().scan())

    def _plain(self, variant: Variant) -> Variant:
        assert variant.signature.startswith("hmac-sha256:")
        assert len(variant.result.sha256) == 64
        blobs = tuple(b._replace(sha256="cd" * 32) for b in variant.result.blobs)
        result = replace(variant.result, sha256="ab" * 32, blobs=blobs)
        return replace(variant, result=result, signature="signed")


class TestSigned(_Suite):
    """All but the signature and the SHA-256s comes back as it was. One object plays writer and
    reader, since another one returns no result whose record it has not verified."""

    @pytest.fixture
    def make_storage(self) -> MakeStorage:
        storage = Unattested(self.memory, [KEY], namespace="topic/x", also=["main"])
        return lambda: storage


class TestWholeStack(_Suite):
    """Composed as the configuration composes them."""

    @pytest.fixture
    def make_storage(self) -> MakeStorage:
        bounded = Bounded(MemoryStorage(), timeout=60.0)
        remote = Signed(bounded, [KEY], namespace="pr~topic", also=["main"])
        storage = Tiered([Tier(self.memory), Tier(remote)])
        return lambda: storage
