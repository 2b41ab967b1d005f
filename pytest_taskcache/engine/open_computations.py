"""The computations that are open right now: each inherits what its parts rest on."""

from __future__ import annotations

import threading

from pytest_taskcache.dataclass import dataclass, field, replace
from pytest_taskcache.engine.computation import Basis
from pytest_taskcache.model.dependency import Observed, Opaque
from pytest_taskcache.ports import Window


@dataclass(eq=False, slots=True)
class OpenComputation:
    """One open computation: its window, and what it has inherited so far."""

    window: Window
    derives_from: set[str] = field(default_factory=set)
    taints: set[str] = field(default_factory=set)
    opaque: list[Opaque] = field(default_factory=list)
    expires: float | None = None
    attached: object = None
    """What an attachment of the engine's knows of it."""

    def absorb(self, basis: Basis) -> None:
        """Makes what a used value rests on part of what this computation rests on."""
        if basis.trace.dependencies:
            self.window.absorb(basis.trace)
        self.derives_from |= basis.derives_from
        self.taints |= set(basis.taints)
        self.opaque += basis.opaque
        self.expires = earliest(self.expires, basis.expires)


class OpenComputations:
    """All open computations of the process. A value used in any thread counts for every one of
    them, as with windows: which thread works for whom cannot be known."""

    def __init__(self) -> None:
        self._open: list[OpenComputation] = []
        self._guard = threading.Lock()

    @property
    def none_open(self) -> bool:
        """Whether nothing is being computed, so that nothing can inherit."""
        return not self._open

    def open(self, window: Window) -> OpenComputation:
        """A new one, open until `close`."""
        opened = OpenComputation(window)
        with self._guard:
            self._open.append(opened)
        return opened

    def discard(self, opened: OpenComputation) -> None:
        """Ends one of which nothing is to be kept, which costs next to nothing."""
        self._end(opened)
        opened.window.discard()

    def close(self, opened: OpenComputation) -> Observed:
        """Ends one; what its window saw, with the opaque deeds it inherited."""
        self._end(opened)
        observed = opened.window.close()
        if not opened.opaque:
            return observed
        deeds = dict.fromkeys((*observed.opaque, *opened.opaque))
        return replace(observed, opaque=tuple(deeds))

    def _end(self, opened: OpenComputation) -> None:
        with self._guard:
            if opened in self._open:
                self._open.remove(opened)

    def absorb(self, basis: Basis) -> None:
        """Credits a used value to every open computation."""
        if not self._open:
            return
        with self._guard:
            for opened in self._open:
                opened.absorb(basis)

    def forgive(self, kept: OpenComputation) -> None:
        """Takes back from every open one the opaque deeds of a computation whose value is kept.
        A hit will not do them again, and cold and warm runs must agree."""
        with self._guard:
            for opened in self._open:
                opened.window.forgive(kept.window)


def earliest(left: float | None, right: float | None) -> float | None:
    """The earlier of two expiry times; None never expires."""
    if left is None or right is None:
        return right if left is None else left
    return min(left, right)
