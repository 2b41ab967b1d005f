"""Threads for calls that may block for ever: bounded in number, and no reason to wait at exit."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, InvalidStateError
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, TypeAlias, TypeVar

from pytest_taskcache.forking import ForkAware

T = TypeVar("T")
U = TypeVar("U")
_Job: TypeAlias = "tuple[Future[Any], Callable[[], Any], Unobserved]"

Unobserved: TypeAlias = Callable[[], AbstractContextManager[object]]
"""Makes a context in which what a thread of ours does is credited to no computation: else its
connections would make whatever test runs at that moment depend on the network."""

_IDLE = 5.0
"""Seconds after which a thread that has nothing to do ends."""


class _Inherited(threading.local):
    unobserved: Unobserved = nullcontext


_inherited = _Inherited()
"""How what runs in this thread is kept out of sight; threads that it uses itself inherit it."""


class Bulkhead(ForkAware):
    """Runs calls in at most ``workers`` daemon threads. A caller who has waited long enough goes
    on; the thread stays with the call until that ends, and so do its costs: never more than
    ``workers`` threads. (``concurrent.futures`` joins its threads at exit, and would hang there.)
    ``unobserved()`` is entered around each call, and around the calls that these have run in
    bulkheads of their own. A forked child, which has none of its parent's threads, starts anew.
    """

    def __init__(self, workers: int, name: str, unobserved: Unobserved | None = None) -> None:
        super().__init__()
        self._workers = workers
        self._name = name
        self._unobserved = unobserved
        self._start_anew()

    def _start_anew(self) -> None:
        self._free = threading.Semaphore(self._workers)
        self._jobs: SimpleQueue[_Job] = SimpleQueue()
        # Calls that were taken on and have not ended, and threads: never fewer of these.
        self._calls = 0
        self._threads = 0

    def submit(self, call: Callable[[], T], patience: float | None = None) -> Future[T] | None:
        """The outcome to come; None if every thread stayed busy for ``patience`` seconds.

        Someone else may settle the future first; then the call's own outcome is dropped.
        """
        if not self._free.acquire(timeout=None if patience is None else max(patience, 0.0)):
            return None
        future: Future[T] = Future()
        with self.lock:
            self._jobs.put((future, call, self._unobserved or _inherited.unobserved))
            self._calls += 1
            if self._calls > self._threads:
                self._threads += 1
                threading.Thread(target=self._work, name=self._name, daemon=True).start()
        return future

    def map(self, call: Callable[[T], U], items: Iterable[T]) -> list[U]:
        """The results of all calls, in order, as many at once as there are threads. ``items`` are
        taken when it is their turn. Raises the first error, after which no call is begun."""
        futures: list[Future[U]] = []
        checked = 0
        for item in items:
            future = self.submit(partial(call, item))
            assert future is not None  # there is no limit to our patience
            futures.append(future)
            while checked < len(futures) and futures[checked].done():
                futures[checked].result()
                checked += 1
        return [future.result() for future in futures]

    def _work(self) -> None:
        while True:
            try:
                future, call, _inherited.unobserved = self._jobs.get(timeout=_IDLE)
            except Empty:
                with self.lock:
                    if self._jobs.empty():
                        self._threads -= 1
                        return
                continue
            value, error = None, None
            try:
                with _inherited.unobserved():
                    value = call()
            except BaseException as raised:
                # Whatever it is belongs to the caller; native extensions raise panics that are no
                # Exception, and this thread must live on.
                error = raised
            with self.lock:
                self._calls -= 1
            self._free.release()
            with suppress(InvalidStateError):  # settled before: the caller has gone on
                if error is None:
                    future.set_result(value)
                else:
                    future.set_exception(error)
            # An idle thread keeps no payload alive.
            del future, call, value, error
