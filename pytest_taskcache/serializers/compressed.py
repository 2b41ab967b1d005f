"""Another serializer's payloads, compressed by any of the usual methods.

The payload: magic, version, the content's size and the compressed size (bytes, little-endian),
then one stream of the codec that the serializer's name tells.

Every codec writes a checksum of the content, reads no more than one stream, and never unpacks
more of it than it is told, so that a stream that grows without end does no harm.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from importlib import import_module
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
        try:
            content = self._content(data)
        except CompressionError as error:
            raise SerializationError(self.name, "", str(error)) from error
        return self.serializer.load(memoryview(content), restore)

    def _content(self, data: memoryview) -> bytearray:
        """What was compressed, for the value to keep. Raises CompressionError."""
        if data.nbytes < _HEAD.size:
            raise CompressionError(f"{data.nbytes} bytes are too few")
        magic, version, size, compressed_size = _HEAD.unpack_from(data)
        stream = data[_HEAD.size :]
        if (magic, version) != (_MAGIC, _VERSION):
            raise CompressionError("the bytes do not start as a payload does")
        if stream.nbytes != compressed_size:
            raise CompressionError(f"{stream.nbytes} compressed bytes, {compressed_size} expected")
        if size > self.max_size:
            raise CompressionError(f"{size} bytes of content, more than max_size={self.max_size}")
        content = bytearray(self._codec.read(stream, size + 1))
        if len(content) > size:
            raise CompressionError(f"more content than the {size} bytes announced")
        if len(content) < size:
            raise CompressionError(f"{len(content)} bytes of content, {size} expected")
        return content


def CompressedPickleSerializer(
    codec: str = "zlib", *, max_size: int = MAX_SIZE
) -> CompressedSerializer:
    """Pickles, compressed; named as Prefect's."""
    return CompressedSerializer("pickle", codec, max_size=max_size)


_LZMA_MEMORY = 1 << 28  # bytes; the highest preset needs 65 MiB to be read
_ZSTD_WINDOW = 27  # log2 of bytes; the default limit of the format's reference decoder

CODECS = ("zlib", "gzip", "bz2", "lzma", "lz4", "zstd")
"""The names of the codecs."""


class CompressionError(ValueError):
    """Bytes that are not what the codec wrote, or only a part of it."""


class Codec(NamedTuple):
    """Compresses to, and reads, one stream. ``compressor`` and ``decompressor`` make the library's
    objects for one stream, with the interface that zlib, bz2, lzma, lz4.frame and compression.zstd
    have in common; ``failures`` are what these raise for bytes that the codec did not write."""

    name: str
    compressor: Callable[[], Any]
    decompressor: Callable[[], Any]
    failures: tuple[type[Exception], ...]

    def write(self, chunks: Iterable[Buffer]) -> Iterator[bytes]:
        """The compressed stream, in pieces."""
        compressor = self.compressor()
        if hasattr(compressor, "begin"):
            yield compressor.begin()
        yield from map(compressor.compress, chunks)
        yield compressor.flush()

    def read(self, data: memoryview, limit: int) -> bytes:
        """The content, or its first ``limit`` bytes. Raises CompressionError; a stream that is cut
        off may also yield less content and no error, so compare the size."""
        decompressor = self.decompressor()
        try:
            content: bytes = decompressor.decompress(data, limit)
        except self.failures as error:
            raise CompressionError(str(error)) from error
        if len(content) < limit and not decompressor.eof:
            raise CompressionError("the compressed stream is cut off")
        if decompressor.unused_data:
            raise CompressionError("there are bytes after the compressed stream")
        return content


def codec_for(name: str) -> Codec:
    """The codec of a name. The module's name will do, too: ``lz4.frame``, ``compression.bz2``.
    Raises ConfigurationError for an unknown name, and where a package is missing."""
    short = str(name).removeprefix("compression.").removesuffix(".frame")
    if short not in CODECS:
        known = f"write one of {', '.join(CODECS)}"
        raise ConfigurationError(SETTING, f"unknown codec {name!r}", known)
    try:
        return _codec(short)
    except ModuleNotFoundError as error:
        package = "zstandard" if short == "zstd" else short
        problem = f"codec {short!r} needs the package {package}, which is not installed"
        remedy = f"run `pip install {package}`, or write compressed(zlib)"
        raise ConfigurationError(SETTING, problem, remedy) from error


def _codec(name: str) -> Codec:
    if name in ("zlib", "gzip"):
        bits = 31 if name == "gzip" else 15
        deflate = partial(zlib.compressobj, wbits=bits)
        return Codec(name, deflate, partial(zlib.decompressobj, bits), (zlib.error,))
    if name == "bz2":
        import bz2

        return Codec(name, bz2.BZ2Compressor, bz2.BZ2Decompressor, (OSError,))
    if name == "lzma":
        import lzma

        checked = partial(lzma.LZMACompressor, check=lzma.CHECK_CRC64)
        bounded = partial(lzma.LZMADecompressor, lzma.FORMAT_XZ, _LZMA_MEMORY)
        return Codec(name, checked, bounded, (lzma.LZMAError,))
    if name == "lz4":
        lz4 = import_module("lz4.frame")
        options = {"block_size": lz4.BLOCKSIZE_MAX1MB, "content_checksum": True}
        framed = partial(lz4.LZ4FrameCompressor, **options)
        # Anything wrong with the stream; and it sets the memory for all of it aside.
        return Codec(name, framed, lz4.LZ4FrameDecompressor, (RuntimeError, MemoryError))
    try:
        zstd: Any = import_module("compression.zstd")
    except ModuleNotFoundError:
        return packaged_zstd(import_module("zstandard"))
    flags = {zstd.CompressionParameter.checksum_flag: 1}
    window = {zstd.DecompressionParameter.window_log_max: _ZSTD_WINDOW}
    compressor = partial(zstd.ZstdCompressor, options=flags)
    return Codec(
        name, compressor, partial(zstd.ZstdDecompressor, options=window), (zstd.ZstdError,)
    )


def packaged_zstd(library: Any) -> Codec:
    """Zstandard by the package zstandard (before Python 3.14)."""

    class Decompressor:
        """The library's own cannot be bounded, but its reader can, which tells no end."""

        eof = True
        unused_data = b""

        def decompress(self, data: memoryview, limit: int) -> bytes:
            own = library.ZstdDecompressor(max_window_size=1 << _ZSTD_WINDOW)
            with own.stream_reader(data) as reader:
                content: bytes = reader.read(limit)
            return content

    def compressor() -> Any:
        return library.ZstdCompressor(write_checksum=True).compressobj()

    return Codec("zstd", compressor, Decompressor, (library.ZstdError, MemoryError))
