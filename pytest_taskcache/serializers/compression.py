"""Compression methods: what a codec is, the two of the standard library, and all by name.

Every codec writes a checksum of the content, reads no more than one stream, and never makes
more than STEP bytes at once, so that a reader can stop a stream that grows without end.
"""

from __future__ import annotations

import lzma
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from pytest_taskcache.errors import ConfigurationError
from pytest_taskcache.ports import Buffer

STEP = 1 << 20
"""Bytes that are decompressed at a time, at most."""

METHODS = ("zlib", "lzma", "lz4", "zstd")
"""The names of the methods."""

_LZMA_MEMORY = 1 << 28  # bytes; the highest preset needs 65 MiB to be read


class CompressionError(ValueError):
    """Bytes that are not what the codec wrote, or only a part of it."""


class Codec(Protocol):
    """Compresses to, and reads, one stream."""

    def compress(self, chunks: Iterable[Buffer]) -> Iterator[bytes]:
        """The compressed stream, in pieces."""

    def decompress(self, data: memoryview) -> Iterator[bytes]:
        """The content, in pieces of at most STEP bytes. Raises CompressionError; a stream that
        is cut off may also yield less content and no error, so compare the size."""


@dataclass(frozen=True, slots=True)
class ZlibCodec:
    """The zlib format (RFC 1950); levels 0 to 9."""

    level: int = 6

    def compress(self, chunks: Iterable[Buffer]) -> Iterator[bytes]:
        """The compressed stream, in pieces."""
        compressor = zlib.compressobj(self.level)
        for chunk in chunks:
            yield compressor.compress(chunk)
        yield compressor.flush()

    def decompress(self, data: memoryview) -> Iterator[bytes]:
        """The content, in pieces of at most STEP bytes. Raises CompressionError."""
        decompressor = zlib.decompressobj()
        try:
            rest: Buffer = data[:STEP]
            at = len(rest)
            while not decompressor.eof:
                piece = decompressor.decompress(rest, STEP)
                rest = decompressor.unconsumed_tail
                if not rest:
                    rest = data[at : at + STEP]
                    at += len(rest)
                    if not rest and not piece and not decompressor.eof:
                        raise CompressionError("the compressed stream is cut off")
                yield piece
        except zlib.error as error:
            raise CompressionError(str(error)) from error
        if decompressor.unused_data or at != len(data):
            raise CompressionError("there are bytes after the compressed stream")


@dataclass(frozen=True, slots=True)
class LzmaCodec:
    """The xz format; presets 0 to 9."""

    level: int = 6

    def compress(self, chunks: Iterable[Buffer]) -> Iterator[bytes]:
        """The compressed stream, in pieces."""
        compressor = lzma.LZMACompressor(check=lzma.CHECK_CRC64, preset=self.level)
        for chunk in chunks:
            yield compressor.compress(chunk)
        yield compressor.flush()

    def decompress(self, data: memoryview) -> Iterator[bytes]:
        """The content, in pieces of at most STEP bytes. Raises CompressionError."""
        decompressor = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_LZMA_MEMORY)
        try:
            yield from pieces(decompressor, data)
        except lzma.LZMAError as error:
            raise CompressionError(str(error)) from error


class Decompressor(Protocol):
    """What lzma, lz4.frame and compression.zstd have in common."""

    @property
    def eof(self) -> bool:
        """Whether the stream has ended."""

    @property
    def needs_input(self) -> bool:
        """Whether nothing more comes out before something goes in."""

    @property
    def unused_data(self) -> bytes | None:
        """What was found after the stream."""

    def decompress(self, data: Buffer, max_length: int = -1) -> bytes:
        """The next bytes of content, at most ``max_length``."""


def pieces(decompressor: Decompressor, data: memoryview) -> Iterator[bytes]:
    """The content of the one stream in ``data``. Raises CompressionError if it is cut off or
    followed by something, and whatever the decompressor raises."""
    at = 0
    while not decompressor.eof:
        given: Buffer = b""
        if decompressor.needs_input:
            given = data[at : at + STEP]
            at += len(given)
            if not given:
                raise CompressionError("the compressed stream is cut off")
        yield decompressor.decompress(given, STEP)
    if decompressor.unused_data or at != len(data):
        raise CompressionError("there are bytes after the compressed stream")


def codec_for(method: str, level: int | None = None) -> Codec:
    """The codec of a method; ``level`` None means the method's own default.

    Raises ConfigurationError for an unknown method or level, and where a package is missing.
    """
    try:
        return _codec(method, level)
    except ModuleNotFoundError as error:
        package = {"lz4": "lz4", "zstd": "zstandard"}[method]
        raise ConfigurationError(
            "serializer",
            f"compression {method!r} needs the package {package}, which is not installed",
            f"run `pip install {package}`, or write compressed(zlib)",
        ) from error


def _codec(method: str, level: int | None) -> Codec:
    match method:
        case "zlib":
            return ZlibCodec(_level(method, level, 6, range(10)))
        case "lzma":
            return LzmaCodec(_level(method, level, 6, range(10)))
        case "lz4":
            from pytest_taskcache.serializers.lz4_codec import lz4_codec

            return lz4_codec(_level(method, level, 0, range(-16, 17)))
        case "zstd":
            from pytest_taskcache.serializers.zstd_codec import zstd_codec

            return zstd_codec(_level(method, level, 3, range(-7, 23)))
    raise ConfigurationError(
        "serializer",
        f"unknown compression method {method!r}",
        f"write one of {', '.join(METHODS)}",
    )


def _level(method: str, level: int | None, default: int, known: range) -> int:
    if level is None:
        return default
    if level not in known:
        raise ConfigurationError(
            "serializer",
            f"{method} has no compression level {level!r}",
            f"write one of {known[0]} to {known[-1]}",
        )
    return level
