"""Many processes at once, and processes killed at the worst moment."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from local_samples import digest_of, files_under, result_of, trace_of, variant_of

from pytest_taskcache.storage.local import LocalStorage

SPAWN = multiprocessing.get_context("spawn")
PROCESSES = 8

KILLED = """
import os, signal, sys
from pathlib import Path
from local_samples import trace_of, variant_of
from pytest_taskcache.storage.local import LocalStorage

storage = LocalStorage(Path(sys.argv[1]))
storage.write_records([variant_of("before")])
remaining = int(sys.argv[2])

def step(statement):
    global remaining
    remaining -= 1
    if remaining == 0 or (sys.argv[2] == "-1" and statement == "COMMIT"):
        os.kill(os.getpid(), signal.SIGKILL)

storage.index.connection().set_trace_callback(step)
storage.write_records(
    [variant_of(f"k{n}", trace=trace_of(f"file {n}", f"other {n}")) for n in range(20)]
)
"""


@pytest.mark.skipif(os.name == "nt", reason="needs signals")
@pytest.mark.parametrize("statement", [2, 5, 20, 60, -1])
def test_a_write_that_is_killed_commits_none(tmp_path: Path, statement: int) -> None:
    """`kill -9` in the middle of a commit leaves all of it or none of it: here, none."""
    directory = tmp_path / "cache"
    paths = os.pathsep.join(path for path in sys.path if path)
    child = subprocess.run(
        [sys.executable, "-c", KILLED, str(directory), str(statement)],
        env=os.environ | {"PYTHONPATH": paths},
        check=False,
    )
    assert child.returncode == -signal.SIGKILL
    storage = LocalStorage(directory)
    keys = [f"k{n}" for n in range(20)]
    assert storage.read_records(["before", *keys]) == {"before": (variant_of("before"),)}
    batch = [variant_of(key, trace=trace_of("a", key)) for key in keys]
    storage.write_records(batch)
    assert len(storage.read_records(keys)) == 20
    storage.close()


def work(directory: str, number: int, rounds: int) -> None:
    """Writes batches of its own and rereads everyone's; every batch must be whole."""
    storage = LocalStorage(Path(directory), max_size=200_000)
    for turn in range(rounds):
        shared = b"shared %d" % turn * 3000
        storage.write_result(digest_of(shared), [shared])
        batch = [
            variant_of(
                f"{number}-{turn}-{item}",
                trace=trace_of("conftest.py", f"t{item}.py", f"{number}.py"),
                result=result_of(shared, inline=False),
            )
            for item in range(3)
        ]
        storage.write_records(batch)
        assert storage.read_result(digest_of(shared), len(shared)) == shared
        if turn % 3 == number % 3:
            storage.prune(full=True)
        for who in range(PROCESSES):
            keys = [f"{who}-{turn}-{item}" for item in range(3)]
            found = storage.read_records(keys)
            assert len(found) in (0, 3), found.keys()
    storage.close()


def run_all(target: object, arguments: list[tuple[object, ...]]) -> None:
    children = [SPAWN.Process(target=target, args=args) for args in arguments]  # type: ignore[arg-type]
    for child in children:
        child.start()
    for child in children:
        child.join(120)
    assert [child.exitcode for child in children] == [0] * len(children)


def test_eight_processes_write_read_and_prune_at_once(tmp_path: Path) -> None:
    """No error, no torn batch, no value lost that someone just wrote, and a sound index."""
    directory = tmp_path / "cache"
    run_all(work, [(str(directory), number, 6) for number in range(PROCESSES)])
    with sqlite3.connect(directory / "index.sqlite3") as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()
    assert not list(files_under(directory / "tmp"))
    assert not [name for name in os.listdir(directory) if "corrupt" in name]


def meet_corruption(directory: str, number: int, barrier: object) -> None:
    barrier.wait(60)  # type: ignore[attr-defined]
    storage = LocalStorage(Path(directory))
    storage.write_records([variant_of(f"k{number}")])
    assert storage.read_records([f"k{number}"])
    storage.close()


def test_a_corrupt_index_met_by_several_is_replaced_once(tmp_path: Path) -> None:
    """The first to notice moves it away; nobody moves the new one."""
    directory = tmp_path / "cache"
    directory.mkdir(mode=0o700)
    (directory / "index.sqlite3").write_bytes(b"no database at all, but rather long" * 99)
    barrier = SPAWN.Barrier(4)
    run_all(meet_corruption, [(str(directory), number, barrier) for number in range(4)])
    storage = LocalStorage(directory)
    assert len(storage.read_records([f"k{number}" for number in range(4)])) == 4
    storage.close()
    assert len([name for name in os.listdir(directory) if "corrupt" in name]) == 1
