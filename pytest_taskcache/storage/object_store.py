"""What a store of objects must be able to do for records and results to lie in it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from pytest_taskcache.ports import Buffer

PIECE = 8 * 1024 * 1024
"""Bytes: up to here an object travels in one request, above in pieces of this size."""


class ObjectStoreError(Exception):
    """An operation failed. ``reason`` is short and holds no secret."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Listed(NamedTuple):
    """One object of a listing: its path, and when it was last written (POSIX seconds, or None
    where the store does not say)."""

    path: str
    modified: float | None


@dataclass(frozen=True, slots=True)
class Download:
    """An object being read: its size in bytes, and its bytes as they arrive."""

    size: int
    pieces: Iterator[Buffer]


class ObjectStore(Protocol):
    """Bytes by path. Every method may be called from several threads and raises nothing but
    ObjectStoreError. Paths are as in ``object_layout``: ASCII, ``/`` between segments."""

    def open(self, path: str) -> Download | None:
        """The object, not yet read; None if there is none."""

    def put(self, path: str, data: Buffer) -> None:
        """Writes a small object; no reader sees a part of it."""

    def put_absent(self, path: str, data: Buffer) -> bool:
        """Writes a small object unless there is one; False if there was. Between two writers at
        once both may be told True: nothing rests on it but the saving of a request."""

    def put_pieces(self, path: str, pieces: Iterable[Buffer], size: int) -> None:
        """Writes an object of ``size`` bytes from pieces, holding few of them at a time; no
        reader sees a part of it."""

    def size(self, path: str) -> int | None:
        """Bytes of an object; None if there is none."""

    def list(self, prefix: str) -> list[Listed]:
        """All objects below ``prefix/``; none if there is no such prefix."""

    def delete(self, paths: Sequence[str]) -> None:
        """Removes objects; those that are not there are ignored."""

    def close(self) -> None:
        """Releases connections; using it again afterwards reopens it. Never raises."""


def pieces_of(chunks: Iterable[Buffer]) -> Iterator[memoryview]:
    """The same bytes in views of PIECE bytes at most, without copying."""
    for chunk in chunks:
        view = memoryview(chunk).cast("B")
        for start in range(0, view.nbytes, PIECE):
            yield view[start : start + PIECE]


__all__ = ["PIECE", "Download", "Listed", "ObjectStore", "ObjectStoreError", "pieces_of"]
