"""Many calls at once, none of which can make its caller wait for ever."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from functools import partial
from typing import TypeVar

from pytest_taskcache.storage.bulkhead import Bulkhead

T = TypeVar("T")
U = TypeVar("U")

PER_ITEM = 0.02
"""Seconds that every further item of a sweep adds to the time it may take."""


class Stalled(Exception):
    """The time was up before all calls had ended."""


class Workers:
    """At most ``limit`` calls at once, in daemon threads of this process: what a forked child
    inherits is replaced, since threads do not survive a fork."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._pid = 0
        self._bulkhead = Bulkhead(limit, "taskcache-storage")

    def map(self, call: Callable[[T], U], items: Sequence[T], seconds: float) -> list[U]:
        """The results of all calls, in order. Raises the first error, after which no further
        call is started, and Stalled when ``seconds`` (and PER_ITEM for each further item) are
        over; calls under way are then left to themselves."""
        if not items:
            return []
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self._bulkhead = Bulkhead(self._limit, "taskcache-storage")
        deadline = time.monotonic() + seconds + PER_ITEM * (len(items) - 1)
        futures: list[Future[U]] = []
        checked = 0
        for item in items:
            future = self._bulkhead.submit(partial(call, item), deadline - time.monotonic())
            if future is None:
                raise Stalled
            futures.append(future)
            while checked < len(futures) and futures[checked].done():
                futures[checked].result()
                checked += 1
        try:
            return [future.result(max(0.0, deadline - time.monotonic())) for future in futures]
        except FutureTimeoutError:
            raise Stalled from None


__all__ = ["PER_ITEM", "Stalled", "Workers"]
