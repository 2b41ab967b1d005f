"""Any protocol of fsspec: memory, a directory, and what is not to be had."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from remote_conformance import RemoteConformance
from sftp_servers import PASSWORD, rclone_sftp_server

from pytest_taskcache.errors import ConfigurationError, StorageError
from pytest_taskcache.storage.remote.fsspec_blobs import FsspecBlobs
from pytest_taskcache.storage.remote.location import parse_location, storage_by_url
from pytest_taskcache.storage.remote.store import RemoteStore
from pytest_taskcache.testing.storages import MakeStorage, a_variant, bytes_in, digest_of, fresh_key


class TestFsspecMemory(RemoteConformance):
    @pytest.fixture
    def make_storage(self) -> MakeStorage:
        url = f"memory://{uuid.uuid4().hex}/cache"
        return lambda: storage_by_url(url)


class TestFsspecDirectory(RemoteConformance):
    @pytest.fixture
    def make_storage(self, tmp_path_factory: pytest.TempPathFactory) -> MakeStorage:
        location = parse_location(f"file://{tmp_path_factory.mktemp('directory')}/cache")
        return lambda: RemoteStore(FsspecBlobs(location))


@pytest.fixture(scope="module")
def sftp() -> Iterator[str]:
    with rclone_sftp_server() as url:
        yield url


def test_sftp_round_trip(sftp: str, tmp_path: Path) -> None:
    """Over SFTP records, commits and results are stored and found, and no part is left."""
    url = f"{sftp}/{uuid.uuid4().hex}"
    writer, reader = storage_by_url(url), storage_by_url(url)
    variants = [a_variant() for _ in range(5)]
    keys = [variant.key for variant in variants]
    data = os.urandom(9 * 1024 * 1024)
    assert reader.read_records(keys) == {}
    writer.write_result(digest_of(data), [data])
    writer.write_records(variants[:4])
    writer.write_records(variants[4:])
    assert reader.read_records(keys) == {variant.key: (variant,) for variant in variants}
    assert bytes_in(reader, digest_of(data), len(data)) == data
    assert reader.copy_file(digest_of(data), tmp_path / "copy")
    assert reader.has_results([digest_of(data), fresh_key()]) == {digest_of(data)}
    reader.remove_records([variants[4].id])
    assert set(writer.read_records(keys)) == set(keys[:4])
    assert PASSWORD not in writer.describe()


def test_sftp_wrong_password_is_a_storage_error(sftp: str) -> None:
    """A refused log-in is a fault that shows neither name nor password."""
    storage = storage_by_url(f"{sftp.replace(PASSWORD, 'wr0ng')}/x?timeout=10")
    with pytest.raises(StorageError) as raised:
        storage.read_records([fresh_key()])
    assert "wr0ng" not in f"{raised.value} {raised.value!r}"


def test_unknown_scheme_is_named() -> None:
    """A scheme that nobody knows is a usage error that says what there is."""
    with pytest.raises(ConfigurationError, match=r"unknown scheme 'nosuch'.*s3://") as raised:
        storage_by_url("nosuch://user:secret@host/x", setting="--cache-storage")
    assert raised.value.setting == "--cache-storage"
    assert "secret" not in str(raised.value)


def test_interrupted_write_leaves_no_part(tmp_path: Path) -> None:
    """A write that fails half-way leaves neither the object nor its temporary file."""

    class Failing(fsspec.get_filesystem_class("file")):  # type: ignore[misc]
        protocol = "failing"

        def mv(self, source: str, target: str, **options: object) -> None:
            raise RuntimeError("the disk is gone")

    fsspec.register_implementation("failing", Failing, clobber=True)
    with pytest.raises(StorageError, match="RuntimeError"):
        storage_by_url(f"failing://{tmp_path}/x").write_result("ab" * 16, [b"bytes"])
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_errors_of_a_protocol_become_storage_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a file system of a third party raises, the engine sees a StorageError that
    repeats none of its text."""

    class Broken(fsspec.AbstractFileSystem):
        protocol = "brokenfs"

        def find(self, path: str, **options: object) -> object:
            raise ValueError("token=hunter2")

        def info(self, path: str, **options: object) -> object:
            raise PermissionError(13, "hunter2")

    fsspec.register_implementation("brokenfs", Broken, clobber=True)
    storage = storage_by_url("brokenfs://x")
    with pytest.raises(StorageError) as raised:
        storage.read_records([fresh_key()])
    assert raised.value.reason == "ValueError"
    with pytest.raises(StorageError) as denied:
        storage.read_result(fresh_key(), 1)
    assert denied.value.reason == "permission denied"
    with pytest.raises(StorageError):
        storage.write_records([a_variant()])


def test_running_event_loop_is_no_hindrance() -> None:
    """An async test may use the cache from inside its own event loop."""

    async def use() -> bool:
        storage = storage_by_url(f"memory://{uuid.uuid4().hex}")
        variant = a_variant()
        storage.write_records([variant])
        return variant.key in storage.read_records([variant.key])

    assert asyncio.run(use())
