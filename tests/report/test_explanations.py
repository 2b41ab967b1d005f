"""An explanation names what changed, by name and with before and after."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from platform import python_version

import pytest

from pytest_taskcache.model.decision import Hit, Miss, Origin, Uncacheable, Why
from pytest_taskcache.model.dependency import ABSENT, Change, Trace
from pytest_taskcache.model.event import Computed, Decided, RolledBack, Subject
from pytest_taskcache.model.key import Identity
from pytest_taskcache.model.record import Result, Variant
from pytest_taskcache.report.explanation import Explanation, Fact, explain
from pytest_taskcache.report.history import RUNS, History, PastRun
from pytest_taskcache.report.tally import Tally, TallyEntry
from pytest_taskcache.report.terminal import summary_line
from pytest_taskcache.report.wording import wrapped

ROWS = Identity("test_data.py", "rows")
NEAREST = Variant(
    "1", "k1", ROWS, (), Trace(), Result("d", 1, "json"), 100.0, None, 2.0, "test_data.py::test",
    (("python", "3.10.1"),),
)  # fmt: skip


class Known:
    """What an earlier run remembered."""

    def inputs(self, key: str) -> Mapping[str, str]:
        return {"n_rows": "10"} if key == "k1" else {}

    def before(self, kind: str, name: str, digest: str, created: float) -> Fact | None:
        return {
            "file": Fact("a\nb\nc\n", 6),
            "listing": Fact("a.csv"),
            "function": Fact("def f():\n    return 1\n\ndef g():\n    return 2\n"),
            "distribution": Fact("2.4.5"),
        }.get(kind)

    def now(self, kind: str, name: str) -> Fact | None:
        return {
            "file": Fact("a\nX\nc\nd\n", 8),
            "listing": Fact("a.csv\nc.csv"),
            "function": Fact("def f():\n    return 9\n\ndef g():\n    return 2\n"),
            "distribution": Fact("2.4.6"),
        }.get(kind)

    def past(self, identity: str, before: float) -> Iterator[TallyEntry]:
        if identity.endswith("gone"):
            yield TallyEntry("test", identity, "", "computed", "", 3500.0)
        if identity.endswith("odd"):
            yield TallyEntry("test", identity, "", "refused", "", 3500.0, detail="it changed rows")


def _explained(*events: object, now: float = 3700.0) -> Explanation:
    tally = Tally(whole=True)
    tally.clock = lambda: 3600.0
    for event in events:
        tally.notify(event)  # type: ignore[arg-type]
    return explain(tally.entries[-1], Known(), now)


def _missed(
    *changes: Change, why: Why = Why.TRACE, inputs: tuple[tuple[str, str], ...] = ()
) -> str:
    explained = _explained(
        Decided(Subject.FUNCTION, ROWS, Miss(why, changes, NEAREST), inputs=inputs),
        Computed(Subject.FUNCTION, ROWS, 2.5, staged=True),
    )
    return "\n".join(explained.lines())


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (Change("input", "n_rows", "1", "2"), "argument n_rows: 10 -> 20"),
        (Change("input", "secret", "1", "2"), "argument secret changed"),
        (Change("env", "TZ", ABSENT, "2"), "variable TZ appeared"),
        (Change("env", "*", "1", "2"), "environment, read as a whole, changed"),
        (Change("interpreter", "python", "1", "2"), f"Python: 3.10.1 -> {python_version()}"),
        (Change("distribution", "numpy", "1", "2"), "package numpy: 2.4.5 -> 2.4.6"),
        (Change("setting", "capture", "1", "2"), "option capture changed"),
        (Change("listing", "data", "1", "2"), "directory data changed\n      + c.csv"),
        (
            Change("file", "data/rates.csv", "1", "2"),
            "file data/rates.csv: 6 B -> 8 B\n      line 2: - b\n      line 2: + X",
        ),
        (
            Change("function", "helpers.py::f", "1", "2"),
            "function helpers.py::f changed\n      -     return 1\n      +     return 9",
        ),
        (Change("file", "x.bin", "1", ABSENT), "file x.bin"),
    ],
)
def test_what_changed_is_named_with_before_and_after(change: Change, text: str) -> None:
    """Each kind of change has its own words; a variable's value is never shown."""
    assert text in _missed(change, inputs=(("n_rows", "20"),))


def test_the_headline_counts_and_dates() -> None:
    """How many things changed, since a record of what age, and what it cost."""
    text = _missed(Change("env", "A", "1", "2"), Change("env", "B", "1", "2"))
    assert text.splitlines()[0] == (
        "test_data.py::rows: ran (2.50 s): 2 things changed since the record made 1 h ago"
    )


@pytest.mark.parametrize(
    ("why", "text"),
    [
        (Why.EXPIRED, "the record made 1 h ago had expired"),
        (Why.REFRESH, "refresh was asked for"),
        (Why.EVICTED, "evicted to make room; raise taskcache_max_size"),
        (Why.ABSENT, "first computation, there was no record yet"),
    ],
)
def test_a_miss_without_changes_says_why(why: Why, text: str) -> None:
    """Expired, evicted, refreshed and never seen are told apart."""
    assert text in _missed(why=why)


def test_what_was_there_and_is_gone_is_no_first_computation() -> None:
    """A record that an earlier run kept, and that is not there any more, is called gone."""
    gone = Identity("a.py", "gone")
    explained = _explained(
        Decided(Subject.TEST, gone, Miss(Why.ABSENT)),
        Computed(Subject.TEST, gone, 1.0, staged=True),
    )
    assert "its record of 3 min ago is gone" in explained.headline


def test_what_was_refused_before_is_no_first_computation() -> None:
    """It ran in an earlier run, which could not keep it."""
    odd = Identity("a.py", "odd")
    explained = _explained(
        Decided(Subject.TEST, odd, Miss(Why.ABSENT)), Computed(Subject.TEST, odd, 1.0, staged=True)
    )
    assert explained.headline.endswith(": it was not kept when it last ran: it changed rows")


def test_a_refusal_says_what_to_write() -> None:
    """The call that cannot be observed, and what allows it."""
    detail = "subprocess (git); allow={'subprocess'} accepts it"
    explained = _explained(
        Decided(Subject.TEST, ROWS, Miss(Why.ABSENT)),
        Computed(Subject.TEST, ROWS, 1.0, False, "used subprocess", detail),
    )
    assert explained.headline == f"ran (1.00 s) and was not kept: {detail}"
    short = _explained(Computed(Subject.TEST, ROWS, 1.0, False, "used subprocess"))
    assert short.remedy == "allow={'subprocess'} accepts it"
    assert _explained(
        Decided(Subject.TEST, ROWS, Uncacheable("not a function")),
        Computed(Subject.TEST, ROWS, 1.0, False, "not a function"),
    ).headline.endswith("was not kept: not a function")


def test_a_hit_says_what_it_saved() -> None:
    """A reused value is dated."""
    explained = _explained(Decided(Subject.TEST, ROWS, Hit(NEAREST, Origin.COMMITTED), saved=2.0))
    assert explained.headline == "reused the record made 1 h ago, saved 2.00 s"


def test_names_and_texts_of_strangers_are_harmless() -> None:
    """Terminal escapes and newlines of a test's name, and right-to-left overrides, are shown,
    not obeyed; and what JSON carries survives it."""
    bad = Identity("a.py", "test_x[\x1b[31m\n\u202eevil\udc80]")
    explained = _explained(
        Decided(Subject.TEST, bad, Miss(Why.TRACE, (Change("file", "\x1b]0;x\x07", "1", "2"),))),
        Computed(Subject.TEST, bad, 1.0, staged=True),
    )
    lines = list(explained.lines())
    assert all(line.isprintable() for line in lines)
    assert "\\x1b[31m\\n\\u202eevil\\udc80" in lines[0]
    assert json.loads(json.dumps(explained.to_plain()))["identity"] == str(bad)


@pytest.mark.parametrize("width", [40, 60])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    """Long names and long lines of a diff are wrapped, with nothing lost."""
    explained = _explained(
        Decided(
            Subject.TEST,
            Identity("tests/some/directory/test_module_of_a_long_name.py", "test_a_long_name"),
            Miss(Why.TRACE, (Change("file", "data/" + "long/" * 30 + "name.csv", "1", "2"),)),
        ),
        Computed(Subject.TEST, ROWS, 1.0, staged=True),
        Computed(Subject.TEST, ROWS, 1.0, staged=True),
    )
    lines = [piece for line in explained.lines() for piece in wrapped(line, width)]
    assert lines
    assert max(map(len, lines)) <= width


def test_long_diffs_are_cut_unless_all_is_asked_for() -> None:
    """The cut says how much is missing and how to see it; everything means everything."""

    class Long(Known):
        def before(self, kind: str, name: str, digest: str, created: float) -> Fact | None:
            return Fact("\n".join(f"a{n}" for n in range(50)))

        def now(self, kind: str, name: str) -> Fact | None:
            return Fact("\n".join(f"b{n}" for n in range(50)))

    tally = Tally()
    miss = Miss(Why.TRACE, (Change("module", "m.py", "1", "2"),), NEAREST)
    tally.notify(Decided(Subject.TEST, ROWS, miss))
    tally.notify(Computed(Subject.TEST, ROWS, 1.0, staged=True))
    explained = explain(tally.entries[0], Long(), 0.0)
    assert any("88 more lines: -vv" in line for line in explained.lines())
    assert len(list(explained.lines(everything=True))) == 102


def test_a_function_behind_a_page_break_is_shown_whole() -> None:
    """A form feed ends no line, as the parser counts them."""

    class Paged(Known):
        def before(self, kind: str, name: str, digest: str, created: float) -> Fact | None:
            return Fact("def f():\n    pass\n\x0c\ndef g():\n    return 1\n")

        def now(self, kind: str, name: str) -> Fact | None:
            return Fact("def f():\n    pass\n\x0c\ndef g():\n    return 2\n")

    tally = Tally()
    miss = Miss(Why.TRACE, (Change("function", "m.py::g", "1", "2"),), NEAREST)
    tally.notify(Decided(Subject.TEST, ROWS, miss))
    tally.notify(Computed(Subject.TEST, ROWS, 1.0, staged=True))
    shown = [*explain(tally.entries[0], Paged(), 0.0).lines()]
    assert [line.strip() for line in shown[-2:]] == ["-     return 1", "+     return 2"]


def test_the_summary_tells_of_runs_in_which_everything_failed() -> None:
    """Values rolled back and tests that failed are worth a line."""
    tally = Tally()
    tally.notify(Decided(Subject.TEST, ROWS, Miss(Why.ABSENT)))
    tally.notify(Computed(Subject.TEST, ROWS, 1.0, staged=False, reason="did not pass"))
    assert not tally.is_empty
    assert summary_line(tally) == "taskcache: 1 test failed and not kept"
    tally.notify(RolledBack(2))
    assert summary_line(tally).endswith("2 rolled back by a failing test")


def test_a_cache_that_costs_more_than_it_saves_says_what_to_set() -> None:
    """Hundreds of hits that saved next to nothing bring a hint that names the setting."""
    tally = Tally()
    for _ in range(300):
        tally.notify(Decided(Subject.TEST, ROWS, Hit(None), saved=0.0001))
    assert "taskcache_tests = marked" in tally.hint()
    tally.notify(Decided(Subject.TEST, ROWS, Hit(None), saved=10.0))
    assert tally.hint() == ""


class Shelf(dict[str, dict[str, bytes]]):
    """A shelf in memory."""

    def read(self, section: str) -> Mapping[str, bytes]:
        return dict(self.get(section, {}))

    def write(self, section: str, items: Mapping[str, bytes]) -> None:
        self.setdefault(section, {}).update(items)


def test_the_last_runs_are_remembered_and_no_more(tmp_path: object) -> None:
    """Ten runs, the newest first, each with its entries; what is damaged is as if forgotten."""
    shelf = Shelf()
    for number in range(RUNS + 3):
        tally = Tally()
        tally.notify(Decided(Subject.TEST, ROWS, Miss(Why.ABSENT)))
        tally.notify(Computed(Subject.TEST, ROWS, float(number), staged=True))
        History(shelf, lambda name: None).keep_run(  # type: ignore[arg-type,return-value]
            PastRun(str(number), float(number), number + 1.0, tally)
        )
    history = History(shelf, lambda name: None)  # type: ignore[arg-type,return-value]
    assert [run.id for run in history.runs()] == [str(n) for n in range(RUNS + 2, 2, -1)]
    assert history.runs()[0].tally.entries[0].seconds == RUNS + 2
    shelf["report.runs"]["0"] = b"damaged"
    assert len(History(shelf, lambda name: None).runs()) == RUNS - 1  # type: ignore[arg-type,return-value]
