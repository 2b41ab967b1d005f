"""Replaying a test's outcome: what a pass would tell is told again, its body does not run.

A report goes where a pass's would: through ``pytest_runtest_makereport``, where plugins and
conftests look at it or change it, and ``pytest_runtest_logreport``.
"""

from __future__ import annotations

from typing import Any

import pytest

from pytest_taskcache.plugin.outcomes.reports import Outcome, from_json, told, warning_from_json
from pytest_taskcache.plugin.pytest_private import has_something_set_up, tear_down_until

_PASSING_THROUGH: tuple[type[BaseException], ...] = (KeyboardInterrupt, pytest.exit.Exception)
"""What ends the whole run, wherever it is raised."""


class NotReplayableError(Exception):
    """A hook of someone else's cannot do with a test that did not run; ``args[0]`` says how."""


class Replays:
    """Emits stored outcomes through pytest's own hooks; itself a plugin, which gives the stored
    report where pytest would make one of a call."""

    def __init__(self) -> None:
        self._call: object = None
        self._report: pytest.TestReport | None = None
        self._watched: dict[int, tuple[Any, bool]] = {}

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> pytest.TestReport | None:
        """The stored report, for the call that stands for it."""
        return self._report if call is self._call else None

    def replay(self, item: pytest.Item, nextitem: pytest.Item | None, outcome: Outcome) -> None:
        """Emits the reports and warnings. Raises NotReplayableError before anything is told.

        What neighbours left set up and the next item does not need is torn down first, as it
        would be at the end of this item; if that raises, this item's teardown fails, as it would
        have.
        """
        reports = from_json(item, outcome)
        hook = item.ihook
        if self._is_watched(hook):
            reports = [self._made(hook, item, report) for report in reports]
        hook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        if has_something_set_up(item):
            failure = tear_down_neighbours(item, nextitem)
            if failure is not None:
                reports[-1] = failure
        for report in reports:
            hook.pytest_runtest_logreport(report=report)
        for entry in told(outcome, "warnings"):
            _warn(item, entry)
        hook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)

    def _is_watched(self, hook: Any) -> bool:
        """Whether anyone but pytest itself has to do with the making of reports; if not, three
        calls of a hook are saved, a third of what a replay takes."""
        caller = hook.pytest_runtest_makereport
        known = self._watched.get(id(caller))
        if known is None:
            others = (
                each.plugin
                for each in caller.get_hookimpls()
                if each.plugin is not self and not _is_pytest_s_own(each.function)
            )
            known = self._watched[id(caller)] = caller, any(True for _ in others)
        return known[1]

    def _made(self, hook: Any, item: pytest.Item, report: pytest.TestReport) -> pytest.TestReport:
        if type(report) is not pytest.TestReport or report.when is None:
            return report  # a subtest's, which its plugin tells of by itself
        call: pytest.CallInfo[None] = pytest.CallInfo.from_call(_nothing, report.when)
        call.duration, call.start = report.duration, call.stop - report.duration
        self._call, self._report = call, report
        try:
            made: pytest.TestReport = hook.pytest_runtest_makereport(item=item, call=call)
        except _PASSING_THROUGH:
            raise
        except BaseException as error:
            raise NotReplayableError(f"{type(error).__name__}: {error}") from error
        finally:
            self._call = self._report = None
        return made


def _nothing() -> None:
    """Stands for a phase of a test that did not run."""


def _is_pytest_s_own(function: Any) -> bool:
    return str(getattr(function, "__module__", "")).startswith("_pytest.")


def _warn(item: pytest.Item, entry: Any) -> None:
    location = entry["location"]
    item.ihook.pytest_warning_recorded.call_historic(
        kwargs={
            "warning_message": warning_from_json(entry),
            "nodeid": item.nodeid,
            "when": entry["when"],
            "location": tuple(location) if location is not None else None,
        }
    )


def tear_down_neighbours(
    item: pytest.Item, nextitem: pytest.Item | None
) -> pytest.TestReport | None:
    """Tears down what the next item does not need; the report of a failure, if there is one."""
    if item.session.shouldfail or item.session.shouldstop:
        nextitem = None
    capture: Any = item.config.pluginmanager.getplugin("capturemanager")

    def tear_down() -> None:
        if capture is None:
            tear_down_until(item, nextitem)
            return
        with capture.item_capture("teardown", item):
            tear_down_until(item, nextitem)

    call = pytest.CallInfo.from_call(tear_down, when="teardown", reraise=_PASSING_THROUGH)
    if call.excinfo is None:
        return None
    return pytest.TestReport.from_item_and_call(item, call)
