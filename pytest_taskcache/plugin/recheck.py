"""``--cache-recheck``: a failed test that used cached values runs once more with fresh ones.

All that is set up is torn down first, and nothing is reused, so that every value is computed; what
would have been reused is compared with it. A pass commits the fresh values, so that the cache is
mended with it. The run stays failed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pytest

from pytest_taskcache.model.decision import Miss, Why
from pytest_taskcache.model.event import Decided
from pytest_taskcache.plugin.outcomes.replays import tear_down_neighbours
from pytest_taskcache.plugin.running import node_id

if TYPE_CHECKING:
    from pytest_taskcache.plugin.session import Session


def recheck(session: Session, item: pytest.Item, used: Sequence[Decided]) -> None:
    """Runs a failed test again if it used cached values, and notes whether they were the cause.
    Not under ``--pdb``, where its failure would be debugged a second time."""
    if getattr(item.config.option, "usepdb", False):
        return
    verdict = _verdict(session, item) if used else "used no cached value: the cache was no cause"
    session.tally.rechecked.append(f"{node_id(item)}: {verdict}")


def _verdict(session: Session, item: pytest.Item) -> str:
    engine, tally = session.engine, session.tally
    assert engine is not None
    if tear_down_neighbours(item, None) is not None:
        return "could not be run again: tearing down what was set up failed"
    known, verified, verifies = len(tally.differences), tally.verified, engine.verifies
    engine.verifies = lambda found: True
    try:
        reports = session.items.run_again(item)
    finally:
        engine.verifies = verifies
    differing, tally.differences[known:] = tally.differences[known:], []
    compared, tally.verified = tally.verified - verified, verified
    names = ", ".join(each.partition(": its value")[0] for each in differing)
    if any(report.failed for report in reports):
        but = f" (though another value was computed for {names})" if names else ""
        return f"fails with fresh values too: the cache was not the cause{but}"
    if names:
        return f"passes with fresh values: the cache was the cause, with another value of {names}"
    asked = [each for each in session.decisions if _is_unverified(each)]
    if compared < len(asked):
        return "passes with fresh values, which cannot be compared: the cache may be the cause"
    return "passes with fresh values, equal to the cached ones: it is flaky, or tells copies apart"


def _is_unverified(event: Decided) -> bool:
    return isinstance(event.decision, Miss) and event.decision.why is Why.UNVERIFIED
