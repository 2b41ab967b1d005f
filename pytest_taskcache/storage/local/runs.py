"""The runs that use an index: each is alive as long as a lock is held, by which its rows are.

A run is started, and a dead one swept, within a write transaction of the index, so neither can
happen in the middle of the other.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import weakref
from pathlib import Path
from sqlite3 import Connection
from typing import TYPE_CHECKING

from pytest_taskcache.errors import StorageError
from pytest_taskcache.forking import ForkAware
from pytest_taskcache.storage.local.descriptors import Descriptors
from pytest_taskcache.storage.local.index import Index, lock_file, silence
from pytest_taskcache.storage.local.variants import delete_variants

if TYPE_CHECKING:
    from filelock import BaseFileLock

_is_name = re.compile(r"[A-Za-z0-9_.-]{1,100}").fullmatch
_FOLDER = "runs"
_SUFFIX = ".lock"
_OWNED = ("claims", "pins", "locks")


class RunLock(ForkAware):
    """The lock of one run: its controlling process has it from before the first row of the run is
    written. When that process ends, however it ends, the operating system frees the lock. It is
    taken when it is first needed, because a run that only reads needs none, and importing
    `filelock` takes as long as such a run may (65 ms). A forked child does not have it."""

    def __init__(self, index: Index, run: str) -> None:
        super().__init__()
        if not _is_name(run):
            raise ValueError(f"a run's id must do as a file name: {run!r}")
        self.run = run
        self._index = index
        self._lock: BaseFileLock | None = None
        self._pid = 0
        self._descriptors = Descriptors(())
        # Weakly, or both were there, and the lock held, until a full collection came by.
        index.on_descriptors_lost = weakref.WeakMethod(self._take_again)

    def hold(self) -> None:
        """Takes the lock, unless this process or its parent has it, or the index is in memory and
        so nobody else's. Raises StorageError."""
        directory = self._index.directory
        if directory is None:
            return
        path = directory / _FOLDER / f"{self.run}{_SUFFIX}"
        if self._lock is not None:
            if self._pid != os.getpid() or path.exists():
                return
            self._let_go()
        self._index.write("start a run", lambda connection: self._take(path))

    def release(self) -> None:
        """Ends the run: its lock goes, with its file. Never raises."""
        if self._lock is not None and self._pid == os.getpid():
            # The file may have been removed with the whole directory; the lock goes in any case.
            with contextlib.suppress(OSError):
                Path(self._lock.lock_file).unlink(missing_ok=True)
            self._let_go()

    def _start_anew(self) -> None:
        if self._lock is not None:
            # The end of the object would free the parent's lock in versions of filelock before 4.
            import ctypes

            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._lock))

    def _take(self, path: Path) -> None:
        if self._lock is not None:
            return  # another thread was here first
        if path.parent.is_file():
            path.parent.rename(f"{path.parent}.aside")
        path.parent.mkdir(mode=0o777 if self._index.shared else 0o700, exist_ok=True)
        before = Descriptors([path]).numbers()
        lock = lock_file(path)
        if lock is None:
            raise StorageError(str(self._index), "start a run", "another process is the same run")
        self._lock, self._pid = lock, os.getpid()
        self._descriptors = Descriptors([path], before)

    def _let_go(self) -> None:
        lock, self._lock = self._lock, None
        with contextlib.suppress(OSError), self._descriptors.restored(), silence():
            if lock is not None:
                lock.release(force=True)
        self._descriptors = Descriptors(())

    def _take_again(self) -> None:
        """After somebody closed what was not theirs. Whoever swept the run meanwhile took what
        was staged with it, so nothing of it is found any more."""
        if self._lock is not None and self._pid == os.getpid() and not self._descriptors.intact():
            self._let_go()
            with contextlib.suppress(StorageError):
                self.hold()


def this_process() -> str:
    """``pid@host``."""
    return f"{os.getpid()}@{platform.node()}"


def is_gone(process: str) -> bool:
    """Whether a process (``pid@host``) of this host has ended; False where that cannot be told.
    To be asked about processes of the own run alone: others may count their processes apart."""
    pid, _, host = process.partition("@")
    if host != platform.node() or not pid.isdigit():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return is_unreaped(pid)


def is_unreaped(pid: str) -> bool:
    """Whether a process has ended, and its parent not asked for its exit code yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b") ")[2][:1] in (b"Z", b"X")
    except OSError:
        return False


def forget_locks_of_the_dead(connection: Connection, run: str) -> None:
    """Frees the keys that ended processes of a living run held."""
    rows = connection.execute("SELECT DISTINCT process FROM locks WHERE run = ?", (run,)).fetchall()
    for (process,) in rows:
        if is_gone(str(process)):
            connection.execute("DELETE FROM locks WHERE run = ? AND process = ?", (run, process))


def is_alive(directory: Path, run: str) -> bool:
    """Whether a run lives; to be asked in a write transaction. Raises OSError."""
    if not _is_name(run):
        return False
    path = directory / _FOLDER / f"{run}{_SUFFIX}"
    if not path.exists():
        return False
    lock = lock_file(path)
    if lock is None:
        return True
    with silence():
        lock.release()
    return False


def sweep(index: Index, but: str = "") -> None:
    """Removes what dead runs left: staged entries that are not retained, claims, pins and locks.
    Raises StorageError."""
    directory = index.directory
    if directory is None:
        return
    names = index.read("sweep", _runs)
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        files = os.listdir(directory / _FOLDER)
        names |= {name.removesuffix(_SUFFIX) for name in files if name.endswith(_SUFFIX)}
    names.discard(but)

    def work(connection: Connection) -> None:
        for run in sorted(names):
            if not is_alive(directory, run):
                forget(connection, run)
                if _is_name(run):
                    (directory / _FOLDER / f"{run}{_SUFFIX}").unlink(missing_ok=True)

    if names:
        index.write("sweep", work)


def forget(connection: Connection, run: str) -> None:
    """Removes what a run has, but for what is retained."""
    rows = connection.execute(
        "SELECT id FROM variants WHERE state != '' AND run = ? AND retained_for IS NULL", (run,)
    )
    delete_variants(connection, [id_ for (id_,) in rows.fetchall()], None)
    for table in _OWNED:
        connection.execute(f"DELETE FROM {table} WHERE run = ?", (run,))


def _runs(connection: Connection) -> set[str]:
    tables = " UNION ".join(f"SELECT run FROM {table} WHERE run != ''" for table in _OWNED)
    rows = connection.execute(
        f"SELECT run FROM variants WHERE state != '' AND retained_for IS NULL UNION {tables}"
    )
    return {run for (run,) in rows if isinstance(run, str)}
