"""A project to hurt, and how it fares without the plugin."""

from __future__ import annotations

from pathlib import Path

import pytest
from hurt_project import HurtProject, Ran


@pytest.fixture
def hurt(tmp_path: Path) -> HurtProject:
    """A project that no run has seen yet."""
    return HurtProject(tmp_path)


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """The suite's run without the plugin."""
    project = HurtProject(tmp_path_factory.mktemp("plain"))
    ran = project.run(plugin=False)
    assert ran.code == pytest.ExitCode.TESTS_FAILED, ran.shown
    assert len(ran.outcomes) == 11, ran.shown
    return ran
