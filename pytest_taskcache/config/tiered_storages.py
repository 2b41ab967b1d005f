"""Tiered storages, each remote tier guarded as its place demands. Imported when a spec has one."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property, partial
from pathlib import Path

from pytest_taskcache.config.settings import Settings
from pytest_taskcache.config.tiers import TierSpec, read_pyproject
from pytest_taskcache.dataclass import dataclass, field, replace
from pytest_taskcache.errors import ConfigurationError, MissingExtraError, StorageError
from pytest_taskcache.model.record import Variant
from pytest_taskcache.ports import Shelf, Storage
from pytest_taskcache.storage.remote.bounded import Bounded
from pytest_taskcache.storage.remote.location import parse_location, storage_by_url
from pytest_taskcache.storage.remote.namespaces import expand
from pytest_taskcache.storage.remote.pruning import Removed, Retention, prune, prune_if_due
from pytest_taskcache.storage.remote.signed import VARIABLE, Signed, signing_keys
from pytest_taskcache.storage.remote.store import RemoteStore
from pytest_taskcache.storage.remote.tiered import UNWRITABLE, Split, Tier, Tiered
from pytest_taskcache.storage.remote.write_behind import Drained

_SEEN = "storages.seen"
"""Section of the shelf that names the remote storages that this cache was used with."""

PRUNE_SECONDS = 120.0
"""How long the end of a run spends on pruning one storage at most."""


@dataclass(frozen=True)
class Terms:
    """What all storages of a run have in common.

    ``on_fault`` is told the reason and the whole sentence of what went wrong; ``environ`` holds
    the signing key and the variables of templates; ``unobserved()`` keeps what storages do in
    threads of their own out of every window; ``valid`` says whether a variant still holds;
    ``make(url)`` gives the storages of plugins, None for URLs that are none of theirs.
    """

    root: Path
    settings: Settings
    environ: Mapping[str, str]
    on_fault: Callable[[str, str], None]
    unobserved: Callable[[], AbstractContextManager[None]] = nullcontext
    valid: Callable[[Variant], bool] | None = None
    make: Callable[[str], Storage | None] = lambda url: None


@dataclass(frozen=True)
class _Shared:
    """A remote storage that this run may write: as the run sees it, what bounds it, the bare store
    of its records and, where it is another one, that of its results."""

    storage: Signed
    bounded: Bounded
    store: RemoteStore
    results: RemoteStore | None
    retention: Retention


@dataclass
class TieredStorages:
    """Makes tiered storages, and ends them together. ``directory`` makes a tier's local storage."""

    terms: Terms
    directory: Callable[[TierSpec], Storage]
    _signed: list[Signed] = field(default_factory=list)
    _made: list[Tiered] = field(default_factory=list)
    _shared: list[_Shared] = field(default_factory=list)

    def make(self, keys: Sequence[TierSpec], results: Sequence[TierSpec]) -> Storage:
        """One storage of the tiers for records and those for results. Where nothing that its
        tiers need is installed, it is the local one. Raises ConfigurationError."""
        tiers: list[Tier] = []
        for key, result in _paired(keys, results):
            mode = {letter for letter in key.mode if letter in result.mode}
            try:
                storage = self._storage(key, result, "w" in mode)
            except MissingExtraError as error:
                text = f"{error}; the run goes on without it"
                self.terms.on_fault("storage not available", text)
                continue
            tiers.append(Tier(storage, "r" in mode, "w" in mode))
        if not tiers:
            return self.directory(TierSpec("local"))
        tiered = Tiered(tiers, valid=self.terms.valid, unobserved=self.terms.unobserved)
        self._made.append(tiered)
        return tiered

    def flush(self, timeout: float) -> None:
        """Waits at most ``timeout`` seconds for what was committed to reach the remote tiers."""
        deadline = time.monotonic() + timeout
        for tiered in self._made:
            tiered.flush(max(0.0, deadline - time.monotonic()))

    def drain(self, timeout: float, on_progress: Callable[[int, int], None] | None) -> Drained:
        """Awaits all uploads, at most ``timeout`` seconds in all; what became of them."""
        deadline = time.monotonic() + timeout
        drained = Drained()
        for tiered in self._made:
            drained += tiered.drain(max(0.0, deadline - time.monotonic()), on_progress)
        return drained

    def keep_house(self, used: Collection[str], *, prune: bool) -> None:
        """Notes what the run had use for in the remote storages that it may write, and prunes
        those that nobody has pruned for a day. Faults are told, never raised."""
        for shared in self._shared:
            due = partial(prune_if_due, shared.store, shared.retention, shared.results)
            try:
                if used:
                    shared.storage.mark_used(used)
                if prune:
                    shared.bounded.run("prune", due, Removed(), PRUNE_SECONDS)
            except StorageError as error:
                self.terms.on_fault("not pruned", str(error))

    def prune(self, retention: Retention | None) -> list[tuple[str, Removed]]:
        """Prunes all remote storages that may be written, however long it takes: to these limits,
        or those of their URLs; what went from each. Raises StorageError."""
        return [
            (
                shared.store.describe(),
                prune(shared.store, retention or shared.retention, shared.results),
            )
            for shared in self._shared
        ]

    def notes(self, shelf: Shelf, older: Callable[[], bool]) -> Iterator[str]:
        """What a user should read of the remote storages that this run may write: that nobody will
        believe what it writes; that one is new and lacks what is here already, where ``older()``
        says that there is something. The new ones are noted on the shelf."""
        known, told = shelf.read(_SEEN), {}
        for shared in self._shared:
            name = shared.store.describe()
            if not (signing_keys(self.terms.environ) or self.terms.settings.trust_remote):
                or_else = ", or name the directory without file:// if only you can write there"
                yield (
                    f"{name}: what is written there is not signed, and so believed by nobody; set "
                    f"{VARIABLE} on all machines{or_else if name.startswith('file:') else ''}"
                )
            if name not in known and name not in told:
                told[name] = b""
                if older():
                    yield f"{name} is new here: taskcache push {name} sends what was cached before"
        if told:
            shelf.write(_SEEN, told)

    def faults(self) -> Iterator[tuple[str, int, str]]:
        """What was refused, or mended on the quiet: by reason, how often, and the sentence that
        tells the first of them."""
        for signed in self._signed:
            for reason, count, sentence in signed.refused.told():
                yield f"refused: {reason}", count, sentence
        for tiered in self._made:
            for reason, count, sentence in tiered.faults.told():
                if reason != UNWRITABLE:
                    yield reason, count, sentence

    def close(self) -> None:
        """Closes all of them. Never raises."""
        for tiered in self._made:
            tiered.close()

    # ------------------------------------------------------------------------ one tier

    def _storage(self, key: TierSpec, result: TierSpec, write: bool) -> Storage:
        """The storage of a tier; where it is remote, in its namespaces, trusted only as far as
        its signatures go, and unable to hold up the run."""
        if not (key.remote or result.remote):
            records = self.directory(key)
            return records if key == result else Split(records, self.directory(result))
        records, store = self._bare(key)
        results, place = (records, store) if key == result else self._bare(result)
        storage = self._signing(records, results)
        if write and store is not None and isinstance(records, Bounded):
            retention = Retention.of(parse_location(self._expanded(key.spec, "storage", url=True)))
            apart = None if place is store else place
            self._shared.append(_Shared(storage, records, store, apart, retention))
        return storage

    def _bare(self, tier: TierSpec) -> tuple[Storage, RemoteStore | None]:
        """A storage, and the store in it if it is one of ours."""
        if not tier.remote:
            return self.directory(tier), None
        url = self._expanded(tier.spec, tier.setting, url=True)
        storage = self.terms.make(url) or storage_by_url(url, tier.setting)
        bounded = Bounded(
            storage,
            on_fault=partial(self.terms.on_fault, "storage given up"),
            unobserved=self.terms.unobserved,
        )
        bounded.warm()
        return bounded, storage if isinstance(storage, RemoteStore) else None

    def _signing(self, records: Storage, results: Storage) -> Signed:
        settings = self.terms.settings
        signed = Signed(
            records,
            signing_keys(self.terms.environ),
            results=results,
            namespace=self._expanded(settings.namespace or "main", "namespace"),
            also=[self._expanded(name, "read_namespaces") for name in settings.read_namespaces],
            project=self._project,
            trust_remote=settings.trust_remote,
        )
        self._signed.append(signed)
        return signed

    @cached_property
    def _project(self) -> str:
        project = read_pyproject(self.terms.root).get("project", {})
        return str(project.get("name", "")) if isinstance(project, dict) else ""

    def _expanded(self, template: str, setting: str, *, url: bool = False) -> str:
        terms = self.terms
        return expand(template, environ=terms.environ, root=terms.root, setting=setting, url=url)


def _paired(
    keys: Sequence[TierSpec], results: Sequence[TierSpec]
) -> list[tuple[TierSpec, TierSpec]]:
    """Which key storage and which result storage make a tier. Raises ConfigurationError."""
    if len(keys) == len(results):
        return list(zip(keys, results, strict=True))
    if len(results) == 1 and not results[0].remote:
        # Results stay where they are; records are copied on.
        return [(key, replace(results[0], mode=key.mode)) for key in keys]
    far = [tier for tier in results if tier.remote]
    if len(keys) == 1 and not keys[0].remote and len(far) == 1:
        # The one record vouches for a result wherever it is, so there is one tier.
        return [(keys[0], far[0])]
    raise ConfigurationError(
        "key_storage and result_storage",
        f"one has {len(keys)} tiers, the other {len(results)}",
        "give both as many, nearest first, or one of them a single directory",
    )
