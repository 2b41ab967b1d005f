"""A directory of files whose digests are asked for before and after an edit."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from pytest_taskcache.digests.present import Present

LATER = 3600 * 10**9


class MemoryShelf:
    """A shelf in memory; counts reads and writes."""

    def __init__(self) -> None:
        self.sections: dict[str, dict[str, bytes]] = {}
        self.reads: list[str] = []
        self.writes: list[str] = []

    def read(self, section: str) -> Mapping[str, bytes]:
        self.reads.append(section)
        return dict(self.sections.get(section, {}))

    def write(self, section: str, items: Mapping[str, bytes]) -> None:
        self.writes.append(section)
        self.sections.setdefault(section, {}).update(items)


class DigestedFiles:
    """Files under a root, and fresh sessions that look at them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.shelf = MemoryShelf()

    def write(self, files: Mapping[str, str]) -> None:
        for name, text in files.items():
            path = self.root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(text), encoding="utf-8")

    def session(self, *, shelf: bool = False, clock: Callable[[], int] = time.time_ns) -> Present:
        present = Present(self.root, clock=clock, path=lambda: [str(self.root)])
        if shelf:
            present.keep_on(self.shelf)
        return present


@pytest.fixture
def project(tmp_path: Path) -> DigestedFiles:
    """An empty directory in place of pytester's."""
    root = tmp_path / "project"
    root.mkdir()
    return DigestedFiles(root)


@pytest.fixture
def later() -> Callable[[], int]:
    """A clock by which every file is old."""
    return lambda: time.time_ns() + LATER
