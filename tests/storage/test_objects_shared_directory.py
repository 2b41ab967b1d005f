"""Objects in a shared directory (``file://``)."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from remote_conformance import RemoteConformance

from pytest_taskcache.errors import ConfigurationError, StorageError
from pytest_taskcache.ports import Buffer
from pytest_taskcache.storage.remote.blobs import Listed
from pytest_taskcache.storage.remote.location import parse_location, storage_by_url
from pytest_taskcache.storage.remote.obstore_blobs import ObstoreBlobs
from pytest_taskcache.storage.remote.store import PART, RemoteStore
from pytest_taskcache.testing.storages import MakeStorage, a_variant, digest_of, fresh_key


class TestSharedDirectory(RemoteConformance):
    @pytest.fixture
    def make_storage(self, tmp_path_factory: pytest.TempPathFactory) -> MakeStorage:
        directory = tmp_path_factory.mktemp("shared") / "not yet there"
        return lambda: storage_by_url(f"file://{directory}")


def test_reading_leaves_no_trace(tmp_path: Path) -> None:
    """A reader makes no directory, file or lock: read-only is read-only."""
    storage = storage_by_url(f"file://{tmp_path}/cache")
    assert storage.read_records([fresh_key()]) == {}
    assert storage.read_result(fresh_key(), 3) is None
    assert storage.has_results([fresh_key()]) == frozenset()
    assert list(tmp_path.iterdir()) == []


def test_relative_directory_is_refused() -> None:
    """A file URL without a leading slash would depend on the working directory."""
    with pytest.raises(ConfigurationError, match="absolute"):
        storage_by_url("file://relative/x")


def test_directory_that_is_a_file_is_a_storage_error(tmp_path: Path) -> None:
    """What stands in the way is a fault, not a crash."""
    (tmp_path / "cache").write_text("a file")
    storage = storage_by_url(f"file://{tmp_path}/cache")
    with pytest.raises(StorageError):
        storage.write_records([a_variant()])
    with pytest.raises(StorageError):
        storage.write_result(digest_of(b"x"), [b"x"])


def test_foreign_files_are_no_records(tmp_path: Path) -> None:
    """Names and contents that nobody of ours wrote are ignored."""
    storage = storage_by_url(f"file://{tmp_path}")
    variant, other = a_variant(), a_variant()
    storage.write_records([variant])
    place = next(tmp_path.glob("records/*/*"))
    (place / "README").write_text("hello")
    (place / "zzz.json").write_text("{}")
    (place / f"{'f' * 20}.json").write_bytes(b"\xff\xfe")
    storage.write_records([other])
    stolen = next(tmp_path.glob(f"records/*/{other.key}/*"))
    (place / stolen.name).write_bytes(stolen.read_bytes())
    assert storage.read_records([variant.key]) == {variant.key: (variant,)}


def test_digest_cannot_leave_the_directory(tmp_path: Path) -> None:
    """A digest that is a path reads and writes inside the cache all the same."""
    (tmp_path / "secret").write_bytes(b"data")
    storage = storage_by_url(f"file://{tmp_path}/cache")
    assert storage.read_result("../../secret", 4) is None
    storage.write_result("../../planted", [b"data"])
    assert {path.name for path in tmp_path.iterdir()} == {"secret", "cache"}


def test_half_written_result_is_invisible(tmp_path: Path) -> None:
    """Readers never see a large result before its last part is there."""
    writer, reader = (storage_by_url(f"file://{tmp_path}") for _ in range(2))
    assert isinstance(writer, RemoteStore)
    data = os.urandom(2 * PART + 100)
    digest = digest_of(data)
    seen = []

    class Watched(ObstoreBlobs):
        def put(self, name: str, data: Buffer) -> None:
            seen.append((reader.has_results([digest]), reader.read_result(digest, len(data))))
            super().put(name, data)

    watched = RemoteStore(Watched(parse_location(f"file://{tmp_path}")))
    watched.write_result(digest, [data])
    assert seen == [(frozenset(), None)] * 3
    assert reader.has_results([digest]) == {digest}
    assert reader.read_result(digest, len(data)) == data


def test_lost_part_reads_as_absent_and_is_mended(tmp_path: Path) -> None:
    """A large result of which a part is gone is none; who computed it anew stores it again."""
    storage = storage_by_url(f"file://{tmp_path}")
    data = os.urandom(2 * PART + 100)
    digest = digest_of(data)
    storage.write_result(digest, [data])
    (part,) = tmp_path.glob("results/*/*.1")
    part.unlink()
    assert storage.read_result(digest, len(data)) is None
    assert storage.copy_file(digest, tmp_path / "copy") is False
    storage_by_url(f"file://{tmp_path}").write_result(digest, [data])
    assert storage.read_result(digest, len(data)) == data


def test_running_event_loop_is_no_hindrance(tmp_path: Path) -> None:
    """An async test may use the cache from inside its own event loop."""

    async def use() -> bool:
        storage = storage_by_url(f"file://{tmp_path}")
        variant = a_variant()
        storage.write_records([variant])
        return variant.key in storage.read_records([variant.key])

    assert asyncio.run(use())


def test_sweep_of_many_keys_takes_a_bounded_number_of_listings(tmp_path: Path) -> None:
    """Five thousand keys cost 256 listings, not five thousand; three keys cost three; and only
    records that exist are fetched."""
    listed: list[str] = []
    opened: list[str] = []

    class Counting(ObstoreBlobs):
        def list(self, prefix: str) -> Sequence[Listed]:
            listed.append(prefix)
            return super().list(prefix)

        def get(self, name: str) -> Buffer | None:
            opened.append(name)
            return super().get(name)

    storage = RemoteStore(Counting(parse_location(f"file://{tmp_path}")))
    variants = [a_variant() for _ in range(3)]
    for variant in variants:
        storage.write_records([variant])
    unknown = [fresh_key() for _ in range(5000)]
    assert len(storage.read_records([*unknown, variants[0].key])) == 1
    assert len(listed) == 256
    assert len(opened) == 1
    listed.clear()
    storage.read_records(unknown[:3])
    assert len(listed) == 3


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_forked_child_neither_hangs_nor_disturbs_its_parent(tmp_path: Path) -> None:
    """The library's threads do not survive a fork: the child is told so, its parent goes on."""
    storage = storage_by_url(f"file://{tmp_path}")
    variant = a_variant()
    storage.write_records([variant])
    child = os.fork()
    if child == 0:
        code = 1
        try:
            storage.read_records([variant.key])
        except StorageError as error:
            code = 0 if "forked" in error.reason else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert storage.read_records([variant.key]) == {variant.key: (variant,)}
