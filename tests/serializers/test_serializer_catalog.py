"""Serializers by the names that settings and records hold."""

from __future__ import annotations

import sys

import pytest

from pytest_taskcache.errors import ConfigurationError
from pytest_taskcache.ports import Serializer
from pytest_taskcache.serializers.catalog import for_reading, serializer_for
from pytest_taskcache.serializers.compressed import CompressedPickleSerializer, CompressedSerializer
from pytest_taskcache.serializers.json import JSONSerializer
from pytest_taskcache.serializers.pickle import NAME, PickleSerializer
from pytest_taskcache.serializers.trees import TreeSerializer, tree


@pytest.mark.parametrize(
    ("spec", "meant"),
    [
        ("pickle", PickleSerializer()),
        (" json ", JSONSerializer()),
        ("tree", tree()),
        ("compressed", CompressedPickleSerializer()),
        ("compressed(lzma)", CompressedPickleSerializer("lzma")),
        ("compressed+json", CompressedSerializer(JSONSerializer())),
        ("compressed(lzma)+tree", CompressedSerializer(TreeSerializer(), "lzma")),
    ],
)
def test_a_name_means_one_serializer(spec: str, meant: Serializer) -> None:
    """Each documented spelling works."""
    assert serializer_for(spec) == meant


def test_an_object_with_the_protocol_is_used_as_it_is() -> None:
    """A user's own serializer needs no registration."""
    own = tree(readonly=True)
    assert serializer_for(own) is own


@pytest.mark.parametrize(
    "spec",
    ["", "pickel", "gzip", "compressed(", "compressed()", "compressedzlib", "compressed+", "+json"],
)
def test_an_unknown_name_is_answered_by_the_known_ones(spec: str) -> None:
    """The message shows what could have been meant."""
    with pytest.raises(ConfigurationError, match=r"write one of .*(pickle|zlib)"):
        serializer_for(spec)


def test_a_class_is_not_its_object() -> None:
    """The parentheses that are easily forgotten are asked for."""
    with pytest.raises(ConfigurationError, match=r"write JSONSerializer\(\)"):
        serializer_for(JSONSerializer)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="int is no serializer"):
        serializer_for(1)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "serializer",
    [
        PickleSerializer(),
        JSONSerializer(),
        TreeSerializer(),
        CompressedPickleSerializer("lzma"),
        CompressedSerializer(CompressedSerializer(JSONSerializer()), "lzma"),
    ],
    ids=lambda serializer: serializer.name,
)
def test_every_recorded_name_finds_its_reader(serializer: Serializer) -> None:
    """What was recorded by name is read by the same serializer."""
    assert for_reading(serializer.name) == serializer


@pytest.mark.parametrize(
    "recorded",
    [
        "pickle/cpython-2.7",
        "pickle/pypy-3.11",
        "compressed(zlib)+pickle/cpython-2.7",
        "compressed(brotli)+json",
        "csv",
        "pickle",
        "compressed",
        "",
        f"{NAME}/more",
    ],
)
def test_what_cannot_be_read_here_has_no_reader(recorded: str) -> None:
    """Another Python's pickles, and formats of others, are told from damage: they are no error."""
    assert for_reading(recorded) is None


def test_a_method_whose_package_is_missing_has_no_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    """A colleague with more packages does not break anyone's run."""
    monkeypatch.setitem(sys.modules, "lz4", None)
    monkeypatch.setitem(sys.modules, "lz4.frame", None)
    assert for_reading("compressed(lz4)+json") is None


def test_the_computations_own_serializer_comes_first() -> None:
    """So that its settings hold, such as read-only trees, and its own name is known."""
    own = tree(readonly=True)
    assert for_reading("tree", own) is own
    assert for_reading("json", own) == JSONSerializer()
