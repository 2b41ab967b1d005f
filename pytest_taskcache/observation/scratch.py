"""The temporary trees of the run: what a fixture made there is no dependency of its users, who
inherit what the fixture rests on."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path


class Scratch:
    """Directories for temporary files, and who created what in them.

    Where a scratch directory and the project's root hold one another, the deeper one decides.
    Paths are owned by the traces of the windows that created them; None stands for what was
    created outside of every window, by an import or the runner.
    """

    def __init__(self, root: Path, declared: Iterable[Path]) -> None:
        self._root = _prefixes([root])
        self._declared = _prefixes(declared)
        self._owners: dict[str, set[str | None]] = {}

    def add_system_directory(self) -> None:
        """Counts the system's directory for temporary files too. Asking for it writes there."""
        self._declared += _prefixes([Path(tempfile.gettempdir())])

    def add(self, directory: Path) -> None:
        """Counts one more directory."""
        self._declared += _prefixes([directory])

    def holds(self, path: str) -> bool:
        """Whether a path is temporary."""
        scratch = _depth(path, self._declared)
        return scratch > 0 and scratch >= _depth(path, self._root)

    def own(self, paths: Iterable[str], trace: str | None) -> None:
        """These paths were created by the computation of this trace."""
        for path in paths:
            if self.holds(path):
                self._owners.setdefault(path, set()).add(trace)

    def is_derived(self, path: str, traces: set[str]) -> bool:
        """Whether a path, or a directory above it, was created by one of these computations,
        or outside of any: then it says nothing that they do not."""
        if not self._owners:
            return False
        above = path
        while True:
            owners = self._owners.get(above)
            if owners is not None and (None in owners or not owners.isdisjoint(traces)):
                return True
            above, below = os.path.dirname(above), above
            if above == below:
                return False


def _prefixes(directories: Iterable[Path]) -> tuple[str, ...]:
    found: dict[str, None] = {}
    for directory in directories:
        found[os.path.join(os.path.abspath(directory), "")] = None
        found[os.path.join(os.path.realpath(directory), "")] = None
    return tuple(found)


def _depth(path: str, prefixes: tuple[str, ...]) -> int:
    full = path + os.sep
    return max((len(prefix) for prefix in prefixes if full.startswith(prefix)), default=0)
