"""Prefect 3: "Configure task caching" — each example, with the outcome that its text states."""

from __future__ import annotations

import threading
import time

import pytest
from bodies import ran, times
from servers import redis_server

from pytest_taskcache import (
    INPUTS,
    RUN_ID,
    TASK_SOURCE,
    CacheKeyFnPolicy,
    IsolationLevel,
    MemoryLockManager,
    RedisLockManager,
    cached,
    transaction,
)

pydantic = pytest.importorskip("pydantic")


def test_separate_cache_key_storage_from_result_storage(closed, tmp_path):
    """ "Cache records will be stored in the specified directory while the persisted results will
    continue to be stored in" the default place."""
    policy = (TASK_SOURCE + INPUTS).configure(key_storage=str(tmp_path / "records"))

    @cached(policy=policy)
    def my_cached_task(x: int):
        ran("task")
        return [x + 42] * 5000

    for _ in range(2):
        with closed:
            assert my_cached_task(1) == [43] * 5000
            assert my_cached_task.call(1).name == "Cached"
    assert times("task") == 1
    assert (tmp_path / "records" / "index.sqlite3").exists()
    assert list((tmp_path / "cache" / "results").glob("*/*"))


def both(one, two, x):
    """Both tasks at once; what they returned."""
    got = {}
    ready = threading.Barrier(2)

    def run(name, task):
        ready.wait(30)
        got[name] = task(x)

    threads = [
        threading.Thread(target=run, args=("one", one)),
        threading.Thread(target=run, args=("two", two)),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return got


def two_tasks(policy):
    """``my_task_version_1`` and ``my_task_version_2``, which share a key."""

    @cached(policy=policy)
    def my_task_version_1(x: int):
        ran("version 1")
        time.sleep(0.1)
        return x + 42

    @cached(policy=policy)
    def my_task_version_2(x: int):
        ran("version 2")
        time.sleep(0.1)
        return x + 43

    return my_task_version_1, my_task_version_2


def test_read_committed_is_the_default(cache):
    """ "Both tasks will execute in parallel and perform work despite both tasks using the same
    cache key.\""""
    assert both(*two_tasks(INPUTS), 1) == {"one": 43, "two": 44}
    assert (times("version 1"), times("version 2")) == (1, 1)


def test_serializable(cache):
    """ "Only one of the tasks will run and the other will use the cached value.\""""
    policy = INPUTS.configure(
        isolation_level=IsolationLevel.SERIALIZABLE, lock_manager=MemoryLockManager()
    )
    got = both(*two_tasks(policy), 2)
    assert got["one"] == got["two"]
    assert times() == 1


def test_locking_in_a_distributed_setting(cache):
    """With a RedisLockManager, one computation for all who use the same server."""
    with redis_server() as server:
        manager = RedisLockManager(server.url)
        policy = (INPUTS + TASK_SOURCE).configure(
            isolation_level=IsolationLevel.SERIALIZABLE, lock_manager=manager
        )

        @cached(policy=policy)
        def my_cached_task(x: int):
            ran("task")
            time.sleep(0.1)
            return x + 42

        assert both(my_cached_task, my_cached_task, 1) == {"one": 43, "two": 43}
        assert times("task") == 1
        manager.close()


@cached(key_fn=lambda context, arguments: "static-key-1")
def load_data():
    ran("load_data")
    return "some-data"


@cached(key_fn=lambda context, arguments: "static-key-2")
def process_data(data, fail):
    ran("process_data")
    if fail:
        raise RuntimeError("Error! Abort!")
    return len(data)


def multi_task_cache(fail: bool = True):
    with transaction():
        data = load_data()
        process_data(data=data, fail=fail)


def test_coordinate_caching_across_multiple_tasks(closed):
    """ "load_data will not write a result to its cache key location until process_data succeeds as
    well. On a subsequent run with fail=False, both tasks will be re-executed and the results will
    be cached.\""""
    with closed, pytest.raises(RuntimeError, match="Error! Abort!"):
        multi_task_cache()
    assert (times("load_data"), times("process_data")) == (1, 1)
    with closed:
        multi_task_cache(fail=False)
    assert (times("load_data"), times("process_data")) == (2, 2)
    with closed:
        multi_task_cache(fail=False)
    assert (times("load_data"), times("process_data")) == (2, 2)


class NotSerializable:
    def __getstate__(self):
        raise TypeError("NooOoOOo! I will not be serialized!")


class ContainsNonSerializableObject(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(arbitrary_types_allowed=True)
    name: str
    bad_object: NotSerializable


class Serializable(ContainsNonSerializableObject):
    @pydantic.model_serializer
    def ser_model(self) -> dict:
        """Only serialize the name, not the problematic object"""
        return {"name": self.name}


def completed_then_cached(use_object, some_object, closed):
    """The flow of both examples: "Not cached!", then "Cached!"; RUN_ID ends with the run."""
    for expected in (1, 2):
        with closed:
            state = use_object.call(some_object)
            assert state.name == "Completed"
            other_state = use_object.call(some_object)
            assert other_state.name == "Cached"
            assert state.result() == other_state.result() == "Used test"
        assert times("use_object") == expected


def test_non_serializable_inputs_by_a_custom_key_function(closed):
    """It takes only what can be serialized into the key."""

    def custom_cache_key_fn(context, parameters) -> str:
        return parameters["some_object"].name

    @cached(policy=CacheKeyFnPolicy(cache_key_fn=custom_cache_key_fn) + RUN_ID)
    def use_object(some_object: ContainsNonSerializableObject) -> str:
        ran("use_object")
        return f"Used {some_object.name}"

    some_object = ContainsNonSerializableObject(name="test", bad_object=NotSerializable())
    completed_then_cached(use_object, some_object, closed)


def test_non_serializable_inputs_by_pydantics_custom_serialization(closed):
    """Its own serializer decides what counts."""

    @cached(policy=INPUTS + RUN_ID)
    def use_object(some_object: Serializable) -> str:
        ran("use_object")
        return f"Used {some_object.name}"

    some_object = Serializable(name="test", bad_object=NotSerializable())
    completed_then_cached(use_object, some_object, closed)


def test_without_either_it_runs_each_time(cache):
    """The problem that the two examples solve: it is named, and the task runs."""

    @cached(policy=INPUTS + RUN_ID)
    def use_object(some_object) -> str:
        ran("use_object")
        return f"Used {some_object.name}"

    some_object = ContainsNonSerializableObject(name="test", bad_object=NotSerializable())
    assert use_object(some_object) == "Used test"
    state = use_object.call(some_object)
    assert state.name == "Completed"
    assert "bad_object" in str(state.decision)
    assert times("use_object") == 2
