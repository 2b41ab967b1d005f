"""What `@cached` does to functions and methods."""

from __future__ import annotations

import asyncio
import importlib.util
import inspect
import pickle
import runpy
import time
from collections.abc import Iterator
from unittest import mock

import pytest
from bodies import ran, times

from pytest_taskcache import (
    DEFAULT,
    INPUTS,
    Cache,
    ConfigurationError,
    Hit,
    Miss,
    Uncacheable,
    cached,
)


@cached
def at_module_level(x, *, y=2):
    """Its docstring."""
    ran("module")
    return {"x": x, "y": y}


def test_the_body_runs_once(closed):
    """In one opening of the cache and in the next."""
    with closed:
        assert at_module_level(1) == at_module_level(x=1) == {"x": 1, "y": 2}
    with closed:
        assert at_module_level(1) == {"x": 1, "y": 2}
    assert times("module") == 1


TWICE = "from pytest_taskcache import cached\n@cached\ndef f(): return BASE\n"


def by_spec(path, base):
    spec = importlib.util.spec_from_file_location("twice", path)
    module = importlib.util.module_from_spec(spec)
    module.BASE = base
    spec.loader.exec_module(module)
    return module.f


def by_runpy(path, base):
    return runpy.run_path(str(path), init_globals={"BASE": base})["f"]


def by_text(path, base):
    space = {"BASE": base, "__name__": __name__}
    exec(path.read_text(), space)
    return space["f"]


@pytest.mark.parametrize("load", [by_spec, by_runpy, by_text])
def test_globals_of_no_module_have_no_key(cache, root, load):
    """One file, or text, that is executed twice: who says what it finds in its namespace?"""
    (root / "twice.py").write_text(TWICE)
    one, two = load(root / "twice.py", 1), load(root / "twice.py", 2)
    assert (one(), two()) == (1, 2)
    one.__wrapped__.__globals__["BASE"] = 3
    told = one.call()
    assert told.value == 3
    assert told.decision.reason == "globals of no module"


def test_a_conftest_that_gave_way_to_another_is_a_module(cache, load):
    """pytest drops it from `sys.modules`; and who vouches for a value needs no globals."""
    source = "BASE = 1\n" + TWICE
    first, other = load("conftest", source).f, load("other", source).f
    for name in ("conftest", "other"):
        load(name, source)
    assert (first.call().name, first.call().name) == ("Completed", "Cached")
    assert (other.call().name, other.call().name) == ("Completed", "Completed")
    assert other.with_options(policy=INPUTS)() == 1
    assert other.with_options(policy=INPUTS).call().name == "Cached"


def test_outside_an_active_cache_it_just_runs(nothing_active):
    """Each call computes, and says why."""
    at_module_level(1)
    state = at_module_level.call(1)
    assert isinstance(state.decision, Uncacheable)
    assert state.name == "Completed"
    assert times("module") == 2


def test_none_is_a_value_like_any_other(cache):
    """A function that returns None is not computed again."""

    @cached
    def f():
        ran("f")

    assert f() is None
    assert f() is None
    assert times("f") == 1


def test_exceptions_are_never_cached(cache):
    """A failing call is tried again, and raises its own exception each time."""

    @cached
    def f(x):
        ran("f")
        if times("f") < 3:
            raise KeyError(x)
        return x

    for _ in range(2):
        with pytest.raises(KeyError, match="1"):
            f(1)
    assert f(1) == 1
    assert f(1) == 1
    assert times("f") == 3


def test_every_caller_gets_a_value_of_its_own(cache):
    """Whoever changes it spoils nothing: neither what was computed nor what was stored."""

    @cached
    def f():
        ran("f")
        return [1]

    f().append(2)
    again = f()
    again.append(3)
    assert f() == [1]
    assert f() is not f()
    assert times("f") == 1


def test_a_value_is_stored_as_it_was_returned(cache):
    """A change between the return and the commit does not count."""
    with cache.transaction():

        @cached
        def f():
            return [1]

        f().append(2)
    assert f() == [1]


def test_call_tells_the_decision(cache):
    """First a miss, then a hit: Prefect's Completed and Cached."""

    @cached
    def f(x):
        return x + 1

    first, second = f.call(1), f.call(1)
    assert (first.name, first.result()) == ("Completed", 2)
    assert isinstance(first.decision, Miss)
    assert (second.name, second.value) == ("Cached", 2)
    assert isinstance(second.decision, Hit)


class Box:
    def __init__(self, n):
        self.n = n

    @cached
    def times(self, m=1):
        """Its docstring."""
        ran("times")
        return self.n * m

    @cached
    async def later(self):
        return self.n

    @staticmethod
    @cached
    def fixed(m):
        return m

    @classmethod
    @cached
    def made(cls, n):
        return n


def test_call_is_bound_to_its_instance(cache):
    """As the method is: the same key, by whichever way it is called."""
    box = Box(3)
    assert box.times.call(2).value == 6
    for state in (box.times.call(m=2), Box.times.call(box, 2), Box(3).times.call(2)):
        assert (state.name, state.value) == ("Cached", 6)
    assert box.times(2) == 6
    assert times("times") == 1
    assert asyncio.run(box.later.call()).value == asyncio.run(box.later()) == 3
    assert (Box.fixed.call(4).value, box.fixed(4)) == (4, 4)
    assert (Box.made.call(Box, 4).value, box.made(4)) == (4, 4)
    assert box.times.with_options(refresh=True)(box) == 3


def test_a_method_looks_like_one():
    """To inspection, binding and pickle."""
    box = Box(3)
    assert inspect.isfunction(Box.times)
    assert inspect.isfunction(vars(Box)["times"])
    assert inspect.ismethod(box.times)
    assert inspect.iscoroutinefunction(box.later)
    assert str(inspect.signature(box.times)) == "(m=1)"
    assert box.times == box.times != Box(3).times
    assert (box.times.__name__, box.times.__doc__) == ("times", "Its docstring.")
    assert box.times.__func__ == Box.times
    assert pickle.loads(pickle.dumps(Box.times)) is Box.times
    assert pickle.loads(pickle.dumps(box.times))(2) == 6


def test_a_decision_is_one_line(cache):
    """That a person can read, whatever users' code said."""

    class Odd:
        def __reduce__(self):
            raise ValueError("of two\n  lines")

    @cached
    def odd(x):
        ran("odd")
        return Odd()

    @cached
    def given(x):
        return 1

    first, second, other = odd.call(1), odd.call(1), odd.call(2)
    assert str(first.decision) == "never computed"
    assert str(second.decision).startswith("refused before: ")
    assert "of two lines" in str(second.decision)
    assert str(other.decision) == "never computed"
    assert times("odd") == 3
    for state in (first, second, given.call(1), given.call(1), given.call(2), given.call(Odd())):
        assert len(str(state.decision).splitlines()) == 1


def test_what_could_be_kept_after_a_refusal_is_a_hit(cache):
    """And is no longer told as refused."""
    values = [object, 1]

    @cached
    def f():
        value = values[times("f")]
        ran("f")
        return value() if value is object else value

    decisions = [str(f.call().decision) for _ in range(3)]
    assert times("f") == 2, decisions
    assert decisions[1].startswith("refused before: ")
    assert decisions[2].startswith("reused what")


def test_it_looks_like_the_function(cache):
    """Name, docstring, signature and kind stay; it can be pickled by name."""
    assert at_module_level.__name__ == "at_module_level"
    assert at_module_level.__doc__ == "Its docstring."
    assert str(inspect.signature(at_module_level)) == "(x, *, y=2)"
    assert inspect.isfunction(at_module_level)
    assert pickle.loads(pickle.dumps(at_module_level)) is at_module_level


def test_wrong_arguments_raise_what_python_raises(cache):
    """TypeError, and nothing is computed."""

    @cached
    def f(x):
        ran("f")

    for args, kwargs in [((), {}), ((1, 2), {}), ((1,), {"x": 1}), ((), {"z": 1})]:
        with pytest.raises(TypeError, match="argument"):
            f(*args, **kwargs)
    assert not times()


class Counter:
    """Counts by its step."""

    def __init__(self, step):
        self.step = step

    @cached
    def count(self, n):
        ran("count")
        return n * self.step

    @staticmethod
    @cached
    def fixed(n):
        ran("fixed")
        return n

    @cached
    @staticmethod
    def fixed_outside(n):
        ran("fixed_outside")
        return n

    @classmethod
    @cached
    def named(cls, n):
        ran("named")
        return cls.__name__, n

    @cached
    @classmethod
    def named_outside(cls, n):
        ran("named_outside")
        return cls.__name__, n


class Double(Counter):
    """A subclass."""


def test_methods_count_their_instance(cache):
    """Two instances that are alike share an entry; one that differs does not."""
    assert Counter(2).count(3) == 6
    assert Counter(2).count(3) == 6
    assert Counter(5).count(3) == 15
    assert times("count") == 2
    assert Counter.count.call(Counter(2), 3).name == "Cached"


def test_a_method_may_leave_its_instance_out(cache):
    """``policy - "self"``."""

    class Client:
        @cached(policy=DEFAULT - "self")
        def get(self, path):
            ran("get")
            return path

    Client().get("/")
    Client().get("/")
    assert times("get") == 1


@pytest.mark.parametrize("name", ["fixed", "fixed_outside"])
def test_static_methods_on_either_side(cache, name):
    """``@staticmethod`` above or below ``@cached``."""
    assert getattr(Counter, name)(1) == getattr(Counter(1), name)(1) == 1
    assert times(name) == 1


@pytest.mark.parametrize("name", ["named", "named_outside"])
def test_class_methods_count_their_class(cache, name):
    """A subclass has entries of its own."""
    assert getattr(Counter, name)(1) == ("Counter", 1)
    assert getattr(Counter(1), name)(1) == ("Counter", 1)
    assert getattr(Double, name)(1) == ("Double", 1)
    assert times(name) == 2


def test_with_options_is_another_function(cache):
    """The original keeps its options; unknown ones are refused by name."""
    fresh = at_module_level.with_options(refresh=True)
    at_module_level(1), fresh(1), fresh(1), at_module_level(1)
    assert times("module") == 3
    with pytest.raises(ConfigurationError, match=r"with_options\(expire"):
        at_module_level.with_options(expire=3)


def test_cached_twice_is_cached_once(cache):
    """The outer options hold."""

    @cached(policy=INPUTS)
    @cached
    def f(x):
        ran("f")
        return x

    f(1), f(1)
    assert times("f") == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"ttl": 3}, "there is no such option"),
        ({"policy": "INPUTS"}, "is no policy"),
        ({"key": ""}, "non-empty"),
        ({"key": "a", "target": "b"}, "give only one"),
        ({"key_fn": "a"}, "cannot be called"),
        ({"expiration": 60}, "timedelta"),
        ({"validator": True}, "cannot be called"),
        ({"commit": "LATER"}, "use LAZY, EAGER, OFF"),
        ({"consumers": "some"}, "'any' or 'all'"),
        ({"target": ""}, "templated"),
    ],
)
def test_options_that_cannot_work_stop_the_decorator(options, words):
    """The message names the option and the remedy."""
    with pytest.raises(ConfigurationError, match=words) as caught:
        cached(**options)(lambda: None)
    assert next(iter(options)) in str(caught.value)


@pytest.mark.parametrize("thing", [3, object(), Counter])
def test_only_functions_can_be_decorated(thing):
    """A class or an object is refused at once."""
    with pytest.raises(ConfigurationError, match="is not a function"):
        cached(thing)


def test_a_function_that_returns_a_generator_is_left_alone(cache, events):
    """Its value cannot be stored; the caller gets it whole."""

    @cached
    def f() -> Iterator[int]:
        ran("f")
        return (n for n in range(3))

    assert list(f()) == [0, 1, 2]
    assert list(f()) == [0, 1, 2]
    assert times("f") == 2


def test_caches_nest(tmp_path, root):
    """The innermost one answers; the outer one is active again afterwards."""
    outer, inner = Cache(tmp_path / "a", root=root), Cache(tmp_path / "b", root=root)
    with outer:
        at_module_level(1)
        with inner:
            at_module_level(1)
        at_module_level(1)
    assert times("module") == 2


def test_a_cache_without_a_path_ends_with_its_block(root):
    """It starts empty each time, and leaves nothing behind."""
    for expected in (1, 2):
        with Cache(root=root) as cache:
            at_module_level(1), at_module_level(1)
            place = cache.engine.parts.local.directory
        assert times("module") == expected
        assert not place.exists()


def test_what_a_cache_offers(cache):
    """Statistics, a transaction, and clearing."""
    at_module_level(1), at_module_level(1)
    with cache.transaction():
        at_module_level(2)
    counts = cache.statistics()
    assert (counts.hits, counts.misses, counts.kept, counts.faults) == (1, 2, 2, 0)
    cache.clear()
    at_module_level(1)
    assert times("module") == 3


def test_a_cache_is_opened_once_at_a_time(cache):
    """Opening it again, or using it while closed, says what to do."""
    with pytest.raises(ConfigurationError, match="open already"), cache:
        pass
    with pytest.raises(ConfigurationError, match="use it as"):
        Cache().engine  # noqa: B018 # the access raises


@pytest.mark.parametrize(
    "arguments", [{"mode": "sometimes"}, {"isolation": "NONE"}, {"lock_manager": "nowhere"}]
)
def test_a_cache_refuses_settings_that_cannot_work(tmp_path, arguments):
    """When it is made or opened, by a named error."""
    with pytest.raises(ConfigurationError), Cache(tmp_path / "c", **arguments):
        pass


def test_consumers_of_a_function(cache):
    """Only a fixture of a wider scope has several; told at the first call, since a fixture is
    decorated as a function first."""

    @cached(consumers="all")
    def f():
        ran("f")

    with pytest.raises(ConfigurationError, match="a call of a function has one consumer"):
        f()
    assert times("f") == 0


@pytest.mark.parametrize("name", ["perf_counter", "monotonic", "time", "time_ns"])
def test_a_clock_that_a_test_replaces_is_the_tests_alone(cache, name):
    """What its replacement returns next is for the test's own calls."""

    @cached
    def slow(n):
        return n + 1

    with mock.patch(f"time.{name}", side_effect=[1, 3]):
        began = getattr(time, name)()
        assert slow(1) == 2
        assert getattr(time, name)() - began == 2
