"""Proof that hits are right: ``--cache-verify`` runs a share of them anyway, which must end as
recorded, and computes a share of the values, which must be the same; ``--cache-recheck`` runs a
failed test that used cached values once more with fresh ones.

For that all that is set up is torn down first, and nothing is reused, so that every value is
computed; what would have been reused is compared with it. A pass commits the fresh values, so that
the cache is mended with it. The run stays failed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import pytest

from pytest_taskcache.engine.cache import Engine
from pytest_taskcache.model.decision import Miss, Why
from pytest_taskcache.model.event import Decided, Subject, Verified
from pytest_taskcache.plugin.items import ItemAttempt, Running, node_id
from pytest_taskcache.plugin.outcomes.replays import tear_down_neighbours
from pytest_taskcache.plugin.session import Session


class HitVerification:
    """Chooses hits by a seed that is reported, and notes where one differs; the end of the run
    fails it for that. Has the values of functions and fixtures compared, too."""

    def __init__(self, session: Session, engine: Engine) -> None:
        self._session = session
        self._engine = engine
        self._percent = session.settings.verify.percent
        self._seed = session.verify_seed
        if self._percent:
            run = engine.run.id  # what it computed itself needs no proof
            engine.verifies = lambda found: run not in found.id and self.picks(found.key)

    def picks(self, key: str) -> bool:
        """Whether the hit of this key is to be run anyway."""
        if not self._percent:
            return False
        digest = hashlib.sha256(f"{self._seed}{key}".encode()).digest()
        return int.from_bytes(digest[:4], "big") / 2**32 * 100 < self._percent

    def compare(self, running: Running, attempt: ItemAttempt, *, passed: bool) -> None:
        """Notes a run that ended other than its record says."""
        candidate = running.candidate
        if candidate is None or not candidate.expected:
            return
        difference = ""
        if not passed:
            others = [report for report in attempt.reports if report.outcome != "passed"]
            outcomes = ", ".join(f"{report.when} {report.outcome}" for report in others)
            difference = (
                f"{running.nodeid}: recorded as passed, now {outcomes or 'incomplete'} "
                "although nothing it was observed to depend on has changed"
            )
        self._session.notify(Verified(Subject.TEST, candidate.identity, difference))

    def recheck(self, item: pytest.Item, used: Sequence[Decided]) -> None:
        """Runs a failed test again if it used cached values, and notes whether they were the
        cause. Not under ``--pdb``, where its failure would be debugged a second time."""
        if getattr(item.config.option, "usepdb", False):
            return
        if used:
            verdict = self._verdict(item)
        elif self._session.tally.reused[Subject.TEST]:
            verdict = (
                "used no cached value, but may lack what replayed tests would have left behind"
            )
            verdict += ": --cache-tests=none tells"
        else:
            verdict = "used no cached value: the cache was no cause"
        self._session.tally.rechecked.append(f"{node_id(item)}: {verdict}")

    def _verdict(self, item: pytest.Item) -> str:
        engine, tally = self._engine, self._session.tally
        if tear_down_neighbours(item, None) is not None:
            return "could not be run again: tearing down what was set up failed"
        known, verified, verifies = len(tally.differences), tally.verified, engine.verifies
        engine.verifies = lambda found: True
        try:
            reports = self._session.items.run_again(item)
        finally:
            engine.verifies = verifies
        differing, tally.differences[known:] = tally.differences[known:], []
        compared, tally.verified = tally.verified - verified, verified
        names = ", ".join(each.partition(": its value")[0] for each in differing)
        if any(report.failed for report in reports):
            but = f" (though another value was computed for {names})" if names else ""
            return f"fails with fresh values too: the cache was not the cause{but}"
        passes = "passes with fresh values"
        if names:
            return f"{passes}: the cache was the cause, with another value of {names}"
        decisions = [each.decision for each in self._session.decisions]
        asked = [
            each for each in decisions if isinstance(each, Miss) and each.why is Why.UNVERIFIED
        ]
        if compared < len(asked):
            return f"{passes}, which cannot be compared: the cache may be the cause"
        return f"{passes}, equal to the cached ones: it is flaky, or tells copies apart"
