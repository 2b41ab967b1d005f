"""The main job: functions, fixtures and tests, committed only when the test passes."""

from __future__ import annotations

from projects import Project

SUITE = """
    import pytest
    from counter import count
    from pytest_taskcache import cached, cached_fixture

    @cached_fixture(scope="session")
    def data():
        count("fixture")
        return [1, 2, 3]

    @cached
    def total(values):
        count("function")
        return sum(values)

    def test_total(data):
        assert total(data) == 6

    @pytest.mark.cached
    def test_length(data):
        count("test")
        assert len(data) == 3
"""


def test_a_second_run_computes_nothing(project: Project) -> None:
    """Function, fixture and test run once in two runs, and the line says so."""
    project.write("test_suite.py", SUITE)
    project.run().assert_outcomes(passed=2)
    second = project.run("-v")
    second.assert_outcomes(passed=2)
    second.stdout.fnmatch_lines(["*test_length CACHED*", "taskcache: 1 function + 1 fixture + 1*"])
    assert project.counted() == 3


def test_workers_share_one_computation(project: Project) -> None:
    """Two workers that need one session fixture compute it once."""
    project.write("test_suite.py", SUITE)
    project.run("-n", "2").assert_outcomes(passed=2)
    assert project.counted("fixture") == 1
    project.run("-n", "2").assert_outcomes(passed=2)
    project.run().assert_outcomes(passed=2)
    assert project.counted() == 3


def test_a_failing_test_commits_nothing(project: Project) -> None:
    """What a failing test computed is computed again; once it passes, no more."""
    project.write(
        "test_suite.py",
        """
        import pathlib
        from counter import count
        from pytest_taskcache import cached

        @cached
        def expensive():
            count("function")
            return 42

        def test_it():
            assert expensive() == 42
            assert pathlib.Path("go").exists()
        """,
    )
    project.run().assert_outcomes(failed=1)
    project.run().assert_outcomes(failed=1)
    assert project.counted() == 2
    project.write("go", "")
    project.run().assert_outcomes(passed=1)
    assert project.counted() == 3
    project.run().assert_outcomes(passed=1)
    assert project.counted() == 3


def test_a_changed_helper_is_named(project: Project) -> None:
    """An edit of a helper in another file is a miss that names the helper."""
    project.write("helper.py", "def factor():\n    return 2\n")
    project.write(
        "test_suite.py",
        """
        from counter import count
        from helper import factor
        from pytest_taskcache import cached

        @cached
        def twice(x):
            count("function")
            return x * factor()

        def test_twice():
            assert twice(4) in (8, 12)
        """,
    )
    project.run().assert_outcomes(passed=1)
    project.write("helper.py", "def factor():\n    return 3\n")
    second = project.run("-v")
    second.assert_outcomes(passed=1)
    assert project.counted() == 2
    second.stdout.fnmatch_lines(["*twice*function changed: helper.py::factor*"])
