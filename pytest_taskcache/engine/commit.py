"""What happens when a transaction ends: entries settle, locks go, hooks run."""

from __future__ import annotations

from pytest_taskcache.engine.cache import Engine
from pytest_taskcache.engine.open_computations import run_hooks
from pytest_taskcache.model.event import Committed, Faulted, RolledBack
from pytest_taskcache.transactions.settlement import Verdict
from pytest_taskcache.transactions.transaction import (
    CommitMode,
    Transaction,
    TransactionState,
    TransactionStateError,
)


def commit(transaction: Transaction, engine: Engine | None, *, by_hand: bool = False) -> None:
    """Ends a transaction well. A LAZY savepoint hands all it holds to its parent; an OFF one
    rolls back unless ``by_hand``; the others make their entries visible, all or none, and roll
    back where the storage fails. In a forked child nothing happens: the parent goes on with its
    own."""
    if engine is not None and engine.is_forked():
        transaction.end(TransactionState.COMMITTED)
        return
    if transaction.mode is CommitMode.OFF and not by_hand:
        roll_back(transaction, engine, reason="commit mode OFF")
        return
    if not transaction.owns_claims:
        if transaction.state is TransactionState.OPEN:
            _hand_over(transaction, engine)
        return
    if not transaction.end(TransactionState.COMMITTED):
        return
    if engine is not None and transaction.used:
        with engine.quiet():
            count = _settle(transaction, engine)
        if count is None:
            transaction.state = TransactionState.ROLLED_BACK
            _give_up(transaction, engine, "commit failed")
            return
        if count:
            engine.notify(Committed(count, transaction.label))
    _finish(transaction, engine)


def roll_back(
    transaction: Transaction, engine: Engine | None, *, reason: str = "", retain_for: str = ""
) -> None:
    """Ends a transaction badly: nothing it staged is ever visible to others. ``retain_for``
    keeps what was asked to survive for a retry of the test of that name."""
    if not transaction.end(TransactionState.ROLLED_BACK) or (
        engine is not None and engine.is_forked()
    ):
        return
    if engine is not None and transaction.owns_claims:
        _give_up(transaction, engine, reason, retain_for)
        return
    if engine is not None and transaction.entries:
        with engine.quiet():
            dropped = engine.recorder.drop(transaction.entries, transaction.claimant)
        if not dropped:
            transaction.owner().doomed += transaction.entries
            engine.lookup.dead.update(transaction.entries)
    _finish(transaction, engine)


def end_of_scope(transaction: Transaction, engine: Engine) -> None:
    """Ends the transaction of a wider-scoped fixture: the tests that used it have decided."""
    if not transaction.end(TransactionState.COMMITTED) or engine.is_forked():
        return
    if transaction.used:
        with engine.quiet():
            count = engine.recorder.settle(transaction.claimant, Verdict.ENDED)
        if count:
            engine.notify(Committed(count, transaction.label))
    _finish(transaction, engine)


def _hand_over(transaction: Transaction, engine: Engine | None) -> None:
    try:
        transaction.hand_to_parent()
    except TransactionStateError:
        # It outlived the one around it, in a thread: nobody is left to commit what it holds.
        roll_back(transaction, engine, reason="the transaction around it had ended")


def _settle(transaction: Transaction, engine: Engine) -> int | None:
    """How many records became visible; None if the storage failed, and none did."""
    _drop_what_was_lost(transaction, engine)
    if transaction.doomed and not engine.recorder.drop(transaction.doomed, transaction.claimant):
        return None
    return engine.recorder.settle(transaction.claimant, Verdict.PASSED)


def _give_up(
    transaction: Transaction, engine: Engine, reason: str = "", retain_for: str = ""
) -> None:
    if transaction.used:
        with engine.quiet():
            count = engine.recorder.settle(
                transaction.claimant, Verdict.FAILED, retain_for=retain_for
            )
        if count is None:
            engine.lookup.dead.update(transaction.entries)
        dropped = max(count or 0, len(transaction.entries))
        engine.notify(RolledBack(dropped, transaction.label, reason))
    _finish(transaction, engine)


def _drop_what_was_lost(transaction: Transaction, engine: Engine) -> None:
    """Fencing: an entry whose lock was lost meanwhile is not committed, because someone else
    may have computed, and committed, the same key since."""
    for entry, lease in transaction.leases.items():
        if not engine.locks.still_held(lease):
            if not engine.recorder.drop([entry], transaction.claimant):
                transaction.doomed.append(entry)
            engine.notify(Faulted("lock lost before commit", transaction.label))


def _finish(transaction: Transaction, engine: Engine | None) -> None:
    """Gives the locks back, and runs the hooks."""
    if engine is not None:
        for lease in transaction.leases.values():
            engine.locks.release(lease)
        transaction.leases.clear()
    run_hooks(transaction, engine.notify if engine is not None else None)
