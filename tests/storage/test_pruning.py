"""Shared stores are pruned: by age, by size, by use; and never more than that."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy
from servers import Server, free_port, postgres_server, redis_server

from pytest_taskcache.errors import ConfigurationError, StorageError
from pytest_taskcache.model.dependency import Blob, Trace
from pytest_taskcache.model.record import VARIANTS, Variant
from pytest_taskcache.storage.remote.location import parse_location, storage_by_url
from pytest_taskcache.storage.remote.pruning import Removed, Retention, prune, prune_if_due
from pytest_taskcache.storage.remote.store import PART, RemoteStore
from pytest_taskcache.testing.storages import a_variant, bytes_in, digest_of, fresh_key

HOUR, DAY = 3600.0, 86400.0


@pytest.fixture(scope="module")
def redis() -> Iterator[Server]:
    with redis_server() as server:
        yield server


@pytest.fixture(scope="module")
def postgres() -> Iterator[Server]:
    with postgres_server() as server:
        yield server


def opened(url: str) -> RemoteStore:
    store = storage_by_url(url)
    assert isinstance(store, RemoteStore)
    return store


@pytest.fixture(params=["file", "sqlite", "postgres", "redis"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RemoteStore]:
    """An empty store of each kind."""
    fresh = uuid.uuid4().hex
    if request.param == "postgres":
        url = request.getfixturevalue("postgres").url
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{fresh}"')
        url = f"{url.rpartition('/')[0]}/{fresh}"
    elif request.param == "redis":
        url = f"{request.getfixturevalue('redis').url}?prefix={fresh}"
    else:
        url = f"{request.param}:///{tmp_path}/x"
    made = opened(url)
    yield made
    made.close()


def time_goes_by(store: RemoteStore, seconds: float) -> None:
    """All that is there was written that much earlier."""
    blobs: Any = store.blobs
    scheme, _, rest = store.describe().partition("://")
    if scheme == "file":
        for path in Path(rest).rglob("*"):
            when = path.stat().st_mtime - seconds
            os.utime(path, (when, when))
    elif scheme == "redis":
        client = blobs._connected()
        for name in client.scan_iter(f"{blobs._folder}*"):
            for member in client.zrange(name, 0, -1):
                client.zincrby(name, -seconds, member)
    else:
        with blobs._connected().begin() as connection:
            text = f"UPDATE taskcache_blobs SET modified = modified - {seconds}"
            connection.execute(sqlalchemy.text(text))


def keep(store: RemoteStore, data: bytes, key: str = "", **changes: Any) -> Variant:
    """A record whose result lies beside it."""
    store.write_result(digest_of(data), [data])
    variant = a_variant(key or None)
    result = replace(variant.result, digest=digest_of(data), size=len(data), inline=None, blobs=())
    variant = replace(variant, result=result, expires=None, **changes)
    store.write_records([variant])
    return variant


def names(store: RemoteStore) -> set[str]:
    """All blobs but the marks."""
    return {one.name for root in ("records", "results") for one in store.blobs.list(root)}


def test_nothing_goes_without_a_reason(store: RemoteStore) -> None:
    """Records within the limits, their results and the parts of their traces stay."""
    part = b"a shared part"
    store.write_result(digest_of(part), [part])
    trace = Trace((), "t", (Blob(digest_of(part), len(part)),))
    variant = keep(store, os.urandom(2 * PART + 5), trace=trace)
    before = names(store)
    time_goes_by(store, 2 * DAY)

    pruned = prune(store, Retention(unused=3 * DAY, older_than=3 * DAY, max_size=10**9))

    assert (pruned.records, pruned.results, pruned.freed) == (0, 0, 0)
    assert pruned.left > 2 * PART
    assert names(store) == before
    assert store.read_records([variant.key]) == {variant.key: (variant,)}


def test_results_without_a_record_go_after_a_while(store: RemoteStore) -> None:
    """What a writer that died has left, all parts of it; but not what has just been written, as
    its record may be on its way."""
    data = os.urandom(PART + 5)
    store.write_result(digest_of(data), [data])
    assert prune(store, Retention()) == Removed()
    assert bytes_in(store, digest_of(data), len(data)) == data
    time_goes_by(store, 2 * HOUR)

    pruned = prune(store, Retention())

    assert (pruned.records, pruned.results, pruned.freed) == (0, 1, len(data))
    assert names(store) == set()


def test_age(store: RemoteStore) -> None:
    """What was written longer ago than allowed goes, with its result unless another record names
    it."""
    old, shared = keep(store, b"old"), keep(store, b"shared")
    time_goes_by(store, 2 * DAY)
    new = keep(store, b"shared")

    pruned = prune(store, Retention(older_than=DAY))

    assert (pruned.records, pruned.results) == (2, 1)
    assert store.read_records([v.key for v in (old, shared, new)]) == {new.key: (new,)}
    assert bytes_in(store, digest_of(b"shared"), 6) == b"shared"
    assert bytes_in(store, digest_of(b"old"), 3) is None
    assert store.recent([str(old.identity)]) == {}


def test_size_takes_what_is_oldest_first(store: RemoteStore) -> None:
    """Until the rest fits: records and results count, shared results once."""
    variants = []
    for number in range(5):
        variants.append(keep(store, bytes([number]) * 100_000))
        time_goes_by(store, 2 * HOUR)
    twin = keep(store, bytes([4]) * 100_000)

    pruned = prune(store, Retention(max_size=250_000))

    assert (pruned.records, pruned.results) == (3, 3)
    assert 200_000 < pruned.left <= 250_000
    left = store.read_records([v.key for v in (*variants, twin)])
    assert left == {v.key: (v,) for v in (*variants[3:], twin)}
    for number in (3, 4):
        assert bytes_in(store, digest_of(bytes([number]) * 100_000), 100_000)


def test_what_was_used_stays(store: RemoteStore) -> None:
    """However old it is, as long as a writing run says that it had use for it; that counts as
    long as an entry does."""
    used, unused = keep(store, b"used"), keep(store, b"unused")
    time_goes_by(store, 8 * DAY)
    store.mark_used([used.id, "of another store"])
    time_goes_by(store, 2 * DAY)

    assert prune(store, Retention(unused=7 * DAY)).records == 1

    assert store.read_records([used.key, unused.key]) == {used.key: (used,)}
    time_goes_by(store, 6 * DAY)
    assert prune(store, Retention(unused=7 * DAY)).records == 1
    assert names(store) == set()
    assert len(list(store.blobs.list("marks"))) == 1


def test_size_spares_what_was_used(store: RemoteStore) -> None:
    """What nobody had use for goes first, even if it is newer."""
    used = keep(store, b"u" * 100_000)
    time_goes_by(store, DAY)
    unused = keep(store, b"n" * 100_000)
    time_goes_by(store, DAY)
    store.mark_used([used.id])

    prune(store, Retention(max_size=150_000))

    assert store.read_records([used.key, unused.key]) == {used.key: (used,)}


def test_what_nobody_is_offered_goes(store: RemoteStore) -> None:
    """What has expired, and variants that newer ones pushed out."""
    key = fresh_key()
    for number in range(VARIANTS + 3):
        keep(store, b"%d" % number, key)
    newest = store.read_records([key])[key]
    expired = a_variant(expires=1_700_000_000.0)
    store.write_records([expired])

    assert prune(store, Retention()).records == 4

    assert {v.id for v in store.scan()} == {v.id for v in newest}


def test_it_is_done_once_a_day(store: RemoteStore) -> None:
    """By whoever comes first; the others see that it was done."""
    keep(store, b"old")
    time_goes_by(store, 3 * DAY)
    limits = Retention(older_than=DAY)

    assert prune_if_due(store, limits).records == 1
    keep(store, b"old")
    time_goes_by(store, 3 * DAY)
    assert prune_if_due(store, limits) == Removed()

    store.blobs.put("marks/pruned", b"1000000000.5")
    assert prune_if_due(store, limits).records == 1
    store.blobs.put("marks/pruned", b"not a time")
    assert prune_if_due(store, limits).records == 0


def test_results_elsewhere(tmp_path: Path) -> None:
    """Where the results lie in another store, what the removed records named goes, and nothing
    that other people's records may name."""
    records, results = opened(f"sqlite:///{tmp_path}/r.db"), opened(f"file://{tmp_path}/results")
    results.write_result(digest_of(b"theirs"), [b"theirs"])
    for data, age in ((b"old", 2 * DAY), (b"new", 0.0)):
        variant = keep(records, data)
        results.write_result(digest_of(data), [data])
        time_goes_by(records, age)
        time_goes_by(results, age)

    pruned = prune(records, Retention(older_than=DAY), results)

    assert (pruned.records, pruned.results) == (1, 1)
    left = [digest_of(data) for data in (b"theirs", b"new")]
    assert results.has_results([*left, digest_of(b"old")]) == set(left)
    assert list(records.scan()) == [variant]


def test_foreign_and_damaged_records(tmp_path: Path) -> None:
    """What is no record goes once it is old; what lies elsewhere is nobody's business."""
    store = opened(f"file://{tmp_path}/x")
    variant = keep(store, b"good")
    folder = next(tmp_path.glob("x/records/*/*"))
    (folder / "torn.json").write_bytes(b"{")
    (folder / "README").write_text("hello")
    assert prune(store, Retention()).records == 0
    time_goes_by(store, 2 * HOUR)

    assert prune(store, Retention()).records == 1

    assert {path.name for path in folder.iterdir()} == {f"{variant.id}.json", "README"}


def test_dead_server_is_a_storage_error() -> None:
    """Pruning that fails is told like everything else."""
    with pytest.raises(StorageError, match="connection refused"):
        prune_if_due(opened(f"redis://127.0.0.1:{free_port()}/0"), Retention())


@pytest.mark.parametrize(
    ("options", "limits"),
    [
        ("", Retention(unused=30 * DAY)),
        ("?older_than=90d", Retention(older_than=90 * DAY)),
        ("?unused=1w&max_size=20GB", Retention(unused=7 * DAY, max_size=20 * 10**9)),
        ("?max_size=1.5mb&region=x", Retention(max_size=1_500_000)),
        ("?max_size=1000", Retention(max_size=1000)),
    ],
)
def test_limits_are_options_of_the_url(options: str, limits: Retention) -> None:
    """Any URL may say them; where none does, what nobody had use for for a month goes."""
    assert Retention.of(parse_location(f"s3://bucket/x{options}")) == limits
    storage_by_url(f"s3://bucket/x{options}")


@pytest.mark.parametrize("option", ["max_size=much", "older_than=soon", "unused=0"])
def test_impossible_limits_are_usage_errors(option: str) -> None:
    """Nothing is pruned by a guess."""
    with pytest.raises(ConfigurationError, match=option.partition("=")[0]):
        Retention.of(parse_location(f"s3://bucket/x?{option}"))
