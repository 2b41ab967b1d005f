"""Traces that are kept by where they differ from others."""

from __future__ import annotations

import random
import sqlite3
from pathlib import Path

import pytest
from pytest_taskcache.observation.traces import digest_of

from pytest_taskcache.model.dependency import Dependency, Kind, Trace
from pytest_taskcache.model.key import Identity
from pytest_taskcache.model.record import Result, Variant
from pytest_taskcache.storage.local.deltas import Base, added_by, applied
from pytest_taskcache.storage.local.storage import LocalStorage


def _variant(number: int, trace: Trace, expires: float | None = None) -> Variant:
    return Variant(
        id=f"v{number:03}",
        key=f"k{number}",
        identity=Identity("test_a.py", f"test_{number}"),
        parts=(),
        trace=trace,
        result=Result("d", 1, "json", b"1"),
        created=float(number),
        expires=expires,
        duration=0.1,
        producer="",
    )


def _trace(names: set[int]) -> Trace:
    found = tuple(
        sorted(Dependency(Kind.FUNCTION, f"m.py::f{name:04}", f"d{name}") for name in names)
    )
    return Trace(found, digest_of(found))


def test_edits_make_the_list_again() -> None:
    """Whatever goes and comes, at either end or in the middle, the list is as it was; where the
    order of what is shared differs, or little is shared, no edits are offered."""
    dice = random.Random(7)
    base = sorted(dice.sample(range(10_000), 400))
    kept = Base(base)
    for _ in range(200):
        gone = set(dice.sample(base, dice.randrange(20)))
        fresh = set(dice.sample(range(10_000), dice.randrange(20)))
        ids = sorted((set(base) - gone) | fresh)
        edits = kept.edits_to(ids)
        assert edits is not None
        assert applied(base, edits, added_by(edits)) == tuple(ids)
    assert kept.edits_to(base[::-1]) is None
    assert kept.edits_to(list(range(20_000, 20_100))) is None


@pytest.mark.parametrize(
    "edits", [[], [1], [-1], [1, 400], [1, -1], [0, 1], [2, 0, 1, 5], [0, 900, 7]]
)
def test_numbers_that_are_no_edits_make_nothing(edits: list[int]) -> None:
    """A damaged row reads as absent, never as another trace."""
    assert applied(list(range(3)), edits, added_by(edits)) is None


def test_traces_that_share_most_take_little_and_come_back_whole(tmp_path: Path) -> None:
    """A hundred tests that differ in a few of a thousand dependencies: each comes back exactly,
    in another process's view too, and takes less than a tenth of a byte per dependency."""
    dice = random.Random(3)
    common = set(range(1000))
    traces = [_trace(common - {n} | {2000 + n, 3000 + dice.randrange(99)}) for n in range(100)]
    storage = LocalStorage(tmp_path / "cache")
    storage.write_records([_variant(n, trace) for n, trace in enumerate(traces)])
    storage.close()
    with sqlite3.connect(tmp_path / "cache" / "index.sqlite3") as connection:
        sizes = [s for (s,) in connection.execute("SELECT length(atoms) FROM traces")]
    assert sum(sizes) / len(sizes) < 100
    again = LocalStorage(tmp_path / "cache")
    found = again.read_records([f"k{n}" for n in range(100)])
    for number, trace in enumerate(traces):
        (variant,) = found[f"k{number}"]
        assert variant.trace.dependencies == trace.dependencies
        assert variant.trace.digest == trace.digest


def test_a_base_stays_as_long_as_a_trace_is_told_from_it(tmp_path: Path) -> None:
    """When the record that first had the trace goes, those that differ from it a little can
    still be read, and are gone for good only with their own records."""
    storage = LocalStorage(tmp_path / "cache")
    first, second = _trace(set(range(500))), _trace({*range(1, 500), 700})
    storage.write_records([_variant(1, first, expires=1.0), _variant(2, second)])
    storage.prune(full=True)
    storage.close()
    again = LocalStorage(tmp_path / "cache")
    found = again.read_records(["k1", "k2"])
    assert set(found) == {"k2"}
    assert found["k2"][0].trace.dependencies == second.dependencies
    third = _trace({*range(2, 500), 701})
    again.write_records([_variant(3, third)])
    again.remove_records(["v002"])
    again.prune(full=True)
    again.close()
    last = LocalStorage(tmp_path / "cache")
    assert last.read_records(["k3"])["k3"][0].trace.dependencies == third.dependencies
    last.clear()
    assert last.statistics().traces == 0
