"""The SQLite index of a cache directory: one connection a process, reopened when it must be.

Reads are snapshots and writes are transactions, each a function that is given the connection.
The file may be deleted, replaced, damaged or inherited through a fork at any moment; all of that
ends in a fresh connection or in a StorageError, never in a wrong answer.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from sqlite3 import Connection
from typing import TYPE_CHECKING, Literal, TypeVar

from pytest_taskcache.errors import SchemaVersionError, StorageError
from pytest_taskcache.forking import ForkAware
from pytest_taskcache.originals import originals, os_path
from pytest_taskcache.storage.local import faults, ownership, schema
from pytest_taskcache.storage.local.descriptors import Descriptors

if TYPE_CHECKING:
    from filelock import BaseFileLock

T = TypeVar("T")
NAME = "index.sqlite3"
_RECHECK = 250_000_000
"""Nanoseconds."""
_BUSY_MILLISECONDS = 100
_ABANDONED: list[Connection] = []


class Index(ForkAware):
    """The index at ``directory / "index.sqlite3"``, or one in memory that this object alone has.

    ``readonly`` promises that nothing is written, not even SQLite's side files; an index that is
    not there then reads as an empty one. An index that turns out not to be writable is read from
    then on, as if that had been asked for. ``on_fault`` (``tell``) is told what was mended.
    A ``shared`` one may be that of several users and hosts: it belongs to nobody in particular, is
    not to be trusted with values, and is written without a log, which needs one host's memory.
    ``epoch`` changes whenever the connection does: what was remembered of an earlier one is void.
    """

    def __init__(
        self,
        directory: Path | Literal[":memory:"],
        *,
        readonly: bool = False,
        create: bool = True,
        shared: bool = False,
        on_fault: Callable[[str], None] = lambda reason: None,
    ) -> None:
        super().__init__()
        self.directory = None if isinstance(directory, str) else Path(os_path.abspath(directory))
        self._file = "" if self.directory is None else str(self.directory / NAME)
        self.readonly = readonly
        self.epoch = 0
        self.tell = on_fault
        self.shared = shared
        self._create = create and not readonly
        self._connection: Connection | None = None
        self._finalizer: weakref.finalize[[], Index]
        self._pid = os.getpid()
        self._stamp: object = None
        self._check_at = 0
        self._descriptors = Descriptors(())
        self._remove_copy: Callable[[], object] = lambda: None
        self.on_descriptors_lost: Callable[[], Callable[[], None] | None] = lambda: None
        """A weak reference to what is called then."""

    def __str__(self) -> str:
        return "memory" if self.directory is None else str(self.directory)

    def read(self, operation: str, work: Callable[[Connection], T]) -> T:
        """What ``work`` returns, run on one snapshot of the index. Raises StorageError."""
        return self._run(operation, work, write=False)

    def write(self, operation: str, work: Callable[[Connection], T]) -> T:
        """What ``work`` returns, once all it wrote is committed; on any error nothing is. It runs
        with the write lock held, and again from the start if the index had to be made anew, so it
        must change nothing but the index. Raises StorageError."""
        return self._run(operation, work, write=True)

    def connection(self, *, certain: bool = False) -> Connection:
        """The open connection, to be used with ``lock`` held. Raises sqlite3.Error, OSError and
        StorageError. Whether the file is still the one that was opened is looked at four times a
        second, or now if ``certain``: reading on from a deleted index is harmless, writing to it is
        lost. Whether its descriptors are still SQLite's is looked at each time: where they are not,
        it waits ten seconds for locks that nobody has."""
        connection = self._connection
        if connection is None or self._pid != os.getpid():  # forked without the hooks below
            self._disconnect()
            return self._connect()
        if not self._descriptors.intact(certain):
            self._recover()
            return self._connection or self._connect()
        if self.directory is not None and (certain or originals.perf() >= self._check_at):
            self._check_at = originals.perf() + _RECHECK
            if self._stamp != self._present_stamp():
                self._disconnect()
                return self._connect()
        return connection

    def quick_version(self) -> int | None:
        """SQLite's ``data_version``, to be asked with ``lock`` held: the same as before if no
        other connection has committed since. None if it cannot be told, which ``read`` mends.
        Raises StorageError."""
        try:
            version = self.connection().execute("PRAGMA data_version").fetchone()
        except (sqlite3.Error, OSError):
            return None
        return int(version[0])

    def close(self) -> None:
        """Closes the connection; the next use opens it again. What is in memory stays."""
        with self.lock:
            if self.directory is not None:
                self._disconnect()

    def _run(self, operation: str, work: Callable[[Connection], T], write: bool) -> T:
        attempts = 3
        with self.lock:
            deadline = originals.monotonic() + schema.BUSY_SECONDS
            while True:
                try:
                    connection = self.connection(certain=write)
                    if write and self.readonly:
                        raise StorageError(str(self), operation, "opened read-only")
                    begin = "BEGIN IMMEDIATE" if write else "BEGIN"
                    return schema.in_transaction(connection, work, begin)
                except (OSError, UnicodeError, sqlite3.Error) as error:
                    if isinstance(error, sqlite3.Error):
                        if faults.is_busy(error) and self._descriptors.intact():
                            if originals.monotonic() < deadline:
                                continue
                        else:
                            attempts -= 1
                            if attempts and self._mend(error):
                                continue
                    raise faults.storage_error(str(self), operation, error) from error

    def _mend(self, error: sqlite3.Error) -> bool:
        """Whether it is worth trying again on a new connection."""
        if self.directory is None:
            return False
        if not self._descriptors.intact():
            self._recover()
            return True
        connection, damaged = self._connection, self._stamp
        if connection is not None and damaged != self._present_stamp():
            self._disconnect()
            return True
        full = connection is not None and faults.has_no_id_left(error, connection)
        if self.readonly or not (full or faults.is_corruption(error)):
            return False
        self._disconnect()
        return self._quarantine(damaged)

    def _recover(self) -> None:
        """Ends a connection whose files were closed behind its back."""
        self.tell("the index's files were closed by somebody else")
        with self._descriptors.restored():
            self._disconnect(keep_log=True)
        if (call := self.on_descriptors_lost()) is not None:
            call()

    def _connect(self) -> Connection:
        if self.directory is None:
            connection = _empty()
        else:
            files = [f"{self.directory / NAME}{suffix}" for suffix in ("", "-wal")]
            before = Descriptors(files).numbers()
            connection = self._connect_to(self.directory)
            schema.version_of(connection)  # opens the log too
            # From here on `_run` does the waiting: locks that are gone look like taken ones.
            connection.execute(f"PRAGMA busy_timeout = {_BUSY_MILLISECONDS}")
            # Not those of others in this process, who may close theirs; the shared memory has one
            # descriptor for all of them.
            self._descriptors = Descriptors([*files, f"{files[0]}-shm"], before)
        self._pid = os.getpid()
        self._connection = connection
        self._finalizer = weakref.finalize(self, connection.close)
        self._check_at = originals.perf() + _RECHECK
        self.epoch += 1
        return connection

    def _connect_to(self, directory: Path) -> Connection:
        if self.readonly:
            return self._connect_readonly(directory)
        try:
            if not _may_write(directory):
                raise PermissionError(errno.EACCES, "may not be written")
            return self._connect_writable(directory)
        except (sqlite3.Error, OSError) as error:
            reason = faults.reason_of(error)
            if reason not in faults.UNWRITABLE or not (directory / NAME).exists():
                raise
            self.readonly = True
            try:
                connection = self._connect_readonly(directory)
            except BaseException:
                self.readonly = False
                raise
            self.tell(f"cache can only be read: {reason}")
            return connection

    def _connect_writable(self, directory: Path) -> Connection:
        if self.shared:
            directory.mkdir(parents=True, exist_ok=True)
            # SQLite would leave it to its maker alone; its other files get the same mode.
            os.close(os.open(directory / NAME, os.O_RDWR | os.O_CREAT, 0o666))
        elif self._create:
            ownership.create_directory(directory, parents=self.epoch == 0)
        elif not (directory / NAME).exists():
            raise StorageError(str(self), "open", "no cache here")
        if not self.shared:
            ownership.check_ownership(directory, "open")
        # Taken before: what is opened is this file or a later one, never an earlier one.
        self._stamp = self._present_stamp()
        connection = _open(directory / NAME, mode="rwc" if self._create else "rw")
        try:
            self._set_up(connection, directory, self._version_of(connection))
            self._stamp = self._stamp or self._present_stamp()
        except BaseException:
            connection.close()
            raise
        return connection

    def _set_up(self, connection: Connection, directory: Path, version: int) -> None:
        mode = connection.execute("PRAGMA journal_mode").fetchone()[0]
        if version < schema.VERSION or (mode != "wal" and not self.shared):
            # SQLite's busy handler does not cover the change to WAL, so starters take turns.
            with _turn(directory):
                schema.migrate(connection)
                # Where WAL cannot work (some network file systems) the old mode stays; it is
                # slower, and as safe.
                if not self.shared:
                    connection.execute("PRAGMA journal_mode = WAL").fetchone()
        connection.execute(f"PRAGMA synchronous = {'OFF' if self.shared else 'NORMAL'}")

    def _version_of(self, connection: Connection) -> int:
        version = schema.version_of(connection)
        if version > schema.VERSION:
            remedy = "upgrade pytest-taskcache or delete the directory"
            problem = f"index has schema {version}, newer than {schema.VERSION}; {remedy}"
            raise SchemaVersionError(str(self), "open", problem)
        return version

    def _connect_readonly(self, directory: Path) -> Connection:
        self._stamp = self._present_stamp()
        path = directory / NAME
        if not path.exists():
            return _empty()
        ownership.check_ownership(directory, "open")
        connection = self._open_unchanged(path)
        try:
            if self._version_of(connection) < schema.VERSION:
                raise StorageError(str(self), "open", "older index; one writing run migrates it")
            connection.execute("PRAGMA query_only = 1")
        except BaseException:
            connection.close()
            raise
        return connection

    def _open_unchanged(self, path: Path) -> Connection:
        """A connection that writes nothing beside the index either."""
        if len(_stamp_of(path)) == 1:
            # Nobody wrote since the last checkpoint: the one file is the whole index.
            return _open(path, mode="ro", immutable="1")
        connection = _open(path, mode="ro", readonly_shm="1")
        try:
            schema.version_of(connection)
        except sqlite3.OperationalError:
            # A log without its shared memory, as a killed run or a copied directory leaves it.
            # Reading that in place would make SQLite write, so a copy is read instead.
            import shutil  # rarely needed, and slow to import
            import tempfile

            connection.close()
            copy = Path(tempfile.mkdtemp(prefix="taskcache-"))
            self._remove_copy = weakref.finalize(self, shutil.rmtree, copy, ignore_errors=True)
            for suffix in ("", "-wal"):
                shutil.copyfile(f"{path}{suffix}", f"{copy / NAME}{suffix}")
            return _open(copy / NAME, mode="rw")
        return connection

    def _present_stamp(self) -> object:
        """Changes when the index at the path is no longer the one that was opened; if it is only
        read, also when somebody writes to it, or to its log."""
        if self.readonly:
            return _stamp_of(Path(self._file))
        try:
            info = originals.stat(self._file)
        except FileNotFoundError:
            return None
        return (info.st_dev, info.st_ino)

    def _disconnect(self, *, keep_log: bool = False) -> None:
        connection, self._connection = self._connection, None
        self._descriptors = Descriptors(())
        if connection is None:
            return
        self.epoch += 1
        self._finalizer.detach()
        if self._pid != os.getpid():
            _ABANDONED.append(connection)  # SQLite must neither use nor close what it inherited
        else:
            # Closing moves the log into the file, which costs two fsyncs; around a fork it would
            # be done again and again.
            setting = getattr(sqlite3, "SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE", None)
            try:
                if keep_log and setting is not None:
                    connection.setconfig(setting, True)  # type: ignore[attr-defined,unused-ignore]
                connection.close()
            except sqlite3.Error as error:
                self.tell(faults.reason_of(error))
        self._remove_copy()

    def _quarantine(self, damaged: object) -> bool:
        """Whether the index of that stamp is out of the way: moved aside by us or someone else."""
        assert self.directory is not None
        path = self.directory / NAME
        with _turn(self.directory) as mine:
            if not mine:
                return False
            if self._present_stamp() != damaged:
                return True
            aside = f"{path}.corrupt-{time.strftime('%Y%m%dT%H%M%S')}-{os.urandom(2).hex()}"
            # The log first: left beside a new index, it would be replayed into it.
            for suffix in ("-wal", "-shm", ""):
                with contextlib.suppress(FileNotFoundError):
                    os.rename(f"{path}{suffix}", f"{aside}{suffix}")
        self.tell(faults.CORRUPT)
        return True

    def _before_fork(self) -> None:
        # SQLite's locks do not survive a fork, in parent or child.
        connection = self._connection
        if self.directory and connection and not connection.in_transaction:
            self._disconnect(keep_log=True)


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Has `filelock` log nothing meanwhile."""
    # A test that looks at all that is logged must not find what the cache does meanwhile.
    import logging  # takes long to import, and few need it

    logger = logging.getLogger("filelock")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def lock_file(path: Path, timeout: float = 0.0) -> BaseFileLock | None:
    """The lock at a path, now held; None if another process has it for so long. Raises OSError."""
    import filelock  # rarely needed, and slow to import

    lock = filelock.FileLock(path, mode=0o666, thread_local=False)
    try:
        with silence():
            lock.acquire(timeout, blocking=timeout > 0)
    except filelock.Timeout:
        return None
    return lock


@contextlib.contextmanager
def _turn(directory: Path) -> Iterator[bool]:
    """Whether this process alone starts or replaces the index meanwhile."""
    lock = lock_file(directory / "index.lock", schema.BUSY_SECONDS)
    try:
        yield lock is not None
    finally:
        with silence():
            if lock is not None:
                lock.release()


def _open(path: Path | None, **parameters: str) -> Connection:
    """The index at a path, or one in memory; ``parameters`` as SQLite's URIs have them."""
    query = "&".join(f"{name}={value}" for name, value in parameters.items())
    connection = sqlite3.connect(
        ":memory:" if path is None else f"{path.as_uri()}?{query}",
        timeout=schema.BUSY_SECONDS,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=256,
        uri=True,
    )
    # A damaged byte makes a wrong text, which nobody finds; not an error wherever it is met.
    connection.text_factory = lambda data: data.decode("utf-8", "replace")
    return connection


def _empty() -> Connection:
    connection = _open(None)
    schema.migrate(connection)
    return connection


def _may_write(directory: Path) -> bool:
    """Whether an index that is there may be written, and its log beside it."""
    own = os.access in os.supports_effective_ids
    for path in (directory, directory / NAME):
        if path.exists() and not os.access(path, os.W_OK, effective_ids=own):
            return False
    return True


def _stamp_of(index: Path) -> tuple[tuple[int, ...], ...]:
    """What tells an index, and its log where that holds anything, from earlier and later ones."""
    stamp: tuple[tuple[int, ...], ...] = ()
    for suffix in ("", "-wal"):
        try:
            info = originals.stat(f"{index}{suffix}")
        except FileNotFoundError:
            break
        if info.st_size or not suffix:
            stamp += ((info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns),)
    return stamp
