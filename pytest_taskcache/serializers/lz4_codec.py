"""The lz4 frame format; the only file that imports lz4."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from pytest_taskcache.ports import Buffer
from pytest_taskcache.serializers.compression import CompressionError, pieces


def lz4_codec(level: int) -> Lz4Codec:
    """The codec. Raises ModuleNotFoundError where lz4 is not installed."""
    return Lz4Codec(importlib.import_module("lz4.frame"), level)


@dataclass(frozen=True, slots=True)
class Lz4Codec:
    """Fast and light; levels -16 to 16."""

    library: Any
    level: int

    def compress(self, chunks: Iterable[Buffer]) -> Iterator[bytes]:
        """The compressed stream, in pieces."""
        compressor = self.library.LZ4FrameCompressor(
            compression_level=self.level,
            block_size=self.library.BLOCKSIZE_MAX1MB,
            content_checksum=True,
        )
        yield compressor.begin()
        for chunk in chunks:
            yield compressor.compress(chunk)
        yield compressor.flush()

    def decompress(self, data: memoryview) -> Iterator[bytes]:
        """The content, in pieces of at most STEP bytes. Raises CompressionError."""
        try:
            yield from pieces(self.library.LZ4FrameDecompressor(), data)
        except RuntimeError as error:  # what lz4 raises for anything wrong with the stream
            raise CompressionError(str(error)) from error
