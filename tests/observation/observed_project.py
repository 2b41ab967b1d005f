"""A small real project on disk, observed by a real observatory."""

from __future__ import annotations

import importlib
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from pytest_taskcache.digests.present import Present
from pytest_taskcache.model.dependency import Kind, Observed
from pytest_taskcache.observation import Observatory
from pytest_taskcache.observation.windows import OpenWindow


class Project:
    """Files under a root of their own, the observatory that watches them, and short cuts."""

    def __init__(self, base: Path) -> None:
        self.root = base / "project"
        self.scratch = base / "scratch"
        self.own = self.root / ".cache"
        for directory in (self.root, self.scratch, self.own):
            directory.mkdir()
        self.observatory = self.new_observatory()

    def new_observatory(self) -> Observatory:
        present = Present(self.root, temporary=self.scratch, ignore=[self.own])
        return Observatory(present, scratch=[self.scratch], own=[self.own])

    def write(self, name: str, text: str = "") -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
        return path

    def settle(self) -> None:
        """Lets the file system's clock move on, so that what was written is old."""
        time.sleep(0.03)

    def load(self, name: str) -> ModuleType:
        importlib.invalidate_caches()
        return importlib.import_module(name)

    def window(self, subject: Callable[..., Any] | None = None) -> OpenWindow:
        self.settle()
        return self.observatory.open_window(subject)

    def observe(self, call: Callable[..., Any], *args: Any) -> Observed:
        window = self.window(call)
        try:
            call(*args)
        finally:
            observed = window.close()
        return observed

    def changes(self, observed: Observed) -> list[str]:
        """What a later session would say: a fresh observatory verifies the trace."""
        return [str(change) for change in self.new_observatory().verify(observed.trace)]


def named(observed: Observed, kind: Kind) -> set[str]:
    return {one.name for one in observed.trace.dependencies if one.kind is kind}
