"""Canonical bytes of a variant, variants from such bytes, and the results that they name.

The one encoding that every adapter without columns of its own stores, and that signatures are
computed over: JSON with sorted keys, no white space and escaped non-ASCII text, so that equal
variants have equal bytes in every process and version of Python. Reading it executes nothing.

``encode_variant`` and ``decode_variant`` are public, for storages of one's own.
"""

from __future__ import annotations

import json
import math
import re
from base64 import b64decode, b64encode
from collections.abc import Collection
from typing import Any

import xxhash

from pytest_taskcache.dataclass import fields
from pytest_taskcache.errors import StorageError
from pytest_taskcache.model.dependency import Blob, Dependency, Kind, Trace
from pytest_taskcache.model.key import Identity, Part
from pytest_taskcache.model.record import Result, Variant
from pytest_taskcache.ports import ResultStorage

FORMAT = 2
"""Version of this encoding; bytes of any other version read as absent."""

_KINDS = {str(kind): kind for kind in Kind}
_DIGEST = re.compile(r"[0-9a-f]{32}").fullmatch
_FIELDS = frozenset(field.name for field in fields(Variant))
_TRACE_FIELDS = frozenset(field.name for field in fields(Trace))
_RESULT_FIELDS = frozenset(field.name for field in fields(Result))


def results_of(variant: Variant) -> list[tuple[str, int]]:
    """Digest and size of everything that a record needs from result storage."""
    result = variant.result
    outer = [] if result.inline is not None else [(result.digest, result.size)]
    return outer + [(blob.digest, blob.size) for blob in (*result.blobs, *variant.trace.uses)]


def copy_results(
    variant: Variant, source: ResultStorage, destination: ResultStorage, present: set[str]
) -> None:
    """Copies the results that a record needs, but for those that are ``present``, to which it adds
    them. Raises StorageError, also where one is lost."""
    for digest, size in results_of(variant):
        if digest not in present:
            data = source.read_result(digest, size)
            if data is None:
                raise StorageError(source.describe(), "read results", "a result is gone or damaged")
            destination.write_result(digest, (data.toreadonly(),))
            present.add(digest)


def encode_variant(variant: Variant) -> bytes:
    """The canonical bytes of a variant: ASCII, the same for equal variants everywhere.

    Raises ValueError if a time is not finite.
    """
    inline = variant.result.inline
    result = _fields(variant.result, _RESULT_FIELDS)
    result["inline"] = None if inline is None else b64encode(inline).decode()
    document = _fields(variant, _FIELDS) | {
        "format": FORMAT,
        "trace": _fields(variant.trace, _TRACE_FIELDS),
        "result": result,
        "created": float(variant.created),
        "expires": None if variant.expires is None else float(variant.expires),
        "duration": float(variant.duration),
    }
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return text.encode("ascii")


def _fields(value: object, names: Collection[str]) -> dict[str, Any]:
    return {name: getattr(value, name) for name in names}


def decode_variant(data: bytes | bytearray | memoryview) -> Variant | None:
    """The variant that ``encode_variant`` wrote as these bytes; None for anything else.

    An inline payload must have the size and xxh3-128 digest that its record states, and the
    digests that name results must be 32 hexadecimal digits, since they become file names.
    """
    try:
        return _variant(json.loads(bytes(data)))
    except (LookupError, ValueError, OverflowError, RecursionError):
        return None


def _variant(document: object) -> Variant:
    if not isinstance(document, dict) or document.keys() != _FIELDS | {"format"}:
        raise ValueError("fields")
    if document["format"] != FORMAT or not isinstance(document["vouched"], bool):
        raise ValueError("format")
    expires = document["expires"]
    return Variant(
        id=_text(document["id"]),
        key=_text(document["key"]),
        identity=Identity(*_pair(document["identity"])),
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
    if not isinstance(document, dict) or document.keys() != _TRACE_FIELDS:
        raise ValueError("trace")
    dependencies = []
    for item in _list(document["dependencies"]):
        kind, name, digest = _list(item)
        dependencies.append(Dependency(_KINDS[_text(kind)], _text(name), _text(digest)))
    return Trace(tuple(dependencies), _text(document["digest"]), _blobs(document["uses"]))


def _result(document: object) -> Result:
    if not isinstance(document, dict) or document.keys() != _RESULT_FIELDS:
        raise ValueError("result")
    digest, size = _digest(document["digest"]), _size(document["size"])
    inline = document["inline"]
    if inline is not None:
        inline = b64decode(_text(inline), validate=True)
        if len(inline) != size or xxhash.xxh3_128_hexdigest(inline) != digest:
            raise ValueError("inline")
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
        digest, size, sha256 = _list(item)
        blobs.append(Blob(_digest(digest), _size(size), _text(sha256)))
    return tuple(blobs)


def _parts(document: object) -> tuple[Part, ...]:
    return tuple(Part(*_pair(item)) for item in _list(document))


def _pair(document: object) -> tuple[str, str]:
    left, right = _list(document)
    return _text(left), _text(right)


def _list(document: object) -> list[Any]:
    if not isinstance(document, list):
        raise ValueError("list")
    return document


def _text(document: object) -> str:
    if not isinstance(document, str):
        raise ValueError("text")
    return document


def _digest(document: object) -> str:
    text = _text(document)
    if _DIGEST(text) is None:
        raise ValueError("digest")
    return text


def _size(document: object) -> int:
    if type(document) is not int or document < 0:
        raise ValueError("size")
    return document


def _number(document: object) -> float:
    if type(document) not in (int, float):
        raise ValueError("number")
    number = float(document)  # type: ignore[arg-type]
    if not math.isfinite(number):
        raise ValueError("number")
    return number
