"""The state of one run of pytest: settings, observation, and an engine once it is needed."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_taskcache.config.settings import WHOLE, Tests
from pytest_taskcache.dataclass import dataclass, replace
from pytest_taskcache.digests.present import Present
from pytest_taskcache.engine import active
from pytest_taskcache.errors import ConfigurationError, StorageError
from pytest_taskcache.model.event import Decided, Event, Faulted
from pytest_taskcache.model.modes import Mode
from pytest_taskcache.observation.observatory import Observatory
from pytest_taskcache.plugin.options import local_directory, settings_of
from pytest_taskcache.plugin.pytest_private import (
    make_cache_directory,
    new_temporary_directory,
    temporary_directory,
    written_ini,
)
from pytest_taskcache.plugin.surroundings import options_digest, setting_digest
from pytest_taskcache.plugin.usage import cache_directory
from pytest_taskcache.ports import Observer
from pytest_taskcache.report.tally import Tally

if TYPE_CHECKING:
    from pytest_taskcache.config.factory import Composed
    from pytest_taskcache.engine.cache import Engine
    from pytest_taskcache.plugin.coverage_keeping import CoverageKeeping
    from pytest_taskcache.plugin.fixtures import FixtureHooks
    from pytest_taskcache.plugin.items import ItemHooks
    from pytest_taskcache.plugin.outcomes.outcome_hooks import Outcomes
    from pytest_taskcache.plugin.running import Instance, Running
    from pytest_taskcache.plugin.verification import HitVerification
    from pytest_taskcache.storage.local import LocalStorage
    from pytest_taskcache.transactions.staging import Run
    from pytest_taskcache.transactions.transaction import Transaction

_HYPOTHESIS = ".hypothesis"
"""Where hypothesis keeps what it makes: it reads and rewrites that as it draws."""

XDIST_FIELD = "taskcache"
"""What is ours of that which pytest-xdist hands to its workers, and they hand back."""


@dataclass(frozen=True, slots=True)
class Handle:
    """What the ``taskcache`` fixture gives a test.

    ``cache`` is the active engine (None where caching is off); ``transaction`` the running
    test's; ``decisions`` what was decided in this test so far, in order.
    """

    cache: Engine | None
    transaction: Transaction | None
    decisions: list[Decided]


class Session:
    """Everything this plugin knows about one run; hangs on ``config.stash``.

    The engine is composed when something cached is first met; a run without any opens no file.
    """

    fixtures: FixtureHooks
    items: ItemHooks
    verification: HitVerification

    def __init__(self, config: pytest.Config) -> None:
        """Begins to observe: what runs while conftests are imported belongs to their import.
        Raises pytest.UsageError for settings that cannot work."""
        self.config = config
        written_ini(config)  # before other plugins add to it
        settings = settings_of(config)
        self.settings = replace(settings, mode=Mode.READ) if settings.dry_run else settings
        self.directory = local_directory(config, settings)
        self.enabled = self.settings.mode is not Mode.OFF
        """Whether this run may use the cache at all."""
        self.decisions: list[Decided] = []
        self.tally = Tally(worker=self.worker)
        self.tally.whole = settings.explain in WHOLE or bool(settings.report)
        self._temporary: Path | None = None
        self.fingerprints = Present(
            config.rootpath,
            temporary=self.temporary,
            ignore=[self.directory],
            settings=functools.partial(setting_digest, config),
        )
        notes = cache_directory(config)
        self.observatory = Observatory(
            self.fingerprints,
            own=[self.directory, config.rootpath / _HYPOTHESIS],
            notes=[notes, notes / "v", notes / "v/cache"] if notes is not None else (),
        )
        self._run: Run | None = None
        self._composed: Composed | None = None
        self._broken = False
        self._hooked = False
        self.coverage: CoverageKeeping | None = None
        """None where nothing can be measuring coverage."""
        active.activate(self.get_engine)  # switched off it gives none, not that of a run around
        if self.enabled:
            self.observatory.arm()
            if self._may_measure():
                from pytest_taskcache.plugin.coverage_keeping import CoverageKeeping

                self.coverage = CoverageKeeping(self)

    # --------------------------------------------------------------------- life of a run

    @property
    def worker(self) -> str:
        """pytest-xdist's name of this process, known from `configure` on; else ``main``."""
        return str(getattr(self.config, "workerinput", {}).get("workerid", "main"))

    @property
    def is_worker(self) -> bool:
        """Whether this process is a worker of pytest-xdist; known as late."""
        return hasattr(self.config, "workerinput")

    @property
    def distributes(self) -> bool:
        """Whether this process hands its tests to workers."""
        option = self.config.option
        given = getattr(option, "dist", "no") != "no" and bool(getattr(option, "tx", None))
        return given and not self.is_worker

    def configure(self) -> None:
        """After all conftests: registers what shows and distributes, and clears if asked to."""
        manager = self.config.pluginmanager
        from pytest_taskcache.plugin.summary import Summary

        manager.register(Summary(self), "taskcache-summary")
        if not self.enabled:
            return
        if self.settings.dry_run:
            from pytest_taskcache.plugin.dry_run import register as register_dry_run

            register_dry_run(self)
        elif getattr(self.config.option, "cacheclear", False) and not self.is_worker:
            self._clear()
        from pytest_taskcache.plugin.collection.collection_hooks import register

        register(self)  # before pytest-xdist decides whether to distribute
        if hasattr(self.config.option, "numprocesses"):  # by whatever name xdist was loaded
            from pytest_taskcache.plugin.xdist import XdistHooks

            manager.register(XdistHooks(self), "taskcache-xdist")
            if self.distributes:
                self._show_replays()

    def collected(self, items: Sequence[pytest.Item]) -> None:
        """Registers the hooks that work on tests if anything here is cached; else stops
        observing, so that a suite which uses nothing pays nothing."""
        if not self.enabled or self._hooked:
            return
        engine = self.engine if self._is_used_by(items) else None
        if engine is None:
            if self._composed is None:
                self._retire()
                if self.coverage is not None:
                    self.coverage.finish()
            return
        self._hooked = True
        # What pytest does to make the run's temporary directory (it sets a link to the newest one)
        # would be a dependency of the first fixture that asks for it, and keep that from ever
        # being valid again.
        temporary_directory(self.config, make=True)
        self.temporary()
        self.observatory.settle_path()
        from pytest_taskcache.plugin.fixtures import FixtureHooks
        from pytest_taskcache.plugin.items import ItemHooks
        from pytest_taskcache.plugin.verification import HitVerification

        self.fixtures, self.items = FixtureHooks(self), ItemHooks(self, engine)
        self.fixtures.check_names(items)
        self.verification = HitVerification(self, engine)
        self.outcomes.prepare(items)
        if not self.is_worker:
            self._show_replays()
        manager = self.config.pluginmanager
        for name in ("fixtures", "items", "outcomes"):
            manager.register(getattr(self, name), f"taskcache-{name}")
        if self.coverage is not None:
            self.coverage.collected()

    def finish(self, on_progress: Callable[[int, int], None] | None = None) -> None:
        """At the end of the tests: awaits uploads, telling ``on_progress(done, total)``,
        remembers, evicts."""
        composed = self._composed
        if composed is not None and self._hooked:
            self.outcomes.finish()
        self._composed, self._broken = None, True
        if composed is not None:
            composed.finish(on_progress)

    def flush(self) -> None:
        """Has records that wait written, so that all is told that there is to tell."""
        if self._composed is not None and not self._composed.engine.is_forked():
            try:
                if self._hooked:
                    self.outcomes.finish()
                self._composed.engine.recorder.batch.flush()
            except StorageError as error:
                self.failed(error)

    def close(self) -> None:
        """Last of all: nothing of this run is left in the process."""
        if self.coverage is not None:
            self.coverage.finish()
        self.finish()
        if self._hooked:
            self.fixtures.stop()
            self.outcomes.stop()
        self._retire()

    # -------------------------------------------------------------------------- engine

    @property
    def engine(self) -> Engine | None:
        """The engine, composed when first asked for; None where the cache cannot be used."""
        return self.get_engine()

    def get_engine(self) -> Engine | None:
        """As `engine`."""
        if self._composed is None and not self._broken and self.enabled:
            self._compose()
        return self._composed.engine if self._composed is not None else None

    @property
    def local(self) -> LocalStorage | None:
        """The local storage, once the engine is composed: when anything cached was met."""
        return self._composed.local if self._composed is not None else None

    @functools.cached_property
    def outcomes(self) -> Outcomes:
        """The outcomes of the run's tests, where there is an engine."""
        from pytest_taskcache.plugin.outcomes.outcome_hooks import Outcomes

        engine = self.engine
        assert engine is not None
        return Outcomes(self, engine)

    def run(self) -> Run:
        """This run; the same for all workers."""
        from pytest_taskcache.config.factory import new_run
        from pytest_taskcache.transactions.staging import Run

        given = getattr(self.config, "workerinput", {}).get(XDIST_FIELD)
        if given is not None:
            return Run(given["run"], given["started"])
        if self._run is None:
            self._run = new_run()
        return self._run

    @functools.cached_property
    def options_digest(self) -> str:
        """One digest of all options and ini settings that are not neutral."""
        return options_digest(self.config)

    # ------------------------------------------------------------------------- one test

    @property
    def running(self) -> Running | None:
        """The test that is running."""
        return self.items.running if self._hooked else None

    @property
    def running_item(self) -> pytest.Item | None:
        """Its item."""
        return self.running.item if self.running is not None else None

    def handle(self) -> Handle:
        """What the ``taskcache`` fixture returns."""
        attempt = self.running.attempt if self.running is not None else None
        return Handle(self.engine, attempt.transaction if attempt else None, self.decisions)

    def uses(self, instance: Instance) -> None:
        """Notes that the running test uses a fixture's instance."""
        self.items.uses(instance)

    def notify(self, event: Event) -> None:
        """Counts an event, and keeps the decisions of the running test."""
        self.tally.notify(event)
        if isinstance(event, Decided):
            self.decisions.append(event)

    def failed(self, error: StorageError) -> None:
        """Counts a fault of a storage."""
        self.notify(Faulted(f"{error.operation} failed: {error.reason}", str(error)))

    def temporary(self) -> Path | None:
        """The run's temporary directory once pytest has made it, else None."""
        if self._temporary is None:
            self._temporary = temporary_directory(self.config)
            if self._temporary is not None:
                self.observatory.add_scratch(self._temporary)
        return self._temporary

    # ------------------------------------------------------------------------ internals

    def _may_measure(self) -> bool:
        """Whether coverage is measured in this process, or may be by when the tests begin."""
        coverage: Any = sys.modules.get("coverage")
        if coverage is None:
            return False
        running = coverage.Coverage.current() is not None
        return running or self.config.pluginmanager.hasplugin("_cov")

    def _is_used_by(self, items: Sequence[pytest.Item]) -> bool:
        if "pytest_taskcache.decorator" in sys.modules or self.settings.fixtures:
            return True
        if self.settings.tests is Tests.ALL:
            return bool(items)
        return any(item.get_closest_marker("cached") is not None for item in items)

    def _show_replays(self) -> None:
        from pytest_taskcache.plugin.summary import ReplayedReports

        manager = self.config.pluginmanager
        if not manager.hasplugin("taskcache-replayed"):
            manager.register(ReplayedReports(), "taskcache-replayed")

    def _compose(self) -> None:
        from pytest_taskcache.config.factory import Surroundings, compose
        from pytest_taskcache.plugin.extensions import Extensions
        from pytest_taskcache.plugin.summary import WaitingLine

        make_cache_directory(self.config, self.directory)
        extensions = Extensions(self.config)
        surroundings = Surroundings(
            self.config.rootpath,
            self.directory,
            self.fingerprints,
            self.observatory,
            self.temporary,
            functools.partial(new_temporary_directory, self.config),
            self.run(),
            self.worker,
            controller=not self.is_worker,
            several_workers=self.is_worker,
            make_storage=extensions.storage,
        )
        observers: list[Observer] = [self, WaitingLine(self.config), *extensions.observers()]
        try:
            self._composed = compose(self.settings, surroundings, observers)
            if self.coverage is not None:
                self.coverage.attach(self._composed.engine)
        except ConfigurationError as error:
            self._broken = True
            raise pytest.UsageError(str(error)) from error
        except StorageError as error:
            self._broken = True
            # The remedy behind the semicolon is told once, in the line above the counts.
            problem = error.reason.partition(";")[0]
            self.notify(Faulted(f"cache not usable: {problem}", str(error)))
            self._retire()

    def _clear(self) -> None:
        if self.directory.is_dir() and self.engine is not None and self.local is not None:
            self.local.clear()

    def _retire(self) -> None:
        active.deactivate(self.get_engine)
        self.observatory.disarm()
