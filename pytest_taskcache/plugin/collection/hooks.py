"""Decides for each test file whether it is imported, or stood in for."""

from __future__ import annotations

import sys
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_taskcache.config.settings import Collect, Tests
from pytest_taskcache.model.dependency import Observed
from pytest_taskcache.model.event import Faulted, Noted
from pytest_taskcache.model.modes import Mode
from pytest_taskcache.model.record import Variant
from pytest_taskcache.plugin.collection.forecast import ReplayForecast, StoredOutcomes
from pytest_taskcache.plugin.collection.pytest_nodes import (
    StandIns,
    ids_of,
    is_skipped_by_mark,
    prepare_import,
    signature,
    stand_ins_of,
)
from pytest_taskcache.plugin.collection.record import CollectionRecord
from pytest_taskcache.plugin.collection.recording import (
    LoadedFiles,
    Recording,
    Records,
    warn_again,
)
from pytest_taskcache.plugin.collection.selection import Selection
from pytest_taskcache.plugin.running import node_id

if TYPE_CHECKING:
    from pytest_taskcache.plugin.session import Session

_NARROWING = ("keyword", "markexpr", "deselect", "lf", "stepwise")


class CollectionHooks:
    """Stands in for files whose record is valid, and records those that are collected really."""

    def __init__(self, session: Session, forecast: ReplayForecast) -> None:
        self._session = session
        self._forecast = forecast
        self._records = Records(session, forecast)
        self.selection = Selection(session, forecast, self._records)
        self._current: Recording | None = None
        self._loaded = LoadedFiles()
        self._recorded: list[Recording] = []
        self._refused: set[Path] = set()
        self._known: dict[Path, tuple[Variant, CollectionRecord]] = {}
        """Valid records of files that are collected really all the same."""
        self._stands: dict[Path, tuple[StandIns, Variant]] = {}
        self._collecting = True
        self._mended: set[Path] = set()

    # ---------------------------------------------------------------------- one file

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_make_collect_report(
        self, collector: pytest.Collector
    ) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
        """Has a module give stand-ins, where the file's record is valid and its tests replay; else
        watches how it is collected. Innermost, since ``--lf`` leaves out what it does not want."""
        if type(collector) is pytest.Module:
            self._finish()
            if not self._stand_in(collector):
                self._current = self._begin(collector)
        elif self._current is not None and not self._current.owns(collector):
            self._finish()
        if isinstance(collector, pytest.Directory):
            self.selection.entered(collector.path)
        recording = self._current
        report = yield
        if recording is not None:
            recording.collected(collector, report)
        return report

    def _stand_in(self, module: pytest.Module) -> bool:
        file = module.path
        if not self._may_stand_in(file):
            return False
        prepare_import(module.config, file)
        try:
            found = self._records.find(file)
            if found is not None and found[1].reason:
                self._refused.add(file)
            elif found is not None:
                self._known[file] = found
                stand = StandIns(module, found[1], self._realised)
                usable = not self._is_ambiguous(stand) and self._stands_for_all(stand)
                if not usable or not warn_again(found[1]):
                    stand.withdraw()
                else:
                    self._stands[file] = stand, self._known.pop(file)[0]
                    return True
        except pytest.UsageError:
            raise
        except Exception as error:  # whatever a record may hold, the file can be collected really
            self._fault("file could not be stood in for", error)
        self._realise_others(file)
        return False

    def _fault(self, reason: str, error: Exception) -> None:
        engine = self._session.engine
        if engine is not None:
            engine.notify(Faulted(reason, f"{type(error).__name__}: {error}"))

    def _may_stand_in(self, file: Path) -> bool:
        if not self._forecast.consults or file in self._stands:
            return False
        return self._session.settings.tests is Tests.ALL or _mentions_mark(file)

    def _is_ambiguous(self, stand: StandIns) -> bool:
        """Whether another test file is imported by the same name: pytest refuses the second."""
        name, path = stand.record.module, stand.node.path
        loaded = getattr(sys.modules.get(name), "__file__", None)
        other = any(one.record.module == name for one, _ in self._stands.values())
        return other or (loaded is not None and Path(loaded) != path)

    def _realise_others(self, file: Path) -> None:
        """Has files imported that this one may be mistaken for, as they would have been by now."""
        for other, _ in list(self._stands.values()):
            if other.record.module == file.stem and other.node.path != file:
                other.realise()

    def _stands_for_all(self, stand: StandIns) -> bool:
        """Whether no test of the file will have to run. Where tests are selected by name or mark
        that is not known yet: those that are selected and miss become real later."""
        option = self._session.config.option
        if option.collectonly:
            return True
        pairs = zip(stand.items, stand.record.tests, strict=True)
        self._forecast.read({node_id(item): key for item, (key, _) in pairs if key})
        narrowed = any(getattr(option, name, None) for name in _NARROWING)
        if narrowed or any("::" in str(arg) for arg in self._session.config.args):
            return True
        return all(
            is_skipped_by_mark(item) or self._forecast.will_replay(node_id(item))
            for item in stand.items
        )

    @pytest.hookimpl(tryfirst=True)
    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Text that a file writes when it is imported is to be seen under ``-s``."""
        if self._current is not None and report.sections:
            self._current.refuse("importing it writes text")

    def _begin(self, module: pytest.Module) -> Recording | None:
        session = self._session
        engine = session.engine if self._may_record(module.path) else None
        if engine is None or engine.parts.observation is None:
            return None
        return Recording(module, engine.parts.observation, self._loaded)

    def _may_record(self, file: Path) -> bool:
        session = self._session
        return (
            self._collecting
            and file not in self._known
            and file not in self._stands
            and file not in self._refused
            and session.settings.mode is Mode.READ_WRITE
            and session.worker in ("main", "gw0")
            and session.coverage is None
            and session.config.option.capture != "no"
            and (session.settings.tests is Tests.ALL or _mentions_mark(file))
        )

    def _finish(self) -> None:
        recording, self._current = self._current, None
        if recording is None:
            return
        file = recording.module.path
        try:
            recording.finish(Observed() if recording.refusal else self._forecast.acting_on(file))
        except Exception as error:  # plugins' nodes may be as odd as they like
            self._fault("collection could not be recorded", error)
            recording.refuse("a fault", lasting=False)
        self._recorded.append(recording)

    # ---------------------------------------------------------------------- all files

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_collection_modifyitems(
        self, items: list[pytest.Item]
    ) -> Generator[None, None, None]:
        """Hooks that look into a test get the real one. Then those become real that are selected
        and will have to run: now, while no fixture is set up and nothing is patched."""
        self._finish()
        self._mend(items)
        yield
        if not self._session.config.option.collectonly:
            for item in items:
                stand = stand_ins_of(item)
                if stand is not None and not self._will_not_run(item, stand):
                    stand.realise()
        self._mend(items)

    def _will_not_run(self, item: pytest.Item, stand: StandIns) -> bool:
        if is_skipped_by_mark(item):
            return True
        recorded = stand.record.tests[stand.place_of(item)]
        return self._forecast.will_replay(node_id(item)) and recorded[1] == signature(item)

    @pytest.hookimpl(trylast=True)
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Keeps the records of what was collected really."""
        self._finish()
        self._collecting = False
        recorded, self._recorded = self._recorded, []
        config = self._session.config
        if not self._session.is_composed or config.option.collectonly:
            return
        if self._session.settings.mode is not Mode.READ_WRITE:
            return
        self._records.keep(recorded)
        if self._session.worker in ("main", "gw0"):
            self.selection.keep(session.items)
        by_file: dict[Path, dict[str, pytest.Item]] = {}
        for item in session.items:
            if isinstance(item, pytest.Function) and item.path in self._known:
                by_file.setdefault(item.path, {})[node_id(item)] = item
        for file, items in by_file.items():
            self._compare(file, items)

    def _compare(self, file: Path, items: dict[str, pytest.Item]) -> None:
        """Completes the record of a file that was collected really, or drops it as wrong."""
        variant, record = self._known[file]
        module = next(iter(items.values())).getparent(pytest.Module)
        ids = ids_of(record, module.nodeid if module is not None else "")
        strangers = items.keys() - set(ids)
        if strangers:
            self._drop(file, variant, f"it has other tests now, e.g. {min(strangers)}")
        else:
            self._records.again(file, (variant, record), ids, items)

    def _realised(self, stand: StandIns) -> None:
        """Where the record proves wrong it is dropped, and the run says so."""
        self._finish()
        path, wrong = stand.node.path, stand.proved_wrong
        variant = self._stands[path][1]
        if wrong:
            self._drop(path, variant, wrong)
        else:
            self._known[path] = variant, stand.record

    def _drop(self, file: Path, variant: Variant, wrong: str) -> None:
        self._records.drop([variant.id])
        engine, name = self._session.engine, self._session.fingerprints.name_of(file)
        if engine is not None:
            text = f"the record of how {name} is collected was wrong ({wrong}); it is dropped"
            engine.notify(Noted(text))

    def _mend(self, items: list[pytest.Item]) -> None:
        """Puts the tests of a file whose record proved wrong into the run as they really are."""
        for path, (stand, _) in self._stands.items():
            if not stand.is_real or path in self._mended or not stand.proved_wrong:
                continue
            self._mended.add(path)
            for report in stand.failures:
                stand.node.ihook.pytest_collectreport(report=report)
            mine = {id(item) for item in stand.items}
            places = [place for place, item in enumerate(items) if id(item) in mine]
            kept = {id(items[place]) for place in places}
            recorded = {id(item) for item in stand.items}
            real = [one for one in stand.real if id(one) in kept or id(one) not in recorded]
            for item in real:
                if id(item) not in recorded:
                    item.ihook.pytest_itemcollected(item=item)
            first = places[0] if places else len(items)
            items[:] = (
                [one for one in items[:first] if id(one) not in mine]
                + real
                + [one for one in items[first:] if id(one) not in mine]
            )

    # ---------------------------------------------------------------------- one test

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(
        self, item: pytest.Item, nextitem: pytest.Item | None
    ) -> bool | None:
        """Replays a stand-in. One that is skipped by a mark stays what it is: pytest skips it
        before it looks at the test."""
        stand = stand_ins_of(item)
        if stand is None:
            return None
        if is_skipped_by_mark(item):
            self._session.items.running = None
            return None
        if self._forecast.replay(item, nextitem):
            return True
        stand.realise()
        return None


def _mentions_mark(file: Path) -> bool:
    try:
        return b"cached" in file.read_bytes()
    except OSError:
        return False


def register(session: Session) -> None:
    """Registers the hooks, where outcomes are cached at all and collection may be memoized. Where
    nothing is left to run, pytest-xdist is told to start no workers."""
    settings, config = session.settings, session.config
    if settings.collect is not Collect.AUTO or settings.tests is Tests.NONE:
        return
    hooks = CollectionHooks(session, StoredOutcomes(session))
    config.pluginmanager.register(hooks, "taskcache-collection")
    if not session.distributes or config.option.dist == "each":
        return
    local = all(str(spec) == "popen" for spec in config.option.tx)
    if local and session.directory.is_dir() and hooks.selection.is_replayed_whole():
        config.option.numprocesses, config.option.dist, config.option.tx = 0, "no", []
