"""The one process-wide slot: which engine is active; ``with transaction():`` for users; and what
happens when a transaction ends: entries settle, locks go, hooks run.

A test's root transaction hangs on the engine and is seen by every thread; transactions nested
in it live in a context variable above it. Engines nest (a test of a pytest plugin runs pytest),
so the slot is a stack.
"""

from __future__ import annotations

import itertools
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeAlias

from pytest_taskcache.engine.cache import Attempt, Engine
from pytest_taskcache.engine.computation import Computation, Options
from pytest_taskcache.engine.lookup import Found
from pytest_taskcache.engine.routes import LostResultError
from pytest_taskcache.errors import ConfigurationError, StorageError
from pytest_taskcache.model.event import Committed, Faulted, RolledBack, Subject
from pytest_taskcache.model.key import Identity
from pytest_taskcache.model.modes import IsolationLevel
from pytest_taskcache.model.record import Variant
from pytest_taskcache.policies.algebra import CachePolicy, LockSpec, StorageSpec
from pytest_taskcache.ports import Serializer
from pytest_taskcache.transactions.settlement import Verdict
from pytest_taskcache.transactions.transaction import (
    CommitMode,
    Transaction,
    TransactionError,
    TransactionState,
    TransactionStateError,
    enter,
    innermost,
    leave,
)

Provider: TypeAlias = "Callable[[], Engine | None]"

_providers: list[Provider] = []
_numbers = itertools.count(1)


def activate(provider: Provider) -> None:
    """Makes a provider's engine the active one until it is deactivated. The provider is called
    each time, and may compose its engine when it is first asked."""
    _providers.append(provider)


def deactivate(provider: Provider) -> None:
    """Takes a provider out of the slot; the one below becomes active again."""
    if provider in _providers:
        _providers.remove(provider)


def active() -> Engine | None:
    """The active engine, or None: then nothing is cached."""
    return _providers[-1]() if _providers else None


def get_transaction() -> Transaction | None:
    """The innermost open transaction, or None."""
    return _current(active())


def _current(engine: Engine | None) -> Transaction | None:
    return engine.current() if engine is not None else innermost(None, None)


def transaction(
    commit_mode: CommitMode | str = CommitMode.LAZY,
    *,
    key: str | None = None,
    label: str = "",
    isolation_level: IsolationLevel | str | None = None,
    lock_manager: LockSpec | None = None,
    overwrite: bool = False,
    expiration: timedelta | None = None,
    serializer: str | Serializer | None = None,
    key_storage: StorageSpec | None = None,
    result_storage: StorageSpec | None = None,
) -> TransactionBlock:
    """A transaction, for ``with`` or ``async with``: commits on exit, rolls back on an
    exception, which it lets through.

    Nested in another one it is a savepoint: if its failure is caught, the outer one lives on.
    Without an active cache nothing is staged, and its hooks still run.

    With a ``key`` it is an idempotent block: ``txn.is_committed()`` says whether the key has a
    record, ``txn.read()`` returns its value, ``txn.stage(value)`` gives it one. The author
    vouches for it: no dependency is verified. SERIALIZABLE holds the key's lock from the
    beginning to the end. ``overwrite`` begins as if there were no record.

    Raises ConfigurationError for an unknown mode or level, a key that is no text, and settings
    that mean nothing without a key.
    """
    mode = CommitMode.parse(commit_mode)
    policy: dict[str, Any] = {
        "isolation_level": isolation_level,
        "lock_manager": lock_manager,
        "key_storage": key_storage,
    }
    more = {"expiration": expiration, "serializer": serializer, "result_storage": result_storage}
    if key is None:
        _refuse_without_key(policy | more | {"overwrite": overwrite or None})
        return TransactionBlock(mode, label, None)
    options: Any = {"policy": CachePolicy(**policy), "refresh": overwrite, **more}
    return TransactionBlock(mode, label or key, Options(key=key, **options))


def _refuse_without_key(given: Mapping[str, object]) -> None:
    for name, value in given.items():
        if value is not None:
            raise ConfigurationError(
                f"transaction({name}=...)",
                "a transaction without a key has no record of its own",
                "give key= too, or leave it out",
            )


class TransactionBlock(Transaction):
    """A transaction that a user opened, to be entered once; with a key it is also a computation,
    which the user does."""

    by_hand = True

    def __init__(self, mode: CommitMode, label: str, options: Options | None) -> None:
        super().__init__("", label, mode)
        self.key = (options.key or "") if options is not None else ""
        self._options = options
        self._engine: Engine | None = None
        self._home: tuple[int, object] | None = None
        self._found: Found | None = None
        self._attempt: Attempt | None = None
        self._staged: tuple[object, Variant | None] | None = None

    def __enter__(self) -> Transaction:
        wanted = self._begin()
        if wanted is not None:
            with self._failing():
                self._take(wanted[0].open(wanted[1]))
        return self

    async def __aenter__(self) -> Transaction:
        wanted = self._begin()
        self.awaiting = []
        if wanted is not None:
            with self._failing():
                self._take(await wanted[0].open_async(wanted[1]))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        leave(self)
        self._end(failed=kind is not None)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: object, trace: object
    ) -> None:
        self.__exit__(kind, error, trace)
        while self.awaiting:
            await self.awaiting.pop(0)

    def _begin(self) -> tuple[Engine, Computation] | None:
        """Enters it. What is to be asked of which engine, where it has a key."""
        if self._home is not None:
            raise TransactionError(
                "this transaction was entered before", "call transaction() for each"
            )
        engine = self._engine = active()
        worker, process = (engine.worker, f"@{engine.process}") if engine else ("none", "")
        self.claimant = f"{worker}/transaction/{next(_numbers)}{process}"
        outer = _current(engine)
        if outer is not None:
            self.nest_in(outer)
        self._home = _here()
        enter(engine, self)
        if engine is None or self._options is None:
            return None
        identity, test = Identity("", f"transaction {self.key}"), engine.place.test
        context = engine.context(Subject.FUNCTION, identity, transaction)
        return engine, Computation(context, {}, self._options, test=test, block=True)

    @contextmanager
    def _failing(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            self.__exit__(type(error), error, None)
            raise

    def _take(self, opened: Found | Attempt) -> None:
        if isinstance(opened, Attempt):
            self._attempt = opened
        else:
            self._found, self.is_stored = opened, True

    def _end(self, *, failed: bool, by_hand: bool = False) -> None:
        attempt, self._attempt = self._attempt, None
        if attempt is not None and self._engine is not None:
            self._engine.abandon(attempt)
        if failed:
            roll_back(self, self._engine, reason="by hand" if by_hand else "")
        else:
            commit(self, self._engine, by_hand=by_hand)

    def is_staged(self) -> bool:
        """As Transaction.is_staged."""
        return self.is_active() and self._staged is not None

    def stage(self, value: object) -> None:
        """As Transaction.stage."""
        self.require_open()
        self._require_key("stage")
        if self._found is not None:
            raise TransactionError(
                f"the key {self.key!r} has a value already",
                "ask txn.is_committed() first, or open it with overwrite=True",
            )
        if self._staged is not None:
            raise TransactionError(
                f"a value of {self.key!r} is staged already", "stage one, when it is complete"
            )
        variant = None
        attempt, self._attempt = self._attempt, None
        if attempt is not None and self._engine is not None:
            variant = self._engine.complete(attempt, value, transaction=self).variant
        self._staged = value, variant

    def read(self) -> object:
        """As Transaction.read."""
        self._require_key("read")
        if self._staged is not None:
            value, variant = self._staged
        elif self._found is not None:
            value, variant = self._found.value, self._found.decision.variant
        else:
            raise TransactionError(
                f"the key {self.key!r} has no value yet",
                "ask txn.is_committed() first; compute it and txn.stage(value)",
            )
        if variant is None or self._engine is None or self._options is None:
            return value
        try:
            return self._engine.read(variant.result, self._options)
        except (LostResultError, StorageError):
            return value  # as it was given, or read first

    def commit(self) -> None:
        """As Transaction.commit."""
        self._require_here()
        self._end(failed=False, by_hand=True)

    def rollback(self) -> None:
        """As Transaction.rollback."""
        self._require_here()
        self._end(failed=True, by_hand=True)

    def _require_here(self) -> None:
        self.require_open()
        if self._home != _here():
            raise TransactionError(
                "this transaction was opened in another thread or task", "end it where it began"
            )

    def _require_key(self, what: str) -> None:
        if self._options is None:
            raise TransactionError(
                f"{what}(): this transaction has no key", "open it with transaction(key=...)"
            )


def _here() -> tuple[int, object]:
    asyncio: Any = sys.modules.get("asyncio")  # slow to import
    try:
        task: object = asyncio.current_task() if asyncio is not None else None
    except RuntimeError:
        task = None
    return threading.get_ident(), task


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
    name, recorder, dead = transaction.claimant, engine.recorder, engine.lookup.dead
    with engine.quiet():
        if verdict is Verdict.PASSED:
            for entry, lease in transaction.leases.items():
                # Fencing: whose lock was lost meanwhile is not committed, because someone else
                # may have computed, and committed, the same key since.
                if not engine.locks.still_held(lease):
                    dead.add(entry)
                    engine.notify(Faulted("lock lost before commit", transaction.label))
            if dead and not recorder.drop(tuple(dead), name):
                return False
        count = recorder.settle(name, verdict)
    if count:
        engine.notify(Committed(count, transaction.label))
    return count is not None


def _dropped(transaction: Transaction, engine: Engine, reason: str, retain_for: str = "") -> None:
    entries, name, recorder = transaction.entries, transaction.claimant, engine.recorder
    if transaction.owns_claims and transaction.used:
        with engine.quiet():
            count = recorder.settle(name, Verdict.FAILED, retain_for=retain_for)
        gone = count is not None
        dropped = max(count or 0, len(entries))
        engine.notify(RolledBack(dropped, transaction.label, reason))
    else:
        with engine.quiet():
            gone = recorder.drop(entries, name)
    if not gone:
        engine.lookup.dead.update(entries)


def _finish(transaction: Transaction, engine: Engine | None) -> None:
    if engine is not None:
        for lease in transaction.leases.values():
            engine.locks.release(lease)
        transaction.leases.clear()
    transaction.run_hooks(engine.notify if engine is not None else None)
