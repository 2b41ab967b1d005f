"""Tests see the garbage collector as they would without the plugin."""

from __future__ import annotations

import gc

from inner_runs import line_of, run
from projects import Project


def test_nothing_is_frozen_while_a_test_runs(project: Project) -> None:
    """Before the first body or fixture of a run everything is walked as ever, though replays
    came before it; and after the run nothing is left frozen."""
    project.write(
        "test_suite.py",
        """
        import gc
        import pytest

        frozen = gc.get_freeze_count()
        marker = []

        @pytest.fixture
        def in_a_fixture():
            return gc.get_freeze_count()

        def test_replayed():
            pass

        @pytest.mark.cached(False)
        def test_it(in_a_fixture):
            assert max(gc.get_freeze_count(), in_a_fixture) <= frozen
            assert any(one is marker for one in gc.get_objects())
        """,
    )
    project.write(
        "conftest.py",
        """
        import gc

        marker = []

        def pytest_terminal_summary(terminalreporter):
            terminalreporter.write_line(f"referrers: {bool(gc.get_referrers(marker))}")
        """,
    )
    before = gc.get_freeze_count()
    run(project, "--cache-tests=all").assert_outcomes(passed=2)
    result = run(project, "--cache-tests=all")
    result.assert_outcomes(passed=2)
    assert line_of(result).startswith("1 test reused")
    assert "referrers: True" in result.outlines
    warm = run(project, "--cache-tests=all", "--deselect=test_suite.py::test_it")
    assert line_of(warm).startswith("1 test reused")
    assert "referrers: True" in warm.outlines
    assert gc.get_freeze_count() <= before
