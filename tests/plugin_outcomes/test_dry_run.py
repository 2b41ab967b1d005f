"""``--cache-dry-run`` tells which tests would run and why, and runs none."""

from __future__ import annotations

import pytest
from inner_runs import run, snapshot
from projects import Project

LIBRARY = "def half(x):\n    return x / 2\n"
SUITE = """
    import pytest
    from counter import count
    from library import half

    @pytest.fixture(autouse=True, scope="session")
    def around():
        count("fixture")

    @pytest.mark.cached
    def test_half():
        count("half")
        assert half(4) == 2

    @pytest.mark.cached
    def test_other():
        count("other")

    def test_plain():
        count("plain")

    @pytest.mark.skip
    @pytest.mark.cached
    def test_skipped():
        count("skipped")
"""


@pytest.fixture
def suite(project: Project) -> Project:
    """A project with two cached tests, a plain one, and one that is skipped."""
    project.write("library.py", LIBRARY)
    project.write("test_suite.py", SUITE)
    return project


def _told(result: pytest.RunResult) -> list[str]:
    words = ("RUN ", "CACHED ", "SKIPPED ", "taskcache: dry run")
    return [line for line in result.outlines if line.startswith(words)]


def test_nothing_runs_and_each_test_has_its_reason(suite: Project) -> None:
    """Before there is a cache, when all is cached, and after an edit, which is named."""
    result = run(suite, "--cache-dry-run")
    assert result.ret == pytest.ExitCode.OK
    assert _told(result) == [
        "RUN     test_suite.py::test_half: first computation",
        "RUN     test_suite.py::test_other: first computation",
        "RUN     test_suite.py::test_plain: its outcome is not cached (no mark, see --cache-tests)",
        "taskcache: dry run: 3 tests would run, 0 would be replayed, 1 would be skipped",
    ]
    assert not (suite.path / ".pytest_cache/taskcache").exists()
    run(suite)
    ran = suite.counted()
    suite.write("library.py", LIBRARY.replace("x / 2", "x * 0.5"))
    before = snapshot(suite.path / ".pytest_cache/taskcache")
    assert _told(run(suite, "--cache-dry-run", "-v")) == [
        "RUN     test_suite.py::test_half: function changed: library.py::half",
        "CACHED  test_suite.py::test_other",
        "RUN     test_suite.py::test_plain: its outcome is not cached (no mark, see --cache-tests)",
        "SKIPPED test_suite.py::test_skipped",
        "taskcache: dry run: 2 tests would run, 1 would be replayed, 1 would be skipped",
    ]
    assert suite.counted() == ran
    assert snapshot(suite.path / ".pytest_cache/taskcache") == before
    run(suite)
    assert (suite.counted("half"), suite.counted("other")) == (2, 1)


def test_what_else_is_asked_for_counts(suite: Project) -> None:
    """A refresh, all tests, a selection, and a conftest that objects; with ``-q`` only what would
    run is told."""
    suite.write(
        "conftest.py",
        """
        def pytest_taskcache_do_not_replay(item):
            return "its neighbour said so" if item.name == "test_other" else None
        """,
    )
    run(suite, "--cache-tests=all")
    ran = suite.counted()
    assert _told(run(suite, "--cache-dry-run", "-q", "--cache-tests=all")) == [
        "RUN     test_suite.py::test_other: a plugin objects: its neighbour said so"
    ]
    assert _told(run(suite, "--cache-dry-run", "--cache-refresh", "-k", "half")) == [
        "RUN     test_suite.py::test_half: refresh asked for",
        "taskcache: dry run: 1 test would run, 0 would be replayed",
    ]
    assert suite.counted() == ran


def test_no_worker_is_started(suite: Project) -> None:
    """Under pytest-xdist it is the same."""
    result = suite.run("-n", "2", "--cache-dry-run", "-k", "half or other")
    assert result.ret == pytest.ExitCode.OK
    assert len(_told(result)) == 3
    assert suite.counted() == 0


def test_errors_of_collection_are_errors(suite: Project) -> None:
    """As in any run: it stops, and says where."""
    suite.write("test_broken.py", "import nowhere_to_be_found\n")
    result = run(suite, "--cache-dry-run")
    assert result.ret == pytest.ExitCode.INTERRUPTED
    assert not _told(result)


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ("--cache-mode=w", "--cache-dry-run: has no record to look up with mode 'w'"),
        ("--cache-clear", "--cache-dry-run clears nothing; leave out --cache-clear"),
    ],
)
def test_contradictions_are_usage_errors(suite: Project, more: str, told: str) -> None:
    """What cannot be told without doing it."""
    result = run(suite, "--cache-dry-run", more)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*{told}*"])
