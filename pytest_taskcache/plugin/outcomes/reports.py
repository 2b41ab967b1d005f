"""A test's reports as JSON, and back: reading an outcome executes nothing.

Most passes say no more than that they passed and how long each phase took: those are kept as the
durations alone.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import pytest

from pytest_taskcache.plugin.pytest_private import keywords_of, restore_subtest

Outcome: TypeAlias = str | dict[str, Any]
"""A plain pass as the durations of its phases (and, a fourth word, the digest of what it must
agree with), or JSON reports."""

REPLAYED = "taskcache_replayed"
"""Attribute of the reports that were not made by running the test."""

_MARK: dict[str, Any] = {REPLAYED: True}
_NOTHING: dict[str, Any] = {}

_PHASES: tuple[Literal["setup", "call", "teardown"], ...] = ("setup", "call", "teardown")
_PLAIN = ("when", "duration")

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
    recorded: Sequence[Mapping[str, object]] = (),
    check: str = "",
    handed: Mapping[str, object] | None = None,
) -> Outcome:
    """The reports, the warnings that were recorded with them, what the outcome must agree with
    on replay, and what other plugins must be handed then.

    Raises ValueError for a report that no plugin can serialize. What JSON would not give back as
    it was is for the serializer to refuse.
    """
    plain: list[dict[str, object]] = []
    for report in reports:
        if type(report) is not pytest.TestReport:
            plain.append({"special": _serialized(config, report)})
            continue
        extra = {k: v for k, v in vars(report).items() if k not in _OWN}
        entry: dict[str, object] = {"when": report.when, "duration": round(report.duration, 6)}
        if report.sections:
            entry["sections"] = [list(section) for section in report.sections]
        if report.user_properties:
            entry["properties"] = [list(pair) for pair in report.user_properties]
        if extra:
            entry["extra"] = extra
        plain.append(entry)
    if not recorded and not handed and [tuple(entry) for entry in plain] == [_PLAIN] * 3:
        phases = " ".join(f"{entry['duration']:.6f}" for entry in plain)
        if [entry["when"] for entry in plain] == list(_PHASES):
            return f"{phases} {check}" if check else phases
    outcome: dict[str, object] = {"reports": plain}
    if recorded:
        outcome["warnings"] = list(recorded)
    if handed:
        outcome["handed"] = dict(handed)
    if check:
        outcome["check"] = check
    return outcome


def from_json(item: pytest.Item, outcome: Outcome) -> list[pytest.TestReport]:
    """The reports again, as pytest would have made them for this item."""
    keywords = keywords_of(item)
    if isinstance(outcome, str):
        nodeid, location = item.nodeid, item.location
        return [
            pytest.TestReport(
                nodeid, location, keywords, "passed", None, when, (), float(duration),
                **_MARK,
            )
            for when, duration in zip(_PHASES, outcome.split(" "), strict=False)
        ]  # fmt: skip
    return [
        _special(item, entry["special"], keywords)
        if "special" in entry
        else pytest.TestReport(
            nodeid=item.nodeid,
            location=item.location,
            keywords=keywords,
            outcome="passed",
            longrepr=None,
            when=entry["when"],
            sections=_pairs(entry.get("sections", ())),
            duration=entry["duration"],
            user_properties=_pairs(entry.get("properties", ())),
            **entry.get("extra", _NOTHING),
            **_MARK,
        )
        for entry in outcome["reports"]
    ]


def told(outcome: Outcome, what: str) -> Any:
    """What an outcome tells beside its reports, e.g. its ``warnings``; nothing for a plain pass."""
    return () if isinstance(outcome, str) else outcome.get(what, ())


def _serialized(config: pytest.Config, report: pytest.TestReport) -> dict[str, object]:
    """A report of a kind of its own (a subtest's), as the plugin that knows it writes it."""
    data = config.hook.pytest_report_to_serializable(config=config, report=report)
    if not isinstance(data, dict):
        raise ValueError(f"no plugin can serialize a {type(report).__qualname__}")
    kept = {k: v for k, v in data.items() if k not in _OWN}
    return {
        **kept,
        "when": report.when,
        "outcome": report.outcome,
        "duration": report.duration,
        "sections": [list(section) for section in report.sections],
        "user_properties": [list(pair) for pair in report.user_properties],
    }


def _special(item: pytest.Item, data: Any, keywords: dict[str, Any]) -> pytest.TestReport:
    whole = {
        **data,
        "nodeid": item.nodeid,
        "location": item.location,
        "keywords": keywords,
        "longrepr": None,
        "sections": _pairs(data["sections"]),
        "user_properties": _pairs(data["user_properties"]),
        REPLAYED: True,
    }
    config = item.config
    report = config.hook.pytest_report_from_serializable(config=config, data=whole)
    restore_subtest(report, data)
    found: pytest.TestReport = report
    return found


def _pairs(entries: Iterable[Any]) -> list[tuple[str, Any]]:
    """JSON has no tuples; pytest and its plugins want them here."""
    return [(name, value) for name, value in entries]


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
    that is not there is shown as a UserWarning."""
    module, name = entry["category"]
    category = getattr(sys.modules.get(module), name, None)
    if not (isinstance(category, type) and issubclass(category, Warning)):
        category = UserWarning
    try:
        message = category(entry["text"])
    except Exception:  # a warning class of someone's own may want other arguments
        message, category = UserWarning(entry["text"]), UserWarning
    return warnings.WarningMessage(
        message=message, category=category, filename=entry["file"], lineno=entry["line"]
    )
