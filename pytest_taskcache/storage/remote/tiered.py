"""Several storages as one: near ones in front, far ones behind."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TypeVar

from pytest_taskcache.dataclass import dataclass
from pytest_taskcache.errors import ConfigurationError, StorageError
from pytest_taskcache.model.record import Variant
from pytest_taskcache.ports import Buffer, Storage, TargetFile, TargetStorage
from pytest_taskcache.storage.records import results_of
from pytest_taskcache.storage.remote.signed import FaultCounts, is_inert, newest
from pytest_taskcache.storage.remote.threads import Unobserved
from pytest_taskcache.storage.remote.write_behind import CAPACITY, Drained, WriteBehind

T = TypeVar("T")
_Content = TypeVar("_Content", memoryview, Path)

_KEPT = 50_000
"""Results that records may wait for before they are filled in."""


@dataclass(frozen=True, slots=True)
class Tier:
    """One storage and how it is used; without ``write`` it is never written to, in no way."""

    storage: Storage
    read: bool = True
    write: bool = True


class Split:
    """One storage of two: records in the one, results and targets in the other."""

    def __init__(self, records: Storage, results: Storage) -> None:
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
        if isinstance(results, TargetStorage):
            self.read_target = results.read_target
            self.write_target = results.write_target
            self.target_path = results.target_path
        self._both = records, results

    @property
    def given_up(self) -> bool:
        """Whether one of them is of no use any more."""
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

    Reads: each tier is asked only for what those before it do not have (or, with ``valid``, have
    no valid variant of: after a pull, the near one holds yesterday's); what is found is filled
    into the writable tiers before. Writes: to the first writable tier, which alone decides
    whether they succeed; the others get a copy of what it holds in the background, results before
    records. Where no tier is writable, they are dropped.

    What a tier that is not ``trusted`` returns is never filled into a trusted one, and its
    results are returned only if no trusted record names them; so its bytes are not unpickled.

    Failures of a tier that broke nothing are counted in ``faults``; a read raises StorageError
    only where no other tier had anything. ``unobserved`` is entered by the threads that upload.
    """

    def __init__(
        self,
        tiers: Sequence[Tier],
        *,
        valid: Callable[[Variant], bool] | None = None,
        capacity: int = CAPACITY,
        unobserved: Unobserved = nullcontext,
    ) -> None:
        if not tiers:
            raise ConfigurationError("storage tiers", "there are none", "name at least one")
        self._tiers = tuple(tiers)
        self.trusted = any(tier.storage.trusted for tier in tiers)
        self._readable = tuple(tier.storage for tier in tiers if tier.read)
        self._writable = tuple(tier.storage for tier in tiers if tier.write)
        self._first = self._writable[0] if self._writable else None
        self._behind = tuple(
            WriteBehind(self._writable[0], storage, capacity, unobserved)
            for storage in self._writable[1:]
        )
        self._valid = valid
        self.faults = FaultCounts()
        self._fills = tuple(self._fill_for(tier) for tier in tiers if tier.read)
        # Results that records name, and whether a trusted one does.
        self._vouched: dict[str, bool] = {}
        self._doubts = any(not storage.trusted for storage in self._readable)
        self._lock = threading.Lock()

    def _fill_for(self, source: Tier) -> _Fill | None:
        """What fills the writable tiers before a readable one; the others get what the first one
        has, so nothing can be filled without it."""
        before = [
            tier.storage
            for tier in self._tiers[: self._tiers.index(source)]
            if tier.write and (source.storage.trusted or not tier.storage.trusted)
        ]
        if not before or before[0] is not self._first:
            return None
        pairs = zip(self._writable[1:], self._behind, strict=True)
        behind = [uploads for storage, uploads in pairs if storage in before]
        return _Fill(before[0], behind, self.faults)

    def describe(self) -> str:
        """The tiers, nearest first."""
        return ", then ".join(
            tier.storage.describe() + ("" if tier.write else " (read-only)") for tier in self._tiers
        )

    def read_records(self, keys: Collection[str]) -> Mapping[str, tuple[Variant, ...]]:
        """As KeyStorage.read_records, from the first tier that has them."""
        found: dict[str, tuple[Variant, ...]] = {}
        wanted: Collection[str] = keys
        nothing: Mapping[str, tuple[Variant, ...]] = {}
        with self._asking() as asking:
            for storage, fill in zip(self._readable, self._fills, strict=True):
                if not wanted:
                    break
                here = asking.ask(partial(storage.read_records, wanted), nothing)
                kept = {key: self._accepted(storage, variants) for key, variants in here.items()}
                if fill is not None:
                    fill.add_records([v for variants in kept.values() for v in variants])
                for key, variants in kept.items():
                    found[key] = newest((*found[key], *variants)) if key in found else variants
                wanted = [key for key in wanted if not self._suffices(found.get(key, ()))]
            found = {key: variants for key, variants in found.items() if variants}
            asking.found = bool(found)
        return found

    def recent(self, identities: Collection[str]) -> Mapping[str, Variant]:
        """As KeyStorage.recent, from the first tier that has it."""
        found: dict[str, Variant] = {}
        nothing: Mapping[str, Variant] = {}
        with self._asking() as asking:
            for storage in self._readable:
                wanted = [identity for identity in identities if identity not in found]
                here = asking.ask(partial(storage.recent, wanted), nothing) if wanted else nothing
                for identity, variant in here.items():
                    if self._accepted(storage, (variant,)):
                        found[identity] = variant
            asking.found = bool(found)
        return found

    def scan(self) -> Iterator[Variant]:
        """As KeyStorage.scan, over all tiers, each variant once. A tier that fails half-way is
        counted; StorageError is raised only where no tier gave anything."""
        seen: set[str] = set()
        with self._asking() as asking:
            for storage in self._readable:
                scanned = iter(storage.scan())
                while (variant := asking.ask(partial(next, scanned, None), None)) is not None:
                    if variant.id not in seen and self._accepted(storage, (variant,)):
                        seen.add(variant.id)
                        yield variant
            asking.found = bool(seen)

    def write_records(self, variants: Sequence[Variant]) -> None:
        """As KeyStorage.write_records, to the first writable tier; the others follow."""
        if self._first is None:
            return
        self._name(variants, trusted=True)
        self._first.write_records(variants)
        for uploads in self._behind:
            uploads.offer(variants)

    def remove_records(self, ids: Collection[str]) -> None:
        """As KeyStorage.remove_records, from every writable tier."""
        for waiting in (*self._behind, *self._fills):
            if waiting is not None:
                waiting.forget(ids)
        with self._asking() as asking:
            for storage in self._writable:
                asking.ask(partial(storage.remove_records, ids), None)

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

        def copy(storage: Storage) -> Path | None:
            return destination if storage.copy_file(digest, destination, readonly) else None

        return self._fetch(digest, copy) is not None

    def has_results(self, digests: Collection[str]) -> frozenset[str]:
        """As ResultStorage.has_results; tiers that are not trusted are asked only if all are."""
        found: set[str] = set()
        nothing: frozenset[str] = frozenset()
        with self._asking() as asking:
            for storage in self._readable:
                wanted = [digest for digest in digests if digest not in found]
                if wanted and storage.trusted == self.trusted:
                    found |= asking.ask(partial(storage.has_results, wanted), nothing)
            asking.found = bool(found)
        return frozenset(found)

    def _fetch(self, digest: str, fetch: Callable[[Storage], _Content | None]) -> _Content | None:
        """What the first readable tier that has a result gives of it, and fills it in."""
        with self._asking() as asking:
            for place, storage in enumerate(self._readable):
                if not self._may_read(storage, digest):
                    continue
                content = asking.ask(partial(fetch, storage), None)
                if content is not None:
                    asking.found = True
                    for origin, fill in enumerate(self._fills):
                        if fill is not None and (origin == place or fill.wants(digest)):
                            fill.add_result(digest, content, storage)
                    return content
        return None

    def read_target(self, name: str) -> TargetFile | None:
        """As TargetStorage.read_target, from the first tier that has it."""
        with self._asking() as asking:
            for storage in self._readable:
                if isinstance(storage, TargetStorage):
                    found = asking.ask(partial(storage.read_target, name), None)
                    if found is not None:
                        asking.found = True
                        return found
        return None

    def write_target(self, name: str, data: Buffer, key: str) -> None:
        """As TargetStorage.write_target, to every writable tier that keeps targets."""
        with self._asking() as asking:
            for storage in self._writable:
                if isinstance(storage, TargetStorage):
                    before = len(asking.errors)
                    asking.ask(partial(storage.write_target, name, data, key), None)
                    asking.found |= len(asking.errors) == before

    def target_path(self, name: str) -> Path | None:
        """As TargetStorage.target_path, of the first writable tier."""
        first: object = self._first
        return first.target_path(name) if isinstance(first, TargetStorage) else None

    def drain(
        self, timeout: float, on_progress: Callable[[int, int], None] | None = None
    ) -> Drained:
        """Waits at most ``timeout`` seconds for the uploads; what became of them. Tells
        ``on_progress(done, total)`` meanwhile, in this thread."""
        deadline = time.monotonic() + timeout
        self._fetch_parts(deadline)
        drained = Drained()
        for uploads in self._behind:
            drained += uploads.drain(max(0.0, deadline - time.monotonic()), on_progress)
        return drained

    def flush(self, timeout: float) -> bool:
        """Waits at most ``timeout`` seconds until all that was written has been uploaded, or
        could not be; whether that is so."""
        deadline = time.monotonic() + timeout
        return all(uploads.flush(max(0.0, deadline - time.monotonic())) for uploads in self._behind)

    def close(self) -> None:
        """As KeyStorage.close. Uploads that were not drained are not begun any more."""
        for uploads in self._behind:
            uploads.stop()
        for tier in self._tiers:
            tier.storage.close()

    def _fetch_parts(self, deadline: float) -> None:
        """Reads the parts of traces without which records that were read cannot be filled in:
        one log answers for many records, so that most parts are never asked for."""
        for fill in self._fills:
            for digest, size in fill.parts_wanted() if fill is not None else ():
                if time.monotonic() >= deadline:
                    return
                with contextlib.suppress(StorageError):  # counted; the record stays where it is
                    self.read_result(digest, size)

    def _suffices(self, variants: tuple[Variant, ...]) -> bool:
        return bool(variants) and (self._valid is None or any(map(self._valid, variants)))

    def _accepted(self, storage: Storage, variants: tuple[Variant, ...]) -> tuple[Variant, ...]:
        if not storage.trusted:
            variants = tuple(v for v in variants if is_inert(v.result.serializer))
        self._name(variants, trusted=storage.trusted)
        return variants

    def _name(self, variants: Iterable[Variant], *, trusted: bool) -> None:
        if self._doubts:
            with self._lock:
                for digest in (digest for v in variants for digest, _ in results_of(v)):
                    self._vouched[digest] = trusted or self._vouched.get(digest, False)

    def _may_read(self, storage: Storage, digest: str) -> bool:
        if storage.trusted or not self.trusted:
            return True
        return self._vouched.get(digest) is False

    @contextlib.contextmanager
    def _asking(self) -> Iterator[_ReadingTiers]:
        """Raises the first error of tiers asked inside if nothing was found; else counts all."""
        asking = _ReadingTiers()
        yield asking
        if asking.errors and not asking.found:
            raise asking.errors[0]
        for error in asking.errors:
            reason = f"{error.operation}: {error.reason}"
            self.faults.add(reason, f"{error.storage}: {reason}; the run goes on with other tiers")


class _ReadingTiers:
    """What failed while tiers were asked, and whether anything was found all the same."""

    def __init__(self) -> None:
        self.errors: list[StorageError] = []
        self.found = False

    def ask(self, call: Callable[[], T], absent: T) -> T:
        """What the call returns; ``absent`` if it raises StorageError."""
        try:
            return call()
        except StorageError as error:
            self.errors.append(error)
            return absent


class _Fill:
    """Fills a storage with the records that were read behind it, each once all of its results
    are there. Values are not fetched for that: they come when someone reads them.

    What ``target`` then holds goes on to ``behind``. If it cannot be filled that breaks no read;
    ``faults`` counts it.
    """

    def __init__(self, target: Storage, behind: Sequence[WriteBehind], faults: FaultCounts) -> None:
        self._target = target
        self._behind = behind
        self._faults = faults
        self._lock = threading.Lock()
        # By the digest of a result that is not there yet: the records that wait for it, by id.
        self._waiting: dict[str, dict[str, Variant]] = {}

    def add_records(self, variants: Sequence[Variant]) -> None:
        """Takes note of records; those that need no further result are filled in at once."""
        with self._lock:
            for variant in variants:
                if len(self._waiting) >= _KEPT:
                    break
                for digest, _ in results_of(variant):
                    self._waiting.setdefault(digest, {})[variant.id] = variant
        self._write([variant for variant in variants if not results_of(variant)])

    def wants(self, digest: str) -> bool:
        """Whether a record waits for this result."""
        return digest in self._waiting

    def parts_wanted(self) -> Sequence[tuple[str, int]]:
        """Digest and size of shared parts of traces, where records wait for nothing else."""
        found: dict[str, int] = {}
        with self._lock:
            variants = {id_: v for named in self._waiting.values() for id_, v in named.items()}
            for variant in variants.values():
                missing = self._missing(variant)
                parts = {blob.digest for blob in variant.trace.uses}
                if missing.keys() <= parts:
                    found.update(missing)
        return tuple(found.items())

    def add_result(self, digest: str, content: memoryview | Path, holder: Storage) -> None:
        """Fills in a result that ``holder`` has, and then the records that waited only for it."""
        if self._target is not holder and not self._written(digest, content):
            return
        with self._lock:
            waited = self._waiting.pop(digest, {})
            ready = [variant for variant in waited.values() if not self._missing(variant)]
        self._write(ready)

    def forget(self, ids: Collection[str]) -> None:
        """Does not fill in records that have been removed."""
        with self._lock:
            for digest, waiting in list(self._waiting.items()):
                for id_ in waiting.keys() & ids:
                    del waiting[id_]
                if not waiting:
                    del self._waiting[digest]

    def _missing(self, variant: Variant) -> dict[str, int]:
        """Digest and size of the results that a record waits for."""
        named = results_of(variant)
        return {d: size for d, size in named if variant.id in self._waiting.get(d, ())}

    def _written(self, digest: str, content: memoryview | Path) -> bool:
        try:
            if isinstance(content, Path):
                self._target.add_file(digest, content)
            else:
                self._target.write_result(digest, (content,))
        except StorageError as error:
            self._faults.add(f"fill: {error.reason}")
            return False
        return True

    def _write(self, variants: Sequence[Variant]) -> None:
        if not variants:
            return
        try:
            self._target.write_records(variants)
        except StorageError as error:
            self._faults.add(f"fill: {error.reason}")
            return
        for behind in self._behind:
            behind.offer(variants)
