"""Several storages as one: near ones in front, far ones behind."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TypeVar

from pytest_taskcache.dataclass import dataclass
from pytest_taskcache.errors import ConfigurationError, StorageError
from pytest_taskcache.model.record import Variant
from pytest_taskcache.ports import Buffer, Storage, TargetFile, TargetStorage
from pytest_taskcache.storage.pointers import results_of
from pytest_taskcache.storage.remote.forwarding import Tally
from pytest_taskcache.storage.remote.namespaced import newest
from pytest_taskcache.storage.remote.signed import is_inert
from pytest_taskcache.storage.remote.threads import Unobserved
from pytest_taskcache.storage.remote.write_behind import CAPACITY, Drained, WriteBehind

T = TypeVar("T")

UNWRITABLE = "no tier is writable"
"""Counted for each write where all tiers are read-only."""
_KEPT = 50_000


@dataclass(frozen=True, slots=True)
class Tier:
    """One storage and how it is used; without ``write`` it is never written to, in no way."""

    storage: Storage
    read: bool = True
    write: bool = True


class Tiered:
    """A Storage of tiers, nearest first.

    Reads: each tier is asked only for what those before it do not have (or, with ``valid``, have
    no valid variant of: after a pull, the near one holds yesterday's); what is found is filled
    into the writable tiers before. Writes: to the first writable tier, which alone decides
    whether they succeed; the others get a copy of what it holds in the background, results before
    records.

    What a tier that is not ``trusted`` returns is never filled into a trusted one, and its
    results are returned only if no trusted record names them; so its bytes are not unpickled.

    A tier that fails is counted in ``faults`` by reason and told once through ``on_fault``; a
    read raises StorageError only where no other tier had anything. ``unobserved`` is entered by
    the threads that upload.
    """

    def __init__(
        self,
        tiers: Sequence[Tier],
        *,
        valid: Callable[[Variant], bool] | None = None,
        on_fault: Callable[[str], None] | None = None,
        capacity: int = CAPACITY,
        unobserved: Unobserved = nullcontext,
    ) -> None:
        if not tiers:
            raise ConfigurationError("storage tiers", "there are none", "name at least one")
        self._tiers = tuple(tiers)
        self._readable = tuple(tier.storage for tier in tiers if tier.read)
        self._valid = valid
        self._tally = Tally(on_fault)
        writable = [tier for tier in tiers if tier.write]
        first = writable[0] if writable else None
        self._first = None if first is None else first.storage
        self._behind: dict[int, WriteBehind] = {}
        if self._first is not None:
            for tier in writable[1:]:
                uploads = WriteBehind(self._first, tier.storage, capacity, unobserved)
                self._behind[id(tier)] = uploads
        self._through = tuple(self._plan(tier, first) for tier in tiers if tier.read)
        self._certain: set[str] = set()
        self._doubtful: set[str] = set()
        self._doubts = any(not storage.trusted for storage in self._readable)
        self._lock = threading.Lock()

    def _plan(self, source: Tier, first: Tier | None) -> _ReadThrough:
        """What fills the writable tiers before a readable one."""
        before = [
            tier
            for tier in self._tiers[: self._tiers.index(source)]
            if tier.write and (source.storage.trusted or not tier.storage.trusted)
        ]
        if first is None or first not in before:
            # The others get what the first one has, so nothing can be filled without it.
            return _ReadThrough(None, (), self._tally)
        behind = [self._behind[id(tier)] for tier in before if tier is not first]
        return _ReadThrough(first.storage, behind, self._tally)

    # -------------------------------------------------------------------------- facts

    @property
    def trusted(self) -> bool:
        """Whether a trusted tier is among them; see the class for what the others may do."""
        return any(tier.storage.trusted for tier in self._tiers)

    @property
    def faults(self) -> Mapping[str, int]:
        """Failures of tiers that broke nothing, by reason."""
        return self._tally.counts

    @property
    def dropped(self) -> int:
        """How many writes the tiers dropped without an error."""
        return sum(getattr(tier.storage, "dropped", 0) for tier in self._tiers)

    def describe(self) -> str:
        """The tiers, nearest first."""
        return ", then ".join(
            tier.storage.describe() + ("" if tier.write else " (read-only)") for tier in self._tiers
        )

    # ------------------------------------------------------------------------- records

    def read_records(self, keys: Collection[str]) -> Mapping[str, tuple[Variant, ...]]:
        """As KeyStorage.read_records, from the first tier that has them."""
        found: dict[str, tuple[Variant, ...]] = {}
        errors: list[StorageError] = []
        wanted: Collection[str] = keys
        nothing: Mapping[str, tuple[Variant, ...]] = {}
        for place, storage in enumerate(self._readable):
            if not wanted:
                break
            here = self._ask(partial(storage.read_records, wanted), nothing, errors)
            kept = {key: self._accepted(storage, variants) for key, variants in here.items()}
            self._through[place].add_records([v for variants in kept.values() for v in variants])
            for key, variants in kept.items():
                found[key] = newest((*found[key], *variants)) if key in found else variants
            wanted = [key for key in wanted if not self._suffices(found.get(key, ()))]
        found = {key: variants for key, variants in found.items() if variants}
        self._conclude(errors, bool(found))
        return found

    def recent(self, identities: Collection[str]) -> Mapping[str, Variant]:
        """As KeyStorage.recent, from the first tier that has it."""
        found: dict[str, Variant] = {}
        nothing: Mapping[str, Variant] = {}
        errors: list[StorageError] = []
        for storage in self._readable:
            wanted = [identity for identity in identities if identity not in found]
            if not wanted:
                break
            here = self._ask(partial(storage.recent, wanted), nothing, errors)
            for identity, variant in here.items():
                if self._accepted(storage, (variant,)):
                    found[identity] = variant
        self._conclude(errors, bool(found))
        return found

    def scan(self) -> Iterator[Variant]:
        """As KeyStorage.scan, over all tiers, each variant once. A tier that fails half-way is
        counted; StorageError is raised only where no tier gave anything."""
        seen: set[str] = set()
        errors: list[StorageError] = []
        for storage in self._readable:
            scanned = iter(storage.scan())
            end: tuple[Variant, ...] = ()
            while here := self._ask(partial(_next, scanned), end, errors):
                for variant in self._accepted(storage, here):
                    if variant.id not in seen:
                        seen.add(variant.id)
                        yield variant
        self._conclude(errors, bool(seen))

    def write_records(self, variants: Sequence[Variant]) -> None:
        """As KeyStorage.write_records, to the first writable tier; the others follow."""
        if self._first is None:
            self._tally.count(UNWRITABLE, len(variants))
            return
        self._name(variants, self._certain)
        self._first.write_records(variants)
        for uploads in self._behind.values():
            uploads.offer(variants)

    def remove_records(self, ids: Collection[str]) -> None:
        """As KeyStorage.remove_records, from every writable tier."""
        for uploads in self._behind.values():
            uploads.forget(ids)
        for through in self._through:
            through.forget(ids)
        errors: list[StorageError] = []
        for tier in self._tiers:
            if tier.write:
                self._ask(partial(tier.storage.remove_records, ids), None, errors)
        self._conclude(errors, False)

    # ------------------------------------------------------------------------- results

    def write_result(self, digest: str, chunks: Sequence[Buffer]) -> None:
        """As ResultStorage.write_result, to the first writable tier. The others get it with its
        record, so that what is rolled back is never sent."""
        if self._first is None:
            self._tally.count(UNWRITABLE)
            return
        self._first.write_result(digest, chunks)

    def add_file(self, digest: str, source: Path) -> None:
        """As write_result, from a file."""
        if self._first is None:
            self._tally.count(UNWRITABLE)
            return
        self._first.add_file(digest, source)

    def read_result(self, digest: str, size: int) -> memoryview | None:
        """As ResultStorage.read_result, from the first tier that has it."""
        errors: list[StorageError] = []
        for place, storage in enumerate(self._readable):
            if not self._may_read(storage, digest):
                continue
            data = self._ask(partial(storage.read_result, digest, size), None, errors)
            if data is not None:
                self._found(place, digest, data)
                self._conclude(errors, True)
                return data
        self._conclude(errors, False)
        return None

    def copy_file(self, digest: str, destination: Path, readonly: bool = False) -> bool:
        """As ResultStorage.copy_file, from the first tier that has it."""
        errors: list[StorageError] = []
        for place, storage in enumerate(self._readable):
            if not self._may_read(storage, digest):
                continue
            copy = partial(storage.copy_file, digest, destination, readonly)
            if self._ask(copy, False, errors):
                self._found(place, digest, destination)
                self._conclude(errors, True)
                return True
        self._conclude(errors, False)
        return False

    def has_results(self, digests: Collection[str]) -> frozenset[str]:
        """As ResultStorage.has_results; tiers that are not trusted are asked only if all are."""
        found: set[str] = set()
        nothing: frozenset[str] = frozenset()
        errors: list[StorageError] = []
        for storage in self._readable:
            wanted = [digest for digest in digests if digest not in found]
            if wanted and storage.trusted == self.trusted:
                found |= self._ask(partial(storage.has_results, wanted), nothing, errors)
        self._conclude(errors, bool(found))
        return frozenset(found)

    # ------------------------------------------------------------------------- targets

    def read_target(self, name: str) -> TargetFile | None:
        """As TargetStorage.read_target, from the first tier that has it."""
        errors: list[StorageError] = []
        found: TargetFile | None = None
        for storage in self._readable:
            if found is None and isinstance(storage, TargetStorage):
                found = self._ask(partial(storage.read_target, name), None, errors)
        self._conclude(errors, found is not None)
        return found

    def write_target(self, name: str, data: Buffer, key: str) -> None:
        """As TargetStorage.write_target, to every writable tier that keeps targets."""
        errors: list[StorageError] = []
        tiers = [tier.storage for tier in self._tiers if tier.write]
        keeping = [storage for storage in tiers if isinstance(storage, TargetStorage)]
        for storage in keeping:
            self._ask(partial(storage.write_target, name, data, key), None, errors)
        self._conclude(errors, len(errors) < len(keeping))

    def target_path(self, name: str) -> Path | None:
        """As TargetStorage.target_path, of the first writable tier."""
        first: object = self._first
        return first.target_path(name) if isinstance(first, TargetStorage) else None

    # ------------------------------------------------------------------------- the end

    def drain(
        self, timeout: float, on_progress: Callable[[int, int], None] | None = None
    ) -> Drained:
        """Waits at most ``timeout`` seconds for the uploads; what became of them. Tells
        ``on_progress(done, total)`` meanwhile, in this thread."""
        deadline = time.monotonic() + timeout
        self._fetch_parts(deadline)
        drained = Drained()
        for uploads in self._behind.values():
            drained += uploads.drain(max(0.0, deadline - time.monotonic()), on_progress)
        return drained

    def flush(self, timeout: float) -> bool:
        """Waits at most ``timeout`` seconds until all that was written has been uploaded, or
        could not be; whether that is so."""
        deadline = time.monotonic() + timeout
        return all(
            uploads.flush(max(0.0, deadline - time.monotonic()))
            for uploads in self._behind.values()
        )

    def close(self) -> None:
        """As KeyStorage.close. Uploads that were not drained are not begun any more."""
        for uploads in self._behind.values():
            uploads.stop()
        for tier in self._tiers:
            tier.storage.close()

    # ------------------------------------------------------------------------- details

    def _fetch_parts(self, deadline: float) -> None:
        """Reads the parts of traces without which records that were read cannot be filled in:
        one log answers for many records, so that most parts are never asked for."""
        for through in self._through:
            for digest, size in through.parts_wanted():
                if time.monotonic() >= deadline:
                    return
                with contextlib.suppress(StorageError):  # counted; the record stays where it is
                    self.read_result(digest, size)

    def _suffices(self, variants: tuple[Variant, ...]) -> bool:
        return bool(variants) and (self._valid is None or any(map(self._valid, variants)))

    def _accepted(self, storage: Storage, variants: tuple[Variant, ...]) -> tuple[Variant, ...]:
        if not self._doubts:
            return variants
        if storage.trusted:
            self._name(variants, self._certain)
            return variants
        inert = tuple(v for v in variants if is_inert(v.result.serializer))
        self._name(inert, self._doubtful)
        return inert

    def _name(self, variants: Iterable[Variant], among: set[str]) -> None:
        if self._doubts:
            named = [digest for v in variants for digest, _ in results_of(v)]
            with self._lock:
                among.update(named)

    def _may_read(self, storage: Storage, digest: str) -> bool:
        if not self._doubts or storage.trusted or not self.trusted:
            return True
        return digest in self._doubtful and digest not in self._certain

    def _found(self, place: int, digest: str, content: memoryview | Path) -> None:
        for origin, through in enumerate(self._through):
            if origin == place or through.wants(digest):
                through.add_result(digest, content, self._readable[place])

    def _ask(self, call: Callable[[], T], absent: T, errors: list[StorageError]) -> T:
        try:
            return call()
        except StorageError as error:
            errors.append(error)
            return absent

    def _conclude(self, errors: list[StorageError], found: bool) -> None:
        """Raises the first error if nothing made up for it; else only counts them."""
        if errors and not found:
            raise errors[0]
        for error in errors:
            reason = f"{error.operation}: {error.reason}"
            self._tally.count(reason)
            self._tally.warn(f"{error.storage}: {reason}; the run goes on with the other tiers")


class _ReadThrough:
    """Fills a storage with the records that were read behind it, each once all of its results
    are there. Values are not fetched for that: they come when someone reads them.

    What ``target`` then holds goes on to ``behind``. If it cannot be filled that breaks no read;
    ``tally`` counts it.
    """

    def __init__(self, target: Storage | None, behind: Sequence[WriteBehind], tally: Tally) -> None:
        self._target = target
        self._behind = behind
        self._tally = tally
        self._lock = threading.Lock()
        self._missing: OrderedDict[str, tuple[Variant, set[str]]] = OrderedDict()
        self._waiting: dict[str, set[str]] = {}

    def add_records(self, variants: Sequence[Variant]) -> None:
        """Takes note of records; those that need no further result are filled in at once."""
        if self._target is None:
            return
        ready = []
        with self._lock:
            for variant in variants:
                missing = {digest for digest, _ in results_of(variant)}
                if not missing:
                    ready.append(variant)
                    continue
                self._missing[variant.id] = (variant, missing)
                for digest in missing:
                    self._waiting.setdefault(digest, set()).add(variant.id)
            while len(self._missing) > _KEPT:
                self._forget(next(iter(self._missing)))
        self._write(ready)

    def wants(self, digest: str) -> bool:
        """Whether a record waits for this result."""
        return digest in self._waiting

    def parts_wanted(self) -> Sequence[tuple[str, int]]:
        """Digest and size of the shared parts of traces that records wait for which wait for
        nothing else."""
        found: dict[str, int] = {}
        with self._lock:
            for variant, missing in self._missing.values():
                parts = {blob.digest: blob.size for blob in variant.trace.uses}
                if missing <= parts.keys():
                    found.update((digest, parts[digest]) for digest in missing)
        return tuple(found.items())

    def add_result(self, digest: str, content: memoryview | Path, holder: Storage) -> None:
        """Fills in a result, bytes or a file, and then the records that waited only for it.
        ``holder`` has it already."""
        if self._target is not holder and not self._fill(digest, content):
            return
        ready = []
        with self._lock:
            for id_ in self._waiting.pop(digest, ()):
                variant, missing = self._missing[id_]
                missing.discard(digest)
                if not missing:
                    del self._missing[id_]
                    ready.append(variant)
        self._write(ready)

    def forget(self, ids: Collection[str]) -> None:
        """Does not fill in records that have been removed."""
        with self._lock:
            for id_ in ids:
                self._forget(id_)

    def _forget(self, id_: str) -> None:
        if id_ not in self._missing:
            return
        for digest in self._missing.pop(id_)[1]:
            waiting = self._waiting[digest]
            waiting.discard(id_)
            if not waiting:
                del self._waiting[digest]

    def _fill(self, digest: str, content: memoryview | Path) -> bool:
        if self._target is None:
            return False
        try:
            if isinstance(content, Path):
                self._target.add_file(digest, content)
            else:
                self._target.write_result(digest, (content,))
        except StorageError as error:
            self._tally.count(f"fill: {error.reason}")
            return False
        return True

    def _write(self, variants: Sequence[Variant]) -> None:
        if not variants or self._target is None:
            return
        try:
            self._target.write_records(variants)
        except StorageError as error:
            self._tally.count(f"fill: {error.reason}")
            return
        for behind in self._behind:
            behind.offer(variants)


def _next(scanned: Iterator[Variant]) -> tuple[Variant, ...]:
    """The next one, alone; none at the end."""
    variant = next(scanned, None)
    return () if variant is None else (variant,)


__all__ = ["UNWRITABLE", "Tier", "Tiered"]
