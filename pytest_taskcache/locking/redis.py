"""Locks on a Redis (or Valkey) server: leases with a heartbeat and fencing tokens."""

from __future__ import annotations

import contextlib
import math
import os
import threading
import weakref
from collections.abc import Sequence
from typing import Any

from pytest_taskcache.errors import ConfigurationError, LockError
from pytest_taskcache.locking.leases import TIMEOUT, ServerLeases, from_text, library, to_text
from pytest_taskcache.ports import Holder, Lease
from pytest_taskcache.storage.remote.blobs import batches
from pytest_taskcache.storage.remote.location import shown

LEASE = 30.0
HEARTBEAT = 10.0
PREFIX = "taskcache:lock:"
_BATCH = 256
_TOKENS_KEPT = 7 * 24 * 3600 * 1000
_NONSENSE = "the server's answer makes no sense"

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


class RedisLockManager(ServerLeases):
    """Mutual exclusion between all who use the same server, database and ``prefix``.

    A lock is a lease of ``lease`` seconds. One daemon thread extends all leases of this object
    every ``heartbeat`` seconds; a holder that died, or was stopped or cut off for longer, has lost
    them. Only the owner extends or releases, by script. ``confirm`` asks the server whether the
    lease is still this one, and extends it, so that a commit that follows has ``lease`` seconds.
    A release that the server does not hear of, and a grant whose answer is lost, run out by
    themselves.

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
        url = url if url is not None else f"redis://{host}:{port}/{db}"
        super().__init__(shown(url), pause)
        if not (math.isfinite(lease) and 0 < heartbeat <= lease / 2):
            problem = f"a heartbeat every {heartbeat} s does not keep a lease of {lease} s"
            remedy = "use a heartbeat of at most half the lease"
            raise ConfigurationError("lock_manager", problem, remedy)
        self._redis = library("redis", "Redis", "redis")
        self._url = url
        self._lease = max(1, round(lease * 1000))
        self._heartbeat = heartbeat
        self._prefix = prefix
        # What the server has for the leases, which the heartbeat extends.
        self._values: dict[Lease, str] = {}
        self._stop: threading.Event | None = None
        self._client = self._connect()

    def _take(self, key: str, holder: Holder) -> Lease | Holder:
        claim = f"{os.urandom(8).hex()} {to_text(holder)}"
        names = [self._entry(key), f"{self._prefix}token".encode()]
        match self._run(_ACQUIRE, names, [claim, self._lease, _TOKENS_KEPT]):
            case [1, bytes(token)] if token.isdigit():
                lease = Lease(key, holder, int(token))
                self._values[lease] = f"{lease.token} {claim}"
                self._beat()
                return lease
            case [0, bytes(value)]:
                return from_text(value.split(b" ", 2)[-1], "somebody whose lock cannot be read")
            case _:
                raise LockError(self.describe(), _NONSENSE)

    def _give_back(self, leases: Sequence[Lease]) -> None:
        # Forgotten first: what the server does not hear of is extended no more, and runs out.
        held = [(lease, self._values.pop(lease)) for lease in leases if lease in self._values]
        for some in batches(held, _BATCH):
            names = [self._entry(lease.key) for lease, _ in some]
            self._run(_RELEASE, names, [value for _, value in some])

    def _still_has(self, lease: Lease) -> bool:
        """Whether the server still has this lease, which it then extends."""
        return lease in self._values and self._extend([(lease, self._values[lease])])

    def _end(self) -> None:
        if self._stop is not None:
            self._stop.set()
            self._stop = None
        self._client.close()

    def _start_anew(self) -> None:
        super()._start_anew()
        self._values = {}
        self._stop = None
        # The parent's client goes unused: its sockets are the parent's as well.
        self._client = self._connect()

    def _entry(self, key: str) -> bytes:
        return f"{self._prefix}key:{key}".encode("utf-8", "surrogatepass")

    def _extend(self, held: Sequence[tuple[Lease, str]], *, in_spite: bool = False) -> bool:
        """Extends those that are still ours and drops the others; whether all are."""
        names = [self._entry(lease.key) for lease, _ in held]
        values: list[str | int] = [self._lease, *(value for _, value in held)]
        answer = self._run(_EXTEND, names, values, in_spite=in_spite)
        if not isinstance(answer, list) or len(answer) != len(held):
            raise LockError(self.describe(), _NONSENSE)
        lost = [lease for (lease, _), kept in zip(held, answer, strict=True) if kept != 1]
        with self.lock:
            for lease in lost:
                self._values.pop(lease, None)
        return not lost

    def _run(
        self,
        script: str,
        names: Sequence[bytes],
        values: Sequence[str | int],
        *,
        in_spite: bool = False,
    ) -> object:
        with self._asking(in_spite=in_spite):
            try:
                answer: object = self._client.eval(script, len(names), *names, *values)
            except (self._redis.RedisError, OSError, ValueError, TypeError) as error:
                # The client lets some of the latter through when what answers is no Redis server.
                # Its messages name host and port, never the password.
                reason = f"{type(error).__name__}: {error}"[:200]
                raise LockError(self.describe(), reason) from error
            return answer

    def _beat(self) -> None:
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
            held = list(self._values.items())
        # Said by the next acquire, release or confirm; the next beat tries again.
        with contextlib.suppress(LockError):
            for some in batches(held, _BATCH):
                self._extend(some, in_spite=True)  # this is what finds the server back

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
            problem = f"{self._name} is no Redis URL"
            remedy = "write redis://[user:password@]host[:port][/database]"
            raise ConfigurationError("lock_manager", problem, remedy) from error


def _beat_on(
    reference: weakref.ref[RedisLockManager], stop: threading.Event, interval: float
) -> None:
    while not stop.wait(interval):
        manager = reference()
        if manager is None:
            return
        manager._extend_all()
        del manager
