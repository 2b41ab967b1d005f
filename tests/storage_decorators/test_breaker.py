"""The one circuit breaker of the house, with a clock that is handed in."""

import math

from pytest_taskcache.breaker import Breaker


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.time = 100.0

    def __call__(self) -> float:
        return self.time


def test_three_quick_failures_open_it_for_good() -> None:
    """And only the third one does."""
    breaker = Breaker(2.0, clock=Clock())

    assert [breaker.failed(breaker.now()) for _ in range(3)] == [False, False, True]
    assert not breaker.closed()
    assert breaker.left() == 0.0


def test_time_that_was_lost_opens_it() -> None:
    """Failures may cost no more than the budget together; what is left of it bounds the next."""
    clock = Clock()
    breaker = Breaker(2.0, clock=clock)
    for lost, opened in ((1.5, False), (0.5, True)):
        assert breaker.left() == 2.0 - (0.0 if lost == 1.5 else 1.5)
        began = breaker.now()
        clock.time += lost
        assert breaker.failed(began) is opened


def test_successes_in_between_count_only_where_they_are_told() -> None:
    """A server that works every other time is given up by those who want that."""
    strict, kind = Breaker(2.0, clock=Clock()), Breaker(2.0, clock=Clock())
    for _ in range(3):
        strict.failed(strict.now())
        kind.failed(kind.now())
        kind.succeeded()
    assert not strict.closed()
    assert kind.closed()


def test_it_closes_after_its_pause_and_opens_again_at_once() -> None:
    """A server that is back is asked again; one that is not costs one question each pause."""
    clock = Clock()
    breaker = Breaker(1.0, pause=30.0, clock=clock)
    began = breaker.now()
    clock.time += 2.0
    assert breaker.failed(began)
    clock.time += 29.9
    assert not breaker.closed()
    clock.time += 0.2
    assert breaker.closed()
    assert breaker.failed(breaker.now())
    assert not breaker.closed()
    breaker.succeeded()
    assert breaker.closed()


def test_a_failure_while_it_is_open_prolongs_the_pause() -> None:
    """Whoever asked in spite of it knows better; it is told once that it opened."""
    clock = Clock()
    breaker = Breaker(1.0, faults=1, pause=30.0, clock=clock)
    assert breaker.failed(clock.time)
    clock.time += 20.0
    assert not breaker.failed(clock.time)
    clock.time += 20.0
    assert not breaker.closed()
    assert math.isclose(breaker.now(), 140.0)
