"""What a read-only opener needs to know about an index it must not touch."""

from __future__ import annotations

import os
import weakref
from pathlib import Path


def has_log(index: Path) -> bool:
    """Whether a write-ahead log holds something that the index file lacks."""
    try:
        return os.stat(f"{index}-wal").st_size > 0
    except FileNotFoundError:
        return False


def stamp(index: Path) -> object:
    """Changes whenever an index that was opened as immutable would have to be opened anew."""
    try:
        info = os.stat(index)
    except FileNotFoundError:
        return None
    try:
        log = os.stat(f"{index}-wal")
    except FileNotFoundError:
        return (info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns)
    moment = (log.st_ino, log.st_size, log.st_mtime_ns) if log.st_size else ()
    return (info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, *moment)


class Copy:
    """A private copy of an index with its log, outside the cache directory.

    ``remove()`` deletes it, as does the end of the object or of the process.
    """

    def __init__(self, index: Path) -> None:
        import shutil  # rarely needed, and slow to import
        import tempfile

        self._directory = Path(tempfile.mkdtemp(prefix="taskcache-"))
        self.path = self._directory / index.name
        self.remove = weakref.finalize(self, shutil.rmtree, self._directory, ignore_errors=True)
        shutil.copyfile(index, self.path)
        shutil.copyfile(f"{index}-wal", f"{self.path}-wal")
