"""Background uploads: in order, bounded, counted, and consistent when killed."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from decorator_parts import Gate, SocketStorage, digest_of, make_variant, remote_server, store

from pytest_taskcache.errors import StorageError
from pytest_taskcache.model.record import Variant
from pytest_taskcache.storage.local import LocalStorage
from pytest_taskcache.storage.memory import MemoryStorage
from pytest_taskcache.storage.records import results_of
from pytest_taskcache.storage.remote.bounded import Bounded
from pytest_taskcache.storage.remote.tiered import Tier, Tiered, WriteBehind


@pytest.fixture
def far() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.open.set()


def test_results_arrive_before_their_records(far: Gate) -> None:
    """Seen from the remote: whenever a record is written, its results are there."""
    missing: list[str] = []
    near = MemoryStorage()

    class Watched(Gate):
        def write_records(self, variants):  # type: ignore[no-untyped-def]
            needed = [digest for v in variants for digest, _ in results_of(v)]
            missing.extend(set(needed) - MemoryStorage.has_results(self, needed))
            super().write_records(variants)

    watched = Watched()
    tiered = Tiered([Tier(near), Tier(watched)])
    for number in range(50):
        blob, payload = b"blob %d" % number, b"payload %d" % number
        variant = make_variant(number, payload=payload, blobs=[blob])
        store(tiered, variant, payload, [blob])

    drained = tiered.drain(20.0)

    assert drained.uploaded == 50
    assert missing == []
    assert watched.calls.count("write_records") <= 50


def test_many_small_records_share_requests(far: Gate) -> None:
    """Ten thousand tests do not cost ten thousand uploads."""
    far.open.clear()
    tiered = Tiered([Tier(MemoryStorage()), Tier(far)])
    for number in range(1000):
        tiered.write_records([make_variant(number, inline=True)])
    far.open.set()

    assert tiered.drain(20.0).uploaded == 1000
    assert far.calls.count("write_records") < 100


def test_what_is_written_together_appears_together(far: Gate) -> None:
    """A transaction is one write in the remote too, and fails there as a whole."""
    near = MemoryStorage()
    tiered = Tiered([Tier(near), Tier(far)])
    pair = [make_variant(1, payload=b"one"), make_variant(2, payload=b"two")]
    tiered.write_result(pair[0].result.digest, [b"one"])  # the second one's result is lost
    tiered.write_records(pair)

    drained = tiered.drain(20.0)

    assert (drained.uploaded, drained.failed) == (0, 2)
    assert drained.unsent == (str(pair[0].identity), str(pair[1].identity))
    assert "gone" in drained.reasons[0]
    assert far.read_records([v.key for v in pair]) == {}


def test_a_result_the_remote_has_is_not_sent_again(far: Gate) -> None:
    """Equal values of different computations travel once."""
    tiered = Tiered([Tier(MemoryStorage()), Tier(far)])
    for number in (1, 2):
        store(tiered, make_variant(number, payload=b"same"), b"same")
        tiered.drain(20.0)

    assert far.calls.count("write_result") == 1
    assert far.calls.count("write_records") == 2


def test_a_stuck_remote_bounds_the_end_of_the_session(far: Gate) -> None:
    """What could not be sent in time is counted and named, and not begun afterwards."""
    far.open.clear()
    tiered = Tiered([Tier(MemoryStorage()), Tier(far)])
    variants = [make_variant(number, inline=True) for number in range(30)]
    for variant in variants:
        tiered.write_records([variant])
    told: list[tuple[int, int]] = []

    drained = tiered.drain(0.2, lambda done, total: told.append((done, total)))

    assert (drained.uploaded, drained.left) == (0, 30)
    assert len(drained.unsent) == 20
    assert set(drained.unsent) <= {str(v.identity) for v in variants}
    begun = far.calls.count("has_results")
    far.open.set()
    tiered.close()
    assert far.calls.count("has_results") == begun


def test_progress_is_told_while_waiting(far: Gate) -> None:
    """Someone looks at the terminal meanwhile; done never exceeds the total."""
    tiered = Tiered([Tier(MemoryStorage()), Tier(far)])
    far.open.clear()
    for number in range(20):
        store(tiered, make_variant(number, payload=b"v%d" % number), b"v%d" % number)
    told: list[tuple[int, int]] = []

    def tell(done: int, total: int) -> None:
        told.append((done, total))
        far.open.set()

    drained = tiered.drain(20.0, tell)

    assert drained.uploaded == 20
    assert told
    assert all(0 <= done <= total == 20 for done, total in told)
    assert told == sorted(told)


def test_a_full_queue_drops_and_counts_instead_of_blocking(far: Gate) -> None:
    """A remote slower than the tests does not slow them, nor fill the memory."""
    far.open.clear()
    tiered = Tiered([Tier(MemoryStorage()), Tier(far)], capacity=5)
    for number in range(8):
        tiered.write_records([make_variant(number, inline=True)])
    far.open.set()

    drained = tiered.drain(20.0)

    assert (drained.uploaded, drained.failed, drained.left) == (5, 3, 0)
    assert drained.reasons == ("too many uploads are waiting",)
    assert drained.unsent == tuple(str(make_variant(n).identity) for n in (5, 6, 7))


def test_payloads_do_not_wait_in_memory(far: Gate) -> None:
    """They are read again from the first tier when it is their turn."""
    far.open.clear()
    near = Gate()
    tiered = Tiered([Tier(near), Tier(far)])
    value = bytearray(b"value")
    variant = make_variant(1, payload=bytes(value))
    tiered.write_result(variant.result.digest, [value])
    tiered.write_records([variant])
    value[:] = b"other"
    far.open.set()

    assert tiered.drain(20.0).uploaded == 1
    assert near.calls.count("read_result") == 1
    assert bytes(far.read_result(variant.result.digest, 5) or b"") == b"value"


@pytest.mark.parametrize("fault", [StorageError("gate://", "x", "reset"), ZeroDivisionError()])
def test_a_failed_upload_is_counted_and_the_next_one_tried(far: Gate, fault: Exception) -> None:
    """Also where the adapter raises what it must not: the thread lives on."""
    tiered = Tiered([Tier(MemoryStorage()), Tier(far)])
    far.error = lambda operation: fault
    tiered.write_records([make_variant(1, inline=True)])
    first = tiered.drain(20.0)
    far.error = lambda operation: None
    tiered.write_records([make_variant(2, inline=True)])
    second = tiered.drain(20.0)

    assert (first.uploaded, first.failed) == (0, 1)
    assert first.unsent == (str(make_variant(1).identity),)
    assert (second.uploaded, second.failed, second.unsent) == (1, 0, ())


def test_uploads_to_a_remote_that_was_given_up_are_not_called_uploaded() -> None:
    """A resilient storage drops writes without an error; the count must not believe it."""
    with remote_server() as server:
        port = server.port
    remote = Bounded(SocketStorage(port), faults=1)
    tiered = Tiered([Tier(MemoryStorage()), Tier(remote)])
    with pytest.raises(StorageError):
        remote.read_records(["a" * 32])
    for number in range(5):
        store(tiered, make_variant(number, payload=b"v%d" % number), b"v%d" % number)

    drained = tiered.drain(20.0)

    assert remote.given_up
    assert drained.uploaded == 0
    assert drained.failed == 5
    assert drained.reasons == ("the storage was given up",)


def test_a_remote_that_was_given_up_costs_no_more_work() -> None:
    """No result is read again and digested for nobody, at the end of a run or before."""
    with remote_server() as server:
        port = server.port
    remote = Bounded(SocketStorage(port), faults=1)
    with pytest.raises(StorageError):
        remote.read_records(["a" * 32])
    near = Gate()
    tiered = Tiered([Tier(near), Tier(remote)])
    store(tiered, make_variant(1, payload=b"value"), b"value")

    assert tiered.drain(20.0).failed == 1
    assert "read_result" not in near.calls


def test_a_write_that_is_dropped_on_the_way_is_not_called_uploaded() -> None:
    """The remote was given up between a result and its record."""

    class Forgetful(MemoryStorage):
        given_up = False

        def write_records(self, variants: Sequence[Variant]) -> None:
            self.given_up = True

    tiered = Tiered([Tier(MemoryStorage()), Tier(Forgetful())])
    store(tiered, make_variant(1, payload=b"value"), b"value")

    drained = tiered.drain(20.0)

    assert (drained.uploaded, drained.failed) == (0, 1)


def test_what_was_removed_while_it_waited_is_not_sent(far: Gate) -> None:
    """Else it would come back from the remote in the next run."""
    uploads = WriteBehind(MemoryStorage(), far)
    far.open.clear()
    variants = [make_variant(number, inline=True) for number in range(40)]
    begun, waiting = variants[:4], variants[4:]
    for number, variant in enumerate(begun, start=1):  # keeps every thread busy
        uploads.offer([variant])
        while far.calls.count("has_results") < number:
            time.sleep(0.001)
    for variant in waiting:
        uploads.offer([variant])

    uploads.forget([variant.id for variant in waiting])
    far.open.set()

    assert uploads.drain(20.0).uploaded == len(begun)
    assert set(far.read_records([v.key for v in variants])) == {v.key for v in begun}


WRITER = """
    import sys, time
    from pathlib import Path
    sys.path.insert(0, sys.argv[3])
    from decorator_parts import make_variant, store
    from pytest_taskcache.storage.local import LocalStorage
    from pytest_taskcache.storage.memory import MemoryStorage
    from pytest_taskcache.storage.remote.tiered import Tier, Tiered

    remote = LocalStorage(Path(sys.argv[1]))
    tiered = Tiered([Tier(MemoryStorage()), Tier(remote)])
    for number in range(2000):
        payload = b"%d" % number * 2000
        variant = make_variant(number, payload=payload)
        store(tiered, variant, payload)
    while len(list(remote.scan())) < int(sys.argv[2]):
        time.sleep(0.001)
    print("go", flush=True)
    tiered.drain(60.0)
"""


@pytest.mark.parametrize("after", [1, 40, 150])
def test_a_killed_upload_leaves_no_record_without_its_result(tmp_path: Path, after: int) -> None:
    """kill -9 at any moment: the remote holds results without records at worst."""
    directory = tmp_path / "remote"
    here = str(Path(__file__).parent)
    command = [sys.executable, "-c", textwrap.dedent(WRITER), str(directory), str(after), here]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"go\n"
        os.kill(writer.pid, signal.SIGKILL)

    remote = LocalStorage(directory)
    variants = list(remote.scan())
    assert len(variants) >= after
    for variant in variants:
        data = remote.read_result(variant.result.digest, variant.result.size)
        assert data is not None
        assert digest_of(bytes(data)) == variant.result.digest
    remote.close()
