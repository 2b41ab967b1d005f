"""The computations that are open right now, so that each inherits what its parts rest on."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace

from pytest_taskcache.engine.computation import Basis
from pytest_taskcache.model.dependency import Observed, Opaque
from pytest_taskcache.ports import Window


@dataclass(eq=False)
class Frame:
    """One open computation: its window, and what it has inherited so far."""

    window: Window | None
    derives_from: set[str] = field(default_factory=set)
    taints: set[str] = field(default_factory=set)
    opaque: list[Opaque] = field(default_factory=list)
    expires: float | None = None

    def absorb(self, basis: Basis) -> None:
        """Makes what a used value rests on part of what this computation rests on."""
        if self.window is not None and basis.trace.dependencies:
            self.window.absorb(basis.trace)
        self.derives_from |= basis.derives_from
        self.taints |= set(basis.taints)
        self.opaque += basis.opaque
        self.expires = earliest(self.expires, basis.expires)


class Frames:
    """All open frames of the process. A value used in any thread counts for every one of them,
    as with windows: which thread works for whom cannot be known."""

    def __init__(self) -> None:
        self._open: list[Frame] = []
        self._guard = threading.Lock()

    @property
    def none_open(self) -> bool:
        """Whether nothing is being computed, so that nothing can inherit."""
        return not self._open

    def open(self, window: Window | None) -> Frame:
        """A new frame, open until `close`."""
        frame = Frame(window)
        with self._guard:
            self._open.append(frame)
        return frame

    def discard(self, frame: Frame) -> None:
        """Ends a frame of which nothing is to be kept, which costs next to nothing."""
        self._end(frame)
        if frame.window is not None:
            frame.window.discard()

    def close(self, frame: Frame) -> Observed:
        """Ends the frame; what its window saw, with the opaque deeds it inherited."""
        self._end(frame)
        observed = frame.window.close() if frame.window is not None else Observed()
        if not frame.opaque:
            return observed
        deeds = dict.fromkeys((*observed.opaque, *frame.opaque))
        return replace(observed, opaque=tuple(deeds))

    def _end(self, frame: Frame) -> None:
        with self._guard:
            if frame in self._open:
                self._open.remove(frame)

    def absorb(self, basis: Basis) -> None:
        """Credits a used value to every open frame."""
        if not self._open:
            return
        with self._guard:
            for frame in self._open:
                frame.absorb(basis)

    def forgive(self, kept: Frame) -> None:
        """Takes back from every open frame the opaque deeds of a computation whose value is
        kept. A hit will not do them again, and cold and warm runs must agree."""
        if kept.window is None:
            return
        with self._guard:
            for frame in self._open:
                if frame.window is not None:
                    frame.window.forgive(kept.window)


def earliest(left: float | None, right: float | None) -> float | None:
    """The earlier of two expiry times; None never expires."""
    if left is None or right is None:
        return right if left is None else left
    return min(left, right)
