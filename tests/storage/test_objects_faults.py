"""Remote storages on servers that misbehave: a StorageError or nothing, never a wrong value."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from misbehaving import BEHAVIOURS, is_a_portal, misbehaving_server, truncates
from s3_servers import ACCESS_KEY, BUCKET, SECRET_KEY, rclone_s3_server

from pytest_taskcache.errors import StorageError
from pytest_taskcache.storage.remote.bounded import Bounded
from pytest_taskcache.storage.remote.location import storage_by_url
from pytest_taskcache.testing.storages import a_variant, digest_of, fresh_key

URLS = {
    "s3": "s3://bucket/x?endpoint=http://127.0.0.1:{port}&timeout=0.4",
    "redis": "redis://me:hunter2@127.0.0.1:{port}/0?timeout=0.4",
    "postgres": "postgresql://me:hunter2@127.0.0.1:{port}/db?timeout=0.4",
}


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in tuple(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)


def outcome_of(operation: Callable[[], object]) -> tuple[object, str]:
    """The value, or what a StorageError says; nothing else may be raised."""
    try:
        return operation(), ""
    except StorageError as error:
        return None, f"{error} {error!r}"


@pytest.mark.parametrize("kind", URLS)
@pytest.mark.parametrize("behaviour", BEHAVIOURS, ids=lambda behaviour: behaviour.__name__)
def test_misbehaving_server_gives_a_storage_error_or_nothing(
    kind: str, behaviour: Callable[[socket.socket, threading.Event], None], tmp_path: Path
) -> None:
    """Whatever a server does, every operation ends, and never with a value."""
    data = b"some bytes"
    digest = digest_of(data)
    with misbehaving_server(behaviour) as port:
        storage = Bounded(storage_by_url(URLS[kind].format(port=port)), faults=99)
        operations = (
            ({}, lambda: storage.read_records([fresh_key(), fresh_key()])),
            (None, lambda: storage.read_result(digest, len(data))),
            (False, lambda: storage.copy_file(digest, tmp_path / "copy")),
            ({}, lambda: storage.recent(["a.py::f"])),
        )
        with ThreadPoolExecutor(len(operations)) as pool:
            outcomes = list(pool.map(lambda one: outcome_of(one[1]), operations))
        for (expected, _), (value, told) in zip(operations, outcomes, strict=True):
            assert told or value == expected
            assert "hunter2" not in told
            assert SECRET_KEY not in told
            assert len(told) < 300
        assert list(tmp_path.iterdir()) == []
        storage.close()


@pytest.mark.parametrize("kind", URLS)
@pytest.mark.parametrize(
    "behaviour",
    [one for one in BEHAVIOURS if one not in {is_a_portal, truncates}],
    ids=lambda behaviour: behaviour.__name__,
)
def test_misbehaving_server_stores_nothing(
    kind: str, behaviour: Callable[[socket.socket, threading.Event], None]
) -> None:
    """A write that was not confirmed raises. (A server that confirms whatever it is sent is
    found out by the next read.)"""
    with misbehaving_server(behaviour) as port:
        storage = Bounded(storage_by_url(URLS[kind].format(port=port)))
        with pytest.raises(StorageError):
            storage.write_records([a_variant(), a_variant()])
        storage.close()


def test_server_that_dies_between_result_and_record() -> None:
    """The result is there, the record is not: the commit raises, and later readers miss."""
    data = os.urandom(1000)
    with rclone_s3_server() as server:
        url = f"s3://{BUCKET}/x?endpoint={server.endpoint}&timeout=2"
        storage = storage_by_url(url)
        storage.write_result(digest_of(data), [data])
        assert storage.read_result(digest_of(data), 1000) == data
    with pytest.raises(StorageError):
        storage.write_records([a_variant()])
    with pytest.raises(StorageError):
        storage.read_result(digest_of(data), 1000)
