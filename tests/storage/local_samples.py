"""Records and results for the tests of local and memory storage."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import xxhash

from pytest_taskcache.model.dependency import Dependency, Kind, Trace
from pytest_taskcache.model.key import Identity, Part
from pytest_taskcache.model.record import Blob, Result, Variant


def digest_of(data: bytes | str) -> str:
    data = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data
    return xxhash.xxh3_128_hexdigest(data)


def trace_of(*names: str) -> Trace:
    dependencies = tuple(Dependency(Kind.FILE, name, digest_of(name)) for name in sorted(names))
    return Trace(dependencies, digest_of("|".join(sorted(names))))


def result_of(data: bytes, *, inline: bool = True, blobs: Sequence[bytes] = ()) -> Result:
    return Result(
        digest=digest_of(data),
        size=len(data),
        serializer="json",
        inline=data if inline else None,
        blobs=tuple(Blob(digest_of(blob), len(blob)) for blob in blobs),
    )


def variant_of(
    key: str,
    number: int = 0,
    *,
    result: Result | None = None,
    trace: Trace | None = None,
    name: str = "build",
    expires: float | None = None,
) -> Variant:
    return Variant(
        id=f"{key}-{number:04}",
        key=key,
        identity=Identity("src/app.py", name),
        parts=(Part("source", digest_of("source")), Part("inputs.x", digest_of(key))),
        trace=trace if trace is not None else trace_of("a.txt", "b.txt"),
        result=result if result is not None else result_of(f"{key} {number}".encode()),
        created=1_000.5 + number,
        expires=expires,
        duration=0.25,
        producer="tests/test_app.py::test_one",
        versions=(("python", "3.12"), ("taskcache", "1")),
        inputs=(Part("x", digest_of("input")),),
        parameters=(Part("n", digest_of("3")),),
        vouched=False,
        signature="",
    )


def files_under(directory: Path) -> Iterator[str]:
    for root, folders, names in os.walk(directory):
        for name in sorted(folders + names):
            yield os.path.relpath(os.path.join(root, name), directory)
