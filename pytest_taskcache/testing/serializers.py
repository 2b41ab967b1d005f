"""What every Serializer must do, as a test class to inherit.

A serializer of your own is checked in a few lines::

    from pytest_taskcache.testing.serializers import SerializerConformance

    class TestYamlSerializer(SerializerConformance):
        @pytest.fixture
        def serializer(self):
            return YamlSerializer()

        @pytest.fixture
        def values(self):
            return [None, 1, [1, 2], {"a": "b"}]
"""

from __future__ import annotations

import gc
import mmap
import pickle
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from tempfile import mkdtemp
from typing import TypeAlias

import pytest
from xxhash import xxh3_128

from pytest_taskcache.errors import SerializationError, StorageError
from pytest_taskcache.ports import Payload, Restore, Serializer


class Shelved:
    """A payload as a storage keeps it: its bytes, ``data``, in the file ``path``, and beside it by
    digest the files that it refers to."""

    def __init__(self, folder: Path, payload: Payload) -> None:
        folder.mkdir(parents=True)
        self._folder = folder
        self.path = folder / "payload"
        self.path.write_bytes(b"".join(payload.chunks))
        for blob in payload.blobs:
            shutil.copyfile(blob.path, folder / blob.digest)
        self.data = self.path.read_bytes()
        self.restore = Restore(lambda: Path(mkdtemp(dir=folder)), self._copy)

    def mapped(self) -> memoryview:
        """The bytes as a private mapping, which may be written to and leaves the file alone."""
        if not self.data:
            return memoryview(bytearray())
        with self.path.open("rb") as file:
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))

    def _copy(self, digest: str, destination: Path, readonly: bool) -> None:
        source = self._folder / digest
        if not source.is_file():
            raise StorageError("the shelf", "copy a file", f"{digest} is lost")
        shutil.copyfile(source, destination)


Stored: TypeAlias = list[tuple[object, Shelved]]
"""Values, and what a storage keeps of each."""


class SerializerConformance:
    """Inherit, and override the fixtures `serializer` and `values` at least.

    A serializer may load damaged bytes as a different value, since storages verify digests
    before it sees them; it may not raise anything but SerializationError.
    """

    @pytest.fixture
    def serializer(self) -> Serializer:
        """The serializer under test."""
        raise NotImplementedError("override the fixture `serializer`")

    @pytest.fixture
    def values(self) -> Sequence[object]:
        """Values that it can store; several kinds, small and large."""
        raise NotImplementedError("override the fixture `values`")

    @pytest.fixture
    def refused(self) -> Sequence[object]:
        """Values that it must refuse."""
        return ()

    def same(self, left: object, right: object) -> bool:
        """Whether a loaded value is the stored one; override for values without a plain ``==``."""
        return type(left) is type(right) and left == right

    def mutate(self, value: object) -> None:
        """Changes a value in place where it can be; override for values of other types."""
        if isinstance(value, dict | set):
            value.clear()
        elif isinstance(value, list):
            value.append("changed")
        elif isinstance(value, bytearray):
            value[:] = bytes(len(value))

    @pytest.fixture
    def stored(self, serializer: Serializer, values: Sequence[object], tmp_path: Path) -> Stored:
        """Each value, and what a storage keeps of it."""
        return [
            (value, Shelved(tmp_path / f"shelf{number}", serializer.dump(value)))
            for number, value in enumerate(values)
        ]

    def test_has_the_protocol(self, serializer: Serializer, values: Sequence[object]) -> None:
        """The name can stand in a key and on one line, and is the same after something was
        stored; `executes` is a plain bool."""
        before = serializer.name
        assert isinstance(serializer, Serializer)
        assert before
        assert before.isprintable()
        assert before == before.strip()
        assert type(serializer.executes) is bool
        serializer.dump(values[0])
        assert serializer.name == before

    def test_values_come_back(self, serializer: Serializer, stored: Stored, tmp_path: Path) -> None:
        """From what was stored first, and again: storing a value leaves it alone."""
        for number, (value, shelved) in enumerate(stored):
            from_memory = serializer.load(memoryview(shelved.data), shelved.restore)
            assert self.same(from_memory, value), (from_memory, value)
            from_file = serializer.load(shelved.mapped(), shelved.restore)
            assert self.same(from_file, value), (from_file, value)
            again = Shelved(tmp_path / f"again{number}", serializer.dump(value))
            back = serializer.load(memoryview(again.data), again.restore)
            assert self.same(back, value), (back, value)

    def test_payload_is_bytes_of_known_size(
        self, serializer: Serializer, values: Sequence[object]
    ) -> None:
        """`Payload.size` is the number of bytes written, and blobs are what they are said to be."""
        for value in values:
            payload = serializer.dump(value)
            assert payload.size == len(b"".join(payload.chunks))
            assert len({blob.digest for blob in payload.blobs}) == len(payload.blobs)
            for blob in payload.blobs:
                content = blob.path.read_bytes()
                assert len(content) == blob.size
                assert xxh3_128(content).hexdigest() == blob.digest

    def test_what_a_payload_rests_on_is_named_absolutely(
        self, serializer: Serializer, values: Sequence[object]
    ) -> None:
        """Files of code that the bytes need, and paths that the value names: each by its place,
        wherever the run's working directory is by then."""
        for value in values:
            payload = serializer.dump(value)
            files = [file for file, _ in payload.holds]
            assert all(Path(path).is_absolute() for path in (*files, *payload.paths))

    def test_changing_a_loaded_value_spoils_nothing(
        self, serializer: Serializer, stored: Stored
    ) -> None:
        for value, shelved in stored:
            self.mutate(serializer.load(memoryview(shelved.data), shelved.restore))
            self.mutate(serializer.load(shelved.mapped(), shelved.restore))
            assert shelved.path.read_bytes() == shelved.data
            again = serializer.load(shelved.mapped(), shelved.restore)
            assert self.same(again, value), (again, value)

    def test_refuses_by_serialization_error(
        self, serializer: Serializer, refused: Sequence[object]
    ) -> None:
        """What cannot be stored is refused by the one error that the engine expects, which
        names the serializer, or the inner one that refused, and the type, and can be pickled."""
        for value in refused:
            with pytest.raises(SerializationError) as caught:
                serializer.dump(value)
            assert caught.value.serializer
            assert serializer.name.endswith(caught.value.serializer)  # itself or an inner one
            assert caught.value.type_name
            assert caught.value.reason
            assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)

    def test_cut_off_bytes_do_no_harm(self, serializer: Serializer, stored: Stored) -> None:
        for _, shelved in stored:
            size = len(shelved.data)
            for end in sorted({*range(min(size, 64)), *range(0, size, size // 64 + 1), size - 1}):
                self._read(serializer, shelved.data[: max(end, 0)], shelved.restore)

    def test_foreign_bytes_do_no_harm(self, serializer: Serializer, stored: Stored) -> None:
        _, shelved = stored[0]
        for data in (b"", b"\0", b"\xff" * 100, bytes(4096), b"not what it should be\n" * 20):
            self._read(serializer, data, shelved.restore)

    def test_loading_leaves_the_garbage_collector_as_it_was(
        self, serializer: Serializer, stored: Stored
    ) -> None:
        """A serializer that pauses the collector starts it again, also when it fails."""
        _, shelved = stored[0]
        assert gc.isenabled()
        serializer.load(memoryview(shelved.data), shelved.restore)
        self._read(serializer, shelved.data[:-1], shelved.restore)
        assert gc.isenabled()

    def test_threads_do_not_disturb_each_other(
        self, serializer: Serializer, stored: Stored
    ) -> None:

        def comes_back(pair: tuple[object, Shelved]) -> bool:
            value, shelved = pair
            serializer.dump(value)
            return self.same(serializer.load(shelved.mapped(), shelved.restore), value)

        with ThreadPoolExecutor(4) as pool:
            assert all(pool.map(comes_back, stored * 4))

    @staticmethod
    def _read(serializer: Serializer, data: bytes, restore: Restore) -> None:
        with suppress(SerializationError):
            serializer.load(memoryview(data), restore)
