"""The paths that a value names: whether what they lead to will be there in a later run.

A value that says ``/tmp/tmpx1/rows.csv`` is worth nothing once the directory is gone. In pytest's
own temporary directory, and in the system's, that is known beforehand, and the value is refused;
elsewhere it shows at the hit, which is then a miss that says so.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from pytest_taskcache.originals import os_path
from pytest_taskcache.ports import Payload

PICKLED = re.compile(rb"\x8c(.)(?=/)", re.DOTALL)
"""A text of fewer than 256 bytes in a pickle: the opcode, the length, and a first slash."""

_QUOTED = re.compile(rb'"(/[^"\\\x00-\x1f]*)"')
"""A text in JSON that is a path without escapes."""

_CONTROL = re.compile(rb"[\x00-\x1f]")
_MANY = 64
"""Paths that are kept of one value: enough to tell that its directory is gone."""

_WORKER = "popen-"
"""How pytest-xdist's workers call their part of the run's directory."""


def in_pickle(stream: bytes) -> Iterator[str]:
    """The absolute paths among the texts of a pickle."""
    for match in PICKLED.finditer(stream):
        text = stream[match.end() : match.end() + match[1][0]]
        if not _CONTROL.search(text):
            yield os.fsdecode(text)


def in_json(text: bytes) -> Iterator[str]:
    """The absolute paths among the texts of a JSON document."""
    return (os.fsdecode(match[1]) for match in _QUOTED.finditer(text))


def distinct(paths: Iterable[str]) -> tuple[str, ...]:
    """The paths, each once, in order; not more than a few hundred."""
    found: dict[str, None] = {}
    for path in paths:
        found[path] = None
        if len(found) == _MANY:
            break
    return tuple(found)


def vanishing(payload: Payload, temporary: Path | None, lasting: Collection[Path] = ()) -> str:
    """The temporary directory that the value names a path in; empty where it names none.
    ``temporary`` is the run's own, whose every mention counts, in a URL too. Of the system's
    (``tempfile.gettempdir()``) counts what exists now, but for what lies in ``lasting``: the
    project, say, which may itself have been checked out there. Buffers beside a pickle's stream are
    not searched for mentions."""
    if temporary is not None:
        run = temporary.parent if temporary.name.startswith(_WORKER) else temporary
        text = os.fsencode(run)
        if any(isinstance(chunk, bytes | bytearray) and text in chunk for chunk in payload.chunks):
            return str(run)
        if any(_lies_in(path, str(run)) for path in payload.paths):
            return str(run)
    if not payload.paths:
        return ""
    import tempfile  # it brings random, shutil and what these bring

    system = tempfile.gettempdir()
    kept = [*map(str, lasting), sys.prefix, sys.base_prefix]
    kept = [path for path in kept if _lies_in(path, system)]
    for path in payload.paths:
        inside = _lies_in(path, system) and os.path.normpath(path) != system
        if inside and not any(_lies_in(path, each) for each in kept) and os_path.lexists(path):
            return system
    return ""


def _lies_in(path: str, directory: str) -> bool:
    where = os.path.normpath(path)
    return where == directory or where.startswith(directory.rstrip(os.sep) + os.sep)
