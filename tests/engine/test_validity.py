"""How long a value is valid: expiration, validators, refresh, persist, and the mode of a run."""

from __future__ import annotations

import time
from datetime import timedelta

import pytest
from bodies import ran, times

from pytest_taskcache import (
    INPUTS,
    Cache,
    Miss,
    Uncacheable,
    all_inputs,
    all_parameters,
    cached,
    duration_only,
    never_use,
    partial_inputs_only,
    partial_parameters_only,
)
from pytest_taskcache.engine.computation import Place
from pytest_taskcache.model.event import Computed, Decided, Faulted


class Clock:
    """The time of a cache, to be turned by hand."""

    def __init__(self, cache):
        self.now = 1_700_000_000.0
        engine = cache.engine
        engine.clock = lambda: self.now


def test_a_value_expires(cache):
    """It is valid until then, computed again after, and valid again."""
    clock = Clock(cache)

    @cached(expiration=timedelta(hours=1))
    def f():
        ran("f")

    f()
    clock.now += 3599
    f()
    assert times("f") == 1
    clock.now += 1
    assert str(f.call().decision) == "expired"
    f()
    assert times("f") == 2


def with_validator(validator, **options):
    @cached(key="shared", validator=validator, **options)
    def f(x, y=0):
        ran("f")
        return x

    return f


@pytest.mark.parametrize(
    ("validator", "same_x", "other_y", "other_x"),
    [
        (duration_only, True, True, True),
        (never_use, False, False, False),
        (all_inputs, True, False, False),
        (partial_inputs_only(["x"]), True, True, False),
        (partial_inputs_only(["y"]), True, False, True),
        (partial_inputs_only(), True, True, True),
        (all_parameters, True, True, True),
    ],
)
def test_validators_of_inputs(cache, validator, same_x, other_y, other_x):
    """Prefect 0.x's, over one shared key."""
    for arguments, hit in [((1,), same_x), ((1, 2), other_y), ((5,), other_x)]:
        cache.clear()
        f = with_validator(validator)
        f(1)
        state = f.call(*arguments)
        assert (state.name == "Cached") == hit, arguments
        if not hit:
            assert str(state.decision) == "rejected by its validator"


@pytest.mark.parametrize(
    ("validator", "hits"),
    [
        (all_parameters, [True, False, False]),
        (partial_parameters_only(["n"]), [True, False, True]),
        (partial_parameters_only(), [True, True, True]),
    ],
)
def test_validators_of_test_parameters(cache, validator, hits):
    """They compare the parameters of the running test."""
    places = [{"n": 1, "m": 1}, {"n": 2, "m": 1}, {"n": 1, "m": 2}]
    for parameters, hit in zip(places, hits, strict=True):
        cache.clear()
        f = with_validator(validator)
        cache.engine.place = Place("t", parameters=places[0])
        f(1)
        cache.engine.place = Place("t", parameters=parameters)
        assert (f.call(1).name == "Cached") == hit


def test_duration_only_expires(cache):
    """As ``cache_for`` with its default validator."""
    clock = Clock(cache)
    f = with_validator(duration_only, expiration=timedelta(days=1))
    f(1), f(1)
    clock.now += 86400
    f(1)
    assert times("f") == 2


def test_a_validator_finds_the_right_one_of_several(cache):
    """Under one key, up to 16 records: the newest valid one is used."""
    f = with_validator(all_inputs)
    assert [f(1), f(2), f(3), f(1), f(2), f(3)] == [1, 2, 3, 1, 2, 3]
    assert times("f") == 3


def test_an_input_without_a_digest_never_compares_equal(cache):
    """``all_inputs`` does not take two unknown things for the same."""
    f = with_validator(all_inputs)
    f(1, object()), f(1, object())
    assert times("f") == 2


def test_a_validator_of_ones_own_sees_the_record(cache):
    """Its times, its inputs, who produced it."""
    seen = []

    def mine(context, record):
        seen.append(record)
        return record.duration < 60

    f = with_validator(mine)
    f(1), f(1)
    assert times("f") == 1
    assert seen[0].created > 0
    assert [part.name for part in seen[0].inputs] == ["inputs.x", "inputs.y"]


def test_a_failing_validator_costs_the_hit_not_the_call(cache, events):
    """It is told as a fault, and the value computed."""
    f = with_validator(lambda context, record: 1 / 0)
    assert [f(1), f(2)] == [1, 2]
    assert {event.reason for event in events.of(Faulted)} == {"validator failed"}


def test_refresh_computes_and_overwrites(cache):
    """The next one without ``refresh`` gets the new value."""

    @cached(key="k")
    def f():
        ran("f")
        return times("f")

    fresh = f.with_options(refresh=True)
    assert [f(), f(), fresh(), f(), fresh(), f()] == [1, 1, 2, 2, 3, 3]


def counted(x):
    ran(f"counted {x}")
    return times(f"counted {x}")


@pytest.mark.parametrize(
    ("refresh", "again"), [(True, True), ("counted", True), ("other", False), (False, False)]
)
def test_a_whole_run_refreshes(tmp_path, root, refresh, again):
    """Everything, or what a pattern names; what the run itself computed is fresh."""
    f = cached(counted)
    with Cache(tmp_path / "c", root=root):
        f(1)
    with Cache(tmp_path / "c", root=root, refresh=refresh) as cache:
        with cache.transaction():
            f(1), f(1)
        f(1)
    assert times() == (2 if again else 1)
    with Cache(tmp_path / "c", root=root):
        assert f(1) == (2 if again else 1)


def test_persist_false_computes_always_and_stores_nothing(cache):
    """Checkpointing off for one function; who uses it may be cached."""

    @cached(persist=False)
    def f():
        ran("f")
        return 1

    @cached
    def g():
        ran("g")
        return f()

    f()
    assert isinstance(f.call().decision, Uncacheable)
    assert times("f") == 2
    g(), g()
    assert times("g") == 1


@pytest.mark.parametrize(
    ("mode", "hits", "stores"),
    [("rw", True, True), ("r", True, False), ("w", False, True), ("off", False, False)],
)
def test_modes(tmp_path, root, mode, hits, stores):
    """What a run may do with the cache; reading only writes nothing at all."""
    place = tmp_path / "c"
    f = cached(counted)
    with Cache(place, root=root):
        f(1)
    before = contents(place)
    with Cache(place, root=root, mode=mode):
        f(1), f(2)
        assert times("counted 1") == (1 if hits else 2)
    if not stores:
        assert contents(place) == before
    with Cache(place, root=root):
        f(2)
    assert times("counted 2") == (1 if stores else 2)


def contents(place):
    return {
        str(path.relative_to(place)): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in place.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("mode", ["r", "off"])
def test_a_mode_that_does_not_write_makes_no_directory(tmp_path, root, mode):
    """Where there is no cache yet there is none afterwards."""
    with Cache(tmp_path / "c", root=root, mode=mode) as cache:
        assert cached(counted)(1) == 1
        with cache.transaction():
            cached(counted)(1)
    assert not (tmp_path / "c").exists()


def test_why_it_was_a_miss(cache, events, load):
    """The changed input is named, never just "cache miss"."""
    f = cached(policy=INPUTS)(counted)
    assert str(f.call(1).decision) == "never computed"
    assert str(f.call(2).decision) == "input changed: x"
    assert isinstance(f.call(3).decision, Miss)
    assert [event.saved >= 0 for event in events.of(Decided)] == [True] * 3
    assert all(event.staged for event in events.of(Computed))


def test_a_validator_sees_the_inputs_values_and_the_record(cache):
    """The values themselves; of the record its times and its producer."""
    seen = []

    def validator(context, record):
        seen.append((context.values["rows"], record.producer, record.created <= time.time()))
        return len(context.values["rows"]) < 3

    @cached(key="rows", validator=validator)
    def f(rows):
        ran("f")
        return len(rows)

    assert (f([1]), f([1, 2])) == (1, 1)
    assert f([1, 2, 3]) == 3
    assert times("f") == 2
    assert seen[0][0] == [1, 2]
    assert seen[0][1].endswith(".f")
    assert seen[0][2] is True


def test_what_raises_is_told_with_the_function_it_stands_on(cache, events):
    """Validators and key functions."""

    @cached(validator=lambda context, record: 1 / 0)
    def validated():
        return 1

    @cached(key_fn=lambda context, arguments: 1 / 0)
    def keyed():
        return 1

    validated(), validated(), keyed()
    first, second = events.of(Faulted)
    assert "the validator of" in first.detail
    assert "validated: ZeroDivisionError" in first.detail
    assert "the key of" in second.detail
    assert "keyed: ZeroDivisionError" in second.detail


def test_decisions_as_text(cache):
    """One line that a person can read."""

    @cached
    def f(n):
        return n

    assert str(f.call(1).decision) == "never computed"
    with cache.transaction():
        f(2)
        assert "f computed in" in str(f.call(2).decision)
        assert str(f.call(2).decision).endswith("s, not committed yet")
    assert str(f.call(1).decision).startswith("reused what ")
    for decision in (f.call(1).decision, f.call(3).decision):
        assert "\n" not in str(decision)
