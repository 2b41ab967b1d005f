"""Several storages as one, in order: the local one first, shared ones behind it.

Writes go to the first writable tier and are uploaded to the others in the background. What was read
from a later tier is copied into the earlier ones.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TypeAlias, TypeVar

from pytest_taskcache.dataclass import dataclass
from pytest_taskcache.errors import ConfigurationError, StorageError
from pytest_taskcache.forking import ForkAware
from pytest_taskcache.model.record import Variant
from pytest_taskcache.ports import Buffer, FullStorage, TargetFile
from pytest_taskcache.storage.records import copy_results, results_of
from pytest_taskcache.storage.remote.signed import is_inert, newest
from pytest_taskcache.storage.remote.threads import Unobserved

T = TypeVar("T")
_Content = TypeVar("_Content", memoryview, Path)

_KEPT = 50_000
"""Results that records may wait for before they are filled in."""
CAPACITY = 20_000
"""Records that may wait; they are small, as their results are read again when it is their turn."""
_BATCH = 200
_THREADS = 4
_NAMED = 20
_TICK = 0.5
_GIVEN_UP = "the storage was given up"
_Job: TypeAlias = tuple[Variant, ...]
_Waiting: TypeAlias = "tuple[Variant, Sequence[WriteBehind]]"


@dataclass(frozen=True, slots=True)
class Tier:
    """A storage, and whether it is read and written."""

    storage: FullStorage
    read: bool = True
    write: bool = True


@dataclass(frozen=True, slots=True)
class Drained:
    """What became of the records that were to be uploaded.

    ``failed`` counts uploads that failed or found the queue full, ``left`` those that ran out of
    time. ``unsent`` names the first of both (at most 20), ``reasons`` says why.
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


class Split:
    """One storage of two: records in the one, results and targets in the other."""

    def __init__(self, records: FullStorage, results: FullStorage) -> None:
        self.trusted = results.trusted
        self.read_records = records.read_records
        self.write_records = records.write_records
        self.recent = records.recent
        self.scan = records.scan
        self.remove_records = records.remove_records
        self.write_result = results.write_result
        self.add_file = results.add_file
        self.read_result = results.read_result
        self.copy_file = results.copy_file
        self.has_results = results.has_results
        self.read_target = results.read_target
        self.write_target = results.write_target
        self.target_path = results.target_path
        self._both = records, results

    @property
    def given_up(self) -> bool:
        """Whether one of the two has been given up for this run."""
        return any(getattr(storage, "given_up", False) for storage in self._both)

    def describe(self) -> str:
        """Both places."""
        records, results = self._both
        return f"records in {records.describe()}, results in {results.describe()}"

    def close(self) -> None:
        """As KeyStorage.close."""
        for storage in self._both:
            storage.close()


class Tiered:
    """A Storage of tiers, nearest first.

    Reads: each tier is asked only for what the tiers before it do not have (or, with ``valid``,
    have no valid variant of: the first one may hold outdated records). What is found is copied into
    the writable tiers before it. Writes: to the first writable tier, which alone decides whether
    they succeed; the others get a copy in the background, results before records. Without a
    writable tier, writes are dropped.

    What a tier that is not ``trusted`` returns is never copied into a trusted one, and its results
    are returned only if no trusted record names them, so its bytes are never unpickled.

    Failures of a tier that broke nothing are told to ``on_fault(reason, sentence)``; a read raises
    StorageError only where no other tier had anything. ``unobserved`` is entered by the threads
    that upload.
    """

    def __init__(
        self,
        tiers: Sequence[Tier],
        *,
        valid: Callable[[Variant], bool] | None = None,
        capacity: int = CAPACITY,
        unobserved: Unobserved = nullcontext,
        on_fault: Callable[[str, str], None] = lambda reason, sentence: None,
    ) -> None:
        if not tiers:
            raise ConfigurationError("storage tiers", "there are none", "name at least one")
        self._tiers = tuple(tiers)
        self.trusted = any(tier.storage.trusted for tier in tiers)
        self._readable = tuple(tier.storage for tier in tiers if tier.read)
        self._writable = tuple(tier.storage for tier in tiers if tier.write)
        self._first = self._writable[0] if self._writable else None
        self.uploads = tuple(
            WriteBehind(self._writable[0], storage, capacity, unobserved)
            for storage in self._writable[1:]
        )
        self._valid = valid
        self._on_fault = on_fault
        self._onward = [self._uploads_for(tier) for tier in tiers if tier.read]
        # By the digest of a result that is not in the first writable tier yet: the records that
        # wait for it, by id, and the uploads that get them then.
        self._waiting: dict[str, dict[str, _Waiting]] = {}
        # Results that records name, and whether a trusted one does.
        self._vouched: dict[str, bool] = {}
        self._doubts = any(not storage.trusted for storage in self._readable)
        self._lock = threading.Lock()

    def _uploads_for(self, source: Tier) -> Sequence[WriteBehind] | None:
        """The uploads by which records read from a tier reach the writable tiers before it, after
        they were copied into the first one; None if they must not be copied there."""
        before = [
            tier.storage
            for tier in self._tiers[: self._tiers.index(source)]
            if tier.write and (source.storage.trusted or not tier.storage.trusted)
        ]
        if not before or before[0] is not self._first:
            return None
        pairs = zip(self._writable[1:], self.uploads, strict=True)
        return [uploads for storage, uploads in pairs if storage in before]

    def describe(self) -> str:
        """The tiers, nearest first."""
        return ", then ".join(
            tier.storage.describe() + ("" if tier.write else " (read-only)") for tier in self._tiers
        )

    def read_records(self, keys: Collection[str]) -> Mapping[str, tuple[Variant, ...]]:
        """As KeyStorage.read_records, from the first tier that has them."""
        found: dict[str, tuple[Variant, ...]] = {}
        wanted: Collection[str] = keys

        def ask(storage: FullStorage) -> Mapping[str, tuple[Variant, ...]] | None:
            here = storage.read_records(wanted) if wanted else {}
            kept = {key: self._accepted(storage, variants) for key, variants in here.items()}
            return {key: variants for key, variants in kept.items() if variants} or None

        for place, here in self._each(ask, self._readable):
            onward = self._onward[place]
            if onward is not None:
                self._await_results([(v, onward) for variants in here.values() for v in variants])
            for key, variants in here.items():
                found[key] = newest((*found[key], *variants)) if key in found else variants
            if place + 1 < len(self._readable):
                valid = self._valid or bool
                wanted = [key for key in wanted if not any(map(valid, found.get(key, ())))]
        return found

    def recent(self, identities: Collection[str]) -> Mapping[str, Variant]:
        """As KeyStorage.recent, from the first tier that has it."""
        found: dict[str, Variant] = {}

        def ask(storage: FullStorage) -> Mapping[str, Variant] | None:
            wanted = [identity for identity in identities if identity not in found]
            here = storage.recent(wanted) if wanted else {}
            return {i: v for i, v in here.items() if self._accepted(storage, (v,))} or None

        for _, here in self._each(ask, self._readable):
            found.update(here)
        return found

    def scan(self) -> Iterator[Variant]:
        """As KeyStorage.scan, over all tiers, each variant once. A tier that fails half-way is
        counted; StorageError is raised only where no tier gave anything."""
        seen: set[str] = set()
        errors: list[StorageError] = []
        for storage in self._readable:
            try:
                for variant in storage.scan():
                    if variant.id not in seen and self._accepted(storage, (variant,)):
                        seen.add(variant.id)
                        yield variant
            except StorageError as error:
                errors.append(error)
        self._count(errors, found=bool(seen))

    def write_records(self, variants: Sequence[Variant]) -> None:
        """As KeyStorage.write_records, to the first writable tier; the others follow."""
        if self._first is None:
            return
        self._name(variants, trusted=True)
        self._first.write_records(variants)
        for uploads in self.uploads:
            uploads.offer(variants)

    def remove_records(self, ids: Collection[str]) -> None:
        """As KeyStorage.remove_records, from every writable tier; raises the first error."""
        for uploads in self.uploads:
            uploads.forget(ids)
        with self._lock:
            for waiting in self._waiting.values():
                for id_ in ids:
                    waiting.pop(id_, None)
        list(self._each(lambda storage: storage.remove_records(ids), self._writable))

    def write_result(self, digest: str, chunks: Sequence[Buffer]) -> None:
        """As ResultStorage.write_result, to the first writable tier. The others get it with its
        record, so that what is rolled back is never sent."""
        if self._first is not None:
            self._first.write_result(digest, chunks)

    def add_file(self, digest: str, source: Path) -> None:
        """As write_result, from a file."""
        if self._first is not None:
            self._first.add_file(digest, source)

    def read_result(self, digest: str, size: int) -> memoryview | None:
        """As ResultStorage.read_result, from the first tier that has it."""
        return self._fetch(digest, lambda storage: storage.read_result(digest, size))

    def copy_file(self, digest: str, destination: Path, readonly: bool = False) -> bool:
        """As ResultStorage.copy_file, from the first tier that has it."""

        def copy(storage: FullStorage) -> Path | None:
            return destination if storage.copy_file(digest, destination, readonly) else None

        return self._fetch(digest, copy) is not None

    def has_results(self, digests: Collection[str]) -> frozenset[str]:
        """As ResultStorage.has_results; tiers that are not trusted are asked only if all are."""
        found: set[str] = set()

        def ask(storage: FullStorage) -> frozenset[str] | None:
            wanted = [digest for digest in digests if digest not in found]
            return storage.has_results(wanted) or None if wanted else None

        equals = [storage for storage in self._readable if storage.trusted == self.trusted]
        for _, here in self._each(ask, equals):
            found |= here
        return frozenset(found)

    def _fetch(
        self, digest: str, fetch: Callable[[FullStorage], _Content | None]
    ) -> _Content | None:
        """What the first readable tier that has a result gives of it, and fills it in."""

        def ask(storage: FullStorage) -> _Content | None:
            may = storage.trusted or not self.trusted or self._vouched.get(digest) is False
            return fetch(storage) if may else None

        for place, content in self._each(ask, self._readable):
            if self._onward[place] is not None or digest in self._waiting:
                self._fill_result(digest, content, self._readable[place])
            return content
        return None

    def read_target(self, name: str) -> TargetFile | None:
        """As TargetStorage.read_target, from the first tier that has it."""
        found = self._each(lambda storage: storage.read_target(name), self._readable)
        return next((file for _, file in found), None)

    def write_target(self, name: str, data: Buffer, key: str) -> None:
        """As TargetStorage.write_target, to every writable tier."""

        def write(storage: FullStorage) -> bool:
            storage.write_target(name, data, key)
            return True

        list(self._each(write, self._writable))

    def target_path(self, name: str) -> Path | None:
        """As TargetStorage.target_path, of the first writable tier."""
        return self._first.target_path(name) if self._first is not None else None

    def drain(
        self, timeout: float, on_progress: Callable[[int, int], None] | None = None
    ) -> Drained:
        """Waits at most ``timeout`` seconds for the uploads; what became of them. Tells
        ``on_progress(done, total)`` meanwhile, in this thread."""
        deadline = time.monotonic() + timeout
        # Fetches the parts of traces that are all a record still waits for: one code log serves
        # many records, so most of its parts are never read otherwise.
        with self._lock:
            waiting = {id_: v for named in self._waiting.values() for id_, (v, _) in named.items()}
            parts = [self._missing(variant) for variant in waiting.values()]
        for variant, missing in zip(waiting.values(), parts, strict=True):
            if missing.keys() <= {blob.digest for blob in variant.trace.uses}:
                for digest, size in missing.items():
                    if digest in self._waiting and time.monotonic() < deadline:
                        with contextlib.suppress(StorageError):  # counted; the record stays there
                            self.read_result(digest, size)
        drained = Drained()
        for uploads in self.uploads:
            drained += uploads.drain(max(0.0, deadline - time.monotonic()), on_progress)
        return drained

    def close(self) -> None:
        """As KeyStorage.close. Uploads that were not drained are not begun any more."""
        for uploads in self.uploads:
            uploads.drain(0.0)
        for tier in self._tiers:
            tier.storage.close()

    def _await_results(self, records: Sequence[_Waiting]) -> None:
        """Copies records that a later tier returned into the first, each once all of its results
        are there. Values are not fetched for this; they are copied when they are read."""
        with self._lock:
            for variant, onward in records:
                if len(self._waiting) >= _KEPT:
                    break
                for digest, _ in results_of(variant):
                    self._waiting.setdefault(digest, {})[variant.id] = variant, onward
        self._fill_records([each for each in records if not results_of(each[0])])

    def _fill_result(self, digest: str, content: memoryview | Path, holder: FullStorage) -> None:
        """Copies a result that ``holder`` has, then the records that waited only for it."""
        first = self._first
        if first is None:
            return
        if isinstance(content, Path):
            write = partial(first.add_file, digest, content)
        else:
            write = partial(first.write_result, digest, (content,))
        if first is holder or self._filled(write):
            with self._lock:
                waited = self._waiting.pop(digest, {})
                ready = [each for each in waited.values() if not self._missing(each[0])]
            self._fill_records(ready)

    def _fill_records(self, records: Sequence[_Waiting]) -> None:
        variants = [variant for variant, _ in records]
        if variants and self._first and self._filled(partial(self._first.write_records, variants)):
            for variant, onward in records:
                for uploads in onward:
                    uploads.offer([variant])

    def _filled(self, write: Callable[[], None]) -> bool:
        """Whether it could be written; a failure is reported and does not fail the read."""
        try:
            write()
        except StorageError as error:
            self._on_fault(f"fill: {error.reason}", "")
            return False
        return True

    def _missing(self, variant: Variant) -> dict[str, int]:
        named = results_of(variant)
        return {d: size for d, size in named if variant.id in self._waiting.get(d, ())}

    def _accepted(self, storage: FullStorage, variants: tuple[Variant, ...]) -> tuple[Variant, ...]:
        if not storage.trusted:
            variants = tuple(v for v in variants if is_inert(v.result.serializer))
        self._name(variants, trusted=storage.trusted)
        return variants

    def _name(self, variants: Iterable[Variant], *, trusted: bool) -> None:
        if self._doubts:
            with self._lock:
                for digest in (digest for v in variants for digest, _ in results_of(v)):
                    self._vouched[digest] = trusted or self._vouched.get(digest, False)

    def _each(
        self, ask: Callable[[FullStorage], T | None], storages: Sequence[FullStorage]
    ) -> Iterator[tuple[int, T]]:
        """The index and the answer of each storage that does not answer None. Raises the first
        error if no storage answered; otherwise errors are reported."""
        errors: list[StorageError] = []
        found = False
        try:
            for place, storage in enumerate(storages):
                try:
                    answer = ask(storage)
                except StorageError as error:
                    errors.append(error)
                    continue
                if answer is not None:
                    found = True
                    yield place, answer
        finally:  # also where the first answer was enough
            self._count(errors, found=found)

    def _count(self, errors: Sequence[StorageError], *, found: bool) -> None:
        if errors and not found:
            raise errors[0]
        for error in errors:
            reason = f"{error.operation}: {error.reason}"
            self._on_fault(reason, f"{error.storage}: {reason}; the run goes on with other tiers")


class WriteBehind(ForkAware):
    """Uploads records from ``source`` to ``target`` in background threads: first their results,
    read again from the source, then the records of one ``offer`` together. A process that is killed
    in between leaves results that no record names, never a record without its result. A forked
    child uploads nothing; the queue is its parent's.
    """

    def __init__(
        self,
        source: FullStorage,
        target: FullStorage,
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
        self._done = Drained()

    def offer(self, variants: Sequence[Variant]) -> None:
        """Queues records that become visible together; counts them as failed if it is full."""
        job = tuple(variants)
        with self._changed:
            if self._waiting + len(job) > self._capacity:
                self._fail(job, "too many uploads are waiting")
                return
            self._jobs.append(job)
            self._waiting += len(job)
            if self._threads < _THREADS:
                self._threads += 1
                threading.Thread(target=self._work, name="taskcache-upload", daemon=True).start()
            self._changed.notify_all()

    def forget(self, ids: Collection[str]) -> None:
        """Removes records from the queue."""
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
                    over = _names([*self._under_way.values(), *self._jobs])
                    ended = self._done + Drained(left=waiting, unsent=over)
                    self._jobs.clear()
                    self._under_way.clear()
                    self._waiting, self._done = 0, Drained()
                    return ended
            if on_progress is not None:
                on_progress(done, done + waiting)

    def flush(self, timeout: float) -> None:
        """Waits at most ``timeout`` seconds until nothing waits or is under way. What failed is
        told by ``drain``."""
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting, timeout)

    def _work(self) -> None:
        while True:
            with self._changed:
                if not self._jobs:
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
                try:
                    for variant in job:
                        copy_results(variant, self._source, self._target, present)
                except StorageError as error:
                    reasons[place] = error.reason
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

    def _fail(self, job: _Job, reason: str) -> None:
        self._done += Drained(failed=len(job), unsent=_names([job]), reasons=(reason,))


def _names(jobs: Iterable[_Job]) -> tuple[str, ...]:
    return tuple([str(variant.identity) for job in jobs for variant in job][:_NAMED])
