"""Records and their results on their way to a further storage, in background threads."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import nullcontext
from typing import TypeAlias

from pytest_taskcache.dataclass import dataclass
from pytest_taskcache.errors import StorageError
from pytest_taskcache.model.record import Variant
from pytest_taskcache.ports import Storage
from pytest_taskcache.storage.forking import ForkAware
from pytest_taskcache.storage.records import copy_results, results_of
from pytest_taskcache.storage.remote.threads import Unobserved

CAPACITY = 20_000
"""Records that may wait; they are small, as their results are read again when it is their turn."""
_BATCH = 200
_THREADS = 4
_NAMED = 20
_TICK = 0.5
_GIVEN_UP = "the storage was given up"
_Job: TypeAlias = tuple[Variant, ...]


@dataclass(frozen=True, slots=True)
class Drained:
    """What became of the records that were to be uploaded.

    ``failed`` counts those that were tried, or for which there was no room; ``left`` those that
    there was no time for. ``unsent`` names the first of both (at most 20), ``reasons`` says why.
    """

    uploaded: int = 0
    failed: int = 0
    left: int = 0
    unsent: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()

    def __add__(self, other: Drained) -> Drained:
        return Drained(
            self.uploaded + other.uploaded,
            self.failed + other.failed,
            self.left + other.left,
            (self.unsent + other.unsent)[:_NAMED],
            tuple(dict.fromkeys(self.reasons + other.reasons)),
        )


class WriteBehind(ForkAware):
    """Copies what was written to ``source`` on to ``target``: first the results, re-read from the
    source, then the records, all of one ``offer`` together. Whoever is killed in between leaves
    results that no record names, never a record without its result. A forked child has nothing to
    upload: what waits belongs to its parent.
    """

    def __init__(
        self,
        source: Storage,
        target: Storage,
        capacity: int = CAPACITY,
        unobserved: Unobserved = nullcontext,
    ) -> None:
        super().__init__()
        self._unobserved = unobserved
        self._source = source
        self._target = target
        self._capacity = capacity
        self._start_anew()

    def _start_anew(self) -> None:
        self._changed = threading.Condition(self.lock)
        self._jobs: deque[_Job] = deque()
        self._under_way: dict[int, _Job] = {}
        self._waiting = 0
        self._threads = 0
        self._stopped = False
        self._done = Drained()

    def offer(self, variants: Sequence[Variant]) -> bool:
        """Queues records to appear together; False, and they have failed, if there is no room."""
        job = tuple(variants)
        with self._changed:
            if self._waiting + len(job) > self._capacity:
                self._fail(job, "too many uploads are waiting")
                return False
            self._jobs.append(job)
            self._waiting += len(job)
            self._stopped = False
            if self._threads < _THREADS:
                self._threads += 1
                threading.Thread(target=self._work, name="taskcache-upload", daemon=True).start()
            self._changed.notify_all()
        return True

    def forget(self, ids: Collection[str]) -> None:
        """Takes back what is still waiting."""
        with self._changed:
            kept = [tuple(v for v in job if v.id not in ids) for job in self._jobs]
            self._jobs = deque(job for job in kept if job)
            self._waiting = sum(map(len, (*self._jobs, *self._under_way.values())))
            self._changed.notify_all()

    def drain(
        self, timeout: float, on_progress: Callable[[int, int], None] | None = None
    ) -> Drained:
        """Waits until all is uploaded, or ``timeout`` seconds; what is left then is not begun.

        ``on_progress(done, total)`` is called at least twice a second, in this thread.
        """
        deadline = time.monotonic() + timeout
        while True:
            with self._changed:
                left = deadline - time.monotonic()
                if self._waiting and left > 0:
                    self._changed.wait(min(left, _TICK))
                done, waiting = self._done.uploaded + self._done.failed, self._waiting
                if not waiting or time.monotonic() >= deadline:
                    return self._end()
            if on_progress is not None:
                on_progress(done, done + waiting)

    def flush(self, timeout: float) -> bool:
        """Waits at most ``timeout`` seconds until nothing waits or is under way; whether that is
        so. What failed is told by ``drain``."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._waiting, timeout)

    def stop(self) -> None:
        """Begins no further upload and lets the threads end; waits for nothing."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def _work(self) -> None:
        while True:
            with self._changed:
                if self._stopped or not self._jobs:
                    self._threads -= 1
                    return
                batch = self._take()
            with self._unobserved():
                reasons = self._upload(batch)
            with self._changed:
                for job, reason in zip(batch, reasons, strict=True):
                    if self._under_way.pop(id(job), None) is None:
                        continue  # told as left over by drain
                    self._waiting -= len(job)
                    if reason:
                        self._fail(job, reason)
                    else:
                        self._done += Drained(uploaded=len(job))
                self._changed.notify_all()

    def _take(self) -> list[_Job]:
        batch, size = [], 0
        # A share of what waits, so that one thread does not take all of a few long uploads.
        share = max(1, min(_BATCH, self._waiting // _THREADS))
        while self._jobs and size < share:
            batch.append(self._jobs.popleft())
            size += len(batch[-1])
        self._under_way |= {id(job): job for job in batch}
        return batch

    def _upload(self, batch: list[_Job]) -> list[str]:
        """Why each job could not be uploaded; "" for those that were."""
        if self._is_given_up():
            # Nothing is re-read and digested in vain at the end of a run.
            return [_GIVEN_UP] * len(batch)
        reasons = [""] * len(batch)
        try:
            digests = {digest for job in batch for v in job for digest, _ in results_of(v)}
            present = set(self._target.has_results(digests))
            for place, job in enumerate(batch):
                reasons[place] = self._upload_results(job, present)
            whole = [v for job, why in zip(batch, reasons, strict=True) if not why for v in job]
            if whole:
                self._target.write_records(whole)
            # What was written after it was given up was dropped, without an error.
            missed = _GIVEN_UP if self._is_given_up() else ""
        except StorageError as error:
            missed = error.reason
        except Exception as error:
            # A fault of an adapter, or of the interpreter at its end: this batch is lost and
            # counted, the thread goes on with the next.
            missed = type(error).__name__
        return [why or missed for why in reasons]

    def _is_given_up(self) -> bool:
        return bool(getattr(self._target, "given_up", False))

    def _upload_results(self, job: _Job, present: set[str]) -> str:
        try:
            for variant in job:
                copy_results(variant, self._source, self._target, present)
        except StorageError as error:
            return error.reason
        return ""

    def _fail(self, job: _Job, reason: str) -> None:
        self._done += Drained(failed=len(job), unsent=_names([job]), reasons=(reason,))

    def _end(self) -> Drained:
        over = [*self._under_way.values(), *self._jobs]
        ended = self._done + Drained(left=self._waiting, unsent=_names(over))
        self._jobs.clear()
        self._under_way.clear()
        self._waiting = 0
        self._done = Drained()
        return ended


def _names(jobs: Iterable[_Job]) -> tuple[str, ...]:
    return tuple([str(variant.identity) for job in jobs for variant in job][:_NAMED])
