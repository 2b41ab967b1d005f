"""A storage whose content is believed only if a key holder signed it.

Order with the other decorators: ``Namespaced(Signed(Resilient(adapter), keys, ...), ...)``, so
that signatures cover the namespaced names and nothing of theirs is slowed by a dead remote.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from pytest_taskcache.errors import ConfigurationError, StorageError
from pytest_taskcache.model.record import Blob, Result, Variant
from pytest_taskcache.ports import Buffer, Storage
from pytest_taskcache.storage.decorator import Decorator
from pytest_taskcache.storage.signing import VARIABLE, Signer
from pytest_taskcache.storage.tally import Tally

SKEW = 600.0
"""Seconds by which the clock of a record's producer may be ahead of ours."""


class Signed(Decorator):
    """Signs what it writes; returns only records whose signature holds, and only results whose
    SHA-256 such a record states. All of that happens before a payload is decoded.

    ``keys``: the first signs, any verifies; ``namespace`` is part of what is signed. What fails
    reads as absent, is counted in ``refused`` by reason, and is told once through ``on_fault``.
    A result that no record verified in this object (or written through it) names is not returned.
    """

    def __init__(
        self,
        storage: Storage,
        keys: Sequence[bytes],
        *,
        namespace: str,
        on_fault: Callable[[str], None] | None = None,
        clock: Callable[[], float] = time.time,
        skew: float = SKEW,
    ) -> None:
        super().__init__(storage)
        if not keys:
            raise ConfigurationError(
                VARIABLE, "there is no key to sign with", "set it, or compose with Unsigned"
            )
        self._signer = Signer(keys, namespace)
        self._clock = clock
        self._skew = skew
        self._tally = Tally(on_fault)
        self._attested: dict[str, str] = {}
        self._lock = threading.Lock()

    @property
    def trusted(self) -> bool:
        """True: whatever is returned was verified against a key."""
        return True

    @property
    def refused(self) -> Mapping[str, int]:
        """How much was not believed, by reason."""
        return self._tally.counts

    def read_records(self, keys: Collection[str]) -> Mapping[str, tuple[Variant, ...]]:
        """The variants whose signature holds and which were signed for the key they lie under."""
        believed = {}
        for key, variants in self._storage.read_records(keys).items():
            kept = tuple(
                variant for variant in variants if self._believes(variant, variant.key == key)
            )
            if kept:
                believed[key] = kept
        return believed

    def recent(self, identities: Collection[str]) -> Mapping[str, Variant]:
        """The newest variant of each identity, where its signature holds."""
        return {
            identity: variant
            for identity, variant in self._storage.recent(identities).items()
            if self._believes(variant, str(variant.identity) == identity)
        }

    def write_records(self, variants: Sequence[Variant]) -> None:
        """Signs and writes them. One whose result was not written through this object is signed
        without a SHA-256, and so its result will never be returned: what another hand put into
        the storage is not vouched for."""
        self._storage.write_records([self._sign(variant) for variant in variants])

    def write_result(self, digest: str, chunks: Sequence[Buffer]) -> None:
        """Writes the result and remembers its SHA-256 for the record to come."""
        state = hashlib.sha256()
        for chunk in chunks:
            state.update(chunk)
        self._attest_own(digest, state.hexdigest(), "write result")
        self._storage.write_result(digest, chunks)

    def add_file(self, digest: str, source: Path) -> None:
        """As write_result, from a file."""
        try:
            sha256 = _sha256_of(source)
        except OSError as error:
            raise StorageError(self.describe(), "add file", _reason(error)) from error
        self._attest_own(digest, sha256, "add file")
        self._storage.add_file(digest, source)

    def read_result(self, digest: str, size: int) -> memoryview | None:
        """The bytes, if they have the SHA-256 that a believed record states; else None."""
        expected = self._expected(digest)
        if expected is None:
            return None
        found = self._storage.read_result(digest, size)
        if found is None:
            return None
        data = _settled(found)
        if hashlib.sha256(data).hexdigest() != expected:
            self._refuse("a result is not the one that was signed")
            return None
        return data

    def copy_file(self, digest: str, destination: Path, readonly: bool = False) -> bool:
        """As read_result, into a file; never a link, since others may write through one."""
        expected = self._expected(digest)
        if expected is None or not self._storage.copy_file(digest, destination, False):
            return False
        try:
            if _sha256_of(destination) == expected:
                return True
            self._refuse("a result is not the one that was signed")
            destination.unlink(missing_ok=True)
        except OSError as error:
            raise StorageError(self.describe(), "copy file", _reason(error)) from error
        return False

    def has_results(self, digests: Collection[str]) -> frozenset[str]:
        """Those that are stored and could be returned from here."""
        known = [digest for digest in digests if digest in self._attested]
        return self._storage.has_results(known) if known else frozenset()

    # ------------------------------------------------------------------------- signing

    def _sign(self, variant: Variant) -> Variant:
        result = variant.result
        blobs = tuple(
            Blob(b.digest, b.size, self._attested.get(b.digest, "")) for b in result.blobs
        )
        signed = replace(variant, result=replace(result, sha256=self._sha256(result), blobs=blobs))
        return replace(signed, signature=self._signer.sign(signed))

    def _sha256(self, result: Result) -> str:
        if result.inline is not None:
            return hashlib.sha256(result.inline).hexdigest()
        return self._attested.get(result.digest, "")

    def _attest_own(self, digest: str, sha256: str, operation: str) -> None:
        with self._lock:
            known = self._attested.setdefault(digest, sha256)
        if known != sha256:
            raise StorageError(
                self.describe(), operation, "other bytes are signed under the same digest"
            )

    # ----------------------------------------------------------------------- verifying

    def _believes(self, variant: Variant, in_place: bool) -> bool:
        objection = self._objection(variant, in_place)
        if objection is not None:
            self._refuse(objection)
        return objection is None

    def _objection(self, variant: Variant, in_place: bool) -> str | None:
        """Why not to believe a record; None after its SHA-256s were taken over."""
        if not variant.signature:
            return "a record is not signed"
        if not self._signer.verify(variant):
            return "a record's signature does not match (altered, or of another key or namespace)"
        if not in_place:
            return "a record lies where another one belongs"
        if variant.created > self._clock() + self._skew:
            return "a record is dated in the future"
        if not self._take_over(variant.result):
            return "a record states another SHA-256 for a result already known"
        return None

    def _take_over(self, result: Result) -> bool:
        """Remembers the SHA-256s of a verified record; False, and none is, if one differs."""
        stated = {blob.digest: blob.sha256 for blob in result.blobs}
        if result.inline is None:
            stated[result.digest] = result.sha256
        with self._lock:
            for digest, sha256 in stated.items():
                if sha256 and self._attested.get(digest, sha256) != sha256:
                    return False
            self._attested.update({digest: sha for digest, sha in stated.items() if sha})
        return True

    def _expected(self, digest: str) -> str | None:
        expected = self._attested.get(digest)
        if expected is None:
            self._refuse("a result has no verified record")
        return expected

    def _refuse(self, reason: str) -> None:
        self._tally.count(reason)
        self._tally.warn(f"{self.describe()}: {reason}; such entries are ignored and computed anew")


def _settled(data: memoryview) -> memoryview:
    """The same bytes where nobody else can change them between the check and the decoding: a
    mapping of a shared file shows later writes to pages that were not touched yet."""
    if isinstance(data.obj, (bytes, bytearray)):
        return data
    return memoryview(bytes(data)) if data.readonly else memoryview(bytearray(data))


def _sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _reason(error: OSError) -> str:
    return error.strerror or type(error).__name__
