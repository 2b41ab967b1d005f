"""A test's reports as JSON, and their replay: what a pass would tell is told again, its body does
not run.

Reading an outcome executes nothing. Most passes say no more than that they passed and how long
each phase took: those are kept as the durations alone. A report goes where a pass's would: through
``pytest_runtest_makereport``, where plugins and conftests look at it or change it, and
``pytest_runtest_logreport``.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext, suppress
from functools import partial
from typing import Any

import pytest

from pytest_taskcache.plugin.pytest_private import (
    has_something_set_up,
    keywords_of,
    restore_subtest,
    tear_down_until,
)
from pytest_taskcache.report.contents import Outcome

REPLAYED = "taskcache_replayed"
"""Attribute of the reports that were not made by running the test."""

_PHASES = ("setup", "call", "teardown")

_OWN = frozenset(
    {
        "nodeid", "_id", "location", "keywords", "outcome", "longrepr", "when", "user_properties",
        "sections", "duration", "start", "stop", "item_index", "worker_id", "testrun_uid", "node",
    }
)  # fmt: skip
"""Attributes that are rebuilt from the item, or belong to one run only."""


def is_replayed(report: Any) -> bool:
    """Whether this is the report of a phase of a test that was replayed (no subtest's)."""
    return type(report) is pytest.TestReport and getattr(report, REPLAYED, False)


def to_json(
    config: pytest.Config,
    reports: Sequence[pytest.TestReport],
    keywords: Mapping[str, object],
    recorded: Sequence[Mapping[str, object]] = (),
    check: str = "",
    handed: Mapping[str, object] | None = None,
) -> Outcome:
    """The reports, the warnings that were recorded with them, what the outcome must agree with
    on replay, and what other plugins must be handed then. ``keywords`` are those of the test
    before it was set up; what its reports have beyond these is told.

    Raises ValueError for a report that no plugin can serialize. What JSON would not give back as
    it was is for the serializer to refuse.
    """
    if not recorded and not handed and _is_plain(reports, keywords):
        phases = " ".join([f"{report.duration:.6f}" for report in reports])
        return f"{phases} {check}" if check else phases
    entries = [_entry(config, report, keywords) for report in reports]
    outcome = {"reports": entries, "warnings": list(recorded), "handed": handed, "check": check}
    return {name: value for name, value in outcome.items() if value}


def from_json(item: pytest.Item, outcome: Outcome) -> list[pytest.TestReport]:
    """The reports again, as pytest would have made them for this item."""
    keywords = keywords_of(item)
    entries: list[dict[str, Any]]
    if isinstance(outcome, str):
        phases = zip(_PHASES, outcome.split(" "), strict=False)
        entries = [{"when": when, "duration": float(duration)} for when, duration in phases]
    else:
        entries = outcome["reports"]
    return [_report(item, keywords, entry) for entry in entries]


def told(outcome: Outcome, what: str) -> Any:
    """What an outcome tells beside its reports, e.g. its ``warnings``; nothing for a plain pass."""
    return () if isinstance(outcome, str) else outcome.get(what, ())


def _is_plain(reports: Sequence[pytest.TestReport], known: Mapping[str, object]) -> bool:
    """Whether there is nothing to tell but that each phase passed, and how long it took."""
    for report in reports:
        told = report.sections or report.user_properties or not vars(report).keys() <= _OWN
        told = told or not report.keywords.keys() <= known.keys()
        if told or type(report) is not pytest.TestReport:
            return False
    return tuple([report.when for report in reports]) == _PHASES


def _entry(
    config: pytest.Config, report: pytest.TestReport, known: Mapping[str, object]
) -> dict[str, object]:
    more: dict[str, object] = {}
    data: Any = vars(report)
    if type(report) is not pytest.TestReport:  # a subtest's, as the plugin that knows it writes it
        data = config.hook.pytest_report_to_serializable(config=config, report=report)
        if not isinstance(data, dict):
            raise ValueError(f"no plugin can serialize a {type(report).__qualname__}")
        more["special"] = report.outcome
    more |= {
        "sections": [list(section) for section in report.sections],
        "properties": [list(pair) for pair in report.user_properties],
        "keywords": {k: v for k, v in report.keywords.items() if k not in known},
        "extra": {k: v for k, v in data.items() if k not in _OWN},
    }
    entry: dict[str, object] = {"when": report.when, "duration": round(report.duration, 6)}
    return entry | {name: value for name, value in more.items() if value}


def _report(item: pytest.Item, keywords: dict[str, Any], entry: Any) -> pytest.TestReport:
    extra, added = entry.get("extra", {}), entry.get("keywords")
    data = {
        **extra,
        "nodeid": item.nodeid,
        "location": item.location,
        "keywords": keywords | added if added else keywords,
        "outcome": entry.get("special", "passed"),
        "longrepr": None,
        "when": entry["when"],
        "sections": [*map(tuple, entry.get("sections", ()))],  # of lists, since JSON has no tuples
        "duration": entry["duration"],
        "user_properties": [*map(tuple, entry.get("properties", ()))],
        REPLAYED: True,
    }
    if "special" not in entry:
        return pytest.TestReport(**data)
    report: pytest.TestReport = item.config.hook.pytest_report_from_serializable(
        config=item.config, data=data
    )
    restore_subtest(report, extra)
    return report


def warning_to_json(
    message: warnings.WarningMessage, when: str, location: tuple[str, int, str] | None
) -> dict[str, object]:
    """One recorded warning as JSON: text and class name; no object is stored."""
    category = message.category
    return {
        "text": str(message.message),
        "category": [category.__module__, category.__qualname__],
        "file": message.filename,
        "line": message.lineno,
        "when": when,
        "location": list(location) if location is not None else None,
    }


def can_warn(recorded: Iterable[Any]) -> bool:
    """Whether the classes of warnings are loaded: a test's own come with its file."""
    named = (entry["category"] for entry in recorded)
    return all(hasattr(sys.modules.get(module), name) for module, name in named)


def warning_from_json(entry: Any) -> warnings.WarningMessage:
    """A warning again. Its class is looked up among the loaded modules, never imported; one
    that is not there is shown as a UserWarning, and so is its message where it would say
    something else."""
    module, name = entry["category"]
    category = getattr(sys.modules.get(module), name, None)
    if not (isinstance(category, type) and issubclass(category, Warning)):
        category = UserWarning
    message: Warning
    for make in (category, partial(category.__new__, category)):
        with suppress(Exception):  # a class of someone's own may want other arguments
            message = make(entry["text"])
            if str(message) == entry["text"]:
                break
    else:
        message = UserWarning(entry["text"])
    return warnings.WarningMessage(
        message=message, category=category, filename=entry["file"], lineno=entry["line"]
    )


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

    def replay(self, item: pytest.Item, nextitem: pytest.Item | None, outcome: Outcome) -> bool:
        """Emits the reports and warnings. Raises NotReplayableError before anything is told.

        What neighbours left set up and the next item does not need is torn down first, as it
        would be at the end of this item; if that raises, this item's teardown fails, as it would
        have, and the answer is False.
        """
        reports, failure = from_json(item, outcome), None
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
            location = entry["location"]
            warning = {
                "warning_message": warning_from_json(entry),
                "nodeid": item.nodeid,
                "when": entry["when"],
                "location": tuple(location) if location is not None else None,
            }
            hook.pytest_warning_recorded.call_historic(kwargs=warning)
        hook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return failure is None

    def _is_watched(self, hook: Any) -> bool:
        """Whether anyone but pytest itself has to do with the making of reports; if not, three
        calls of a hook are saved, a third of what a replay takes."""
        caller = hook.pytest_runtest_makereport
        known = self._watched.get(id(caller))
        if known is None:
            others = any(
                each.plugin is not self
                and not str(getattr(each.function, "__module__", "")).startswith("_pytest.")
                for each in caller.get_hookimpls()
            )
            known = self._watched[id(caller)] = caller, others
        return known[1]

    def _made(self, hook: Any, item: pytest.Item, report: pytest.TestReport) -> pytest.TestReport:
        """The report as hooks let it be. What they add to it (sections, properties) it has already,
        from when the test ran."""
        if type(report) is not pytest.TestReport or report.when is None:
            return report  # a subtest's, which its plugin tells of by itself
        call: pytest.CallInfo[None] = pytest.CallInfo.from_call(lambda: None, report.when)
        call.duration, call.start = report.duration, call.stop - report.duration
        self._call, self._report = call, report
        told = {name: [*value] for name, value in vars(report).items() if type(value) is list}
        try:
            made: pytest.TestReport = hook.pytest_runtest_makereport(item=item, call=call)
        except _PASSING_THROUGH:
            raise
        except BaseException as error:  # pytest's own outcomes are no Exceptions
            raise NotReplayableError(f"{type(error).__name__}: {error}") from error
        finally:
            self._call = self._report = None
        for name, known in told.items():
            more = [each for each in getattr(made, name, ()) if each not in known]
            setattr(made, name, [*known, *more])
        return made


def tear_down_neighbours(
    item: pytest.Item, nextitem: pytest.Item | None
) -> pytest.TestReport | None:
    """Tears down what the next item does not need; the report of a failure, if there is one."""
    if item.session.shouldfail or item.session.shouldstop:
        nextitem = None
    capture: Any = item.config.pluginmanager.getplugin("capturemanager")

    def tear_down() -> None:
        with capture.item_capture("teardown", item) if capture is not None else nullcontext():
            tear_down_until(item, nextitem)

    call = pytest.CallInfo.from_call(tear_down, when="teardown", reraise=_PASSING_THROUGH)
    return pytest.TestReport.from_item_and_call(item, call) if call.excinfo is not None else None
