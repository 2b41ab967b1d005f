"""What is open right now: computations, so that each inherits what its parts rest on, and the
transactions that users opened in this thread or task."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING

from pytest_taskcache.dataclass import dataclass, field, replace
from pytest_taskcache.engine.computation import Basis
from pytest_taskcache.model.dependency import Observed, Opaque
from pytest_taskcache.model.event import Event, Faulted
from pytest_taskcache.transactions.transaction import Transaction, TransactionState

if TYPE_CHECKING:
    from pytest_taskcache.observation.window import OpenWindow

_log = logging.getLogger("pytest_taskcache")


@dataclass(eq=False, slots=True)
class OpenComputation:
    """One open computation: its window, and what it has inherited so far."""

    window: OpenWindow
    derives_from: set[str] = field(default_factory=set)
    taints: set[str] = field(default_factory=set)
    opaque: list[Opaque] = field(default_factory=list)
    expires: float | None = None
    attached: object = None
    """What an attachment of the engine's knows of it."""

    def absorb(self, basis: Basis) -> None:
        """Makes what a used value rests on part of what this computation rests on."""
        if basis.trace.dependencies:
            self.window.absorb(basis.trace)
        self.derives_from |= basis.derives_from
        self.taints |= set(basis.taints)
        self.opaque += basis.opaque
        self.expires = earliest(self.expires, basis.expires)


class OpenComputations:
    """All open computations of the process. A value used in any thread counts for every one of
    them, as with windows: which thread works for whom cannot be known."""

    def __init__(self) -> None:
        self._open: list[OpenComputation] = []
        self._guard = threading.Lock()

    @property
    def none_open(self) -> bool:
        """Whether nothing is being computed, so that nothing can inherit."""
        return not self._open

    def open(self, window: OpenWindow) -> OpenComputation:
        """A new one, open until `close`."""
        opened = OpenComputation(window)
        with self._guard:
            self._open.append(opened)
        return opened

    def discard(self, opened: OpenComputation) -> None:
        """Ends one of which nothing is to be kept, which costs next to nothing."""
        self._end(opened)
        opened.window.discard()

    def close(self, opened: OpenComputation) -> Observed:
        """Ends one; what its window saw, with the opaque deeds it inherited."""
        self._end(opened)
        observed = opened.window.close()
        if not opened.opaque:
            return observed
        deeds = dict.fromkeys((*observed.opaque, *opened.opaque))
        return replace(observed, opaque=tuple(deeds))

    def _end(self, opened: OpenComputation) -> None:
        with self._guard:
            if opened in self._open:
                self._open.remove(opened)

    def absorb(self, basis: Basis) -> None:
        """Credits a used value to every open computation."""
        if not self._open:
            return
        with self._guard:
            for opened in self._open:
                opened.absorb(basis)

    def forgive(self, kept: OpenComputation) -> None:
        """Takes back from every open one the opaque deeds of a computation whose value is kept.
        A hit will not do them again, and cold and warm runs must agree."""
        with self._guard:
            for opened in self._open:
                opened.window.forgive(kept.window)


def earliest(left: float | None, right: float | None) -> float | None:
    """The earlier of two expiry times; None never expires."""
    if left is None or right is None:
        return right if left is None else left
    return min(left, right)


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
        if outermost is not root and (root is not None or outermost.block is None):
            continue
        transaction: Transaction | None = entered_last
        while transaction is not None:
            if transaction.state is TransactionState.OPEN:
                return transaction
            transaction = transaction.parent
    return root


def run_hooks(transaction: Transaction, notify: Callable[[Event], None] | None) -> None:
    """Runs the hooks of a transaction that ended; what one raises is notified, or logged where
    there is no engine."""
    if not (transaction.committing or transaction.rolling_back):
        return
    kind = "commit" if transaction.state is TransactionState.COMMITTED else "rollback"

    def report(name: str, error: BaseException) -> None:
        text = f"{name}: {type(error).__name__}: {error}"
        if notify is None:
            _log.warning("%s hook failed: %s", kind, text)
        else:
            notify(Faulted(f"{kind} hook failed", text))

    transaction.run_hooks(report)
