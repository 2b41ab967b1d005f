"""Rows from variants and traces, and back.

Dependencies and key parts are *atoms*: kept once, however many records name them. A trace is
the list of its atoms' ids, as differences (neighbours are mostly interned one after the other)
in 32-bit little-endian integers, compressed where that pays. Bodies are JSON. Everything that is
read back carries a checksum, and a row that fails it reads as absent.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import xxhash

from pytest_taskcache.model.dependency import Kind, Trace
from pytest_taskcache.model.key import Identity, Part
from pytest_taskcache.model.record import Blob, Result, Variant

Atom = tuple[str, str, str]
"""Kind, name, digest: a dependency, or, with the kind "", a part of a key."""

KINDS = {str(kind): kind for kind in Kind}
_CHECKSUM = 8
_ENCODER = json.JSONEncoder(separators=(",", ":"))


class Row(NamedTuple):
    """The columns that `variants` and `staged` share, in the order of ``COLUMNS``."""

    id: bytes
    key: bytes
    identity: bytes
    created: float
    expires: float | None
    trace: int
    inline: bytes | None
    body: bytes


COLUMNS = ", ".join(Row._fields)


def to_sql(text: str) -> bytes:
    """Text as it is stored: file names may hold lone surrogates, which SQLite's text cannot."""
    return text.encode("utf-8", "surrogatepass")


def from_sql(data: bytes) -> str:
    """The text that ``to_sql`` stored."""
    return data.decode("utf-8", "surrogatepass")


def atom_hash(atom: Atom) -> int:
    """A signed 64-bit hash by which atoms are looked up; collisions are told apart after."""
    digest = xxhash.xxh3_64_intdigest(to_sql("\0".join(atom)))
    return digest - (1 << 64) if digest >= 1 << 63 else digest


def atoms_of(trace: Trace) -> list[Atom]:
    """The atoms a trace is made of, in its order."""
    return [(str(kind), name, digest) for kind, name, digest in trace.dependencies]


def trace_name(trace: Trace) -> bytes:
    """What a trace is stored under: its digest, or one of its content if it has none."""
    if trace.digest or not trace.dependencies:
        return to_sql(trace.digest)
    content = "\0".join("\0".join(atom) for atom in atoms_of(trace))
    return to_sql("~" + xxhash.xxh3_128_hexdigest(to_sql(content)))


def trace_digest(name: bytes) -> str:
    """The digest of the trace that is stored under a name."""
    return "" if name.startswith(b"~") else from_sql(name)


def pack(ids: Sequence[int]) -> bytes:
    """A list of atom ids in few bytes, checksummed."""
    differences = [after - before for before, after in zip((0, *ids), ids, strict=False)]
    raw = struct.pack(f"<{len(ids)}i", *differences)
    packed = zlib.compress(raw, 6)
    data = b"z" + packed if len(packed) < len(raw) else b"r" + raw
    return xxhash.xxh3_64_digest(data) + data


def unpack(data: bytes) -> tuple[int, ...] | None:
    """The ids that ``pack`` packed; None if the bytes are damaged."""
    content = data[_CHECKSUM:]
    if len(content) < 1 or xxhash.xxh3_64_digest(content) != data[:_CHECKSUM]:
        return None
    raw = zlib.decompress(content[1:]) if content[:1] == b"z" else content[1:]
    return tuple(accumulate(struct.unpack(f"<{len(raw) // 4}i", raw)))


def encode(variant: Variant, trace: int, parts: Sequence[int]) -> Row:
    """The row of a variant, given the row id of its trace and the atom ids of its parts."""
    result = variant.result
    fields = [
        *variant.identity,
        list(parts),
        variant.inputs,
        variant.parameters,
        variant.duration,
        variant.producer,
        variant.versions,
        variant.vouched,
        variant.signature,
        result.digest,
        result.size,
        result.serializer,
        result.sha256,
        [(blob.digest, blob.size, blob.sha256) for blob in result.blobs],
    ]
    body = _ENCODER.encode(fields).encode("ascii")
    row = Row(
        id=to_sql(variant.id),
        key=to_sql(variant.key),
        identity=to_sql(str(variant.identity)),
        created=float(variant.created),
        expires=None if variant.expires is None else float(variant.expires),
        trace=trace,
        inline=result.inline,
        body=body,
    )
    return row._replace(body=_checksum(row, body) + body)


def intact(row: Row) -> bool:
    """Whether the row is as it was written."""
    body = row.body[_CHECKSUM:]
    return _checksum(row, body) == row.body[:_CHECKSUM]


def _checksum(row: Row, body: bytes) -> bytes:
    others = repr((row.id, row.key, row.created, row.expires, row.trace, len(body)))
    return xxhash.xxh3_64_digest(b"".join((body, row.inline or b"", others.encode())))


def fields_of(row: Row) -> list[Any]:
    """The fields in the body of an intact row, for ``decode``."""
    fields: list[Any] = json.loads(row.body[_CHECKSUM:].decode("ascii"))
    return fields


def part_ids(fields: Sequence[Any]) -> list[int]:
    """The atom ids of the parts that a body names."""
    ids: list[int] = fields[2]
    return ids


def decode(
    row: Row, fields: Sequence[Any], trace: Trace, parts: Mapping[int, Part]
) -> Variant | None:
    """The variant of an intact row, with its trace and the parts it may name; None if one of
    these is missing."""
    file, name, ids, inputs, parameters, duration, producer, versions, vouched = fields[:9]
    signature, digest, size, serializer, sha256, blobs = fields[9:]
    try:
        own = tuple([parts[atom] for atom in ids])
    except KeyError:
        return None
    return Variant(
        id=from_sql(row.id),
        key=from_sql(row.key),
        identity=Identity(file, name),
        parts=own,
        trace=trace,
        result=Result(
            digest=digest,
            size=size,
            serializer=serializer,
            inline=row.inline,
            sha256=sha256,
            blobs=tuple([Blob(*blob) for blob in blobs]),
        ),
        created=row.created,
        expires=row.expires,
        duration=duration,
        producer=producer,
        versions=tuple([(what, version) for what, version in versions]),
        inputs=tuple([Part(*part) for part in inputs]),
        parameters=tuple([Part(*part) for part in parameters]),
        vouched=vouched,
        signature=signature,
    )


def files_of(result: Result) -> list[tuple[str, int]]:
    """Digest and size of every result file that a result needs; none for an inline one."""
    own = [] if result.inline is not None else [(result.digest, result.size)]
    return own + [(blob.digest, blob.size) for blob in result.blobs]


__all__ = [
    "Atom",
    "COLUMNS",
    "Row",
    "atom_hash",
    "atoms_of",
    "decode",
    "encode",
    "fields_of",
    "files_of",
    "from_sql",
    "intact",
    "pack",
    "part_ids",
    "to_sql",
    "trace_digest",
    "trace_name",
    "unpack",
]
