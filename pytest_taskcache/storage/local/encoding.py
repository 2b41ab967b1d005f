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
from collections.abc import Collection
from functools import lru_cache
from sqlite3 import Connection
from typing import Any, NamedTuple

import xxhash

from pytest_taskcache.model.dependency import Dependency, Kind, Trace
from pytest_taskcache.model.key import Identity, Part
from pytest_taskcache.model.record import Blob, Result, Variant

DAMAGE = (
    *(ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError),
    zlib.error,
)
"""What reading a damaged row may raise."""

_KINDS = {str(kind): kind for kind in Kind}
_CHECKSUM = 8
_CHUNK = 500
_SMALL = 300
"""Bytes below which nothing is compressed: that takes longer than to write them."""
_OWN = ("fixtures", "identity", "inputs", "parameters", "source", "test")
_ENCODER = json.JSONEncoder(separators=(",", ":"))


class Row(NamedTuple):
    """The columns of a variant that are believed, in the order of ``COLUMNS``."""

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


class Common(NamedTuple):
    """Parts and versions that many records have in common."""

    parts: tuple[Part, ...]
    versions: tuple[tuple[str, str], ...]


class Shared(NamedTuple):
    """A row of `shared`: what it is named, and what it says."""

    name: bytes
    content: Trace | Common


def each(
    connection: Connection, statement: str, items: Collection[object], *more: object
) -> list[Any]:
    """All rows of a statement that has ``(...)`` where a list of items belongs, which is run for
    lists short enough for SQLite; ``more`` are the parameters behind it."""
    whole = list(items)
    rows: list[Any] = []
    for start in range(0, len(whole), _CHUNK):
        chunk = whole[start : start + _CHUNK]
        marks = ",".join("?" * len(chunk))
        rows += connection.execute(statement.replace("(...)", f"({marks})"), (*chunk, *more))
    return rows


def to_sql(text: str) -> bytes:
    """Text as it is stored: file names may hold lone surrogates, which SQLite's text cannot."""
    return text.encode("utf-8", "surrogatepass")


def from_sql(data: bytes) -> str:
    """The text that ``to_sql`` stored. Raises DAMAGE."""
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


def name_of(trace: Trace) -> bytes:
    """The name of a trace's row: its digest, or where it has none that of its content."""
    if trace.digest or not (trace.dependencies or trace.uses):
        return to_sql(trace.digest)
    return b"~" + xxhash.xxh3_128_hexdigest(_written(trace)).encode()


def common_of(variant: Variant) -> Shared:
    """What a variant has in common with others of its run, with the name of its row."""
    return _common(tuple([p for p in variant.parts if not _is_own(p)]), variant.versions)


@lru_cache(64)
def _common(parts: tuple[Part, ...], versions: tuple[tuple[str, str], ...]) -> Shared:
    content = Common(parts, versions)
    return Shared(b"=" + xxhash.xxh3_128_hexdigest(_written(content)).encode(), content)


def encode_shared(shared: Shared) -> bytes:
    """The body of a shared row."""
    return seal(_squeeze(_written(shared.content)), shared.name)


def _written(content: Trace | Common) -> bytes:
    if isinstance(content, Common):
        return _json(content)
    dependencies = [[str(kind), name, digest] for kind, name, digest in content.dependencies]
    return _json([dependencies, [list(blob) for blob in content.uses]])


def _json(fields: object) -> bytes:
    return _ENCODER.encode(fields).encode("ascii")


def decode_shared(name: bytes, body: bytes) -> Shared:
    """What a shared row says. Raises DAMAGE."""
    first, second = json.loads(_expand(unseal(body, name)))
    if name.startswith(b"="):
        return Shared(name, Common(_parts(first), tuple([(what, each) for what, each in second])))
    dependencies = tuple([Dependency(_KINDS[kind], what, digest) for kind, what, digest in first])
    digest = "" if name.startswith(b"~") else from_sql(name)
    return Shared(name, Trace(dependencies, digest, tuple([Blob(*blob) for blob in second])))


def _parts(written: list[list[str]]) -> tuple[Part, ...]:
    return tuple([Part(*part) for part in written])


def _is_own(part: Part) -> bool:
    return part.name.partition(".")[0] in _OWN


def encode(variant: Variant, ids: tuple[int, int], names: tuple[bytes, bytes]) -> Row:
    """The row of a variant, given ids and names of its shared rows: the trace's, and the other."""
    result = variant.result
    places = [place for place, part in enumerate(variant.parts) if _is_own(part)]
    identity = to_sql(str(variant.identity))
    fields = [
        *(len(variant.identity.file), [variant.parts[place] for place in places], places),
        *(variant.inputs, variant.parameters, variant.duration),
        None if to_sql(variant.producer) == identity else variant.producer,
        *(int(variant.vouched), variant.signature),
        *(result.digest, result.size, result.serializer, result.sha256, result.blobs),
    ]
    row = Row(
        id=to_sql(variant.id),
        key=to_sql(variant.key),
        identity=identity,
        created=float(variant.created),
        expires=None if variant.expires is None else float(variant.expires),
        trace=ids[0],
        common=ids[1],
        inline=None if result.inline is None else _squeeze(result.inline),
        body=_squeeze(_json(fields)),
    )
    return row._replace(body=seal(row.body, *_context(row, names)))


def _context(row: Row, names: tuple[bytes, bytes]) -> tuple[bytes, ...]:
    others = repr((row.created, row.expires, row.inline is None)).encode()
    return (row.id, row.key, row.identity, others, row.inline or b"", *names)


def decode(row: Row, trace: Shared, common: Shared) -> Variant:
    """The variant of a row, given its shared rows. Raises DAMAGE."""
    data = unseal(row.body, *_context(row, (trace.name, common.name)))
    assert isinstance(trace.content, Trace)
    assert isinstance(common.content, Common)
    fields: list[Any] = json.loads(_expand(data))
    file, own, places, inputs, parameters, duration, producer, vouched, signature = fields[:9]
    digest, size, serializer, sha256, blobs = fields[9:]
    parts = list(common.content.parts)
    for place, part in zip(places, own, strict=True):
        parts.insert(place, Part(*part))
    identity = from_sql(row.identity)
    inline = None if row.inline is None else _expand(row.inline)
    uses = tuple([Blob(*blob) for blob in blobs])
    return Variant(
        id=from_sql(row.id),
        key=from_sql(row.key),
        identity=Identity(identity[:file], identity[file + 2 :]),
        parts=tuple(parts),
        trace=trace.content,
        result=Result(digest, size, serializer, inline, sha256, uses),
        created=row.created,
        expires=row.expires,
        duration=duration,
        producer=identity if producer is None else producer,
        versions=common.content.versions,
        inputs=_parts(inputs),
        parameters=_parts(parameters),
        vouched=bool(vouched),
        signature=signature,
    )


def _squeeze(data: bytes) -> bytes:
    if len(data) < _SMALL:
        return b"r" + data
    packed = zlib.compress(data, 6)
    return b"z" + packed if len(packed) < len(data) else b"r" + data


def _expand(data: bytes) -> bytes:
    return zlib.decompress(data[1:]) if data[:1] == b"z" else data[1:]
