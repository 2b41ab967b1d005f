"""What others change while a computation is under way is not its own doing: a generator's
consumer, another task, another thread."""

from __future__ import annotations

import asyncio
import threading
from unittest import mock

import pytest
from bodies import ran, times

from pytest_taskcache import DEFAULT, cached
from pytest_taskcache.model.event import Computed

CALLS = """
    import asyncio, os, threading
    from pathlib import Path
    from bodies import ran
    from pytest_taskcache import cached
    import lib

    HERE = Path(__file__).parent

    def look():
        ran("look")
        path = HERE / "d.txt"
        text = path.read_text() if path.exists() else "none"
        listing = sorted(each.name for each in HERE.glob("d/*"))
        return [text, os.environ.get("OTHERS"), lib.rate(), listing]

    @cached
    def items():
        yield "start"
        yield look()
        yield "end"

    @cached
    async def later(name="x"):
        await asyncio.sleep(0)
        found = look()
        await asyncio.sleep(0)
        return found

    @cached
    async def stream():
        yield "start"
        await asyncio.sleep(0)
        yield look()

    @cached
    def waiting(go, done):
        go()
        done()
        return look()

    def work(name):
        path = HERE / f"{name}.txt"
        thread = threading.Thread(target=path.write_text, args=[name])
        thread.start()
        thread.join()
        return path.read_text()

    @cached
    def alone(name):
        ran("alone")
        return work(name)

    @cached
    async def together(name):
        ran("together")
        await asyncio.sleep(0)
        (HERE / "made").mkdir(exist_ok=True)
        await asyncio.gather(asyncio.to_thread(work, name), asyncio.sleep(0))
        await asyncio.sleep(0)
        return work(name) + (HERE / f"{name}.txt").read_text()
"""


@pytest.fixture
def calls(load, root):
    (root / "d").mkdir()
    load("lib", "RATE = 1\ndef rate():\n    return RATE\n")
    return load("calls", CALLS)


def file(calls):
    (calls.HERE / "d.txt").write_text("A")


def renamed(calls):
    (calls.HERE / "e.txt").write_text("A")
    (calls.HERE / "e.txt").rename(calls.HERE / "d.txt")


def entry(calls):
    (calls.HERE / "d" / "new").write_text("")


def variable(calls):
    calls.os.environ["OTHERS"] = "1"


def assigned(calls):
    calls.lib.RATE = 2


def patched(calls):
    patch = mock.patch.object(calls.lib, "RATE", 2)
    patch.start()


CHANGES = [file, renamed, entry, variable, assigned, patched]


@pytest.fixture
def undo(calls):
    """Makes all as it was, as what did it would."""

    def undo():
        mock.patch.stopall()
        calls.lib.RATE = 1
        calls.os.environ.pop("OTHERS", None)
        for path in (calls.HERE / "d.txt", calls.HERE / "d" / "new"):
            path.unlink(missing_ok=True)

    yield undo
    undo()


def refused(events):
    [one] = events.of(Computed)
    assert not one.staged
    assert one.reason == "changed while it ran"
    assert "changed by others" in one.detail
    return True


@pytest.mark.parametrize("change", CHANGES)
def test_a_consumer_between_two_items(cache, events, calls, undo, change):
    """It is not kept, so that who asks later does not get it."""
    generator = calls.items()
    next(generator)
    change(calls)
    changed = next(generator)
    undo()
    assert list(generator) == ["end"]
    assert changed != ["none", None, 1, []]
    assert refused(events)
    assert list(calls.items()) == ["start", ["none", None, 1, []], "end"]


@pytest.mark.parametrize("change", CHANGES)
def test_another_task(cache, events, calls, undo, change):
    """While a coroutine sleeps."""

    async def others():
        change(calls)
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    async def use():
        return (await asyncio.gather(calls.later(), others()))[0]

    changed = asyncio.run(use())
    undo()
    assert changed != ["none", None, 1, []]
    assert refused(events)
    assert asyncio.run(calls.later()) == ["none", None, 1, []]


def test_who_asks_for_the_items_of_an_asynchronous_generator(cache, events, calls, undo):
    """As with a plain one."""

    async def use(change):
        return [change(calls) if item == "start" else item async for item in calls.stream()]

    assert asyncio.run(use(file))[1] == ["A", None, 1, []]
    assert refused(events)


@pytest.mark.parametrize("change", [file, renamed, entry, variable])
def test_another_thread(cache, events, calls, undo, change):
    """One that ran before, or that somebody else started meanwhile."""
    go, done = threading.Event(), threading.Event()

    def work():
        go.wait(30)
        thread = threading.Thread(target=change, args=[calls])
        thread.start()
        thread.join()
        done.set()

    thread = threading.Thread(target=work)
    thread.start()
    calls.waiting.with_options(policy=DEFAULT - "go" - "done")(go.set, done.wait)
    thread.join()
    assert refused(events)


def test_what_was_read_before_others_changed_it(cache, events, calls, undo):
    """It may be reading still."""
    file(calls)
    generator = calls.items()
    next(generator), next(generator)
    (calls.HERE / "d.txt").write_text("B")
    list(generator)
    assert refused(events)


def test_what_it_does_itself_is_its_own(cache, calls):
    """In its tasks and threads, too, many at once; and what others do that it does not read."""
    names = ["a", "b", "c"]

    async def use():
        return await asyncio.gather(*map(calls.together, names))

    for _ in range(2):
        assert asyncio.run(use()) == ["aa", "bb", "cc"]
    assert times("together") == 3
    assert [calls.alone("d") for _ in range(2)] == ["d", "d"]
    assert times("alone") == 1


def test_what_a_consumer_does_for_itself_does_not_matter(cache, calls, root):
    """It writes, and reads again, what the generator never looks at."""

    @cached
    def numbers():
        ran("numbers")
        yield 1
        yield (root / "d").exists()

    for _ in range(2):
        for number in numbers():
            path = root / f"{number}.txt"
            path.write_text("own")
            assert path.read_text() == "own"
            calls.os.environ["OTHERS"] = str(number)
            assert calls.os.environ["OTHERS"] == str(number)
    assert times("numbers") == 1
    del calls.os.environ["OTHERS"]
