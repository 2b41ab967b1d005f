"""The only place that composes: an engine of the adapters that settings name."""

from __future__ import annotations

import os
import platform
import time
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path

from pytest_taskcache.config.settings import Settings
from pytest_taskcache.config.storage_factory import StorageFactory
from pytest_taskcache.dataclass import dataclass, field
from pytest_taskcache.digests.present import Present
from pytest_taskcache.engine.cache import Engine
from pytest_taskcache.engine.computation import Defaults
from pytest_taskcache.engine.routes import Parts, Payloads, Route
from pytest_taskcache.errors import MissingExtraError, StorageError, fault_of
from pytest_taskcache.locking.by_name import lock_manager_for
from pytest_taskcache.locking.file import IndexLocks
from pytest_taskcache.locking.leases import FlushedFirst
from pytest_taskcache.model import __version__
from pytest_taskcache.model.dependency import Blob
from pytest_taskcache.model.event import Event, Faulted, Noted
from pytest_taskcache.model.modes import Mode
from pytest_taskcache.observation.hooks.dispatcher import muted
from pytest_taskcache.observation.observatory import Observatory
from pytest_taskcache.policies.algebra import LockSpec
from pytest_taskcache.ports import LockManager, Observer, ResultStorage, Storage
from pytest_taskcache.storage.local import LocalStorage
from pytest_taskcache.transactions.staging import Run, Staging

DRAIN_SECONDS = 30.0
"""How long the end of a run waits for uploads at most."""

FLUSH_SECONDS = 10.0
"""How long a lock that other hosts may wait for is kept for an upload at most."""


def new_run() -> Run:
    """A run that begins now; its id sorts by start."""
    now = time.time()
    return Run(f"{int(now * 1000):011x}{uuid.uuid4().hex[:8]}", now)


@dataclass(frozen=True)
class Surroundings:
    """Where a run takes place.

    ``scratch()`` makes a fresh directory in the run's temporary directory, which ``temporary()``
    names (None while there is none). ``make_storage(url)`` gives the storages of plugins, None for
    URLs that are none of theirs. ``worker`` names this process among those of the run, and
    exactly one of them is the ``controller``.
    """

    root: Path
    directory: Path
    fingerprints: Present
    observatory: Observatory
    temporary: Callable[[], Path | None]
    scratch: Callable[[], Path]
    run: Run = field(default_factory=new_run)
    worker: str = "main"
    controller: bool = True
    make_storage: Callable[[str], Storage | None] = lambda url: None


@dataclass
class Composed:
    """An engine, and what has to be ended with it."""

    engine: Engine
    local: LocalStorage
    storages: StorageFactory
    managers: LockManagers
    surroundings: Surroundings

    def finish(self, on_progress: Callable[[int, int], None] | None = None) -> None:
        """Awaits uploads (bounded), notes what was used, evicts what is too much, and closes
        everything. Faults are notified, never raised. A forked child leaves all of it to its
        parent."""
        engine = self.engine
        if engine.is_forked():
            return
        try:
            engine.locks.release_all()
            engine.recorder.batch.flush()
            self._drain(on_progress)
            self._keep_house()
            if self.surroundings.controller:  # it knows what all of them named
                for pattern in engine.parts.refresh.unmatched:
                    text = f"--cache-refresh-only={pattern} named nothing that was looked up"
                    engine.notify(Noted(text))
        except StorageError as error:
            engine.notify(Faulted(*fault_of(error)))
        finally:
            engine.close()
            self.managers.close()
            self.storages.close()
            self.local.close()

    def _drain(self, on_progress: Callable[[int, int], None] | None) -> None:
        for drained in self.storages.drain(DRAIN_SECONDS, on_progress):
            reasons = ", ".join(drained.reasons) or f"no time left after {DRAIN_SECONDS:.0f} s"
            for number in range(drained.failed + drained.left):
                name = drained.unsent[number] if number < len(drained.unsent) else "a record"
                self.engine.notify(Faulted("not uploaded", f"{name}: {reasons}"))

    def _keep_house(self) -> None:
        if self.engine.parts.mode not in (Mode.READ_WRITE, Mode.WRITE):
            return
        self.surroundings.fingerprints.save()
        self.surroundings.observatory.save()
        self.local.mark_used(self.engine.used)
        self.storages.keep_house(self.engine.used, prune=self.surroundings.controller)
        if self.surroundings.controller:
            for text in self.storages.notes(self.surroundings.run.started):
                self.engine.notify(Noted(text))
            self.engine.staging.end()
            self.local.prune()


def compose(
    settings: Settings, surroundings: Surroundings, observers: Iterable[Observer] = ()
) -> Composed:
    """An engine as the settings say. Raises ConfigurationError for a setting that cannot work,
    StorageError where the local cache cannot be used."""
    notices, observatory = Notices(), surroundings.observatory
    local, staging, mode = _open_local(settings, surroundings, notices)
    storages = _storages_of(settings, surroundings, local, notices)
    managers = LockManagers(
        storages, files=lambda: IndexLocks(local.index, surroundings.run.id, staging.hold)
    )
    records, results = storages.route("", "")
    near = records is local and results is local
    parts = Parts(
        run=surroundings.run,
        worker=surroundings.worker,
        route=Route("" if near else "default", records, results),
        local=local,
        staging=staging,
        fingerprints=surroundings.fingerprints,
        observation=observatory,
        payloads=Payloads(
            surroundings.scratch,
            surroundings.temporary,
            (surroundings.root, surroundings.directory),
        ),
        resolve_route=storages.route,
        resolve_locks=managers.resolve,
        lock_manager=None if local.readonly else managers.resolve(settings.lock_manager or "file"),
        isolation=settings.isolation,
        several_workers=not surroundings.controller,
        mode=mode,
        refresh=settings.refresh,
        defaults=Defaults(settings.serializer or None, settings.expiration, settings.commit),
        versions=(("python", platform.python_version()), ("taskcache", __version__)),
    )
    engine = Engine(parts, observers)
    observatory.read_parts_by(lambda blob: _part((local, *engine.routes.results()), blob))
    notices.deliver(engine.notify)
    return Composed(engine, local, storages, managers, surroundings)


def _storages_of(
    settings: Settings, surroundings: Surroundings, local: LocalStorage, notices: Notices
) -> StorageFactory:
    verify = surroundings.observatory.verify
    return StorageFactory(
        local,
        surroundings.root,
        settings,
        os.environ,
        notices.fault,
        on_survived=notices.fault,
        unobserved=muted,
        valid=lambda variant: variant.vouched or not verify(variant.trace),
        plugged=surroundings.make_storage,
    )


def _open_local(
    settings: Settings, surroundings: Surroundings, notices: Notices
) -> tuple[LocalStorage, Staging, Mode]:
    """The local storage, open where the run may write to it; and the mode that it allows: a cache
    on a file system that cannot be written is read."""
    mode = settings.mode
    idle = mode in (Mode.READ, Mode.OFF)
    local = LocalStorage(
        surroundings.directory,
        max_size=settings.max_size,
        readonly=mode is Mode.READ,
        create=not idle,
        on_fault=notices.fault,
        run=surroundings.run.id,
        leads=surroundings.controller and not idle,
    )
    staging = Staging(local, surroundings.run, local.run_lock)
    if not idle:
        try:
            local.index.read("open", lambda connection: None)
            if local.readonly:
                mode = Mode.READ if mode is Mode.READ_WRITE else Mode.OFF
            elif surroundings.controller:
                staging.sweep()
        except StorageError:
            local.close()
            raise
    surroundings.fingerprints.keep_on(local.shelf)
    surroundings.observatory.keep_on(local.shelf)
    return local, staging, mode


def _part(storages: Iterable[ResultStorage], blob: Blob) -> bytes | None:
    """A shared part of a trace, from the first storage that has it; None if it is lost."""
    for storage in storages:
        try:
            data = storage.read_result(blob.digest, blob.size)
        except StorageError:
            continue
        if data is not None:
            return bytes(data)
    return None


class Notices:
    """Events of parts that are made before the engine, which gets them as soon as it is there."""

    def __init__(self) -> None:
        self._kept: list[Event] = []
        self._notify: Callable[[Event], None] = self._kept.append

    def fault(self, reason: str, detail: str = "") -> None:
        """Notifies the engine of a fault, now or later."""
        self._notify(Faulted(reason, detail))

    def deliver(self, notify: Callable[[Event], None]) -> None:
        """Hands over what was kept, and from now on everything at once."""
        self._notify = notify
        for event in self._kept:
            notify(event)


@dataclass
class LockManagers:
    """Lock managers by spec, by name or as objects, each resolved once. ``files()`` makes that of
    the cache directory, which also replaces one whose library is not installed.

    What was committed reaches the ``storages`` before a lease is given back that others than this
    run's workers may wait for; they also know what names stand for.
    """

    storages: StorageFactory
    files: Callable[[], LockManager]
    made: dict[object, tuple[LockSpec, LockManager]] = field(default_factory=dict)

    def resolve(self, spec: LockSpec) -> LockManager:
        """The lock manager of a spec. Raises ConfigurationError."""
        key = spec if isinstance(spec, str) else id(spec)
        if key not in self.made:
            self.made[key] = spec, self._manager(spec)
        return self.made[key][1]

    def close(self) -> None:
        """Closes those that were made of texts. Never raises."""
        for spec, manager in self.made.values():
            if isinstance(spec, str):
                manager.close()

    def _manager(self, spec: LockSpec) -> LockManager:
        if isinstance(spec, str) and spec not in ("file", "memory") and "://" not in spec:
            spec = self.storages.names.get(spec, spec)
        if spec == "file":
            return self.files()
        try:
            manager = lock_manager_for(spec)
        except MissingExtraError as error:
            text = f"{error}; only runs in this checkout exclude each other"
            self.storages.on_fault("lock manager not available", text)
            return self.files()
        if spec == "memory":
            return manager
        return FlushedFirst(manager, lambda: self.storages.flush(FLUSH_SECONDS))
