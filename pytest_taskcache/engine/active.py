"""The one process-wide slot: which engine is active, and which transaction is current.

A test's root transaction hangs on the engine and is seen by every thread; transactions nested
in it live in a context variable above it. Engines nest (a test of a pytest plugin runs pytest),
so the slot is a stack.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from pytest_taskcache.engine.cache import Engine
    from pytest_taskcache.transactions.transaction import Transaction

Provider: TypeAlias = "Callable[[], Engine | None]"

_providers: list[Provider] = []
_nested: ContextVar[tuple[Engine | None, Transaction] | None] = ContextVar(
    "pytest_taskcache_transaction", default=None
)


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


@contextmanager
def entered(engine: Engine | None, transaction: Transaction) -> Iterator[None]:
    """Makes a transaction the innermost one of this thread or task."""
    token = _nested.set((engine, transaction))
    try:
        yield
    finally:
        with suppress(ValueError):
            # Left in another context than it was entered in, as async generators are closed:
            # that context never had it.
            _nested.reset(token)


def current_transaction(engine: Engine | None) -> Transaction | None:
    """The innermost open transaction of an engine as seen from here, or None."""
    innermost = _nested.get()
    if innermost is not None and innermost[0] is engine:
        transaction: Transaction | None = innermost[1]
        while transaction is not None:
            if transaction.state == "open":
                return transaction
            transaction = transaction.parent
    return engine.root if engine is not None else None
