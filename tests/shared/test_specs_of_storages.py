"""What people write for a storage, taken apart; and what they cannot write."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_taskcache.config.settings import Settings
from pytest_taskcache.config.storage_factory import StorageFactory
from pytest_taskcache.config.tiers import TierSpec, find_tiers, shown
from pytest_taskcache.errors import ConfigurationError
from pytest_taskcache.storage.local import LocalStorage

NAMES = {"team": "s3://bucket/x", "laptop": "local:rw,team:r", "a": "b", "b": "a"}


@pytest.mark.parametrize(
    ("text", "tiers"),
    [
        ("", [("local", "rw")]),
        ("s3://b/x", [("local", "rw"), ("s3://b/x", "rw")]),
        ("s3://b/x:r", [("local", "rw"), ("s3://b/x", "r")]),
        ("redis://h:6379/0", [("local", "rw"), ("redis://h:6379/0", "rw")]),
        ("local:rw , redis://h:6379:RW", [("local", "rw"), ("redis://h:6379", "rw")]),
        ("/some/where", [("/some/where", "rw")]),
        ("team", [("local", "rw"), ("s3://bucket/x", "rw")]),
        ("laptop", [("local", "rw"), ("s3://bucket/x", "r")]),
        ("laptop:r", [("local", "r"), ("s3://bucket/x", "r")]),
        ("team:w,./team", [("s3://bucket/x", "w"), ("./team", "rw")]),
    ],
)
def test_tiers(text: str, tiers: list[tuple[str, str]]) -> None:
    """Names are replaced, modes narrow, and a lone remote gets the local storage in front."""
    assert find_tiers(text, NAMES) == [TierSpec(*tier) for tier in tiers]


def test_a_word_is_a_directory_where_there_are_no_names() -> None:
    """Without a table of names nothing can be mistyped."""
    assert find_tiers("cache", {}) == [TierSpec("cache")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("local,,s3://me:s3cr3t@b/x", "a tier is empty"),
        ("s3://b/x,", "a tier is empty"),
        ("teem", "no storage named 'teem'"),
        ("a", "goes round"),
        ("nonsense://x/y", "unknown scheme 'nonsense'"),
        ("s3://", "s3://"),
        ("file://relative/x", "absolute directory"),
        ("s3://bucket/{nobody}", "unknown variable {nobody}"),
        ("redis://:s3cr3t@host/0?nonsense=1", "unknown option 'nonsense'"),
    ],
)
def test_what_cannot_be_used(text: str, message: str, tmp_path: Path) -> None:
    """The error names the setting and what to write, and holds no password."""
    lines = [f'{name} = "{spec}"' for name, spec in NAMES.items()]
    (tmp_path / "pyproject.toml").write_text("\n".join(["[tool.taskcache.storages]", *lines]))
    with pytest.raises(ConfigurationError) as raised:
        factory(tmp_path, Settings(storage=text)).route("", "")
    assert message in str(raised.value)
    assert "s3cr3t" not in str(raised.value)
    assert raised.value.remedy


@pytest.mark.parametrize(
    ("keys", "results"),
    [("local,file:///k1,file:///k2", "file:///r"), ("local", "local,file:///r1,file:///r2")],
)
def test_storages_that_cannot_be_paired(keys: str, results: str, tmp_path: Path) -> None:
    """Which record would vouch for which result is not guessed."""
    with pytest.raises(ConfigurationError, match="tiers"):
        factory(tmp_path, Settings(key_storage=keys, result_storage=results)).route("", "")


@pytest.mark.parametrize(
    "text",
    ["storages = 1", "[storages]\nx = 1\n", '[storages]\nlocal = "s3://b"\n', '[storages]\nx = ""'],
)
def test_a_table_of_names_that_is_wrong(text: str, tmp_path: Path) -> None:
    """A name stands for text, and ``local`` is taken."""
    table = text.replace("[storages]", "[tool.taskcache.storages]")
    if not table.startswith("["):
        table = f"[tool.taskcache]\n{table}"
    (tmp_path / "pyproject.toml").write_text(table)
    with pytest.raises(ConfigurationError) as raised:
        factory(tmp_path, Settings()).route("x", "x")
    assert "storages" in str(raised.value)


def test_what_is_shown_holds_no_secret() -> None:
    """The header of a run shows specs as they are, but for names, passwords and options."""
    text = "local:rw,redis://me:s3cr3t@h:1/0?password=s3cr3t:r,s3://b/x"
    assert shown(text) == "local:rw,redis://h:1/0:r,s3://b/x"


def factory(root: Path, settings: Settings) -> StorageFactory:
    local = LocalStorage(root / "local")
    return StorageFactory(local, root, settings, {}, lambda reason, detail: None)
