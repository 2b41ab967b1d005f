"""Counts of what an open cache did, kept as an observer of its events."""

from __future__ import annotations

import threading

from pytest_taskcache.dataclass import dataclass
from pytest_taskcache.model.decision import Fault, Hit, Miss, Uncacheable
from pytest_taskcache.model.event import Computed, Decided, Event, Faulted


@dataclass(frozen=True, slots=True)
class CacheStatistics:
    """What happened since a cache was opened.

    ``hits``, ``misses``, ``uncacheable`` and ``failed`` are look-ups by decision; ``kept``
    counts computed values that were stored or staged, ``faults`` all that went wrong and was
    survived, ``saved`` the seconds that the hits took when they were computed.
    """

    hits: int = 0
    misses: int = 0
    uncacheable: int = 0
    failed: int = 0
    kept: int = 0
    faults: int = 0
    saved: float = 0.0


class Counting:
    """An observer that counts. In plain attributes: it is told of every hit."""

    def __init__(self) -> None:
        self._decided = {Hit: 0, Miss: 0, Uncacheable: 0, Fault: 0}
        self._kept = 0
        self._faults = 0
        self._saved = 0.0
        self._lock = threading.Lock()

    def notify(self, event: Event) -> None:
        """As Observer.notify."""
        with self._lock:
            if isinstance(event, Decided):
                self._decided[type(event.decision)] += 1
                self._saved += event.saved
            elif isinstance(event, Computed):
                self._kept += event.staged
            elif isinstance(event, Faulted):
                self._faults += 1

    @property
    def statistics(self) -> CacheStatistics:
        """The counts so far."""
        with self._lock:
            decided = self._decided
            return CacheStatistics(
                decided[Hit],
                decided[Miss],
                decided[Uncacheable],
                decided[Fault],
                self._kept,
                self._faults,
                self._saved,
            )
