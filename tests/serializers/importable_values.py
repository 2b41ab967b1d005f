"""Values whose classes are found by name from any process that has this directory on its path."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum


class Colour(Enum):
    RED = 1


@dataclass
class Row:
    name: str
    tags: list[str] = field(default_factory=list)


def double(number: int) -> int:
    return 2 * number


class Unwilling:
    """Refuses by an error that no pickler would raise."""

    def __reduce__(self) -> tuple[object, ...]:
        raise ZeroDivisionError("not today")


class WakesUpAngry:
    """Is written without complaint and cannot be read."""

    def __reduce__(self) -> tuple[object, ...]:
        return divide, (0,)


def divide(number: int) -> float:
    return 1 / number
