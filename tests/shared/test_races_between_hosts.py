"""Two hosts, many processes, one remote and one lock manager: one computation per key."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import TypeAlias

import pytest
from team import Place, Running, Team, line_of

Wait: TypeAlias = Callable[[Callable[[], bool]], None]

RACE = """
    import os, time
    from counter import count
    from pytest_taskcache import cached

    GATE = {gate!r}

    @cached
    def slow():
        count("slow")
        time.sleep(0.4)
        return b"z" * 30_000

    def test_race():
        open(os.path.join(GATE, str(os.getpid())), "w").close()
        until = time.monotonic() + 60
        while len(os.listdir(GATE)) < 8 and time.monotonic() < until:
            time.sleep(0.01)
        assert slow() == b"z" * 30_000
"""

HELD = """
    import os, time
    from counter import count
    from pytest_taskcache import cached

    @cached(key="the one thing")
    def value():
        who = open("who").read()
        count(who)
        until = time.monotonic() + 60
        while not os.path.exists({go!r} + who) and time.monotonic() < until:
            time.sleep(0.01)
        return who

    def test_value():
        assert value() in "abc"
"""


def locks_beside(place: Place, kind: str, team: Team) -> str:
    """The lock manager that a team with this storage would use."""
    if kind == "redis":
        return f"{place.url}?lease=2&heartbeat=0.5"
    return place.url if kind == "postgres" else str(team.directory / "locks")


@pytest.mark.parametrize("kind", ["redis", "postgres", "file"])
def test_eight_processes_on_two_hosts_compute_once(
    kind: str, signing: Team, place_of: Callable[[str], Place]
) -> None:
    """Under SERIALIZABLE the lock is held until others can see the value: exactly one of eight
    computes, and all get the whole value."""
    place = place_of(kind)
    gate = signing.directory / "gate"
    gate.mkdir(parents=True)
    signing.files["test_race.py"] = RACE.format(gate=str(gate))
    ini = {
        "storage": place.url,
        "isolation": "SERIALIZABLE",
        "lock_manager": locks_beside(place, kind, signing),
    }
    hosts = [signing.checkout("host-a", ini), signing.checkout("host-b", ini)]
    runs = [hosts[number % 2].start() for number in range(8)]
    results = [run.finish() for run in runs]
    for result in results:
        result.assert_outcomes(passed=1)
    assert signing.counted("slow") == 1, "\n".join(line_of(result) for result in results)
    assert sum("1 function computed" in line_of(result) for result in results) == 1
    assert sum("1 function reused" in line_of(result) for result in results) == 7


def hosts_that_hold(team: Team, place: Place, locks: str) -> Callable[[str], Running]:
    team.files["test_value.py"] = HELD.format(go=str(team.directory / "go-"))
    ini = {"storage": place.url, "isolation": "SERIALIZABLE", "lock_manager": locks}

    def start(who: str) -> Running:
        checkout = team.checkout(who, ini)
        (checkout.path / "who").write_text(who)
        return checkout.start("-v")

    return start


@pytest.mark.parametrize("kind", ["redis", "postgres", "file"])
def test_a_killed_holder_frees_its_lock(
    kind: str, signing: Team, place_of: Callable[[str], Place], wait_until: Wait
) -> None:
    """``kill -9`` of the run that computes: the one that waits for it computes itself."""
    place = place_of(kind)
    start = hosts_that_hold(signing, place, locks_beside(place, kind, signing))
    holder = start("a")
    wait_until(lambda: signing.counted("a") == 1)
    waiting = start("b")
    (signing.directory / "go-b").touch()
    time.sleep(1.0)
    assert signing.counted("b") == 0, "it did not wait for the holder"
    holder.kill()
    result = waiting.finish()
    result.assert_outcomes(passed=1)
    assert signing.counted() == 2
    assert "1 function computed" in line_of(result)
    assert "fault" not in line_of(result)


def test_a_late_writer_does_not_commit(
    signing: Team, place_of: Callable[[str], Place], wait_until: Wait
) -> None:
    """A holder that is cut off for longer than its lease: another one computes and commits, and
    when the first comes back its fencing token is out of date, so that it commits nothing."""
    place = place_of("redis")
    start = hosts_that_hold(signing, place, locks_beside(place, "redis", signing))
    late = start("a")
    wait_until(lambda: signing.counted("a") == 1)
    os.kill(late.process.pid, signal.SIGSTOP)
    try:
        (signing.directory / "go-b").touch()
        second = start("b").finish()
        second.assert_outcomes(passed=1)
        assert "1 function computed" in line_of(second)
    finally:
        (signing.directory / "go-a").touch()
        os.kill(late.process.pid, signal.SIGCONT)
    first = late.finish()
    first.assert_outcomes(passed=1)
    assert "lock lost before commit" in line_of(first), first.shown

    (signing.directory / "go-c").touch()
    for who in ("c", "a"):
        third = start(who).finish()
        third.assert_outcomes(passed=1)
        assert "1 function reused" in line_of(third)
    assert signing.counted() == 2


def test_xdist_workers_of_two_hosts_share_redis(
    signing: Team, place_of: Callable[[str], Place]
) -> None:
    """The recipe of docs/shared-storage.md: ``auto`` isolation is SERIALIZABLE under xdist, and
    the lock manager makes it hold across hosts."""
    place = place_of("redis")
    signing.files["test_race.py"] = """
        import time
        import pytest
        from counter import count
        from pytest_taskcache import cached_fixture

        @cached_fixture(scope="session")
        def data():
            count("data")
            time.sleep(1.0)
            return list(range(1000))

        @pytest.mark.parametrize("n", range(4))
        def test_data(data, n):
            assert len(data) == 1000
        """
    ini = {"storage": place.url, "lock_manager": place.url}
    runs = [signing.checkout(name, ini).start("-n2") for name in ("host-a", "host-b")]
    for run in runs:
        run.finish().assert_outcomes(passed=4)
    assert signing.counted("data") == 1
