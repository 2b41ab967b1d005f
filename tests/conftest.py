"""Fixtures that all rooms share."""

from __future__ import annotations

import signal

import pytest
from projects import Project

pytest_plugins = ["pytester"]

# A shell that starts us in the background has these ignored, and the processes that the tests
# interrupt, and the servers that they stop, would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGQUIT) is signal.SIG_IGN:
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)


@pytest.fixture
def project(pytester: pytest.Pytester) -> Project:
    """An empty project."""
    return Project(pytester)
