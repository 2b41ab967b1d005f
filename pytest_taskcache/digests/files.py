"""Digests of files, directories and globs as they are now, whatever they are.

Nothing here blocks or raises: a fifo is not opened, a link loop is not followed, what cannot be
read has a digest that says so, and a file too large to be read is digested by its identity.
"""

from __future__ import annotations

import errno
import fnmatch
import os
import re
import stat as stats
from collections.abc import Callable, Iterator
from pathlib import Path

from xxhash import xxh3_128

from pytest_taskcache.checksum import checksum
from pytest_taskcache.model.dependency import ABSENT

LARGE = 1 << 30
"""Bytes from which on a file counts by size, inode, mtime and ctime instead of by content: such
a digest is never stale, but differs on another machine."""

_CHUNK = 1 << 20
_SQLITE = b"SQLite format 3\0"
_SQLITE_SIBLINGS = ("-wal", "-journal")
_MAGIC = re.compile(r"[*?\[]")
_GONE = frozenset({errno.ENOENT, errno.ENOTDIR})
_COARSE = 2_000_000_000
_FINE = 50_000_000
_TYPES = (
    (stats.S_ISREG, "file"),
    (stats.S_ISDIR, "directory"),
    (stats.S_ISLNK, "link"),
    (stats.S_ISFIFO, "fifo"),
    (stats.S_ISSOCK, "socket"),
    (stats.S_ISCHR, "character device"),
    (stats.S_ISBLK, "block device"),
)


def identity_of(found: os.stat_result) -> tuple[int, int, int, int, int]:
    """What must be equal for a kept digest to stand: device, inode, size, and mtime and ctime in
    nanoseconds."""
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def is_racy(found: os.stat_result, now_ns: int) -> bool:
    """Whether a file changed so recently that a second change could leave the same times.

    The window is 50 ms where the times show a fraction of a second, else 2 s; times in the
    future are racy for good. See docs/decisions/0002-racy-window.md.
    """
    latest = max(found.st_mtime_ns, found.st_ctime_ns)
    fine = found.st_ctime_ns % 1_000_000_000 and found.st_mtime_ns % 1_000_000_000
    return now_ns - latest < (_FINE if fine else _COARSE)


def type_of(mode: int) -> str:
    """What kind of thing a mode describes, e.g. ``fifo``."""
    return next((name for matches, name in _TYPES if matches(mode)), "unknown")


def content_digest(path: Path, read: Callable[[Path, os.stat_result], str]) -> str:
    """The digest of a path as something that is read: content, link targets on the way, type and
    mode of what is no regular file; ABSENT where there is nothing.

    ``read`` returns the digest of a regular file's bytes, given its stat; it may raise OSError.
    """
    try:
        found = os.lstat(path)
        if stats.S_ISLNK(found.st_mode):
            target = os.readlink(path)
            try:
                followed = _plain_digest(path, os.stat(path), read)
            except OSError as error:
                followed = _failure(error)
            return checksum(("link", target, followed))
        return _plain_digest(path, found, read)
    except (OSError, ValueError) as error:
        return _failure(error)


def _plain_digest(
    path: Path, found: os.stat_result, read: Callable[[Path, os.stat_result], str]
) -> str:
    if not stats.S_ISREG(found.st_mode):
        return checksum((type_of(found.st_mode), oct(found.st_mode)))
    try:
        return read(path, found)
    except OSError as error:
        if error.errno in _GONE:
            return ABSENT
        return checksum(("unreadable", _failure(error), oct(found.st_mode), str(found.st_size)))


def _failure(error: OSError | ValueError) -> str:
    """The digest of a path that could not be looked at: ABSENT, or the name of the error."""
    number = error.errno if isinstance(error, OSError) else None
    if number in _GONE:
        return ABSENT
    return checksum(("unreachable", errno.errorcode.get(number or 0, type(error).__name__)))


def read_digest(path: Path, found: os.stat_result) -> tuple[str, os.stat_result]:
    """The digest of a regular file's bytes, and its stat as of the open file.

    A digest of a SQLite database starts with ``sqlite:``, since its siblings count too. Raises
    OSError. Never waits for a writer, even if the file was replaced by a fifo meanwhile.
    """
    if found.st_size > LARGE:
        return _large_digest(found), found
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        before = os.fstat(descriptor)
        if not stats.S_ISREG(before.st_mode):
            return checksum((type_of(before.st_mode), oct(before.st_mode))), before
        hasher = xxh3_128()
        head = b""
        size = 0
        while chunk := os.read(descriptor, _CHUNK):
            head = head or chunk[: len(_SQLITE)]
            hasher.update(chunk)
            size += len(chunk)
            if size > LARGE:
                return _large_digest(os.fstat(descriptor)), before
        mark = "sqlite:" if head == _SQLITE else ""
        return mark + hasher.hexdigest(), before
    finally:
        os.close(descriptor)


def _large_digest(found: os.stat_result) -> str:
    return checksum(("large", *map(str, identity_of(found))))


def with_siblings(path: Path, digest: str, sibling_digest: Callable[[Path], str]) -> str:
    """The digest of a database file together with its write-ahead log and rollback journal."""
    if not digest.startswith("sqlite:"):
        return digest
    parts = [digest]
    for suffix in _SQLITE_SIBLINGS:
        sibling = path.with_name(path.name + suffix)
        try:
            # Opening a database in WAL mode for reading creates an empty log.
            if os.stat(sibling).st_size:
                parts += (suffix, sibling_digest(sibling))
        except OSError:
            continue
    return checksum(parts) if len(parts) > 1 else digest


def stat_digest(path: Path) -> str:
    """The digest of what a stat tells: existence, type, mode, and size of a regular file; for a
    link also where it points."""
    try:
        found = os.lstat(path)
        parts = [type_of(found.st_mode)]
        if stats.S_ISLNK(found.st_mode):
            parts.append(os.readlink(path))
            try:
                found = os.stat(path)
            except OSError as error:
                return checksum((*parts, _failure(error)))
        size = str(found.st_size) if stats.S_ISREG(found.st_mode) else ""
        return checksum((*parts, oct(found.st_mode), size))
    except (OSError, ValueError) as error:
        return _failure(error)


MADE_BY_RUNNING = frozenset({"__pycache__", ".pytest_cache", ".taskcache"})
"""Names that appear because something runs; a listing that shows them has not changed."""


def listing_digest(path: Path) -> str:
    """The digest of the sorted names in a directory, but for those that running makes; ABSENT
    where there is none."""
    try:
        return checksum(("listing", *sorted(set(os.listdir(path)) - MADE_BY_RUNNING)))
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno == errno.ENOTDIR and os.path.lexists(path):
            return checksum(("not a directory",))
        return _failure(error)


def matches_of(root: Path, pattern: str) -> list[str]:
    """The sorted paths, relative to the root (absolute for an absolute pattern), that a glob
    matches. ``**`` stands for any directories, none included; hidden names match too, unlike in
    a shell; a directory is entered once, however many links lead to it."""
    parts = [part for part in pattern.replace(os.sep, "/").split("/") if part not in ("", ".")]
    start = Path(os.sep) if os.path.isabs(pattern) else root
    found = set(_expand(str(start), parts, frozenset()))
    if os.path.isabs(pattern):
        return sorted(found)
    return sorted(os.path.relpath(path, root) for path in found)


def _expand(directory: str, parts: list[str], above: frozenset[tuple[int, int]]) -> Iterator[str]:
    if not parts:
        yield directory
        return
    part, rest = parts[0], parts[1:]
    if part == "**":
        yield from _expand_any(directory, rest, above)
    elif not _MAGIC.search(part):
        path = os.path.join(directory, part)
        if os.path.lexists(path):
            yield from _expand(path, rest, above)
    else:
        matches = re.compile(fnmatch.translate(part)).fullmatch
        for name in _names(directory):
            if matches(name):
                yield from _expand(os.path.join(directory, name), rest, above)


def _expand_any(
    directory: str, rest: list[str], above: frozenset[tuple[int, int]]
) -> Iterator[str]:
    try:
        found = os.stat(directory)
    except OSError:
        return
    here = (found.st_dev, found.st_ino)
    if here in above or not stats.S_ISDIR(found.st_mode):
        return
    if rest:
        yield from _expand(directory, rest, above)
    for name in _names(directory):
        path = os.path.join(directory, name)
        if not rest:
            yield path
        yield from _expand_any(path, rest, above | {here})


def _names(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError:
        return []
