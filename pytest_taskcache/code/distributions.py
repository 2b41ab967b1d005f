"""Installed distributions: which one a file or a module comes from, their digests, and what they
require.

A file belongs to a distribution when the distribution's RECORD lists it; so an editable
installation, whose RECORD lists only what leads to the sources, owns none of them, and a source
tree with an ``.egg-info`` in it owns nothing. In the interpreter's own directories, where a
system's package manager may leave RECORD out, the top-level names tell.
"""

from __future__ import annotations

import os
import re
import site
import stat as stats
import sysconfig
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache, cached_property
from pathlib import Path

from pytest_taskcache.checksum import checksum, checksum_bytes
from pytest_taskcache.model.dependency import ABSENT
from pytest_taskcache.originals import originals, os_path

OURSELVES = "pytest-taskcache"
"""Counts by version, however it is installed."""

_SUFFIXES = (".dist-info", ".egg-info", ".egg-link")
_SEPARATORS = re.compile(r"[-_.]+")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_TOPS = re.compile(r'^"?([^/,"\n]+)([/,]|$).*(?:\n"?\1/.*)*', re.MULTILINE)
"""The first part of each path in RECORD and what ends it: once for neighbours that share it. Not
parsed as CSV, nor line by line, which takes as long as pytest's own start: all that was ever
installed is asked for what nobody seems to own. Top-level names hold no commas."""
_INSTALLERS = ("INSTALLER", "REQUESTED", "RECORD", "direct_url.json", "uv_cache.json")


def normalized(name: str) -> str:
    """The name of a distribution as PEP 503 compares it."""
    return _SEPARATORS.sub("-", name).lower()


@cache
def standard_directories() -> frozenset[str]:
    """The directories of the standard library, as named and with links resolved."""
    paths = sysconfig.get_paths()
    found = {paths["stdlib"], paths["platstdlib"], os.path.dirname(os.__file__)}
    return frozenset(found | {os_path.realpath(path) for path in found})


@cache
def library_directories() -> frozenset[str]:
    """The directories in which this interpreter looks for installed packages, as named and with
    links resolved."""
    paths = sysconfig.get_paths()
    found = {paths["purelib"], paths["platlib"], *site.getsitepackages()}
    found.add(site.getusersitepackages())
    return frozenset(found | {os_path.realpath(path) for path in found})


@cache
def installed_directories() -> tuple[str, ...]:
    """Both, each ending in a separator: their files count by distribution, or not at all."""
    return tuple(os.path.join(path, "") for path in standard_directories() | library_directories())


def _content_digest(path: str) -> str:
    """The digest of a file's bytes; ABSENT where it cannot be read."""
    data = _read(Path(path))
    return ABSENT if data is None else checksum_bytes(data)


class Distributions:
    """The installed distributions, from the directories on the path.

    ``path`` returns the present ``sys.path``, ``content`` the content digest of a file. Metadata
    is read when first asked for, and again after `forget`. Nothing here raises.
    """

    def __init__(
        self,
        path: Callable[[], Sequence[str]],
        content: Callable[[str], str] = _content_digest,
        libraries: Iterable[str] | None = None,
    ) -> None:
        self._path = path
        self._content = content
        self._libraries = frozenset(library_directories() if libraries is None else libraries)
        self._found: dict[str, list[_Metadata]] = {}
        self._places: dict[str, list[_Metadata]] = {}
        self._entries: tuple[str, ...] = ()
        self._seen: tuple[str, ...] | None = None
        self._owners: dict[str, str] = {}
        self._by_module: dict[str, set[str]] = {}
        self._digests: dict[str, str] = {}

    def forget(self) -> None:
        """Something may have been installed, removed or edited."""
        self._seen = None
        self._digests.clear()

    def places(self) -> frozenset[str]:
        """The directories of installed packages, on the path or not."""
        return self._libraries

    def digest(self, name: str) -> str:
        """The digest of a distribution: name, version and RECORD, and the contents of files that
        were edited in place; ABSENT where it is not installed."""
        name = normalized(name)
        found = self._all().get(name)
        if not found:
            return ABSENT
        known = self._digests.get(name)
        if known is None:
            # The first on the path is the one that imports find. An edit of the cache itself
            # does not change what a computation returns: the schema tells its records apart.
            first = found[0]
            parts = [first.version] if name == OURSELVES else self._parts(first)
            known = self._digests[name] = checksum(parts)
        return known

    def list_digest(self) -> str:
        """The digest of the names and versions of all distributions."""
        everything = (item for items in self._all().values() for item in items)
        return checksum(sorted(f"{item.name} {item.version}" for item in everything))

    def requirements(self, name: str) -> frozenset[str]:
        """The distribution and all installed ones that it requires, directly or not, extras
        included: a new numpy changes what pandas does."""
        everything = self._all()
        found: set[str] = set()
        pending = [normalized(name)]
        while pending:
            one = pending.pop()
            if one not in found and one in everything:
                found.add(one)
                pending += everything[one][0].requires
        return frozenset(found)

    def owner_of(self, file: str) -> str:
        """The distribution that installed a file, by its normalised name; empty for none."""
        self._all()
        known = self._owners.get(file)
        if known is None:
            known = self._owners[file] = self._search(os_path.abspath(file))
        return known

    def _search(self, file: str) -> str:
        for directory, installed in self._places.items():
            if not file.startswith(directory + os.sep):
                continue
            name = file[len(directory) + 1 :].replace(os.sep, "/")
            top = name.partition("/")[0].partition(".")[0]
            for item in installed:
                if top in item.modules and (
                    name in item.files or (not item.record and directory in self._libraries)
                ):
                    return normalized(item.name)
        return ""

    def owners(self, module: str) -> tuple[str, ...]:
        """The normalised names of the distributions that a top-level module comes from."""
        everything = self._all()
        likely = normalized(module)
        if any(module in item.modules for item in everything.get(likely, ())):
            return (likely,)
        return tuple(sorted(self._installers().get(module, ())))

    def _installers(self) -> dict[str, set[str]]:
        """The distributions by the top-level modules that they install."""
        if not self._by_module:
            for name, items in self._all().items():
                for item in items:
                    for module in item.modules:
                        self._by_module.setdefault(module, set()).add(name)
        return self._by_module

    def _all(self) -> dict[str, list[_Metadata]]:
        entries = tuple(self._path())
        if entries == self._entries and self._seen is not None and all(map(os.path.isabs, entries)):
            return self._found
        self._entries = entries
        search = tuple(dict.fromkeys(os_path.abspath(entry) for entry in entries))
        if search != self._seen:
            self._seen = search
            self._found, self._places = {}, {}
            self._owners.clear()
            self._by_module.clear()
            for directory in (*search, *self._libraries.difference(search)):
                self._add(directory, on_path=directory in search)
        return self._found

    def _add(self, directory: str, *, on_path: bool) -> None:
        try:
            names = sorted(originals.listdir(directory))
        except (OSError, ValueError):
            return  # no directory, or not ours to read: imports find nothing there either
        of_metadata = (name for name in names if name.endswith(_SUFFIXES))
        found = [_metadata_in(os.path.join(directory, name)) for name in of_metadata]
        if found:
            self._places[directory] = found
        if on_path:
            for item in found:
                self._found.setdefault(normalized(item.name), []).append(item)

    def _parts(self, item: _Metadata) -> Iterator[str]:
        yield item.name
        yield item.version
        yield checksum(item.recorded())
        yield "edited"
        for name, path in item.edited_files():
            yield name
            yield self._content(path)
        if not item.record and str(item.path.parent) in self._libraries:
            for source in _sources(item.path.parent, item.modules):
                yield str(source.relative_to(item.path.parent))
                yield self._content(str(source))


class _Metadata:
    """One distribution's metadata directory (or file); reads it when asked."""

    def __init__(self, path: Path) -> None:
        stem = path.name.rpartition(".")[0]
        self.path = path
        self.name, _, rest = stem.partition("-")
        self.version = rest.partition("-py")[0] if path.suffix == ".egg-info" else rest

    @cached_property
    def record(self) -> str:
        """The text of RECORD; empty without any."""
        return (_read(self.path / "RECORD") or b"").decode("utf-8", "replace")

    @cached_property
    def _metadata(self) -> str:
        for name in ("METADATA", "PKG-INFO"):
            if data := _read(self.path / name):
                return data.decode("utf-8", "replace")
        return (_read(self.path) or b"").decode("utf-8", "replace")

    def recorded(self) -> Iterator[str]:
        """The lines of RECORD that tell what was installed, not where or by whom: scripts name
        their interpreter, and compiled files and the installer's own notes differ as well. The
        metadata where there is no RECORD."""
        own = (f"{self.path.name}/{name}," for name in _INSTALLERS)
        passed = ("../", *own)
        for line in (self.record or self._metadata).splitlines():
            if not line.startswith(passed) and ".pyc," not in line:
                yield line

    @cached_property
    def rows(self) -> list[tuple[str, str]]:
        """Paths, relative to where it is installed, and sizes, as RECORD lists them."""
        lines = self.record.splitlines()
        if '"' not in self.record:
            rows = [line.split(",") for line in lines if line]
        else:
            import csv  # takes long to import, and few names have to be quoted

            try:
                rows = [row for row in csv.reader(lines) if row]
            except csv.Error:
                return []
        return [(row[0], row[2] if len(row) > 2 else "") for row in rows]

    @cached_property
    def files(self) -> frozenset[str]:
        """The paths among the rows."""
        return frozenset(name for name, _ in self.rows)

    @cached_property
    def modules(self) -> frozenset[str]:
        """Names of the top-level modules it installs."""
        found = set((_read(self.path / "top_level.txt") or b"").decode("utf-8", "replace").split())
        for name, separator in _TOPS.findall(self.record):
            if separator == "/":
                if not name.endswith(_SUFFIXES) and name not in ("..", "__pycache__"):
                    found.add(name)
            elif name.endswith((".py", ".so", ".pyd")):
                found.add(name.partition(".")[0])
        return frozenset(found)

    @cached_property
    def requires(self) -> tuple[str, ...]:
        """The normalised names of what it requires under any condition."""
        found: dict[str, None] = {}
        for line in self._metadata.splitlines():
            if not line:
                break
            if line.startswith("Requires-Dist:") and (name := _NAME.match(line[14:].strip())):
                found[normalized(name.group())] = None
        return tuple(found)

    def edited_files(self) -> Iterator[tuple[str, str]]:
        """Names and paths of files that were changed after the installation: newer than RECORD,
        or of another size, or gone."""
        try:
            installed = originals.stat(self.path / "RECORD").st_mtime_ns
        except OSError:
            return
        base = str(self.path.parent) + os.sep
        own = self.path.name + "/"
        for name, size in self.rows:
            if name.endswith(".pyc") or name.startswith(own):
                continue
            path = base + name
            try:
                found = originals.stat(path)
            except (OSError, ValueError):
                yield name, path
                continue
            if found.st_mtime_ns > installed or (size and size != str(found.st_size)):
                yield name, path


_known: dict[str, tuple[tuple[int, ...], _Metadata]] = {}
"""What was read in this process, by path, as long as nothing there has changed: a process that
opens several caches, as one that tests a plugin does, reads thousands of files once."""


def _metadata_in(path: str) -> _Metadata:
    stamp: list[int] = []
    try:
        for name in ("", "RECORD", "METADATA"):
            found = originals.stat(os.path.join(path, name) if name else path)
            stamp += (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    except (OSError, ValueError):
        return _Metadata(Path(path))  # an older form, or not readable
    known = _known.get(path)
    if known is None or known[0] != tuple(stamp):
        known = _known[path] = (tuple(stamp), _Metadata(Path(path)))
    return known[1]


def _sources(directory: Path, modules: Iterable[str]) -> list[Path]:
    """The files of modules and packages in a directory, sorted."""
    found: list[Path] = []
    for name in modules:
        found += directory.glob(f"{name}.*")
        for top, directories, names in os.walk(directory / name):
            directories[:] = [one for one in directories if one != "__pycache__"]
            found += (Path(top, one) for one in names)
    return sorted(path for path in found if path.is_file() and path.suffix != ".pyc")


def _read(path: Path) -> bytes | None:
    """A file's bytes; None where it is no readable regular file."""
    try:
        if not stats.S_ISREG(originals.stat(path).st_mode):
            return None
        return path.read_bytes()
    except (OSError, ValueError):
        return None
