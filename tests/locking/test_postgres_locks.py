from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator

import psycopg
import pytest
from contenders import eventually, finishes, holder
from servers import Server, free_port, postgres_server

from pytest_taskcache.errors import ConfigurationError, LockError
from pytest_taskcache.locking.postgres import PostgresLockManager
from pytest_taskcache.ports import Holder, Lease

OURS = "pid IN (SELECT pid FROM pg_stat_activity WHERE application_name = 'taskcache locks')"


@pytest.fixture
def database(postgres: Server) -> Iterator[psycopg.Connection]:
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        yield connection


@pytest.fixture
def manager(postgres: Server) -> Iterator[PostgresLockManager]:
    made = PostgresLockManager(postgres.url)
    yield made
    made.close()


def test_a_connection_that_died_frees_the_lock(
    manager: PostgresLockManager, database: psycopg.Connection, postgres: Server, key: str
) -> None:
    """When the server ends the session, others get the lock; the old holder does not confirm, and
    then goes on with a new session."""
    lease = manager.acquire(key, holder())
    assert isinstance(lease, Lease)
    database.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {OURS}")
    other = PostgresLockManager(postgres.url)
    new = eventually(other, key)
    assert new.token > lease.token
    with pytest.raises(LockError):
        manager.confirm(lease)
    assert not manager.confirm(lease)
    manager.release(lease)
    assert other.confirm(new)
    assert manager.acquire(key, holder("late")) == holder()
    assert isinstance(manager.acquire(key + "-2", holder()), Lease)
    other.close()


def test_nothing_is_left_on_the_server(
    manager: PostgresLockManager, database: psycopg.Connection, key: str
) -> None:
    """Released and closed locks leave neither rows nor advisory locks nor a session."""
    lease = manager.acquire(key + "-1", holder())
    assert isinstance(lease, Lease)
    manager.acquire(key + "-2", holder())
    manager.release(lease)
    manager.close()
    rows = database.execute("SELECT count(*) FROM taskcache_locks").fetchone()
    locks = database.execute("SELECT count(*) FROM pg_locks WHERE locktype='advisory'").fetchone()
    assert (rows, locks) == ((0,), (0,))


def test_a_holder_whose_row_is_lost_still_holds(
    manager: PostgresLockManager, database: psycopg.Connection, postgres: Server, key: str
) -> None:
    """The advisory lock decides, not the table: without its row the holder has no name, and its
    lease is not confirmed."""
    lease = manager.acquire(key, holder())
    assert isinstance(lease, Lease)
    database.execute("TRUNCATE taskcache_locks")
    other = PostgresLockManager(postgres.url)
    told = other.acquire(key, holder("other"))
    assert isinstance(told, Holder)
    assert "PostgreSQL backend" in told.process
    assert not manager.confirm(lease)
    manager.release(lease)
    assert isinstance(other.acquire(key, holder("other")), Lease)
    other.close()


def test_rows_of_the_dead_are_swept(
    manager: PostgresLockManager, database: psycopg.Connection, key: str
) -> None:
    """The row of a session that ended without telling is removed by the next one."""
    manager.acquire(key + "-1", holder())
    database.execute(
        "INSERT INTO taskcache_locks (key, holder, token, backend) VALUES (%s, '{}', 1, 999999999)",
        [key],
    )
    manager.close()
    manager.acquire(key + "-2", holder())
    left = database.execute("SELECT count(*) FROM taskcache_locks WHERE key = %s", [key])
    assert left.fetchone() == (0,)


def test_many_start_at_once_on_an_empty_database(
    database: psycopg.Connection, postgres: Server, key: str
) -> None:
    """Eight first users at the same moment make one table, and all get their locks."""
    database.execute("DROP TABLE IF EXISTS taskcache_locks")
    database.execute("DROP SEQUENCE IF EXISTS taskcache_lock_tokens")
    managers = [PostgresLockManager(postgres.url) for _ in range(8)]
    answers: list[Lease | Holder] = []
    start = threading.Barrier(8)

    def work(number: int) -> None:
        start.wait()
        answers.append(managers[number].acquire(f"{key}-{number}", holder()))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for each in managers:
        each.close()
    assert [type(answer) for answer in answers] == [Lease] * 8


def test_a_user_without_all_rights_holds_nothing(
    manager: PostgresLockManager, database: psycopg.Connection, postgres: Server, key: str
) -> None:
    """Where the lock is had but cannot be written down it is given back; others get it."""
    manager.release(eventually(manager, key))
    database.execute("DROP ROLE IF EXISTS reader")
    database.execute("CREATE ROLE reader LOGIN")
    database.execute("GRANT ALL ON taskcache_locks TO reader")  # but no tokens
    url = postgres.url.replace("postgres@", "reader@")
    reader = PostgresLockManager(url)
    with pytest.raises(LockError, match="permission denied"):
        reader.acquire(key, holder("reader"))
    assert isinstance(manager.acquire(key, holder()), Lease)
    reader.close()
    database.execute("DROP OWNED BY reader")
    database.execute("DROP ROLE reader")


def test_a_server_that_stands_still_hangs_nothing(key: str) -> None:
    """Thirty-two operations on a server that does not answer all fail, and soon: it is asked once,
    then left alone. It is used again after a pause, without a new object."""
    with postgres_server() as server:
        manager = PostgresLockManager(server.url)
        fresh = PostgresLockManager(server.url, pause=0.2)
        lease = manager.acquire(key, holder())
        assert isinstance(lease, Lease)
        with server.suspended():
            assert finishes(lambda: _fails_then_lost(manager, lease))
            with pytest.raises(LockError):
                fresh.acquire(key, holder())
        time.sleep(0.3)
        eventually(fresh, key)
        fresh.close()


def _fails_to_connect(manager: PostgresLockManager, key: str) -> None:
    for number in range(30):
        with pytest.raises(LockError):
            manager.acquire(f"{key}-{number}", holder())
    manager.close()


def _fails_then_lost(manager: PostgresLockManager, lease: Lease) -> None:
    with pytest.raises(LockError, match="no answer within 2 s"):
        manager.confirm(lease)
    assert not manager.confirm(lease)  # its session was given up, and the lock with it
    manager.release(lease)
    _fails_to_connect(manager, lease.key)


def test_a_server_that_is_gone_is_a_fault(key: str) -> None:
    """A killed server gives LockError at the first question; the lease is lost with it."""
    with postgres_server() as server:
        manager = PostgresLockManager(server.url)
        lease = manager.acquire(key, holder())
        assert isinstance(lease, Lease)
        server.kill()
        with pytest.raises(LockError):
            manager.confirm(lease)
        assert not manager.confirm(lease)
        assert finishes(lambda: _fails_to_connect(manager, key))


def test_over_a_unix_socket(postgres: Server, key: str) -> None:
    """A URL whose host is a socket's directory works too, and means the same server."""
    url = f"postgresql://postgres@/postgres?host={postgres.directory}&port={postgres.port}"
    here, there = PostgresLockManager(url), PostgresLockManager(postgres.url)
    assert isinstance(here.acquire(key, holder()), Lease)
    assert there.acquire(key, holder("there")) == holder()
    here.close()
    there.close()


def test_a_manager_for_a_server_that_never_was(key: str) -> None:
    """Making and closing a manager needs no server; using it is a fault without secrets."""
    url = f"postgresql+psycopg://me:secret@127.0.0.1:{free_port()}/db?connect_timeout=1"
    manager = PostgresLockManager(url)
    with pytest.raises(LockError, match="refused") as caught:
        manager.acquire(key, holder())
    assert "secret" not in f"{caught.value} {caught.value.args} {manager.describe()}"
    manager.close()


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:secret@host/db?no_such_option=1",
        "postgresql://me:secret@[host/db",
        "mysql://me:secret@host/db",
    ],
)
def test_a_wrong_url_is_a_usage_error(url: str) -> None:
    """A URL that cannot work is refused at once, with the remedy and without the password."""
    with pytest.raises(ConfigurationError, match="postgresql://") as caught:
        PostgresLockManager(url)
    assert "secret" not in str(caught.value)


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names what to install."""
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'pytest-taskcache\[postgres\]'"):
        PostgresLockManager("postgresql://host/db")
