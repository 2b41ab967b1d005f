"""Cached tests: an outcome is looked up before a test runs, and recorded after a plain pass."""

from __future__ import annotations

import warnings
from collections.abc import Container, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from _pytest.doctest import DoctestItem

from pytest_taskcache.dataclass import dataclass
from pytest_taskcache.engine.cache import Engine
from pytest_taskcache.engine.computation import Computation
from pytest_taskcache.engine.eligibility import Refusal, access
from pytest_taskcache.engine.keys import Keyed, key_of
from pytest_taskcache.errors import TaskCacheError
from pytest_taskcache.model.decision import Decision, Fault, Hit, Miss, Uncacheable, Why
from pytest_taskcache.model.dependency import Observed, Trace
from pytest_taskcache.model.event import Computed, Decided, Faulted, Noted, Subject
from pytest_taskcache.model.key import Identity
from pytest_taskcache.observation.hooks.originals import originals
from pytest_taskcache.plugin.collector import Collector
from pytest_taskcache.plugin.extensions import Extensions
from pytest_taskcache.plugin.outcomes.bundles import (
    Bundle,
    Replayable,
    Told,
    duration_of,
    read_all,
)
from pytest_taskcache.plugin.outcomes.keys import (
    OutcomeKeys,
    is_stand_in,
    run_in_modules_of,
    run_in_name_only,
    test_function,
)
from pytest_taskcache.plugin.outcomes.marks import Asked, asked_of, extended, unmarked
from pytest_taskcache.plugin.outcomes.other_plugins import (
    Snapshots,
    hand_over,
    may_run,
    refusal_of,
)
from pytest_taskcache.plugin.outcomes.replays import NotReplayableError, Replays
from pytest_taskcache.plugin.outcomes.reports import Outcome, can_warn, to_json, warning_to_json
from pytest_taskcache.plugin.outcomes.units import SHARE, Ended, Units
from pytest_taskcache.plugin.randomness import Randomness
from pytest_taskcache.plugin.running import Attempt, Running, node_id

if TYPE_CHECKING:
    from pytest_taskcache.plugin.coverage import Region
    from pytest_taskcache.plugin.session import Session

_WATCHING = ("usepdb", "trace", "setupplan", "setuponly", "setupshow", "collectonly")
"""Options of runs that are about the running of tests."""

_AT_ONCE = 0.25
"""Seconds of tests after which outcomes are written before their file ends: so much of its work
may a killed process lose, or twenty times what writing costs if that is more."""


@dataclass(eq=False, slots=True)
class Candidate:
    """A test whose outcome may be cached: what it asks for, where its outcomes are, and what was
    decided. ``alone``: it has a unit of its own. ``expected``: a run for verification is to end
    as its record says."""

    asked: Asked
    bundle: Bundle
    name: str
    decision: Decision | None = None
    expected: bool = False
    alone: bool = False
    recording: bool = False
    check: str | None = None
    region: Region | None = None


class Outcomes:
    """Looks outcomes up, replays hits, records passes; marks what is proven nondeterministic."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._keys: OutcomeKeys | None = None
        self._files: dict[tuple[Path, str], Bundle | Decision] = {}
        self._bundles: list[Bundle] = []
        self._candidates: dict[pytest.Item, Candidate] = {}
        self._refused: dict[pytest.Item, Uncacheable] = {}
        self._misused: dict[pytest.Item, str] = {}
        self._collector = Collector()
        self._randomness: Randomness | None = None
        self._snapshots: Snapshots | None = None
        self._replays = Replays()
        self._units: Units | None = None
        self._writing = 0.0

    # ------------------------------------------------------------------ before the tests

    def prepare(self, items: Sequence[pytest.Item]) -> None:
        """Finds the tests that want to be cached, derives the keys of their files, and reads
        all records in one sweep."""
        with self._collector.paused():
            self._prepare(items)
        if self._candidates:
            self._collector.freeze()

    def _prepare(self, items: Sequence[pytest.Item]) -> None:
        engine = self._session.engine
        if engine is None or not self._consulting():
            return
        keys, coverage = self._keys_of(engine), self._session.coverage
        self._units = Units(engine, coverage.after_kept_test if coverage is not None else None)
        manager = self._session.config.pluginmanager
        manager.register(self._replays, "taskcache-replays")
        if manager.hasplugin("randomly"):
            self._randomness = Randomness(self._session.config)
            manager.register(self._randomness, "taskcache-randomness")
        if manager.hasplugin("syrupy"):
            self._snapshots = Snapshots(self._session.config)
        extensions = Extensions(self._session.config)
        for item in items:
            try:
                asked = extended(asked_of(item, self._session.settings), item, extensions)
            except pytest.UsageError as error:
                if not self._session.is_worker:
                    raise
                self._misused[item] = str(error)
                continue
            if isinstance(asked, Asked):
                refusal = refusal_of(item)
                if coverage is not None:
                    refusal = refusal or coverage.refusal
                if refusal is None:
                    self._enter(engine, keys, item, asked)
                    continue
                asked = refusal
            if isinstance(asked, Uncacheable):
                self._refused[item] = asked
        read_all(engine, self._bundles)
        if coverage is not None:
            coverage.prefetch_tests((each.bundle, each.name) for each in self._candidates.values())

    def foreseen(self, item: pytest.Item) -> Replayable | Decision | None:
        """What would become of a test if its turn came now: an outcome to replay, or why it would
        run (None: nobody asked for its outcome). Nobody is told. To be asked after `prepare`."""
        engine, candidate = self._session.engine, self._candidates.get(item)
        if item in self._misused:
            return Uncacheable("wrong mark", self._misused[item])
        if engine is None or candidate is None:
            return self._refused.get(item)
        found = self._look_up(engine, item, candidate)
        if isinstance(found, Replayable) and self._picked(candidate):
            return Miss(Why.UNVERIFIED)
        return found

    def forecast(self, path: Path, file: str) -> Container[str]:
        """Which tests of a file would be replayed, by the rest of their node ids, before the
        file is collected; parameters and marks are not compared. ``file`` is its name in node
        ids. To be asked once the conftests that act on the file are loaded."""
        engine = self._session.engine
        if engine is None or not self._consulting():
            return ()
        options = self._plain.options
        if not access(engine.parts.mode, options).consult or engine.parts.refresh.asked:
            return ()
        bundle = self._bundle(engine, self._keys_of(engine), path, file)
        if not isinstance(bundle, Bundle):
            return ()
        read_all(engine, [bundle])
        return Forecast(bundle)

    def is_keyed_with_its_file(self, item: pytest.Item) -> bool:
        """Whether a test's outcome is looked up under the key of its file, so that a forecast
        speaks of it. To be asked after `prepare`."""
        candidate = self._candidates.get(item)
        if candidate is None or candidate.asked.apart:
            return False
        return candidate.asked.options.persist and not candidate.asked.options.refresh

    def acting_on(self, path: Path) -> Observed:
        """What the project's plugins that act on the tests of a file rest on."""
        engine = self._session.engine
        return self._keys_of(engine).around(path) if engine is not None else Observed()

    def finish(self) -> None:
        """At the end of the tests, or when they were interrupted: writes what is not written."""
        engine = self._session.engine
        if self._units is not None and engine is not None and not engine.is_forked():
            self._units.close()
            for bundle in self._bundles:
                bundle.save()
        self._units = None

    def stop(self) -> None:
        """After the tests: lets go of what it knew, since pytest walks all there is at the end,
        several times."""
        self._candidates, self._refused, self._keys = {}, {}, None
        self._files, self._bundles = {}, []
        self._collector.thaw()

    # ------------------------------------------------------------------- one test at a time

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Fails a test whose mark cannot work. A worker of pytest-xdist that stopped with a usage
        error would be a crash to its controller, and the remedy would not be seen."""
        if item in self._misused:
            pytest.fail(self._misused[item], pytrace=False)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(
        self, item: pytest.Item, nextitem: pytest.Item | None
    ) -> bool | None:
        """Replays the item if its outcome is known and valid; else lets it run."""
        engine, running = self._session.engine, self._session.items.running
        if engine is None or running is None:
            return None
        refused = self._refused.get(item)
        if refused is not None:
            self._tell(engine, running, refused)
            return None
        candidate = self._candidates.get(item)
        if candidate is None or running.candidate is candidate:
            return None  # not to be cached; or asked again, by a hook of another that asked us
        running.candidate = candidate
        found = self._look_up(engine, item, candidate)
        if isinstance(found, Replayable):
            if not self._picked(candidate):
                if self._replay(engine, running, candidate, found, nextitem):
                    return True
                return None
            candidate.expected = candidate.alone = True
            found = Miss(Why.UNVERIFIED)
        candidate.decision = found
        self._tell(engine, running, found, candidate)
        return None

    def begin(self, running: Running, attempt: Attempt) -> None:
        """Has the test run in a window if it may be recorded."""
        self._collector.thaw()
        engine, candidate, units = self._session.engine, running.candidate, self._units
        attempt.started = originals.monotonic()
        if engine is None or units is None or engine.is_forked():
            return
        item = running.item
        recording = candidate is not None and self._recording(engine, candidate)
        function = test_function(item) if recording else None
        attempt.frame = units.begin(
            item.path,
            function,
            lambda: self._around(item),
            alone=candidate is not None and self._is_alone(candidate, units),
            stranger=not recording,
        )
        if candidate is None:
            return
        candidate.recording = recording
        if attempt.frame is None or not recording:
            return
        self._check(item, candidate)  # before the test can change its parameters
        code = getattr(function, "__code__", None)
        if item.path.suffix == ".py" and (code is None or code.co_filename != str(item.path)):
            run_in_name_only(str(item.path))  # inherited from elsewhere
        if self._session.coverage is not None:
            candidate.region = self._session.coverage.begin_test(attempt.instances)
        if self._randomness is not None:
            self._randomness.begin()
        if self._snapshots is not None:
            self._snapshots.begin()

    def end(self, running: Running, attempt: Attempt, *, passed: bool) -> None:
        """Ends the test in its window; notes the outcome of a pass, and marks a failure."""
        engine, candidate, units = self._session.engine, running.candidate, self._units
        if engine is None:
            return
        seconds = originals.monotonic() - attempt.started
        if candidate is not None:
            self._session.verification.compare(running, attempt, passed=passed)
        if attempt.frame is None or units is None or engine.is_forked():
            return
        ended = None
        if candidate is not None and candidate.recording:
            if isinstance(running.item, DoctestItem):
                run_in_modules_of(running.item)
            if self._session.coverage is not None:
                self._session.coverage.close(candidate.region)
            ended = self._ended(engine, running, attempt, candidate, seconds, passed=passed)
        units.end(ended, attempt.instances, seconds)

    def after(self, running: Running, nextitem: pytest.Item | None) -> None:
        """When a test is over, its transaction too: writes the outcomes of its file if that was
        its last test, or all that are not written if there is much to lose. Where tests of many
        files take turns, each file is not written with each turn."""
        engine, candidate, units = self._session.engine, running.candidate, self._units
        if engine is None or units is None or engine.is_forked():
            return
        saved: list[Bundle] = []
        much = max(_AT_ONCE, SHARE * self._writing)
        if candidate is not None:
            candidate.bundle.left -= 1
        if nextitem is None or nextitem.path != running.item.path:
            units.close()
            waiting = [each for each in self._bundles if each.unsaved]
            saved = [each for each in waiting if each.left <= 0]
            if sum(each.unsaved_seconds for each in waiting) > much:
                saved = waiting
        elif candidate is not None and candidate.bundle.unsaved_seconds > much:
            saved = [candidate.bundle]
        if not saved:
            return
        started = originals.monotonic()
        with engine.quiet():
            for each in saved:
                each.save()
        self._writing = originals.monotonic() - started

    @pytest.hookimpl(tryfirst=True)
    def pytest_warning_recorded(
        self,
        warning_message: warnings.WarningMessage,
        when: str,
        nodeid: str,
        location: tuple[str, int, str] | None,
    ) -> None:
        """Notes a warning of the running test, to be shown again with its replay."""
        running = self._session.items.running
        if running is None or running.attempt is None or when != "runtest":
            return
        running.attempt.warnings.append(warning_to_json(warning_message, when, location))

    # ------------------------------------------------------------------------ internals

    def _picked(self, candidate: Candidate) -> bool:
        key = candidate.bundle.keyed.key.digest
        return self._session.verification.picks(f"{key}{candidate.name}")

    def _consulting(self) -> bool:
        option = self._session.config.option
        return not any(getattr(option, name, False) for name in _WATCHING)

    def _keys_of(self, engine: Engine) -> OutcomeKeys:
        if self._keys is None:
            self._keys = OutcomeKeys(self._session.config, engine)
        return self._keys

    def _around(self, item: pytest.Item) -> Trace:
        assert self._keys is not None
        return self._keys.around(item.path).trace

    def _enter(self, engine: Engine, keys: OutcomeKeys, item: pytest.Item, asked: Asked) -> None:
        nodeid = node_id(item)
        file, _, name = nodeid.partition("::")
        if asked.apart:
            try:
                found = self._keyed(engine, keys.of_test(item, nodeid, asked.options))
            except TaskCacheError as error:
                found = Uncacheable("parameter cannot be digested", str(error))
        else:
            found = self._bundle(engine, keys, item.path, file)
        if isinstance(found, Bundle):
            candidate = Candidate(asked, found, name, alone=asked.marked)
            self._candidates[item] = candidate
            found.left += 1
            if keys.may_change(item):
                candidate.check = keys.check(item)
        elif isinstance(found, Uncacheable):
            self._refused[item] = found

    @property
    def _plain(self) -> Asked:
        """What tests ask for that have no mark; all outcomes of a file are kept by it."""
        return unmarked(self._session.settings.tests_max_age)

    def _bundle(
        self, engine: Engine, keys: OutcomeKeys, path: Path, file: str
    ) -> Bundle | Decision:
        known = self._files.get((path, file))
        if known is None:
            known = self._keyed(engine, keys.of_file(path, file, self._plain.options))
            self._files[path, file] = known
        return known

    def _keyed(self, engine: Engine, computation: Computation) -> Bundle | Decision:
        keyed = key_of(computation, engine.parts.payloads, engine.parts.clock)
        if isinstance(keyed, Keyed):
            route = engine.routes.of(computation.options)
            bundle = Bundle(engine, computation, keyed, route)
            self._bundles.append(bundle)
            return bundle
        if isinstance(keyed, Fault):
            engine.notify(Faulted(keyed.reason, keyed.detail))
        return keyed

    def _look_up(
        self, engine: Engine, item: pytest.Item, candidate: Candidate
    ) -> Replayable | Miss | Fault:
        options, bundle = candidate.asked.options, candidate.bundle
        if not access(engine.parts.mode, options).consult:
            return Miss(Why.REFRESH)
        refresh = engine.parts.refresh
        file = bundle.computation.test.partition("::")[0]
        if refresh.asked and refresh.covers(f"{file}::{candidate.name}"):
            return Miss(Why.REFRESH)
        found = bundle.find(
            candidate.name,
            None if is_stand_in(item) else lambda: self._check(item, candidate),
        )
        coverage = self._session.coverage
        if isinstance(found, Replayable) and coverage is not None:
            lines = coverage.bring_back_test(bundle, candidate.name)
            found = found if lines is None else lines
        if isinstance(found, Fault):
            engine.notify(Faulted(found.reason, found.detail))
        return found

    def _check(self, item: pytest.Item, candidate: Candidate) -> str:
        assert self._keys is not None
        if candidate.check is None:
            candidate.check = self._keys.check(item)
        return candidate.check

    def _replay(
        self,
        engine: Engine,
        running: Running,
        candidate: Candidate,
        found: Replayable,
        nextitem: pytest.Item | None,
    ) -> bool:
        """Replays an outcome; False where something that another plugin says has it run."""
        item, outcome = running.item, found.outcome
        if not may_run(item):
            refused = Uncacheable("its dependencies did not pass")
            self._tell(engine, running, refused, candidate)
            return False
        decision = Hit(found.variant)
        try:
            if not isinstance(outcome, str) and "handed" in outcome:
                hand_over(item, outcome["handed"], self._snapshots)
            self._replays.replay(item, nextitem, outcome)
        except (NotReplayableError, LookupError) as error:
            text = f"{running.nodeid} runs each time: a hook cannot do with its replay ({error})"
            engine.notify(Noted(text))
            return False
        candidate.decision = decision
        running.replayed = True
        if found.variant is not None:
            engine.used.add(found.variant.id)
        self._tell(engine, running, decision, candidate, duration_of(outcome))
        return True

    def _is_alone(self, candidate: Candidate, units: Units) -> bool:
        return candidate.alone or units.is_slow(candidate.bundle.last_duration(candidate.name))

    def _recording(self, engine: Engine, candidate: Candidate) -> bool:
        return access(engine.parts.mode, candidate.asked.options).record

    def _teller(self, engine: Engine, nodeid: str, seconds: float) -> Told:
        """Tells that the test ran, and why it is not kept (None: it is)."""

        def told(refusal: Refusal | None) -> None:
            file, _, name = nodeid.partition("::")
            engine.notify(
                Computed(
                    Subject.TEST,
                    Identity(file, name),
                    seconds,
                    refusal is None,
                    refusal.reason if refusal is not None else "",
                    refusal.detail if refusal is not None else "",
                    nodeid,
                )
            )

        return told

    def _ended(
        self,
        engine: Engine,
        running: Running,
        attempt: Attempt,
        candidate: Candidate,
        seconds: float,
        *,
        passed: bool,
    ) -> Ended:
        item, options = running.item, candidate.asked.options
        outcome: Outcome | None = None
        refusal = Refusal("passed only when run again") if running.attempts > 1 else None
        candidate.bundle.ran.add(candidate.name)
        if passed:
            try:
                outcome = to_json(
                    item.config,
                    attempt.reports,
                    attempt.warnings,
                    candidate.check or "",
                    self._used(),
                )
            except ValueError as error:
                outcome, refusal = "", refusal or Refusal("report cannot be stored", str(error))
        assert self._keys is not None
        doubts = self._keys.around(item.path).untrusted
        if doubts and refusal is None:
            refusal = Refusal("changed while it ran", doubts[0])
        expiration = options.expiration
        return Ended(
            candidate.name,
            candidate.bundle,
            options.allow,
            any(each.label.startswith("FILES") for each in options.policy.components),
            expiration.total_seconds() if expiration is not None else None,
            outcome,
            seconds,
            self._teller(engine, running.nodeid, seconds),
            refusal,
            not passed and any(r.when == "call" and r.failed for r in attempt.reports),
            self._randomness is not None and self._randomness.has_drawn(item),
            region=candidate.region,
        )

    def _used(self) -> dict[str, object] | None:
        """What other plugins are to be handed with the replay of the test that just ended."""
        used = self._snapshots.used() if self._snapshots is not None else None
        return {Snapshots.NAME: used} if used else None

    def _tell(
        self,
        engine: Engine,
        running: Running,
        decision: Decision,
        candidate: Candidate | None = None,
        saved: float = 0.0,
    ) -> None:
        file, _, name = running.nodeid.partition("::")
        key = candidate.bundle.keyed.key if candidate is not None else None
        identity = Identity(file, name)
        texts = self._keys.shown if self._keys is not None and isinstance(decision, Miss) else ()
        engine.notify(Decided(Subject.TEST, identity, decision, key, saved, running.nodeid, texts))


class Forecast(Container[str]):
    """The tests of a bundle that would be replayed."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle

    def __contains__(self, name: object) -> bool:
        found = self._bundle.find(name) if isinstance(name, str) else None
        return isinstance(found, Replayable) and can_warn(found.outcome)
