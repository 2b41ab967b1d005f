"""Records that nothing waits for, written several at a time."""

from __future__ import annotations

import os
from collections.abc import Sequence

import pytest

from pytest_taskcache.engine.recorder import WriteBatch
from pytest_taskcache.errors import StorageError
from pytest_taskcache.model.dependency import Trace
from pytest_taskcache.model.key import Identity
from pytest_taskcache.model.record import Result, Variant


def _variant(number: int, duration: float = 0.0) -> Variant:
    return Variant(
        id=f"v{number}",
        key=f"k{number}",
        identity=Identity("test_a.py", f"test_{number}"),
        parts=(),
        trace=Trace(),
        result=Result("d", 1, "json", b"1"),
        created=0.0,
        expires=None,
        duration=duration,
        producer="",
    )


class Written:
    """A storage's part: what was written together, and what became of each record."""

    def __init__(self, *refused: str) -> None:
        self.together: list[list[str]] = []
        self.heard: dict[str, Exception | None] = {}
        self.batch = WriteBatch(self.publish)
        self._refused = refused

    def publish(self, destination: str, variants: Sequence[Variant]) -> None:
        ids = [variant.id for variant in variants]
        if not set(ids).isdisjoint(self._refused):
            raise StorageError("here", "write records", "refused")
        self.together.append(ids)

    def add(self, variant: Variant, destination: str = "") -> None:
        def told(error: Exception | None) -> None:
            assert variant.id not in self.heard, "told twice"
            self.heard[variant.id] = error

        self.batch.add(destination, variant, told)


def test_quick_records_are_written_together() -> None:
    """A thousand quick ones take a small part of a thousand writes, each is written once, and
    each is heard of only when it is written."""
    written = Written()
    for number in range(1000):
        written.add(_variant(number))
    written.batch.flush()
    assert [id_ for ids in written.together for id_ in ids] == [f"v{n}" for n in range(1000)]
    assert len(written.together) < 500
    assert set(written.heard.values()) == {None}


def test_a_long_computation_is_written_at_once() -> None:
    """What took long is not risked, nor what waited when it ended."""
    written = Written()
    written.add(_variant(1))
    written.add(_variant(2, duration=5.0))
    assert written.heard.keys() == {"v1", "v2"}


def test_one_bad_record_costs_no_other() -> None:
    """Where several cannot be written together, all but the bad one are, and it is told why."""
    written = Written("v1")
    for number in range(3):
        written.add(_variant(number))
    written.batch.flush()
    assert written.together == [["v0"], ["v2"]]
    assert written.heard["v0"] is written.heard["v2"] is None
    assert isinstance(written.heard["v1"], StorageError)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_writes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its parent still has the records, and writes them."""
    written = Written()
    written.add(_variant(1))
    parent = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: parent + 1)
    written.batch.flush()
    assert not written.together
    assert not written.heard
