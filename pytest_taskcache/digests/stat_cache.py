"""Digests of files' contents, kept between sessions for as long as their stat stays the same."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

from pytest_taskcache.checksum import checksum
from pytest_taskcache.digests import files
from pytest_taskcache.ports import Shelf

SECTION = "content"

_SURROGATES = re.compile("[\ud800-\udfff]")
_WELL_FORMED = re.compile("(?:sqlite:)?[0-9a-f]{32}")


class KeptContents:
    """Contents' digests by path, device, inode, size, mtime and ctime.

    The shelf is read once, when the first digest is asked for, and written by ``save``. A file
    that changed too recently to tell a second change by its times is digested anew each time,
    and never kept. ``clock`` returns nanoseconds since the epoch. ``reads`` counts the files
    that were opened.
    """

    def __init__(self, shelf: Shelf | None, clock: Callable[[], int]) -> None:
        self.reads = 0
        self._shelf = shelf
        self._clock = clock
        self._kept: dict[str, str] | None = None
        self._fresh: dict[str, str] = {}

    def keep_on(self, shelf: Shelf) -> None:
        """Keeps digests on this shelf from now on, and finds those that are there."""
        self._shelf, self._kept = shelf, None

    def digest(self, path: Path) -> str:
        """The digest of whatever is at a path, as ``files.content_digest`` defines it, with a
        database's siblings. Never raises."""
        return files.content_digest(path, self._read_with_siblings)

    def _read_with_siblings(self, path: Path, found: os.stat_result) -> str:
        return files.with_siblings(
            path, self._read(path, found), lambda sibling: files.content_digest(sibling, self._read)
        )

    def _read(self, path: Path, found: os.stat_result) -> str:
        kept = self._load()
        name = os.fspath(path)
        stamp = " ".join(map(str, files.identity_of(found)))
        entry = kept.get(name)
        if entry is not None:
            kept_stamp, _, kept_digest = entry.partition("|")
            if kept_stamp == stamp and _WELL_FORMED.fullmatch(kept_digest):
                return kept_digest
        self.reads += 1
        digest, opened = files.read_digest(path, found)
        now = self._clock()
        if files.is_racy(opened, now):
            large = opened.st_size > files.LARGE
            # Times alone cannot vouch for a large file that is still being written.
            return checksum((digest, "racy", str(now))) if large else digest
        if files.identity_of(opened) == files.identity_of(os.stat(path)):
            kept[name] = self._fresh[name] = (
                " ".join(map(str, files.identity_of(opened))) + "|" + digest
            )
        return digest

    def _load(self) -> dict[str, str]:
        if self._kept is None:
            items = {} if self._shelf is None else self._shelf.read(SECTION)
            self._kept = {name: value.decode("ascii", "replace") for name, value in items.items()}
            self._kept |= self._fresh
        return self._kept

    def save(self) -> None:
        """Puts what was newly digested on the shelf, in one write."""
        if self._shelf is not None and self._fresh:
            fresh, self._fresh = self._fresh, {}
            self._shelf.write(
                SECTION,
                {
                    # Names that are no text are not worth a spelling of their own here.
                    name: value.encode("ascii")
                    for name, value in fresh.items()
                    if not _SURROGATES.search(name)
                },
            )
