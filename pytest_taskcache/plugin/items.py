"""One transaction a test: begun with each attempt, committed only by a plain pass."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import TYPE_CHECKING, Any

import pytest

from pytest_taskcache.engine.cache import Engine
from pytest_taskcache.engine.commit import commit, roll_back
from pytest_taskcache.engine.computation import Place
from pytest_taskcache.plugin.pytest_private import definitions, parameters_of, run_unseen
from pytest_taskcache.plugin.running import Instance, ItemAttempt, Running, node_id, reused_values

if TYPE_CHECKING:
    from pytest_taskcache.plugin.session import Session

_IN_BODY = " in its body"


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
            used = reused_values(session.decisions, attempt)
            self._end(running, passed=attempt.passed)
            if session.settings.recheck and any(each.failed for each in attempt.reports):
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
        running = self.running = Running(item, node_id(item), self._engine.worker)
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
        fixtures.plan(item)
        try:
            result = yield
        finally:
            fixtures.shortcuts.settle()
        attempt.is_set_up = True
        for definition in chain.from_iterable(definitions(item).values()):
            instance = fixtures.instance(definition)
            if instance is not None:
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

    @property
    def reader(self) -> str:
        """The name of the running attempt as long as its test's body has not begun, which could
        change what it was given; else ""."""
        name = self.reader_now
        return "" if name.endswith(_IN_BODY) else name

    @property
    def reader_now(self) -> str:
        """Who is given a fixture's value now that no other fixture asks."""
        attempt = self.running.attempt if self.running is not None else None
        if attempt is None:
            return _IN_BODY
        name = attempt.transaction.claimant
        return f"{name}{_IN_BODY}" if attempt.is_set_up or attempt.reports else name

    # ------------------------------------------------------------------------ internals

    def _begin(self, running: Running) -> ItemAttempt:
        attempt, item, engine = running.next_attempt(), running.item, self._engine
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
