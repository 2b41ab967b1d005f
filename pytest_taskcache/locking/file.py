"""Locks between processes that share a directory: rows of an index, alive while their run is."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from sqlite3 import Connection
from typing import NamedTuple

import xxhash

from pytest_taskcache.errors import LockError, StorageError
from pytest_taskcache.locking.leases import Leases, from_text, to_text
from pytest_taskcache.originals import originals
from pytest_taskcache.ports import Holder, Lease
from pytest_taskcache.storage.local import Index, RunLock, runs


class _Row(NamedTuple):
    run: str
    process: str
    token: int
    holder: Holder


class IndexLocks(Leases):
    """Mutual exclusion between all processes that use the same index.

    A held key is a row of the index. It is alive while its run's lock is held, which the operating
    system sees to (`RunLock`), and while its process lives, where that is one of the own run; a
    dead one is taken over, within one write transaction, by exactly one. A row that cannot be read
    was damaged, and holds nothing.

    Tokens are nanoseconds since 1970, and greater than any that this index gave out before. A
    stopped process (SIGSTOP) lives, and keeps what it holds.

    ``hold()`` makes others see that the run lives; it is called before a row is written.
    """

    def __init__(self, index: Index, run: str, hold: Callable[[], None] = lambda: None) -> None:
        super().__init__()
        self._index = index
        self._run = run
        self._hold = hold

    def describe(self) -> str:
        """Where this is, for people."""
        return f"file locks in {self._index}"

    def _take(self, key: str, holder: Holder) -> Lease | Holder:
        with self._told("acquire"):
            found = self._index.read("read locks", lambda connection: _read(connection, key))
            if found is not None and found.run == self._run and self._is_alive(found):
                return found.holder
            self._begin()
            return self._index.write("take a lock", lambda c: self._taken(c, key, holder))

    def _give_back(self, leases: Sequence[Lease]) -> None:
        rows = [(_name(lease.key), lease.token, self._run) for lease in leases]
        delete = "DELETE FROM locks WHERE key = ? AND token = ? AND run = ?"
        with self._told("release"):
            self._index.write("release locks", lambda c: c.executemany(delete, rows))

    def _still_has(self, lease: Lease) -> bool:
        """Whether our row is still there, and we are still seen to live."""

        def work(connection: Connection) -> bool:
            found = _read(connection, lease.key)
            ours = found is not None and (found.run, found.token) == (self._run, lease.token)
            return ours and self._run_is_alive(self._run)

        with self._told("confirm"):
            return self._index.write("confirm a lock", work)

    def _begin(self) -> None:
        self._hold()

    def _taken(self, connection: Connection, key: str, holder: Holder) -> Lease | Holder:
        found = _read(connection, key)
        if found is not None and self._is_alive(found):
            return found.holder
        (last,) = connection.execute("SELECT max(token) FROM locks").fetchone()
        row = connection.execute("SELECT value FROM meta WHERE name = 'token'").fetchone()
        before = [token for token in (last, *(row or ())) if isinstance(token, int)]
        token = max(originals.now(), *(number + 1 for number in (0, *before)))
        connection.execute("INSERT OR REPLACE INTO meta VALUES ('token', ?)", (token,))
        connection.execute(
            "INSERT OR REPLACE INTO locks (key, run, process, token, holder)"
            " VALUES (?, ?, ?, ?, ?)",
            (_name(key), self._run, runs.this_process(), token, to_text(holder)),
        )
        return Lease(key, holder, token)

    def _is_alive(self, row: _Row) -> bool:
        if row.run == self._run:
            return not runs.is_gone(row.process)
        return self._run_is_alive(row.run)

    def _run_is_alive(self, run: str) -> bool:
        directory = self._index.directory
        return directory is None or runs.is_alive(directory, run)

    @contextlib.contextmanager
    def _told(self, deed: str) -> Iterator[None]:
        try:
            yield
        except StorageError as error:
            reason = f"cannot {deed} a lock: {error.reason}"
            raise LockError(self.describe(), reason) from error


class FileLockManager(IndexLocks):
    """Mutual exclusion between all processes that use the same directory, which is made.

    The locks are rows of an index in it, as those of a cache directory are. Each object counts as a
    run of its own: its locks are free when it is closed or its process dies, however it dies. A
    forked child owns none of them. On a network file system the locks must reach the other hosts
    (NFSv4 does, unless mounted with ``local_lock``), and the directory must be no cache directory;
    where they do not, use Redis or PostgreSQL.
    """

    def __init__(self, directory: Path) -> None:
        index = Index(directory.absolute(), shared=True)
        self._lock = self._new_run(index)
        self._swept = False
        super().__init__(index, self._lock.run, self._lock.hold)

    def _end(self) -> None:
        self._lock.release()
        self._index.close()

    def _begin(self) -> None:
        super()._begin()
        if not self._swept:
            self._swept = True
            runs.sweep(self._index, but=self._run)

    def _new_run(self, index: Index) -> RunLock:
        # Not `random`, which tests seed.
        return RunLock(index, f"{os.getpid()}-{originals.now()}-{os.urandom(4).hex()}")

    def _start_anew(self) -> None:
        super()._start_anew()
        self._lock = self._new_run(self._index)
        self._run, self._hold = self._lock.run, self._lock.hold


def _read(connection: Connection, key: str) -> _Row | None:
    found = connection.execute(
        "SELECT run, process, token, holder FROM locks WHERE key = ?", (_name(key),)
    ).fetchone()
    if found is None:
        return None
    run, process, token, text = found
    if not (isinstance(run, str) and isinstance(process, str) and isinstance(token, int)):
        return None
    return _Row(run, process, token, from_text(text))


def _name(key: str) -> bytes:
    return xxhash.xxh3_128_digest(key.encode("utf-8", "surrogatepass"))
