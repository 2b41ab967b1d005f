"""Runs that end before their end: Ctrl-C, and death without a word."""

from __future__ import annotations

import os
import signal
import sqlite3

import pytest
from hurt_project import HurtProject, Ran, check_told

SUITE = """
    import os
    import time
    import pytest
    from counter import count
    from pytest_taskcache import cached, cached_fixture

    def deed(place):
        if os.path.exists(f"do_{place}"):
            if os.path.exists("once"):
                os.remove(f"do_{place}")
            open("there", "w").close()
            exec(os.environ["DEED"])

    @cached_fixture(scope="session")
    def data():
        count("fixture")
        deed("fixture")
        return [str(n) for n in range(30_000)]

    @cached
    def total(n):
        count("function")
        deed("function")
        return ["x"] * n

    @pytest.mark.cached
    @pytest.mark.parametrize("n", range(3))
    def test_before(n):
        count("before")

    @pytest.mark.cached
    def test_function():
        count("test")
        assert len(total(30_000)) == 30_000

    @pytest.mark.cached
    def test_fixture(data):
        count("test")
        assert len(data) == 30_000

    @pytest.mark.cached
    def test_body():
        count("test")
        deed("test")

    @pytest.fixture
    def late():
        yield
        deed("teardown")

    @pytest.mark.cached
    def test_teardown(late):
        count("test")

    @pytest.mark.cached
    @pytest.mark.parametrize("n", range(3))
    def test_after(n):
        count("after")
"""

WAIT = "time.sleep(300)"
PLACES = ("fixture", "function", "test", "teardown")


@pytest.fixture
def hurt(hurt: HurtProject) -> HurtProject:
    """A project whose code waits, or does worse, at a place that a file names."""
    hurt.write("test_suite.py", SUITE)
    return hurt


def _stopped(hurt: HurtProject, place: str, number: int, *args: str) -> Ran:
    """A run whose whole process group gets this signal while it is at that place."""
    hurt.write(f"do_{place}", "")
    before = hurt.counted()
    process = hurt.start(*args, DEED=WAIT)
    hurt.wait_for("there", process)
    os.killpg(process.pid, number)
    ran = hurt.end(process, before)
    for name in (f"do_{place}", "there"):
        (hurt.root / name).unlink()
    return ran


def _check_nothing_left(hurt: HurtProject) -> None:
    """Nothing is staged and no run is noted any more."""
    connection = sqlite3.connect(hurt.index)
    for rows in ("variants WHERE state != ''", "claims"):
        assert connection.execute(f"SELECT count(*) FROM {rows}").fetchone() == (0,)
    connection.close()
    assert not list(hurt.cache.glob("runs/*"))


def _check_well(hurt: HurtProject, kept: dict[str, int]) -> None:
    """The next run waits for nobody, does not repeat what was kept, and stores the rest."""
    ran = hurt.run()
    assert ran.code == pytest.ExitCode.OK, ran.shown
    assert "waiting for" not in ran.out + ran.err, ran.shown
    assert not ran.faults, ran.shown
    assert {name: ran.counts[name] for name in kept} == kept, ran.shown
    _check_nothing_left(hurt)
    again = hurt.run()
    assert not again.counts, again.shown
    assert "10 tests reused" in again.line, again.shown


@pytest.mark.parametrize("place", PLACES)
def test_ctrl_c(hurt: HurtProject, place: str) -> None:
    """What passed before it is stored, what was interrupted is not; nothing of ours is in what
    the terminal shows."""
    ran = _stopped(hurt, place, signal.SIGINT)
    assert ran.code == pytest.ExitCode.INTERRUPTED, ran.shown
    assert "KeyboardInterrupt" in ran.out
    assert "pytest_taskcache/" not in ran.out + ran.err, ran.shown
    assert ran.err == "", ran.shown
    assert not ran.faults, ran.shown
    _check_nothing_left(hurt)
    _check_well(hurt, {"before": 0, "after": 3})


def test_ctrl_c_under_xdist(hurt: HurtProject) -> None:
    """A terminal sends it to the workers, too."""
    ran = _stopped(hurt, "fixture", signal.SIGINT, "-p", "xdist", "-n", "2")
    assert ran.code == pytest.ExitCode.INTERRUPTED, ran.shown
    assert "pytest_taskcache/" not in ran.out + ran.err, ran.shown
    _check_well(hurt, {"fixture": 1})


@pytest.mark.parametrize("place", PLACES)
def test_kill(hurt: HurtProject, place: str) -> None:
    """``kill -9`` of the whole run: nothing of it is in the way of the next. (Outcomes that were
    not written yet are lost; they are written several at a time.)"""
    ran = _stopped(hurt, place, signal.SIGKILL)
    assert ran.code == -signal.SIGKILL
    _check_well(hurt, {"after": 3})


def test_kill_of_a_run_with_workers(hurt: HurtProject) -> None:
    """``kill -9`` of controller and workers at once: their locks and staged values hold up
    nobody."""
    ran = _stopped(hurt, "fixture", signal.SIGKILL, "-p", "xdist", "-n", "2")
    assert ran.code == -signal.SIGKILL
    _check_well(hurt, {"fixture": 1})


@pytest.mark.parametrize("place", ["fixture", "function", "test"])
def test_kill_of_a_worker(hurt: HurtProject, place: str) -> None:
    """``kill -9`` of one worker: the test it was at fails, as without the plugin; one line says
    that its counts are missing; and the others go on at once."""
    hurt.write("once", "")
    options = ("-p", "xdist", "-n", "2")
    deed = "import signal; os.kill(os.getpid(), signal.SIGKILL)"
    hurt.write(f"do_{place}", "")
    plain = hurt.run(*options, plugin=False, DEED=deed)
    hurt.write(f"do_{place}", "")
    ran = hurt.run(*options, DEED=deed)
    assert ran.outcomes == plain.outcomes, ran.shown
    assert ran.code == plain.code == pytest.ExitCode.TESTS_FAILED
    assert "pytest_taskcache/" not in ran.out + ran.err, ran.shown
    check_told(ran, ["a worker died"])
    _check_well(hurt, {})


def test_second_ctrl_c(hurt: HurtProject) -> None:
    """Somebody who presses it twice, and then again, still leaves a cache that works."""
    hurt.write("do_test", "")
    before = hurt.counted()
    process = hurt.start(DEED=WAIT)
    hurt.wait_for("there", process)
    for _ in range(3):
        os.killpg(process.pid, signal.SIGINT)
    hurt.end(process, before)
    (hurt.root / "do_test").unlink()
    (hurt.root / "there").unlink()
    _check_well(hurt, {"before": 0})


def test_termination(hurt: HurtProject) -> None:
    """A scheduler ends the run politely, which Python does not notice."""
    ran = _stopped(hurt, "test", signal.SIGTERM)
    assert ran.code == -signal.SIGTERM
    _check_well(hurt, {"after": 3})
