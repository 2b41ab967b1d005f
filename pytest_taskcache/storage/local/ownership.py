"""Makes sure that a cache directory is the user's own before anything in it is believed.

Values are unpickled from here, so whoever can write here can run code. The directory and what
matters inside it must belong to the user, be writable by nobody else, and be no symbolic links;
the path is resolved once and only the resolved one is used from then on.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from pytest_taskcache.errors import UntrustedStorageError

_OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH
_FILE_PARTS = ("index.sqlite3", "index.sqlite3-wal", "index.sqlite3-shm")
_PARTS = (*_FILE_PARTS, "results", "runs", "tmp")

_FILES = {
    "CACHEDIR.TAG": (
        "Signature: 8a477f597d28d172789f06886806bc55\n"
        "# This file marks a cache directory, see https://bford.info/cachedir/\n"
    ),
    ".gitignore": "# Everything in here can be computed again.\n*\n",
    "README.md": (
        "# A cache of pytest-taskcache\n\n"
        "Values and test outcomes that need not be computed again. It may be deleted at any\n"
        "time. Do not commit it, and do not share it: what is read from here is trusted, so\n"
        "whoever can write here can run code as you.\n"
    ),
}


def create_directory(directory: Path, *, parents: bool = True) -> None:
    """Makes the directory with its marker files, for the user alone. Raises OSError. Without
    ``parents`` no more is made than it and the one around it: a cache that vanished with its
    project does not bring the project's directory back."""
    try:
        directory.parent.mkdir(parents=parents, exist_ok=True)
        directory.mkdir(mode=0o700)
    except FileExistsError:
        if not directory.is_dir():
            return  # which `check_ownership` has the words for
        if any(name for name in os.listdir(directory) if name not in _FILES):
            return
        # An empty directory holds nothing that could have been tampered with, so one that was
        # made by hand under a generous umask is narrowed rather than refused.
        info = os.stat(directory)
        if info.st_uid == os.geteuid():
            os.chmod(directory, stat.S_IMODE(info.st_mode) & ~_OTHERS_MAY_WRITE)
    for name, text in _FILES.items():
        try:
            with open(directory / name, "x", encoding="utf-8", newline="\n") as file:
                file.write(text)
        except FileExistsError:
            continue


def check_ownership(directory: Path, operation: str) -> None:
    """Returns if the (resolved) directory and its parts are ours alone. Raises
    UntrustedStorageError, with the remedy, and FileNotFoundError if it is not there."""
    _check(directory, directory, operation)
    for name in _PARTS:
        try:
            _check(directory, directory / name, operation)
        except FileNotFoundError:
            continue


def is_ours(info: os.stat_result) -> bool:
    """Whether nobody but this user can have written a file, or into a directory."""
    return info.st_uid == os.geteuid() and not info.st_mode & _OTHERS_MAY_WRITE


def _check(directory: Path, path: Path, operation: str) -> None:
    info = os.lstat(path)
    whole = path == directory
    is_file = not whole and path.name in _FILE_PARTS
    what = "it" if whole else path.name
    if stat.S_ISREG(info.st_mode) and not whole and not is_file:
        return  # holds nothing that is believed, and is moved out of the way by who needs the place
    if stat.S_ISLNK(info.st_mode):
        problem = f"{what} is a symbolic link; delete the link"
    elif not (stat.S_ISREG(info.st_mode) if is_file else stat.S_ISDIR(info.st_mode)):
        kind = "file" if is_file else "directory"
        problem = f"{what} is not a {kind}; {'choose another path' if whole else 'delete it'}"
    elif is_ours(info):
        return
    elif info.st_uid != os.geteuid():
        problem = (
            f"{what} belongs to user {info.st_uid}, not to you (user {os.geteuid()}); "
            "use a directory of your own"
        )
    else:
        problem = (
            f"{what} can be written by other users; delete the directory if they are not "
            "trusted, else run `chmod -R go-w` on it"
        )
    raise UntrustedStorageError(str(directory), operation, problem)
