"""Counts of what went wrong, by reason, and at most one warning about it."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping


class Tally:
    """Faults by reason; ``warn`` calls ``on_fault`` the first time only. Thread-safe."""

    def __init__(self, on_fault: Callable[[str], None] | None = None) -> None:
        self._on_fault = on_fault
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._warned = False

    def count(self, reason: str, times: int = 1) -> None:
        """Adds to the count of a reason."""
        with self._lock:
            self._counts[reason] += times

    def warn(self, text: str) -> None:
        """Tells the one warning; every later one is dropped."""
        with self._lock:
            if self._warned:
                return
            self._warned = True
        if self._on_fault is not None:
            self._on_fault(text)

    @property
    def counts(self) -> Mapping[str, int]:
        """A copy of the counts."""
        with self._lock:
            return dict(self._counts)
