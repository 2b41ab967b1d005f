"""A small real project on disk, observed by a real observatory."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from observed_project import Project


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    built = Project(tmp_path)
    monkeypatch.syspath_prepend(built.root)
    monkeypatch.chdir(built.root)
    before = set(sys.modules)
    built.observatory.arm()
    try:
        yield built
    finally:
        built.observatory.disarm()
        root = str(built.root) + os.sep
        for name in set(sys.modules) - before:
            if str(getattr(sys.modules[name], "__file__", None) or "").startswith(root):
                del sys.modules[name]
