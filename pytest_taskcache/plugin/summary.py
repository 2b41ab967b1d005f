"""What the terminal shows: a header line, ``CACHED`` for a replayed test, a summary line."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import pytest

from pytest_taskcache.model.event import Event, Waited
from pytest_taskcache.plugin.outcomes.reports import is_replayed_test
from pytest_taskcache.report.text import (
    duration,
    miss_lines,
    summary_line,
    trouble_line,
    trouble_lines,
)

if TYPE_CHECKING:
    from pytest_taskcache.plugin.session import Session

_PAUSE = 5.0
"""Seconds between two lines of progress in a log."""


class Summary:
    """Speaks for the plugin in the terminal."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def pytest_report_header(self, config: pytest.Config) -> str:
        """The storage and the mode."""
        settings = self._session.settings
        if not self._session.enabled:
            return "taskcache: off"
        where = _shown(settings.storage) or _short(self._session.directory, config)
        return f"taskcache: {where} ({settings.mode.value}, tests: {settings.tests.value})"

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Ends the run's part in the cache, so that the summary can tell of it; a difference
        that was found on verification fails the run."""
        if self._session.is_worker:
            return
        config = self._session.config
        self._session.finish(UploadLine(config.pluginmanager.get_plugin("terminalreporter")))
        if self._session.tally.differences and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    @pytest.hookimpl
    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """One line of counts; with ``-v`` why each miss was one; differences always; with ``-q``
        one line if something went wrong."""
        tally = self._session.tally
        if tally.is_empty:
            return
        if tally.differences:
            terminalreporter.section("cache verification failed", red=True, sep="=")
            for line in tally.differences:
                terminalreporter.line(line)
        verbosity = terminalreporter.verbosity
        if verbosity >= 1:
            for line in miss_lines(tally, everyone=verbosity > 1):
                terminalreporter.line(line)
        if verbosity >= 0:
            for line in trouble_lines(tally):
                terminalreporter.line(line, yellow=True)
            terminalreporter.line(summary_line(tally) + self._seed())
        elif trouble_line(tally):
            terminalreporter.line(trouble_line(tally), yellow=True)

    def _seed(self) -> str:
        """How to verify the same share again."""
        sample = self._session.settings.verify
        if not sample.percent or sample.percent == 100:
            return ""
        from pytest_taskcache.plugin.verification import seed_of

        return f" (again: --cache-verify={sample.percent:g}@{seed_of(self._session)})"


class ReplayedReports:
    """Shows replayed tests for what they are. Registered only where there may be some: every
    report passes here."""

    def __init__(self) -> None:
        self._replayed: Counter[str] = Counter()

    @pytest.hookimpl(tryfirst=True)
    def pytest_report_teststatus(self, report: Any) -> Any:
        """A replayed test is a pass, shown as ``CACHED`` or ``c``."""
        if is_replayed_test(report):
            return "passed", "c", ("CACHED", {"green": True})
        return None

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Where a test fails after replays, says how many, since their side effects are missing.
        Under pytest-xdist it is those on the same worker that count."""
        worker = getattr(report, "worker_id", "main")
        if is_replayed_test(report):
            self._replayed[worker] += 1
        elif report.failed and self._replayed[worker]:
            count = self._replayed[worker]
            were = "test before this one was" if count == 1 else "tests before this one were"
            report.sections.append(("taskcache", f"{count} {were} replayed, not run"))


class UploadLine:
    """Says how the uploads at the end of a run go: one line that is written over where that is
    possible, else a line now and then."""

    def __init__(self, reporter: Any, clock: Callable[[], float] = time.monotonic) -> None:
        self._reporter = reporter
        self._clock = clock
        self._next = 0.0

    def __call__(self, done: int, total: int) -> None:
        """Writes ``taskcache: uploading 3/10``."""
        if self._reporter is None or self._reporter.verbosity < 0:
            return
        text = f"taskcache: uploading {done}/{total}"
        if self._reporter.isatty:
            self._reporter.rewrite(text, erase=True)
        elif self._clock() >= self._next:
            self._next = self._clock() + _PAUSE
            self._reporter.ensure_newline()
            self._reporter.write_line(text)


class WaitingLine:
    """Says for whom a worker waits, at once and past pytest's capturing: a run that seems to
    hang would otherwise not be told from one that does."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    def notify(self, event: Event) -> None:
        """Writes a line when a wait has become noticeable, and one when it is over."""
        if isinstance(event, Waited):
            verb = "waited for" if event.done else "is waiting for"
            self._write(
                f"taskcache: {event.identity} {verb} {event.holder} ({duration(event.seconds)})"
            )

    def _write(self, text: str) -> None:
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


def _shown(storage: str) -> str:
    if not storage:
        return ""
    from pytest_taskcache.config.tiers import shown

    return shown(storage)


def _short(directory: Any, config: pytest.Config) -> str:
    try:
        return str(directory.relative_to(config.rootpath))
    except ValueError:
        return str(directory)
