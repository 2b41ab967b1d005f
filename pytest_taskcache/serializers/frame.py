"""The layout of a pickle payload: a checked stream, then buffers that can be mapped in place.

All numbers little-endian; offsets count from the payload's first byte::

    head     32 bytes: magic, version, length of the origins, number of buffers,
             length of the stream, xxh3-64 of everything from the table to the stream's end
    table    8 bytes per buffer: its length
    origins  see `pytest_taskcache.serializers.origins`
    stream   the pickle
    buffers  each at the next multiple of 64

The payload ends with the last buffer, so that its size alone shows that something is missing.
The checksum keeps the unpickler from ever running a damaged stream, whose opcodes could ask
for any amount of memory; the buffers are data only, and the storage's digest covers them.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

from xxhash import xxh3_64_intdigest

from pytest_taskcache.ports import Buffer

ALIGNMENT = 64
"""Bytes; a cache line, and what numpy and Arrow ask for."""

_MAGIC = b"TcPk"
_VERSION = 1
_HEAD = struct.Struct("<4sB3xIIQQ")
_JOINED = 1 << 16  # below this, one chunk is cheaper to store than a chunk for each part


class FrameError(ValueError):
    """Bytes that are no payload of this layout, or only a part of one."""


class Frame(NamedTuple):
    """A payload taken apart: views of its bytes, nothing copied."""

    origins: bytes
    stream: memoryview
    buffers: tuple[memoryview, ...]


def pack(stream: bytes, buffers: Sequence[memoryview], origins: bytes) -> tuple[Buffer, ...]:
    """The payload's chunks; they alias ``stream`` and ``buffers``.

    ``buffers`` are views of bytes (format ``B``, one dimension).
    """
    if buffers or origins:
        table = struct.pack(f"<{len(buffers)}Q", *[buffer.nbytes for buffer in buffers])
        body = b"".join((table, origins, stream))
    else:
        body = stream
    head = _HEAD.pack(
        _MAGIC, _VERSION, len(origins), len(buffers), len(stream), xxh3_64_intdigest(body)
    )
    chunks: list[Buffer] = [head + body] if len(body) <= _JOINED else [head, body]
    end = len(head) + len(body)
    for buffer in buffers:
        padding = -end % ALIGNMENT
        if padding:
            chunks.append(bytes(padding))
        chunks.append(buffer)
        end += padding + buffer.nbytes
    return tuple(chunks)


def unpack(data: memoryview) -> Frame:
    """The parts of a payload given as bytes (format ``B``). Raises FrameError."""
    size = data.nbytes
    if size < _HEAD.size:
        raise FrameError(f"{size} bytes are too few for a payload")
    magic, version, of_origins, count, of_stream, checksum = _HEAD.unpack_from(data)
    if magic != _MAGIC:
        raise FrameError("the bytes do not start as a pickle payload does")
    if version != _VERSION:
        raise FrameError(f"payload version {version} is not {_VERSION}, which is read here")
    start = _HEAD.size
    if not count and not of_origins:  # most values; in a third of the time
        body = data[start:]
        if of_stream != size - start:
            raise FrameError(f"damaged: {size} bytes, {start + of_stream} expected")
        if xxh3_64_intdigest(body) != checksum:
            raise FrameError("damaged: the checksum does not fit")
        return Frame(b"", body, ())
    origins_at = start + 8 * count
    stream_at = origins_at + of_origins
    end = stream_at + of_stream
    if end > size:
        raise FrameError(f"cut off: {size} bytes, at least {end} expected")
    if xxh3_64_intdigest(data[start:end]) != checksum:
        raise FrameError("damaged: the checksum does not fit")
    lengths = struct.unpack_from(f"<{count}Q", data, start) if count else ()
    buffers: list[memoryview] = []
    for length in lengths:
        begin = end + -end % ALIGNMENT
        end = begin + length
        if end > size:
            break
        buffers.append(data[begin:end])
    if end != size:
        raise FrameError(f"damaged: {size} bytes, {end} expected")
    origins = bytes(data[origins_at:stream_at]) if of_origins else b""
    return Frame(origins, data[stream_at : stream_at + of_stream], tuple(buffers))
