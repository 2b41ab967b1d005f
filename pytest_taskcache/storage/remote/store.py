"""Records and results in a place that others can reach: the one store over all adapters.

::

    results/<2 hex>/<digest>                  a payload or file, or the last part of a large one
    results/<2 hex>/<digest>.<n>              the parts before it, from number 0, PART bytes each
    records/<2 hex>/<key>/<id>.json           a record
    recent/<digest>                           the name of an identity's newest record (``atomic``)
    targets/<name>                            the value of a ``target=``, for people and programs
    marks/used-<time>-<random>                what a writing run had use for
    marks/pruned                              when somebody last cleaned up

Nothing is ever changed once it is written, and **a record that is visible is complete and valid by
itself**: whoever writes it has written its results before. So a writer may die at any moment and
leaves results that no record names, which ``prune`` takes away. Places that have transactions
show the records of one commit together; elsewhere some may be seen before the others.

A large result is written as parts, the last of them at the end and under the plain name: where
this one is, all are. Names hold what a listing must tell: ids sort by creation, so one listing
says which records are the newest, before any is fetched. Records are sharded by the first digits
of the key's digest: few keys are listed one by one, many by 256 listings at most.
"""

from __future__ import annotations

import os
import re
import sys
import time
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import xxhash

from pytest_taskcache.errors import StorageError
from pytest_taskcache.model.record import VARIANTS, Variant
from pytest_taskcache.ports import Buffer, TargetFile
from pytest_taskcache.storage.records import decode_variant, encode_variant, results_of
from pytest_taskcache.storage.remote.blobs import LIMIT, BlobError, Blobs, Listed, batches

PART = 8 * 1024 * 1024
"""Bytes of a large result in one blob."""
_FEW = 750
"""Up to so many names are asked for one by one; for more all shards that they lie in are listed."""
_REMEMBERED = 100_000
_AT_ONCE = 500
SHARDS = tuple(f"{number:02x}" for number in range(256))

_DIGEST = re.compile(r"[0-9a-f]{32}").fullmatch
_PLAIN_ID = re.compile(r"(?!x-)[A-Za-z0-9_-]{1,128}").fullmatch
_RECORD = re.compile(r"records/([0-9a-f]{2})/([0-9a-f]{32})/([A-Za-z0-9_-]+)\.json").fullmatch
_RESULT = re.compile(r"results/[0-9a-f]{2}/([0-9a-f]{32})(?:\.[0-9]+)?").fullmatch


class RecordName(NamedTuple):
    """Where a record lies: the segments of its id and key, and the whole name."""

    id: str
    key: str
    name: str


class RemoteStore:
    """Records and results in ``blobs``. Everything that goes wrong there is a StorageError."""

    trusted = False

    def __init__(self, blobs: Blobs) -> None:
        self.blobs = blobs
        self._names: dict[str, str] = {}

    def describe(self) -> str:
        """The URL, without secrets."""
        return self.blobs.shown

    def close(self) -> None:
        """Releases connections."""
        self.blobs.close()

    def read_records(self, keys: Collection[str]) -> Mapping[str, tuple[Variant, ...]]:
        """Lists the keys and fetches the newest records of each. Not a snapshot: a commit that
        lands meanwhile may be seen under one key and not yet under another."""
        wanted = {_segment(key): key for key in keys}
        found: dict[str, list[Variant]] = {}
        with self.told("read records"):
            folders: Collection[str] = [f"records/{key[:2]}/{key}" for key in wanted]
            if not (self.blobs.batched or len(wanted) <= _FEW):
                folders = {folder.rpartition("/")[0] for folder in folders}
            small = (one for one in self.blobs.list_many(folders) if (one.size or 0) <= LIMIT)
            names = by_key(name for name in record_names(small) if name.key in wanted)
            newest = [name for members in names.values() for name in members[:VARIANTS]]
            for name, variant in self.decoded(newest):
                if variant.key == wanted[name.key]:
                    found.setdefault(variant.key, []).append(variant)
        return {key: tuple(variants) for key, variants in found.items()}

    def write_records(self, variants: Sequence[Variant]) -> None:
        """Writes the records; all or none where the place has transactions.

        When the answer to a write is lost, it may have happened although StorageError says
        otherwise; what is then seen is valid, for its results came first.
        """
        unique = sorted({variant.id: variant for variant in variants}.items())
        items: dict[str, Buffer] = {}
        for _, variant in unique:
            name = record_name(variant.key, variant.id)
            items[name] = encode_variant(variant)
            if self.blobs.atomic:
                items[_recent_name(str(variant.identity))] = name.encode()
            self._remember(variant.id, name)
        if not items:
            return
        with self.told("write records"):
            if self.blobs.expires:
                results = {found for _, variant in unique for found in results_of(variant)}
                self.blobs.touch([name for found in results for name in result_names(*found)])
            self.blobs.put_many(items)

    def recent(self, identities: Collection[str]) -> Mapping[str, Variant]:
        """The newest variant of each identity where one write of it costs nothing extra; elsewhere
        there is no such index, and it knows nothing."""
        if not (self.blobs.atomic and identities):
            return {}
        asked = set(identities)
        with self.told("read records"):
            pointers = self.blobs.get_many([_recent_name(identity) for identity in asked])
            names = (parse_record(bytes(name).decode("ascii")) for name in pointers.values())
            found = self.decoded([name for name in names if name is not None])
            newest = {str(variant.identity): variant for _, variant in found}
        return {identity: variant for identity, variant in newest.items() if identity in asked}

    def scan(self) -> Iterator[Variant]:
        """Every record, in no order, as it is asked for."""
        prefixes = ["records"] if self.blobs.batched else [f"records/{s}" for s in SHARDS]
        for some in batches(prefixes, self.blobs.concurrency):
            with self.told("list records"):
                listed = [one for prefix in self.blobs.map(self.blobs.list, some) for one in prefix]
            for few in batches(list(record_names(listed)), _AT_ONCE):
                with self.told("read records"):
                    found = list(self.decoded(few))
                yield from (variant for _, variant in found)

    def remove_records(self, ids: Collection[str]) -> None:
        """Forgets variants. Ids that this object has seen cost nothing but that; for others all
        records are listed."""
        names = [self._names.pop(id_, None) for id_ in ids]
        going = [name for name in names if name is not None]
        with self.told("remove records"):
            if len(going) < len(names):
                doomed = {_id_segment(id_) for id_ in ids}
                listed = record_names(self.blobs.list("records"))
                going += [name.name for name in listed if name.id in doomed]
            if going:
                self.blobs.delete(sorted(set(going)))

    def mark_used(self, ids: Collection[str]) -> None:
        """Notes that a writing run had use for variants, which ``prune(unused=)`` respects; one
        small blob, to be written once, at the end of a run."""
        if ids:
            data = b"".join(sorted(map(used_mark, ids)))
            with self.told("note what was used"):
                self.blobs.put(f"marks/used-{time.time_ns():016x}-{uuid.uuid4().hex[:8]}", data)

    def decoded(self, names: Sequence[RecordName]) -> Iterator[tuple[RecordName, Variant]]:
        """The records of these names that are there and are what their name says."""
        bodies = self.blobs.get_many([name.name for name in names])
        for name in names:
            body = bodies.get(name.name)
            variant = None if body is None else decode_variant(bytes(body))
            if variant is not None and record_name(variant.key, variant.id) == name.name:
                self._remember(variant.id, name.name)
                yield name, variant

    def _remember(self, identifier: str, name: str) -> None:
        if len(self._names) < _REMEMBERED:
            self._names[identifier] = name

    def write_result(self, digest: str, chunks: Sequence[Buffer]) -> None:
        """One blob, or several for a large result; it is complete when the last one is there. What
        is there already is replaced, which mends it if it was damaged."""
        self._write(digest, sum(memoryview(chunk).nbytes for chunk in chunks), chunks)

    def add_file(self, digest: str, source: Path) -> None:
        """As write_result; the file is read as it is sent."""
        with self.told("write result"), source.open("rb") as stream:
            chunks = iter(partial(stream.read, PART), b"")
            self._write(digest, os.fstat(stream.fileno()).st_size, chunks)

    def _write(self, digest: str, size: int, chunks: Iterable[Buffer]) -> None:
        names = result_names(digest, size)
        with self.told("write result"):
            items = zip(names, _parts_of(chunks), strict=False)
            self.blobs.map(lambda item: self.blobs.put(*item), islice(items, len(names) - 1))
            self.blobs.put(*next(items))

    def read_result(self, digest: str, size: int) -> memoryview | None:
        """The bytes, after their size and digest have been checked."""
        data = bytearray()
        with self.told("read result"):
            for part in self._parts(digest, _count(size)):
                data += part
        intact = len(data) == size and xxhash.xxh3_128_hexdigest(data) == digest
        return memoryview(data) if intact else None

    def copy_file(self, digest: str, destination: Path, readonly: bool = False) -> bool:
        """Into a file beside the destination, which is renamed when it is right."""
        with self.told("read result"):
            parts = self._parts(digest)
            # Nothing is begun here before the first answer, which may never come.
            first = next(parts, None)
            if first is None:
                return False
            temporary = destination.with_name(f".{destination.name[:100]}.{uuid.uuid4().hex}.part")
            checksum = xxhash.xxh3_128()
            try:
                with temporary.open("xb") as stream:
                    for part in chain([first], parts):
                        checksum.update(part)
                        stream.write(part)
                if checksum.hexdigest() != digest:
                    return False
                os.replace(temporary, destination)
                return True
            finally:
                temporary.unlink(missing_ok=True)

    def _parts(self, digest: str, count: int = 0) -> Iterator[Buffer]:
        """The parts of a result, in order, as far as they are there. Where nobody said how many
        there are, one that has the digest is all of it."""
        name, width = result_name(digest), self.blobs.concurrency if count else 1
        last = self.blobs.get(name)
        if last is None:
            return
        if not count:
            count = 1 if xxhash.xxh3_128_hexdigest(last) == digest else sys.maxsize
        for start in range(0, count - 1, width):
            names = [f"{name}.{n}" for n in range(start, min(start + width, count - 1))]
            found = self.blobs.map(self.blobs.get, names)
            parts = [part for part in found if part and memoryview(part).nbytes == PART]
            yield from parts
            if len(parts) < len(names):
                break
        yield last

    def has_results(self, digests: Collection[str]) -> frozenset[str]:
        """Asks for few one by one, for many by listing their shards."""
        wanted = {result_name(digest): digest for digest in digests}
        with self.told("look for results"):
            if self.blobs.batched or len(wanted) <= _FEW:
                found = set(self.blobs.sizes(wanted))
            else:
                shards = {name.rpartition("/")[0] for name in wanted}
                found = {one.name for one in self.blobs.list_many(shards)}
        return frozenset(digest for name, digest in wanted.items() if name in found)

    def read_target(self, name: str) -> TargetFile | None:
        """As TargetStorage.read_target. Others can write here: without a verified record that
        has its digest it is worth nothing."""
        with self.told("read a target"):
            data = self.blobs.get(target_name(name))
        return None if data is None else TargetFile(data, xxhash.xxh3_128_hexdigest(data), 0.0)

    def write_target(self, name: str, data: Buffer, key: str) -> None:
        """As TargetStorage.write_target; pruned with the last record that names it."""
        with self.told("write a target"):
            if memoryview(data).nbytes > LIMIT:
                raise BlobError(f"larger than {LIMIT >> 20} MiB")
            self.blobs.put(target_name(name), data)

    def target_path(self, name: str) -> None:
        """As TargetStorage.target_path: there is none."""

    @contextmanager
    def told(self, verb: str) -> Iterator[None]:
        """Everything that is raised inside becomes a StorageError with a short reason."""
        try:
            yield
        except (StorageError, KeyboardInterrupt, SystemExit, GeneratorExit):
            raise
        except BaseException as error:
            # Vendors raise errors of their own, built-in ones, and panics that are no Exception.
            reason = self.blobs.reason(error)
            raise StorageError(self.describe(), verb, reason) from None


def _text_digest(text: str) -> str:
    return xxhash.xxh3_128_hexdigest(text.encode("utf-8", "surrogatepass"))


def _segment(key: str) -> str:
    """A key, or what should be a digest, as 32 hexadecimal digits: it cannot leave its place."""
    return key if _DIGEST(key) else _text_digest(key)


def _id_segment(identifier: str) -> str:
    """An id as part of a name; sorts as the ids do."""
    if _PLAIN_ID(identifier):
        return identifier
    return f"x-{identifier.encode('utf-8', 'surrogatepass').hex()}"


def record_name(key: str, identifier: str) -> str:
    """The name of a record. The record inside says what its key and id really are."""
    segment = _segment(key)
    return f"records/{segment[:2]}/{segment}/{_id_segment(identifier)}.json"


def parse_record(name: str) -> RecordName | None:
    """What a record's name says; None for anything else that lies about."""
    match = _RECORD(name)
    if match is None or not match[2].startswith(match[1]):
        return None
    return RecordName(match[3], match[2], name)


def record_names(listed: Iterable[Listed]) -> Iterator[RecordName]:
    """Those of a listing that are records."""
    return (name for one in listed if (name := parse_record(one.name)) is not None)


def by_key(names: Iterable[RecordName]) -> dict[str, list[RecordName]]:
    """The names by key, newest first."""
    keys: dict[str, list[RecordName]] = {}
    for name in sorted(names, reverse=True):
        keys.setdefault(name.key, []).append(name)
    return keys


def target_name(name: str) -> str:
    """The blob of a target: its name, what is not ASCII percent-encoded."""
    return f"targets/{quote(name, safe='/%', errors='surrogatepass')}"


def targets_of(variant: Variant) -> frozenset[str]:
    """The blob of the target that a record as it lies there names, in its namespace."""
    namespace = variant.key.rpartition("/")[0]
    named = (part.digest for part in variant.parts if part.name == "target")
    return frozenset(target_name(f"{namespace}/{name}" if namespace else name) for name in named)


def result_name(digest: str) -> str:
    """The name of a small result, or of a large one's last part."""
    segment = _segment(digest)
    return f"results/{segment[:2]}/{segment}"


def result_names(digest: str, size: int) -> list[str]:
    """The names of all parts of a result, in order."""
    name = result_name(digest)
    return [f"{name}.{number}" for number in range(_count(size) - 1)] + [name]


def result_digest(name: str) -> str | None:
    """The digest of the result that a blob is a part of; None for other blobs."""
    match = _RESULT(name)
    return None if match is None else match[1]


def used_mark(identifier: str) -> bytes:
    """Eight bytes for an id; that two share them keeps one of them a little longer."""
    return xxhash.xxh3_64_digest(identifier.encode("utf-8", "surrogatepass"))


def _recent_name(identity: str) -> str:
    return f"recent/{_text_digest(identity)}"


def _count(size: int) -> int:
    """How many parts a result has; an empty one has one, which is empty."""
    return max(1, -(-size // PART))


def _parts_of(chunks: Iterable[Buffer]) -> Iterator[Buffer]:
    """The same bytes in parts of PART bytes, only the last one shorter; one at least."""
    pieces: list[memoryview] = []
    room = PART
    for chunk in chunks:
        view = memoryview(chunk).cast("B")
        while view.nbytes:
            if not room:
                yield _one(pieces)
                pieces, room = [], PART
            piece, view = view[:room], view[room:]
            pieces.append(piece)
            room -= piece.nbytes
    yield _one(pieces)


def _one(pieces: list[memoryview]) -> Buffer:
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)
