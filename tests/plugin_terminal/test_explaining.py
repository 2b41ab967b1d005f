"""``--cache-explain``, the page, the job summary: what a run tells when it is asked."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

import pytest
from inner_runs import line_of, run
from projects import Project

SUITE = """
    import pytest
    from counter import count
    from helpers import make_rows
    from pytest_taskcache import cached

    @cached
    def rows(n_rows):
        count("rows")
        return make_rows(n_rows)

    @pytest.mark.cached
    def test_rows():
        with open("size.txt") as file:
            assert rows(int(file.read()))
"""


def _write(project: Project, fill: int = 0, size: int = 10) -> None:
    project.write("helpers.py", f"def make_rows(n):\n    return [{fill}] * n\n")
    project.write("size.txt", str(size))
    project.write("test_suite.py", SUITE)


def test_a_miss_is_explained_with_before_and_after(project: Project) -> None:
    """The argument with both values, the function with its lines, the file with its first
    line that differs; under -q too, since it was asked for."""
    _write(project)
    run(project)
    _write(project, fill=1, size=20)
    lines = run(project, "-q", "--cache-explain").outlines
    for expected in (
        "  argument n_rows: 10 -> 20",
        "  function helpers.py::make_rows changed",
        "      -     return [0] * n",
        "      +     return [1] * n",
        "  file size.txt changed",
        "      line 1: - 10",
        "      line 1: + 20",
    ):
        assert expected in lines
    assert not any(line.startswith("taskcache:") for line in lines)


def test_first_computations_are_named_as_such(project: Project) -> None:
    """What was never seen is no miss without a reason."""
    _write(project)
    run(project, "--cache-explain").stdout.fnmatch_lines(
        ["test_suite.py::test_rows: ran*: first computation, there was no record yet"]
    )


def test_hits_and_refusals_are_explained_where_asked_for(project: Project) -> None:
    """``--cache-explain-of`` chooses; an unknown word is an error that lists the known ones."""
    _write(project)
    run(project)
    hits = run(project, "--cache-explain-of=hit")
    hits.stdout.fnmatch_lines(["test_suite.py::test_rows: reused the record made just now*"])
    assert project.counted() == 1
    wrong = run(project, "--cache-explain-of=everything")
    assert wrong.ret == pytest.ExitCode.USAGE_ERROR
    assert any("misses, hit, refused, all" in line for line in wrong.errlines)


def test_the_setting_may_stand_in_the_ini_file(project: Project) -> None:
    """``taskcache_explain`` is the option's ini setting."""
    _write(project)
    project.write(
        "pytest.ini",
        "[pytest]\nasyncio_default_fixture_loop_scope = function\ntaskcache_explain = misses\n",
    )
    run(project).stdout.fnmatch_lines(["test_suite.py::rows: ran*: first computation*"])


def test_workers_explain_through_their_controller(project: Project) -> None:
    """Under pytest-xdist the reasons come up with the counts."""
    _write(project)
    project.run("-n1")
    _write(project, fill=1)
    lines = project.run("-n1", "--cache-explain").outlines
    assert "      +     return [1] * n" in lines


def test_what_never_passed_has_no_record_that_is_gone(project: Project) -> None:
    """A set-up that fails and an expected failure leave none, as a failure does; and the next run
    says so."""
    project.write(
        "test_suite.py",
        """
        import pytest

        @pytest.mark.cached
        def test_errs(no_such_fixture): pass

        @pytest.mark.cached
        @pytest.mark.xfail
        def test_fails_as_expected(): assert 0

        @pytest.mark.cached
        def test_fails(): assert 0
        """,
    )
    for reason in (
        "first computation, there was no record yet",
        "it did not pass when it last ran",
    ):
        lines = run(project, "--cache-explain").outlines
        told = [line for line in lines if line.startswith("test_suite.py::") and " ran (" in line]
        assert len(told) == 3
        assert all(line.endswith(f"was not kept: it did not pass: {reason}") for line in told), told


def test_a_failing_test_names_the_cached_values_it_used(project: Project) -> None:
    """How old they are, and how to have them computed anew: doing so computes."""
    project.write(
        "test_suite.py",
        """
        import os
        from counter import count
        from pytest_taskcache import cached

        @cached
        def model():
            count("model")
            return 1

        def test_model():
            assert model() == int(os.environ["WANTED"])
        """,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANTED", "1")
        run(project)
        patch.setenv("WANTED", "2")
        failed = run(project)
        failed.stdout.fnmatch_lines(
            [
                "*cached values it used*",
                "function test_suite.py::model, computed just now "
                "(--cache-refresh-only='test_suite.py::model')",
            ]
        )
        assert project.counted() == 1
        run(project, "--cache-refresh-only=test_suite.py::model")
    assert project.counted() == 2


def test_a_run_in_which_everything_fails_has_its_line(project: Project) -> None:
    """A run whose only cached test fails after an edit says so, and what changed."""
    _write(project)
    run(project)
    project.write("helpers.py", "def make_rows(n):\n    return []\n")
    failed = run(project, "-v")
    failed.assert_outcomes(failed=1)
    assert "rolled back by a failing test" in line_of(failed)
    failed.stdout.fnmatch_lines(["taskcache: *function changed: helpers.py::make_rows*"])


def test_names_with_escapes_do_no_harm(project: Project) -> None:
    """A test whose name holds terminal escapes and newlines is told with them spelled out."""
    project.write(
        "test_suite.py",
        """
        import pytest

        @pytest.mark.cached
        @pytest.mark.parametrize("n", [1], ids=[chr(27) + "[31mred" + chr(0x202E)])
        def test_it(n):
            pass
        """,
    )
    lines = [
        line for line in run(project, "--cache-explain").outlines if "first computation" in line
    ]
    assert lines
    assert all(line.isprintable() for line in lines)


def test_a_page_of_a_github_job_gets_the_summary(
    project: Project, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A table in the file that GITHUB_STEP_SUMMARY names; none where nothing was cached."""
    page = tmp_path_factory.mktemp("job") / "summary.md"
    _write(project)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GITHUB_STEP_SUMMARY", str(page))
        run(project, "-q")
    text = page.read_text()
    assert "| computed | 1 function + 1 test |" in text
    assert text.startswith("### pytest-taskcache")


def test_the_page_is_written_and_told_of(project: Project) -> None:
    """``--cache-report`` writes a page with reused tests too; a path that cannot be written is a
    fault with a remedy, and the run passes."""
    _write(project)
    run(project)
    told = run(project, "--cache-report=report.html")
    assert "reused the record made" in (project.path / "report.html").read_text()
    assert any("report written to" in line for line in told.outlines)
    bad = run(project, "--cache-report=nowhere/report.html")
    assert bad.ret == 0
    assert any("give --cache-report a file" in line for line in bad.outlines)


def test_a_terminal_of_forty_columns(project: Project) -> None:
    """On a real, narrow terminal no line of ours is wider than it."""
    _write(project)
    run(project)
    _write(project, fill=1, size=20)
    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "pytest", "-v", "--cache-explain", "--color=no"]
    process = subprocess.Popen(
        [*command, "-p", "no:randomly", "-p", "no:hypothesispytest"],
        cwd=project.path,
        stdout=follower,
        stderr=follower,
        env={**os.environ, "COLUMNS": "40"},
    )
    os.close(follower)
    out = b""
    while True:
        try:
            piece = os.read(leader, 65536)
        except OSError:  # how Linux tells that the other side is closed
            break
        if not piece:
            break
        out += piece
    os.close(leader)
    assert process.wait(60) == 0
    lines = out.decode().replace("\r", "").splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith("taskcache: ") and n > 10)
    assert max(map(len, lines[start:])) <= 40
    assert "taskcache: 1 function + 1 test computed" in " ".join(lines[start:])


def test_what_a_process_was_started_with_is_named(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Variables that are read in C and options, by name and with both values; of one whose name
    sounds like a secret's the name alone; an edited fixture with its lines."""
    conftest = """
        import pytest

        def pytest_addoption(parser):
            parser.addoption("--level", default="low")
            parser.addoption("--password", default="abc")

        @pytest.fixture
        def data():
            return 1
    """
    project.write("conftest.py", conftest)
    project.write(
        "test_suite.py",
        """
        import pytest

        @pytest.mark.cached
        def test_it(data):
            pass
        """,
    )
    monkeypatch.delenv("TZ", raising=False)
    run(project)
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    first = run(project, "--cache-explain", "--level=high", "--password=xyz", "-v")
    first.stdout.fnmatch_lines(
        [
            "taskcache: *::test_it: option changed: level; option changed: password; variable *TZ",
            "test_suite.py::test_it: ran*: 3 things changed since the record made *",
            "  option level: 'low' -> 'high'",
            "  option password changed",
            "  variable TZ: absent -> 'Asia/Tokyo'",
        ]
    )
    project.write("conftest.py", conftest.replace("return 1", "return 2"))
    run(project, "--cache-explain", "--level=high", "--password=xyz").stdout.fnmatch_lines(
        ["  function conftest.py::data changed", "*+     return 2"]
    )


def test_nothing_is_left_out_under_vv(project: Project) -> None:
    """Where a line names three of many changes, ``-vv`` names them all."""
    project.write(
        "conftest.py",
        """
        def pytest_addoption(parser):
            for number in range(6):
                parser.addoption(f"--level{number}")
        """,
    )
    project.write(
        "test_suite.py",
        """
        import time
        import pytest

        @pytest.mark.cached
        def test_it():
            time.sleep(0.6)
        """,
    )
    run(project)
    given = [f"--level{number}=1" for number in range(6)]
    result = run(project, "-vv", "--cache-explain", *given)
    told = [line for line in result.outlines if "level5" in line]
    assert len(told) == 3  # the reason, the explanation, and the slow ones
    assert not any(" more" in line for line in result.outlines)
