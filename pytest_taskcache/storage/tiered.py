"""Several storages as one: near ones in front, far ones behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from pytest_taskcache.errors import ConfigurationError, StorageError
from pytest_taskcache.model.record import VARIANTS, Variant
from pytest_taskcache.ports import Buffer, Storage
from pytest_taskcache.storage.bulkhead import Unobserved
from pytest_taskcache.storage.decorator import dropped_writes
from pytest_taskcache.storage.pointers import results_of
from pytest_taskcache.storage.readthrough import ReadThrough
from pytest_taskcache.storage.tally import Tally
from pytest_taskcache.storage.unsigned import is_inert
from pytest_taskcache.storage.uploads import CAPACITY, Drained, Uploads

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Mode:
    """What a tier is used for."""

    read: bool = True
    write: bool = True

    @classmethod
    def parse(cls, text: str) -> Mode:
        """The mode that ``r``, ``w`` or ``rw`` stands for. Raises ConfigurationError."""
        letters = text.strip().lower()
        if not letters or set(letters) - {"r", "w"} or len(set(letters)) != len(letters):
            raise ConfigurationError("storage tier", f"unknown mode {text!r}", "use r, w or rw")
        return cls("r" in letters, "w" in letters)


@dataclass(frozen=True, slots=True)
class Tier:
    """One storage and how it is used. ``background``: written to by a thread of its own, except
    where it is the first writable one."""

    storage: Storage
    read: bool = True
    write: bool = True
    background: bool = False


UNWRITABLE = "no tier is writable"
"""Counted for each write where all tiers are read-only."""


class Tiered:
    """A Storage of tiers, nearest first.

    Reads: each tier is asked only for what those before it do not have (or, with ``valid``, have
    no valid variant of: after a pull, the near one holds yesterday's); what is found is filled
    into the writable tiers before. Writes: to the first writable tier, which alone decides
    whether they succeed; the others get a copy of what it holds, results before records.

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
        self._first = writable[0].storage if writable else None
        self._behind: list[tuple[Tier, Uploads]] = []
        if self._first is not None:
            self._behind = [
                (tier, Uploads(self._first, tier.storage, capacity, unobserved))
                for tier in writable[1:]
            ]
        self._through = self._plan()
        self._certain: set[str] = set()
        self._doubtful: set[str] = set()
        self._doubts = any(not storage.trusted for storage in self._readable)
        self._lock = threading.Lock()

    def _plan(self) -> tuple[ReadThrough, ...]:
        """For each readable tier, what fills the writable ones before it."""
        plans = []
        for source in (tier for tier in self._tiers if tier.read):
            before = [
                tier
                for tier in self._tiers[: self._tiers.index(source)]
                if tier.write and (source.storage.trusted or not tier.storage.trusted)
            ]
            later = {id(tier): uploads for tier, uploads in self._behind if tier.background}
            targets = [tier.storage for tier in before if id(tier) not in later]
            uploads = [later[id(tier)] for tier in before if id(tier) in later]
            # Uploads re-read from the first tier, which then has to be among the filled.
            plans.append(ReadThrough(targets, uploads if targets else (), self._tally))
        return tuple(plans)

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
        return sum(dropped_writes(tier.storage) for tier in self._tiers)

    def describe(self) -> str:
        """The tiers, nearest first."""
        return ", then ".join(tier.storage.describe() for tier in self._tiers)

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
                found[key] = _merged(found.get(key, ()), variants)
            wanted = [key for key in wanted if not self._suffices(found.get(key, ()))]
        found = {key: variants for key, variants in found.items() if variants}
        self._settle(errors, bool(found))
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
        self._settle(errors, bool(found))
        return found

    def write_records(self, variants: Sequence[Variant]) -> None:
        """As KeyStorage.write_records, to the first writable tier; the others follow."""
        if self._first is None:
            self._tally.count(UNWRITABLE, len(variants))
            return
        self._name(variants, self._certain)
        self._first.write_records(variants)
        for tier, uploads in self._behind:
            if tier.background:
                uploads.offer(variants)
            elif reason := uploads.push(variants):
                self._report(tier.storage.describe(), f"write records: {reason}")

    def remove_records(self, ids: Collection[str]) -> None:
        """As KeyStorage.remove_records, from every writable tier."""
        for _, uploads in self._behind:
            uploads.forget(ids)
        for through in self._through:
            through.forget(ids)
        errors: list[StorageError] = []
        for tier in self._tiers:
            if tier.write:
                self._ask(partial(tier.storage.remove_records, ids), None, errors)
        self._settle(errors, False)

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
                self._settle(errors, True)
                return data
        self._settle(errors, False)
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
                self._settle(errors, True)
                return True
        self._settle(errors, False)
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
        self._settle(errors, bool(found))
        return frozenset(found)

    # ------------------------------------------------------------------------- the end

    def drain(
        self, timeout: float, on_progress: Callable[[int, int], None] | None = None
    ) -> Drained:
        """Waits at most ``timeout`` seconds for the uploads; what became of them. Tells
        ``on_progress(done, total)`` meanwhile, in this thread."""
        deadline = time.monotonic() + timeout
        drained = Drained()
        for tier, uploads in self._behind:
            if tier.background:
                drained += uploads.drain(max(0.0, deadline - time.monotonic()), on_progress)
        return drained

    def flush(self, timeout: float) -> bool:
        """Waits at most ``timeout`` seconds until all that was written has been uploaded, or
        could not be; whether that is so."""
        deadline = time.monotonic() + timeout
        return all(
            uploads.flush(max(0.0, deadline - time.monotonic())) for _, uploads in self._behind
        )

    def close(self) -> None:
        """As KeyStorage.close. Uploads that were not drained are not begun any more."""
        for _, uploads in self._behind:
            uploads.stop()
        for tier in self._tiers:
            tier.storage.close()

    # ------------------------------------------------------------------------- details

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

    def _settle(self, errors: list[StorageError], found: bool) -> None:
        """Raises the first error if nothing made up for it; else only counts them."""
        if errors and not found:
            raise errors[0]
        for error in errors:
            self._report(error.storage, f"{error.operation}: {error.reason}")

    def _report(self, storage: str, reason: str) -> None:
        self._tally.count(reason)
        self._tally.warn(f"{storage}: {reason}; the run goes on with the other tiers")


def _merged(nearer: tuple[Variant, ...], further: tuple[Variant, ...]) -> tuple[Variant, ...]:
    """Both, each id once, newest first, as many as a record may have."""
    if not nearer:
        return further
    by_id = {variant.id: variant for variant in (*further, *nearer)}
    newest = sorted(by_id.values(), key=lambda v: (v.created, v.id), reverse=True)
    return tuple(newest[:VARIANTS])
