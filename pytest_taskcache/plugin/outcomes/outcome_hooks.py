"""Cached tests: an outcome is looked up before a test runs, and recorded after a plain pass."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Collection, Generator, Sequence
from itertools import chain
from pathlib import Path

import pytest

from pytest_taskcache.code.function_source import forget_files
from pytest_taskcache.engine.cache import Engine
from pytest_taskcache.engine.computation import Computation
from pytest_taskcache.engine.keys import Keyed, key_of
from pytest_taskcache.engine.validity import Refusal, access
from pytest_taskcache.errors import TaskCacheError
from pytest_taskcache.garbage import uncollected
from pytest_taskcache.model.decision import Decision, Fault, Hit, Miss, Uncacheable, Why
from pytest_taskcache.model.event import Decided, Faulted, Noted, Subject
from pytest_taskcache.model.key import Identity
from pytest_taskcache.originals import originals
from pytest_taskcache.plugin.collection.pytest_nodes import is_skipped_by_mark
from pytest_taskcache.plugin.items import Instance, ItemAttempt, Running, node_id
from pytest_taskcache.plugin.outcomes.bundles import Bundle, Replayable, read_all
from pytest_taskcache.plugin.outcomes.other_plugins import (
    Randomness,
    Snapshots,
    may_run,
    refusal_of,
)
from pytest_taskcache.plugin.outcomes.outcome_keys import (
    Asked,
    Check,
    OutcomeKeys,
    asked_of,
    is_stand_in,
    run_conditions,
    run_in_name_only,
    test_function,
    unmarked,
)
from pytest_taskcache.plugin.outcomes.replays import (
    NotReplayableError,
    Replays,
    can_warn,
    to_json,
    told,
    warning_to_json,
)
from pytest_taskcache.plugin.outcomes.units import SHARE, Candidate, Ended, Units
from pytest_taskcache.plugin.pytest_private import DoctestItem, fixtures_of, is_watched, keywords_of
from pytest_taskcache.plugin.session import Session
from pytest_taskcache.report.contents import Outcome, duration_of

_MISUSED = "wrong mark"

_FROZEN_AT_START = gc.get_freeze_count()
"""Python 3.12 itself begins with some hundred frozen objects."""

_AT_ONCE = 0.25
"""Seconds of tests after which outcomes are written before the run ends: so much of its work may a
killed process lose, or twenty times what writing costs if that is more."""


class Outcomes:
    """Looks outcomes up, replays hits, records passes; marks what is proven nondeterministic."""

    def __init__(self, session: Session, engine: Engine) -> None:
        self._session = session
        self._engine = engine
        self._config = session.config
        self.keys = OutcomeKeys(session.config, engine)
        self._plain = unmarked(session.settings.tests_max_age)
        """What tests ask for that have no mark; all outcomes of a file are kept by it."""
        self._consults = not (is_watched(session.config) or session.config.option.collectonly)
        self._files: dict[tuple[Path, str], Bundle | Decision] = {}
        self._bundles: list[Bundle] = []
        self._tests: dict[pytest.Item, Candidate | Uncacheable] = {}
        self._replays = Replays()
        self.randomness: Randomness | None = None
        self._snapshots = Snapshots(session.config)
        self._units: Units | None = None
        self._writing = 0.0
        self.torn_down: list[Instance] = []
        """Fixtures that several tests shared, and that were torn down since the test before."""
        self._froze = False
        """Whether the garbage collector does not walk what was made before the tests, as long as
        none of the project's own code runs that could tell. It would walk all items and records in
        each full collection, a quarter of a warm run of many tests, and free nothing."""

    def prepare(self, items: Sequence[pytest.Item]) -> None:
        """Finds the tests that are to be cached, derives keys, and reads all records at once."""
        if not self._consults:
            return
        manager, coverage = self._config.pluginmanager, self._session.coverage
        on_kept = coverage.after_kept_test if coverage is not None else None
        self._units = Units(self._engine, on_kept)
        manager.register(self._replays, "taskcache-replays")
        if manager.hasplugin("randomly") or manager.hasplugin("pytest_randomly"):
            self.randomness = Randomness(self._config)
            manager.register(self.randomness, "taskcache-randomness")
        with uncollected():
            with self.keys.of_new_tests():
                wanting = ((item, self._wanting(item)) for item in items)
                self._tests = {item: found for item, found in wanting if found is not None}
            read_all(self._engine, self._bundles)
            for item in {item.parent: item for item in self._tests}.values():
                keywords_of(item)  # notes its parents' before a fixture adds to them
        candidates = [each for each in self._tests.values() if isinstance(each, Candidate)]
        if coverage is not None:
            coverage.prefetch_tests((each.bundle, each.name) for each in candidates)
        if candidates and gc.get_freeze_count() == _FROZEN_AT_START:
            gc.freeze()
            self._froze = True

    def _wanting(self, item: pytest.Item) -> Candidate | Uncacheable | None:
        """What a test is to the cache; None if its outcome is not to be cached."""
        try:
            asked = asked_of(item, self._session.settings)
        except pytest.UsageError as error:
            if not self._session.is_worker:
                raise
            return Uncacheable(_MISUSED, str(error))
        if not isinstance(asked, Asked):
            return asked
        coverage = self._session.coverage
        refusal = refusal_of(item) or (coverage.refusal if coverage is not None else None)
        if refusal is not None:
            return refusal
        nodeid = node_id(item)
        file, _, name = nodeid.partition("::")
        if asked.apart:
            try:
                found = self._keyed(self.keys.of_test(item, nodeid, asked.options))
            except TaskCacheError as error:
                return Uncacheable("parameter cannot be digested", str(error))
        else:
            found = self._bundle(item.path, file)
        if not isinstance(found, Bundle):
            return found if isinstance(found, Uncacheable) else None
        candidate = Candidate(asked, found, name)
        if self.keys.may_change(item):
            candidate.check = self.keys.check(item)
        return candidate

    def _bundle(self, path: Path, file: str) -> Bundle | Decision:
        known = self._files.get((path, file))
        if known is None:
            known = self._keyed(self.keys.of_file(path, file, self._plain.options))
            self._files[path, file] = known
        return known

    def _keyed(self, computation: Computation) -> Bundle | Decision:
        engine = self._engine
        keyed = key_of(computation, engine.parts.payloads, engine.parts.clock)
        if isinstance(keyed, Keyed):
            route = engine.routes.of(computation.options)
            bundle = Bundle(engine, computation, keyed, route)
            self._bundles.append(bundle)
            return bundle
        if isinstance(keyed, Fault):
            engine.notify(Faulted(keyed.reason, keyed.detail))
        return keyed

    def foreseen(self, item: pytest.Item) -> Replayable | Decision | None:
        """What would become of a test if its turn came now: an outcome to replay, or why it would
        run (None: nobody asked for its outcome). Nobody is told. To be asked after `prepare`."""
        known = self._tests.get(item)
        if not isinstance(known, Candidate):
            return known
        found = self._look_up(item, known)
        replayable = isinstance(found, Replayable)
        return Miss(Why.UNVERIFIED) if replayable and self._picked(known) else found

    def forecast(self, path: Path, file: str) -> Collection[str]:
        """Which tests of a file would be replayed, by the rest of their node ids, before the
        file is collected; parameters and marks are not compared. ``file`` is its name in node
        ids. To be asked once the conftests that act on the file are loaded."""
        parts = self._engine.parts
        consults = self._consults and access(parts.mode, self._plain.options).consult
        bundle = self._bundle(path, file) if consults and not parts.refresh.asked else None
        if not isinstance(bundle, Bundle):
            return ()
        read_all(self._engine, [bundle])
        found = ((name, bundle.find(name)) for name in bundle.of_test)
        return {
            name
            for name, one in found
            if isinstance(one, Replayable) and can_warn(told(one.outcome, "warnings"))
        }

    def is_keyed_with_its_file(self, item: pytest.Item) -> bool:
        """Whether a test's outcome is looked up under the key of its file, so that a forecast
        speaks of it. To be asked after `prepare`."""
        candidate = self._tests.get(item)
        if not isinstance(candidate, Candidate) or candidate.asked.apart:
            return False
        return candidate.asked.options.persist and not candidate.asked.options.refresh

    def finish(self) -> None:
        """At the end of the tests, or when they were interrupted: writes what is not written."""
        if self._units is not None and not self._engine.is_forked():
            self._units.close()
            for bundle in self._bundles:
                bundle.save()
        self._units = None

    def stop(self) -> None:
        """After the tests: lets go of what it knew, since pytest then walks all there is."""
        self._tests, self._files, self._bundles = {}, {}, []
        forget_files()
        self._thaw()

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self) -> Generator[None, object, object]:
        """What other plugins do at the end, they do as ever."""
        self._thaw()
        try:
            return (yield)
        except BaseException:
            self.fail_session()
            raise

    def fail_session(self) -> None:
        """The tests passed, and a hook failed the session when it ended. If it is the project's,
        that was for what tests did, or left: nothing that ran here is kept."""
        hooks = self._config.hook.pytest_sessionfinish.get_hookimpls()
        files = (getattr(each.function, "__code__", None) for each in hooks)
        is_project = self._engine.fingerprints.is_project_file
        if self._units is None or not any(code and is_project(code.co_filename) for code in files):
            return
        self._units.close()
        refusal = Refusal("did not pass", "a hook of the project failed the session")
        for bundle in self._bundles:
            for name in {name for unit in bundle.fresh if not unit.mark for name in unit.tests}:
                bundle.withdraw(name, refusal)

    def _thaw(self) -> None:
        """Has the collector walk everything as ever."""
        if self._froze:
            self._froze = False
            gc.unfreeze()

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Fails a test whose mark cannot work. A worker of pytest-xdist that stopped with a usage
        error would be a crash to its controller, and the remedy would not be seen."""
        known = self._tests.get(item)
        if isinstance(known, Uncacheable) and known.reason == _MISUSED:
            pytest.fail(known.detail, pytrace=False)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(
        self, item: pytest.Item, nextitem: pytest.Item | None
    ) -> bool | None:
        """Replays the item if its outcome is known and valid; else lets it run."""
        running, candidate = self._session.items.running, self._tests.get(item)
        self.torn_down.clear()
        if running is None or candidate is None:
            return None
        if isinstance(candidate, Uncacheable):
            self._tell(running, candidate)
            return None
        running.candidate = candidate
        found = self._look_up(item, candidate)
        if isinstance(found, Replayable):
            if not self._picked(candidate):
                return self._replay(running, found, nextitem) or None
            candidate.expected = True
            found = Miss(Why.UNVERIFIED)
        self._tell(running, found)
        return None

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> None:
        """Notes the fixtures that a test had, while pytest still knows them. They count when it is
        torn down: until then anything may be patched."""
        running = self._session.items.running
        if running is not None and running.item is item and running.attempt is not None:
            running.attempt.given = frozenset(fixtures_of(item))

    def begin(self, running: Running, attempt: ItemAttempt) -> None:
        """Has the test run in a window if it may be recorded."""
        self._thaw()
        attempt.started = originals.monotonic()
        item, candidate, units = running.item, running.candidate, self._units
        if units is None or self._engine.is_forked():
            return
        function, alone = None, False
        if candidate is not None:
            allowed = access(self._engine.parts.mode, candidate.asked.options)
            candidate.recording = allowed.record
            function = test_function(item) if allowed.record else None
            alone = candidate.asked.marked or candidate.expected
            alone = alone or units.is_slow(candidate.bundle.last_duration(candidate.name))
        attempt.frame = units.begin(
            item.path,
            function,
            lambda: self.keys.around(item.path).trace,
            alone=alone,
            stranger=candidate is None or not candidate.recording,
        )
        if candidate is None or attempt.frame is None or not candidate.recording:
            return
        self._check(item, candidate)  # before the test can change its parameters
        attempt.keywords = keywords_of(item)
        code = getattr(function, "__code__", None)
        if (code is None or code.co_filename != str(item.path)) and item.path.suffix == ".py":
            run_in_name_only(str(item.path))  # inherited from elsewhere
        run_conditions(item)
        if self._session.coverage is not None:
            candidate.region = self._session.coverage.open("test", attempt.instances)
        if self.randomness is not None:
            self.randomness.begin()
        self._snapshots.begin()

    def end(self, running: Running, attempt: ItemAttempt, *, passed: bool) -> None:
        """Ends the test in its window; notes the outcome of a pass, and marks a failure."""
        candidate, units = running.candidate, self._units
        attempt.seconds = originals.monotonic() - attempt.started
        if candidate is not None:
            self._session.verification.compare(running, attempt, passed=passed)
        if attempt.frame is None or units is None or self._engine.is_forked():
            return
        ended = None
        if candidate is not None:
            self.keys.run_given(running.item, attempt.given)
        if candidate is not None and candidate.recording:
            if isinstance(running.item, DoctestItem):
                self.keys.run_examples(running.item)
            if self._session.coverage is not None:
                self._session.coverage.close(candidate.region)
            ended = candidate.ended = self._ended(running, candidate, attempt, passed=passed)
            for instance in attempt.instances if passed else ():
                if instance.transaction is not None:
                    instance.kept_by.append(candidate)
        if any(report.failed and report.when != "call" for report in attempt.reports):
            self._withdraw(candidate)
        units.end(ended, attempt.instances, attempt.seconds)

    def _ended(
        self, running: Running, candidate: Candidate, attempt: ItemAttempt, *, passed: bool
    ) -> Ended:
        item = running.item
        outcome: Outcome | None = None
        refusal = Refusal("passed only when run again") if running.attempts > 1 else None
        candidate.bundle.ran.add(candidate.name)
        if passed:
            used = self._snapshots.used()
            handed = {Snapshots.NAME: used} if used else None
            given = attempt.reports, attempt.keywords, attempt.warnings
            try:
                outcome = to_json(self._config, *given, candidate.checked, handed)
            except ValueError as error:
                outcome, refusal = "", refusal or Refusal("report cannot be stored", str(error))
        doubts = self.keys.around(item.path).untrusted
        if doubts and refusal is None:
            refusal = Refusal("changed while it ran", doubts[0])
        proves = not passed and any(r.when == "call" and r.failed for r in attempt.reports)
        drew = self.randomness is not None and self.randomness.has_drawn(attempt.instances)
        return Ended(candidate, outcome, attempt.seconds, refusal, proves, drew)

    def after(self, running: Running, nextitem: pytest.Item | None) -> None:
        """When a test is over, its transaction too: writes the outcomes of its file if there is
        much to lose; those of all files where the next test is in another one."""
        candidate, units = running.candidate, self._units
        if units is None or self._engine.is_forked():
            return
        saved = [candidate.bundle] if candidate is not None else []
        if nextitem is None or nextitem.path is not running.item.path:
            units.close()
            saved = [each for each in self._bundles if each.unsaved]
        if sum(each.unsaved_seconds for each in saved) > max(_AT_ONCE, SHARE * self._writing):
            started = originals.monotonic()
            with self._engine.quiet():
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

    def _picked(self, candidate: Candidate) -> bool:
        key = candidate.bundle.keyed.key.digest
        return self._session.verification.picks(f"{key}{candidate.name}")

    def _look_up(self, item: pytest.Item, candidate: Candidate) -> Replayable | Miss | Fault:
        parts, bundle = self._engine.parts, candidate.bundle
        consults = access(parts.mode, candidate.asked.options).consult
        refresh = parts.refresh
        if not consults or (refresh.asked and refresh.covers(str(candidate.identity))):
            return Miss(Why.REFRESH)
        if is_skipped_by_mark(item):  # by a hook that was not there when it passed
            return Miss(Why.ABSENT)
        found = bundle.find(
            candidate.name, None if is_stand_in(item) else lambda: self._check(item, candidate)
        )
        coverage = self._session.coverage
        if isinstance(found, Replayable) and coverage is not None:
            found = coverage.bring_back_test(bundle, candidate.name) or found
        if isinstance(found, Fault):
            self._engine.notify(Faulted(found.reason, found.detail))
        return found

    def _check(self, item: pytest.Item, candidate: Candidate) -> Check:
        if candidate.check is None:
            candidate.check = self.keys.check(item)
        return candidate.check

    def _replay(self, running: Running, found: Replayable, nextitem: pytest.Item | None) -> bool:
        """Replays an outcome; False where something that another plugin says has it run."""
        item, outcome = running.item, found.outcome
        if not may_run(item):
            self._tell(running, Uncacheable("its dependencies did not pass"))
            return False
        try:
            if told(outcome, "handed"):
                self._snapshots.hand(item, told(outcome, "handed")[Snapshots.NAME])
            if not self._replays.replay(item, nextitem, outcome):
                self._withdraw(None)
        except (NotReplayableError, LookupError) as error:
            text = f"{running.nodeid} runs each time: a hook cannot do with its replay ({error})"
            self._engine.notify(Noted(text))
            return False
        if found.variant is not None:
            self._engine.used.add(found.variant.id)
        self._tell(running, Hit(found.variant), duration_of(outcome))
        return True

    def _withdraw(self, last: Candidate | None) -> None:
        """The teardown of a fixture may have failed: that is told as an error of the last test that
        had it, and was brought about by any that had."""
        had_it = chain.from_iterable(one.kept_by for one in self.torn_down)
        for candidate in (last, *had_it):
            if candidate is not None and candidate.ended is not None:
                refusal = Refusal("did not pass", "the teardown of a fixture that it had failed")
                candidate.ended.refusal = candidate.ended.refusal or refusal
                candidate.bundle.withdraw(candidate.name, refusal)

    def _tell(self, running: Running, decision: Decision, saved: float = 0.0) -> None:
        file, _, name = running.nodeid.partition("::")
        key = running.candidate.bundle.keyed.key if running.candidate is not None else None
        texts = self.keys.shown if isinstance(decision, Miss) else ()
        event = Decided(
            Subject.TEST, Identity(file, name), decision, key, saved, running.nodeid, texts
        )
        self._engine.notify(event)
