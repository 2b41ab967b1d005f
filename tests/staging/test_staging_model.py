"""Staging agrees with a model of a few sets, whatever happens in whatever order."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from staged_samples import area_at, ids

from pytest_taskcache.transactions.settlement import Verdict


@dataclass
class Item:
    """An entry as the model sees it."""

    producer: str
    sources: set[str]
    held: bool
    claims: set[str] = field(default_factory=set)
    hidden: bool = False
    ended: bool = False
    approved: bool = False
    poisoned: bool = False


@dataclass
class Model:
    """The rules of staging, over plain sets and without regard to cost."""

    items: dict[str, Item] = field(default_factory=dict)
    committed: set[str] = field(default_factory=set)

    def up(self, name: str) -> set[str]:
        return {name}.union(*(self.up(s) for s in self.items[name].sources if s in self.items))

    def down(self, name: str) -> set[str]:
        return {other for other in self.items if name in self.up(other)}

    def used(self, name: str) -> bool:
        return any(self.items[other].claims for other in self.down(name))

    def poison(self, name: str) -> None:
        for other in self.down(name):
            self.items[other].poisoned = True

    def stage(self, name: str, item: Item) -> None:
        item.poisoned = any(self.items[s].poisoned for s in item.sources if s in self.items)
        self.items[name] = item

    def claim(self, name: str, claimant: str) -> bool:
        item = self.items.get(name)
        if item is None or (item.hidden and claimant not in item.claims | {item.producer}):
            return False
        item.claims.add(claimant)
        return True

    def settle(self, claimant: str, verdict: Verdict) -> None:
        claimed = {name for name, item in self.items.items() if claimant in item.claims}
        if verdict is Verdict.PASSED:
            for name in set().union(*map(self.up, claimed)):
                self.items[name].approved |= not self.items[name].poisoned
        if verdict is Verdict.FAILED:
            for name in claimed:
                if self.items[name].held:
                    self.poison(name)
        for item in self.items.values():
            if item.producer == claimant:
                item.hidden |= verdict is Verdict.FAILED
                item.ended |= verdict is Verdict.ENDED
        for item in self.items.values():
            item.claims.discard(claimant)
        self.resolve()

    def drop(self, names: list[str], claimant: str) -> None:
        for name in names:
            if name in self.items:
                self.items[name].claims.discard(claimant)
                self.items[name].hidden |= self.items[name].producer == claimant
        self.resolve()

    def resolve(self) -> None:
        for name, item in self.items.items():
            if item.held and not self.used(name) and (item.poisoned or not item.approved):
                self.poison(name)
        commit, drop = set(), set()
        for name, item in self.items.items():
            waits = any(self.items[s].held and self.used(s) for s in self.up(name))
            if item.approved and not item.poisoned and not waits:
                commit.add(name)
                continue
            gone = item.hidden or item.ended
            if (item.poisoned or (gone and not item.approved)) and not self.used(name):
                drop.add(name)
        self.committed |= commit
        for name in commit | drop:
            del self.items[name]


class StagingMachine(RuleBasedStateMachine):
    """Tests and fixtures of two workers stage, use, pass, fail and end."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        # Two objects on one directory, as two workers of a run are.
        self.workers = [area_at(self.folder / "cache"), area_at(self.folder / "cache")]
        self.model = Model()
        self.names: list[str] = []
        self.live: list[str] = ["F0", "T0", "T1"]
        self.fresh = 2
        self.allowed: set[str] = set()

    def teardown(self) -> None:
        for claimant in list(self.live):
            verdict = Verdict.ENDED if claimant.startswith("F") else Verdict.PASSED
            self.end(claimant, verdict, self.workers[0])
        self.agrees()
        # When all have ended, nothing is left undecided.
        assert self.model.items == {}
        for area in self.workers:
            area.storage.close()
        shutil.rmtree(self.folder)

    workers_ = st.integers(0, 1)
    picks = st.integers(0, 999)

    def one(self, items: list[str], pick: int) -> str:
        return items[pick % len(items)]

    @rule(worker=workers_, who=picks, sources=st.lists(picks, max_size=2), held=st.booleans())
    def stage(self, worker: int, who: int, sources: list[int], held: bool) -> None:
        claimant = self.one(self.live, who)
        used = {self.one(self.names, pick) for pick in sources} if self.names else set()
        # One uses what one claims; anything else is no source, or was committed long ago.
        used = {s for s in used if s not in self.model.items or self.use(worker, s, claimant)}
        name = f"e{len(self.names)}"
        self.names.append(name)
        held = held and claimant.startswith("F")
        self.workers[worker].put(name, claimant, *used, held=held)
        self.model.stage(name, Item(claimant, used, held, {claimant}))

    @precondition(lambda self: self.names)
    @rule(worker=workers_, who=picks, what=picks)
    def claim(self, worker: int, who: int, what: int) -> None:
        self.use(worker, self.one(self.names, what), self.one(self.live, who))

    def use(self, worker: int, name: str, claimant: str) -> bool:
        expected = self.model.claim(name, claimant)
        assert bool(self.workers[worker].use(claimant, name)) == expected
        return expected

    @precondition(lambda self: self.names)
    @rule(worker=workers_, who=picks, what=st.lists(picks, min_size=1, max_size=2))
    def savepoint_fails(self, worker: int, who: int, what: list[int]) -> None:
        names = [self.one(self.names, pick) for pick in what]
        claimant = self.one(self.live, who)
        self.model.drop(names, claimant)
        self.workers[worker].staging.drop(names, claimant)

    @rule(worker=workers_, who=picks, good=st.booleans())
    def settle(self, worker: int, who: int, good: bool) -> None:
        claimant = self.one(self.live, who)
        verdict = Verdict.FAILED
        if good:
            verdict = Verdict.ENDED if claimant.startswith("F") else Verdict.PASSED
        self.end(claimant, verdict, self.workers[worker])
        self.live.append(f"{claimant[0]}{self.fresh}")
        self.fresh += 1

    def end(self, claimant: str, verdict: Verdict, area: object) -> None:
        if verdict is Verdict.PASSED:
            for name, item in self.model.items.items():
                if claimant in item.claims:
                    self.allowed |= self.model.up(name)
        before = set(self.model.committed)
        self.model.settle(claimant, verdict)
        settled = area.staging.settle(claimant, verdict)  # type: ignore[attr-defined]
        assert ids(settled.committed) == self.model.committed - before
        self.live.remove(claimant)

    @rule(worker=workers_, end=st.sampled_from(["F", "T"]))
    def worker_dies(self, worker: int, end: str) -> None:
        """All claimants of one kind fail at once, as a crashed worker's do."""
        self.live.append(f"gw9/{end}{self.fresh}")
        name = f"e{len(self.names)}"
        self.names.append(name)
        claimant = self.live.pop()
        self.fresh += 1
        self.workers[worker].put(name, claimant)
        self.model.stage(name, Item(claimant, set(), False, {claimant}))
        for other in list(self.model.items)[:2]:
            self.use(worker, other, claimant)
        self.model.settle(claimant, Verdict.FAILED)
        self.workers[1 - worker].staging.abandon("gw9")

    @invariant()
    def agrees(self) -> None:
        """Both workers see what the model has, and key storage what it has committed."""
        shown = {name for name, item in self.model.items.items() if not item.hidden}
        for area in self.workers:
            assert area.visible(*self.names, "none") == shown
            assert area.committed(*self.names, "none") == self.model.committed
        # In key storage only if some passing test used it, or used what derives from it.
        assert self.model.committed <= self.allowed


TestStaging = StagingMachine.TestCase
TestStaging.settings = settings(
    max_examples=40, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
