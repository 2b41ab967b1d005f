"""The suite on servers that pip cannot install: Azure's emulator, and OpenSSH over SFTP."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from azure_servers import CONTAINER, azurite_server
from remote_conformance import RemoteConformance
from sftp_servers import openssh_sftp_server

from pytest_taskcache.errors import StorageError
from pytest_taskcache.storage.remote.location import storage_by_url
from pytest_taskcache.testing.storages import MakeStorage, fresh_key


@pytest.fixture(scope="module")
def azurite() -> Iterator[dict[str, str]]:
    with azurite_server() as environ:
        yield environ


@pytest.fixture
def environ(azurite: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in tuple(os.environ):
        if name.startswith("AZURE_"):
            monkeypatch.delenv(name)
    for name, value in azurite.items():
        monkeypatch.setenv(name, value)


class TestAzure(RemoteConformance):
    @pytest.fixture
    def make_storage(self, environ: None) -> MakeStorage:
        url = f"az://{CONTAINER}/{uuid.uuid4().hex}"
        return lambda: storage_by_url(url)


def test_azure_without_its_container(environ: None) -> None:
    """A container that does not exist is named as the reason; wrong credentials are too."""
    with pytest.raises(StorageError, match="no such"):
        storage_by_url("az://nowhere/x").write_result(fresh_key(), [b"x"])


def test_azure_with_another_key(environ: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wrong credentials are a fault that says so, and shows nothing of them."""
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "aHVudGVyMg==")
    with pytest.raises(StorageError, match="permission denied") as raised:
        storage_by_url(f"az://{CONTAINER}/x").read_records([fresh_key()])
    assert "aHVudGVyMg" not in str(raised.value)


@pytest.fixture(scope="module")
def openssh() -> Iterator[tuple[str, Path]]:
    with openssh_sftp_server() as server:
        yield server


class TestOpenSsh(RemoteConformance):
    @pytest.fixture
    def make_storage(
        self, openssh: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
    ) -> MakeStorage:
        url, key = openssh
        monkeypatch.setitem(fsspec.config.conf, "sftp", {"key_filename": str(key)})
        place = f"{url}/{uuid.uuid4().hex}"
        return lambda: storage_by_url(place)
