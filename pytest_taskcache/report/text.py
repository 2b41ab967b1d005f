"""The lines that a terminal shows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from pytest_taskcache.report.tally import Tally

_PLURALS = {"function": "functions", "fixture": "fixtures", "test": "tests"}

_WORTH_SAYING = 0.005
"""Seconds saved below which nothing is said of them."""


def summary_line(tally: Tally) -> str:
    """One line: what was reused, computed, refreshed, refused and why, failed, and saved."""
    pieces = []
    for name, counts in (
        ("reused", tally.reused),
        ("computed", tally.computed),
        ("refreshed", tally.refreshed),
    ):
        if counts:
            pieces.append(f"{_subjects(counts)} {name}")
    if tally.refused:
        total = sum(tally.refused.values())
        pieces.append(f"{total} not kept ({_reasons(tally.refused)})")
    if tally.faults:
        pieces.append(_faults(tally))
    if tally.verified:
        pieces.append(f"{tally.verified} verified")
    if tally.saved >= _WORTH_SAYING:
        pieces.append(f"{duration(tally.saved)} saved")
    return "taskcache: " + ", ".join(pieces or ["nothing to do"])


def trouble_line(tally: Tally) -> str:
    """For a run that is to be quiet: what went wrong, in one line; "" where nothing did."""
    pieces = []
    if tally.faults:
        pieces.append(_faults(tally))
    if tally.notes:
        pieces.append(f"{_counted(len(tally.notes), 'note')} (shown without -q)")
    return "taskcache: " + ", ".join(pieces) if pieces else ""


def trouble_lines(tally: Tally) -> Iterator[str]:
    """What a user should read: one line for each kind of fault, with its remedy, and each note."""
    for reason in tally.faults:
        if tally.details.get(reason, reason) != reason:
            yield f"taskcache: {reason}: {tally.details[reason]}"
    for note in tally.notes:
        yield f"taskcache: {note}"


def miss_lines(tally: Tally, *, everyone: bool = False) -> Iterator[str]:
    """Why each miss was one, those with the same cause together, the most frequent first;
    ``everyone`` names all whom it struck. Then an example for each reason of a refusal."""
    for reason, struck in sorted(tally.misses.items(), key=lambda each: -len(each[1])):
        names = [name.partition(" ")[2] for name in struck]
        if len(names) == 1:
            (times,) = struck.values()
            yield f"taskcache: {names[0]}: {reason}{f' ({times} times)' if times > 1 else ''}"
            continue
        subjects = Counter(name.partition(" ")[0] for name in struck)
        yield f"taskcache: {_subjects(subjects)}: {reason}"
        if everyone:
            yield from (f"    {name}" for name in names)
    for reason, count in tally.refused.most_common():
        if reason in tally.details:
            more = f" (and {count - 1} more)" if count > 1 else ""
            yield f"taskcache: not kept, {reason}: {tally.details[reason]}{more}"


def duration(seconds: float) -> str:
    """Seconds as people read them: ``0.42 s``, ``37 s``, ``4 min 12 s``, ``2 h 5 min``."""
    if seconds < 9.995:
        return f"{seconds:.2f} s"
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _faults(tally: Tally) -> str:
    return f"{_counted(sum(tally.faults.values()), 'fault')} ({_reasons(tally.faults)})"


def _counted(count: int, one: str) -> str:
    return f"{count} {one}" if count == 1 else f"{count} {one}s"


def _subjects(counts: Mapping[str, int]) -> str:
    named = [
        f"{counts[one]} {one if counts[one] == 1 else many}"
        for one, many in _PLURALS.items()
        if counts.get(one)
    ]
    return " + ".join(named)


def _reasons(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in counts.most_common())
