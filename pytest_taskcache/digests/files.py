"""Digests of files, directories and globs as they are now, whatever they are; those of contents
are kept for as long as a file's stat stays the same.

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

from pytest_taskcache.changed_paths import is_racy
from pytest_taskcache.checksum import checksum
from pytest_taskcache.model.dependency import ABSENT
from pytest_taskcache.originals import originals, os_path
from pytest_taskcache.ports import Shelf

LARGE = 1 << 30
"""Bytes from which on a file counts by size, inode, mtime and ctime instead of by content: such
a digest is never stale, but differs on another machine."""

_CHUNK = 1 << 20
_SQLITE = b"SQLite format 3\0"
_SQLITE_SIBLINGS = ("-wal", "-journal")
_MAGIC = re.compile(r"[*?\[]")
_GONE = frozenset({errno.ENOENT, errno.ENOTDIR})


def identity_of(found: os.stat_result) -> str:
    """What must be equal for a kept digest to stand: device, inode, size, and mtime and ctime in
    nanoseconds."""
    times = f"{found.st_mtime_ns} {found.st_ctime_ns}"
    return f"{found.st_dev} {found.st_ino} {found.st_size} {times}"


def content_digest(path: Path, read: Callable[[Path, os.stat_result], str]) -> str:
    """The digest of a path as something that is read: content, link targets on the way, type and
    mode of what is no regular file; ABSENT where there is nothing. ``read`` returns the digest of a
    regular file's bytes, given its stat; it may raise OSError."""

    def digest(found: os.stat_result) -> str:
        if not stats.S_ISREG(found.st_mode):
            return checksum(("no regular file", oct(found.st_mode)))
        try:
            return read(path, found)
        except OSError as error:
            if error.errno in _GONE:
                return ABSENT
            size = str(found.st_size)
            return checksum(("unreadable", _failure(error), oct(found.st_mode), size))

    return _through_links(path, digest)


def _through_links(path: Path, digest: Callable[[os.stat_result], str]) -> str:
    """The ``digest`` of what a path leads to; of a link with where it points. Never raises."""
    try:
        found = originals.lstat(path)
        if not stats.S_ISLNK(found.st_mode):
            return digest(found)
        target = os.readlink(path)
        try:
            followed = digest(originals.stat(path))
        except OSError as error:
            followed = _failure(error)
        return checksum(("link", target, followed))
    except (OSError, ValueError) as error:
        return _failure(error)


def _failure(error: OSError | ValueError) -> str:
    """The digest of a path that could not be looked at: ABSENT, or the name of the error."""
    number = error.errno if isinstance(error, OSError) else None
    if number in _GONE:
        return ABSENT
    return checksum(("unreachable", errno.errorcode.get(number or 0, type(error).__name__)))


def read_digest(path: Path, found: os.stat_result) -> tuple[str, os.stat_result]:
    """The digest of a regular file's bytes, and its stat as of the open file. A digest of a SQLite
    database starts with ``sqlite:``, since its siblings count too. Raises OSError. Never waits for
    a writer, even if the file was replaced by a fifo meanwhile."""
    if found.st_size > LARGE:
        return _large_digest(found), found
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        before = os.fstat(descriptor)
        if not stats.S_ISREG(before.st_mode):
            return checksum(("no regular file", oct(before.st_mode))), before
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
    return checksum(("large", identity_of(found)))


def stat_digest(path: Path) -> str:
    """The digest of what a stat tells: existence, type, mode, and size of a regular file; for a
    link also where it points."""

    def digest(found: os.stat_result) -> str:
        size = str(found.st_size) if stats.S_ISREG(found.st_mode) else ""
        return checksum(("stat", oct(found.st_mode), size))

    return _through_links(path, digest)


MADE_BY_RUNNING = frozenset({"__pycache__", ".pytest_cache", ".taskcache"})
"""Names that appear because something runs; a listing that shows them has not changed."""


def listing_digest(path: Path) -> str:
    """The digest of the sorted names in a directory, but for those that running makes, each with
    whether it is a file, a directory or a link to one; ABSENT where there is none."""
    try:
        with originals.scandir(path) as entries:
            found = [each for each in entries if each.name not in MADE_BY_RUNNING]
        return checksum(("listing", *sorted(f"{each.name}/{_kind(each)}" for each in found)))
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno == errno.ENOTDIR and os_path.lexists(path):
            return checksum(("not a directory",))
        return _failure(error)


def _kind(entry: os.DirEntry[str]) -> str:
    try:
        return f"{entry.is_dir():d}{entry.is_file():d}{entry.is_symlink():d}"
    except OSError:
        return ""  # a link to itself


def matches_of(root: Path, pattern: str) -> list[str]:
    """The sorted paths, relative to the root (absolute for an absolute pattern), that a glob
    matches. ``**`` stands for any directories, none included; hidden names match too, unlike in
    a shell; a directory is entered once, however many links lead to it."""
    parts = [part for part in pattern.replace(os.sep, "/").split("/") if part not in ("", ".")]
    start = Path(os.sep) if os.path.isabs(pattern) else root
    found = set(_expand(str(start), parts, frozenset()))
    if os.path.isabs(pattern):
        return sorted(found)
    return sorted(os_path.relpath(path, root) for path in found)


def _expand(directory: str, parts: list[str], above: frozenset[tuple[int, int]]) -> Iterator[str]:
    """What the parts of a pattern match beneath a directory; ``above`` are those that a ``**`` has
    entered on the way, by device and inode."""
    if not parts:
        yield directory
        return
    part, rest = parts[0], parts[1:]
    if part == "**":
        here = _directory_id(directory)
        if here is None or here in above:
            return
        if rest:
            yield from _expand(directory, rest, above)
        for name in _names(directory):
            path = os.path.join(directory, name)
            if not rest:
                yield path
            yield from _expand(path, parts, above | {here})
    elif not _MAGIC.search(part):
        path = os.path.join(directory, part)
        if os_path.lexists(path):
            yield from _expand(path, rest, above)
    else:
        matches = re.compile(fnmatch.translate(part)).fullmatch
        for name in filter(matches, _names(directory)):
            yield from _expand(os.path.join(directory, name), rest, above)


def _directory_id(path: str) -> tuple[int, int] | None:
    try:
        found = originals.stat(path)
    except OSError:
        return None
    return (found.st_dev, found.st_ino) if stats.S_ISDIR(found.st_mode) else None


def _names(directory: str) -> list[str]:
    try:
        return originals.listdir(directory)
    except OSError:
        return []


SECTION = "content"

_SURROGATES = re.compile("[\ud800-\udfff]")
_WELL_FORMED = re.compile("(?:sqlite:)?[0-9a-f]{32}")


class KeptContents:
    """Contents' digests by path, device, inode, size, mtime and ctime. The shelf is read once, when
    the first digest is asked for, and written by ``save``. A file that changed too recently to tell
    a second change by its times is digested anew each time, and never kept. ``clock`` returns
    nanoseconds since the epoch. ``reads`` counts the files that were opened."""

    def __init__(self, clock: Callable[[], int]) -> None:
        self.reads = 0
        self._shelf: Shelf | None = None
        self._clock = clock
        self._kept: dict[str, str] | None = None
        self._fresh: dict[str, str] = {}

    def keep_on(self, shelf: Shelf) -> None:
        """Keeps digests on this shelf from now on, and finds those that are there."""
        self._shelf, self._kept = shelf, None

    def digest(self, path: Path) -> str:
        """The digest of whatever is at a path, as `content_digest` defines it, with a
        database's siblings. Never raises."""
        return content_digest(path, self._read_with_siblings)

    def _read_with_siblings(self, path: Path, found: os.stat_result) -> str:
        """The digest of a file; of a database with its write-ahead log and rollback journal."""
        digest = self._read(path, found)
        if not digest.startswith("sqlite:"):
            return digest
        parts = [digest]
        for suffix in _SQLITE_SIBLINGS:
            sibling = path.with_name(path.name + suffix)
            try:
                # Opening a database in WAL mode for reading creates an empty log.
                if originals.stat(sibling).st_size:
                    parts += (suffix, content_digest(sibling, self._read))
            except OSError:
                continue
        return checksum(parts) if len(parts) > 1 else digest

    def _read(self, path: Path, found: os.stat_result) -> str:
        kept = self._load()
        name = os.fspath(path)
        stamp, _, digest = kept.get(name, "").partition("|")
        if stamp == identity_of(found) and _WELL_FORMED.fullmatch(digest):
            return digest
        self.reads += 1
        digest, opened = read_digest(path, found)
        now = self._clock()
        if is_racy(opened, now):
            large = opened.st_size > LARGE
            # Times alone cannot vouch for a large file that is still being written.
            return checksum((digest, "racy", str(now))) if large else digest
        stamp = identity_of(opened)
        if stamp == identity_of(originals.stat(path)):
            kept[name] = self._fresh[name] = f"{stamp}|{digest}"
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
            # Names that are no text are not worth a spelling of their own here.
            items = {n: v.encode("ascii") for n, v in fresh.items() if not _SURROGATES.search(n)}
            self._shelf.write(SECTION, items)
