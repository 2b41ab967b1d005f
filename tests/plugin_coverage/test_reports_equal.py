"""The report of a run with the cache is that of a full run, whatever was replayed."""

from __future__ import annotations

import sqlite3
import sys
from contextlib import closing

import pytest
from inner_runs import run
from measured import CORE, Measured
from projects import Project

BODIES = 9
"""Counted bodies of the project: seven tests, a fixture, a function."""


@pytest.fixture
def measured(project: Project) -> Measured:
    return Measured(project)


@pytest.mark.parametrize("args", [(), ("--cov-branch",), ("--cov-branch", "-n", "2")])
def test_cold_and_warm_runs_report_what_a_plain_run_does(
    measured: Measured, args: tuple[str, ...]
) -> None:
    """Nothing runs in the second run, and the report and the data are those of a full one."""
    expected = measured.plain(*args)
    assert measured.bodies(*args) == (expected, BODIES)
    assert measured.bodies(*args) == (expected, 0)


CORES = ("pytrace", "sysmon") if sys.version_info >= (3, 12) else ("pytrace",)


@pytest.mark.parametrize("core", CORES)
def test_other_cores_are_served_as_well(
    measured: Measured, monkeypatch: pytest.MonkeyPatch, core: str
) -> None:
    """The tracer in Python, and sys.monitoring beside our own use of it."""
    monkeypatch.setenv("COVERAGE_CORE", core)
    second = "test_two.py::test_late_again"
    expected, of_second = measured.plain(), measured.plain(second)
    assert measured.bodies() == (expected, BODIES)
    assert measured.bodies() == (expected, 0)
    assert measured.bodies(second) == (of_second, 0)


@pytest.mark.parametrize(
    "subset",
    ["test_two.py", "test_two.py::test_dear", "test_two.py::test_late_again",
     "test_two.py::test_plain_again", "test_two.py::test_minus", "test_one.py::test_late"],
)  # fmt: skip
def test_a_replayed_subset_reports_what_the_subset_covers(project: Project, subset: str) -> None:
    """The second user of a module imported late, and of a fixture made by another test, bring
    the lines of both along, its teardown included; nobody brings anyone else's."""
    measured = Measured(project)
    expected = measured.plain("--cov-branch", subset)
    measured.run("--cov-branch")
    assert measured.bodies("--cov-branch", subset) == (expected, 0)


def test_an_import_while_os_path_is_replaced_is_measured(measured: Measured) -> None:
    """As blockbuster does, to find what blocks an event loop."""
    measured.project.write(
        "test_three.py",
        """
        import os, traceback
        from unittest import mock

        REAL = os.path.abspath

        def refused(path):
            assert any(frame.name == "_should_trace" for frame in traceback.extract_stack())
            return REAL(path)

        def test_late():
            with mock.patch("os.path.abspath", refused):
                from pkg import late
            assert late.START == 3
        """,
    )
    expected = measured.plain("test_three.py")
    for _ in range(2):
        report, result = measured.run("test_three.py")
        result.assert_outcomes(passed=1)
        assert report == expected


def test_after_an_edit_only_what_it_touches_runs_and_the_report_is_right(
    measured: Measured,
) -> None:
    """A changed function: its users run, the others are replayed with their lines."""
    measured.run("--cov-branch")
    measured.project.write("pkg/core.py", CORE.replace("if b:", "if b and a:"))
    report, ran = measured.bodies("--cov-branch")
    assert ran > 0
    if sys.version_info >= (3, 12):  # before, coverage's tracer keeps code from being observed
        assert ran < BODIES
    assert report == measured.plain("--cov-branch")


def test_lines_move_with_their_functions(measured: Measured) -> None:
    """Comments above change every line number, and no outcome."""
    measured.run("--cov-branch")
    measured.project.write(
        "pkg/core.py", CORE.replace("    def add", "    # one\n    # two\n    def add")
    )
    report, ran = measured.bodies("--cov-branch", "test_one.py::test_add", "test_two.py")
    assert ran == 1, "only who imports late what itself ran moved code while it was imported"
    assert report == measured.plain("--cov-branch", "test_one.py::test_add", "test_two.py")


def test_a_comment_inside_a_function_makes_its_users_run(measured: Measured) -> None:
    """Where lines cannot be told any more they are not guessed."""
    measured.run("test_one.py::test_add")
    measured.project.write(
        "pkg/core.py", CORE.replace("        if a", "        # big?\n        if a")
    )
    report, ran = measured.bodies("test_one.py::test_add")
    assert ran == 1
    assert report == measured.plain("test_one.py::test_add")


def test_an_outcome_recorded_without_coverage_is_no_hit_with_it(measured: Measured) -> None:
    """And the miss says why; recorded with it, it is a hit without."""
    project = measured.project
    run(project, "--cache-tests=all", plugins=("cov",))
    _, result = measured.run("-v")
    result.assert_outcomes(passed=7)
    result.stdout.fnmatch_lines(["*: recorded without coverage*"])
    assert project.counted() == 2 * BODIES
    run(project, "--cache-tests=all", plugins=("cov",))
    assert measured.bodies()[1] == 0
    assert project.counted() == 2 * BODIES


def test_lines_and_branches_are_kept_apart_and_side_by_side(measured: Measured) -> None:
    """Data of one kind cannot stand for the other; both stay known."""
    lines, _ = measured.run()
    branches, ran = measured.bodies("--cov-branch")
    assert ran > 0
    assert measured.bodies() == (lines, 0)
    assert measured.bodies("--cov-branch") == (branches, 0)


def test_cached_values_bring_their_lines_to_tests_that_run(project: Project) -> None:
    """Only fixtures and functions are cached here: the tests run, and the report is whole."""
    measured = Measured(project)
    expected = measured.plain("--cov-branch")
    measured.run("--cov-branch", "--cache-tests=none")
    report, ran = measured.bodies("--cov-branch", "--cache-tests=none")
    assert (report, ran) == (expected, BODIES - 2)


def test_append_adds_to_what_was_there(measured: Measured) -> None:
    """``--cov-append`` of a replayed subset after another one."""
    measured.run()
    measured.plain("test_one.py::test_add")
    expected = measured.plain("--cov-append", "test_two.py")
    measured.run("test_one.py::test_add")
    assert measured.bodies("--cov-append", "test_two.py") == (expected, 0)


def test_fail_under_sees_replayed_lines(measured: Measured) -> None:
    """The threshold is judged after lines were brought back."""
    measured.run()
    _, result = measured.run("--cov-fail-under=80")
    assert result.ret == 0
    _, result = measured.run("--cov-fail-under=99")
    assert result.ret != 0


def test_contexts_are_refused_and_right(measured: Measured) -> None:
    """With a context for each test all of them run, which the summary says."""
    expected = measured.plain("--cov-context=test")
    for _ in range(2):
        report, result = measured.run("--cov-context=test")
        assert report == expected
        result.stdout.fnmatch_lines(["*7 coverage with a context for each test*"])


def test_a_damaged_record_of_lines_is_a_miss(measured: Measured) -> None:
    """Lost lines cost a run of their test, never a wrong report."""
    expected, _ = measured.run()
    index = measured.project.path / ".pytest_cache/taskcache/index.sqlite3"
    with closing(sqlite3.connect(index)) as connection, connection:
        damaged = connection.execute(
            "UPDATE variants SET inline = x'00' WHERE CAST(identity AS TEXT) LIKE '%(coverage)%'"
        )
    assert damaged.rowcount >= BODIES
    report, ran = measured.bodies()
    assert ran >= 7
    assert report == expected


def test_a_failing_test_hides_no_lines(measured: Measured) -> None:
    """What ran counts, passed or not; nothing of it is replayed."""
    measured.project.write(
        "test_three.py",
        """
        from pkg import core

        def test_wrong():
            assert core.subtract(5, 0) == 4
    """,
    )
    expected = measured.plain("--cov-branch")
    measured.run("--cov-branch")
    assert measured.bodies("--cov-branch") == (expected, 0)


def test_imports_look_the_same_to_the_project(measured: Measured) -> None:
    """A warning at import time still points at the importer while imports are watched."""
    project = measured.project
    project.write(
        "pkg/old.py",
        """
        import warnings
        warnings.warn("gone soon", DeprecationWarning, stacklevel=2)
    """,
    )
    project.write(
        "test_three.py",
        """
        import warnings

        def test_old():
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                from pkg import old
            assert [warning.filename for warning in caught] == [__file__]
    """,
    )
    _, result = measured.run("test_three.py")
    result.assert_outcomes(passed=1)
