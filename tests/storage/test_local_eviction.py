"""Eviction keeps the cache under its size, and takes nothing that anyone relies on."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from local_samples import digest_of, result_of, trace_of, variant_of

from pytest_taskcache.model.decision import Why
from pytest_taskcache.model.dependency import Blob
from pytest_taskcache.model.record import Variant
from pytest_taskcache.storage.local import LocalStorage
from pytest_taskcache.transactions.staging import Entry, Run, Staging


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def storage(directory: Path) -> Iterator[LocalStorage]:
    storage = LocalStorage(directory, max_size=1_000_000)
    yield storage
    storage.close()


def keep(storage: LocalStorage, key: str, data: bytes, **fields: object) -> Variant:
    """Stores a value in a result file, with its record."""
    storage.write_result(digest_of(data), [data])
    variant = replace(variant_of(key, result=result_of(data, inline=False)), **fields)
    storage.write_records([variant])
    return variant


def unpin(storage: LocalStorage) -> None:
    """As if an hour had passed, or the run that wrote had ended."""
    storage.close()
    with sqlite3.connect(storage.directory / "index.sqlite3") as connection:
        connection.execute("DELETE FROM pins")
    connection.close()


def has(storage: LocalStorage, *variants: Variant) -> list[bool]:
    records = storage.read_records([variant.key for variant in variants])
    files = storage.has_results([variant.result.digest for variant in variants])
    found = [variant.key in records for variant in variants]
    assert found == [variant.result.digest in files for variant in variants]
    return found


def test_least_recently_used_go_first(storage: LocalStorage) -> None:
    """What the last sessions used stays; `mark_used` is what counts as use."""
    a, b, c = (keep(storage, key, os.urandom(400_000)) for key in "abc")
    unpin(storage)
    storage.mark_used([a.id])
    assert storage.size() > 1_200_000
    pruned = storage.prune()
    assert (pruned.variants, pruned.files, pruned.bytes) == (1, 1, 400_000)
    assert has(storage, a, b, c) == [True, False, True]
    assert storage.size() <= 1_000_000
    assert storage.prune().variants == 0


def test_inline_values_count_too(storage: LocalStorage) -> None:
    """A cache of nothing but small values is bounded as well."""
    variants = [variant_of(f"k{n}", result=result_of(os.urandom(4000))) for n in range(400)]
    storage.write_records(variants)
    assert storage.size() > 1_000_000
    storage.prune()
    assert 800_000 < storage.size() <= 1_000_000


def test_what_is_pinned_stays(storage: LocalStorage) -> None:
    """A run under way loses nothing that it wrote, however small the limit."""
    storage.max_size = 10
    kept = keep(storage, "k", os.urandom(1000))
    storage.prune(full=True)
    assert has(storage, kept) == [True]
    unpin(storage)
    storage.prune()
    assert has(storage, kept) == [False]


def test_a_result_shared_by_two_records_goes_with_the_last(storage: LocalStorage) -> None:
    """Equal values are stored once; pruning one record leaves the other's value."""
    data = os.urandom(1000)
    one, two = keep(storage, "one", data), keep(storage, "two", data)
    unpin(storage)
    storage.remove_records([one.id])
    storage.prune(full=True)
    assert storage.read_result(two.result.digest, 1000) == data
    storage.remove_records([two.id])
    storage.prune(full=True)
    assert storage.read_result(two.result.digest, 1000) is None


def test_the_files_of_a_tree_stay_with_it(storage: LocalStorage) -> None:
    """The blobs that a result refers to live and die with its record."""
    blob = os.urandom(2000)
    storage.write_result(digest_of(blob), [blob])
    variant = variant_of("tree", result=result_of(b"{}", blobs=[blob]))
    storage.write_records([variant])
    unpin(storage)
    storage.prune(full=True)
    assert storage.has_results([digest_of(blob)])
    storage.remove_records([variant.id])
    storage.prune(full=True)
    assert not storage.has_results([digest_of(blob)])


def test_expired_records_go(storage: LocalStorage) -> None:
    """What can never hit again takes no space."""
    old = keep(storage, "old", os.urandom(100), expires=time.time() - 1)
    new = keep(storage, "new", os.urandom(100), expires=time.time() + 1000)
    unpin(storage)
    assert storage.prune().variants == 1
    assert has(storage, old, new) == [False, True]


def test_unreferenced_and_orphaned_files_go(storage: LocalStorage, directory: Path) -> None:
    """Values of rolled-back transactions and of killed writers do not pile up."""
    dropped = b"dropped".ljust(9000)
    storage.write_result(digest_of(dropped), [dropped])
    storage.write_result(digest_of(b"small"), [b"small"])
    orphan, young = directory / "tmp" / "1-orphan", directory / "tmp" / "1-young"
    orphan.write_bytes(b"half")
    young.write_bytes(b"half")
    os.utime(orphan, (time.time() - 7200, time.time() - 7200))
    unpin(storage)
    pruned = storage.prune(full=True)
    assert (pruned.files, pruned.bytes) == (2, 9005)
    assert not storage.has_results([digest_of(dropped), digest_of(b"small")])
    assert not orphan.exists()
    assert young.exists()


def test_staged_values_stay(storage: LocalStorage) -> None:
    """A value that a running test computed is not evicted before its test has ended."""
    data = os.urandom(1000)
    storage.write_result(digest_of(data), [data])
    staging = Staging(storage, Run("run", 1.0))
    staging.stage(Entry(variant_of("k", result=result_of(data, inline=False)), "t"), "t")
    unpin(storage)
    storage.max_size = 0
    storage.prune(full=True)
    assert storage.read_result(digest_of(data), 1000) == data
    staging.end()
    storage.prune(full=True)
    assert storage.read_result(digest_of(data), 1000) is None


def test_traces_of_the_dead_are_forgotten(storage: LocalStorage, directory: Path) -> None:
    """The index shrinks with what it describes, and a writer in another process notices."""
    other = LocalStorage(directory)
    first = variant_of("first", trace=trace_of("shared", "only first"))
    storage.write_records([first])
    other.write_records([variant_of("second", trace=trace_of("shared", "only second"))])
    assert other.statistics().traces == 2
    storage.remove_records([first.id, "second-0000"])
    storage.prune(full=True)
    assert other.statistics().traces == 0
    again = variant_of("again", trace=trace_of("shared", "only second"))
    other.write_records([again])
    storage.write_records([first])
    fresh = LocalStorage(directory)
    for reader in (storage, other, fresh):
        found = reader.read_records(["first", "again"])
        assert found == {"first": (first,), "again": (again,)}
        reader.close()


@pytest.mark.parametrize("size", [100, 20_000], ids=["row", "file"])
def test_what_a_trace_uses_lives_as_long_as_it(storage: LocalStorage, size: int) -> None:
    """The shared parts of traces go with the last record that has such a trace, not before."""
    log = os.urandom(size)
    trace = replace(trace_of("a"), uses=(Blob(digest_of(log), size),))
    storage.write_result(digest_of(log), [log])
    variants = [variant_of(key, trace=trace) for key in ("one", "two")]
    storage.write_records(variants)
    unpin(storage)
    assert storage.size() > size
    for variant in variants:
        storage.prune(full=True)
        assert storage.read_result(digest_of(log), size) == log
        fresh = LocalStorage(storage.directory)
        assert fresh.read_records([variant.key])[variant.key][0].trace == trace
        fresh.close()
        storage.remove_records([variant.id])
    storage.prune(full=True)
    assert storage.read_result(digest_of(log), size) is None
    assert storage.size() == 0


def test_old_and_unused_records_can_be_pruned(storage: LocalStorage) -> None:
    """By the time they were made, or last of use; the others stay."""
    now = time.time()
    old = keep(storage, "old", os.urandom(100), created=now - 1000)
    new = keep(storage, "new", os.urandom(100), created=now)
    used = keep(storage, "used", os.urandom(100), created=now)
    unpin(storage)
    assert storage.prune(older_than=500).variants == 1
    assert has(storage, old, new, used) == [False, True, True]
    storage.index.write("age", lambda c: c.execute("UPDATE variants SET used = used - 500"))
    storage.mark_used([used.id])
    assert storage.prune(unused=200).variants == 1
    assert has(storage, new, used) == [False, True]
    assert storage.prune(max_size=0).variants == 1
    assert has(storage, used) == [False]


def test_why_a_record_is_gone_is_told(storage: LocalStorage) -> None:
    """An eviction is not "never computed"."""
    now = time.time()
    for name, fields in {
        "evicted": {"created": now - 10},
        "expired": {"created": now, "expires": now - 1},
        "pruned": {"created": now - 1000},
        "cleared": {"created": now},
        "removed": {"created": now},
    }.items():
        variant = replace(variant_of(name, name=name), **fields)
        storage.write_records([variant])
        if name == "removed":
            storage.remove_records([variant.id])
        elif name == "cleared":
            assert storage.clear().variants == 1
        elif name == "pruned":
            storage.prune(older_than=500)
        else:
            storage.prune(max_size=0 if name == "evicted" else None)
    names = ["evicted", "expired", "pruned", "cleared", "removed", "never"]
    found = [storage.gone(f"src/app.py::{name}") for name in names]
    assert found == [Why.EVICTED, Why.EXPIRED, Why.PRUNED, Why.CLEARED, Why.CLEARED, None]


def test_when_records_were_last_of_use_is_told(storage: LocalStorage) -> None:
    """A user can see what nobody needed for long."""
    a, b = variant_of("a"), variant_of("b")
    storage.write_records([a, b])
    storage.index.write("age", lambda c: c.execute("UPDATE variants SET used = 5.0"))
    assert storage.last_uses() == {a.id: 5.0, b.id: 5.0}
    storage.mark_used([b.id])
    assert storage.last_uses()[b.id] > 5.0


def test_a_rolled_back_write_leaves_no_false_memory(storage: LocalStorage) -> None:
    """Ids that were given out in a transaction that failed are not used by the next one."""
    good = variant_of("good", trace=trace_of("x", "y"))
    bad = replace(variant_of("bad", trace=trace_of("p", "q")), created="no time")
    with pytest.raises(ValueError, match="no time"):
        storage.write_records([replace(good, id="other", trace=trace_of("p", "q")), bad])
    storage.write_records([good])
    late = variant_of("late", trace=trace_of("p", "q"))
    storage.write_records([late])
    storage.close()
    assert storage.read_records(["good", "late", "bad"]) == {"good": (good,), "late": (late,)}


def test_clear_forgets_all_but_what_runs_have_staged(
    storage: LocalStorage, directory: Path
) -> None:
    """`--cache-clear` empties the cache; a run in another terminal goes on undisturbed."""
    data, staged_data = os.urandom(1000), os.urandom(1000)
    old = keep(storage, "old", data)
    storage.shelf.write("digests", {"a": b"1"})
    unpin(storage)
    other = LocalStorage(directory, run="other")
    assert other.read_records(["old"])
    staging = Staging(other, Run("other", 1.0))
    other.write_result(digest_of(staged_data), [staged_data])
    fresh = variant_of("new", result=result_of(staged_data, inline=False))
    staging.stage(Entry(fresh, "t"), "t")

    assert storage.clear().variants == 1
    assert storage.statistics().variants == 0
    assert storage.shelf.read("digests") == {}
    assert other.read_records(["old"]) == {}
    assert other.read_result(old.result.digest, 1000) is None
    assert staging.claim([fresh.id], "u") == {fresh.id}
    assert other.read_result(fresh.result.digest, 1000) == staged_data
    other.write_records([old])
    assert storage.read_records(["old"]) == {"old": (old,)}
    other.close()


def test_statistics_count_what_is_there(storage: LocalStorage) -> None:
    """A user can see what the cache holds."""
    keep(storage, "a", b"one")
    keep(storage, "b", b"two")
    storage.write_records([variant_of("a", 7)])
    statistics = storage.statistics()
    assert (statistics.variants, statistics.traces) == (3, 1)
    assert (statistics.results, statistics.pins) == (2, 2)
    assert statistics.bytes == storage.size() > 0
    assert statistics.index_bytes > 0
