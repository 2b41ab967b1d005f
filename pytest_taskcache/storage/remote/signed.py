"""A storage that others can write to. Only records with a valid signature are used; without a key
nothing from it is ever unpickled.

The signature (HMAC-SHA256, RFC 2104) covers all bytes of the stored record, its namespace included,
and its results by the SHA-256 digests in the record.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path

from pytest_taskcache.dataclass import replace
from pytest_taskcache.errors import ConfigurationError, StorageError
from pytest_taskcache.model.record import VARIANTS, Blob, Variant
from pytest_taskcache.ports import Buffer, FullStorage, TargetFile
from pytest_taskcache.storage.local.faults import told
from pytest_taskcache.storage.records import encode_variant
from pytest_taskcache.storage.remote.namespaces import Namespace

VARIABLE = "PYTEST_TASKCACHE_SIGNING_KEY"
"""Name of the environment variable that holds the keys, newest first."""
MINIMUM = 16
"""Shortest key in bytes: 128 bits, if they are random."""
SKEW = 600.0
"""Seconds by which the clock of a record's producer may be ahead of ours."""
INERT = frozenset({"json", "tree", "outcome/json"})
"""Serializers that are known to execute no code when loading; all others are refused."""

_UNSIGNED = "a record is not signed"
_COMPRESSED = re.compile(r"compressed\((?:zlib|lz4|zstd)\)\+(.+)")


def is_inert(serializer: str) -> bool:
    """Whether loading a result of this serializer is known to execute no code."""
    compressed = _COMPRESSED.fullmatch(serializer)
    return (compressed[1] if compressed else serializer) in INERT


class SigningKey(bytes):
    """A key whose text never shows it, as it may stand in a traceback with its locals."""

    def __repr__(self) -> str:
        return "<signing key>"

    __str__ = __repr__


def signing_keys(environ: Mapping[str, str]) -> tuple[SigningKey, ...]:
    """The keys in PYTEST_TASKCACHE_SIGNING_KEY, separated by commas or newlines; none if unset.

    The first one signs, all verify: to rotate, put the new key in front and take the old one
    away when what it signed has expired. Raises ConfigurationError for a key under 16 bytes.
    """
    texts = re.split(r"[,\r\n]", environ.get(VARIABLE, ""))
    keys = [SigningKey(text.strip().encode("utf-8", "surrogateescape")) for text in texts]
    keys = list(dict.fromkeys(key for key in keys if key))
    _check_keys(keys)
    return tuple(keys)


def _check_keys(keys: Sequence[bytes]) -> None:
    for place, key in enumerate(keys, start=1):
        if len(key) < MINIMUM:
            problem = f"key {place} of {len(keys)} has {len(key)} bytes, fewer than {MINIMUM}"
            remedy = 'use a random one: python -c "import secrets; print(secrets.token_hex(32))"'
            raise ConfigurationError(VARIABLE, problem, remedy)


class Signed:
    """The records and results of one namespace of a storage. Signs what it writes; returns only
    records with a valid signature, and only results whose SHA-256 such a record states. All of this
    is checked before a payload is decoded.

    It writes to ``namespace``, and reads it and the namespaces ``also`` in one request. The first
    of ``keys`` signs, any of them verifies; ``project`` is part of what is signed. **Without keys**
    records are written unsigned, and nothing is read, or with ``trust_remote`` only records whose
    serializer executes no code; ``trusted`` is False then, so they are never unpickled. Refused
    records and results read as absent; ``on_fault(reason, sentence)`` is called for each, with a
    sentence only the first time.

    Raises ConfigurationError for a namespace without a name, and for a key that is too short.
    """

    def __init__(
        self,
        storage: FullStorage,
        keys: Sequence[bytes],
        *,
        namespace: str,
        also: Sequence[str] = (),
        project: str = "",
        trust_remote: bool = False,
        clock: Callable[[], float] = time.time,
        on_fault: Callable[[str, str], None] = lambda reason, sentence: None,
    ) -> None:
        self._storage = storage
        self._write = Namespace(namespace)
        self._read = tuple(Namespace(name) for name in dict.fromkeys((namespace, *also)))
        _check_keys(keys)
        # The keys are kept only in here, which has no text form.
        self._states = tuple(hmac.new(key, digestmod=hashlib.sha256) for key in keys)
        self._project = project.encode("utf-8", "surrogatepass")
        self.trusted = bool(keys)
        self._trust_remote = trust_remote
        self._clock = clock
        self._on_fault = on_fault
        self._has_refused = False
        # SHA-256s by digest; without keys _NOTHING, as nothing vouches for any.
        self._attested: dict[str, str] = {}
        self._lock = threading.Lock()

    def describe(self) -> str:
        """The storage, and the namespace that is written."""
        return f"{self._storage.describe()} (namespace {self._write.name})"

    @property
    def given_up(self) -> bool:
        """Whether the storage has been given up for this run."""
        return bool(getattr(self._storage, "given_up", False))

    def close(self) -> None:
        """As KeyStorage.close."""
        self._storage.close()

    def read_records(self, keys: Collection[str]) -> Mapping[str, tuple[Variant, ...]]:
        """The valid variants of all namespaces that are read, newest first. One that was stored
        under another key than it was written for is refused."""
        outer = {names.key(key): (names, key) for names in self._read for key in keys}
        found: dict[str, tuple[Variant, ...]] = {}
        for place, variants in self._storage.read_records(list(outer)).items():
            names, key = outer[place]
            kept = self._believed(names, [(v, v.key == place) for v in variants])
            if kept:
                found[key] = newest((*found.get(key, ()), *kept))
        return found

    def recent(self, identities: Collection[str]) -> Mapping[str, Variant]:
        """The newest variant of each identity, from the first namespace with a valid one."""
        outer = {names.prefix + text: (names, text) for names in self._read for text in identities}
        inner = self._storage.recent(list(outer))
        found: dict[str, Variant] = {}
        for place, (names, text) in outer.items():
            if place in inner and text not in found:
                there = inner[place]
                for variant in self._believed(names, [(there, str(there.identity) == place)]):
                    found[text] = variant
        return found

    def scan(self) -> Iterator[Variant]:
        """All valid variants of all namespaces that are read."""
        for variant in self._storage.scan():
            for names in self._read:
                if names.outer(variant) is not None:
                    yield from self._believed(names, [(variant, True)])

    def write_records(self, variants: Sequence[Variant]) -> None:
        """Signs and writes them. If a result was not written through this object, its record states
        no SHA-256 of it, so the result is never returned."""
        self._storage.write_records([self._sign(self._write.inner(v)) for v in variants])

    def remove_records(self, ids: Collection[str]) -> None:
        """Removes them from the namespace for writing."""
        self._storage.remove_records([id_ + self._write.suffix for id_ in ids])

    def inner_ids(self, ids: Collection[str]) -> list[str]:
        """The ids that records of the namespaces that are read have in the storage."""
        return [id_ + names.suffix for names in self._read for id_ in ids]

    def write_result(self, digest: str, chunks: Sequence[Buffer]) -> None:
        """Writes the result and remembers its SHA-256 for the record to come."""
        state = hashlib.sha256()
        for chunk in chunks if self.trusted else ():
            state.update(chunk)
        self._attest(digest, state.hexdigest(), "write result")
        self._storage.write_result(digest, chunks)

    def add_file(self, digest: str, source: Path) -> None:
        """As write_result, from a file."""
        with told(self.describe(), "add file"):
            sha256 = _sha256_of(source) if self.trusted else _NOTHING
        self._attest(digest, sha256, "add file")
        self._storage.add_file(digest, source)

    def read_result(self, digest: str, size: int) -> memoryview | None:
        """The bytes, if they have the SHA-256 that a valid record states; else None."""
        expected = self._expected(digest)
        found = None if expected is None else self._storage.read_result(digest, size)
        if found is None or not self.trusted:
            return found
        data = _settled(found)
        if hashlib.sha256(data).hexdigest() != expected:
            self._refuse("a result is not the one that was signed")
            return None
        return data

    def copy_file(self, digest: str, destination: Path, readonly: bool = False) -> bool:
        """As read_result, into a file; never a hard link, through which others could write."""
        expected = self._expected(digest)
        if expected is None or not self._storage.copy_file(digest, destination, False):
            return False
        with told(self.describe(), "copy file"):
            if not self.trusted or _sha256_of(destination) == expected:
                return True
            self._refuse("a result is not the one that was signed")
            destination.unlink(missing_ok=True)
        return False

    def has_results(self, digests: Collection[str]) -> frozenset[str]:
        """Those that are stored, and with keys only those that could be returned from here."""
        known = [d for d in digests if d in self._attested] if self.trusted else digests
        return self._storage.has_results(known) if known else frozenset()

    def read_target(self, name: str) -> TargetFile | None:
        """As TargetStorage.read_target, of the first namespace that has one, if any."""
        found = (self._storage.read_target(names.prefix + name) for names in self._read)
        return next((each for each in found if each is not None), None)

    def write_target(self, name: str, data: Buffer, key: str) -> None:
        """As TargetStorage.write_target, in the namespace for writing."""
        key = self._write.key(key) if key else ""
        self._storage.write_target(self._write.prefix + name, data, key)

    def target_path(self, name: str) -> Path | None:
        """As TargetStorage.target_path."""
        return self._storage.target_path(self._write.prefix + name)

    def _sign(self, variant: Variant) -> Variant:
        if not self.trusted:
            return variant

        def stated(blobs: tuple[Blob, ...]) -> tuple[Blob, ...]:
            return tuple(b._replace(sha256=self._attested.get(b.digest, "")) for b in blobs)

        result, trace = variant.result, variant.trace
        sha256 = self._attested.get(result.digest, "")
        if result.inline is not None:
            sha256 = hashlib.sha256(result.inline).hexdigest()
        result = replace(result, sha256=sha256, blobs=stated(result.blobs))
        signed = replace(variant, result=result, trace=replace(trace, uses=stated(trace.uses)))
        return replace(signed, signature=next(self._signatures(signed)))

    def _verify(self, variant: Variant) -> bool:
        try:
            made = self._signatures(variant)
            return any(hmac.compare_digest(each, variant.signature) for each in made)
        except (TypeError, ValueError, AttributeError, RecursionError):
            # The bytes may come from anyone; fields of a wrong type make a record invalid.
            return False

    def _signatures(self, variant: Variant) -> Iterator[str]:
        """Those of the keys over the project and all of a record but its signature."""
        # The length separates the project's name from the record.
        record = encode_variant(replace(variant, signature=""))
        scope = self._project
        data = b"pytest-taskcache record 1\n%d\n%b%b" % (len(scope), scope, record)
        for state in self._states:
            copy = state.copy()
            copy.update(data)
            yield f"hmac-sha256:{copy.hexdigest()}"

    def _attest(self, digest: str, sha256: str, operation: str) -> None:
        with self._lock:
            known = self._attested.setdefault(digest, sha256)
        if known != sha256:
            raise StorageError(
                self.describe(), operation, "other bytes are signed under the same digest"
            )

    def _believed(
        self, names: Namespace, placed: Sequence[tuple[Variant, bool]]
    ) -> tuple[Variant, ...]:
        """The valid variants of a namespace, as they were written. ``placed`` says of each whether
        it was stored under the key or identity that it states."""
        judged = [(variant, self._objection(variant, in_place)) for variant, in_place in placed]
        kept = [names.outer(variant) for variant, objection in judged if objection is None]
        for _, objection in judged:
            # An unsigned record, from before there was a key, matters only until there is a valid
            # one.
            if objection is not None and not (kept and objection == _UNSIGNED):
                self._refuse(objection)
        return tuple(variant for variant in kept if variant is not None)

    def _objection(self, variant: Variant, in_place: bool) -> str | None:
        """Why a record is refused; None if it is valid, and its SHA-256s have been noted."""
        if not self.trusted:
            if not is_inert(variant.result.serializer):
                return "a remote value could run code when read"
            if not self._trust_remote:
                return "a remote value is not signed and taskcache_trust_remote is off"
        elif not variant.signature:
            return _UNSIGNED
        elif not self._verify(variant):
            return "a record's signature does not match (altered, or of another key or namespace)"
        if not in_place:
            return "a record lies where another one belongs"
        if variant.created > self._clock() + SKEW and self.trusted:
            return "a record is dated in the future"
        if not self._take_over(variant):
            return "a record states another SHA-256 for a result already known"
        return None

    def _take_over(self, variant: Variant) -> bool:
        """Notes the SHA-256s of a valid record; False, and notes none, if one differs from what is
        known."""
        result = variant.result
        stated = {b.digest: b.sha256 for b in (*result.blobs, *variant.trace.uses)}
        if result.inline is None:
            stated[result.digest] = result.sha256
        if not self.trusted:
            stated = dict.fromkeys(stated, _NOTHING)
        with self._lock:
            for digest, sha256 in stated.items():
                if sha256 and self._attested.get(digest, sha256) != sha256:
                    return False
            self._attested.update({digest: sha for digest, sha in stated.items() if sha})
        return True

    def _expected(self, digest: str) -> str | None:
        expected = self._attested.get(digest)
        if expected is None and self.trusted:
            self._refuse("a result has no verified record")
        return expected

    def _refuse(self, reason: str) -> None:
        remedy = f"set {VARIABLE} to use what this storage holds"
        if self.trusted:
            remedy = "such entries are ignored and computed anew"
        sentence = "" if self._has_refused else f"{self.describe()}: {reason}; {remedy}"
        self._has_refused = True
        self._on_fault(f"refused: {reason}", sentence)


_NOTHING = hashlib.sha256().hexdigest()
"""Stands for the SHA-256 of results where there is no key."""


def _settled(data: memoryview) -> memoryview:
    """A private copy of bytes that others could change between the check and the decoding, as a
    mapping of a shared file."""
    if isinstance(data.obj, (bytes, bytearray)):
        return data
    return memoryview(bytes(data)) if data.readonly else memoryview(bytearray(data))


def newest(variants: Sequence[Variant]) -> tuple[Variant, ...]:
    """The variants, each id once, newest first, as many as a key may have."""
    by_id = {variant.id: variant for variant in reversed(variants)}
    ordered = sorted(by_id.values(), key=lambda v: (v.created, v.id), reverse=True)
    return tuple(ordered[:VARIANTS])


def _sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
