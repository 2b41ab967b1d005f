"""Parts the tests of the storage decorators share: records, a plain storage, a storage behind a
real socket whose server can be made to misbehave."""

from __future__ import annotations

import contextlib
import hashlib
import json
import socket
import threading
import time
from base64 import b64decode, b64encode
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import xxhash

from pytest_taskcache.errors import StorageError
from pytest_taskcache.model.dependency import Dependency, Kind, Trace
from pytest_taskcache.model.key import Identity, Part
from pytest_taskcache.model.record import Blob, Result, Variant
from pytest_taskcache.ports import Buffer
from pytest_taskcache.storage.memory import MemoryStorage
from pytest_taskcache.storage.records import decode_variant, encode_variant

KEY = b"k" * 32
OTHER_KEY = b"o" * 32
NOW = 1_700_000_000.0


class Faults(Counter[str]):
    """What a storage tells of faults that broke nothing: how often each, and the sentences."""

    def __init__(self) -> None:
        super().__init__()
        self.sentences: list[str] = []

    def __call__(self, reason: str, sentence: str) -> None:
        self[reason] += 1
        self.sentences += [sentence] if sentence else []


def digest_of(data: bytes) -> str:
    return xxhash.xxh3_128_hexdigest(data)


def sha256_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def make_variant(
    number: int = 1,
    *,
    key: str = "",
    payload: bytes = b"",
    inline: bool = False,
    serializer: str = "pickle/cpython-3.12",
    blobs: Sequence[bytes] = (),
    created: float = NOW,
    file: str = "tests/test_rates.py",
) -> Variant:
    """A record with every field filled; its result is ``payload``."""
    payload = payload or b"payload %d" % number
    key = key or f"{number:032x}"
    trace = Trace(
        (
            Dependency(Kind.FILE, "data/rates.csv", digest_of(b"rates")),
            Dependency(Kind.SOURCE, "src/rates.py", digest_of(b"module")),
        ),
        digest_of(b"trace"),
    )
    return Variant(
        id=f"{number:020d}-{key[:8]}",
        key=key,
        identity=Identity(file, f"load_{number}"),
        parts=(Part("inputs.x", digest_of(b"x")), Part("source", digest_of(b"source"))),
        trace=trace,
        result=Result(
            digest_of(payload),
            len(payload),
            serializer,
            payload if inline else None,
            "",
            tuple(Blob(digest_of(blob), len(blob)) for blob in blobs),
        ),
        created=created,
        expires=created + 3600.0,
        duration=1.5,
        producer="host/123",
        versions=(("python", "3.12.1"), ("taskcache", "0.1.0")),
        inputs=(Part("x", digest_of(b"x")),),
        parameters=(Part("p", digest_of(b"p")),),
        vouched=False,
    )


def store(storage: Any, variant: Variant, payload: bytes, blobs: Sequence[bytes] = ()) -> None:
    """Writes a result, its blobs, and then its record."""
    for data in (payload, *blobs):
        storage.write_result(digest_of(data), (data,))
    storage.write_records([variant])


class Gate(MemoryStorage):
    """A memory storage that can be told to fail or to block, and notes what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []
        self.asked: list[list[str]] = []
        self.error: Callable[[str], BaseException | None] = lambda operation: None
        self.copied = threading.Event()
        self.open = threading.Event()
        self.open.set()

    def pass_through(self, operation: str) -> None:
        self.calls.append(operation)
        error = self.error(operation)
        if error is not None:
            raise error
        self.open.wait()

    def describe(self) -> str:
        return "gate://"

    def read_records(self, keys: Collection[str]) -> Mapping[str, tuple[Variant, ...]]:
        self.asked.append(list(keys))
        self.pass_through("read_records")
        return super().read_records(keys)

    def write_records(self, variants: Sequence[Variant]) -> None:
        self.pass_through("write_records")
        super().write_records(variants)

    def recent(self, identities: Collection[str]) -> Mapping[str, Variant]:
        self.pass_through("recent")
        return super().recent(identities)

    def remove_records(self, ids: Collection[str]) -> None:
        self.pass_through("remove_records")
        super().remove_records(ids)

    def write_result(self, digest: str, chunks: Sequence[Buffer]) -> None:
        self.pass_through("write_result")
        super().write_result(digest, chunks)

    def add_file(self, digest: str, source: Path) -> None:
        self.pass_through("add_file")
        super().add_file(digest, source)

    def read_result(self, digest: str, size: int) -> memoryview | None:
        self.pass_through("read_result")
        return super().read_result(digest, size)

    def copy_file(self, digest: str, destination: Path, readonly: bool = False) -> bool:
        self.pass_through("copy_file")
        done = super().copy_file(digest, destination, readonly)
        self.copied.set()
        return done

    def has_results(self, digests: Collection[str]) -> frozenset[str]:
        self.pass_through("has_results")
        return super().has_results(digests)


class Bucket(MemoryStorage):
    """What an attacker with write access can do to a remote storage: anything."""

    trusted = False

    def __init__(self) -> None:
        super().__init__()
        self.planted: dict[str, tuple[Variant, ...]] = {}
        self.swapped: dict[str, bytes] = {}

    def describe(self) -> str:
        return "bucket://"

    def read_records(self, keys: Any) -> Mapping[str, tuple[Variant, ...]]:
        planted = {key: self.planted[key] for key in keys if key in self.planted}
        return {**super().read_records(keys), **planted}

    def recent(self, identities: Any) -> Mapping[str, Variant]:
        planted = {str(v.identity): v for group in self.planted.values() for v in group}
        return {**super().recent(identities), **planted}

    def read_result(self, digest: str, size: int) -> memoryview | None:
        # The digest check of an adapter is no obstacle: xxh3 is not made to resist collisions.
        if digest in self.swapped:
            return memoryview(self.swapped[digest])
        return super().read_result(digest, size)

    def copy_file(self, digest: str, destination: Path, readonly: bool = False) -> bool:
        if digest in self.swapped:
            destination.write_bytes(self.swapped[digest])
            return True
        return super().copy_file(digest, destination, readonly)


def failing(reason: str = "connection reset") -> Callable[[str], StorageError]:
    return lambda operation: StorageError("gate://", operation, reason)


class Remote:
    """A storage server on a real socket: one JSON line a request. It can stop answering, reset
    connections, or answer slowly, as servers do."""

    def __init__(self) -> None:
        self.content = MemoryStorage()
        self.black = False
        self.resets = False
        self.delay = 0.0
        self.requests = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._connections: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    def close(self) -> None:
        # Wakes a thread that blocks in accept; close alone does not.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._connections.append(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError), connection.makefile("rwb") as file:
            for line in file:
                self.requests += 1
                if self.black:
                    return_never = threading.Event()
                    while self.black:
                        return_never.wait(0.05)
                    return
                if self.resets:
                    connection.close()
                    return
                time.sleep(self.delay)
                file.write(json.dumps(self._answer(json.loads(line))).encode() + b"\n")
                file.flush()

    def _answer(self, request: dict[str, Any]) -> Any:
        verb, content = request["verb"], self.content
        if verb == "read_records":
            found = content.read_records(request["keys"])
            return {key: [encode_variant(v).decode() for v in found[key]] for key in found}
        if verb == "write_records":
            decoded = [decode_variant(text.encode()) for text in request["variants"]]
            return content.write_records([variant for variant in decoded if variant is not None])
        if verb == "write_result":
            return content.write_result(request["digest"], [b64decode(request["data"])])
        if verb == "read_result":
            data = content.read_result(request["digest"], request["size"])
            return None if data is None else b64encode(data).decode()
        assert verb == "has_results", verb
        return sorted(content.has_results(request["digests"]))


@contextlib.contextmanager
def remote_server() -> Iterator[Remote]:
    remote = Remote()
    try:
        yield remote
    finally:
        remote.close()


class SocketStorage(MemoryStorage):
    """The client: blocking sockets without any time limit, a connection a request."""

    trusted = False

    def __init__(self, port: int) -> None:
        super().__init__()
        self._port = port

    def describe(self) -> str:
        return f"tcp://127.0.0.1:{self._port}"

    def _request(self, **request: Any) -> Any:
        verb = request["verb"]
        try:
            with (
                socket.create_connection(("127.0.0.1", self._port)) as connection,
                connection.makefile("rwb") as file,
            ):
                file.write(json.dumps(request).encode() + b"\n")
                file.flush()
                line = file.readline()
        except OSError as error:
            raise StorageError(self.describe(), verb, type(error).__name__) from error
        if not line.endswith(b"\n"):
            raise StorageError(self.describe(), verb, "truncated answer")
        return json.loads(line)

    def read_records(self, keys: Collection[str]) -> Mapping[str, tuple[Variant, ...]]:
        answer = self._request(verb="read_records", keys=list(keys))
        found = {}
        for key, texts in answer.items():
            variants = tuple(decode_variant(text.encode()) for text in texts)
            found[key] = tuple(variant for variant in variants if variant is not None)
        return found

    def write_records(self, variants: Sequence[Variant]) -> None:
        texts = [encode_variant(variant).decode() for variant in variants]
        self._request(verb="write_records", variants=texts)

    def write_result(self, digest: str, chunks: Sequence[Buffer]) -> None:
        data = b"".join(chunks)
        self._request(verb="write_result", digest=digest, data=b64encode(data).decode())

    def read_result(self, digest: str, size: int) -> memoryview | None:
        answer = self._request(verb="read_result", digest=digest, size=size)
        return None if answer is None else memoryview(b64decode(answer))

    def has_results(self, digests: Collection[str]) -> frozenset[str]:
        return frozenset(self._request(verb="has_results", digests=sorted(digests)))
