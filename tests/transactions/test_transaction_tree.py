"""The bookkeeping of transactions by itself: no cache, no I/O."""

from __future__ import annotations

import pytest

from pytest_taskcache.ports import Holder, Lease
from pytest_taskcache.transactions.transaction import (
    CommitMode,
    Transaction,
    TransactionState,
    TransactionStateError,
)


def lease(key: str) -> Lease:
    return Lease(key, Holder("run", 0.0, "1@here", "1"), 1)


def child(outer: Transaction, name: str, mode: CommitMode) -> Transaction:
    inner = Transaction(name, mode=mode)
    inner.nest_in(outer)
    return inner


def test_a_lazy_child_shares_its_parents_claims():
    """An EAGER one has its own, and so has the outermost."""
    outer = Transaction("outer")
    assert child(outer, "inner", CommitMode.LAZY).claimant == "outer"
    assert child(outer, "inner", CommitMode.OFF).claimant == "outer"
    assert child(outer, "inner", CommitMode.EAGER).claimant == "inner"
    assert child(outer, "inner", CommitMode.EAGER).owns_claims


def test_a_child_hands_all_it_holds_to_its_parent():
    """Entries, locks and hooks, in order; and then holds nothing."""
    outer = Transaction("outer", entries=["a"])
    inner = child(outer, "inner", CommitMode.LAZY)
    inner.hold("b", lease("key"))
    inner.on_commit(print)
    inner.hand_to_parent()
    assert outer.entries == ["a", "b"]
    assert outer.leases == {"b": lease("key")}
    assert outer.committing == [(print, inner)]
    assert inner.state is TransactionState.COMMITTED
    assert not inner.used


def test_a_parent_that_has_ended_takes_nothing():
    """Nor does it open children, nor stage."""
    outer = Transaction("outer")
    inner = child(outer, "inner", CommitMode.LAZY)
    assert outer.end(TransactionState.COMMITTED)
    assert not outer.end(TransactionState.ROLLED_BACK)
    for use in (
        inner.hand_to_parent,
        lambda: outer.hold("x"),
        lambda: child(outer, "c", CommitMode.LAZY),
    ):
        with pytest.raises(TransactionStateError, match="already committed"):
            use()


def test_a_claim_on_anothers_entry_counts_as_use():
    """Of all transactions that share the claims."""
    outer = Transaction("outer")
    child(outer, "x", CommitMode.LAZY).touch()
    assert outer.used
    other = Transaction("other")
    child(other, "x", CommitMode.EAGER).touch()
    assert not other.used


def test_a_failing_hook_is_reported_and_goes_on():
    """Only what is not an Exception passes through."""
    told = []

    def failing(transaction):
        raise ValueError("no")

    def interrupted(transaction):
        raise KeyboardInterrupt

    transaction = Transaction("t")
    transaction.on_commit(failing)
    transaction.on_commit(told.append)
    transaction.end(TransactionState.COMMITTED)
    transaction.run_hooks(lambda event: told.append(event.detail))
    assert told == [f"{failing.__qualname__}: ValueError: no", transaction]
    transaction = Transaction("t")
    transaction.on_commit(interrupted)
    transaction.end(TransactionState.COMMITTED)
    with pytest.raises(KeyboardInterrupt):
        transaction.run_hooks(None)


def test_errors_survive_pickling():
    """pytest-xdist carries them between processes."""
    import pickle

    error = pickle.loads(pickle.dumps(TransactionStateError("committed")))
    assert "open a new one" in str(error)
