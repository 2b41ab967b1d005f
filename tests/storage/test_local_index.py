"""The index survives what happens to a file: damage, deletion, forks, other versions."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from local_samples import digest_of, files_under, result_of, variant_of

from pytest_taskcache.errors import SchemaVersionError, StorageError
from pytest_taskcache.storage.local import LocalStorage, schema


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def faults() -> list[str]:
    return []


@pytest.fixture
def storage(directory: Path, faults: list[str]) -> Iterator[LocalStorage]:
    storage = LocalStorage(directory, on_fault=faults.append)
    yield storage
    storage.close()


def in_child(code: str, *arguments: object) -> str:
    """What a process of its own prints."""
    paths = os.pathsep.join(path for path in sys.path if path)
    child = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": paths},
        check=False,
        timeout=60,
    )
    assert child.returncode == 0, child.stderr
    return child.stdout


def test_the_directory_says_what_it_is(storage: LocalStorage, directory: Path) -> None:
    """Backups and version control leave the cache alone, as they do pytest's own."""
    storage.write_records([variant_of("k")])
    assert (directory / "CACHEDIR.TAG").read_text().startswith("Signature: 8a477f597d28d172789f")
    assert (directory / ".gitignore").read_text().splitlines()[-1] == "*"
    assert (directory / "README.md").read_text()


def test_nothing_is_made_before_it_is_used(directory: Path) -> None:
    """A run that caches nothing leaves nothing."""
    LocalStorage(directory).close()
    assert not directory.exists()


def test_it_is_a_write_ahead_log(storage: LocalStorage, directory: Path) -> None:
    """Readers never wait for a writer."""
    storage.write_records([variant_of("k")])
    with sqlite3.connect(directory / "index.sqlite3") as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()
    blocker = sqlite3.connect(directory / "index.sqlite3", isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    assert storage.read_records(["k"]) == {"k": (variant_of("k"),)}
    blocker.close()


@pytest.mark.parametrize("name", ["a b", "50%", "what?", "a#b", "ü✓", "x'y\"z", "a&mode=ro"])
def test_any_directory_name_will_do(tmp_path: Path, name: str) -> None:
    """The index lies in the directory that was named, and nowhere else."""
    for readonly in (False, True):
        storage = LocalStorage(tmp_path / name / "cache", readonly=readonly)
        if not readonly:
            storage.write_records([variant_of("k")])
        assert storage.read_records(["k"])
        storage.close()
    assert os.listdir(tmp_path) == [name]
    assert "index.sqlite3" in os.listdir(tmp_path / name / "cache")


def test_closed_storage_opens_again(storage: LocalStorage) -> None:
    """Closing is never final."""
    storage.write_records([variant_of("k")])
    storage.close()
    storage.close()
    assert storage.read_records(["k"]) == {"k": (variant_of("k"),)}


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(
            b"this is no database, but long enough to be read as one" * 9
        ),
        lambda path: path.write_bytes(path.read_bytes()[:4096]),
        lambda path: path.write_bytes(path.read_bytes()[:50]),
        lambda path: path.write_bytes(path.read_bytes()[:100] + os.urandom(20_000)),
    ],
    ids=["no database", "one page", "half a header", "noise"],
)
def test_a_corrupt_index_is_put_aside(
    storage: LocalStorage, directory: Path, faults: list[str], damage: object
) -> None:
    """A damaged index costs a recomputation and a line in the summary, nothing else."""
    storage.write_records([variant_of(f"k{n}") for n in range(200)])
    storage.close()
    damage(directory / "index.sqlite3")  # type: ignore[operator]
    assert storage.read_records(["k7"]) == {}
    storage.write_records([variant_of("new")])
    assert storage.read_records(["new"]) == {"new": (variant_of("new"),)}
    assert faults == ["corrupt index"]
    assert [name for name in os.listdir(directory) if ".corrupt-" in name]


def test_corruption_while_open_is_mended(
    storage: LocalStorage, directory: Path, faults: list[str]
) -> None:
    """The same when the file is damaged under a running session."""
    storage.write_records([variant_of(f"k{n}") for n in range(500)])
    storage.close()
    storage.read_records(["k1"])
    size = (directory / "index.sqlite3").stat().st_size
    with open(directory / "index.sqlite3", "r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (size - 4096))
    (directory / "index.sqlite3-wal").write_bytes(b"")
    assert storage.read_records([f"k{n}" for n in range(2, 500)]) == {}
    storage.write_records([variant_of("new")])
    assert storage.read_records(["new"]) == {"new": (variant_of("new"),)}
    assert set(faults) == {"corrupt index"}


def test_somebody_elses_database_is_not_touched(
    storage: LocalStorage, directory: Path, faults: list[str]
) -> None:
    """A database of another program at our path is moved aside whole."""
    directory.mkdir(mode=0o700)
    with sqlite3.connect(directory / "index.sqlite3") as connection:
        connection.execute("CREATE TABLE theirs (x)")
        connection.execute("INSERT INTO theirs VALUES (42)")
    connection.close()
    storage.write_records([variant_of("k")])
    assert faults == ["corrupt index"]
    (aside,) = [name for name in os.listdir(directory) if name.startswith("index.sqlite3.corrupt")]
    with sqlite3.connect(directory / aside) as connection:
        assert connection.execute("SELECT x FROM theirs").fetchone() == (42,)
    connection.close()


def test_a_newer_schema_is_refused_and_kept(storage: LocalStorage, directory: Path) -> None:
    """An older version of the plugin neither misreads nor destroys a newer one's cache."""
    storage.write_records([variant_of("k")])
    storage.close()
    with sqlite3.connect(directory / "index.sqlite3") as connection:
        connection.execute(f"PRAGMA user_version = {schema.VERSION + 1}")
    connection.close()
    before = (directory / "index.sqlite3").read_bytes()
    for reader in (storage, LocalStorage(directory, readonly=True)):
        with pytest.raises(SchemaVersionError, match="upgrade pytest-taskcache or delete"):
            reader.read_records(["k"])
    assert (directory / "index.sqlite3").read_bytes() == before


def test_an_older_schema_is_migrated_with_its_records(
    storage: LocalStorage, directory: Path
) -> None:
    """Upgrading the plugin keeps the cache."""
    storage.write_records([variant_of("k")])
    storage.close()
    connection = sqlite3.connect(directory / "index.sqlite3", isolation_level=None)
    steps = (*schema.STEPS, "ALTER TABLE variants ADD COLUMN note; CREATE TABLE further (x)")
    schema.migrate(connection, steps)
    schema.migrate(connection, steps)
    assert schema.version_of(connection) == schema.VERSION + 1
    assert connection.execute("SELECT id, note FROM variants").fetchall() == [(b"k-0000", None)]
    with pytest.raises(sqlite3.Error):
        schema.migrate(connection, (*steps, "CREATE TABLE half (x); CREATE TABLE further (x)"))
    assert schema.version_of(connection) == schema.VERSION + 1
    assert not connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'half'").fetchone()
    connection.close()


def test_an_index_deleted_under_us_is_made_anew(storage: LocalStorage, directory: Path) -> None:
    """What is written after a `rm -rf` of the cache is there for the next run."""
    storage.write_records([variant_of("old")])
    shutil.rmtree(directory)
    storage.write_records([variant_of("new")])
    storage.write_result(digest_of(b"data"), [b"data"])
    fresh = LocalStorage(directory)
    assert fresh.read_records(["old", "new"]) == {"new": (variant_of("new"),)}
    assert fresh.read_result(digest_of(b"data"), 4) == b"data"
    fresh.close()


def test_a_replaced_index_is_noticed_by_readers(storage: LocalStorage, directory: Path) -> None:
    """A reader does not go on for ever with an index that is no longer there."""
    storage.write_records([variant_of("k")])
    assert storage.read_records(["k"])
    shutil.rmtree(directory)
    with LocalStorageScope(directory) as fresh:
        fresh.write_records([variant_of("k", 1)])
        deadline = time.monotonic() + 30
        while storage.read_records(["k"])["k"][0] != variant_of("k", 1):
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_without_create_nothing_is_made(directory: Path) -> None:
    """A tool that only looks says that there is no cache."""
    storage = LocalStorage(directory, create=False)
    with pytest.raises(StorageError, match="no cache here"):
        storage.read_records(["k"])
    with pytest.raises(StorageError, match="no cache here"):
        storage.write_result(digest_of(b"x"), [b"x"])
    assert not directory.exists()


def test_a_locked_index_is_an_error_with_a_reason(
    storage: LocalStorage, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer that never ends makes a fault, and no wait without end."""
    monkeypatch.setattr(schema, "BUSY_SECONDS", 0.1)
    storage.write_records([variant_of("k")])
    blocker = sqlite3.connect(directory / "index.sqlite3", isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    with pytest.raises(StorageError) as caught:
        storage.write_records([variant_of("other")])
    assert caught.value.reason == "index locked by another process"
    assert caught.value.operation == "write records"
    blocker.close()
    storage.write_records([variant_of("other")])


def test_a_full_disk_is_an_error_and_commits_nothing(storage: LocalStorage) -> None:
    """When space runs out, the transaction is undone and what was there stays readable."""
    storage.write_records([variant_of("k")])
    connection = storage.index.connection()
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count = {pages}")
    big = [variant_of(f"big{n}", result=result_of(os.urandom(9000))) for n in range(20)]
    with pytest.raises(StorageError) as caught:
        storage.write_records(big)
    assert caught.value.reason == "disk full"
    assert storage.read_records(["k", *[v.key for v in big]]) == {"k": (variant_of("k"),)}
    connection.execute(f"PRAGMA max_page_count = {pages + 5000}")
    storage.write_records(big)
    assert len(storage.read_records([v.key for v in big])) == 20


def test_clocks_that_a_test_replaced_stop_nothing(
    storage: LocalStorage, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A test that mocks the clock, or has it raise, neither breaks the cache nor makes it wait."""
    storage.write_records([variant_of("k")])
    for name in ("time", "time_ns", "monotonic", "perf_counter"):
        monkeypatch.setattr(time, name, "no clock at all")
    storage.write_records([variant_of("k", 1)])
    assert len(storage.read_records(["k"])["k"]) == 2
    storage.write_result(digest_of(b"x"), [b"x"])
    assert storage.read_result(digest_of(b"x"), 1) == b"x"
    storage.prune()


# ------------------------------------------------------------------------------- read-only


def test_readonly_writes_nothing_at_all(storage: LocalStorage, directory: Path) -> None:
    """Read-only is read-only: no side file, no touch, no statistics."""
    data = os.urandom(300_000)
    storage.write_result(digest_of(data), [data])
    storage.write_records([variant_of("k", result=result_of(data, inline=False))])
    storage.close()
    before = {name: os.stat(directory / name) for name in files_under(directory)}
    reader = LocalStorage(directory, readonly=True)
    assert len(reader.read_records(["k", "unknown"])) == 1
    assert reader.recent(["src/app.py::build"])
    assert reader.read_result(digest_of(data), len(data)) == data
    reader.mark_used(["k-0000"])
    reader.shelf.write("s", {"a": b"b"})
    assert reader.shelf.read("s") == {}
    for write in (
        lambda: reader.write_records([variant_of("new")]),
        lambda: reader.write_result(digest_of(b"new"), [b"new"]),
        lambda: reader.remove_records(["k-0000"]),
        reader.prune,
        reader.clear,
    ):
        with pytest.raises(StorageError, match="read-only"):
            write()
    reader.close()
    after = {name: os.stat(directory / name) for name in files_under(directory)}
    assert before.keys() == after.keys()
    for name in before:
        assert before[name].st_mtime_ns == after[name].st_mtime_ns
        assert before[name].st_ino == after[name].st_ino


def test_readonly_of_nothing_is_empty(directory: Path) -> None:
    """A first run that may not write sees misses, not faults."""
    reader = LocalStorage(directory, readonly=True)
    assert reader.read_records(["k"]) == {}
    assert reader.read_result(digest_of(b"x"), 1) is None
    reader.close()
    assert not directory.exists()


def test_readonly_beside_a_writer_sees_its_commits(storage: LocalStorage, directory: Path) -> None:
    """A reader that may not write still sees what is in the log, and what comes later."""
    storage.write_records([variant_of("one")])
    reader = LocalStorage(directory, readonly=True)
    assert reader.read_records(["one"]) == {"one": (variant_of("one"),)}
    names = set(files_under(directory))
    storage.write_records([variant_of("two")])
    deadline = time.monotonic() + 30
    while not reader.read_records(["two"]):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    reader.close()
    assert set(files_under(directory)) == names
    assert storage.read_records(["one"])


def test_readonly_after_a_crash_sees_the_log_and_leaves_it(
    storage: LocalStorage, directory: Path, tmp_path: Path
) -> None:
    """A cache directory saved from a run that was killed is read with all it had committed."""
    storage.write_records([variant_of("k")])
    copied = tmp_path / "copied"
    copied.mkdir(mode=0o700)
    for name in ("index.sqlite3", "index.sqlite3-wal"):
        shutil.copy(directory / name, copied / name)
    assert (copied / "index.sqlite3-wal").stat().st_size
    reader = LocalStorage(copied, readonly=True)
    assert reader.read_records(["k"]) == {"k": (variant_of("k"),)}
    reader.close()
    assert sorted(files_under(copied)) == ["index.sqlite3", "index.sqlite3-wal"]


UNWRITABLE = """
import os, sys, tempfile
from pathlib import Path
from local_samples import digest_of, files_under, result_of, variant_of
from pytest_taskcache.errors import StorageError
from pytest_taskcache.storage.local import LocalStorage

import filelock, shutil, sqlite3  # while everything can still be read

top = Path(tempfile.mkdtemp())
top.chmod(0o755)
directory = top / "cache"
try:
    directory.mkdir(mode=0o700)
    if os.geteuid() == 0:
        os.chown(directory, 65534, 65534)
        os.seteuid(65534)
    value = os.urandom(9000)
    ready, tell = os.pipe()
    end, tell_end = os.pipe()
    writer = os.fork() if sys.argv[1] == "running" else -1
    if writer <= 0:
        filled = LocalStorage(directory)
        filled.write_result(digest_of(value), [value])
        filled.write_records([variant_of("k", result=result_of(value, inline=False))])
    if writer == 0:
        os.close(tell_end)
        os.write(tell, b".")
        os.read(end, 1)
        os._exit(0)
    if writer > 0:
        os.read(ready, 1)
    elif sys.argv[1] == "closed":
        filled.close()
    if sys.argv[1] == "killed":
        for name in ("index.sqlite3", "index.sqlite3-wal"):
            shutil.copy(directory / name, directory / f"{name}.saved")
        filled.close()
        for name in ("index.sqlite3", "index.sqlite3-wal"):
            os.replace(directory / f"{name}.saved", directory / name)
    for path in [*directory.rglob("*"), directory]:
        path.chmod(0o500 if path.is_dir() else 0o400)
    before = sorted(files_under(directory))
    faults = []
    storage = LocalStorage(directory, on_fault=faults.append, run="r", leads=True)
    found = storage.read_records(["k", "unknown"])
    assert list(found) == ["k"], found
    assert storage.read_result(digest_of(value), 9000) == value
    assert storage.readonly
    storage.mark_used(["k-0000"])
    storage.shelf.write("s", {"a": b"b"})
    for write in (
        lambda: storage.write_records([variant_of("new")]),
        lambda: storage.write_result(digest_of(b"new"), [b"new"]),
        lambda: storage.write_result(digest_of(value[1:]), [value[1:]]),
        storage.prune,
    ):
        try:
            write()
        except StorageError as error:
            assert "read-only" in error.reason, error
        else:
            raise AssertionError(write)
    storage.close()
    assert sorted(files_under(directory)) == before
    print(len(faults), faults[0].partition(":")[0])
finally:
    if os.getuid() == 0:
        os.seteuid(0)
    for path in [directory, *directory.rglob("*")]:
        path.chmod(0o700)
    shutil.rmtree(top)
"""


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="no owners here")
@pytest.mark.parametrize("last_writer", ["closed", "killed", "running"])
def test_a_filled_cache_that_cannot_be_written_is_read(last_writer: str) -> None:
    """On a read-only mount or directory a run that may write has its hits all the same, and one
    fault says why nothing is added."""
    assert in_child(UNWRITABLE, last_writer) == "1 cache can only be read\n"


# --------------------------------------------------------------------------------- descriptors

CLOSED = """
import os, sys
from pathlib import Path
from local_samples import digest_of, result_of, variant_of
from pytest_taskcache.storage.local import LocalStorage
from pytest_taskcache.transactions.staging import Entry, Run, Staging
from pytest_taskcache.transactions.settlement import Verdict

faults = []
storage = LocalStorage(Path(sys.argv[1]), on_fault=faults.append, run="run", leads=True)
staging = Staging(storage, Run("run", 1.0), storage.run_lock)
staging.stage(Entry(variant_of("staged"), "t"), "t")
storage.write_records([variant_of("k")])
reused = sys.argv[2] == "reused"
for turn in range(3):
    os.closerange(3, 256)
    mine = [os.open(os.devnull, os.O_RDWR) for _ in range(30 * reused)]
    null = os.stat(os.devnull)
    assert len(storage.read_records(["k"])) == 1
    storage.write_records([variant_of("k", turn + 1)])
    # Somebody else sees the run live on.
    other = LocalStorage(storage.directory)
    Staging(other, Run("other", 1.0)).sweep()
    other.close()
    value = os.urandom(9000)
    storage.write_result(digest_of(value), [value])
    assert storage.read_result(digest_of(value), 9000) == value
    assert all(os.path.samestat(os.fstat(each), null) for each in mine)
print(len(staging.settle("t", Verdict.PASSED).committed), len(storage.read_records(["k"])["k"]))
assert len(faults) == 3, faults
storage.close()
"""


@pytest.mark.skipif(os.name == "nt", reason="SQLite has no descriptors there")
@pytest.mark.parametrize("numbers", ["unused", "reused"])
def test_a_test_that_closes_all_descriptors_stops_nothing(directory: Path, numbers: str) -> None:
    """The index notices at once that its files were closed, opens them anew, and touches none of
    the files that have their numbers by now."""
    assert in_child(CLOSED, directory, numbers) == "1 4\n"
    with sqlite3.connect(directory / "index.sqlite3") as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


# ----------------------------------------------------------------------------------- forks

FORK = """
import os, sys
from pathlib import Path
from local_samples import variant_of
from pytest_taskcache.storage.local import LocalStorage

storage = LocalStorage(Path(sys.argv[1]))
storage.write_records([variant_of("parent")])
children = []
for number in range(3):
    pid = os.fork()
    if pid == 0:
        storage.write_records([variant_of(f"child{number}")])
        assert storage.read_records(["parent"])
        os._exit(0)
    children.append(pid)
    storage.write_records([variant_of(f"parent{number}")])
codes = [os.waitpid(pid, 0)[1] for pid in children]
names = ["parent", *[f"{who}{n}" for who in ("child", "parent") for n in range(3)]]
print(codes, len(storage.read_records(names)))
storage.close()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_forked_children_open_their_own_connection(directory: Path) -> None:
    """SQLite forbids carrying a connection through a fork; tests may fork all the same."""
    assert in_child(FORK, directory) == "[0, 0, 0] 7\n"
    with sqlite3.connect(directory / "index.sqlite3") as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


FORK_UNNOTICED = """
import ctypes, os, sys
from pathlib import Path
from local_samples import variant_of
from pytest_taskcache.storage.local import LocalStorage

storage = LocalStorage(Path(sys.argv[1]))
storage.write_records([variant_of("parent")])
inherited = storage.index.connection()
pid = ctypes.PyDLL(None).fork()
if pid == 0:
    storage.read_records(["parent"])
    os._exit(int(storage.index.connection() is inherited))
print(os.waitpid(pid, 0)[1], storage.index.connection() is inherited)
storage.close()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="calls the C library's fork")
def test_a_fork_that_python_does_not_see_is_noticed(directory: Path) -> None:
    """A native extension that forks does not make the child use its parent's connection."""
    assert in_child(FORK_UNNOTICED, directory) == "0 True\n"


class LocalStorageScope:
    """A storage that is closed at the end of a block."""

    def __init__(self, directory: Path) -> None:
        self._storage = LocalStorage(directory)

    def __enter__(self) -> LocalStorage:
        return self._storage

    def __exit__(self, *_: object) -> None:
        self._storage.close()
