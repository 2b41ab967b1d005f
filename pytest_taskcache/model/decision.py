"""What a lookup decided: a value, never a bool."""

from __future__ import annotations

from enum import StrEnum
from typing import TypeAlias

from pytest_taskcache.dataclass import dataclass, field
from pytest_taskcache.model.dependency import Change
from pytest_taskcache.model.record import Variant


class Origin(StrEnum):
    """Where a hit came from."""

    COMMITTED = "committed"
    STAGED = "staged"
    TARGET = "target"


class Why(StrEnum):
    """Why there was no hit."""

    ABSENT = "never computed"
    PARTS = "key changed"
    TRACE = "dependency changed"
    EXPIRED = "expired"
    INVALID = "rejected by its validator"
    REFRESH = "refresh asked for"
    LOST = "stored value lost or damaged"
    UNVERIFIED = "chosen for verification"
    FLAKY = "proven nondeterministic"
    UNCOVERED = "recorded without coverage"
    EVICTED = "evicted to make room"
    PRUNED = "pruned"
    CLEARED = "cleared"
    REFUSED = "refused before"


def one_line(text: str) -> str:
    """The text without line breaks: what users' code said may be of many lines."""
    return " ".join(text.split()) if len(text.splitlines()) > 1 else text


@dataclass(frozen=True, slots=True)
class Hit:
    """The stored value is valid. ``variant`` is None for a bare target file."""

    variant: Variant | None
    origin: Origin = Origin.COMMITTED
    vouched: bool = False

    def __str__(self) -> str:
        if self.variant is None:
            return "reused from its target file"
        staged = ", not committed yet" if self.origin is Origin.STAGED else ""
        vouched = ", vouched for by its author" if self.vouched else ""
        text = f"reused what {self.variant.producer} computed in {self.variant.duration:.3g} s"
        return one_line(text + staged + vouched)


@dataclass(frozen=True, slots=True)
class Miss:
    """The computation runs; ``changes`` names what differs from the nearest record, which is
    ``nearest`` where whoever decided kept it. ``detail`` says why it was refused before."""

    why: Why
    changes: tuple[Change, ...] = ()
    nearest: Variant | None = field(default=None, compare=False)
    detail: str = ""

    def __str__(self) -> str:
        if not self.changes:
            return one_line(f"{self.why}: {self.detail}" if self.detail else self.why)
        return one_line("; ".join(str(change) for change in self.changes))


@dataclass(frozen=True, slots=True)
class Uncacheable:
    """The computation runs and is not stored. ``reason`` is the short class of reasons that
    counts are kept by; ``detail`` the whole sentence with the remedy."""

    reason: str
    detail: str = ""

    def __str__(self) -> str:
        return one_line(self.detail or self.reason)


@dataclass(frozen=True, slots=True)
class Fault:
    """The lookup failed, which is not a miss; the computation runs."""

    reason: str
    detail: str = ""

    def __str__(self) -> str:
        return one_line(self.detail or self.reason)


Decision: TypeAlias = Hit | Miss | Uncacheable | Fault
