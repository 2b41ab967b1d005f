"""A read-only storage is read and never written."""

import os
from pathlib import Path

from decorator_parts import digest_of, make_variant, store

from pytest_taskcache.storage.local import LocalStorage
from pytest_taskcache.storage.memory import MemoryStorage
from pytest_taskcache.storage.readonly import ReadOnly


def snapshot(directory: Path) -> dict[str, tuple[int, int, int, bytes]]:
    found = {}
    for path in sorted([directory, *directory.rglob("*")]):
        info = path.lstat()
        content = path.read_bytes() if path.is_file() else b""
        found[str(path)] = (info.st_mtime_ns, info.st_mode, info.st_ino, content)
    return found


def use(storage: ReadOnly, present: str, absent: bytes, scratch: Path) -> None:
    other = make_variant(2, payload=absent)
    store(storage, other, absent)
    file = scratch / "file"
    file.write_bytes(b"a file")
    storage.add_file(digest_of(b"a file"), file)
    storage.remove_records([present])


def test_reads_pass_and_writes_are_dropped_and_counted(tmp_path: Path) -> None:
    """What is there can be used; what a run computes is not added, removed or reported."""
    inner = MemoryStorage()
    variant = make_variant(1, payload=b"value")
    store(inner, variant, b"value")
    storage = ReadOnly(inner)

    use(storage, variant.id, b"other", tmp_path)

    assert storage.refused == 4
    assert storage.read_records([variant.key]) == {variant.key: (variant,)}
    assert bytes(storage.read_result(digest_of(b"value"), 5) or b"") == b"value"
    assert inner.read_result(digest_of(b"other"), 5) is None
    assert inner.has_results([digest_of(b"a file")]) == frozenset()
    assert list(inner.read_records([make_variant(2).key])) == []


def test_nothing_in_the_directory_changes(tmp_path: Path) -> None:
    """Not a byte, not a time stamp, not a lock file: a shared directory may be mounted so."""
    directory = tmp_path / "cache"
    writer = LocalStorage(directory)
    large = os.urandom(200_000)
    variant = make_variant(1, payload=large)
    store(writer, variant, large)
    writer.close()
    before = snapshot(directory)

    storage = ReadOnly(LocalStorage(directory, create=False, readonly=True))
    assert storage.read_records([variant.key, "f" * 32]) == {variant.key: (variant,)}
    data = storage.read_result(variant.result.digest, variant.result.size)
    assert data is not None
    assert bytes(data) == large
    assert storage.copy_file(variant.result.digest, tmp_path / "copy")
    assert storage.has_results([variant.result.digest])
    assert storage.recent([str(variant.identity)])
    use(storage, variant.id, b"other", tmp_path)
    del data
    storage.close()

    assert snapshot(directory) == before
