"""Why a key was not found: the difference between its parts and the nearest record's. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from pytest_taskcache.model.decision import Miss, Why
from pytest_taskcache.model.dependency import ABSENT, Change
from pytest_taskcache.model.key import Part
from pytest_taskcache.model.record import Variant

_KINDS = {
    "schema": ("cache schema", "pytest-taskcache"),
    "serializer": ("serializer", "serializer"),
    "source": ("source", "its own code"),
    "run": ("run", "this test run"),
    "key": ("key", "named outright"),
    "identity": ("identity", "where it is defined"),
}


_PLAIN = (int, float, bool, str, bytes, type(None))
_SECRET = re.compile("pass|secret|token|key|credential|auth", re.IGNORECASE)
_WIDTH = 60


def shown(arguments: Mapping[str, object]) -> tuple[tuple[str, str], ...]:
    """What arguments look like to people: those that are plain values (nobody's ``__repr__``
    runs), cut after 60 characters; none whose name sounds like a secret's."""
    return tuple(
        (name, repr(value if not isinstance(value, str | bytes) else value[:_WIDTH]))
        for name, value in arguments.items()
        if type(value) in _PLAIN and not _SECRET.search(name)
    )


def difference(parts: Sequence[Part], recorded: Sequence[Part]) -> tuple[Change, ...]:
    """The parts that differ, in name order; a part only one side has counts as absent there."""
    now = {part.name: part.digest for part in parts}
    then = {part.name: part.digest for part in recorded}
    return tuple(
        _change(name, then.get(name, ABSENT), now.get(name, ABSENT))
        for name in sorted(now.keys() | then.keys())
        if now.get(name) != then.get(name)
    )


def explain_absence(parts: Sequence[Part], nearest: Variant | None) -> Miss:
    """The miss for a key without variants, given the newest record of the same identity."""
    if nearest is None:
        return Miss(Why.ABSENT)
    changes = difference(parts, nearest.parts)
    return Miss(Why.PARTS, changes, nearest) if changes else Miss(Why.ABSENT)


def _change(name: str, before: str, after: str) -> Change:
    known = _KINDS.get(name)
    if known is not None:
        return Change(known[0], known[1], before, after)
    if name.startswith("inputs."):
        return Change("input", name.removeprefix("inputs."), before, after)
    if name.startswith("parameters."):
        return Change("parameter", name.removeprefix("parameters."), before, after)
    kind, _, rest = name.partition(" ")
    return Change(kind, rest or kind, before, after)
