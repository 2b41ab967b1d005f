"""What code objects and modules are called in traces."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable
from types import CodeType
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from pytest_taskcache.ports import Fingerprints

_PYTHON = (".py", ".pyw")


class Source(NamedTuple):
    """A first-party file that code came from: absolute path, name in traces, and whether it is
    Python (a compiled template is not)."""

    path: str
    name: str
    python: bool


class Sources:
    """First-party files by the file names that code objects carry."""

    def __init__(self, fingerprints: Fingerprints, is_own: Callable[[str], bool]) -> None:
        self._fingerprints = fingerprints
        self._is_own = is_own
        self._known: dict[str, Source | None] = {}

    def find(self, filename: str) -> Source | None:
        """The first-party file, or None: third-party, or generated without a file."""
        try:
            return self._known[filename]
        except KeyError:
            source = self._known[filename] = self._find(filename)
            return source

    def name_of(self, path: str) -> str:
        """The name of any path in traces."""
        return self._fingerprints.name_of(path)

    def _find(self, filename: str) -> Source | None:
        if filename.startswith("<"):
            return None
        path = os.path.abspath(filename)
        if (
            self._is_own(path)
            or not os.path.isfile(path)
            or not self._fingerprints.is_first_party(path)
        ):
            return None
        return Source(path, self._fingerprints.name_of(path), path.endswith(_PYTHON))


_INSIDE = ".<locals>"


def function_name(code: CodeType) -> str | None:
    """The qualified name of the innermost function with a name that holds this code: lambdas
    and comprehensions are part of its body. None for what belongs to the module's skeleton
    (module and class bodies, module-level lambdas and comprehensions)."""
    name = code.co_qualname
    if "<" in name.partition(_INSIDE)[0]:
        return None
    if not code.co_flags & inspect.CO_OPTIMIZED:
        # A class body nested in a function ran because that function did.
        name = name.rpartition(_INSIDE)[0]
    while True:
        around, nested, last = name.rpartition(_INSIDE + ".")
        if not nested or "<" not in last:
            return name or None
        name = around


def file_of_subject(subject: Callable[..., Any] | None) -> str | None:
    """The file that defines what is about to run, seen through wrappers, partials and bound
    methods; None where it has none."""
    seen: set[int] = set()
    target: Any = subject
    while target is not None and id(target) not in seen:
        seen.add(id(target))
        if isinstance(target, functools.partial):
            target = target.func
        elif hasattr(target, "__wrapped__"):
            target = target.__wrapped__
        elif hasattr(target, "__func__"):
            target = target.__func__
        else:
            break
    code = getattr(target, "__code__", None)
    if code is None and callable(target):
        code = getattr(type(target).__call__, "__code__", None)
    return code.co_filename if isinstance(code, CodeType) else None
