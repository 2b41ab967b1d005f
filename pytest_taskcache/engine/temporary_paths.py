"""Whether a value names the run's temporary directory, which a later run does not have."""

from __future__ import annotations

import io
import os
import pickle
from collections.abc import Iterable
from pathlib import Path, PurePath
from typing import Any

from pytest_taskcache.ports import Buffer

_WORKER = "popen-"
"""How pytest-xdist's workers call their part of the run's directory."""


def named_in(value: object, chunks: Iterable[Buffer], temporary: Path) -> str:
    """The temporary directory if the value holds a path in it, as text or as a path; else "".

    ``chunks`` are its serialized bytes. Buffers beside the stream (arrays) are not searched, nor
    is what a serializer compressed.
    """
    run = temporary.parent if temporary.name.startswith(_WORKER) else temporary
    text = os.fsencode(run)
    has_paths = False
    for chunk in chunks:
        if not isinstance(chunk, bytes | bytearray):
            continue
        if text in chunk:
            return str(run)
        # a pickled path is in parts, between which anything may stand
        has_paths = has_paths or (b"pathlib" in chunk and os.fsencode(run.name) in chunk)
    return str(run) if has_paths and _holds_path(value, run) else ""


def _holds_path(value: object, directory: Path) -> bool:
    finder = _PathFinder(directory)
    try:
        finder.dump(value)
    except Exception:  # its own methods may raise anything, and so does what goes by cloudpickle
        return True
    return finder.found


class _PathFinder(pickle.Pickler):
    """Goes through a value as pickle does, and looks at its paths."""

    def __init__(self, directory: Path) -> None:
        super().__init__(io.BytesIO(), 5, buffer_callback=lambda _: False)
        self._directory = directory
        self.found = False

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, PurePath) and obj.is_relative_to(self._directory):
            self.found = True
        return NotImplemented
