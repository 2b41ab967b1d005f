"""A worker that waits for another's computation says for whom."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from inner_runs import run
from projects import Project

SLOW = """
    import pathlib
    import time
    from counter import count
    from pytest_taskcache import DEFAULT, cached

    @cached(policy=DEFAULT.configure(isolation_level="SERIALIZABLE"))
    def slow():
        count("body")
        time.sleep(2.5)
        return 1

    def wait_for_it(name):
        pathlib.Path(name + ".there").touch()
        deadline = time.monotonic() + 60
        while len(list(pathlib.Path(".").glob("*.there"))) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        if name == "b":
            time.sleep(0.5)
        assert slow() == 1
"""


@pytest.fixture
def waiting(project: Project) -> Project:
    """A project with a slow function that two ask for at nearly the same time, "a" first."""
    project.write("slow_one.py", SLOW)
    project.write(
        "test_a.py",
        """
        import os
        from slow_one import wait_for_it

        def test_it():
            wait_for_it(os.environ.get("WHO", "a"))
        """,
    )
    return project


@contextmanager
def _computing(project: Project, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Another run that computes at the same time; it ends well."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:randomly"]
    first = subprocess.Popen(command, cwd=project.path, stdout=subprocess.DEVNULL)
    monkeypatch.setenv("WHO", "b")
    yield
    assert first.wait(timeout=60) == 0


@pytest.mark.parametrize("option", ["--capture=fd", "-s", "--capture=tee-sys"])
def test_two_runs_wait_for_each_other(
    waiting: Project, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    """The second of two runs computes nothing: it says while it waits for whom, whatever
    captures the test's output, and when it is done."""
    with _computing(waiting, monkeypatch):
        second = run(waiting, option)
    second.assert_outcomes(passed=1)
    second.stdout.fnmatch_lines(
        [
            "*taskcache: slow_one.py::slow is waiting for *test_it*",
            "*taskcache: slow_one.py::slow waited for *",
            "taskcache: 1 function reused*",
        ]
    )
    assert waiting.counted() == 1


def test_a_waiting_worker_of_xdist_is_heard(waiting: Project) -> None:
    """A worker's line reaches the terminal, though workers have none."""
    text = (waiting.path / "test_a.py").read_text()
    waiting.write("test_b.py", text.replace('"a"', '"b"'))
    result = waiting.run("-n", "2", "--dist=loadfile")
    result.assert_outcomes(passed=2)
    assert waiting.counted() == 1
    lines = result.outlines + result.errlines
    assert any("slow_one.py::slow is waiting for test_" in line for line in lines)


def test_other_threads_may_wait(project: Project) -> None:
    """A thread of a test that waits does not disturb what the test captures."""
    project.write(
        "test_suite.py",
        """
        import threading
        import time
        from counter import count
        from pytest_taskcache import DEFAULT, cached

        @cached(policy=DEFAULT.configure(isolation_level="SERIALIZABLE"))
        def slow():
            count("body")
            time.sleep(1.5)
            return 1

        def test_it(capfd):
            threads = [threading.Thread(target=slow) for _ in range(2)]
            for thread in threads:
                thread.start()
            print("mine")
            for thread in threads:
                thread.join()
            assert "mine" in capfd.readouterr().out
        """,
    )
    run(project).assert_outcomes(passed=1)
    assert project.counted() == 1
