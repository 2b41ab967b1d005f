"""What a run did: counts that add up over workers, and an entry for each computation that ran.

Decided(miss: file changed: rates.csv), then Computed(2.1 s, staged)
    -> computed["test"] += 1, one entry "computed", why "file changed: rates.csv", 2.1 s
Decided(hit) -> reused["test"] += 1, saved += what it took when it ran
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from operator import attrgetter
from typing import Any

from pytest_taskcache.dataclass import dataclass, field, fields
from pytest_taskcache.model.decision import Hit, Miss, Uncacheable, Why
from pytest_taskcache.model.event import (
    Computed,
    Decided,
    Event,
    Faulted,
    Noted,
    RolledBack,
    Subject,
    Verified,
    Waited,
)
from pytest_taskcache.report.wording import counted

ROLLED_BACK = "rolled back by a failing test"

_UNTOLD = (Why.ABSENT, Why.REFRESH, Why.UNVERIFIED, Why.REFUSED)
"""Misses that need no reason, that the user asked for, or whose reason a refusal tells."""

_DID_NOT_PASS = "did not pass"

_SHOWN = 3
"""Changes that one miss names where reasons are counted; an explanation names all."""

_KEPT, _KEPT_WHOLE = 2_000, 50_000
"""Entries of one process at most; the counts are always of everything."""

_SLOWEST = 10

_CHEAP_HITS, _HIT_COST = 200, 0.0005
"""A hit costs about half a millisecond with all that belongs to it; judged from so many hits."""


@dataclass
class TallyEntry:
    """One computation of a run, as plain values. ``status`` is computed, refreshed, reused,
    refused or failed; ``at`` POSIX seconds when it was decided, ``seconds`` what it took or, for
    a reused one, had taken; ``waited`` seconds for someone else's value; ``changes`` as kind,
    name, before, after; ``nearest`` says which record it was compared with (key, created,
    python, producer)."""

    subject: str
    identity: str
    test: str
    status: str
    why: str
    at: float
    worker: str = "main"
    seconds: float = 0.0
    waited: float = 0.0
    detail: str = ""
    key: str = ""
    changes: list[list[str]] = field(default_factory=list)
    inputs: dict[str, str] = field(default_factory=dict)
    nearest: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, event: Decided, at: float, worker: str) -> TallyEntry:
        """The entry of a decision whose computation, if there is one, has still to run."""
        detail, changes, record = "", list[list[str]](), None
        match event.decision:
            case Hit() as hit:
                status, record = "reused", hit.variant
                why = "vouched for by its author" if hit.vouched else str(hit.origin)
            case Miss() as miss:
                status, why, record = "failed", reason_of(miss), miss.nearest
                changes = [[str(part) for part in change] for change in miss.changes]
            case other:
                status, why, detail = "refused", other.reason, str(other)
        entry = cls(
            str(event.subject),
            str(event.identity),
            event.test,
            status,
            why,
            at,
            worker,
            event.saved,
            detail=detail,
            key=event.key.digest if event.key is not None else "",
            changes=changes,
            inputs=dict(event.inputs),
        )
        if record is not None:
            entry.nearest = {
                "key": record.key,
                "created": record.created,
                "producer": record.producer,
                "python": dict(record.versions).get("python", ""),
            }
        return entry


_VALUES: Callable[[TallyEntry], tuple[Any, ...]] = attrgetter(
    *(each.name for each in fields(TallyEntry))
)
"""All that an entry holds; ``asdict`` takes thirty times as long, at the end of each cold run."""


@dataclass
class Tally:
    """An observer that counts. ``saved`` in seconds; ``details`` holds one example
    for each reason of a refusal or a fault; ``rechecked`` what came of failed tests that were
    run again; ``misses`` how often each reason struck whom
    (``test x.py::y``); ``whole`` keeps an entry of hits too, for a report; ``worker`` names the
    process."""

    reused: Counter[str] = field(default_factory=Counter)
    computed: Counter[str] = field(default_factory=Counter)
    refreshed: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    details: dict[str, str] = field(default_factory=dict)
    misses: dict[str, dict[str, int]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)
    rechecked: list[str] = field(default_factory=list)
    entries: list[TallyEntry] = field(default_factory=list)
    saved: float = 0.0
    rolled_back: int = 0
    failed: int = 0
    verified: int = 0
    whole: bool = False
    worker: str = "main"

    def __post_init__(self) -> None:
        self.clock: Callable[[], float] = time.time
        self._refreshing: set[tuple[Subject, str]] = set()
        self._open: dict[tuple[str, str], TallyEntry] = {}
        self._waited: dict[str, float] = {}

    def notify(self, event: Event) -> None:
        """Counts one event."""
        match event:
            case Decided(decision=Hit()):
                self.reused[str(event.subject)] += 1
                self.saved += event.saved
                if self.whole:
                    self._keep(self._entry(event))
            case Decided():
                self._decided(event)
            case Computed():
                self._computed(event)
            case RolledBack(entries=entries) if entries:
                self.rolled_back += entries
                for entry in self.entries:
                    if entry.test == event.test and entry.status in ("computed", "refreshed"):
                        entry.detail = ROLLED_BACK
            case Verified():
                self.verified += 1
                if event.difference:
                    self.differences.append(event.difference)
            case Faulted():
                self.faults[event.reason] += 1
                self._detail(event.reason, event.detail)
            case Noted() if event.text not in self.notes:
                self.notes.append(event.text)
            case Waited(done=True):
                self._waited[str(event.identity)] = event.seconds
            case _:
                pass

    def _decided(self, event: Decided) -> None:
        decision = event.decision
        if isinstance(decision, Miss):
            if decision.why is Why.REFRESH:
                self._refreshing.add((event.subject, str(event.identity)))
            if decision.changes or decision.why not in _UNTOLD:
                self._miss(reason_of(decision), f"{event.subject} {event.identity}")
        elif isinstance(decision, Uncacheable) and event.subject is Subject.TEST:
            self.refused[decision.reason] += 1
            self._detail(decision.reason, f"{event.identity}: {decision}")
        self._open[str(event.identity), event.test] = self._entry(event)

    def _computed(self, event: Computed) -> None:
        status = "refused"
        if event.staged:
            refreshed = (event.subject, str(event.identity)) in self._refreshing
            status = "refreshed" if refreshed else "computed"
            (self.refreshed if refreshed else self.computed)[str(event.subject)] += 1
        elif event.reason == _DID_NOT_PASS:
            status = "failed"
            self.failed += 1
        else:
            self.refused[event.reason] += 1
            self._detail(event.reason, f"{event.identity}: {event.detail or event.reason}")
        identity = str(event.identity)
        entry = self._open.pop((identity, event.test), None)
        if entry is None:  # a test whose recording was told without a lookup
            at = self.clock() - event.duration
            entry = TallyEntry(
                str(event.subject), identity, event.test, status, "", at, self.worker
            )
        entry.status, entry.seconds = status, event.duration
        if not event.staged:
            entry.detail = event.detail or event.reason or entry.detail
        if status == "refused":
            entry.why = event.reason
        self._keep(entry)

    def _entry(self, event: Decided) -> TallyEntry:
        entry = TallyEntry.of(event, self.clock(), self.worker)
        entry.waited = self._waited.pop(entry.identity, 0.0) if self._waited else 0.0
        return entry

    def _keep(self, entry: TallyEntry) -> None:
        if len(self.entries) < (_KEPT_WHOLE if self.whole else _KEPT):
            self.entries.append(entry)
            return
        # Full: a slow one still takes the place of the last of those kept.
        if entry.seconds > self.entries[-1].seconds:
            self.entries[-1] = entry

    def merge(self, other: Tally) -> None:
        """Adds another worker's counts."""
        for name in _COUNTERS:
            getattr(self, name).update(getattr(other, name))
        self.details = {**other.details, **self.details}
        for reason, struck in other.misses.items():
            for name, count in struck.items():
                self._miss(reason, name, count)
        self.notes += [note for note in other.notes if note not in self.notes]
        for name in _ADDED:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def to_plain(self) -> dict[str, Any]:
        """As values that any transport between processes carries."""
        plain = {each.name: getattr(self, each.name) for each in fields(self)}
        plain["entries"] = [_VALUES(entry) for entry in self.entries]
        return {**plain, **{name: dict(plain[name]) for name in _COUNTERS}}

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> Tally:
        """The tally that `to_plain` gave."""
        entries = [TallyEntry(*values) for values in plain.get("entries", ())]
        counters = {name: Counter(plain[name]) for name in _COUNTERS}
        return cls(**{**plain, **counters, "entries": entries})

    @property
    def is_empty(self) -> bool:
        """Whether nothing happened that is worth a line."""
        others = ("notes", "differences", "rechecked", "misses", "rolled_back", "failed")
        return not any(getattr(self, name) for name in (*_COUNTERS, *others))

    def slowest(self, at_least: float) -> list[TallyEntry]:
        """Computations that took so many seconds and more, the slowest first, ten at most; what
        was asked to be computed anew is not among them."""
        ran = ("computed", "failed", "refused")
        slow = [each for each in self.entries if each.status in ran and each.seconds >= at_least]
        return sorted(slow, key=lambda each: -each.seconds)[:_SLOWEST]

    def hint(self) -> str:
        """What to set where the cache costs more than it saves; "" where not, or not known."""
        hits = sum(self.reused.values())
        if hits < _CHEAP_HITS or self.saved >= hits * _HIT_COST:
            return ""
        tests = self.reused["test"]
        if tests * 2 >= hits:
            remedy = "taskcache_tests = marked, with marks on the slow ones, suits tests that fast"
        else:
            remedy = "@cached(persist=False), or no @cached, suits functions that fast"
        return (
            f"{counted(hits, 'hit')} saved {self.saved * 1000:.0f} ms, "
            f"less than looking them up costs; {remedy}"
        )

    def _miss(self, reason: str, name: str, count: int = 1) -> None:
        struck = self.misses.setdefault(reason, {})
        struck[name] = struck.get(name, 0) + count

    def _detail(self, reason: str, text: str) -> None:
        if text:
            self.details.setdefault(reason, text)


_COUNTERS = ("reused", "computed", "refreshed", "refused", "faults")
_ADDED = ("differences", "rechecked", "entries", "saved", "rolled_back", "failed", "verified")


def reason_of(miss: Miss) -> str:
    """Why it was a miss, in words that group those with the same cause: all that changed, by
    name; for a call with other arguments, which of them are new."""
    if miss.changes and all(change.kind in ("input", "parameter") for change in miss.changes):
        return f"new inputs ({', '.join(change.name for change in miss.changes)})"
    return str(miss.why) if not miss.changes else str(miss)


def shortened(reason: str) -> str:
    """A reason with three of its changes, the rest counted."""
    told = reason.split("; ")
    more = len(told) - _SHOWN
    return reason if more <= 0 else "; ".join([*told[:_SHOWN], f"and {more} more"])
