"""The page about a run: one file, no network, everything that strangers wrote as text only.

The data lies in the page as JSON, each text once; `page.html` builds all that is seen from it
through ``textContent``, so that no name of a test can become markup.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pytest_taskcache.model import __version__
from pytest_taskcache.model.record import Variant
from pytest_taskcache.report.contents import Contents
from pytest_taskcache.report.explanation import explain
from pytest_taskcache.report.history import History, PastRun
from pytest_taskcache.report.tally import Tally
from pytest_taskcache.report.terminal import ran_rows
from pytest_taskcache.report.wording import age, counted, duration, harmless, size
from pytest_taskcache.storage.local import LocalStorage

_TEMPLATE = Path(__file__).with_name("page.html")
_LINES = 60
"""Lines of one diff on the page."""

_SHOWN, _ROOM = 300, 150_000
"""Dependencies of one computation, and of all together, that are on the page."""

_AGES = ((3600.0, "the last hour"), (86400.0, "the last day"), (7 * 86400.0, "the last week"))


def write_page(path: Path, run: PastRun, history: History, local: LocalStorage, limit: int) -> None:
    """Writes the page about a run, with what is remembered of the last ones, and what the cache
    holds of ``limit`` bytes. Raises OSError, StorageError."""
    data = _page_data(run, history, local, limit, time.time())
    # Within a script element only ``<`` could end it, and U+2028 is no JavaScript.
    text = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    page = _TEMPLATE.read_text(encoding="utf-8").replace('"the data"', text, 1)
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        partial.write_text(page, encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _page_data(
    run: PastRun, history: History, local: LocalStorage, limit: int, now: float
) -> dict[str, Any]:
    """What the page shows, as values for JSON. Of entries, points and traces the texts are
    numbers, by which ``strings`` has them."""
    points: dict[tuple[str, tuple[str, ...]], int] = {}
    records = list(local.scan())
    of_name, traces = _rests_on(records, Contents(local.read_result))
    entries = []
    for entry in run.tally.entries:
        told = explain(entry, history, now)
        shown = [(str(point), point.lines[:_LINES]) for point in told.points]
        entries.append(
            [
                *(entry.subject, entry.identity, told.test, entry.status),
                *(told.headline, told.remedy, entry.worker),
                *(round(entry.at, 4), round(entry.seconds, 5), round(entry.waited, 4)),
                [points.setdefault(point, len(points)) for point in shown],
                of_name.get(entry.identity, -1),
            ]
        )
    strings: dict[str, int] = {}
    return {
        "version": __version__,
        "started": run.started,
        "ended": run.ended,
        "totals": _totals(run.tally),
        "notes": [harmless(each) for each in _notes(run.tally)],
        "cache": _cache(records, local.size(), limit, now),
        "runs": [
            [
                each.started,
                sum(each.tally.reused.values()),
                sum(each.tally.computed.values()) + sum(each.tally.refreshed.values()),
                sum(each.tally.refused.values()),
                sum(each.tally.faults.values()),
                duration(each.tally.saved),
            ]
            for each in history.runs()
        ],
        "entries": _numbered(entries, strings),
        "points": _numbered(points, strings),
        "traces": _numbered(traces, strings),
        "strings": list(strings),
    }


def _numbered(value: Any, strings: dict[str, int]) -> Any:
    if isinstance(value, str):
        return strings.setdefault(harmless(value), len(strings))
    if isinstance(value, int | float):
        return value
    return [_numbered(each, strings) for each in value]


def _rests_on(
    records: Iterable[Variant], contents: Contents
) -> tuple[dict[str, int], list[list[Any]]]:
    """Each identity's trace by number, and as many traces as there is room for, by kind."""
    numbers: dict[str, int] = {}
    known: dict[str, int] = {}
    traces: list[list[Any]] = []
    room = _ROOM
    found = [held for record in records for held in contents.held(record)]
    for held in sorted(found, key=lambda each: each.created):
        digest = held.trace.digest
        if digest not in known:
            rests_on = contents.grounds(held.trace)[0]
            room -= len(rests_on)
            if room < 0:
                continue
            known[digest] = len(traces)
            kinds: dict[str, list[str]] = {}
            for dependency in rests_on[:_SHOWN]:
                kinds.setdefault(dependency.kind, []).append(dependency.name)
            traces.append([*kinds.items()])
        numbers[held.name] = known[digest]
    return numbers, traces


def _totals(tally: Tally) -> list[tuple[str, str]]:
    spent = sum(each.seconds for each in tally.entries if each.status != "reused")
    rows = [
        *ran_rows(tally),
        ("not kept", str(sum(tally.refused.values()) or "")),
        ("failed", str(tally.failed or "")),
        ("faults", str(sum(tally.faults.values()) or "")),
        ("time saved", duration(tally.saved)),
        ("time spent", duration(spent)),
    ]
    return [(name, value) for name, value in rows if value]


def _notes(tally: Tally) -> Iterable[str]:
    for reason, count in tally.faults.most_common():
        yield f"{counted(count, 'fault')}: {reason}: {tally.details.get(reason, '')}"
    yield from tally.notes
    yield from tally.differences
    if hint := tally.hint():
        yield hint


def _cache(records: Sequence[Variant], held: int, limit: int, now: float) -> dict[str, Any]:
    counts, sizes = Counter[str](), Counter[str]()
    for record in records:
        old = now - record.created
        name = next((name for seconds, name in _AGES if old < seconds), "older")
        counts[name] += 1
        sizes[name] += record.result.size
    oldest = min((record.created for record in records), default=now)
    return {
        "size": size(held),
        "limit": size(limit),
        "share": held / limit if limit else 0.0,
        "records": len(records),
        "oldest": age(now - oldest),
        "ages": [[name, count, size(sizes[name])] for name, count in counts.items()],
    }
