"""Nothing is read from, or written to, a directory that somebody else could have filled."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from local_samples import digest_of, variant_of

from pytest_taskcache.errors import UntrustedStorageError
from pytest_taskcache.storage.local import LocalStorage

VALUE = b"value".ljust(9000)

pytestmark = pytest.mark.skipif(not hasattr(os, "geteuid"), reason="no owners here")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def fill(directory: Path) -> None:
    storage = LocalStorage(directory)
    storage.write_records([variant_of("k")])
    storage.write_result(digest_of(VALUE), [VALUE])
    storage.close()


def refuses(directory: Path, words: str) -> None:
    """Asserts that every use of the directory is refused with these words."""
    for readonly in (False, True):
        for use in uses_of(LocalStorage(directory, readonly=readonly)):
            with pytest.raises(UntrustedStorageError, match=words):
                use()


def uses_of(storage: LocalStorage) -> Iterator[Callable[[], object]]:
    yield lambda: storage.read_records(["k"])
    yield lambda: storage.read_result(digest_of(VALUE), 9000)
    yield lambda: storage.copy_file(digest_of(VALUE), storage.directory.parent / "copy")
    if not storage.readonly:
        yield lambda: storage.write_records([variant_of("new")])
        yield lambda: storage.write_result(digest_of(VALUE[1:]), [VALUE[1:]])
    storage.close()


def test_what_we_make_is_ours_alone(directory: Path) -> None:
    """Also under a umask that would let everyone write."""
    before = os.umask(0)
    try:
        fill(directory)
    finally:
        os.umask(before)
    for path in [directory, directory / "results", directory / "tmp"]:
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    storage = LocalStorage(directory)
    assert storage.read_records(["k"])
    assert storage.read_result(digest_of(VALUE), 9000) == VALUE
    storage.close()


@pytest.mark.parametrize("mode", [0o770, 0o702, 0o777])
def test_a_directory_that_others_may_write_is_refused(directory: Path, mode: int) -> None:
    """With the remedy in the message."""
    fill(directory)
    directory.chmod(mode)
    refuses(directory, "can be written by other users; .*chmod -R go-w")
    directory.chmod(0o755)
    storage = LocalStorage(directory)
    assert storage.read_records(["k"])
    storage.close()


@pytest.mark.parametrize("name", ["index.sqlite3", "results"])
def test_parts_that_others_may_write_are_refused(directory: Path, name: str) -> None:
    """The check does not stop at the door."""
    fill(directory)
    (directory / name).chmod(0o777)
    refuses(directory, f"{name} can be written")


@pytest.mark.parametrize("name", ["index.sqlite3", "results"])
def test_parts_that_are_links_are_refused(directory: Path, name: str) -> None:
    """Nobody leads us to values elsewhere, or has us write there."""
    fill(directory)
    (directory / name).rename(directory.parent / name)
    (directory / name).symlink_to(directory.parent / name)
    refuses(directory, f"{name} is a symbolic link")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root may chown")
@pytest.mark.parametrize("name", ["", "index.sqlite3", "results"])
def test_somebody_elses_directory_is_refused(directory: Path, name: str) -> None:
    """Also by root, who could read it."""
    fill(directory)
    os.chown(directory / name, 12345, 12345)
    refuses(directory, "belongs to user 12345, not to you")


def test_an_empty_directory_of_ours_is_narrowed(directory: Path) -> None:
    """One that was made by hand just works."""
    directory.mkdir()
    directory.chmod(0o775)
    fill(directory)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o755


def test_a_link_to_a_directory_of_ours_is_followed_once(directory: Path, tmp_path: Path) -> None:
    """A cache may live on another disk; swapping the link later leads nowhere new."""
    fill(directory)
    link = tmp_path / "link"
    link.symlink_to(directory)
    storage = LocalStorage(link)
    assert storage.describe() == str(directory.resolve())
    link.unlink()
    evil = tmp_path / "evil"
    evil.mkdir()
    link.symlink_to(evil)
    assert storage.read_records(["k"])
    assert storage.read_result(digest_of(VALUE), 9000) == VALUE
    storage.write_records([variant_of("new")])
    assert os.listdir(evil) == []
    storage.close()


def test_a_directory_swapped_under_us_is_checked_again(directory: Path, tmp_path: Path) -> None:
    """Trust belongs to a directory, not to a path."""
    fill(directory)
    storage = LocalStorage(directory)
    assert storage.read_result(digest_of(VALUE), 9000) == VALUE
    directory.rename(tmp_path / "old")
    fill(directory)
    directory.chmod(0o777)
    with pytest.raises(UntrustedStorageError):
        storage.read_result(digest_of(VALUE), 9000)
    with pytest.raises(UntrustedStorageError):
        storage.write_records([variant_of("new")])
    storage.close()


def test_a_file_in_the_place_of_the_directory_is_refused(directory: Path) -> None:
    """Nothing is overwritten."""
    directory.write_text("mine")
    storage = LocalStorage(directory)
    with pytest.raises(UntrustedStorageError, match="is not a directory"):
        storage.write_records([variant_of("k")])
    storage.close()
    assert directory.read_text() == "mine"
