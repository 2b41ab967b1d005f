"""Fixtures that all rooms share."""

from __future__ import annotations

import pytest
from projects import Project

pytest_plugins = ["pytester"]


@pytest.fixture
def project(pytester: pytest.Pytester) -> Project:
    """An empty project."""
    return Project(pytester)
