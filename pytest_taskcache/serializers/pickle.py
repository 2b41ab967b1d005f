"""Values as pickles, with large buffers beside the stream so that they can be mapped in place.

A payload; all numbers little-endian, offsets count from its first byte::

    head     32 bytes: magic, version, length of the claims, number of buffers,
             length of the stream, xxh3-64 of everything from the table to the stream's end
    table    8 bytes per buffer: its length
    claims   what must hold here for the stream to mean the same (see ``_claims``)
    stream   the pickle
    buffers  each at the next multiple of 64

It ends with the last buffer, so that its size alone shows that something is missing. The checksum
keeps the unpickler from ever running a damaged stream, whose opcodes could ask for any amount of
memory; the buffers are data only, and the storage's digest covers them.
"""

from __future__ import annotations

import gc
import os
import pickle
import struct
import sys
from collections.abc import Collection, Sequence
from itertools import chain
from typing import NamedTuple

from xxhash import xxh3_64_intdigest, xxh3_128_hexdigest

from pytest_taskcache.dataclass import dataclass
from pytest_taskcache.digests.values.terms import shown_name
from pytest_taskcache.errors import SerializationError
from pytest_taskcache.originals import os_path
from pytest_taskcache.ports import Buffer, Payload, Restore

NAME = f"pickle/{sys.implementation.name}-{sys.version_info.major}.{sys.version_info.minor}"
"""Pickles of functions hold byte code, so only the same Python version reads them back."""

_THIS_PROCESS = f"process {os.urandom(8).hex()}"
_OUT_OF_BAND = 4096  # bytes; below a page, a buffer of its own costs more than the copy it saves


@dataclass(frozen=True, slots=True)
class PickleSerializer:
    """Pickles of protocol 5; anything that pickle or cloudpickle can write.

    *What goes by name.* Importable classes and functions are stored by reference, first-party
    ones too: a value that comes back has the very class that the test compares it with. So are
    sentinels and other singletons without content that importing their module makes. Lambdas and
    closures are stored by value, with the globals of their module as these are at the hit; what
    they rest on is in ``Payload.holds``. A class that cannot be found by name (local to a
    function, say) is refused, since a copy of it would be another type; named tuples are
    excepted. ``__main__`` and ``conftest`` are names of many files, so a value that refers to
    them loads only where they are the same file.

    *What comes back.* Where code of the value's authors runs on loading (``__setstate__``, an
    exception's ``__init__``), the value is read back when it is stored, and refused if that
    fails. A value that names files which existed loads only where they still do.

    *Memory.* Buffers of 4 KiB and more (numpy arrays, Arrow tables) are not copied when stored:
    the chunks alias them. When loaded from writable bytes (a private mapping) they are views of
    these bytes, which from then on belong to the value; from read-only bytes they are copied,
    so that what was writable is writable again. What was read-only comes back read-only. Arrays
    that have no such buffers (strided views, numpy's dates) are part of the stream.
    """

    name = NAME
    executes = True

    def dump(self, value: object) -> Payload:
        """The payload. Raises SerializationError."""
        buffers: list[memoryview] = []

        def keep_in_band(buffer: pickle.PickleBuffer) -> bool:
            view = buffer.raw()
            if view.nbytes < _OUT_OF_BAND:
                return True
            buffers.append(view)
            return False

        # a run of hits alone does without what the writing needs
        from pytest_taskcache.serializers.references import RefusedValueError, pickled

        try:
            stream, references = pickled(value, keep_in_band, buffers)
        except RefusedValueError as error:
            raise SerializationError(NAME, shown_name(type(value)), str(error)) from error
        named = references.paths
        claims = _claims(references.ambiguous, named) if references.ambiguous or named else b""
        paths = tuple(map(os_path.abspath, named))
        return Payload(pack(stream, buffers, claims), (), references.held_code(), paths)

    def load(self, data: memoryview, restore: Restore) -> object:
        """A new value. Writable ``data`` is the value's own from now on. Raises SerializationError.
        The garbage collector pauses meanwhile: everything built here is alive, and looking through
        it again and again takes two thirds of the time of a large load."""
        if data.format != "B" or data.ndim != 1:
            data = data.cast("B")
        try:
            parts = unpack(data)
        except ValueError as error:
            raise SerializationError(NAME, "", str(error)) from error
        if parts.claims and (moved := _broken(parts.claims)):
            raise SerializationError(NAME, "", moved)
        given = [bytearray(b) for b in parts.buffers] if data.readonly else parts.buffers
        buffers = iter(given)
        collecting = gc.isenabled()  # in line, as `uncollected` is ten calls of a hit
        gc.disable()
        try:
            value: object = pickle.loads(parts.stream, buffers=buffers)
        except Exception as error:
            # Unpickling imports modules and calls constructors, which may raise anything.
            raise SerializationError(NAME, "", f"{type(error).__name__}: {error}") from error
        finally:
            if collecting:
                gc.enable()
        if given and next(buffers, None) is not None:
            raise SerializationError(NAME, "", "the stream names fewer buffers than there are")
        return value


def _claims(modules: Collection[str], paths: Sequence[str]) -> bytes:
    """The files that ambiguous modules are at present, and the paths that exist: three fields each,
    the name (empty for a path), the path, the content's digest (of a module's file)."""
    fields = [(name, path := _file_of(name), _content_of(path)) for name in sorted(modules)]
    fields += [("", path, "") for path in paths if os_path.lexists(path)]
    return os.fsencode("\0".join(chain.from_iterable(fields)))


def _broken(claims: bytes) -> str:
    """Why a claim no longer holds; empty if all do. A module is the same one when its path is the
    same (whether the code changed is for the trace to say), or its content (the project lies in
    another place); one without a file (an interactive session) in its own process only."""
    fields = os.fsdecode(claims).split("\0")
    for name, path, content in zip(fields[0::3], fields[1::3], fields[2::3], strict=True):
        if not name:
            if not os_path.lexists(path):
                return f"it names {path}, which is gone"
            continue
        here = _file_of(name)
        if not (path and here == path) and _content_of(here) != content:
            return f"module {name} was {path or 'no file'} and is now {here or 'no file'}"
    return ""


def _file_of(module: str) -> str:
    path = getattr(sys.modules.get(module), "__file__", None)
    return os_path.abspath(path) if isinstance(path, str) else ""


def _content_of(path: str) -> str:
    if path:
        try:
            with open(path, "rb") as file:
                return xxh3_128_hexdigest(file.read())
        except OSError:
            pass  # a script whose file is gone still has its path to be compared by
    return _THIS_PROCESS


ALIGNMENT = 64
"""Bytes; a cache line, and what numpy and Arrow ask for."""

_MAGIC = b"TcPk"
_VERSION = 2
_HEAD = struct.Struct("<4sB3xIIQQ")
_JOINED = 1 << 16  # below this, one chunk is cheaper to store than a chunk for each part


class Frame(NamedTuple):
    """A payload taken apart: views of its bytes, nothing copied."""

    claims: bytes
    stream: memoryview
    buffers: tuple[memoryview, ...]


def pack(stream: bytes, buffers: Sequence[memoryview], claims: bytes) -> tuple[Buffer, ...]:
    """The payload's chunks; they alias ``stream`` and ``buffers``. ``buffers`` are views of bytes
    (format ``B``, one dimension)."""
    if buffers or claims:
        table = struct.pack(f"<{len(buffers)}Q", *[buffer.nbytes for buffer in buffers])
        body = b"".join((table, claims, stream))
    else:
        body = stream
    head = _HEAD.pack(
        _MAGIC, _VERSION, len(claims), len(buffers), len(stream), xxh3_64_intdigest(body)
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
    """The parts of a payload given as bytes (format ``B``). Raises ValueError."""
    size = data.nbytes
    if size < _HEAD.size:
        raise ValueError(f"{size} bytes are too few for a payload")
    magic, version, of_claims, count, of_stream, checksum = _HEAD.unpack_from(data)
    if magic != _MAGIC:
        raise ValueError("the bytes do not start as a pickle payload does")
    if version != _VERSION:
        raise ValueError(f"payload version {version} is not {_VERSION}, which is read here")
    start = _HEAD.size
    if not count and not of_claims:  # most values; in a third of the time
        body = data[start:]
        if of_stream != size - start:
            raise ValueError(f"damaged: {size} bytes, {start + of_stream} expected")
        if xxh3_64_intdigest(body) != checksum:
            raise ValueError("damaged: the checksum does not fit")
        return Frame(b"", body, ())
    claims_at = start + 8 * count
    stream_at = claims_at + of_claims
    end = stream_at + of_stream
    if end > size:
        raise ValueError(f"cut off: {size} bytes, at least {end} expected")
    if xxh3_64_intdigest(data[start:end]) != checksum:
        raise ValueError("damaged: the checksum does not fit")
    lengths = struct.unpack_from(f"<{count}Q", data, start) if count else ()
    buffers: list[memoryview] = []
    for length in lengths:
        begin = end + -end % ALIGNMENT
        end = begin + length
        if end > size:
            break
        buffers.append(data[begin:end])
    if end != size:
        raise ValueError(f"damaged: {size} bytes, {end} expected")
    claims = bytes(data[claims_at:stream_at]) if of_claims else b""
    return Frame(claims, data[stream_at : stream_at + of_stream], tuple(buffers))
