"""Records and results in places of their own."""

from __future__ import annotations

from pathlib import Path

import pytest
from bodies import ran, times

from pytest_taskcache import DEFAULT, INPUTS, Cache, CachePolicy, MemoryStorage, cached, transaction


def big(x):
    ran("big")
    return [x] * 20_000


@pytest.mark.parametrize("form", [str, Path])
@pytest.mark.parametrize("inside", [False, True], ids=["alone", "in a transaction"])
def test_key_storage_in_a_directory_of_its_own(closed, tmp_path, form, inside):
    """Records go there, results stay in the cache, also over many openings and prunings."""
    f = cached(policy=DEFAULT.configure(key_storage=form(tmp_path / "records")))(big)
    for _ in range(3):
        with closed:
            if inside:
                with transaction():
                    f(1)
            else:
                f(1)
            closed.engine.parts.local.prune(full=True)
    assert times("big") == 1
    assert (tmp_path / "records" / "index.sqlite3").exists()
    assert not list((tmp_path / "records").glob("results/*/*"))
    assert list((tmp_path / "cache").glob("results/*/*"))
    with closed:
        cached(policy=DEFAULT)(big)(1)
    assert times("big") == 2


def test_results_of_records_elsewhere_are_evicted_as_any(tmp_path, root):
    """The size limit holds for them too."""
    f = cached(policy=INPUTS.configure(key_storage=tmp_path / "records"))(big)
    with Cache(tmp_path / "c", root=root, max_size=100_000):
        for number in range(20):
            f(number)
    with Cache(tmp_path / "c", root=root, max_size=100_000) as cache:
        assert cache.engine.parts.local.size() <= 100_000
        assert f(0) == [0] * 20_000


@pytest.mark.parametrize("where", ["policy", "option"])
def test_result_storage_apart(closed, tmp_path, where):
    """By the policy or the function's own option."""
    place = tmp_path / "results"
    options = (
        {"policy": INPUTS.configure(result_storage=place)}
        if where == "policy"
        else {"policy": INPUTS, "result_storage": place}
    )
    f = cached(**options)(big)
    for _ in range(2):
        with closed:
            f(1)
    assert times("big") == 1
    assert list(place.glob("results/*/*"))


def test_objects(cache):
    """MemoryStorage objects, one for each role; each gets its own and no more."""
    records, results = MemoryStorage(), MemoryStorage()
    f = cached(policy=INPUTS + CachePolicy(key_storage=records, result_storage=results))(big)
    with transaction():
        f(1)
        assert not list(records.scan())
    f(1)
    assert times("big") == 1
    (record,) = list(records.scan())
    assert results.has_results([record.result.digest])
    assert not records.has_results([record.result.digest])
    assert not list(cache.engine.parts.local.scan())


def test_one_key_in_two_storages(cache):
    """A policy that keeps its records elsewhere does not see those kept here, staged ones
    neither."""
    elsewhere = CachePolicy(key_storage=MemoryStorage())
    here, there = cached(key="k")(big), cached(key="k", policy=elsewhere)(big)
    with transaction():
        here(1), there(1)
    here(1), there(1)
    assert times("big") == 2


def test_a_relative_path_lies_under_the_root(closed, root):
    """As in the ini file."""
    f = cached(policy=INPUTS.configure(key_storage="records"))(big)
    with closed:
        f(1)
    assert (root / "records" / "index.sqlite3").exists()


def test_two_storages_commit_each_its_own(cache):
    """One transaction, records for two places: each is whole."""
    one, two = MemoryStorage(), MemoryStorage()
    f = cached(policy=INPUTS.configure(key_storage=one))(big)
    g = cached(policy=INPUTS.configure(key_storage=two))(big)
    with transaction():
        f(1), f(2), g(1)
    assert len(list(one.scan())) == 2
    assert len(list(two.scan())) == 1
