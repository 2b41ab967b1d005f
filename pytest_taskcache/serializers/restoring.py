"""A stored tree, made anew in a directory of its own."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from pytest_taskcache.ports import CopyBlob
from pytest_taskcache.serializers.manifest import Entry, EntryKind, Manifest, TreeError

_WRITE = 0o222


def restore_tree(manifest: Manifest, scratch: Path, copy: CopyBlob, readonly: bool) -> Path:
    """The tree's new path, under its own name in ``scratch``, an empty directory.

    The manifest has been checked. Links are made when all files are there, so that no file is
    ever written through one, whatever the file system takes for the same name. Modes and times
    of directories come last, from the inside out, as filling them would change them. Raises
    TreeError, OSError and what ``copy`` raises.
    """
    root = scratch / manifest.name
    for entry in manifest.entries:
        place = root.joinpath(*entry.parts)
        match entry.kind:
            case EntryKind.DIRECTORY:
                place.mkdir(mode=0o700)
            case EntryKind.FILE:
                _restore_file(entry, place, copy, readonly)
            case EntryKind.LINK:
                pass  # below
    for entry in manifest.entries:
        if entry.kind is EntryKind.LINK:
            place = root.joinpath(*entry.parts)
            os.symlink(entry.target, place)
            if os.utime in os.supports_follow_symlinks:
                os.utime(place, ns=(entry.mtime, entry.mtime), follow_symlinks=False)
    for entry in reversed(manifest.entries):
        if entry.kind is EntryKind.DIRECTORY:
            place = root.joinpath(*entry.parts)
            os.utime(place, ns=(entry.mtime, entry.mtime))
            os.chmod(place, _mode(entry, readonly))
    return root


def _restore_file(entry: Entry, place: Path, copy: CopyBlob, readonly: bool) -> None:
    if os.path.lexists(place):
        raise TreeError(f"{entry.path!r} and another name are the same on this file system")
    mode = _mode(entry, readonly)
    copy(entry.digest, place, readonly)
    found = os.lstat(place)
    if found.st_nlink > 1 and stat.S_IMODE(found.st_mode) != mode:
        # The stored file itself, with another mode: to change it here would change it there.
        os.unlink(place)
        copy(entry.digest, place, False)
        found = os.lstat(place)
    if not stat.S_ISREG(found.st_mode) or found.st_size != entry.size:
        raise TreeError(f"{entry.path!r} came back with {found.st_size} bytes, not {entry.size}")
    if found.st_nlink == 1:
        os.utime(place, ns=(entry.mtime, entry.mtime))
        os.chmod(place, mode)
    elif not readonly:
        raise TreeError(f"{entry.path!r} came back as a hard link though it is to be written to")


def _mode(entry: Entry, readonly: bool) -> int:
    return entry.mode & ~_WRITE if readonly else entry.mode
