"""Several namespaces in one storage: read from some, written to one.

A name of the storage is ``namespace/key``, both percent-encoded, so that nothing in a key or a
namespace reaches into another one. Results lie beside, shared by content: who may write them can
replace them, which is found out because a verified record states their SHA-256 (see Signed).
Where that is not enough, give each namespace a storage of its own: ``s3://bucket/cache/{branch}``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from urllib.parse import quote, unquote

from pytest_taskcache.dataclass import replace
from pytest_taskcache.errors import ConfigurationError
from pytest_taskcache.model.key import Identity
from pytest_taskcache.model.record import VARIANTS, Variant
from pytest_taskcache.ports import Buffer, Storage, TargetFile
from pytest_taskcache.storage.remote.forwarding import Forwarding


class Namespaced(Forwarding):
    """Writes into namespace ``write``; reads all of ``read``, in one request. Compose it outside
    of Signed, which then signs the names in the storage and so the namespace too.

    Raises ConfigurationError for a namespace without a name.
    """

    def __init__(self, storage: Storage, write: str, read: Sequence[str] = ()) -> None:
        super().__init__(storage)
        self._write = _Names(write)
        self._read = tuple(_Names(name) for name in dict.fromkeys(read or (write,)))

    def describe(self) -> str:
        """The storage and the namespace that is written."""
        return f"{super().describe()} (namespace {self._write.name})"

    def read_records(self, keys: Collection[str]) -> Mapping[str, tuple[Variant, ...]]:
        """The variants of all namespaces that are read, newest first."""
        inner = self._storage.read_records(
            [names.key(key) for names in self._read for key in dict.fromkeys(keys)]
        )
        found: dict[str, tuple[Variant, ...]] = {}
        for key in keys:
            mine = [
                outer
                for names in self._read
                for variant in inner.get(names.key(key), ())
                if (outer := names.outer(variant)) is not None and outer.key == key
            ]
            if mine:
                found[key] = newest(mine)
        return found

    def recent(self, identities: Collection[str]) -> Mapping[str, Variant]:
        """The newest variant of each identity in the first namespace that has one."""
        inner = self._storage.recent(
            [names.prefix + text for names in self._read for text in identities]
        )
        found: dict[str, Variant] = {}
        for names in self._read:
            for text in identities:
                variant = inner.get(names.prefix + text)
                mine = None if variant is None else names.outer(variant)
                if mine is not None:
                    found.setdefault(text, mine)
        return found

    def scan(self) -> Iterator[Variant]:
        """The variants of all namespaces that are read."""
        for variant in self._storage.scan():
            mine = (names.outer(variant) for names in self._read)
            yield from (outer for outer in mine if outer is not None)

    def write_records(self, variants: Sequence[Variant]) -> None:
        """Writes them into the namespace for writing."""
        self._storage.write_records([self._write.inner(variant) for variant in variants])

    def remove_records(self, ids: Collection[str]) -> None:
        """Removes them from the namespace for writing."""
        self._storage.remove_records([id_ + self._write.suffix for id_ in ids])

    def read_target(self, name: str) -> TargetFile | None:
        """That of the first namespace that has one."""
        found = (super(Namespaced, self).read_target(each.prefix + name) for each in self._read)
        return next((target for target in found if target is not None), None)

    def write_target(self, name: str, data: Buffer, key: str) -> None:
        """Writes it into the namespace for writing."""
        super().write_target(self._write.prefix + name, data, self._write.key(key) if key else "")

    def target_path(self, name: str) -> Path | None:
        """As TargetStorage.target_path."""
        return super().target_path(self._write.prefix + name)

    def mark_used(self, ids: Collection[str]) -> None:
        """Notes what was used of any namespace that is read."""
        super().mark_used([id_ + names.suffix for names in self._read for id_ in ids])


class _Names:
    """The names that things of one namespace have in the storage, and back."""

    def __init__(self, name: str) -> None:
        if not name.strip():
            raise ConfigurationError("namespace", "it is empty", "name one, e.g. main")
        self.name = name
        # What a template has encoded is not encoded again.
        self.prefix = f"{encode(name, keep='%')}/"
        # Variant ids are unique over a storage, and one record may lie in several namespaces.
        self.suffix = f"-{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:12]}"

    def key(self, key: str) -> str:
        return self.prefix + encode(key)

    def inner(self, variant: Variant) -> Variant:
        file, name = variant.identity
        return replace(
            variant,
            id=variant.id + self.suffix,
            key=self.key(variant.key),
            identity=Identity(self.prefix + file, name),
        )

    def outer(self, variant: Variant) -> Variant | None:
        """The record as it was written; None if it is none of this namespace."""
        file, name = variant.identity
        prefixed = variant.key.startswith(self.prefix) and file.startswith(self.prefix)
        if not (variant.id.endswith(self.suffix) and prefixed):
            return None
        return replace(
            variant,
            id=variant.id.removesuffix(self.suffix),
            key=decode(variant.key.removeprefix(self.prefix)),
            identity=Identity(file.removeprefix(self.prefix), name),
        )


def newest(variants: Sequence[Variant]) -> tuple[Variant, ...]:
    """The variants, each id once, newest first, as many as a key may have."""
    by_id = {variant.id: variant for variant in reversed(variants)}
    ordered = sorted(by_id.values(), key=lambda v: (v.created, v.id), reverse=True)
    return tuple(ordered[:VARIANTS])


def encode(text: str, keep: str = "") -> str:
    """The text as one path component that is not hidden, ``.`` or ``..``; ``decode`` reverts it
    (without ``keep``, characters that stay as they are)."""
    quoted = quote(text, safe=keep, errors="surrogatepass")
    return f"%2E{quoted[1:]}" if quoted.startswith(".") else quoted


def decode(component: str) -> str:
    """The text that ``encode`` made this of."""
    return unquote(component, errors="surrogatepass")


__all__ = ["Namespaced", "decode", "encode", "newest"]
