"""Any other protocol through ``fsspec`` (extra ``fsspec``): ``sftp://``, ``memory://``, ....

The same layout as for objects. Options: ``timeout`` (seconds for one request, 30). Credentials,
ports and the like are the protocol's own affair, in the URL or in fsspec's configuration files.

Object stores make an object visible as a whole. All other protocols write beside it and rename;
where even a rename is a copy, a reader may see a part, which does not have the digest (a result)
or is no record, and so reads as absent.
"""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import fsspec
from fsspec import AbstractFileSystem

from pytest_taskcache.ports import Buffer
from pytest_taskcache.storage.location import Location
from pytest_taskcache.storage.object_storage import ObjectStorage
from pytest_taskcache.storage.object_store import PIECE, Download, Listed, ObjectStoreError

SECONDS = 30.0
CONCURRENCY = 16
CONNECTIONS = 6
"""Log-ins at once, where each thread needs its own: servers refuse more than about ten."""
_CONNECT_SECONDS = 5.0

_WHOLE = {
    "s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oss", "tos", "obs", "r2", "hf",
}  # fmt: skip
"""Protocols whose writes become visible when they are complete."""
_ONE_CALL_AT_A_TIME = {"sftp", "ssh", "ftp", "smb"}
"""Protocols whose libraries get into a muddle, or hang, when threads share a connection."""
_OPTIONS: dict[str, dict[str, Any]] = {
    "sftp": {"timeout": _CONNECT_SECONDS, "banner_timeout": _CONNECT_SECONDS},
    "ssh": {"timeout": _CONNECT_SECONDS, "banner_timeout": _CONNECT_SECONDS},
    "ftp": {"timeout": int(_CONNECT_SECONDS)},
    "file": {"auto_mkdir": True},
    "local": {"auto_mkdir": True},
}


def open_fsspec(location: Location) -> ObjectStorage:
    """The storage at a URL. Connects when it is first used. Raises ConfigurationError if no
    protocol of that name exists, or something that it needs is not installed."""
    location.expect({"timeout"})
    seconds = location.seconds("timeout", SECONDS) or SECONDS
    try:
        fsspec.get_filesystem_class(location.scheme)
    except ValueError:
        raise location.error(
            f"unknown scheme {location.scheme!r}",
            "write e.g. s3://, gs://, az://, file://, postgresql+psycopg://, sqlite:///, "
            "redis://, sftp:// or memory://",
        ) from None
    except ImportError as error:
        raise location.missing(
            f"{location.scheme}:// needs more than fsspec",
            f"install what it asks for: {error.msg or error.name}",
        ) from None
    concurrency = CONNECTIONS if location.scheme in _ONE_CALL_AT_A_TIME else CONCURRENCY
    return ObjectStorage(
        FsspecStore(location), location.shown, seconds=seconds, concurrency=concurrency
    )


class FsspecStore:
    """An ObjectStore over fsspec file systems of a URL: one for all threads, or a pool where a
    connection serves one call at a time. After an error a file system is not used again, since
    not every protocol reconnects by itself."""

    def __init__(self, location: Location) -> None:
        self._location = location
        self._exclusive = location.scheme in _ONE_CALL_AT_A_TIME
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._idle: list[_Connected] = []

    def open(self, path: str) -> Download | None:
        """Two requests for most protocols, and one for each further piece."""
        try:
            with self._using(path) as (fs, full):
                size = int(fs.info(full)["size"])
                if size <= PIECE:
                    return Download(size, iter([fs.cat_file(full)]))
        except _ABSENT:
            return None
        return Download(size, self._pieces(path))

    def put(self, path: str, data: Buffer) -> None:
        """One request where the protocol writes wholly, else a write and a rename."""
        self._write(path, lambda fs, full: fs.pipe_file(full, bytes(data)))

    def put_absent(self, path: str, data: Buffer) -> bool:
        """Looks first."""
        if self.size(path) is not None:
            return False
        self.put(path, data)
        return True

    def put_pieces(self, path: str, pieces: Iterable[Buffer], size: int) -> None:
        """Through the protocol's own buffered file."""

        def write(fs: AbstractFileSystem, full: str) -> None:
            with fs.open(full, "wb", **self._buffering()) as stream:
                if hasattr(stream, "set_pipelined"):
                    # SFTP: otherwise every 32 KiB wait for an answer (0.7 MB/s on loopback).
                    stream.set_pipelined(True)
                for piece in pieces:
                    stream.write(piece)

        self._write(path, write)

    def size(self, path: str) -> int | None:
        """One request."""
        try:
            with self._using(path) as (fs, full):
                return int(fs.info(full)["size"])
        except _ABSENT:
            return None

    def list(self, prefix: str) -> list[Listed]:
        """One request for each directory, or thousand objects."""
        try:
            with self._using(prefix) as (fs, full):
                found: dict[str, dict[str, Any]] = fs.find(full, detail=True)
        except _ABSENT:
            return []
        start = len(full) - len(prefix)
        return [
            Listed(str(name)[start:], _modified(info))
            for name, info in found.items()
            if str(name).startswith(full)
        ]

    def delete(self, paths: Sequence[str]) -> None:
        """One request each."""
        for path in paths:
            try:
                with self._using(path) as (fs, full):
                    fs.rm_file(full)
            except _ABSENT:
                continue

    def close(self) -> None:
        """Closes the connections that are idle."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connected in idle:
            connected.close()

    def _pieces(self, path: str) -> Iterator[bytes]:
        with (
            self._using(path) as (fs, full),
            fs.open(full, "rb", **self._buffering()) as stream,
        ):
            if hasattr(stream, "prefetch"):
                stream.prefetch()
            while piece := stream.read(PIECE):
                yield piece

    def _buffering(self) -> dict[str, Any]:
        # Where connections are exclusive these would be options of the library's own file.
        return {} if self._exclusive else {"block_size": PIECE, "cache_type": "none"}

    def _write(self, path: str, write: Callable[[AbstractFileSystem, str], object]) -> None:
        try:
            with self._using(path) as (fs, full):
                if self._location.scheme in _WHOLE:
                    write(fs, full)
                    return
                fs.makedirs(full.rpartition("/")[0], exist_ok=True)
                temporary = f"{full}.{uuid.uuid4().hex}.part"
                try:
                    write(fs, temporary)
                    fs.mv(temporary, full)
                except BaseException:
                    with suppress(Exception):  # what made the write fail may forbid this too
                        fs.rm_file(temporary)
                    raise
        except _ABSENT:
            raise ObjectStoreError("no such directory or bucket") from None

    @contextmanager
    def _using(self, path: str) -> Iterator[tuple[AbstractFileSystem, str]]:
        with _told():
            connected = self._borrow()
            try:
                yield connected.fs, f"{connected.root}/{path}"
            except _ABSENT:
                self._give_back(connected)
                raise
            except BaseException:
                # Also when a reader stops half-way: what is left in the line is not for others.
                self._forget(connected)
                raise
            self._give_back(connected)

    def _borrow(self) -> _Connected:
        with self._lock:
            if self._pid != os.getpid():
                # Nothing is closed: the connections are the parent's.
                self._pid, self._idle = os.getpid(), []
            if self._idle:
                return self._idle.pop() if self._exclusive else self._idle[-1]
            if not self._exclusive:
                self._idle.append(_connect(self._location))
                return self._idle[-1]
        return _connect(self._location)

    def _give_back(self, connected: _Connected) -> None:
        if self._exclusive:
            with self._lock:
                self._idle.append(connected)

    def _forget(self, connected: _Connected) -> None:
        if self._exclusive:
            connected.close()
            return
        with self._lock:
            if connected in self._idle:
                self._idle.remove(connected)


@dataclass(frozen=True, slots=True, eq=False)
class _Connected:
    """A file system, and the path of the storage in it."""

    fs: AbstractFileSystem
    root: str

    def close(self) -> None:
        # The protocols that hold a connection have no common name for it.
        for name in ("client", "ftp"):
            close = getattr(getattr(self.fs, name, None), "close", None)
            if callable(close):
                with suppress(Exception):  # it may be broken already
                    close()


def _connect(location: Location) -> _Connected:
    options = _OPTIONS.get(location.scheme, {})
    fs, root = fsspec.url_to_fs(location.base, skip_instance_cache=True, **options)
    # Others write too: what a directory held a moment ago is not what it holds. (As an option it
    # would reach protocols that hand all options on to their library.)
    cache = getattr(fs, "dircache", None)
    if cache is not None:
        cache.use_listings_cache = False
    return _Connected(fs, str(root).rstrip("/"))


def _modified(info: dict[str, Any]) -> float | None:
    """When a file was last written, under whichever name its protocol gives it."""
    for name in ("mtime", "LastModified", "last_modified", "updated", "created"):
        value = info.get(name)
        if isinstance(value, datetime):
            return value.timestamp()
        if isinstance(value, int | float):
            return float(value)
    return None


_ABSENT = (FileNotFoundError, NotADirectoryError)


@contextmanager
def _told() -> Iterator[None]:
    """Turns a protocol's errors into ObjectStoreError with a short reason, except those of absent
    files. Their texts may hold URLs and are not repeated."""
    try:
        yield
    except (ObjectStoreError, *_ABSENT):
        raise
    except PermissionError:
        raise ObjectStoreError("permission denied") from None
    except TimeoutError:
        raise ObjectStoreError("timed out") from None
    except OSError as error:
        reason = os.strerror(error.errno).lower() if error.errno else type(error).__name__
        raise ObjectStoreError(reason) from None
    except Exception as error:
        # Every protocol has errors of its own; to the cache they are all one.
        raise ObjectStoreError(type(error).__name__) from None


__all__ = ["FsspecStore", "open_fsspec"]
