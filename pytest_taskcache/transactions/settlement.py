"""What becomes of staged entries when one of their claimants ends: rules over a graph, no I/O.

Worked example, with a fixture whose value needs *all* its users to pass (``held``)::

    fix   F stages it, held            open
    own   t1 derives it from fix       open
    t1 passes                          fix, own: approved; both wait, fix is in use
    t2, a user of fix, passes          nothing changes
    F ends                             fix: nobody uses it any more; fix and own commit
    (or: t2 fails                      fix, own: poisoned; they go with their last user)

An entry is *in use* while it, or one that derives from it, is claimed. It commits as soon as a
passing claimant used it, directly or through what derives from it, and no held entry among itself
and its sources is still in use.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from enum import Enum, StrEnum
from typing import assert_never

from pytest_taskcache.dataclass import dataclass, field, replace


class EntryState(StrEnum):
    """How a staged entry stands. Readers of the run see those in ``VISIBLE``."""

    OPEN = "open"
    HIDDEN = "hidden"
    """Its producer failed: kept for those who use it already."""
    ENDED = "ended"
    """Its producer ended while others used it: there for new ones, too, until the last of them is
    done. (Who waited for it meanwhile would else find nothing, and compute it once more.)"""
    APPROVED = "approved"
    """A passing claimant used it; it waits for the other users of a held entry."""
    WAITING = "waiting"
    """Approved, and hidden since."""
    POISONED = "poisoned"
    """A user of a held entry failed; never to be committed."""
    CONDEMNED = "condemned"
    """Poisoned, and hidden since."""
    RETAINED = "retained"
    """Kept for a retry of the test that failed, whichever run that is in."""


_STATES = frozenset(EntryState)
VISIBLE = (EntryState.OPEN, EntryState.ENDED, EntryState.APPROVED, EntryState.POISONED)
_APPROVED = (EntryState.APPROVED, EntryState.WAITING)
_POISONED = (EntryState.POISONED, EntryState.CONDEMNED)
_UNDECIDED = (EntryState.OPEN, EntryState.HIDDEN)
_END = {EntryState.OPEN: EntryState.ENDED}
HIDE = {
    EntryState.OPEN: EntryState.HIDDEN,
    EntryState.ENDED: EntryState.HIDDEN,
    EntryState.APPROVED: EntryState.WAITING,
    EntryState.POISONED: EntryState.CONDEMNED,
}
_APPROVE = {
    EntryState.OPEN: EntryState.APPROVED,
    EntryState.ENDED: EntryState.APPROVED,
    EntryState.HIDDEN: EntryState.WAITING,
    EntryState.RETAINED: EntryState.WAITING,
}
_POISON = {
    EntryState.OPEN: EntryState.POISONED,
    EntryState.ENDED: EntryState.POISONED,
    EntryState.APPROVED: EntryState.POISONED,
    EntryState.HIDDEN: EntryState.CONDEMNED,
    EntryState.WAITING: EntryState.CONDEMNED,
    EntryState.RETAINED: EntryState.CONDEMNED,
}
_SPENT = (*_POISONED, EntryState.HIDDEN, EntryState.ENDED)
_RETAIN = {EntryState.OPEN: EntryState.RETAINED, EntryState.HIDDEN: EntryState.RETAINED}


class Verdict(Enum):
    """How a claimant ended."""

    PASSED = "passed"
    FAILED = "failed"
    ENDED = "ended"
    """A wider-scoped fixture came to the end of its scope, which is no judgement."""


@dataclass(slots=True)
class StagedNode:
    """A staged entry as far as its fate goes: what it is (`held`, `retryable`), how it stands
    (``state``), whom it derives from among those that are still staged, who uses it."""

    id: bytes
    key: bytes
    destination: bytes
    producer: bytes
    held: bool
    retryable: bool
    state: str
    sources: set[bytes] = field(default_factory=set)
    claimants: set[bytes] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Plan:
    """Which entries commit, go, or are retained for a retry now. The others' new states are in the
    graph."""

    commit: tuple[StagedNode, ...] = ()
    drop: frozenset[bytes] = frozenset()
    retained: frozenset[bytes] = frozenset()


class Graph:
    """Staged entries by id, with all whose fate may depend on one another; ``changed`` are the ids
    of those whose state has changed since they were read."""

    def __init__(self, nodes: Mapping[bytes, StagedNode]) -> None:
        self.nodes = nodes
        self.changed: set[bytes] = set()
        self._users: dict[bytes, list[bytes]] = {id_: [] for id_ in nodes}
        for node in nodes.values():
            if node.state not in _STATES:
                node.state = EntryState.CONDEMNED  # damaged
            for source in node.sources:
                self._users[source].append(node.id)

    def upstream(self, ids: Iterable[bytes]) -> list[StagedNode]:
        """Entries and what they derive from, transitively."""
        return self._reach(ids, lambda id_: self.nodes[id_].sources)

    def downstream(self, ids: Iterable[bytes]) -> list[StagedNode]:
        """Entries and what derives from them, transitively."""
        return self._reach(ids, self._users.__getitem__)

    def _reach(
        self, ids: Iterable[bytes], step: Callable[[bytes], Iterable[bytes]]
    ) -> list[StagedNode]:
        seen: set[bytes] = set()
        todo = list(ids)
        while todo:
            id_ = todo.pop()
            if id_ in self.nodes and id_ not in seen:
                seen.add(id_)
                todo += step(id_)
        return [self.nodes[id_] for id_ in self.nodes if id_ in seen]

    def change(self, nodes: Iterable[StagedNode], step: Mapping[EntryState, EntryState]) -> None:
        """Takes entries one step further, where their state has one."""
        for node in nodes:
            after = step.get(EntryState(node.state))
            if after is not None:
                node.state = after
                self.changed.add(node.id)


def conclude(graph: Graph, claimant: bytes, verdict: Verdict, *, retains: bool = False) -> Plan:
    """Ends a claimant: changes states as the verdict says, takes back the claims, and plans.
    ``retains``: whether a retry may start from what a failed one computed for it."""
    nodes = graph.nodes.values()
    claimed = [node for node in nodes if claimant in node.claimants]
    produced = [node for node in nodes if node.producer == claimant]
    retained: frozenset[bytes] = frozenset()
    match verdict:
        case Verdict.PASSED:
            graph.change(graph.upstream(node.id for node in claimed), _APPROVE)
        case Verdict.FAILED:
            own = [n for n in produced if retains and n.retryable and n.state in _UNDECIDED]
            guilty = [node.id for node in claimed if node.held and node not in own]
            graph.change(graph.downstream(guilty), _POISON)
            graph.change(own, _RETAIN)
            retained = frozenset(node.id for node in own if node.state == EntryState.RETAINED)
            for id_ in retained:
                # Out of the run's own affairs: a retry of this test decides about it.
                graph.nodes[id_].held = False
            graph.change(produced, HIDE)
        case Verdict.ENDED:
            graph.change(produced, _END)
        case _:
            assert_never(verdict)
    for node in nodes:
        node.claimants.discard(claimant)
    return replace(plan(graph), retained=retained)


def plan(graph: Graph) -> Plan:
    """What is to be done about a graph whose claims or states have changed."""
    nodes = graph.nodes.values()
    in_use = {n.id for n in graph.upstream(n.id for n in nodes if n.claimants)}
    held = [node for node in nodes if node.held]
    # A held entry that nobody uses any more releases all that waited for it, or takes it along.
    failed = [n.id for n in held if n.id not in in_use and n.state not in _APPROVED]
    graph.change(graph.downstream(failed), _POISON)
    blocked = {n.id for n in graph.downstream(n.id for n in held if n.id in in_use)}
    return Plan(
        commit=tuple(n for n in nodes if n.state in _APPROVED and n.id not in blocked),
        drop=frozenset(node.id for node in nodes if node.state in _SPENT and node.id not in in_use),
    )
