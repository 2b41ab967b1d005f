"""What happened, told to observers."""

from __future__ import annotations

from enum import StrEnum
from typing import TypeAlias

from pytest_taskcache.dataclass import dataclass
from pytest_taskcache.model.decision import Decision
from pytest_taskcache.model.key import Identity, Key


class Subject(StrEnum):
    """What kind of computation it was."""

    FUNCTION = "function"
    FIXTURE = "fixture"
    TEST = "test"


@dataclass(frozen=True, slots=True)
class Decided:
    """A lookup ended. ``saved`` is the recorded duration in seconds, for a hit; ``inputs`` what
    the arguments look like to people, for a miss: name and text of those that are plain values."""

    subject: Subject
    identity: Identity
    decision: Decision
    key: Key | None = None
    saved: float = 0.0
    test: str = ""
    inputs: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Computed:
    """A computation ran to its end in ``duration`` seconds. ``staged`` says whether its value
    was kept; ``reason`` why not, in the few words that counts are kept by, ``detail`` at
    length."""

    subject: Subject
    identity: Identity
    duration: float
    staged: bool
    reason: str = ""
    detail: str = ""
    test: str = ""


@dataclass(frozen=True, slots=True)
class Verified:
    """What would have been reused was computed instead, and compared; ``difference`` says how it
    differs from what is recorded, "" where it does not."""

    subject: Subject
    identity: Identity
    difference: str = ""


@dataclass(frozen=True, slots=True)
class Waited:
    """Someone else was computing the same key; ``seconds`` so far, ``done`` at the end."""

    identity: Identity
    holder: str
    seconds: float
    done: bool


@dataclass(frozen=True, slots=True)
class Committed:
    """A transaction committed ``entries`` records."""

    entries: int
    test: str = ""


@dataclass(frozen=True, slots=True)
class RolledBack:
    """A transaction dropped ``entries`` staged records."""

    entries: int
    test: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Faulted:
    """The cache failed at something and the run went on. ``reason`` groups the counts."""

    reason: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Noted:
    """Something a user should read once, e.g. a fixture whose effects a hit would lose."""

    text: str


Event: TypeAlias = Decided | Computed | Verified | Waited | Committed | RolledBack | Faulted | Noted
