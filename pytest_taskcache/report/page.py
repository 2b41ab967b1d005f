"""The page about a run: one file, no network, everything that strangers wrote as text only.

The data lies in the page as JSON, each text once; `page.html` builds all that is seen from it
through ``textContent``, so that no name of a test can become markup.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pytest_taskcache.dataclass import dataclass, field
from pytest_taskcache.model import __version__
from pytest_taskcache.model.record import Variant
from pytest_taskcache.report.contents import Contents, Read
from pytest_taskcache.report.explanation import Explanation, Remembered, explain
from pytest_taskcache.report.history import PastRun
from pytest_taskcache.report.tally import Entry, Tally
from pytest_taskcache.report.wording import age, counted, duration, harmless, size, subjects

_TEMPLATE = Path(__file__).with_name("page.html")
_LINES = 60
"""Lines of one diff on the page."""

_SHOWN, _ROOM = 300, 150_000
"""Dependencies of one computation, and of all together, that are on the page."""

_AGES = ((3600.0, "the last hour"), (86400.0, "the last day"), (7 * 86400.0, "the last week"))


@dataclass(frozen=True, slots=True)
class Holdings:
    """What the cache holds: its records, bytes, and its limit in bytes; ``read`` reads results."""

    records: Sequence[Variant] = ()
    bytes: int = 0
    limit: int = 0
    read: Read = lambda digest, size: None


@dataclass
class _Strings:
    """Texts, each once, by number."""

    numbers: dict[str, int] = field(default_factory=dict)

    def __call__(self, text: str) -> int:
        return self.numbers.setdefault(harmless(text), len(self.numbers))


def write_page(
    path: Path,
    run: PastRun,
    runs: Iterable[PastRun],
    remembered: Remembered,
    holdings: Holdings,
) -> None:
    """Writes the page about a run, with the history of the last ones. Raises OSError."""
    now = time.time()
    data = page_data(run, runs, remembered, holdings, now)
    # Within a script element only ``<`` could end it, and U+2028 is no JavaScript.
    text = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    page = _TEMPLATE.read_text(encoding="utf-8").replace('"the data"', text, 1)
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        partial.write_text(page, encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def page_data(
    run: PastRun,
    runs: Iterable[PastRun],
    remembered: Remembered,
    holdings: Holdings,
    now: float,
) -> dict[str, Any]:
    """What the page shows, as values for JSON; texts by their number in ``strings``."""
    text = _Strings()
    points: dict[tuple[str, tuple[str, ...]], int] = {}
    traces: dict[str, int] = {}
    rests_on, told = _rests_on(holdings, text, traces)
    entries = [
        _row(entry, explain(entry, remembered, now), text, points, rests_on)
        for entry in run.tally.entries
    ]
    return {
        "version": __version__,
        "started": run.started,
        "ended": run.ended,
        "totals": _totals(run.tally),
        "notes": [harmless(each) for each in _notes(run.tally)],
        "cache": _cache(holdings, now),
        "runs": [
            [
                each.started,
                sum(each.tally.reused.values()),
                sum(each.tally.computed.values()) + sum(each.tally.refreshed.values()),
                sum(each.tally.refused.values()),
                sum(each.tally.faults.values()),
                duration(each.tally.saved),
            ]
            for each in runs
        ],
        "entries": entries,
        "points": [[text(name), [text(line) for line in lines]] for name, lines in points],
        "traces": told,
        "strings": list(text.numbers),
    }


def _row(
    entry: Entry,
    explanation: Explanation,
    text: _Strings,
    points: dict[tuple[str, tuple[str, ...]], int],
    rests_on: dict[str, int],
) -> list[Any]:
    numbers = [
        points.setdefault((str(point), point.lines[:_LINES]), len(points))
        for point in explanation.points
    ]
    return [
        text(entry.subject),
        text(entry.identity),
        text(entry.test if entry.test != entry.identity else ""),
        text(entry.status),
        text(explanation.headline),
        text(explanation.remedy),
        text(entry.worker),
        round(entry.at, 4),
        round(entry.seconds, 5),
        round(entry.waited, 4),
        numbers,
        rests_on.get(entry.identity, -1),
    ]


def _rests_on(
    holdings: Holdings, text: _Strings, traces: dict[str, int]
) -> tuple[dict[str, int], list[list[list[Any]]]]:
    """The number of each identity's trace, and the traces as kinds with their names; as many as
    there is room for."""
    numbers: dict[str, int] = {}
    told: list[list[list[Any]]] = []
    room = _ROOM
    contents = Contents(holdings.read)
    for held in sorted(
        (held for record in holdings.records for held in contents.held(record)),
        key=lambda each: each.created,
    ):
        trace = held.trace
        if trace.digest not in traces:
            rests_on = contents.grounds(trace).rests_on
            room -= len(rests_on)
            if room < 0:
                continue
            traces[trace.digest] = len(told)
            kinds: dict[str, list[int]] = {}
            for dependency in rests_on[:_SHOWN]:
                kinds.setdefault(str(dependency.kind), []).append(text(dependency.name))
            told.append([[kind, names] for kind, names in kinds.items()])
        numbers[held.name] = traces[trace.digest]
    return numbers, told


def _totals(tally: Tally) -> list[list[str]]:
    spent = sum(each.seconds for each in tally.entries if each.status != "reused")
    rows = [
        ["reused", subjects(tally.reused)],
        ["computed", subjects(tally.computed)],
        ["refreshed", subjects(tally.refreshed)],
        ["not kept", str(sum(tally.refused.values()) or "")],
        ["failed", str(tally.failed or "")],
        ["faults", str(sum(tally.faults.values()) or "")],
        ["time saved", duration(tally.saved)],
        ["time spent", duration(spent)],
    ]
    return [[name, value] for name, value in rows if value]


def _notes(tally: Tally) -> Iterable[str]:
    for reason, count in tally.faults.most_common():
        yield f"{counted(count, 'fault')}: {reason}: {tally.details.get(reason, '')}"
    yield from tally.notes
    yield from tally.differences
    if hint := tally.hint():
        yield hint


def _cache(holdings: Holdings, now: float) -> dict[str, Any]:
    ages: dict[str, list[int]] = {}
    for record in holdings.records:
        old = now - record.created
        name = next((name for limit, name in _AGES if old < limit), "older")
        each = ages.setdefault(name, [0, 0])
        each[0] += 1
        each[1] += record.result.size
    oldest = min((record.created for record in holdings.records), default=now)
    return {
        "size": size(holdings.bytes),
        "limit": size(holdings.limit),
        "share": holdings.bytes / holdings.limit if holdings.limit else 0.0,
        "records": len(holdings.records),
        "oldest": age(now - oldest),
        "ages": [[name, count, size(total)] for name, (count, total) in ages.items()],
    }
