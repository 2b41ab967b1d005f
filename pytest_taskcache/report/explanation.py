"""Why something ran, or did not: one small document for the terminal, the page and JSON. Pure.

TallyEntry(missed, changes=[function helpers.py::make_rows, input n_rows]), what is remembered
    ->  test_data.py::rows ran again: 2 things changed since the record of 3 h ago
          argument n_rows: 10 -> 20
          function helpers.py::make_rows changed
              - return [0] * n
              + return [1] * n
"""

from __future__ import annotations

import platform
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

from pytest_taskcache.code.function_source import definitions_in, first_line
from pytest_taskcache.dataclass import dataclass, replace
from pytest_taskcache.model.dependency import ABSENT
from pytest_taskcache.report.history import Fact, History
from pytest_taskcache.report.tally import ROLLED_BACK, TallyEntry
from pytest_taskcache.report.wording import age, counted, duration, harmless, size

_TITLES = {
    "input": "argument",
    "env": "variable",
    "env *": "environment, read as a whole,",
    "interpreter": "Python",
    "setting": "option",
    "distribution": "package",
    "distributions": "installed packages",
    "stat": "file attributes",
    "import": "import",
    "files": "files",
    "listing": "directory",
}
"""What kinds of parts and dependencies are called; others by their own name."""

_TOLD = ("subject", "identity", "status", "seconds")
_LINES = 12
"""Lines of one diff that are shown unless all are asked for."""


@dataclass(frozen=True, slots=True)
class Point:
    """One thing that differs, with before and after where they can be shown, and a diff's lines."""

    kind: str
    name: str
    verb: str = "changed"
    before: str = ""
    after: str = ""
    lines: tuple[str, ...] = ()

    def __str__(self) -> str:
        title = _TITLES.get(f"{self.kind} {self.name}", _TITLES.get(self.kind, self.kind))
        named = title if self.name in ("", "*", title.lower()) else f"{title} {self.name}"
        if self.before or self.after:
            return f"{named}: {self.before or 'absent'} -> {self.after or 'absent'}"
        return f"{named} {self.verb}"


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a computation ran (or did not), against which record, and what to do about it."""

    entry: TallyEntry
    headline: str
    remedy: str = ""
    points: tuple[Point, ...] = ()

    @property
    def test(self) -> str:
        """The test that it ran for; empty for a test itself."""
        return self.entry.test if self.entry.test != self.entry.identity else ""

    def to_plain(self) -> dict[str, Any]:
        """As values for JSON."""
        told = {name: getattr(self.entry, name) for name in _TOLD}
        points = [{**asdict(point), "text": str(point)} for point in self.points]
        more = {"headline": self.headline, "remedy": self.remedy, "test": self.test}
        return {**told, **more, "points": points}

    def lines(self, *, everything: bool = False) -> Iterator[str]:
        """For people; diffs are cut unless ``everything`` is asked for, and say where."""
        yield harmless(f"{self.entry.identity}: {self.headline}")
        for point in self.points:
            yield harmless(f"  {point}")
            shown = point.lines if everything else point.lines[:_LINES]
            yield from (harmless(f"      {line}") for line in shown)
            hidden = len(point.lines) - len(shown)
            if hidden:
                yield f"      ({counted(hidden, 'more line')}: -vv, or taskcache explain)"
        if self.remedy:
            yield harmless(f"  {self.remedy}")


def explain(entry: TallyEntry, history: History, now: float) -> Explanation:
    """The explanation of what became of a computation in a run; ``now`` in POSIX seconds."""
    points = tuple(_point(entry, change, history) for change in entry.changes)
    return Explanation(entry, *_told(entry, points, history, now), points)


def _told(
    entry: TallyEntry, points: Sequence[Point], history: History, now: float
) -> tuple[str, str]:
    created = float(entry.nearest.get("created", 0.0))
    since = f" made {age(now - created)}" if created else ""
    ran = f"ran ({duration(entry.seconds)})" if entry.seconds else "ran"
    if entry.status == "reused":
        saved = f", saved {duration(entry.seconds)}" if entry.seconds else ""
        return f"reused the record{since}{saved}", ""
    if entry.status == "refused":
        # What kept it from being kept matters more than why it was not there before.
        reason = entry.detail or entry.why
        return f"{ran} and was not kept: {reason}", _remedy_of(reason)
    suffix = " and was not kept: it did not pass" if entry.status == "failed" else ""
    if entry.detail == ROLLED_BACK:
        suffix = f" and was {ROLLED_BACK}"
    if points:
        what = counted(len(points), "thing")
        return f"{ran}{suffix}: {what} changed since the record{since}", ""
    return f"{ran}{suffix}: {_reason(entry, history, since, now)}", ""


def _reason(entry: TallyEntry, history: History, since: str, now: float) -> str:
    match entry.why:
        case "never computed" | "":
            refused = ""
            for past in history.past(entry.identity, entry.at):
                if past.status not in ("refused", "failed"):
                    rolled_back = past.detail == ROLLED_BACK
                    became = (
                        f"was {ROLLED_BACK}" if rolled_back else "is gone (cleared, or evicted)"
                    )
                    return f"its record of {age(now - past.at)} {became}"
                refused = refused or past.detail
            if refused == "did not pass":
                return "it did not pass when it last ran"
            if refused:
                return f"it was not kept when it last ran: {refused}"
            return "first computation, there was no record yet"
        case "evicted to make room":
            return "evicted to make room; raise taskcache_max_size to keep more"
        case "pruned" | "cleared":
            return f"its record was {entry.why}"
        case "expired" if not since:
            return "its record had expired"
        case "expired":
            return f"the record{since} had expired"
        case "refresh asked for":
            return "refresh was asked for"
        case other:
            return other


def _remedy_of(reason: str) -> str:
    if reason == "did not pass" or ";" in reason:
        return ""  # nothing to be done, or told already
    if reason.startswith("used "):
        return f"allow={{{reason.removeprefix('used ').split()[0]!r}}} accepts it"
    return ""


def _point(entry: TallyEntry, change: Sequence[str], history: History) -> Point:
    kind, name, before, after = change
    verb = {before: "appeared", after: "vanished"}.get(ABSENT, "changed")
    point = Point(kind, name, verb)
    match kind:
        case "variable" | "Python":  # these count by their text
            return replace(point, before=_text_of(before), after=_text_of(after))
        case "input" | "parameter" | "option" | "ini":
            known = history.inputs(str(entry.nearest.get("key", "")))
            title = f"{kind} {name}" if kind in ("option", "ini") else name
            then, now = known.get(title, ""), entry.inputs.get(title, "")
            whole = (then or before == ABSENT) and (now or after == ABSENT)
            return replace(point, before=then, after=now) if whole and then != now else point
        case "env":
            return point  # a value may be a secret
        case "interpreter":
            then, now = str(entry.nearest.get("python", "")), platform.python_version()
            return Point(kind, "", verb, then, now) if then and then != now else point
        case "source" if "::" not in name and not name.endswith(".py"):
            point = Point("function", entry.identity, verb)
    created = float(entry.nearest.get("created", 0.0))
    earlier = history.before(point.kind, point.name, before, created)
    return _compared(point, earlier, history.now(point.kind, point.name))


def _text_of(digest: str) -> str:
    return "" if digest == ABSENT else repr(digest)


def _compared(point: Point, then: Fact | None, now: Fact | None) -> Point:
    if then is None or now is None or then == now:
        return point
    before, after = "", ""
    lines: Iterable[str] = ()
    match point.kind:
        case "distribution":
            before, after = then.text, now.text
        case "listing":
            old, new = set(then.text.splitlines()), set(now.text.splitlines())
            lines = [f"+ {each}" for each in sorted(new - old)]
            lines += [f"- {each}" for each in sorted(old - new)]
        case "function":
            lines = _diff(_part(then.text, point.name), _part(now.text, point.name))
        case "module" | "source":
            lines = _diff(then.text, now.text)
        case _:
            lines = _first(then, now)
            if then.size != now.size and min(then.size, now.size) >= 0:
                before, after = size(then.size), size(now.size)
    return replace(point, before=before, after=after, lines=tuple(lines))


def _first(then: Fact, now: Fact) -> Iterator[str]:
    old, new = then.text.splitlines(), now.text.splitlines()
    if not (old and new):
        return
    number = next(
        (at for at, (one, two) in enumerate(zip(old, new, strict=False)) if one != two),
        min(len(old), len(new)),
    )
    for sign, lines in (("-", old), ("+", new)):
        if number < len(lines):
            yield f"line {number + 1}: {sign} {lines[number][:200]}"


def _diff(then: str, now: str) -> Iterator[str]:
    import difflib

    for line in difflib.unified_diff(then.splitlines(), now.splitlines(), n=0, lineterm=""):
        if not line.startswith(("---", "+++", "@@")):
            yield f"{line[:1]} {line[1:]}"


def _part(text: str, name: str) -> str:
    """The source of ``path::qualified.name`` in its module's text; all of it where not found."""
    qualname = name.partition("::")[2].removesuffix("()").partition("[")[0].replace("::", ".")
    for found, node in definitions_in(text):
        if found.replace(".<locals>", "") == qualname.replace(".<locals>", ""):
            # As the parser counts lines: other line breaks (form feeds, ...) are none.
            lines = re.split("\r\n|\r|\n", text)
            return "\n".join(lines[first_line(node) - 1 : node.end_lineno])
    return text
