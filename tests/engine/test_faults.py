"""Whatever the cache meets, the computation runs, the value is right, and the fault is told."""

from __future__ import annotations

import os
import resource
import shutil
import socket
import threading
from collections import Counter

import pytest
from bodies import ran, times

from pytest_taskcache import (
    DEFAULT,
    INPUTS,
    Cache,
    ConfigurationError,
    MemoryStorage,
    StorageError,
    Uncacheable,
    cached,
    transaction,
)
from pytest_taskcache.model.event import Computed, Decided, Faulted


@cached(policy=INPUTS)
def big(x):
    ran("big")
    return [x] * 20_000


def reasons(events):
    return Counter(event.reason for event in events.of(Faulted))


def test_an_undigestable_input_is_named_and_the_function_runs(cache, events):
    """With the path to it, its type and both remedies."""

    @cached
    def f(rows, n=1):
        ran("f")
        return n

    rows = [{"a": 1}, {"conn": socket.socket()}]
    try:
        state = f.call(rows)
    finally:
        rows[1]["conn"].close()
    assert state.value == 1
    assert isinstance(state.decision, Uncacheable)
    assert state.decision.reason == "input cannot be digested"
    text = str(state.decision)
    assert text.startswith("argument rows[1]['conn']: socket.socket cannot be digested")
    assert "policy - 'rows'" in text
    assert "register a hasher" in text
    assert not reasons(events)


def test_an_iterator_is_not_consumed(cache):
    """The function gets it whole, each time."""

    @cached
    def f(items):
        return list(items)

    assert f(iter([1, 2])) == [1, 2]
    assert f(n for n in (3, 4)) == [3, 4]


@pytest.mark.parametrize(
    "make",
    [threading.Lock, lambda: (n for n in ()), lambda: Hostile()],
    ids=["a lock", "a generator", "a hostile object"],
)
def test_an_unpicklable_value_is_passed_on_and_counted(cache, events, make):
    """Its lock is given back, too."""
    values = []

    @cached(policy=INPUTS.configure(isolation_level="SERIALIZABLE"))
    def f():
        values.append(make())
        return values[-1]

    assert f() is values[-1]
    assert f() is values[-1]
    assert len(values) == 2
    assert {event.reason for event in events.of(Computed)} == {"value cannot be serialized"}
    assert not cache.engine.locks._taken


class Hostile:
    def __reduce__(self):
        raise ZeroDivisionError("no")


broken = []


class Unloadable:
    def __reduce__(self):
        return woken, ()


def woken():
    if broken:
        raise ValueError("no")
    return Unloadable()


def test_a_value_that_cannot_be_loaded_is_computed_again(cache, request):
    """Called lost, not an error."""

    @cached(policy=INPUTS)
    def f():
        ran("f")
        return Unloadable()

    assert isinstance(f(), Unloadable)
    request.addfinalizer(broken.clear)
    broken.append(True)
    state = f.call()
    assert isinstance(state.value, Unloadable)
    assert "stored value" in str(state.decision)
    assert times("f") == 2


def damage_truncate(path):
    os.chmod(path, 0o600)
    os.truncate(path, path.stat().st_size // 2)


def damage_flip(path):
    os.chmod(path, 0o600)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    "damage", [damage_truncate, damage_flip, os.unlink], ids=["truncated", "flipped", "gone"]
)
def test_a_damaged_result_is_computed_again(closed, tmp_path, damage):
    """Never an error, never a wrong value; the next call finds a good one."""
    with closed:
        big(1)
    files = [path for path in (tmp_path / "cache" / "results").rglob("*") if path.is_file()]
    damage(max(files, key=lambda path: path.stat().st_size))
    with closed:
        state = big.call(1)
        assert state.value == [1] * 20_000
        assert "stored value" in str(state.decision)
        assert big(1) == [1] * 20_000
    assert times("big") == 2


def test_a_corrupt_index_is_put_aside(closed, tmp_path, events):
    """A new one is begun, and the fault is told."""
    with closed:
        big(1)
    for path in (tmp_path / "cache").glob("index.sqlite3*"):
        path.write_bytes(b"nonsense" * 1000)
    with closed:
        assert big(1) == [1] * 20_000
    with closed:
        assert big(1) == [1] * 20_000
    assert times("big") == 2
    assert reasons(events)


def test_a_vanished_directory(closed, tmp_path, events):
    """Removed while the cache is open: the values stay right, and the cache goes on."""
    with closed:
        big(1)
        shutil.rmtree(tmp_path / "cache")
        assert big(1) == [1] * 20_000
        assert big(2) == [2] * 20_000
        with transaction():
            shutil.rmtree(tmp_path / "cache", ignore_errors=True)
            assert big(3) == [3] * 20_000


def test_a_full_disk(closed, events):
    """No file may grow: values stay right, nothing is stored, and the reason is counted."""
    with closed:
        big(1)
        old = resource.getrlimit(resource.RLIMIT_FSIZE)
        import signal
        import sys

        bytecode, sys.dont_write_bytecode = sys.dont_write_bytecode, True
        before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, old[1]))
        try:
            assert big(2) == [2] * 20_000
            with transaction():
                assert big(3) == [3] * 20_000
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, old)
            signal.signal(signal.SIGXFSZ, before)
            sys.dont_write_bytecode = bytecode
        assert reasons(events)
        assert "not stored" in {event.reason for event in events.of(Computed)}
        assert big(1) == [1] * 20_000
        assert big(2) == [2] * 20_000
        assert big(2) == [2] * 20_000
    assert times("big") == 4


@pytest.mark.parametrize("what", ["a file", "a symbolic link", "foreign"])
def test_a_directory_that_cannot_be_used_is_a_named_error(tmp_path, what):
    """When the cache is opened, and with what to do."""
    place = tmp_path / "c"
    if what == "a file":
        place.write_text("")
    elif what == "a symbolic link":
        (tmp_path / "target").mkdir(mode=0o777)
        os.chmod(tmp_path / "target", 0o777)
        (tmp_path / "target" / "index.sqlite3").write_text("")
        place.symlink_to(tmp_path / "target")
    elif os.geteuid() == 0:
        place.mkdir()
        (place / "index.sqlite3").write_text("")
        os.chown(place, 12345, 12345)
    else:
        pytest.skip("giving directories away needs root")
    with pytest.raises(StorageError, match=str(tmp_path)), Cache(place):
        pass
    assert big(1) == [1] * 20_000


class Raising(MemoryStorage):
    """A storage that fails at what it is told to, as told."""

    method = ""

    def __init__(self, method, error):
        super().__init__()
        self.method, self.error = method, error

    def __getattribute__(self, name):
        if name != "method" and name == object.__getattribute__(self, "method"):

            def fail(*args, **kwargs):
                raise self.error

            return fail
        return super().__getattribute__(name)


@pytest.mark.parametrize(
    "error", [StorageError("remote", "speak", "connection reset"), OSError(28, "No space")], ids=str
)
@pytest.mark.parametrize(
    "method",
    ["read_records", "write_records", "recent", "read_result", "write_result", "has_results"],
)
@pytest.mark.parametrize("inside", [False, True], ids=["alone", "in a transaction"])
def test_a_storage_that_raises(tmp_path, root, events, method, error, inside):
    """Its own error, or any other."""
    healthy = MemoryStorage()
    storage = Raising(method, error)
    storage.__dict__.update(healthy.__dict__)
    f = big.with_options(policy=INPUTS.configure(key_storage=storage, result_storage=storage))
    good = big.with_options(policy=INPUTS.configure(key_storage=healthy, result_storage=healthy))
    with Cache(tmp_path / "c", root=root, observers=[events]):
        if inside:
            with transaction():
                assert f(1) == [1] * 20_000
        else:
            assert f(1) == [1] * 20_000
        if method.startswith("read"):
            good(1)
            events.all.clear()
            assert f(1) == [1] * 20_000
    assert reasons(events)


def test_a_failed_look_up_is_called_failed_not_a_miss(cache, events):
    """And what it computes is stored."""
    storage = Raising("", None)
    f = big.with_options(policy=INPUTS.configure(key_storage=storage))
    storage.method, storage.error = "read_records", StorageError("remote", "read", "timed out")
    decision = f.call(1).decision
    assert type(decision).__name__ == "Fault"
    assert "timed out" in str(decision)
    storage.method = ""
    assert f.call(1).name == "Cached"
    assert reasons(events) == {"read failed: timed out": 1}


def test_a_storage_that_plays_no_role_is_a_usage_error(cache):
    """Before anything runs."""
    f = big.with_options(policy=INPUTS.configure(key_storage=object()))
    with pytest.raises(ConfigurationError, match="key_storage"):
        f(1)
    assert not times()


class Deaf:
    def __init__(self):
        self.told = 0

    def notify(self, event):
        self.told += 1
        raise RuntimeError("cannot hear")


def test_an_observer_that_raises_breaks_nothing(tmp_path, root, events):
    """It is reported once to the others, which miss no event."""
    first, last = Deaf(), Deaf()
    with Cache(tmp_path / "c", root=root, observers=[first, events, last]):
        big(1), big(1)
    assert times("big") == 1
    assert len(events.of(Decided)) == 2
    assert [event.detail for event in events.of(Faulted)] == ["RuntimeError: cannot hear"] * 2
    assert first.told == last.told == 1


def test_a_forked_child_stages_nothing(cache, tmp_path, events):
    """It computes, uses what is there, and leaves its parent's transaction and locks alone."""
    f = big.with_options(policy=DEFAULT.configure(isolation_level="SERIALIZABLE"))
    with transaction() as outer:
        f(1)
        told = []
        outer.on_commit(lambda t: told.append(os.getpid()))
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                ok = f.call(1).name == "Cached" and f(2) == [2] * 20_000
                from pytest_taskcache.engine.active import commit, roll_back
                from pytest_taskcache.transactions.transaction import Transaction

                inner = Transaction("x")
                inner.nest_in(outer)
                roll_back(inner, cache.engine)
                commit(outer, cache.engine)
                cache.__exit__(None, None, None)
                code = 0 if ok and not told else 2
            finally:
                os._exit(code)
        _, status = os.waitpid(pid, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        assert cache.engine.locks._taken
    assert told == [os.getpid()]
    assert not cache.engine.locks._taken
    f(1), f(2)
    assert times("big") == 2


def test_a_newer_schema_is_a_named_error(closed, tmp_path):
    """With the remedy; nothing is touched."""
    import sqlite3

    with closed:
        big(1)
    connection = sqlite3.connect(tmp_path / "cache" / "index.sqlite3")
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    connection.execute(f"PRAGMA user_version = {version + 100}")
    connection.close()
    with pytest.raises(StorageError, match="upgrade pytest-taskcache"), closed:
        pass
