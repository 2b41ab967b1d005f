"""Where an object lives that has nothing but its identity: the module and the name that hold it.

    z.py    MISSING = object()
    a.py    from z import MISSING

Both modules hold the object, but only the text of ``z`` assigns the name. So it is ``z.MISSING``,
whether ``a`` is loaded or not, and whichever of the two was loaded first.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from itertools import chain
from types import ModuleType
from typing import NamedTuple


class Place(NamedTuple):
    """A module and the name in it that holds an object."""

    module: str
    name: str


_found: dict[int, tuple[object, Place]] = {}
"""Places by id, with the object kept alive."""


def place_of(value: object) -> Place | None:
    """Where a module holds the object; None where none does.

    Of several places it is the one whose module assigns the name (rather than importing it), by
    a call (``MISSING = object()``) before an alias (``DEFAULT = MISSING``), earlier lines first.
    """
    known = _found.get(id(value))
    if known and getattr(sys.modules.get(known[1].module), known[1].name, None) is value:
        return known[1]
    held = [
        Place(module, name)
        for module, names in _namespaces()
        # in C: a search of all modules takes a millisecond
        if id(value) in map(id, names.values())
        for name, attribute in list(names.items())
        if attribute is value
    ]
    if not held:
        return None
    place = min(held, key=_rank)
    _found[id(value)] = value, place
    return place


def name_in_own_module(value: object) -> str:
    """The first name by which the module of the value's class holds it; empty where it does not:
    what two instances without content differ by."""
    names = vars(sys.modules.get(type(value).__module__, sys))
    if id(value) not in map(id, names.values()):
        return ""
    return next((name for name, held in list(names.items()) if held is value), "")


def held_ids() -> frozenset[int]:
    """The ids of all that any module holds at present: what is not in it has no place."""
    return frozenset(
        map(id, chain.from_iterable([list(names.values()) for _, names in _namespaces()]))
    )


def _namespaces() -> Iterator[tuple[str, dict[str, object]]]:
    for name, module in list(sys.modules.items()):
        # None and lazy stand-ins can be there too, whatever the annotation says
        if isinstance(module, ModuleType):
            yield name, vars(module)


def _rank(place: Place) -> tuple[bool, bool, int, str, str]:
    """The least is the place that counts."""
    import linecache  # rarely needed, and it brings the tokenizer

    file = getattr(sys.modules.get(place.module), "__file__", None)
    lines = linecache.getlines(file) if isinstance(file, str) else []
    assignment = re.compile(rf"[ \t]*{re.escape(place.name)}[ \t]*(?::[^=]+)?=(?!=)(.*)")
    for number, line in enumerate(lines):
        if place.name in line and (match := assignment.match(line)):
            return False, "(" not in match[1], number, *place
    return True, True, 0, *place
