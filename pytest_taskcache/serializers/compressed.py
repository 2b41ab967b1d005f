"""Another serializer's payloads, compressed.

The payload: magic, version, the content's size and the compressed size (bytes, little-endian),
then one stream of the method that the serializer's name tells.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from pytest_taskcache.errors import SerializationError
from pytest_taskcache.ports import Payload, Restore, Serializer
from pytest_taskcache.serializers.compression import Codec, CompressionError, codec_for
from pytest_taskcache.serializers.pickle import PickleSerializer

MAX_SIZE = 1 << 32
"""Bytes of content that are read, unless told otherwise: 4 GiB."""

_MAGIC = b"TcCo"
_VERSION = 1
_HEAD = struct.Struct("<4sB3xQQ")


@dataclass(frozen=True, slots=True)
class CompressedSerializer:
    """``inner``'s payloads, compressed by ``method``: zlib, lzma, lz4 or zstd.

    lz4 needs the package lz4, and zstd the package zstandard before Python 3.14; making the
    serializer raises ConfigurationError where they are missing. ``level`` is the method's own
    scale and does not matter for reading. Content of more than ``max_size`` bytes is refused on
    writing and, against streams that unpack to far more than they should, on reading: never
    more is unpacked than the payload says, and it may not say more than ``max_size``. Files
    that belong to a payload (a tree's) stay as they are.
    """

    inner: Serializer
    method: str = "zlib"
    level: int | None = None
    max_size: int = MAX_SIZE

    def __post_init__(self) -> None:
        self._codec()

    @property
    def name(self) -> str:
        """E.g. ``compressed(zlib)+pickle/cpython-3.12``."""
        return f"compressed({self.method})+{self.inner.name}"

    @property
    def executes(self) -> bool:
        """As the inner serializer."""
        return self.inner.executes

    def dump(self, value: object) -> Payload:
        """The payload; nothing in it aliases the value. Raises SerializationError."""
        plain = self.inner.dump(value)
        size = plain.size
        if size > self.max_size:
            reason = f"{size} bytes are more than max_size={self.max_size}; raise it, or store less"
            raise SerializationError(self.name, type(value).__name__, reason)
        pieces = tuple(piece for piece in self._codec().compress(plain.chunks) if piece)
        head = _HEAD.pack(_MAGIC, _VERSION, size, sum(map(len, pieces)))
        return Payload((head, *pieces), plain.blobs)

    def load(self, data: memoryview, restore: Restore) -> object:
        """A new value. Raises SerializationError."""
        return self.inner.load(memoryview(self._content(data)), restore)

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
            for piece in self._codec().decompress(stream):
                if len(content) + len(piece) > size:
                    raise CompressionError(f"more content than the {size} bytes announced")
                content += piece
        except CompressionError as error:
            raise SerializationError(self.name, "", str(error)) from error
        if len(content) != size:
            reason = f"{len(content)} bytes of content, {size} expected"
            raise SerializationError(self.name, "", reason)
        return content

    def _codec(self) -> Codec:
        return codec_for(self.method, self.level)


def CompressedPickleSerializer(
    method: str = "zlib", *, level: int | None = None, max_size: int = MAX_SIZE
) -> CompressedSerializer:
    """Pickles, compressed; named as Prefect's."""
    return CompressedSerializer(PickleSerializer(), method, level, max_size)
