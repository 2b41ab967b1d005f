"""The test that is running: its attempts, reports and fixtures. One transaction for each attempt,
committed only by a plain pass."""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from pytest_taskcache.dataclass import dataclass, field
from pytest_taskcache.engine.active import commit, roll_back
from pytest_taskcache.engine.cache import Engine
from pytest_taskcache.engine.computation import Basis, OpenComputation, Place
from pytest_taskcache.model.decision import Hit
from pytest_taskcache.model.event import Decided
from pytest_taskcache.model.record import Variant
from pytest_taskcache.plugin.pytest_private import closure_of, parameters_of, run_unseen
from pytest_taskcache.transactions.transaction import Transaction

if TYPE_CHECKING:
    from pytest_taskcache.plugin.coverage import Region
    from pytest_taskcache.plugin.outcomes.units import Candidate
    from pytest_taskcache.plugin.session import Session


@dataclass(eq=False)
class Instance:
    """One live instance of a fixture: what it rests on, and its own transaction if it outlives
    the test that asked for it.

    ``handed_to``: the definitions of fixtures, and the attempts at tests by their claimants,
    that were given its value and so may have changed it. ``digest``: of its value when it was
    set up, where that was taken. ``outer``: whose transaction was open when its teardown began.
    ``drew``: whether its set-up drew random numbers that a plugin seeds. ``attached``: what is
    known to coverage of its computation; ``regions``: what its set-up and its teardown covered,
    where tests share it. ``position``: that of the log when it was about to be set up. ``kept_by``:
    whose outcomes rest on its teardown, too, which tests that share it do not wait for.
    """

    basis: Basis = field(default_factory=Basis)
    transaction: Transaction | None = None
    variant: Variant | None = None
    handed_to: set[object] = field(default_factory=set)
    digest: str = ""
    reused: tuple[Decided, ...] = ()
    """The cached values that it was made of, or is."""
    outer: Transaction | None = None
    drew: bool = False
    attached: object = None
    regions: list[Region] = field(default_factory=list)
    position: int = 0
    kept_by: list[Candidate] = field(default_factory=list)


@dataclass(eq=False)
class ItemAttempt:
    """One attempt at a test: from its set-up to its last report."""

    transaction: Transaction
    reports: list[pytest.TestReport] = field(default_factory=list)
    instances: list[Instance] = field(default_factory=list)
    frame: OpenComputation | None = None
    started: float = 0.0
    seconds: float = 0.0
    warnings: list[dict[str, object]] = field(default_factory=list)
    given: frozenset[str] = frozenset()
    keywords: Mapping[str, object] = field(default_factory=dict)
    """Those of the test before anything was set up, once they are noted."""
    is_set_up: bool = False
    """Whether its set-up ran to its end, of which pytest-retry makes no report in a retry."""

    @property
    def passed(self) -> bool:
        """Whether every report passed, a call among them and the teardown last. An xfail, a
        skip, a failed subtest, a rerun or an interrupt is not a pass."""
        was_called = False
        for report in self.reports:
            if report.outcome != "passed" or hasattr(report, "wasxfail"):
                return False
            was_called = was_called or report.when == "call"
        return self.is_set_up and was_called and self.reports[-1].when == "teardown"


@dataclass(eq=False)
class Running:
    """A test between the entry to and the exit from its protocol."""

    item: pytest.Item
    nodeid: str
    candidate: Candidate | None = None
    attempt: ItemAttempt | None = None
    attempts: int = 0


_serial = itertools.count(1)
"""Makes a claimant unique where one test runs several times in a session (``--count``)."""


def node_id(item: pytest.Item) -> str:
    """The item's id without the group that pytest-xdist appends to it under loadgroup."""
    nodeid = item.nodeid
    head, at, group = nodeid.rpartition("@")
    may_be_group = at and "/" not in group and "]" not in group
    return head if may_be_group and item.get_closest_marker("xdist_group") else nodeid


class ItemHooks:
    """Follows each test from the entry to the exit of its protocol."""

    def __init__(self, session: Session, engine: Engine) -> None:
        self._session = session
        self._engine = engine
        self.running: Running | None = None

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(
        self, item: pytest.Item, nextitem: pytest.Item | None
    ) -> Generator[None, object, object]:
        """Runs the item inside a transaction of its own."""
        with self._entered(item) as running:
            result = yield
        attempt, session = running.attempt, self._session
        if attempt is not None:
            rechecks = session.settings.recheck and any(each.failed for each in attempt.reports)
            used = self.reused_values() if rechecks else ()
            self._end(running, passed=attempt.passed)
            if rechecks:
                session.verification.recheck(item, used)
        session.outcomes.after(running, nextitem)
        return result

    def run_again(self, item: pytest.Item) -> list[pytest.TestReport]:
        """Runs an item once more, in a transaction of its own; its reports, which nobody is
        shown. What it was set up with is torn down."""
        with self._entered(item) as running:
            reports = run_unseen(item)
        if running.attempt is not None:
            running.attempt.reports[:] = reports
            self._end(running, passed=running.attempt.passed)
        return reports

    @contextmanager
    def _entered(self, item: pytest.Item) -> Iterator[Running]:
        """The item is the one that is running, until its protocol ends."""
        running = self.running = Running(item, node_id(item))
        self._session.decisions.clear()
        try:
            yield running
        except BaseException:
            self._end(running, passed=False, reason="interrupted")
            raise
        finally:
            self.running = None

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Generator[None, object, object]:
        """Begins an attempt; one before it in the same protocol failed and is being retried."""
        running = self.running
        if running is None or running.item is not item:
            return (yield)
        if running.attempt is not None:
            self._end(running, passed=False, reason="retried")
        attempt = self._begin(running)
        fixtures = self._session.fixtures
        if not getattr(item.config.option, "setupplan", False):
            fixtures.shortcuts.plan(item)
        try:
            result = yield
        finally:
            fixtures.shortcuts.settle()
        attempt.is_set_up = True
        definitions = itertools.chain.from_iterable(closure_of(item).definitions.values())
        for instance in filter(None, map(fixtures.live.get, definitions)):
            self.uses(instance)
        return result

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Notes every report of the running attempt, subtests' and reruns' included."""
        running = self.running
        if running is not None and running.attempt is not None:
            running.attempt.reports.append(report)

    def uses(self, instance: Instance) -> None:
        """Notes that the running test uses a fixture's instance."""
        attempt = self.running.attempt if self.running is not None else None
        if attempt is not None and instance not in attempt.instances:
            attempt.instances.append(instance)
            self._claim(attempt, instance)

    def reused_values(self) -> Sequence[Decided]:
        """The cached values that the running test used: those that were found while it ran, and
        those that its fixtures were made of, whenever that was; each once."""
        attempt = self.running.attempt if self.running is not None else None
        instances = attempt.instances if attempt is not None else ()
        found: dict[str, Decided] = {}
        for event in itertools.chain(self._session.decisions, *(one.reused for one in instances)):
            if isinstance(event.decision, Hit) and event.decision.variant is not None:
                found.setdefault(event.decision.variant.id, event)
        return list(found.values())

    @property
    def reader(self) -> str:
        """The name of the running attempt as long as its test's body has not begun, which could
        change what it was given; else ""."""
        attempt = self.running.attempt if self.running is not None else None
        if attempt is None or attempt.is_set_up or attempt.reports:
            return ""
        return attempt.transaction.claimant

    def _begin(self, running: Running) -> ItemAttempt:
        item, engine = running.item, self._engine
        running.attempts += 1
        claimant = f"{engine.worker}/{running.nodeid}#{running.attempts}.{next(_serial)}"
        attempt = running.attempt = ItemAttempt(Transaction(claimant, running.nodeid))
        module: Any = getattr(item, "module", None)
        engine.place = Place(
            running.nodeid,
            str(getattr(module, "__name__", "") or item.path.stem),
            item.name,
            parameters_of(item),
        )
        engine.root = attempt.transaction
        self._session.outcomes.begin(running, attempt)
        return attempt

    def _claim(self, attempt: ItemAttempt, instance: Instance) -> None:
        transaction = instance.transaction
        if transaction is not None:
            entries = {*transaction.entries, *instance.basis.derives_from}
            self._engine.claim(entries, attempt.transaction)

    def _end(self, running: Running, *, passed: bool, reason: str = "") -> None:
        attempt, engine = running.attempt, self._engine
        running.attempt = None
        if attempt is None:
            return
        for instance in attempt.instances:
            self._claim(attempt, instance)  # what it computed since, in a lazy fixture
        try:
            self._session.outcomes.end(running, attempt, passed=passed)
            if passed:
                commit(attempt.transaction, engine)
            else:
                why = reason or "the test did not pass"
                roll_back(attempt.transaction, engine, reason=why, retain_for=running.nodeid)
        finally:
            engine.root = None
            engine.place = Place()
