"""Transactions by hand: idempotent blocks, data for hooks, commit and rollback before the end."""

# ruff: noqa: PT012 # a transaction that fails is one in whose body several things happened

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import threading
import time

import pytest
from bodies import ran, times

from pytest_taskcache import (
    Cache,
    CommitMode,
    ConfigurationError,
    IsolationLevel,
    MemoryLockManager,
    TransactionError,
    TransactionStateError,
    cached,
    get_transaction,
    transaction,
)
from pytest_taskcache.model.event import Faulted


@cached
def value(name):
    ran(name)
    return [name]


def is_stored(name: str) -> bool:
    """Whether a call is answered without its body. (Asking stores it if it was not.)"""
    before = times(name)
    value(name)
    return times(name) == before


def block(key: str = "block", **options: object) -> object:
    """An idempotent block, as its author writes it."""
    with transaction(key=key, **options) as txn:
        if not txn.is_committed():
            ran(key)
            txn.stage({"rows": [1, 2]})
        return txn.read()


def test_an_idempotent_block_runs_once(closed):
    """In this run and the next; each read gives a value of its own."""
    with closed:
        first = block()
        first["rows"].append(3)
        assert block() == {"rows": [1, 2]}
    with closed:
        assert block() == {"rows": [1, 2]}
    assert times("block") == 1


def test_a_block_that_fails_stores_nothing(closed):
    """Neither its own value nor what was computed in it."""
    with closed, pytest.raises(OSError, match="late"), transaction(key="block") as txn:
        txn.stage(1)
        value("inside")
        raise OSError("late")
    with closed:
        assert block() == {"rows": [1, 2]}
        assert not is_stored("inside")


def test_what_a_block_stages_commits_with_the_transaction_around_it(closed):
    """A savepoint like any other."""
    with closed, pytest.raises(OSError, match="late"), transaction():
        block()
        assert block() == {"rows": [1, 2]}  # read inside
        raise OSError("late")
    assert times("block") == 1
    with closed:
        block()
    assert times("block") == 2


def test_the_key_is_shared_with_functions(cache):
    """As all keys that are named outright."""

    @cached(key="shared")
    def function():
        ran("function")
        return "of the function"

    function()
    with transaction(key="shared") as txn:
        assert txn.is_committed()
        assert txn.read() == "of the function"


def test_overwrite_begins_as_if_there_were_no_record(closed):
    """And what it stages is found from then on."""
    with closed:
        block()
        with transaction(key="block", overwrite=True) as txn:
            assert not txn.is_committed()
            txn.stage("new")
    with closed, transaction(key="block") as txn:
        assert txn.read() == "new"


def test_without_an_active_cache_a_block_just_runs(nothing_active):
    """Nothing is stored, and it reads what it staged."""
    assert block() == {"rows": [1, 2]}
    assert block() == {"rows": [1, 2]}
    assert times("block") == 2


def test_data_reaches_hooks_and_nested_transactions(cache):
    """Each hook is called with the transaction it was registered on."""
    told = []
    with transaction() as outer:
        outer.set("path", "/somewhere")
        with transaction() as inner:
            inner.set("n", 1)
            inner.on_commit(lambda t: told.append((t.get("path"), t.get("n"))))
            assert inner.get("path") == "/somewhere"
        with pytest.raises(TransactionError, match="nothing was set under 'n', only 'path'"):
            outer.get("n")
        assert outer.get("n", None) is None
    assert told == [("/somewhere", 1)]


def test_the_hook_of_a_handed_over_savepoint_sees_that_it_was_rolled_back(cache):
    """Though by itself it had ended well."""
    told = []
    with pytest.raises(OSError, match="late"), transaction():
        with transaction() as inner:
            inner.set("n", 1)
            inner.on_rollback(lambda t: told.append((t.get("n"), t.is_rolled_back())))
        raise OSError("late")
    assert told == [(1, True)]


@pytest.mark.parametrize("mode", list(CommitMode))
def test_a_commit_by_hand(closed, mode):
    """The only way in which OFF commits; what comes later is none of its business."""
    told = []
    with closed:
        with transaction(mode, key="block") as txn:
            txn.on_commit(lambda t: told.append("committed"))
            value("before"), txn.stage(1)
            txn.commit()
            assert told == ["committed"]
            assert txn.is_committed()
            assert not txn.is_active()
            value("after")
        assert get_transaction() is None
    with closed:
        assert is_stored("before")
        assert is_stored("after")
        with transaction(key="block") as again:
            assert again.read() == 1
    assert told == ["committed"]


def test_off_commits_nothing_by_itself(closed):
    """Its value either."""
    with closed, transaction("OFF", key="block") as txn:
        txn.stage(1)
    assert txn.is_rolled_back()
    with closed, transaction(key="block") as txn:
        assert not txn.is_committed()


def test_a_rollback_by_hand(closed):
    """The block goes on; nothing of it is stored, its rollback hooks have run."""
    told = []
    with closed:
        with transaction(key="block") as txn:
            txn.on_rollback(lambda t: told.append("rolled back"))
            value("before"), txn.stage(1)
            txn.rollback()
            assert told == ["rolled back"]
        assert not txn.is_committed()
    with closed:
        assert not is_stored("before")
        with transaction(key="block") as txn:
            assert not txn.is_committed()
    assert told == ["rolled back"]


@pytest.mark.parametrize(
    ("ended", "again", "how"),
    [
        ("commit", "commit", "committed"),
        ("rollback", "commit", "rolled back"),
        ("commit", "rollback", "committed"),
        ("rollback", "rollback", "rolled back"),
    ],
)
def test_ending_twice(cache, ended, again, how):
    """A named error; what the first end did holds."""
    with transaction() as txn:
        getattr(txn, ended)()
        with pytest.raises(TransactionStateError, match=f"already {how}; open a new one"):
            getattr(txn, again)()
    assert txn.is_committed() == (how == "committed")


@pytest.mark.parametrize("where", ["thread", "task"])
@pytest.mark.parametrize("how", ["commit", "rollback"])
def test_ending_elsewhere(closed, where, how):
    """In another thread or task than it began in: refused, and it goes on."""
    told = []

    def end(txn):
        try:
            getattr(txn, how)()
        except TransactionError as error:
            told.append(str(error))

    async def in_tasks():
        async def end_it(txn):
            end(txn)

        async with transaction() as txn:
            value("inside")
            await asyncio.create_task(end_it(txn))

    with closed:
        if where == "task":
            asyncio.run(in_tasks())
        else:
            with transaction() as txn:
                value("inside")
                thread = threading.Thread(target=end, args=(txn,))
                thread.start()
                thread.join()
        assert told == [
            "this transaction was opened in another thread or task; end it where it began"
        ]
    with closed:
        assert is_stored("inside")


def test_a_tests_transaction_is_not_ended_by_hand(cache):
    """Pytest ends it."""
    from pytest_taskcache.transactions.transaction import Transaction

    cache.engine.root = Transaction("test")
    txn = get_transaction()
    for use in (txn.commit, txn.rollback, txn.read, lambda: txn.stage(1)):
        with pytest.raises(TransactionError, match="open one of your own with transaction"):
            use()
    cache.engine.root = None


@pytest.mark.parametrize("key", [1, "", b"x", ["a"]])
def test_a_key_that_is_no_text(key):
    """Refused where it is written."""
    with pytest.raises(ConfigurationError, match=r"key: .* is no name; give a non-empty string"):
        transaction(key=key)


def test_settings_of_a_key_without_one():
    """They would do nothing."""
    for settings in (
        {"isolation_level": "SERIALIZABLE"},
        {"lock_manager": MemoryLockManager()},
        {"overwrite": True},
        {"serializer": "json"},
    ):
        with pytest.raises(ConfigurationError, match="give key= too"):
            transaction(**settings)


def test_reading_and_staging_out_of_order(cache):
    """Named errors with the remedy; the block goes on and stores what is right."""
    with transaction() as keyless:
        with pytest.raises(TransactionError, match=r"read\(\): this transaction has no key"):
            keyless.read()
        with pytest.raises(TransactionError, match=r"stage\(\): this transaction has no key"):
            keyless.stage(1)
    with transaction(key="block") as txn:
        with pytest.raises(TransactionError, match="the key 'block' has no value yet"):
            txn.read()
        txn.stage(1)
        assert txn.is_staged()
        with pytest.raises(TransactionError, match="a value of 'block' is staged already"):
            txn.stage(2)
    with pytest.raises(TransactionStateError, match="already committed"):
        txn.stage(3)
    with transaction(key="block") as txn:
        assert txn.read() == 1
        with pytest.raises(TransactionError, match=r"has a value already; ask txn.is_committed"):
            txn.stage(2)


def test_a_value_that_cannot_be_stored(closed, events):
    """The block goes on with it, and the next run computes it again."""
    with closed, transaction(key="block") as txn:
        generator = (n for n in range(3))
        txn.stage(generator)
        assert txn.read() is generator
    with closed, transaction(key="block") as txn:
        assert not txn.is_committed()


def test_a_block_is_entered_once():
    """Each call of transaction() makes one."""
    once = transaction()
    with once:
        pass
    with pytest.raises(TransactionError, match=r"call transaction\(\) for each"), once:
        pass


def test_serializable_holds_its_lock_until_the_end(cache):
    """Of several threads one computes; the others wait for its commit, and read."""
    locks = MemoryLockManager()
    held, read = threading.Event(), []

    def first():
        with transaction(
            key="block", isolation_level=IsolationLevel.SERIALIZABLE, lock_manager=locks
        ) as txn:
            ran("block")
            held.set()
            time.sleep(0.05)
            txn.stage("first")

    def second():
        held.wait(10)
        with transaction(key="block", isolation_level="SERIALIZABLE", lock_manager=locks) as txn:
            if not txn.is_committed():
                ran("block")
                txn.stage("second")
            read.append(txn.read())

    threads = [threading.Thread(target=first), threading.Thread(target=second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert read == ["first"]
    assert times("block") == 1
    # and it was given back
    assert block("block", isolation_level="SERIALIZABLE", lock_manager=locks) == "first"


def test_async_transactions(closed):
    """Enter, exit, keys and hooks, plain and asynchronous ones, those of functions included."""
    told = []

    async def hook(txn):
        await asyncio.sleep(0)
        told.append(("async", txn.get("n")))

    @cached
    async def function():
        ran("function")
        return 1

    @function.on_commit
    async def done(txn):
        await asyncio.sleep(0)
        told.append("function")

    async def work():
        async with transaction(key="block") as txn:
            txn.set("n", 1)
            txn.on_commit(hook)
            txn.on_commit(lambda t: told.append("plain"))
            await function()
            if not txn.is_committed():
                txn.stage(7)
            assert told == []
            return txn.read()

    with closed:
        assert asyncio.run(work()) == 7
    assert sorted(map(str, told)) == ["('async', 1)", "function", "plain"]
    with closed, transaction(key="block") as txn:
        assert txn.read() == 7


def test_async_hooks_of_a_plain_transaction(cache, events):
    """Awaited where no event loop runs; inside one the remedy is named, and the commit stands."""
    told = []

    async def hook(txn):
        told.append("awaited")

    with transaction() as txn:
        txn.on_commit(hook)
    assert told == ["awaited"]

    async def inside():
        with transaction() as txn:
            txn.on_commit(hook)
            value("inside")

    asyncio.run(inside())
    assert told == ["awaited"]
    (fault,) = events.of(Faulted)
    assert fault.reason == "commit hook failed"
    assert "async with" in fault.detail
    assert is_stored("inside")


def test_a_failing_async_hook_breaks_no_commit(closed, events):
    """It is reported like any other."""

    async def hook(txn):
        raise ValueError("no")

    async def work():
        async with transaction(key="block") as txn:
            txn.on_commit(hook)
            txn.stage(1)

    with closed:
        asyncio.run(work())
        assert [fault.reason for fault in events.of(Faulted)] == ["commit hook failed"]
        with transaction(key="block") as txn:
            assert txn.is_committed()


KILLED = """
import sys
from pytest_taskcache import Cache, cached, transaction

@cached(key_fn=lambda context, arguments: f"part {arguments['n']}")
def part(n):
    return n

with Cache(sys.argv[1]):
    with transaction("OFF", key="whole") as txn:
        for n in range(20):
            part(n)
        txn.stage(list(range(20)))
        if sys.argv[2] == "staged":
            print("ready", flush=True)
            sys.stdin.read()
        txn.commit()
        print("ready", flush=True)
        sys.stdin.read()
"""


@cached(key_fn=lambda context, arguments: f"part {arguments['n']}")
def part(n):
    return "computed here"


@pytest.mark.parametrize("moment", ["staged", "committed"])
def test_killed_inside_a_transaction_by_hand(tmp_path, moment):
    """All or nothing: its own value and all that was computed in it."""
    script, directory = tmp_path / "killed.py", tmp_path / "cache"
    script.write_text(KILLED)
    with subprocess.Popen(
        [sys.executable, str(script), str(directory), moment],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGKILL)
    with Cache(directory):
        found = [part.call(n).name == "Cached" for n in range(20)]
        with transaction(key="whole") as txn:
            found.append(txn.is_committed())
    assert set(found) == {moment == "committed"}
