"""Target files: values under names that their authors chose, for people and other programs."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

import xxhash

from pytest_taskcache.ports import Buffer, TargetFile
from pytest_taskcache.storage.local.ownership import is_ours


def read_target(directory: Path, name: str) -> TargetFile | None:
    """The target of this name; None if there is no such file. Raises OSError where there is one
    that cannot be read."""
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
    owned = is_ours(info) and _leads_nowhere_else(directory, path)
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
        if (step != directory and os.path.islink(step)) or not is_ours(os.stat(step)):
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
