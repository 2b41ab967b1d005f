"""Blobs in Redis or Valkey (extra ``redis``).

URLs: ``redis://host:6379/0``, ``rediss://...`` (TLS). Options: ``expire`` (e.g. ``7d``; without
it nothing expires), ``prefix`` (``taskcache``), ``timeout`` (seconds for one answer, 5).

::

    {prefix}:blob:<name>        bytes
    {prefix}:folder:<folder>    sorted set: names of the blobs in it, by when they were written

The braces are part of the names: they keep all of them in one slot of a cluster, so that a
commit is one MULTI/EXEC there too. A blob expires ``expire`` after it was last written or
prolonged. What the server evicts reads as absent.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, ClassVar

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from pytest_taskcache.ports import Buffer
from pytest_taskcache.storage.remote.blobs import BatchedBlobs, Listed, batches
from pytest_taskcache.storage.remote.location import Location

_CONNECT_SECONDS = 2.0
_BATCH = 500
"""Names in one pipeline."""


class RedisBlobs(BatchedBlobs):
    """Values of a Redis. Raises ConfigurationError if the URL or an option cannot be right."""

    atomic = True
    phrases: ClassVar = {
        "out of memory": ("OOM", "maxmemory"),
        "wrong credentials": ("WRONGPASS", "NOAUTH"),
        "permission denied": ("NOPERM",),
        "read-only server": ("READONLY", "read only replica"),
        "server cannot persist": ("MISCONF",),
        "connection refused": ("onnection refused",),
        "timed out": ("imeout",),
        "connection lost": ("losed", "reset"),
    }

    def __init__(self, location: Location) -> None:
        super().__init__(location.shown)
        location.expect({"expire", "prefix", "timeout"})
        prefix = location.options.get("prefix", "taskcache")
        if not prefix or "{" in prefix or "}" in prefix:
            raise location.error(
                "option prefix is empty or has braces", "write e.g. prefix=myproject"
            )
        try:
            redis.ConnectionPool.from_url(location.base).disconnect()
        except (ValueError, redis.RedisError):
            raise location.error("it is no Redis URL", "write redis://host:6379/0") from None
        self._url = location.base
        self._blob = f"{{{prefix}}}:blob:"
        self._folder = f"{{{prefix}}}:folder:"
        self._seconds = location.seconds("timeout", 5.0)
        expire = location.seconds("expire", 0.0)
        self._expire = max(1, int(expire)) if expire else None
        self._client: Any = None

    @property
    def expires(self) -> bool:
        """Whether the option was given."""
        return self._expire is not None

    def put(self, name: str, data: Buffer) -> None:
        """Two round trips: the client takes seconds to tell of a large value in a pipeline that
        the server refused."""
        self._connected().set(self._blob + name, bytes(data), ex=self._expire)
        self._put({}, [name])

    def get_many(self, names: Collection[str]) -> Mapping[str, Buffer]:
        """One round trip for each 500 names."""
        found = self._piped(lambda pipe, name: pipe.get(self._blob + name), names)
        return {name: data for name, (data,) in found.items() if data is not None}

    def sizes(self, names: Collection[str]) -> Mapping[str, int]:
        """One round trip for each 500 names."""

        def ask(pipe: Any, name: str) -> None:
            pipe.exists(self._blob + name)
            pipe.strlen(self._blob + name)

        return {name: size for name, (there, size) in self._piped(ask, names).items() if there}

    def list(self, prefix: str) -> Sequence[Listed]:
        """A walk over all names of the server, and one round trip for each 500 found."""
        start = len(self._folder)
        escaped = re.sub(r"[*?\[\]\\]", r"\\\g<0>", self._folder + prefix)
        found = self._connected().scan_iter(f"{escaped}*", count=1000)
        folders = {name.decode()[start:] for name in found}
        below = {f for f in folders if f == prefix or f.startswith(f"{prefix}/")}
        listed = {one.name: one for one in self.list_many(below)}
        return [listed[name]._replace(size=size) for name, size in self.sizes(listed).items()]

    def list_many(self, prefixes: Collection[str]) -> Iterable[Listed]:
        """One round trip for each 500 folders, of what lies directly in them."""
        found = self._piped(
            lambda pipe, name: pipe.zrange(self._folder + name, 0, -1, withscores=True), prefixes
        )
        return [
            Listed(f"{folder}/{member.decode()}", None, written)
            for folder, (members,) in found.items()
            for member, written in members
        ]

    def put_many(self, items: Mapping[str, Buffer]) -> None:
        """One MULTI/EXEC."""
        self._put(items, items)

    def _put(self, items: Mapping[str, Buffer], names: Collection[str]) -> None:
        now = time.time()
        with self._connected().pipeline(transaction=True) as pipe:
            for name, data in items.items():
                pipe.set(self._blob + name, bytes(data), ex=self._expire)
            folders = set()
            for name in names:
                folder, _, member = (self._folder + name).rpartition("/")
                pipe.zadd(folder, {member: now})
                folders.add(folder)
            if self._expire is not None:
                for folder in folders:
                    pipe.zremrangebyscore(folder, "-inf", now - self._expire)
                    pipe.expire(folder, self._expire)
            pipe.execute()

    def delete(self, names: Sequence[str]) -> None:
        """One round trip for each 500 names."""

        def remove(pipe: Any, name: str) -> None:
            folder, _, member = (self._folder + name).rpartition("/")
            pipe.delete(self._blob + name)
            pipe.zrem(folder, member)

        self._piped(remove, names)

    def touch(self, names: Collection[str]) -> None:
        """One round trip for each 500 names."""
        if self._expire is None:
            return
        now = time.time()

        def prolong(pipe: Any, name: str) -> None:
            folder, _, member = (self._folder + name).rpartition("/")
            pipe.expire(self._blob + name, self._expire)
            pipe.zadd(folder, {member: now}, xx=True)
            pipe.expire(folder, self._expire)

        self._piped(prolong, names)

    def close(self) -> None:
        """Closes the connections."""
        with self.lock:
            client, self._client = self._client, None
        if client is not None:
            with suppress(redis.RedisError, OSError):  # the connection was gone already
                client.close()

    def reason(self, error: BaseException) -> str:
        """As Blobs.reason, but that wrong credentials are known by their type."""
        if isinstance(error, redis.AuthenticationError):
            return "wrong credentials"
        return super().reason(error)

    def _piped(
        self, ask: Callable[[Any, str], object], names: Collection[str]
    ) -> dict[str, Sequence[Any]]:
        answers: dict[str, Sequence[Any]] = {}
        for few in batches(names, _BATCH):
            with self._connected().pipeline(transaction=False) as pipe:
                for name in few:
                    ask(pipe, name)
                found = pipe.execute()
            each = len(found) // len(few)
            for place, name in enumerate(few):
                answers[name] = found[place * each : (place + 1) * each]
        return answers

    def _start_anew(self) -> None:
        self._client = None

    def _connected(self) -> Any:
        # A redis.Redis, whose published types differ too much from version to version.
        with self.lock:
            if self._client is None:
                self._client = redis.Redis.from_url(
                    self._url,
                    socket_connect_timeout=min(_CONNECT_SECONDS, self._seconds),
                    socket_timeout=self._seconds,
                    retry=Retry(NoBackoff(), 1),
                    max_connections=4 * self.concurrency,
                )
            return self._client
