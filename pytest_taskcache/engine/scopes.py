"""`with transaction():` for users, and the endings of every transaction."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager

from pytest_taskcache.engine import active
from pytest_taskcache.engine.ending import commit, roll_back
from pytest_taskcache.transactions.transaction import CommitMode, Transaction

_numbers = itertools.count(1)


@contextmanager
def transaction(
    commit_mode: CommitMode | str = CommitMode.LAZY, *, label: str = ""
) -> Iterator[Transaction]:
    """A transaction: commits on exit, rolls back on an exception, which it lets through.

    Nested in another one it is a savepoint: if its failure is caught, the outer one lives on.
    Without an active cache nothing is staged, and its hooks still run. Raises
    ConfigurationError for an unknown mode.
    """
    mode = CommitMode.parse(commit_mode)
    engine = active.active()
    outer = active.current_transaction(engine)
    name = f"{engine.worker if engine else 'none'}/transaction/{next(_numbers)}"
    if engine is not None:
        name += f"@{engine.process}"
    inner = outer.child(name, mode) if outer is not None else Transaction(name, label, mode)
    try:
        with active.entered(engine, inner):
            yield inner
    except BaseException:
        roll_back(inner, engine)
        raise
    commit(inner, engine)


def get_transaction() -> Transaction | None:
    """The innermost open transaction, or None."""
    return active.current_transaction(active.active())
