"""The one process-wide slot: which engine is active; and ``with transaction():`` for users.

A test's root transaction hangs on the engine and is seen by every thread; transactions nested
in it live in a context variable above it. Engines nest (a test of a pytest plugin runs pytest),
so the slot is a stack.
"""

from __future__ import annotations

import itertools
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from types import TracebackType
from typing import Any, TypeAlias

from pytest_taskcache.engine.cache import Attempt, Engine
from pytest_taskcache.engine.commit import commit, roll_back
from pytest_taskcache.engine.computation import Computation, Options
from pytest_taskcache.engine.lookup import Found
from pytest_taskcache.engine.open_computations import enter, innermost, leave
from pytest_taskcache.engine.payloads import LostResultError
from pytest_taskcache.errors import ConfigurationError, StorageError
from pytest_taskcache.model.event import Subject
from pytest_taskcache.model.key import Identity
from pytest_taskcache.model.modes import IsolationLevel
from pytest_taskcache.model.record import Variant
from pytest_taskcache.policies.algebra import CachePolicy, LockSpec, StorageSpec, TaskContext
from pytest_taskcache.ports import Serializer
from pytest_taskcache.transactions.transaction import (
    CommitMode,
    Transaction,
    TransactionError,
    TransactionState,
    TransactionStateError,
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
    if key is None:
        _refuse_without_key(
            isolation_level=isolation_level,
            lock_manager=lock_manager,
            overwrite=overwrite,
            expiration=expiration,
            serializer=serializer,
            key_storage=key_storage,
            result_storage=result_storage,
        )
        return TransactionBlock(mode, label, None)
    options = Options(
        policy=CachePolicy(
            key_storage=key_storage, isolation_level=isolation_level, lock_manager=lock_manager
        ),
        key=key,
        refresh=overwrite,
        expiration=expiration,
        serializer=serializer,
        result_storage=result_storage,
    )
    return TransactionBlock(mode, label or key, options)


def _refuse_without_key(**settings: object) -> None:
    for name, value in settings.items():
        if value is not None and value is not False:
            raise ConfigurationError(
                f"transaction({name}=...)",
                "a transaction without a key has no record of its own",
                "give key= too, or leave it out",
            )


class TransactionBlock:
    """What `transaction` returns: enters a `Transaction` and stands behind it. To be entered
    once."""

    def __init__(self, mode: CommitMode, label: str, options: Options | None) -> None:
        self._mode = mode
        self._label = label
        self._options = options
        self._engine: Engine | None = None
        self._transaction: Transaction | None = None
        self._home: tuple[int, object] = (0, None)
        self._found: Found | None = None
        self._attempt: Attempt | None = None
        self._staged: list[object] = []
        self._variant: Variant | None = None

    def __enter__(self) -> Transaction:
        inner = self._begin()
        engine, computation = self._engine, self._computation()
        if engine is not None and computation is not None:
            with self._failing(inner):
                self._opened(engine.open(computation))
        return inner

    async def __aenter__(self) -> Transaction:
        inner = self._begin()
        inner.awaiting = []
        engine, computation = self._engine, self._computation()
        if engine is not None and computation is not None:
            with self._failing(inner):
                self._opened(await engine.open_async(computation))
        return inner

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._transaction is not None:
            self._end(self._transaction, failed=kind is not None)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.__exit__(kind, error, trace)
        inner = self._transaction
        while inner is not None and inner.awaiting:
            await inner.awaiting.pop(0)

    def _begin(self) -> Transaction:
        if self._transaction is not None:
            raise TransactionError(
                "this transaction was entered before", "call transaction() for each"
            )
        engine = self._engine = active()
        outer = _current(engine)
        name = f"{engine.worker if engine else 'none'}/transaction/{next(_numbers)}"
        if engine is not None:
            name += f"@{engine.process}"
        if outer is not None:
            inner = outer.child(name, self._mode)
            inner.label = self._label or inner.label
        else:
            inner = Transaction(name, self._label, self._mode)
        inner.block = self
        self._transaction, self._home = inner, _here()
        enter(engine, inner)
        return inner

    @contextmanager
    def _failing(self, inner: Transaction) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self._end(inner, failed=True)
            raise

    def _end(self, inner: Transaction, *, failed: bool) -> None:
        leave(inner)
        self._give_up_computing()
        if failed:
            roll_back(inner, self._engine)
        else:
            commit(inner, self._engine)

    def _give_up_computing(self) -> None:
        attempt, self._attempt = self._attempt, None
        if attempt is not None and self._engine is not None:
            self._engine.abandon(attempt)

    def _computation(self) -> Computation | None:
        engine, options = self._engine, self._options
        if engine is None or options is None:
            return None
        place = engine.place
        context = TaskContext(
            Subject.FUNCTION,
            Identity("", f"transaction {options.key}"),
            transaction,
            engine.run.id,
            engine.fingerprints,
            place.parameters,
            place.name,
            place.module,
        )
        return Computation(context, {}, options, test=place.test, block=True)

    def _opened(self, opened: Found | Attempt) -> None:
        if isinstance(opened, Found):
            self._found = opened
        else:
            self._attempt = opened

    @property
    def key(self) -> str:
        """As Block.key."""
        return (self._options.key or "") if self._options is not None else ""

    @property
    def is_stored(self) -> bool:
        """As Block.is_stored."""
        return self._found is not None

    @property
    def is_staged(self) -> bool:
        """As Block.is_staged."""
        return bool(self._staged)

    def stage(self, value: object) -> None:
        """As Block.stage."""
        self._require_key("stage")
        if self._found is not None:
            raise TransactionError(
                f"the key {self.key!r} has a value already",
                "ask txn.is_committed() first, or open it with overwrite=True",
            )
        if self._staged:
            raise TransactionError(
                f"a value of {self.key!r} is staged already", "stage one, when it is complete"
            )
        attempt, self._attempt = self._attempt, None
        if attempt is not None and self._engine is not None:
            completed = self._engine.complete(attempt, value, transaction=self._transaction)
            self._variant = completed.variant
        self._staged.append(value)

    def read(self) -> object:
        """As Block.read."""
        self._require_key("read")
        if self._staged:
            return self._decoded(self._variant, self._staged[0])
        found = self._found
        if found is None:
            raise TransactionError(
                f"the key {self.key!r} has no value yet",
                "ask txn.is_committed() first; compute it and txn.stage(value)",
            )
        return self._decoded(found.decision.variant, found.value)

    def _decoded(self, variant: Variant | None, value: object) -> object:
        """The value anew; as it was given, or read first, where it cannot be read again."""
        if variant is None or self._engine is None or self._options is None:
            return value
        try:
            return self._engine.read(variant.result, self._options)
        except (LostResultError, StorageError):
            return value

    def end(self, state: TransactionState) -> None:
        """As Block.end."""
        inner = self._transaction
        if inner is None:
            raise TransactionError("this transaction was not entered", "use it in a with block")
        if inner.state is not TransactionState.OPEN:
            raise TransactionStateError(inner.state)
        if self._home != _here():
            raise TransactionError(
                "this transaction was opened in another thread or task", "end it where it began"
            )
        self._give_up_computing()
        if state is TransactionState.COMMITTED:
            commit(inner, self._engine, by_hand=True)
        else:
            roll_back(inner, self._engine, reason="by hand")

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
