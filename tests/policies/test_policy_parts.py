"""What each policy puts into a key: changing it means another entry, changing it back the first."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
from bodies import ran, times

from pytest_taskcache import (
    DEFAULT,
    ENV,
    FILES,
    INPUTS,
    NO_CACHE,
    PACKAGES,
    PYTHON,
    RUN_ID,
    TEST_PARAMETERS,
    CacheKeyFnPolicy,
    Hit,
    Miss,
    Uncacheable,
    cached,
    task_input_hash,
)
from pytest_taskcache.engine.computation import Place


def test_inputs_are_the_bound_arguments_with_defaults(cache):
    """``f(1)``, ``f(x=1)`` and ``f(1, y=2)`` with the default 2 are one call."""

    @cached(policy=INPUTS)
    def f(x, y=2, *rest, z=3, **more):
        ran("f")
        return x

    f(1), f(x=1), f(1, 2), f(1, y=2), f(1, 2, z=3)
    assert times("f") == 1
    f(1, 2, 3), f(1, z=4), f(1, other=5), f(2)
    assert times("f") == 5


def test_an_input_that_is_left_out_does_not_count(cache):
    """``INPUTS - "connection"`` shares entries whatever the connection is, digestable or not."""

    @cached(policy=INPUTS - "connection")
    def f(x, connection):
        ran("f")
        return x

    f(1, object()), f(1, (n for n in "ab")), f(1, None)
    assert times("f") == 1
    f(2, None)
    assert times("f") == 2


def test_run_id_shares_within_a_run_and_not_beyond(closed):
    """A value under RUN_ID is computed once per opening of the cache."""

    @cached(policy=INPUTS + RUN_ID)
    def f(x):
        ran("f")
        return x

    for expected in (1, 2):
        with closed:
            f(1), f(1)
        assert times("f") == expected


def test_no_cache_always_computes(cache):
    """And its decision says why."""

    @cached(policy=NO_CACHE)
    def f(x):
        ran("f")
        return x

    f(1)
    assert isinstance(f.call(1).decision, Uncacheable)
    assert times("f") == 2


def ladder(call: Callable[[], object], change: Callable[[], object], back: Callable[[], object]):
    """Run; cached; change it; not cached; cached again; change it back: cached."""
    call(), call()
    assert times() == 1
    change()
    call(), call()
    assert times() == 2
    back()
    call()
    assert times() == 2


def test_env_counts_by_value_and_absence(cache, monkeypatch):
    """A declared variable that appears, or changes, means another entry."""
    monkeypatch.delenv("REGION", raising=False)

    @cached(policy=INPUTS + ENV("REGION"))
    def f():
        ran("f")

    ladder(f, lambda: monkeypatch.setenv("REGION", "north"), lambda: monkeypatch.delenv("REGION"))
    monkeypatch.setenv("REGION", "south")
    f()
    assert times() == 3


def test_files_count_by_name_and_content(cache, root):
    """A declared pattern covers files that change, appear and vanish, at any depth."""
    (root / "data" / "deep").mkdir(parents=True)
    rates = root / "data" / "deep" / "rates.csv"
    rates.write_text("1")

    @cached(policy=INPUTS + FILES("data/**/*.csv"))
    def f():
        ran("f")

    ladder(f, lambda: rates.write_text("2"), lambda: rates.write_text("1"))
    (root / "data" / "new.csv").write_text("")
    f()
    assert times() == 3
    (root / "data" / "new.csv").unlink()
    (root / "data" / "other.txt").write_text("")
    f()
    assert times() == 3


def test_files_of_a_directory_count_where_it_is_named(cache, root):
    """``FILES("data")`` rests on what is below ``data``, as its author meant, and not on a name."""
    (root / "data" / "deep").mkdir(parents=True)
    rates = root / "data" / "deep" / "rates.csv"
    rates.write_text("1")

    @cached(policy=INPUTS + FILES("data"))
    def f():
        ran("f")

    ladder(f, lambda: rates.write_text("2"), lambda: rates.write_text("1"))


def test_packages_and_python_are_there(cache):
    """Installed versions and the interpreter can be declared; an absent package too."""

    @cached(policy=INPUTS + PACKAGES("xxhash", "no-such-thing") + PYTHON)
    def f():
        ran("f")

    f()
    key = f.call().decision.variant.parts
    assert {part.name for part in key} >= {
        "distribution xxhash",
        "distribution no-such-thing",
        "interpreter python",
    }
    assert times() == 1


def test_test_parameters_are_those_of_the_running_test(cache):
    """They count by value, whatever the inputs are."""

    @cached(policy=TEST_PARAMETERS)
    def f():
        ran("f")

    def parameters(**values):
        cache.engine.place = Place("test", parameters=values)

    ladder(f, lambda: parameters(n=1), lambda: parameters())


def test_task_source_follows_the_function(cache, load):
    """An edit of the body is a miss; a comment or a blank line is not."""
    source = """
        from bodies import ran
        from pytest_taskcache import cached, TASK_SOURCE, INPUTS

        @cached(policy=TASK_SOURCE + INPUTS)
        def f(x):
            ran("f")
            return x + 1
    """
    load("task", source).f(1)
    load("task", source.replace("return", "# a remark\n\n            return")).f(1)
    assert times() == 1
    assert load("task", source.replace("+ 1", "+ 2")).f(1) == 3
    assert times() == 2


BODY = """
    from bodies import ran
    from pytest_taskcache import *

    @cached{options}
    def f(x):
        ran(__name__)
        return __name__
"""


@pytest.mark.parametrize(
    ("options", "shared"),
    [
        ("", False),
        ("(policy=TASK_SOURCE + INPUTS)", False),
        ("(policy=INPUTS + ENV('TZ'))", False),
        ("(policy=RUN_ID)", False),
        ("(policy=INPUTS)", True),
        ("(policy=INPUTS - 'x')", True),
        ("(key='static')", True),
        ("(key_fn=lambda context, arguments: 'static')", True),
        ("(policy=CacheKeyFnPolicy(lambda context, arguments: 'static') + RUN_ID)", True),
        ("(key_fn=task_input_hash)", False),
        ("(target='value.pkl')", True),
    ],
)
def test_which_policies_share_entries_between_functions(cache, load, options, shared):
    """Two functions with equal bodies in two files share an entry only where the key leaves out
    who they are: under INPUTS alone, a key, a key function, a target."""
    source = BODY.format(options=options)
    assert load("first", source).f(1) == "first"
    assert load("second", source).f(1) == ("first" if shared else "second")
    assert times("second") == (0 if shared else 1)


def test_decorated_functions_of_two_files_do_not_share(cache, load):
    """A decorator of a third file does not make two functions one."""
    load("tools", "import functools\ndef kept(f):\n    return functools.wraps(f)(lambda x: f(x))\n")
    source = BODY.format(options="\n    @tools.kept").replace(
        "from bodies", "import tools\n    from bodies"
    )
    assert load("first", source).f(1) == "first"
    assert load("second", source).f(1) == "second"


def test_key_function_gets_context_and_arguments(cache):
    """It may use the task's name and the test's; None means: not this time."""
    seen = []

    def key(context, arguments):
        seen.append((context.task_name.rpartition(".")[2], dict(arguments)))
        return None if arguments["x"] < 0 else f"x={arguments['x'] % 10}"

    @cached(policy=CacheKeyFnPolicy(key))
    def f(x, y=0):
        ran("f")
        return x

    assert f(1) == 1
    assert f(11, 5) == 1
    assert seen[0] == ("f", {"x": 1, "y": 0})
    f(-1)
    assert isinstance(f.call(-1).decision, Uncacheable)
    assert times() == 3


def test_two_key_functions_cannot_change_places(cache):
    """Whose text it is counts: ("a", "b") and ("b", "a") are two keys."""

    @cached(
        policy=CacheKeyFnPolicy(lambda context, arguments: arguments["x"])
        + CacheKeyFnPolicy(lambda context, arguments: arguments["y"])
    )
    def f(x, y):
        ran("f")
        return x, y

    assert f("a", "b") == ("a", "b")
    assert f("b", "a") == ("b", "a")
    assert f("a", "b") == ("a", "b")
    assert times() == 2


def test_a_key_function_that_holds_separators_does_not_forge_parts(cache):
    """Texts may hold any character and still stand for themselves alone."""
    texts = iter(["a\0schema\x011", "a", "a\x01"])

    @cached(key_fn=lambda context, arguments: next(texts))
    def f():
        ran("f")

    f(), f(), f()
    assert times() == 3


def test_a_failing_key_function_costs_the_entry_not_the_call(cache, events):
    """The value is computed; the fault is told and is not called a miss."""

    @cached(key_fn=lambda context, arguments: 1 / 0)
    def f(x):
        return x

    state = f.call(1)
    assert state.value == 1
    assert not isinstance(state.decision, Hit | Miss)
    assert "ZeroDivisionError" in str(state.decision)


def test_task_input_hash_separates_functions_and_inputs(cache):
    """As Prefect's: source and inputs."""

    @cached(key_fn=task_input_hash)
    def f(x):
        ran("f")
        return x

    f(1), f(1), f(2)
    assert times() == 2


def test_the_default_policy_names_itself():
    """DEFAULT is source, inputs and everything observed."""
    assert repr(DEFAULT) == "INPUTS + OBSERVED + TASK_SOURCE"


def test_form_of_the_value_is_part_of_a_shared_key(cache):
    """A generator and a function that name one key do not get each other's values."""

    @cached(key="shared")
    def plain():
        return 1

    @cached(key="shared")
    def items():
        yield 2

    assert plain() == 1
    assert list(items()) == [2]
    assert plain() == 1
    assert list(items()) == [2]


def test_key_and_target_of_one_name_are_two_keys(cache):
    """``key="a"`` and ``target="a"`` have nothing in common."""

    @cached(key="target:a")
    def by_key():
        return "key"

    @cached(target="a")
    def by_target():
        return "target"

    assert by_key() == "key"
    assert by_target() == "target"
    assert os.listdir(cache._path / "targets") == ["a"]
