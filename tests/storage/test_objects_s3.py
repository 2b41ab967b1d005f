"""Objects on real S3 servers: one that honours conditional writes, one that ignores them."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from remote_conformance import RemoteConformance
from s3_servers import ACCESS_KEY, BUCKET, SECRET_KEY, S3Server, moto_server, rclone_s3_server

from pytest_taskcache.errors import ConfigurationError, StorageError
from pytest_taskcache.ports import Storage
from pytest_taskcache.storage.remote.location import storage_by_url
from pytest_taskcache.testing.storages import MakeStorage, a_variant, digest_of, fresh_key


@pytest.fixture(scope="module", params=[moto_server, rclone_s3_server], ids=["moto", "rclone"])
def server(request: pytest.FixtureRequest) -> Iterator[S3Server]:
    with request.param() as running:
        yield running


@pytest.fixture(scope="module")
def strict_server() -> Iterator[S3Server]:
    """A server that checks credentials."""
    with rclone_s3_server() as running:
        yield running


@pytest.fixture
def no_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing of the machine's own set-up, and no metadata service to ask."""
    for name in tuple(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:9")


@pytest.fixture
def environment(
    server: S3Server, no_credentials: None, monkeypatch: pytest.MonkeyPatch
) -> S3Server:
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    return server


class TestS3Objects(RemoteConformance):
    @pytest.fixture
    def make_storage(self, environment: S3Server) -> MakeStorage:
        url = f"s3://{BUCKET}/team/{uuid.uuid4().hex}"
        return lambda: storage_by_url(url)


def test_profile_gives_the_credentials(
    strict_server: S3Server, no_credentials: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Without AWS_ACCESS_KEY_ID the key of AWS_PROFILE is used."""
    (tmp_path / "credentials").write_text(
        f"[default]\naws_access_key_id = x\naws_secret_access_key = y\n"
        f"[team]\naws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET_KEY}\n"
    )
    url = f"s3://{BUCKET}/profile?endpoint={strict_server.endpoint}"
    monkeypatch.setenv("AWS_PROFILE", "team")
    variant = a_variant()
    storage_by_url(url).write_records([variant])
    assert storage_by_url(url).read_records([variant.key]) == {variant.key: (variant,)}
    monkeypatch.setenv("AWS_PROFILE", "default")
    with pytest.raises(StorageError, match="permission denied"):
        storage_by_url(url).read_records([variant.key])


@pytest.mark.parametrize("verb", ["read_records", "write_records", "write_result", "read_result"])
def test_wrong_credentials_are_a_storage_error(
    strict_server: S3Server, no_credentials: None, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    """Every operation says "permission denied", and nothing of the key."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", strict_server.endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    with pytest.raises(StorageError) as raised:
        attempt(storage_by_url(f"s3://{BUCKET}/x"), verb)
    assert raised.value.reason == "permission denied"
    assert_silent(raised.value, "hunter2", ACCESS_KEY)


@pytest.mark.parametrize("verb", ["read_records", "write_records", "write_result"])
def test_missing_bucket_is_a_storage_error(environment: S3Server, verb: str) -> None:
    """A bucket that does not exist is named as the reason."""
    with pytest.raises(StorageError) as raised:
        attempt(storage_by_url("s3://no-such-bucket/x"), verb)
    assert raised.value.reason == "no such bucket"


def test_no_credentials_are_a_storage_error(
    strict_server: S3Server, no_credentials: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no key is found anywhere the operation fails in bounded time."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", strict_server.endpoint)
    with pytest.raises(StorageError):
        storage_by_url(f"s3://{BUCKET}/x?timeout=5").read_records([fresh_key()])


def test_read_only_bucket(no_credentials: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing may be written reads work, and every write is a fault."""
    with rclone_s3_server("--read-only") as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        storage = storage_by_url(f"s3://{BUCKET}/x?timeout=5")
        assert storage.read_records([fresh_key()]) == {}
        for verb in ("write_records", "write_result"):
            with pytest.raises(StorageError):
                attempt(storage, verb)
        large = bytes(9 * 1024 * 1024)
        with pytest.raises(StorageError):
            storage.write_result(digest_of(large), [large])


def test_nothing_secret_is_shown(environment: S3Server) -> None:
    """Neither the description nor an object's repr shows credentials or options."""
    storage = storage_by_url(f"s3://{BUCKET}/x?region=eu-west-1")
    assert storage.describe() == f"s3://{BUCKET}/x"
    assert SECRET_KEY not in repr(vars(storage)) + repr(vars(storage.blobs))
    assert storage.trusted is False


def test_unknown_option_is_refused() -> None:
    """A misspelt option is an error, not ignored."""
    with pytest.raises(ConfigurationError, match="unknown option 'regoin'"):
        storage_by_url("s3://bucket/x?regoin=eu")


def attempt(storage: Storage, verb: str) -> object:
    match verb:
        case "read_records":
            return storage.read_records([fresh_key()])
        case "write_records":
            return storage.write_records([a_variant()])
        case "write_result":
            return storage.write_result(digest_of(b"data"), [b"data"])
        case "read_result":
            return storage.read_result(digest_of(b"data"), 4)
    raise AssertionError(verb)


def assert_silent(error: BaseException, *secrets: str) -> None:
    told = f"{error!r} {error} {error.__cause__!r} {error.__context__!r}"
    shown = [secret for secret in secrets if secret in told and error.__suppress_context__ is False]
    assert not shown
    assert not [secret for secret in secrets if secret in str(error)]
