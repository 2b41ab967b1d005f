"""Where an object lives that has nothing but its identity: the module and the name that hold it.

    z.py    MISSING = object()
    a.py    from z import MISSING

Both modules hold the object, but only the text of ``z`` assigns the name. So it is ``z.MISSING``,
whether ``a`` is loaded or not, and whichever of the two was loaded first.
"""

from __future__ import annotations

import re
import sys
from itertools import chain
from typing import NamedTuple

from pytest_taskcache.code.asleep import loaded_namespaces


class SentinelPlace(NamedTuple):
    """A module and the name in it that holds an object. ``fixed`` says that importing the module
    makes it, as far as its text can tell: it is no variable that some call has filled."""

    module: str
    name: str
    fixed: bool


_found: dict[int, tuple[object, SentinelPlace]] = {}
"""Places by id, with the object kept alive."""


def place_of(value: object) -> SentinelPlace | None:
    """Where a module holds the object; None where none does. Of several places it is the one whose
    module assigns the name (rather than importing it), by a call (``MISSING = object()``) before an
    alias (``DEFAULT = MISSING``), earlier lines first."""
    known = _found.get(id(value))
    if known and getattr(sys.modules.get(known[1].module), known[1].name, None) is value:
        return known[1]
    held = [
        (module, name)
        for module, names in loaded_namespaces()
        # in C: a search of all modules takes a millisecond
        if id(value) in map(id, names.values())
        for name, attribute in list(names.items())
        if attribute is value
    ]
    if not held:
        return None
    (variable, _, _), module, name = min((_rank(*each), *each) for each in held)
    place = SentinelPlace(module, name, not variable)
    _found[id(value)] = value, place
    return place


def fixed_name(value: object) -> str:
    """The name of an instance that importing the module of its class makes; else empty. It is all
    that two instances without content differ by."""
    module = type(value).__module__
    if id(value) not in map(id, vars(sys.modules.get(module, sys)).values()):
        return ""
    place = place_of(value)
    return place.name if place and place.fixed and place.module == module else ""


def held_ids() -> frozenset[int]:
    """The ids of all that any module holds at present: what is not in it has no place."""
    return frozenset(
        map(id, chain.from_iterable([list(names.values()) for _, names in loaded_namespaces()]))
    )


def _rank(module: str, name: str) -> tuple[bool, bool, int]:
    """Whether the name is a variable or not assigned at all, whether it is an alias, the line; of
    the place that counts it is the least."""
    import linecache  # rarely needed, and it brings the tokenizer

    file = getattr(sys.modules.get(module), "__file__", None)
    lines = linecache.getlines(file) if isinstance(file, str) else []
    if not lines:
        return False, True, sys.maxsize  # nothing contradicts it
    assignment = re.compile(rf"[ \t]*{re.escape(name)}[ \t]*(?::[^=]+)?=(?!=)(?!.*\bNone\b)(.*)")
    filled = re.compile(rf"[ \t]+global\b.*\b{re.escape(name)}\b")
    if any(name in line and filled.match(line) for line in lines):
        return True, True, sys.maxsize
    for number, line in enumerate(lines):
        if name in line and (match := assignment.match(line)) and _runs_on_import(lines, number):
            return False, "(" not in match[1], number
    return True, True, sys.maxsize


def _runs_on_import(lines: list[str], number: int) -> bool:
    """Whether a line is in no function or class, as its indentation tells."""
    indentation = len(lines[number]) - len(lines[number].lstrip())
    for line in reversed(lines[:number]):
        if not indentation:
            break
        text = line.strip()
        depth = len(line) - len(line.lstrip())
        if text and depth < indentation:
            if text.startswith(("def ", "async def ", "class ")):
                return False
            indentation = depth
    return True
