from __future__ import annotations

import socket
import sys
import threading
import time
from collections.abc import Iterator

import pytest
import redis as client_library
from contenders import eventually, finishes, holder
from servers import Server, free_port, redis_server

from pytest_taskcache.errors import ConfigurationError, LockError
from pytest_taskcache.locking.redis import RedisLockManager
from pytest_taskcache.ports import Holder, Lease, LockManager


@pytest.fixture
def client(redis: Server) -> Iterator[client_library.Redis]:
    with client_library.Redis.from_url(redis.url) as opened:
        yield opened


def every_operation_fails(manager: LockManager, lease: Lease) -> None:
    with pytest.raises(LockError):
        manager.confirm(lease)
    for number in range(30):
        with pytest.raises(LockError):
            manager.acquire(f"{lease.key}-{number}", holder())
    with pytest.raises(LockError):
        manager.release(lease)
    manager.close()


def test_a_heartbeat_keeps_the_lease(redis: Server, key: str) -> None:
    """A computation may take many times the lease: as long as the process lives it is kept."""
    manager = RedisLockManager(redis.url, lease=1.5, heartbeat=0.2)
    rival = RedisLockManager(redis.url)
    leases = [manager.acquire(f"{key}-{n}", holder()) for n in range(300)]
    time.sleep(2.5)
    assert all(rival.acquire(f"{key}-{n}", holder("rival")) == holder() for n in range(300))
    assert all(isinstance(lease, Lease) and manager.confirm(lease) for lease in leases)
    manager.close()
    rival.close()


def test_a_forgotten_manager_stops_its_heartbeat(redis: Server, key: str) -> None:
    """An object that was garbage-collected without close holds nothing after the lease."""
    forgotten = RedisLockManager(redis.url, lease=0.4, heartbeat=0.1)
    forgotten.acquire(key, holder())
    del forgotten
    manager = RedisLockManager(redis.url)
    eventually(manager, key)
    manager.close()


def test_nothing_is_left_on_the_server(
    redis: Server, client: client_library.Redis, key: str
) -> None:
    """After close only the token counter remains, and that expires."""
    manager = RedisLockManager(redis.url, prefix=f"{key}:")
    manager.acquire("k", holder())
    assert len(client.keys(f"{key}:*")) == 2
    manager.close()
    (left,) = client.keys(f"{key}:*")
    assert client.pttl(left) > 0


def test_a_server_that_lost_its_data_lets_nobody_commit_twice(redis: Server, key: str) -> None:
    """As after a failover to a replica that lacks the lock: a second holder gets in, and the first
    one's confirm is False. Tokens go on growing."""
    with redis_server() as server:
        first, second = RedisLockManager(server.url), RedisLockManager(server.url)
        old = first.acquire(key, holder())
        assert isinstance(old, Lease)
        server.kill()
        with redis_server(port=server.port):
            new = second.acquire(key, holder("second"))
            assert isinstance(new, Lease)
            assert new.token > old.token
            assert not first.confirm(old)
            first.release(old)
            assert second.confirm(new)
            first.close()
            second.close()


def test_a_lost_lease_frees_nothing(redis: Server, client: client_library.Redis, key: str) -> None:
    """Whoever lost the lock without knowing it releases nothing of the next holder's."""
    first, second = (RedisLockManager(redis.url, prefix=f"{key}:") for _ in range(2))
    old = first.acquire("k", holder())
    assert isinstance(old, Lease)
    client.delete(f"{key}:key:k")
    new = second.acquire("k", holder())
    assert isinstance(new, Lease)
    first.release(old)
    assert second.confirm(new)
    first.close()
    assert second.confirm(new)
    second.close()


def test_the_heartbeat_finds_out_what_is_lost(
    redis: Server, client: client_library.Redis, key: str
) -> None:
    """A lock that vanished on the server is not brought back by the heartbeat."""
    manager = RedisLockManager(redis.url, prefix=f"{key}:", lease=1.0, heartbeat=0.05)
    lease = manager.acquire("k", holder())
    assert isinstance(lease, Lease)
    client.delete(f"{key}:key:k")
    time.sleep(0.3)
    assert client.exists(f"{key}:key:k") == 0
    assert not manager.confirm(lease)
    manager.close()


def test_a_server_that_stands_still_hangs_nothing(key: str) -> None:
    """Thirty-two operations on a server that does not answer all fail, and soon: it is asked once,
    then left alone."""
    with redis_server() as server:
        manager = RedisLockManager(server.url)
        lease = manager.acquire(key, holder())
        assert isinstance(lease, Lease)
        with server.suspended():
            assert finishes(lambda: every_operation_fails(manager, lease))


def test_it_goes_on_when_the_server_is_back(key: str) -> None:
    """After a pause the locks are used again, without a new object."""
    with redis_server() as server:
        manager = RedisLockManager(server.url, pause=0.2)
        with server.suspended(), pytest.raises(LockError):
            manager.acquire(key, holder())
        time.sleep(0.3)
        eventually(manager, key)
        manager.close()


def test_a_server_that_is_gone_is_a_fault(key: str) -> None:
    """Connection refused gives a LockError that names the server and no secret."""
    with redis_server() as server:
        manager = RedisLockManager(server.url)
        lease = manager.acquire(key, holder())
        assert isinstance(lease, Lease)
        server.kill()
        assert finishes(lambda: every_operation_fails(manager, lease))


def test_a_wrong_password_is_not_told() -> None:
    """Neither description nor error repeats the user or the password of the URL."""
    with redis_server("--requirepass", "right-secret") as server:
        right = f"redis://:right-secret@127.0.0.1:{server.port}/0"
        manager = RedisLockManager(right)
        assert isinstance(manager.acquire("k", holder()), Lease)
        assert "right-secret" not in manager.describe()
        manager.close()
        for url in (f"redis://me:wrong-secret@127.0.0.1:{server.port}/0", server.url):
            wrong = RedisLockManager(url)
            with pytest.raises(LockError) as caught:
                wrong.acquire("k", holder())
            assert "secret" not in f"{caught.value} {caught.value.args} {wrong.describe()}"
            assert f"127.0.0.1:{server.port}" in str(caught.value)
            wrong.close()


@pytest.mark.parametrize(
    "url",
    ["redis://:secret@host:notaport/0", "http://me:secret@host", "redis://:secret@[::1/0", "x"],
)
def test_a_wrong_url_is_a_usage_error(url: str) -> None:
    """A URL that cannot work is refused at once, with the remedy and without the password."""
    with pytest.raises(ConfigurationError, match="redis://") as caught:
        RedisLockManager(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("lease", "heartbeat"), [(1.0, 0.9), (1.0, 0.0), (0.0, 0.0), (-1.0, 1.0), (1e400, 1.0)]
)
def test_a_heartbeat_that_cannot_keep_the_lease(lease: float, heartbeat: float) -> None:
    """Lease and heartbeat must fit, or every long computation would lose its lock."""
    with pytest.raises(ConfigurationError, match="heartbeat"):
        RedisLockManager(lease=lease, heartbeat=heartbeat)


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names what to install."""
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'pytest-taskcache\[redis\]'"):
        RedisLockManager()


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"", b"*1\r\n:x\r\n", b"$"]
)
def test_something_else_that_answers(answer: bytes) -> None:
    """Whatever listens there, the answer is a LockError."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(100)
                    connection.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        manager = RedisLockManager(f"redis://127.0.0.1:{listener.getsockname()[1]}/0")
        with pytest.raises(LockError):
            manager.acquire("k", holder())
        manager.close()
        listener.shutdown(socket.SHUT_RDWR)


def test_somebody_elses_value_under_our_name(
    redis: Server, client: client_library.Redis, key: str
) -> None:
    """A value we did not write holds the lock, in nobody's name; another type is a fault."""
    manager = RedisLockManager(redis.url, prefix=f"{key}:")
    client.set(f"{key}:key:k", b"\xff rubbish")
    told = manager.acquire("k", holder())
    assert isinstance(told, Holder)
    assert "cannot be read" in told.label
    client.lpush(f"{key}:key:list", "x")
    with pytest.raises(LockError, match="WRONGTYPE"):
        manager.acquire("list", holder())
    manager.close()


def test_prefixes_keep_projects_apart(redis: Server, key: str) -> None:
    """Two projects on one server with different prefixes do not wait for each other."""
    one, two = (RedisLockManager(redis.url, prefix=f"{key}-{n}:") for n in "12")
    assert isinstance(one.acquire("k", holder()), Lease)
    assert isinstance(two.acquire("k", holder()), Lease)
    one.close()
    two.close()


def test_host_and_port_instead_of_a_url(redis: Server, key: str) -> None:
    """The seeds' spelling, RedisLockManager(host=...), means the same server."""
    one = RedisLockManager(host="127.0.0.1", port=redis.port)
    two = RedisLockManager(redis.url)
    assert isinstance(one.acquire(key, holder()), Lease)
    assert two.acquire(key, holder("two")) == holder()
    one.close()
    two.close()


def test_a_manager_for_a_server_that_never_was(key: str) -> None:
    """Making and closing a manager needs no server; using it is a fault."""
    manager = RedisLockManager(port=free_port())
    with pytest.raises(LockError):
        manager.acquire(key, holder())
    manager.close()
