"""Tiered storages, each remote tier guarded as its place demands. Imported when a spec has one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

from pytest_taskcache.config.settings import Settings
from pytest_taskcache.config.tiers import TierSpec, read_pyproject
from pytest_taskcache.errors import ConfigurationError, MissingExtraError
from pytest_taskcache.model.record import Variant
from pytest_taskcache.ports import Storage
from pytest_taskcache.storage.by_url import storage_by_url
from pytest_taskcache.storage.namespaced import Namespaced
from pytest_taskcache.storage.readonly import ReadOnly
from pytest_taskcache.storage.resilient import Resilient
from pytest_taskcache.storage.signed import Signed
from pytest_taskcache.storage.signing import signing_keys
from pytest_taskcache.storage.split import Split
from pytest_taskcache.storage.templates import expand
from pytest_taskcache.storage.tiered import UNWRITABLE, Mode, Tier, Tiered
from pytest_taskcache.storage.unsigned import Unsigned, guarded
from pytest_taskcache.storage.uploads import Drained


@dataclass(frozen=True)
class Terms:
    """What all storages of a run have in common.

    ``on_fault`` is told the reason and the whole sentence of what went wrong; ``environ`` holds
    the signing key and the variables of templates; ``unobserved()`` keeps what storages do in
    threads of their own out of every window; ``valid`` says whether a variant still holds.
    """

    root: Path
    settings: Settings
    environ: Mapping[str, str]
    on_fault: Callable[[str, str], None]
    unobserved: Callable[[], AbstractContextManager[None]] = nullcontext
    valid: Callable[[Variant], bool] | None = None


@dataclass
class TieredStorages:
    """Makes tiered storages, and ends them together. ``directory`` makes a tier's local storage."""

    terms: Terms
    directory: Callable[[TierSpec], Storage]
    _guards: list[tuple[Signed | Unsigned, list[str]]] = field(default_factory=list)
    _made: list[tuple[Tiered, list[str]]] = field(default_factory=list)

    def make(self, keys: Sequence[TierSpec], results: Sequence[TierSpec]) -> Storage:
        """One storage of the tiers for records and those for results. Where nothing that its
        tiers need is installed, it is the local one. Raises ConfigurationError."""
        tiers: list[Tier] = []
        for key, result in _paired(keys, results):
            tier = self._tier(key, result, background=bool(tiers))
            if tier is not None:
                tiers.append(tier)
        if not tiers:
            return self.directory(TierSpec("local"))
        told: list[str] = []
        terms = self.terms
        tiered = Tiered(tiers, valid=terms.valid, on_fault=told.append, unobserved=terms.unobserved)
        self._made.append((tiered, told))
        return tiered

    def flush(self, timeout: float) -> None:
        """Waits at most ``timeout`` seconds for what was committed to reach the remote tiers."""
        deadline = time.monotonic() + timeout
        for tiered, _ in self._made:
            tiered.flush(max(0.0, deadline - time.monotonic()))

    def drain(self, timeout: float, on_progress: Callable[[int, int], None] | None) -> Drained:
        """Awaits all uploads, at most ``timeout`` seconds in all; what became of them."""
        deadline = time.monotonic() + timeout
        drained = Drained()
        for tiered, _ in self._made:
            drained += tiered.drain(max(0.0, deadline - time.monotonic()), on_progress)
        return drained

    def faults(self) -> Iterator[tuple[str, int, str]]:
        """What was refused, or mended on the quiet: by reason, how often, and the sentence that
        tells the first of them."""
        for guard, told in self._guards:
            for reason, count in guard.refused.items():
                yield f"refused: {reason}", count, _about(reason, told)
        for tiered, told in self._made:
            for reason, count in tiered.faults.items():
                if reason != UNWRITABLE:
                    yield reason, count, _about(reason, told)

    def close(self) -> None:
        """Closes all of them. Never raises."""
        for tiered, _ in self._made:
            tiered.close()

    # ------------------------------------------------------------------------ one tier

    def _tier(self, key: TierSpec, result: TierSpec, *, background: bool) -> Tier | None:
        """One tier; None, and a fault, where what it needs is not installed."""
        mode, other = Mode.parse(key.mode), Mode.parse(result.mode)
        write = mode.write and other.write
        try:
            storage = self._guarded(key, result)
        except MissingExtraError as error:
            text = f"{error}; the run goes on without it"
            self.terms.on_fault("storage not available", text)
            return None
        if not write:
            storage = ReadOnly(storage)
        return Tier(storage, mode.read and other.read, write, background)

    def _guarded(self, key: TierSpec, result: TierSpec) -> Storage:
        records = self._bare(key)
        storage = records if key == result else Split(records, self._bare(result))
        return self._trusted(storage) if key.remote or result.remote else storage

    def _bare(self, tier: TierSpec) -> Storage:
        return self._remote(tier.spec) if tier.remote else self.directory(tier)

    def _remote(self, url: str) -> Storage:
        """A remote storage that cannot hold up the run."""
        resilient = Resilient(
            storage_by_url(self._expanded(url, "storage", url=True)),
            on_fault=partial(self.terms.on_fault, "storage given up"),
            unobserved=self.terms.unobserved,
        )
        resilient.warm()
        return resilient

    def _trusted(self, storage: Storage) -> Storage:
        """The storage in its namespaces, trusted only as far as its signatures go."""
        settings = self.terms.settings
        told: list[str] = []
        safe = guarded(
            storage,
            signing_keys(self.terms.environ),
            namespace=self._project,
            trust_remote=settings.trust_remote,
            on_fault=told.append,
        )
        self._guards.append((safe, told))
        write = self._expanded(settings.namespace or "main", "namespace")
        read = [self._expanded(name, "read_namespaces") for name in settings.read_namespaces]
        return Namespaced(safe, write, [write, *read])

    @cached_property
    def _project(self) -> str:
        project = read_pyproject(self.terms.root).get("project", {})
        return str(project.get("name", "")) if isinstance(project, dict) else ""

    def _expanded(self, template: str, setting: str, *, url: bool = False) -> str:
        terms = self.terms
        return expand(template, environ=terms.environ, root=terms.root, setting=setting, url=url)


def _about(reason: str, told: Sequence[str]) -> str:
    return next((text for text in told if reason in text), "")


def _paired(
    keys: Sequence[TierSpec], results: Sequence[TierSpec]
) -> list[tuple[TierSpec, TierSpec]]:
    """Which key storage and which result storage make a tier. Raises ConfigurationError."""
    if len(keys) == len(results):
        return list(zip(keys, results, strict=True))
    if len(results) == 1 and not results[0].remote:
        # Results stay where they are; records are copied on.
        return [(key, TierSpec(results[0].spec, key.mode)) for key in keys]
    far = [tier for tier in results if tier.remote]
    if len(keys) == 1 and not keys[0].remote and len(far) == 1:
        # The one record vouches for a result wherever it is, so there is one tier.
        return [(keys[0], far[0])]
    raise ConfigurationError(
        "key_storage and result_storage",
        f"one has {len(keys)} tiers, the other {len(results)}",
        "give both as many, nearest first, or one of them a single directory",
    )
