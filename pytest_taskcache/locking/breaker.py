"""Keeps a server that does not answer from being asked again and again."""

from __future__ import annotations

import time
from collections.abc import Callable

FAULTS = 3
"""So many quick faults in a row open the circuit; a single slow one does."""


class Breaker:
    """Open for ``pause`` seconds after a fault that took ``slow`` seconds, or three in a row; while
    it is open, nobody should ask. ``clock`` gives seconds and only grows.
    """

    def __init__(
        self, pause: float, slow: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._pause = pause
        self._slow = slow
        self._clock = clock
        self._faults = 0
        self._until = float("-inf")

    def closed(self) -> bool:
        """Whether the server may be asked."""
        return self._clock() >= self._until

    def now(self) -> float:
        """The time, to be handed to ``failed``."""
        return self._clock()

    def succeeded(self) -> None:
        """The server answered."""
        self._faults = 0
        self._until = float("-inf")

    def failed(self, started: float) -> None:
        """What began then ended in a fault now."""
        now = self._clock()
        self._faults += 1
        if self._faults >= FAULTS or now - started >= self._slow:
            self._until = now + self._pause
