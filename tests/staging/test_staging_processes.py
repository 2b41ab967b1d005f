"""Several processes in one run, and runs that die."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from staged_samples import Area, area_at, entry_of, ids

from pytest_taskcache.errors import StorageError
from pytest_taskcache.storage.local import LocalStorage
from pytest_taskcache.transactions.settlement import Verdict

SPAWN = multiprocessing.get_context("spawn")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def area(directory: Path) -> Iterator[Area]:
    area = area_at(directory)
    yield area
    area.storage.close()


def start(code: str, *arguments: object) -> subprocess.Popen[str]:
    paths = os.pathsep.join(path for path in sys.path if path)
    preamble = (
        "import sys, os, signal\nfrom pathlib import Path\n"
        "from staged_samples import area_at, entry_of, ids\n"
        "from pytest_taskcache.transactions.settlement import Verdict\n"
        "directory = Path(sys.argv[1])\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", preamble + code, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": paths},
    )


WORKER = """
area = area_at(directory)
area.put("from child", "gw1/t#1")
print("staged", flush=True)
sys.stdin.readline()
print(sorted(area.visible("from parent")), area.use("gw1/u#1", "from parent"), flush=True)
print(sorted(ids(area.staging.settle("gw1/u#1", Verdict.PASSED).committed)), flush=True)
area.storage.close()
"""


def test_two_workers_share_what_is_staged(area: Area, directory: Path) -> None:
    """A waiting worker goes on as soon as the value exists, and may be the one to commit it."""
    assert area.visible("from child") == set()
    with start(WORKER, directory) as child:
        assert child.stdout is not None
        assert child.stdin is not None
        assert child.stdout.readline() == "staged\n"
        assert area.visible("from child") == {"from child"}
        area.put("from parent", "gw0/t#1")
        child.stdin.write("\n")
        child.stdin.flush()
        assert child.stdout.readline() == "['from parent'] {'from parent'}\n"
        assert child.stdout.readline() == "['from parent']\n"
        assert child.wait(60) == 0
    assert area.committed("from parent", "from child") == {"from parent"}
    assert area.staging.settle("gw0/t#1", Verdict.PASSED).committed == ()


CRASH = """
area = area_at(directory)
area.put("own", "gw1/t#1")
area.put("fixture", "gw1/fixture/f", held=True)
area.put("other", "gw10/t#1")
area.use("gw1/t#1", "shared", "held")
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(os.name == "nt", reason="needs signals")
def test_what_a_crashed_worker_used_is_given_up(area: Area, directory: Path) -> None:
    """A crash is not a pass; the other workers' entries are untouched, `gw10` is not `gw1`."""
    area.put("shared", "gw0/t#1")
    area.put("held", "gw0/fixture/f", held=True)
    area.use("gw0/t#1", "held")
    with start(CRASH, directory) as child:
        assert child.wait(60) == -signal.SIGKILL
    names = ["own", "fixture", "other", "shared", "held"]
    assert area.visible(*names) == set(names)
    area.staging.abandon("gw1")
    assert area.visible(*names) == {"other", "shared", "held"}
    assert ids(area.staging.settle("gw0/t#1", Verdict.PASSED).committed) == {"shared"}
    assert area.staging.settle("gw0/fixture/f", Verdict.ENDED).dropped == 1
    assert ids(area.staging.settle("gw10/t#1", Verdict.PASSED).committed) == {"other"}


CONTROLLER = """
area = area_at(directory, "doomed", leads=True)
area.put("abandoned", "t#1")
area.put("retained", "t#2", retryable=True)
area.staging.settle("t#2", Verdict.FAILED, retain_for="test_t")
area.storage.write_result("ab" * 16, [b"x"])
print("ready", flush=True)
sys.stdin.readline()
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(os.name == "nt", reason="needs signals")
def test_a_dead_runs_staging_is_swept_and_a_live_ones_not(directory: Path) -> None:
    """A killed run leaves nothing in the way of the next, except inputs kept for a retry."""
    area = area_at(directory, leads=True)
    with start(CONTROLLER, directory) as child:
        assert child.stdout is not None
        assert child.stdin is not None
        assert child.stdout.readline() == "ready\n"
        area.put("own", "t#1")
        assert area.swept() == 0
        assert area_at(directory, "a third").swept() == 0
        assert area.storage.statistics().staged == 3
        child.stdin.write("\n")
        child.stdin.flush()
        assert child.wait(60) == -signal.SIGKILL
        assert sorted(os.listdir(directory / "runs")) == ["doomed.lock", "run.lock"]
        assert area.storage.statistics().pins == 1
        assert area.swept() == 1
        assert area.storage.statistics().pins == 0
        assert os.listdir(directory / "runs") == ["run.lock"]
        assert area.visible("own", "abandoned", "retained", test="test_t") == {"own", "retained"}
        assert ids(area.staging.settle("t#1", Verdict.PASSED).committed) == {"own"}
    area.storage.close()
    assert os.listdir(directory / "runs") == []


def test_a_run_that_left_no_lock_is_dead(area: Area, directory: Path) -> None:
    """Rows without a lock file belong to nobody."""
    area_at(directory, "gone").put("left", "t#1")
    assert area.swept() == 1
    assert area.storage.statistics().staged == 0


def test_a_run_that_only_reads_takes_no_lock(directory: Path) -> None:
    """Taking it costs as much as all the rest of such a run."""
    area_at(directory).put("a", "t#1")
    reader = area_at(directory, leads=True)
    assert reader.swept() == 0
    assert reader.visible("a") == {"a"}
    assert not (directory / "runs").exists()
    reader.storage.close()


def test_two_processes_cannot_be_the_same_run(directory: Path) -> None:
    """The lock says so, rather than letting them share what they staged."""
    first, second = area_at(directory, leads=True), area_at(directory, leads=True)
    first.staging.hold()
    with pytest.raises(StorageError, match="another process is the same run"):
        second.put("a", "t#1")
    first.storage.close()
    second.put("a", "t#1")
    second.storage.close()


def test_threads_that_start_a_run_at_once_are_the_same_run(directory: Path) -> None:
    """The first takes the lock, and the others find it taken by their own process."""
    area, together = area_at(directory, leads=True), threading.Barrier(8)

    def start() -> None:
        together.wait()
        area.staging.hold()

    with ThreadPoolExecutor(8) as threads:
        for one in [threads.submit(start) for _ in range(8)]:
            one.result()
    area.storage.close()


def test_a_run_id_that_is_no_file_name_is_refused(directory: Path) -> None:
    """Nothing outside the directory is locked."""
    with pytest.raises(ValueError, match="must do as a file name"):
        LocalStorage(directory, run="../elsewhere", leads=True)


def test_a_run_whose_directory_vanished_lives_on_in_the_new_one(directory: Path) -> None:
    """After `rm -rf` of the cache what is staged from then on is not swept by others."""
    area = area_at(directory, leads=True)
    area.put("before", "t#1")
    shutil.rmtree(directory)
    area.put("after", "t#2")
    assert area_at(directory, "other").swept() == 0
    assert ids(area.staging.settle("t#2", Verdict.PASSED).committed) == {"after"}
    area.storage.close()


FORKED = """
area = area_at(directory, "forker", leads=True)
area.put("staged", "t#1")
if os.fork() == 0:
    sys.exit(0)
os.wait()
print("forked", flush=True)
sys.stdin.readline()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_that_exits_does_not_free_the_lock(area: Area, directory: Path) -> None:
    """Tests that fork do not have their run declared dead."""
    with start(FORKED, directory) as child:
        assert child.stdout is not None
        assert child.stdin is not None
        assert child.stdout.readline() == "forked\n"
        assert area.swept() == 0
        child.stdin.close()
        child.wait(60)
    assert area.swept() == 1


def race(directory: str, number: int, barrier: object, results: object) -> None:
    """Claims and settles one shared entry at the same moment as the others."""
    area = area_at(Path(directory))
    outcomes = []
    for turn in range(5):
        name = f"e{turn}"
        barrier.wait(60)  # type: ignore[attr-defined]
        if number == 0:
            area.staging.settle("producer", Verdict.FAILED)
            area.put(f"e{turn + 1}", "producer")
            outcomes.append(None)
        else:
            got = bool(area.use(f"w{number}", name))
            done = area.staging.settle(f"w{number}", Verdict.PASSED)
            outcomes.append((got, name in ids(done.committed)))
        barrier.wait(60)  # type: ignore[attr-defined]
    results.put(outcomes)  # type: ignore[attr-defined]
    area.storage.close()


def test_a_claim_and_a_deletion_cannot_both_win(area: Area, directory: Path) -> None:
    """Whoever got its claim in has the value, and its pass commits it; else it is gone."""
    area.put("e0", "producer")
    barrier, results = SPAWN.Barrier(3), SPAWN.Queue()
    children = [
        SPAWN.Process(target=race, args=(str(directory), number, barrier, results))
        for number in range(3)
    ]
    for child in children:
        child.start()
    outcomes = [results.get(timeout=90) for _ in children]
    for child in children:
        child.join(60)
    assert [child.exitcode for child in children] == [0, 0, 0]
    users = [outcome for outcome in outcomes if outcome[0] is not None]
    for turn in range(5):
        claimed = any(user[turn][0] for user in users)
        committed = [user[turn][1] for user in users]
        assert sum(committed) == claimed
        assert area.committed(f"e{turn}") == ({f"e{turn}"} if claimed else set())


def test_entries_are_plain_values(area: Area) -> None:
    """They survive the way through the index as they are."""
    entry = entry_of("a", "t#1", "s", retryable=True)
    area.staging.stage(entry, "t#1")
    ((found,),) = area_at(area.storage.directory).staging.visible(["key of a"]).values()
    assert (found.variant, found.producer, found.destination) == (entry.variant, "t#1", "")
