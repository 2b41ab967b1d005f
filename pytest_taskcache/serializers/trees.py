"""Directories and files as values: a manifest, and one blob per distinct file content."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from pytest_taskcache.errors import SerializationError, StorageError
from pytest_taskcache.ports import Payload, Restore
from pytest_taskcache.serializers.manifest import TreeError, decode, encode
from pytest_taskcache.serializers.restoring import restore_tree
from pytest_taskcache.serializers.scanning import scan

NAME = "tree"


@dataclass(frozen=True, slots=True)
class TreeSerializer:
    """A `pathlib.Path` to a directory or file; what comes back is a path of the same final name.

    Kept: names (undecodable ones too), contents, empty directories, permission bits, times of
    modification in nanoseconds, and relative symbolic links as they are. Equal contents are
    stored once. Not kept: owners, set-user-id and its like, extended attributes, holes, and that
    two names were one file. Refused: links that are absolute or lead out of the tree, pipes,
    sockets, devices, and files that change while they are read. A path that is itself a
    link stands for what it leads to.

    Each load restores a fresh copy that the caller may change. With ``readonly`` the files and
    directories lose their write bits, and files may be hard links to the stored ones: fast for
    large trees, but such a file has the stored one's time of modification. Root may write to
    them all the same, and then damages the stored file, which the storage's digests detect.
    """

    readonly: bool = False

    @property
    def name(self) -> str:
        """``tree``, read-only or not: the payload is the same."""
        return NAME

    @property
    def executes(self) -> bool:
        """False."""
        return False

    def dump(self, value: object) -> Payload:
        """The manifest, and the files as blobs. Raises SerializationError."""
        kind = type(value).__name__
        if not isinstance(value, Path):
            raise SerializationError(NAME, kind, "only a pathlib.Path names a tree; return one")
        try:
            manifest, blobs = scan(os.path.abspath(value))
        except (TreeError, OSError) as error:
            raise SerializationError(NAME, kind, f"{value}: {error}") from error
        return Payload((encode(manifest),), blobs)

    def load(self, data: memoryview, restore: Restore) -> Path:
        """The path of the restored tree. Raises SerializationError; a manifest that is not safe
        to restore is refused before anything is written."""
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
