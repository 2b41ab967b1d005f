"""An expensive fixture whose value is a file."""

from __future__ import annotations

from pathlib import Path

import pytest
from search import build_index

from pytest_taskcache import cached_fixture


@cached_fixture(scope="session")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A full-text index: the file is stored, and restored into a fresh directory."""
    path = tmp_path_factory.mktemp("search") / "library.sqlite3"
    build_index(path)
    return path
