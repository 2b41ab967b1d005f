"""Where an import would find a module, without importing it."""

from __future__ import annotations

import importlib.machinery
import os
import sys
from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from pytest_taskcache.digests.files import is_racy

_EXTENSIONS = tuple(importlib.machinery.EXTENSION_SUFFIXES)
_SUFFIXES = (*_EXTENSIONS, *importlib.machinery.SOURCE_SUFFIXES, ".pyc")
_NOTED = (*_SUFFIXES, ".dist-info", ".egg-info", ".egg-link")
_PASSIVE_FINDERS = ("_pytest", "pytest_taskcache", "importlib", "_frozen_importlib")


class Form(StrEnum):
    """What a module is loaded from."""

    SOURCE = "source"
    PACKAGE = "package"
    EXTENSION = "extension"
    NAMESPACE = "namespace"
    INTERNAL = "internal"
    ELSEWHERE = "elsewhere"


class Location(NamedTuple):
    """Where a module was found: its form, its file (empty for a namespace package and for what
    the interpreter itself provides), and the directories its submodules are looked for in."""

    form: Form
    file: str
    search: tuple[str, ...] = ()


class Finder:
    """Finds modules as the path-based import system does, from directory listings.

    ``path`` returns the present ``sys.path``; ``clock`` nanoseconds since the epoch. Listings
    are kept as long as a directory's stat stays the same; what was found, until ``forget``.
    ``listings`` counts the directories that were read.
    """

    def __init__(self, path: Callable[[], Sequence[str]], clock: Callable[[], int]) -> None:
        self.listings = 0
        self._path = path
        self._clock = clock
        self._kept: dict[str, tuple[tuple[int, ...], frozenset[str]]] = {}
        self._current: dict[str, frozenset[str]] = {}
        self._found: dict[str, Location | None] = {}
        self._listed: dict[str, frozenset[str]] = {}
        self._search: tuple[str, ...] = ()
        self._checked = False
        self._version = 0

    def forget(self) -> None:
        """Directories, or the path, may have changed."""
        self._current.clear()
        self._found.clear()
        self._checked = False

    def version(self) -> int:
        """A number that is another one whenever the path, or the names in any directory that
        was looked at, are no longer what they were."""
        search = tuple(self._path())
        if self._checked and search == self._search:
            return self._version
        self._checked = True
        listed, self._listed = self._listed, {}
        changed = search != self._search
        for directory, names in listed.items():
            if self.names_in(directory) != names:
                changed = True
        if changed:
            self._search = search
            self._found.clear()
            self._version += 1
        return self._version

    def find(self, name: str) -> Location | None:
        """The location of a module by its absolute name; None where an import would fail."""
        search = tuple(self._path())
        if search != self._search:
            self._search = search
            self._found.clear()
            self._version += 1
        try:
            return self._found[name]
        except KeyError:
            found = self._found[name] = self._find(name)
            return found

    def _find(self, name: str) -> Location | None:
        parent, _, leaf = name.rpartition(".")
        if not leaf:
            return None
        if parent:
            package = self.find(parent)
            if package is None:
                return None
            if package.form in (Form.INTERNAL, Form.ELSEWHERE):
                return Location(package.form, "") if _is_loaded(name) else None
            return self.find_in(package.search, leaf) or _found_elsewhere(name, package.search)
        if name in sys.builtin_module_names:
            return Location(Form.INTERNAL, "")
        if importlib.machinery.FrozenImporter.find_spec(name) is not None:
            return Location(Form.INTERNAL, "")
        entries = [entry or os.getcwd() for entry in self._search]
        return self.find_in(entries, leaf) or _found_elsewhere(name, None)

    def find_in(self, directories: Sequence[str], leaf: str) -> Location | None:
        """The location of a module by its last name, in the first directory that has it."""
        portions: list[str] = []
        for directory in directories:
            names = self.names_in(directory)
            path = os.path.join(directory, leaf)
            if leaf in names:
                inside = self.names_in(path)
                for suffix in _SUFFIXES:
                    if "__init__" + suffix in inside:
                        file = os.path.join(path, "__init__" + suffix)
                        return Location(Form.PACKAGE, file, (path,))
            for suffix in _SUFFIXES:
                if leaf + suffix in names:
                    form = Form.EXTENSION if suffix in _EXTENSIONS else Form.SOURCE
                    return Location(form, path + suffix)
            if leaf in names and os.path.isdir(path):
                portions.append(path)
        return Location(Form.NAMESPACE, "", tuple(portions)) if portions else None

    def names_in(self, directory: str) -> frozenset[str]:
        """The names in a directory that may be modules, packages or metadata; empty where it is
        none or cannot be read."""
        names = self._current.get(directory)
        if names is None:
            names = self._current[directory] = self._listed[directory] = self._read(directory)
        return names

    def _read(self, directory: str) -> frozenset[str]:
        try:
            found = os.stat(directory)
            stamp = (found.st_dev, found.st_ino, found.st_mtime_ns, found.st_ctime_ns)
            kept = self._kept.get(directory)
            if kept is not None and kept[0] == stamp:
                return kept[1]
            self.listings += 1
            # What cannot be imported is left out, so that a new data file changes nothing.
            names = frozenset(filter(_may_matter, os.listdir(directory)))
        except (OSError, ValueError):
            return frozenset()
        if not is_racy(found, self._clock()):
            self._kept[directory] = (stamp, names)
        return names


def _may_matter(name: str) -> bool:
    return name.endswith(_NOTED) or name.isidentifier()


def _is_loaded(name: str) -> bool:
    return sys.modules.get(name) is not None


def _found_elsewhere(name: str, search: Sequence[str] | None) -> Location | None:
    """What other finders than the path-based one say, such as those of editable installs, and
    at last the module as it was imported."""
    for finder in sys.meta_path:
        origin = finder if isinstance(finder, type) else type(finder)
        find_spec = getattr(finder, "find_spec", None)
        if find_spec is None or origin.__module__.startswith(_PASSIVE_FINDERS):
            continue
        try:
            spec = find_spec(name, search)
        except Exception:  # a finder is anyone's code, and may refuse names in its own way
            continue
        if spec is not None:
            return _location_of(spec)
    spec = getattr(sys.modules.get(name), "__spec__", None)
    if isinstance(spec, importlib.machinery.ModuleSpec):
        return _location_of(spec)
    return None


def _location_of(spec: importlib.machinery.ModuleSpec) -> Location:
    try:
        search = tuple(spec.submodule_search_locations or ())
    except Exception:  # a namespace path recomputes itself through its parent, which may be gone
        search = ()
    if spec.has_location and spec.origin:
        if spec.origin.endswith(_EXTENSIONS):
            return Location(Form.EXTENSION, spec.origin, search)
        if Path(spec.origin).stem == "__init__":
            return Location(Form.PACKAGE, spec.origin, search)
        return Location(Form.SOURCE, spec.origin, search)
    return Location(Form.NAMESPACE if search else Form.ELSEWHERE, "", search)
