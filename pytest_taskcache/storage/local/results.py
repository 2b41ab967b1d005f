"""Results in a cache directory: content-addressed, written once, checked once a process, mapped
when large; and targets, under names that their authors chose, for people and other programs."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import mmap
import os
import re
import stat
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from sqlite3 import Connection
from typing import Any, TypeVar

import xxhash

from pytest_taskcache.errors import StorageError
from pytest_taskcache.originals import originals, os_path
from pytest_taskcache.ports import Buffer, TargetFile
from pytest_taskcache.storage.local import ownership
from pytest_taskcache.storage.local.encoding import each
from pytest_taskcache.storage.local.faults import told
from pytest_taskcache.storage.local.index import Index
from pytest_taskcache.storage.local.runs import RunLock
from pytest_taskcache.storage.local.variants import IndexShelf

TARGETS = "targets"
"""The section of the shelf that says for which key and digest each target is kept."""
SMALL = 8192
"""Results of at most so many bytes are rows of the index; a file each would cost more."""
PIN_SECONDS = 3600.0
"""How long a pin lasts that belongs to no run; others last as long as their run."""

is_digest = re.compile(r"[0-9a-f]{32}").fullmatch
_MAPPED = 256 << 10
_BLOCK = 4 << 20
_FICLONE = 0x4004_9409  # linux/fs.h; only there
_OWN = os.O_NOFOLLOW | os.O_CLOEXEC
# A pipe that someone put there must not make anyone wait.
_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
_ORPHAN_SECONDS = 3600.0

T = TypeVar("T")


class LocalResults:
    """The result storage role in the directory of an index: small results are its rows, others
    files ``results/ab/<digest>``, with ``tmp`` beside for those being written.

    A digest is pinned before a result that may exist already is relied on. Read-only files
    (mode 0444) guard against accidents; against the rest there is the digest, checked again
    whenever a file's stat differs from the one that was checked. Whatever else lies where a file
    belongs (a directory, a link, a pipe, one without permissions) is no result, and is moved out of
    the way by the next writer. The index tells of what was found damaged.
    """

    shelf: IndexShelf

    def __init__(self, index: Index, *, run: str, run_lock: RunLock | None, create: bool) -> None:
        assert index.directory is not None
        self.index = index
        self.directory = index.directory
        self.run = run
        self.run_lock = run_lock
        self._targets = self.directory / "targets"
        self._results = self.directory / "results"
        self._temporary = self.directory / "tmp"
        self._create = create
        self._pinned: dict[str, tuple[int, float]] = {}
        self._checked: dict[str, tuple[int, ...]] = {}
        self._trusted: object = None

    def _told(self, operation: str) -> AbstractContextManager[None]:
        return told(str(self.directory), operation)

    def write_result(self, digest: str, chunks: Sequence[Buffer]) -> None:
        """As ResultStorage.write_result."""
        views = [memoryview(chunk).cast("B") for chunk in chunks if memoryview(chunk).nbytes]
        size = sum(view.nbytes for view in views)
        if size > SMALL:

            def write(descriptor: int) -> None:
                for view in views:
                    _write_all(descriptor, view)

            with self._told("write results"):
                self._add(digest, size, write)
        elif not self._is_pinned(digest):  # else this process has written it
            self._pin("write results", digest, b"".join(views))

    def add_file(self, digest: str, source: Path) -> None:
        """As ResultStorage.add_file."""
        with self._told("write results"), open(source, "rb") as file:
            found = file.fileno()
            self._add(digest, os.fstat(found).st_size, lambda new: _copy(found, new))

    def read_result(self, digest: str, size: int) -> memoryview | None:
        """As ResultStorage.read_result; large ones are mapped copy-on-write."""
        small = self._read_small(digest) if size <= SMALL else None
        if small is not None and len(small) == size:
            return memoryview(bytearray(small))
        with self._told("read results"), self._opened(digest, size) as descriptor:
            if descriptor is None:
                return None
            view = _view(descriptor, size)
            return view if self._is_intact(digest, descriptor, view) else None

    def copy_file(self, digest: str, destination: Path, readonly: bool = False) -> bool:
        """As ResultStorage.copy_file."""
        with self._told("read results"):
            with self._opened(digest) as descriptor:
                if descriptor is not None and self._is_intact(digest, descriptor):
                    if readonly and not self.index.readonly:
                        with contextlib.suppress(OSError):
                            os.link(self._path(digest), destination, follow_symlinks=False)
                            return True
                    with open(destination, "xb", buffering=0) as target:
                        _copy(descriptor, target.fileno())
                        if readonly:
                            os.fchmod(target.fileno(), 0o444)
                    return True
            data = self._read_small(digest)
            if data is not None:
                write_new(destination, data, readonly)
            return data is not None

    def has_results(self, digests: Collection[str]) -> frozenset[str]:
        """As ResultStorage.has_results."""
        found = {each for each in digests if is_digest(each) and self._path(each).is_file()}
        rest = [digest for digest in digests if digest not in found]
        query = "SELECT digest FROM small_results WHERE digest IN (...)"
        rows = self.index.read("read results", lambda c: each(c, query, rest)) if rest else []
        return frozenset(found.union(digest for (digest,) in rows))

    def _is_pinned(self, digest: str) -> bool:
        # A reopened index, which may be a new one, has another epoch.
        epoch, since = self._pinned.get(digest, (-1, 0.0))
        lasts = bool(self.run) or originals.seconds() - since < PIN_SECONDS / 4
        return epoch == self.index.epoch and lasts

    def _pin(self, operation: str, digest: str, small: bytes | None = None) -> None:
        """Keeps a result from eviction for as long as ``run`` lives, or for an hour if there is no
        run; and writes it too if it is a small one. Raises StorageError."""
        now = originals.seconds()

        def work(connection: Connection) -> None:
            connection.execute(
                "INSERT OR REPLACE INTO pins (digest, run, since) VALUES (?, ?, ?)",
                (digest, self.run, now),
            )
            if small is not None:
                # What is there already is the same, or damaged.
                connection.execute(
                    "INSERT OR REPLACE INTO small_results (digest, data) VALUES (?, ?)",
                    (digest, small),
                )

        if self.run_lock is not None:
            self.run_lock.hold()
        self.index.write(operation, work)
        self._pinned[digest] = (self.index.epoch, now)

    def _read_small(self, digest: str) -> bytes | None:
        query = "SELECT data FROM small_results WHERE digest = ?"
        row = self.index.read("read results", lambda c: c.execute(query, (digest,)).fetchone())
        if row is None:
            return None
        (data,) = row
        if not isinstance(data, bytes) or xxhash.xxh3_128_hexdigest(data) != digest:
            self._pinned.pop(digest, None)  # the next writer mends it
            self.index.tell("damaged result")
            return None
        return data

    def _path(self, digest: str) -> Path:
        if not is_digest(digest):
            raise ValueError(f"not an xxh3-128 digest: {digest!r}")
        return self._results / digest[:2] / digest

    def _add(self, digest: str, size: int, write: Callable[[int], None]) -> None:
        if self.index.readonly:
            raise StorageError(str(self.directory), "write results", "opened read-only")
        if not self._is_pinned(digest):
            self._pin("pin a result", digest)
        with self._opened(digest, size) as found:
            if found is not None and self._is_intact(digest, found):
                return
        path = self._path(digest)
        draft = self._temporary / f"{os.getpid()}-{os.urandom(8).hex()}"
        try:
            descriptor = self._with_room(
                path, lambda: os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL | _OWN, 0o600)
            )
            try:
                write(descriptor)
                os.fchmod(descriptor, 0o444)
            finally:
                os.close(descriptor)
            self._with_room(path, lambda: os.replace(draft, path))
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(draft)
            raise

    def _with_room(self, path: Path, work: Callable[[], T]) -> T:
        """What ``work`` returns, once the directories of a result are there; what lies in the place
        of one goes with orphans."""
        with contextlib.suppress(FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return work()
        if self._create:
            ownership.create_directory(self.directory, parents=False)
        # Each by itself: `parents=True` would leave the mode of parents to the umask.
        for folder in (self._temporary, self._results, path.parent):
            if os_path.lexists(folder) and not folder.is_dir():
                self._move_aside(folder)
            folder.mkdir(mode=0o700, exist_ok=True)
        if path.is_dir():
            self._move_aside(path)
        return work()

    def _move_aside(self, path: Path) -> None:
        self.index.tell("something else in the place of a result")
        where = self._temporary if path != self._temporary else self.directory
        os.rename(path, where / f"aside-{os.urandom(8).hex()}")

    @contextlib.contextmanager
    def _opened(self, digest: str, size: int | None = None) -> Iterator[int | None]:
        """A descriptor of the file of a digest; None if there is none (of this size)."""
        descriptor = self._open(digest)
        try:
            info = os.fstat(descriptor) if descriptor is not None else None
            if info and (not stat.S_ISREG(info.st_mode) or size not in (None, info.st_size)):
                self.index.tell("damaged result")
                info = None
            yield descriptor if info else None
        finally:
            if descriptor is not None:
                os.close(descriptor)

    def _open(self, digest: str) -> int | None:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            # Once for every directory that turns up here: whether it is ours.
            info = os.stat(self.directory)
            present = (info.st_dev, info.st_ino, info.st_uid, info.st_mode)
            if present != self._trusted:
                ownership.check_ownership(self.directory, "use results")
                self._trusted = present
            try:
                return os.open(self._path(digest), _READ | _OWN) if is_digest(digest) else None
            except OSError as error:
                if error.errno not in (errno.ELOOP, errno.EACCES, errno.EPERM, errno.ENXIO):
                    raise
                self.index.tell("something else in the place of a result")
        return None

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
            self.index.tell("damaged result")
            return False
        self._checked[digest] = stamp
        return True

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
        path = self._path(digest)
        try:
            info = os.lstat(path)
            if stat.S_ISDIR(info.st_mode):
                return 0
            size = info.st_size
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
        oldest = originals.seconds() - _ORPHAN_SECONDS
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):
                if entry.stat(follow_symlinks=False).st_mtime > oldest:
                    continue
                if entry.is_dir(follow_symlinks=False):
                    import shutil  # rarely needed, and slow to import

                    shutil.rmtree(entry.path, ignore_errors=True)
                else:
                    os.unlink(entry.path)

    def read_target(self, name: str) -> TargetFile | None:
        """As TargetStorage.read_target: a file in ``targets``."""
        with self._told("read a target"):
            path = self.target_path(name)
            try:
                descriptor = os.open(path, _READ)
            except (FileNotFoundError, NotADirectoryError):
                return None
            with open(descriptor, "rb") as file:
                info = os.fstat(descriptor)
                if not stat.S_ISREG(info.st_mode):
                    return None
                data = file.read()
            owned = ownership.is_ours(info) and self._leads_nowhere_else(path)
            return TargetFile(data, xxhash.xxh3_128_hexdigest(data), info.st_mtime, owned, path)

    def write_target(self, name: str, data: Buffer, key: str) -> None:
        """As TargetStorage.write_target; what it is kept for is noted on the shelf."""
        if self.index.readonly:
            raise StorageError(str(self.directory), "write a target", "opened read-only")
        if key:
            noted = f"{key} {xxhash.xxh3_128_hexdigest(data)}".encode()
            self.shelf.write(TARGETS, {name: noted})
        with self._told("write a target"):
            path = self.target_path(name)
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            if not path.parent.resolve().is_relative_to(self._targets.resolve()):
                raise PermissionError(f"target {name!r} leaves {self._targets} through a link")
            draft = path.with_name(f".{os.getpid()}-{os.urandom(6).hex()}.tmp")
            try:
                with open(draft, "xb") as file:
                    os.fchmod(file.fileno(), 0o600)
                    file.write(data)
                draft.replace(path)
            except OSError:
                with contextlib.suppress(OSError):
                    draft.unlink()
                raise

    def target_path(self, name: str) -> Path:
        """As TargetStorage.target_path."""
        return self._targets / name

    def remove_target(self, name: str, digest: str) -> None:
        """Removes the file if it still has this digest, and the directories that it leaves empty.
        One that was edited since is its editor's. Raises OSError, StorageError."""
        path, found = self.target_path(name), self.read_target(name)
        if found is None or found.digest != digest or not self._leads_nowhere_else(path):
            return
        path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # not empty
            for parent in path.parents:
                if parent == self._targets:
                    break
                parent.rmdir()

    def _leads_nowhere_else(self, path: Path) -> bool:
        """Whether no step from ``targets`` to the file is a link, or a directory of others."""
        steps = [path, *path.parents]
        within = steps[: steps.index(self._targets)]
        folders = [*within[1:], self._targets]
        return not any(map(os_path.islink, within)) and all(
            ownership.is_ours(os.stat(folder)) for folder in folders
        )


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
