"""``--cache-dry-run``: tells which tests would run and why, and runs none.

RUN     tests/test_prices.py::test_sum: function changed: prices.py::total
CACHED  tests/test_prices.py::test_tax                                        (-v)
taskcache: dry run: 1 test would run, 1 would be replayed
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from pytest_taskcache.model.decision import Miss, Why
from pytest_taskcache.plugin.collection.pytest_nodes import is_skipped_by_mark
from pytest_taskcache.plugin.items import node_id
from pytest_taskcache.plugin.outcomes.bundles import Replayable
from pytest_taskcache.plugin.pytest_private import width_of
from pytest_taskcache.report.tally import reason_of, shortened
from pytest_taskcache.report.wording import counted, harmless, wrapped

if TYPE_CHECKING:
    from pytest_taskcache.plugin.session import Session


class DryRun:
    """Stands for the running of the tests. The cache is only read."""

    def __init__(self, session: Session) -> None:
        self._session = session

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool | None:
        """Tells of each test. What keeps pytest from running any is left to pytest."""
        option = session.config.option
        if option.collectonly or (session.testsfailed and not option.continue_on_collection_errors):
            return None
        reporter: Any = session.config.pluginmanager.get_plugin("terminalreporter")
        verbosity = reporter.verbosity if reporter is not None else 0
        lines, counts = [], Counter[str]()
        for item in session.items:
            word, reason = self._foreseen(item, whole=verbosity > 1)
            counts[word] += 1
            if word == "RUN" or verbosity > 0:
                lines.append(f"{word:7} {node_id(item)}{reason}")
        if verbosity >= 0:
            told = (
                f"{counted(counts['RUN'], 'test')} would run, {counts['CACHED']} would be replayed"
            )
            skipped = f", {counts['SKIPPED']} would be skipped" if counts["SKIPPED"] else ""
            lines.append(f"taskcache: dry run: {told}{skipped}")
        if reporter is not None:
            reporter.ensure_newline()
            for piece in (p for line in lines for p in wrapped(harmless(line), width_of(reporter))):
                reporter.line(piece)
        return True

    def _foreseen(self, item: pytest.Item, *, whole: bool) -> tuple[str, str]:
        if is_skipped_by_mark(item):
            return "SKIPPED", ""
        found = self._session.outcomes.foreseen(item) if self._session.engine is not None else None
        if isinstance(found, Replayable):
            return "CACHED", ""
        if found is None:
            why = "its outcome is not cached (no mark, see --cache-tests)"
        elif not isinstance(found, Miss):
            why = str(found)
        elif found.why is Why.ABSENT:
            why = "first computation"
        else:
            why = reason_of(found) if whole else shortened(reason_of(found))
        return "RUN", f": {why}"


def register(session: Session) -> None:
    """Registers the hook, and starts no workers. Raises pytest.UsageError on contradiction."""
    option = session.config.option
    if getattr(option, "cacheclear", False):
        raise pytest.UsageError("--cache-dry-run clears nothing; leave out --cache-clear")
    if session.distributes:
        option.numprocesses, option.dist, option.tx = 0, "no", []
    session.config.pluginmanager.register(DryRun(session), "taskcache-dry-run")
