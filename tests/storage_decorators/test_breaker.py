"""When a storage is given up, and when it is asked again."""

from pytest_taskcache.storage.breaker import Breaker


def test_three_quick_failures_open_it() -> None:
    """A server that refuses connections costs no time, but is not asked for ever."""
    breaker = Breaker(faults=3, budget=2.0)

    assert [breaker.fail(now, 0.001) for now in (1.0, 2.0, 3.0)] == [False, False, True]
    assert breaker.is_open
    assert breaker.left == 0.0


def test_lost_time_opens_it_before_three_failures() -> None:
    """What a run can lose is bounded in all, not per operation."""
    breaker = Breaker(faults=3, budget=2.0)

    assert not breaker.fail(1.0, 1.5)
    assert breaker.left == 0.5
    assert breaker.fail(2.0, 0.5)


def test_it_tells_only_once_that_it_opened() -> None:
    """Operations that were under way and fail later open nothing again."""
    breaker = Breaker(faults=1, budget=2.0)

    assert breaker.fail(1.0, 0.0)
    assert not breaker.fail(1.1, 0.0)


def test_without_a_pause_it_stays_open() -> None:
    """To the end of the run, by default."""
    breaker = Breaker(faults=1, budget=2.0)
    breaker.fail(1.0, 2.0)

    assert not breaker.wants_probe(1e9)
    assert breaker.is_open


def test_after_a_pause_one_probe_decides() -> None:
    """One question a pause is asked; only its success closes the breaker, with a new budget."""
    breaker = Breaker(faults=1, budget=2.0, retry_after=60.0)
    breaker.fail(100.0, 2.0)

    assert not breaker.wants_probe(159.0)
    assert breaker.wants_probe(160.0)
    assert not breaker.wants_probe(160.1)
    assert breaker.left == 0.0
    assert breaker.wants_probe(220.0)
    breaker.close()
    assert breaker.left == 2.0
    assert not breaker.is_open
