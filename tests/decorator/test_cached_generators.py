"""Generators: their items are stored once they are exhausted, and only then."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
from bodies import ran, times

from pytest_taskcache import cached
from pytest_taskcache.model.event import Computed


@cached
def numbers(n):
    ran("numbers")
    for number in range(n):
        yield [number]
    return n


def all_of(generator):
    items = []
    while True:
        try:
            items.append(next(generator))
        except StopIteration as end:
            return items, end.value


def test_items_and_return_value_are_stored(cache):
    """A hit yields the same items and returns the same value, without the body."""
    assert inspect.isgeneratorfunction(numbers)
    assert all_of(numbers(2)) == ([[0], [1]], 2)
    assert all_of(numbers(2)) == ([[0], [1]], 2)
    assert all_of(numbers(0)) == ([], 0)
    assert all_of(numbers(0)) == ([], 0)
    assert times("numbers") == 2


def test_nothing_runs_before_the_first_item_is_asked_for(cache):
    """As with any generator."""
    numbers(2)
    assert times("numbers") == 0


def test_outside_a_cache_it_is_a_generator(nothing_active):
    """Items, return value and sending are Python's own."""
    assert all_of(numbers(2)) == ([[0], [1]], 2)


def test_a_generator_that_is_closed_early_is_not_kept(cache, events):
    """Its cleanup runs, and the next one computes all items."""

    @cached
    def items():
        try:
            yield from (1, 2, 3)
        finally:
            ran("cleanup")

    generator = items()
    assert next(generator) == 1
    generator.close()
    assert times("cleanup") == 1
    assert list(items()) == [1, 2, 3]
    assert list(items()) == [1, 2, 3]
    assert times("cleanup") == 2


def test_a_generator_that_raises_is_not_kept(cache):
    """The items before the error arrive, and it is tried again."""

    @cached
    def items():
        ran("items")
        yield 1
        raise OSError("gone")

    for _ in range(2):
        got = []
        with pytest.raises(OSError, match="gone"):
            got.extend(items())
        assert got == [1]
    assert times("items") == 2


def test_a_consumer_that_changes_items_spoils_nothing(cache):
    """Items are serialized when they are produced."""
    for item in numbers(2):
        item.append("spoiled")
    for item in numbers(2):
        item.append("spoiled")
    assert list(numbers(2)) == [[0], [1]]
    assert times("numbers") == 1


@cached
def echo():
    ran("echo")
    got = "start"
    while got != "end":
        try:
            got = yield got
        except KeyError as error:
            got = f"caught {error.args[0]}"
        if got is None:
            return "silence"
    return "ended"


def talk(generator):
    got = [next(generator), generator.send("a"), generator.throw(KeyError("b"))]
    with pytest.raises(StopIteration) as end:
        generator.send("end")
    return got, end.value.value


def test_what_is_sent_and_thrown_arrives_and_is_not_kept(cache, events):
    """Such a generator depends on its consumer."""
    for _ in range(2):
        assert talk(echo()) == (["start", "a", "caught b"], "ended")
    assert times("echo") == 2
    assert [event.reason for event in events.of(Computed)] == ["generator was sent values"] * 2


def test_sending_into_a_stored_generator_gives_what_a_live_one_would(cache):
    """Stored by a consumer that sent nothing, used by one that does."""
    assert all_of(echo()) == (["start"], "silence")
    assert all_of(echo()) == (["start"], "silence")
    assert times("echo") == 1
    assert talk(echo()) == (["start", "a", "caught b"], "ended")
    generator = echo()
    next(generator)
    with pytest.raises(IndexError):
        generator.throw(IndexError())
    assert all_of(echo()) == (["start"], "silence")


def test_an_item_that_cannot_be_pickled_costs_the_entry_only(cache, events):
    """All items arrive; the refusal is counted."""

    @cached
    def items():
        ran("items")
        yield 1
        yield (n for n in ())
        yield 3

    assert len(list(items())) == 3
    assert len(list(items())) == 3
    assert times("items") == 2
    assert {event.reason for event in events.of(Computed)} == {"value cannot be serialized"}


def test_an_item_that_cannot_be_unpickled_costs_the_entry_only(cache, events):
    """Found out before it is stored."""

    @cached
    def items():
        yield Unloadable()

    assert len(list(items())) == 1
    assert [event.reason for event in events.of(Computed)] == ["value cannot be serialized"]


class Unloadable:
    def __reduce__(self):
        return int, ("no number",)


def test_paths_in_the_temporary_directory_are_not_kept(cache, events):
    """They would dangle in the next run."""
    place = cache.engine.parts.payloads.temporary()

    @cached
    def paths():
        yield Path(place) / "a"

    assert list(paths()) == [Path(place) / "a"]
    assert [event.reason for event in events.of(Computed)] == ["value cannot be serialized"]


def test_two_of_one_generator_at_once(cache):
    """Interleaved, also where one computation at a time is asked for."""
    pairs = numbers.with_options(policy=serializable())
    assert list(zip(pairs(2), pairs(2), strict=True)) == [([0], [0]), ([1], [1])]
    assert list(pairs(2)) == [[0], [1]]


def serializable():
    from pytest_taskcache import DEFAULT, MemoryLockManager

    return DEFAULT.configure(isolation_level="SERIALIZABLE", lock_manager=MemoryLockManager())


def test_call_gives_the_list_with_the_decision(cache):
    """For a generator function the value is the list of its items."""
    assert numbers.call(2).value == [[0], [1]]
    assert numbers.call(2).name == "Cached"
    assert numbers.call(2).value == [[0], [1]]
