"""Objects in a shared directory (``file://``)."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from objects_behind import ObjectConformance

from pytest_taskcache.errors import ConfigurationError, StorageError
from pytest_taskcache.ports import Storage
from pytest_taskcache.storage.by_url import storage_by_url
from pytest_taskcache.storage.location import parse_location
from pytest_taskcache.storage.object_layout import result_path
from pytest_taskcache.storage.object_storage import ObjectStorage
from pytest_taskcache.storage.object_store import Download, Listed, ObjectStore
from pytest_taskcache.storage.objects import ObstoreStore
from pytest_taskcache.testing.storages import MakeStorage, a_variant, digest_of, fresh_key


class TestSharedDirectory(ObjectConformance):
    @pytest.fixture
    def make_storage(self, tmp_path_factory: pytest.TempPathFactory) -> MakeStorage:
        directory = tmp_path_factory.mktemp("shared") / "not yet there"
        return lambda: storage_by_url(f"file://{directory}")

    def behind(self, storage: Storage) -> ObjectStore:
        return ObstoreStore(parse_location(storage.describe()), 30.0)


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
    """Readers never see the part of a result that has been written so far."""
    storage = storage_by_url(f"file://{tmp_path}")
    digest, size = fresh_key(), 20 * 1024 * 1024
    seen = []

    class Watched(bytes):
        pass

    def pieces():  # type: ignore[no-untyped-def]
        for _ in range(20):
            seen.append(storage.has_results([digest]))
            yield Watched(1024 * 1024)

    ObstoreStore(parse_location(storage.describe()), 30.0).put_pieces(
        result_path(digest), pieces(), size
    )
    assert set(seen) == {frozenset()}
    assert storage.has_results([digest]) == {digest}


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

    class Counting(ObstoreStore):
        def list(self, prefix: str) -> list[Listed]:
            listed.append(prefix)
            return super().list(prefix)

        def open(self, path: str) -> Download | None:
            opened.append(path)
            return super().open(path)

    location = parse_location(f"file://{tmp_path}")
    storage = ObjectStorage(Counting(location, 30.0), location.shown)
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


def test_removal_takes_the_litter_of_the_same_keys_along(tmp_path: Path) -> None:
    """What nobody is offered any more goes when something else of the key is removed: variants
    that newer ones pushed out, and what a writer that died left behind a day ago."""
    url = f"file://{tmp_path}"
    storage, key = storage_by_url(url), fresh_key()
    variants = [a_variant(key) for _ in range(20)]
    for variant in variants:
        storage.write_records([variant])
    suite = TestSharedDirectory()
    fresh, stale = [a_variant(key), a_variant()], [a_variant(key), a_variant()]
    suite.abandon(storage, fresh)
    suite.abandon(storage, stale)
    directory = tmp_path / "records" / key[:2] / key
    (left,) = directory.glob(f"{stale[0].id}.*")
    os.utime(left, (1_000_000_000, 1_000_000_000))
    storage.remove_records([variants[-1].id])
    names = {path.name.partition(".")[0] for path in directory.iterdir()}
    assert names == {fresh[0].id, *(variant.id for variant in variants[3:-1])}


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
