"""A run of stand-ins is a plain run to everything that looks: the same tests, in the same order,
with the same reports."""

from __future__ import annotations

from odd_project import see, write_odd_project
from projects import Project

PLAIN = ("-p", "no:taskcache")
WARM = ("--cache-tests=all",)

SELECTIONS = [
    (),
    ("-rA", "-k", "purpose or (sizes and not again)"),
    ("-m", "modmark or slow"),
    ("-m", "slow or withargs"),
    ("-k", "never"),
    ("test_odd_functions.py::test_objects[a]", "test_odd_classes.py::TestOuter", "sub"),
    ("--deselect", "test_odd_functions.py::test_objects", "--ff"),
    ("--lf", "--sw"),
    ("--collect-only", "-q"),
]


def test_selections(project: Project) -> None:
    """Ids, their order and the whole junit file are those of a plain run, whatever is selected;
    and no test file is imported for it."""
    write_odd_project(project)
    cold = see(project, *WARM)
    assert cold.cases == see(project, *PLAIN).cases
    assert len(cold.imported) == 5
    for options in SELECTIONS:
        plain = see(project, *PLAIN, *options)
        warm = see(project, *WARM, *options)
        assert warm.cases == plain.cases, options
        assert warm.outcomes == plain.outcomes, options
        assert warm.cases or "--collect-only" in options
        assert warm.ids == plain.ids, options
        assert not warm.imported, options
