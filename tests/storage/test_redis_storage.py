"""Records and results in a real Redis (Valkey)."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
import redis
from remote_conformance import RemoteConformance
from servers import Server, free_port, redis_server

from pytest_taskcache.errors import ConfigurationError, StorageError
from pytest_taskcache.model.record import Variant
from pytest_taskcache.ports import Storage
from pytest_taskcache.storage.remote.location import storage_by_url
from pytest_taskcache.storage.remote.store import PART, record_name
from pytest_taskcache.testing.storages import MakeStorage, a_variant, digest_of, fresh_key


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with redis_server() as running:
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[Any]:
    with redis.Redis.from_url(server.url) as connected:
        yield connected


class TestRedis(RemoteConformance):
    server: Server

    @pytest.fixture
    def make_storage(self, server: Server) -> MakeStorage:
        self.server = server
        self.prefix = uuid.uuid4().hex
        return lambda: storage_by_url(f"{server.url}?prefix={self.prefix}")

    def abandon(self, storage: Storage, variants: Sequence[Variant]) -> None:
        """A connection that breaks between MULTI and EXEC."""
        with redis.Redis.from_url(self.server.url) as client:
            connection = client.connection_pool.get_connection()
            connection.send_command("MULTI")
            for variant in variants:
                name = record_name(variant.key, variant.id)
                connection.send_command("SET", f"{{{self.prefix}}}:blob:{name}", b"x")
            connection.disconnect()


def names_of(client: Any, prefix: str) -> list[bytes]:
    return sorted(client.keys(f"{{{prefix}}}:*"))


def test_everything_expires(server: Server, client: Any) -> None:
    """With ``expire`` no name is left for ever."""
    prefix = uuid.uuid4().hex
    storage = storage_by_url(f"{server.url}?prefix={prefix}&expire=7d")
    data = os.urandom(100)
    storage.write_result(digest_of(data), [data])
    storage.write_result(digest_of(data), [data])
    storage.write_records([a_variant(), a_variant()])
    names = names_of(client, prefix)
    assert len(names) == 2 + 2 * 2 + 2 + 1
    for name in names:
        assert 7 * 86400 - 60 < client.ttl(name) <= 7 * 86400
    storage.close()


def test_nothing_expires_unless_asked(server: Server, client: Any) -> None:
    """Without ``expire`` nothing does."""
    prefix = uuid.uuid4().hex
    storage = storage_by_url(f"{server.url}?prefix={prefix}")
    storage.write_records([a_variant()])
    assert {client.ttl(name) for name in names_of(client, prefix)} == {-1}
    storage.close()


def test_results_live_as_long_as_their_newest_record(server: Server, client: Any) -> None:
    """A result that was there already is prolonged by each record that names it."""
    prefix = uuid.uuid4().hex
    storage = storage_by_url(f"{server.url}?prefix={prefix}&expire=7d")
    data = os.urandom(100)
    storage.write_result(digest_of(data), [data])
    (name,) = client.keys(f"{{{prefix}}}:blob:results/*")
    client.expire(name, 60)
    result = replace(a_variant().result, digest=digest_of(data), size=100, inline=None)
    storage.write_records([a_variant(result=result)])
    assert client.ttl(name) > 6 * 86400
    storage.close()


def test_result_with_a_lost_chunk_is_absent(server: Server, client: Any) -> None:
    """A result of which a part was evicted reads as absent, and is mended by the next write."""
    prefix = uuid.uuid4().hex
    storage = storage_by_url(f"{server.url}?prefix={prefix}")
    data = os.urandom(1000) * (PART // 500)
    digest = digest_of(data)
    storage.write_result(digest, [data])
    client.delete(f"{{{prefix}}}:blob:results/{digest[:2]}/{digest}.0")
    assert storage.read_result(digest, len(data)) is None
    storage_by_url(f"{server.url}?prefix={prefix}").write_result(digest, [data])
    assert storage.read_result(digest, len(data)) == data
    storage.close()


def test_password_is_checked_and_never_shown() -> None:
    """A wrong or missing password is a fault that shows neither password nor name."""
    with redis_server("--requirepass", "s3cr3t") as guarded:
        right = storage_by_url(f"redis://:s3cr3t@127.0.0.1:{guarded.port}/0")
        variant = a_variant()
        right.write_records([variant])
        assert right.read_records([variant.key]) == {variant.key: (variant,)}
        assert right.describe() == f"redis://127.0.0.1:{guarded.port}/0"
        right.close()
        for url in (f"redis://:wr0ng@127.0.0.1:{guarded.port}/0", guarded.url):
            with pytest.raises(StorageError) as raised:
                storage_by_url(url).read_records([variant.key])
            assert raised.value.reason == "wrong credentials"
            assert "wr0ng" not in str(raised.value)


def test_dead_server_is_a_storage_error() -> None:
    """Nobody listening is a fault with a short reason."""
    storage = storage_by_url(f"redis://127.0.0.1:{free_port()}/0")
    with pytest.raises(StorageError, match="connection refused"):
        storage.read_records([fresh_key()])
    with pytest.raises(StorageError, match="connection refused"):
        storage.write_result(digest_of(b"x"), [b"x"])


def test_server_that_stops_answering(server: Server) -> None:
    """A frozen server is a fault after the time limit, and used again when it is back."""
    storage = storage_by_url(f"{server.url}?timeout=1")
    variant = a_variant()
    storage.write_records([variant])
    with server.suspended(), pytest.raises(StorageError, match="timed out"):
        storage.read_records([variant.key])
    assert storage.read_records([variant.key]) == {variant.key: (variant,)}
    storage.close()


def test_full_server_is_a_storage_error() -> None:
    """A server without memory left refuses writes with a reason; reads go on."""
    with redis_server("--maxmemory", "3mb", "--maxmemory-policy", "noeviction") as small:
        storage = storage_by_url(small.url)
        data = os.urandom(8 * 1024 * 1024)
        with pytest.raises(StorageError, match="out of memory"):
            storage.write_result(digest_of(data), [data, data, data])
        assert storage.read_records([fresh_key()]) == {}
        storage.close()


def test_restarted_server_is_found_again() -> None:
    """Connections that died with the server are replaced."""
    port = free_port()
    with redis_server(port=port) as first:
        storage = storage_by_url(first.url)
        storage.write_records([a_variant()])
    with redis_server(port=port):
        assert storage.read_records([fresh_key()]) == {}
    storage.close()


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_forked_child_uses_a_connection_of_its_own(server: Server) -> None:
    """A fork shares no connection: the child reads and closes, the parent goes on."""
    storage = storage_by_url(server.url)
    variant = a_variant()
    storage.write_records([variant])
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = 0 if variant.key in storage.read_records([variant.key]) else 2
            storage.close()
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert storage.read_records([variant.key]) == {variant.key: (variant,)}
    storage.close()


@pytest.mark.parametrize(
    "options", ["expire=soon", "expire=0", "prefix=", "prefix={x}", "expires=7d", "timeout=-1"]
)
def test_impossible_option_is_a_usage_error(options: str) -> None:
    """A misspelt or impossible option is refused when it is configured."""
    with pytest.raises(ConfigurationError):
        storage_by_url(f"redis://127.0.0.1:1/0?{options}")


def test_impossible_url_is_a_usage_error() -> None:
    """So is a URL that names no server."""
    with pytest.raises(ConfigurationError, match="no Redis URL"):
        storage_by_url("redis://host:port/0")
