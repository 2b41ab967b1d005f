"""What becomes of staged entries when one of their claimants ends.

Runs inside one write transaction of the index. An entry is *in use* while it, or one that derives
from it, is claimed. It is *approved* once a passing claimant used it, directly or through what
derives from it, and it commits as soon as no ``held`` entry among itself and its sources is still
in use. It is *poisoned*, and so is all that derives from it, when a user of a held entry failed.
It is *decided* from the moment its commit to a remote storage begins; nothing changes it then.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum
from typing import assert_never

from pytest_taskcache.storage.local import staged
from pytest_taskcache.storage.local.atoms import marks
from pytest_taskcache.storage.local.staged import Standing


class Verdict(Enum):
    """How a claimant ended."""

    PASSED = "passed"
    FAILED = "failed"
    ENDED = "ended"
    """A wider-scoped fixture came to the end of its scope, which is no judgement."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Which entries commit and which go now, and how many approved ones go on waiting."""

    commit: tuple[Standing, ...]
    drop: frozenset[bytes]
    waiting: int


def conclude(
    connection: sqlite3.Connection,
    claimants: Collection[bytes],
    verdict: Verdict,
    *,
    run: str,
    retain_for: bytes = b"",
    now: float = 0.0,
) -> Plan:
    """Marks entries as the verdict says, takes back the claimants' claims, and returns what is
    to be done about the entries this concerns."""
    claimed = _ids_where(connection, "claims", "claimant", claimants, run)
    produced = _ids_where(connection, "staged", "producer", claimants, run)
    for claimant in claimants:
        connection.execute("DELETE FROM claims WHERE claimant = ? AND run = ?", (claimant, run))
    match verdict:
        case Verdict.PASSED:
            concerned = staged.upstream(connection, claimed)
            standing = staged.standings(connection, concerned).values()
            if not any(e.held or e.poisoned or e.decided for e in standing):
                # The common case, at a third of the cost: nobody else has a say.
                return Plan(tuple(standing), frozenset(), 0)
            _approve(connection, standing)
        case Verdict.FAILED:
            concerned = claimed | produced
            concerned |= _reject(connection, claimed, produced, retain_for, now)
        case Verdict.ENDED:
            concerned = claimed | produced
            staged.set_flag(connection, "hidden", produced)
        case _:
            assert_never(verdict)
    return resolve(connection, staged.upstream(connection, concerned))


def resolve(connection: sqlite3.Connection, concerned: Collection[bytes]) -> Plan:
    """What is to be done about entries whose claims or flags have changed."""
    standing = staged.standings(connection, concerned)
    free: dict[bytes, bool] = {}

    def is_free(id_: bytes) -> bool:
        if id_ not in free:
            free[id_] = not staged.in_use(connection, id_)
        return free[id_]

    # A held entry that nobody uses any more releases all that waited for it, or takes it along.
    released = [
        entry.id
        for entry in standing.values()
        if entry.held and not entry.decided
        if is_free(entry.id)
    ]
    failed = [id_ for id_ in released if standing[id_].poisoned or not standing[id_].approved]
    if failed:
        staged.set_flag(connection, "poisoned", _undecided(connection, failed))
    if released:
        standing = staged.standings(
            connection, {*concerned, *staged.downstream(connection, released)}
        )
    commit, waiting = [], 0
    for entry in standing.values():
        if not entry.approved or entry.poisoned or entry.decided:
            continue
        sources = staged.standings(connection, staged.upstream(connection, [entry.id]))
        if any(s.held and not s.decided and not is_free(s.id) for s in sources.values()):
            waiting += 1
        else:
            commit.append(entry)
    drop = frozenset(
        entry.id
        for entry in standing.values()
        if (entry.poisoned or (entry.hidden and not entry.approved))
        and not entry.decided
        and not entry.retained_for
        and is_free(entry.id)
    )
    return Plan(tuple(commit), drop, waiting)


def _ids_where(
    connection: sqlite3.Connection,
    table: str,
    column: str,
    claimants: Collection[bytes],
    run: str,
) -> set[bytes]:
    names = list(claimants)
    rows = connection.execute(
        f"SELECT id FROM {table} WHERE {column} IN ({marks(names)}) AND run = ?", (*names, run)
    )
    return {id_ for (id_,) in rows}


def _approve(connection: sqlite3.Connection, standing: Collection[Standing]) -> None:
    """Approves what is not poisoned. What is, a passing test had the use of, and no more."""
    staged.set_flag(connection, "approved", [e.id for e in standing if not e.poisoned])


def _reject(
    connection: sqlite3.Connection,
    claimed: set[bytes],
    produced: set[bytes],
    retain_for: bytes,
    now: float,
) -> set[bytes]:
    """Poisons the held entries a failed claimant used, and hides or retains those it produced;
    all entries that were poisoned."""
    standing = staged.standings(connection, claimed | produced)
    own = {
        id_
        for id_ in produced
        if retain_for and standing[id_].retryable
        if not standing[id_].decided and not standing[id_].approved
    }
    guilty = [id_ for id_ in claimed if id_ in standing and standing[id_].held and id_ not in own]
    poisoned = _undecided(connection, guilty)
    staged.set_flag(connection, "poisoned", poisoned)
    staged.set_flag(connection, "hidden", produced)
    retained = {id_ for id_ in own if id_ not in poisoned and not standing[id_].poisoned}
    for id_ in retained:
        # Out of the run's own affairs from now on: a retry of this test decides about it.
        connection.execute(
            "UPDATE staged SET retained_for = ?, retained_at = ?, held = 0 WHERE id = ?",
            (retain_for, now, id_),
        )
    return poisoned


def _undecided(connection: sqlite3.Connection, ids: Collection[bytes]) -> set[bytes]:
    """The entries and all that derive from them, but for those being committed."""
    standing = staged.standings(connection, staged.downstream(connection, ids))
    return {entry.id for entry in standing.values() if not entry.decided}


__all__ = ["Plan", "Verdict", "conclude", "resolve"]
