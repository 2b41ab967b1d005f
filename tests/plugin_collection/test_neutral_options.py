"""How a run is shown, limited or distributed makes nothing run again."""

from __future__ import annotations

import pytest
from inner_runs import run
from projects import Project

SHOWING = [
    ("-s",),
    ("-v",),
    ("--tb=long",),
    ("-o", "log_cli=true"),
    ("-rA", "-l"),
    ("--durations=1",),
    ("-o", "log_file=run.log"),
]


def _suite(project: Project) -> None:
    project.write("test_suite.py", "from counter import count\ndef test_it(): count('body')\n")


@pytest.mark.parametrize("options", SHOWING, ids=" ".join)
def test_showing_is_neutral(project: Project, options: tuple[str, ...]) -> None:
    """What was recorded without an option is replayed with it, and the reverse."""
    _suite(project)
    for given in ((), options, ()):
        run(project, "--cache-tests=all", *given).assert_outcomes(passed=1)
    assert project.counted() == 1


@pytest.mark.parametrize("level", ["log_cli_level", "log_file_level", "log_level"])
def test_levels_of_logging_count(project: Project, level: str) -> None:
    """They lower the root logger's level, and so what a test finds logged."""
    project.write(
        "test_suite.py",
        """
        import logging

        def test_it(caplog):
            logging.getLogger("app").info("hello")
            assert not caplog.records
        """,
    )
    run(project, "--cache-tests=all").assert_outcomes(passed=1)
    run(project, "--cache-tests=all", "-o", f"{level}=INFO").assert_outcomes(failed=1)
    option = f"--{level.replace('_', '-')}=INFO"
    run(project, "--cache-tests=all", option).assert_outcomes(failed=1)
    run(project, "--cache-tests=all").stdout.fnmatch_lines(["*1 test reused*"])


PLUGIN = """
    def pytest_addoption(parser):
        parser.addoption("--limit", dest="limit", type=int)
        parser.addoption("--flavour", dest="flavour")
        parser.addoption("--colour-of-log", dest="colour_of_log")

    def pytest_taskcache_neutral_options(config):
        return ["limit"]
"""


def test_plugins_and_projects_add_their_own(project: Project) -> None:
    """A plugin names its neutral options by a hook, a project by a setting; any other option of a
    plugin counts, in what it is given as."""
    _suite(project)
    project.write("conftest.py", PLUGIN)
    project.write("pytest.ini", "[pytest]\ntaskcache_neutral_options = colour_of_log\n")
    for given in ((), ("--limit=3",), ("--limit=4", "--colour-of-log=red")):
        run(project, "--cache-tests=all", *given).assert_outcomes(passed=1)
    assert project.counted() == 1
    for given in (("--flavour=sweet",), ("--flavour=sour",), ("--flavour=sweet",)):
        run(project, "--cache-tests=all", *given).assert_outcomes(passed=1)
    assert project.counted() == 3
