"""The file of one held key: its content, and how it appears and is replaced atomically."""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

from pytest_taskcache.locking.encoding import from_fields, parse, to_fields
from pytest_taskcache.ports import Holder

FORMAT = 1
_LONGEST = 1 << 16
_CLOEXEC = getattr(os, "O_CLOEXEC", 0)
_READ = os.O_RDONLY | _CLOEXEC | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


@dataclass(frozen=True, slots=True)
class Claim:
    """What a key file says: who holds the key, with which token, and the name of the liveness
    file of the process that wrote it."""

    holder: Holder
    token: int
    alive: str

    def encode(self) -> bytes:
        """The file's content; no two claims of one key are equal."""
        fields = {
            "format": FORMAT,
            "alive": self.alive,
            "token": self.token,
            "holder": to_fields(self.holder),
        }
        return json.dumps(fields).encode("ascii") + b"\n"


@dataclass(frozen=True, slots=True)
class Found:
    """A key file as read: its bytes, when it was written (POSIX seconds, the file system's
    time), and its claim if it can be understood."""

    content: bytes
    written: float
    claim: Claim | None


def read(path: Path) -> Found | None:
    """What is at the path, None if there is nothing. Raises OSError."""
    try:
        descriptor = os.open(path, _READ)
    except FileNotFoundError:
        return None
    try:
        written = os.fstat(descriptor).st_mtime
        content = os.read(descriptor, _LONGEST)
    finally:
        os.close(descriptor)
    return Found(content, written, _understand(content))


def _understand(content: bytes) -> Claim | None:
    fields = parse(content)
    if not isinstance(fields, dict) or fields.get("format") != FORMAT:
        return None
    token, alive = fields.get("token"), fields.get("alive")
    holder = from_fields(fields.get("holder"))
    if not isinstance(token, int) or not isinstance(alive, str) or holder is None:
        return None
    return Claim(holder, token, alive)


def create(path: Path, scratch: Path, content: bytes) -> bool:
    """Whether the file was made, with its whole content at once; False if there is one already.

    ``scratch`` is a path of the caller's own in the same directory. Raises OSError, and then
    nothing is left behind.
    """
    try:
        _write(scratch, content)
        try:
            os.link(scratch, path)
        except FileExistsError:
            return _linked(scratch)
        except OSError:
            return _linked(scratch) or _create_in_place(path, content)
        return True
    finally:
        with contextlib.suppress(FileNotFoundError):
            scratch.unlink()


def replace(path: Path, scratch: Path, content: bytes) -> None:
    """Puts new content at the path at once. Raises OSError, and then nothing has changed."""
    try:
        _write(scratch, content)
        scratch.replace(path)
    except OSError:
        with contextlib.suppress(FileNotFoundError):
            scratch.unlink()
        raise


def _linked(scratch: Path) -> bool:
    # A network file system may report a failure for a link that it made, when the answer to the
    # first request was lost.
    return scratch.stat().st_nlink == 2


def _create_in_place(path: Path, content: bytes) -> bool:
    # Where there are no hard links. Others see an unreadable file until it is written; if that
    # takes longer than their patience, they replace it, which the last comparison notices.
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _CLOEXEC, 0o666)
    except FileExistsError:
        return False
    try:
        _write_all(descriptor, content)
        ours = os.fstat(descriptor)
    except OSError:
        path.unlink()
        raise
    finally:
        os.close(descriptor)
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    return os.path.samestat(ours, there)


def _write(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _CLOEXEC, 0o666)
    try:
        _write_all(descriptor, content)
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, content: bytes) -> None:
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
