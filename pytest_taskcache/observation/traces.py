"""Traces from dependencies, each distinct one a single object while it is in use."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from itertools import chain
from threading import Lock

from xxhash import xxh3_128_hexdigest

from pytest_taskcache.model.dependency import Dependency, Trace

_KEPT = 1024


def digest_of(dependencies: Iterable[Dependency]) -> str:
    """The trace's digest: xxh3-128, hexadecimal, of kinds, names and digests in order. None of
    the three can hold the separator, NUL."""
    text = "\0".join(chain.from_iterable(dependencies))
    return xxh3_128_hexdigest(text.encode("utf-8", "surrogatepass"))


class Traces:
    """The latest traces by digest, and one object per dependency for all of them."""

    def __init__(self) -> None:
        self._traces: OrderedDict[str, Trace] = OrderedDict()
        self._lock = Lock()

    def of(self, dependencies: Iterable[Dependency]) -> Trace:
        """The trace of these dependencies, (kind, name) unique, in any order."""
        return self.of_sorted(tuple(sorted(dependencies)))

    def of_sorted(self, ordered: tuple[Dependency, ...]) -> Trace:
        """As `of`, for dependencies that are sorted already."""
        digest = digest_of(ordered)
        with self._lock:
            trace = self._traces.get(digest)
            if trace is None:
                trace = self._traces[digest] = Trace(ordered, digest)
                if len(self._traces) > _KEPT:
                    self._traces.popitem(last=False)
            else:
                self._traces.move_to_end(digest)
        return trace
