"""Proven nondeterminism, and hits that are run anyway to prove that they would pass."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest
from inner_runs import line_of, run
from projects import Project

# What a test reads through a descriptor that was opened before the run cannot be observed: it
# stands for the clock, the network, or chance.
SUITE = """
    import os
    import pytest
    from counter import count

    @pytest.mark.cached
    def test_it():
        count("body")
        answer = os.pread(int(os.environ["DESCRIPTOR"]), 10, 0)
        assert answer != b"fail"
        if answer == b"skip":
            pytest.skip("not now")

    @pytest.mark.cached
    def test_steady():
        count("steady")
"""


@pytest.fixture
def answer(
    project: Project, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str], object]]:
    """Chooses how the test of the project ends, unseen by it."""
    path = tmp_path_factory.mktemp("chance") / "answer"
    path.write_text("pass")
    descriptor = os.open(path, os.O_RDONLY)
    monkeypatch.setenv("DESCRIPTOR", str(descriptor))
    project.write("test_suite.py", SUITE)
    yield path.write_text
    os.close(descriptor)


def _flagged(result: pytest.RunResult) -> bool:
    return any("test_it is flaky" in line for line in result.outlines)


def test_a_pass_after_a_failure_is_flagged(
    project: Project, answer: Callable[[str], object]
) -> None:
    """A test that failed and then passes with nothing changed is called flaky; its pass is not
    stored until something that it depends on changes."""
    answer("fail")
    assert not _flagged(run(project))
    answer("pass")
    flagged = run(project)
    assert _flagged(flagged)
    assert "1 proven nondeterministic" in line_of(flagged)
    run(project).assert_outcomes(passed=2)
    assert project.counted("body") == 3
    assert project.counted("steady") == 1
    project.write("test_suite.py", SUITE.replace('count("body")', 'count("body"); 1'))
    run(project)
    run(project)
    assert project.counted("body") == 4


def test_a_failure_after_a_pass_is_flagged(
    project: Project, answer: Callable[[str], object]
) -> None:
    """A stored pass that is contradicted is not replayed any more."""
    run(project)
    answer("fail")
    run(project).assert_outcomes(passed=2)
    flagged = run(project, "--cache-refresh")
    flagged.assert_outcomes(passed=1, failed=1)
    assert _flagged(flagged)
    answer("pass")
    run(project).assert_outcomes(passed=2)
    assert project.counted("body") == 3
    run(project)
    assert project.counted("body") == 4


def test_a_mended_test_is_not_flagged(project: Project, answer: Callable[[str], object]) -> None:
    """A test that failed, was mended and passes is stored: something did change."""
    source = SUITE.replace('count("steady")', 'count("steady"); assert 0')
    project.write("test_suite.py", source)
    run(project).assert_outcomes(passed=1, failed=1)
    project.write("test_suite.py", SUITE)
    result = run(project)
    result.assert_outcomes(passed=2)
    assert not any("flaky" in line for line in result.outlines)
    run(project)
    assert project.counted("steady") == 2
    project.write("test_suite.py", source)
    broken = run(project)
    broken.assert_outcomes(passed=1, failed=1)
    assert not any("flaky" in line for line in broken.outlines)


def test_a_mended_document_is_not_flagged(project: Project) -> None:
    """The examples of a text are no part of what its test was seen to use, but do count."""
    project.write("pytest.ini", "[pytest]\naddopts = --doctest-glob=*.md\n")
    wrong, right = ">>> 1\n2\n", ">>> 1\n1\n"
    for text, outcome in ((wrong, "failed"), (right, "passed"), (wrong, "failed")):
        project.write("guide.md", text)
        result = run(project, "--cache-tests=all")
        result.assert_outcomes(**{outcome: 1})
        assert not any("flaky" in line for line in result.outlines)
    project.write("guide.md", right)
    assert "1 test reused" in line_of(run(project, "--cache-tests=all"))


def test_a_fixed_fixture_is_no_flakiness(project: Project) -> None:
    """Tests that failed because a shared fixture did are stored once it is mended."""
    project.write("pytest.ini", "[pytest]\npythonpath = .\n")
    project.write("helper.py", "def make():\n    raise OSError\n")
    project.write(
        "test_suite.py",
        """
        import pytest
        from counter import count

        @pytest.fixture(scope="module")
        def data():
            import helper
            return helper.make()

        @pytest.mark.cached
        @pytest.mark.parametrize("n", range(3))
        def test_it(data, n):
            count("body")
        """,
    )
    run(project).assert_outcomes(errors=3)
    project.write("helper.py", "def make():\n    return 1\n")
    result = run(project)
    result.assert_outcomes(passed=3)
    assert not any("flaky" in line for line in result.outlines)
    run(project)
    assert project.counted() == 3


def test_verification_passes_quietly(project: Project, answer: Callable[[str], object]) -> None:
    """``--cache-verify=100`` runs every hit; where all pass the run does too, and the line says
    how many."""
    run(project)
    result = run(project, "--cache-verify=100")
    result.assert_outcomes(passed=2)
    assert result.ret == 0
    assert project.counted() == 4
    assert "2 verified" in line_of(result)
    assert not any("verification failed" in line for line in result.outlines)
    run(project)
    assert project.counted() == 4


@pytest.mark.parametrize(
    ("end", "outcomes", "words"),
    [
        ("fail", {"passed": 1, "failed": 1}, "now call failed"),
        ("skip", {"passed": 1, "skipped": 1}, "now call skipped"),
    ],
)
def test_verification_fails_the_run_on_a_difference(
    project: Project,
    answer: Callable[[str], object],
    end: str,
    outcomes: dict[str, int],
    words: str,
) -> None:
    """A hit that would not have passed fails the run, even where no test failed, and is named,
    also under ``-q``."""
    run(project)
    answer(end)
    result = run(project, "--cache-verify=100", "-q")
    result.assert_outcomes(**outcomes)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(
        ["*cache verification failed*", f"test_suite.py::test_it: recorded as passed, {words}*"]
    )
