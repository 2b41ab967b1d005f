"""Another serializer's payloads, compressed by any of the usual methods.

The payload: magic, version, the content's size and the compressed size (bytes, little-endian),
then one stream of the codec that the serializer's name tells.

Every codec writes a checksum of the content, reads no more than one stream, and never makes
more than STEP bytes at once, so that a reader can stop a stream that grows without end.
"""

from __future__ import annotations

import importlib
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple

from pytest_taskcache.errors import ConfigurationError, SerializationError
from pytest_taskcache.ports import Buffer, Payload, Restore, Serializer
from pytest_taskcache.serializers.catalog import SETTING, serializer_for

MAX_SIZE = 1 << 32
"""Bytes of content that are read, unless told otherwise: 4 GiB."""

_MAGIC = b"TcCo"
_VERSION = 1
_HEAD = struct.Struct("<4sB3xQQ")


class CompressedSerializer:
    """Another serializer's payloads, compressed: ``CompressedSerializer("json", "bz2")``.

    ``serializer`` is an object or a name, as ``serializer=`` takes it. ``codec`` is zlib, gzip,
    bz2, lzma, lz4 (needs the package lz4) or zstd (needs the package zstandard before Python
    3.14). Making it raises ConfigurationError for what is unknown or not installed.

    Content of more than ``max_size`` bytes is refused on writing and, against streams that unpack
    to far more than they should, on reading: never more is unpacked than the payload says, and it
    may not say more than ``max_size``. Files that belong to a payload (a tree's) stay as they are.
    """

    __slots__ = ("_codec", "codec", "max_size", "name", "serializer")

    def __init__(
        self,
        serializer: str | Serializer = "pickle",
        codec: str = "zlib",
        *,
        max_size: int = MAX_SIZE,
    ) -> None:
        self.serializer = serializer_for(serializer)
        self._codec = codec_for(codec)
        self.codec = self._codec.name
        self.max_size = max_size
        self.name = f"compressed({self.codec})+{self.serializer.name}"

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, CompressedSerializer)
            and other.serializer == self.serializer
            and (other.codec, other.max_size) == (self.codec, self.max_size)
        )

    def __hash__(self) -> int:
        return hash((self.name, self.max_size))

    def __repr__(self) -> str:
        return f"CompressedSerializer({self.serializer!r}, {self.codec!r})"

    @property
    def executes(self) -> bool:
        """As the inner serializer."""
        return self.serializer.executes

    def dump(self, value: object) -> Payload:
        """The payload; nothing in it aliases the value. Raises SerializationError."""
        plain = self.serializer.dump(value)
        size = plain.size
        if size > self.max_size:
            reason = f"{size} bytes are more than max_size={self.max_size}; raise it, or store less"
            raise SerializationError(self.name, type(value).__name__, reason)
        pieces = tuple(piece for piece in self._codec.write(plain.chunks) if piece)
        head = _HEAD.pack(_MAGIC, _VERSION, size, sum(map(len, pieces)))
        return Payload((head, *pieces), plain.blobs, plain.holds, plain.paths)

    def load(self, data: memoryview, restore: Restore) -> object:
        """A new value. Raises SerializationError."""
        return self.serializer.load(memoryview(self._content(data)), restore)

    def _content(self, data: memoryview) -> bytearray:
        if data.nbytes < _HEAD.size:
            raise SerializationError(self.name, "", f"{data.nbytes} bytes are too few")
        magic, version, size, compressed_size = _HEAD.unpack_from(data)
        if magic != _MAGIC or version != _VERSION:
            raise SerializationError(self.name, "", "the bytes do not start as a payload does")
        stream = data[_HEAD.size :]
        if stream.nbytes != compressed_size:
            reason = f"{stream.nbytes} compressed bytes, {compressed_size} expected"
            raise SerializationError(self.name, "", reason)
        if size > self.max_size:
            reason = f"{size} bytes of content are more than max_size={self.max_size}"
            raise SerializationError(self.name, "", reason)
        content = bytearray()
        try:
            for piece in self._codec.read(stream):
                if len(content) + len(piece) > size:
                    raise CompressionError(f"more content than the {size} bytes announced")
                content += piece
        except CompressionError as error:
            raise SerializationError(self.name, "", str(error)) from error
        if len(content) != size:
            reason = f"{len(content)} bytes of content, {size} expected"
            raise SerializationError(self.name, "", reason)
        return content


def CompressedPickleSerializer(
    codec: str = "zlib", *, max_size: int = MAX_SIZE
) -> CompressedSerializer:
    """Pickles, compressed; named as Prefect's."""
    return CompressedSerializer("pickle", codec, max_size=max_size)


STEP = 1 << 20
"""Bytes that are decompressed at a time, at most."""

_LZMA_MEMORY = 1 << 28  # bytes; the highest preset needs 65 MiB to be read
_ZSTD_WINDOW = 27  # log2 of bytes; the default limit of the format's reference decoder


class CompressionError(ValueError):
    """Bytes that are not what the codec wrote, or only a part of it."""


class Codec(NamedTuple):
    """Compresses to, and reads, one stream.

    ``compressor`` makes the library's object for one stream, ``pieces`` yields the content of a
    stream in pieces of at most STEP bytes, and ``failures`` are what it raises for bytes that the
    codec did not write.
    """

    name: str
    compressor: Callable[[], Any]
    pieces: Callable[[memoryview], Iterator[bytes]]
    failures: tuple[type[Exception], ...]

    def write(self, chunks: Iterable[Buffer]) -> Iterator[bytes]:
        """The compressed stream, in pieces."""
        compressor = self.compressor()
        begin = getattr(compressor, "begin", None)
        if begin is not None:
            yield begin()
        for chunk in chunks:
            yield compressor.compress(chunk)
        yield compressor.flush()

    def read(self, data: memoryview) -> Iterator[bytes]:
        """The content, in pieces of at most STEP bytes. Raises CompressionError; a stream that is
        cut off may also yield less content and no error, so compare the size."""
        try:
            yield from self.pieces(data)
        except self.failures as error:
            raise CompressionError(str(error)) from error


def _decompressed(decompressor: Any, data: memoryview) -> Iterator[bytes]:
    """The content by an object with the interface that bz2, lzma, lz4.frame and compression.zstd
    have in common."""
    at = 0
    while not decompressor.eof:
        given = memoryview(b"")
        if decompressor.needs_input:
            given = data[at : at + STEP]
            at += len(given)
            if not given:
                raise CompressionError("the compressed stream is cut off")
        yield decompressor.decompress(given, STEP)
    if decompressor.unused_data or at != len(data):
        raise CompressionError("there are bytes after the compressed stream")


def _inflated(bits: int, data: memoryview) -> Iterator[bytes]:
    """The content by zlib; ``bits`` tell its own format from gzip's."""
    inflater = zlib.decompressobj(bits)
    for at in range(0, len(data), STEP):
        given: Buffer = data[at : at + STEP]
        full = False
        while given or full:  # after a full piece more may come out though all has gone in
            piece = inflater.decompress(given, STEP)
            yield piece
            given, full = inflater.unconsumed_tail, len(piece) == STEP
    if not inflater.eof:
        raise CompressionError("the compressed stream is cut off")
    if inflater.unused_data:
        raise CompressionError("there are bytes after the compressed stream")


def _deflate(name: str, bits: int) -> Codec:
    return Codec(
        name,
        lambda: zlib.compressobj(wbits=bits),
        partial(_inflated, bits),
        (zlib.error,),
    )


def _bz2() -> Codec:
    import bz2

    return Codec(
        "bz2",
        bz2.BZ2Compressor,
        lambda data: _decompressed(bz2.BZ2Decompressor(), data),
        (OSError,),
    )


def _lzma() -> Codec:
    import lzma

    return Codec(
        "lzma",
        lambda: lzma.LZMACompressor(check=lzma.CHECK_CRC64),
        lambda data: _decompressed(lzma.LZMADecompressor(lzma.FORMAT_XZ, _LZMA_MEMORY), data),
        (lzma.LZMAError,),
    )


def _lz4() -> Codec:
    library = importlib.import_module("lz4.frame")
    return Codec(
        "lz4",
        lambda: library.LZ4FrameCompressor(
            block_size=library.BLOCKSIZE_MAX1MB, content_checksum=True
        ),
        lambda data: _decompressed(library.LZ4FrameDecompressor(), data),
        (RuntimeError,),  # what lz4 raises for anything wrong with the stream
    )


def _zstd() -> Codec:
    """Zstandard by the standard library (Python 3.14), else by the package zstandard."""
    try:
        library: Any = importlib.import_module("compression.zstd")
    except ModuleNotFoundError:
        return packaged_zstd(importlib.import_module("zstandard"))
    options = {library.CompressionParameter.checksum_flag: 1}
    limit = {library.DecompressionParameter.window_log_max: _ZSTD_WINDOW}
    return Codec(
        "zstd",
        lambda: library.ZstdCompressor(options=options),
        lambda data: _decompressed(library.ZstdDecompressor(options=limit), data),
        (library.ZstdError,),
    )


def packaged_zstd(library: Any) -> Codec:
    """Zstandard by the package zstandard, whose decompressor cannot be bounded, but its reader."""

    def pieces(data: memoryview) -> Iterator[bytes]:
        decompressor = library.ZstdDecompressor(max_window_size=1 << _ZSTD_WINDOW)
        with decompressor.stream_reader(data) as reader:
            while piece := reader.read(STEP):
                yield piece

    return Codec(
        "zstd",
        lambda: library.ZstdCompressor(write_checksum=True).compressobj(),
        pieces,
        (library.ZstdError,),
    )


_KNOWN: dict[str, Callable[[], Codec]] = {
    "zlib": partial(_deflate, "zlib", 15),
    "gzip": partial(_deflate, "gzip", 31),
    "bz2": _bz2,
    "lzma": _lzma,
    "lz4": _lz4,
    "zstd": _zstd,
}

CODECS = tuple(_KNOWN)
"""The names of the codecs."""


def codec_for(name: str) -> Codec:
    """The codec of a name. The module's name will do, too: ``lz4.frame``, ``compression.bz2``.

    Raises ConfigurationError for an unknown name, and where a package is missing.
    """
    short = str(name).removeprefix("compression.").removesuffix(".frame")
    if short not in _KNOWN:
        raise ConfigurationError(
            SETTING, f"unknown codec {name!r}", f"write one of {', '.join(CODECS)}"
        )
    try:
        return _KNOWN[short]()
    except ModuleNotFoundError as error:
        package = "zstandard" if short == "zstd" else short
        raise ConfigurationError(
            SETTING,
            f"codec {short!r} needs the package {package}, which is not installed",
            f"run `pip install {package}`, or write compressed(zlib)",
        ) from error
