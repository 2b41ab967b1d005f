"""Source files of the project: which they are, what they are called, and where imports find them.

Project code is every Python file that is neither the standard library nor recorded in an
installed, non-editable distribution, wherever it lies: under the root, beside it, on a path entry
of its own, in a directory that only looks like site-packages, in a zip file. The cache's own
directories are left out.

Names are portable between checkouts: relative to the root (``src/x.py``), with ``../`` up to the
repository around it (``../lib/x.py``), else relative to the entry of ``sys.path`` that it lies
under (``<path>/x.py``), else absolute.
"""

from __future__ import annotations

import os
import stat as stats
import sys
import sysconfig
import zipimport
from collections.abc import Callable, Collection, Iterable, Sequence
from importlib import machinery
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from pytest_taskcache.changed_paths import stamp_of
from pytest_taskcache.checksum import checksum
from pytest_taskcache.code.distributions import Distributions
from pytest_taskcache.model.dependency import ABSENT
from pytest_taskcache.originals import originals, os_path

PATH_ENTRY = "<path>"
"""First component of the name of a file that lies under an entry of the path only."""

HIDING = "what hides the standard library beside "
"""Begins what is asked of a directory that imports look in: a file that may lie there follows."""

LARGEST = 8 << 20
"""Bytes of the largest source file that is read."""

_EntryFinder: TypeAlias = machinery.FileFinder | zipimport.zipimporter
_LOADERS: tuple[tuple[Any, list[str]], ...] = (
    (machinery.ExtensionFileLoader, machinery.EXTENSION_SUFFIXES),
    (machinery.SourceFileLoader, machinery.SOURCE_SUFFIXES),
    (machinery.SourcelessFileLoader, machinery.BYTECODE_SUFFIXES),
)
_PASSIVE_FINDERS = ("_pytest", "pytest_taskcache", "importlib", "_frozen_importlib", "zipimport")
_REPOSITORIES = (".git", ".hg", ".jj", ".svn")


class ModuleLocation(NamedTuple):
    """Where a module was found: its file (empty for a namespace package and for what the
    interpreter itself or a finder of its own provides), and the directories its submodules are
    looked for in."""

    file: str
    search: tuple[str, ...] = ()


class Finder:
    """Finds modules as the import system does, importing nothing.

    ``path`` returns the present ``sys.path``. The interpreter's own finders of directories and
    archives are asked, one of ours for each: those of the process keep what they listed until it
    calls `importlib.invalidate_caches`. So are others that stand on ``sys.meta_path`` by now, such
    as those of editable installs; not what the project, or a library, puts there later: another
    process has not done that yet when it asks. What was found is kept until ``forget``.
    """

    def __init__(self, path: Callable[[], Sequence[str]]) -> None:
        self._path = path
        self._others = [finder for finder in sys.meta_path if not _is_passive(finder)]
        self._finders: dict[str, _EntryFinder | None] = {}
        self._found: dict[str, ModuleLocation | None] = {}
        self._search: tuple[str, ...] = ()
        self._stamps: dict[str, object] = {}

    def forget(self) -> None:
        """Directories, or the path, may have changed."""
        self._finders.clear()
        self._found.clear()
        self._stamps.clear()

    def doubt(self) -> None:
        """Directories may have changed; what was found stands where the times of none of those
        that it rests on tell of that."""
        if any(stamp_of(place) != stamp for place, stamp in self._stamps.items()):
            self.forget()

    def places(self) -> set[str]:
        """The directories, and archives, in which anything was looked for."""
        found = {os.path.dirname(one.file) for one in self._found.values() if one and one.file}
        searched = (each for one in self._found.values() if one for each in one.search)
        return {*found, *searched, *self._finders}

    def find(self, name: str) -> ModuleLocation | None:
        """The location of a module by its absolute name; None where an import would fail."""
        search = tuple(self._path())
        if search != self._search:
            self._search = search
            self._found.clear()
        try:
            return self._found[name]
        except KeyError:
            found = self._found[name] = self._find(name)
            return found

    def _find(self, name: str) -> ModuleLocation | None:
        parent, _, leaf = name.rpartition(".")
        if not leaf:
            return None
        if parent:
            package = self.find(parent)
            if package is None:
                return None
            if not package.file and not package.search:  # it alone knows what is in it
                return ModuleLocation("") if name in sys.modules else None
            return self._find_in(package.search, leaf) or self._elsewhere(name, package.search)
        if name in sys.builtin_module_names:
            return ModuleLocation("")
        if machinery.FrozenImporter.find_spec(name) is not None:
            return ModuleLocation("")
        entries = [entry or os.getcwd() for entry in self._search]
        return self._find_in(entries, leaf) or self._elsewhere(name, None)

    def _find_in(self, directories: Sequence[str], leaf: str) -> ModuleLocation | None:
        """The location of a module by its last name, in the first directory that has it."""
        portions: list[str] = []
        for directory in directories:
            if directory not in self._finders:
                self._stamp(directory)
                self._finders[directory] = _new_finder(directory)
            finder = self._finders[directory]
            spec = finder.find_spec(leaf) if finder is not None else None
            if spec is None:
                continue
            inside = os.path.join(directory, leaf)
            if os_path.isdir(inside):  # which becomes a package once it has an __init__.py
                self._stamp(inside)
            if spec.loader is not None:
                found = _location_of(spec)
                if os_path.islink(found.file):
                    self._stamp(found.file)
                return found
            portions += spec.submodule_search_locations or ()
        return ModuleLocation("", tuple(portions)) if portions else None

    def _elsewhere(self, name: str, search: Sequence[str] | None) -> ModuleLocation | None:
        """What the other finders say. How a module that is loaded came about is no matter."""
        for finder in self._others:
            try:
                spec = finder.find_spec(name, search)
            except Exception:  # a finder is anyone's code, and may refuse names in its own way
                continue
            if spec is not None:
                return _location_of(spec)
        return None

    def _stamp(self, place: str) -> None:
        if place not in self._stamps:
            self._stamps[place] = stamp_of(place)


def _new_finder(directory: str) -> _EntryFinder | None:
    """The finder that the import system has for an archive or a directory."""
    try:
        return zipimport.zipimporter(directory)
    except zipimport.ZipImportError:
        return machinery.FileFinder(directory, *_LOADERS) if os_path.isdir(directory) else None


def archive_of(path: str) -> tuple[str, str]:
    """The zip file that a path leads into, and the rest of the path; both empty for none."""
    archive, inside = os.path.split(path)
    while len(archive) > 1:
        if os_path.isfile(archive):
            import zipfile  # takes long to import, and few need it

            return (archive, inside) if zipfile.is_zipfile(archive) else ("", "")
        if os_path.exists(archive):
            break
        archive, last = os.path.split(archive)
        inside = os.path.join(last, inside)
    return "", ""


def _is_passive(finder: object) -> bool:
    origin = finder if isinstance(finder, type) else type(finder)
    return origin.__module__.startswith(_PASSIVE_FINDERS)


def _location_of(spec: machinery.ModuleSpec) -> ModuleLocation:
    try:
        search = tuple(spec.submodule_search_locations or ())
    except Exception:  # a namespace path recomputes itself through its parent, which may be gone
        search = ()
    return ModuleLocation(spec.origin if spec.has_location and spec.origin else "", search)


class SourceFiles:
    """The project's source files.

    ``root`` is the project's directory; ``ignore`` are directories that are not its own (the
    cache's). What a path is, is remembered until `forget`. Nothing here raises.
    """

    def __init__(
        self,
        root: Path,
        distributions: Distributions,
        finder: Finder,
        *,
        ignore: Collection[Path] = (),
        path: Callable[[], Sequence[str]] = lambda: sys.path,
    ) -> None:
        self.root = os_path.abspath(root)
        self._distributions = distributions
        self._finder = finder
        self._path = path
        paths = sysconfig.get_paths()
        standard = {paths["stdlib"], paths["platstdlib"], os.path.dirname(os.__file__)}
        self._standard = _prefixes(*standard)
        self._ignored = _prefixes(*map(str, ignore), os.path.dirname(os.path.dirname(__file__)))
        self._roots = _prefixes(self.root)
        self._repository = _repository_around(self.root)
        self._own: dict[str, bool] = {}
        self._names: dict[str, str] = {}
        self._given: dict[str, str] = {}
        self._spelled: dict[str, tuple[str, ...]] = {}
        self._sorted: tuple[tuple[str, ...], list[str]] = ((), [])

    def forget(self) -> None:
        """Files may have been installed, or the path changed."""
        self._own.clear()
        self._names.clear()
        self._spelled.clear()
        self._finder.forget()
        self._distributions.forget()

    def forget_places(self) -> None:
        """Files may have come or gone, but for what is installed."""
        self._names.clear()
        self._finder.doubt()

    def may_rest_on(self, paths: Iterable[str]) -> bool:
        """Whether a change at one of these paths, or below it, may make a difference to what was
        found out here: not where no import was looked for."""
        places: set[str] = set()
        for path in paths:
            if not places:
                places = {*self._roots, *self._standard, *self._distributions.places()}
                found = (*self._entries(), *self._finder.places(), self._repository)
                places.update(spelled for each in found if each for spelled in self._spell(each))
            for spelled in _prefixes(path):
                above = tuple(places)
                if spelled.startswith(above) or any(each.startswith(spelled) for each in places):
                    return True
        return False

    def is_project(self, file: str) -> bool:
        """Whether a Python file belongs to the project."""
        known = self._own.get(file)
        if known is None:
            known = self._own[file] = self._belongs(file)
        return known

    def is_left_out(self, path: str) -> bool:
        """Whether a path is, or lies in, a directory of the cache's own, or one of byte code."""
        inside = path + os.sep
        return inside.startswith(self._ignored) or f"{os.sep}__pycache__{os.sep}" in inside

    def _belongs(self, file: str) -> bool:
        if not file or file.startswith("<"):
            return False
        absolute = os_path.abspath(file)
        if self.is_left_out(absolute):
            return False
        if absolute.startswith(self._standard) and not _is_beside_library(absolute):
            return False
        spelled = {absolute, os_path.realpath(absolute)}
        return not any(self._distributions.owner_of(path) for path in spelled)

    def name_of(self, file: str) -> str:
        """The portable name of a file; see above. Follows no links, but for the root's own."""
        known = self._names.get(file)
        if known is None:
            known = self._names[file] = self._name(os_path.abspath(file)).replace(os.sep, "/")
        return known

    def _name(self, absolute: str) -> str:
        for prefix in self._roots:
            if absolute.startswith(prefix):
                return absolute[len(prefix) :]
        if self._repository and absolute.startswith(self._repository):
            return os_path.relpath(absolute, self.root)
        for entry in self._entries():
            if absolute.startswith(entry + os.sep):
                name = f"{PATH_ENTRY}/{absolute[len(entry) + 1 :]}".replace(os.sep, "/")
                # Several entries may have a conftest.py: the name is that of the one file which
                # other processes will find by it, and in this process it stays so.
                if name not in self._given and self._first_of(name) != absolute:
                    return absolute
                given = self._given.setdefault(name, absolute)
                return name if given == absolute else absolute
        return absolute

    def path_of(self, name: str) -> str:
        """The path that a name stands for here; for one under an entry of the path, the file that
        was given this name, else that in the first entry outside of the project that has one."""
        if not name.startswith(PATH_ENTRY + "/"):
            return os.path.normpath(os.path.join(self.root, name))
        given = self._given.get(name)
        if given is not None and (os_path.exists(given) or archive_of(given)[0]):
            return given
        return self._first_of(name)

    def _first_of(self, name: str) -> str:
        rest = name[len(PATH_ENTRY) + 1 :]
        inside = (*self._roots, *([self._repository] if self._repository else ()))
        candidates = [
            os.path.join(entry, rest)
            for entry in self._entries()
            if not os.path.join(entry, "").startswith(inside)  # named by where it lies
        ]
        for candidate in candidates:
            if os_path.exists(candidate) or archive_of(candidate)[0]:
                return candidate
        return candidates[0] if candidates else os.path.join(self.root, name)

    def _spell(self, place: str) -> tuple[str, ...]:
        known = self._spelled.get(place)
        if known is None:
            known = self._spelled[place] = _prefixes(place)
        return known

    def _entries(self) -> list[str]:
        """The entries of the path, those that lie in others first, as imports prefer neither."""
        path = tuple(self._path())
        if path != self._sorted[0] or not all(map(os.path.isabs, filter(None, path))):
            entries = {os_path.abspath(entry) for entry in path if entry}
            self._sorted = path, sorted(entries, key=lambda entry: (-len(entry), entry))
        return self._sorted[1]

    def content(self, name: str) -> bytes | None:
        """The bytes of a source file, also of one in a zip file; None where there is no regular
        file of a sane size that can be read."""
        path = self.path_of(name)
        try:
            found = originals.stat(path)
            if not stats.S_ISREG(found.st_mode) or found.st_size > LARGEST:
                return None
            with open(path, "rb") as stream:
                return stream.read()
        except (OSError, ValueError):
            return _zipped_content(path)

    def import_digest(self, module: str) -> str:
        """The digest of where an import finds a module: the same in every checkout and
        environment where it is found in the same place; ABSENT where it fails."""
        if module.startswith(HIDING):
            return self._hidden_by(os.path.dirname(self.path_of(module.removeprefix(HIDING))))
        found = self._finder.find(module)
        if found is None:
            return ABSENT
        if not found.file:
            own = sorted({self.name_of(path) for path in found.search if self.is_project(path)})
            return checksum(("import", "", *own))
        if self.is_project(found.file):
            return checksum(("import", self.name_of(found.file)))
        # Where environments keep their packages differs; what is in them counts by distribution.
        return checksum(("import", "installed"))

    def hiding(self, path: Sequence[str]) -> list[str]:
        """What is asked of the directories of a path, by `import_digest`, that come before the
        standard library's: whether a file there hides one of its modules."""
        found = []
        for entry in map(os_path.abspath, path):
            if os.path.join(entry, "").startswith(self._standard):
                break
            if not entry.endswith(".zip"):
                found.append(HIDING + self.name_of(os.path.join(entry, "__init__.py")))
        return found

    def _hidden_by(self, directory: str) -> str:
        try:
            with os.scandir(directory) as entries:
                names = [one.name for one in entries]
        except OSError:
            names = []
        suffixes = tuple(machinery.all_suffixes())
        hidden = set[str]()
        for name in names:
            module = name.partition(".")[0]
            if module in sys.stdlib_module_names:
                package = os.path.join(directory, name, "__init__.py")
                if name.endswith(suffixes) or os_path.exists(package):
                    hidden.add(module)
        return checksum(("hidden", *sorted(hidden)))


def _is_beside_library(path: str) -> bool:
    """Whether a path below the standard library's is that of an installed package."""
    return f"{os.sep}site-packages{os.sep}" in path or f"{os.sep}dist-packages{os.sep}" in path


def _prefixes(*paths: str) -> tuple[str, ...]:
    """Directories as named and with links resolved, each with a separator at the end."""
    both = (
        spelled for path in paths for spelled in (os_path.abspath(path), os_path.realpath(path))
    )
    return tuple(dict.fromkeys(path.rstrip(os.sep) + os.sep for path in both))


def _repository_around(root: str) -> str:
    """The repository that a directory lies in, with a separator at the end; empty for none."""
    directory = root
    while True:
        if any(os_path.exists(os.path.join(directory, name)) for name in _REPOSITORIES):
            return directory.rstrip(os.sep) + os.sep
        above = os.path.dirname(directory)
        if above == directory:
            return ""
        directory = above


def _zipped_content(path: str) -> bytes | None:
    archive, inside = archive_of(path)
    if not archive:
        return None
    try:
        return zipimport.zipimporter(archive).get_data(os.path.join(archive, inside))
    except (OSError, zipimport.ZipImportError):
        return None
