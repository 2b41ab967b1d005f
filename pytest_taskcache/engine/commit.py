"""What happens when a transaction ends: entries settle, locks go, hooks run."""

from __future__ import annotations

from pytest_taskcache.engine.cache import Engine
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
    elif transaction.mode is CommitMode.OFF and not by_hand:
        roll_back(transaction, engine, reason="commit mode OFF")
    elif transaction.owns_claims:
        if not transaction.end(TransactionState.COMMITTED):
            return
        if engine is not None and not _published(transaction, engine, Verdict.PASSED):
            transaction.state = TransactionState.ROLLED_BACK
            _dropped(transaction, engine, "commit failed")
        _finish(transaction, engine)
    elif transaction.is_active():
        try:
            transaction.hand_to_parent()
        except TransactionStateError:
            # It outlived the one around it, in a thread: nobody is left to commit what it holds.
            roll_back(transaction, engine, reason="the transaction around it had ended")


def roll_back(
    transaction: Transaction, engine: Engine | None, *, reason: str = "", retain_for: str = ""
) -> None:
    """Ends a transaction badly: nothing it staged is ever visible to others. ``retain_for``
    keeps what was asked to survive for a retry of the test of that name."""
    if not transaction.end(TransactionState.ROLLED_BACK):
        return
    if engine is not None and engine.is_forked():
        return
    if engine is not None:
        _dropped(transaction, engine, reason, retain_for)
    _finish(transaction, engine)


def end_of_scope(transaction: Transaction, engine: Engine) -> None:
    """Ends the transaction of a wider-scoped fixture: the tests that used it have decided."""
    if transaction.end(TransactionState.COMMITTED) and not engine.is_forked():
        _published(transaction, engine, Verdict.ENDED)
        _finish(transaction, engine)


def _published(transaction: Transaction, engine: Engine, verdict: Verdict) -> bool:
    """Makes what it holds visible; False if the storage failed, and nothing is."""
    if not transaction.used:
        return True
    name, recorder = transaction.claimant, engine.recorder
    with engine.quiet():
        if verdict is Verdict.PASSED:
            _drop_what_was_lost(transaction, engine)
            if transaction.doomed and not recorder.drop(transaction.doomed, name):
                return False
        count = recorder.settle(name, verdict)
    if count:
        engine.notify(Committed(count, transaction.label))
    return count is not None


def _dropped(transaction: Transaction, engine: Engine, reason: str, retain_for: str = "") -> None:
    entries, owns_claims = transaction.entries, transaction.owns_claims
    if not (transaction.used if owns_claims else entries):
        return
    name, recorder = transaction.claimant, engine.recorder
    with engine.quiet():
        if owns_claims:
            count = recorder.settle(name, Verdict.FAILED, retain_for=retain_for)
        else:
            count = 0 if recorder.drop(entries, name) else None
    if count is None:
        engine.lookup.dead.update(entries)
    if owns_claims:
        dropped = max(count or 0, len(entries))
        engine.notify(RolledBack(dropped, transaction.label, reason))
    elif count is None:
        transaction.owner().doomed += entries


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
    transaction.run_hooks(engine.notify if engine is not None else None)
