"""When modules are imported, and by whom they would have been had they not been loaded."""

from __future__ import annotations

import builtins
import importlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.machinery import SourceFileLoader
from types import FunctionType, ModuleType
from typing import Any, NamedTuple

_INTERNAL = "<frozen importlib._bootstrap_external>"
"""Python leaves frames of such code out where it looks for the importer: to whom a warning is
shown, and in the traceback of a failing import."""


class Request(NamedTuple):
    """One import that was asked for: a name, relative to a package if ``level`` dots lead it,
    and what was taken from the module."""

    name: str
    level: int = 0
    package: str = ""
    taken: tuple[str, ...] = ()


class ImportWatch:
    """Tells of imports while it is on.

    ``end(begin(file))`` is called around the execution of each module that is loaded from a
    source file; not of those that pytest rewrites, which it loads anew in each run.
    ``asked(request)`` is called for every import, of loaded modules too.
    """

    def __init__(
        self,
        begin: Callable[[str], Any],
        end: Callable[[Any], None],
        asked: Callable[[Request], None],
    ) -> None:
        execute = SourceFileLoader.exec_module
        import_statement = builtins.__import__
        import_module = importlib.import_module

        def exec_module(self: SourceFileLoader, module: ModuleType) -> None:
            region = begin(os.path.realpath(self.path))
            try:
                execute(self, module)
            finally:
                end(region)

        def import_(
            name: str,
            globals: Mapping[str, object] | None = None,
            locals: Mapping[str, object] | None = None,
            fromlist: Sequence[str] | None = (),
            level: int = 0,
        ) -> ModuleType:
            package = str((globals or {}).get("__package__") or "") if level else ""
            asked(Request(name, level, package, tuple(fromlist or ())))
            return import_statement(name, globals, locals, fromlist or (), level)

        def import_by_name(name: str, package: str | None = None) -> ModuleType:
            level = len(name) - len(name.lstrip("."))
            asked(Request(name[level:], level, package or ""))
            return import_module(name, package)

        _make_internal(exec_module)
        _make_internal(import_)
        _make_internal(import_by_name)
        self._places: list[tuple[Any, str, Any, Any]] = [
            (SourceFileLoader, "exec_module", execute, exec_module),
            (builtins, "__import__", import_statement, import_),
            (importlib, "import_module", import_module, import_by_name),
        ]
        for holder, name, _, replacement in self._places:
            setattr(holder, name, replacement)

    def stop(self) -> None:
        """Puts back what was replaced, unless someone else has replaced it since."""
        for holder, name, original, replacement in self._places:
            if getattr(holder, name) is replacement:
                setattr(holder, name, original)
        self._places = []


def files_of(requests: Iterable[Request]) -> Iterator[str]:
    """The files of the modules that were asked for and are loaded, and of their packages."""
    for request in requests:
        name = request.name
        if request.level:
            parents = request.package.split(".")
            parents = parents[: len(parents) - request.level + 1]
            name = ".".join([*parents, name] if name else parents)
        parts = name.split(".")
        names = [".".join(parts[:count]) for count in range(1, len(parts) + 1)]
        names += [f"{name}.{taken}" for taken in request.taken]
        for each in names:
            file = getattr(sys.modules.get(each), "__file__", None)
            if isinstance(file, str):
                yield os.path.realpath(file)


def reached(
    start: Iterable[str], edges: Callable[[str], Iterable[str]], known: Mapping[str, object]
) -> set[str]:
    """All of ``known`` that can be reached from the start."""
    found: set[str] = set()
    waiting = [one for one in start if one in known]
    while waiting:
        each = waiting.pop()
        if each not in found:
            found.add(each)
            waiting += [one for one in edges(each) if one in known and one not in found]
    return found


def _make_internal(function: Any) -> None:
    assert isinstance(function, FunctionType)
    function.__code__ = function.__code__.replace(co_filename=_INTERNAL)
