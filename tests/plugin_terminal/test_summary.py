"""What the terminal says: a header, one line of counts, reasons with ``-v``, little with ``-q``."""

from __future__ import annotations

import pytest
from inner_runs import line_of, run
from projects import Project

SUITE = """
    import subprocess, sys
    import pytest
    from counter import count
    from helper import factor
    from pytest_taskcache import cached, cached_fixture

    @cached_fixture(scope="session")
    def data():
        return [factor()]

    @cached
    def twice(x):
        return x * factor()

    @pytest.mark.cached
    def test_total(data):
        assert twice(1) + twice(2) > 0

    @pytest.mark.cached
    @pytest.mark.parametrize("n", range(3))
    def test_factor(n):
        assert factor() > n - 9

    @pytest.mark.cached
    def test_child():
        subprocess.run([sys.executable, "-c", ""], check=True)
"""


def _write(project: Project, factor: int = 2) -> None:
    project.write("helper.py", f"def factor():\n    return {factor}\n")
    project.write("test_suite.py", SUITE)


def test_one_line_says_what_happened(project: Project) -> None:
    """Computed and refused in the first run, reused and refused in the second, and a header
    that names the storage and the mode."""
    _write(project)
    cold = run(project)
    cold.stdout.fnmatch_lines(["taskcache: .pytest_cache/taskcache (rw, tests: marked)"])
    assert line_of(cold) == (
        "2 functions + 1 fixture + 4 tests computed, 1 not kept (1 used subprocess)"
    )
    warm = run(project)
    assert line_of(warm).startswith("4 tests reused, 1 not kept (1 used subprocess)")


def test_refreshing_is_counted_as_that(project: Project) -> None:
    """``--cache-refresh`` computes everything, and the line says refreshed, not computed."""
    _write(project)
    run(project)
    line = line_of(run(project, "--cache-refresh"))
    assert line.startswith("2 functions + 1 fixture + 4 tests refreshed, 1 not kept")


def test_reasons_are_grouped(project: Project) -> None:
    """After an edit of a helper ``-v`` says once what changed and how many it struck; ``-vv``
    names them all; and nothing is ever called a cache miss."""
    _write(project)
    run(project)
    _write(project, factor=3)
    result = run(project, "-v")
    found = [line for line in result.outlines if "function changed: helper.py::factor" in line]
    assert found[0] == (
        "taskcache: 1 function + 1 fixture + 4 tests: function changed: helper.py::factor"
    )
    assert all(" took " in line for line in found[1:])
    result.stdout.fnmatch_lines(["taskcache: not kept, used subprocess: *test_child*allow=*"])
    _write(project, factor=4)
    named = run(project, "-vv")
    named.stdout.fnmatch_lines(
        ["*function changed: helper.py::factor", "    test_suite.py::test_factor*0*"]
    )
    assert not any("cache miss" in line for line in result.outlines + named.outlines)


def test_what_made_many_tests_run_again_is_told_unasked(project: Project) -> None:
    """One line for a cause that most of twenty tests and more have in common; none for a first
    run, for a few, and under ``-q``."""
    project.write(
        "test_suite.py",
        """
        import pytest

        @pytest.mark.parametrize("n", range(25))
        def test_it(n):
            assert open("data.txt").read()
        """,
    )
    told = "taskcache: 25 tests ran again: file changed: data.txt"
    for number, options, wanted in (
        (1, (), False), (2, (), True), (3, ("-k", "test_it[1"), False), (4, ("-q",), False),
    ):  # fmt: skip
        project.write("data.txt", str(number))
        lines = run(project, "--cache-tests=all", *options).outlines
        assert (told in lines) is wanted
        assert any("ran again" in line for line in lines) is wanted


def test_a_single_miss_is_named(project: Project) -> None:
    """One that stands alone is called by its name."""
    project.write("helper.py", "LIMIT = 1\n")
    project.write(
        "test_suite.py",
        """
        import pytest
        import helper

        @pytest.mark.cached
        def test_it():
            assert helper.LIMIT
        """,
    )
    run(project)
    project.write("helper.py", "LIMIT = 2\n")
    run(project, "-v").stdout.fnmatch_lines(
        ["taskcache: test_suite.py::test_it: function changed: helper.py::LIMIT"]
    )


def test_new_inputs_do_not_clutter(project: Project) -> None:
    """A function called with many new arguments gets one line, which names the argument."""
    project.write(
        "test_suite.py",
        """
        import os
        from pytest_taskcache import cached

        @cached
        def square(x):
            return x * x

        def test_it():
            start = int(os.environ["START"])
            for x in range(start, start + 20):
                square(x)
        """,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("START", "0")
        run(project)
        patch.setenv("START", "100")
        result = run(project, "-v")
    found = [line for line in result.outlines if "square" in line]
    assert found == ["taskcache: test_suite.py::square: new inputs (x) (20 times)"]


def test_quiet_runs_say_nothing(project: Project) -> None:
    """Under ``-q`` neither header nor summary is shown."""
    _write(project)
    for _ in range(2):
        result = run(project, "-q")
        assert not any("taskcache" in line for line in result.outlines)


def test_quiet_runs_do_not_tell_of_trouble(project: Project) -> None:
    """Under ``-q`` not even a fault is told; without, it is, and no test suffers."""
    _write(project)
    project.write(".pytest_cache/taskcache", "a file where a directory belongs")
    result = run(project, "-q")
    result.assert_outcomes(passed=5)
    assert not any("taskcache" in line for line in result.outlines)
    loud = run(project)
    loud.assert_outcomes(passed=5)
    assert any("taskcache" in line and "1 fault" in line for line in loud.outlines)


def test_the_line_is_shown_when_the_run_stops_early(project: Project) -> None:
    """``-x``, an interrupt and ``pytest.exit`` leave the line there."""
    project.write(
        "test_suite.py",
        """
        import os
        import pytest

        @pytest.mark.cached
        def test_a():
            pass

        def test_b():
            exec(os.environ["DEED"])

        def test_c():
            pass
        """,
    )
    for deed in ("assert 0", "raise KeyboardInterrupt", "pytest.exit('enough')"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("DEED", deed)
            result = run(project, "-x", "--cache-refresh")
        assert line_of(result).startswith("1 test "), deed


def test_an_unused_plugin_says_nothing(project: Project) -> None:
    """A suite that caches nothing gets a header and no more."""
    project.write("test_suite.py", "def test_it():\n    pass\n")
    assert line_of(run(project)) == ""


def test_failures_tell_of_replays(project: Project) -> None:
    """A failing test's report says how many before it were replayed: their side effects are
    missing."""
    project.write(
        "test_suite.py",
        """
        import pytest

        @pytest.mark.cached
        @pytest.mark.parametrize("n", range(2))
        def test_a(n):
            pass

        def test_b():
            assert 0
        """,
    )
    cold = run(project)
    assert not any("replayed" in line for line in cold.outlines)
    warm = run(project)
    warm.assert_outcomes(passed=2, failed=1)
    warm.stdout.fnmatch_lines(["*taskcache*", "2 tests before this one were replayed, not run"])


def test_time_saved_is_the_recorded_duration(project: Project) -> None:
    """The line adds up what the replayed tests took when they ran."""
    project.write(
        "test_suite.py",
        """
        import time
        import pytest

        @pytest.mark.cached
        def test_a():
            time.sleep(0.2)
        """,
    )
    run(project)
    saved = line_of(run(project)).rpartition(", ")[2]
    assert 0.2 <= float(saved.split()[0]) < 5
    assert saved.endswith(" s saved")


def test_a_run_after_a_failure_is_remembered(project: Project) -> None:
    """What is kept of a test that failed has no times, and the history does without them."""
    project.write("test_suite.py", "def test_one(): assert 1\ndef test_two(): assert 1\n")
    run(project, "--cache-tests=all")
    project.write("test_suite.py", "def test_one(): assert 0\ndef test_two(): assert 1\n")
    for _ in range(2):
        run(project, "--cache-tests=all")
    project.write("test_suite.py", "def test_one(): assert 0\ndef test_two(): assert 2\n")
    result = run(project, "--cache-tests=all")
    assert "not remembered" not in result.stdout.str() + result.stderr.str()
    assert line_of(result)
