"""Which modules the imports of a module lead to."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from pytest_taskcache.checksum import checksum
from pytest_taskcache.fingerprint.imports import Finder, Form, Location
from pytest_taskcache.fingerprint.mentions import STAR, TEXT, Import
from pytest_taskcache.fingerprint.modules import Modules
from pytest_taskcache.model.dependency import ABSENT, Kind


class Reference(NamedTuple):
    """A module as the graph sees it: the name of its first-party source file (empty for a
    namespace package or an extension), and where its submodules are looked for. ``foreign``
    is true for the standard library and third parties."""

    name: str
    search: tuple[str, ...]
    foreign: bool


class Links(NamedTuple):
    """Where one module's imports lead: names of first-party source files, and what must be
    verified about the imports themselves (kind and name of each dependency)."""

    modules: tuple[str, ...]
    facts: tuple[tuple[Kind, str], ...]


class Linker:
    """Resolves imports to modules of the project.

    ``name_of``, ``path_of`` and ``is_first_party`` name paths; ``owners`` returns the
    distributions of a top-level module; ``path`` the present ``sys.path``.
    """

    def __init__(
        self,
        modules: Modules,
        finder: Finder,
        name_of: Callable[[str], str],
        path_of: Callable[[str], Path],
        is_first_party: Callable[[str], bool],
        owners: Callable[[str], Sequence[str]],
        path: Callable[[], Sequence[str]],
    ) -> None:
        self._modules = modules
        self._finder = finder
        self._name_of = name_of
        self._path_of = path_of
        self._is_first_party = is_first_party
        self._owners = owners
        self._path = path
        self._links: dict[tuple[str, bool | str], tuple[str, Links]] = {}
        self._references: dict[tuple[str, int, str], Reference | None] = {}
        self._submodules: dict[tuple[tuple[str, ...], str], Reference | None] = {}
        self._places: dict[str, str] = {}
        self._followed: dict[str, Links] = {}
        self._names: dict[str, str] = {}
        self._owned: dict[str, bool] = {}
        self._version = -1

    def _refresh(self) -> None:
        """Drops what was found out once directories or the path have changed."""
        version = self._finder.version()
        if version != self._version:
            self._version = version
            self._links.clear()
            self._references.clear()
            self._submodules.clear()
            self._places.clear()
            self._followed.clear()
            self._names.clear()
            self._owned.clear()

    def _name(self, file: str) -> str:
        found = self._names.get(file)
        if found is None:
            found = self._names[file] = self._name_of(file)
        return found

    def _owns(self, path: str) -> bool:
        found = self._owned.get(path)
        if found is None:
            found = self._owned[path] = self._is_first_party(path)
        return found

    def import_digest(self, name: str) -> str:
        """The digest of where an import finds a module: the same in every checkout and
        environment where it is found in the same place; ABSENT where it fails."""
        found = self._finder.find(name)
        if found is None:
            return ABSENT
        if not found.file:
            own = sorted(self._name_of(path) for path in found.search if self._is_first_party(path))
            return checksum(("import", found.form, *own))
        if self._is_first_party(found.file):
            return checksum(("import", found.form, self._name_of(found.file)))
        # Where environments keep their packages differs; what is in them counts by distribution.
        return checksum(("import", "installed"))

    def reference(self, importer: str, level: int, module: str) -> Reference | None:
        """The module that ``from <level dots><module> import ...`` in a file names."""
        key = (importer if level else "", level, module)
        try:
            return self._references[key]
        except KeyError:
            location = self._locate(importer, level, module)
            found = None if location is None else self._reference(location)
            self._references[key] = found
            return found

    def submodule(self, package: Reference, leaf: str) -> Reference | None:
        """A package's submodule, whether anything imports it or not."""
        if not package.search:
            return None
        key = (package.search, leaf)
        try:
            return self._submodules[key]
        except KeyError:
            location = self._finder.find_in(package.search, leaf)
            found = None if location is None else self._reference(location)
            self._submodules[key] = found
            return found

    def _reference(self, location: Location) -> Reference:
        if location.form in (Form.INTERNAL, Form.ELSEWHERE):
            return Reference("", (), True)
        if not location.file:
            own = any(self._is_first_party(path) for path in location.search)
            return Reference("", location.search, not own)
        if not self._owns(location.file):
            return Reference("", (), True)
        name = self._name(location.file) if location.file.endswith(".py") else ""
        return Reference(name, location.search, False)

    def _locate(self, importer: str, level: int, module: str) -> Location | None:
        if not level:
            return self._finder.find(module)
        directory = os.path.dirname(self._path_of(importer))
        for _ in range(level - 1):
            directory = os.path.dirname(directory)
        initial = os.path.join(directory, "__init__.py")
        here = "__init__.py" in self._finder.names_in(directory)
        found: Location | None = (
            Location(Form.PACKAGE, initial, (directory,))
            if here
            else Location(Form.NAMESPACE, "", (directory,))
        )
        for part in filter(None, module.split(".")):
            if found is None:
                return None
            found = self._finder.find_in(found.search, part)
        return found

    def version(self) -> int:
        """Another number when directories or the path have changed, so that links may have."""
        self._refresh()
        return self._version

    def of(self, name: str, *, functions: bool) -> Links:
        """The links of a module, by the name of its file; with those of the imports inside of
        its functions, or without."""
        return self._known(name, functions, lambda: self._compute(name, functions=functions))

    def of_function(self, name: str, qualname: str) -> Links:
        """The links of the imports inside of one function of a module."""
        return self._known(name, qualname, lambda: self._compute_function(name, qualname))

    def _known(self, name: str, part: bool | str, compute: Callable[[], Links]) -> Links:
        self._refresh()
        content = self._modules.content(name)
        known = self._links.get((name, part))
        if known is None or known[0] != content:
            known = self._links[name, part] = (content, compute())
        return known[1]

    def _compute(self, name: str, *, functions: bool) -> Links:
        found: dict[str, None] = {}
        facts: dict[tuple[Kind, str], None] = {}
        file = str(self._path_of(name))
        own = self._dotted(file)
        if own:
            self._follow(own, found, facts)
        for parent in self._parents(file):
            found[self._name(parent)] = None
        mentions = self._modules.mentions(name)
        items = mentions.imports if functions else mentions.at_import
        self._follow_all(name, items, found, facts)
        found.pop(name, None)
        return Links(tuple(found), tuple(facts))

    def _compute_function(self, name: str, qualname: str) -> Links:
        found: dict[str, None] = {}
        facts: dict[tuple[Kind, str], None] = {}
        uses = self._modules.mentions(name).uses.get("f:" + qualname)
        if uses is not None:
            self._follow_all(name, uses.imports, found, facts)
        return Links(tuple(found), tuple(facts))

    def _follow_all(
        self,
        name: str,
        items: Iterable[Import],
        found: dict[str, None],
        facts: dict[tuple[Kind, str], None],
    ) -> None:
        """Adds what the imports of a module lead to."""
        package = self._package_of(str(self._path_of(name)))
        for item in items:
            if item.level == TEXT:
                self._follow_text(item.module, found, facts)
                continue
            absolute = _absolute(item, package)
            if absolute:
                self._follow(absolute, found, facts)
            if item.level:
                # A package whose place on the path is not known is still imported by place.
                self._add(self._locate(name, item.level, item.module), found, facts)
            if item.name and item.name != STAR:
                self._follow_name(name, item, absolute, found, facts)

    def _follow(
        self, absolute: str, found: dict[str, None], facts: dict[tuple[Kind, str], None]
    ) -> None:
        """Adds a module and the packages around it."""
        known = self._followed.get(absolute)
        if known is None:
            modules: dict[str, None] = {}
            rests_on: dict[tuple[Kind, str], None] = {}
            self._trail(absolute, modules, rests_on)
            known = self._followed[absolute] = Links(tuple(modules), tuple(rests_on))
        found.update(dict.fromkeys(known.modules))
        facts.update(dict.fromkeys(known.facts))

    def _trail(
        self, absolute: str, found: dict[str, None], facts: dict[tuple[Kind, str], None]
    ) -> None:
        parts = absolute.split(".")
        for end in range(1, len(parts) + 1):
            prefix = ".".join(parts[:end])
            location = self._finder.find(prefix)
            if location is not None and location.form is Form.INTERNAL:
                # Built in or frozen: found before the path is looked at, whatever is on it.
                return
            facts[(Kind.IMPORT, prefix)] = None
            if location is None:
                return
            if self._reference(location).foreign:
                if not _is_standard(parts[0], location.file):
                    for owner in self._owners(parts[0]):
                        facts[(Kind.DISTRIBUTION, owner)] = None
                return
            self._add(location, found, facts)

    def _follow_text(
        self, text: str, found: dict[str, None], facts: dict[tuple[Kind, str], None]
    ) -> None:
        """Adds the modules of the project that a string leads to: whoever is given it (a patch,
        a loader of settings) may import them, unseen where they are loaded already."""
        parts = text.split(".")
        for end in range(1, len(parts) + 1):
            prefix = ".".join(parts[:end])
            location = self._finder.find(prefix)
            if location is None or self._reference(location).foreign:
                return
            facts[(Kind.IMPORT, prefix)] = None
            self._add(location, found, facts)

    def _follow_name(
        self,
        importer: str,
        item: Import,
        absolute: str,
        found: dict[str, None],
        facts: dict[tuple[Kind, str], None],
    ) -> None:
        """Adds what ``from package import name`` imports if the package binds no such name."""
        source = self.reference(importer, item.level, item.module)
        if source is None or source.foreign:
            return
        if source.name:
            mentions = self._modules.mentions(source.name)
            if item.name in mentions.bindings or item.name in mentions.aliases:
                return
            facts[(Kind.FUNCTION, f"{source.name}::{item.name}")] = None
        if source.search:
            if absolute:
                facts[(Kind.IMPORT, f"{absolute}.{item.name}")] = None
            self._add(self._finder.find_in(source.search, item.name), found, facts)

    def _add(
        self,
        location: Location | None,
        found: dict[str, None],
        facts: dict[tuple[Kind, str], None],
    ) -> None:
        if location is None or not location.file or not self._owns(location.file):
            return
        name = self._name(location.file)
        if location.file.endswith(".py"):
            found[name] = None
        else:
            facts[(Kind.FILE, name)] = None

    def _parents(self, file: str) -> list[str]:
        """The ``__init__`` files of the packages around a file."""
        parents: list[str] = []
        directory = os.path.dirname(file)
        while self._owns(directory) and "__init__.py" in self._finder.names_in(directory):
            parents.append(os.path.join(directory, "__init__.py"))
            directory = os.path.dirname(directory)
        return parents

    def _dotted(self, file: str) -> str:
        """The absolute name under which a file is imported; empty where that cannot be told."""
        known = self._places.get(file)
        if known is None:
            known = self._places[file] = self._find_place(file)
        return known

    def _find_place(self, file: str) -> str:
        parents = self._parents(file)
        base = os.path.dirname(os.path.dirname(parents[-1]) if parents else file)
        entries = {os.path.abspath(entry) for entry in self._path()}
        candidate = base
        while candidate not in entries:
            above = os.path.dirname(candidate)
            if above == candidate:
                candidate = base
                break
            candidate = above
        relative = os.path.relpath(file, candidate).removesuffix(".py")
        parts = relative.split(os.sep)
        if parts[-1] == "__init__":
            parts.pop()
        return ".".join(parts) if all(part.isidentifier() for part in parts) else ""

    def _package_of(self, file: str) -> str:
        dotted = self._dotted(file)
        if os.path.basename(file) == "__init__.py":
            return dotted
        return dotted.rpartition(".")[0]


def _is_standard(name: str, file: str) -> bool:
    """Whether a module belongs to the standard library, and was found there."""
    return name in sys.stdlib_module_names and not (
        "site-packages" in file or "dist-packages" in file
    )


def _absolute(item: Import, package: str) -> str:
    """The absolute name of an imported module; empty for one that goes beyond its package."""
    if not item.level:
        return item.module
    parts = package.split(".") if package else []
    if item.level - 1 >= len(parts):
        return ""
    kept = parts[: len(parts) - (item.level - 1)]
    return ".".join([*kept, item.module] if item.module else kept)
