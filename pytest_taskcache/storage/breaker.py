"""A circuit breaker: when to stop asking a storage that fails. Pure; the clock is handed in."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Breaker:
    """Opens after ``faults`` failed operations or once ``budget`` seconds were lost in them,
    whichever comes first, and stays open; or, with ``retry_after`` seconds, asks for one probe
    that long after it opened and closes, with a new budget, if that succeeds.

    Not thread-safe: its owner holds a lock. (After the pattern in M. Nygard, "Release It!".)
    """

    faults: int
    budget: float
    retry_after: float | None = None
    _failed: int = 0
    _lost: float = 0.0
    _opened: float | None = field(default=None)

    @property
    def is_open(self) -> bool:
        """Whether operations are not to be tried."""
        return self._opened is not None

    @property
    def left(self) -> float:
        """Seconds the next operation may take before it has failed."""
        return 0.0 if self.is_open else self.budget - self._lost

    def fail(self, now: float, lost: float) -> bool:
        """Notes a failed operation that took ``lost`` seconds; True if this opened the breaker."""
        if self.is_open:
            return False
        self._failed += 1
        self._lost += lost
        if self._failed < self.faults and self._lost < self.budget:
            return False
        self._opened = now
        return True

    def wants_probe(self, now: float) -> bool:
        """Whether a probe is due; True once per pause."""
        if self._opened is None or self.retry_after is None:
            return False
        if now - self._opened < self.retry_after:
            return False
        self._opened = now
        return True

    def close(self) -> None:
        """Starts anew: a probe has succeeded."""
        self._failed, self._lost, self._opened = 0, 0.0, None
