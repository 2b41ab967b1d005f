"""Cached tests: an outcome is looked up before a test runs, and recorded after a plain pass."""

from __future__ import annotations

import time
import warnings
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pytest
from _pytest.doctest import DoctestItem

from pytest_taskcache.engine.cache import Engine
from pytest_taskcache.engine.computation import Basis, Computation, Options
from pytest_taskcache.engine.eligibility import Refusal, access, forbidden, objection
from pytest_taskcache.engine.keying import Keyed, key_of
from pytest_taskcache.engine.reading import Found, with_declared
from pytest_taskcache.errors import TaskCacheError
from pytest_taskcache.model.decision import Decision, Fault, Miss, Uncacheable, Why
from pytest_taskcache.model.dependency import Dependency, Kind, Observed, Trace
from pytest_taskcache.model.event import Computed, Decided, Faulted, Subject
from pytest_taskcache.model.key import Identity
from pytest_taskcache.model.record import Variant
from pytest_taskcache.plugin.collection.pytest_nodes import is_stand_in
from pytest_taskcache.plugin.collector import Collector
from pytest_taskcache.plugin.doctests import run_in_its_modules
from pytest_taskcache.plugin.facts import Facts, facts_of
from pytest_taskcache.plugin.flakiness import Flakiness
from pytest_taskcache.plugin.outcome_key import OutcomeKeys
from pytest_taskcache.plugin.outcome_options import outcome_options, own_mark
from pytest_taskcache.plugin.randomness import Randomness
from pytest_taskcache.plugin.replay import replay
from pytest_taskcache.plugin.reports import to_json, warning_to_json
from pytest_taskcache.plugin.running import Attempt, Running, node_id
from pytest_taskcache.policies import CachePolicy

if TYPE_CHECKING:
    from pytest_taskcache.plugin.session import Session

_TEMPORARY = "<tmp>"
_PATHS = (Kind.FILE, Kind.FUNCTION, Kind.LISTING, Kind.MODULE, Kind.SOURCE, Kind.STAT)


@dataclass(eq=False)
class Candidate:
    """A test whose outcome may be cached: what it is, its key, and what was decided."""

    facts: Facts
    computation: Computation
    keyed: Keyed
    decision: Decision | None = None
    expected: Variant | None = None
    """The record that a run for verification is compared with."""


class Outcomes:
    """Looks outcomes up, replays hits, records passes; marks what is proven nondeterministic."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._keys: OutcomeKeys | None = None
        self._candidates: dict[pytest.Item, Candidate] = {}
        self._refused: dict[pytest.Item, Uncacheable] = {}
        self._misused: dict[pytest.Item, str] = {}
        self._collector = Collector()
        self._flakiness: Flakiness | None = None
        self._randomness: Randomness | None = None

    # ------------------------------------------------------------------ before the tests

    def prepare(self, items: Sequence[pytest.Item]) -> None:
        """Derives the keys of all tests that want to be cached, and reads their records in one
        sweep."""
        with self._collector.paused():
            self._prepare(items)
        if self._candidates:
            self._collector.freeze()

    def _prepare(self, items: Sequence[pytest.Item]) -> None:
        engine = self._session.engine
        if engine is None or not self._consulting():
            return
        self._keys = OutcomeKeys(self._session, engine)
        manager = self._session.config.pluginmanager
        if manager.hasplugin("randomly"):
            self._randomness = Randomness(self._session.config)
            manager.register(self._randomness, "taskcache-randomness")
        self._flakiness = Flakiness(engine)
        coverage = self._session.coverage
        for item in items:
            if is_stand_in(item):
                continue  # known to replay before it was made
            facts = facts_of(item)
            try:
                options = outcome_options(facts, self._session.settings)
            except pytest.UsageError as error:
                if not self._session.is_worker:
                    raise
                self._misused[item] = str(error)
                continue
            if isinstance(options, Options) and coverage is not None:
                options = coverage.refusal or options
            if isinstance(options, Uncacheable):
                self._refused[item] = options
            elif options is not None:
                self._key(engine, facts, options)
        keys = (candidate.keyed.key for candidate in self._candidates.values())
        identities = {key.digest: str(key.identity) for key in keys}
        if identities:
            self._flakiness.prepare(engine.reader.prefetch(engine.routes.default, identities))

    def candidate_of(self, item: pytest.Item) -> Candidate | None:
        """What is known of a test whose key was derived."""
        return self._candidates.get(item)

    def stop(self) -> None:
        """After the tests: lets go of what it knew, since pytest walks all there is at the end,
        several times."""
        self._candidates, self._refused, self._keys = {}, {}, None
        self._flakiness = None
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
            self._tell(engine, item, refused)
            return None
        candidate = self._candidates.get(item)
        if candidate is None:
            return None
        running.candidate = candidate
        found = self._look_up(engine, candidate)
        if not isinstance(found, Found):
            candidate.decision = found
            self._tell(engine, item, found, candidate)
            return None
        variant = found.decision.variant
        if variant is not None and self._session.verification.picks(candidate.keyed.key.digest):
            candidate.decision, candidate.expected = Miss(Why.UNVERIFIED), variant
            self._tell(engine, item, candidate.decision, candidate)
            return None
        candidate.decision = found.decision
        running.replayed = True
        if variant is not None:
            engine.used.add(variant.id)
        saved = variant.duration if variant is not None else 0.0
        self._tell(engine, item, found.decision, candidate, saved)
        replay(item, nextitem, found.value)
        return True

    def begin(self, running: Running, attempt: Attempt) -> None:
        """Opens the window of a test that may be recorded."""
        self._collector.thaw()
        engine, candidate = self._session.engine, running.candidate
        attempt.started = time.perf_counter()
        if engine is None or candidate is None or not self._recording(candidate):
            return
        observation = engine.parts.observation
        function = candidate.facts.function
        window = observation.open_window(function) if observation is not None else None
        attempt.frame = engine.frames.open(window)
        if self._session.coverage is not None:
            self._session.coverage.begin_test(attempt)
        if self._keys is not None:
            attempt.frame.absorb(Basis(self._keys.around(running.item).trace))
        if self._randomness is not None:
            self._randomness.begin()

    def end(self, running: Running, attempt: Attempt, *, passed: bool) -> None:
        """Closes the window; stages the outcome of a pass, and marks a failure."""
        engine, candidate = self._session.engine, running.candidate
        if engine is None:
            return
        duration = time.perf_counter() - attempt.started
        observed = Observed()
        told = self._teller(engine, running, duration)
        if attempt.frame is not None and self._is_too_fast(candidate, duration, passed=passed):
            engine.frames.discard(attempt.frame)
            attempt.frame = None
            least = self._session.settings.tests_min_duration.total_seconds()
            told(Refusal(f"faster than {least * 1000:g} ms", "taskcache_tests_min_duration"))
        if attempt.frame is not None:
            if isinstance(running.item, DoctestItem):
                run_in_its_modules(running.item)
            for instance in attempt.instances:
                attempt.frame.absorb(instance.basis)
            observed = engine.frames.close(attempt.frame)
        if candidate is None:
            return
        self._session.verification.compare(running, attempt, passed=passed)
        if attempt.frame is None:
            return
        refusal = self._record(
            engine, running, attempt, candidate, observed, duration, passed, told
        )
        if refusal is not None:
            told(refusal)

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

    def _consulting(self) -> bool:
        option = self._session.config.option
        return not any(
            getattr(option, name, False)
            for name in ("usepdb", "trace", "setupplan", "setuponly", "setupshow", "collectonly")
        )

    def _key(self, engine: Engine, facts: Facts, options: Options) -> None:
        assert self._keys is not None
        item = facts.item
        try:
            computation = self._keys.computation(facts, options)
        except TaskCacheError as error:
            self._refused[item] = Uncacheable("parameter cannot be digested", str(error))
            return
        keyed = key_of(computation, engine.parts.payloads, engine.parts.clock)
        if isinstance(keyed, Keyed):
            self._candidates[item] = Candidate(facts, computation, keyed)
        elif isinstance(keyed, Uncacheable):
            self._refused[item] = keyed
        else:
            engine.notify(Faulted(keyed.reason, keyed.detail))

    def _look_up(self, engine: Engine, candidate: Candidate) -> Found | Miss | Fault:
        options = candidate.computation.options
        engine.keeper.deferred.settle(candidate.keyed.key.digest)
        if not access(engine.parts.mode, options).consult:
            return Miss(Why.REFRESH)
        if self._flakiness is not None and self._flakiness.is_flaky(candidate):
            return Miss(Why.FLAKY)
        refresh = engine.parts.refresh
        fresh_only = refresh.asked and refresh.covers(str(candidate.keyed.key.identity))
        found = engine.reader.look_up(
            candidate.computation,
            candidate.keyed,
            engine.routes.of(options),
            None,
            fresh_only=fresh_only,
        )
        if isinstance(found, Fault):
            engine.notify(Faulted(found.reason, found.detail))
        return found

    def _teller(
        self, engine: Engine, running: Running, duration: float
    ) -> Callable[[Refusal | None], None]:
        """Tells that the test ran, and why it is not kept (None: it is)."""

        def told(refusal: Refusal | None) -> None:
            file, _, name = running.nodeid.partition("::")
            engine.notify(
                Computed(
                    Subject.TEST,
                    Identity(file, name),
                    duration,
                    refusal is None,
                    refusal.reason if refusal is not None else "",
                    refusal.detail if refusal is not None else "",
                    running.nodeid,
                )
            )

        return told

    def _is_too_fast(self, candidate: Candidate | None, duration: float, *, passed: bool) -> bool:
        """Whether recording this pass would cost more than it is worth to the user. What is asked
        for by a mark, or is to be compared, is recorded however fast it is."""
        least = self._session.settings.tests_min_duration.total_seconds()
        return (
            passed
            and duration < least
            and candidate is not None
            and candidate.expected is None
            and own_mark(candidate.facts) is None
        )

    def _recording(self, candidate: Candidate) -> bool:
        engine = self._session.engine
        return (
            engine is not None and access(engine.parts.mode, candidate.computation.options).record
        )

    def _record(
        self,
        engine: Engine,
        running: Running,
        attempt: Attempt,
        candidate: Candidate,
        observed: Observed,
        duration: float,
        passed: bool,
        told: Callable[[Refusal | None], None],
    ) -> Refusal | None:
        """Why nothing is kept; or None, and then ``told`` hears what becomes of the record."""
        options, frame = candidate.computation.options, attempt.frame
        assert frame is not None
        trace = _without_temporary(observed.trace)
        if self._randomness is not None and self._randomness.has_drawn(running.item):
            seeding = tuple(
                Dependency(Kind.SETTING, name, engine.fingerprints.digest(Kind.SETTING, name))
                for name in ("randomly_seed", "randomly_reset_seed")
            )
            trace = Trace(trace.dependencies + seeding)
        basis = Basis(
            with_declared(trace, options.policy, candidate.keyed),
            (),
            frame.expires,
            frozenset(frame.derives_from),
        )
        assert self._flakiness is not None
        if not passed:
            self._flakiness.failed(candidate, basis, observed, attempt, running.nodeid)
            return Refusal("did not pass")
        refusal = self._refusal(running, attempt, candidate, observed)
        refusal = refusal or self._flakiness.objection(candidate, basis, running.nodeid)
        if refusal is not None:
            return refusal
        try:
            outcome = to_json(running.item.config, attempt.reports, attempt.warnings)
        except ValueError as error:
            return Refusal("report cannot be stored", str(error))
        kept = engine.keeper.keep(
            outcome,
            candidate.computation,
            candidate.keyed,
            engine.routes.of(options),
            basis,
            duration=duration,
            transaction=attempt.transaction if attempt.transaction.used else None,
            lease=None,
            told=told,
        )
        return kept if isinstance(kept, Refusal) else None

    def _refusal(
        self, running: Running, attempt: Attempt, candidate: Candidate, observed: Observed
    ) -> Refusal | None:
        if running.attempts > 1:
            return Refusal("passed only when run again")
        options = candidate.computation.options
        opaque = forbidden(observed.opaque, options.allow)
        declared = any(label.startswith("FILES") for label in _labels(options.policy))
        if opaque and not declared:
            kinds = sorted({deed.kind for deed in opaque})
            return Refusal(f"used {kinds[0]}", f"{opaque[0]}; allow={{{kinds[0]!r}}} accepts it")
        assert attempt.frame is not None
        assert self._keys is not None
        doubts = self._keys.around(running.item).untrusted
        observed = replace(observed, untrusted=(*observed.untrusted, *doubts))
        return objection(observed, attempt.frame.taints, vouched=False, forked=False)

    def _tell(
        self,
        engine: Engine,
        item: pytest.Item,
        decision: Decision,
        candidate: Candidate | None = None,
        saved: float = 0.0,
    ) -> None:
        nodeid = node_id(item)
        file, _, name = nodeid.partition("::")
        key = candidate.keyed.key if candidate is not None else None
        engine.notify(Decided(Subject.TEST, Identity(file, name), decision, key, saved, nodeid))


def _labels(policy: CachePolicy) -> list[str]:
    return [component.label for component in policy.components]


def _without_temporary(trace: Trace) -> Trace:
    """Drops what lies in the run's own temporary directory: it was made in this run, by code
    that this test's trace or one of its fixtures' has."""
    found = trace.dependencies
    # Traces are sorted, and most name nothing of the kind: a few steps instead of hundreds.
    for kind in _PATHS:
        first = bisect_left(found, (kind, _TEMPORARY))
        if first < len(found) and found[first].kind is kind and _is_temporary(found[first]):
            return Trace(tuple(d for d in found if not _is_temporary(d)))
    return trace


def _is_temporary(dependency: Dependency) -> bool:
    return dependency.name.startswith(_TEMPORARY)
