"""Records and results in Redis or Valkey (extra ``redis``).

URLs: ``redis://host:6379/0``, ``rediss://...`` (TLS). Options: ``expire`` (e.g. ``7d``; without
it nothing expires), ``prefix`` (``taskcache``), ``timeout`` (seconds for one operation, 15).

::

    {prefix}:records:<key>         hash: variant id -> record
    {prefix}:id:<id>               the key segment that a variant lies under
    {prefix}:recent:<identity>     id and key segment of the newest variant
    {prefix}:size:<digest>         size of a result, written with its last chunk
    {prefix}:chunk:<digest>:<n>    bytes of a result, CHUNK at a time

The braces are part of the names: they keep all of them in one slot of a cluster, so that a
commit is one MULTI/EXEC there too. A hash expires ``expire`` after the last variant was added. A
result that is evicted, or expires before a record that names it, reads as absent.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import redis
import xxhash
from redis.backoff import NoBackoff
from redis.retry import Retry

from pytest_taskcache.errors import StorageError
from pytest_taskcache.model.record import VARIANTS, Variant
from pytest_taskcache.ports import Buffer
from pytest_taskcache.storage.concurrency import Stalled, Workers
from pytest_taskcache.storage.location import Location
from pytest_taskcache.storage.object_layout import digest_text, id_segment, key_segment
from pytest_taskcache.storage.placing import place
from pytest_taskcache.storage.records import decode_variant, encode_variant

T = TypeVar("T")
Client: TypeAlias = Any
"""A redis.Redis, whose published types differ too much from version to version to be checked."""

SECONDS = 15.0
SLOWEST = 1024 * 1024
"""Bytes per second: slower transfers are given up."""
CHUNK = 16 * 1024 * 1024
"""Bytes of a result in one value; a value of Redis holds 512 MiB at most."""
_CONNECT_SECONDS = 2.0
_SILENCE_SECONDS = 5.0
_BATCH = 500
"""Commands in one pipeline."""
_CONNECTIONS = 16


def open_redis(location: Location) -> RedisStorage:
    """The storage at a URL. Connects when it is first used. Raises ConfigurationError if the
    URL or an option cannot be right."""
    location.expect({"expire", "prefix", "timeout"})
    prefix = location.options.get("prefix", "taskcache")
    if not prefix or "{" in prefix or "}" in prefix:
        raise location.error("option prefix is empty or has braces", "write e.g. prefix=myproject")
    try:
        pool = redis.ConnectionPool.from_url(location.base)
        pool.disconnect()
    except (ValueError, redis.RedisError):
        raise location.error("it is no Redis URL", "write redis://host:6379/0") from None
    return RedisStorage(
        location.base,
        location.shown,
        prefix=prefix,
        expire=location.seconds("expire", None),
        seconds=location.seconds("timeout", SECONDS) or SECONDS,
    )


class RedisStorage:
    """Records and results in the Redis at ``url``; ``shown`` says where, without secrets.

    ``expire``: seconds after which what was written goes, or None. ``seconds`` bounds every
    operation, and transfers of results in proportion to their size.
    """

    trusted = False

    def __init__(
        self,
        url: str,
        shown: str,
        *,
        prefix: str = "taskcache",
        expire: float | None = None,
        seconds: float = SECONDS,
    ) -> None:
        self._url = url
        self._shown = shown
        self._prefix = f"{{{prefix}}}"
        self._expire = None if expire is None else max(1, int(expire))
        self._seconds = seconds
        self._workers = Workers(_CONNECTIONS)
        self._lock = threading.Lock()
        self._client: Client | None = None
        self._pid = 0
        # Results that were found damaged: they are written anew, whatever is there.
        self._damaged: set[str] = set()

    def describe(self) -> str:
        """The URL, without name and password."""
        return self._shown

    def close(self) -> None:
        """Closes the connections."""
        with self._lock:
            client, self._client = self._client, None
        if client is not None and self._pid == os.getpid():
            try:
                client.close()
            except (redis.RedisError, OSError):
                return  # the connection was gone already

    # -------------------------------------------------------------------------- records

    def read_records(self, keys: Collection[str]) -> Mapping[str, tuple[Variant, ...]]:
        """One round trip for each 500 keys."""
        wanted = list(dict.fromkeys(keys))

        def ask(pipeline: Any, key: str) -> None:
            pipeline.hgetall(self._records(key))

        answers = self._piped("read records", ask, wanted)
        found = {}
        for key, answer in zip(wanted, answers, strict=True):
            variants = [
                variant
                for identifier in sorted(answer, reverse=True)
                if (variant := decode_variant(answer[identifier])) is not None
                and variant.key == key
                and id_segment(variant.id).encode() == identifier
            ]
            if variants:
                found[key] = tuple(variants[:VARIANTS])
        return found

    def write_records(self, variants: Sequence[Variant]) -> None:
        """One MULTI/EXEC; afterwards variants that newer ones pushed out are dropped."""
        unique = {id_segment(variant.id): variant for variant in variants}
        if not unique:
            return

        def write(client: Client) -> None:
            with client.pipeline(transaction=True) as pipeline:
                for identifier, variant in sorted(unique.items()):
                    segment = key_segment(variant.key)
                    recent = self._recent(str(variant.identity))
                    pipeline.hset(self._records(variant.key), identifier, encode_variant(variant))
                    pipeline.set(self._id(identifier), segment, ex=self._expire)
                    pipeline.set(recent, f"{segment} {identifier}", ex=self._expire)
                    if self._expire is not None:
                        pipeline.expire(self._records(variant.key), self._expire)
                pipeline.execute()
            self._trim(client, {variant.key for variant in unique.values()})

        self._bounded("write records", write)

    def _trim(self, client: Client, keys: Collection[str]) -> None:
        names = [self._records(key) for key in sorted(keys)]
        with client.pipeline(transaction=False) as pipeline:
            for name in names:
                pipeline.hkeys(name)
            present = pipeline.execute()
        with client.pipeline(transaction=False) as pipeline:
            for name, ids in zip(names, present, strict=True):
                pushed_out = sorted(ids, reverse=True)[VARIANTS:]
                if pushed_out:
                    pipeline.hdel(name, *pushed_out)
                    pipeline.delete(*(self._id(identifier.decode()) for identifier in pushed_out))
            pipeline.execute()

    def recent(self, identities: Collection[str]) -> Mapping[str, Variant]:
        """Two round trips for each 500 identities."""
        asked = set(identities)
        names = sorted(asked)
        pointers = self._piped(
            "read records", lambda pipeline, name: pipeline.get(self._recent(name)), names
        )
        places = [pointer.decode().partition(" ") for pointer in pointers if pointer]

        def ask(pipeline: Any, place: tuple[str, str, str]) -> None:
            pipeline.hget(f"{self._prefix}:records:{place[0]}", place[2])

        bodies = self._piped("read records", ask, places)
        variants = (decode_variant(body) for body in bodies if body)
        return {
            str(variant.identity): variant
            for variant in variants
            if variant is not None and str(variant.identity) in asked
        }

    def remove_records(self, ids: Collection[str]) -> None:
        """Two round trips for each 500 ids."""
        names = sorted({id_segment(identifier) for identifier in ids})
        segments = self._piped(
            "remove records", lambda pipeline, name: pipeline.get(self._id(name)), names
        )

        def remove(pipeline: Any, item: tuple[str, bytes]) -> None:
            identifier, segment = item
            pipeline.hdel(f"{self._prefix}:records:{segment.decode()}", identifier)
            pipeline.delete(self._id(identifier))

        known = [(name, segment) for name, segment in zip(names, segments, strict=True) if segment]
        self._piped("remove records", remove, known)

    # -------------------------------------------------------------------------- results

    def write_result(self, digest: str, chunks: Sequence[Buffer]) -> None:
        """A value for each 16 MiB, and last the size, which readers need."""
        size = sum(memoryview(chunk).nbytes for chunk in chunks)
        self._store(digest, size, lambda: _values_of(chunks))

    def add_file(self, digest: str, source: Path) -> None:
        """As write_result; the file is read as it is sent."""
        try:
            size = source.stat().st_size
        except OSError as error:
            raise StorageError(self._shown, "write result", _os_reason(error)) from None
        self._store(digest, size, lambda: _file_values(source))

    def _store(self, digest: str, size: int, values: Callable[[], Iterator[bytes]]) -> None:
        def write(client: Client) -> None:
            if digest not in self._damaged and self._present(client, digest, size):
                return
            for number, value in enumerate(values()):
                client.set(self._chunk(digest, number), value, ex=self._expire)
            client.set(self._size(digest), size, ex=self._expire)

        self._bounded("write result", write, size)
        self._damaged.discard(digest)

    def _present(self, client: Client, digest: str, size: int) -> bool:
        """Whether a result is there as a whole; its life is prolonged then."""
        names = [self._chunk(digest, number) for number in range(_count(size))]
        with client.pipeline(transaction=False) as pipeline:
            pipeline.get(self._size(digest))
            pipeline.exists(*names)
            if self._expire is not None:
                for name in (self._size(digest), *names):
                    pipeline.expire(name, self._expire)
            present, number, *_ = pipeline.execute()
        return bool(present == str(size).encode() and number == len(names))

    def read_result(self, digest: str, size: int) -> memoryview | None:
        """The bytes, after their size and digest have been checked."""

        def read(client: Client) -> memoryview | None:
            with client.pipeline(transaction=False) as pipeline:
                pipeline.get(self._size(digest))
                if size <= CHUNK:
                    pipeline.get(self._chunk(digest, 0))
                present, *first = pipeline.execute()
            if present != str(size).encode():
                return None
            pieces = first if size <= CHUNK else self._pieces(client, digest, size)
            data = bytearray()
            for piece in pieces:
                data += piece or b""
            if len(data) != size or xxhash.xxh3_128_hexdigest(data) != digest:
                self._damaged.add(digest)
                return None
            return memoryview(data)

        return self._bounded("read result", read, size)

    def copy_file(self, digest: str, destination: Path, readonly: bool = False) -> bool:
        """Into a file beside the destination, which is renamed when it is right."""
        text = self._bounded("read result", lambda client: client.get(self._size(digest)))
        if not isinstance(text, bytes) or not text.isdigit():
            return False
        size = int(text)

        def copy(client: Client) -> bool:
            placed = place(digest, size, self._pieces(client, digest, size), destination)
            if not placed:
                self._damaged.add(digest)
            return placed

        return self._bounded("read result", copy, size)

    def has_results(self, digests: Collection[str]) -> frozenset[str]:
        """One round trip for each 500 digests."""
        names = list(dict.fromkeys(digests))
        answers = self._piped(
            "look for results", lambda pipeline, name: pipeline.exists(self._size(name)), names
        )
        return frozenset(name for name, there in zip(names, answers, strict=True) if there)

    def _pieces(self, client: Client, digest: str, size: int) -> Iterator[bytes]:
        for number in range(_count(size)):
            piece = client.get(self._chunk(digest, number))
            if not isinstance(piece, bytes):
                return
            yield piece

    # ------------------------------------------------------------------------ the server

    def _records(self, key: str) -> str:
        return f"{self._prefix}:records:{key_segment(key)}"

    def _id(self, identifier: str) -> str:
        return f"{self._prefix}:id:{identifier}"

    def _recent(self, identity: str) -> str:
        return f"{self._prefix}:recent:{digest_text(identity)}"

    def _size(self, digest: str) -> str:
        return f"{self._prefix}:size:{digest}"

    def _chunk(self, digest: str, number: int) -> str:
        return f"{self._prefix}:chunk:{digest}:{number}"

    def _piped(self, verb: str, ask: Callable[[Any, T], object], items: Sequence[T]) -> list[Any]:
        def run(client: Client) -> list[Any]:
            answers: list[Any] = []
            for start in range(0, len(items), _BATCH):
                with client.pipeline(transaction=False) as pipeline:
                    for item in items[start : start + _BATCH]:
                        ask(pipeline, item)
                    answers += pipeline.execute()
            return answers

        return self._bounded(verb, run) if items else []

    def _bounded(self, verb: str, call: Callable[[Client], T], size: int = 0) -> T:
        seconds = self._seconds + size / SLOWEST
        try:
            return self._workers.map(lambda _: call(self._connected()), [None], seconds)[0]
        except Stalled:
            with self._lock:
                self._client = None
            raise StorageError(self._shown, verb, "timed out") from None
        except redis.RedisError as error:
            raise StorageError(self._shown, verb, _reason(error)) from None
        except MemoryError:
            raise StorageError(self._shown, verb, "out of memory") from None
        except OSError as error:
            raise StorageError(self._shown, verb, _os_reason(error)) from None
        except Exception as error:
            # The client's parser raises what comes, when what it reads is not Redis.
            raise StorageError(self._shown, verb, type(error).__name__) from None

    def _connected(self) -> Client:
        with self._lock:
            if self._client is None or self._pid != os.getpid():
                self._client = redis.Redis.from_url(
                    self._url,
                    socket_connect_timeout=min(_CONNECT_SECONDS, self._seconds),
                    socket_timeout=min(_SILENCE_SECONDS, self._seconds),
                    retry=Retry(NoBackoff(), 1),
                    max_connections=2 * _CONNECTIONS,
                )
                self._pid = os.getpid()
            return self._client


def _count(size: int) -> int:
    """Values that a result of this size takes; an empty one has one, which is empty."""
    return max(1, -(-size // CHUNK))


def _values_of(chunks: Sequence[Buffer]) -> Iterator[bytes]:
    """The same bytes in values of CHUNK bytes, only the last one shorter; one at least."""
    value = bytearray()
    for chunk in chunks:
        view = memoryview(chunk).cast("B")
        position = 0
        while position < view.nbytes:
            if len(value) == CHUNK:
                yield bytes(value)
                value.clear()
            taken = min(CHUNK - len(value), view.nbytes - position)
            value += view[position : position + taken]
            position += taken
    yield bytes(value)


def _file_values(source: Path) -> Iterator[bytes]:
    with source.open("rb") as stream:
        yield stream.read(CHUNK)
        while value := stream.read(CHUNK):
            yield value


_REASONS = (
    ("OOM", "out of memory"),
    ("maxmemory", "out of memory"),
    ("WRONGPASS", "wrong credentials"),
    ("NOAUTH", "wrong credentials"),
    ("NOPERM", "permission denied"),
    ("invalid username-password", "wrong credentials"),
    ("Authentication required", "wrong credentials"),
    ("READONLY", "read-only server"),
    ("read only replica", "read-only server"),
    ("MISCONF", "server cannot persist"),
    ("onnection refused", "connection refused"),
    ("imeout", "timed out"),
    ("losed", "connection lost"),
    ("reset", "connection lost"),
)


def _reason(error: redis.RedisError) -> str:
    """A short class of errors; their texts may name hosts and commands and are not repeated."""
    if isinstance(error, redis.TimeoutError):
        return "timed out"
    if isinstance(error, redis.AuthenticationError):
        return "wrong credentials"
    if isinstance(error, redis.exceptions.ReadOnlyError):
        return "read-only server"
    text = str(error)
    for phrase, reason in _REASONS:
        if phrase in text:
            return reason
    return type(error).__name__


def _os_reason(error: OSError) -> str:
    return os.strerror(error.errno).lower() if error.errno else type(error).__name__


__all__ = ["RedisStorage", "open_redis"]
