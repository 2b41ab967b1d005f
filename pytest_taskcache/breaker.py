"""A circuit breaker: when to stop asking a server that fails (M. Nygard, "Release It!")."""

from __future__ import annotations

import math
import time
from collections.abc import Callable


class Breaker:
    """Opens after ``faults`` failed operations, or once ``budget`` seconds were lost in them,
    whichever comes first, and stays open for ``pause`` seconds (for good, unless told). While it
    is open, nobody should ask. ``clock`` gives seconds and only grows.

    ``succeeded`` forgets the failures before it; who never calls it counts them all, and so finds
    out a server that works every other time. Not thread-safe: its owner holds a lock.
    """

    def __init__(
        self,
        budget: float,
        *,
        faults: int = 3,
        pause: float = math.inf,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._budget = budget
        self._faults = faults
        self._pause = pause
        self._clock = clock
        self._failed = 0
        self._lost = 0.0
        self._until = -math.inf

    def closed(self) -> bool:
        """Whether the server may be asked."""
        return self._clock() >= self._until

    def left(self) -> float:
        """Seconds the next operation may take before it has failed; 0 while it is open."""
        return max(0.0, self._budget - self._lost) if self.closed() else 0.0

    def now(self) -> float:
        """The time, to be handed to ``failed``."""
        return self._clock()

    def succeeded(self) -> None:
        """The server answered."""
        self._failed, self._lost, self._until = 0, 0.0, -math.inf

    def failed(self, started: float) -> bool:
        """What began then ended in a fault now; True if this opened the breaker. One that is open
        already stays so for another pause."""
        now = self._clock()
        if now < self._until:
            self._until = now + self._pause
            return False
        self._failed += 1
        self._lost += now - started
        if self._failed < self._faults and self._lost < self._budget:
            return False
        self._until = now + self._pause
        return True
