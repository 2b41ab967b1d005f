"""Local in front of remote: what is asked of whom, what is filled in, what is sent on."""

import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from decorator_parts import NOW, Faults, Gate, digest_of, failing, make_variant, store

from pytest_taskcache.errors import ConfigurationError, StorageError
from pytest_taskcache.model.record import Variant
from pytest_taskcache.storage.local import LocalStorage
from pytest_taskcache.storage.memory import MemoryStorage
from pytest_taskcache.storage.remote.tiered import Tier, Tiered


@pytest.fixture
def near() -> Gate:
    return Gate()


@pytest.fixture
def far() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.open.set()


class Foreign(Gate):
    """A remote storage without signatures."""

    trusted = False


def test_no_tier_is_a_mistake() -> None:
    """Nothing would be stored, silently."""
    with pytest.raises(ConfigurationError):
        Tiered([])


def test_the_far_tier_is_asked_only_for_what_is_missing(near: Gate, far: Gate) -> None:
    """One request each, and none to the far one if the near one has everything."""
    variants = [make_variant(number, inline=True) for number in range(4)]
    near.write_records(variants[:2])
    far.write_records(variants[1:3])
    tiered = Tiered([Tier(near), Tier(far)])

    found = tiered.read_records([v.key for v in variants])

    assert found == {v.key: (v,) for v in variants[:3]}
    assert far.asked == [[variants[2].key, variants[3].key]]
    far.asked.clear()
    assert tiered.read_records([v.key for v in variants[:3]]) == found
    assert far.asked == []


def test_a_record_and_its_result_are_filled_in(near: Gate, far: Gate, tmp_path: Path) -> None:
    """The record comes to the near tier only once all of its results have, so that it is whole
    there, and then the far one is not needed any more."""
    variant = make_variant(1, payload=b"value", blobs=[b"blob"])
    store(far, variant, b"value", [b"blob"])
    tiered = Tiered([Tier(near), Tier(far)])

    assert tiered.read_records([variant.key]) == {variant.key: (variant,)}
    assert near.read_records([variant.key]) == {}
    assert bytes(tiered.read_result(variant.result.digest, 5) or b"") == b"value"
    assert near.read_records([variant.key]) == {}
    assert tiered.copy_file(digest_of(b"blob"), tmp_path / "blob")

    assert near.read_records([variant.key]) == {variant.key: (variant,)}
    assert near.has_results([variant.result.digest, digest_of(b"blob")]) == {
        variant.result.digest,
        digest_of(b"blob"),
    }
    far.calls.clear()
    assert tiered.read_records([variant.key]) == {variant.key: (variant,)}
    assert tiered.read_result(variant.result.digest, 5) is not None
    assert far.calls == []


def test_a_record_whose_result_is_near_already_is_filled_in(near: Gate, far: Gate) -> None:
    """Else the far one would be asked for it in every run."""
    variant = make_variant(1, payload=b"value")
    near.write_result(variant.result.digest, [b"value"])
    store(far, variant, b"value")
    tiered = Tiered([Tier(near), Tier(far)])

    tiered.read_records([variant.key])
    assert tiered.read_result(variant.result.digest, 5) is not None

    assert near.read_records([variant.key]) == {variant.key: (variant,)}
    assert "read_result" not in far.calls


def test_a_lost_result_is_healed_from_behind(near: Gate, far: Gate) -> None:
    """The near tier has the record, its result was evicted."""
    variant = make_variant(1, payload=b"value")
    store(far, variant, b"value")
    near.write_records([variant])
    tiered = Tiered([Tier(near), Tier(far)])
    tiered.read_records([variant.key])

    assert bytes(tiered.read_result(variant.result.digest, 5) or b"") == b"value"
    assert bytes(near.read_result(variant.result.digest, 5) or b"") == b"value"


def test_every_writable_tier_before_is_filled(near: Gate, far: Gate) -> None:
    """And those that may only be read are not touched."""
    middle = Gate()
    variant = make_variant(1, payload=b"value")
    store(far, variant, b"value")
    tiered = Tiered([Tier(near), Tier(middle, write=False), Tier(Gate()), Tier(far)])
    third = tiered._tiers[2].storage

    tiered.read_records([variant.key])
    tiered.read_result(variant.result.digest, 5)
    tiered.drain(20.0)

    for filled in (near, third):
        assert filled.read_records([variant.key]) == {variant.key: (variant,)}
        assert filled.has_results([variant.result.digest])
    assert {"write_records", "write_result"}.isdisjoint(middle.calls)


def test_a_stale_near_variant_does_not_hide_a_valid_far_one(near: Gate, far: Gate) -> None:
    """After a pull the near tier has yesterday's variant under the same key, and the remote one
    already today's: what CI has computed is used."""
    old = make_variant(1, key="k", inline=True, payload=b"old", created=NOW - 100)
    new = make_variant(2, key="k", inline=True, payload=b"new", created=NOW)
    near.write_records([old])
    far.write_records([new])
    tiered = Tiered([Tier(near), Tier(far)], valid=lambda variant: variant.id == new.id)

    assert tiered.read_records(["k"]) == {"k": (new, old)}
    far.asked.clear()
    assert tiered.read_records(["k"]) == {"k": (new, old)}
    assert far.asked == []


def test_a_fill_that_fails_breaks_no_read(near: Gate, far: Gate) -> None:
    """A full disk: the value is used, the fault counted."""
    variant = make_variant(1, payload=b"value")
    store(far, variant, b"value")
    near.error = lambda operation: (
        StorageError("gate://", operation, "disk full") if operation.startswith("write") else None
    )
    faults = Faults()
    tiered = Tiered([Tier(near), Tier(far)], on_fault=faults)

    assert tiered.read_records([variant.key]) == {variant.key: (variant,)}
    assert bytes(tiered.read_result(variant.result.digest, 5) or b"") == b"value"
    assert faults == {"fill: disk full": 1}


def test_a_failed_tier_is_a_failure_only_where_nothing_else_answers(near: Gate, far: Gate) -> None:
    """A lookup that failed is called failed, not a miss; a batch that was half answered is used."""
    variant = make_variant(1, payload=b"value")
    store(near, variant, b"value")
    far.error = failing("connection reset")
    faults = Faults()
    tiered = Tiered([Tier(near), Tier(far)], on_fault=faults)

    assert tiered.read_records([variant.key, "f" * 32]) == {variant.key: (variant,)}
    assert tiered.read_records([variant.key, "f" * 32]) == {variant.key: (variant,)}
    assert faults == {"read_records: connection reset": 2}
    with pytest.raises(StorageError, match="connection reset"):
        tiered.read_records(["f" * 32])
    with pytest.raises(StorageError, match="connection reset"):
        tiered.read_result("f" * 32, 5)
    with pytest.raises(StorageError, match="connection reset"):
        tiered.recent(["a.py::f"])


def test_a_broken_near_tier_does_not_hide_the_far_one(near: Gate, far: Gate) -> None:
    """A corrupt index costs the local copies, not the remote ones."""
    variant = make_variant(1, inline=True)
    far.write_records([variant])
    near.error = failing("index is corrupt")
    tiered = Tiered([Tier(near), Tier(far)])

    assert tiered.read_records([variant.key]) == {variant.key: (variant,)}


def test_writes_reach_the_near_tier_at_once_and_the_far_one_behind(near: Gate, far: Gate) -> None:
    """The run does not wait for the remote; results arrive there before their records."""
    far.open.clear()
    tiered = Tiered([Tier(near), Tier(far)])
    payloads = [b"value %d" % number for number in range(3)]
    variants = [make_variant(number, payload=payloads[number]) for number in range(3)]

    for variant, payload in zip(variants, payloads, strict=True):
        store(tiered, variant, payload)
    assert near.read_records([variants[0].key])
    assert MemoryStorage.read_records(far, [v.key for v in variants]) == {}

    far.open.set()
    drained = tiered.drain(20.0)

    assert (drained.uploaded, drained.failed, drained.left) == (3, 0, 0)
    assert far.read_records([v.key for v in variants]) == {v.key: (v,) for v in variants}
    for variant in variants:
        assert far.has_results([variant.result.digest])


def test_the_first_writable_tier_decides_whether_a_commit_succeeds(near: Gate, far: Gate) -> None:
    """If it fails, nothing is sent anywhere."""
    near.error = failing("disk full")
    tiered = Tiered([Tier(near), Tier(far)])

    with pytest.raises(StorageError, match="disk full"):
        tiered.write_records([make_variant(1, inline=True)])

    assert tiered.drain(20.0).uploaded == 0
    assert far.calls == []


def test_what_is_rolled_back_is_never_sent(near: Gate, far: Gate) -> None:
    """A result without a record stays here."""
    tiered = Tiered([Tier(near), Tier(far), Tier(Gate())])
    tiered.write_result(digest_of(b"staged"), [b"staged"])

    tiered.drain(20.0)

    assert far.calls == []
    assert tiered._tiers[2].storage.has_results([digest_of(b"staged")]) == frozenset()


def test_without_a_writable_tier_writes_are_dropped(near: Gate, far: Gate) -> None:
    """local:r,remote:r is a run that leaves no trace."""
    tiered = Tiered([Tier(near, write=False), Tier(far, write=False)])

    store(tiered, make_variant(1, payload=b"value"), b"value")

    assert near.calls == far.calls == []


def test_a_read_only_tier_changes_in_nothing(near: Gate, tmp_path: Path) -> None:
    """Not a byte, not a time stamp, not a lock file: a shared directory may be mounted so."""
    directory = tmp_path / "cache"
    writer = LocalStorage(directory)
    large = os.urandom(200_000)
    variant = make_variant(1, payload=large)
    store(writer, variant, large)
    writer.close()
    before = snapshot(directory)

    behind = LocalStorage(directory, create=False, readonly=True)
    tiered = Tiered([Tier(near), Tier(behind, write=False)])
    assert tiered.read_records([variant.key, "f" * 32]) == {variant.key: (variant,)}
    assert tiered.read_result(variant.result.digest, variant.result.size) == large
    assert tiered.copy_file(variant.result.digest, tmp_path / "copy")
    assert list(tiered.scan()) == [variant]
    store(tiered, make_variant(2, payload=b"other"), b"other")
    tiered.remove_records([variant.id])
    tiered.close()

    assert snapshot(directory) == before


def snapshot(directory: Path) -> dict[str, tuple[int, int, int, bytes]]:
    found = {}
    for path in sorted([directory, *directory.rglob("*")]):
        info = path.lstat()
        content = path.read_bytes() if path.is_file() else b""
        found[str(path)] = (info.st_mtime_ns, info.st_mode, info.st_ino, content)
    return found


def test_a_scan_tells_each_record_once(near: Gate, far: Gate) -> None:
    """Whatever tiers it lies in; and a tier that fails hides nothing of the others."""
    variants = [make_variant(number, inline=True) for number in range(4)]
    near.write_records(variants[:2])
    far.write_records(variants[1:])
    faults = Faults()
    tiered = Tiered([Tier(near), Tier(far)], on_fault=faults)
    assert sorted(tiered.scan(), key=lambda v: v.id) == variants

    far.scan = failing_scan  # type: ignore[method-assign]
    assert sorted(tiered.scan(), key=lambda v: v.id) == variants[:2]
    assert faults == {"list records: connection reset": 1}


def failing_scan() -> Iterator[Variant]:
    raise StorageError("gate://", "list records", "connection reset")
    yield  # a generator, which fails when it is begun


def test_a_removed_record_does_not_come_back(near: Gate, far: Gate) -> None:
    """It is removed from every writable tier, and neither uploaded nor filled in afterwards."""
    far.open.clear()
    tiered = Tiered([Tier(near), Tier(far)])
    kept, removed = make_variant(1, inline=True), make_variant(2, inline=True)
    remote = make_variant(3, payload=b"value")
    MemoryStorage.write_result(far, remote.result.digest, [b"value"])
    MemoryStorage.write_records(far, [remote])
    far.open.set()
    tiered.read_records([remote.key])

    tiered.write_records([kept])
    tiered.write_records([removed])
    tiered.remove_records([removed.id, remote.id])
    tiered.drain(20.0)
    tiered.remove_records([removed.id])
    tiered.read_result(remote.result.digest, 5)

    keys = [v.key for v in (kept, removed, remote)]
    assert set(tiered.read_records(keys)) == {kept.key}
    assert set(near.read_records(keys)) == {kept.key}


def test_an_untrusted_tier_cannot_poison_a_trusted_one(near: Gate, tmp_path: Path) -> None:
    """What came unsigned is never stored where results are unpickled."""
    foreign = Foreign()
    outcome = make_variant(1, payload=b"[1]", serializer="json", blobs=[b"blob"])
    inline = make_variant(2, payload=b"[2]", serializer="json", inline=True)
    store(foreign, outcome, b"[1]", [b"blob"])
    foreign.write_records([inline])
    tiered = Tiered([Tier(near), Tier(foreign)])

    assert set(tiered.read_records([outcome.key, inline.key])) == {outcome.key, inline.key}
    assert bytes(tiered.read_result(outcome.result.digest, 3) or b"") == b"[1]"
    assert tiered.copy_file(digest_of(b"blob"), tmp_path / "blob")

    assert near.read_records([outcome.key, inline.key]) == {}
    assert near.has_results([outcome.result.digest, digest_of(b"blob")]) == frozenset()


def test_an_untrusted_tier_cannot_answer_for_a_trusted_record(near: Gate) -> None:
    """The local record is a pickle whose bytes were lost; the remote one offers bytes under its
    digest, with a harmless record to go with them. They are not returned."""
    foreign = Foreign()
    victim = make_variant(1, payload=b"pickled")
    lure = replace(
        make_variant(2, serializer="json"), result=replace(victim.result, serializer="json")
    )
    near.write_records([victim])
    store(foreign, lure, b"pickled")
    tiered = Tiered([Tier(near), Tier(foreign)])

    assert set(tiered.read_records([victim.key, lure.key])) == {victim.key, lure.key}
    assert tiered.read_result(victim.result.digest, victim.result.size) is None


def test_an_untrusted_tier_returns_no_pickles(near: Gate) -> None:
    """Even if someone forgot to put Signed or Unsigned around it."""
    foreign = Foreign()
    variant = make_variant(1, inline=True)
    foreign.write_records([variant])
    tiered = Tiered([Tier(near), Tier(foreign)])

    assert tiered.trusted
    assert tiered.read_records([variant.key]) == {}
    assert tiered.recent([str(variant.identity)]) == {}


def test_tiers_that_are_all_untrusted_are_untrusted_together() -> None:
    """There is no trust to be had from a shared directory behind another."""
    assert not Tiered([Tier(Foreign()), Tier(Foreign())]).trusted


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_uploads_nothing_of_its_parent(near: Gate, far: Gate) -> None:
    """What waits belongs to the parent, which uploads it once; the child does not hang."""
    far.open.clear()
    tiered = Tiered([Tier(near), Tier(far)])
    tiered.write_records([make_variant(1, inline=True)])
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            drained = tiered.drain(20.0)
            code = 0 if drained.uploaded == drained.left == drained.failed == 0 else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    far.open.set()
    assert tiered.drain(20.0).uploaded == 1


def test_many_threads_write_and_read_at_once(near: Gate, far: Gate) -> None:
    """Nothing is lost or doubled."""
    tiered = Tiered([Tier(near), Tier(far)])
    failures: list[BaseException] = []

    def work(first: int) -> None:
        try:
            for number in range(first, first + 20):
                variant = make_variant(number, payload=b"value %d" % number)
                store(tiered, variant, b"value %d" % number)
                assert tiered.read_records([variant.key]) == {variant.key: (variant,)}
                assert tiered.read_result(variant.result.digest, variant.result.size)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(1000 * n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert not failures
    assert tiered.drain(20.0).uploaded == 80
