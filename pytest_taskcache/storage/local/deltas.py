"""What makes one sorted list of another, in few numbers.

The tests of a project share most of what they depend on, so that a trace is stored as the places
where it differs from an earlier one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
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
    places, fresh = _split(edits)[1:]
    return fresh if len(places) == len(fresh) else ()


def applied(base: Sequence[T], edits: Sequence[int], fresh: Iterable[T]) -> tuple[T, ...] | None:
    """The list that edits make of a base, given what they bring in; None for numbers that are
    no edits of it."""
    gone, places, ids = _split(edits)
    if len(places) != len(ids) or (gone and not 0 <= gone[0] <= gone[-1] < len(base)):
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


def _split(edits: Sequence[int]) -> tuple[list[int], list[int], list[int]]:
    rest = iter(edits)
    gone = list(islice(rest, next(rest, 0)))
    both = list(rest)
    half = len(both) // 2
    return gone, both[:half], both[half:]


__all__ = ["Base", "added_by", "applied"]
