"""Decides for each test file whether it is imported, or stood in for."""

from __future__ import annotations

import functools
import sys
from collections.abc import Generator, Iterable
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_taskcache.config.settings import Collect, Tests
from pytest_taskcache.model.dependency import Observed, Trace
from pytest_taskcache.model.event import Faulted, Noted
from pytest_taskcache.model.modes import Mode
from pytest_taskcache.plugin.collection.collection_records import (
    CollectionRecords,
    Kept,
    Recording,
    Selection,
    take_back,
    warn_again,
)
from pytest_taskcache.plugin.collection.pytest_nodes import (
    SKIPPING,
    CollectionRecord,
    StandIns,
    is_skipped_by_mark,
    prepare_import,
    signature,
    stand_ins_of,
)
from pytest_taskcache.plugin.items import node_id
from pytest_taskcache.plugin.pytest_private import is_watched

if TYPE_CHECKING:
    from pytest_taskcache.plugin.session import Session

_OF_WORKERS = ("PYTEST_XDIST_WORKER", "PYTEST_XDIST_WORKER_COUNT", "PYTEST_XDIST_TESTRUNUID")
_NARROWING = ("keyword", "markexpr", "deselect", "lf", "stepwise")


class CollectionHooks:
    """Stands in for files whose record is valid, and records those that are collected really."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._records = CollectionRecords(session)
        self.selection = Selection(session, self._records)
        self._current: Recording | None = None
        self._recorded: list[Recording] = []
        self._known: dict[Path, Kept] = {}
        self._stands: dict[Path, StandIns] = {}
        self._modules: dict[str, StandIns] = {}
        self._joined = False
        option, settings = session.config.option, session.settings
        self.consults = (
            settings.mode in (Mode.READ_WRITE, Mode.READ)
            and not settings.refresh.asked
            and session.coverage is None
            and not settings.verify.percent
            and not is_watched(session.config)
            and not option.keepduplicates  # a stand-in is one item, however often it is named
        )
        self._records_them = (
            settings.mode is Mode.READ_WRITE
            and session.worker in ("main", "gw0")
            and session.coverage is None
            and option.capture != "no"
        )

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_make_collect_report(
        self, collector: pytest.Collector
    ) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
        """Has a module give stand-ins, where the file's record is valid and its tests replay; else
        watches how it is collected. Innermost, since ``--lf`` leaves out what it does not want."""
        if type(collector) is pytest.Module:
            self._begin(collector)
        elif self._current is not None and not self._current.owns(collector):
            self._finish()
        recording = self._current
        report = yield
        if recording is not None:
            recording.collected(collector, report)
        elif (stand := stand_ins_of(collector)) is not None and stand.record.skip:
            line, text = stand.record.skip
            report.longrepr = str(collector.path), line, f"Skipped: {text}"
        return report

    def _begin(self, module: pytest.Module) -> None:
        self._finish()
        file, session = module.path, self._session
        needed = (self.consults or self._records_them) and file not in self._stands
        if not needed or not self._may_be_cached(file) or session.engine is None:
            return
        if self.consults and self._stand_in(module):
            return
        if self._records_them and file not in self._known:
            self._current = Recording(module, session)

    def _may_be_cached(self, file: Path) -> bool:
        if self._session.settings.tests is Tests.ALL:
            return True
        try:
            return b"cached" in file.read_bytes()
        except OSError:
            return False

    def _stand_in(self, module: pytest.Module) -> bool:
        file = module.path
        prepare_import(module.config, file)
        try:
            found = self._records.find(file)
            if found is not None:
                self._known[file] = found
                if not found.record.reason and self._stands_well(module, found.record):
                    return True
        except pytest.UsageError:
            raise
        except Exception as error:  # whatever a record may hold, the file can be collected really
            self._fault("file could not be stood in for", error)
        if file.stem in self._modules:
            # It may be mistaken for this one: it is imported, as it would have been by now.
            self._modules[file.stem].realise()
        return False

    def _stands_well(self, module: pytest.Module, record: CollectionRecord) -> bool:
        option, replayable = module.config.option, frozenset[str]()
        if not option.collectonly:
            replayable = self._forecast(module.path, module.nodeid)
        narrowed = any(getattr(option, name, None) for name in _NARROWING)
        narrowed = narrowed or any("::" in str(arg) for arg in module.config.args)
        # Where tests are selected by name or mark it is not known yet which: those of the last run
        # are a guess, and those that are selected and miss become real later.
        needs_all = not (option.collectonly or narrowed)
        if needs_all and record.tests.keys() - replayable and not record.has_mark(SKIPPING):
            return False
        if narrowed and not option.collectonly and self.selection.selected_in(module) - replayable:
            return False
        stand = StandIns(module, record, self._realised)
        stand.replayable = replayable
        # Another test file that is imported by the same name: pytest refuses the second.
        loaded = getattr(sys.modules.get(record.module), "__file__", None)
        ambiguous = loaded is not None and Path(loaded) != module.path
        ambiguous = ambiguous or record.module in self._modules
        all_stand = not needs_all or all(
            is_skipped_by_mark(item) or name in replayable for name, item in stand.items.items()
        )
        warned = None if ambiguous or not all_stand else warn_again(record)
        if warned is None:
            stand.withdraw()
            return False
        stand.warned = warned
        self._stands[module.path] = self._modules[record.module] = stand
        return True

    def _forecast(self, file: Path, name: str) -> frozenset[str]:
        return frozenset(self._session.outcomes.forecast(file, name))

    def _fault(self, reason: str, error: Exception) -> None:
        self._session.notify(Faulted(reason, f"{type(error).__name__}: {error}"))

    @pytest.hookimpl(tryfirst=True)
    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Text that a file writes when it is imported is to be seen under ``-s``."""
        if self._current is not None and report.sections:
            self._current.refuse("importing it writes text")

    def _finish(self) -> None:
        recording, self._current = self._current, None
        if recording is None:
            return
        acting = Observed()
        try:
            if not recording.refusal:
                acting = self._session.outcomes.keys.around(recording.module.path)
            recording.finish(acting)
        except Exception as error:  # plugins' nodes may be as odd as they like
            self._fault("collection could not be recorded", error)
            recording.refuse("a fault", lasting=False)
        self._recorded.append(recording)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_collection_modifyitems(
        self, items: list[pytest.Item]
    ) -> Generator[None, None, None]:
        """Hooks that look into a test get the real one. Then those become real that are selected
        and will have to run: now, while no fixture is set up and nothing is patched."""
        self._finish()
        self._mend(items)
        yield
        if not self._session.config.option.collectonly and self._session.engine is not None:
            self._meet()
            for item in items:
                stand = stand_ins_of(item)
                if stand is not None and not self._will_not_run(item, stand):
                    stand.realise()
            if self._left() and not self._all_replay(items):
                self._join()
        self._mend(items)

    def _left(self) -> list[tuple[StandIns, Trace]]:
        """The files that are still stood in for, with what their records rest on."""
        stands = [one for one in self._stands.values() if not one.is_real]
        return [(one, self._known[one.node.path].variant.trace) for one in stands]

    def _meet(self) -> None:
        """Which files this run has is known now: some may change what the tests of others do."""
        left = self._left()
        try:
            changed = self._session.observatory.meet([trace for _, trace in left])
        except Exception as error:  # whatever a record may hold, all can be collected really
            self._fault("files could not be stood in for", error)
            changed = False
            for stand, _ in left:
                stand.realise()
        for stand, _ in left if changed else ():
            stand.replayable = self._forecast(stand.node.path, stand.node.nodeid)

    def _join(self) -> None:
        """Some test will run, and finds the process as it would be without any stand-in: files that
        change what others have are imported, the others are entered as if they were."""
        observatory, left = self._session.observatory, self._left()
        plugins = self._session.outcomes.keys.project_plugins() if left else ()
        self._joined = True
        try:
            outward = observatory.outward([trace for _, trace in left], plugins)
            told = zip(left, outward, strict=True)
            observatory.stand_in([trace for (_, trace), acts in told if not acts])
        except Exception as error:  # as above
            self._fault("files could not be stood in for", error)
            outward = [True] * len(left)
        for stand, _ in compress(left, outward):
            stand.realise()

    def _will_not_run(self, item: pytest.Item, stand: StandIns) -> bool:
        if is_skipped_by_mark(item):
            return True
        name = node_id(item).partition("::")[2]
        return name in stand.replayable and stand.record.tests.get(name) == signature(item)

    def _all_replay(self, items: Iterable[pytest.Item]) -> bool:
        """Whether those that are no stand-ins will be replayed, too, as far as can be told."""
        forecast = functools.cache(self._forecast)
        real = (item for item in items if stand_ins_of(item) is None)
        names = ((item, *node_id(item).partition("::")[::2]) for item in real)
        return all(name in forecast(item.path, file) for item, file, name in names)

    @pytest.hookimpl(trylast=True)
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Keeps the records of what was collected really."""
        self._finish()
        recorded, self._recorded = self._recorded, []
        writes = self._session.settings.mode is Mode.READ_WRITE
        if not writes or self._session.local is None or self._session.config.option.collectonly:
            return
        for each in recorded:
            signed = zip(each.record.tests, each.items, strict=False)
            each.record.tests.update((name, self._signature(item)) for name, item in signed)
        self._records.keep(recorded)
        if self._session.worker in ("main", "gw0"):
            self.selection.keep(session.items)
        by_file: dict[Path, dict[str, pytest.Item]] = {}
        for item in session.items:
            if item.path not in self._known or stand_ins_of(item) is not None:
                continue
            if type(item.getparent(pytest.Module)) is pytest.Module:  # others may collect it, too
                by_file.setdefault(item.path, {})[node_id(item).partition("::")[2]] = item
        for file, items in by_file.items():
            self._compare(file, items)
        # The others are not asked for again, and would be walked by the garbage collector.
        self._known = {file: kept for file, kept in self._known.items() if file in self._stands}

    def _signature(self, item: pytest.Item) -> str:
        return signature(item) if self._session.outcomes.is_keyed_with_its_file(item) else ""

    def _compare(self, file: Path, items: dict[str, pytest.Item]) -> None:
        """Completes the record of a file that was collected really, or drops it as wrong."""
        variant, record = self._known[file]
        strangers = items.keys() - record.tests.keys()
        if record.reason:
            return
        if strangers:
            self._drop(file, f"it has other tests now, e.g. {min(strangers)}")
            return
        signed = {name: self._signature(item) for name, item in items.items()}
        tests = {name: signed.get(name) or known for name, known in record.tests.items()}
        if tests != record.tests:
            record.tests = tests
            self._records.write([self._records.variant_of(file, record, variant.trace)])
            self._records.drop([variant])

    def _realised(self, stand: StandIns) -> None:
        """Where the record proves wrong it is dropped, and the run says so."""
        self._finish()
        take_back(stand.warned)  # the file has warned by itself
        if stand.proved_wrong:
            self._drop(stand.node.path, stand.proved_wrong)

    def _drop(self, file: Path, wrong: str) -> None:
        self._records.drop([self._known.pop(file).variant])
        name = self._session.fingerprints.name_of(file)
        text = f"the record of how {name} is collected was wrong ({wrong}); it is dropped"
        self._session.notify(Noted(text))

    def _mend(self, items: list[pytest.Item]) -> None:
        """Puts the tests of a file whose record proved wrong into the run as they really are."""
        for stand in self._stands.values():
            if stand.is_mended or not stand.proved_wrong:
                continue
            stand.is_mended = True
            for report in stand.failures:
                stand.node.ihook.pytest_collectreport(report=report)
            recorded = set(map(id, stand.items.values()))
            selected = {id(item) for item in items} & recorded
            first = next((n for n, item in enumerate(items) if id(item) in recorded), len(items))
            real = [item for item in stand.real if id(item) in selected or id(item) not in recorded]
            for item in real:
                if id(item) not in recorded:
                    item.ihook.pytest_itemcollected(item=item)
            rest = [item for item in items[first:] if id(item) not in recorded]
            items[first:] = [*real, *rest]

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> None:
        """A stand-in that is not replayed becomes real. One that is skipped by a mark stays what
        it is: pytest skips it before it looks at the test."""
        stand = stand_ins_of(item)
        if stand is not None and is_skipped_by_mark(item):
            self._session.items.running = None
            return
        if stand is not None:
            stand.realise()
        if not self._joined:
            self._join()


def register(session: Session) -> None:
    """Registers the hooks, where outcomes are cached at all and collection may be memoized. Where
    nothing is left to run, pytest-xdist is told to start no workers."""
    settings, option = session.settings, session.config.option
    if settings.collect is not Collect.AUTO or settings.tests is Tests.NONE:
        return
    hooks = CollectionHooks(session)
    session.config.pluginmanager.register(hooks, "taskcache-collection")
    may_guess = session.distributes and option.dist != "each" and session.directory.is_dir()
    if not (may_guess and all(str(spec) == "popen" for spec in option.tx) and hooks.consults):
        return
    with pytest.MonkeyPatch.context() as patch:
        for name in _OF_WORKERS:  # records of tests that looked for one are for a worker to judge
            patch.setenv(name, "?")
        whole = session.engine is not None and hooks.selection.is_replayed_whole()
    if whole:
        option.numprocesses, option.dist, option.tx = 0, "no", []
