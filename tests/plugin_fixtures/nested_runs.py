"""Two runs of pytest inside pytest, and what the second must not do."""

from __future__ import annotations

import inner_runs
import pytest
from projects import Project

_LEFT_OUT = ("-p", "no:valkey", "-p", "no:pytest_cov")


def run(project: Project, *args: str) -> pytest.RunResult:
    """Runs the project's tests in this process, with the plugins that bear on fixtures."""
    return inner_runs.run(project, *_LEFT_OUT, *args, plugins=("anyio", "rerunfailures"))


def cold_then_warm(project: Project, *args: str, computed: int, **outcomes: int) -> None:
    """Two runs with the same outcomes; in the second no counted body ran."""
    run(project, *args).assert_outcomes(**outcomes)
    assert project.counted() == computed
    run(project, *args).assert_outcomes(**outcomes)
    assert project.counted() == computed
