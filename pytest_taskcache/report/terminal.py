"""What a terminal, or a page of a job, shows of a run: lines made of its tally. Pure.

taskcache: test_a.py::test_big took 12 s: file changed: data/rates.csv      (slow, or -v)
taskcache: 4 tests reused, 2 tests computed, 1 not kept (1 used subprocess), 3.20 s saved
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from pytest_taskcache.report.tally import ROLLED_BACK, Tally, TallyEntry, shortened
from pytest_taskcache.report.wording import counted, duration, harmless, subjects

_WORTH_SAYING = 0.005
"""Seconds saved below which nothing is said of them."""

_SLOW = 5.0
"""Seconds from which a computation is named though nobody asked."""

_NOTICEABLE = 0.5
"""Seconds from which it is where it was asked for."""

_SLOWEST = 3
"""How many of them."""

_NAMED = 10
"""How many of those that were refused for one reason are named, unless all are asked for."""

_MANY = 20
"""How many a single cause must have struck to be told though nobody asked."""

_CELL = 300
"""Characters of one cell of a job's table."""


def summary_line(tally: Tally) -> str:
    """One line: what was reused, computed, refreshed, refused and why, failed, and saved."""
    pieces = [f"{counts} {name}" for name, counts in ran_rows(tally)]
    if tally.refused:
        total = sum(tally.refused.values())
        pieces.append(f"{total} not kept ({_reasons(tally.refused)})")
    if tally.failed and not pieces:
        pieces.append(f"{counted(tally.failed, 'test')} failed and not kept")
    if tally.rolled_back:
        pieces.append(f"{tally.rolled_back} {ROLLED_BACK}")
    if tally.faults:
        faults = counted(sum(tally.faults.values()), "fault")
        pieces.append(f"{faults} ({_reasons(tally.faults)})")
    if tally.verified:
        pieces.append(f"{tally.verified} verified")
    if tally.saved >= _WORTH_SAYING:
        pieces.append(f"{duration(tally.saved)} saved")
    return "taskcache: " + harmless(", ".join(pieces or ["nothing to do"]))


def trouble_lines(tally: Tally) -> Iterator[str]:
    """What a user should read: one line for each kind of fault, with its remedy, each note, and
    what to set where the cache does not pay."""
    for reason in tally.faults:
        if tally.details.get(reason, reason) != reason:
            yield harmless(f"taskcache: {reason}: {tally.details[reason]}")
    for note in tally.notes:
        yield harmless(f"taskcache: {note}")
    if hint := tally.hint():
        yield f"taskcache: {hint}"


def miss_lines(tally: Tally, *, everyone: bool = False) -> Iterator[str]:
    """Why each miss was one, those with the same cause together, the most frequent first;
    ``everyone`` names all whom it struck. Then whom each reason of a refusal struck."""
    for reason, struck in sorted(tally.misses.items(), key=lambda each: -len(each[1])):
        names = [name.partition(" ")[2] for name in struck]
        reason = reason if everyone else shortened(reason)
        if len(names) == 1:
            (times,) = struck.values()
            again = f" ({times} times)" if times > 1 else ""
            yield harmless(f"taskcache: {names[0]}: {reason}{again}")
            continue
        kinds = Counter(name.partition(" ")[0] for name in struck)
        yield harmless(f"taskcache: {subjects(kinds)}: {reason}")
        if everyone:
            yield from (harmless(f"    {name}") for name in names)
    for reason, count in tally.refused.most_common():
        first = tally.details.get(reason)
        if first is None:
            continue
        others = [each for each in _refused_for(tally, reason) if each != first]
        others = others if everyone else others[:_NAMED]
        left = count - 1 - len(others)
        more = f" (and {left} more)" if left > 0 and not everyone else ""
        yield harmless(f"taskcache: not kept, {reason}: {first}{more}")
        yield from (harmless(f"    {each}") for each in others)


def cause_lines(tally: Tally) -> Iterator[str]:
    """Why so many tests ran again, where most of those that did have one cause in common."""
    struck = {
        reason: sum(name.startswith("test ") for name in names)
        for reason, names in tally.misses.items()
    }
    reason, number = max(struck.items(), key=lambda each: each[1], default=("", 0))
    if number >= max(_MANY, sum(struck.values()) / 2):
        yield harmless(f"taskcache: {counted(number, 'test')} ran again: {shortened(reason)}")


def _refused_for(tally: Tally, reason: str) -> dict[str, None]:
    return {
        f"{entry.identity}: {entry.detail}": None
        for entry in tally.entries
        if entry.status == "refused" and entry.why == reason
    }


def slow_lines(tally: Tally, *, asked: bool = False, whole: bool = False) -> Iterator[str]:
    """The computations that took longest, each with its reason, which is cut unless the ``whole``
    is wanted: three that took five seconds and more, or the ten slowest where this is ``asked``
    for."""
    slow = tally.slowest(_NOTICEABLE if asked else _SLOW)
    for entry in slow if asked else slow[:_SLOWEST]:
        text = f"taskcache: {entry.identity} took {duration(entry.seconds)}"
        yield harmless(f"{text}: {reason_shown(entry, whole=whole)}")


def reason_shown(entry: TallyEntry, *, whole: bool = False) -> str:
    """Why a computation ran, or why it is not kept, in a few words."""
    if entry.status == "refused":
        return f"not kept, {entry.detail or entry.why}"
    if entry.why == "never computed":
        return "first computation"
    return entry.why if whole else shortened(entry.why)


def ran_rows(tally: Tally) -> list[tuple[str, str]]:
    """What was reused, computed and refreshed."""
    ran = ("reused", "computed", "refreshed")
    return [(name, subjects(counts)) for name in ran if (counts := getattr(tally, name))]


def job_summary(tally: Tally) -> str:
    """The run for the page of a CI job, in Markdown."""
    rows = [
        *ran_rows(tally),
        ("not kept", _reasons(tally.refused)),
        ("rolled back", str(tally.rolled_back or "")),
        ("faults", _reasons(tally.faults)),
        ("time saved", duration(tally.saved) if tally.saved >= _WORTH_SAYING else ""),
    ]
    lines = ["### pytest-taskcache", "", "| | |", "|---|---|"]
    lines += [f"| {name} | {_cell(text)} |" for name, text in rows if text]
    slow = tally.slowest(_WORTH_SAYING)
    if slow:
        lines += ["", "| slowest that ran | took | why |", "|---|---|---|"]
        lines += [
            f"| {_cell(each.identity)} | {duration(each.seconds)} | {_cell(reason_shown(each))} |"
            for each in slow
        ]
    if tally.differences:
        lines += ["", f"**{counted(len(tally.differences), 'cached result')} differed.**"]
    return "\n".join([*lines, "", ""])


def _cell(text: str) -> str:
    """Text of strangers in a table: no markup, no column, no line of its own."""
    shown = harmless(text)[:_CELL]
    for char in "\\`*_[]|~#":
        shown = shown.replace(char, f"\\{char}")
    return shown.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _reasons(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in counts.most_common())
