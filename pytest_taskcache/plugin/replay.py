"""Replaying a test's outcome: its reports are emitted again, its body does not run."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_taskcache.plugin.pytest_private import has_something_set_up, tear_down_until
from pytest_taskcache.plugin.reports import from_json, warning_from_json

_PASSING_THROUGH: tuple[type[BaseException], ...] = (KeyboardInterrupt, pytest.exit.Exception)
"""What ends the whole run, wherever it is raised."""


def replay(item: pytest.Item, nextitem: pytest.Item | None, outcome: Any) -> None:
    """Emits the stored reports and warnings through pytest's own hooks.

    What neighbours left set up and the next item does not need is torn down first, as it would
    be at the end of this item; if that raises, this item's teardown fails, as it would have.
    """
    hook = item.ihook
    hook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    reports = from_json(item, outcome)
    failure = _tear_down_neighbours(item, nextitem)
    if failure is not None:
        reports[-1] = failure
    for report in reports:
        hook.pytest_runtest_logreport(report=report)
    for entry in outcome.get("warnings", ()):
        location = entry["location"]
        hook.pytest_warning_recorded.call_historic(
            kwargs={
                "warning_message": warning_from_json(entry),
                "nodeid": item.nodeid,
                "when": entry["when"],
                "location": tuple(location) if location is not None else None,
            }
        )
    hook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)


def _tear_down_neighbours(
    item: pytest.Item, nextitem: pytest.Item | None
) -> pytest.TestReport | None:
    if not has_something_set_up(item):
        return None
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
