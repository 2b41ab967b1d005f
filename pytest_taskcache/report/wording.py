"""How things are said: durations, sizes, ages, counts, and text of strangers made harmless."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping

_MINUTE, _HOUR, _DAY = 60, 3600, 86400


def harmless(text: str) -> str:
    """The text on one line and without anything that a terminal obeys: what is not printable
    (escapes, newlines, bidirectional controls, lone surrogates) is written as ``\\x1b``."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii")
        for char in text
    )


def duration(seconds: float) -> str:
    """Seconds as people read them: ``0.42 s``, ``37 s``, ``4 min 12 s``, ``2 h 5 min``."""
    if seconds < 9.995:
        return f"{seconds:.2f} s"
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    whole = round(seconds)
    if whole < _HOUR:
        return f"{whole // _MINUTE} min {whole % _MINUTE} s"
    if whole >= 2 * _DAY:
        return f"{round(whole / _DAY)} days"
    return f"{whole // _HOUR} h {whole % _HOUR // _MINUTE} min"


def age(seconds: float) -> str:
    """How long ago something was: ``just now``, ``5 min ago``, ``3 h ago``, ``12 days ago``."""
    if seconds < _MINUTE:
        return "just now"
    if seconds < _HOUR:
        return f"{seconds // _MINUTE:.0f} min ago"
    if seconds < 2 * _DAY:
        return f"{seconds // _HOUR:.0f} h ago"
    return f"{seconds // _DAY:.0f} days ago"


def size(count: float) -> str:
    """Bytes as people read them: ``312 B``, ``4.1 kB``, ``1.2 GB`` (powers of ten)."""
    if count < 1000:
        return f"{count:.0f} B"
    for unit in ("kB", "MB", "GB"):
        count /= 1000
        if count < 999.95:
            return f"{count:.1f} {unit}"
    return f"{count / 1000:.1f} TB"


def counted(number: int, one: str) -> str:
    """``1 fault``, ``2 faults``."""
    return f"{number} {one}" if number == 1 else f"{number} {one}s"


def subjects(counts: Mapping[str, int]) -> str:
    """``2 functions + 1 fixture + 4 tests``."""
    kinds = ("function", "fixture", "test")
    return " + ".join(counted(counts[one], one) for one in kinds if counts.get(one))


def wrapped(line: str, width: int) -> Iterator[str]:
    """The line in pieces of ``width`` columns at most, the further ones indented by four more
    than it was; the line itself where ``width`` is 0 or it fits."""
    if not width or len(line) <= width:
        yield line
        return
    indent = line[: len(line) - len(line.lstrip())]
    yield from textwrap.wrap(
        line.lstrip(),
        max(width, 20),
        initial_indent=indent,
        subsequent_indent=(indent + "    ")[: max(width // 2, 4)],
        break_on_hyphens=False,
    )
