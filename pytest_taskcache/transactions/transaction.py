"""The tree of transactions: pure bookkeeping, no I/O.

A transaction knows which staged entries it holds, which locks, which hooks, and what becomes of
them when it ends. Writing, dropping and unlocking is done by whoever ends it, by what `ending`
says.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeAlias

from pytest_taskcache.errors import ConfigurationError, TaskCacheError
from pytest_taskcache.ports import Lease


class CommitMode(StrEnum):
    """When a transaction's entries become visible to others.

    ``LAZY``: with the outermost transaction (the default). ``EAGER``: at its own exit, whatever
    becomes of the outer ones. ``OFF``: never.
    """

    LAZY = "LAZY"
    EAGER = "EAGER"
    OFF = "OFF"

    @classmethod
    def parse(cls, value: CommitMode | str) -> CommitMode:
        """The mode of this name in any case. Raises ConfigurationError."""
        try:
            return cls(str(value).upper())
        except ValueError:
            known = ", ".join(cls)
            raise ConfigurationError("commit", f"{value!r} is no mode", f"use {known}") from None


class State(StrEnum):
    """Where a transaction is in its life."""

    OPEN = "open"
    COMMITTED = "committed"
    ROLLED_BACK = "rolled back"


class TransactionStateError(TaskCacheError):
    """A transaction that has ended was used again.

    Attributes:
        state: how it ended.
    """

    def __init__(self, state: str) -> None:
        super().__init__(state)
        self.state = state

    def __str__(self) -> str:
        return f"this transaction has already {self.state}; open a new one with transaction()"


Hook: TypeAlias = "Callable[[Transaction], object]"


@dataclass(eq=False)
class Transaction:
    """A set of staged computations with one fate.

    ``claimant`` is the name under which its entries are claimed in the staging area. A LAZY
    child shares its parent's; EAGER and outermost ones have their own. ``label`` is for people.
    ``entries`` are ids of staged records, ``leases`` the locks of those computed under one.
    """

    claimant: str
    label: str = ""
    mode: CommitMode = CommitMode.LAZY
    parent: Transaction | None = None
    state: State = State.OPEN
    entries: list[str] = field(default_factory=list)
    leases: dict[str, Lease] = field(default_factory=dict)
    committing: list[Hook] = field(default_factory=list)
    rolling_back: list[Hook] = field(default_factory=list)
    touched: bool = False
    doomed: list[str] = field(default_factory=list)
    """Entries of a savepoint that failed and could not be dropped then."""
    guard: threading.RLock = field(default_factory=threading.RLock, repr=False)

    @property
    def owns_claims(self) -> bool:
        """Whether its entries are settled at its own exit rather than with its parent."""
        return self.parent is None or self.mode is CommitMode.EAGER

    @property
    def used(self) -> bool:
        """Whether it has entries or claims to settle, or locks to release."""
        return self.touched or bool(self.entries or self.leases)

    def touch(self) -> None:
        """Notes a claim on an entry of another transaction."""
        self.touched = True
        if not self.owns_claims and self.parent is not None:
            self.parent.touch()

    def child(self, claimant: str, mode: CommitMode) -> Transaction:
        """A nested transaction: a savepoint. Raises TransactionStateError if this has ended."""
        self.require_open()
        name = claimant if mode is CommitMode.EAGER else self.claimant
        return Transaction(name, self.label, mode, self)

    def require_open(self) -> None:
        """Raises TransactionStateError unless open."""
        if self.state is not State.OPEN:
            raise TransactionStateError(self.state)

    def stage(self, entry: str, lease: Lease | None = None) -> None:
        """Takes a staged entry, and the lock it was computed under, into this transaction.
        Raises TransactionStateError if it has ended meanwhile."""
        with self.guard:
            self.require_open()
            self.entries.append(entry)
            if lease is not None:
                self.leases[entry] = lease

    def on_commit(self, hook: Hook) -> Hook:
        """Has ``hook(transaction)`` called once everything is visible. Usable as a decorator."""
        self.require_open()
        self.committing.append(hook)
        return hook

    def on_rollback(self, hook: Hook) -> Hook:
        """Has ``hook(transaction)`` called when this, or one around it, rolls back; the hooks
        registered last run first. Usable as a decorator."""
        self.require_open()
        self.rolling_back.append(hook)
        return hook

    def end(self, state: State) -> bool:
        """Ends this transaction; False if it had ended before."""
        with self.guard:
            if self.state is not State.OPEN:
                return False
            self.state = state
            return True

    def owner(self) -> Transaction:
        """The innermost transaction around, or this one, that settles its own entries."""
        owner = self
        while not owner.owns_claims and owner.parent is not None:
            owner = owner.parent
        return owner

    def hand_to_parent(self) -> None:
        """Ends a LAZY savepoint well: all it holds becomes its parent's. Raises
        TransactionStateError if that has ended."""
        parent = self.parent
        if parent is None:
            raise TransactionStateError(self.state)
        with self.guard, parent.guard:
            parent.require_open()
            parent.entries += self.entries
            parent.leases |= self.leases
            parent.committing += self.committing
            parent.rolling_back += self.rolling_back
            self.state = State.COMMITTED
            self.entries, self.leases = [], {}
            self.committing, self.rolling_back = [], []
