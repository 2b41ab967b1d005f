"""Modules that are found only because a test, or a fixture, added an entry to the path."""

from __future__ import annotations

import pytest
from inner_runs import line_of
from projects import Project

LOADERS = """
    import importlib

    LOADED = {}

    def load(name):
        if name not in LOADED:
            LOADED[name] = importlib.import_module(name)
        return LOADED[name]

    def answer():
        return [module.VALUE for module in LOADED.values()]
"""
ADDING = """
    import os, sys
    import pytest
    from loaders import load
    from counter import count

    HERE = os.path.dirname(__file__)

    def test_adding({fixture}):
        count("adding")
        {add}
        assert load("added").VALUE in (1, 2)
"""
LATER = """
    from counter import count
    from loaders import answer

    def test_later():
        count("later")
        assert answer() in ([], [1])
"""
WAYS = {
    "undone": ("monkeypatch", 'monkeypatch.syspath_prepend(os.path.join(HERE, "one"))'),
    "kept": ("request", 'sys.path.insert(0, os.path.join(HERE, "one"))'),
}


@pytest.fixture(params=WAYS)
def adding(request: pytest.FixtureRequest, project: Project) -> str:
    """A project, and the text of the test that adds the path."""
    fixture, add = WAYS[request.param]
    project.write("loaders.py", LOADERS)
    project.write("one/added.py", "VALUE = 1\n")
    project.write("two/added.py", "VALUE = 2\n")
    project.write("test_b_later.py", LATER)
    text = ADDING.format(fixture=fixture, add=add)
    project.write("test_a_adding.py", text)
    return text


def test_nothing_is_missed_where_nothing_changed(project: Project, adding: str) -> None:
    """Neither by those that come later and reach what was imported, nor, where the path is as it
    was at the end, by the one that imported it."""
    project.run("--cache-tests=all", "-p", "no:randomly").assert_outcomes(passed=2)
    again = project.run("--cache-tests=all", "-p", "no:randomly", "--cache-explain")
    again.assert_outcomes(passed=2)
    assert project.counted("later") == 1, again.stdout.str()
    if "monkeypatch" in adding:
        assert line_of(again).startswith("2 tests reused"), again.stdout.str()


def test_another_path_runs_both(project: Project, adding: str) -> None:
    """Though no file that was imported has changed."""
    project.run("--cache-tests=all", "-p", "no:randomly").assert_outcomes(passed=2)
    project.write("test_a_adding.py", adding.replace('"one"', '"two"'))
    project.run("--cache-tests=all", "-p", "no:randomly").assert_outcomes(passed=1, failed=1)
    assert project.counted("adding") == 2
    assert project.counted("later") == 2


def test_a_module_that_appears_on_the_path_of_old(project: Project, adding: str) -> None:
    """It may be found instead; but not by the one that comes later, where the path is kept and
    has led to the other by then."""
    project.run("--cache-tests=all", "-p", "no:randomly").assert_outcomes(passed=2)
    project.write("added.py", "VALUE = 1\n")
    project.run("--cache-tests=all", "-p", "no:randomly").assert_outcomes(passed=2)
    assert project.counted("adding") == 2
    assert project.counted("later") == (2 if "monkeypatch" in adding else 1)


def test_who_uses_what_another_imported_rests_on_the_path_that_it_added(project: Project) -> None:
    """Though it mentions the module alone, which is loaded by then and has not changed."""
    text = ADDING.format(fixture="monkeypatch", add=WAYS["undone"][1])
    text = text.replace('load("added")', '__import__("added")').replace(
        "from loaders import load", ""
    )
    project.write("one/added.py", "VALUE = 1\n")
    project.write("two/added.py", "VALUE = 2\n")
    project.write("test_a_adding.py", text)
    project.write(
        "test_b_later.py",
        """
        from counter import count

        def test_later():
            count("later")
            import added
            assert added.VALUE == 1
        """,
    )
    options = ("--cache-tests=all", "-p", "no:randomly")
    project.run(*options).assert_outcomes(passed=2)
    project.run(*options).assert_outcomes(passed=2)
    assert project.counted("later") == 1
    project.write("test_a_adding.py", text.replace('"one"', '"two"'))
    project.run(*options).assert_outcomes(passed=1, failed=1)
    assert project.counted("later") == 2
