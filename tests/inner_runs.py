"""Runs pytest inside pytest: ten times faster than a process each, where isolation allows it."""

from __future__ import annotations

import importlib
import sys
import warnings
from pathlib import Path

import filelock  # noqa: F401 - loaded once, see below
import pytest
import sqlalchemy.dialects.postgresql  # noqa: F401
from projects import Project

# What pytester forgets after a nested run is compiled and imported anew by the next one, which
# takes longer than the run, and stands beside what the package still refers to. (The dialect
# warns when that happens to it.)
import pytest_taskcache.code.source_file
import pytest_taskcache.config.factory
import pytest_taskcache.decorator
import pytest_taskcache.locking.file
import pytest_taskcache.plugin.collection.collection_hooks
import pytest_taskcache.plugin.fixtures
import pytest_taskcache.plugin.items
import pytest_taskcache.plugin.outcomes.outcome_hooks
import pytest_taskcache.plugin.session
import pytest_taskcache.plugin.summary
import pytest_taskcache.plugin.verification
import pytest_taskcache.report.explanation
import pytest_taskcache.report.history
import pytest_taskcache.serializers.trees
import pytest_taskcache.storage.remote.bounded
import pytest_taskcache.storage.remote.pruning
import pytest_taskcache.storage.remote.tiered  # noqa: F401

# Hypothesis's plugin imports all of itself anew in each run, which takes longer than the rest.
_OTHERS = (
    "randomly",
    "valkey",
    "platformdirs",
    "html",
    "metadata",
    "cov",
    "rerunfailures",
    "pytest-retry",
    "anyio",
    "hypothesispytest",
    "dependency",
    "syrupy",
)


def run(
    project: Project, *args: str, plugins: tuple[str, ...] = (), objects: tuple[object, ...] = ()
) -> pytest.RunResult:
    """Runs the project's tests in this process, without other plugins but those named, and those
    that are given."""
    importlib.invalidate_caches()
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    quiet: list[str] = []
    if "--disable-plugin-autoload" not in args:
        quiet = [arg for name in _OTHERS if name not in plugins for arg in ("-p", f"no:{name}")]
        quiet += ["-o", "asyncio_default_fixture_loop_scope=function"]  # else pytest-asyncio warns
    try:
        with warnings.catch_warnings():
            warnings.resetwarnings()  # the outer run's, under which a warning is an error
            # An interrupt of the inner run is a result to look at, not one of the outer run.
            return project.pytester.runpytest_inprocess(
                *quiet, *args, plugins=list(objects), no_reraise_ctrlc=True
            )
    finally:
        sys.dont_write_bytecode = before


def line_of(result: pytest.RunResult) -> str:
    """The plugin's summary line, without its first word; "" if there is none."""
    header = "taskcache: "
    found = [line for line in result.outlines if line.startswith(header)]
    summaries = [line for line in found if "(rw, tests" not in line and "(r, tests" not in line]
    return summaries[-1].removeprefix(header) if summaries else ""


def snapshot(directory: Path) -> dict[str, tuple[int, int, bytes]]:
    """Every file and directory beneath: its size, its time of change, its content."""
    return {
        str(path.relative_to(directory)): (
            path.stat().st_size,
            path.stat().st_mtime_ns,
            path.read_bytes() if path.is_file() else b"",
        )
        for path in sorted(directory.rglob("*"))
    }
