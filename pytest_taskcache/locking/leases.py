"""The leases that a process holds: what all lock managers do with them; and locks in memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import Any

from pytest_taskcache.breaker import Breaker
from pytest_taskcache.errors import LockError, MissingExtraError
from pytest_taskcache.forking import ForkAware
from pytest_taskcache.ports import Holder, Lease, LockManager

TIMEOUT = 2.0
"""Seconds to connect to a server, and seconds for each operation."""
_SLOW = 1.0


class Leases(ForkAware):
    """The leases that an object of this process holds, one operation at a time; a forked child
    holds none of them. Where the locks are, and who else has them, is told by subclasses."""

    def __init__(self) -> None:
        super().__init__()
        self._held: dict[str, Lease] = {}

    def acquire(self, key: str, holder: Holder) -> Lease | Holder:
        """As LockManager.acquire."""
        with self.lock:
            got = self._take(key, holder)
            if isinstance(got, Lease):
                self._held[key] = got
            return got

    def release(self, lease: Lease) -> None:
        """As LockManager.release; where that fails, it may be tried again."""
        with self.lock:
            if self._holds(lease):
                self._give_back([lease])
                self._held.pop(lease.key, None)

    def confirm(self, lease: Lease) -> bool:
        """As LockManager.confirm."""
        with self.lock:
            return self._holds(lease) and self._still_has(lease)

    def close(self) -> None:
        """As LockManager.close."""
        with self.lock:
            held, self._held = list(self._held.values()), {}
            # What is not given back now is free when this object's session, lease or run ends.
            with suppress(LockError):
                if held:
                    self._give_back(held)
            self._end()

    def _take(self, key: str, holder: Holder) -> Lease | Holder:
        raise NotImplementedError

    def _give_back(self, leases: Sequence[Lease]) -> None:
        """Frees locks where others see them. Raises LockError."""

    def _still_has(self, lease: Lease) -> bool:
        """Whether others see what was granted here. Raises LockError."""
        return True

    def _end(self) -> None:
        """Lets go of what the locks needed. Never raises."""

    def _holds(self, lease: Lease) -> bool:
        """Whether this very lease was granted here, and not given up."""
        return self._held.get(lease.key) == lease

    def _start_anew(self) -> None:
        self._held = {}


class MemoryLockManager(Leases):
    """Mutual exclusion between all threads that share this object.

    Tokens grow by one with each acquisition. A forked child starts with nothing held: the
    parent's leases are in another memory.
    """

    def __init__(self) -> None:
        super().__init__()
        self._last = 0

    def describe(self) -> str:
        """What this is, for people."""
        return "locks in memory"

    def _take(self, key: str, holder: Holder) -> Lease | Holder:
        held = self._held.get(key)
        if held is not None:
            return held.holder
        self._last += 1
        return Lease(key, holder, self._last)


class ServerLeases(Leases):
    """The leases on a server of this name, which is left alone for ``pause`` seconds once it did
    not answer: then everything raises LockError at once."""

    def __init__(self, name: str, pause: float) -> None:
        super().__init__()
        self._name = name
        self._breaker = Breaker(_SLOW, pause=pause)

    def describe(self) -> str:
        """Which server, for people; without secrets."""
        return f"locks on {self._name}"

    @contextmanager
    def _asking(self, *, in_spite: bool = False) -> Iterator[None]:
        """Counts the LockErrors inside; ``in_spite`` of those before, the server may be asked."""
        if not (in_spite or self._breaker.closed()):
            raise LockError(self.describe(), "no answer before; left alone for now")
        started = self._breaker.now()
        try:
            yield
        except LockError:
            self._breaker.failed(started)
            raise
        self._breaker.succeeded()


def library(name: str, server: str, extra: str) -> Any:
    """The package that talks to a server. Raises MissingExtraError where it cannot be imported."""
    try:
        return import_module(name)
    except ImportError as error:
        problem = f"locks on {server} need the {name} package"
        remedy = f"pip install 'pytest-taskcache[{extra}]'"
        raise MissingExtraError("lock_manager", problem, remedy) from error


class FlushedFirst:
    """``manager``, but that ``settle()`` is called before it gives up a lease.

    A commit ends in local storage and reaches a remote one a little later; whoever gets the lock
    next, on another host, looks for the value there.
    """

    def __init__(self, manager: LockManager, settle: Callable[[], None]) -> None:
        self.describe = manager.describe
        self.acquire = manager.acquire
        self.confirm = manager.confirm
        self.close = manager.close
        self._release = manager.release
        self._settle = settle

    def release(self, lease: Lease) -> None:
        """As LockManager.release, once all is settled."""
        self._settle()
        self._release(lease)


def to_text(holder: Holder) -> str:
    """The holder as one line of ASCII JSON."""
    fields = holder.run, holder.started, holder.process, holder.attempt, holder.label
    return json.dumps(fields)


def from_text(
    text: object, label: str = "somebody who cannot be named", process: str = "unknown"
) -> Holder:
    """The holder that ``to_text`` wrote as this. For anything else one of this label, who holds
    the lock all the same: older than every run, so that nobody with uncommitted keys waits for
    them."""
    try:
        run, started, process_, attempt, label_ = json.loads(text)  # type: ignore[arg-type]
        return Holder(str(run), float(started), str(process_), str(attempt), str(label_))
    except (TypeError, ValueError, RecursionError):
        return Holder("unknown", 0.0, process, "unknown", label)
