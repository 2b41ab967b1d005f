"""Memory storage behaves as local storage does, for the threads of one process."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from local_samples import digest_of, result_of, trace_of, variant_of

from pytest_taskcache.errors import StorageError
from pytest_taskcache.model.record import VARIANTS
from pytest_taskcache.ports import Storage
from pytest_taskcache.storage.memory import MemoryStorage

DATA = bytes(range(256)) * 40


def test_it_plays_both_roles() -> None:
    """It can stand wherever a storage is asked for."""
    assert isinstance(MemoryStorage(), Storage)


def test_records_are_kept_newest_first() -> None:
    """The rules of a record hold: newest first, sixteen at most, never changed, removable."""
    storage = MemoryStorage()
    variants = [variant_of("k", number) for number in range(VARIANTS + 2)]
    storage.write_records(variants)
    storage.write_records(variants[:3])
    assert storage.read_records(["k", "x"]) == {"k": tuple(reversed(variants))[:VARIANTS]}
    assert storage.recent(["src/app.py::build"]) == {"src/app.py::build": variants[-1]}
    storage.remove_records([variant.id for variant in variants[1:]])
    assert storage.read_records(["k"]) == {}
    assert list(storage.scan()) == []


def test_closing_keeps_what_is_stored() -> None:
    """There is no handle to release, and nothing to come back to elsewhere."""
    storage = MemoryStorage()
    storage.write_records([variant_of("k")])
    storage.write_result(digest_of(DATA), [DATA])
    storage.close()
    assert storage.read_records(["k"]) == {"k": (variant_of("k"),)}
    assert storage.read_result(digest_of(DATA), len(DATA)) == DATA


def test_two_storages_share_nothing() -> None:
    """Each cache without a path is its own."""
    one, two = MemoryStorage(), MemoryStorage()
    one.write_records([variant_of("k")])
    assert two.read_records(["k"]) == {}


def test_results_are_copies_both_ways(tmp_path: Path) -> None:
    """Neither the writer's memory nor a reader's changes what is stored."""
    storage = MemoryStorage()
    source = bytearray(DATA)
    storage.write_result(digest_of(DATA), [memoryview(source)[:100], memoryview(source)[100:]])
    source[0] ^= 1
    view = storage.read_result(digest_of(DATA), len(DATA))
    assert view is not None
    view[1] ^= 1
    assert storage.read_result(digest_of(DATA), len(DATA)) == DATA
    file = tmp_path / "file"
    file.write_bytes(b"content")
    storage.add_file(digest_of(b"content"), file)
    file.write_bytes(b"changed")
    assert storage.copy_file(digest_of(b"content"), tmp_path / "copy", readonly=True)
    assert (tmp_path / "copy").read_bytes() == b"content"
    assert (tmp_path / "copy").stat().st_mode & 0o222 == 0
    with pytest.raises(StorageError):
        storage.copy_file(digest_of(b"content"), tmp_path / "copy")
    with pytest.raises(StorageError):
        storage.add_file(digest_of(b"gone"), tmp_path / "gone")


def test_wrong_bytes_and_sizes_read_as_absent(tmp_path: Path) -> None:
    """What was changed while it was written is not served, and can be written again."""
    storage = MemoryStorage()
    storage.write_result(digest_of(DATA), [DATA[1:]])
    assert storage.read_result(digest_of(DATA), len(DATA) - 1) is None
    storage.write_result(digest_of(DATA), [DATA])
    assert storage.read_result(digest_of(DATA), 5) is None
    assert storage.read_result(digest_of(b"no"), 2) is None
    assert not storage.copy_file(digest_of(b"no"), tmp_path / "copy")
    assert storage.has_results([digest_of(DATA), digest_of(b"no")]) == {digest_of(DATA)}


def test_threads_share_it() -> None:
    """Eight threads writing and reading lose nothing and see whole batches."""
    storage = MemoryStorage()
    errors: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for turn in range(20):
                data = b"%d" % turn
                storage.write_result(digest_of(data), [data])
                keys = [f"{number}-{turn}-{item}" for item in range(3)]
                trace = trace_of("shared", f"{number}")
                result = result_of(data, inline=False)
                storage.write_records([variant_of(key, trace=trace, result=result) for key in keys])
                assert len(storage.read_records(keys)) == 3
                for who in range(8):
                    batch = [f"{who}-{turn}-{item}" for item in range(3)]
                    assert len(storage.read_records(batch)) in (0, 3)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(list(storage.scan())) == 8 * 20 * 3
