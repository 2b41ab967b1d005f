"""What the tests of cached functions share: bodies that are counted, a cache, its events."""

from __future__ import annotations

import importlib
import importlib.util
import linecache
import os
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import TypeVar
from unittest.mock import patch

import pytest

from pytest_taskcache import Cache
from pytest_taskcache.model.event import Event

_ran: list[str] = []
_guard = threading.Lock()


def ran(name: str) -> None:
    """To be called by a body that is counted."""
    with _guard:
        _ran.append(name)


def times(name: str | None = None) -> int:
    """How often bodies of this name, or of any, ran in the present test."""
    return len(_ran) if name is None else _ran.count(name)


E = TypeVar("E")


class Events:
    """An observer that keeps what it is told."""

    def __init__(self) -> None:
        self.all: list[Event] = []

    def notify(self, event: Event) -> None:
        self.all.append(event)

    def of(self, kind: type[E]) -> list[E]:
        return [event for event in self.all if isinstance(event, kind)]


@pytest.fixture(autouse=True)
def _nothing_ran() -> Iterator[None]:
    """Each test counts from zero."""
    _ran.clear()
    yield
    _ran.clear()


@pytest.fixture
def events() -> Events:
    """What the cache of this test tells."""
    return Events()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The directory of a project; what lies outside of it is not observed."""
    path = tmp_path / "project"
    path.mkdir()
    return path


@pytest.fixture
def closed(tmp_path: Path, root: Path, events: Events) -> Cache:
    """A cache that is not open yet; it may be opened several times."""
    return Cache(tmp_path / "cache", root=root, observers=[events])


@pytest.fixture
def cache(closed: Cache) -> Iterator[Cache]:
    """An open cache in a directory of its own."""
    with closed:
        yield closed


@pytest.fixture
def load(root: Path) -> Iterator[Callable[[str, str], ModuleType]]:
    """``load(name, source)`` writes a module of the project and imports it, anew each time."""
    loaded: list[str] = []

    def load(name: str, source: str) -> ModuleType:
        path = root / f"{name}.py"
        path.write_text(textwrap.dedent(source).lstrip("\n"), encoding="utf-8")
        old = time.time() - 60  # a file that was changed just now is not trusted
        number = len(loaded)
        os.utime(path, (old + number, old + number))
        sys.modules.pop(name, None)
        importlib.invalidate_caches()
        linecache.clearcache()
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        loaded.append(name)
        spec.loader.exec_module(module)
        return module

    with (
        patch.object(sys, "dont_write_bytecode", True),
        patch.object(sys, "path", [str(root), *sys.path]),
    ):
        yield load
    for name in loaded:
        sys.modules.pop(name, None)


@pytest.fixture
def nothing_active(monkeypatch: pytest.MonkeyPatch) -> None:
    """No cache is active, not even that of the run these tests are part of."""
    from pytest_taskcache.engine import active

    monkeypatch.setattr(active, "_providers", [])
