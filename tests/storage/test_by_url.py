"""One URL syntax for all storages."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from pytest_taskcache.errors import ConfigurationError
from pytest_taskcache.storage.remote.location import is_url, parse_location, storage_by_url


@pytest.mark.parametrize(
    ("url", "library", "extra"),
    [
        ("s3://bucket/x", "obstore", "objects"),
        ("gs://bucket/x", "obstore", "objects"),
        ("az://container/x", "obstore", "objects"),
        ("file:///x", "obstore", "objects"),
        ("sqlite:///x.db", "sqlalchemy", "sql"),
        ("postgresql+psycopg://h/db", "sqlalchemy", "sql"),
        ("postgresql://h/db", "psycopg", "postgres"),
        ("redis://h", "redis", "redis"),
        ("memory://x", "fsspec", "fsspec"),
        ("sftp://h/x", "fsspec", "fsspec"),
    ],
)
def test_missing_extra_is_named(
    url: str, library: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the library the error is the command that installs it."""
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ConfigurationError, match="pip install") as raised:
        storage_by_url(url, setting="--cache-storage")
    assert f"pip install 'pytest-taskcache[{extra}]'" in str(raised.value)
    assert str(raised.value).startswith("--cache-storage: ")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("s3://bucket/a@b/c?region=x", "s3://bucket/a@b/c"),
        ("s3://key:secret@bucket/x", "s3://bucket/x"),
        ("redis://:secret@host:1/0?expire=7d", "redis://host:1/0"),
        ("redis://:pa/secret@host:1/0", "redis://host:1/0"),
        ("redis://:pa?secret@host:1/0", "redis://host:1/0"),
        ("redis://:pa#secret@host:1/0", "redis://host:1/0"),
        ("redis://:pa@secret@host:1/0", "redis://host:1/0"),
        ("postgresql+psycopg://me:secret@h/db?password=secret", "postgresql+psycopg://h/db"),
        ("sftp://me:secret@host/path#secret", "sftp://host/path"),
        ("SFTP://me:secret@host/path", "sftp://host/path"),
        ("sqlite:////tmp/a@b.db?x=secret", "sqlite:////tmp/a@b.db"),
    ],
)
def test_no_secret_is_shown(url: str, shown: str) -> None:
    """Names, passwords and options are left out, however carelessly a password is escaped."""
    location = parse_location(url)
    assert location.shown == shown
    assert "secret" not in str(location.error("problem", "remedy"))


@pytest.mark.parametrize("text", ["", "s3", "s3:/bucket", "C:\\cache", "C://cache", "/a/b", "://x"])
def test_what_is_no_url(text: str) -> None:
    """Paths, drives and scraps are no URLs."""
    assert not is_url(text)
    with pytest.raises(ConfigurationError, match="not a URL"):
        storage_by_url(text)


@pytest.mark.parametrize(
    "url", ["s3://", "s3:///x", "gs://", "az://", "file://", "sqlite://", "redis://h?x=1"]
)
def test_url_that_leads_nowhere_is_a_usage_error(url: str) -> None:
    """A URL without a bucket, a file or with an unknown option is refused at once."""
    with pytest.raises(ConfigurationError) as raised:
        storage_by_url(url, setting="taskcache_storage")
    assert raised.value.setting == "taskcache_storage"
    assert raised.value.remedy


def register(directory: Path, monkeypatch: pytest.MonkeyPatch, scheme: str, code: str) -> None:
    """A distribution on the path that registers a scheme."""
    (directory / "their_storage.py").write_text(code)
    info = directory / "their_storage-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-storage\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        f"[pytest_taskcache.storages]\n{scheme} = their_storage:make\n"
    )
    monkeypatch.syspath_prepend(str(directory))
    monkeypatch.delitem(sys.modules, "their_storage", raising=False)


def test_third_party_registers_a_scheme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry point's callable gets the whole URL, and its storage is used as it is."""
    register(tmp_path, monkeypatch, "theirs", "def make(url):\n    return ('theirs', url)\n")
    assert storage_by_url("theirs://me@host/x?y=1") == ("theirs", "theirs://me@host/x?y=1")


def test_built_in_schemes_cannot_be_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An installed distribution does not get to see what is meant for S3."""
    register(tmp_path, monkeypatch, "s3", "def make(url):\n    raise SystemExit(url)\n")
    assert storage_by_url("s3://bucket/x").describe() == "s3://bucket/x"


def test_broken_third_party_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An adapter that fails to load is a usage error that names it."""
    register(tmp_path, monkeypatch, "theirs", "import nothing_of_that_name\n")
    with pytest.raises(ConfigurationError, match="their_storage:make"):
        storage_by_url("theirs://x")
