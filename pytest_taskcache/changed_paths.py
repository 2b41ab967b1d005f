"""Paths that change are noted at once and thought about later: a test may write thousands of
files, and what is known of paths is asked for once in a while."""

from __future__ import annotations

import os
import threading
from collections.abc import Collection

from pytest_taskcache.originals import originals

_HAPPENING = 50_000_000
"""Nanoseconds within which a change that another thread announced may still be to come."""

_COARSE = 2_000_000_000
_FINE = 50_000_000


def is_racy(found: os.stat_result, now_ns: int) -> bool:
    """Whether a file changed so recently that a second change could leave the same times.

    The window is 50 ms where the times show a fraction of a second, else 2 s; times in the
    future are racy for good. See docs/decisions/0002-racy-window.md.
    """
    latest = max(found.st_mtime_ns, found.st_ctime_ns)
    fine = found.st_ctime_ns % 1_000_000_000 and found.st_mtime_ns % 1_000_000_000
    return now_ns - latest < (_FINE if fine else _COARSE)


def stamp_of(path: str) -> object:
    """Equal to an earlier one while a path certainly leads to what it did, or still to nothing;
    never equal where its times are racy, or where it leads into an archive."""
    try:
        found = originals.stat(path)
    except NotADirectoryError:
        return object()
    except (OSError, ValueError):
        return None
    if is_racy(found, originals.now()):
        return object()
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


class ChangedPaths:
    """The paths that changed since they were last taken; may be used from several threads."""

    def __init__(self) -> None:
        self.noted: dict[str, tuple[bool, int, int]] = {}
        """By path: whether it is a tree, the thread that told, and when (POSIX nanoseconds)."""

    def note(self, path: str, *, tree: bool) -> None:
        """A path is about to change; with ``tree``, all that is below it too."""
        known = self.noted.get(path)
        tree = tree or (known is not None and known[0])
        self.noted[path] = tree, threading.get_ident(), originals.now()

    def take(self) -> tuple[list[str], tuple[str, ...]]:
        """The paths noted, and those of trees, without what lies in another one's. What another
        thread announced a moment ago is given again next time: it may not have happened yet."""
        noted, self.noted = self.noted, {}
        here, now = threading.get_ident(), originals.now()
        for path, (tree, thread, moment) in noted.items():
            if thread != here and now - moment < _HAPPENING:
                self.noted.setdefault(path, (tree, thread, moment))
        trees = {path for path, (tree, *_) in noted.items() if tree}
        paths = [path for path in noted if not (trees and is_inside(path, trees))]
        return paths, tuple(path for path in paths if path in trees)


def is_inside(path: str, directories: Collection[str]) -> bool:
    """Whether one of the directories holds the path, at any depth."""
    above = os.path.dirname(path)
    while above != path:
        if above in directories:
            return True
        path, above = above, os.path.dirname(above)
    return False
