"""What the terminal shows: a header line, ``CACHED`` for a replayed test, a summary line; for a dry
run, what would become of each test."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import pytest

from pytest_taskcache.config.settings import Explain
from pytest_taskcache.errors import StorageError
from pytest_taskcache.model.decision import Hit, Miss, Why
from pytest_taskcache.model.event import Event, Faulted, Waited
from pytest_taskcache.plugin.items import node_id
from pytest_taskcache.plugin.outcomes.outcome_keys import OF_FILE
from pytest_taskcache.plugin.outcomes.replays import is_replayed
from pytest_taskcache.plugin.pytest_private import width_of
from pytest_taskcache.report.tally import reason_of, shortened
from pytest_taskcache.report.terminal import (
    cause_lines,
    job_summary,
    miss_lines,
    slow_lines,
    summary_line,
    trouble_lines,
)
from pytest_taskcache.report.wording import age, counted, duration, harmless, wrapped

if TYPE_CHECKING:
    from pytest_taskcache.plugin.session import Session
    from pytest_taskcache.report.explanation import Explanation
    from pytest_taskcache.report.history import History, PastRun
    from pytest_taskcache.storage.local import LocalStorage

_RECORDS = 200
"""Computations whose texts are remembered after one run at most: those of one suite rest on much
the same."""

_COMPUTED = ("computed", "refreshed", "failed")
_ASKED = {
    Explain.NONE: (),
    Explain.MISSES: _COMPUTED,
    Explain.HIT: ("reused",),
    Explain.REFUSED: ("refused",),
    Explain.ALL: (*_COMPUTED, "reused", "refused"),
}
"""What is explained: the statuses of the computations."""

_REPLAYED = ("taskcache", "replayed")
"""The property of replayed tests in a junit file."""

_HERE = os.path.join(os.path.dirname(os.path.dirname(__file__)), "")
_PAUSE = 5.0
"""Seconds between two lines about uploads in a log."""


class Summary:
    """Speaks for the plugin in the terminal, and keeps what can be asked for afterwards."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._started = time.time()
        self._next_line = 0.0
        self._explained: list[Explanation] = []

    def pytest_report_header(self, config: pytest.Config) -> str:
        """The storage and the mode."""
        settings = self._session.settings
        if not self._session.enabled:
            return "taskcache: off"
        where = str(self._session.directory).removeprefix(f"{config.rootpath}{os.sep}")
        if settings.storage:
            from pytest_taskcache.config.tiers import shown

            where = shown(settings.storage) or where
        return f"taskcache: {where} ({settings.mode.value}, tests: {settings.tests.value})"

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Names the cached values that a failing test used: they may be the cause."""
        if call.excinfo is not None:
            _leave_out_ours(call.excinfo)
        report = yield
        if report.failed and report.when == "call" and self._session.running is not None:
            now, lines = time.time(), []
            for event in self._session.items.reused_values():
                assert isinstance(event.decision, Hit)
                assert event.decision.variant is not None
                old = age(now - event.decision.variant.created)
                name = harmless(str(event.identity))
                again = f"--cache-refresh-only={name!r}"
                lines.append(f"{event.subject} {name}, computed {old} ({again})")
            if lines:
                report.sections.append(("taskcache: cached values it used", "\n".join(lines)))
        return report

    @pytest.hookimpl(tryfirst=True)
    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        """What was interrupted is the test's, also where that was while noting what it did."""
        _leave_out_ours(excinfo)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Ends the run's part in the cache, so that the summary can tell of it; a difference
        that was found on verification fails the run."""
        if exitstatus == pytest.ExitCode.OK != session.exitstatus and self._session.hooked:
            self._session.outcomes.fail_session()
        with self._session.counting_faults("run not remembered", of=Exception):
            self._remember()  # explanations are never worth a run
        if self._session.is_worker:
            return
        self._session.finish(self._show_upload)
        if self._session.tally.differences and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    @pytest.hookimpl
    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """One line of counts, with what is slow or wrong, and why many ran again; with ``-v`` why
        each miss was one;
        differences always; with ``-q`` nothing else."""
        tally = self._session.tally
        if tally.is_empty:
            return
        self._write_job_summary()
        for title, lines, red in (
            ("cache verification failed", tally.differences, True),
            ("cache recheck", tally.rechecked, False),
        ):
            if lines:
                terminalreporter.section(title, red=red, sep="=")
                for line in lines:
                    terminalreporter.line(harmless(line))
        verbosity = terminalreporter.verbosity
        if verbosity < 0 and not self._explained:
            return
        told: list[str] = []
        troubles: list[str] = []
        if verbosity >= 1:
            told += miss_lines(tally, everyone=verbosity > 1)
        elif verbosity == 0 and not self._explained:
            told += cause_lines(tally)
        for explanation in self._explained:
            told += explanation.lines(everything=verbosity > 1)
        if verbosity >= 0:
            told += slow_lines(tally, asked=verbosity > 0, whole=verbosity > 1)
            troubles = [*trouble_lines(tally)]
        last = [summary_line(tally) + self._seed()] if verbosity >= 0 else []
        for yellow, lines in ((False, told), (True, troubles), (False, last)):
            for piece in (p for line in lines for p in wrapped(line, width_of(terminalreporter))):
                terminalreporter.line(piece, yellow=yellow)

    def _show_upload(self, done: int, total: int) -> None:
        """One line about the uploads, written over where possible, else a line now and then."""
        reporter: Any = self._session.config.pluginmanager.get_plugin("terminalreporter")
        if reporter is None or reporter.verbosity < 0:
            return
        text = f"taskcache: uploading {done}/{total}"
        if reporter.isatty:
            reporter.rewrite(text, erase=True)
        elif time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + _PAUSE
            reporter.ensure_newline()
            reporter.write_line(text)

    def _remember(self) -> None:
        """Keeps what explains this run, and explains what is to be explained: before the cache
        is closed, and only if there is anything."""
        local, settings = self._session.local, self._session.settings
        if local is None:
            if settings.report and not self._session.is_worker:
                self._session.tally.notes.append("no report written: nothing here was cached")
            return
        from pytest_taskcache.report.explanation import explain
        from pytest_taskcache.report.history import History, PastRun

        self._session.flush()
        tally, now = self._session.tally, time.time()
        history = History(local.shelf, self._session.fingerprints.path_of)
        if not self._session.is_worker:
            asked = _ASKED[settings.explain]
            self._explained = [
                explain(entry, history, now) for entry in tally.entries if entry.status in asked
            ]
        kept = [each for each in tally.entries if each.status in ("computed", "refreshed")]
        with self._session.counting_faults():
            if kept:
                self._keep_texts(history, local, [each.identity for each in kept[:_RECORDS]])
                history.keep_inputs(kept)
        if self._session.is_worker:
            return
        run = PastRun(self._session.run().id, self._started, now, tally)
        if settings.report or any(each.status != "reused" for each in tally.entries):
            history.keep_run(run)
        if settings.report:
            self._write_page(run, history, local)

    def _keep_texts(self, history: History, local: LocalStorage, names: Sequence[str]) -> None:
        from pytest_taskcache.report.contents import Contents

        files = {f"{name.partition('::')[0]}::{OF_FILE}" for name in names}
        records = local.recent({*names, *files}).values()
        touched = Contents(local.read_result).touched(records)
        history.keep_texts(touched, self._session.observatory.sources(), self._started)

    def _write_page(self, run: PastRun, history: History, local: LocalStorage) -> None:
        from pytest_taskcache.config.tiers import expanded
        from pytest_taskcache.report.page import write_page

        settings = self._session.settings
        path = self._session.config.invocation_params.dir / expanded(settings.report, "report")
        try:
            write_page(path, run, history, local, settings.max_size)
        except (OSError, StorageError) as error:
            problem = getattr(error, "strerror", None) or error
            text = f"{path}: {problem}; give --cache-report a file that can be written"
            self._session.notify(Faulted("report not written", text))
            return
        self._session.tally.notes.append(f"report written to {path}")

    def _write_job_summary(self) -> None:
        path = os.environ.get("GITHUB_STEP_SUMMARY")
        if not path:
            return
        try:
            with open(path, "a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(job_summary(self._session.tally))
        except OSError as error:
            self._session.notify(Faulted("job summary not written", str(error)))

    def _seed(self) -> str:
        percent = self._session.settings.verify.percent
        if not 0 < percent < 100:
            return ""
        return f" (again: --cache-verify={percent:g}@{self._session.verify_seed})"


def _leave_out_ours(excinfo: pytest.ExceptionInfo[BaseException]) -> None:
    kept = excinfo.traceback.filter(  # an entry's ``path`` would look for the file
        lambda entry: not entry.frame.code.raw.co_filename.startswith(_HERE)
    )
    excinfo.traceback = kept or excinfo.traceback


class DryRun:
    """``--cache-dry-run``: stands for the running of the tests. The cache is only read.

    RUN     tests/test_prices.py::test_sum: function changed: prices.py::total
    CACHED  tests/test_prices.py::test_tax                                        (-v)
    taskcache: dry run: 1 test would run, 1 would be replayed
    """

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
            skipped = f", {counts['SKIPPED']} would be skipped" if counts["SKIPPED"] else ""
            told = f"{counted(counts['RUN'], 'test')} would run"
            told = f"{told}, {counts['CACHED']} would be replayed{skipped}"
            lines.append(f"taskcache: dry run: {told}")
        if reporter is not None:
            reporter.ensure_newline()
            for piece in (p for line in lines for p in wrapped(harmless(line), width_of(reporter))):
                reporter.line(piece)
        return True

    def _foreseen(self, item: pytest.Item, *, whole: bool) -> tuple[str, str]:
        from pytest_taskcache.plugin.collection.pytest_nodes import is_skipped_by_mark
        from pytest_taskcache.plugin.outcomes.bundles import Replayable

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


class ReplayedReports:
    """Shows replayed tests for what they are, in a junit file by the property ``taskcache``.
    Registered only where there may be some: every report passes here."""

    def __init__(self) -> None:
        self._replayed: Counter[str] = Counter()

    @pytest.hookimpl(tryfirst=True)
    def pytest_report_teststatus(self, report: Any) -> Any:
        """A replayed test is a pass, shown as ``CACHED`` or ``c``."""
        if report.when == "call" and is_replayed(report):
            return "passed", "c", ("CACHED", {"green": True})
        return None

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Where a test fails after replays, says how many, since their side effects are missing.
        Under pytest-xdist it is those on the same worker that count."""
        worker = getattr(report, "worker_id", "main")
        if is_replayed(report):
            if report.when == "call":
                self._replayed[worker] += 1
            elif report.when == "teardown":  # whose properties a junit file has
                report.user_properties.append(_REPLAYED)
        elif report.failed and self._replayed[worker]:
            count = self._replayed[worker]
            were = "test before this one was" if count == 1 else "tests before this one were"
            report.sections.append(("taskcache", f"{count} {were} replayed, not run"))


class WaitingLine:
    """Says for whom a worker waits, at once and past pytest's capturing: a run that seems to
    hang would otherwise not be told from one that does."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    def notify(self, event: Event) -> None:
        """Writes a line when a wait has become noticeable, and one when it is over."""
        if not isinstance(event, Waited):
            return
        verb = "waited for" if event.done else "is waiting for"
        waited = f"{event.identity} {verb} {event.holder} ({duration(event.seconds)})"
        text = f"taskcache: {harmless(waited)}"
        manager = self._config.pluginmanager
        capture: Any = manager.getplugin("capturemanager")
        # A worker's reporter writes nowhere; its standard error is its controller's, too.
        worker = hasattr(self._config, "workerinput")
        reporter: Any = None if worker else manager.getplugin("terminalreporter")
        # Capturing belongs to the main thread: another one must not end it under a test's feet.
        captured = capture is not None and threading.current_thread() is threading.main_thread()
        with capture.global_and_fixture_disabled() if captured else nullcontext():
            if reporter is not None:
                reporter.ensure_newline()
                reporter.write_line(text)
            elif sys.stderr is not None:
                print(text, file=sys.stderr, flush=True)
