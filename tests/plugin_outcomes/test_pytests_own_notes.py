"""What pytest keeps from run to run in its cache directory."""

from __future__ import annotations

import pytest
from inner_runs import line_of
from projects import Project

SUITE = """
    import os
    from counter import count

    def test_walk():
        count("walk")
        assert isinstance([names for _, _, names in os.walk(".pytest_cache")], list)

    def test_asks(cache):
        count("asks")
        assert cache.get("mine/it", 1) < 3

    def test_fails():
        assert 0
"""


def test_who_lists_the_project_depends_on_no_note_of_pytests(project: Project) -> None:
    """The first run makes them, and each may add or remove some."""
    project.write("test_suite.py", SUITE)
    for expected in (1, 1, 1):
        ran = project.run("--cache-tests=all", "-p", "no:randomly")
        ran.assert_outcomes(passed=2, failed=1)
        assert project.counted("walk") == expected, ran.stdout.str()
    assert line_of(ran).startswith("2 tests reused")


@pytest.mark.parametrize("value", [2, 3])
def test_what_a_test_asks_for_counts(project: Project, value: int) -> None:
    """By pytest's ``cache`` fixture."""
    project.write("test_suite.py", SUITE)
    project.run("--cache-tests=all").assert_outcomes(passed=2, failed=1)
    project.write(".pytest_cache/v/mine/it", str(value))
    ran = project.run("--cache-tests=all")
    ran.assert_outcomes(passed=2 if value == 2 else 1, failed=1 if value == 2 else 2)
    assert project.counted("asks") == 2
