"""The environment as it was when observation began.

What a module read while it was imported hangs on the value of that moment. A later look-up
happens after all imports, when the project itself may have set the variable; it has to compare
with the value the process was started with.
"""

from __future__ import annotations

import os
from collections.abc import Callable

EVERYTHING = "*"
"""The name that stands for all variables."""

NEVER = frozenset({"PYTEST_CURRENT_TEST"})
"""Set by the runner for each phase of each test; says nothing that the key does not."""

_MARK = " (at start)"


def same(left: dict[bytes, bytes], right: dict[bytes, bytes]) -> bool:
    """Whether two encoded environments are equal in all that counts."""
    return left == right or _counting(left) == _counting(right)


def _counting(environment: dict[bytes, bytes]) -> dict[bytes, bytes]:
    return {name: value for name, value in environment.items() if os.fsdecode(name) not in NEVER}


def at_start(name: str) -> str:
    """The name, in traces, of a variable's value when observation began."""
    return name + _MARK


def without_mark(name: str) -> str | None:
    """The variable that `at_start` named; None for any other name."""
    return name.removesuffix(_MARK) if name.endswith(_MARK) else None


class StartingEnvironment:
    """Values at the start, and the digests of those that changed since."""

    def __init__(self, environment: dict[bytes, bytes]) -> None:
        self.values = environment
        self._kept: dict[str, str] = {}

    def keep(self, name: str, digest: Callable[[str], str]) -> None:
        """A variable is about to change: its digest, and that of all, are still those of the
        start unless they were kept before."""
        for each in (name, EVERYTHING):
            if each not in self._kept:
                self._kept[each] = digest(each)

    def digest(self, name: str, present: Callable[[str], str]) -> str:
        """The digest at the start: kept, or the present one where nothing changed."""
        kept = self._kept.get(name)
        return present(name) if kept is None else kept
