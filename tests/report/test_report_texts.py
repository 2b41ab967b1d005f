"""Counts add up over workers, and read well."""

from __future__ import annotations

import json

import pytest

from pytest_taskcache.model.decision import Fault, Hit, Miss, Uncacheable, Why
from pytest_taskcache.model.dependency import ABSENT, Change
from pytest_taskcache.model.event import Computed, Decided, Faulted, Noted, Subject
from pytest_taskcache.model.key import Identity
from pytest_taskcache.report.tally import Tally, reason_of, shortened
from pytest_taskcache.report.terminal import miss_lines, summary_line, trouble_lines
from pytest_taskcache.report.wording import duration

ONE, TWO = Identity("a.py", "one"), Identity("a.py", "two")


def _full() -> Tally:
    tally = Tally()
    change = Change("function", "helper.py::f", "1", "2")
    for event in (
        Decided(Subject.FUNCTION, ONE, Hit(None), saved=2.5),
        Decided(Subject.TEST, ONE, Miss(Why.TRACE, (change,))),
        Decided(Subject.FIXTURE, TWO, Miss(Why.TRACE, (change,))),
        Computed(Subject.TEST, ONE, 1.0, staged=True),
        Decided(Subject.TEST, TWO, Miss(Why.REFRESH)),
        Computed(Subject.TEST, TWO, 1.0, staged=True),
        Decided(Subject.TEST, ONE, Uncacheable("not a function", "Line has no function")),
        Decided(Subject.TEST, ONE, Fault("read failed")),
        Computed(Subject.TEST, ONE, 1.0, staged=False, reason="did not pass"),
        Computed(Subject.FUNCTION, ONE, 1.0, staged=False, reason="too odd", detail="very"),
        Faulted("disk full", "make room"),
        Faulted("disk full", "make room"),
        Noted("read me"),
        Noted("read me"),
    ):
        tally.notify(event)
    return tally


def test_everything_is_in_the_line() -> None:
    """Each kind of event has its place in the summary line."""
    assert summary_line(_full()) == (
        "taskcache: 1 function reused, 1 test computed, 1 test refreshed, "
        "2 not kept (1 not a function, 1 too odd), 2 faults (2 disk full), 2.50 s saved"
    )


def test_counts_of_workers_add_up() -> None:
    """Two workers' tallies travel as plain values and add up to one."""
    merged = Tally()
    for _ in range(2):
        merged.merge(Tally.from_plain(json.loads(json.dumps(_full().to_plain()))))
    assert merged.reused == {"function": 2}
    assert merged.faults == {"disk full": 4}
    assert merged.saved == 5.0
    assert merged.notes == ["read me"]
    lines = list(miss_lines(merged))
    assert lines[0] == "taskcache: 1 fixture + 1 test: function changed: helper.py::f"
    assert "taskcache: not kept, too odd: a.py::one: very (and 1 more)" in lines


def test_of_several_refusals_for_one_reason_each_is_named() -> None:
    """With its own details, ten of them unless all are asked for."""
    tally = Tally()
    for number in range(13):
        name = Identity("a.py", f"f{number}")
        tally.notify(Decided(Subject.FUNCTION, name, Miss(Why.ABSENT)))
        detail = f"it changed x{number}"
        tally.notify(Computed(Subject.FUNCTION, name, 1.0, False, "changed its inputs", detail))
    first = "taskcache: not kept, changed its inputs: a.py::f0: it changed x0"
    others = [f"    a.py::f{number}: it changed x{number}" for number in range(1, 13)]
    assert list(miss_lines(tally)) == [f"{first} (and 2 more)", *others[:10]]
    assert list(miss_lines(tally, everyone=True)) == [first, *others]


def test_trouble_is_told_with_its_remedy() -> None:
    """A fault's detail and a note are lines of their own; a quiet run gets one for both."""
    assert list(trouble_lines(_full())) == ["taskcache: disk full: make room", "taskcache: read me"]
    assert Tally().is_empty


@pytest.mark.parametrize(
    ("miss", "text"),
    [
        (Miss(Why.EXPIRED), "expired"),
        (Miss(Why.PARTS, (Change("input", "x", "1", "2"),)), "new inputs (x)"),
        (
            Miss(Why.PARTS, (Change("input", "x", "1", "2"), Change("env", "TZ", ABSENT, "2"))),
            "input changed: x; env appeared: TZ",
        ),
        (
            Miss(Why.TRACE, tuple(Change("file", f"{n}", "1", "2") for n in range(5))),
            "file changed: 0; file changed: 1; file changed: 2; and 2 more",
        ),
    ],
)
def test_reasons_name_what_changed(miss: Miss, text: str) -> None:
    """New arguments are one reason; many changes are cut after three."""
    assert shortened(reason_of(miss)) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.004, "0.00 s"),
        (9.994, "9.99 s"),
        (9.999, "10 s"),
        (59.4, "59 s"),
        (59.9, "1 min 0 s"),
        (252, "4 min 12 s"),
        (3599.9, "1 h 0 min"),
        (7500, "2 h 5 min"),
    ],
)
def test_durations_read_well(seconds: float, text: str) -> None:
    """No ``60 s`` and no ``60 min``."""
    assert duration(seconds) == text
