"""One transaction a test: begun with each attempt, committed only by a plain pass."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import pytest

from pytest_taskcache.engine.commit import commit, roll_back
from pytest_taskcache.engine.computation import Place
from pytest_taskcache.plugin.pytest_private import definitions, run_unseen
from pytest_taskcache.plugin.running import Attempt, Instance, Running, node_id, reused_values

if TYPE_CHECKING:
    from pytest_taskcache.plugin.session import Session

_IN_BODY = " in its body"


class ItemHooks:
    """Follows each test from the entry to the exit of its protocol."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.running: Running | None = None

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(
        self, item: pytest.Item, nextitem: pytest.Item | None
    ) -> Generator[None, object, object]:
        """Runs the item inside a transaction of its own."""
        engine = self._session.engine
        if engine is None:
            return (yield)
        running = Running(item, node_id(item), engine.worker)
        self.running = running
        self._session.decisions.clear()
        try:
            result = yield
        except BaseException:
            self._end(running, passed=False, reason="interrupted")
            raise
        finally:
            self.running = None
        attempt = running.attempt
        if attempt is not None:
            used = reused_values(self._session.decisions, attempt)
            self._end(running, passed=attempt.passed)
            if self._session.settings.recheck and any(each.failed for each in attempt.reports):
                from pytest_taskcache.plugin.recheck import recheck

                recheck(self._session, item, used)
        self._session.outcomes.after(running, nextitem)
        return result

    def run_again(self, item: pytest.Item) -> list[pytest.TestReport]:
        """Runs an item once more, in a transaction of its own; its reports, which nobody is
        shown. What it was set up with is torn down."""
        engine = self._session.engine
        assert engine is not None
        running = self.running = Running(item, node_id(item), engine.worker)
        self._session.decisions.clear()
        try:
            reports = run_unseen(item)
        except BaseException:
            self._end(running, passed=False, reason="interrupted")
            raise
        finally:
            self.running = None
        if running.attempt is not None:
            running.attempt.reports[:] = reports
            self._end(running, passed=running.attempt.passed)
        return reports

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Generator[None, object, object]:
        """Begins an attempt; one before it in the same protocol failed and is being retried."""
        running = self.running
        if running is None or running.item is not item:
            return (yield)
        if running.attempt is not None:
            self._end(running, passed=False, reason="retried")
        self._begin(running)
        self._session.fixtures.plan(item)
        try:
            result = yield
        finally:
            self._session.fixtures.shortcuts.settle()
        if running.attempt is not None:
            running.attempt.is_set_up = True
        self._claim_what_it_uses(running)
        return result

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Notes every report of the running attempt, subtests' and reruns' included."""
        running = self.running
        if running is not None and running.attempt is not None:
            running.attempt.reports.append(report)

    def uses(self, instance: Instance) -> None:
        """Notes that the running test uses a fixture's instance."""
        running = self.running
        if running is None or running.attempt is None:
            return
        attempt = running.attempt
        if instance in attempt.instances:
            return
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

    def _begin(self, running: Running) -> None:
        session = self._session
        engine = session.engine
        if engine is None:
            return
        attempt = running.next_attempt()
        item = running.item
        callspec = getattr(item, "callspec", None)
        engine.place = Place(
            running.nodeid,
            _module(item),
            item.name,
            dict(callspec.params) if callspec is not None else {},
        )
        engine.root = attempt.transaction
        session.outcomes.begin(running, attempt)

    def _claim_what_it_uses(self, running: Running) -> None:
        for definitions_of_name in definitions(running.item).values():
            for definition in definitions_of_name:
                instance = self._session.fixtures.instance(definition)
                if instance is not None:
                    self.uses(instance)

    def _claim(self, attempt: Attempt, instance: Instance) -> None:
        engine, transaction = self._session.engine, instance.transaction
        if engine is None or transaction is None:
            return
        engine.claim({*transaction.entries, *instance.basis.derives_from}, attempt.transaction)

    def _end(self, running: Running, *, passed: bool, reason: str = "") -> None:
        attempt, engine = running.attempt, self._session.engine
        running.attempt = None
        if attempt is None or engine is None:
            return
        for instance in attempt.instances:
            self._claim(attempt, instance)  # what it computed since, in a lazy fixture
        try:
            self._session.outcomes.end(running, attempt, passed=passed)
            if passed:
                commit(attempt.transaction, engine)
            else:
                roll_back(
                    attempt.transaction,
                    engine,
                    reason=reason or "the test did not pass",
                    retain_for=running.nodeid,
                )
        finally:
            engine.root = None
            engine.place = Place()


def _module(item: pytest.Item) -> str:
    module: Any = getattr(item, "module", None)
    return str(getattr(module, "__name__", "") or item.path.stem)
