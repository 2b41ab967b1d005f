"""Several workers are one run: one computation per key, counts that add up, no test lost."""

from __future__ import annotations

import pytest
from inner_runs import line_of, run
from projects import Project

ALONE = ("--disable-plugin-autoload", "-p", "taskcache", "-p", "xdist")

SUITE = """
    import os
    import pytest
    from counter import count
    from pytest_taskcache import cached, cached_fixture

    @cached_fixture(scope="session")
    def data():
        count("fixture")
        return [1, 2, 3]

    @cached
    def total(x):
        count("function")
        return x

    @pytest.mark.cached
    @pytest.mark.parametrize("n", range(16))
    def test_it(n, data):
        count("test")
        assert total(7) == 7
"""


def _serial(project: Project, *options: str) -> pytest.RunResult:
    """A run in this process that counts the same plugins as one in another."""
    return run(project, *ALONE, *options)


def test_eight_workers_compute_once(project: Project) -> None:
    """With ``-n 8`` fixture and function are computed once; the counts of all workers are in
    the line; and serial runs and one of two workers replay what they stored."""
    project.write("test_suite.py", SUITE)
    cold = project.run("-n", "8")
    cold.assert_outcomes(passed=16)
    assert (project.counted("fixture"), project.counted("function")) == (1, 1)
    assert project.counted("test") == 16
    line = line_of(cold)
    assert "1 function + 1 fixture + 16 tests computed" in line
    for options in (("-n", "2"), ("-n", "0"), ("-n", "2", "--dist", "no"), ()):
        warm = project.run(*options) if options == ("-n", "2") else _serial(project, *options)
        warm.assert_outcomes(passed=16)
        assert line_of(warm).startswith("16 tests reused"), options
    assert project.counted() == 18


def test_groups_are_no_part_of_a_test(project: Project) -> None:
    """Under ``--dist loadgroup`` node ids carry ``@group``: outcomes are shared with runs where
    they do not, in both directions."""
    project.write(
        "test_suite.py",
        """
        import pytest
        from counter import count

        @pytest.mark.cached
        @pytest.mark.xdist_group("one")
        def test_a():
            count("a")

        @pytest.mark.cached
        @pytest.mark.xdist_group(name="two@home")
        @pytest.mark.parametrize("text", ["x@y"])
        def test_b(text):
            count("b")
        """,
    )
    project.run("-n", "2", "--dist", "loadgroup").assert_outcomes(passed=2)
    _serial(project).assert_outcomes(passed=2)
    assert project.counted() == 2
    _serial(project, "--cache-refresh").assert_outcomes(passed=2)
    again = project.run("-n", "2", "--dist", "loadgroup", "-v")
    again.assert_outcomes(passed=2)
    assert sum("CACHED" in line for line in again.outlines) == 2
    assert project.counted() == 4


def test_a_worker_that_dies_costs_its_own_test(project: Project) -> None:
    """A test that kills its worker fails; all others pass, what they computed is stored (but for
    outcomes of the last moment, which are written several at a time), and what the dead worker
    had staged blocks nobody."""
    project.write(
        "test_suite.py",
        """
        import os
        import time
        import pytest
        from counter import count
        from pytest_taskcache import cached

        @cached
        def shared():
            count("function")
            return 1

        @pytest.mark.cached
        def test_before():
            count("test")
            time.sleep(0.3)

        def test_kills():
            assert shared() == 1
            if not os.path.exists("stay"):
                os._exit(1)

        @pytest.mark.cached
        @pytest.mark.parametrize("n", range(6))
        def test_it(n):
            count("test")
            assert shared() == 1
        """,
    )
    result = project.run("-n", "2", "--max-worker-restart=2")
    outcomes = result.parseoutcomes()
    assert (outcomes["passed"], outcomes["failed"]) == (7, 1)
    assert "a worker died" in line_of(result)
    project.write("stay", "")
    before = project.counted("function")
    _serial(project).assert_outcomes(passed=8)
    assert project.counted("function") == before
    assert project.counted("test") == 7


def test_clearing_is_done_once(project: Project) -> None:
    """``-n 4 --cache-clear`` clears at the start, by the controller alone: what the workers
    then compute stays."""
    project.write("test_suite.py", SUITE)
    _serial(project).assert_outcomes(passed=16)
    project.run("-n", "4", "--dist", "load", "--cache-clear").assert_outcomes(passed=16)
    assert (project.counted("fixture"), project.counted("function")) == (2, 2)
    assert project.counted("test") == 32
    _serial(project).assert_outcomes(passed=16)
    assert project.counted() == 36


def test_workers_stop_early(project: Project) -> None:
    """With ``-x`` the line is there, and what passed before is stored."""
    project.write(
        "test_suite.py",
        """
        import time
        import pytest

        @pytest.mark.cached
        @pytest.mark.parametrize("n", range(4))
        def test_a(n):
            pass

        def test_b():
            time.sleep(1)
            assert 0

        def test_c():
            pass
        """,
    )
    result = project.run("-n", "2", "-x")
    assert result.ret != 0
    assert "tests computed" in line_of(result)


def test_usage_errors_of_workers_are_seen(project: Project) -> None:
    """A mark that cannot work stops a distributed run too, with the remedy shown."""
    project.write(
        "test_suite.py",
        """
        import pytest

        @pytest.mark.cached(expiraton=3)
        def test_it():
            pass
        """,
    )
    result = project.run("-n", "2")
    assert result.ret != 0
    assert "expiraton" in "\n".join(result.outlines + result.errlines)
    assert "1 passed" not in "\n".join(result.outlines)


def test_differences_are_found_by_workers(project: Project) -> None:
    """``--cache-verify`` under ``-n 2`` fails the run where a worker found a difference, and
    passes where there is none."""
    project.write(
        "test_suite.py",
        """
        import pytest
        from counter import count

        @pytest.mark.cached(key="fixed")
        def test_same():
            count("same")

        @pytest.mark.cached(key="other")
        def test_differs():
            count("differs")
            with open("answer") as file:
                if file.read() != "yes":
                    pytest.skip("no")
        """,
    )
    project.write("answer", "yes")
    _serial(project).assert_outcomes(passed=2)
    quiet = project.run("-n", "2", "--cache-verify=100")
    quiet.assert_outcomes(passed=2)
    assert quiet.ret == 0
    assert "2 verified" in line_of(quiet)
    project.write("answer", "no")
    failed = project.run("-n", "2", "--cache-verify=100")
    failed.assert_outcomes(passed=1, skipped=1)
    assert failed.ret == pytest.ExitCode.TESTS_FAILED
    failed.stdout.fnmatch_lines(["*test_differs: recorded as passed, now call skipped*"])


def test_failures_tell_of_replays_on_their_worker(project: Project) -> None:
    """The note on a failing test counts the tests replayed before it on the same worker."""
    project.write(
        "test_suite.py",
        """
        import pytest

        @pytest.mark.cached
        @pytest.mark.parametrize("n", range(3))
        def test_a(n):
            pass

        def test_b():
            assert 0
        """,
    )
    _serial(project).assert_outcomes(passed=3, failed=1)
    warm = project.run("-n", "1")
    warm.assert_outcomes(passed=3, failed=1)
    warm.stdout.fnmatch_lines(["3 tests before this one were replayed, not run"])


def test_the_worker_is_no_part_of_a_test(project: Project) -> None:
    """Which worker ran a test, and whether any did, is no part of its outcome, and a replay in
    a serial run tells of none."""
    project.write(
        "conftest.py",
        """
        found = []

        def pytest_runtest_logreport(report):
            found.append(getattr(report, "worker_id", "none"))

        def pytest_terminal_summary(terminalreporter):
            terminalreporter.line("ON " + " ".join(sorted(set(found))))
        """,
    )
    project.write(
        "test_suite.py",
        """
        import pytest
        from counter import count

        @pytest.mark.cached
        def test_it(worker_id):
            count("body")
        """,
    )
    project.run("-n", "1").assert_outcomes(passed=1)
    warm = _serial(project)
    warm.assert_outcomes(passed=1)
    assert project.counted() == 1
    assert "ON none" in warm.outlines


def test_a_worker_has_the_variables_of_the_run(project: Project) -> None:
    """What `readline` exports to child processes past ``os.environ`` (pytest imports it) is not
    there for workers either: what a serial run stored is replayed by them."""
    project.write(
        "test_suite.py",
        """
        import os
        import pytest
        from counter import count

        @pytest.mark.parametrize("name", ["COLUMNS", "LINES"])
        def test_it(name):
            count(name + os.environ.get(name, ""))

        @pytest.mark.cached(False)
        def test_that_runs_always():
            pass
        """,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "117")
        patch.delenv("LINES", raising=False)
        for options in ((), ("-n", "2")):
            project.run("--cache-tests=all", *options).assert_outcomes(passed=3)
    assert sorted(project.counts.read_text().split()) == ["COLUMNS117", "LINES"]
