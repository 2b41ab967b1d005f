"""The temporary trees of the run: what a fixture made there is no dependency of its users, who
inherit what the fixture rests on."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from pytest_taskcache.originals import os_path

BY_IMPORT = "import"
"""What runs before the first test, a module's body or a hook, or the cache itself: whoever uses the
path rests on that code, or on the value. The path may be another one in each run."""

BY_RUNNER = "runner"
"""The test runner: the path is the same in every run."""

BY_CODE = "code"
"""A test or fixture that is not cached: what it wrote may be something else next time."""

_UNWATCHED = frozenset({BY_IMPORT, BY_RUNNER, BY_CODE})


class Scratch:
    """Directories for temporary files, and who created what in them.

    Where a scratch directory and the project's root hold one another, the deeper one decides.
    Paths are owned by the traces of the windows that created or changed them. Those that nobody
    watched have an owner instead that says who they were.
    """

    def __init__(self, root: Path, declared: Iterable[Path]) -> None:
        self._root = _prefixes([root])
        self._declared = _prefixes(declared)
        self._owners: dict[str, set[str]] = {}
        self._makers: dict[str, tuple[int, ...]] = {}
        self._changed: dict[str, int] = {}

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

    def own(self, paths: Iterable[str], trace: str) -> None:
        """These paths were created or changed by the computation of this trace."""
        for path in paths:
            if self.holds(path):
                self._owners[path] = {trace, *self._owners.get(path, set()) - _UNWATCHED}

    def own_unwatched(self, path: str, owner: str, makers: tuple[int, ...] = ()) -> None:
        """This path was created, or changed, by one that no window watched: `BY_IMPORT`,
        `BY_RUNNER` or `BY_CODE`; ``makers`` are the nodes of the code that ran."""
        self._owners[path] = {owner}
        self._makers[path] = makers

    def note_change(self, path: str, moment: int) -> None:
        """This process is about to change a path, at this moment (POSIX nanoseconds)."""
        self._changed[path] = moment

    def changed_at(self, path: str) -> int:
        """When this process was last seen to change a path; 0 for never."""
        return self._changed.get(path, 0)

    def derived_from(self, path: str, traces: set[str]) -> tuple[int, ...] | None:
        """The nodes that a path stands for, or the innermost directory above it that has an owner:
        none where one of these computations created it, which is then known by its trace; those
        that ran where an import did. None where it counts by itself. That the runner made a
        directory says nothing of what is in it."""
        above = path
        while self._owners:
            owners = self._owners.get(above, set())
            if BY_RUNNER in owners and above == path:
                return ()
            if owners - {BY_RUNNER}:
                if BY_IMPORT in owners:
                    return self._makers.get(above, ())
                return None if owners.isdisjoint(traces) else ()
            above, below = os.path.dirname(above), above
            if above == below:
                break
        return None


def _prefixes(directories: Iterable[Path]) -> tuple[str, ...]:
    found: dict[str, None] = {}
    for directory in directories:
        found[os.path.join(os_path.abspath(directory), "")] = None
        found[os.path.join(os_path.realpath(directory), "")] = None
    return tuple(found)


def _depth(path: str, prefixes: tuple[str, ...]) -> int:
    full = path + os.sep
    return max((len(prefix) for prefix in prefixes if full.startswith(prefix)), default=0)
