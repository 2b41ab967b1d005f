"""Transactions: one fate for all that is computed inside, savepoints, modes and hooks."""

# ruff: noqa: PT012 # a transaction that fails is one in whose body several things happened

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from bodies import ran, times

from pytest_taskcache import (
    DEFAULT,
    CommitMode,
    ConfigurationError,
    MemoryLockManager,
    cached,
    get_transaction,
    transaction,
)
from pytest_taskcache.model.decision import Hit, Origin
from pytest_taskcache.model.event import Committed, Computed, Faulted, RolledBack
from pytest_taskcache.transactions.transaction import TransactionState, TransactionStateError


@cached
def value(name):
    ran(name)
    return [name]


class Failure(Exception):
    """What a body raises here."""


def is_stored(name: str) -> bool:
    """Whether a call is answered without its body. (Asking stores it if it was not.)"""
    before = times(name)
    value(name)
    return times(name) == before


def test_it_commits_on_exit(closed, events):
    """All that was computed inside is there for the next run."""
    with closed, transaction():
        value("a"), value("b")
    with closed:
        assert is_stored("a")
        assert is_stored("b")
    assert [event.entries for event in events.of(Committed)] == [2]


def test_it_rolls_back_on_an_exception(closed, events):
    """Which is let through; nothing that was computed inside is stored."""
    with closed, pytest.raises(Failure), transaction():
        value("a"), value("b")
        raise Failure
    with closed:
        assert not is_stored("a")
        assert not is_stored("b")
    assert [event.entries for event in events.of(RolledBack)] == [2]
    assert not events.of(Committed)


def test_reads_inside_see_what_is_staged(cache):
    """One key is computed once in a transaction."""
    with transaction():
        value("a")
        state = value.call("a")
    assert isinstance(state.decision, Hit)
    assert state.decision.origin is Origin.STAGED
    assert times("a") == 1


def test_a_savepoint_whose_failure_is_caught(closed):
    """The outer transaction lives on and commits its own; the inner's is gone."""
    with closed, transaction():
        value("before")
        with pytest.raises(Failure), transaction():
            value("inside")
            with transaction():
                value("deeper")
            raise Failure
        assert not is_stored("inside")
        value("after")
    with closed:
        assert is_stored("before")
        assert is_stored("after")
        assert is_stored("inside")
        assert not is_stored("deeper")


def test_a_failing_child_leaves_nothing_of_its_siblings(closed):
    """If its failure goes on outward, nothing at all commits."""
    with closed, pytest.raises(Failure), transaction():
        with transaction():
            value("sibling")
        with transaction():
            value("child")
            raise Failure
    with closed:
        assert not is_stored("sibling")
        assert not is_stored("child")


def test_lazy_children_commit_with_the_outermost(closed, cache_of_another_process):
    """Until then no other run sees them."""
    with closed:
        with transaction():
            with transaction():
                value("a")
            assert not cache_of_another_process("a")
        assert cache_of_another_process("a")


@pytest.fixture
def cache_of_another_process(closed, tmp_path, root):
    """``asks(name)`` says whether another run finds the value."""
    from pytest_taskcache import Cache

    def asks(name: str) -> bool:
        with Cache(tmp_path / "cache", root=root, mode="r"):
            return value.call(name).name == "Cached"

    return asks


def test_eager_children_commit_at_their_own_exit(closed, cache_of_another_process):
    """Whatever becomes of the outer one."""
    with closed, pytest.raises(Failure), transaction():
        value("outer")
        with transaction(CommitMode.EAGER):
            value("eager")
            assert not cache_of_another_process("eager")
        assert cache_of_another_process("eager")
        raise Failure
    with closed:
        assert is_stored("eager")
        assert not is_stored("outer")


def test_an_eager_child_commits_what_it_is_made_of(closed):
    """A value derived from the outer one's staged value takes that along."""

    @cached
    def derived():
        return [*value("source"), "derived"]

    with closed, pytest.raises(Failure), transaction():
        value("source")
        with transaction("eager"):
            derived()
        raise Failure
    with closed:
        assert derived.call().name == "Cached"
        assert is_stored("source")


def test_off_never_commits(closed, events):
    """Its values are seen inside, and rolled back at its exit."""
    with closed, transaction():
        with transaction("OFF") as inner:
            value("a"), value("a")
        assert inner.state is TransactionState.ROLLED_BACK
        assert not is_stored("a")
        assert times("a") == 2
    with closed, transaction("off"):
        value("b")
    with closed:
        assert not is_stored("b")


def test_a_function_that_never_commits(closed):
    """``commit="OFF"``: seen inside its transaction, by however many, and never stored."""

    @cached(commit=CommitMode.OFF)
    def f():
        ran("f")
        return 1

    @cached
    def consumer():
        ran("consumer")
        return f() + 1

    for expected in (1, 2):
        with closed, transaction():
            f(), f(), consumer(), f()
        assert times("f") == expected
        assert times("consumer") == 1
    with closed:
        f(), f()
    assert times("f") == 4


def test_a_function_that_commits_at_once(closed):
    """``commit="EAGER"``: stored although its transaction fails."""

    @cached(commit="EAGER")
    def f():
        ran("f")
        return 1

    with closed, pytest.raises(Failure), transaction():
        f()
        raise Failure
    with closed:
        f()
    assert times("f") == 1


def test_unknown_modes_are_refused():
    """By name, with those there are."""
    with pytest.raises(ConfigurationError, match="LAZY, EAGER, OFF"), transaction("later"):
        pass


# ------------------------------------------------------------------------------- hooks


def test_hooks_run_once_everything_is_visible(closed, cache_of_another_process):
    """In the order they were registered, with the transaction."""
    told = []
    with closed, transaction(label="mine") as outer:
        outer.on_commit(lambda t: told.append(("first", t.label, cache_of_another_process("a"))))
        with transaction() as inner:
            value("a")

            @inner.on_commit
            def second(t):
                told.append("second")

            inner.on_rollback(lambda t: told.append("never"))
        assert not told
    assert told == [("first", "mine", True), "second"]


def test_rollback_hooks_run_last_registered_first(cache):
    """Those of committed children too, since their values go with the outer one."""
    told = []
    with pytest.raises(Failure), transaction() as outer:
        outer.on_rollback(lambda t: told.append("first"))
        with transaction() as inner:
            inner.on_rollback(lambda t: told.append("second"))
            inner.on_commit(lambda t: told.append("never"))
        raise Failure
    assert told == ["second", "first"]


def test_a_savepoints_rollback_hooks_run_when_it_fails(cache):
    """And not again with the outer one."""
    told = []
    with transaction():
        with pytest.raises(Failure), transaction() as inner:
            inner.on_rollback(lambda t: told.append("inner"))
            raise Failure
        assert told == ["inner"]
    assert told == ["inner"]


def test_an_off_transaction_runs_its_rollback_hooks(cache):
    """Nothing of it is committed, so that is what happened."""
    told = []
    with transaction("OFF") as inner:
        inner.on_rollback(lambda t: told.append("rolled back"))
        inner.on_commit(lambda t: told.append("committed"))
    assert told == ["rolled back"]


def test_a_failing_hook_breaks_no_commit(closed, events):
    """It is reported; the hooks after it run, and the values are there."""
    told = []
    with closed, transaction() as outer:
        value("a")
        outer.on_commit(lambda t: 1 / 0)
        outer.on_commit(lambda t: told.append("after"))
    with closed:
        assert is_stored("a")
    assert told == ["after"]
    assert [event.reason for event in events.of(Faulted)] == ["commit hook failed"]
    assert "ZeroDivisionError" in events.of(Faulted)[0].detail


def test_hooks_without_an_active_cache(nothing_active, caplog):
    """They run all the same; a failing one is logged."""
    told = []
    with transaction() as outer:
        outer.on_commit(lambda t: 1 / 0)
        outer.on_commit(lambda t: told.append("committed"))
    with pytest.raises(Failure), transaction() as outer:
        outer.on_rollback(lambda t: told.append("rolled back"))
        raise Failure
    assert told == ["committed", "rolled back"]
    assert "ZeroDivisionError" in caplog.text


def test_hooks_of_a_function(cache):
    """They run when the transaction it was computed in ends, with it; on hits they do not."""
    told = []

    @cached
    def f(x):
        return x

    f.on_commit(lambda t: told.append(("commit", t.label)))
    f.on_rollback(lambda t: told.append(("rollback", t.label)))
    with pytest.raises(Failure), transaction(label="one"):
        f(1)
        raise Failure
    with transaction(label="two"):
        f(1)
    with transaction(label="three"):
        f(1)
    assert told == [("rollback", "one"), ("commit", "two")]


@pytest.mark.parametrize("eager", [False, True])
def test_hooks_of_a_function_that_commits_by_itself(cache, eager):
    """Without a transaction, or EAGER within one, at once."""
    told = []
    f = cached(commit="EAGER" if eager else "LAZY")(lambda: 1)
    f.on_commit(lambda t: told.append(t.state))
    if eager:
        with pytest.raises(Failure), transaction():
            f()
            assert told
            raise Failure
    else:
        f(), f()
    assert told == [TransactionState.COMMITTED]


def test_hooks_cannot_be_registered_too_late(cache):
    """A transaction that has ended says so."""
    with transaction() as outer:
        pass
    with pytest.raises(TransactionStateError, match="already committed"):
        outer.on_commit(print)


# ----------------------------------------------------------------- who is in it, and when


def test_the_innermost_open_transaction_is_current(cache):
    """None outside."""
    assert get_transaction() is None
    with transaction() as outer:
        with transaction() as inner:
            assert get_transaction() is inner
        assert get_transaction() is outer
    assert get_transaction() is None


def test_a_thread_sees_the_values_of_the_transaction_that_waits_for_it(cache):
    """It computes nothing again, and does not wait for the lock of a value that is there."""
    f = value.with_options(
        policy=DEFAULT.configure(isolation_level="SERIALIZABLE", lock_manager=MemoryLockManager())
    )
    with transaction(), ThreadPoolExecutor() as pool:
        f("a")
        assert pool.submit(f, "a").result(30) == ["a"]
    assert times("a") == 1


def test_what_a_thread_derives_commits_with_what_it_is_made_of(closed):
    """Outside of all transactions it commits at once, and its source with it."""

    @cached
    def derived():
        ran("derived")
        return value("source")

    with closed:
        with pytest.raises(Failure), transaction(), ThreadPoolExecutor() as pool:
            value("source")
            pool.submit(derived).result(30)
            raise Failure
        derived()
        assert is_stored("source")
    assert times("derived") == 1


def test_the_process_wide_transaction_reaches_threads(cache):
    """As that of a running test does."""
    from pytest_taskcache.engine.active import roll_back
    from pytest_taskcache.transactions.transaction import Transaction

    root = cache.engine.root = Transaction("test")
    with ThreadPoolExecutor() as pool:
        pool.submit(value, "a").result(30)
    roll_back(root, cache.engine)
    cache.engine.root = None
    assert not is_stored("a")


go, started = threading.Event(), threading.Event()


@cached
def slow():
    ran("slow")
    started.set()
    go.wait(30)
    return 1


def test_a_value_computed_after_its_transaction_ended_is_not_kept(cache, events):
    """By a thread that outlived it: there is nobody left to judge."""
    go.clear(), started.clear()
    from pytest_taskcache.engine.active import commit
    from pytest_taskcache.transactions.transaction import Transaction

    root = cache.engine.root = Transaction("test")
    with ThreadPoolExecutor() as pool:
        result = pool.submit(slow)
        started.wait(30)
        late = cache.engine.current
        cache.engine.current = lambda: root  # the thread asked just before the end
        commit(root, cache.engine)
        go.set()
        assert result.result(30) == 1
        cache.engine.current = late
    cache.engine.root = None
    assert [event.reason for event in events.of(Computed)] == ["its transaction had ended"]
    slow()
    assert times("slow") == 2


def test_a_transaction_left_in_another_context(cache):
    """As async generator fixtures are: ending it there works."""

    async def fixture():
        with transaction():
            value("a")
            yield

    async def use():
        generator = fixture()
        await asyncio.create_task(anext_of(generator))
        await asyncio.create_task(generator.aclose())

    async def anext_of(generator):
        await anext(generator)

    asyncio.run(use())
    assert get_transaction() is None


# -------------------------------------------------------------------------------- locks


def locked(manager):
    return value.with_options(
        policy=DEFAULT.configure(isolation_level="SERIALIZABLE", lock_manager=manager)
    )


def test_the_same_key_twice_does_not_deadlock(cache):
    """Not in one transaction, not in a nested one, and not where the value cannot be used."""
    f = locked(MemoryLockManager())
    never = f.with_options(validator=lambda context, record: False)
    with transaction():
        f("a"), f("a")
        with transaction():
            f("a"), never("a"), never("a")
    assert times("a") == 3


class Watched(MemoryLockManager):
    """Knows what is held."""

    @property
    def held(self):
        return sorted(self._held)


@pytest.mark.parametrize("how", ["commit", "rollback", "hit", "savepoint", "no transaction"])
def test_no_lock_is_left_behind(cache, how):
    """Whatever the end: also after a hit with an exception in the body of the transaction."""
    locks = Watched()
    f = locked(locks)
    if how == "hit":
        f("a")
    try:
        with transaction():
            if how != "no transaction":
                if how == "savepoint":
                    with pytest.raises(Failure), transaction():
                        f("a")
                        assert locks.held
                        raise Failure
                    assert not locks.held
                f("a")
                assert bool(locks.held) == (how != "hit")
            if how in ("rollback", "hit"):
                raise Failure
    except Failure:
        pass
    if how == "no transaction":
        f("a")
    assert not locks.held


def test_a_failing_computation_gives_its_lock_back(cache):
    """Others need not wait for what will not come."""
    locks = Watched()

    @cached(policy=DEFAULT.configure(isolation_level="SERIALIZABLE", lock_manager=locks))
    def f():
        raise Failure

    with transaction():
        with pytest.raises(Failure):
            f()
        assert not locks.held


def test_an_entry_whose_lock_was_lost_is_not_committed(closed, events):
    """Fencing: someone else may have computed the key since. The rest commits."""
    locks = Watched()
    f = locked(locks)
    with closed, transaction():
        f("lost"), value("kept")
        locks.close()
    with closed:
        assert is_stored("kept")
        f("lost")
    assert times("lost") == 2
    assert [event.reason for event in events.of(Faulted)] == ["lock lost before commit"]


def test_a_commit_that_fails_is_a_rollback(closed, events, monkeypatch):
    """Nothing is visible, the rollback hooks run, the locks go, and the program goes on."""
    from pytest_taskcache.errors import StorageError

    told, locks = [], Watched()

    def full(*args, **kwargs):
        raise StorageError("local", "settle", "disk full")

    with closed:
        with transaction() as outer:
            locked(locks)("a")
            outer.on_commit(lambda t: told.append("commit"))
            outer.on_rollback(lambda t: told.append("rollback"))
            with monkeypatch.context() as patched:
                patched.setattr(type(closed.engine.staging), "settle", full)
                from pytest_taskcache.engine.active import commit

                commit(outer, closed.engine)
        assert told == ["rollback"]
        assert not locks.held
        assert outer.state is TransactionState.ROLLED_BACK
        assert not is_stored("a")
    assert "settle failed: disk full" in {event.reason for event in events.of(Faulted)}


def test_a_savepoint_that_could_not_be_dropped_does_not_commit(closed, monkeypatch):
    """The outer commit drops it first."""
    from pytest_taskcache.errors import StorageError

    def full(*args, **kwargs):
        raise StorageError("local", "drop", "disk full")

    with closed, transaction():
        value("kept")
        with monkeypatch.context() as patched:
            patched.setattr(type(closed.engine.staging), "drop", full)
            with pytest.raises(Failure), transaction():
                value("dropped")
                raise Failure
    with closed:
        assert is_stored("kept")
        assert not is_stored("dropped")
