"""What a computation inherits from those it used, cold and warm alike."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from datetime import timedelta

import pytest
from bodies import ran, times

from pytest_taskcache import INPUTS, NO_CACHE, RUN_ID, Cache, all_inputs, cached, transaction
from pytest_taskcache.model.dependency import Kind
from pytest_taskcache.model.event import Computed

MODULE = """
    from bodies import ran
    from pathlib import Path
    from pytest_taskcache import *

    def helper():
        return 1

    @cached{options}
    def inner():
        ran("inner")
        return helper()

    @cached
    def outer():
        ran("outer")
        return inner() + 1
"""


@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
def test_a_consumer_inherits_the_trace(closed, load, warm):
    """An edit of what only the inner one used is a miss for the outer one too, also where the
    inner one was a hit when the outer one was computed."""
    source = MODULE.format(options="")
    module = load("nested", source)
    with closed:
        if warm:
            module.inner()
        module.outer(), module.outer()
    assert times("outer") == 1
    with closed:
        edited = load("nested", source.replace("return 1", "return 5"))
        state = edited.outer.call()
    assert str(state.decision) == "function changed: nested.py::helper"
    assert state.value == 6
    assert times("outer") == 2


EDITS = {
    "helper": ("return 1", "return 5"),
    "inner": ('ran("inner")', 'ran("inner"), 0'),
    "outer": ("+ 1", "+ 2"),
    "beside": ("def beside():\n    return 1", "def beside():\n    return 2"),
    "REGION": None,
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_cold_and_warm_consumers_rest_on_the_same(tmp_path, root, load, monkeypatch, edit):
    """What a consumer rests on does not depend on whether the inner one was a hit."""
    source = textwrap.dedent(MODULE.format(options="(policy=DEFAULT + ENV('REGION'))"))
    source += "\ndef beside():\n    return 1\n"
    monkeypatch.setenv("REGION", "north")
    for warm in (False, True):
        module = load("nested", source)
        with Cache(tmp_path / f"c{warm}", root=root):
            if warm:
                module.inner()
            module.outer()
    if edit is None:
        monkeypatch.setenv("REGION", "south")
    else:
        source = source.replace(*edit)
    reasons = []
    for warm in (False, True):
        module = load("nested", source)
        with Cache(tmp_path / f"c{warm}", root=root):
            reasons.append(str(module.outer.call().decision))
    same = edit is EDITS["beside"]
    assert [reason.startswith("reused") for reason in reasons] == [same, same], reasons
    assert same or reasons[0] == reasons[1]


@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
def test_a_consumer_inherits_declared_parts(cache, load, monkeypatch, warm):
    """ENV, FILES and the like of the inner policy count for the outer one."""
    module = load("nested", MODULE.format(options="(policy=INPUTS + TASK_SOURCE + ENV('REGION'))"))
    monkeypatch.setenv("REGION", "north")
    if warm:
        module.inner()
    module.outer(), module.outer()
    assert times("outer") == 1
    monkeypatch.setenv("REGION", "south")
    module.outer()
    assert (times("inner"), times("outer")) == (2, 2)


def test_a_consumer_inherits_all_of_several_declared_parts(cache, load, monkeypatch):
    """Of two inner ones, each with a variable of its own."""
    module = load(
        "nested",
        """
        from bodies import ran
        from pytest_taskcache import *

        @cached(policy=INPUTS + ENV("ONE"))
        def one():
            return 1

        @cached(policy=INPUTS + ENV("TWO"))
        def two():
            return 2

        @cached
        def outer():
            ran("outer")
            return one() + two()
        """,
    )
    module.one(), module.two()
    module.outer(), module.outer()
    for number, name in enumerate(["ONE", "TWO"], 2):
        monkeypatch.setenv(name, "changed")
        module.outer(), module.outer()
        assert times("outer") == number


@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
def test_a_consumer_expires_with_what_it_used(cache, warm):
    """The earliest expiry counts."""

    @cached(expiration=timedelta(hours=1))
    def inner():
        return 1

    @cached(expiration=timedelta(days=1))
    def outer():
        return inner()

    if warm:
        inner()
        first = inner.call().decision.variant.expires
    outer()
    expires = outer.call().decision.variant.expires
    assert expires == (first if warm else inner.call().decision.variant.expires)


@pytest.mark.parametrize(
    "options",
    [
        {"policy": INPUTS + RUN_ID},
        {"policy": NO_CACHE},
        {"validator": all_inputs},
        {"refresh": True},
    ],
    ids=["RUN_ID", "NO_CACHE", "validator", "refresh"],
)
@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
def test_what_cannot_be_told_later_taints(cache, events, options, warm):
    """A consumer of such a value is not cached this time; the reason is counted. One whose
    author vouches for it is."""

    @cached(**options)
    def inner():
        return 1

    @cached
    def outer():
        ran("outer")
        return inner()

    @cached(key="vouched")
    def vouched():
        ran("vouched")
        return inner()

    if warm:
        inner()
    outer(), outer()
    assert times("outer") == 2
    assert "depends on something uncached" in {event.reason for event in events.of(Computed)}
    vouched(), vouched()
    assert times("vouched") == 1


def test_a_taint_goes_through_a_hit_of_another(cache):
    """The consumer of a vouched consumer is not tainted: that one has a key of its own."""

    @cached(policy=NO_CACHE)
    def inner():
        return 1

    @cached(key="middle")
    def middle():
        return inner()

    @cached
    def outer():
        ran("outer")
        return middle()

    middle()
    outer(), outer()
    assert times("outer") == 1


@cached
def branch():
    return subprocess.run([sys.executable, "-c", "print(1)"], capture_output=True).stdout


def window_of(cache):
    """An open computation as a cached test has it."""
    engine = cache.engine
    return engine.open_computations.open(engine.parts.observation.open_window(None))


def closed_window(cache, opened):
    """What it saw."""
    return cache.engine.open_computations.close(opened)


@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
def test_opaque_deeds_of_a_kept_value_are_its_authors(cache, warm):
    """A test that uses a cached value does not inherit the child process it came from, on the
    run that computes it no more than on hits."""
    if warm:
        branch()
    frame = window_of(cache)
    branch()
    assert closed_window(cache, frame).opaque == ()


def test_opaque_deeds_of_ones_own_stay(cache):
    """Also where they are the same as those of a cached value used in between."""
    frame = window_of(cache)
    branch.__wrapped__()
    branch()
    assert {deed.kind for deed in closed_window(cache, frame).opaque} == {"subprocess"}


def test_opaque_deeds_of_a_value_that_is_not_kept_stay(cache):
    """Nobody answers for them: they will be done again."""

    @cached(policy=NO_CACHE)
    def f():
        return branch.__wrapped__()

    frame = window_of(cache)
    f()
    assert {deed.kind for deed in closed_window(cache, frame).opaque} == {"subprocess"}


def test_opaque_deeds_through_two_layers(cache):
    """The inner one's and the outer one's are both forgiven."""

    @cached
    def outer():
        branch.__wrapped__()
        return branch()

    frame = window_of(cache)
    outer()
    assert closed_window(cache, frame).opaque == ()


class Curious:
    """Reads a file when it is pickled, and when it is loaded."""

    path = "/etc/hostname"

    def __getstate__(self):
        with open(self.path) as file:
            file.read()
        return {"a": 1}

    def __setstate__(self, state):
        with open(self.path) as file:
            file.read()


@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
def test_the_caches_own_work_is_nobodys_dependency(cache, warm):
    """Serializing, loading, reading and writing storages."""

    @cached
    def f():
        return [Curious(), "x" * 100_000]

    if warm:
        f()
    frame = window_of(cache)
    with transaction():
        f()
    names = {(d.kind, d.name) for d in closed_window(cache, frame).trace.dependencies}
    paths = [name for kind, name in names if kind in (Kind.FILE, Kind.STAT, Kind.LISTING)]
    assert not paths


def test_a_module_first_imported_to_load_a_value_keeps_its_import(tmp_path, root, load):
    """What was read while it was imported counts for whoever uses it later."""
    data = root / "data.txt"
    data.write_text("1")
    os.utime(data, (1_600_000_000, 1_600_000_000))
    models = f"""
        with open({str(data)!r}) as file:
            TEXT = file.read()

        class Model:
            pass

        def text():
            return TEXT
    """
    load("models", models)
    main = """
        from bodies import ran
        from pytest_taskcache import *

        @cached(policy=INPUTS)
        def model():
            import models
            return models.Model()

        @cached
        def outer():
            ran("outer")
            model()
            import models
            return models.text()
    """
    place = tmp_path / "cache"
    with Cache(place, root=root):
        load("main", main).model()
    sys.modules.pop("models")
    module = load("main", main)
    with Cache(place, root=root):
        assert module.outer() == "1"
        assert module.outer() == "1"
    assert times("outer") == 1
    data.write_text("2")
    os.utime(data, (1_600_000_001, 1_600_000_001))
    load("models", models)
    with Cache(place, root=root):
        assert module.outer() == "2"
    assert times("outer") == 2


def test_recursion(cache):
    """A cached function that calls itself computes each call once."""
    assert fibonacci(20) == 6765
    assert times("fibonacci") == 21


@cached(policy=INPUTS)
def fibonacci(n):
    ran("fibonacci")
    return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)


def test_a_failing_inner_one_that_is_caught(cache, load):
    """What it rested on counts for the outer one all the same."""
    source = """
        from bodies import ran
        from pytest_taskcache import *

        def check():
            raise ValueError

        @cached
        def inner():
            check()
            return 1

        @cached
        def outer():
            ran("outer")
            try:
                return inner()
            except ValueError:
                return 0
    """
    module = load("caught", source)
    assert (module.outer(), module.outer()) == (0, 0)
    assert times("outer") == 1
    assert load("caught", source.replace("raise ValueError", "pass")).outer() == 1
