"""Async functions and async generators, alone and racing in one event loop."""

from __future__ import annotations

import asyncio
import inspect

import anyio
import pytest
from bodies import ran, times

from pytest_taskcache import DEFAULT, MemoryLockManager, cached, transaction
from pytest_taskcache.model.event import Computed


@cached
async def fetch(x):
    ran("fetch")
    await asyncio.sleep(0)
    return [x]


def test_an_async_function_is_computed_once(cache):
    """And stays an async function."""
    assert inspect.iscoroutinefunction(fetch)

    async def use():
        assert await fetch(1) == [1]
        (await fetch(1)).append(2)
        return await fetch(1), (await fetch.call(1)).name

    assert asyncio.run(use()) == ([1], "Cached")
    assert times("fetch") == 1


def test_outside_a_cache_it_just_runs(nothing_active):
    """Functions and generators alike."""
    assert asyncio.run(fetch(1)) == [1]
    assert asyncio.run(fetch(1)) == [1]
    assert asyncio.run(collect(stream(2))) == [[0], [1]]
    assert times("fetch") == 2


def test_exceptions_and_cancellation_are_not_cached(cache):
    """A cancelled computation leaves no lock behind."""

    @cached(policy=serializable())
    async def slow():
        ran("slow")
        if times("slow") == 1:
            await asyncio.sleep(60)
        return 1

    async def use():
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(slow(), 0.05)
        return await asyncio.wait_for(slow(), 30)

    assert asyncio.run(use()) == 1
    assert times("slow") == 2


def serializable():
    return DEFAULT.configure(isolation_level="SERIALIZABLE", lock_manager=MemoryLockManager())


@pytest.mark.parametrize("inside", [False, True], ids=["alone", "in a transaction"])
def test_tasks_racing_in_one_loop_compute_once(cache, inside):
    """Under SERIALIZABLE the others wait without blocking the loop."""

    @cached(policy=serializable())
    async def slow(x):
        ran("slow")
        await asyncio.sleep(0.05)
        return [x]

    async def use():
        if not inside:
            return await asyncio.gather(*(slow(1) for _ in range(8)))
        with transaction():
            return await asyncio.gather(*(slow(1) for _ in range(8)))

    assert asyncio.run(asyncio.wait_for(use(), 60)) == [[1]] * 8
    assert times("slow") == 1


def test_read_committed_tasks_each_compute(cache):
    """Several may compute at once, and all get the right value."""

    @cached(policy=DEFAULT.configure(isolation_level="READ_COMMITTED"))
    async def slow():
        ran("slow")
        await asyncio.sleep(0.02)
        return 1

    async def use():
        return await asyncio.gather(slow(), slow())

    assert asyncio.run(use()) == [1, 1]
    assert times("slow") == 2


def test_a_blocking_caller_does_not_wait_for_its_own_loop(cache):
    """A plain function that wants what a task of the same thread computes would wait for ever:
    it computes unlocked."""
    locks = MemoryLockManager()
    policy = DEFAULT.configure(isolation_level="SERIALIZABLE", lock_manager=locks)

    @cached(policy=policy, key="shared")
    async def slow():
        await asyncio.sleep(0.05)
        return 1

    @cached(policy=policy, key="shared")
    def plain():
        ran("plain")
        return 1

    async def use():
        task = asyncio.create_task(slow())
        await asyncio.sleep(0.01)
        return plain(), await task

    assert asyncio.run(use()) == (1, 1)
    assert times("plain") == 1


def test_a_waiting_task_that_is_cancelled_leaves_the_lock_alone(cache):
    """The one that computes goes on, and its value is used."""

    @cached(policy=serializable())
    async def slow():
        ran("slow")
        await asyncio.sleep(0.1)
        return 1

    async def use():
        first = asyncio.create_task(slow())
        await asyncio.sleep(0.01)
        second = asyncio.create_task(slow())
        await asyncio.sleep(0.02)
        second.cancel()
        return await first, await slow()

    assert asyncio.run(use()) == (1, 1)
    assert times("slow") == 1


def test_under_another_event_loop(cache):
    """trio or anyio: it works, waits block."""

    @cached(policy=serializable())
    async def f():
        ran("f")
        await anyio.sleep(0)
        return 1

    async def use():
        return await f(), await f()

    assert anyio.run(use) == (1, 1)
    assert times("f") == 1


def test_nested_transactions_belong_to_their_task(cache):
    """A transaction of one task is not that of another that runs meanwhile."""

    @cached
    async def f(x):
        ran(x)
        return x

    async def failing():
        with transaction():
            await f("a")
            await asyncio.sleep(0.02)
            raise OSError

    async def passing():
        with transaction():
            await f("b")
            await asyncio.sleep(0.04)

    async def use():
        await asyncio.gather(failing(), passing(), return_exceptions=True)
        await f("a"), await f("b")

    asyncio.run(use())
    assert times("a") == 2
    assert times("b") == 1


@cached
async def stream(n):
    ran("stream")
    try:
        for number in range(n):
            await asyncio.sleep(0)
            yield [number]
    finally:
        ran("cleanup")


async def collect(generator):
    return [item async for item in generator]


def test_an_async_generator_is_stored_once_it_is_exhausted(cache):
    """Items that its consumer changes are stored as they were produced."""
    assert inspect.isasyncgenfunction(stream)

    async def use():
        async for item in stream(2):
            item.append("spoiled")
        return await collect(stream(2)), await collect(stream(0)), await collect(stream(0))

    assert asyncio.run(use()) == ([[0], [1]], [], [])
    assert times("stream") == 2


def test_an_async_generator_closed_early_cleans_up_at_once(cache):
    """And is not kept."""

    async def use():
        generator = stream(3)
        assert await anext(generator) == [0]
        await generator.aclose()
        assert times("cleanup") == 1
        return await collect(stream(3))

    assert asyncio.run(use()) == [[0], [1], [2]]
    assert times("stream") == 2


@cached
async def echo():
    ran("echo")
    got = "start"
    while got is not None:
        try:
            got = yield got
        except KeyError as error:
            got = f"caught {error.args[0]}"


async def talk(generator):
    said = [await anext(generator), await generator.asend("a"), await generator.athrow(KeyError(1))]
    await generator.aclose()
    return said


def test_sending_into_an_async_generator(cache, events):
    """What is sent arrives and is not kept; into a stored one it gives what a live one would."""

    async def use():
        assert await talk(echo()) == ["start", "a", "caught 1"]
        assert await collect(echo()) == ["start"]
        assert await collect(echo()) == ["start"]
        assert times("echo") == 2
        return await talk(echo())

    assert asyncio.run(use()) == ["start", "a", "caught 1"]
    assert len([event for event in events.of(Computed) if event.staged]) == 1


def test_call_of_an_async_generator(cache):
    """The list of its items, with the decision."""

    async def use():
        first = await stream.call(2)
        return first, await stream.call(2)

    first, second = asyncio.run(use())
    assert (first.value, first.name) == ([[0], [1]], "Completed")
    assert (second.value, second.name) == ([[0], [1]], "Cached")


def test_an_async_generator_that_raises_is_not_kept(cache):
    """Its error arrives."""

    @cached
    async def items():
        ran("items")
        yield 1
        raise OSError("gone")

    async def use():
        for _ in range(2):
            with pytest.raises(OSError, match="gone"):
                await collect(items())

    asyncio.run(use())
    assert times("items") == 2
