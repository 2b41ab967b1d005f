"""A small real project on disk, observed by a real observatory."""

from __future__ import annotations

import importlib
import textwrap
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from pytest_taskcache.digests.present import Present
from pytest_taskcache.model.dependency import Kind, Observed
from pytest_taskcache.observation.code_log import decode_code, decode_log
from pytest_taskcache.observation.observatory import Observatory
from pytest_taskcache.observation.window import OpenWindow


class MemoryShelf:
    """A shelf in memory."""

    def __init__(self) -> None:
        self.sections: dict[str, dict[str, bytes]] = {}

    def read(self, section: str) -> Mapping[str, bytes]:
        return dict(self.sections.get(section, {}))

    def write(self, section: str, items: Mapping[str, bytes]) -> None:
        self.sections.setdefault(section, {}).update(items)


class Project:
    """Files under a root of their own, the observatory that watches them, and short cuts."""

    def __init__(self, base: Path) -> None:
        self.root = base / "project"
        self.scratch = base / "scratch"
        self.own = self.root / ".cache"
        for directory in (self.root, self.scratch, self.own):
            directory.mkdir()
        self.parts: dict[str, bytes] = {}
        self.shelf = MemoryShelf()
        self.observatory = self.new_observatory()

    def new_observatory(self) -> Observatory:
        present = Present(self.root, temporary=self.scratch, ignore=[self.own])
        observatory = Observatory(present, scratch=[self.scratch], own=[self.own])
        observatory.read_parts_by(lambda blob: self.parts.get(blob.digest))
        observatory.keep_on(self.shelf)
        return observatory

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
        self.observatory.save()
        return observed

    def changes(self, observed: Observed) -> list[str]:
        """What a later session would say: a fresh observatory verifies the trace."""
        self.keep_parts(observed)
        return [str(change) for change in self.new_observatory().verify(observed.trace)]

    def keep_parts(self, observed: Observed) -> None:
        """Puts the shared parts of a trace where verification finds them."""
        for blob in observed.trace.uses:
            data = self.observatory.part(blob.digest)
            if data is not None:
                self.parts[blob.digest] = data

    def functions(self, observed: Observed) -> set[str]:
        """What ran in a window, as ``file::qualified name``."""
        self.keep_parts(observed)
        found: set[str] = set()
        for dependency in observed.trace.dependencies:
            if dependency.kind is Kind.CODE:
                part = decode_code(dependency)
                log = decode_log(self.parts[name] for name in part.segments)
                for ran in part.ran:
                    found.update(
                        f"{log.files[file][0]}::{name}"
                        for file, name in log.nodes[ran.start : ran.stop]
                    )
        return {name for name in found if not name.endswith(">") and name[0] != "<"}


def named(observed: Observed, kind: Kind) -> set[str]:
    return {one.name for one in observed.trace.dependencies if one.kind is kind}


def counts_as_a_whole(observed: Observed) -> bool:
    """Whether code may have run unseen, so that any change of a source counts."""
    code = [one for one in observed.trace.dependencies if one.kind is Kind.CODE]
    return any(decode_code(one).whole for one in code)
