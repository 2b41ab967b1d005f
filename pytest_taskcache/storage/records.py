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
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import xxhash

from pytest_taskcache.errors import StorageError
from pytest_taskcache.model.dependency import Blob, Dependency, Kind, Trace
from pytest_taskcache.model.key import Identity, Part
from pytest_taskcache.model.record import Result, Variant
from pytest_taskcache.ports import ResultStorage

FORMAT = 2
"""Version of this encoding; bytes of any other version read as absent."""

_KINDS = {str(kind): kind for kind in Kind}
_DIGEST = re.compile(r"[0-9a-f]{32}").fullmatch


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
    result = _fields(variant.result, _RESULT)
    result["inline"] = None if inline is None else b64encode(inline).decode()
    document = _fields(variant, _VARIANT) | {
        "format": FORMAT,
        "trace": _fields(variant.trace, _TRACE),
        "result": result,
        "created": float(variant.created),
        "expires": None if variant.expires is None else float(variant.expires),
        "duration": float(variant.duration),
    }
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return text.encode("ascii")


def decode_variant(data: bytes | bytearray | memoryview) -> Variant | None:
    """The variant that ``encode_variant`` wrote as these bytes; None for anything else.

    An inline payload must have the size and xxh3-128 digest that its record states, and the
    digests that name results must be 32 hexadecimal digits, since they become file names.
    """
    try:
        document = json.loads(bytes(data))
        if not isinstance(document, dict) or document.pop("format", None) != FORMAT:
            return None
        return Variant(**_read_fields(_VARIANT, document))
    except (LookupError, ValueError, OverflowError, RecursionError):
        return None


_Read: TypeAlias = Callable[[Any], Any]
"""From a JSON value, the field that it stands for. Raises ValueError, LookupError."""


def _fields(value: object, names: Mapping[str, _Read]) -> dict[str, Any]:
    return {name: getattr(value, name) for name in names}


def _read_fields(reads: Mapping[str, _Read], document: object) -> dict[str, Any]:
    if not isinstance(document, dict) or document.keys() != reads.keys():
        raise ValueError("fields")
    return {name: read(document[name]) for name, read in reads.items()}


def _is(kind: type) -> _Read:
    def read(document: object) -> object:
        if type(document) is not kind:
            raise ValueError(kind.__name__)
        return document

    return read


def _row(make: Callable[..., object], *reads: _Read) -> _Read:
    return lambda row: make(*(read(each) for read, each in zip(reads, _list(row), strict=True)))


def _list_of(read: _Read) -> _Read:
    return lambda document: tuple(map(read, _list(document)))


def _digest(document: object) -> str:
    text: str = _text(document)
    if _DIGEST(text) is None:
        raise ValueError("digest")
    return text


def _size(document: object) -> int:
    if type(document) is not int or document < 0:
        raise ValueError("size")
    return document


def _number(document: object) -> float:
    if not isinstance(document, int | float) or isinstance(document, bool):
        raise ValueError("number")
    if not math.isfinite(number := float(document)):
        raise ValueError("number")
    return number


def _result(document: object) -> Result:
    result = Result(**_read_fields(_RESULT, document))
    inline = result.inline
    if inline is not None and (
        len(inline) != result.size or xxhash.xxh3_128_hexdigest(inline) != result.digest
    ):
        raise ValueError("inline")
    return result


_text, _list = _is(str), _is(list)
_parts = _list_of(_row(Part, _text, _text))
_blobs = _list_of(_row(Blob, _digest, _size, _text))

_TRACE: dict[str, _Read] = {
    "dependencies": _list_of(_row(Dependency, lambda kind: _KINDS[_text(kind)], _text, _text)),
    "digest": _text,
    "uses": _blobs,
}
_RESULT: dict[str, _Read] = {
    "digest": _digest,
    "size": _size,
    "serializer": _text,
    "inline": lambda text: None if text is None else b64decode(_text(text), validate=True),
    "sha256": _text,
    "blobs": _blobs,
}
_VARIANT: dict[str, _Read] = {
    **dict.fromkeys(("id", "key", "producer", "signature"), _text),
    "identity": _row(Identity, _text, _text),
    **dict.fromkeys(("parts", "inputs", "parameters"), _parts),
    "trace": lambda document: Trace(**_read_fields(_TRACE, document)),
    "result": _result,
    **dict.fromkeys(("created", "duration"), _number),
    "expires": lambda number: None if number is None else _number(number),
    "versions": _list_of(_row(lambda *pair: pair, _text, _text)),
    "vouched": _is(bool),
}
"""How each field is read; all of them must be there, and no others."""
