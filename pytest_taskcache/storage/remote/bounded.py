"""A storage that cannot hold up or break a run, whatever happens to the one behind it."""

from __future__ import annotations

import mmap
import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, InvalidStateError, wait
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from pytest_taskcache.breaker import Breaker
from pytest_taskcache.errors import StorageError
from pytest_taskcache.forking import ForkAware
from pytest_taskcache.model.record import Variant
from pytest_taskcache.ports import Buffer, Storage, TargetFile, TargetStorage
from pytest_taskcache.storage.local.faults import told
from pytest_taskcache.storage.remote.blobs import batches
from pytest_taskcache.storage.remote.threads import Bulkhead, Unobserved

T = TypeVar("T")

CHUNK = 500
"""Keys asked for at once: what is a lot for one time limit is not a lot for a storage."""
SLOWEST = 1 << 20
"""Bytes a second below which a transfer is given up although the storage answers."""
_WAITING = 0.9
"""Of the time a run may lose, the share that is spent on waiting; the rest goes to what a failure
costs around it."""
_LONGEST = 600.0
"""Seconds that a transfer may take of which nobody knows how large it is."""
_WORKERS = 8
_PROBE = "0" * 32


class _GivenUpError(Exception):
    """Settles the operations that were under way when the breaker opened."""


class Bounded(ForkAware):
    """Every operation ends within ``timeout`` seconds, even where the storage blocks; a failed
    one raises StorageError. After ``faults`` of them, or once failures have cost ``timeout``
    seconds in all, reads are absent and writes are dropped, at once and quietly, to the end of the
    run; so a dead storage costs at most ``timeout`` seconds. ``on_fault`` is told when that
    happens.

    A transfer of many bytes may take longer, as long as the storage answers a question meanwhile.
    ``unobserved`` is entered by the threads in which all operations run.
    """

    def __init__(
        self,
        storage: Storage,
        *,
        timeout: float = 2.0,
        faults: int = 3,
        on_fault: Callable[[str], None] = lambda sentence: None,
        clock: Callable[[], float] = time.monotonic,
        unobserved: Unobserved | None = None,
    ) -> None:
        super().__init__()
        self._storage = storage
        self.describe, self.trusted = storage.describe, storage.trusted
        self._timeout = _WAITING * timeout
        self._on_fault = on_fault
        self._clock = clock
        self._breaker = Breaker(self._timeout, faults=faults, clock=clock)
        self._bulkhead = Bulkhead(_WORKERS, "taskcache-storage", unobserved)
        self._pending: set[Future[Any]] = set()

    def _start_anew(self) -> None:
        self._pending = set()

    @property
    def given_up(self) -> bool:
        """Whether reads are absent and writes dropped."""
        return not self._breaker.closed()

    def warm(self) -> None:
        """Connects in the background, so that the first operation need not within its limit."""
        self._bulkhead.submit(self._ask, 0.0)

    def read_records(self, keys: Collection[str]) -> Mapping[str, tuple[Variant, ...]]:
        """As KeyStorage.read_records; in several requests where there are very many keys."""
        return self._chunked("read records", self._storage.read_records, keys)

    def recent(self, identities: Collection[str]) -> Mapping[str, Variant]:
        """As KeyStorage.recent."""
        return self._chunked("read recent", self._storage.recent, identities)

    def scan(self) -> Iterator[Variant]:
        """As KeyStorage.scan; each record is waited for as long as a transfer."""
        scanned: list[Iterator[Variant]] = []

        def one() -> Variant | None:
            if not scanned:
                scanned.append(iter(self._storage.scan()))
            return next(scanned[0], None)

        while (variant := self.run("list records", one, None, _LONGEST)) is not None:
            yield variant

    def write_records(self, variants: Sequence[Variant]) -> None:
        """As KeyStorage.write_records."""
        size = sum(len(v.result.inline or b"") + 4096 for v in variants)
        write = partial(self._storage.write_records, variants)
        self.run("write records", write, None, size / SLOWEST)

    def remove_records(self, ids: Collection[str]) -> None:
        """As KeyStorage.remove_records."""
        self.run("remove records", partial(self._storage.remove_records, ids), None)

    def write_result(self, digest: str, chunks: Sequence[Buffer]) -> None:
        """As ResultStorage.write_result. Memory that the caller could change after giving up
        waiting is copied first."""
        kept = list(chunks) if self.given_up else list(map(_constant, chunks))
        size = sum(memoryview(chunk).nbytes for chunk in kept)
        write = partial(self._storage.write_result, digest, kept)
        self.run("write result", write, None, size / SLOWEST)

    def add_file(self, digest: str, source: Path) -> None:
        """As ResultStorage.add_file."""
        self.run("add file", partial(self._storage.add_file, digest, source), None, _LONGEST)

    def read_result(self, digest: str, size: int) -> memoryview | None:
        """As ResultStorage.read_result."""
        read = partial(self._storage.read_result, digest, size)
        return self.run("read result", read, None, size / SLOWEST)

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
            done = self.run("copy file", copy, False, _LONGEST)
        finally:
            given_up.set()
        if done:
            with told(self.describe(), "copy file"):
                part.rename(destination)
        return done

    def has_results(self, digests: Collection[str]) -> frozenset[str]:
        """As ResultStorage.has_results."""
        found: frozenset[str] = frozenset()
        for some in batches(digests, CHUNK):
            ask = partial(self._storage.has_results, some)
            found |= self.run("find results", ask, frozenset[str]())
        return found

    def read_target(self, name: str) -> TargetFile | None:
        """As TargetStorage.read_target; nothing where the storage keeps no targets."""
        if not isinstance(self._storage, TargetStorage):
            return None
        return self.run("read a target", partial(self._storage.read_target, name), None, _LONGEST)

    def write_target(self, name: str, data: Buffer, key: str) -> None:
        """As TargetStorage.write_target."""
        if not isinstance(self._storage, TargetStorage):
            raise StorageError(self.describe(), "write a target", "it keeps no targets")
        write = partial(self._storage.write_target, name, _constant(data), key)
        self.run("write a target", write, None, memoryview(data).nbytes / SLOWEST)

    def target_path(self, name: str) -> None:
        """As TargetStorage.target_path: there is none, as what others write is looked at once."""

    def close(self) -> None:
        """As KeyStorage.close; does not wait for a storage that does not answer."""
        if not self.given_up:
            future = self._bulkhead.submit(self._storage.close, 0.0)
            if future is not None:
                wait([future], self._timeout)

    def run(self, operation: str, call: Callable[[], T], absent: T, extra: float = 0.0) -> T:
        """What a call of the storage returns; ``absent`` if it is given up. ``extra`` seconds are
        granted while it answers questions. Raises StorageError."""
        with self.lock:
            left = self._breaker.left()
        if left <= 0.0:
            return absent
        limit, began = min(self._timeout, left), self._breaker.now()
        future = self._bulkhead.submit(call, limit)
        if future is not None:
            with self.lock:
                self._pending.add(future)
            try:
                self._await(future, limit, extra)
            finally:
                with self.lock:
                    self._pending.discard(future)
        if future is None or not future.done():
            raise self._failed(operation, "timed out", began)
        error = future.exception()
        if error is None:
            return future.result()
        if isinstance(error, _GivenUpError):
            return absent
        if isinstance(error, StorageError):
            self._failed(operation, error.reason, began)
            raise error
        # Only its type: the text of a vendor's error may hold a URL with its password.
        raise self._failed(operation, type(error).__name__, began) from None

    def _chunked(
        self, operation: str, ask: Callable[[list[str]], Mapping[str, T]], names: Collection[str]
    ) -> dict[str, T]:
        found: dict[str, T] = {}
        for some in batches(names, CHUNK):
            none: Mapping[str, T] = {}
            found |= self.run(operation, partial(ask, some), none)
        return found

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

    def _failed(self, operation: str, reason: str, began: float) -> StorageError:
        with self.lock:
            opened = self._breaker.failed(began)
            pending = list(self._pending) if opened else []
        for future in pending:
            # It may have been settled in this very moment.
            with suppress(InvalidStateError):
                future.set_exception(_GivenUpError())
        if opened:
            self._on_fault(
                f"{self.describe()}: given up, the run goes on without it "
                f"(last failure: {operation}: {reason})"
            )
        return StorageError(self.describe(), operation, reason)


def _constant(chunk: Buffer) -> Buffer:
    """The same bytes where nobody can change them any more."""
    view = memoryview(chunk)
    if isinstance(view.obj, bytes) or (view.readonly and isinstance(view.obj, mmap.mmap)):
        return chunk
    return bytes(chunk)
