"""Whatever a record says, the tests that run are those that are there."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import xxhash
from odd_project import see
from projects import Project

from pytest_taskcache.plugin.collection.collection_records import asks_the_clock
from pytest_taskcache.plugin.collection.pytest_nodes import (
    CollectionRecord,
    DamagedRecordError,
    UnrecordableError,
    from_plain,
    to_plain,
)
from pytest_taskcache.storage.local import LocalStorage

WARM = ("--cache-tests=all",)


def _tamper(project: Project, change: Callable[[Any], bytes]) -> None:
    """Rewrites the record of the suite's collection, with a digest that fits."""
    storage = LocalStorage(project.path / ".pytest_cache" / "taskcache")
    (found,) = [one for one in storage.scan() if one.result.serializer == "collection/json"]
    assert found.result.inline is not None
    data = change(json.loads(found.result.inline))
    digest = xxhash.xxh3_128_hexdigest(data)
    result = replace(found.result, inline=data, size=len(data), digest=digest)
    storage.remove_records([found.id])
    storage.write_records([replace(found, id=found.id + "x", result=result)])
    storage.close()


def _renamed(document: Any) -> bytes:
    text = json.dumps(document)
    return text.replace("test_second", "test_vanished").encode()


BAD: dict[str, Callable[[Any], bytes]] = {
    "renamed": _renamed,
    "truncated": lambda document: json.dumps(document).encode()[:-20],
    "of another version": lambda document: json.dumps({**document, "format": 99}).encode(),
    "of another shape": lambda document: b'{"format": 1, "children": 3}',
    "without tests": lambda document: json.dumps({**document, "tests": []}).encode(),
}


@pytest.mark.parametrize("how", BAD)
def test_a_bad_record_is_dropped(project: Project, how: str) -> None:
    """A record that is damaged, of another version, or names a test that is not there: the file is
    collected really, every test of it is in the run, and the run says so."""
    project.write(
        "test_odd_suite.py",
        "def test_first(): pass\n\ndef test_second(): pass\n\ndef test_third(): pass\n",
    )
    before = see(project, *WARM)
    _tamper(project, BAD[how])
    warm = see(project, *WARM)
    assert warm.imported == ["test_odd_suite"]
    assert warm.cases == before.cases
    assert "record" in "\n".join(warm.result.outlines)
    again = see(project, *WARM)
    assert again.cases == before.cases
    assert not see(project, *WARM).imported


VALUES = [None, True, 1, 1.5, "x", (1, "a"), [1, (2,)], {"a": (1,)}, (), {"list": {"tuple": 1}}]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_plain_values_come_back_as_they_were(value: object) -> None:
    """Values of marks and parameters keep their types through JSON."""
    found = from_plain(json.loads(json.dumps(to_plain(value))))
    assert found == value
    assert repr(found) == repr(value)


@pytest.mark.parametrize("value", [object(), {1: 2}, {1}, b"x", float("nan"), float("inf"), [len]])
def test_other_values_are_refused(value: object) -> None:
    """What JSON would not give back as it was is not recorded."""
    with pytest.raises(UnrecordableError):
        to_plain(value)


@pytest.mark.parametrize("data", [b"", b"[]", b"null", b"{}", b"\xff", b'{"format": 1}'])
def test_no_bytes_make_a_record_by_accident(data: bytes) -> None:
    """Anything but a whole record is damaged."""
    with pytest.raises(DamagedRecordError):
        CollectionRecord.decode(data)


@pytest.mark.parametrize(
    ("source", "asks"),
    [
        (b"today = date.today()", True),
        (b"@mark(time.time())\ndef test(): pass", True),
        (b"NOON = time(12, 30)\ndef test(): pass", False),
        (b"def test(x=random()): pass", True),
        (b"class T:\n    x = uuid4()", True),
        (b"def test():\n    return now()", False),
        (b"x = lambda: now()", False),
        (b"# now()", False),
    ],
)
def test_clocks_are_seen_where_a_module_asks_them(source: bytes, asks: bool) -> None:
    """Only what runs at import counts, not what a test does."""
    assert asks_the_clock(source) is asks
