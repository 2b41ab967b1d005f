"""A replayed test looks like the pass it was, to everything that listens."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from inner_runs import line_of, run
from projects import Project

TALKATIVE = """
    import sys
    import warnings
    import pytest
    from counter import count

    class OurWarning(UserWarning):
        pass

    @pytest.mark.cached
    def test_it(record_property, capsys):
        count("body")
        record_property("ticket", "A-1")
        with capsys.disabled():
            pass
        warnings.warn("old ways", DeprecationWarning)
        warnings.warn(OurWarning("ours"))

    @pytest.mark.cached
    def test_prints():
        print("to stdout")
        print("to stderr", file=sys.stderr)
"""


def _cases(path: Path) -> list[tuple[object, ...]]:
    """What a junit file says, but for times."""
    found: list[tuple[object, ...]] = []
    for case in ElementTree.parse(path).iter("testcase"):
        properties = [(p.get("name"), p.get("value")) for p in case.iter("property")]
        texts = [(child.tag, (child.text or "").strip()) for child in case]
        found.append((case.get("classname"), case.get("name"), properties, texts))
    return found


def test_junit_files_say_the_same(project: Project) -> None:
    """Names, properties and captured output in a junit file are those of the real run, and the
    time is the recorded one; one property more says that it was replayed."""
    project.write("test_suite.py", TALKATIVE)
    options = ("-o", "junit_logging=all", "-o", "junit_family=xunit1")
    run(project, "--junitxml=cold.xml", *options).assert_outcomes(passed=2, warnings=2)
    run(project, "--junitxml=warm.xml", *options).assert_outcomes(passed=2, warnings=2)
    assert project.counted() == 1
    cold, warm = _cases(project.path / "cold.xml"), _cases(project.path / "warm.xml")
    assert cold[0][2] == [("ticket", "A-1")]
    for case in warm:
        properties = case[2]
        assert isinstance(properties, list)
        assert properties.pop() == ("taskcache", "replayed")
    assert [case[:3] for case in cold] == [case[:3] for case in warm]
    assert "to stdout" in str(cold[1][3])


def test_the_terminal_says_passed(project: Project) -> None:
    """Its letter is ``c``, its word ``CACHED``; it counts as passed and the line stays green."""
    project.write("test_suite.py", TALKATIVE)
    run(project, "--disable-warnings")
    quiet = run(project, "--disable-warnings")
    quiet.stdout.fnmatch_lines(["test_suite.py cc*", "*== 2 passed, 2 warnings in*"])
    coloured = run(project, "-k", "prints", "--color=yes", "-v")
    assert any("\x1b[32mCACHED" in line for line in coloured.outlines)
    last = coloured.outlines[-1]
    assert "\x1b[32m" in last
    assert "\x1b[32m\x1b[1m2 passed" in last or last.startswith("\x1b[32m")


def test_captured_output_is_shown_again(project: Project) -> None:
    """``-rA`` (and ``-rP``) shows what the test printed when it ran."""
    project.write("test_suite.py", TALKATIVE)
    run(project)
    warm = run(project, "-rA")
    warm.stdout.fnmatch_lines(["*Captured stdout call*", "to stdout", "*Captured stderr*"])
    warm.stdout.fnmatch_lines(["CACHED test_suite.py::test_prints"])


def test_durations_are_the_recorded_ones(project: Project) -> None:
    """``--durations`` lists a replayed test with the time that it took."""
    project.write(
        "test_suite.py",
        """
        import time
        import pytest

        @pytest.mark.cached
        def test_slow():
            time.sleep(0.2)
        """,
    )
    run(project)
    run(project, "--durations=3").stdout.re_match_lines([r"0\.[2-9]\ds call .*test_slow"])


def test_plugins_get_the_types_they_know(project: Project) -> None:
    """User properties and sections come back as tuples; keywords, location and node id are the
    item's own."""
    project.write(
        "conftest.py",
        """
        def pytest_runtest_logreport(report):
            if report.when == "call" and report.nodeid.endswith("test_it"):
                assert report.user_properties == [("ticket", "A-1")]
                assert type(report.user_properties[0]) is tuple
                assert all(type(section) is tuple for section in report.sections)
                assert report.location[0] == "test_suite.py"
                assert report.location[2] == "test_it"
                assert type(report.location) is tuple
                assert "test_it" in report.keywords
                assert report.passed
                assert report.longrepr is None
        """,
    )
    project.write("test_suite.py", TALKATIVE)
    for _ in range(2):
        run(project).assert_outcomes(passed=2, warnings=2)
    assert project.counted() == 1


def test_hooks_add_to_a_report_once(project: Project) -> None:
    """What a conftest's hook adds to the report of a test it adds to that of its replay, too: both
    tell it once, and what is only added to the replay is told."""
    project.write(
        "conftest.py",
        """
        import pytest

        @pytest.hookimpl(wrapper=True)
        def pytest_runtest_makereport(item, call):
            report = yield
            report.sections.append(("mine", call.when))
            report.user_properties.append(("phase", call.when))
            report.extras = [*getattr(report, "extras", ()), {"name": item.name}]
            if item.config.option.verbose:
                report.sections.append(("verbose", "yes"))
            return report

        def pytest_runtest_logreport(report):
            if report.when == "call":
                print("\\n", report.sections, report.user_properties, report.extras)
        """,
    )
    project.write("test_suite.py", "from counter import count\ndef test_it():\n    count('body')\n")
    once = "[('mine', 'call')] [('phase', 'call')] [{'name': 'test_it'}]"
    for _ in range(3):
        assert once in str(run(project, "--cache-tests=all", "-s").stdout)
    verbose = run(project, "--cache-tests=all", "-s", "-v")
    assert "[('mine', 'call'), ('verbose', 'yes')] [('phase', 'call')]" in str(verbose.stdout)
    assert project.counted() == 1


WARNINGS = {
    "other arguments": "def __init__(self, a, b): super().__init__(a)",
    "a text of its own": "def __str__(self): return f'<{self.args[0]}>'",
    "another text": "__init__, __str__ = lambda s, *a: setattr(s, 'a', a), lambda s: s.a[1]",
}


@pytest.mark.parametrize("what", WARNINGS)
def test_warnings_of_any_class(project: Project, what: str) -> None:
    """A warning is told again with its class and text, whatever its class is made with."""
    project.write("ours.py", f"class OurWarning(UserWarning):\n    {WARNINGS[what]}\n")
    project.write(
        "test_suite.py",
        """
        import warnings
        import ours
        from counter import count

        def test_it():
            count("body")
            warnings.warn(ours.OurWarning("some", "other"))
        """,
    )
    project.write("conftest.py", "import ours\n")
    shown = []
    for _ in range(2):
        lines = run(project, "--cache-tests=all").outlines
        shown.append([line for line in lines if "OurWarning: " in line])
    assert shown[0]
    assert shown[0] == shown[1]
    assert project.counted() == 1


def test_a_property_json_cannot_carry_is_not_stored(project: Project) -> None:
    """A tuple would come back as a list: such a test runs each time, and the reason is told."""
    project.write(
        "test_suite.py",
        """
        import pytest
        from counter import count

        @pytest.mark.cached
        def test_it(record_property):
            count("body")
            record_property("pair", (1, 2))
        """,
    )
    for _ in range(2):
        result = run(project)
        result.assert_outcomes(passed=1)
    assert project.counted() == 2
    assert "cannot be serialized" in line_of(result)


def test_warnings_are_shown_again(project: Project) -> None:
    """A replayed test's warnings appear in the summary with their text, class and place."""
    project.write("test_suite.py", TALKATIVE)
    cold, warm = run(project), run(project)
    assert project.counted() == 1
    for result in (cold, warm):
        result.assert_outcomes(passed=2, warnings=2)
        result.stdout.fnmatch_lines(
            [
                "*test_suite.py::test_it",
                "*test_suite.py:15: DeprecationWarning: old ways",
                "*test_suite.py:16: OurWarning: ours",
            ]
        )


def test_warnings_as_errors_run_the_test(project: Project) -> None:
    """With ``-W error`` the stored pass is not this run's: the test runs, and fails."""
    project.write("test_suite.py", TALKATIVE)
    run(project)
    run(project, "-W", "error::DeprecationWarning").assert_outcomes(passed=1, failed=1)
    run(project).assert_outcomes(passed=2, warnings=2)
    assert project.counted() == 2


@pytest.mark.parametrize("option", ["--lf", "--ff", "-x", "--maxfail=1", "--sw", "--nf"])
def test_other_selections_work_as_ever(project: Project, option: str) -> None:
    """A failing test beside replayed ones is found by ``--lf`` and its like, and stops ``-x``."""
    project.write(
        "test_suite.py",
        """
        import pytest
        from counter import count

        @pytest.mark.cached
        def test_a():
            count("a")

        def test_b():
            assert 0

        @pytest.mark.cached
        def test_c():
            count("c")
        """,
    )
    run(project).assert_outcomes(passed=2, failed=1)
    result = run(project, option)
    outcomes = result.parseoutcomes()
    expected = {
        "--lf": {"failed": 1},
        "--ff": {"failed": 1, "passed": 2},
        "--nf": {"failed": 1, "passed": 2},
        "-x": {"failed": 1, "passed": 1},
        "--maxfail=1": {"failed": 1, "passed": 1},
        "--sw": {"failed": 1, "passed": 1},
    }[option]
    assert {name: outcomes.get(name) for name in expected} == expected
    assert project.counted() == 2


@pytest.mark.parametrize(
    "option", ["--trace", "--setup-plan", "--setup-only", "--setup-show", "--pdb"]
)
def test_nothing_is_replayed_where_the_run_is_to_be_watched(project: Project, option: str) -> None:
    """Options that are about the running of tests do not consult the cache, and leave it as it
    is."""
    project.write(
        "test_suite.py",
        """
        import pytest
        from counter import count

        @pytest.fixture
        def data():
            count("fixture")

        @pytest.mark.cached
        def test_it(data):
            count("body")
        """,
    )
    project.write(
        "conftest.py",
        """
        import pdb

        class Silent(pdb.Pdb):
            def interaction(self, *args):
                self.set_continue()
        """,
    )
    run(project)
    assert project.counted("body") == 1
    result = run(project, option, "--pdbcls=conftest:Silent")
    assert not any("CACHED" in line for line in result.outlines)
    runs_body = option in ("--setup-show", "--pdb", "--trace")
    runs_setup = option != "--setup-plan"
    assert project.counted("body") == 1 + runs_body
    assert project.counted("fixture") == 1 + runs_setup
    run(project).assert_outcomes(passed=1)
    assert project.counted("body") == 1 + runs_body


def test_html_reports_are_written(project: Project) -> None:
    """pytest-html's report lists a replayed test as passed."""
    pytest.importorskip("pytest_html")
    project.write("test_suite.py", TALKATIVE)
    for _ in range(2):
        result = run(project, "--html=report.html", plugins=("html", "metadata"))
        result.assert_outcomes(passed=2, warnings=2)
    assert project.counted() == 1
    text = (project.path / "report.html").read_text()
    assert "test_suite.py::test_it" in text
    assert "2 Passed" in text


def test_logs_are_replayed(project: Project) -> None:
    """Captured log records come back as the section they were."""
    project.write(
        "test_suite.py",
        """
        import logging
        import pytest

        @pytest.mark.cached
        def test_it():
            logging.getLogger("x").warning("watch out")
        """,
    )
    run(project)
    run(project, "-rA").stdout.fnmatch_lines(["*Captured log call*", "*watch out*", "*1 passed*"])


def test_marks_that_are_added_while_a_test_runs(project: Project) -> None:
    """By a fixture of whatever scope, the body or a teardown: so the reports of hits have them."""
    project.write(
        "conftest.py",
        """
        def pytest_runtest_logreport(report):
            with open("marks.txt", "a") as file:
                marks = sorted(each for each in report.keywords if each.startswith("mine"))
                file.write(f"{report.nodeid} {report.when} {marks}\\n")
        """,
    )
    project.write(
        "test_suite.py",
        """
        import pytest
        from counter import count

        @pytest.fixture(scope="module", autouse=True)
        def of_module(request):
            request.node.add_marker("mine_of_module")

        @pytest.fixture
        def marked(request):
            request.node.add_marker("mine")
            yield
            request.node.keywords["mine_at_the_end"] = 1

        def test_one(marked, request):
            count("body")
            request.node.add_marker("mine_in_the_body")

        class TestIt:
            def test_two(self):
                count("body")
        """,
    )
    told = []
    for options in (("-p", "no:taskcache"), ("--cache-tests=all",), ("--cache-tests=all",)):
        (project.path / "marks.txt").unlink(missing_ok=True)
        loaded = () if "no:taskcache" in options else ("-p", "taskcache")
        project.pytester.runpytest_subprocess("--disable-plugin-autoload", *loaded, *options)
        told.append((project.path / "marks.txt").read_text())
    assert "mine_at_the_end" in told[0]
    assert told[0] == told[1] == told[2]
    assert project.counted() == 4, "the last run replayed both"
