"""A cache that was damaged before the run: the tests run, the damage is told, the next is well."""

from __future__ import annotations

import os
import random
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from hurt_project import ALL_COUNTED, HurtProject, Ran, check_recovered, check_told, check_unharmed


def _random_bytes(project: HurtProject) -> None:
    project.index.write_bytes(random.Random(1).randbytes(100_000))


def _nothing_but_zeros(project: HurtProject) -> None:
    project.index.write_bytes(bytes(100_000))


def _cut_in_half(project: HurtProject) -> None:
    os.truncate(project.index, project.index.stat().st_size // 2)


def _cut_to_a_few_bytes(project: HurtProject) -> None:
    os.truncate(project.index, 50)


def _other_program(project: HurtProject) -> None:
    project.index.unlink()
    with sqlite3.connect(project.index) as connection:
        connection.execute("CREATE TABLE theirs (x)")
    connection.close()


def _damaged_pages(project: HurtProject) -> None:
    data = bytearray(project.index.read_bytes())
    for start in range(4096, len(data), 4096):
        data[start : start + 2000] = b"\xa5" * 2000
    project.index.write_bytes(data)


def _tables_gone(project: HurtProject) -> None:
    with sqlite3.connect(project.index) as connection:
        connection.execute("DROP TABLE variants")
    connection.close()


DAMAGES = [
    _random_bytes,
    _nothing_but_zeros,
    _cut_in_half,
    _cut_to_a_few_bytes,
    _other_program,
    _damaged_pages,
    _tables_gone,
]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__.strip("_"))
def test_a_damaged_index_is_replaced(
    hurt: HurtProject, plain: Ran, damage: Callable[[HurtProject], None]
) -> None:
    """Whatever stands where the index was: everything is computed once more, into a new one."""
    hurt.run()
    damage(hurt)
    ran = hurt.run()
    check_unharmed(ran, plain)
    check_told(ran, ["corrupt index"])
    assert ran.counts == ALL_COUNTED
    again = hurt.run()
    assert not again.counts, again.shown
    assert not again.faults
    check_recovered(hurt)


def _missing(path: Path) -> None:
    path.unlink()


def _torn(path: Path) -> None:
    path.chmod(0o600)
    os.truncate(path, path.stat().st_size // 2)


def _flipped(path: Path) -> None:
    path.chmod(0o600)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _empty(path: Path) -> None:
    path.chmod(0o600)
    path.write_bytes(b"")


@pytest.mark.parametrize(
    "damage", [_missing, _torn, _flipped, _empty], ids=lambda damage: damage.__name__.strip("_")
)
def test_a_damaged_result_is_computed_again(
    hurt: HurtProject, plain: Ran, damage: Callable[[Path], None]
) -> None:
    """Values whose files are gone or hold other bytes are computed again where they are asked
    for, and stored again; outcomes, which live in the index, stay."""
    hurt.run()
    results = hurt.results()
    assert len(results) == 3
    for path in results:
        damage(path)
    again = "import test_suite; test_suite.total(30_000); test_suite.total(20_000)"
    ran = hurt.run(DEED=again)
    check_unharmed(ran, plain)
    assert ran.counts == {"fixture": 1, "function": 2}
    assert not hurt.run(DEED=again).counts
    check_recovered(hurt)
