"""Records that nothing waits for, written several at a time."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from pytest_taskcache.model.record import Variant

_MANY = 64
_LONG = 0.25
"""Seconds; what a killed process loses is at most so much of its work, and what ran since."""


@dataclass
class Deferred:
    """Holds records of computations that committed by themselves (outcomes, mostly) until there
    are some: one transaction of the storage a record would take longer than most tests.

    ``publish(destination, records)`` writes them, and raises where it cannot; then each is
    written by itself. Who handed in a record is told what became of it: None once it is visible,
    else the error.
    """

    publish: Callable[[str, Sequence[Variant]], None]
    _waiting: list[tuple[str, Variant, Callable[[Exception | None], None]]] = field(
        default_factory=list
    )
    _keys: set[str] = field(default_factory=set)
    _since: float = 0.0
    _pid: int = field(default_factory=os.getpid)

    def add(
        self, destination: str, variant: Variant, told: Callable[[Exception | None], None]
    ) -> None:
        """Takes a record, and writes all there are if it is time to."""
        now = time.monotonic()
        if not self._waiting:
            self._since = now
        self._waiting.append((destination, variant, told))
        self._keys.add(variant.key)
        if len(self._waiting) >= _MANY or now - self._since > _LONG or variant.duration > _LONG:
            self.flush()

    def settle(self, key: str) -> None:
        """To be called before records of this key are read: none of it waits any more."""
        if key in self._keys:
            self.flush()

    def flush(self) -> None:
        """Writes all. A forked child leaves that to its parent."""
        waiting, self._waiting, self._keys = self._waiting, [], set()
        if os.getpid() != self._pid:
            return
        destinations: dict[str, list[tuple[Variant, Callable[[Exception | None], None]]]] = {}
        for destination, variant, told in waiting:
            destinations.setdefault(destination, []).append((variant, told))
        for destination, entries in destinations.items():
            if self._written(destination, [variant for variant, _ in entries]) is None:
                for _, told in entries:
                    told(None)
                continue
            for variant, told in entries:
                told(self._written(destination, [variant]))

    def _written(self, destination: str, variants: Sequence[Variant]) -> Exception | None:
        try:
            self.publish(destination, variants)
        except Exception as error:  # storages may be users' code; who handed it in is told
            return error
        return None
