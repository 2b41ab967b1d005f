"""A conversation about sharing results between workers (Prefect 3): its example and its notes."""

from __future__ import annotations

import subprocess
import sys
from datetime import timedelta

import pytest
from bodies import ran, times

from pytest_taskcache import (
    Cache,
    CachePolicy,
    CompressedPickleSerializer,
    IsolationLevel,
    cached,
    task_input_hash,
)

WORKER = """
import sys
from datetime import timedelta
from pathlib import Path
from pytest_taskcache import Cache, CachePolicy, CompressedPickleSerializer, cached, task_input_hash

here, count = Path(sys.argv[1]), Path(sys.argv[2])
key_store, result_store = here / "cache-keys", here / "results"
serializer = CompressedPickleSerializer()

@cached(
    key_fn=task_input_hash,
    expiration=timedelta(days=7),
    policy=CachePolicy(key_storage=key_store),
    result_storage=result_store,
    serializer=serializer,
)
def expensive(x: int, y: int) -> int:
    print("doing actual work...")
    return x + y

with Cache():
    a = expensive(3, 4)
    b = expensive(3, 4)
    print(a, b)
"""


def test_any_worker_that_can_reach_the_stores_skips_identical_work(tmp_path):
    """The second call is skipped, in the same process and in another one whose own cache is
    empty."""
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    outputs = [
        subprocess.run(
            [sys.executable, str(script), str(tmp_path / "shared"), str(tmp_path / "count")],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for _ in range(2)
    ]
    assert outputs == ["doing actual work...\n7 7\n", "7 7\n"]


def expensive(x: int, y: int) -> int:
    ran("expensive")
    return x + y


def shared(tmp_path, **more):
    options = {
        "key_fn": task_input_hash,
        "expiration": timedelta(days=7),
        "policy": CachePolicy(key_storage=tmp_path / "keys"),
        "result_storage": tmp_path / "results",
        "serializer": CompressedPickleSerializer(),
    }
    return cached(**(options | more))(expensive)


def test_task_input_hash_tells_inputs_apart(tmp_path, root):
    """ "Identical args produce the same key", and others another."""
    f = shared(tmp_path)
    with Cache(root=root):
        assert [f(3, 4), f(3, y=4), f(4, 3), f(4, 4)] == [7, 7, 7, 8]
    assert times("expensive") == 3


def test_expiration_controls_the_time_to_live(tmp_path, root):
    """ "Set cache_expiration to control TTL.\""""
    f = shared(tmp_path)
    with Cache(root=root) as cache:
        f(3, 4)
        now = cache.engine.clock()
        cache.engine.clock = lambda: now + 6 * 86400
        f(3, 4)
        assert times("expensive") == 1
        cache.engine.clock = lambda: now + 8 * 86400
        f(3, 4)
        assert times("expensive") == 2


def test_refresh_forces_a_recompute(tmp_path, root):
    """ "Set refresh_cache=True on the task to force recompute.\""""
    with Cache(root=root):
        shared(tmp_path)(3, 4)
        shared(tmp_path, refresh=True)(3, 4)
        shared(tmp_path)(3, 4)
    assert times("expensive") == 2


def test_the_serializer_compresses(tmp_path, root):
    """CompressedPickleSerializer is "robust for arbitrary Python objects"."""

    @cached(
        policy=CachePolicy(key_storage=tmp_path / "keys"),
        key="long",
        serializer=CompressedPickleSerializer(),
    )
    def long():
        return ["x" * 1_000_000, {"any": object}]

    with Cache(root=root):
        long()
        value, decision = long.call()
    assert value == ["x" * 1_000_000, {"any": object}]
    result = decision.variant.result
    assert result.size < 20_000
    assert result.serializer.startswith("compressed(")


@pytest.mark.parametrize("level", ["SERIALIZABLE", "serializable", IsolationLevel.SERIALIZABLE])
def test_isolation_levels_may_be_strings(level):
    """``CachePolicy(isolation_level="SERIALIZABLE")``."""
    assert CachePolicy(isolation_level=level).isolation_level is IsolationLevel.SERIALIZABLE


def test_key_and_result_store_may_be_one(tmp_path, root):
    """A "shared mount" that holds both."""
    place = tmp_path / "mount"
    f = shared(tmp_path, policy=CachePolicy(key_storage=place), result_storage=place)
    for _ in range(2):
        with Cache(root=root):
            assert f(3, 4) == 7
    assert times("expensive") == 1
