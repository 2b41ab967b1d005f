"""Records in local storage: what is written is read, once, by everyone, newest first."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from local_samples import digest_of, result_of, trace_of, variant_of

from pytest_taskcache.model.decision import Why
from pytest_taskcache.model.dependency import Blob, Dependency, Kind, Trace
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
    fresh = variant_of("fresh", trace=replace(a.trace))
    other.write_records([fresh])
    ((late,),) = other.read_records(["fresh"]).values()
    assert late.trace is a.trace


def test_recent_finds_the_newest_of_an_identity(storage: LocalStorage) -> None:
    """A miss under a new key is explained by the last record of the same computation."""
    storage.write_records([variant_of("old", 1), variant_of("new", 2), variant_of("x", name="f")])
    assert storage.recent(["src/app.py::build", "src/app.py::gone"]) == {
        "src/app.py::build": variant_of("new", 2)
    }


def test_recent_stays_the_newest_where_an_older_one_is_written(storage: LocalStorage) -> None:
    """As a record that is fetched from elsewhere may be; what was looked up is remembered."""
    name = "src/app.py::build"
    assert storage.recent([name]) == {}
    storage.write_records([variant_of("new", 2)])
    storage.write_records([variant_of("old", 1)])
    assert storage.recent([name]) == {name: variant_of("new", 2)}
    storage.write_records([variant_of("newest", 3)])
    assert storage.recent([name]) == {name: variant_of("newest", 3)}


def test_all_records_are_scanned(storage: LocalStorage) -> None:
    """What is cached can be looked at, also where it does not fit into memory at once."""
    assert list(storage.scan()) == []
    variants = [variant_of(f"k{number}", number) for number in range(1201)]
    storage.write_records(variants)
    assert list(storage.scan()) == variants
    scan = storage.scan()
    assert next(scan) == variants[0]
    storage.remove_records([variants[1200].id])
    assert list(scan) == variants[1:1200]


def test_a_recorded_test_costs_less_than_a_kilobyte(storage: LocalStorage) -> None:
    """Ten thousand tests of a project make an index of megabytes, not gigabytes."""
    outcome = json.dumps(
        {"reports": [{"when": w, "duration": 0.0012} for w in ("setup", "call", "teardown")]}
    )
    variants = []
    for number in range(1000):
        # The tests of a file that ran one after the other share what they rest on.
        unit = number // 20
        names = [f"src/package/module_{i}.py" for i in range(unit % 7, 40)]
        uses = (Blob(digest_of(str(unit)), 5000),)
        trace = replace(trace_of(*names), uses=uses, digest=digest_of(f"trace {unit}"))
        test = f"tests/unit/test_module_{unit}.py::TestSomething::test_what_it_does[{number}]"
        variants.append(
            replace(
                variant_of(digest_of(test), trace=trace, result=result_of(outcome.encode())),
                id=f"18eb9ea852aef8dc-1a2184235c2559dd65d-14688-{number}",
                identity=Identity(*test.split("::", 1)),
                producer=test,
                inputs=(),
                parameters=(),
                parts=tuple(
                    Part(name, digest_of(f"{name} {number * name.startswith('in')}"))
                    for name in (
                        *("fixtures", "identity", "inputs.n", "inputs.x"),
                        *(f"option {i}" for i in range(5)),
                        *(f"plugin {i}" for i in range(10)),
                        *("python", "schema", "serializer", "source", "taskcache"),
                    )
                ),
            )
        )
    storage.write_records(variants)
    storage.close()
    assert (storage.directory / "index.sqlite3").stat().st_size / 1000 < 1000
    assert list(storage.scan()) == variants


# ----------------------------------------------------------------------------------- damage

ODD = {
    "a bit": "CAST(char(7) || substr({c}, 2) AS BLOB)",
    "nothing": "x''",
    "text": "'text'",
    "no UTF-8": "CAST(x'ff00fe' AS TEXT)",
    "a number": "17.5",
    "a great number": "9223372036854775807",
}
BELIEVED = [
    *(("variants", c) for c in ("id", "identity", "created", "expires", "inline", "body")),
    *(("variants", c) for c in ("trace", "common")),
    *(("shared", c) for c in ("id", "name", "body")),
]


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize(("table", "column"), BELIEVED)
def test_damaged_rows_are_misses_that_heal(
    directory: Path, table: str, column: str, odd: str
) -> None:
    """A record that is not what was written is a miss and a fault; it is computed again, once, and
    its neighbours are still there."""
    faults: list[str] = []
    storage = LocalStorage(directory, on_fault=faults.append)
    storage.write_records([variant_of("bad", expires=4e9)])
    storage.close()
    with sqlite3.connect(directory / "index.sqlite3") as connection:
        value = ODD[odd].format(c=column)
        try:
            connection.execute(f"UPDATE OR REPLACE {table} SET {column} = {value}")
        except sqlite3.IntegrityError:
            pytest.skip("SQLite does not take that")
    connection.close()
    good = variant_of("good", trace=trace_of("c.txt"))
    storage.write_records([good])
    assert storage.read_records(["bad", "good"]) == {"good": (good,)}
    assert set(faults) <= {"damaged row in the index", "corrupt index"} != set()
    again = variant_of("bad", 1)
    storage.write_records([again])
    storage.close()
    del faults[:]
    fresh = LocalStorage(directory, on_fault=faults.append)
    assert fresh.read_records(["bad", "good"]) == {"bad": (again,), "good": (good,)}
    assert sorted(v.key for v in fresh.scan()) == ["bad", "good"]
    assert len(fresh.last_uses()) == 2
    fresh.prune(full=True)
    fresh.clear()
    assert not faults
    fresh.close()


def test_a_trace_cannot_stand_in_for_another(directory: Path, storage: LocalStorage) -> None:
    """Rows that were swapped, each intact in itself, are noticed too."""
    one = variant_of("one", trace=trace_of("a"))
    two = variant_of("two", trace=trace_of("b"))
    storage.write_records([one, two])
    storage.close()
    with sqlite3.connect(directory / "index.sqlite3") as connection:
        ((a,), (b,)) = connection.execute("SELECT trace FROM variants").fetchall()
        for old, new in ((a, -1), (b, a), (-1, b)):
            connection.execute("UPDATE shared SET id = ? WHERE id = ?", (new, old))
    connection.close()
    assert storage.read_records(["one", "two"]) == {}


def test_whoever_writes_mends_a_damaged_trace(directory: Path, storage: LocalStorage) -> None:
    """A trace that many records share does not make all of them unreadable for good."""
    one, two = variant_of("one"), variant_of("two")
    storage.write_records([one])
    storage.close()
    with sqlite3.connect(directory / "index.sqlite3") as connection:
        connection.execute("UPDATE shared SET body = x'00'")
    connection.close()
    with_trace = LocalStorage(directory)
    with_trace.write_records([two])
    assert with_trace.read_records(["one", "two"]) == {"one": (one,), "two": (two,)}
    with_trace.close()


def test_a_damaged_record_is_told_as_removed(directory: Path, storage: LocalStorage) -> None:
    """The next miss of it can say why."""
    storage.write_records([variant_of("bad")])
    storage.close()
    with sqlite3.connect(directory / "index.sqlite3") as connection:
        connection.execute("UPDATE variants SET body = x'00'")
    connection.close()
    assert storage.recent(["src/app.py::build"]) == {}
    assert storage.gone("src/app.py::build") is Why.LOST


@pytest.mark.parametrize(
    "damage",
    [
        "DELETE FROM meta",
        "INSERT OR REPLACE INTO meta VALUES ('scanned', 'often'), ('token', x'ff')",
        "INSERT OR REPLACE INTO meta VALUES ('scanned', CAST(x'ff' AS TEXT)), ('token', 'x')",
        "INSERT OR REPLACE INTO meta VALUES ('scanned', 9e99), ('token', 2.5)",
        "UPDATE OR REPLACE pins SET digest = CAST(x'ff' AS TEXT), since = 'x'",
        "UPDATE refs SET digest = CAST(x'ff' AS TEXT), size = 'x'",
        "UPDATE variants SET used = 'never'",
        "PRAGMA user_version = 1",
        "DROP INDEX IF EXISTS variants_key",
    ],
)
def test_odd_settings_of_the_index_stop_nothing(directory: Path, damage: str) -> None:
    """Whatever was done to the index's own rows, reading, writing and pruning go on."""
    value = b"value".ljust(9000)
    for _ in range(2):
        storage = LocalStorage(directory, run="r", leads=True)
        storage.write_result(digest_of(value), [value])
        storage.write_records([variant_of("k", result=result_of(value, inline=False))])
        storage.mark_used(["k-0000"])
        storage.prune(full=True)
        assert storage.read_records(["k"])
        assert storage.read_result(digest_of(value), 9000) == value
        assert storage.statistics()
        assert storage.last_uses() is not None
        assert not storage.gone("x")
        storage.close()
        with sqlite3.connect(directory / "index.sqlite3") as connection:
            connection.execute(damage)
        connection.close()


def test_each_flipped_bit_of_a_row_is_noticed(directory: Path, storage: LocalStorage) -> None:
    """A wrong value is never served: most caches have no checksum."""
    variant = variant_of("k", result=result_of(b"value"))
    storage.write_records([variant])
    storage.close()
    connection = sqlite3.connect(directory / "index.sqlite3")
    row = connection.execute("SELECT * FROM variants").fetchone()
    bodies = [row[-1]]
    for position in range(0, len(row[-1]), 7):
        damaged = bytearray(row[-1])
        damaged[position] ^= 4
        bodies.append(bytes(damaged))
    for body in reversed(bodies):
        connection.execute(
            f"INSERT OR REPLACE INTO variants VALUES ({','.join('?' * len(row))})",
            (*row[:-1], body),
        )
        connection.commit()
        assert storage.read_records(["k"]) == ({"k": (variant,)} if body == row[-1] else {})
    connection.close()
