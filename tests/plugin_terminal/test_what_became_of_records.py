"""What is gone is called what it is, and what is compared with is what differs least."""

from __future__ import annotations

import pytest
from inner_runs import run
from projects import Project

from pytest_taskcache.storage.local.storage import LocalStorage

SUITE = """
    import os
    import pytest
    from counter import count
    from pytest_taskcache import cached

    @cached
    def big(n, factor=1):
        count(f"big {n}")
        return os.urandom(400_000) * factor

    def test_it():
        assert big(1)
        assert big(2, 3)

    @pytest.mark.cached
    def test_outcome():
        count("outcome")
"""


def _reasons(result: pytest.RunResult) -> list[str]:
    return [line for line in result.outlines if line.startswith("taskcache: ")][1:-1]


def test_an_eviction_is_called_one(project: Project) -> None:
    """Of a function's value and of an outcome: by which arguments it was called with does not
    matter."""
    project.write("test_suite.py", SUITE)
    run(project, "-o", "taskcache_max_size=1kB").assert_outcomes(passed=2)
    result = run(project, "-v")
    result.assert_outcomes(passed=2)
    assert project.counted() == 6
    assert sorted(_reasons(result)) == ["taskcache: 1 function + 1 test: evicted to make room"]
    explained = run(project, "--cache-explain", "-o", "taskcache_max_size=1kB")
    assert project.counted() == 6
    assert not any("evicted" in line for line in explained.outlines)
    again = run(project, "--cache-explain")
    assert any(
        "evicted to make room; raise taskcache_max_size to keep more" in line
        for line in again.outlines
    )


def test_one_eviction_among_many_calls(project: Project) -> None:
    """A call whose record alone was evicted is told from one that was never made."""
    project.write("test_suite.py", SUITE)
    run(project, "-k", "test_it").assert_outcomes(passed=1, deselected=1)
    # The second value is three times as large, and the more recent.
    run(project, "-k", "outcome", "-o", "taskcache_max_size=1500kB")
    result = run(project, "-v", "-k", "test_it")
    assert (project.counted("big 1"), project.counted("big 2")) == (2, 1)
    assert _reasons(result) == ["taskcache: test_suite.py::big: evicted to make room"]


def test_the_nearest_record_is_named(project: Project) -> None:
    """After an edit each call is compared with itself: only the edit is named. After a revert and
    another edit, what was reverted is not named."""
    project.write("test_suite.py", SUITE)
    project.write("library.py", "def one():\n    return 1\n\ndef two():\n    return 2\n")
    suite = """
        from counter import count
        from pytest_taskcache import cached
        import library

        @cached
        def f(n, m):
            count("f")
            return n * m * library.one() * library.two()

        def test_it():
            for n in range(4):
                f(n, 2 * n)
    """
    project.write("test_suite.py", suite)
    run(project)
    project.write("test_suite.py", suite.replace("n * m *", "m * n *"))
    edited = run(project, "-v")
    assert _reasons(edited) == [
        "taskcache: test_suite.py::f: source changed: its own code (4 times)"
    ]
    project.write("library.py", "def one():\n    return 1\n\ndef two():\n    return 1 + 1\n")
    run(project)
    project.write("library.py", "def one():\n    return 0 + 1\n\ndef two():\n    return 2\n")
    reverted = run(project, "-v")
    assert _reasons(reverted) == [
        "taskcache: test_suite.py::f: function changed: library.py::one (4 times)"
    ]
    assert project.counted("f") == 16


def test_what_was_cleared_is_said_to_be(project: Project) -> None:
    """By whoever cleared it."""
    project.write("test_suite.py", SUITE)
    run(project, "-k", "outcome")
    result = run(project, "--cache-clear", "--cache-explain", "-k", "outcome")
    assert any("test_outcome: ran" in line and "cleared" in line for line in result.outlines)


def test_what_a_newer_record_replaced_was_not_cleared(project: Project) -> None:
    """A run that writes the outcomes of a file more than once, while another worker looks."""
    project.write(
        "test_suite.py",
        """
        import time
        import pytest

        @pytest.mark.cached
        @pytest.mark.parametrize("seconds", [0.3, 0.3, 1])
        def test_it(seconds):
            time.sleep(seconds)
        """,
    )
    run(project).assert_outcomes(passed=3)
    storage = LocalStorage(project.path / ".pytest_cache" / "taskcache")
    assert storage.gone("test_suite.py::(outcomes)") is None
    storage.close()


def test_what_a_failing_test_rolled_back_is_said_to_be(project: Project) -> None:
    """In the run that failed, and in the next one."""
    project.write(
        "test_suite.py",
        """
        import os
        from pytest_taskcache import cached

        @cached
        def value():
            return 1

        def test_it():
            assert value() and "FAIL" not in os.environ
        """,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FAIL", "1")
        first = run(project, "--cache-explain")
    first.assert_outcomes(failed=1)
    first.stdout.fnmatch_lines(
        ["*::value: ran* and was rolled back by a failing test: first computation*"]
    )
    run(project, "--cache-explain").stdout.fnmatch_lines(
        ["*::value: ran*: its record of just now was rolled back by a failing test"]
    )
