"""The test that is running: its attempts, reports, transaction and fixtures."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import TYPE_CHECKING

import pytest

from pytest_taskcache.dataclass import dataclass, field
from pytest_taskcache.engine.computation import Basis
from pytest_taskcache.engine.open_computations import OpenComputation
from pytest_taskcache.model.decision import Hit
from pytest_taskcache.model.event import Decided
from pytest_taskcache.model.record import Variant
from pytest_taskcache.transactions.transaction import Transaction

if TYPE_CHECKING:
    from pytest_taskcache.plugin.outcomes.units import Candidate


@dataclass(eq=False)
class Instance:
    """One live instance of a fixture: what it rests on, and its own transaction if it outlives
    the test that asked for it.

    ``handed_to``: the definitions of fixtures, and the attempts at tests by their claimants,
    that were given its value and so may have changed it. ``digest``: of its value when it was
    set up, where that was taken. ``outer``: whose transaction was open when its teardown began.
    """

    name: str
    basis: Basis
    transaction: Transaction | None = None
    variant: Variant | None = None
    handed_to: set[object] = field(default_factory=set)
    digest: str = ""
    reused: tuple[Decided, ...] = ()
    """The cached values that it was made of, or is."""
    outer: Transaction | None = None


@dataclass(eq=False)
class ItemAttempt:
    """One attempt at a test: from its set-up to its last report."""

    transaction: Transaction
    reports: list[pytest.TestReport] = field(default_factory=list)
    instances: list[Instance] = field(default_factory=list)
    frame: OpenComputation | None = None
    started: float = 0.0
    warnings: list[dict[str, object]] = field(default_factory=list)
    is_set_up: bool = False
    """Whether its set-up ran to its end, of which pytest-retry makes no report in a retry."""

    @property
    def passed(self) -> bool:
        """Whether every report passed, a call among them and the teardown last. An xfail, a
        skip, a failed subtest, a rerun or an interrupt is not a pass."""
        reports = self.reports
        return (
            self.is_set_up
            and all(report.outcome == "passed" for report in reports)
            and not any(hasattr(report, "wasxfail") for report in reports)
            and any(report.when == "call" for report in reports)
            and reports[-1].when == "teardown"
        )


@dataclass(eq=False)
class Running:
    """A test between the entry to and the exit from its protocol."""

    item: pytest.Item
    nodeid: str
    worker: str
    candidate: Candidate | None = None
    attempt: ItemAttempt | None = None
    attempts: int = 0

    def next_attempt(self) -> ItemAttempt:
        """Begins another attempt, the first included."""
        self.attempts += 1
        claimant = f"{self.worker}/{self.nodeid}#{self.attempts}.{next(_serial)}"
        self.attempt = ItemAttempt(Transaction(claimant, self.nodeid))
        return self.attempt


def reused_values(decisions: Iterable[Decided], attempt: ItemAttempt | None) -> list[Decided]:
    """The cached values that a test used: those that were found while it ran, and those that its
    fixtures were made of, whenever that was; each once."""
    instances = attempt.instances if attempt is not None else ()
    events = itertools.chain(decisions, *(instance.reused for instance in instances))
    found: dict[str, Decided] = {}
    for event in events:
        if isinstance(event.decision, Hit) and event.decision.variant is not None:
            found.setdefault(event.decision.variant.id, event)
    return list(found.values())


_serial = itertools.count(1)
"""Makes a claimant unique where one test runs several times in a session (``--count``)."""


def node_id(item: pytest.Item) -> str:
    """The item's id without the group that pytest-xdist appends to it under loadgroup."""
    nodeid = item.nodeid
    if "@" not in nodeid:
        return nodeid
    if item.get_closest_marker("xdist_group") is not None:
        head, _, group = nodeid.rpartition("@")
        if "/" not in group and "]" not in group:
            return head
    return nodeid
