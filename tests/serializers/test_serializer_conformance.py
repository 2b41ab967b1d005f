"""The shipped conformance suite, run against every serializer here and one a user might write."""

from __future__ import annotations

import csv
import io
import os
import socket
import stat
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from importable_values import Colour, Row, Unwilling

from pytest_taskcache.errors import SerializationError
from pytest_taskcache.ports import Payload, Restore, Serializer
from pytest_taskcache.serializers.compressed import CompressedPickleSerializer, CompressedSerializer
from pytest_taskcache.serializers.json import JSONSerializer
from pytest_taskcache.serializers.pickle import PickleSerializer
from pytest_taskcache.serializers.trees import TreeSerializer
from pytest_taskcache.testing.serializers import SerializerConformance

PLAIN: list[object] = [
    None,
    True,
    0,
    -(10**40),
    1.5,
    -0.0,
    "",
    "text, \N{SNOWMAN}, \ud800",
    [],
    [1, [2, [3]]],
    {},
    {"a": {"b": [None, 1.25]}, "": ""},
    ["x" * 1000] * 300,
]


class TestPickleConforms(SerializerConformance):
    @pytest.fixture
    def serializer(self) -> Serializer:
        return PickleSerializer()

    @pytest.fixture
    def values(self) -> Sequence[object]:
        return [
            *PLAIN,
            (1, (2, 3)),
            {1, 2},
            b"bytes" * 5000,
            bytearray(b"array" * 5000),
            Row("a", ["b"]),
            Colour.RED,
            np.arange(3000.0).reshape(3, 1000),
            [np.arange(5), np.zeros(10_000, "u1"), np.asfortranarray(np.ones((100, 100)))],
        ]

    @pytest.fixture
    def refused(self) -> Sequence[object]:
        class Local: ...

        return [
            (x for x in "abc"),
            Unwilling(),
            Local(),
            memoryview(b"view"),
            io.FileIO(0, "r", False),
        ]

    def same(self, left: object, right: object) -> bool:
        if isinstance(right, np.ndarray):
            return (
                isinstance(left, np.ndarray)
                and left.dtype == right.dtype
                and left.flags.writeable == right.flags.writeable
                and np.array_equal(left, right)
            )
        if isinstance(right, list) and isinstance(left, list):
            return len(left) == len(right) and all(map(self.same, left, right))
        return super().same(left, right)

    def mutate(self, value: object) -> None:
        if isinstance(value, np.ndarray):
            value.fill(7)
        elif isinstance(value, list) and any(isinstance(item, np.ndarray) for item in value):
            for item in value:
                item.fill(7)
        else:
            super().mutate(value)


class TestJSONConforms(SerializerConformance):
    @pytest.fixture
    def serializer(self) -> Serializer:
        return JSONSerializer()

    @pytest.fixture
    def values(self) -> Sequence[object]:
        return PLAIN

    @pytest.fixture
    def refused(self) -> Sequence[object]:
        endless: list[object] = []
        endless.append(endless)
        return [(1,), {1: 2}, {1}, b"", float("nan"), [float("inf")], Colour.RED, endless]


@pytest.mark.parametrize("method", ["zlib", "lzma"])
class TestCompressedPickleConforms(TestPickleConforms):
    @pytest.fixture
    def serializer(self, method: str) -> Serializer:
        return CompressedPickleSerializer(method)


class TestCompressedJSONConforms(TestJSONConforms):
    @pytest.fixture
    def serializer(self) -> Serializer:
        return CompressedSerializer(JSONSerializer())


class TestLz4Conforms(TestCompressedJSONConforms):
    @pytest.fixture
    def serializer(self) -> Serializer:
        pytest.importorskip("lz4")
        return CompressedSerializer(JSONSerializer(), "lz4")


class TestZstdConforms(TestCompressedJSONConforms):
    @pytest.fixture
    def serializer(self) -> Serializer:
        pytest.importorskip("zstandard")
        return CompressedSerializer(JSONSerializer(), "zstd")


def contents(path: Path) -> dict[str, object]:
    """All that a tree promises to keep, by relative path."""
    found: dict[str, object] = {}
    for place in [path, *path.rglob("*")]:
        status = place.lstat()
        mode = None if place.is_symlink() else stat.S_IMODE(status.st_mode)
        what: object = None
        if place.is_symlink():
            what = os.readlink(place)
        elif place.is_file():
            what = place.read_bytes()
        found[str(place.relative_to(path.parent))] = (mode, status.st_mtime_ns, what)
    return found


class TestTreeConforms(SerializerConformance):
    @pytest.fixture
    def serializer(self) -> Serializer:
        return TreeSerializer()

    @pytest.fixture
    def values(self, tmp_path: Path) -> Sequence[object]:
        root = tmp_path / "made"
        (root / "a" / "empty").mkdir(parents=True)
        (root / "a" / "b.txt").write_text("content")
        (root / "a" / "same.txt").write_text("content")
        (root / "link").symlink_to("a/b.txt")
        single = tmp_path / "single.bin"
        single.write_bytes(bytes(range(256)) * 100)
        return [root, single]

    @pytest.fixture
    def refused(self, tmp_path: Path) -> Sequence[object]:
        os.mkfifo(tmp_path / "pipe")
        listener = socket.socket(socket.AF_UNIX)
        os.chdir(tmp_path)  # the name of a socket may have about 100 characters
        listener.bind("socket")
        listener.close()
        return ["text", 1, tmp_path / "missing", tmp_path / "pipe", tmp_path / "socket"]

    @pytest.fixture(autouse=True)
    def _stay(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(".")  # goes back at the end

    def same(self, left: object, right: object) -> bool:
        assert isinstance(left, Path)
        assert isinstance(right, Path)
        return contents(left) == contents(right)

    def mutate(self, value: object) -> None:
        assert isinstance(value, Path)
        for place in [value, *value.rglob("*")]:
            if place.is_file():
                place.write_text("spoiled")


class CsvSerializer:
    """What a user might write: rows of text, as CSV."""

    name = "csv"
    executes = False

    def dump(self, value: object) -> Payload:
        try:
            text = io.StringIO()
            csv.writer(text).writerows(value)  # type: ignore[arg-type]
            return Payload((text.getvalue().encode(),))
        except (TypeError, csv.Error) as error:
            raise SerializationError(self.name, type(value).__name__, str(error)) from error

    def load(self, data: memoryview, restore: Restore) -> object:
        try:
            return list(csv.reader(io.StringIO(str(data, "utf-8"), newline="")))
        except (ValueError, csv.Error) as error:
            raise SerializationError(self.name, "", str(error)) from error


class TestUsersOwnConforms(SerializerConformance):
    """A user's own serializer needs two fixtures."""

    @pytest.fixture
    def serializer(self) -> Serializer:
        return CsvSerializer()

    @pytest.fixture
    def values(self) -> Sequence[object]:
        return [[], [["a", "b"], ["1", "2, 3"]]]


def test_the_suite_finds_a_serializer_that_breaks_the_contract(pytester: pytest.Pytester) -> None:
    """A user can rely on the suite to fail: here for shared values and for a foreign error."""
    pytester.makepyfile(
        """
        import json, pytest
        from pytest_taskcache.ports import Payload
        from pytest_taskcache.testing.serializers import SerializerConformance

        class Broken:
            name = "broken"
            executes = False
            kept = {}
            def dump(self, value):
                return Payload((json.dumps(value).encode(),))
            def load(self, data, restore):
                return self.kept.setdefault(bytes(data), json.loads(bytes(data)))

        class TestBroken(SerializerConformance):
            @pytest.fixture
            def serializer(self):
                return Broken()
            @pytest.fixture
            def values(self):
                return [[1, 2], "text"]
            @pytest.fixture
            def refused(self):
                return [{1}]
        """
    )
    result = pytester.runpytest_inprocess(
        "-p", "no:cacheprovider", "-p", "no:randomly", "-p", "no:asyncio", "-p", "no:pytest-retry"
    )
    result.stdout.fnmatch_lines(
        [
            "FAILED *test_changing_a_loaded_value_spoils_nothing*",
            "FAILED *test_refuses_by_serialization_error*",
            "FAILED *test_cut_off_bytes_do_no_harm*",
            "FAILED *test_foreign_bytes_do_no_harm*",
        ]
    )
