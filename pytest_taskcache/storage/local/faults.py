"""Short reasons for what SQLite and the file system refuse, and the StorageErrors for them."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from pytest_taskcache.errors import StorageError

CORRUPT = "corrupt index"
UNWRITABLE = ("read-only file system", "permission denied", "index cannot be opened")
"""Reasons for which an index that is there is read instead."""

_SQLITE = {
    sqlite3.SQLITE_FULL: "disk full",
    sqlite3.SQLITE_READONLY: "read-only file system",
    sqlite3.SQLITE_BUSY: "index locked by another process",
    sqlite3.SQLITE_LOCKED: "index locked by another process",
    sqlite3.SQLITE_IOERR: "input/output error",
    sqlite3.SQLITE_CANTOPEN: "index cannot be opened",
    sqlite3.SQLITE_PERM: "permission denied",
    sqlite3.SQLITE_AUTH: "permission denied",
    sqlite3.SQLITE_NOMEM: "out of memory",
    sqlite3.SQLITE_TOOBIG: "value too big for the index",
    sqlite3.SQLITE_PROTOCOL: "file locking does not work here",
    sqlite3.SQLITE_NOLFS: "file too big",
    sqlite3.SQLITE_CORRUPT: CORRUPT,
    sqlite3.SQLITE_NOTADB: CORRUPT,
}
_LAST_ID = (1 << 63) - 1
# The only code of its kind for these, so the text has to tell (build.c and resolve.c of SQLite).
_MISSING = ("no such table: ", "no such column: ", " has no column named ")
_ERRNO = {
    errno.ENOSPC: "disk full",
    errno.EPERM: "permission denied",
    errno.ENOENT: "directory vanished",
}
"""What the system says of these in other words."""


def _code(error: BaseException) -> int:
    """SQLite's code of an error; 0 for others. The extended code carries the primary one in its low
    byte (sqlite.org/rescode.html)."""
    return (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF


def reason_of(error: BaseException) -> str:
    """A few words without paths or secrets, the same for the same kind of failure."""
    if is_corruption(error):
        return CORRUPT
    if code := _code(error):
        return _SQLITE.get(code, f"SQLite error {code}")
    if isinstance(error, OSError) and error.errno is not None:
        return _ERRNO.get(error.errno) or os.strerror(error.errno).lower()
    return str(error) or type(error).__name__


def is_corruption(error: BaseException) -> bool:
    """Whether the index file itself is damaged: no database, cut off, malformed, or without a
    table or column that its version has."""
    if _code(error) == sqlite3.SQLITE_ERROR:
        return any(words in str(error) for words in _MISSING)
    return _SQLITE.get(_code(error)) == CORRUPT


def is_busy(error: sqlite3.Error) -> bool:
    """Whether another connection has the lock that was wanted."""
    return _code(error) == sqlite3.SQLITE_BUSY


def has_no_id_left(error: BaseException, connection: sqlite3.Connection) -> bool:
    """Whether a "full" database is one with a row of the greatest id there is: nothing could be
    added to it for ever. No index grows so old; somebody's hand was in it."""
    if _code(error) != sqlite3.SQLITE_FULL:
        return False
    for table, column in (("shared", "id"), ("variants", "seq")):
        (last,) = connection.execute(f"SELECT max({column}) FROM {table}").fetchone()
        if last == _LAST_ID:
            return True
    return False


@contextmanager
def told(storage: str, operation: str) -> Iterator[None]:
    """What the file system refuses inside is raised as a StorageError."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise storage_error(storage, operation, error) from error


def storage_error(storage: str, operation: str, error: BaseException) -> StorageError:
    """The StorageError that stands for ``error``; one that already is, is returned itself."""
    if isinstance(error, StorageError):
        return error
    return StorageError(storage, operation, reason_of(error))
