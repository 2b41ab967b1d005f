"""Records in local storage: what is written is read, once, by everyone, newest first."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from local_samples import digest_of, result_of, trace_of, variant_of

from pytest_taskcache.model.dependency import Dependency, Kind, Trace
from pytest_taskcache.model.key import Identity, Part
from pytest_taskcache.model.record import VARIANTS
from pytest_taskcache.ports import Storage
from pytest_taskcache.storage.local import LocalStorage


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def storage(directory: Path) -> Iterator[LocalStorage]:
    storage = LocalStorage(directory)
    yield storage
    storage.close()


@pytest.fixture
def other(directory: Path) -> Iterator[LocalStorage]:
    """Another object on the same directory, as another process would have."""
    storage = LocalStorage(directory)
    yield storage
    storage.close()


def test_it_plays_both_roles(storage: LocalStorage) -> None:
    """The default storage is a whole one."""
    assert isinstance(storage, Storage)


def test_every_field_survives(storage: LocalStorage, other: LocalStorage) -> None:
    """Nothing of a record is lost, also where it is odd."""
    plain = variant_of("plain")
    odd = replace(
        variant_of("odd key: \udc80 ✓", result=result_of(b"payload", inline=False, blobs=[b"x"])),
        identity=Identity("a::b.py", "f::g"),
        trace=Trace((Dependency(Kind.ENVIRONMENT, "A\udcff", "absent"),), "t"),
        expires=5.0,
        vouched=True,
        signature="sig",
        versions=(),
        parts=(),
    )
    empty = replace(variant_of("empty"), trace=Trace(), result=result_of(b""))
    storage.write_records([plain, odd, empty])
    for reader in (storage, other):
        found = reader.read_records([plain.key, odd.key, empty.key, "unknown"])
        assert found == {plain.key: (plain,), odd.key: (odd,), empty.key: (empty,)}


def test_a_trace_without_digest_keeps_its_dependencies(
    storage: LocalStorage, other: LocalStorage
) -> None:
    """Two traces that nobody named are not taken for one another."""
    one = variant_of("one", trace=replace(trace_of("a"), digest=""))
    two = variant_of("two", trace=replace(trace_of("b"), digest=""))
    storage.write_records([one, two])
    assert other.read_records(["one", "two"]) == {"one": (one,), "two": (two,)}


def test_newest_first_and_sixteen_at_most(storage: LocalStorage, other: LocalStorage) -> None:
    """Switching between a few branches goes on hitting; a key does not grow without end."""
    variants = [variant_of("k", number) for number in range(VARIANTS + 4)]
    for variant in variants[::2] + variants[1::2]:
        storage.write_records([variant])
    expected = tuple(reversed(variants[-VARIANTS:]))
    assert storage.read_records(["k"]) == {"k": expected}
    assert other.read_records(["k"]) == {"k": expected}
    assert storage.statistics().variants == VARIANTS


def test_writing_twice_changes_nothing(storage: LocalStorage) -> None:
    """A retried commit is harmless, and a variant never changes."""
    variant = variant_of("k")
    storage.write_records([variant])
    storage.write_records([replace(variant, duration=99.0), variant])
    assert storage.read_records(["k"]) == {"k": (variant,)}


def test_others_see_a_commit_at_once(storage: LocalStorage, other: LocalStorage) -> None:
    """A lookup that was a miss a moment ago finds what another process committed meanwhile."""
    assert other.read_records(["k"]) == {}
    storage.write_records([variant_of("k")])
    assert other.read_records(["k"]) == {"k": (variant_of("k"),)}
    storage.write_records([variant_of("k", 1)])
    assert other.read_records(["k"])["k"] == (variant_of("k", 1), variant_of("k"))
    storage.remove_records(["k-0001", "never there"])
    assert other.read_records(["k"]) == storage.read_records(["k"]) == {"k": (variant_of("k"),)}


def test_own_writes_are_seen_at_once(storage: LocalStorage) -> None:
    """The same for what this process itself committed or removed."""
    assert storage.read_records(["k"]) == {}
    storage.write_records([variant_of("k")])
    assert storage.read_records(["k"]) == {"k": (variant_of("k"),)}
    storage.remove_records(["k-0000"])
    assert storage.read_records(["k"]) == {}


def test_thousands_of_keys_at_once(storage: LocalStorage, other: LocalStorage) -> None:
    """A whole collection is prefetched in one call."""
    variants = [variant_of(f"k{number}") for number in range(3000)]
    storage.write_records(variants)
    found = other.read_records([variant.key for variant in variants] + ["unknown"])
    assert len(found) == 3000
    assert found["k2999"] == (variants[2999],)


def test_equal_traces_are_one_object(storage: LocalStorage, other: LocalStorage) -> None:
    """What many tests share is verified once, and held in memory once."""
    storage.write_records(
        [variant_of("a"), variant_of("b"), variant_of("c", trace=trace_of("a.txt"))]
    )
    found = other.read_records(["a", "b"])
    (a,), (b,) = found["a"], found["b"]
    assert a.trace is b.trace
    assert a.parts[0] is b.parts[0]
    ((late,),) = other.read_records(["c"]).values()
    assert late.trace.dependencies[0] is a.trace.dependencies[0]


def test_recent_finds_the_newest_of_an_identity(storage: LocalStorage) -> None:
    """A miss under a new key is explained by the last record of the same computation."""
    storage.write_records([variant_of("old", 1), variant_of("new", 2), variant_of("x", name="f")])
    assert storage.recent(["src/app.py::build", "src/app.py::gone"]) == {
        "src/app.py::build": variant_of("new", 2)
    }


def test_all_records_are_listed(storage: LocalStorage) -> None:
    """What is cached can be looked at."""
    storage.write_records([variant_of("a", 1), variant_of("b", 2)])
    assert storage.all_records() == [variant_of("b", 2), variant_of("a", 1)]


def test_a_test_with_300_dependencies_costs_about_a_kilobyte(storage: LocalStorage) -> None:
    """Ten thousand tests of a project make an index of megabytes, not gigabytes."""
    shared = [Dependency(Kind.FUNCTION, f"src/m{i}.py::f", digest_of(str(i))) for i in range(310)]
    parts = tuple(Part(f"setting {i}", digest_of(f"s{i}")) for i in range(30))
    variants = []
    for number in range(400):
        own = Dependency(Kind.FUNCTION, f"tests/t.py::test_{number}", digest_of(f"t{number}"))
        # Neighbours use most of the same code, but not all of it.
        used = [item for place, item in enumerate(shared) if (place + number) % 31]
        trace = Trace(tuple(sorted([*used, own])), digest_of(f"trace{number}"))
        variants.append(replace(variant_of(f"k{number}", trace=trace), parts=parts))
    storage.write_records(variants)
    storage.close()
    assert (storage.directory / "index.sqlite3").stat().st_size / 400 < 1300


@pytest.mark.parametrize(
    ("table", "column"),
    [
        ("variants", "body"),
        ("variants", "inline"),
        ("variants", "created"),
        ("variants", "trace"),
        ("traces", "atoms"),
        ("atoms", "id"),
        ("atoms", "kind"),
    ],
)
def test_damaged_rows_read_as_absent(
    directory: Path, storage: LocalStorage, table: str, column: str
) -> None:
    """A record that is not what was written is a miss, and its neighbours are still there."""
    storage.write_records([variant_of("bad")])
    storage.close()
    with sqlite3.connect(directory / "index.sqlite3") as connection:
        damage = {"body": "zeroblob(40)", "inline": "x'00'", "atoms": "zeroblob(30)"}
        value = damage.get(column, f"{column} || '9'" if column == "kind" else f"{column} + 900")
        connection.execute(f"UPDATE {table} SET {column} = {value}")
    connection.close()
    good = variant_of("good", trace=trace_of("c.txt"))
    storage.write_records([good])
    assert storage.read_records(["bad", "good"]) == {"good": (good,)}


def test_each_flipped_bit_of_a_row_is_noticed(directory: Path, storage: LocalStorage) -> None:
    """A wrong value is never served: most caches have no checksum."""
    storage.write_records([variant_of("k", result=result_of(b"value"))])
    storage.close()
    connection = sqlite3.connect(directory / "index.sqlite3")
    (body,) = connection.execute("SELECT body FROM variants").fetchone()
    for position in range(0, len(body), 7):
        damaged = bytearray(body)
        damaged[position] ^= 4
        connection.execute("UPDATE variants SET body = ?", (bytes(damaged),))
        connection.commit()
        assert storage.read_records(["k"]) == {}
    connection.execute("UPDATE variants SET body = ?", (body,))
    connection.commit()
    connection.close()
    assert storage.read_records(["k"]) == {"k": (variant_of("k", result=result_of(b"value")),)}
