"""What every storage must do, as tests to inherit from."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeAlias, cast

import pytest

from pytest_taskcache.checksum import checksum_bytes
from pytest_taskcache.dataclass import replace
from pytest_taskcache.errors import StorageError
from pytest_taskcache.model.dependency import Dependency, Kind, Trace
from pytest_taskcache.model.key import Identity, Part
from pytest_taskcache.model.record import VARIANTS, Blob, Result, Variant
from pytest_taskcache.ports import Storage
from pytest_taskcache.testing.locks import ODD_TEXTS, in_threads

MakeStorage: TypeAlias = Callable[[], Storage]

KEYS_AT_ONCE = 1000
LARGE = 17 * 1024 * 1024 + 7
"""Bytes: more than any adapter sends in one piece."""

ODD_KEYS = (*ODD_TEXTS, "A", "a")
"""Keys are any text: names given outright reach the storage too."""


digest_of = checksum_bytes
"""The digest that names bytes in result storage."""


def bytes_in(storage: Storage, digest: str, size: int) -> bytes | None:
    """A copy of a stored result, or None."""
    found = storage.read_result(digest, size)
    return None if found is None else bytes(found)


def fresh_key() -> str:
    """A key nobody else uses, also where the tests share a server."""
    return os.urandom(16).hex()


_COUNTER = iter(range(10**9))
_START = os.urandom(4).hex()


def a_variant(key: str | None = None, **changes: object) -> Variant:
    """A variant with every field filled; each later one has a greater id."""
    number = next(_COUNTER)
    payload = f"payload {number}".encode()
    variant = Variant(
        id=f"{1_700_000_000_000 + number:016x}-{_START}",
        key=fresh_key() if key is None else key,
        identity=Identity("tests/test_é.py", f"Test.test_{number}"),
        parts=(Part("inputs.x", "d1"), Part("file data/ü.csv", "d2")),
        trace=Trace((Dependency(Kind.FILE, "data/ü.csv", "d3"),), digest=f"trace-{number}"),
        result=Result(
            digest=digest_of(payload),
            size=len(payload),
            serializer="pickle/cpython-3.12",
            inline=payload,
            sha256="ab" * 32,
            blobs=(Blob("0" * 32, 5, "cd" * 32),),
        ),
        created=1_700_000_000.25 + number,
        expires=None if number % 2 else 1_800_000_000.5,
        duration=0.125,
        producer="pid@host",
        versions=(("python", "3.12.1"), ("taskcache", "1")),
        inputs=(Part("x", "d4"),),
        parameters=(Part("n", "d5"),),
        vouched=bool(number % 3),
        signature="signed",
    )
    return replace(variant, **changes)  # type: ignore[arg-type]


class StorageConformance:
    """Subclass it and define the fixture ``make_storage``::

        class TestMyStorage(StorageConformance):
            @pytest.fixture
            def make_storage(self, my_server):
                return lambda: MyStorage(my_server.url)

    ``make_storage`` returns a function that makes storages of one place, as those of two
    processes are (where that cannot be, it returns the same object each time). The place may be
    ``tmp_path``. The suite closes them. Define ``damage`` too, if you can, and ``abandon`` if the
    storage has transactions: what they do differs from storage to storage, and the tests that
    need them are skipped without.
    """

    @pytest.fixture
    def make_storage(self) -> MakeStorage:
        """To be overridden."""
        raise NotImplementedError("define the fixture make_storage in your subclass")

    def damage(self, storage: Storage, digest: str, data: bytes) -> None:
        """To be overridden: replaces the stored bytes of a result by others, behind the
        storage's back."""
        pytest.skip("this suite does not say how a stored result is damaged")

    def abandon(self, storage: Storage, variants: Sequence[Variant]) -> None:
        """To be overridden: writes as a writer that dies just before its commit is complete."""
        pytest.skip("this suite does not say how a commit is abandoned")

    @pytest.fixture
    def scratch(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """An empty directory of the tests' own, wherever the storage lies."""
        return tmp_path_factory.mktemp("scratch")

    @pytest.fixture
    def pair(self, make_storage: MakeStorage) -> Iterator[tuple[Storage, Storage]]:
        """Two storages of one place: a writer and a reader."""
        writer, reader = make_storage(), make_storage()
        yield writer, reader
        writer.close()
        reader.close()

    @pytest.fixture
    def writer(self, pair: tuple[Storage, Storage]) -> Storage:
        return pair[0]

    @pytest.fixture
    def reader(self, pair: tuple[Storage, Storage]) -> Storage:
        return pair[1]

    def test_it_is_a_storage(self, writer: Storage) -> None:
        """It has the methods of the port, and says what it is."""
        assert isinstance(writer, Storage)
        assert writer.describe()
        assert isinstance(writer.trusted, bool)

    def test_record_comes_back_equal(self, writer: Storage, reader: Storage) -> None:
        """Every field of a variant survives, floats and inline payload included."""
        variant = a_variant()
        writer.write_records([variant])
        assert reader.read_records([variant.key]) == {variant.key: (variant,)}

    def test_unknown_key_is_not_in_the_answer(self, writer: Storage, reader: Storage) -> None:
        variant = a_variant()
        writer.write_records([variant])
        assert set(reader.read_records([fresh_key(), variant.key])) == {variant.key}
        assert reader.read_records([]) == {}

    @pytest.mark.parametrize("key", ODD_KEYS, ids=range(len(ODD_KEYS)))
    def test_any_text_is_a_key(self, writer: Storage, reader: Storage, key: str) -> None:
        """Keys with separators, dots, NULs, surrogates or of great length keep apart."""
        variant = a_variant(key)
        writer.write_records([variant])
        found = reader.read_records(ODD_KEYS)
        assert found[key][0] == variant
        assert all(one.key == name for name, variants in found.items() for one in variants)

    def test_newest_comes_first(self, writer: Storage, reader: Storage) -> None:
        key = fresh_key()
        variants = [a_variant(key) for _ in range(4)]
        writer.write_records(variants[2:])
        writer.write_records([variants[0]])
        writer.write_records([variants[1]])
        assert reader.read_records([key])[key] == tuple(reversed(variants))

    def test_no_more_than_the_newest_variants(self, writer: Storage, reader: Storage) -> None:
        key = fresh_key()
        variants = [a_variant(key) for _ in range(VARIANTS + 3)]
        writer.write_records(variants[:5])
        for variant in variants[5:]:
            writer.write_records([variant])
        assert reader.read_records([key])[key] == tuple(reversed(variants))[:VARIANTS]

    def test_writer_that_dies_in_a_commit_leaves_nothing(
        self, writer: Storage, reader: Storage
    ) -> None:
        """Records whose commit was never completed are invisible and hide no older one, and the
        next attempt to commit them succeeds."""
        variants = [a_variant() for _ in range(3)]
        keys = [variant.key for variant in variants]
        self.abandon(writer, variants)
        assert reader.read_records(keys) == {}
        writer.write_records(variants)
        assert len(reader.read_records(keys)) == 3
        self.abandon(writer, [a_variant(keys[0]), a_variant()])
        assert reader.read_records(keys[:1]) == {keys[0]: (variants[0],)}

    def test_writing_twice_changes_nothing(self, writer: Storage, reader: Storage) -> None:
        """A variant is known by its id: written alone, again, and together with others, it is
        there once, and as it was first."""
        first, second = a_variant(), a_variant()
        writer.write_records([first])
        writer.write_records([first])
        writer.write_records([first, second, second])
        found = reader.read_records([first.key, second.key])
        assert found == {first.key: (first,), second.key: (second,)}

    def test_a_thousand_keys_at_once(self, writer: Storage, reader: Storage) -> None:
        variants = [a_variant() for _ in range(KEYS_AT_ONCE // 5)]
        unknown = [fresh_key() for _ in range(KEYS_AT_ONCE - len(variants))]
        writer.write_records(variants)
        found = reader.read_records([*(variant.key for variant in variants), *unknown])
        assert found == {variant.key: (variant,) for variant in variants}

    def test_equal_traces_of_one_digest_are_not_confused(
        self, writer: Storage, reader: Storage
    ) -> None:
        """A trace that claims another's digest does not replace it, where strangers may write."""
        if writer.trusted:
            pytest.skip("nobody else writes to a trusted storage")
        honest, liar = a_variant(), a_variant()
        liar = replace(liar, trace=Trace((), digest=honest.trace.digest))
        writer.write_records([honest, liar])
        found = reader.read_records([honest.key, liar.key])
        assert found == {honest.key: (honest,), liar.key: (liar,)}

    def test_removed_records_are_gone(self, writer: Storage, reader: Storage) -> None:
        """Removal is by id; unknown ids, and the key's other variants, are left in peace."""
        key = fresh_key()
        old, new = a_variant(key), a_variant(key)
        together = [a_variant(), a_variant()]
        writer.write_records([old])
        writer.write_records([new])
        writer.write_records(together)
        reader.remove_records([new.id, together[0].id, a_variant().id])
        found = writer.read_records([key, *(variant.key for variant in together)])
        assert found == {key: (old,), together[1].key: (together[1],)}
        writer.remove_records([])
        writer.remove_records([old.id])
        assert reader.read_records([key]) == {}

    def test_scan_finds_every_record(self, writer: Storage, reader: Storage) -> None:
        key = fresh_key()
        variants = [a_variant(key), a_variant(key), a_variant(), a_variant("odd/../key")]
        writer.write_records(variants)
        found = [variant for variant in reader.scan() if variant in variants]
        assert sorted(found, key=lambda variant: variant.id) == variants
        writer.remove_records([variants[0].id])
        assert variants[0] not in list(reader.scan())

    def test_scan_can_be_left_half_way(self, writer: Storage, reader: Storage) -> None:
        """Who has seen enough stops asking, and what is written meanwhile disturbs nothing."""
        writer.write_records([a_variant() for _ in range(3)])
        scanned = iter(reader.scan())
        next(scanned)
        writer.write_records([a_variant()])
        assert next(scanned)
        del scanned
        assert len(list(writer.scan())) >= 4

    def test_recent_knows_the_newest_or_nothing(self, writer: Storage, reader: Storage) -> None:
        """Where there is an index of identities, it leads to the newest variant."""
        old = a_variant()
        new = a_variant(identity=old.identity)
        other = a_variant()
        for variant in (old, other, new):
            writer.write_records([variant])
        found = reader.recent([str(old.identity), str(other.identity), "no/such.py::identity"])
        assert found in ({}, {str(old.identity): new, str(other.identity): other})

    @pytest.mark.parametrize("size", [0, 1, 4096, 1024 * 1024, LARGE])
    def test_result_comes_back(self, writer: Storage, reader: Storage, size: int) -> None:
        data = random.Random(size).randbytes(size)
        view = memoryview(data)
        third = size // 3
        writer.write_result(digest_of(data), [view[:third], bytearray(view[third:]), b""])
        assert bytes_in(reader, digest_of(data), size) == data

    def test_chunks_need_not_be_bytes(self, writer: Storage, reader: Storage) -> None:
        """A chunk is any contiguous view: its items may be wider than a byte."""
        data = bytes(range(64))
        writer.write_result(digest_of(data), [cast("memoryview[int]", memoryview(data).cast("d"))])
        assert bytes_in(reader, digest_of(data), 64) == data

    def test_unknown_result_is_none(self, reader: Storage, scratch: Path) -> None:
        """A digest that nobody wrote is no error, also before anybody wrote anything."""
        assert reader.copy_file(fresh_key(), scratch / "copy") is False
        assert list(scratch.iterdir()) == []
        assert reader.read_result(fresh_key(), 10) is None
        assert reader.has_results([fresh_key()]) == frozenset()
        assert reader.has_results([]) == frozenset()

    def test_result_of_another_size_is_none(self, writer: Storage, reader: Storage) -> None:
        data = os.urandom(100)
        writer.write_result(digest_of(data), [data])
        assert reader.read_result(digest_of(data), 99) is None
        assert reader.read_result(digest_of(data), 10**15) is None
        assert bytes_in(reader, digest_of(data), 100) == data

    def test_every_reader_owns_its_bytes(self, writer: Storage, reader: Storage) -> None:
        """Also those of a result that several wrote, and one of them twice."""
        data = os.urandom(5000)
        for storage in (writer, reader, writer):
            storage.write_result(digest_of(data), [data])
        for _ in range(2):
            found = reader.read_result(digest_of(data), 5000)
            assert found is not None
            assert found.tobytes() == data
            if not found.readonly:
                found[:3] = b"XXX"

    @pytest.mark.parametrize("size", [3, 3_000_000])
    def test_damaged_result_is_none_and_can_be_written_anew(
        self, writer: Storage, reader: Storage, scratch: Path, size: int
    ) -> None:
        """A bit flip, a torn end and foreign bytes read as absent; who computed the value anew
        can store it again."""
        data = random.Random(size).randbytes(size)
        digest = digest_of(data)
        for bad in (data[:-1], data[:-1] + bytes([data[-1] ^ 1]), b"foreign", data + b"more"):
            writer.write_result(digest, [data])
            self.damage(writer, digest, bad)
            assert reader.read_result(digest, size) is None
            assert reader.copy_file(digest, scratch / "copy") is False
            assert list(scratch.iterdir()) == []
            reader.write_result(digest, [data])
            assert bytes_in(reader, digest, size) == data

    @pytest.mark.parametrize(
        ("size", "readonly"), [(0, False), (6, False), (10, True), (LARGE, False)]
    )
    def test_file_goes_in_and_comes_out(
        self, writer: Storage, reader: Storage, scratch: Path, size: int, readonly: bool
    ) -> None:
        """A file's bytes are stored and put at a new path; the source keeps its own inode. To
        append to it, or to a copy that may be written, leaves the stored bytes."""
        data = random.Random(size + 1).randbytes(size)
        source, copy = scratch / "source", scratch / "copy"
        source.write_bytes(data)
        writer.add_file(digest_of(data), source)
        assert reader.copy_file(digest_of(data), copy, readonly) is True
        assert copy.read_bytes() == data
        assert source.read_bytes() == data
        assert copy.stat().st_ino != source.stat().st_ino
        assert {path.name for path in scratch.iterdir()} == {"source", "copy"}
        for changed in (source,) if readonly else (copy, source):
            with changed.open("ab") as stream:
                stream.write(b" more")
            assert bytes_in(reader, digest_of(data), size) == data

    def test_vanished_file_is_a_storage_error(self, writer: Storage, scratch: Path) -> None:
        """A source that is gone raises what the engine counts as a fault, and stores nothing."""
        digest = fresh_key()
        with pytest.raises(StorageError):
            writer.add_file(digest, scratch / "gone")
        assert writer.has_results([digest]) == frozenset()

    def test_has_results_tells_which(self, writer: Storage, reader: Storage) -> None:
        payloads = [os.urandom(8) for _ in range(20)]
        known = {digest_of(payload) for payload in payloads}
        for payload in payloads:
            writer.write_result(digest_of(payload), [payload])
        unknown = {fresh_key() for _ in range(KEYS_AT_ONCE)}
        assert reader.has_results(known | unknown) == known
        few = sorted(known)[:2]
        assert reader.has_results([*few, fresh_key()]) == set(few)

    def test_threads_share_a_storage(self, pair: tuple[Storage, Storage]) -> None:
        shared, key = b"the same for all", fresh_key()
        written: list[Variant] = []

        def work(number: int) -> None:
            storage, data = pair[number % 2], os.urandom(2000)
            for _ in range(3):
                variants = [a_variant(key), a_variant()]
                storage.write_result(digest_of(shared), [shared])
                storage.write_result(digest_of(data), [data])
                storage.write_records(variants)
                written.extend(variants)
                assert bytes_in(storage, digest_of(data), len(data)) == data
                assert bytes_in(storage, digest_of(shared), len(shared)) == shared
                own = variants[1]
                assert storage.read_records([own.key]) == {own.key: (own,)}

        in_threads(work)
        under_key = sorted((one for one in written if one.key == key), key=lambda one: one.id)
        newest = tuple(reversed(under_key))[:VARIANTS]
        assert pair[0].read_records([key])[key] == newest

    def test_closed_storage_reopens(self, writer: Storage) -> None:
        """Closing releases what is held, twice if need be, and loses nothing."""
        variant = a_variant()
        writer.write_records([variant])
        writer.close()
        writer.close()
        assert writer.read_records([variant.key]) == {variant.key: (variant,)}
