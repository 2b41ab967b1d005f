"""Records and results in SQLite and PostgreSQL."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from threading import Thread

import pytest
from remote_conformance import RemoteConformance
from servers import Server, free_port, postgres_server
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url

from pytest_taskcache.errors import ConfigurationError, StorageError
from pytest_taskcache.model.record import Variant
from pytest_taskcache.ports import Storage
from pytest_taskcache.storage.remote.bounded import Bounded
from pytest_taskcache.storage.remote.location import storage_by_url
from pytest_taskcache.testing.storages import MakeStorage, a_variant, digest_of, fresh_key


@pytest.fixture(scope="module")
def postgres() -> Iterator[Server]:
    with postgres_server() as server:
        yield server


def execute(url: str, *statements: str, **parameters: object) -> None:
    if url.startswith("postgresql://"):
        url = url.replace("postgresql://", "postgresql+psycopg://", 1)
    engine = create_engine(make_url(url))
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(text(statement), parameters)
    engine.dispose()


class DatabaseConformance(RemoteConformance):
    url = ""

    def abandon(self, storage: Storage, variants: Sequence[Variant]) -> None:
        """Another process begins the commit and is killed before it completes it."""
        storage.write_records([a_variant()])
        program = (
            "import os, sys, pickle\n"
            "from sqlalchemy import event\n"
            "from pytest_taskcache.storage.remote.location import storage_by_url\n"
            "storage = storage_by_url(sys.argv[1])\n"
            "event.listen(storage.blobs._connected(), 'commit', lambda connection: os._exit(9))\n"
            "storage.write_records(pickle.loads(bytes.fromhex(sys.stdin.read())))\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", program, self.url],
            input=pickle.dumps(list(variants)).hex(),
            text=True,
            check=False,
            cwd=Path(__file__).parents[2],
        )
        assert done.returncode == 9


class TestSqlite(DatabaseConformance):
    @pytest.fixture
    def make_storage(self, tmp_path_factory: pytest.TempPathFactory) -> MakeStorage:
        self.url = f"sqlite:///{tmp_path_factory.mktemp('database')}/sub/cache.db"
        return lambda: storage_by_url(self.url)


class TestPostgres(DatabaseConformance):
    @pytest.fixture
    def make_storage(self, postgres: Server) -> MakeStorage:
        self.url = postgres.url
        return lambda: storage_by_url(self.url)


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/cache.db"
    server: Server = request.getfixturevalue("postgres")
    name = f"db{uuid.uuid4().hex}"
    engine = create_engine(
        server.url.replace("postgresql://", "postgresql+psycopg://"), isolation_level="AUTOCOMMIT"
    )
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return server.url.rpartition("/")[0] + f"/{name}"


def test_reading_creates_nothing(url: str, tmp_path: Path) -> None:
    """A reader of an empty database finds nothing and makes neither file nor tables."""
    storage = storage_by_url(url)
    assert storage.read_records([fresh_key()]) == {}
    assert storage.recent(["a.py::f"]) == {}
    assert storage.read_result(fresh_key(), 1) is None
    assert storage.has_results([fresh_key()]) == frozenset()
    assert list(tmp_path.iterdir()) == []
    storage.close()


WRITER = """
import sys
from pytest_taskcache.storage.remote.location import storage_by_url
from pytest_taskcache.testing.storages import a_variant, digest_of
storage = storage_by_url(sys.argv[1])
for number in range(6):
    data = b"%d" % number * 1000
    storage.write_result(digest_of(data), [data])
    storage.write_records([a_variant("shared"), a_variant(f"{sys.argv[2]}-{number}")])
"""


def test_many_writers_at_once(url: str) -> None:
    """Processes that create the tables and commit at the same time lose nothing."""
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, url, str(number)], cwd=Path(__file__).parents[2]
        )
        for number in range(3)
    ]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    storage = storage_by_url(url)
    keys = [f"{number}-{turn}" for number in range(3) for turn in range(6)]
    assert set(storage.read_records(keys)) == set(keys)
    assert len(storage.read_records(["shared"])["shared"]) == 16
    storage.close()


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_forked_child_uses_a_connection_of_its_own(url: str) -> None:
    """A fork shares no session: the child reads and closes, the parent goes on."""
    storage = storage_by_url(url)
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


@pytest.mark.parametrize("damaged", [b"no database at all" * 100, b""], ids=["foreign", "empty"])
def test_file_that_is_no_database(tmp_path: Path, damaged: bytes) -> None:
    """A foreign file is a fault; an empty one is an empty database."""
    (tmp_path / "cache.db").write_bytes(damaged)
    storage = storage_by_url(f"sqlite:///{tmp_path}/cache.db")
    if damaged:
        with pytest.raises(StorageError, match="not a database"):
            storage.read_records([fresh_key()])
        with pytest.raises(StorageError, match="not a database"):
            storage.write_records([a_variant()])
    else:
        assert storage.read_records([fresh_key()]) == {}
    storage.close()


def test_dead_server_is_a_storage_error() -> None:
    """Nobody listening is a fault with a short reason, and shows no password."""
    storage = storage_by_url(f"postgresql://me:hunter2@127.0.0.1:{free_port()}/db")
    with pytest.raises(StorageError) as raised:
        storage.read_records([fresh_key()])
    assert raised.value.reason == "connection refused"
    assert "hunter2" not in str(raised.value)
    assert storage.describe().startswith("postgresql://127.0.0.1:")


def test_missing_database_and_role_are_storage_errors(postgres: Server) -> None:
    """A database that does not exist is named as the reason."""
    storage = storage_by_url(postgres.url.rpartition("/")[0] + "/nosuch")
    with pytest.raises(StorageError, match="no such database"):
        storage.write_records([a_variant()])
    with pytest.raises(StorageError, match="no such database or role"):
        storage_by_url(f"postgresql://ghost@127.0.0.1:{postgres.port}/postgres").recent(["a::b"])


def test_role_that_may_only_read(postgres: Server) -> None:
    """Where only reading is allowed, reads work and writes are faults."""
    writer = storage_by_url(postgres.url)
    variant = a_variant()
    writer.write_records([variant])
    writer.close()
    execute(
        postgres.url,
        "DROP ROLE IF EXISTS visitor",
        "CREATE ROLE visitor LOGIN",
        "GRANT SELECT ON ALL TABLES IN SCHEMA public TO visitor",
    )
    visitor = storage_by_url(postgres.url.replace("postgres@", "visitor@"))
    assert visitor.read_records([variant.key]) == {variant.key: (variant,)}
    with pytest.raises(StorageError, match="permission denied"):
        visitor.write_records([a_variant()])
    with pytest.raises(StorageError, match="permission denied"):
        visitor.write_result(digest_of(b"x"), [b"x"])
    visitor.close()
    execute(postgres.url, "DROP OWNED BY visitor", "DROP ROLE visitor")


def test_server_that_stops_answering(postgres: Server) -> None:
    """A frozen server is a fault after the time limit, and used again when it is back."""
    storage = storage_by_url(postgres.url)
    variant = a_variant()
    storage.write_records([variant])
    with postgres.suspended(), pytest.raises(StorageError, match="timed out"):
        Bounded(storage, timeout=0.5).read_records([variant.key])
    assert storage.read_records([variant.key]) == {variant.key: (variant,)}
    storage.close()


def test_connection_at_work_is_closed_when_it_is_done(postgres: Server) -> None:
    """One that comes back after the storage was closed is not left to the collector."""
    storage = storage_by_url(f"{postgres.url}?application_name=late")
    storage.write_records([a_variant()])
    with postgres.suspended():
        late = Thread(target=storage.write_records, args=([a_variant()],))
        late.start()
        time.sleep(0.2)  # until it waits for an answer
        storage.close()
    late.join()
    engine = create_engine(make_url(postgres.url).set(drivername="postgresql+psycopg"))
    count = text("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'late'")
    until = time.monotonic() + 20
    with engine.connect() as connection:
        while connection.execute(count).scalar():
            assert time.monotonic() < until
            time.sleep(0.05)
    engine.dispose()


def test_lost_connections_are_replaced(postgres: Server) -> None:
    """When the server has dropped the sessions, the next operation opens one."""
    storage = storage_by_url(postgres.url)
    variant = a_variant()
    storage.write_records([variant])
    execute(
        postgres.url,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()",
    )
    assert storage.read_records([variant.key]) == {variant.key: (variant,)}
    storage.close()


@pytest.mark.parametrize("bad", ["sqlite://", "postgresql://host:port/db"])
def test_impossible_url_is_a_usage_error(bad: str) -> None:
    """What cannot be a database is refused when it is configured."""
    with pytest.raises(ConfigurationError):
        storage_by_url(bad)
