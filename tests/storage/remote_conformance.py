"""The shipped suite for the remote store, whatever it lives in."""

from __future__ import annotations

from pytest_taskcache.model.dependency import Blob, Trace
from pytest_taskcache.ports import Storage
from pytest_taskcache.storage.remote.store import RemoteStore, result_name
from pytest_taskcache.testing.storages import StorageConformance, a_variant


class RemoteConformance(StorageConformance):
    """Bytes change behind its back. (What a dying writer leaves differs: see ``abandon``.)"""

    def damage(self, storage: Storage, digest: str, data: bytes) -> None:
        assert isinstance(storage, RemoteStore)
        storage.blobs.put(result_name(digest), data)

    def test_shared_parts_of_a_trace_come_back(self, writer: Storage, reader: Storage) -> None:
        """What a trace uses is named by its record like everything else."""
        trace = Trace((), "with parts", (Blob("1" * 32, 7), Blob("2" * 32, 0)))
        variant = a_variant(trace=trace)
        writer.write_records([variant])
        assert reader.read_records([variant.key]) == {variant.key: (variant,)}
