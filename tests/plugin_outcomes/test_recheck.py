"""``--cache-recheck``: was it the cache? And ``--cache-verify`` of functions and fixtures."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest
from inner_runs import line_of, run
from projects import Project

# What is read through a descriptor that was opened before the run cannot be observed: values
# that rest on it grow stale in the cache.
SUITE = """
    import os
    import pytest
    from counter import count
    from pytest_taskcache import cached, cached_fixture

    def unseen():
        return os.pread(int(os.environ["DESCRIPTOR"]), 10, 0).decode()

    @cached
    def answer():
        count("answer")
        return unseen()

    @cached_fixture(scope="session")
    def shared():
        count("shared")
        return {unseen()}

    @pytest.fixture(scope="module")
    def around():
        count("around")
        yield answer()
        count("torn down")

    def test_function():
        count("test")
        assert answer() + os.environ.get("SUFFIX", "") == unseen()

    def test_fixture(shared):
        assert shared == {unseen()}

    def test_fixture_again(shared, around):
        assert shared == {around} == {unseen()}

    def test_alone():
        assert unseen() == "old"
"""


@pytest.fixture
def unseen(
    project: Project, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str], object]]:
    """Changes what the suite reads unseen; it has been cached with "old"."""
    path = tmp_path_factory.mktemp("unseen") / "answer"
    path.write_text("old")
    descriptor = os.open(path, os.O_RDONLY)
    monkeypatch.setenv("DESCRIPTOR", str(descriptor))
    project.write("test_suite.py", SUITE)
    run(project).assert_outcomes(passed=4)
    yield path.write_text
    os.close(descriptor)


def _verdicts(result: pytest.RunResult) -> list[str]:
    return [line for line in result.outlines if line.startswith("test_suite.py::")]


def test_the_cache_was_the_cause(project: Project, unseen: Callable[[str], object]) -> None:
    """The test that fails with a stale value passes with a fresh one; the value is named, and kept,
    so that the next run passes. A test without cached values is said to have none."""
    unseen("new")
    result = run(project, "--cache-recheck", "-k", "test_function or test_alone")
    result.assert_outcomes(failed=2, deselected=2)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert _verdicts(result) == [
        "test_suite.py::test_function: passes with fresh values: the cache was the cause, with "
        "another value of function test_suite.py::answer",
        "test_suite.py::test_alone: used no cached value: the cache was no cause",
    ]
    assert project.counted("answer") == 2
    run(project, "-k", "test_function").assert_outcomes(passed=1, deselected=3)
    assert project.counted("answer") == 2


def test_wide_fixtures_are_made_anew(project: Project, unseen: Callable[[str], object]) -> None:
    """Also those that an earlier test had set up, cached or made of what is; what was set up is
    torn down before, and what follows is set up again."""
    unseen("new")
    result = run(project, "--cache-recheck", "-k", "test_fixture")
    result.assert_outcomes(failed=2, deselected=2)
    assert _verdicts(result) == [
        "test_suite.py::test_fixture: passes with fresh values: the cache was the cause, with "
        "another value of fixture test_suite.py::shared",
        "test_suite.py::test_fixture_again: passes with fresh values: the cache was the cause, "
        "with another value of function test_suite.py::answer",
    ]
    assert (project.counted("shared"), project.counted("answer")) == (3, 2)
    assert project.counted("around") == project.counted("torn down") == 3
    run(project, "-k", "test_fixture").assert_outcomes(passed=2, deselected=2)
    assert (project.counted("shared"), project.counted("answer")) == (3, 2)


def test_the_values_an_earlier_test_was_given_are_named(
    project: Project, unseen: Callable[[str], object]
) -> None:
    """Of a failing test that shares a wide fixture with one that ran before."""
    unseen("new")
    result = run(project, "-k", "test_fixture")
    result.assert_outcomes(failed=2, deselected=2)
    section = result.outlines[
        result.outlines.index(
            next(line for line in result.outlines if "test_fixture_again ___" in line)
        ) :
    ]
    named = [line.partition(",")[0] for line in section if ", computed " in line]
    assert sorted(named) == ["fixture test_suite.py::shared", "function test_suite.py::answer"]


def test_the_cache_was_not_the_cause(project: Project, unseen: Callable[[str], object]) -> None:
    """The test fails with fresh values too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SUFFIX", "!")
        result = run(project, "--cache-recheck", "-k", "test_function")
    assert _verdicts(result) == [
        "test_suite.py::test_function: fails with fresh values too: the cache was not the cause"
    ]
    assert project.counted("answer") == 2


def test_what_replayed_tests_left_behind_may_be_the_cause(project: Project) -> None:
    """Of a test that needs what another one leaves, which was replayed."""
    project.write("lib.py", "DONE = []\nLIMIT = 1")
    project.write(
        "test_suite.py",
        """
        import lib

        def test_first():
            lib.DONE.append(1)

        def test_second():
            assert lib.DONE and lib.LIMIT
        """,
    )
    run(project, "--cache-tests=all").assert_outcomes(passed=2)
    project.write("lib.py", "DONE = []\nLIMIT = 2")
    result = run(project, "--cache-tests=all", "--cache-recheck")
    result.assert_outcomes(passed=1, failed=1)
    assert _verdicts(result) == [
        "test_suite.py::test_second: used no cached value, but may lack what replayed tests "
        "would have left behind: --cache-tests=none tells"
    ]


def test_equal_values_are_no_cause(project: Project) -> None:
    """A test that passes when it is run again, with the same values, is called flaky."""
    project.write(
        "test_suite.py",
        """
        from counter import count
        from pytest_taskcache import cached

        tries = []

        @cached
        def answer():
            count("answer")
            return {"a", "b"}

        def test_it():
            tries.append(answer())
            assert len(tries) != 1 or count("tried") is None and not cold()

        def cold():
            import os
            return "WARM" in os.environ
        """,
    )
    run(project).assert_outcomes(passed=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WARM", "1")
        result = run(project, "--cache-recheck")
    assert _verdicts(result) == [
        "test_suite.py::test_it: passes with fresh values, equal to the cached ones: it is "
        "flaky, or tells copies apart"
    ]
    assert project.counted("answer") == 2


def test_under_xdist(project: Project) -> None:
    """Workers recheck where they run; the verdicts come up."""
    project.write("answer", "old")
    # Its key vouches for it, so that the file that it reads does not count.
    project.write(
        "test_suite.py",
        """
        from pathlib import Path
        from pytest_taskcache import cached

        @cached(key="vouched")
        def answer():
            return Path("answer").read_text()

        def test_function():
            assert answer() == Path("answer").read_text()
        """,
    )
    project.run("-n", "1").assert_outcomes(passed=1)
    project.write("answer", "new")
    result = project.run("-n", "1", "--cache-recheck")
    result.assert_outcomes(failed=1)
    assert _verdicts(result) == [
        "test_suite.py::test_function: passes with fresh values: the cache was the cause, with "
        "another value of function test_suite.py::answer"
    ]


def test_functions_and_fixtures_are_verified(
    project: Project, unseen: Callable[[str], object]
) -> None:
    """``--cache-verify`` computes their values anyway and compares them: a set that is written in
    another order is the same; a stale value fails the run, though no test does."""
    project.write("test_suite.py", SUITE.replace("assert", "_ ="))
    run(project).assert_outcomes(passed=4)
    counted = project.counted("answer")
    same = run(project, "--cache-verify=100")
    same.assert_outcomes(passed=4)
    assert same.ret == pytest.ExitCode.OK
    assert project.counted("answer") == counted + 1
    assert "2 verified" in line_of(same)
    unseen("new")
    stale = run(project, "--cache-verify=100")
    stale.assert_outcomes(passed=4)
    assert stale.ret == pytest.ExitCode.TESTS_FAILED
    stale.stdout.fnmatch_lines(
        [
            "*cache verification failed*",
            "function test_suite.py::answer: its value is another one than recorded*",
            "fixture test_suite.py::shared: its value is another one than recorded*",
        ]
    )
