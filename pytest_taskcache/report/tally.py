"""Counts of events, which add up over workers."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, fields
from typing import Any

from pytest_taskcache.model.decision import Hit, Miss, Uncacheable, Why
from pytest_taskcache.model.event import Computed, Decided, Event, Faulted, Noted, Subject

_UNTOLD = (Why.REFRESH, Why.UNVERIFIED)
"""Misses that the user asked for."""

_SHOWN = 3
"""Changes that one miss names; the rest are counted."""


@dataclass
class Tally:
    """An observer that counts. ``saved`` in seconds; ``details`` holds one example for each
    reason of a refusal or a fault; ``misses`` how often each reason struck whom (``test x.py::y``).
    """

    reused: Counter[str] = field(default_factory=Counter)
    computed: Counter[str] = field(default_factory=Counter)
    refreshed: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    details: dict[str, str] = field(default_factory=dict)
    misses: dict[str, dict[str, int]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)
    saved: float = 0.0
    verified: int = 0

    def __post_init__(self) -> None:
        self._refreshing: set[tuple[Subject, str]] = set()

    def notify(self, event: Event) -> None:
        """Counts one event."""
        match event:
            case Decided(subject=subject, decision=Hit()):
                self.reused[str(subject)] += 1
                self.saved += event.saved
            case Decided(decision=Miss() as miss):
                if miss.why is Why.REFRESH:
                    self._refreshing.add((event.subject, str(event.identity)))
                if miss.changes or miss.why not in (Why.ABSENT, *_UNTOLD):
                    self._miss(reason_of(miss), f"{event.subject} {event.identity}")
            case Decided(decision=Uncacheable() as refusal) if event.subject is Subject.TEST:
                self.refused[refusal.reason] += 1
                self._detail(refusal.reason, f"{event.identity}: {refusal}")
            case Computed(staged=True):
                refreshed = (event.subject, str(event.identity)) in self._refreshing
                counts = self.refreshed if refreshed else self.computed
                counts[str(event.subject)] += 1
            case Computed(staged=False) if event.reason != "did not pass":
                self.refused[event.reason] += 1
                self._detail(event.reason, f"{event.identity}: {event.detail or event.reason}")
            case Faulted():
                self.faults[event.reason] += 1
                self._detail(event.reason, event.detail)
            case Noted() if event.text not in self.notes:
                self.notes.append(event.text)
            case _:
                pass

    def merge(self, other: Tally) -> None:
        """Adds another worker's counts."""
        for name in _COUNTERS:
            getattr(self, name).update(getattr(other, name))
        self.details = {**other.details, **self.details}
        for reason, struck in other.misses.items():
            for name, count in struck.items():
                self._miss(reason, name, count)
        self.notes += [note for note in other.notes if note not in self.notes]
        self.differences += other.differences
        self.saved += other.saved
        self.verified += other.verified

    def to_plain(self) -> dict[str, Any]:
        """As values that any transport between processes carries."""
        plain = {each.name: getattr(self, each.name) for each in fields(self)}
        return {**plain, **{name: dict(plain[name]) for name in _COUNTERS}}

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> Tally:
        """The tally that `to_plain` gave."""
        return cls(**{**plain, **{name: Counter(plain[name]) for name in _COUNTERS}})

    @property
    def is_empty(self) -> bool:
        """Whether nothing happened that is worth a line."""
        return not (
            any(getattr(self, name) for name in _COUNTERS) or self.notes or self.differences
        )

    def _miss(self, reason: str, name: str, count: int = 1) -> None:
        struck = self.misses.setdefault(reason, {})
        struck[name] = struck.get(name, 0) + count

    def _detail(self, reason: str, text: str) -> None:
        if text:
            self.details.setdefault(reason, text)


_COUNTERS = ("reused", "computed", "refreshed", "refused", "faults")


def reason_of(miss: Miss) -> str:
    """Why it was a miss, in words that group those with the same cause: what changed, by name;
    for a call with other arguments, which of them are new."""
    if miss.changes and all(change.kind in ("input", "parameter") for change in miss.changes):
        return f"new inputs ({', '.join(change.name for change in miss.changes)})"
    if not miss.changes:
        return str(miss.why)
    told = [str(change) for change in miss.changes[:_SHOWN]]
    more = len(miss.changes) - len(told)
    return "; ".join([*told, f"and {more} more"] if more else told)
