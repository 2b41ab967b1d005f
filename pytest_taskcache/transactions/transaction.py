"""The tree of transactions: pure bookkeeping, no I/O; and which is the innermost one from here.

A transaction knows which staged entries it holds, which locks, which hooks and data, and what
becomes of them when it ends. Writing, dropping and unlocking is done by whoever ends it, by what
`engine.active` says.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import ContextVar
from enum import StrEnum
from typing import Any, TypeAlias

from pytest_taskcache.dataclass import dataclass, field
from pytest_taskcache.errors import ConfigurationError, TaskCacheError
from pytest_taskcache.model.event import Event, Faulted
from pytest_taskcache.ports import Lease

_MISSING = object()


class CommitMode(StrEnum):
    """When a transaction's entries become visible to others.

    ``LAZY``: with the outermost transaction (the default). ``EAGER``: at its own exit, whatever
    becomes of the outer ones. ``OFF``: never, unless committed by hand.
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


class TransactionState(StrEnum):
    """Where a transaction is in its life."""

    OPEN = "open"
    COMMITTED = "committed"
    ROLLED_BACK = "rolled back"


class TransactionError(TaskCacheError):
    """A transaction was asked for what it cannot do.

    Attributes:
        problem: what is wrong.
        remedy: what to do instead.
    """

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(problem, remedy)
        self.problem = problem
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.problem}; {self.remedy}"


class TransactionStateError(TransactionError):
    """A transaction that has ended was used again.

    Attributes:
        state: how it ended.
    """

    def __init__(self, state: str) -> None:
        super().__init__(
            f"this transaction has already {state}", "open a new one with transaction()"
        )
        self.args = (state,)
        self.state = state


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
    state: TransactionState = TransactionState.OPEN
    entries: list[str] = field(default_factory=list)
    leases: dict[str, Lease] = field(default_factory=dict)
    committing: list[tuple[Hook, Transaction]] = field(default_factory=list)
    rolling_back: list[tuple[Hook, Transaction]] = field(default_factory=list)
    """The hooks, each with the transaction it was registered on, which it is called with."""
    touched: bool = False
    awaiting: list[Awaitable[object]] | None = None
    """Where an asynchronous end wants what the hooks return that is to be awaited."""
    guard: threading.RLock = field(default_factory=threading.RLock, repr=False)
    _data: dict[str, object] = field(default_factory=dict, repr=False)
    by_hand = False
    """Whether a user opened it, and pytest did not for a test or a fixture."""
    key = ""
    """The key that it was opened with, or ""."""
    is_stored = False
    """Whether the key had a record when it began."""

    def is_active(self) -> bool:
        """Whether it is open."""
        return self.state is TransactionState.OPEN

    def is_committed(self) -> bool:
        """Whether its key had a record when it began (then `read` returns the value, and there
        is nothing to do), or it has committed since."""
        return self.is_stored or self.state is TransactionState.COMMITTED

    def is_staged(self) -> bool:
        """Whether a value was staged by hand and the transaction is still open."""
        return False

    def is_rolled_back(self) -> bool:
        """Whether it has rolled back."""
        return self.state is TransactionState.ROLLED_BACK

    def read(self) -> object:
        """The value of its key, freshly decoded: the stored one, or what was staged here. Raises
        TransactionError where there is none, or no key."""
        raise _is_pytests("read()")

    def stage(self, value: object) -> None:
        """Takes the value of its key, which is serialized now and becomes visible to others with
        the commit. Raises TransactionError without a key, a second time, and once it has ended.
        """
        raise _is_pytests("stage()")

    def commit(self) -> None:
        """Commits now, before the end of its block: the only way that one with `CommitMode.OFF`
        commits. Raises TransactionStateError if it has ended, and TransactionError in another
        thread or task than it was opened in; then it stays as it is."""
        raise _is_pytests("commit()")

    def rollback(self) -> None:
        """Rolls back now, before the end of its block. Raises as `commit`."""
        raise _is_pytests("rollback()")

    def set(self, name: str, value: object) -> None:
        """Keeps something for its hooks and for the transactions nested in it. It is stored
        nowhere. Raises TransactionStateError once it has ended."""
        self.require_open()
        self._data[name] = value

    def get(self, name: str, default: object = _MISSING) -> object:
        """What `set` kept under a name here or in a transaction around. Raises TransactionError
        where there is none and no default is given."""
        known, outer = self._data, self.parent
        while outer is not None:
            known, outer = outer._data | known, outer.parent
        if name in known:
            return known[name]
        if default is _MISSING:
            names = ", ".join(map(repr, known)) or "nothing"
            raise TransactionError(
                f"nothing was set under {name!r}, only {names}", "set it first, or give a default"
            )
        return default

    @property
    def owns_claims(self) -> bool:
        """Whether its entries are settled at its own exit rather than with its parent."""
        return self.parent is None or self.mode is CommitMode.EAGER

    @property
    def used(self) -> bool:
        """Whether it has entries or claims to settle, or locks to release."""
        return self.touched or bool(self.entries or self.leases)

    @property
    def root(self) -> Transaction:
        """The outermost one around it."""
        return self if self.parent is None else self.parent.root

    def is_held(self) -> bool:
        """Whether what it took is still, or was until it rolled back, in a block of a user's."""
        if not self.by_hand or self.state is not TransactionState.COMMITTED:
            return self.by_hand
        return self.parent is not None and not self.owns_claims and self.parent.is_held()

    def touch(self) -> None:
        """Notes a claim on an entry of another transaction."""
        self.touched = True
        if self.parent is not None and not self.owns_claims:
            self.parent.touch()

    def nest_in(self, outer: Transaction) -> None:
        """Makes it a savepoint of another one. Raises TransactionStateError if that has ended."""
        outer.require_open()
        self.parent, self.label = outer, self.label or outer.label
        if self.mode is not CommitMode.EAGER:
            self.claimant = outer.claimant

    def require_open(self) -> None:
        """Raises TransactionStateError unless open."""
        if self.state is not TransactionState.OPEN:
            raise TransactionStateError(self.state)

    def hold(self, entry: str, lease: Lease | None = None) -> None:
        """Takes a staged entry, and the lock it was computed under, into this transaction.
        Raises TransactionStateError if it has ended meanwhile."""
        with self.guard:
            self.require_open()
            self.entries.append(entry)
            if lease is not None:
                self.leases[entry] = lease

    def on_commit(self, hook: Hook) -> Hook:
        """Has ``hook(transaction)`` called, or awaited, once everything is visible; a decorator."""
        self.require_open()
        self.committing.append((hook, self))
        return hook

    def on_rollback(self, hook: Hook) -> Hook:
        """Has ``hook(transaction)`` called when this, or one around it, rolls back; the hooks
        registered last run first. Usable as a decorator."""
        self.require_open()
        self.rolling_back.append((hook, self))
        return hook

    def end(self, state: TransactionState) -> bool:
        """Ends this transaction; False if it had ended before."""
        with self.guard:
            if self.state is not TransactionState.OPEN:
                return False
            self.state = state
            return True

    def hand_to_parent(self) -> None:
        """Ends a LAZY savepoint well: its parent has all it holds. Raises TransactionStateError."""
        parent = self.parent
        if parent is None:
            raise TransactionStateError(self.state)
        with self.guard, parent.guard:
            parent.require_open()
            parent.entries += self.entries
            parent.leases |= self.leases
            parent.committing += self.committing
            parent.rolling_back += self.rolling_back
            self.state = TransactionState.COMMITTED
            self.entries, self.leases = [], {}
            self.committing, self.rolling_back = [], []

    def run_hooks(self, notify: Callable[[Event], None] | None) -> None:
        """Calls each hook of the way it ended once; what one raises is notified, or logged where
        there is no engine, and breaks nothing.

        KeyboardInterrupt and SystemExit are not a hook's failure and pass through.
        """
        kind, hooks = "commit", self.committing
        if self.state is not TransactionState.COMMITTED:
            kind, hooks = "rollback", self.rolling_back[::-1]
            for _, transaction in hooks:
                transaction.state = TransactionState.ROLLED_BACK

        def report(hook: Hook, error: Exception) -> None:
            name = getattr(hook, "__qualname__", repr(hook))
            text = f"{name}: {type(error).__name__}: {error}"
            if notify is None:
                import logging  # takes long to import, and few need it

                logging.getLogger("pytest_taskcache").warning("%s hook failed: %s", kind, text)
            else:
                notify(Faulted(f"{kind} hook failed", text))

        async def finish(hook: Hook, returned: Awaitable[object]) -> None:
            try:
                await returned
            except Exception as error:  # as below
                report(hook, error)

        for hook, transaction in hooks:
            try:
                returned = hook(transaction)
                if inspect.isawaitable(returned):
                    self._await(finish(hook, returned), returned)
            except Exception as error:  # a user's hook may raise anything; the commit stands
                report(hook, error)

    def _await(self, finishing: Coroutine[Any, Any, None], returned: Awaitable[object]) -> None:
        if self.awaiting is not None:
            self.awaiting.append(finishing)
            return
        import asyncio

        try:
            asyncio.get_running_loop()
        except RuntimeError:
            asyncio.run(finishing)
            return
        for each in (finishing, returned):
            if inspect.iscoroutine(each):
                each.close()
        raise TransactionError(
            "it is asynchronous, and this transaction ends inside a running event loop",
            "open the transaction with `async with`",
        )


def _is_pytests(what: str) -> TransactionError:
    return TransactionError(
        f"{what}: this is the transaction of a test or fixture, which pytest ends",
        "open one of your own with transaction()",
    )


_nested: ContextVar[tuple[tuple[object, Transaction], ...]] = ContextVar(
    "pytest_taskcache_transactions", default=()
)
"""The transactions entered in this thread or task, each with its engine; the innermost last."""


def enter(engine: object | None, transaction: Transaction) -> None:
    """Makes a transaction the innermost one of this thread or task, until `leave`."""
    _nested.set((*_nested.get(), (engine, transaction)))


def leave(transaction: Transaction) -> None:
    """Ends what `enter` began."""
    # Not by a token: fixtures are torn down in another order than they were set up, and async
    # generators closed in another context, which never had it.
    _nested.set(tuple(pair for pair in _nested.get() if pair[1] is not transaction))


def innermost(engine: object | None, root: Transaction | None) -> Transaction | None:
    """The innermost open transaction of an engine as seen from here, or None.

    ``root`` is that of the test or fixture which is running. A transaction that was opened
    somewhere else and is still open (by a fixture of a wider scope, while tests run) is none of
    its business.
    """
    nested = _nested.get()
    for owner, entered_last in reversed(nested) if nested else ():
        if owner is not engine:
            continue
        outermost = entered_last.root
        if outermost is not root and (root is not None or not outermost.by_hand):
            continue
        transaction: Transaction | None = entered_last
        while transaction is not None:
            if transaction.state is TransactionState.OPEN:
                return transaction
            transaction = transaction.parent
    return root
