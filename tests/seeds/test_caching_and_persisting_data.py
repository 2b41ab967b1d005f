"""Prefect 0.x: "Caching and Persisting Data" — input and output caching, targets, checkpointing."""

from __future__ import annotations

import datetime

import pytest
from bodies import ran, times
from projects import Project

from pytest_taskcache import Cache, all_inputs, all_parameters, cached, duration_only
from pytest_taskcache.engine.computation import Place

EPOCH = 1_700_000_000.0


def at(cache, seconds):
    """Sets the clock."""
    cache.engine.clock = lambda: EPOCH + seconds


def test_output_is_cached_for_a_time(cache):
    """``cache_for``: "this task will be cached for 1 hour", and the default validator is
    ``duration_only``."""

    @cached(expiration=datetime.timedelta(hours=1), validator=duration_only)
    def task_1():
        ran("task_1")

    for seconds, expected in [(0, 1), (3599, 1), (3601, 2), (3602, 2)]:
        at(cache, seconds)
        task_1()
        assert times("task_1") == expected


def test_output_is_cached_for_a_time_and_the_same_parameters(cache):
    """ "Cached for 1 hour, but only if the flow is run with the same parameters": here those of
    the running test."""

    @cached(expiration=datetime.timedelta(hours=1), validator=all_parameters)
    def task_2():
        ran("task_2")

    for seconds, n, expected in [(0, 1, 1), (10, 1, 1), (20, 2, 2), (30, 1, 2), (4000, 1, 3)]:
        at(cache, seconds)
        cache.engine.place = Place("test", parameters={"n": n})
        task_2()
        assert times("task_2") == expected


def test_output_is_invalidated_if_the_task_receives_different_inputs(cache):
    """``all_inputs``, with a shared key."""

    @cached(key="shared", validator=all_inputs)
    def task(x):
        ran("task")
        return x

    assert [task(1), task(1), task(2)] == [1, 1, 2]
    assert times("task") == 2


def test_a_key_shares_the_cache_between_tasks_and_runs(closed):
    """``cache_key`` "allows different Tasks as well as different Flows to share a common
    cache"."""

    @cached(key="common")
    def one():
        ran("one")
        return "the value"

    @cached(key="common")
    def other():
        ran("other")
        return "never computed"

    with closed:
        one()
    with closed:
        assert other() == "the value"
    assert times("other") == 0


def test_checkpointing(closed, tmp_path, root):
    """With it "every time a task is successfully run, its return value is written to persistent
    storage"; globally turned off, nothing is."""

    @cached(result_storage=tmp_path / "prefect")
    def func_task():
        ran("func_task")
        return 99

    with Cache(tmp_path / "cache", root=root, mode="off"):
        func_task(), func_task()
    assert times("func_task") == 2
    assert not (tmp_path / "prefect").exists()
    with closed:
        assert func_task() == 99
    with closed:
        assert func_task() == 99
    assert times("func_task") == 3


def test_checkpointing_of_one_task(cache):
    """``checkpoint=False``: this one is not written."""

    @cached(persist=False)
    def func_task():
        ran("func_task")
        return 99

    assert (func_task(), func_task()) == (99, 99)
    assert times("func_task") == 2


def test_a_method_is_a_task_too(cache):
    """The custom Task class with a ``run``."""

    class MyTask:
        @cached
        def run(self):
            ran("run")
            return 42

    assert (MyTask().run(), MyTask().run()) == (42, 42)
    assert times("run") == 1


def test_a_target_file(closed, tmp_path):
    """ "It will first check to see if" there is "a file matching the name of the target, and if so,
    will enter a Cached state with the data from the target file". If not, "the output of the task
    will be written to the target location"."""

    @cached(target="func_task_target.txt", serializer="json")
    def func_task():
        ran("func_task")
        return 99

    file = tmp_path / "cache" / "targets" / "func_task_target.txt"
    with closed:
        assert func_task.call().name == "Completed"
        assert file.exists()
        assert func_task.call().name == "Cached"
    with closed:
        assert func_task() == 99
        file.write_text(file.read_text().replace("99", "98"))
        assert func_task() == 98
        file.unlink()
        assert func_task() == 99
    assert times("func_task") == 2


def test_a_target_in_a_result_directory_of_its_own(closed, tmp_path):
    """``result=LocalResult(dir=...)`` with ``target="{date:%A}/{task_name}.txt"``: the target is
    in that directory, and a run that finds it there is in a Cached state."""

    @cached(result_storage=str(tmp_path / "results"), target="{date:%A}/{task_name}.txt")
    def func_task():
        ran("func_task")
        return 99

    for _ in range(2):
        with closed as cache:
            at(cache, 0)
            assert func_task() == 99
            assert func_task.call().name == "Cached"
    (file,) = (tmp_path / "results" / "targets").glob("*day/*func_task.txt")
    assert times("func_task") == 1
    file.unlink()
    with closed as cache:
        at(cache, 0)
        assert func_task() == 99
    assert times("func_task") == 2


def test_a_templated_target(cache, tmp_path):
    """``{date:%A}/{task_name}.txt`` "will store data based on the day of the week"."""

    @cached(target="{date:%A}/{task_name}.txt")
    def func_task():
        ran("func_task")
        return 99

    for day in (0, 0, 1, 7):
        at(cache, day * 86400)
        func_task()
    days = {path.name for path in (tmp_path / "cache" / "targets").iterdir()}
    assert len(days) == 2
    assert days <= {"Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"}
    assert times("func_task") == 2


@pytest.mark.parametrize("keeps", [True, False])
def test_input_caching(project: Project, keeps):
    """ "When a task fails and needs to be retried", "the critical information is deserialized and
    used": ``retry_inputs`` keeps what a failed test had computed for its retry; without it, the
    retry computes it again."""
    project.write(
        "test_retry.py",
        f"""
        from counter import count
        from pytest_taskcache import cached

        @cached(retry_inputs={keeps})
        def inputs():
            count("inputs")
            return 1

        def test_it():
            assert inputs() == 1
            count("test")
            with open(__file__ + ".passes", "a+") as file:
                file.seek(0)
                passes = file.read()
                file.write("x")
            assert passes
        """,
    )
    assert project.run("--reruns", "1").parseoutcomes() == {"passed": 1, "rerun": 1}
    assert project.counted("test") == 2
    assert project.counted("inputs") == (1 if keeps else 2)
    project.run().assert_outcomes(passed=1)
    assert project.counted("inputs") == (1 if keeps else 2)
