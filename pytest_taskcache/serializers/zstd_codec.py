"""The Zstandard format; the only file that imports compression.zstd or zstandard."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from pytest_taskcache.ports import Buffer
from pytest_taskcache.serializers.compression import STEP, Codec, CompressionError, pieces

_LIBRARIES = ("compression.zstd", "backports.zstd")
"""The standard library's module since Python 3.14, and its backport: one interface."""

_WINDOW = 27  # log2 of bytes; the default limit of the format's reference decoder


def zstd_codec(level: int) -> Codec:
    """The codec by what is installed: the standard library's, else zstandard's.

    Raises ModuleNotFoundError, naming zstandard, where there is neither.
    """
    for name in _LIBRARIES:
        try:
            return StandardZstdCodec(importlib.import_module(name), level)
        except ModuleNotFoundError:
            continue  # the next library may be there, and the last one's absence is raised
    return ZstandardCodec(importlib.import_module("zstandard"), level)


@dataclass(frozen=True, slots=True)
class StandardZstdCodec:
    """By the standard library; levels -7 to 22."""

    library: Any
    level: int

    def compress(self, chunks: Iterable[Buffer]) -> Iterator[bytes]:
        """The compressed stream, in pieces."""
        parameter = self.library.CompressionParameter
        compressor = self.library.ZstdCompressor(
            options={parameter.compression_level: self.level, parameter.checksum_flag: 1}
        )
        for chunk in chunks:
            yield compressor.compress(chunk)
        yield compressor.flush()

    def decompress(self, data: memoryview) -> Iterator[bytes]:
        """The content, in pieces of at most STEP bytes. Raises CompressionError."""
        limit = {self.library.DecompressionParameter.window_log_max: _WINDOW}
        try:
            yield from pieces(self.library.ZstdDecompressor(options=limit), data)
        except self.library.ZstdError as error:
            raise CompressionError(str(error)) from error


@dataclass(frozen=True, slots=True)
class ZstandardCodec:
    """By the package zstandard; levels -7 to 22."""

    library: Any
    level: int

    def compress(self, chunks: Iterable[Buffer]) -> Iterator[bytes]:
        """The compressed stream, in pieces."""
        compressor = self.library.ZstdCompressor(
            level=self.level, write_checksum=True
        ).compressobj()
        for chunk in chunks:
            yield compressor.compress(chunk)
        yield compressor.flush()

    def decompress(self, data: memoryview) -> Iterator[bytes]:
        """The content, in pieces of at most STEP bytes. Raises CompressionError."""
        decompressor = self.library.ZstdDecompressor(max_window_size=1 << _WINDOW)
        try:
            with decompressor.stream_reader(data) as reader:
                while piece := reader.read(STEP):
                    yield piece
        except self.library.ZstdError as error:
            raise CompressionError(str(error)) from error
