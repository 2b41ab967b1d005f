"""The state of one run of pytest: settings, observation, and an engine once it is needed."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_taskcache.checksum import checksum
from pytest_taskcache.config.settings import (
    NAMES,
    WHOLE,
    Settings,
    Sources,
    Tests,
    project_settings,
    read_settings,
)
from pytest_taskcache.dataclass import dataclass, replace
from pytest_taskcache.digests.present import Present
from pytest_taskcache.engine import active
from pytest_taskcache.errors import ConfigurationError, StorageError, TaskCacheError, fault_of
from pytest_taskcache.model.event import Decided, Event, Faulted
from pytest_taskcache.model.modes import Mode
from pytest_taskcache.observation.observatory import Observatory
from pytest_taskcache.plugin import cache_directory, default_directory, is_marked
from pytest_taskcache.plugin.pytest_private import (
    make_cache_directory,
    new_temporary_directory,
    temporary_directory,
    written_ini,
)
from pytest_taskcache.plugin.surroundings import option_parts, setting_digest
from pytest_taskcache.ports import Observer
from pytest_taskcache.report.tally import Tally

if TYPE_CHECKING:
    from pytest_taskcache.config.factory import Composed
    from pytest_taskcache.engine.cache import Engine
    from pytest_taskcache.plugin.coverage_keeping import CoverageKeeping
    from pytest_taskcache.plugin.fixtures import FixtureHooks
    from pytest_taskcache.plugin.items import ItemHooks, Running
    from pytest_taskcache.plugin.outcomes.outcome_hooks import Outcomes
    from pytest_taskcache.plugin.verification import HitVerification
    from pytest_taskcache.storage.local import LocalStorage
    from pytest_taskcache.transactions.staging import Run
    from pytest_taskcache.transactions.transaction import Transaction

_XDIST_FIELD, _MATCHED = "taskcache", "taskcache-matched"
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
        try:
            settings = _settings_of(config)
            self.directory = default_directory(config)
            if settings.storage:  # where it names one directory, and nothing else
                from pytest_taskcache.config.tiers import only_directory

                named = only_directory(settings.storage, config.rootpath)
                self.directory = named or self.directory
        except TaskCacheError as error:
            raise pytest.UsageError(str(error)) from error
        self.settings = replace(settings, mode=Mode.READ) if settings.dry_run else settings
        self.enabled = self.settings.mode is not Mode.OFF
        """Whether this run may use the cache at all."""
        self.decisions: list[Decided] = []
        self.tally = Tally(worker=self.worker)
        self.tally.whole = settings.explain in WHOLE or bool(settings.report)
        self._temporary: Path | None = None
        notes = cache_directory(config)
        # Hypothesis reads and rewrites what it keeps as it draws.
        own = [self.directory, config.rootpath / ".hypothesis"]
        self.fingerprints = Present(
            config.rootpath,
            temporary=self.temporary,
            ignore=own if notes is None else [*own, notes],
            settings=functools.partial(setting_digest, config),
        )
        self.observatory = Observatory(
            self.fingerprints,
            own=own,
            notes=[notes, notes / "v", notes / "v/cache"] if notes is not None else (),
        )
        self._run: Run | None = None
        self._composed: Composed | None = None
        self._broken = False
        self.hooked = False
        """Whether there is an engine, and who follows the tests."""
        self.coverage: CoverageKeeping | None = None
        """None where nothing can be measuring coverage."""
        self._provide = lambda: self.engine
        active.activate(self._provide)  # switched off it gives none, not that of a run around
        if self.enabled:
            self.observatory.arm()
        self.watch_coverage()

    def watch_coverage(self) -> None:
        """Keeps lines along with values, if coverage is being measured or may be."""
        coverage: Any = sys.modules.get("coverage")
        if not self.enabled or self.coverage is not None or coverage is None:
            return
        pytest_cov = self.config.pluginmanager.hasplugin("_cov")
        if pytest_cov or coverage.Coverage.current() is not None:
            from pytest_taskcache.plugin.coverage_keeping import CoverageKeeping

            self.coverage = CoverageKeeping(self)

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
        from pytest_taskcache.plugin.summary import DryRun, Summary

        manager.register(Summary(self), "taskcache-summary")
        if not self.enabled:
            return
        if self.is_worker:
            self.observatory.on_own_write()  # other workers write in the same tree, unseen
        clears = getattr(self.config.option, "cacheclear", False)
        if self.settings.dry_run:
            if clears:
                raise pytest.UsageError("--cache-dry-run clears nothing; leave out --cache-clear")
            if self.distributes:  # starts no workers
                option = self.config.option
                option.numprocesses, option.dist, option.tx = 0, "no", []
            manager.register(DryRun(self), "taskcache-dry-run")
        elif clears and not self.is_worker:
            local = self.local if self.directory.is_dir() and self.engine is not None else None
            if local is not None:
                local.clear()
        from pytest_taskcache.plugin.collection.collection_hooks import register

        register(self)  # before pytest-xdist decides whether to distribute
        if hasattr(self.config.option, "numprocesses"):  # by whatever name xdist was loaded
            manager.register(XdistHooks(self), "taskcache-xdist")
            if self.distributes:
                self._show_replays()

    def collected(self, items: Sequence[pytest.Item]) -> None:
        """Registers the hooks that work on tests if anything here is cached; else stops
        observing, so that a suite which uses nothing pays nothing."""
        if not self.enabled or self.hooked:
            return
        every = self.settings.tests is Tests.ALL and bool(items)
        used = every or bool(self.settings.fixtures) or is_marked(items)
        engine = self.engine if used else None
        if engine is None:
            if self._composed is None:
                self._retire()
                if self.coverage is not None:
                    self.coverage.finish()
            return
        self.hooked = True
        # What pytest does to make the run's temporary directory (it sets a link to the newest one)
        # would be a dependency of the first fixture that asks for it, and keep that from ever
        # being valid again.
        temporary_directory(self.config, make=True)
        self.temporary()
        from pytest_taskcache.decorator import Spec
        from pytest_taskcache.plugin.fixtures import FixtureHooks
        from pytest_taskcache.plugin.items import ItemHooks
        from pytest_taskcache.plugin.verification import HitVerification

        self.observatory.note_start(calls=Spec.made or bool(self.settings.fixtures))
        self.fixtures, self.items = FixtureHooks(self, engine), ItemHooks(self, engine)
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
        """At the end of the tests: awaits uploads, telling of progress, remembers, evicts. Nothing
        is observed any more: summaries are written, for which whole libraries may be imported."""
        self.flush()
        self.observatory.disarm()
        composed, self._composed, self._broken = self._composed, None, True
        if composed is not None:
            composed.finish(on_progress)

    def flush(self) -> None:
        """Has records that wait written, so that all is told that there is to tell."""
        if self._composed is not None and not self._composed.engine.is_forked():
            with self.counting_faults():
                if self.hooked:
                    self.outcomes.finish()
                self._composed.engine.recorder.batch.flush()

    def close(self) -> None:
        """Last of all: nothing of this run is left in the process."""
        if self.coverage is not None:
            self.coverage.finish()
        self.finish()
        if self.hooked:
            self.fixtures.stop()
            self.outcomes.stop()
        self._retire()

    @property
    def engine(self) -> Engine | None:
        """The engine, composed when first asked for; None where the cache cannot be used."""
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

        given = getattr(self.config, "workerinput", {}).get(_XDIST_FIELD)
        if given is not None:
            return Run(given["run"], given["started"])
        if self._run is None:
            self._run = new_run()
        return self._run

    @property
    def verify_seed(self) -> str:
        """What the choice of hits to verify hangs on: as given, else the run's id, which all
        workers share."""
        return self.settings.verify.seed or self.run().id

    @functools.cached_property
    def options_digest(self) -> str:
        """One digest of all options and ini settings that are not neutral."""
        parts = option_parts(self.config, self.observatory.read_early, self.fingerprints)
        return checksum(chain.from_iterable(parts))

    @property
    def running(self) -> Running | None:
        """The test that is running."""
        return self.items.running if self.hooked else None

    @property
    def running_item(self) -> pytest.Item | None:
        """Its item."""
        return self.running.item if self.running is not None else None

    def handle(self) -> Handle:
        """What the ``taskcache`` fixture returns."""
        attempt = self.running.attempt if self.running is not None else None
        return Handle(self.engine, attempt.transaction if attempt else None, self.decisions)

    def notify(self, event: Event) -> None:
        """Counts an event, and keeps the decisions of the running test."""
        self.tally.notify(event)
        if isinstance(event, Decided):
            self.decisions.append(event)

    @contextmanager
    def counting_faults(
        self, reason: str = "", of: type[Exception] = StorageError
    ) -> Iterator[None]:
        """An error of this kind ends what is done inside, is counted, by a reason where no storage
        gives one, and raises nothing."""
        try:
            yield
        except of as error:
            self.notify(Faulted(*fault_of(error, reason)))

    def temporary(self) -> Path | None:
        """The run's temporary directory once pytest has made it, else None."""
        if self._temporary is None:
            self._temporary = temporary_directory(self.config)
            if self._temporary is not None:
                self.observatory.add_scratch(self._temporary)
        return self._temporary

    def _show_replays(self) -> None:
        from pytest_taskcache.plugin.summary import ReplayedReports

        manager = self.config.pluginmanager
        if not manager.hasplugin("taskcache-replayed"):
            manager.register(ReplayedReports(), "taskcache-replayed")

    def _compose(self) -> None:
        from pytest_taskcache.config.factory import Surroundings, compose
        from pytest_taskcache.plugin.hookspecs import plugged_storage
        from pytest_taskcache.plugin.summary import WaitingLine

        make_cache_directory(self.config, self.directory)
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
            make_storage=functools.partial(plugged_storage, self.config),
        )
        hook: Any = self.config.hook
        plugged = filter(None, hook.pytest_taskcache_observer(config=self.config))
        told: list[Observer] = [self, WaitingLine(self.config), *plugged]
        try:
            self._composed = compose(self.settings, surroundings, told)
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

    def _retire(self) -> None:
        active.deactivate(self._provide)
        self.observatory.disarm()


class XdistHooks:
    """Several workers, one run: its identity goes down to them, their counts come up."""

    def __init__(self, session: Session) -> None:
        self._session = session

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_setupnodes(self) -> None:
        """Before workers start: takes back what `readline`, which pytest imports, has exported past
        ``os.environ``, so that a worker has the variables that a run without any has."""
        for name in ("COLUMNS", "LINES") if self._session.engine is not None else ():
            if name in os.environ:
                os.putenv(name, os.environ[name])
            else:
                os.unsetenv(name)

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Before a worker starts: tells it the run, which the controller keeps alive."""
        run = self._session.run()
        engine = self._session.engine
        if engine is not None:
            with self._session.counting_faults():
                engine.staging.hold()
            node.workerinput[_XDIST_FIELD] = {"run": run.id, "started": run.started}

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any, error: object) -> None:
        """After a worker ended: adds its counts; if it died, frees what it had staged."""
        output = getattr(node, "workeroutput", {})
        if _XDIST_FIELD in output:
            self._session.tally.merge(Tally.from_plain(output[_XDIST_FIELD]))
            self._session.settings.refresh.matched.update(output[_MATCHED])
            return
        engine = self._session.engine
        if engine is None:
            return
        self._session.notify(Faulted("a worker died", "its counts are missing"))
        with self._session.counting_faults():
            engine.staging.abandon(node.gateway.id, publish=engine.recorder.publish)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """In a worker: hands its counts up."""
        output: dict[str, Any] | None = getattr(session.config, "workeroutput", None)
        if output is not None:
            self._session.finish()
            output[_XDIST_FIELD] = self._session.tally.to_plain()
            output[_MATCHED] = sorted(self._session.settings.refresh.matched)


def _settings_of(config: pytest.Config) -> Settings:
    """What was written on the command line, in the environment and in the ini file."""
    options: dict[str, str] = {}
    given = (config.known_args_namespace, config.option)
    for name in NAMES:
        for value in (getattr(each, f"taskcache_{name}", None) for each in given):
            if value is not None:
                text = "true" if value is True else str(value)
                options[name] = "\n".join(value) if isinstance(value, list) else text
    ini = {name: str(config.getini(f"taskcache_{name}") or "") for name in NAMES}
    project: Mapping[str, Any] = {}
    with suppress(OSError):  # whoever needs the file says why it cannot be read
        if b"taskcache" in (config.rootpath / "pyproject.toml").read_bytes():
            from pytest_taskcache.config.tiers import project_table

            project = project_table(config.rootpath)
    return read_settings(Sources(options, os.environ, ini, project_settings(project)))
