"""Fixtures that all rooms share."""

from __future__ import annotations

import signal

import pytest
from projects import Project

pytest_plugins = ["pytester"]

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Started in the background by a shell: what the tests interrupt would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def project(pytester: pytest.Pytester) -> Project:
    """An empty project."""
    return Project(pytester)
