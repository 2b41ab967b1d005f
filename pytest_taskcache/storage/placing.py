"""Puts bytes that arrive piece by piece at a path, whole and checked or not at all."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable
from pathlib import Path

import xxhash

from pytest_taskcache.ports import Buffer


def place(digest: str, size: int, pieces: Iterable[Buffer], destination: Path) -> bool:
    """Whether the pieces had this size and xxh3-128 digest; only then they are the file at
    ``destination``. Raises OSError, and whatever ``pieces`` raises."""
    temporary = destination.with_name(f".{destination.name[:100]}.{uuid.uuid4().hex}.part")
    checksum = xxhash.xxh3_128()
    received = 0
    try:
        with temporary.open("xb") as stream:
            for piece in pieces:
                received += memoryview(piece).nbytes
                if received > size:
                    return False
                checksum.update(piece)
                stream.write(piece)
        if received != size or checksum.hexdigest() != digest:
            return False
        os.replace(temporary, destination)
        return True
    finally:
        temporary.unlink(missing_ok=True)


__all__ = ["place"]
