"""Storages of the specs that people wrote; the only one who knows all that a run has open.

A remote storage is seen through three more: bounded (it cannot hold up the run), signed (it is
believed as far as its signatures go, in its namespaces), and tiered (the local one is in front).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property, partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_taskcache.config.settings import Settings
from pytest_taskcache.config.tiers import (
    LOCAL,
    TierSpec,
    directory_of,
    find_tiers,
    named_storages,
    read_pyproject,
)
from pytest_taskcache.dataclass import dataclass, field, replace
from pytest_taskcache.errors import ConfigurationError, MissingExtraError, StorageError
from pytest_taskcache.model.record import Variant
from pytest_taskcache.ports import FullStorage, Storage
from pytest_taskcache.storage.local import LocalStorage

if TYPE_CHECKING:
    from pytest_taskcache.storage.remote.bounded import Bounded
    from pytest_taskcache.storage.remote.pruning import Removed, Retention
    from pytest_taskcache.storage.remote.signed import Signed
    from pytest_taskcache.storage.remote.store import RemoteStore
    from pytest_taskcache.storage.remote.tiered import Drained, Tiered

PRUNE_SECONDS = 120.0
"""How long the end of a run spends on pruning one storage at most."""
_MARK_SECONDS = 10.0
_SEEN = "storages.seen"
"""Section of the shelf that names the remote storages that this cache was used with."""


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
class StorageFactory:
    """Makes storages of specs, each pair of specs once, and ends them together. ``local`` is the
    run's own; it stays open.

    ``on_fault`` is told the reason and the whole sentence of what went wrong, ``on_survived`` of
    what was refused, or failed and broke nothing (often, with a sentence or ""); ``environ`` holds
    the signing key and the variables of templates; ``unobserved()`` keeps what storages do in
    threads of their own out of every window; ``valid`` says whether a variant still holds;
    ``plugged(url)`` gives the storages of plugins, None for URLs that are none of theirs.
    """

    local: LocalStorage
    root: Path
    settings: Settings
    environ: Mapping[str, str]
    on_fault: Callable[[str, str], None]
    on_survived: Callable[[str, str], None] = lambda reason, sentence: None
    unobserved: Callable[[], AbstractContextManager[None]] = nullcontext
    valid: Callable[[Variant], bool] | None = None
    plugged: Callable[[str], Storage | None] = lambda url: None
    _made: dict[tuple[str, str], tuple[Storage, Storage]] = field(default_factory=dict)
    _directories: list[LocalStorage] = field(default_factory=list)
    _tiered: list[Tiered] = field(default_factory=list)
    _shared: list[_Shared] = field(default_factory=list)

    def route(self, key_spec: str, result_spec: str) -> tuple[Storage, Storage]:
        """The storages for records and for results of two specs; "" is what the settings say.

        They are one object wherever one of them is remote, since only a verified record vouches
        for a remote result. Raises ConfigurationError.
        """
        settings = self.settings
        keys = key_spec or settings.key_storage or settings.storage
        results = result_spec or settings.result_storage or settings.storage
        if not (keys or results):
            return self.local, self.local
        if (keys, results) not in self._made:
            self._made[keys, results] = self._make(keys, results)
        return self._made[keys, results]

    def apart(self, spec: str) -> Storage:
        """The tiers of a spec that may be written, without the local one, for sending what is
        here: in front of the others it would say that they have all of it. Raises
        ConfigurationError."""
        far = (tier for tier in find_tiers(spec, self.names) if tier.spec != LOCAL)
        tiers = [tier for tier in far if "w" in tier.mode]
        if not tiers:
            remedy = "name it without ':r' to send something there"
            raise ConfigurationError("storage", "what is set may only be read", remedy)
        return self._tiers(_paired(tiers, tiers))

    @cached_property
    def names(self) -> dict[str, str]:
        """The storages that the project has named. Raises ConfigurationError."""
        return dict(named_storages(self.root))

    def flush(self, timeout: float) -> None:
        """Waits at most ``timeout`` seconds for what was committed to reach the remote tiers."""
        deadline = time.monotonic() + timeout
        for uploads in chain.from_iterable(tiered.uploads for tiered in self._tiered):
            uploads.flush(max(0.0, deadline - time.monotonic()))

    def drain(
        self, timeout: float, on_progress: Callable[[int, int], None] | None = None
    ) -> Iterator[Drained]:
        """Waits for all uploads, at most ``timeout`` seconds in all; what became of them."""
        deadline = time.monotonic() + timeout
        for tiered in self._tiered:
            yield tiered.drain(max(0.0, deadline - time.monotonic()), on_progress)

    def keep_house(self, used: Collection[str], *, prune: bool) -> None:
        """To be called once, at the end of a run that may write: notes which variants it had use
        for in the remote storages, and with ``prune`` prunes those that nobody has pruned for a
        day. Faults are told, never raised."""
        for shared in self._shared:
            try:
                if used:
                    mark = partial(shared.store.mark_used, shared.storage.inner_ids(used))
                    shared.bounded.run("note what was used", mark, None, _MARK_SECONDS)
                if prune:
                    from pytest_taskcache.storage.remote.pruning import Removed, prune_if_due

                    due = partial(prune_if_due, shared.store, shared.retention, shared.results)
                    shared.bounded.run("prune", due, Removed(), PRUNE_SECONDS)
            except StorageError as error:
                self.on_fault("not pruned", str(error))

    def prune_shared(self, asked: Retention) -> list[tuple[str, Removed]]:
        """Prunes the remote storages that the settings name and that may be written, now and
        however long it takes, to what is asked for, or, if that is nothing, to what the URLs say;
        where each is, and what went from it. Raises ConfigurationError and StorageError."""
        from pytest_taskcache.storage.remote.pruning import Retention, prune

        self.route("", "")
        pruned = []
        for shared in self._shared:
            retention = shared.retention if asked == Retention() else asked
            removed = prune(shared.store, retention, shared.results)
            pruned.append((shared.store.describe(), removed))
        return pruned

    def notes(self, started: float) -> Iterator[str]:
        """What a user should read of the remote storages that this run, ``started`` then, may
        write: that nobody will believe what it writes; that one is new and lacks what earlier runs
        left here. The new ones are noted on the local shelf."""
        if not self._shared:
            return
        from pytest_taskcache.storage.remote.signed import VARIABLE

        shelf = self.local.shelf
        known, told = shelf.read(_SEEN), {}
        for shared in self._shared:
            name = shared.store.describe()
            if not (shared.storage.trusted or self.settings.trust_remote):
                or_else = ", or name the directory without file:// if only you can write there"
                yield (
                    f"{name}: what is written there is not signed, and so believed by nobody; set "
                    f"{VARIABLE} on all machines{or_else if name.startswith('file:') else ''}"
                )
            if name not in known and name not in told:
                told[name] = b""
                oldest = next(iter(self.local.scan()), None)
                if oldest is not None and oldest.created < started:
                    yield f"{name} is new here: taskcache push {name} sends what was cached before"
        if told:
            shelf.write(_SEEN, told)

    def close(self) -> None:
        """Closes all storages that were made here. Never raises."""
        for tiered in self._tiered:
            tiered.close()
        for storage in self._directories:
            storage.close()

    def _make(self, key_spec: str, result_spec: str) -> tuple[Storage, Storage]:
        by_default = key_spec == result_spec == self.settings.storage
        keys = find_tiers(key_spec, self.names, "storage" if by_default else "key_storage")
        results = find_tiers(result_spec, self.names, "storage" if by_default else "result_storage")
        if len(keys) == len(results) == 1 and not keys[0].remote:
            records = self._directory(keys[0])
            return records, records if keys == results else self._directory(results[0])
        made = self._tiers(_paired(keys, results))
        return made, made

    def _directory(self, tier: TierSpec) -> FullStorage:
        directory = directory_of(tier.spec, self.root)
        reading = tier.mode == "r" or self.local.readonly
        if tier.spec == LOCAL or directory == self.local.directory:
            if tier.mode == "r" and not self.local.readonly:
                from pytest_taskcache.storage.remote.tiered import Tier, Tiered

                return Tiered([Tier(self.local, write=False)])
            return self.local
        made = LocalStorage(
            directory,
            max_size=self.settings.max_size,
            readonly=reading,
            create=not reading,
            on_fault=lambda reason: self.on_fault(reason, ""),
        )
        self._directories.append(made)
        return made

    def _tiers(self, pairs: Sequence[tuple[TierSpec, TierSpec]]) -> FullStorage:
        """One storage of all tiers; the local one where nothing that they need is installed."""
        from pytest_taskcache.storage.remote.tiered import Tier, Tiered

        tiers: list[Tier] = []
        for key, result in pairs:
            mode = {letter for letter in key.mode if letter in result.mode}
            try:
                storage = self._tier(key, result, "w" in mode)
            except MissingExtraError as error:
                text = f"{error}; the run goes on without it"
                self.on_fault("storage not available", text)
                continue
            tiers.append(Tier(storage, "r" in mode, "w" in mode))
        if not tiers:
            return self._directory(TierSpec(LOCAL))
        tiered = Tiered(
            tiers, valid=self.valid, unobserved=self.unobserved, on_fault=self.on_survived
        )
        self._tiered.append(tiered)
        return tiered

    def _tier(self, key: TierSpec, result: TierSpec, write: bool) -> FullStorage:
        """The storage of a tier; where it is remote, in its namespaces, trusted only as far as
        its signatures go, and unable to hold up the run."""
        from pytest_taskcache.storage.remote.bounded import Bounded
        from pytest_taskcache.storage.remote.location import parse_location
        from pytest_taskcache.storage.remote.pruning import Retention
        from pytest_taskcache.storage.remote.tiered import Split

        if not (key.remote or result.remote):
            near = self._directory(key)
            return near if key == result else Split(near, self._directory(result))
        records, store = self._bare(key)
        results, place = (records, store) if key == result else self._bare(result)
        signed = self._believed(records if key == result else Split(records, results))
        if write and store is not None and isinstance(records, Bounded):
            retention = Retention.of(parse_location(self._expanded(key.spec, "storage", url=True)))
            apart = None if place is store else place
            self._shared.append(_Shared(signed, records, store, apart, retention))
        return signed

    def _bare(self, tier: TierSpec) -> tuple[FullStorage, RemoteStore | None]:
        """A storage that cannot hold up the run, and the store in it if it is one of ours."""
        if not tier.remote:
            return self._directory(tier), None
        from pytest_taskcache.storage.remote.bounded import Bounded
        from pytest_taskcache.storage.remote.location import storage_by_url
        from pytest_taskcache.storage.remote.store import RemoteStore

        url = self._expanded(tier.spec, tier.setting, url=True)
        storage = self.plugged(url) or storage_by_url(url, tier.setting)
        bounded = Bounded(
            storage, on_fault=partial(self.on_fault, "storage given up"), unobserved=self.unobserved
        )
        bounded.warm()
        return bounded, storage if isinstance(storage, RemoteStore) else None

    def _believed(self, storage: FullStorage) -> Signed:
        from pytest_taskcache.storage.remote.signed import Signed, signing_keys

        settings = self.settings
        project = read_pyproject(self.root).get("project", {})
        return Signed(
            storage,
            signing_keys(self.environ),
            namespace=self._expanded(settings.namespace or "main", "namespace"),
            also=[self._expanded(name, "read_namespaces") for name in settings.read_namespaces],
            project=str(project.get("name", "")) if isinstance(project, dict) else "",
            trust_remote=settings.trust_remote,
            on_fault=self.on_survived,
        )

    def _expanded(self, template: str, setting: str, *, url: bool = False) -> str:
        from pytest_taskcache.storage.remote.namespaces import expand

        return expand(template, environ=self.environ, root=self.root, setting=setting, url=url)


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
