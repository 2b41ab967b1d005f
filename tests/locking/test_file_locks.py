"""Locks that are rows of an index in a directory, alive while their run's lock is held."""

from __future__ import annotations

import contextlib
import gc
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from contenders import Contender, holder

import pytest_taskcache
from pytest_taskcache.errors import LockError
from pytest_taskcache.locking.file import FileLockManager, IndexLocks
from pytest_taskcache.originals import Originals
from pytest_taskcache.ports import Holder, Lease, LockManager
from pytest_taskcache.storage.local import LocalStorage
from pytest_taskcache.testing.locks import LockManagerConformance, MakeManager


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "locks"


@pytest.fixture
def manager(directory: Path) -> Iterator[FileLockManager]:
    made = FileLockManager(directory)
    yield made
    made.close()


def rows(directory: Path) -> int:
    """How many locks the index has."""
    with contextlib.closing(sqlite3.connect(directory / "index.sqlite3")) as connection:
        return int(connection.execute("SELECT count(*) FROM locks").fetchone()[0])


def change(directory: Path, statement: str) -> None:
    """What somebody else does to the index."""
    with contextlib.closing(sqlite3.connect(directory / "index.sqlite3")) as connection:
        connection.execute(statement)
        connection.commit()


class Worker:
    """A worker of a run, with the locks of its cache directory."""

    def __init__(self, directory: Path, run: str, *, leads: bool = False) -> None:
        self.storage = LocalStorage(directory, run=run, leads=leads)
        lock = self.storage.run_lock
        hold = lock.hold if lock is not None else lambda: None
        self.locks = IndexLocks(self.storage.index, run, hold)

    def close(self) -> None:
        self.locks.close()
        self.storage.close()


class TestWorkersOfOneRun(LockManagerConformance):
    """The locks of a cache directory, among the workers of one run."""

    @pytest.fixture
    def make_manager(self, directory: Path) -> Iterator[MakeManager]:
        controller = Worker(directory, "run", leads=True)
        controller.locks.acquire("held by the controller", holder())
        made: list[Worker] = []

        def make() -> LockManager:
            made.append(Worker(directory, "run"))
            return made[-1].locks

        yield make
        for worker in [*made, controller]:
            worker.close()


class TestDifferentRuns(LockManagerConformance):
    """The same among processes of different runs, e.g. in two terminals."""

    @pytest.fixture
    def make_manager(self, directory: Path) -> Iterator[MakeManager]:
        made: list[Worker] = []

        def make() -> LockManager:
            made.append(Worker(directory, f"run{len(made)}", leads=True))
            return made[-1].locks

        yield make
        for worker in made:
            worker.close()


def test_nothing_is_left_behind(directory: Path) -> None:
    """While keys are held there is a row for each and one file for the process; then none."""
    manager = FileLockManager(directory)
    lease = manager.acquire("k", holder())
    assert isinstance(lease, Lease)
    manager.acquire("j", holder())
    assert rows(directory) == 2
    assert len(os.listdir(directory / "runs")) == 1
    manager.release(lease)
    assert rows(directory) == 1
    manager.close()
    assert rows(directory) == 0
    assert os.listdir(directory / "runs") == []


def test_what_a_crash_left_behind_is_removed(directory: Path) -> None:
    """The next manager removes the dead process's locks, also for keys nobody asks for again."""
    crashed = Contender(str(directory), "hold", *"abcdef")
    crashed.hear()
    crashed.close()
    assert rows(directory) == 6
    manager = FileLockManager(directory)
    assert isinstance(manager.acquire("z", holder()), Lease)
    assert rows(directory) == 1
    assert len(os.listdir(directory / "runs")) == 1
    manager.close()


def test_a_cache_and_a_manager_on_its_directory_exclude_each_other(directory: Path) -> None:
    """Whoever names the cache directory outright gets the locks that its runs use."""
    worker, manager = Worker(directory, "run", leads=True), FileLockManager(directory)
    assert isinstance(worker.locks.acquire("k", holder("worker")), Lease)
    assert manager.acquire("k", holder()) == holder("worker")
    worker.close()
    assert isinstance(manager.acquire("k", holder()), Lease)
    manager.close()


WORKER = """
import os, sys
from pathlib import Path
from pytest_taskcache.locking.file import IndexLocks
from pytest_taskcache.ports import Holder, Lease
from pytest_taskcache.storage.local import LocalStorage

storage = LocalStorage(Path(sys.argv[1]), run="run")
locks = IndexLocks(storage.index, "run")
assert isinstance(locks.acquire("k", Holder("run", 1.0, "worker", "1")), Lease)
os.kill(os.getpid(), 9)
"""


@pytest.mark.skipif(os.name == "nt", reason="needs signals")
def test_a_worker_that_dies_frees_its_keys_while_its_run_lives(directory: Path) -> None:
    """The other workers, who know that it is gone, go on at once; other runs, after it was
    abandoned."""
    from pytest_taskcache.transactions.staging import Run, Staging

    controller = Worker(directory, "run", leads=True)
    staging = Staging(controller.storage, Run("run", 1.0), controller.storage.run_lock)
    staging.hold()
    sibling, stranger = Worker(directory, "run"), Worker(directory, "another", leads=True)
    run(WORKER, directory, code=-9)
    answer = stranger.locks.acquire("k", holder())
    assert isinstance(answer, Holder)
    assert answer.process == "worker"
    lease = sibling.locks.acquire("k", holder("sibling"))
    assert isinstance(lease, Lease)
    assert sibling.locks.confirm(lease)
    sibling.locks.release(lease)
    source = Path(pytest_taskcache.__file__).parent.parent
    with subprocess.Popen(
        [sys.executable, "-c", WORKER, str(directory)],
        env={**os.environ, "PYTHONPATH": str(source)},
    ) as unasked:
        # Dead, but nobody has asked for its exit code yet.
        os.waitid(os.P_PID, unasked.pid, os.WEXITED | os.WNOWAIT)
        staging.abandon("gw1")
    assert isinstance(stranger.locks.acquire("k", holder()), Lease)
    for worker in (sibling, stranger, controller):
        worker.close()


def test_the_locks_of_a_run_end_with_it(directory: Path) -> None:
    """Workers do not confirm what they hold once nobody can see that their run lives."""
    controller, worker = Worker(directory, "run", leads=True), Worker(directory, "run")
    controller.locks.acquire("j", holder())
    lease = worker.locks.acquire("k", holder("worker"))
    assert isinstance(lease, Lease)
    assert worker.locks.confirm(lease)
    controller.close()
    assert not worker.locks.confirm(lease)
    other = FileLockManager(directory)
    assert isinstance(other.acquire("k", holder("other")), Lease)
    worker.locks.release(lease)
    assert rows(directory) == 1
    other.close()
    worker.close()


def test_nothing_is_logged_into_a_test(directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A test that looks at everything that is logged finds nothing of the cache's."""
    with caplog.at_level("DEBUG"):
        first, second = FileLockManager(directory), FileLockManager(directory)
        first.acquire("k", holder())
        assert isinstance(second.acquire("k", holder("other")), Holder)
        first.close()
        second.close()
    assert caplog.records == []


def test_a_key_can_be_had_again_after_close(manager: FileLockManager) -> None:
    """A closed manager that is used again works as a new one."""
    manager.acquire("k", holder())
    manager.close()
    assert isinstance(manager.acquire("k", holder()), Lease)


@pytest.mark.parametrize(
    "damage",
    [
        "run = '../../etc/hostname'",
        "run = x'ff'",
        "run = ''",
        "token = 'many'",
        "process = 7.5, run = 'nobody'",
        "key = x'ff'",
    ],
)
def test_a_damaged_lock_holds_nothing(
    manager: FileLockManager, directory: Path, damage: str
) -> None:
    """A row that nobody alive can have written is taken over, and its lease is not confirmed."""
    lease = manager.acquire("k", holder())
    assert isinstance(lease, Lease)
    change(directory, f"UPDATE locks SET {damage}")
    other = FileLockManager(directory)
    assert isinstance(other.acquire("k", holder("other")), Lease)
    assert not manager.confirm(lease)
    manager.release(lease)
    other.close()


@pytest.mark.parametrize("text", ["'{'", "x'ff'", "CAST(x'ff' AS TEXT)", "'[1]'"])
def test_a_holder_who_cannot_be_named_still_holds(
    manager: FileLockManager, directory: Path, text: str
) -> None:
    """Who it is serves people only; that somebody alive has the key is what counts."""
    lease = manager.acquire("k", holder())
    assert isinstance(lease, Lease)
    change(directory, f"UPDATE locks SET holder = {text}")
    other = FileLockManager(directory)
    told = other.acquire("k", holder("other"))
    assert isinstance(told, Holder)
    assert told.label == "somebody who cannot be named"
    assert manager.confirm(lease)
    other.close()


def test_tokens_grow_though_the_clock_is_set_back(
    manager: FileLockManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also over releases, and in other processes."""
    tokens = []
    for moment in (2_000_000_000, 1_000_000_000, 1_500_000_000):
        monkeypatch.setattr(Originals, "now", lambda _, now=moment: now * 10**9)
        lease = manager.acquire("k", holder())
        assert isinstance(lease, Lease)
        tokens.append(lease.token)
        manager.release(lease)
    assert tokens == sorted(set(tokens))


def test_a_lost_lease_frees_nothing(manager: FileLockManager, directory: Path) -> None:
    """Whoever lost the lock (here its row was removed) does not release the next holder's."""
    lease = manager.acquire("k", holder())
    assert isinstance(lease, Lease)
    change(directory, "DELETE FROM locks")
    other = FileLockManager(directory)
    new = other.acquire("k", holder("other"))
    assert isinstance(new, Lease)
    assert not manager.confirm(lease)
    manager.release(lease)
    manager.close()
    assert other.confirm(new)
    other.close()


def test_who_cannot_be_seen_to_live_does_not_confirm(
    manager: FileLockManager, directory: Path
) -> None:
    """If the run's lock file was removed (a cleaner of temporary files), anybody may take over,
    so the lease is not confirmed; what is acquired from then on is safe again."""
    lease = manager.acquire("k", holder())
    assert isinstance(lease, Lease)
    for path in (directory / "runs").iterdir():
        path.unlink()
    assert not manager.confirm(lease)
    other = FileLockManager(directory)
    assert isinstance(other.acquire("k", holder("other")), Lease)
    new = manager.acquire("k2", holder())
    assert isinstance(new, Lease)
    assert manager.confirm(new)
    assert isinstance(other.acquire("k2", holder("other")), Holder)
    other.close()


def test_a_vanished_directory_loses_the_locks_and_no_more(
    manager: FileLockManager, directory: Path
) -> None:
    """Clearing the cache under a running session: the lease is gone, the next one is good."""
    lease = manager.acquire("k", holder())
    assert isinstance(lease, Lease)
    shutil.rmtree(directory)
    assert not manager.confirm(lease)
    manager.release(lease)
    again = manager.acquire("k", holder())
    assert isinstance(again, Lease)
    assert manager.confirm(again)
    other = FileLockManager(directory)
    assert other.acquire("k", holder("other")) == holder()
    other.close()


def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    """A path that is no directory gives a LockError that says so."""
    (tmp_path / "file").write_text("")
    with pytest.raises(LockError, match="not a directory"):
        FileLockManager(tmp_path / "file" / "locks").acquire("k", holder())


def test_a_relative_directory_stays_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A test that changes the working directory does not move the locks."""
    monkeypatch.chdir(tmp_path)
    manager = FileLockManager(Path("locks"))
    lease = manager.acquire("k", holder())
    assert isinstance(lease, Lease)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert manager.confirm(lease)
    manager.close()
    assert os.listdir(tmp_path / "elsewhere") == []


PREAMBLE = """
import resource, sys
from pathlib import Path
from pytest_taskcache.errors import LockError
from pytest_taskcache.locking.file import FileLockManager
from pytest_taskcache.ports import Holder, Lease

holder = Holder("run", 0.0, "1@here", "1")
manager = FileLockManager(Path(sys.argv[1]))
"""


def run(program: str, directory: Path, *, code: int = 0) -> str:
    """What a process of its own prints."""
    source = Path(pytest_taskcache.__file__).parent.parent
    ended = subprocess.run(
        [sys.executable, "-c", program, str(directory)],
        env={**os.environ, "PYTHONPATH": str(source)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ended.returncode == code, ended.stderr
    return ended.stdout


def test_a_disk_that_takes_nothing(directory: Path) -> None:
    """Where nothing can be written, acquire raises LockError, and the lock can be had when there
    is room again."""
    said = run(
        PREAMBLE
        + """
manager.release(manager.acquire("k", holder))
sys.dont_write_bytecode = True
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
try:
    manager.acquire("k", holder)
except LockError as error:
    print("refused")
resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
print(isinstance(manager.acquire("k", holder), Lease))
manager.close()
""",
        directory,
    )
    assert said == "refused\nTrue\n"


def test_thousands_of_keys_need_few_descriptors(directory: Path) -> None:
    """A test that holds 1,500 keys does not run out of file descriptors."""
    said = run(
        PREAMBLE
        + """
resource.setrlimit(resource.RLIMIT_NOFILE, (32, 32))
leases = [manager.acquire(str(number), holder) for number in range(1500)]
print(all(manager.confirm(lease) for lease in leases[::50]))
manager.close()
""",
        directory,
    )
    assert said == "True\n"


def test_no_descriptor_left_is_a_fault(directory: Path) -> None:
    """A process that ran out of file descriptors gets LockError or an answer, and works again
    afterwards."""
    said = run(
        PREAMBLE
        + """
lease = manager.acquire("k", holder)
taken = []
resource.setrlimit(resource.RLIMIT_NOFILE, (32, 32))
try:
    while True:
        taken.append(open("/dev/null"))
except OSError:
    pass
try:
    manager.confirm(lease)
except LockError as error:
    print(error.reason)
for file in taken:
    file.close()
print(manager.confirm(lease), isinstance(manager.acquire("j", holder), Lease))
manager.close()
""",
        directory,
    )
    assert said == "cannot confirm a lock: too many open files\nTrue True\n"


def test_a_manager_that_was_forgotten_frees_its_locks(directory: Path) -> None:
    """Whoever has no reference to it any more has no lock, without any garbage collection: a full
    one may be far off."""
    gc.disable()
    try:
        forgotten = FileLockManager(directory)
        forgotten.acquire("k", holder())
        del forgotten
        manager = FileLockManager(directory)
        assert isinstance(manager.acquire("k", holder()), Lease)
        manager.close()
    finally:
        gc.enable()


def test_reading_the_lock_directory_frees_nothing(
    manager: FileLockManager, directory: Path, tmp_path: Path
) -> None:
    """A test that copies or reads the cache's directory in the same process breaks no lock."""
    lease = manager.acquire("k", holder())
    shutil.copytree(directory, tmp_path / "copy")
    for path in directory.rglob("*.*"):
        with contextlib.suppress(IsADirectoryError):
            path.read_bytes()
    rival = Contender(str(directory), "hold", "k")
    assert rival.hear()["tokens"] == []
    rival.close()
    assert isinstance(lease, Lease)
    assert manager.confirm(lease)


@pytest.mark.skipif(os.name == "nt", reason="closes descriptors of others")
@pytest.mark.parametrize("reuse", [False, True], ids=["closed", "closed and used again"])
def test_a_test_that_closes_all_descriptors_stops_nothing(directory: Path, reuse: bool) -> None:
    """The locks notice at once, take the run's lock again, and close none of the test's files."""
    said = run(
        PREAMBLE
        + f"""
import os
lease = manager.acquire("k", holder)
os.closerange(3, 256)
mine = [os.open(os.devnull, os.O_RDONLY) for _ in range(40 * {reuse})]
print(manager.confirm(lease))
print(manager.acquire("k", holder) == holder, isinstance(manager.acquire("j", holder), Lease))
null = os.stat(os.devnull)
print(all(os.path.samestat(os.fstat(each), null) for each in mine))
manager.close()
print(all(os.path.samestat(os.fstat(each), null) for each in mine))
""",
        directory,
    )
    assert said == "True\nTrue True\nTrue\nTrue\n"
    assert rows(directory) == 0
