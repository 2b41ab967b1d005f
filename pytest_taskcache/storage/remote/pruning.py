"""What goes from a shared store, and when: by age, by size, by use.

A store has no clock that we could ask but the one that dates what is written, so what counts as
now is when its newest blob was written, which is the mark of whoever prunes. Losing an entry too
early costs time, never correctness; still, what was written within the last hour stays, since its
record may be on its way.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence

from pytest_taskcache.dataclass import dataclass
from pytest_taskcache.model.record import VARIANTS
from pytest_taskcache.storage.records import results_of
from pytest_taskcache.storage.remote.blobs import Listed, batches
from pytest_taskcache.storage.remote.location import Location, parse_size
from pytest_taskcache.storage.remote.store import (
    RemoteStore,
    by_key,
    record_names,
    result_digest,
    targets_of,
    used_mark,
)

DAY = 86400.0
GRACE = 3600.0
UNUSED = 30 * DAY
_AT_ONCE = 500
_MARK = "marks/pruned"


@dataclass(frozen=True, slots=True)
class Retention:
    """What a store may hold; None is no limit. ``older_than`` seconds since it was written,
    ``unused`` seconds since it was written or a writing run last had use for it, ``max_size``
    bytes in all."""

    older_than: float | None = None
    max_size: int | None = None
    unused: float | None = None

    @classmethod
    def of(cls, location: Location) -> Retention:
        """What the options of a URL say (``older_than=90d``, ``unused=30d``, ``max_size=20GB``);
        where there are none, that what was not used for 30 days goes. Raises ConfigurationError.
        """
        if not location.limits:
            return cls(unused=UNUSED)
        text = location.limits.get("max_size", "")
        try:
            size = parse_size(text) if text else None
        except ValueError as error:
            raise location.error(f"option max_size: {text!r} is no size", str(error)) from None
        return cls(
            older_than=location.seconds("older_than", 0.0) or None,
            max_size=size,
            unused=location.seconds("unused", 0.0) or None,
        )


@dataclass(frozen=True, slots=True)
class Removed:
    """What went: ``records``, ``results``, and the ``freed`` bytes of both; ``left`` is how many
    bytes records and their results take now."""

    records: int = 0
    results: int = 0
    freed: int = 0
    left: int = 0


@dataclass(frozen=True, slots=True)
class _Entry:
    """What matters about a record once it has been read: when it was of use, whether it goes
    whatever the size of all, the results that it names, and its target."""

    name: str
    size: int
    seen: float
    goes: bool
    digests: frozenset[str] = frozenset()
    targets: frozenset[str] = frozenset()


def prune_if_due(
    store: RemoteStore, retention: Retention, results: RemoteStore | None = None
) -> Removed:
    """As ``prune``, unless anyone has done so within the last day. Raises StorageError."""
    with store.told("prune"):
        mark = store.blobs.get(_MARK)
    try:
        last = float(bytes(mark or b"0"))
    except ValueError:
        last = 0.0
    if abs(time.time() - last) < DAY:
        return Removed()
    return prune(store, retention, results)


def prune(store: RemoteStore, retention: Retention, results: RemoteStore | None = None) -> Removed:
    """Removes from a store what the retention says, what has expired, records beyond the newest of
    their key, results that no record names, and the targets of what goes. Raises StorageError.

    ``results`` is where the results lie, if not in the same store. Others' records may name what
    lies there, so only what the removed records named goes.
    """
    with store.told("prune"):
        store.blobs.put(_MARK, str(time.time()).encode())
        listed, marks = store.blobs.list("records"), store.blobs.list("marks")
        dates = [one.modified for one in (*listed, *marks) if one.modified is not None]
        now = max(dates, default=time.time())
        used = _used(store, marks, now - (retention.unused or UNUSED))
        # Those that were of no use for longest come last, and go first.
        entries = sorted(
            _entries(store, listed, retention, used, now),
            key=lambda entry: (not entry.goes, entry.seen, entry.name),
            reverse=True,
        )
    place = results or store
    with place.told("prune"):
        there: dict[str, list[Listed]] = {}
        for one in place.blobs.list("results"):
            digest = result_digest(one.name)
            if digest is not None:
                there.setdefault(digest, []).append(one)
        fitting, left = _fitting(entries, there, retention.max_size)
        kept, gone = entries[:fitting], entries[fitting:]
        named = {digest for entry in kept for digest in entry.digests}
        candidates: Iterable[str] = there
        if results is not None:
            candidates = {digest for entry in gone for digest in entry.digests} & there.keys()
        loose = [
            there[digest]
            for digest in candidates
            # Where nothing tells how old it is, it is never old enough.
            if digest not in named
            and all((one.modified or math.inf) <= now - GRACE for one in there[digest])
        ]
    with store.told("prune"):
        _delete(store, [entry.name for entry in gone])
    with place.told("prune"):
        targets = {name for entry in gone for name in entry.targets}
        targets -= {name for entry in kept for name in entry.targets}
        _delete(place, [*targets, *(one.name for parts in loose for one in parts)])
    freed = sum(entry.size for entry in gone) + sum(map(_size, loose))
    return Removed(len(gone), len(loose), freed, left)


def _size(parts: Sequence[Listed]) -> int:
    return sum(one.size or 0 for one in parts)


def _used(store: RemoteStore, marks: Sequence[Listed], since: float) -> set[bytes]:
    """The marks of what was used since then; what is older goes."""
    old = [one.name for one in marks if one.modified is not None and one.modified < since]
    _delete(store, old)
    used: set[bytes] = set()
    for few in batches({one.name for one in marks} - {*old, _MARK}, _AT_ONCE):
        for data in store.blobs.get_many(few).values():
            whole = bytes(data)
            used.update(whole[start : start + 8] for start in range(0, len(whole), 8))
    return used


def _entries(
    store: RemoteStore, listed: Sequence[Listed], retention: Retention, used: set[bytes], now: float
) -> Iterator[_Entry]:
    by_name = {one.name: one for one in listed}
    names = by_key(record_names(listed))
    ranked = [(name, rank) for members in names.values() for rank, name in enumerate(members)]
    for few in batches(ranked, _AT_ONCE):
        found = dict(store.decoded([name for name, _ in few]))
        for name, rank in few:
            one, variant = by_name[name.name], found.get(name)
            written = now if variant is None else variant.created
            written = seen = written if one.modified is None else one.modified
            goes = rank >= VARIANTS
            goes |= retention.older_than is not None and now - written > retention.older_than
            if variant is None:
                # It is not what its name says, or was removed meanwhile.
                goes |= now - written > GRACE
                yield _Entry(name.name, one.size or 0, written, goes)
                continue
            if used_mark(variant.id) in used:
                seen = now
            goes |= variant.expires is not None and variant.expires < now
            goes |= retention.unused is not None and now - seen > retention.unused
            digests = frozenset(digest for digest, _ in results_of(variant))
            yield _Entry(name.name, one.size or 0, seen, goes, digests, targets_of(variant))


def _fitting(
    entries: Sequence[_Entry], there: Mapping[str, Sequence[Listed]], limit: int | None
) -> tuple[int, int]:
    """How many entries, from the first on, stay and take no more than ``limit`` bytes with their
    results, each of which counts once; and how many bytes they take."""
    taken, counted = 0, set[str]()
    for place, entry in enumerate(entries):
        new = (entry.digests - counted) & there.keys()
        size = entry.size + sum(_size(there[digest]) for digest in new)
        if entry.goes or (limit is not None and taken + size > limit):
            return place, taken
        taken += size
        counted |= new
    return len(entries), taken


def _delete(store: RemoteStore, names: list[str]) -> None:
    store.blobs.map(store.blobs.delete, list(batches(names, 1000)))
