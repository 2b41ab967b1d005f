"""What has no digest is refused with the place it sits at, and left exactly as it was."""

from __future__ import annotations

import asyncio
import contextvars
import io
import itertools
import pickle
import queue
import socket
import sqlite3
import subprocess
import threading
import weakref
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any
from unittest import mock

import digest_world as world
import numpy as np
import pytest
import rpds

from pytest_taskcache.digests.values.digest import digest_arguments, digest_value
from pytest_taskcache.errors import UndigestableError


def refused(value: object, path: str = "rows") -> UndigestableError:
    with pytest.raises(UndigestableError) as caught:
        digest_value(value, path=path)
    return caught.value


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(":memory:")) as connection:
        yield connection


def numbers() -> Iterator[int]:
    yield from range(3)


ITERATORS = [
    numbers,
    lambda: iter([0, 1, 2]),
    lambda: iter((0, 1, 2)),
    lambda: iter({0: 1, 1: 1, 2: 1}),
    lambda: iter("012"),
    lambda: map(int, "012"),
    lambda: filter(None, [0, 1, 2]),
    lambda: zip([0, 1, 2], strict=True),
    lambda: enumerate("abc"),
    lambda: reversed([0, 1, 2]),
    lambda: itertools.chain([0, 1], [2]),
    lambda: itertools.count(),
    lambda: itertools.islice([0, 1, 2], 3),
    lambda: itertools.tee([0, 1, 2])[0],
    lambda: (i for i in range(3)),
]


@pytest.mark.parametrize("make", ITERATORS)
def test_iterators_are_refused_and_not_advanced(make: Any) -> None:
    """The function under the cache still gets every item, wherever the iterator sat."""
    for place in (
        lambda it: it,
        lambda it: [it],
        lambda it: {"k": (it, {1})},
        lambda it: world.Trade("a", notes=it),
        lambda it: np.array([it, 1], object),
    ):
        iterator = make()
        error = refused(place(iterator))
        assert "iterator" in error.reason
        assert list(itertools.islice(iterator, 3)) == list(itertools.islice(make(), 3))


def test_open_files_are_refused_and_not_read(tmp_path: Path) -> None:
    """A file handle stays at its position."""
    target = tmp_path / "f.txt"
    target.write_text("abc\ndef\n")
    with target.open() as text, target.open("rb") as binary:
        text.readline()
        assert refused([text]).path == "rows[0]"
        assert refused([binary]).type_name == "_io.BufferedReader"
        assert (text.readline(), binary.tell()) == ("def\n", 0)
    for stream in (io.BytesIO(b"abc"), io.StringIO("abc")):
        refused(stream)
        assert stream.tell() == 0


async def coroutine() -> None: ...


async def agenerator() -> Any:
    yield 1


def test_live_objects_are_refused_by_the_name_of_their_type(connection: sqlite3.Connection) -> None:
    """Connections, locks, threads, queues, coroutines and their kin have no content."""
    waiting = coroutine()
    with closing(socket.socket()) as opened, subprocess.Popen(["true"]) as process:
        live = {
            "sqlite3.Connection": connection,
            "sqlite3.Cursor": connection.cursor(),
            "_thread.lock": threading.Lock(),
            "_thread.RLock": threading.RLock(),
            "threading.Event": threading.Event(),
            "threading.Condition": threading.Condition(),
            "threading.Thread": threading.Thread(),
            "_thread._local": threading.local(),
            "queue.Queue": queue.Queue[int](),
            "socket.socket": opened,
            "subprocess.Popen": process,
            "coroutine": waiting,
            "async_generator": agenerator(),
            "weakref.ReferenceType": weakref.ref(world.Plain),
            "weakref.WeakValueDictionary": weakref.WeakValueDictionary[int, Any](),
            "_contextvars.ContextVar": contextvars.ContextVar("v"),
            "asyncio.locks.Lock": asyncio.Lock(),
            "unittest.mock.MagicMock": mock.MagicMock(),
            "code": numbers.__code__,
            "module": ModuleType("made_up"),
            "object": object(),
        }
        for name, value in live.items():
            # 3.13 says ContextVar and friends by shorter names
            assert refused([value]).type_name.split(".")[-1] == name.split(".")[-1]
    waiting.close()


def test_what_reads_files_only_when_it_is_collected_is_refused() -> None:
    """Its content says where they are, not what is in them."""
    lazy = type("LazyFrame", (), {"__module__": "polars.lazyframe.frame"})()
    error = refused([lazy])
    assert error.type_name == "polars.lazyframe.frame.LazyFrame"
    assert "pass what that gives" in error.reason


class Holder:
    def __init__(self, conn: object) -> None:
        self.conn = conn


class SlotHolder:
    __slots__ = ("conn",)

    def __init__(self, conn: object) -> None:
        self.conn = conn


def test_error_tells_the_path_to_what_was_refused(connection: sqlite3.Connection) -> None:
    """The path reads like the expression that leads to the value."""
    bad = connection
    places: dict[str, object] = {
        "rows": bad,
        "rows[3]": [0, 1, 2, bad],
        "rows[1][0]": (0, (bad,)),
        "rows['db']": {"a": 1, "db": bad},
        "rows[2]": {1: 1, 2: bad},
        "rows[<Colour>]": {world.Colour.RED: bad},
        "rows.keys()[1]": {1: 1, bad: 2},
        "rows[*]": {bad},
        "rows[0][*]": [frozenset({bad, 1})],
        "rows[3].conn": [0, 1, 2, Holder(bad)],
        "rows.conn": SlotHolder(bad),
        "rows['db'].conn[0]": {"db": Holder([bad])},
        "rows.notes": world.Trade("a", notes=bad),  # type: ignore[arg-type]
        "rows.notes['x']": world.Trade("a", notes={"x": bad}),  # type: ignore[arg-type]
        "rows.y": world.Slotted(1, bad),
        "rows[0].y[0]": [world.Kept(1, [bad])],
        "rows.x": world.Frozen(bad),  # type: ignore[arg-type]
        "rows.conn.conn": Holder(Holder(bad)),
        "rows[1]": world.Items([1, bad]),
        "rows['k']": world.Table(k=bad),
        "rows.y[1]": world.Point(1, [0, bad]),  # type: ignore[arg-type]
        "rows.<closure>.value": world.closing_over(bad),
        "rows.__defaults__[0]": lambda x=bad: x,
        "rows.__self__.a": world.Plain(a=bad).method,
        "rows.flat[1]": np.array([1, bad], dtype=object),
        "rows.__class__.pool": type("Local", (), {"pool": bad})(),
        "rows[0].pool": [type("Local", (), {"pool": bad})],
        "rows[0]['k'].extra": [{"k": world.Plain(extra=bad)}],
    }
    for path, value in places.items():
        error = refused(value)
        assert (error.path, error.type_name) == (path, "sqlite3.Connection")
        assert str(error) == (
            f"argument {path}: sqlite3.Connection cannot be digested; "
            "leave it out with `policy - 'rows'` or register a hasher"
        )


def test_long_keys_are_cut_in_paths() -> None:
    """A huge key does not flood the terminal."""
    assert len(refused({"k" * 1000: numbers()}).path) < 60


def test_arguments_error_names_the_argument(connection: sqlite3.Connection) -> None:
    """The path starts with the argument's name, so that the remedy can name it."""
    with pytest.raises(UndigestableError) as caught:
        digest_arguments({"fine": 1, "config": {"db": Holder(connection)}})
    assert caught.value.path == "config['db'].conn"
    assert caught.value.root == "config"


class Angry:
    def __getstate__(self) -> object:
        raise RuntimeError("no state today")


def test_failure_in_the_users_code_is_a_refusal_with_its_reason() -> None:
    """A broken ``__getstate__`` makes the call uncacheable; it does not break the test."""
    error = refused([Angry()])
    assert error.path == "rows[0]"
    assert error.reason == "RuntimeError: no state today"


class Interrupted:
    def __getstate__(self) -> object:
        raise KeyboardInterrupt


def test_interrupts_pass_through() -> None:
    """Ctrl-C while digesting is Ctrl-C."""
    with pytest.raises(KeyboardInterrupt):
        digest_value([Interrupted()])


class Chatty(list[int]):
    """A list whose own iteration must not be started."""

    def __iter__(self) -> Iterator[int]:
        raise AssertionError("iterated")


def test_overridden_iteration_is_not_run() -> None:
    """A list subclass is read by list's own methods."""
    assert digest_value(Chatty([1])) != digest_value(Chatty([2]))


def test_errors_survive_pickling(connection: sqlite3.Connection) -> None:
    """Workers hand refusals to the controller."""
    error = refused([connection])
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_code_objects_point_to_the_function() -> None:
    """The remedy for a code object is in its reason."""
    code: CodeType = numbers.__code__
    assert "function" in refused(code).reason


class Wallet:
    """Pickles without its lock, as its author says."""

    def __init__(self, money: int) -> None:
        self.money = money
        self.lock = threading.Lock()

    def __getstate__(self) -> object:
        return {"money": self.money}


class Account:
    """Rebuilt from its number, as its author says."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.session = threading.Lock()

    def __reduce__(self) -> Any:
        return (Account, (self.number,))


@pytest.mark.parametrize("cls", [Wallet, Account])
def test_state_declared_for_pickle_is_what_counts(cls: Any) -> None:
    """An author who leaves a lock out of the pickled state has said what makes the object."""
    assert digest_value(cls(1)) == digest_value(cls(1))
    assert digest_value(cls(1)) != digest_value(cls(2))


def test_hashed_maps_name_what_they_hold(connection: sqlite3.Connection) -> None:
    """A map of native code that hashes its items is refused for an item, and for holding itself."""
    error = refused([rpds.HashTrieMap({"a": 1, "b": connection})])
    assert (error.path, error.type_name) == ("rows[0]", "sqlite3.Connection")
    inner: dict[str, object] = {}
    inner["outer"] = outer = rpds.HashTrieMap({"inner": inner})
    assert refused(outer).reason == "it holds itself"
    assert digest_value([rpds.HashTrieMap({"inner": {}})] * 2)
