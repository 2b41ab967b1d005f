"""Blobs in any other protocol, through ``fsspec`` (extra ``fsspec``): ``sftp://``, ``memory://``.

Options: ``timeout`` (seconds for one connection, 5). Credentials, ports and the like are the
protocol's own affair, in the URL or in fsspec's configuration files.

Object stores make an object visible as a whole. All other protocols write beside it and rename;
where even a rename is a copy, a reader may see a part, which does not have the digest (a result)
or is no record, and so reads as absent.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import Any

import fsspec
from fsspec import AbstractFileSystem

from pytest_taskcache.ports import Buffer
from pytest_taskcache.storage.remote.blobs import LIMIT, BlobError, Blobs, Listed
from pytest_taskcache.storage.remote.location import Location

_WHOLE = {
    "s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oss", "tos", "obs", "r2", "hf",
}  # fmt: skip
"""Protocols whose writes become visible when they are complete."""
_TIMEOUTS = {"sftp": ("timeout", "banner_timeout"), "ssh": ("timeout", "banner_timeout")}
_ABSENT = (FileNotFoundError, NotADirectoryError)


class FsspecBlobs(Blobs):
    """Files of a pool of fsspec file systems, each of which serves one call at a time: the
    libraries of some protocols get into a muddle, or hang, when threads share a connection. After
    an error one is not used again, since not every protocol reconnects by itself. Raises
    ConfigurationError if there is no such protocol, or something that it needs is not installed.
    """

    concurrency = 6
    """Servers refuse more than about ten log-ins at once."""

    def __init__(self, location: Location) -> None:
        super().__init__(location.shown)
        location.expect({"timeout"})
        try:
            fsspec.get_filesystem_class(location.scheme)
        except ValueError:
            raise location.error(
                f"unknown scheme {location.scheme!r}",
                "write e.g. s3://, gs://, az://, file://, postgresql+psycopg://, sqlite:///, "
                "redis://, sftp:// or memory://",
            ) from None
        except ImportError as error:
            remedy = f"install what it asks for: {error.msg or error.name}"
            problem = f"{location.scheme}:// needs more than fsspec"
            raise location.missing(problem, remedy) from None
        self._location = location
        self._seconds = location.seconds("timeout", 5.0)
        self._idle: list[tuple[AbstractFileSystem, str]] = []

    def get(self, name: str) -> Buffer | None:
        """One request for most protocols."""
        with suppress(*_ABSENT), self._using(name) as (fs, full):
            data: bytes = fs.cat_file(full)
            return data if len(data) <= LIMIT else None
        return None

    def put(self, name: str, data: Buffer) -> None:
        """One request where the protocol writes wholly, else a write and a rename."""
        try:
            with self._using(name) as (fs, full):
                if self._location.scheme in _WHOLE:
                    fs.pipe_file(full, bytes(data))
                    return
                for left in (2, 1, 0):
                    try:
                        fs.makedirs(full.rpartition("/")[0], exist_ok=True)
                        break
                    except OSError:
                        # Most protocols look and then make, and another thread made a part
                        # meanwhile.
                        if not left:
                            raise
                temporary = f"{full}.{uuid.uuid4().hex}.part"
                try:
                    _write(fs, temporary, data)
                    fs.mv(temporary, full)
                except BaseException:
                    with suppress(Exception):  # what made the write fail may forbid this too
                        fs.rm_file(temporary)
                    raise
        except _ABSENT:
            raise BlobError("no such directory or bucket") from None

    def size(self, name: str) -> int | None:
        """One request."""
        with suppress(*_ABSENT), self._using(name) as (fs, full):
            return int(fs.info(full)["size"])
        return None

    def list(self, prefix: str) -> Sequence[Listed]:
        """One request for each directory, or thousand objects."""
        with suppress(*_ABSENT), self._using(prefix) as (fs, full):
            start = len(full) - len(prefix)
            return [
                Listed(str(name)[start:], info.get("size"), _modified(info))
                for name, info in fs.find(full, detail=True).items()
                if str(name).startswith(f"{full}/")
            ]
        return []

    def delete(self, names: Sequence[str]) -> None:
        """One request each."""
        for name in names:
            with suppress(*_ABSENT), self._using(name) as (fs, full):
                fs.rm_file(full)

    def close(self) -> None:
        """Closes the connections that are idle."""
        with self.lock:
            idle, self._idle = self._idle, []
        for fs, _ in idle:
            _close(fs)

    def _start_anew(self) -> None:
        self._idle = []  # nothing is closed: the connections are the parent's

    @contextmanager
    def _using(self, name: str) -> Iterator[tuple[AbstractFileSystem, str]]:
        with self.lock:
            connected = self._idle.pop() if self._idle else None
        fs, root = connected or _connect(self._location, self._seconds)
        whole = False
        try:
            yield fs, f"{root}/{name}"
            whole = True
        except _ABSENT:
            whole = True
            raise
        finally:
            if whole:
                with self.lock:
                    self._idle.append((fs, root))
            else:
                _close(fs)


def _close(fs: AbstractFileSystem) -> None:
    # The protocols that hold a connection have no common name for it.
    for name in ("client", "ftp"):
        close = getattr(getattr(fs, name, None), "close", None)
        if callable(close):
            with suppress(Exception):  # it may be broken already
                close()


def _connect(location: Location, seconds: float) -> tuple[AbstractFileSystem, str]:
    options: dict[str, Any] = dict.fromkeys(_TIMEOUTS.get(location.scheme, ()), seconds)
    if location.scheme == "ftp":
        options["timeout"] = int(seconds)
    fs, root = fsspec.url_to_fs(location.base, skip_instance_cache=True, **options)
    # Others write too: what a directory held a moment ago is not what it holds. (As an option it
    # would reach protocols that hand all options on to their library.)
    cache = getattr(fs, "dircache", None)
    if cache is not None:
        cache.use_listings_cache = False
    return fs, str(root).rstrip("/")


def _write(fs: AbstractFileSystem, path: str, data: Buffer) -> None:
    with fs.open(path, "wb") as stream:
        if hasattr(stream, "set_pipelined"):
            # SFTP: otherwise every 32 KiB wait for an answer (0.7 MB/s on loopback).
            stream.set_pipelined(True)
        stream.write(bytes(data))


def _modified(info: dict[str, Any]) -> float | None:
    for name in ("mtime", "LastModified", "last_modified", "updated", "created"):
        value = info.get(name)
        if isinstance(value, datetime):
            return value.timestamp()
        if isinstance(value, int | float):
            return float(value)
    return None
