"""Tests of one file share windows and a record; what one of them does is not the others' loss."""

from __future__ import annotations

import pytest
from inner_runs import line_of, run
from projects import Project

from pytest_taskcache.plugin.outcomes.units import Cost
from pytest_taskcache.report.contents import decode

MANY = """
    import subprocess, sys
    import pytest
    from counter import count

    @pytest.mark.parametrize("n", range(6))
    def test_before(n):
        count("before")

    def test_bad():
        count("bad")
        {bad}

    @pytest.mark.parametrize("n", range(6))
    def test_after(n):
        count("after")
"""


@pytest.mark.parametrize(
    "bad",
    [
        "assert 0",
        "pytest.skip('not now')",
        "subprocess.run([sys.executable, '-c', '0'], check=True)",
        "pytest.xfail('known')",
    ],
)
def test_neighbours_of_what_is_not_kept_are_kept(project: Project, bad: str) -> None:
    """A test that fails, is skipped or starts a process runs each time; those before and after
    it in the same window are replayed."""
    project.write("test_suite.py", MANY.format(bad=bad))
    for _ in range(3):
        run(project, "--cache-tests=all")
    assert (project.counted("before"), project.counted("after")) == (6, 6)
    assert project.counted("bad") == 3


def test_a_fixture_that_starts_a_process_costs_its_users_only(project: Project) -> None:
    """Every user of such a fixture runs each time, whoever set it up; nobody else does."""
    project.write(
        "test_suite.py",
        """
        import subprocess, sys
        import pytest
        from counter import count

        @pytest.fixture(scope="module")
        def tool():
            subprocess.run([sys.executable, "-c", "0"], check=True)

        def test_a():
            count("free")

        def test_b(tool):
            count("bound")

        def test_c():
            count("free")

        def test_d(tool):
            count("bound")

        def test_e():
            count("free")
        """,
    )
    for _ in range(2):
        run(project, "--cache-tests=all").assert_outcomes(passed=5)
    assert (project.counted("free"), project.counted("bound")) == (3, 4)


@pytest.mark.parametrize("options", [("-k", "b"), ("test_suite.py::test_b",), ("-x", "-k", "b")])
def test_partial_runs_lose_nothing(project: Project, options: tuple[str, ...]) -> None:
    """A run of one test, which an edit made run again, leaves the others' outcomes as they
    were."""
    project.write("pytest.ini", "[pytest]\npythonpath = .\n")
    project.write("helper.py", "def value():\n    return 1\n")
    project.write(
        "test_suite.py",
        """
        import pytest
        from counter import count

        def test_a():
            count("a")

        @pytest.mark.cached
        def test_b():
            import helper
            count("b")
            assert helper.value()

        def test_c():
            count("c")
        """,
    )
    run(project, "--cache-tests=all").assert_outcomes(passed=3)
    project.write("helper.py", "def value():\n    return 2\n")
    run(project, "--cache-tests=all", *options).assert_outcomes(passed=1)
    run(project, "--cache-tests=all").assert_outcomes(passed=3)
    assert [project.counted(name) for name in "abc"] == [1, 2, 1]


def test_what_was_true_before_is_found_again(project: Project) -> None:
    """Switching a source forth and back, as branches do, replays what was recorded with each."""
    project.write("pytest.ini", "[pytest]\npythonpath = .\n")
    project.write(
        "test_suite.py",
        """
        from counter import count
        from helper import value

        def test_a():
            count("a")
            assert value()

        def test_b():
            count("b")
            assert value()
        """,
    )
    for number in (1, 2, 1, 2, 1):
        project.write("helper.py", f"def value():\n    return {number}\n")
        run(project, "--cache-tests=all").assert_outcomes(passed=2)
    assert project.counted() == 4


def test_marked_tests_rest_on_what_they_used_themselves(project: Project) -> None:
    """A marked test has a window of its own: what its neighbour reads does not concern it."""
    project.write(
        "test_suite.py",
        """
        import pathlib
        import pytest
        from counter import count

        pytestmark = pytest.mark.cached
        HERE = pathlib.Path(__file__).parent

        def test_a():
            count("a")
            (HERE / "a.txt").read_text()

        def test_b():
            count("b")
            (HERE / "b.txt").read_text()
        """,
    )
    for name in "ab":
        project.write(f"{name}.txt", "1")
    run(project).assert_outcomes(passed=2)
    project.write("a.txt", "2")
    run(project).assert_outcomes(passed=2)
    assert (project.counted("a"), project.counted("b")) == (2, 1)


def test_a_changed_input_of_one_is_a_changed_input_of_its_unit(project: Project) -> None:
    """No test of a unit is replayed on a trace that does not hold."""
    project.write(
        "test_suite.py",
        """
        import pathlib
        import pytest
        from counter import count

        HERE = pathlib.Path(__file__).parent

        @pytest.mark.parametrize("n", range(8))
        def test_it(n):
            count("body")
            assert (HERE / f"{n % 2}.txt").read_text() == "1"
        """,
    )
    for n in (0, 1):
        project.write(f"{n}.txt", "1")
    run(project, "--cache-tests=all").assert_outcomes(passed=8)
    run(project, "--cache-tests=all").assert_outcomes(passed=8)
    assert project.counted() == 8
    project.write("0.txt", "2")
    run(project, "--cache-tests=all").assert_outcomes(passed=4, failed=4)


def test_files_may_take_turns(project: Project) -> None:
    """Tests of two files that run in turns are all kept, each once."""
    for name in ("one", "two"):
        project.write(
            f"test_{name}.py",
            """
            from counter import count

            def test_a():
                count("body")

            def test_b():
                count("body")
            """,
        )
    turns = [f"test_{name}.py::test_{test}" for test in "ab" for name in ("one", "two")]
    run(project, "--cache-tests=all", *turns).assert_outcomes(passed=4)
    run(project, "--cache-tests=all").assert_outcomes(passed=4)
    assert project.counted() == 4


def test_an_interrupted_run_keeps_what_passed(project: Project) -> None:
    """After Ctrl-C the tests that had passed are replayed; the interrupted one is not."""
    project.write(
        "test_suite.py",
        """
        import os
        import pytest
        from counter import count

        @pytest.mark.parametrize("n", range(5))
        def test_it(n):
            count(f"test {n}")
            if n == 3 and not os.environ.get("CALM"):
                raise KeyboardInterrupt
        """,
    )
    run(project, "--cache-tests=all")
    run(project, "--cache-tests=all", "-k", "not 3 and not 4").assert_outcomes(
        passed=3, deselected=2
    )
    assert [project.counted(f"test {n}") for n in range(5)] == [1, 1, 1, 1, 0]


def test_a_cached_function_s_taint_is_its_caller_s(project: Project) -> None:
    """A test that used a value which may not be relied on runs each time; those before and after
    it that did not are replayed, and those that did as well are not."""
    project.write(
        "test_suite.py",
        """
        from counter import count
        from pytest_taskcache import RUN_ID, cached

        @cached(policy=RUN_ID)
        def once():
            return 1

        def test_a():
            count("free")

        def test_b():
            count("bound")
            once()

        def test_c():
            count("free")

        def test_d():
            count("bound")
            once()
        """,
    )
    for _ in range(2):
        run(project, "--cache-tests=all").assert_outcomes(passed=4)
    assert (project.counted("free"), project.counted("bound")) == (2, 4)


def test_inherited_tests_know_the_module_they_are_collected_from(project: Project) -> None:
    """A test inherited from another module runs again when the class that inherits it changes."""
    project.write("pytest.ini", "[pytest]\npythonpath = .\n")
    project.write(
        "base.py",
        """
        from counter import count

        class Base:
            def test_limit(self):
                count("body")
                assert self.limit < 5
        """,
    )
    source = "from base import Base\n\nclass TestIt(Base):\n    limit = 1\n"
    project.write("test_suite.py", source)
    run(project, "--cache-tests=all").assert_outcomes(passed=1)
    run(project, "--cache-tests=all").assert_outcomes(passed=1)
    assert project.counted() == 1
    project.write("test_suite.py", source.replace("= 1", "= 9"))
    run(project, "--cache-tests=all").assert_outcomes(failed=1)


@pytest.mark.parametrize("dist", ["load", "loadfile", "worksteal"])
def test_workers_records_add_up(project: Project, dist: str) -> None:
    """What several workers recorded of one file is found by one process, and the reverse."""
    project.write("test_suite.py", MANY.format(bad="assert 1"))
    project.run("--cache-tests=all", "-n", "2", "--dist", dist).assert_outcomes(passed=13)
    warm = project.run("--cache-tests=all")
    warm.assert_outcomes(passed=13)
    assert line_of(warm).startswith("13 tests reused")
    project.run("--cache-tests=all", "-n", "2", "--dist", dist).assert_outcomes(passed=13)
    assert project.counted() == 13


def test_the_cost_of_a_closing_is_a_running_mean_without_the_first() -> None:
    """The first closing reads the sources that the others need as well."""
    cost = Cost()
    assert cost.mean == 0.0
    cost.add(8.0)
    assert cost.mean == 0.0
    cost.add(1.0)
    cost.add(2.0)
    assert cost.mean == 1.5


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        {"rows": []},
        {"rows": [["file"]], "uses": [], "units": []},
        {"rows": [["no such kind", "a", "b"]], "uses": [], "units": []},
        {"rows": [], "uses": [], "units": [{"rows": [3], "digest": "", "tests": {}}]},
        {"rows": [], "uses": [], "units": [{"rows": [], "digest": "", "tests": 5, "created": 1}]},
    ],
)
def test_what_is_no_bundle_is_told_apart(value: object) -> None:
    """Whatever JSON a storage gives back, it is a bundle or an error that is caught."""
    with pytest.raises(ValueError):  # noqa: PT011 - whichever message
        decode(value)
