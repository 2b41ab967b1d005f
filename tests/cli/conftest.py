"""A small project with a cache, made by one real run of pytest."""

from __future__ import annotations

import shutil
import textwrap
from pathlib import Path

import pytest
from cli_project import SUITE, Commands


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Commands:
    """The project after three runs; not to be changed."""
    path = tmp_path_factory.mktemp("cli") / "project"
    path.mkdir()
    (path / "pytest.ini").write_text("[pytest]\n")
    (path / "helpers.py").write_text("def make_rows(n):\n    return [0] * n\n")
    (path / "size.txt").write_text("10")
    (path / "test_suite.py").write_text(textwrap.dedent(SUITE), encoding="utf-8")
    commands = Commands(path)
    commands.pytest()
    (path / "helpers.py").write_text("def make_rows(n):\n    return [1] * n\n")
    (path / "size.txt").write_text("20")
    commands.pytest()
    commands.pytest("-q")
    return commands


@pytest.fixture
def own(made: Commands, tmp_path: Path) -> Commands:
    """A copy of it, to be changed."""
    shutil.copytree(made.path, tmp_path / "project")
    return Commands(tmp_path / "project")
