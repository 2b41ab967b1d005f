"""A storage that cannot hold up or break a run, whatever happens to the one behind it."""

from __future__ import annotations

import mmap
import os
import threading
import time
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, InvalidStateError, wait
from contextlib import nullcontext, suppress
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from pytest_taskcache.errors import StorageError
from pytest_taskcache.model.record import Variant
from pytest_taskcache.ports import Buffer, Storage
from pytest_taskcache.storage.breaker import Breaker
from pytest_taskcache.storage.bulkhead import Bulkhead, Unobserved
from pytest_taskcache.storage.decorator import Decorator
from pytest_taskcache.storage.pointers import results_of
from pytest_taskcache.storage.tally import Tally

T = TypeVar("T")

CHUNK = 500
"""Keys asked for at once: what is a lot for one time limit is not a lot for a storage."""

SLOWEST = 1 << 20
"""Bytes a second below which a transfer is given up although the storage answers."""

_WAITING = 0.9
"""Of the time a run may lose, the share that is spent on waiting; the rest goes to what a failure
costs around it."""
_LONGEST = 600.0
_WORKERS = 8
_PROBE = "0" * 32


class _GivenUpError(Exception):
    """Settles the operations that were under way when the breaker opened."""


class Resilient(Decorator):
    """Every operation ends within ``timeout`` seconds, even where the storage blocks; a failed
    one raises StorageError. After ``faults`` of them, or once failures have cost ``timeout``
    seconds in all, reads are absent and writes are dropped, at once and quietly, to the end of the
    run; so a dead storage costs at most ``timeout`` seconds (per outage, if ``retry_after``
    seconds later it is probed again, which happens in the background).

    A transfer of many bytes may take longer, as long as the storage answers a question meanwhile.
    ``on_fault`` is told once, when it is given up; ``faults`` counts all failures by reason.
    ``unobserved`` is entered by the threads in which all operations run.
    """

    def __init__(
        self,
        storage: Storage,
        *,
        timeout: float = 2.0,
        faults: int = 3,
        on_fault: Callable[[str], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
        retry_after: float | None = None,
        unobserved: Unobserved = nullcontext,
    ) -> None:
        super().__init__(storage)
        self._unobserved = unobserved
        self._timeout = _WAITING * timeout
        self._clock = clock
        self._breaker = Breaker(faults, self._timeout, retry_after)
        self._tally = Tally(on_fault)
        self._start()

    def _start(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._bulkhead = Bulkhead(_WORKERS, "taskcache-storage", self._unobserved)
        self._pending: set[Future[Any]] = set()
        self._unwritten: set[str] = set()
        self._dropped = 0

    @property
    def dropped(self) -> int:
        """How many writes were dropped without an error."""
        return self._dropped + super().dropped

    @property
    def given_up(self) -> bool:
        """Whether reads are absent and writes dropped, for now or for good."""
        return self._breaker.is_open

    @property
    def faults(self) -> Mapping[str, int]:
        """Failed operations by reason."""
        return self._tally.counts

    def warm(self) -> None:
        """Connects in the background, so that the first operation need not within its limit."""
        self._check_process()
        self._bulkhead.submit(self._ask, 0.0)

    # ------------------------------------------------------------------------- records

    def read_records(self, keys: Collection[str]) -> Mapping[str, tuple[Variant, ...]]:
        """As KeyStorage.read_records; in several requests where there are very many keys."""
        found: dict[str, tuple[Variant, ...]] = {}
        none: Mapping[str, tuple[Variant, ...]] = {}
        for chunk in _chunks(keys):
            found |= self._run("read records", partial(self._storage.read_records, chunk), none)
        return found

    def recent(self, identities: Collection[str]) -> Mapping[str, Variant]:
        """As KeyStorage.recent."""
        found: dict[str, Variant] = {}
        none: Mapping[str, Variant] = {}
        for chunk in _chunks(identities):
            found |= self._run("read recent", partial(self._storage.recent, chunk), none)
        return found

    def write_records(self, variants: Sequence[Variant]) -> None:
        """As KeyStorage.write_records; records whose results were dropped are dropped too."""
        named = {digest for variant in variants for digest, _ in results_of(variant)}
        if not named.isdisjoint(self._unwritten):
            self._drop()
            return
        self._write(
            "write records",
            partial(self._storage.write_records, variants),
            size=sum(len(v.result.inline or b"") + 4096 for v in variants),
        )

    def remove_records(self, ids: Collection[str]) -> None:
        """As KeyStorage.remove_records."""
        self._write("remove records", partial(self._storage.remove_records, ids), size=0)

    # ------------------------------------------------------------------------- results

    def write_result(self, digest: str, chunks: Sequence[Buffer]) -> None:
        """As ResultStorage.write_result. Memory that the caller could change after giving up
        waiting is copied first."""
        if self._breaker.is_open:
            kept = list(chunks)
        else:
            kept = [chunk if _is_constant(chunk) else bytes(chunk) for chunk in chunks]
        size = sum(memoryview(chunk).nbytes for chunk in kept)
        self._write_named(
            digest, "write result", partial(self._storage.write_result, digest, kept), size
        )

    def add_file(self, digest: str, source: Path) -> None:
        """As ResultStorage.add_file."""
        try:
            size = source.stat().st_size
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise StorageError(self.describe(), "add file", reason) from error
        self._write_named(digest, "add file", partial(self._storage.add_file, digest, source), size)

    def read_result(self, digest: str, size: int) -> memoryview | None:
        """As ResultStorage.read_result."""
        return self._run(
            "read result", partial(self._storage.read_result, digest, size), None, size / SLOWEST
        )

    def copy_file(self, digest: str, destination: Path, readonly: bool = False) -> bool:
        """As ResultStorage.copy_file; a copy that comes too late is removed."""
        part = destination.with_name(f".{destination.name[:64]}.{uuid.uuid4().hex}")
        given_up = threading.Event()

        def copy() -> bool:
            done = self._storage.copy_file(digest, part, readonly)
            if given_up.is_set():
                part.unlink(missing_ok=True)
            return done

        try:
            done = self._run("copy file", copy, False, _LONGEST)
            if done:
                part.rename(destination)
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise StorageError(self.describe(), "copy file", reason) from error
        finally:
            given_up.set()
        return done

    def has_results(self, digests: Collection[str]) -> frozenset[str]:
        """As ResultStorage.has_results."""
        found: set[str] = set()
        none: frozenset[str] = frozenset()
        for chunk in _chunks(digests):
            found |= self._run("find results", partial(self._storage.has_results, chunk), none)
        return frozenset(found)

    def close(self) -> None:
        """As KeyStorage.close; does not wait for a storage that does not answer."""
        if self._pid == os.getpid() and not self._breaker.is_open:
            future = self._bulkhead.submit(self._storage.close, 0.0)
            if future is not None:
                wait([future], self._timeout)

    # ---------------------------------------------------------------------- operations

    def _write_named(
        self, digest: str, operation: str, call: Callable[[], None], size: int
    ) -> None:
        # Until it is known to be there: a write that failed here may still have been the only one.
        self._unwritten.add(digest)
        if self._write(operation, call, size):
            self._unwritten.discard(digest)

    def _write(self, operation: str, call: Callable[[], None], size: int) -> bool:
        """Whether it was written rather than dropped."""

        def done() -> bool:
            call()
            return True

        if self._run(operation, done, False, size / SLOWEST):
            return True
        self._drop()
        return False

    def _drop(self) -> None:
        with self._lock:
            self._dropped += 1

    def _run(self, operation: str, call: Callable[[], T], absent: T, extra: float = 0.0) -> T:
        """What the call returns; ``absent`` if the storage is given up. ``extra`` seconds are
        granted while it answers probes. Raises StorageError."""
        self._check_process()
        with self._lock:
            left = self._breaker.left
            probe = self._breaker.wants_probe(self._clock())
        if probe:
            self._probe()
        if left <= 0.0:
            return absent
        limit, began = min(self._timeout, left), self._clock()
        future = self._bulkhead.submit(call, limit)
        if future is not None:
            with self._lock:
                self._pending.add(future)
            try:
                self._await(future, limit, extra)
            finally:
                with self._lock:
                    self._pending.discard(future)
        if future is None or not future.done():
            raise self._failed(operation, "timed out", self._clock() - began)
        error = future.exception()
        if error is None:
            return future.result()
        if isinstance(error, _GivenUpError):
            return absent
        lost = self._clock() - began
        if isinstance(error, StorageError):
            self._failed(operation, error.reason, lost)
            raise error
        # Only its type: the text of a vendor's error may hold a URL with its password.
        raise self._failed(operation, type(error).__name__, lost) from None

    def _await(self, future: Future[T], limit: float, extra: float) -> None:
        """Returns when the future is settled or no longer worth waiting for."""
        if extra <= 0.0:
            wait([future], limit)
            return
        began = self._clock()
        while not wait([future], limit / 2).done:
            if self._clock() - began > limit + extra:
                return
            pulse = self._bulkhead.submit(self._ask, limit / 2)
            if pulse is None:
                return
            both: list[Future[Any]] = [future, pulse]
            wait(both, limit / 2, return_when=FIRST_COMPLETED)
            if not future.done() and (not pulse.done() or pulse.exception() is not None):
                return

    def _ask(self) -> object:
        return self._storage.has_results([_PROBE])

    def _failed(self, operation: str, reason: str, lost: float) -> StorageError:
        self._tally.count(reason)
        with self._lock:
            opened = self._breaker.fail(self._clock(), lost)
            pending = list(self._pending) if opened else []
        for future in pending:
            # It may have been settled in this very moment.
            with suppress(InvalidStateError):
                future.set_exception(_GivenUpError())
        if opened:
            self._tally.warn(
                f"{self.describe()}: given up, the run goes on without it "
                f"(last failure: {operation}: {reason})"
            )
        return StorageError(self.describe(), operation, reason)

    def _probe(self) -> None:
        """Asks, without waiting, whether a storage that was given up answers again."""
        future = self._bulkhead.submit(self._ask, 0.0)
        if future is not None:
            future.add_done_callback(self._probed)

    def _probed(self, future: Future[object]) -> None:
        if future.exception() is None:
            with self._lock:
                self._breaker.close()

    def _check_process(self) -> None:
        """A forked child has neither the threads nor, perhaps, a free lock of its parent."""
        if self._pid != os.getpid():
            self._start()


def _chunks(items: Collection[str]) -> list[list[str]]:
    rest = iter(items)
    return list(iter(lambda: list(islice(rest, CHUNK)), []))


def _is_constant(chunk: Buffer) -> bool:
    view = memoryview(chunk)
    return isinstance(view.obj, bytes) or (view.readonly and isinstance(view.obj, mmap.mmap))
