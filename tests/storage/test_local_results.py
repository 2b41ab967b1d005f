"""Result files: written whole or not at all, checked before they are believed."""

from __future__ import annotations

import gc
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from local_samples import digest_of, files_under

try:
    import resource
except ImportError:
    resource = None  # type: ignore[assignment]

from pytest_taskcache.errors import StorageError
from pytest_taskcache.storage.local import LocalStorage

ROW = b"a small value"
SMALL = b"a value that is worth a file of its own".ljust(9000, b".")
LARGE = bytes(range(256)) * 4096


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[LocalStorage]:
    storage = LocalStorage(tmp_path / "cache")
    yield storage
    storage.close()


@pytest.fixture
def other(tmp_path: Path) -> Iterator[LocalStorage]:
    storage = LocalStorage(tmp_path / "cache")
    yield storage
    storage.close()


def path_of(storage: LocalStorage, digest: str) -> Path:
    return storage.directory / "results" / digest[:2] / digest


def put(storage: LocalStorage, data: bytes) -> str:
    storage.write_result(digest_of(data), [data])
    return digest_of(data)


@pytest.mark.parametrize("data", [SMALL, LARGE], ids=["small", "large"])
def test_what_was_written_is_read(storage: LocalStorage, other: LocalStorage, data: bytes) -> None:
    """Here and in other processes, in one chunk or several, from memory or a file."""
    half = len(data) // 2
    storage.write_result(digest_of(data), [data[:half], memoryview(data)[half:], b""])
    assert storage.read_result(digest_of(data), len(data)) == data
    assert other.read_result(digest_of(data), len(data)) == data
    assert other.has_results([digest_of(data), digest_of(b"no"), "../x"]) == {digest_of(data)}
    assert path_of(storage, digest_of(data)).is_file()
    assert not list(files_under(storage.directory / "tmp"))


@pytest.mark.parametrize("data", [SMALL, LARGE], ids=["small", "large"])
def test_a_reader_may_change_what_it_got(storage: LocalStorage, data: bytes) -> None:
    """Every caller has a value of its own: mutating it spoils neither the next nor the file."""
    digest = put(storage, data)
    first = storage.read_result(digest, len(data))
    assert first is not None
    first[0:3] = b"???"
    assert storage.read_result(digest, len(data)) == data
    assert path_of(storage, digest).read_bytes() == data


def test_large_results_are_mapped_not_copied(storage: LocalStorage) -> None:
    """Loading half a gigabyte does not read half a gigabyte."""
    view = storage.read_result(put(storage, LARGE), len(LARGE))
    assert view is not None
    assert type(view.obj).__name__ == "mmap"


def test_hundreds_of_mappings_can_live_at_once(storage: LocalStorage) -> None:
    """Values of a whole session stay valid after their file was evicted."""
    digest = put(storage, LARGE)
    views = [storage.read_result(digest, len(LARGE)) for _ in range(300)]
    path_of(storage, digest).unlink()
    gc.collect()
    assert all(view == LARGE for view in views)


def test_absent_is_none(storage: LocalStorage, tmp_path: Path) -> None:
    """A result that is gone is computed again; that is no error."""
    assert storage.read_result(digest_of(b"no"), 2) is None
    assert storage.read_result("../../etc/passwd", 2) is None
    assert not storage.copy_file(digest_of(b"no"), tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


@pytest.mark.parametrize("data", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("damage", ["flip", "cut", "grow", "empty"])
def test_damage_reads_as_absent_and_heals(
    storage: LocalStorage, other: LocalStorage, data: bytes, damage: str
) -> None:
    """A torn or corrupt file is never served, and writing the value again mends it."""
    digest = put(storage, data)
    path = path_of(storage, digest)
    path.chmod(0o600)
    content = bytearray(data)
    content[7] ^= 1
    path.write_bytes(
        {"flip": bytes(content), "cut": data[:-1], "grow": data + b"x", "empty": b""}[damage]
    )
    assert other.read_result(digest, len(data)) is None
    assert put(other, data) == digest
    assert other.read_result(digest, len(data)) == data
    assert storage.read_result(digest, len(data)) == data


def test_damage_after_the_first_read_is_noticed(storage: LocalStorage) -> None:
    """Checked once per process means: once for each state of the file."""
    digest = put(storage, SMALL)
    assert storage.read_result(digest, len(SMALL)) == SMALL
    path = path_of(storage, digest)
    info = path.stat()
    path.chmod(0o600)
    path.write_bytes(SMALL.upper())
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))
    assert storage.read_result(digest, len(SMALL)) is None


def test_a_write_of_the_wrong_bytes_is_never_read(storage: LocalStorage) -> None:
    """Memory that changed while it was written cannot become a wrong value."""
    storage.write_result(digest_of(SMALL), [SMALL.upper()])
    assert storage.read_result(digest_of(SMALL), len(SMALL)) is None


def test_a_result_already_there_is_left_as_it_is(
    storage: LocalStorage, other: LocalStorage
) -> None:
    """Writing the same value again rewrites nothing."""
    digest = put(storage, SMALL)
    before = path_of(storage, digest).stat()
    put(storage, SMALL)
    put(other, SMALL)
    after = path_of(storage, digest).stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


@pytest.mark.skipif(resource is None, reason="needs limits on file sizes")
def test_a_failed_write_leaves_nothing(storage: LocalStorage) -> None:
    """A disk that fills up half-way leaves no file behind, not even a temporary one."""
    put(storage, SMALL)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, limits[1]))
    try:
        with pytest.raises(StorageError) as caught:
            storage.write_result(digest_of(LARGE), [LARGE[:500_000], LARGE[500_000:]])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.reason == "file too large"
    assert storage.has_results([digest_of(LARGE)]) == frozenset()
    assert not list(files_under(storage.directory / "tmp"))
    put(storage, LARGE)
    assert storage.read_result(digest_of(LARGE), len(LARGE)) == LARGE


def test_a_source_that_is_no_file_is_an_error(storage: LocalStorage, tmp_path: Path) -> None:
    """A file that vanished before it was taken in makes a fault with a reason."""
    with pytest.raises(StorageError, match="cannot write results"):
        storage.add_file(digest_of(SMALL), tmp_path / "gone")
    with pytest.raises(StorageError, match="cannot write results"):
        storage.add_file(digest_of(SMALL), tmp_path)


def test_files_are_taken_in_by_copy(storage: LocalStorage, tmp_path: Path) -> None:
    """The file a value came from stays where it is, and may change later."""
    source = tmp_path / "source.bin"
    source.write_bytes(LARGE)
    storage.add_file(digest_of(LARGE), source)
    assert source.stat().st_nlink == 1
    source.write_bytes(b"changed")
    assert storage.read_result(digest_of(LARGE), len(LARGE)) == LARGE


def test_files_are_given_out_by_copy(storage: LocalStorage, tmp_path: Path) -> None:
    """What a test does to its copy stays in its copy."""
    digest = put(storage, SMALL)
    copy = tmp_path / "copy"
    assert storage.copy_file(digest, copy)
    with open(copy, "ab") as file:
        file.write(b" and more")
    assert copy.read_bytes() == SMALL + b" and more"
    assert storage.read_result(digest, len(SMALL)) == SMALL
    with pytest.raises(StorageError):
        storage.copy_file(digest, copy)


def test_a_write_through_a_readonly_link_is_noticed(storage: LocalStorage, tmp_path: Path) -> None:
    """Where a link was asked for, a test that writes through it damages one blob, unserved."""
    digest = put(storage, SMALL)
    assert storage.read_result(digest, len(SMALL)) == SMALL
    link = tmp_path / "link"
    assert storage.copy_file(digest, link, readonly=True)
    assert stat.S_IMODE(link.stat().st_mode) & 0o222 == 0
    link.chmod(0o600)
    with open(link, "r+b") as file:
        file.write(b"X")
    assert storage.read_result(digest, len(SMALL)) is None
    assert not storage.copy_file(digest, tmp_path / "second")


def test_a_damaged_file_is_not_given_out(storage: LocalStorage, tmp_path: Path) -> None:
    """A tree is restored whole and right, or not at all."""
    digest = put(storage, SMALL)
    path_of(storage, digest).chmod(0o600)
    path_of(storage, digest).write_bytes(SMALL.upper())
    assert not storage.copy_file(digest, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def link_to_a_secret(path: Path) -> None:
    secret = path.parents[3] / "secret"
    secret.write_bytes(SMALL)
    path.symlink_to(secret)


def directory_with_files(path: Path) -> None:
    path.mkdir()
    (path / "file").write_text("in the way")


@pytest.mark.parametrize(
    "block",
    [link_to_a_secret, os.mkfifo, directory_with_files],
    ids=["a link", "a pipe", "a directory"],
)
def test_what_lies_in_the_place_of_a_result_is_put_aside(tmp_path: Path, block: object) -> None:
    """Only a regular file is read, nobody waits, and the next writer mends it."""
    faults: list[str] = []
    storage = LocalStorage(tmp_path / "cache", on_fault=faults.append)
    digest = put(storage, SMALL)
    path = path_of(storage, digest)
    path.unlink()
    block(path)  # type: ignore[operator]
    assert storage.read_result(digest, len(SMALL)) is None
    assert not storage.copy_file(digest, tmp_path / "copy")
    assert faults
    put(storage, SMALL)
    assert storage.read_result(digest, len(SMALL)) == SMALL
    assert not path.is_symlink()
    storage.prune(full=True)
    storage.close()


@pytest.mark.parametrize("name", ["results", "tmp", "runs"])
def test_a_file_in_the_place_of_a_directory_is_put_aside(tmp_path: Path, name: str) -> None:
    """The same for the directories that hold them."""
    storage = LocalStorage(tmp_path / "cache", run="r", leads=True)
    storage.write_records([])
    storage.size()  # opens it
    (tmp_path / "cache" / name).write_text("in the way")
    assert storage.read_result(digest_of(SMALL), len(SMALL)) is None
    put(storage, SMALL)
    assert storage.read_result(digest_of(SMALL), len(SMALL)) == SMALL
    storage.prune(full=True)
    storage.close()


def test_threads_writing_one_result_agree(storage: LocalStorage) -> None:
    """Several computations of one value at once leave one file."""
    threads = [threading.Thread(target=put, args=(storage, LARGE)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert storage.read_result(digest_of(LARGE), len(LARGE)) == LARGE
    files = [name for name in files_under(storage.directory / "results") if len(name) > 2]
    assert len(files) == 1


# ----------------------------------------------------------------------------- small results


@pytest.mark.parametrize("data", [b"", ROW], ids=["empty", "small"])
def test_small_results_are_rows(storage: LocalStorage, other: LocalStorage, data: bytes) -> None:
    """Thousands of small values and shared parts of traces make no thousands of files."""
    digest = put(storage, data)
    view = storage.read_result(digest, len(data))
    assert view == data
    assert other.read_result(digest, len(data)) == data
    assert other.read_result(digest, len(data) + 1) is None
    assert other.has_results([digest, digest_of(b"no")]) == {digest}
    assert not path_of(storage, digest).exists()


def test_small_results_are_given_out_by_copy(storage: LocalStorage, tmp_path: Path) -> None:
    """A tree may have small files that were stored as values too."""
    digest = put(storage, ROW)
    assert storage.copy_file(digest, tmp_path / "copy", readonly=True)
    assert (tmp_path / "copy").read_bytes() == ROW
    assert stat.S_IMODE((tmp_path / "copy").stat().st_mode) & 0o222 == 0


@pytest.mark.parametrize("damage", ["x'00'", "'text'", "CAST(x'ff' AS TEXT)", "7"])
def test_a_damaged_small_result_reads_as_absent_and_heals(tmp_path: Path, damage: str) -> None:
    """A changed row is never served, and writing the value again mends it."""
    faults: list[str] = []
    storage = LocalStorage(tmp_path / "cache", on_fault=faults.append)
    digest = put(storage, ROW)
    storage.index.write(
        "damage", lambda c: c.execute(f"UPDATE small_results SET data = {damage}").close()
    )
    assert storage.read_result(digest, len(ROW)) is None
    assert not storage.copy_file(digest, tmp_path / "copy")
    assert set(faults) == {"damaged result"}
    put(storage, ROW)
    assert storage.read_result(digest, len(ROW)) == ROW
    storage.close()
