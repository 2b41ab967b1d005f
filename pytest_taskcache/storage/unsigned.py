"""A remote storage without a signing key: nothing of it is ever unpickled."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from pytest_taskcache.model.record import Variant
from pytest_taskcache.ports import Buffer, Storage
from pytest_taskcache.storage.decorator import Decorator
from pytest_taskcache.storage.signed import Signed
from pytest_taskcache.storage.signing import VARIABLE
from pytest_taskcache.storage.tally import Tally

INERT = frozenset({"json", "tree", "outcome/json"})
"""Serializers whose loading is known to execute nothing. A list of the safe ones: what nobody
thought of is refused."""


_COMPRESSED = re.compile(r"compressed\((?:zlib|lz4|zstd)\)\+(.+)")


def is_inert(serializer: str) -> bool:
    """Whether loading a result of this serializer is known to execute no code."""
    compressed = _COMPRESSED.fullmatch(serializer)
    return (compressed[1] if compressed else serializer) in INERT


class Unsigned(Decorator):
    """Writes pass, unsigned. Reads give nothing, or with ``trust_remote`` only records whose
    serializer executes nothing. ``trusted`` is False, so even these are never unpickled."""

    def __init__(
        self,
        storage: Storage,
        *,
        trust_remote: bool = False,
        on_fault: Callable[[str], None] | None = None,
    ) -> None:
        super().__init__(storage)
        self._trust_remote = trust_remote
        self._tally = Tally(on_fault)
        self._named: set[str] = set()
        self._lock = threading.Lock()

    @property
    def trusted(self) -> bool:
        """False: anyone may have written what is read here."""
        return False

    @property
    def refused(self) -> Mapping[str, int]:
        """How many records were not returned, by reason."""
        return self._tally.counts

    def read_records(self, keys: Collection[str]) -> Mapping[str, tuple[Variant, ...]]:
        """The variants that may be read without a key."""
        accepted = {}
        for key, variants in self._storage.read_records(keys).items():
            kept = tuple(
                variant for variant in variants if variant.key == key and self._accepts(variant)
            )
            if kept:
                accepted[key] = kept
        return accepted

    def recent(self, identities: Collection[str]) -> Mapping[str, Variant]:
        """The newest variant of each identity, where it may be read without a key."""
        return {
            identity: variant
            for identity, variant in self._storage.recent(identities).items()
            if str(variant.identity) == identity and self._accepts(variant)
        }

    def write_result(self, digest: str, chunks: Sequence[Buffer]) -> None:
        """As ResultStorage.write_result."""
        self._storage.write_result(digest, chunks)
        self._name([digest])

    def add_file(self, digest: str, source: Path) -> None:
        """As ResultStorage.add_file."""
        self._storage.add_file(digest, source)
        self._name([digest])

    def read_result(self, digest: str, size: int) -> memoryview | None:
        """The bytes, if a record that may be read names them; else None."""
        return self._storage.read_result(digest, size) if digest in self._named else None

    def copy_file(self, digest: str, destination: Path, readonly: bool = False) -> bool:
        """As read_result, into a file."""
        return digest in self._named and self._storage.copy_file(digest, destination, False)

    def _accepts(self, variant: Variant) -> bool:
        if not is_inert(variant.result.serializer):
            self._refuse("a remote value could run code when read")
            return False
        if not self._trust_remote:
            self._refuse("a remote value is not signed and taskcache_trust_remote is off")
            return False
        self._name([variant.result.digest, *(blob.digest for blob in variant.result.blobs)])
        return True

    def _name(self, digests: Sequence[str]) -> None:
        with self._lock:
            self._named.update(digests)

    def _refuse(self, reason: str) -> None:
        self._tally.count(reason)
        self._tally.warn(
            f"{self.describe()}: {reason}; set {VARIABLE} to use what this storage holds"
        )


def guarded(
    storage: Storage,
    keys: Sequence[bytes],
    *,
    namespace: str,
    trust_remote: bool = False,
    on_fault: Callable[[str], None] | None = None,
) -> Signed | Unsigned:
    """The storage behind signatures, or without a key behind the refusal to run its code."""
    if keys:
        return Signed(storage, keys, namespace=namespace, on_fault=on_fault)
    return Unsigned(storage, trust_remote=trust_remote, on_fault=on_fault)
