"""Running the hooks of a transaction: a failing one is reported, and breaks nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from pytest_taskcache.transactions.transaction import Hook, Transaction


def run_hooks(
    hooks: Iterable[Hook], transaction: Transaction, report: Callable[[str, BaseException], None]
) -> None:
    """Calls each hook once with the transaction; what one raises goes to ``report(name, error)``.

    KeyboardInterrupt and SystemExit are not a hook's failure and pass through.
    """
    for hook in hooks:
        try:
            hook(transaction)
        except Exception as error:  # a user's hook may raise anything; the commit stands
            report(getattr(hook, "__qualname__", repr(hook)), error)
