"""Which of the project's loaded modules refer to which, as their imports and attributes tell.

Asked only where an import did something that cannot be observed (it ran a child, it loaded an
extension of the project): then whoever may have got at its result is to be known at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Mapping
from types import ModuleType

from pytest_taskcache.code.asleep import is_a, namespace_of
from pytest_taskcache.code.definitions import Analysis
from pytest_taskcache.code.imports import imported_files
from pytest_taskcache.code.source_file import analyse
from pytest_taskcache.observation.code_log import SourceFile
from pytest_taskcache.observation.hooks.imports import source_of


class LoadedModules:
    """Files by the files they refer to; ``find`` gives the project's file of a file name, and
    ``read`` a file's content by its name."""

    def __init__(
        self, find: Callable[[str], SourceFile | None], read: Callable[[str], bytes | None]
    ) -> None:
        self._find = find
        self._read = read
        self._analyses: dict[str, Analysis] = {}
        self._direct: dict[str, frozenset[str]] = {}
        self._count = 0

    def reached_from(self, paths: Iterable[str]) -> set[str]:
        """These files (absolute paths), and all files of the project that they lead to."""
        if len(sys.modules) != self._count:
            self._count = len(sys.modules)
            self._direct = {}
        if not self._direct:
            self._look()
        found: set[str] = set()
        waiting = list(paths)
        while waiting:
            path = waiting.pop()
            if path not in found:
                found.add(path)
                waiting += self._direct.get(path, ())
        return found

    def _look(self) -> None:
        modules: dict[str, str] = {}
        for name, module in list(sys.modules.items()):
            path = source_of(module)
            if path is not None and self._find(path) is not None:
                modules[name] = path
        for name, path in modules.items():
            found = {*self._direct.get(path, ()), *self._imported(name, path, modules)}
            for value in list(namespace_of(sys.modules[name]).values()):
                owner = _owner_of(value)
                if isinstance(owner, str) and owner in modules:
                    found.add(modules[owner])
            self._direct[path] = frozenset(found)

    def _imported(self, module: str, path: str, modules: Mapping[str, str]) -> frozenset[str]:
        analysis = self._analyses.get(path)
        if analysis is None:
            source = self._find(path)
            content = self._read(source.name) if source is not None and source.python else None
            analysis = self._analyses[path] = analyse(content or b"")
        is_package = os.path.basename(path) == "__init__.py"
        return imported_files(analysis, module, is_package=is_package, loaded=modules)


def _owner_of(value: object) -> object:
    """The name of the module that a value is from; asks no lazy object, which would act."""
    if is_a(value, ModuleType):
        return namespace_of(value).get("__name__")
    if is_a(value, type):
        return type.__getattribute__(value, "__module__")
    try:
        return object.__getattribute__(value, "__module__")
    except AttributeError:
        return None
