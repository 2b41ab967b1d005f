"""Which file a module name stood for, where the name alone does not say.

Every script is called ``__main__``, and conftest files of directories without ``__init__.py``
are all called ``conftest``. A class pickled by such a name could come back as another file's
class of the same name, so the payload keeps the file beside the name.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Collection
from functools import cache

from xxhash import xxh3_128_hexdigest

AMBIGUOUS = ("__main__", "conftest")
"""Module names that mean different files in different runs, or at different times of one."""

_START = b"\x8c\x08"  # the opcode of a short text, and the length of these
_TOKENS = (_START + b"__main__", _START + b"conftest")


def may_mention(stream: bytes) -> bool:
    """Whether a pickle (protocol 4 or later) holds an ambiguous name as a text of its own.

    False means that no class or function in it goes by such a name.
    """
    return _START in stream and (_TOKENS[0] in stream or _TOKENS[1] in stream)


def encode(names: Collection[str]) -> bytes:
    """The files that these modules are at present; empty for no names."""
    fields: list[str] = []
    for name in sorted(names):
        path = _path(name)
        fields += (name, path, _content(path))
    return os.fsencode("\0".join(fields))


def mismatch(origins: bytes) -> str:
    """Why a name no longer stands for the file it stood for; empty if all do.

    It still does when the path is the same (whether the code changed is for the trace to say),
    or the content (the project lies in another place). A module without a file (an interactive
    session) is the same in its own process only.
    """
    if not origins:
        return ""
    fields = os.fsdecode(origins).split("\0")
    for name, path, content in zip(fields[0::3], fields[1::3], fields[2::3], strict=True):
        here = _path(name)
        if not (path and here == path) and _content(here) != content:
            return f"module {name} was {path or 'no file'} and is now {here or 'no file'}"
    return ""


def _path(name: str) -> str:
    path = getattr(sys.modules.get(name), "__file__", None)
    return os.path.abspath(path) if isinstance(path, str) else ""


def _content(path: str) -> str:
    if path:
        try:
            with open(path, "rb") as file:
                return xxh3_128_hexdigest(file.read())
        except OSError:
            pass  # a script whose file is gone still has its path to be compared by
    return _this_process()


@cache
def _this_process() -> str:
    return "process " + os.urandom(8).hex()
