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

from collections.abc import Callable, Collection, Iterable, Mapping
from enum import Enum, StrEnum
from typing import assert_never

from pytest_taskcache.dataclass import dataclass
from pytest_taskcache.storage.local.staged import Node


class State(StrEnum):
    """How a staged entry stands. Readers of the run see those in ``VISIBLE``."""

    OPEN = "open"
    HIDDEN = "hidden"
    """Its producer failed or ended: kept for those who use it already."""
    APPROVED = "approved"
    """A passing claimant used it; it waits for the other users of a held entry."""
    WAITING = "waiting"
    """Approved, and hidden since."""
    POISONED = "poisoned"
    """A user of a held entry failed; never to be committed."""
    CONDEMNED = "condemned"
    """Poisoned, and hidden since."""
    COMMITTING = "committing"
    """Its commit to a remote storage has begun; nothing changes it any more."""
    RETAINED = "retained"
    """Kept for a retry of the test that failed, whichever run that is in."""


_STATES = frozenset(State)
VISIBLE = (State.OPEN, State.APPROVED, State.POISONED, State.COMMITTING)
_APPROVED = (State.APPROVED, State.WAITING)
_POISONED = (State.POISONED, State.CONDEMNED)
_UNDECIDED = (State.OPEN, State.HIDDEN)
_HIDE = {
    State.OPEN: State.HIDDEN,
    State.APPROVED: State.WAITING,
    State.POISONED: State.CONDEMNED,
}
_APPROVE = {
    State.OPEN: State.APPROVED,
    State.HIDDEN: State.WAITING,
    State.RETAINED: State.WAITING,
}
_POISON = {
    State.OPEN: State.POISONED,
    State.APPROVED: State.POISONED,
    State.HIDDEN: State.CONDEMNED,
    State.WAITING: State.CONDEMNED,
    State.RETAINED: State.CONDEMNED,
}


class Verdict(Enum):
    """How a claimant ended."""

    PASSED = "passed"
    FAILED = "failed"
    ENDED = "ended"
    """A wider-scoped fixture came to the end of its scope, which is no judgement."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Which entries commit, go, or are retained for a retry now, and how many approved ones of
    the claimants go on waiting. The others' new states are in the graph."""

    commit: tuple[Node, ...] = ()
    drop: frozenset[bytes] = frozenset()
    retained: frozenset[bytes] = frozenset()
    waiting: int = 0


class Graph:
    """Staged entries by id, with all whose fate may depend on one another."""

    def __init__(self, nodes: Mapping[bytes, Node]) -> None:
        self.nodes = nodes
        self._users: dict[bytes, list[bytes]] = {id_: [] for id_ in nodes}
        for node in nodes.values():
            if node.state not in _STATES:
                node.state = State.CONDEMNED  # damaged
            for source in node.sources:
                self._users[source].append(node.id)

    def upstream(self, ids: Iterable[bytes]) -> list[Node]:
        """Entries and what they derive from, transitively."""
        return self._reach(ids, lambda id_: self.nodes[id_].sources)

    def downstream(self, ids: Iterable[bytes]) -> list[Node]:
        """Entries and what derives from them, transitively."""
        return self._reach(ids, self._users.__getitem__)

    def _reach(self, ids: Iterable[bytes], step: Callable[[bytes], Iterable[bytes]]) -> list[Node]:
        seen: set[bytes] = set()
        todo = list(ids)
        while todo:
            id_ = todo.pop()
            if id_ in self.nodes and id_ not in seen:
                seen.add(id_)
                todo += step(id_)
        return [self.nodes[id_] for id_ in self.nodes if id_ in seen]

    def in_use(self) -> set[bytes]:
        """The entries that anyone claims, and all that these derive from."""
        return {n.id for n in self.upstream(n.id for n in self.nodes.values() if n.claimants)}

    def claimed(self, claimants: Collection[bytes]) -> list[Node]:
        """The entries that any of these claims."""
        return [node for node in self.nodes.values() if node.claimants.intersection(claimants)]


def conclude(
    graph: Graph, claimants: Collection[bytes], verdict: Verdict, *, retains: bool = False
) -> Plan:
    """Ends claimants: changes states as the verdict says, takes back the claims, and plans.
    ``retains``: whether a retry may start from what a failed one computed for it."""
    claimed = graph.claimed(claimants)
    produced = [node for node in graph.nodes.values() if node.producer in claimants]
    retained: frozenset[bytes] = frozenset()
    match verdict:
        case Verdict.PASSED:
            _change(graph.upstream(node.id for node in claimed), _APPROVE)
        case Verdict.FAILED:
            own = [n for n in produced if retains and n.retryable and n.state in _UNDECIDED]
            guilty = [node.id for node in claimed if node.held and node not in own]
            _change(graph.downstream(guilty), _POISON)
            retained = frozenset(node.id for node in own if node.state not in _POISONED)
            _change(produced, _HIDE)
            for id_ in retained:
                # Out of the run's own affairs: a retry of this test decides about it.
                graph.nodes[id_].state, graph.nodes[id_].held = State.RETAINED, False
        case Verdict.ENDED:
            _change(produced, _HIDE)
        case _:
            assert_never(verdict)
    for node in graph.nodes.values():
        node.claimants -= set(claimants)
    return plan(graph, {node.id for node in (*claimed, *produced)}, retained)


def plan(
    graph: Graph, concerned: Collection[bytes], retained: frozenset[bytes] = frozenset()
) -> Plan:
    """What is to be done about a graph whose claims or states have changed."""
    in_use = graph.in_use()
    nodes = graph.nodes.values()
    # A held entry that nobody uses any more releases all that waited for it, or takes it along.
    failed = [
        node.id
        for node in nodes
        if node.held and node.id not in in_use and node.state not in (*_APPROVED, State.COMMITTING)
    ]
    _change(graph.downstream(failed), _POISON)
    blocking = [n.id for n in nodes if n.held and n.id in in_use and n.state != State.COMMITTING]
    blocked = {node.id for node in graph.downstream(blocking)}
    drop = [
        node.id
        for node in nodes
        if (node.state in _POISONED or node.state == State.HIDDEN) and node.id not in in_use
    ]
    waits = {node.id for node in nodes if node.state in _APPROVED and node.id in blocked}
    return Plan(
        tuple(n for n in nodes if n.state in _APPROVED and n.id not in blocked),
        frozenset(drop),
        retained,
        len(waits.intersection(node.id for node in graph.upstream(concerned))),
    )


def hide(nodes: Iterable[Node]) -> None:
    """Shows entries to no new readers."""
    _change(nodes, _HIDE)


def _change(nodes: Iterable[Node], step: Mapping[State, State]) -> None:
    for node in nodes:
        node.state = step.get(State(node.state), State(node.state))


__all__ = ["VISIBLE", "Graph", "Plan", "State", "Verdict", "conclude", "hide", "plan"]
