"""Directories and files as values: a manifest, and one blob per distinct file content.

The manifest is JSON with sorted entries, so equal trees have equal manifests::

    rates/             {"path": "", "kind": "directory", "mode": 493, "mtime": ...}
    rates/a.csv        {"path": "a.csv", "kind": "file", "size": 12, "digest": "9f..", ...}
    rates/latest       {"path": "latest", "kind": "link", "target": "a.csv", ...}

It may come from a storage that others write to: it is checked, and nothing in it may lead out of
the tree, before anything is written.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Collection, Iterator
from enum import StrEnum
from itertools import dropwhile
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

from xxhash import xxh3_128

from pytest_taskcache.dataclass import dataclass
from pytest_taskcache.errors import SerializationError, StorageError
from pytest_taskcache.originals import os_path
from pytest_taskcache.ports import CopyBlob, FileBlob, Payload, Restore

NAME = "tree"

PERMISSIONS = 0o777
"""The mode bits that are kept; set-user-id and its like are not."""

_FORMAT = "pytest-taskcache tree"
_VERSION = 1
_DIGEST = re.compile("[0-9a-f]{32}")
_MAX_NUMBER = (1 << 63) - 1


class TreeError(ValueError):
    """Why a tree cannot be stored or restored, naming the entry."""


class EntryKind(StrEnum):
    """What an entry is."""

    DIRECTORY = "directory"
    FILE = "file"
    LINK = "link"


class TreeEntry(NamedTuple):
    """One directory, file or symbolic link. ``path`` is relative to the tree, its parts joined by
    ``/``, and empty for the tree itself. ``mtime`` in nanoseconds; ``mode`` permission bits (not
    for links); ``size`` in bytes and ``digest`` (xxh3-128, hexadecimal) for files; ``target`` for
    links."""

    path: str
    kind: EntryKind
    mtime: int
    mode: int = 0
    size: int = 0
    digest: str = ""
    target: str = ""

    @property
    def parts(self) -> tuple[str, ...]:
        """The names on the way from the tree to the entry."""
        return tuple(self.path.split("/")) if self.path else ()


_FIELDS = frozenset(TreeEntry._fields)
_NEEDED = frozenset({"path", "kind", "mtime"})
_NUMBERS = {
    "mtime": (-_MAX_NUMBER, _MAX_NUMBER),
    "mode": (0, PERMISSIONS),
    "size": (0, _MAX_NUMBER),
}
"""The least and the most of each number of an entry."""


class Manifest(NamedTuple):
    """A tree: its own name, and its entries, parents before children; the first is itself."""

    name: str
    entries: tuple[TreeEntry, ...]


def encode(manifest: Manifest) -> bytes:
    """The manifest's JSON. Names that are no valid text keep their lone surrogates, escaped."""
    document = {
        "format": _FORMAT,
        "version": _VERSION,
        "name": manifest.name,
        "entries": [
            {name: value for name, value in entry._asdict().items() if value or name in _NEEDED}
            for entry in manifest.entries
        ],
    }
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode("ascii")


def decode(data: bytes) -> Manifest:
    """The manifest that JSON holds, checked by `check`. Raises TreeError."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise TreeError(f"the manifest is no JSON: {error}") from error
    if not isinstance(document, dict) or document.get("format") != _FORMAT:
        raise TreeError("the bytes are no manifest of a tree")
    if document.get("version") != _VERSION:
        raise TreeError(f"manifest version {document.get('version')!r} is not {_VERSION}")
    entries = document.get("entries")
    if not isinstance(entries, list):
        raise TreeError("the manifest has no entries")
    manifest = Manifest(document.get("name", ""), tuple(map(_entry, entries)))
    check(manifest)
    return manifest


def check(manifest: Manifest) -> None:
    """Raises TreeError unless everything in the manifest stays inside the tree. Each name is a
    plain one, each entry's parent is a directory that comes before it, nothing comes twice, and no
    link leads out, by whatever way through other links."""
    _check_name(manifest.name, manifest.name)
    if not manifest.entries or manifest.entries[0].path:
        raise TreeError("the manifest does not begin with the tree itself")
    if manifest.entries[0].kind is EntryKind.LINK:
        raise TreeError("the tree itself is a link")
    kinds: dict[str, EntryKind] = {"": manifest.entries[0].kind}
    for entry in manifest.entries[1:]:
        for part in entry.path.split("/"):
            _check_name(part, entry.path)
        if entry.path in kinds:
            raise TreeError(f"{entry.path!r} comes twice")
        if kinds.get(entry.path.rpartition("/")[0]) is not EntryKind.DIRECTORY:
            raise TreeError(f"{entry.path!r} does not lie in a directory of the tree")
        kinds[entry.path] = entry.kind
        if entry.kind is EntryKind.LINK:
            _check_link(entry.path, entry.target)


def _check_link(path: str, target: str) -> None:
    """A link goes up first, in directories of the tree, which are no links, and then down only:
    so it stays in the tree, whatever the names on its way lead to."""
    if not target or "\0" in target or target.startswith("/"):
        raise TreeError(f"link {path!r} leads to the absolute path {target!r}; make it relative")
    parts = [part for part in target.split("/") if part not in ("", ".")]
    down = list(dropwhile(lambda part: part == "..", parts))
    if ".." in down or len(parts) - len(down) > path.count("/"):
        raise TreeError(f"link {path!r} leads out of the tree, to {target!r}, or might")


def _check_name(name: str, path: str) -> None:
    if not isinstance(name, str):
        raise TreeError(f"{path!r} is no text")
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        raise TreeError(f"{path!r} is no path inside a tree")


def _entry(document: object) -> TreeEntry:
    if not isinstance(document, dict) or not _NEEDED <= document.keys() <= _FIELDS:
        raise TreeError("an entry of the manifest has not the fields of one")
    path = document["path"]
    for name, value in document.items():
        if type(value) is not (int if name in _NUMBERS else str):
            raise TreeError(f"{name} of {path!r} is {value!r}")
    entry = TreeEntry(**document)
    for name, (least, most) in _NUMBERS.items():
        if not least <= getattr(entry, name) <= most:
            raise TreeError(f"{name} of {path!r} is no number from {least} to {most}")
    if entry.kind not in [*EntryKind]:
        raise TreeError(f"{path!r} is of the unknown kind {entry.kind!r}")
    if entry.kind == EntryKind.FILE and not _DIGEST.fullmatch(entry.digest):
        raise TreeError(f"{path!r} has no valid digest")
    return entry._replace(kind=EntryKind(entry.kind))


_STEP = 1 << 20
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

_BYTE_CODE = (".pyc", ".pyo")
_SPECIAL = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def scan(root: str, *, movable: bool = False) -> tuple[Manifest, tuple[FileBlob, ...]]:
    """The tree at an absolute path, each distinct content once as a blob. With ``movable``, a tree
    that holds its own absolute path is refused, since it will be restored elsewhere; byte code that
    names its source so is not. Raises TreeError, also for what changed while it was read, and
    OSError."""
    name = os.path.basename(root)
    if not name:
        raise TreeError(f"{root!r} has no name of its own; return a directory below it")
    real = os_path.realpath(root, strict=True)
    own = {os.fsencode(path) for path in (root, real)} if movable else set()
    entries: list[TreeEntry] = []
    blobs: dict[str, FileBlob] = {}
    directories: list[tuple[str, str, os.stat_result]] = []
    for path, place, found in _walk(real):
        mode, mtime = found.st_mode & PERMISSIONS, found.st_mtime_ns
        match stat.S_IFMT(found.st_mode):
            case stat.S_IFDIR:
                directories.append((path, place, found))
                entries.append(TreeEntry(path, EntryKind.DIRECTORY, mtime, mode))
            case stat.S_IFLNK:
                target = os.readlink(place)
                entries.append(TreeEntry(path, EntryKind.LINK, mtime, target=target))
            case stat.S_IFREG:
                digest = _digest(path, place, found, () if path.endswith(_BYTE_CODE) else own)
                blobs.setdefault(digest, FileBlob(digest, found.st_size, Path(place)))
                entries.append(TreeEntry(path, EntryKind.FILE, mtime, mode, found.st_size, digest))
            case other:
                what = _SPECIAL.get(other, "neither file, directory nor link")
                raise TreeError(f"{_shown(path)} is {what}, which cannot be stored")
    for path, place, before in directories:
        # a name that came or went while files were read shows in nothing else
        _refuse_changed(path, before, os.lstat(place))
    manifest = Manifest(name, tuple(sorted(entries, key=lambda entry: entry.parts)))
    check(manifest)
    return manifest, tuple(blobs.values())


def _walk(root: str) -> Iterator[tuple[str, str, os.stat_result]]:
    """All there is in a tree: the path in it, the place, and its stat; parents first."""
    ahead = [""]
    while ahead:
        path = ahead.pop()
        place = os.path.join(root, *path.split("/")) if path else root
        found = os.lstat(place)
        yield path, place, found
        if stat.S_ISDIR(found.st_mode):
            names = sorted(os.listdir(place), reverse=True)
            ahead += [f"{path}/{name}" if path else name for name in names]


def _digest(path: str, place: str, found: os.stat_result, refused: Collection[bytes]) -> str:
    """The xxh3-128 of a regular file, read in steps. Raises TreeError if it changes meanwhile, or
    if one of the ``refused`` texts is in it."""
    digest = xxh3_128()
    size = 0
    tail, keep = b"", max(map(len, refused), default=0)
    step = memoryview(bytearray(min(_STEP, found.st_size + 1)))
    with open(os.open(place, _OPEN), "rb", buffering=0) as file:
        _refuse_changed(path, found, os.fstat(file.fileno()))
        while count := file.readinto(step):
            digest.update(step[:count])
            size += count
            if refused:
                read = tail + step[:count].tobytes()
                if any(text in read for text in refused):
                    raise TreeError(
                        f"{_shown(path)} holds the absolute path of the tree, which will lie "
                        f"elsewhere when it is restored; write paths relative to it"
                    )
                tail = read[-keep:]
            if size > found.st_size:
                break  # a file that grows as fast as it is read would never end
        after = os.fstat(file.fileno())
    _refuse_changed(path, found, after, size)
    return digest.hexdigest()


def _refuse_changed(
    path: str, before: os.stat_result, after: os.stat_result, size: int | None = None
) -> None:
    if _state(before) != _state(after) or size not in (None, after.st_size):
        raise TreeError(
            f"{_shown(path)} changed while it was read; let its writers end before it is returned"
        )


_state = attrgetter("st_mode", "st_dev", "st_ino", "st_size", "st_mtime_ns")


def _shown(path: str) -> str:
    return repr(path) if path else "the path"


_WRITE = 0o222


def restore_tree(manifest: Manifest, scratch: Path, copy: CopyBlob, readonly: bool) -> Path:
    """The tree's new path, under its own name in ``scratch``, an empty directory. The manifest has
    been checked. Links are made when all files are there, so that no file is ever written through
    one, whatever the file system takes for the same name. Modes and times of directories come last,
    from the inside out, as filling them would change them. Raises TreeError, OSError and what
    ``copy`` raises."""
    root = scratch / manifest.name
    places = [(entry, root.joinpath(*entry.parts)) for entry in manifest.entries]
    for entry, place in places:
        if entry.kind is EntryKind.DIRECTORY:
            place.mkdir(mode=0o700)
        elif entry.kind is EntryKind.FILE:
            _restore_file(entry, place, copy, readonly)
    for entry, place in places:
        if entry.kind is EntryKind.LINK:
            os.symlink(entry.target, place)
            os.utime(place, ns=(entry.mtime, entry.mtime), follow_symlinks=False)
    for entry, place in reversed(places):
        if entry.kind is EntryKind.DIRECTORY:
            os.utime(place, ns=(entry.mtime, entry.mtime))
            os.chmod(place, _mode(entry, readonly))
    return root


def _restore_file(entry: TreeEntry, place: Path, copy: CopyBlob, readonly: bool) -> None:
    if os_path.lexists(place):
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


def _mode(entry: TreeEntry, readonly: bool) -> int:
    return entry.mode & ~_WRITE if readonly else entry.mode


@dataclass(frozen=True, slots=True)
class TreeSerializer:
    """A `pathlib.Path` to a directory or file; what comes back is a path of the same final name.

    Kept: names (undecodable ones too), contents, empty directories, permission bits, times of
    modification in nanoseconds, and relative symbolic links as they are. Equal contents are
    stored once. Not kept: owners, set-user-id and its like, extended attributes, holes, and that
    two names were one file. Refused: links that are absolute, lead out of the tree or go up after
    a name (``a/../b``), pipes, sockets, devices, files that change while they are read, and files
    that hold the tree's own absolute path (in plain bytes: what they compress is not seen), since
    the copy lies elsewhere. A path that is itself a link stands for what it leads to.

    Each load restores a fresh copy that the caller may change. With ``readonly`` the files and
    directories lose their write bits, and files may be hard links to the stored ones: fast for
    large trees, but such a file has the stored one's time of modification. Root may write to
    them all the same, and then damages the stored file, which the storage's digests detect.
    """

    name = NAME  # read-only or not: the payload is the same
    executes = False
    readonly: bool = False

    def dump(self, value: object) -> Payload:
        """The manifest, and the files as blobs. Raises SerializationError."""
        kind = type(value).__name__
        if not isinstance(value, Path):
            raise SerializationError(NAME, kind, "only a pathlib.Path names a tree; return one")
        try:
            manifest, blobs = scan(os_path.abspath(value), movable=True)
        except (TreeError, OSError) as error:
            raise SerializationError(NAME, kind, f"{value}: {error}") from error
        return Payload((encode(manifest),), blobs)

    def load(self, data: memoryview, restore: Restore) -> Path:
        """The path of the restored tree. Raises SerializationError."""
        try:
            manifest = decode(bytes(data))
            return restore_tree(manifest, restore.scratch(), restore.copy, self.readonly)
        except (TreeError, StorageError, OSError) as error:
            raise SerializationError(NAME, "", str(error)) from error


def tree(readonly: bool = False) -> TreeSerializer:
    """The serializer for a computation that returns a directory's or file's path.

    ``readonly=True`` is for trees that are only read, see `TreeSerializer`.
    """
    return TreeSerializer(readonly)
