from __future__ import annotations

import threading
from pathlib import Path

import pytest
from contenders import holder
from servers import Server

from pytest_taskcache.errors import ConfigurationError
from pytest_taskcache.locking.by_name import lock_manager_for
from pytest_taskcache.locking.file import FileLockManager
from pytest_taskcache.locking.leases import MemoryLockManager
from pytest_taskcache.ports import Holder, Lease
from pytest_taskcache.storage.remote.location import shown


def test_every_spelling_of_a_directory_is_the_same_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A path, its text, a file URL and a relative path exclude each other."""
    monkeypatch.chdir(tmp_path)
    directory = tmp_path / "my locks"
    url = f"file://{directory}".replace(" ", "%20")
    specs = [directory, str(directory), url, "./my locks"]
    managers = [lock_manager_for(spec) for spec in specs]
    assert isinstance(managers[0].acquire("k", holder()), Lease)
    assert [manager.acquire("k", holder("b")) for manager in managers] == [holder()] * 4
    for manager in managers:
        manager.close()


def test_names_lead_to_servers(redis: Server, postgres: Server, key: str) -> None:
    """URLs reach the servers, with options of ours and of the client's library."""
    for url in (
        redis.url,
        f"{redis.url}?lease=5&heartbeat=1.5&prefix={key}:&health_check_interval=30",
        postgres.url,
        postgres.url.replace("postgresql:", "postgresql+psycopg:"),
    ):
        manager = lock_manager_for(url)
        lease = manager.acquire(key, holder())
        assert isinstance(lease, Lease)
        assert manager.confirm(lease)
        manager.close()


def test_memory_is_a_lock_of_its_own() -> None:
    """Each "memory" is a new object: two sessions in one process do not wait for each other."""
    one, two = lock_manager_for("memory"), lock_manager_for("memory")
    assert isinstance(one, MemoryLockManager)
    assert isinstance(one.acquire("k", holder()), Lease)
    assert isinstance(two.acquire("k", holder()), Lease)


def test_an_object_is_used_as_it_is(tmp_path: Path) -> None:
    """Whoever brings a lock manager gets that one."""
    mine = FileLockManager(tmp_path)
    assert lock_manager_for(mine) is mine


@pytest.mark.parametrize(
    "spec",
    [
        "reddis",
        "",
        "file",
        "s3://bucket/locks",
        "file://host/share",
        "file://",
        "redis://h/0?lease=long",
        "redis://h/0?lease=1&heartbeat=1",
        "redis://:secret@h/0?no_such_option=1&max_connections=x",
        "mysql://me:secret@h/db",
        7,
        None,
        pytest.param(object(), id="an object"),
        MemoryLockManager,
    ],
    ids=repr,
)
def test_a_name_that_means_nothing_is_refused(spec: object) -> None:
    """The error says what may be written instead, and no secret."""
    with pytest.raises(ConfigurationError, match=r"write|use a heartbeat") as caught:
        lock_manager_for(spec)  # type: ignore[arg-type]
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("redis://u:p@host:6379/3?password=p", "redis://host:6379/3"),
        ("rediss://[::1]:1/0", "rediss://[::1]:1/0"),
        ("postgresql://u:p%40@a/db", "postgresql://a/db"),
        ("postgresql://u:p@a:1,b:2/db", "postgresql://a:1,b:2/db"),
        ("redis://u:p@ss@host/0", "redis://host/0"),
        ("redis://u:p@host:nan/0", "redis://host:nan/0"),
        ("unix:///run/redis.sock?password=p", "unix:///run/redis.sock"),
        ("host=a password=p", "what is no URL"),
    ],
)
def test_a_url_is_shown_without_its_secrets(url: str, text: str) -> None:
    """What people see of a URL has no user, no password and no options."""
    assert shown(url) == text


def test_the_memory_locks_hold_between_threads() -> None:
    """A thread is told who holds the lock in another thread, and gets it when it is released."""
    manager = MemoryLockManager()
    lease = manager.acquire("k", holder())
    assert isinstance(lease, Lease)
    told: list[Lease | Holder] = []

    def other() -> None:
        told.append(manager.acquire("k", holder("other")))
        manager.release(lease)
        told.append(manager.acquire("k", holder("other")))

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert told[0] == holder()
    assert isinstance(told[1], Lease)
    assert told[1].token > lease.token
