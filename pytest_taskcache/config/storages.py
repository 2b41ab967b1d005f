"""Storages of the specs that people wrote; the only one who knows all that a run has open."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_taskcache.config.settings import Settings
from pytest_taskcache.config.tiers import LOCAL, TierSpec, directory_of, find_tiers, named_storages
from pytest_taskcache.dataclass import dataclass, field
from pytest_taskcache.errors import StorageError
from pytest_taskcache.ports import Storage
from pytest_taskcache.storage.local import LocalStorage

if TYPE_CHECKING:
    from pytest_taskcache.config.tiered_storages import Terms, TieredStorages
    from pytest_taskcache.storage.remote.pruning import Removed, Retention
    from pytest_taskcache.storage.remote.write_behind import Drained


@dataclass
class StorageFactory:
    """Makes storages of specs, each pair of specs once.

    ``terms()`` is called when the first tiered one is made: what is local needs none of it.
    """

    root: Path
    local: LocalStorage
    settings: Settings
    terms: Callable[[], Terms]
    on_fault: Callable[[str], None]
    _made: dict[tuple[str, str], tuple[Storage, Storage]] = field(default_factory=dict)
    _directories: list[LocalStorage] = field(default_factory=list)
    _tiered: TieredStorages | None = None

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

    @cached_property
    def names(self) -> dict[str, str]:
        """The storages that the project has named. Raises ConfigurationError."""
        return dict(named_storages(self.root))

    def flush(self, timeout: float) -> None:
        """Waits at most ``timeout`` seconds for what was committed to reach the remote tiers."""
        if self._tiered is not None:
            self._tiered.flush(timeout)

    def drain(
        self, timeout: float, on_progress: Callable[[int, int], None] | None
    ) -> Drained | None:
        """Awaits all uploads, at most ``timeout`` seconds in all; what became of them, if there
        could be any."""
        return None if self._tiered is None else self._tiered.drain(timeout, on_progress)

    def keep_house(self, used: Collection[str], *, prune: bool) -> None:
        """To be called once, at the end of a run that may write: notes which variants it had use
        for in the remote storages, and with ``prune`` prunes those that nobody has pruned for a
        day. Faults are told, never raised."""
        if self._tiered is not None:
            self._tiered.keep_house(used, prune=prune)

    def prune(self, retention: Retention | None = None) -> list[tuple[str, Removed]]:
        """As ``prune_shared``, of storages that are open already."""
        self.route("", "")
        return [] if self._tiered is None else self._tiered.prune(retention)

    def notes(self, older: Callable[[], bool]) -> Iterator[str]:
        """As `TieredStorages.notes`."""
        if self._tiered is not None:
            yield from self._tiered.notes(self.local.shelf, older)

    def faults(self) -> Iterator[tuple[str, int, str]]:
        """What was refused, or mended on the quiet: by reason, how often, and the sentence that
        tells the first of them."""
        if self._tiered is not None:
            yield from self._tiered.faults()

    def close(self) -> None:
        """Closes all storages that were made here; the local one stays open. Never raises."""
        if self._tiered is not None:
            self._tiered.close()
        for storage in self._directories:
            storage.close()

    def _make(self, key_spec: str, result_spec: str) -> tuple[Storage, Storage]:
        by_default = key_spec == result_spec == self.settings.storage
        keys = find_tiers(key_spec, self.names, "storage" if by_default else "key_storage")
        results = find_tiers(result_spec, self.names, "storage" if by_default else "result_storage")
        if len(keys) == len(results) == 1 and not keys[0].remote:
            records = self._directory(keys[0])
            return records, records if keys == results else self._directory(results[0])
        if self._tiered is None:
            from pytest_taskcache.config.tiered_storages import TieredStorages

            self._tiered = TieredStorages(self.terms(), self._directory)
        made = self._tiered.make(keys, results)
        return made, made

    def _directory(self, tier: TierSpec) -> Storage:
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
            on_fault=self.on_fault,
        )
        self._directories.append(made)
        return made


def prune_shared(
    root: Path,
    local: LocalStorage,
    settings: Settings,
    environ: Mapping[str, str],
    *,
    older_than: float | None = None,
    max_size: int | None = None,
    unused: float | None = None,
) -> list[tuple[str, Removed]]:
    """Prunes the remote storages that the settings name and that may be written, now and however
    long it takes; where each is, and what went from it.

    ``older_than`` seconds since an entry was written, ``unused`` seconds since it was written or
    a writing run last had use for it, ``max_size`` bytes in all; if none is given, what the URLs
    say. Raises ConfigurationError and StorageError.
    """
    from pytest_taskcache.config.tiered_storages import Terms
    from pytest_taskcache.storage.remote.pruning import Retention

    def failed(reason: str, detail: str = "") -> None:
        raise StorageError("shared storages", "prune", detail or reason)

    factory = StorageFactory(
        root, local, settings, lambda: Terms(root, settings, environ, failed), failed
    )
    retention = Retention(older_than, max_size, unused)
    try:
        return factory.prune(None if retention == Retention() else retention)
    finally:
        factory.close()
