"""The runs that use a cache directory: a lock each, held as long as the run lives."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from typing import Self

from pytest_taskcache.errors import StorageError
from pytest_taskcache.storage.local import ownership
from pytest_taskcache.storage.local.faults import storage_error
from pytest_taskcache.storage.local.oslock import OsLock

_ACQUIRE_SECONDS = 10.0
_is_name = re.compile(r"[A-Za-z0-9_.-]{1,100}").fullmatch


class RunLock:
    """The lock of one run, held by its controlling process from before anything is staged.

    When that process ends, however it ends, the operating system frees the lock, and whoever
    can take it knows that the run is dead. A context manager.
    """

    def __init__(self, directory: Path, run: str) -> None:
        if not _is_name(run):
            raise ValueError(f"a run's id must do as a file name: {run!r}")
        self._directory = directory
        self._lock = OsLock(_folder(directory) / f"{run}.lock")

    def acquire(self) -> None:
        """Takes the lock. Raises StorageError."""
        try:
            ownership.create_directory(self._directory)
            ownership.check_ownership(self._directory, "start a run")
            _folder(self._directory).mkdir(mode=0o700, exist_ok=True)
            if not self._lock.acquire(_ACQUIRE_SECONDS):
                reason = "another process is the same run"
                raise StorageError(str(self._directory), "start a run", reason)
        except OSError as error:
            raise storage_error(str(self._directory), "start a run", error) from error

    def release(self) -> None:
        """Ends the run: its lock goes, with its file. Never raises."""
        # The file may have been removed with the whole directory; the lock goes in any case.
        with contextlib.suppress(OSError):
            self._lock.release(remove=True)

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def is_dead(directory: Path, run: str) -> OsLock | None:
    """The lock of a dead run, now held so that it stays dead (to be released with its file
    removed); None while the run lives."""
    if not _is_name(run):
        return None
    folder = _folder(directory)
    folder.mkdir(mode=0o700, exist_ok=True)
    lock = OsLock(folder / f"{run}.lock")
    return lock if lock.try_acquire() else None


def known_runs(directory: Path) -> set[str]:
    """The runs, dead or alive, that left a lock file."""
    try:
        names = os.listdir(_folder(directory))
    except FileNotFoundError:
        return set()
    return {name.removesuffix(".lock") for name in names if name.endswith(".lock")}


def _folder(directory: Path) -> Path:
    return directory / "runs"


__all__ = ["RunLock", "is_dead", "known_runs"]
