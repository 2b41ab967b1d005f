"""``--cache-dry-run``: tells which tests would run and why, and runs none.

RUN     tests/test_prices.py::test_sum: function changed: prices.py::total
CACHED  tests/test_prices.py::test_tax                                        (-v)
taskcache: dry run: 1 test would run, 1 would be replayed
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pytest_taskcache.model.decision import Decision, Miss, Why
from pytest_taskcache.plugin.collection.pytest_nodes import is_skipped_by_mark
from pytest_taskcache.plugin.outcomes.bundles import Replayable
from pytest_taskcache.plugin.running import node_id
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
        counts = {"run": 0, "replayed": 0, "skipped": 0}
        for item in session.items:
            word, what, reason = "RUN", "run", ""
            if is_skipped_by_mark(item):
                word, what = "SKIPPED", "skipped"
            else:
                found = self._session.outcomes.foreseen(item)
                if isinstance(found, Replayable):
                    word, what = "CACHED", "replayed"
                else:
                    reason = f": {_why(found, whole=verbosity > 1)}"
            counts[what] += 1
            if reporter is not None and (what == "run" or verbosity > 0):
                self._write(reporter, f"{word:7} {node_id(item)}{reason}")
        if reporter is not None and verbosity >= 0:
            self._write(reporter, _summary(counts))
        return True

    def _write(self, reporter: Any, line: str) -> None:
        reporter.ensure_newline()
        for piece in wrapped(harmless(line), reporter._tw.fullwidth if reporter.isatty else 0):
            reporter.line(piece)


def register(session: Session) -> None:
    """Registers the hook, and has pytest-xdist start no workers. Raises pytest.UsageError for an
    option that it contradicts."""
    option = session.config.option
    if getattr(option, "cacheclear", False):
        raise pytest.UsageError("--cache-dry-run clears nothing; leave out --cache-clear")
    if session.distributes:
        option.numprocesses, option.dist, option.tx = 0, "no", []
    session.config.pluginmanager.register(DryRun(session), "taskcache-dry-run")


def _why(found: Decision | None, *, whole: bool) -> str:
    if found is None:
        return "its outcome is not cached (no mark, see --cache-tests)"
    if not isinstance(found, Miss):
        return str(found)
    if found.why is Why.ABSENT:
        return "first computation"
    return reason_of(found) if whole else shortened(reason_of(found))


def _summary(counts: dict[str, int]) -> str:
    told = [
        f"{counted(counts['run'], 'test')} would run",
        f"{counts['replayed']} would be replayed",
    ]
    if counts["skipped"]:
        told.append(f"{counts['skipped']} would be skipped")
    return f"taskcache: dry run: {', '.join(told)}"
