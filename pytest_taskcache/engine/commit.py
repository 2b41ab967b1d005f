"""What happens when a transaction ends: entries settle, locks go, hooks run."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from pytest_taskcache.engine.lookup import Lookup
from pytest_taskcache.engine.recorder import Recorder
from pytest_taskcache.engine.wait_policy import Locks
from pytest_taskcache.model.event import Committed, Event, Faulted, RolledBack
from pytest_taskcache.transactions.staging import Verdict
from pytest_taskcache.transactions.transaction import (
    CommitMode,
    Hook,
    State,
    Transaction,
    TransactionStateError,
)

_log = logging.getLogger("pytest_taskcache")


class Committer(Protocol):
    """The parts of an engine that the end of a transaction needs."""

    recorder: Recorder
    lookup: Lookup
    locks: Locks

    def notify(self, event: Event) -> None:
        """Tells every observer."""

    def quiet(self) -> AbstractContextManager[None]:
        """A context for the cache's own work."""

    def is_forked(self) -> bool:
        """Whether this is a forked child."""

    def settle(self, claimant: str, verdict: Verdict, *, retain_for: str = "") -> int | None:
        """As `Recorder.settle`."""


def commit(transaction: Transaction, engine: Committer | None, *, by_hand: bool = False) -> None:
    """Ends a transaction well. A LAZY savepoint hands all it holds to its parent; an OFF one
    rolls back unless ``by_hand``; the others make their entries visible, all or none, and roll
    back where the storage fails. In a forked child nothing happens: the parent goes on with its
    own."""
    if engine is not None and engine.is_forked():
        transaction.end(State.COMMITTED)
        return
    if transaction.mode is CommitMode.OFF and not by_hand:
        roll_back(transaction, engine, reason="commit mode OFF")
        return
    if not transaction.owns_claims:
        if transaction.state is State.OPEN:
            _hand_over(transaction, engine)
        return
    if not transaction.end(State.COMMITTED):
        return
    if engine is not None and transaction.used:
        with engine.quiet():
            count = _settle(transaction, engine)
        if count is None:
            transaction.state = State.ROLLED_BACK
            _give_up(transaction, engine, "commit failed")
            return
        _release(transaction, engine)
        if count:
            engine.notify(Committed(count, transaction.label))
    _run(transaction, engine)


def roll_back(
    transaction: Transaction, engine: Committer | None, *, reason: str = "", retain_for: str = ""
) -> None:
    """Ends a transaction badly: nothing it staged is ever visible to others. ``retain_for``
    keeps what was asked to survive for a retry of the test of that name."""
    if not transaction.end(State.ROLLED_BACK) or (engine is not None and engine.is_forked()):
        return
    if engine is None:
        _run(transaction, engine)
    elif transaction.owns_claims:
        _give_up(transaction, engine, reason, retain_for)
    else:
        with engine.quiet():
            if transaction.entries and not engine.recorder.drop(
                transaction.entries, transaction.claimant
            ):
                transaction.owner().doomed += transaction.entries
                engine.lookup.dead.update(transaction.entries)
        _release(transaction, engine)
        _run(transaction, engine)


def done_alone(
    committing: Sequence[Hook], engine: Committer, *, label: str = "", claimant: str = ""
) -> None:
    """Runs the hooks of a computation that was committed by itself."""
    if committing:
        alone = Transaction(claimant, label)
        for hook in committing:
            alone.on_commit(hook)
        alone.end(State.COMMITTED)
        _run(alone, engine)


def end_of_scope(transaction: Transaction, engine: Committer) -> None:
    """Ends the transaction of a wider-scoped fixture: the tests that used it have decided."""
    if not transaction.end(State.COMMITTED) or engine.is_forked():
        return
    if transaction.used:
        with engine.quiet():
            count = engine.settle(transaction.claimant, Verdict.ENDED)
        _release(transaction, engine)
        if count:
            engine.notify(Committed(count, transaction.label))
    _run(transaction, engine)


def _hand_over(transaction: Transaction, engine: Committer | None) -> None:
    try:
        transaction.hand_to_parent()
    except TransactionStateError:
        # It outlived the one around it, in a thread: nobody is left to commit what it holds.
        roll_back(transaction, engine, reason="the transaction around it had ended")


def _settle(transaction: Transaction, engine: Committer) -> int | None:
    """How many records became visible; None if the storage failed, and none did."""
    _drop_what_was_lost(transaction, engine)
    if transaction.doomed and not engine.recorder.drop(transaction.doomed, transaction.claimant):
        return None
    return engine.settle(transaction.claimant, Verdict.PASSED)


def _give_up(
    transaction: Transaction, engine: Committer, reason: str = "", retain_for: str = ""
) -> None:
    if transaction.used:
        with engine.quiet():
            count = engine.settle(transaction.claimant, Verdict.FAILED, retain_for=retain_for)
        if count is None:
            engine.lookup.dead.update(transaction.entries)
        _release(transaction, engine)
        dropped = max(count or 0, len(transaction.entries))
        engine.notify(RolledBack(dropped, transaction.label, reason))
    _run(transaction, engine)


def _drop_what_was_lost(transaction: Transaction, engine: Committer) -> None:
    """Fencing: an entry whose lock was lost meanwhile is not committed, because someone else
    may have computed, and committed, the same key since."""
    for entry, lease in transaction.leases.items():
        if not engine.locks.still_held(lease):
            if not engine.recorder.drop([entry], transaction.claimant):
                transaction.doomed.append(entry)
            engine.notify(Faulted("lock lost before commit", transaction.label))


def _release(transaction: Transaction, engine: Committer) -> None:
    for lease in transaction.leases.values():
        engine.locks.release(lease)
    transaction.leases.clear()


def _run(transaction: Transaction, engine: Committer | None) -> None:
    if not (transaction.committing or transaction.rolling_back):
        return
    kind = "commit" if transaction.state is State.COMMITTED else "rollback"

    def report(name: str, error: BaseException) -> None:
        text = f"{name}: {type(error).__name__}: {error}"
        if engine is None:
            _log.warning("%s hook failed: %s", kind, text)
            return
        engine.notify(Faulted(f"{kind} hook failed", text))

    transaction.run_hooks(report)
