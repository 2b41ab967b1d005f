"""A remote that is dead, black-holed, slow or flapping neither breaks nor holds up a run."""

import contextlib
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from decorator_parts import (
    KEY,
    Gate,
    Remote,
    SocketStorage,
    digest_of,
    failing,
    make_variant,
    remote_server,
    store,
)

from pytest_taskcache.errors import StorageError
from pytest_taskcache.storage.memory import MemoryStorage
from pytest_taskcache.storage.remote.bounded import SLOWEST, Bounded
from pytest_taskcache.storage.remote.signed import Signed
from pytest_taskcache.storage.remote.tiered import Tier, Tiered

SHORT = 0.1
"""A time limit that a test can wait for; never compared with a measured time."""


@pytest.fixture
def remote() -> Iterator[Remote]:
    with remote_server() as server:
        yield server


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.open.set()


def every_operation(storage: Bounded, scratch: Path) -> list[object]:
    file = scratch / "file"
    file.write_bytes(b"file")
    variant = make_variant(7)
    return [
        storage.read_records(["a" * 32]),
        storage.recent(["a.py::f"]),
        storage.read_result("b" * 32, 10),
        storage.copy_file("b" * 32, scratch / "new"),
        storage.has_results(["b" * 32]),
        storage.write_result(digest_of(b"x"), [b"x"]),
        storage.add_file(digest_of(b"file"), file),
        storage.write_records([variant]),
        storage.remove_records([variant.id]),
    ]


ABSENT: list[object] = [{}, {}, None, False, frozenset(), None, None, None, None]


def test_a_healthy_remote_is_used_as_it_is(remote: Remote) -> None:
    """Everything arrives and comes back; nothing is counted."""
    storage = Bounded(SocketStorage(remote.port))
    variant = make_variant(1, payload=b"value")

    store(storage, variant, b"value")

    assert storage.read_records([variant.key, "f" * 32]) == {variant.key: (variant,)}
    assert bytes(storage.read_result(variant.result.digest, 5) or b"") == b"value"
    assert storage.has_results([variant.result.digest]) == {variant.result.digest}


def test_a_black_hole_costs_one_limit_and_is_then_left_alone(
    remote: Remote, tmp_path: Path
) -> None:
    """It accepts connections and never answers: one failure, told as such, then absence at once
    for every operation, without another connection, and one warning."""
    remote.black = True
    warnings: list[str] = []
    storage = Bounded(SocketStorage(remote.port), timeout=SHORT, on_fault=warnings.append)

    with pytest.raises(StorageError, match="timed out"):
        storage.read_records(["a" * 32])

    assert storage.given_up
    requests = remote.requests
    assert every_operation(storage, tmp_path) == ABSENT
    assert remote.requests == requests
    assert len(warnings) == 1
    assert "timed out" in warnings[0]


def test_failures_may_not_cost_more_than_the_limit_together(gate: Gate) -> None:
    """Three failures that each take almost two seconds would cost six; two is what a run can
    lose in all, by the clock handed in."""
    now = [0.0]

    def slow_failure(operation: str) -> StorageError:
        now[0] += 1.2
        return StorageError("gate://", operation, "connection reset")

    gate.error = slow_failure
    storage = Bounded(gate, timeout=2.0, faults=3, clock=lambda: now[0])

    for _ in range(2):
        assert not storage.given_up
        with pytest.raises(StorageError):
            storage.read_records(["a" * 32])

    assert storage.given_up


def test_a_dead_remote_fails_three_times_and_is_then_left_alone(tmp_path: Path) -> None:
    """Nothing listens: the first three are failures that the engine can count, not misses."""
    with remote_server() as server:
        port = server.port
    warnings: list[str] = []
    storage = Bounded(SocketStorage(port), on_fault=warnings.append)

    for _ in range(3):
        assert not storage.given_up
        with pytest.raises(StorageError, match="ConnectionRefusedError"):
            storage.read_records(["a" * 32])

    assert storage.given_up
    assert every_operation(storage, tmp_path) == ABSENT
    assert len(warnings) == 1


def test_a_flapping_remote_is_given_up_after_three_failures(remote: Remote) -> None:
    """Successes in between do not hide that it fails; what it answered was used."""
    variant = make_variant(1)
    remote.content.write_records([variant])
    warnings: list[str] = []
    storage = Bounded(SocketStorage(remote.port), on_fault=warnings.append)

    for _ in range(3):
        remote.resets = False
        assert storage.read_records([variant.key]) == {variant.key: (variant,)}
        remote.resets = True
        with pytest.raises(StorageError):
            storage.read_records([variant.key])

    remote.resets = False
    assert storage.read_records([variant.key]) == {}
    assert len(warnings) == 1


def test_a_slow_remote_is_waited_for_within_the_limit(remote: Remote) -> None:
    """Slow is not broken."""
    variant = make_variant(1)
    remote.content.write_records([variant])
    remote.delay = 0.05
    storage = Bounded(SocketStorage(remote.port), timeout=20.0)

    assert storage.read_records([variant.key]) == {variant.key: (variant,)}


def test_a_transfer_may_outlast_the_limit_while_the_remote_answers(gate: Gate) -> None:
    """A gigabyte takes longer than two seconds; the remote is asked something small meanwhile."""
    data = b"x" * 100
    gate.write_result(digest_of(data), [data])
    release = threading.Event()
    asked: list[str] = []

    def slow(operation: str) -> None:
        if operation == "read_result":
            release.wait()
        if operation == "has_results":
            asked.append(operation)
            if len(asked) == 3:
                release.set()

    gate.error = slow
    storage = Bounded(gate, timeout=SHORT)

    found = storage.read_result(digest_of(data), 100 * SLOWEST)

    assert found is None  # not of the size that was asked for; what counts is the waiting
    assert len(asked) >= 3


def test_a_transfer_ends_when_the_remote_no_longer_answers(gate: Gate) -> None:
    """A large read is no licence to hang."""
    gate.open.clear()
    storage = Bounded(gate, timeout=SHORT)

    with pytest.raises(StorageError, match="timed out"):
        storage.read_result("d" * 32, 10**12)

    assert gate.calls[0] == "read_result"
    assert "has_results" in gate.calls
    assert storage.given_up


def test_an_adapter_that_panics_is_a_failure_without_its_text(gate: Gate) -> None:
    """A vendor's exception, even one that is no Exception, becomes a StorageError; its text,
    which may hold a password, goes nowhere."""

    class PanicException(BaseException):
        pass

    gate.error = lambda operation: PanicException("https://user:hunter2@host")
    warnings: list[str] = []
    storage = Bounded(gate, faults=1, on_fault=warnings.append)

    with pytest.raises(StorageError, match="PanicException") as caught:
        storage.read_records(["a" * 32])

    assert "hunter2" not in f"{caught.value} {warnings}"
    assert caught.value.__cause__ is None


def test_what_waits_is_released_when_the_remote_is_given_up(gate: Gate) -> None:
    """Other threads do not sit out their own limits after one has found the remote dead."""
    storage = Bounded(gate, timeout=60.0, faults=1)
    gate.open.clear()
    waiting = threading.Event()

    def block(operation: str) -> StorageError | None:
        if operation == "recent":
            return StorageError("gate://", operation, "connection reset")
        waiting.set()
        return None

    gate.error = block
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(storage.read_records, ["a" * 32])
        assert waiting.wait(20)
        with pytest.raises(StorageError):
            storage.recent(["a.py::f"])
        assert other.result(timeout=20) == {}


def test_abandoned_threads_are_daemons_and_bounded(gate: Gate) -> None:
    """A hundred operations into a black hole leave a handful of threads that stop no exit."""
    gate.open.clear()
    storage = Bounded(gate, timeout=0.01 * 100, faults=10_000)
    before = set(threading.enumerate())

    with ThreadPoolExecutor(30) as pool:
        futures = [pool.submit(storage.read_records, [f"{n:032x}"]) for n in range(100)]
        for future in futures:
            assert isinstance(future.exception(), StorageError) or future.result() == {}

    left = set(threading.enumerate()) - before
    assert 0 < len(left) <= 8
    assert all(thread.daemon for thread in left)


def test_memory_that_changes_after_giving_up_is_not_what_arrives(gate: Gate) -> None:
    """The thread left behind still uploads; it must upload what the digest was taken of."""
    value = bytearray(b"before")
    digest = digest_of(value)
    gate.open.clear()
    storage = Bounded(gate, timeout=SHORT)
    with pytest.raises(StorageError):
        storage.write_result(digest, [memoryview(value)])

    value[:] = b"after!"
    gate.open.set()

    for _ in range(400):
        found = MemoryStorage.read_result(gate, digest, 6)
        if found is not None:
            break
        threading.Event().wait(0.01)
    assert found is not None
    assert bytes(found) == b"before"


def test_a_copy_that_comes_too_late_leaves_no_file(gate: Gate, tmp_path: Path) -> None:
    """The restored directory holds what was restored in time, and nothing half done."""
    gate.write_result(digest_of(b"blob"), [b"blob"])
    destination = tmp_path / "tree" / "blob"
    destination.parent.mkdir()
    storage = Bounded(gate, timeout=SHORT)
    gate.open.clear()
    with pytest.raises(StorageError, match="timed out"):
        storage.copy_file(digest_of(b"blob"), destination)

    gate.open.set()

    assert gate.copied.wait(20)
    for _ in range(400):
        if not list(destination.parent.iterdir()):
            break
        threading.Event().wait(0.01)
    assert list(destination.parent.iterdir()) == []


def test_a_copy_in_time_is_the_file(gate: Gate, tmp_path: Path) -> None:
    """And nothing else is beside it."""
    gate.write_result(digest_of(b"blob"), [b"blob"])
    storage = Bounded(gate)

    assert storage.copy_file(digest_of(b"blob"), tmp_path / "blob")
    assert not storage.copy_file(digest_of(b"none"), tmp_path / "none")

    assert [path.name for path in tmp_path.iterdir()] == ["blob"]
    assert (tmp_path / "blob").read_bytes() == b"blob"


def test_many_keys_are_asked_for_in_several_requests(gate: Gate) -> None:
    """Ten thousand keys do not have to fit one time limit, nor cost a request each."""
    variants = [make_variant(number, inline=True) for number in range(1201)]
    gate.write_records(variants)

    found = Bounded(gate, timeout=60.0).read_records([v.key for v in variants])

    assert found == {v.key: (v,) for v in variants}
    assert [len(keys) for keys in gate.asked] == [500, 500, 201]


def test_closing_does_not_wait_for_a_remote_that_was_given_up(gate: Gate) -> None:
    """The end of a run is part of the run."""
    closed = threading.Event()
    gate.close = closed.wait  # type: ignore[method-assign]
    storage = Bounded(gate, timeout=SHORT)
    storage.close()  # blocks in the adapter, not here

    gate.error = failing()
    broken = Bounded(gate, faults=1)
    with pytest.raises(StorageError):
        broken.read_records(["a" * 32])
    broken.close()
    closed.set()


def test_operations_run_unobserved(gate: Gate) -> None:
    """What the cache connects to is no dependency of the test that runs meanwhile."""
    inside: list[str] = []
    muted = threading.local()

    @contextlib.contextmanager
    def unobserved() -> Iterator[None]:
        muted.now = True
        yield
        muted.now = False

    gate.error = lambda operation: inside.append(operation) if muted.now else None  # type: ignore[func-returns-value]
    storage = Bounded(gate, unobserved=unobserved)
    tiered = Tiered([Tier(MemoryStorage()), Tier(gate)], unobserved=unobserved)

    storage.read_records(["a" * 32])
    tiered.write_records([make_variant(1, inline=True)])
    assert tiered.drain(20.0).uploaded == 1

    assert inside == gate.calls == ["read_records", "has_results", "write_records"]


def test_a_run_with_a_black_hole_behind_it_is_a_run_without_a_remote(remote: Remote) -> None:
    """The whole composition: everything is stored and found locally, one lookup is told as
    failed, one warning, and every upload is counted as failed at the end."""
    remote.black = True
    warnings: list[str] = []
    far = Bounded(SocketStorage(remote.port), timeout=SHORT, on_fault=warnings.append)
    tiered = Tiered([Tier(MemoryStorage()), Tier(Signed(far, [KEY], namespace="main"))])
    failed = 0
    for number in range(50):
        payload = b"value %d" % number
        variant = make_variant(number, payload=payload)
        try:
            assert tiered.read_records([variant.key]) == {}
        except StorageError:
            failed += 1
        store(tiered, variant, payload)
        assert tiered.read_records([variant.key]) == {variant.key: (variant,)}
        assert bytes(tiered.read_result(variant.result.digest, len(payload)) or b"") == payload

    drained = tiered.drain(20.0)

    assert failed == 1
    assert (drained.uploaded, drained.failed, drained.left) == (0, 50, 0)
    assert len(warnings) == 1
    assert remote.requests == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_can_use_it() -> None:
    """A child has none of its parent's threads; it neither hangs nor fails for that."""
    storage = Bounded(MemoryStorage(), timeout=20.0)
    assert storage.has_results(["a" * 32]) == frozenset()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = 0 if storage.has_results(["a" * 32]) == frozenset() else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
