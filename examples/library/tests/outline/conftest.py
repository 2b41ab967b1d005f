"""An expensive fixture whose value is a directory tree."""

from __future__ import annotations

from pathlib import Path

import pytest
from outline import build_outline

from pytest_taskcache import cached_fixture


@cached_fixture(scope="session")
def outline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page a module: the tree is stored file by file, and restored."""
    directory = tmp_path_factory.mktemp("outline")
    build_outline(directory)
    return directory
