"""What a stored directory tree holds, as values, and the checks that make restoring it safe.

Written as JSON with sorted entries, so equal trees have equal manifests. Nothing here touches
the file system.
"""

from __future__ import annotations

import json
import os
import re
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

PERMISSIONS = 0o777
"""The mode bits that are kept; set-user-id and its like are not."""

_FORMAT = "pytest-taskcache tree"
_VERSION = 1
_DIGEST = re.compile("[0-9a-f]{32}")
_MAX_LINKS = 40  # as Linux: more on one way are a loop, which leads nowhere
_MAX_NUMBER = (1 << 63) - 1


class TreeError(ValueError):
    """Why a tree cannot be stored or restored, naming the entry."""


class EntryKind(StrEnum):
    """What an entry is."""

    DIRECTORY = "directory"
    FILE = "file"
    LINK = "link"


@dataclass(frozen=True, slots=True)
class Entry:
    """One directory, file or symbolic link.

    ``path`` is relative to the tree, its parts joined by ``/``, and empty for the tree itself.
    ``mtime`` in nanoseconds; ``mode`` permission bits (not for links); ``size`` in bytes and
    ``digest`` (xxh3-128, hexadecimal) for files; ``target`` for links.
    """

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


@dataclass(frozen=True, slots=True)
class Manifest:
    """A tree: its own name, and its entries, parents before children; the first is itself."""

    name: str
    entries: tuple[Entry, ...]


def encode(manifest: Manifest) -> bytes:
    """The manifest's JSON. Names that are no valid text keep their lone surrogates, escaped."""
    document = {
        "format": _FORMAT,
        "version": _VERSION,
        "name": manifest.name,
        "entries": [_document(entry) for entry in manifest.entries],
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
    manifest = Manifest(_text(document, "name"), tuple(_entry(item) for item in entries))
    check(manifest)
    return manifest


def check(manifest: Manifest) -> None:
    """Raises TreeError unless everything in the manifest stays inside the tree.

    Each name is a plain one, each entry's parent is a directory that comes before it, nothing
    comes twice, and no link leads out, by whatever way through other links.
    """
    _check_name(manifest.name, manifest.name)
    if not manifest.entries or manifest.entries[0].path:
        raise TreeError("the manifest does not begin with the tree itself")
    if manifest.entries[0].kind is EntryKind.LINK:
        raise TreeError("the tree itself is a link")
    kinds: dict[str, EntryKind] = {"": manifest.entries[0].kind}
    links: dict[str, str] = {}
    for entry in manifest.entries[1:]:
        for part in entry.path.split("/"):
            _check_name(part, entry.path)
        if entry.path in kinds:
            raise TreeError(f"{entry.path!r} comes twice")
        if kinds.get(entry.path.rpartition("/")[0]) is not EntryKind.DIRECTORY:
            raise TreeError(f"{entry.path!r} does not lie in a directory of the tree")
        kinds[entry.path] = entry.kind
        if entry.kind is EntryKind.LINK:
            links[entry.path] = entry.target
    for path, target in links.items():
        if not target or "\0" in target or _is_absolute(target):
            raise TreeError(
                f"link {path!r} leads to the absolute path {target!r}; make it relative"
            )
        if _leaves(path, links):
            raise TreeError(f"link {path!r} leads out of the tree, to {target!r}")


def _leaves(path: str, links: Mapping[str, str]) -> bool:
    """Whether following the link at ``path`` passes above the tree."""
    at: list[str] = []
    ahead = deque(path.split("/"))
    followed = 0
    while ahead:
        part = ahead.popleft()
        if part in ("", "."):
            continue
        if part == "..":
            if not at:
                return True
            at.pop()
            continue
        at.append(part)
        target = links.get("/".join(at))
        if target is not None:
            followed += 1
            if _is_absolute(target):
                return True
            if followed > _MAX_LINKS:
                return False
            at.pop()
            ahead.extendleft(reversed(target.split("/")))
    return False


def _is_absolute(target: str) -> bool:
    return target.startswith("/") or (
        os.sep != "/" and (os.sep in target or bool(os.path.splitdrive(target)[0]))
    )


def _check_name(name: str, path: str) -> None:
    foreign = os.sep != "/" and (os.sep in name or ":" in name)
    if name in ("", ".", "..") or "/" in name or "\0" in name or foreign:
        raise TreeError(f"{path!r} is no path inside a tree")


def _document(entry: Entry) -> dict[str, str | int]:
    document: dict[str, str | int] = {
        "path": entry.path,
        "kind": str(entry.kind),
        "mtime": entry.mtime,
    }
    match entry.kind:
        case EntryKind.DIRECTORY:
            document["mode"] = entry.mode
        case EntryKind.FILE:
            document |= {"mode": entry.mode, "size": entry.size, "digest": entry.digest}
        case EntryKind.LINK:
            document["target"] = entry.target
    return document


def _entry(document: object) -> Entry:
    if not isinstance(document, dict):
        raise TreeError("an entry of the manifest is no object")
    path = _text(document, "path")
    mtime = _number(document, "mtime", -_MAX_NUMBER, _MAX_NUMBER)
    match document.get("kind"):
        case "directory":
            mode = _number(document, "mode", 0, PERMISSIONS)
            return Entry(path, EntryKind.DIRECTORY, mtime, mode)
        case "file":
            mode = _number(document, "mode", 0, PERMISSIONS)
            size = _number(document, "size", 0, _MAX_NUMBER)
            digest = _text(document, "digest")
            if not _DIGEST.fullmatch(digest):
                raise TreeError(f"{path!r} has no valid digest")
            return Entry(path, EntryKind.FILE, mtime, mode, size, digest)
        case "link":
            return Entry(path, EntryKind.LINK, mtime, target=_text(document, "target"))
        case unknown:
            raise TreeError(f"{path!r} is of the unknown kind {unknown!r}")


def _text(document: Mapping[str, Any], key: str) -> str:
    value = document.get(key)
    if not isinstance(value, str):
        raise TreeError(f"{key} of an entry is no text")
    return value


def _number(document: Mapping[str, Any], key: str, least: int, most: int) -> int:
    value = document.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise TreeError(f"{key} of {document.get('path')!r} is no number from {least} to {most}")
    return value
