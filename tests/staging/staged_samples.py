"""Records and staging areas for the tests of staging."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import xxhash

from pytest_taskcache.model.dependency import Dependency, Kind, Trace
from pytest_taskcache.model.key import Identity, Part
from pytest_taskcache.model.record import Result, Variant
from pytest_taskcache.storage.local import LocalStorage
from pytest_taskcache.storage.memory import MemoryStorage
from pytest_taskcache.transactions.staging import Entry, Run, Staging


def digest_of(text: str) -> str:
    return xxhash.xxh3_128_hexdigest(text.encode())


def variant_of(name: str, *, key: str = "", created: float = 1.0) -> Variant:
    """A record with id ``name`` and key ``key of <name>``."""
    data = f"value of {name}".encode()
    return Variant(
        id=name,
        key=key or f"key of {name}",
        identity=Identity("src/app.py", name),
        parts=(Part("source", digest_of(name)),),
        trace=Trace((Dependency(Kind.FILE, "a.txt", digest_of("a")),), digest_of("trace")),
        result=Result(digest_of(f"value of {name}"), len(data), "json", data),
        created=created,
        expires=None,
        duration=0.5,
        producer="test",
    )


def entry_of(
    name: str,
    producer: str,
    *sources: str,
    held: bool = False,
    retryable: bool = False,
    destination: str = "",
) -> Entry:
    return Entry(
        variant_of(name),
        producer,
        frozenset(sources),
        destination=destination,
        held=held,
        retryable=retryable,
    )


class Area:
    """A staging area with the storage it belongs to, and short words for what tests ask."""

    def __init__(self, storage: LocalStorage | MemoryStorage, run: str = "run") -> None:
        self.storage = storage
        lock = storage.run_lock if isinstance(storage, LocalStorage) else None
        self.staging = Staging(storage, Run(run, 1.0), lock)

    def put(self, name: str, producer: str, *sources: str, **options: object) -> None:
        self.staging.stage(entry_of(name, producer, *sources, **options), producer)  # type: ignore[arg-type]

    def visible(self, *names: str, test: str = "") -> set[str]:
        found = self.staging.visible([f"key of {name}" for name in names], test=test)
        return {entry.variant.id for entries in found.values() for entry in entries}

    def committed(self, *names: str) -> set[str]:
        found = self.storage.read_records([f"key of {name}" for name in names])
        return {variant.id for variants in found.values() for variant in variants}

    def staged(self) -> int:
        query = "SELECT count(*) FROM variants WHERE state != ''"
        found = self.storage.index.read("count", lambda c: c.execute(query).fetchone())
        return int(found[0])

    def swept(self) -> int:
        """How many entries go with a sweep."""
        before = self.staged()
        self.staging.sweep()
        return before - self.staged()

    def use(self, claimant: str, *names: str) -> set[str]:
        return set(self.staging.claim(names, claimant))


def area_at(directory: Path, run: str = "run", *, leads: bool = False) -> Area:
    """That of a worker of the run, or of the process that ``leads`` it."""
    return Area(LocalStorage(directory, run=run, leads=leads), run)


def ids(variants: Iterable[Variant]) -> set[str]:
    return {variant.id for variant in variants}
