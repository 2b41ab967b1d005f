"""What a place must be able to do for a RemoteStore to live in it: bytes by name.

An adapter is a subclass of Blobs that knows one vendor's library. It has ``get``, ``put``,
``size``, ``list`` and ``delete``; it overrides those that take many names where its library has
something better than many calls at once; and it says what it can do beyond. It may raise
whatever its library raises: the store asks ``reason`` what to call it.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import ClassVar, NamedTuple, TypeVar

from pytest_taskcache.forking import ForkAware
from pytest_taskcache.ports import Buffer
from pytest_taskcache.storage.remote.threads import Bulkhead

T = TypeVar("T")
U = TypeVar("U")

LIMIT = 64 * 1024 * 1024
"""Bytes: what is larger is nothing that we wrote, and reads as absent."""


class BlobError(Exception):
    """An operation failed for the reason that is its text: short, and without secrets."""


class Listed(NamedTuple):
    """One blob of a listing: its name, its size in bytes and when it was last written (POSIX
    seconds), each None where the place does not say."""

    name: str
    size: int | None
    modified: float | None


class Blobs(ForkAware, ABC):
    """Bytes by name. Names are ASCII, ``/`` between segments; a blob becomes visible as a whole
    or, where a place cannot do that, with bytes that do not have the digest they should have.
    All methods may be called from several threads."""

    concurrency: ClassVar[int] = 16
    """Calls that may be under way at once."""
    atomic: ClassVar[bool] = False
    """Whether ``put_many`` is one transaction: all visible, or none, whoever dies."""
    batched: ClassVar[bool] = False
    """Whether any number of names costs a few round trips, so that nobody needs to list more than
    what is asked for."""
    phrases: ClassVar[Mapping[str, Sequence[str]]] = {}
    """Reasons, and what to look for in the text of an error that stands for one."""

    def __init__(self, shown: str) -> None:
        super().__init__()
        self.shown = shown
        self._bulkhead = Bulkhead(self.concurrency, "taskcache-blobs")

    @property
    def expires(self) -> bool:
        """Whether what is written goes away by itself; ``touch`` then prolongs it."""
        return False

    @abstractmethod
    def get(self, name: str) -> Buffer | None:
        """The bytes; None if there are none, or more than LIMIT."""

    @abstractmethod
    def put(self, name: str, data: Buffer) -> None:
        """Writes or replaces the bytes."""

    @abstractmethod
    def size(self, name: str) -> int | None:
        """How many bytes there are; None if there are none of this name."""

    @abstractmethod
    def list(self, prefix: str) -> Sequence[Listed]:
        """All blobs below ``prefix/``, at any depth."""

    @abstractmethod
    def delete(self, names: Sequence[str]) -> None:
        """Removes blobs; those that are not there are ignored."""

    def get_many(self, names: Collection[str]) -> Mapping[str, Buffer]:
        """Those of the blobs that are there."""
        found = zip(names, self.map(self.get, names), strict=True)
        return {name: data for name, data in found if data is not None}

    def put_many(self, items: Mapping[str, Buffer]) -> None:
        """Writes all of them, in any order unless ``atomic``."""
        self.map(lambda item: self.put(*item), items.items())

    def sizes(self, names: Collection[str]) -> Mapping[str, int]:
        """The sizes of those of the blobs that are there."""
        found = zip(names, self.map(self.size, names), strict=True)
        return {name: size for name, size in found if size is not None}

    def list_many(self, prefixes: Collection[str]) -> Iterable[Listed]:
        """All blobs below any of the prefixes. Where it is ``batched``, those that lie in it
        directly are enough, and sizes may be left out."""
        return [listed for found in self.map(self.list, prefixes) for listed in found]

    def touch(self, names: Collection[str]) -> None:
        """Prolongs the life of what ``expires`` as if it had been written now."""

    def close(self) -> None:
        """Releases connections; using it again opens new ones. Never raises."""

    def reason(self, error: BaseException) -> str:
        """A short class of errors. Texts of libraries may hold URLs, statements and passwords;
        they are searched, and never repeated."""
        if isinstance(error, BlobError):
            return str(error)
        if isinstance(error, MemoryError):
            return "out of memory"
        text = str(error)
        for reason, phrases in self.phrases.items():
            if any(phrase in text for phrase in phrases):
                return reason
        if isinstance(error, PermissionError):
            return "permission denied"
        if isinstance(error, TimeoutError):
            return "timed out"
        if isinstance(error, OSError) and error.errno:
            return os.strerror(error.errno).lower()
        return type(error).__name__

    def map(self, call: Callable[[T], U], items: Iterable[T]) -> Sequence[U]:
        """The results of all calls, in order; several are under way at once."""
        if isinstance(items, Collection) and len(items) < 2:
            return [call(item) for item in items]
        return self._bulkhead.map(call, items)


class BatchedBlobs(Blobs):
    """Blobs of a place where one name is asked for as many are."""

    batched = True

    def get(self, name: str) -> Buffer | None:
        """As get_many."""
        return self.get_many([name]).get(name)

    def put(self, name: str, data: Buffer) -> None:
        """As put_many."""
        self.put_many({name: data})

    def size(self, name: str) -> int | None:
        """As sizes."""
        return self.sizes([name]).get(name)


def batches(items: Collection[T], length: int) -> Iterable[list[T]]:
    """The items, ``length`` at a time."""
    whole = list(items)
    for start in range(0, len(whole), length):
        yield whole[start : start + length]
