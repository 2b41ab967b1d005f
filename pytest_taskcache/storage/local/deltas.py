"""What makes one sorted list of another, in few numbers.

The tests of a project share most of what they depend on, so that a trace is stored as the places
where it differs from an earlier one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

T = TypeVar("T")

_SHARE = 8
"""Edits of more than this fraction of the list are not worth it."""


class Base:
    """A list of ids, each once, that others may be told from."""

    def __init__(self, ids: Sequence[int]) -> None:
        self._ids = ids
        self._members = frozenset(ids)
        self._places = {id_: place for place, id_ in enumerate(ids)}

    def edits_to(self, ids: Sequence[int]) -> list[int] | None:
        """What `applied` makes ``ids`` of: how many members go, their places, then the places
        at which others stand in the end, then these. None where that is not much shorter."""
        members = frozenset(ids)
        gone = self._members - members
        fresh = members - self._members
        if (len(gone) + len(fresh)) * _SHARE > len(ids):
            return None
        places = [place for place, id_ in enumerate(ids) if id_ in fresh] if fresh else []
        new = [ids[place] for place in places]
        edits = [len(gone), *sorted(map(self._places.__getitem__, gone)), *places, *new]
        # Lists that have what they share in another order cannot be told so.
        return edits if applied(self._ids, edits, new) == tuple(ids) else None


def added_by(edits: Sequence[int]) -> Sequence[int]:
    """The ids that edits bring in; empty for numbers that are no edits."""
    parts = _split(edits)
    return () if parts is None else parts[2]


def applied(base: Sequence[T], edits: Sequence[int], fresh: Iterable[T]) -> tuple[T, ...] | None:
    """The list that edits make of a base, given what they bring in; None for numbers that are
    no edits of it."""
    parts = _split(edits)
    if parts is None:
        return None
    gone, places, _ = parts
    if gone and not 0 <= gone[0] <= gone[-1] < len(base):
        return None
    found: list[T] = []
    start = 0
    for place in gone:
        found += base[start:place]
        start = place + 1
    found += base[start:]
    for place, item in zip(places, fresh, strict=True):
        if not 0 <= place <= len(found):
            return None
        found.insert(place, item)
    return tuple(found)


def _split(
    edits: Sequence[int],
) -> tuple[Sequence[int], Sequence[int], Sequence[int]] | None:
    """The places of those that go, and the places and ids of those that come."""
    first = 1 + edits[0] if edits else 0
    both = len(edits) - first
    if first < 1 or both < 0 or both % 2:
        return None
    middle = first + both // 2
    return edits[1:first], edits[first:middle], edits[middle:]


__all__ = ["Base", "added_by", "applied"]
