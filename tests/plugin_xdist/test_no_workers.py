"""Where nothing is left to run, no worker starts; records of one process serve many, and back."""

from __future__ import annotations

import os

import pytest
from inner_runs import line_of
from projects import Project

SUITE = """
    import pytest
    from counter import count

    @pytest.mark.parametrize("n", range(4))
    def test_it(n):
        count("body")

    @pytest.mark.skip(reason="never")
    def test_skipped():
        pass
"""

LOOK = """
    import sys

    def pytest_sessionfinish(session):
        # Said at the end, past what is captured.
        worker = getattr(session.config, "workerinput", {}).get("workerid", "main")
        # Not by its usual name: code that reads that mapping rests on every module there is.
        imported = "test_suite" in vars(sys)["mod" "ules"]
        sys.__stderr__.write(f"{worker} imported={imported}\\n")
"""


def test_workers_start_only_for_what_is_left(project: Project) -> None:
    """After a serial run, and after one of two workers, ``-n 2`` replays everything by itself: it
    starts no worker and imports no test. A new test starts them again."""
    project.write("test_suite.py", SUITE)
    project.write("conftest.py", LOOK)
    (project.path / "pytest.ini").unlink()  # markers that are written as a list, then
    project.write("pyproject.toml", '[tool.pytest.ini_options]\nmarkers = ["slow: takes long"]\n')
    options = ("--cache-tests=all", "-n", "2")
    project.run("--cache-tests=all").assert_outcomes(passed=4, skipped=1)
    for _ in range(2):
        warm = project.run(*options)
        warm.assert_outcomes(passed=4, skipped=1)
        assert line_of(warm).startswith("4 tests reused")
        assert [line for line in warm.errlines if "imported=" in line] == ["main imported=False"]
    project.write("test_other.py", "from counter import count\ndef test_new(): count('new')\n")
    more = project.run(*options)
    more.assert_outcomes(passed=5, skipped=1)
    assert {line.split()[0] for line in more.errlines if "imported=" in line} >= {"gw0", "gw1"}
    assert not any("imported=True" in line for line in more.errlines)
    assert (project.counted("body"), project.counted("new")) == (4, 1)
    last = project.run("--cache-tests=all")
    last.assert_outcomes(passed=5, skipped=1)
    assert (project.counted("body"), project.counted("new")) == (4, 1)
    assert "main imported=False" in last.errlines


def test_who_asks_for_the_worker_is_told_by_one(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A test that looks for the variables of workers is not replayed where none was started,
    though they would have been."""
    for name in [name for name in os.environ if name.startswith("PYTEST_XDIST")]:
        monkeypatch.delenv(name)  # this test's own worker
    project.write(
        "test_suite.py",
        """
        import os

        def test_it():
            assert "PYTEST_XDIST_WORKER" not in os.environ
        """,
    )
    project.run("--cache-tests=all").assert_outcomes(passed=1)
    project.run("--cache-tests=all", "-n", "1").assert_outcomes(failed=1)
    assert line_of(project.run("--cache-tests=all")).startswith("1 test reused")


def test_selection_counts(project: Project) -> None:
    """Workers that are not needed for one selection are for another that has something to run."""
    project.write("test_suite.py", SUITE)
    project.write("test_fails.py", "def test_fails(): assert 0\n")
    options = ("--cache-tests=all", "-n", "2")
    project.run(*options).assert_outcomes(passed=4, failed=1, skipped=1)
    project.run(*options, "-k", "test_it").assert_outcomes(passed=4)
    narrowed = project.run(*options, "-k", "test_it")
    narrowed.assert_outcomes(passed=4)
    assert not any("workers" in line for line in narrowed.outlines)
    whole = project.run(*options)
    whole.assert_outcomes(passed=4, failed=1, skipped=1)
    assert any("workers" in line for line in whole.outlines)
    assert project.counted() == 4
