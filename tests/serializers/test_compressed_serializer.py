"""Compression around another serializer: sizes are bounded, methods are found or asked for."""

from __future__ import annotations

import json
import random
import struct
import sys
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stored_payloads import NO_FILES, stored, there_and_back

from pytest_taskcache.errors import ConfigurationError, SerializationError
from pytest_taskcache.ports import Serializer
from pytest_taskcache.serializers.compressed import (
    CODECS,
    Codec,
    CompressedPickleSerializer,
    CompressedSerializer,
    CompressionError,
    codec_for,
    packaged_zstd,
)
from pytest_taskcache.serializers.json import JSONSerializer
from pytest_taskcache.serializers.pickle import NAME
from pytest_taskcache.serializers.trees import TreeSerializer

HEAD = struct.Struct("<4sB3xQQ")
STEP = 1 << 20


def every_codec() -> list[Codec]:
    """Those of the standard library, and those of the packages that are installed."""
    codecs = []
    for method in CODECS:
        try:
            codecs.append(codec_for(method))
        except ConfigurationError:
            continue
    try:
        import zstandard

    except ModuleNotFoundError:
        return codecs
    return [*codecs, packaged_zstd(zstandard)]


@pytest.mark.parametrize("codec", every_codec(), ids=lambda codec: codec.name)
@given(chunks=st.lists(st.binary(max_size=2000), max_size=5), repeat=st.sampled_from([1, 3000]))
@settings(deadline=None, max_examples=25)
def test_any_bytes_come_back_and_no_more_than_wanted(
    codec: Codec, chunks: list[bytes], repeat: int
) -> None:
    """However well it was compressed, it never unpacks beyond the limit."""
    content = b"".join(chunk * repeat for chunk in chunks)
    stream = b"".join(codec.write([chunk * repeat for chunk in chunks]))
    assert codec.read(memoryview(stream), len(content) + 1) == content
    half = len(content) // 2 or 1
    assert codec.read(memoryview(stream), half) == content[:half]


@pytest.mark.parametrize("codec", every_codec(), ids=lambda codec: codec.name)
def test_a_damaged_stream_is_never_another_content(codec: Codec) -> None:
    """Each method has a checksum of its own, so a flipped bit is noticed unless it carries
    nothing or ends the stream; nothing but the one error is raised."""
    content = json.dumps([random.Random(3).random() for _ in range(500)]).encode()
    stream = b"".join(codec.write([content]))
    picks = random.Random(4)
    for _ in range(300):
        damaged = bytearray(stream)
        damaged[picks.randrange(len(stream))] ^= 1 << picks.randrange(8)
        try:
            back = codec.read(memoryview(damaged), 16 * STEP)
        except CompressionError:
            continue
        assert content.startswith(back), "what is missing shows by the size that is stored beside"


@pytest.mark.parametrize("method", CODECS)
def test_a_payload_cut_off_or_continued_is_refused(method: str) -> None:
    """Whatever the method notices, the payload's own size is checked."""
    if method in ("lz4", "zstd"):
        pytest.importorskip({"lz4": "lz4", "zstd": "zstandard"}[method])
    serializer = CompressedPickleSerializer(method)
    data = stored(serializer.dump([random.Random(3).random() for _ in range(500)]))
    for end in [*range(60), *range(60, len(data), 61), len(data) - 1]:
        with pytest.raises(SerializationError):
            serializer.load(memoryview(data)[:end], NO_FILES)
    with pytest.raises(SerializationError):
        serializer.load(memoryview(data + b"\0"), NO_FILES)


def test_arrays_come_back_writable() -> None:
    """What was unpacked belongs to the value alone."""
    back = there_and_back(CompressedPickleSerializer(), np.zeros(10_000))
    assert isinstance(back, np.ndarray)
    back += 1
    assert back.sum() == 10_000


def test_it_compresses() -> None:
    """Repetitive values take a fraction of their size."""
    for method in ("zlib", "lzma"):
        assert CompressedPickleSerializer(method).dump(["text"] * 100_000).size < 10_000


# -------------------------------------------------------------------------------------- bombs


def bomb(content: int, announced: int) -> bytes:
    """A payload whose stream unpacks to ``content`` zeros though it announces something else."""
    compressor = zlib.compressobj(9)
    stream = b"".join(compressor.compress(bytes(STEP)) for _ in range(content // STEP))
    stream += compressor.flush()
    return HEAD.pack(b"TcCo", 1, announced, len(stream)) + stream


def test_a_stream_of_more_than_it_announces_is_stopped() -> None:
    """A few kilobytes cannot fill the memory: unpacking ends where the announced size does."""
    data = bomb(content=256 * STEP, announced=1000)
    tracemalloc.start()
    try:
        with pytest.raises(SerializationError, match="more content than the 1000 bytes"):
            CompressedPickleSerializer().load(memoryview(data), NO_FILES)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 * STEP


def test_a_size_beyond_the_limit_is_refused_before_unpacking() -> None:
    """`max_size` holds whatever the payload announces, and memory is not set aside for it."""
    data = bomb(content=4 * STEP, announced=4 * STEP)
    with pytest.raises(SerializationError, match="max_size=1000"):
        CompressedPickleSerializer(max_size=1000).load(memoryview(data), NO_FILES)
    liar = bomb(content=STEP, announced=1 << 31)
    with pytest.raises(SerializationError, match=f"{STEP} bytes of content, {1 << 31} expected"):
        CompressedPickleSerializer().load(memoryview(liar), NO_FILES)


def test_what_could_not_be_read_again_is_not_written() -> None:
    """A value beyond `max_size` is refused when it is stored, with the remedy."""
    with pytest.raises(SerializationError, match="more than max_size=100; raise it"):
        CompressedPickleSerializer(max_size=100).dump("x" * 1000)


# ------------------------------------------------------------------------------------ methods


def test_name_and_execution_follow_the_inner_serializer() -> None:
    """Keys tell each combination apart, and signing knows which ones execute."""
    pickled: Serializer = CompressedPickleSerializer("lzma")
    assert pickled.name == f"compressed(lzma)+{NAME}"
    assert pickled.executes
    plain = CompressedSerializer(CompressedSerializer(JSONSerializer(), "lzma"))
    assert plain.name == "compressed(zlib)+compressed(lzma)+json"
    assert not plain.executes
    assert there_and_back(plain, [1, 2]) == [1, 2]


@pytest.mark.parametrize(("method", "package"), [("lz4", "lz4"), ("zstd", "zstandard")])
def test_a_missing_package_is_named_when_the_serializer_is_made(
    method: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A setting that cannot work stops at once and says what to install."""
    for name in ("lz4", "lz4.frame", "zstandard", "compression.zstd"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigurationError, match=f"pip install {package}"):
        CompressedPickleSerializer(method)


def test_unknown_methods_name_the_known_ones() -> None:
    """A typing error is answered by what could have been meant."""
    with pytest.raises(ConfigurationError, match="write one of zlib, gzip, bz2, lzma, lz4, zstd"):
        CompressedPickleSerializer("gzpi")


@pytest.mark.parametrize("codec", ["zlib", "gzip", "bz2", "lzma"])
def test_serializer_and_codec_go_by_name(codec: str) -> None:
    """Any compression module of the standard library, around any serializer, as Prefect has it."""
    serializer = CompressedSerializer(serializer="json", codec=codec)
    assert serializer.name == f"compressed({codec})+json"
    assert there_and_back(serializer, {"a": [1, None]}) == {"a": [1, None]}
    with pytest.raises(SerializationError):
        serializer.dump({1, 2})  # no JSON


def test_a_wrong_name_is_refused_where_it_is_written() -> None:
    """The line that names an unknown serializer or codec raises, not the first call."""
    with pytest.raises(ConfigurationError, match="unknown codec 'json'"):
        CompressedSerializer("pickle", "json")
    with pytest.raises(ConfigurationError, match="unknown serializer 'bz2'"):
        CompressedSerializer("bz2", "json")
    with pytest.raises(ConfigurationError, match="JSONSerializer is a class"):
        CompressedSerializer(JSONSerializer, "bz2")  # type: ignore[arg-type]


def test_the_modules_names_of_python_3_14_will_do() -> None:
    """``compression.bz2`` is bz2, and records are read by either name."""
    assert CompressedPickleSerializer("compression.bz2").name == f"compressed(bz2)+{NAME}"


def test_a_trees_files_pass_by(tmp_path: Path) -> None:
    """Only the manifest is compressed; files stay blobs, stored once each."""
    (tmp_path / "file").write_text("content")
    payload = CompressedSerializer(TreeSerializer()).dump(tmp_path)
    assert [blob.size for blob in payload.blobs] == [7]
