"""What a directory tree or file is now: its manifest, and where each distinct content lies."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from xxhash import xxh3_128

from pytest_taskcache.ports import FileBlob
from pytest_taskcache.serializers.manifest import (
    PERMISSIONS,
    Entry,
    EntryKind,
    Manifest,
    TreeError,
    check,
)

_STEP = 1 << 20
_OPEN = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
_OPEN |= getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)

_SPECIAL = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def scan(root: str) -> tuple[Manifest, tuple[FileBlob, ...]]:
    """The tree at an absolute path, each distinct content once as a blob.

    Raises TreeError, also for what changed while it was read, and OSError.
    """
    name = os.path.basename(root)
    if not name:
        raise TreeError(f"{root!r} has no name of its own; return a directory below it")
    return _Scan(os.path.realpath(root, strict=True)).run(name)


class _Scan:
    """One walk. Directories are stated again at its end, since a name that came or went while
    their files were read shows in nothing else."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.blobs: dict[str, FileBlob] = {}
        self.linked: dict[tuple[int, int], tuple[os.stat_result, str]] = {}

    def run(self, name: str) -> tuple[Manifest, tuple[FileBlob, ...]]:
        directories: list[tuple[str, os.stat_result]] = []
        entries: list[Entry] = []
        for path, found in self._walk():
            if stat.S_ISDIR(found.st_mode):
                directories.append((path, found))
            entries.append(self._entry(path, found))
        for path, before in directories:
            _refuse_changed(path, before, os.lstat(self._place(path)))
        entries.sort(key=lambda entry: entry.parts)
        manifest = Manifest(name, tuple(entries))
        check(manifest)
        return manifest, tuple(self.blobs.values())

    def _place(self, path: str) -> str:
        return os.path.join(self.root, *path.split("/")) if path else self.root

    def _walk(self) -> Iterator[tuple[str, os.stat_result]]:
        ahead = [""]
        while ahead:
            path = ahead.pop()
            place = self._place(path)
            found = os.lstat(place)
            yield path, found
            if stat.S_ISDIR(found.st_mode):
                names = sorted(os.listdir(place), reverse=True)
                ahead += [f"{path}/{name}" if path else name for name in names]

    def _entry(self, path: str, found: os.stat_result) -> Entry:
        mode = found.st_mode & PERMISSIONS
        match stat.S_IFMT(found.st_mode):
            case stat.S_IFDIR:
                return Entry(path, EntryKind.DIRECTORY, found.st_mtime_ns, mode)
            case stat.S_IFLNK:
                target = os.readlink(self._place(path)).replace(os.sep, "/")
                return Entry(path, EntryKind.LINK, found.st_mtime_ns, target=target)
            case stat.S_IFREG:
                digest = self._content(path, found)
                return Entry(path, EntryKind.FILE, found.st_mtime_ns, mode, found.st_size, digest)
            case other:
                what = _SPECIAL.get(other, "neither file, directory nor link")
                raise TreeError(f"{_shown(path)} is {what}, which cannot be stored")

    def _content(self, path: str, found: os.stat_result) -> str:
        place = self._place(path)
        node = (found.st_dev, found.st_ino)
        if node in self.linked:
            before, digest = self.linked[node]
            _refuse_changed(path, before, found)
            return digest
        digest = _digest(path, place, found)
        if found.st_nlink > 1:
            self.linked[node] = (found, digest)
        if digest not in self.blobs:
            self.blobs[digest] = FileBlob(digest, found.st_size, Path(place))
        return digest


def _digest(path: str, place: str, found: os.stat_result) -> str:
    """The xxh3-128 of a regular file, read in steps. Raises TreeError if it changes meanwhile."""
    digest = xxh3_128()
    size = 0
    step = memoryview(bytearray(min(_STEP, found.st_size + 1)))
    with open(os.open(place, _OPEN), "rb", buffering=0) as file:
        _refuse_changed(path, found, os.fstat(file.fileno()))
        while count := file.readinto(step):
            digest.update(step[:count])
            size += count
            if size > found.st_size:
                break  # a file that grows as fast as it is read would never end
        after = os.fstat(file.fileno())
    _refuse_changed(path, found, after)
    if size != found.st_size:
        raise TreeError(_changed(path))
    return digest.hexdigest()


def _refuse_changed(path: str, before: os.stat_result, after: os.stat_result) -> None:
    if _state(before) != _state(after):
        raise TreeError(_changed(path))


def _state(found: os.stat_result) -> tuple[int, ...]:
    return (found.st_mode, found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


def _changed(path: str) -> str:
    return f"{_shown(path)} changed while it was read; let its writers end before it is returned"


def _shown(path: str) -> str:
    return repr(path) if path else "the path"
