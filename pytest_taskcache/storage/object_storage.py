"""Records and results in any store of objects, after the layout of ``object_layout``.

A sweep over many keys is not a snapshot: a commit that lands meanwhile may be seen under one
key and not yet under another. There is no index of identities: ``recent`` knows nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import xxhash

from pytest_taskcache.errors import StorageError
from pytest_taskcache.model.dependency import Trace
from pytest_taskcache.model.record import VARIANTS, Variant
from pytest_taskcache.ports import Buffer
from pytest_taskcache.storage.concurrency import Stalled, Workers
from pytest_taskcache.storage.object_layout import (
    SHARDS,
    RecordName,
    commit_name,
    commit_path,
    id_segment,
    key_segment,
    parse_record_path,
    record_path,
    result_path,
    split_by_shard,
)
from pytest_taskcache.storage.object_store import (
    PIECE,
    ObjectStore,
    ObjectStoreError,
    pieces_of,
)
from pytest_taskcache.storage.placing import place
from pytest_taskcache.storage.records import decode_variant, encode_variant

T = TypeVar("T")
U = TypeVar("U")

RECORD_LIMIT = 64 * 1024 * 1024
"""Bytes: a larger object is no record."""
SLOWEST = 1024 * 1024
"""Bytes per second: slower transfers are given up."""
ABANDONED = 24 * 3600.0
"""Seconds that a record without its commit marker must be older than the newest one to count
as litter."""
_REMEMBERED = 100_000


class ObjectStorage:
    """Records and results in a store of objects.

    ``shown`` says where, without secrets. ``seconds`` bounds every single request, and a sweep
    of many in proportion; ``concurrency`` the requests under way at once.
    """

    trusted = False

    def __init__(
        self, store: ObjectStore, shown: str, *, seconds: float = 30.0, concurrency: int = 32
    ) -> None:
        self._store = store
        self._shown = shown
        self._seconds = seconds
        self._workers = Workers(concurrency)
        self._commits: set[str] = set()
        self._places: dict[str, str] = {}
        # Results that were found damaged: they are written anew, whatever is there.
        self._damaged: set[str] = set()

    def describe(self) -> str:
        """The URL, without secrets."""
        return self._shown

    def close(self) -> None:
        """Releases connections."""
        self._store.close()

    # -------------------------------------------------------------------------- records

    def read_records(self, keys: Collection[str]) -> Mapping[str, tuple[Variant, ...]]:
        """Lists the keys (one by one if they are few, else by shard) and fetches the newest
        visible records of each, all concurrently."""
        wanted = {key_segment(key): key for key in keys}
        verb = "read records"
        offered = self._newest_visible(verb, self._list_records(verb, wanted), wanted)
        variants: dict[str, dict[str, Variant]] = {}
        traces: dict[str, Trace] = {}
        bodies = self._all(verb, self._read_record, [name.path for name in offered])
        for name, body in zip(offered, bodies, strict=True):
            variant = None if body is None else decode_variant(body)
            key = wanted[name.key]
            if variant is None or variant.key != key or id_segment(variant.id) != name.id:
                continue
            self._remember(variant.id, name.path)
            variants.setdefault(key, {})[variant.id] = _interned(variant, traces)
        return {
            key: tuple(found[identifier] for identifier in sorted(found, reverse=True)[:VARIANTS])
            for key, found in variants.items()
        }

    def write_records(self, variants: Sequence[Variant]) -> None:
        """Writes the records, and after all of them the commit marker if they are several.

        When the answer to the last write is lost, the commit may have happened although
        StorageError says otherwise; what is then seen is valid, for its results came first.
        """
        verb = "write records"
        unique = {variant.id: variant for variant in variants}
        if not unique:
            return
        commit = commit_name(unique) if len(unique) > 1 else ""
        bodies = [
            (record_path(variant.key, variant.id, commit), encode_variant(variant))
            for variant in unique.values()
        ]
        self._all(verb, lambda item: self._store.put(*item), bodies)
        if commit:
            self._one(verb, lambda: self._store.put(commit_path(commit), b"committed\n"))
            self._commits.add(commit)
        for variant, (path, _) in zip(unique.values(), bodies, strict=True):
            self._remember(variant.id, path)

    def recent(self, identities: Collection[str]) -> Mapping[str, Variant]:
        """Nothing: there is no index of identities here."""
        return {}

    def remove_records(self, ids: Collection[str]) -> None:
        """Forgets variants, and on the way what readers of the same keys ignore anyway.

        Ids that this object has seen cost a listing of their keys; others a listing of all.
        """
        if not ids:
            return
        verb = "remove records"
        doomed = {id_segment(identifier) for identifier in ids}
        known = {self._places[identifier] for identifier in ids if identifier in self._places}
        if len(known) == len(set(ids)):
            prefixes = sorted({path.rpartition("/")[0] for path in known})
        else:
            prefixes = [f"records/{shard}" for shard in SHARDS]
        names: list[RecordName] = []
        written: dict[str, float | None] = {}
        for listing in self._all(verb, self._store.list, prefixes):
            for listed in listing:
                name = parse_record_path(listed.path)
                if name is not None:
                    names.append(name)
                    written[name.path] = listed.modified
        going = {name.path for name in names if name.id in doomed}
        going |= self._litter(verb, [name for name in names if name.path not in going], written)
        if going:
            batches = _batches(sorted(going), 1000)
            self._all(verb, self._store.delete, batches)
        for identifier in ids:
            self._places.pop(identifier, None)

    def _litter(
        self, verb: str, names: list[RecordName], written: Mapping[str, float | None]
    ) -> set[str]:
        """Paths of records that no reader will be offered again: pushed out by newer ones, or
        left behind long ago by a writer that died before its commit marker."""
        visible = self._visible(verb, names)
        # Compared with each other: this machine's clock may be wrong.
        now = max((when for when in written.values() if when is not None), default=0.0)
        litter = set()
        for name in names:
            when = written[name.path]
            if name not in visible and when is not None and when < now - ABANDONED:
                litter.add(name.path)
        for members in _by_key(visible).values():
            litter |= {name.path for name in members[VARIANTS:]}
        return litter

    def _list_records(self, verb: str, segments: Collection[str]) -> list[RecordName]:
        shards, single = split_by_shard(segments)
        prefixes = [f"records/{shard}" for shard in shards]
        prefixes += [f"records/{segment[:2]}/{segment}" for segment in single]
        listings = self._all(verb, self._store.list, prefixes)
        return [
            name
            for listing in listings
            for listed in listing
            if (name := parse_record_path(listed.path)) and name.key in segments
        ]

    def _newest_visible(
        self, verb: str, names: list[RecordName], segments: Collection[str]
    ) -> list[RecordName]:
        # Markers are looked for only where a record could be among the newest; twice as many
        # names leave room for commits that never came about.
        candidates = [
            name for members in _by_key(names).values() for name in members[: 2 * VARIANTS]
        ]
        visible = {(name.key, name.id): name for name in self._visible(verb, candidates)}
        newest = _by_key(visible.values())
        return [name for members in newest.values() for name in members[:VARIANTS]]

    def _visible(self, verb: str, names: Iterable[RecordName]) -> set[RecordName]:
        names = list(names)
        self._look_for_commits(verb, {name.commit for name in names if name.commit})
        return {name for name in names if not name.commit or name.commit in self._commits}

    def _look_for_commits(self, verb: str, commits: set[str]) -> None:
        shards, single = split_by_shard(commits - self._commits)
        for listing in self._all(verb, self._store.list, [f"commits/{s}" for s in shards]):
            self._commits.update(listed.path.rpartition("/")[2] for listed in listing)
        sizes = self._all(verb, self._store.size, [commit_path(commit) for commit in single])
        for commit, size in zip(single, sizes, strict=True):
            if size is not None:
                self._commits.add(commit)

    def _read_record(self, path: str) -> bytes | None:
        download = self._store.open(path)
        if download is None or download.size > RECORD_LIMIT:
            return None
        return b"".join(_exactly(download.size, download.pieces))

    def _remember(self, identifier: str, path: str) -> None:
        if len(self._places) < _REMEMBERED:
            self._places[identifier] = path

    # -------------------------------------------------------------------------- results

    def write_result(self, digest: str, chunks: Sequence[Buffer]) -> None:
        """One request for a small result; a large one is sent in pieces, unless it is there."""
        size = sum(memoryview(chunk).nbytes for chunk in chunks)
        self._write(digest, size, lambda: pieces_of(chunks))

    def add_file(self, digest: str, source: Path) -> None:
        """Sends the file's bytes in pieces."""
        try:
            size = source.stat().st_size
        except OSError as error:
            raise self._error("write result", _os_reason(error)) from None
        self._write(digest, size, lambda: _file_pieces(source))

    def _write(self, digest: str, size: int, pieces: Callable[[], Iterator[Buffer]]) -> None:
        path = result_path(digest)

        def write() -> None:
            mend = digest in self._damaged
            if size > PIECE:
                if mend or self._store.size(path) != size:
                    self._store.put_pieces(path, pieces(), size)
            else:
                data = b"".join(pieces())
                if mend or not self._is_or_becomes(path, data):
                    self._store.put(path, data)
            self._damaged.discard(digest)

        self._one("write result", write, size)

    def _is_or_becomes(self, path: str, data: bytes) -> bool:
        return self._store.put_absent(path, data) or self._store.size(path) == len(data)

    def read_result(self, digest: str, size: int) -> memoryview | None:
        """The bytes, after their size and digest have been checked; large ones are received
        straight into their final place."""

        def read() -> memoryview | None:
            download = self._store.open(result_path(digest))
            if download is None:
                return None
            data = bytearray(size) if download.size == size else bytearray()
            whole = download.size == size == _fill(memoryview(data), download.pieces)
            if not whole or xxhash.xxh3_128_hexdigest(data) != digest:
                self._damaged.add(digest)
                return None
            return memoryview(data)

        return self._one("read result", read, size)

    def copy_file(self, digest: str, destination: Path, readonly: bool = False) -> bool:
        """Receives into a file beside the destination, which is renamed when it is right."""

        verb = "read result"
        download = self._one(verb, lambda: self._store.open(result_path(digest)))
        if download is None:
            return False
        size, pieces = download.size, download.pieces
        placed = self._one(verb, lambda: place(digest, size, pieces, destination), size)
        if not placed:
            self._damaged.add(digest)
        return placed

    def has_results(self, digests: Collection[str]) -> frozenset[str]:
        """Asks for few one by one, for many by listing their shards."""
        verb = "look for results"
        segments = {key_segment(digest): digest for digest in digests}
        shards, single = split_by_shard(segments)
        found: set[str] = set()
        for listing in self._all(verb, self._store.list, [f"results/{s}" for s in shards]):
            found.update(listed.path.rpartition("/")[2] for listed in listing)
        sizes = self._all(verb, self._store.size, [result_path(segment) for segment in single])
        found.update(
            segment for segment, size in zip(single, sizes, strict=True) if size is not None
        )
        return frozenset(digest for segment, digest in segments.items() if segment in found)

    # ----------------------------------------------------------------------------- both

    def _one(self, verb: str, call: Callable[[], U], size: int = 0) -> U:
        return self._all(verb, lambda _: call(), [None], size)[0]

    def _all(self, verb: str, call: Callable[[T], U], items: Sequence[T], size: int = 0) -> list[U]:
        seconds = self._seconds + size / SLOWEST
        try:
            return self._workers.map(call, items, seconds)
        except ObjectStoreError as error:
            raise self._error(verb, error.reason) from None
        except Stalled:
            raise self._error(verb, "timed out") from None
        except MemoryError:
            raise self._error(verb, "out of memory") from None
        except OSError as error:
            raise self._error(verb, _os_reason(error)) from None

    def _error(self, verb: str, reason: str) -> StorageError:
        return StorageError(self._shown, verb, reason)


def _by_key(names: Iterable[RecordName]) -> dict[str, list[RecordName]]:
    """The names by key, newest first."""
    keys: dict[str, list[RecordName]] = {}
    for name in sorted(names, reverse=True):
        keys.setdefault(name.key, []).append(name)
    return keys


def _interned(variant: Variant, traces: dict[str, Trace]) -> Variant:
    """The variant with the one Trace object of its digest, so that it is verified once. The
    digest is only a claim: traces that differ stay apart."""
    trace = traces.setdefault(variant.trace.digest, variant.trace)
    if trace is variant.trace or trace != variant.trace:
        return variant
    return replace(variant, trace=trace)


def _exactly(size: int, pieces: Iterable[Buffer]) -> Iterator[Buffer]:
    """The pieces, no more than one piece beyond ``size`` bytes of them."""
    received = 0
    for piece in pieces:
        yield piece
        received += memoryview(piece).nbytes
        if received > size:
            return


def _fill(target: memoryview, pieces: Iterable[Buffer]) -> int:
    """Copies pieces into a view; the bytes copied, or -1 if there were too many."""
    position = 0
    for piece in pieces:
        view = memoryview(piece).cast("B")
        end = position + view.nbytes
        if end > target.nbytes:
            return -1
        target[position:end] = view
        position = end
    return position


def _file_pieces(source: Path) -> Iterator[bytes]:
    with source.open("rb") as stream:
        while piece := stream.read(PIECE):
            yield piece


def _batches(items: Sequence[T], length: int) -> list[Sequence[T]]:
    return [items[start : start + length] for start in range(0, len(items), length)]


def _os_reason(error: OSError) -> str:
    return os.strerror(error.errno).lower() if error.errno else type(error).__name__


__all__ = ["ObjectStorage"]
