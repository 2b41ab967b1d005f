"""Isolation: who waits for whom, for how long, and what never happens twice."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from bodies import ran, times

from pytest_taskcache import (
    DEFAULT,
    INPUTS,
    Cache,
    CachePolicy,
    ConfigurationError,
    FileLockManager,
    LockError,
    MemoryLockManager,
    cached,
    transaction,
)
from pytest_taskcache.model.event import Faulted, Waited
from pytest_taskcache.ports import Holder, Lease


@cached(policy=INPUTS)
def slow(x):
    ran("slow")
    time.sleep(0.05)
    return [x]


def serializable(manager=None, **more):
    policy = INPUTS.configure(isolation_level="SERIALIZABLE", lock_manager=manager)
    return slow.with_options(policy=policy, **more)


def together(count, call):
    """The results of so many threads that start at once."""
    barrier = threading.Barrier(count)

    def run():
        barrier.wait(30)
        return call()

    with ThreadPoolExecutor(count) as pool:
        futures = [pool.submit(run) for _ in range(count)]
        return [future.result(60) for future in futures]


def test_read_committed_computes_at_once(cache):
    """Nobody waits, everybody has the right value."""
    assert together(2, lambda: slow(1)) == [[1], [1]]
    assert times("slow") == 2


@pytest.mark.parametrize("kind", ["memory", "file", "by name", "by path"])
def test_serializable_computes_once(cache, tmp_path, kind):
    """The others wait and then use its value."""
    manager = {
        "memory": MemoryLockManager(),
        "file": FileLockManager(tmp_path / "locks"),
        "by name": "file",
        "by path": tmp_path / "other",
    }[kind]
    f = serializable(manager)
    assert together(6, lambda: f(1)) == [[1]] * 6
    assert times("slow") == 1


def test_a_cache_may_be_serializable_as_a_whole(tmp_path, root):
    """``Cache(isolation="serializable")``, with file locks of its own."""
    with Cache(tmp_path / "c", root=root, isolation="serializable"):
        assert together(4, lambda: slow(1)) == [[1]] * 4
    assert times("slow") == 1


def test_in_transactions_too(cache):
    """The lock is held until the commit, and the value is seen before it."""
    f = serializable(MemoryLockManager())

    def call():
        with transaction():
            return f(1)

    assert together(6, call) == [[1]] * 6
    assert times("slow") == 1


def test_when_the_first_one_fails_the_next_one_computes(cache):
    """Nobody uses what was never made, and nobody waits for ever."""
    failed = threading.Event()

    def body(x):
        ran("body")
        time.sleep(0.02)
        if times("body") == 1:
            failed.set()
            raise OSError("first")
        return x

    f = cached(key="k", policy=serializable(MemoryLockManager()).__taskcache__.options.policy)(body)

    def call():
        try:
            return f(1)
        except OSError:
            return "failed"

    assert sorted(map(str, together(5, call))) == ["1"] * 4 + ["failed"]
    assert times("body") == 2


def test_serializable_without_a_lock_manager_is_an_error(cache):
    """That names the setting and the remedy, before anything runs."""
    cache.engine.parts.__dict__["lock_manager"] = None
    with pytest.raises(ConfigurationError, match=r"isolation_level.*configure\(lock_manager="):
        serializable()(1)
    cache.engine.parts.__dict__["isolation"] = "SERIALIZABLE"
    with pytest.raises(ConfigurationError, match="needs a lock manager"):
        slow(1)
    assert not times()


# ----------------------------------------------------------------------- other runs


class Elsewhere:
    """A lock held by another run, which is older or younger than this one."""

    def __init__(self, cache, older=False):
        started = cache.engine.run.started + (-60 if older else 60)
        self.holder = Holder("other-run", started, "99@elsewhere", "99@elsewhere#1", "test_other")
        self.manager = MemoryLockManager()

    def take(self, key):
        lease = self.manager.acquire(key, self.holder)
        assert isinstance(lease, Lease)
        return lease


def key_of(f, *args):
    state = f.call(*args)
    assert state.name == "Cached"
    return state.decision.variant.key


@pytest.mark.parametrize("older", [False, True])
def test_waiting_for_another_run(cache, events, older):
    """It is told whom for and, in the end, for how long; then the value that the other has
    committed is used."""
    slow(1)
    key = key_of(slow, 1)
    other = Elsewhere(cache, older)
    f = serializable(other.manager)
    variants = cache.engine.parts.local.read_records([key])[key]
    cache.engine.parts.local.remove_records([variant.id for variant in variants])
    lease = other.take(key)

    def commit():
        cache.engine.parts.local.write_records(variants)
        other.manager.release(lease)

    timer = threading.Timer(1.3, commit)
    timer.start()
    assert f(1) == [1]
    timer.join()
    assert times("slow") == 1
    begun, ended = events.of(Waited)
    assert (begun.done, ended.done) == (False, True)
    assert begun.holder == "test_other (99@elsewhere)"
    assert ended.seconds >= begun.seconds


def test_looking_again_after_the_wait(cache):
    """What was committed between the look-up and the lock is used, though nobody waited."""
    slow(1)
    key = key_of(slow, 1)
    local = cache.engine.parts.local
    variants = local.read_records([key])[key]
    local.remove_records([variant.id for variant in variants])

    class Sudden(MemoryLockManager):
        def acquire(self, key, holder):
            local.write_records(variants)
            return super().acquire(key, holder)

    manager = Sudden()
    assert serializable(manager)(1) == [1]
    assert times("slow") == 1
    assert not manager._held


def test_a_bounded_wait_computes_unlocked_and_says_so(cache, events):
    """Nothing ever hangs."""
    slow(1)
    other = Elsewhere(cache)
    other.take(key_of(slow, 1))
    cache.clear()
    cache.engine.locks.longest = 0.2
    assert serializable(other.manager)(1) == [1]
    assert times("slow") == 2
    (fault,) = events.of(Faulted)
    assert fault.reason == "waited too long, computed unlocked"
    assert "test_other (99@elsewhere)" in fault.detail


def test_a_policys_own_bound(cache, events):
    """``lock_timeout``, instead of the ten minutes."""
    slow(1)
    other = Elsewhere(cache)
    other.take(key_of(slow, 1))
    cache.clear()
    policy = INPUTS.configure(
        isolation_level="SERIALIZABLE",
        lock_manager=other.manager,
        lock_timeout=timedelta(seconds=0.1),
    )
    assert slow.with_options(policy=policy)(1) == [1]
    assert times("slow") == 2
    assert [fault.reason for fault in events.of(Faulted)] == ["waited too long, computed unlocked"]


@pytest.mark.parametrize("timeout", [timedelta(0), 5, "1s"])
def test_a_bound_that_is_no_time(timeout):
    """Is refused where it is written."""
    with pytest.raises(ConfigurationError, match=r"lock_timeout.*give a positive timedelta"):
        CachePolicy(lock_timeout=timeout)


def test_the_bound_grows_with_the_last_duration():
    """Three times as long as it took last, but ten minutes at least."""
    from pytest_taskcache.engine.wait_policy import patience

    assert patience(1.0) == 600.0
    assert patience(1000.0) == 3000.0


@pytest.mark.parametrize(("older", "waits"), [(True, False), (False, True)])
def test_wait_die(cache, events, older, waits):
    """A run that holds uncommitted keys does not wait for an older run: it computes unlocked at
    once. For a younger one it waits."""
    slow(1)
    other = Elsewhere(cache, older)
    lease = other.take(key_of(slow, 1))
    cache.clear()
    f = serializable(other.manager)
    timer = threading.Timer(0.3, other.manager.release, [lease])
    with transaction():
        f(2)
        timer.start()
        f(1)
        was_free = not timer.is_alive()
    timer.join()
    assert was_free == waits
    assert times("slow") == 3


def test_without_uncommitted_keys_it_waits_for_an_older_run(cache):
    """Who holds nothing cannot be part of a deadlock."""
    slow(1)
    other = Elsewhere(cache, older=True)
    lease = other.take(key_of(slow, 1))
    cache.clear()
    timer = threading.Timer(0.2, other.manager.release, [lease])
    timer.start()
    serializable(other.manager)(1)
    assert not timer.is_alive()
    timer.join()


def test_a_dead_holder_holds_nothing(cache, tmp_path):
    """A process that was killed with the lock is found dead, and the value computed."""
    import subprocess
    import sys

    slow(1)
    key = key_of(slow, 1)
    cache.clear()
    script = f"""
import os, signal
from pathlib import Path
from pytest_taskcache import FileLockManager
from pytest_taskcache.ports import Holder
manager = FileLockManager(Path({str(tmp_path / "locks")!r}))
print(manager.acquire({key!r}, Holder("dead", 1.0, f"{{os.getpid()}}@x", "1")), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "Lease" in done.stdout
    cache.engine.locks.longest = 20
    assert serializable(FileLockManager(tmp_path / "locks"))(1) == [1]
    assert times("slow") == 2


def test_refreshing_does_not_wait_for_its_own_run(cache):
    """It would not use what it waits for."""
    f = serializable(MemoryLockManager())
    with transaction():
        f(1)
        assert f.with_options(refresh=True)(1) == [1]
        assert f(1) == [1]
    assert times("slow") == 2


class Broken(MemoryLockManager):
    """Fails at what it is told to."""

    def __init__(self, *methods, error=None):
        super().__init__()
        self.methods, self.error = methods, error or LockError("broken locks", "no connection")

    def acquire(self, key, holder):
        if "acquire" in self.methods:
            raise self.error
        return super().acquire(key, holder)

    def release(self, lease):
        if "release" in self.methods:
            raise self.error
        super().release(lease)

    def confirm(self, lease):
        if "confirm" in self.methods:
            raise self.error
        return super().confirm(lease)


@pytest.mark.parametrize("error", [None, RuntimeError("a bug")], ids=["LockError", "any error"])
@pytest.mark.parametrize(
    ("method", "reason"),
    [
        ("acquire", "lock manager failed"),
        ("release", "lock not released"),
        ("confirm", "lock not confirmed"),
    ],
)
def test_a_failing_lock_manager_costs_the_lock_not_the_call(cache, events, method, reason, error):
    """The computation goes on unlocked, and the fault is counted."""
    f = serializable(Broken(method, error=error))
    with transaction():
        assert f(1) == [1]
    assert reason in {event.reason for event in events.of(Faulted)}


def test_eight_threads_hundred_rounds(cache):
    """One computation each, in every round."""
    f = cached(policy=serializable(MemoryLockManager()).__taskcache__.options.policy)(quick)
    barrier = threading.Barrier(8)

    def run():
        for number in range(100):
            barrier.wait(30)
            assert f(number) == [number] * 50

    with ThreadPoolExecutor(8) as pool:
        for future in [pool.submit(run) for _ in range(8)]:
            future.result(120)
    assert times("quick") == 100


def quick(x):
    ran("quick")
    return [x] * 50


def test_a_thread_that_dies_waiting_leaves_no_lock(cache):
    """An exception in a wait (an interrupt) leaves all locks to their holders."""
    slow(1)
    other = Elsewhere(cache)
    other.take(key_of(slow, 1))
    cache.clear()
    computation = serializable(other.manager).__taskcache__.computation(cache.engine, (1,), {})
    steps = cache.engine.steps(computation, blocks=True)
    next(steps)
    with pytest.raises(KeyboardInterrupt):
        steps.throw(KeyboardInterrupt())
    assert next(iter(other.manager._held.values())).holder is other.holder
    assert not cache.engine.locks._taken


def test_a_look_up_that_is_interrupted_under_the_lock_gives_it_back(cache, monkeypatch):
    """The second look, right after the lock was taken."""
    manager = MemoryLockManager()
    looks = []
    look_up = type(cache.engine.lookup).look_up

    def interrupted(self, *args, **kwargs):
        looks.append(1)
        if len(looks) == 2:
            raise KeyboardInterrupt
        return look_up(self, *args, **kwargs)

    monkeypatch.setattr(type(cache.engine.lookup), "look_up", interrupted)
    with pytest.raises(KeyboardInterrupt):
        serializable(manager)(1)
    assert not manager._held


def test_default_of_a_cache_is_read_committed():
    """Locks are taken only where they are asked for."""
    assert DEFAULT.isolation_level is None
    assert Cache()._settings.isolation == "READ_COMMITTED"
