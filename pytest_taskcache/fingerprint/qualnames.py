"""What the functions of a source file are called when they are digested."""

from __future__ import annotations

NAMES = "*"
"""Name of the pseudo-function that stands for all names a module binds."""

INSIDE = ".<locals>"
"""What follows the name of a function in the names of all that is defined inside of it."""


def interface_name(qualname: str) -> str:
    """The name under which a function's interface counts."""
    return qualname + "()"


def function_key(qualname: str) -> str:
    """The name a function counts under: lambdas and comprehensions belong to the function around
    them; empty for code that runs at import and so belongs to the skeleton."""
    outermost = qualname.partition(INSIDE)[0]
    head, _, last = outermost.rpartition(".")
    if last.startswith("<") or head.startswith("<"):
        return ""
    while True:
        around, nested, last = qualname.rpartition(INSIDE + ".")
        if not nested or "<" not in last:
            return qualname
        qualname = around


def function_around(qualname: str) -> str:
    """The name of the function that a nested one is defined in; empty for one that is not
    nested."""
    return qualname.rpartition(INSIDE)[0]
