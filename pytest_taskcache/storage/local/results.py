"""Files of a cache directory: results, which are content-addressed, written once, checked once a
process and mapped when large; and targets, under names that their authors chose, for people and
other programs."""

from __future__ import annotations

import contextlib
import errno
import io
import mmap
import os
import re
import stat
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

if sys.platform == "linux":
    import fcntl

import xxhash

from pytest_taskcache.errors import StorageError
from pytest_taskcache.ports import Buffer, TargetFile
from pytest_taskcache.storage.local import ownership
from pytest_taskcache.storage.local.index import Clock, Index

is_digest = re.compile(r"[0-9a-f]{32}").fullmatch
_MAPPED = 256 << 10
_BLOCK = 4 << 20
_FICLONE = 0x4004_9409  # linux/fs.h; only there
_FLAGS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_ORPHAN_SECONDS = 3600.0

Stamp = tuple[int, int, int, int, int]


class ResultFiles:
    """``results/ab/<digest>`` in an index's directory; ``tmp`` beside it holds files being written.

    ``pin(digest)`` is called before a file that may exist already is relied on. Read-only files
    (mode 0444) guard against accidents; against the rest there is the digest, checked again
    whenever a file's stat differs from the one that was checked. Whatever else lies where a file
    belongs (a directory, a link, a pipe, one without permissions) is no result, and is moved out of
    the way by the next writer. The index tells of what was found damaged.
    """

    def __init__(self, index: Index, pin: Callable[[str], None], *, create: bool = True) -> None:
        assert index.directory is not None
        self._index = index
        self._directory = index.directory
        self._results = self._directory / "results"
        self._temporary = self._directory / "tmp"
        self._pin = pin
        self._create = create
        self._checked: dict[str, Stamp] = {}
        self._trusted: object = None

    def path_of(self, digest: str) -> Path:
        """Where the file of a digest is, or would be. Raises ValueError for what is none."""
        if not is_digest(digest):
            raise ValueError(f"not an xxh3-128 digest: {digest!r}")
        return self._results / digest[:2] / digest

    def write(self, digest: str, views: Sequence[memoryview]) -> None:
        """Stores bytes under their digest unless they are there. Raises OSError, StorageError."""
        if not self._is_there(digest, sum(view.nbytes for view in views)):
            with self._new_file(digest) as descriptor:
                for view in views:
                    _write_all(descriptor, view)

    def add_file(self, digest: str, source: Path) -> None:
        """As ``write``, from a file, which is copied (or cloned) and left alone."""
        with open(source, "rb") as file:
            if not self._is_there(digest, os.fstat(file.fileno()).st_size):
                with self._new_file(digest) as descriptor:
                    _copy(file.fileno(), descriptor)

    def _is_there(self, digest: str, size: int) -> bool:
        if self._index.readonly:
            raise StorageError(str(self._directory), "write results", "opened read-only")
        self._pin(digest)
        descriptor = self._open(digest, size)
        if descriptor is None:
            return False
        try:
            return self._is_intact(digest, descriptor)
        finally:
            os.close(descriptor)

    @contextlib.contextmanager
    def _new_file(self, digest: str) -> Iterator[int]:
        path = self.path_of(digest)
        temporary = self._temporary / f"{os.getpid()}-{os.urandom(8).hex()}"
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | _FLAGS
        try:
            descriptor = os.open(temporary, flags, 0o600)
        except (FileNotFoundError, NotADirectoryError):
            self._make_room(path)
            descriptor = os.open(temporary, flags, 0o600)
        try:
            try:
                yield descriptor
                if hasattr(os, "fchmod"):
                    os.fchmod(descriptor, 0o444)
            finally:
                os.close(descriptor)
            try:
                os.replace(temporary, path)
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                self._make_room(path)
                os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise

    def _make_room(self, path: Path) -> None:
        """Makes the directories of a result; what lies in the place of one goes with orphans."""
        if self._create:
            ownership.create_directory(self._directory, parents=False)
        # Each by itself: `parents=True` would leave the mode of parents to the umask.
        for folder in (self._temporary, self._results, path.parent):
            if os.path.lexists(folder) and not folder.is_dir():
                self._put_aside(folder)
            folder.mkdir(mode=0o700, exist_ok=True)
        if path.is_dir():
            self._put_aside(path)

    def _put_aside(self, path: Path) -> None:
        self._index.tell("something else in the place of a result")
        where = self._temporary if path != self._temporary else self._directory
        os.rename(path, where / f"aside-{os.urandom(8).hex()}")

    def read(self, digest: str, size: int) -> memoryview | None:
        """The bytes, writable and private to the caller (a copy-on-write mapping when large);
        None if absent, torn or corrupt. Raises OSError, StorageError."""
        descriptor = self._open(digest, size)
        if descriptor is None:
            return None
        try:
            view = _view(descriptor, size)
            return view if self._is_intact(digest, descriptor, view) else None
        finally:
            os.close(descriptor)

    def copy_to(self, digest: str, destination: Path, readonly: bool) -> bool:
        """Whether the bytes are now at the new path: a hard link if ``readonly`` and possible,
        else a clone or copy. Raises OSError, StorageError."""
        descriptor = self._open(digest)
        if descriptor is None:
            return False
        try:
            if not self._is_intact(digest, descriptor):
                return False
            if readonly and not self._index.readonly:
                with contextlib.suppress(OSError):
                    os.link(self.path_of(digest), destination, follow_symlinks=False)
                    return True
            with open(destination, "xb", buffering=0) as target:
                _copy(descriptor, target.fileno())
                if readonly and hasattr(os, "fchmod"):
                    os.fchmod(target.fileno(), 0o444)
            return True
        finally:
            os.close(descriptor)

    def has(self, digests: Collection[str]) -> frozenset[str]:
        """Those of the digests that have a file."""
        return frozenset(
            digest for digest in digests if is_digest(digest) and self.path_of(digest).is_file()
        )

    def _open(self, digest: str, size: int | None = None) -> int | None:
        """A descriptor of the file of a digest; None if there is none (of this size)."""
        self._check_directory()
        if not is_digest(digest):
            return None
        # A pipe that someone put there must not make anyone wait.
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | _FLAGS
        try:
            descriptor = os.open(self.path_of(digest), flags)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            if error.errno not in (errno.ELOOP, errno.EACCES, errno.EPERM, errno.ENXIO):
                raise
            self._index.tell("something else in the place of a result")
            return None
        info = os.fstat(descriptor)
        if not stat.S_ISREG(info.st_mode) or size not in (None, info.st_size):
            os.close(descriptor)
            self._index.tell("damaged result")
            return None
        return descriptor

    def _is_intact(self, digest: str, descriptor: int, view: memoryview | None = None) -> bool:
        """Whether a file (whose content ``view`` is, if given) has the digest."""
        info = os.fstat(descriptor)
        # The change time tells of writes through a hard link even where they kept the
        # modification time. (A new link changes it as well, and costs one more check.)
        stamp = (info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns)
        if self._checked.get(digest) == stamp:
            return True
        found = xxhash.xxh3_128(view) if view is not None else _digest(descriptor)
        if found.hexdigest() != digest:
            self._index.tell("damaged result")
            return False
        self._checked[digest] = stamp
        return True

    def _check_directory(self) -> None:
        """Once for every directory that turns up at the path: whether it is ours."""
        try:
            info = os.stat(self._directory)
        except FileNotFoundError:
            return
        present = (info.st_dev, info.st_ino, info.st_uid, info.st_mode)
        if present != self._trusted:
            ownership.check_ownership(self._directory, "use results")
            self._trusted = present

    def listing(self) -> Iterator[os.DirEntry[str]]:
        """The result files there are."""
        try:
            folders = [entry.path for entry in os.scandir(self._results) if entry.is_dir()]
        except FileNotFoundError:
            return
        for folder in folders:
            with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
                for entry in entries:
                    if is_digest(entry.name):
                        yield entry

    def delete(self, digest: str) -> int:
        """Deletes the file of a digest; how many bytes that freed."""
        path = self.path_of(digest)
        try:
            info = os.lstat(path)
            if stat.S_ISDIR(info.st_mode):
                return 0
            size = info.st_size
            if os.name == "nt":
                os.chmod(path, 0o600)
            os.unlink(path)
        except FileNotFoundError:
            return 0
        self._checked.pop(digest, None)
        return size

    def delete_orphans(self) -> None:
        """Deletes temporary files that nobody wrote to for an hour: their writer died."""
        try:
            entries = list(os.scandir(self._temporary))
        except FileNotFoundError:
            return
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):
                if entry.stat(follow_symlinks=False).st_mtime > Clock.now() - _ORPHAN_SECONDS:
                    continue
                if entry.is_dir(follow_symlinks=False):
                    import shutil  # rarely needed, and slow to import

                    shutil.rmtree(entry.path, ignore_errors=True)
                else:
                    os.unlink(entry.path)


def write_new(path: Path, data: bytes, readonly: bool) -> None:
    """Writes a file that is not there yet. Raises OSError."""
    with open(path, "xb") as file:
        file.write(data)
    if readonly:
        os.chmod(path, 0o444)


def _write_all(descriptor: int, view: memoryview) -> None:
    while view.nbytes:
        # Linux writes at most 2 GB at a time, and a full disk may take a part.
        view = view[os.write(descriptor, view[: 1 << 30]) :]


def _view(descriptor: int, size: int) -> memoryview:
    if size < _MAPPED:
        data = bytearray(size)
        io.FileIO(descriptor, closefd=False).readinto(data)
        return memoryview(data)
    options: dict[str, Any] = {"access": mmap.ACCESS_COPY}
    if sys.version_info >= (3, 13):
        # Without a descriptor of its own, thousands of mappings are no problem.
        options["trackfd"] = False
    return memoryview(mmap.mmap(descriptor, size, **options))


def _digest(descriptor: int) -> xxhash.xxh3_128:
    state = xxhash.xxh3_128()
    os.lseek(descriptor, 0, os.SEEK_SET)
    while block := os.read(descriptor, _BLOCK):
        state.update(block)
    return state


def _copy(source: int, destination: int) -> None:
    if sys.platform == "linux":
        # Most file systems share no blocks between files; that is no fault.
        with contextlib.suppress(OSError):
            fcntl.ioctl(destination, _FICLONE, source)
            return
    os.lseek(source, 0, os.SEEK_SET)
    while block := os.read(source, _BLOCK):
        _write_all(destination, memoryview(block))


def read_target(directory: Path, name: str) -> TargetFile | None:
    """The target of this name; None if there is no such file. Raises OSError."""
    path = directory / name
    flags = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    try:
        descriptor = os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
    except (FileNotFoundError, NotADirectoryError):
        return None
    with open(descriptor, "rb") as file:
        info = os.fstat(descriptor)
        if not stat.S_ISREG(info.st_mode):
            return None
        data = file.read()
    owned = ownership.is_ours(info) and _leads_nowhere_else(directory, path)
    return TargetFile(data, xxhash.xxh3_128_hexdigest(data), info.st_mtime, owned, path)


def write_target(directory: Path, name: str, data: Buffer) -> None:
    """Writes the file by rename. Raises OSError."""
    path = directory / name
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not path.parent.resolve().is_relative_to(directory.resolve()):
        raise PermissionError(f"target {name!r} leaves {directory} through a link")
    draft = path.with_name(f".{os.getpid()}-{os.urandom(6).hex()}.tmp")
    try:
        with open(draft, "xb") as file:
            if hasattr(os, "fchmod"):
                os.fchmod(file.fileno(), 0o600)
            file.write(data)
        draft.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise


def _leads_nowhere_else(directory: Path, path: Path) -> bool:
    """Whether no step from the directory to the file is a link, or a directory of others."""
    if os.path.islink(path):
        return False
    step = path.parent
    while True:
        if (step != directory and os.path.islink(step)) or not ownership.is_ours(os.stat(step)):
            return False
        if step == directory:
            return True
        step = step.parent


def remove_target(directory: Path, name: str, digest: str) -> None:
    """Removes the file if it still has this digest, and the directories that it leaves empty.
    One that was edited since is its editor's. Raises OSError."""
    path, found = directory / name, read_target(directory, name)
    if found is None or found.digest != digest or not _leads_nowhere_else(directory, path):
        return
    path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # not empty
        for parent in path.parents:
            if parent == directory:
                break
            parent.rmdir()
