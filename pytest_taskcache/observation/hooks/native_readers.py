"""Readers in native code: polars, pyarrow and their like open files where nobody sees it.

Their reading functions are wrapped as soon as they are imported: an argument that is the path of
a file, or a pattern that matches some, counts as read. What else such a library opens (a database
it was pointed to earlier, the files that a file names) stays unseen.
"""

from __future__ import annotations

import fnmatch
import functools
import os
from collections.abc import Callable
from types import FrameType, ModuleType
from typing import Any

from pytest_taskcache.model.dependency import Kind
from pytest_taskcache.observation.hooks.dispatcher import dispatcher, handles, is_muted
from pytest_taskcache.observation.hooks.file_hooks import see
from pytest_taskcache.observation.hooks.replacing import amend
from pytest_taskcache.originals import originals, os_path

READERS: dict[str, tuple[str, ...]] = {
    "polars": ("read_*", "scan_*"),
    "pyarrow": ("memory_map", "input_stream"),
    "pyarrow.csv": ("read_csv", "open_csv"),
    "pyarrow.dataset": ("dataset", "parquet_dataset"),
    "pyarrow.feather": ("read_*",),
    "pyarrow.json": ("read_json", "open_json"),
    "pyarrow.orc": ("read_table",),
    "pyarrow.parquet": ("read_*",),
    "duckdb": ("connect", "read_*", "from_csv_auto", "from_parquet"),
    "h5py": ("File.__init__",),
    "lxml.etree": ("parse",),
    "lxml.objectify": ("parse",),
    "pyreadstat": ("read_*",),
    "cv2": ("imread", "imreadmulti"),
    "soundfile": ("read", "info", "blocks"),
    "rasterio": ("open",),
    "pyogrio": ("read_*",),
    "readline": ("read_*",),
    "ssl": ("SSLContext.load_cert_chain", "SSLContext.load_verify_locations"),
}
"""Functions, by module and pattern of names, that read the files their first arguments name."""

READ = "pytest_taskcache.native_read"
"""Our own audit event: a path, or a pattern, that was given to such a function."""

_LONGEST = 4096


def install() -> None:
    """Wraps the readers, now or when they are imported. They stay wrapped: the wrappers do
    nothing while nobody listens."""
    for name, patterns in READERS.items():
        amend(name, functools.partial(_wrap_matching, patterns))


def _wrap_matching(patterns: tuple[str, ...], module: ModuleType) -> None:
    for pattern in patterns:
        owner, _, method = pattern.rpartition(".")
        space: Any = getattr(module, owner) if owner else module
        for name in [method] if owner else fnmatch.filter(vars(module), pattern):
            value = getattr(space, name)
            if callable(value) and not isinstance(value, type):
                setattr(space, name, _wrapped(value))


def _wrapped(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        if dispatcher.listeners and not is_muted():
            named = (value for name, value in kwargs.items() if name != "password")
            for value in (*args[:3], *named):
                for each in value if isinstance(value, (list, tuple)) else (value,):
                    if isinstance(each, (str, os.PathLike)):
                        originals.audit(READ, each)
        return function(*args, **kwargs)

    return call


@handles(READ)
def _read(frame: FrameType, path: Any) -> None:
    text = os.fsdecode(path)
    if text.startswith("file://"):
        from urllib.parse import unquote  # takes long to import, and few need it

        text = unquote(text.removeprefix("file://"))
    if not text or len(text) > _LONGEST or "\n" in text or "://" in text:
        return
    import glob  # here and not at a start that may read nothing this way

    caller = frame.f_back
    if os_path.isdir(text):
        text = os.path.join(glob.escape(text), "**")
    if not glob.has_magic(text):
        see(Kind.FILE, text, caller)
        return
    directory = os.path.dirname(text)
    if not glob.has_magic(directory):
        see(Kind.LISTING, directory or ".", caller)
    for match in glob.glob(text, recursive=True):
        see(Kind.FILE, match, caller)
