"""Canonical bytes of a variant, and variants from such bytes.

The one encoding that every adapter without columns of its own stores, and that signatures are
computed over: JSON with sorted keys, no white space and escaped non-ASCII text, so that equal
variants have equal bytes in every process and version of Python. Reading it executes nothing.

``encode_variant`` and ``decode_variant`` are public, for storages of one's own.
"""

from __future__ import annotations

import binascii
import json
import math
import re
from base64 import b64decode, b64encode
from typing import Any

import xxhash

from pytest_taskcache.dataclass import fields
from pytest_taskcache.model.dependency import Blob, Dependency, Kind, Trace
from pytest_taskcache.model.key import Identity, Part
from pytest_taskcache.model.record import Result, Variant

FORMAT = 2
"""Version of this encoding; bytes of any other version read as absent."""

_KINDS = {str(kind): kind for kind in Kind}
_DIGEST = re.compile(r"[0-9a-f]{32}").fullmatch
_FIELDS = {field.name for field in fields(Variant)} | {"format"}
_RESULT_FIELDS = {field.name for field in fields(Result)}


class _CorruptError(Exception):
    """A field does not have the shape it was written with; never leaves this module."""


def encode_variant(variant: Variant) -> bytes:
    """The canonical bytes of a variant: ASCII, the same for equal variants everywhere.

    Raises ValueError if a time is not finite.
    """
    result = variant.result
    document = {
        "format": FORMAT,
        "id": variant.id,
        "key": variant.key,
        "identity": list(variant.identity),
        "parts": [list(part) for part in variant.parts],
        "trace": {
            "digest": variant.trace.digest,
            "dependencies": [
                [str(kind), name, digest] for kind, name, digest in variant.trace.dependencies
            ],
            "uses": [list(blob) for blob in variant.trace.uses],
        },
        "result": {
            "digest": result.digest,
            "size": result.size,
            "serializer": result.serializer,
            "inline": None if result.inline is None else b64encode(result.inline).decode(),
            "sha256": result.sha256,
            "blobs": [list(blob) for blob in result.blobs],
        },
        "created": float(variant.created),
        "expires": None if variant.expires is None else float(variant.expires),
        "duration": float(variant.duration),
        "producer": variant.producer,
        "versions": [list(version) for version in variant.versions],
        "inputs": [list(part) for part in variant.inputs],
        "parameters": [list(part) for part in variant.parameters],
        "vouched": variant.vouched,
        "signature": variant.signature,
    }
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return text.encode("ascii")


def decode_variant(data: bytes | bytearray | memoryview) -> Variant | None:
    """The variant that ``encode_variant`` wrote as these bytes; None for anything else.

    An inline payload must have the size and xxh3-128 digest that its record states, and the
    digests that name results must be 32 hexadecimal digits, since they become file names.
    """
    try:
        return _variant(json.loads(bytes(data)))
    except (_CorruptError, ValueError, OverflowError, RecursionError):
        return None


def _variant(document: object) -> Variant:
    if not isinstance(document, dict) or document.keys() != _FIELDS:
        raise _CorruptError("fields")
    if document["format"] != FORMAT or not isinstance(document["vouched"], bool):
        raise _CorruptError("format")
    file, name = _texts(document["identity"], 2)
    expires = document["expires"]
    return Variant(
        id=_text(document["id"]),
        key=_text(document["key"]),
        identity=Identity(file, name),
        parts=_parts(document["parts"]),
        trace=_trace(document["trace"]),
        result=_result(document["result"]),
        created=_number(document["created"]),
        expires=None if expires is None else _number(expires),
        duration=_number(document["duration"]),
        producer=_text(document["producer"]),
        versions=tuple(_pair(item) for item in _list(document["versions"])),
        inputs=_parts(document["inputs"]),
        parameters=_parts(document["parameters"]),
        vouched=document["vouched"],
        signature=_text(document["signature"]),
    )


def _trace(document: object) -> Trace:
    if not isinstance(document, dict) or document.keys() != {"digest", "dependencies", "uses"}:
        raise _CorruptError("trace")
    dependencies = []
    for item in _list(document["dependencies"]):
        word, name, digest = _texts(item, 3)
        kind = _KINDS.get(word)
        if kind is None:
            raise _CorruptError("kind")
        dependencies.append(Dependency(kind, name, digest))
    return Trace(tuple(dependencies), _text(document["digest"]), _blobs(document["uses"]))


def _result(document: object) -> Result:
    if not isinstance(document, dict) or document.keys() != _RESULT_FIELDS:
        raise _CorruptError("result")
    digest, size = _digest(document["digest"]), _size(document["size"])
    inline = document["inline"]
    if inline is not None:
        try:
            inline = b64decode(_text(inline), validate=True)
        except binascii.Error as error:
            raise _CorruptError("inline") from error
        if len(inline) != size or xxhash.xxh3_128_hexdigest(inline) != digest:
            raise _CorruptError("inline")
    return Result(
        digest=digest,
        size=size,
        serializer=_text(document["serializer"]),
        inline=inline,
        sha256=_text(document["sha256"]),
        blobs=_blobs(document["blobs"]),
    )


def _blobs(document: object) -> tuple[Blob, ...]:
    blobs = []
    for item in _list(document):
        if len(_list(item)) != 3:
            raise _CorruptError("blob")
        blobs.append(Blob(_digest(item[0]), _size(item[1]), _text(item[2])))
    return tuple(blobs)


def _parts(document: object) -> tuple[Part, ...]:
    return tuple(Part(*_pair(item)) for item in _list(document))


def _pair(document: object) -> tuple[str, str]:
    left, right = _texts(document, 2)
    return left, right


def _texts(document: object, length: int) -> list[str]:
    items = _list(document)
    if len(items) != length:
        raise _CorruptError("length")
    return [_text(item) for item in items]


def _list(document: object) -> list[Any]:
    if not isinstance(document, list):
        raise _CorruptError("list")
    return document


def _text(document: object) -> str:
    if not isinstance(document, str):
        raise _CorruptError("text")
    return document


def _digest(document: object) -> str:
    text = _text(document)
    if _DIGEST(text) is None:
        raise _CorruptError("digest")
    return text


def _size(document: object) -> int:
    if type(document) is not int or document < 0:
        raise _CorruptError("size")
    return document


def _number(document: object) -> float:
    if type(document) not in (int, float):
        raise _CorruptError("number")
    number = float(document)  # type: ignore[arg-type]
    if not math.isfinite(number):
        raise _CorruptError("number")
    return number


__all__ = ["FORMAT", "decode_variant", "encode_variant"]
