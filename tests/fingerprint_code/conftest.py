"""A project on disk whose digests are asked for before and after an edit."""

from __future__ import annotations

import os
import textwrap
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import pytest

from pytest_taskcache.digests.present import Present
from pytest_taskcache.model.dependency import Dependency, Kind

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


class Project:
    """Files under a root, and fresh sessions that look at them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.shelf = MemoryShelf()
        self.path = [str(root)]

    def write(self, files: Mapping[str, str]) -> None:
        for name, text in files.items():
            path = self.root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(text), encoding="utf-8")

    def session(self, *, shelf: bool = False, clock: Callable[[], int] | None = None) -> Present:
        return Present(
            self.root,
            shelf=self.shelf if shelf else None,
            clock=clock or time.time_ns,
            path=lambda: self.path,
        )

    def trace(
        self, functions: Iterable[str], modules: Iterable[str] = ()
    ) -> tuple[Dependency, ...]:
        """What a computation that ran these functions rests on."""
        return tuple(self.session().reach(set(functions), set(modules)))

    def is_valid(self, trace: Iterable[Dependency]) -> bool:
        """Whether a fresh session finds every digest of a trace unchanged."""
        present = self.session()
        return all(present.digest(kind, name) == digest for kind, name, digest in trace)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    root = tmp_path / "project"
    root.mkdir()
    return Project(root)


@pytest.fixture
def later() -> Callable[[], int]:
    """A clock by which every file is old."""
    return lambda: time.time_ns() + LATER


def names_of(trace: Iterable[Dependency], kind: Kind) -> set[str]:
    return {item.name for item in trace if item.kind is kind}


def ran_as_root() -> bool:
    return os.geteuid() == 0
