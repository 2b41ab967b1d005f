"""Locks on a Redis (or Valkey) server: leases with a heartbeat and fencing tokens."""

from __future__ import annotations

import contextlib
import math
import os
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

from pytest_taskcache.breaker import Breaker
from pytest_taskcache.dataclass import dataclass
from pytest_taskcache.errors import ConfigurationError, LockError, MissingExtraError
from pytest_taskcache.locking.leases import from_text, to_text
from pytest_taskcache.ports import Holder, Lease
from pytest_taskcache.storage.forking import ForkAware
from pytest_taskcache.storage.remote.location import shown

LEASE = 30.0
HEARTBEAT = 10.0
PREFIX = "taskcache:lock:"
TIMEOUT = 2.0
"""Seconds to connect, and seconds for each operation."""
_SLOW = 1.0
_BATCH = 256
_TOKENS_KEPT = 7 * 24 * 3600 * 1000
_NONSENSE = "the server's answer makes no sense"
_Names: TypeAlias = Sequence[bytes]
_Values: TypeAlias = Sequence[str | int]
_Ask: TypeAlias = Callable[[str, _Names, _Values], object]

# The value of a lock is "<token> <claim>", and a claim "<nonce> <holder>". Tokens are the server's
# microseconds since 1970 and at least one more than the last, so that they grow even where the
# server lost its data. A claim that is already there is this very request, whose answer got lost.
_ACQUIRE = """
local held = redis.call('GET', KEYS[1])
if held then
  local space = string.find(held, ' ', 1, true)
  if space and string.sub(held, space + 1) == ARGV[1] then
    return {1, string.sub(held, 1, space - 1)}
  end
  return {0, held}
end
local time = redis.call('TIME')
local last = tonumber(redis.call('GET', KEYS[2]) or '0')
local token = math.max(time[1] * 1000000 + time[2], last + 1)
local text = string.format('%.0f', token)
redis.call('SET', KEYS[2], text, 'PX', ARGV[3])
redis.call('SET', KEYS[1], text .. ' ' .. ARGV[1], 'NX', 'PX', ARGV[2])
return {1, text}
"""
_EXTEND = """
local kept = {}
for index, name in ipairs(KEYS) do
  kept[index] = 0
  if redis.call('GET', name) == ARGV[index + 1] then
    kept[index] = redis.call('PEXPIRE', name, ARGV[1])
  end
end
return kept
"""
_RELEASE = """
for index, name in ipairs(KEYS) do
  if redis.call('GET', name) == ARGV[index] then
    redis.call('DEL', name)
  end
end
return 1
"""


@dataclass(frozen=True, slots=True)
class _Held:
    """A lease, and the value that the server has for it."""

    lease: Lease
    value: str


class RedisLockManager(ForkAware):
    """Mutual exclusion between all who use the same server, database and ``prefix``.

    A lock is a lease of ``lease`` seconds. One daemon thread extends all leases of this object
    every ``heartbeat`` seconds; a holder that died, or was stopped or cut off for longer, has lost
    them. Only the owner extends or releases, by script. ``confirm`` asks the server whether the
    lease is still this one, and extends it, so that a commit that follows has ``lease`` seconds.

    ``url`` is ``redis://``, ``rediss://`` or ``unix://``, with ``username``, ``password`` and
    database in it; without it ``host``, ``port`` and ``db`` are used. Connecting and each operation
    take 2 seconds at most. A server that does not answer is left alone for ``pause`` seconds, in
    which everything raises LockError at once; the heartbeat goes on trying.

    What holds when the server fails over: replication is asynchronous, so a replica that is
    promoted may lack the newest locks. Then a second holder gets in, and two compute the same key.
    Its token is greater than the first one's (tokens follow the clock, as long as the replica's is
    not behind by more than the time between the two acquisitions), and the first one's ``confirm``
    is False: it does not commit. Only between a ``confirm`` and the end of the commit it allowed
    can a takeover go unnoticed; both then commit a value of the same key, and neither is torn. A
    server restarted without persistence behaves in the same way. Redis Cluster is not supported:
    use one primary, or Sentinel's virtual address.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        host: str = "localhost",
        port: int = 6379,
        db: int = 0,
        lease: float = LEASE,
        heartbeat: float = HEARTBEAT,
        prefix: str = PREFIX,
        pause: float = 30.0,
    ) -> None:
        super().__init__()
        if not (math.isfinite(lease) and 0 < heartbeat <= lease / 2):
            raise ConfigurationError(
                "lock_manager",
                f"a heartbeat every {heartbeat} s does not keep a lease of {lease} s",
                "use a heartbeat of at most half the lease",
            )
        self._redis = _library()
        self._url = url if url is not None else f"redis://{host}:{port}/{db}"
        self._name = shown(self._url)
        self._lease = max(1, round(lease * 1000))
        self._heartbeat = heartbeat
        self._prefix = prefix
        self._breaker = Breaker(_SLOW, pause=pause)
        self._held: dict[str, _Held] = {}
        self._stop: threading.Event | None = None
        self._client = self._connect()

    def describe(self) -> str:
        """Which server, for people; without secrets."""
        return f"locks on {self._name}"

    def acquire(self, key: str, holder: Holder) -> Lease | Holder:
        """The lease, or who has it. Raises LockError; if the answer to a granted request is lost,
        the lock stays taken until the lease runs out."""
        claim = f"{os.urandom(8).hex()} {to_text(holder)}"
        names = [self._entry(key), f"{self._prefix}token".encode()]
        answer = self._ask(_ACQUIRE, names, [claim, self._lease, _TOKENS_KEPT])
        match answer:
            case [1, bytes(token)] if token.isdigit():
                lease = Lease(key, holder, int(token))
                with self.lock:
                    self._held[key] = _Held(lease, f"{lease.token} {claim}")
                    self._beat()
                return lease
            case [0, bytes(value)]:
                return from_text(value.split(b" ", 2)[-1], "somebody whose lock cannot be read")
            case _:
                raise LockError(self.describe(), _NONSENSE)

    def release(self, lease: Lease) -> None:
        """Gives up the lease, if it is still ours. Raises LockError; then it runs out by itself."""
        held = self._find(lease)
        if held is not None:
            self._drop(held)
            self._ask(_RELEASE, [self._entry(lease.key)], [held.value])

    def confirm(self, lease: Lease) -> bool:
        """Whether the server still has this lease, which it then extends. Raises LockError."""
        held = self._find(lease)
        return held is not None and self._extend([held], self._ask)

    def close(self) -> None:
        """Releases all leases of this object. Never raises."""
        with self.lock:
            held = list(self._held.values())
            self._held.clear()
            if self._stop is not None:
                self._stop.set()
                self._stop = None
        # What the server does not hear of now runs out by itself.
        with contextlib.suppress(LockError):
            for some in _parts(held):
                names = [self._entry(each.lease.key) for each in some]
                self._ask(_RELEASE, names, [each.value for each in some])
        self._client.close()

    def _in_child(self) -> None:
        self._held = {}
        self._stop = None
        # The parent's client goes unused: its sockets are the parent's as well.
        self._client = self._connect()

    def _entry(self, key: str) -> bytes:
        return f"{self._prefix}key:{key}".encode("utf-8", "surrogatepass")

    def _find(self, lease: Lease) -> _Held | None:
        with self.lock:
            held = self._held.get(lease.key)
        return held if held is not None and held.lease == lease else None

    def _drop(self, held: _Held) -> None:
        with self.lock:
            if self._held.get(held.lease.key) is held:
                del self._held[held.lease.key]

    def _extend(self, held: Sequence[_Held], ask: _Ask) -> bool:
        """Extends those that are still ours and drops the others; whether all are."""
        names = [self._entry(each.lease.key) for each in held]
        answer = ask(_EXTEND, names, [self._lease, *(each.value for each in held)])
        if not isinstance(answer, list) or len(answer) != len(held):
            raise LockError(self.describe(), _NONSENSE)
        lost = [each for each, kept in zip(held, answer, strict=True) if kept != 1]
        for each in lost:
            self._drop(each)
        return not lost

    def _ask(self, script: str, names: _Names, values: _Values) -> object:
        if not self._breaker.closed():
            raise LockError(self.describe(), "no answer before; left alone for now")
        return self._run(script, names, values)

    def _run(self, script: str, names: _Names, values: _Values) -> object:
        started = self._breaker.now()
        try:
            answer: object = self._client.eval(script, len(names), *names, *values)
        except (self._redis.RedisError, OSError, ValueError, TypeError) as error:
            # The client lets some of the latter through when what answers is no Redis server. Its
            # messages name host and port, never the password.
            self._breaker.failed(started)
            raise LockError(self.describe(), f"{type(error).__name__}: {error}"[:200]) from error
        self._breaker.succeeded()
        return answer

    def _beat(self) -> None:
        """Starts the heartbeat, if there is none."""
        if self._stop is None:
            self._stop = threading.Event()
            threading.Thread(
                target=_beat_on,
                args=(weakref.ref(self), self._stop, self._heartbeat),
                name="taskcache lock heartbeat",
                daemon=True,
            ).start()

    def _extend_all(self) -> None:
        with self.lock:
            held = list(self._held.values())
        # Said by the next acquire, release or confirm; the next beat tries again.
        with contextlib.suppress(LockError):
            for some in _parts(held):
                # Asks in spite of the breaker: this is what finds the server back.
                self._extend(some, self._run)

    def _connect(self) -> Any:
        library = self._redis
        # Once more where the server had closed an idle connection, which fails at once; but not
        # after a time-out.
        retry = library.retry.Retry(
            library.backoff.NoBackoff(), 1, supported_errors=(library.ConnectionError,)
        )
        try:
            return library.Redis.from_url(
                self._url, socket_timeout=TIMEOUT, socket_connect_timeout=TIMEOUT, retry=retry
            )
        except (ValueError, TypeError) as error:
            raise ConfigurationError(
                "lock_manager",
                f"{self._name} is no Redis URL",
                "write redis://[user:password@]host[:port][/database]",
            ) from error


def _beat_on(
    reference: weakref.ref[RedisLockManager], stop: threading.Event, interval: float
) -> None:
    while not stop.wait(interval):
        manager = reference()
        if manager is None:
            return
        manager._extend_all()
        del manager


def _parts(held: Sequence[_Held]) -> Iterator[Sequence[_Held]]:
    for start in range(0, len(held), _BATCH):
        yield held[start : start + _BATCH]


def _library() -> Any:
    try:
        import redis
    except ImportError as error:
        raise MissingExtraError(
            "lock_manager",
            "locks on Redis need the redis package",
            "pip install 'pytest-taskcache[redis]'",
        ) from error
    return redis
