"""Rows from variants, traces and small facts, and back.

A record of the index is a row of its own, but for what thousands of records share: its trace, and
the parts of its key that are the run's rather than its own (options, plugins, versions). Those are
rows of `shared`, one for each content.

Everything that is believed carries a checksum of eight bytes over the row, and, for a record, over
the names of the shared rows it refers to: no row can be taken for another one.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Collection, Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar

import xxhash

from pytest_taskcache.model.dependency import Dependency, Kind, Trace
from pytest_taskcache.model.key import Identity, Part
from pytest_taskcache.model.record import Blob, Result, Variant

T = TypeVar("T")
DAMAGE = (
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
    zlib.error,
)
"""What reading a damaged row may raise."""

_KINDS = {str(kind): kind for kind in Kind}
_CHECKSUM = 8
_CHUNK = 500
_OWN = ("fixtures", "identity", "inputs", "parameters", "source", "test")
_ENCODER = json.JSONEncoder(separators=(",", ":"))


class Row(NamedTuple):
    """The columns that `variants` and `staged` share, in the order of ``COLUMNS``."""

    id: bytes
    key: bytes
    identity: bytes
    created: float
    expires: float | None
    trace: int
    common: int
    inline: bytes | None
    body: bytes


COLUMNS = ", ".join(Row._fields)


class Shared(NamedTuple):
    """A row of `shared` as it is written: what it is named, and what it says."""

    name: bytes
    body: bytes


class Common(NamedTuple):
    """Parts and versions that many records have in common; ``name`` is that of their row."""

    name: bytes
    parts: tuple[Part, ...]
    versions: tuple[tuple[str, str], ...]


def chunked(items: Collection[T]) -> Iterator[Sequence[T]]:
    """The items in lists short enough for one SQL statement."""
    whole = list(items)
    for start in range(0, len(whole), _CHUNK):
        yield whole[start : start + _CHUNK]


def marks(items: Collection[object]) -> str:
    """As many SQL placeholders as there are items."""
    return ",".join("?" * len(items))


def to_sql(text: str) -> bytes:
    """Text as it is stored: file names may hold lone surrogates, which SQLite's text cannot."""
    return text.encode("utf-8", "surrogatepass")


def from_sql(data: bytes) -> str:
    """The text that ``to_sql`` stored. Raises UnicodeDecodeError, or AttributeError for what is
    no bytes."""
    return data.decode("utf-8", "surrogatepass")


def seal(data: bytes, *context: bytes) -> bytes:
    """Data with a checksum before it, of itself and of where it belongs."""
    return _checksum(data, *context) + data


def unseal(data: bytes, *context: bytes) -> bytes:
    """The data that was sealed for this place. Raises ValueError for anything else."""
    content = bytes(data[_CHECKSUM:])
    if _checksum(content, *context) != data[:_CHECKSUM]:
        raise ValueError("checksum")
    return content


def _checksum(*parts: bytes) -> bytes:
    lengths = repr([len(part) for part in parts]).encode()
    return xxhash.xxh3_64_digest(b"".join((lengths, *parts)))


# ----------------------------------------------------------------------------- shared rows


def encode_trace(trace: Trace) -> Shared:
    """The row of a trace; one without a digest is named by its content."""
    content = [
        [[str(kind), name, digest] for kind, name, digest in trace.dependencies],
        [list(blob) for blob in trace.uses],
    ]
    data = _ENCODER.encode(content).encode("ascii")
    name = to_sql(trace.digest)
    if not trace.digest and (trace.dependencies or trace.uses):
        name = b"~" + xxhash.xxh3_128_hexdigest(data).encode()
    return Shared(name, seal(zlib.compress(data, 3), name))


def decode_trace(name: bytes, body: bytes) -> Trace:
    """The trace of a row. Raises DAMAGE."""
    dependencies, uses = json.loads(zlib.decompress(unseal(body, name)))
    kinds = _KINDS
    return Trace(
        tuple([Dependency(kinds[kind], what, digest) for kind, what, digest in dependencies]),
        "" if name.startswith(b"~") else from_sql(name),
        tuple([Blob(*blob) for blob in uses]),
    )


def encode_common(variant: Variant) -> Shared:
    """The row of what a variant has in common with others of its run."""
    return _common(tuple([p for p in variant.parts if not _is_own(p)]), variant.versions)


@lru_cache(64)
def _common(parts: tuple[Part, ...], versions: tuple[tuple[str, str], ...]) -> Shared:
    data = _ENCODER.encode([parts, versions]).encode("ascii")
    name = b"=" + xxhash.xxh3_128_hexdigest(data).encode()
    return Shared(name, seal(zlib.compress(data, 6), name))


def decode_common(name: bytes, body: bytes) -> Common:
    """What a row says that variants have in common. Raises DAMAGE."""
    parts, versions = json.loads(zlib.decompress(unseal(body, name)))
    return Common(
        name,
        tuple([Part(*part) for part in parts]),
        tuple([(what, version) for what, version in versions]),
    )


def _is_own(part: Part) -> bool:
    return part.name.partition(".")[0] in _OWN


# --------------------------------------------------------------------------------- records


def encode(variant: Variant, trace: tuple[int, bytes], common: tuple[int, bytes]) -> Row:
    """The row of a variant, given ids and names of its shared rows."""
    result = variant.result
    places = [place for place, part in enumerate(variant.parts) if _is_own(part)]
    own = [variant.parts[place] for place in places]
    identity = to_sql(str(variant.identity))
    producer = variant.producer
    fields = [
        len(variant.identity.file),
        own,
        places,
        variant.inputs,
        variant.parameters,
        variant.duration,
        None if to_sql(producer) == identity else producer,
        int(variant.vouched),
        variant.signature,
        result.digest,
        result.size,
        result.serializer,
        result.sha256,
        result.blobs,
    ]
    body = zlib.compress(_ENCODER.encode(fields).encode("ascii"), 6)
    row = Row(
        id=to_sql(variant.id),
        key=to_sql(variant.key),
        identity=identity,
        created=float(variant.created),
        expires=None if variant.expires is None else float(variant.expires),
        trace=trace[0],
        common=common[0],
        inline=None if result.inline is None else _squeeze(result.inline),
        body=body,
    )
    return row._replace(body=seal(body, *_context(row, trace[1], common[1])))


def _context(row: Row, trace: bytes, common: bytes) -> tuple[bytes, ...]:
    others = repr((row.created, row.expires, row.inline is None)).encode()
    return (row.id, row.key, row.identity, others, row.inline or b"", trace, common)


def decode(row: Row, trace: tuple[bytes, Trace], common: Common) -> Variant:
    """The variant of a row, given its shared rows, the trace's with its name. Raises DAMAGE."""
    data = unseal(row.body, *_context(row, trace[0], common.name))
    fields: list[Any] = json.loads(zlib.decompress(data))
    file, own, places, inputs, parameters, duration, producer, vouched, signature = fields[:9]
    digest, size, serializer, sha256, blobs = fields[9:]
    parts = list(common.parts)
    for place, part in zip(places, own, strict=True):
        parts.insert(place, Part(*part))
    identity = from_sql(row.identity)
    return Variant(
        id=from_sql(row.id),
        key=from_sql(row.key),
        identity=Identity(identity[:file], identity[file + 2 :]),
        parts=tuple(parts),
        trace=trace[1],
        result=Result(
            digest=digest,
            size=size,
            serializer=serializer,
            inline=None if row.inline is None else _expand(row.inline),
            sha256=sha256,
            blobs=tuple([Blob(*blob) for blob in blobs]),
        ),
        created=row.created,
        expires=row.expires,
        duration=duration,
        producer=identity if producer is None else producer,
        versions=common.versions,
        inputs=tuple([Part(*part) for part in inputs]),
        parameters=tuple([Part(*part) for part in parameters]),
        vouched=bool(vouched),
        signature=signature,
    )


def _squeeze(data: bytes) -> bytes:
    packed = zlib.compress(data, 6)
    return b"z" + packed if len(packed) < len(data) else b"r" + data


def _expand(data: bytes) -> bytes:
    return zlib.decompress(data[1:]) if data[:1] == b"z" else data[1:]


def files_of(result: Result) -> list[tuple[str, int]]:
    """Digest and size of what a result needs beside its record; what its trace uses is kept with
    the trace."""
    own = [] if result.inline is not None else [(result.digest, result.size)]
    return own + [(blob.digest, blob.size) for blob in result.blobs]
