"""Digests of installed distributions, and which distribution a module comes from."""

from __future__ import annotations

import csv
import json
import os
import re
import stat as stats
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from urllib.parse import unquote, urlparse

from pytest_taskcache.checksum import checksum
from pytest_taskcache.model.dependency import ABSENT

_SUFFIXES = (".dist-info", ".egg-info", ".egg-link")
_SEPARATORS = re.compile(r"[-_.]+")
_PASSED_OVER = frozenset({"__pycache__", "node_modules", "build", "dist"})


_INSTALLERS = ("INSTALLER", "REQUESTED", "RECORD", "direct_url.json", "uv_cache.json")


OURSELVES = "pytest-taskcache"
"""Counts by version, however it is installed."""


def normalized(name: str) -> str:
    """The name of a distribution as PEP 503 compares it."""
    return _SEPARATORS.sub("-", name).lower()


class Distributions:
    """The installed distributions, from the directories on the path.

    ``path`` returns the present ``sys.path``, ``content`` the content digest of a file,
    ``is_first_party`` whether a path belongs to the project (its files are verified by
    themselves), ``names_in`` the names in a directory. Metadata is read when first asked for.
    """

    def __init__(
        self,
        path: Callable[[], Sequence[str]],
        names_in: Callable[[str], Iterable[str]],
        content: Callable[[Path], str],
        is_first_party: Callable[[Path], bool],
    ) -> None:
        self._path = path
        self._names_in = names_in
        self._content = content
        self._is_first_party = is_first_party
        self._found: dict[str, list[_Metadata]] | None = None
        self._owners: dict[str, tuple[str, ...]] = {}

    def forget(self) -> None:
        """Something may have been installed, removed or edited."""
        self._found = None
        self._owners.clear()

    def digest(self, name: str) -> str:
        """The digest of a distribution: name, version and RECORD, the content of files edited in
        place, and of the sources of an editable installation that lies outside the project;
        ABSENT where it is not installed."""
        found = self._all().get(normalized(name))
        if not found:
            return ABSENT
        if normalized(name) == OURSELVES:
            # An edit of the cache itself does not change what a computation returns; what its
            # records mean is told apart by the schema, and by the version.
            return checksum([found[0].version])
        # The first on the path is the one that imports find.
        return checksum(self._parts(found[0]))

    def list_digest(self) -> str:
        """The digest of the names and versions of all distributions."""
        return checksum(
            sorted(
                f"{item.name} {item.version}" for items in self._all().values() for item in items
            )
        )

    def owners(self, module: str) -> tuple[str, ...]:
        """The normalised names of the distributions that a top-level module comes from."""
        known = self._owners.get(module)
        if known is None:
            known = self._owners[module] = tuple(sorted(self._search(module)))
        return known

    def _search(self, module: str) -> set[str]:
        likely = self._all().get(normalized(module), [])
        if any(module in item.modules() for item in likely):
            return {normalized(module)}
        return {
            name
            for name, items in self._all().items()
            for item in items
            if module in item.modules()
        }

    def _all(self) -> dict[str, list[_Metadata]]:
        if self._found is None:
            self._found = {}
            seen: set[str] = set()
            for entry in self._path():
                directory = entry or os.getcwd()
                if directory in seen:
                    continue
                seen.add(directory)
                for name in sorted(self._names_in(directory)):
                    if name.endswith(_SUFFIXES):
                        metadata = _Metadata(Path(directory, name))
                        self._found.setdefault(normalized(metadata.name), []).append(metadata)
        return self._found

    def _parts(self, metadata: _Metadata) -> Iterator[str]:
        yield metadata.name
        yield metadata.version
        yield checksum(metadata.recorded())
        for source in metadata.editable_sources():
            if not self._is_first_party(source):
                for path in _sources_in(source):
                    yield path.relative_to(source).as_posix()
                    yield self._content(path)
        yield "edited"
        for name, path in metadata.edited_files():
            yield name
            yield self._content(path)


class _Metadata:
    """One distribution's metadata directory (or file); reads it when asked."""

    def __init__(self, path: Path) -> None:
        stem = path.name.rpartition(".")[0]
        self.path = path
        self.name, _, rest = stem.partition("-")
        self.version = rest.partition("-py")[0] if path.suffix == ".egg-info" else rest
        self._modules: frozenset[str] | None = None
        self._files: list[tuple[str, str]] | None = None

    def record(self) -> bytes:
        """The bytes of RECORD, or of what older installers leave instead; empty without any."""
        for name in ("RECORD", "installed-files.txt", "SOURCES.txt", "PKG-INFO"):
            if data := _read(self.path / name):
                return data
        return _read(self.path)

    def recorded(self) -> Iterator[str]:
        """The lines of RECORD that tell what was installed, not where or by whom: scripts name
        their interpreter, and compiled files and the installer's own notes differ as well."""
        own = (f"{self.path.name}/{name}," for name in _INSTALLERS)
        passed = ("../", *own)
        for line in self.record().decode("utf-8", "replace").splitlines():
            if not line.startswith(passed) and ".pyc," not in line:
                yield line

    def files(self) -> list[tuple[str, str]]:
        """Paths, relative to where it is installed, and sizes, as RECORD lists them."""
        if self._files is None:
            text = _read(self.path / "RECORD").decode("utf-8", "replace")
            try:
                rows = [row for row in csv.reader(text.splitlines()) if row]
            except csv.Error:
                rows = []
            self._files = [(row[0], row[2] if len(row) > 2 else "") for row in rows]
        return self._files

    def modules(self) -> frozenset[str]:
        """Names of the top-level modules it installs."""
        if self._modules is None:
            found = set(_read(self.path / "top_level.txt").decode("utf-8", "replace").split())
            record = _read(self.path / "RECORD").decode("utf-8", "replace")
            for line in record.splitlines():
                # Not parsed as CSV, which takes long: top-level names hold no commas.
                name = line.partition(",")[0].lstrip('"')
                top, separator, _ = name.partition("/")
                if separator and not top.endswith(_SUFFIXES) and top not in ("..", "__pycache__"):
                    found.add(top)
                elif not separator and name.endswith((".py", ".so", ".pyd")):
                    found.add(name.partition(".")[0])
            for source in self.editable_sources():
                found.update(_top_level(source))
            self._modules = frozenset(found)
        return self._modules

    def edited_files(self) -> Iterator[tuple[str, Path]]:
        """Files that were changed after the installation: newer than RECORD, or of another size,
        or gone."""
        try:
            installed = os.stat(self.path / "RECORD").st_mtime_ns
        except OSError:
            return
        base = self.path.parent
        own = self.path.name + "/"
        for name, size in self.files():
            if name.endswith(".pyc") or name.startswith(own):
                continue
            path = base / name
            try:
                found = os.stat(path)
            except OSError:
                yield name, path
                continue
            if found.st_mtime_ns > installed or (size and size != str(found.st_size)):
                yield name, path

    def editable_sources(self) -> list[Path]:
        """Directories that an editable installation imports from."""
        if self.path.suffix == ".egg-link":
            lines = _read(self.path).decode("utf-8", "replace").splitlines()
            return [Path(lines[0])] if lines and lines[0] else []
        try:
            origin = json.loads(_read(self.path / "direct_url.json") or b"{}")
            editable = bool(origin.get("dir_info", {}).get("editable"))
            url = urlparse(origin.get("url", ""))
        except (ValueError, AttributeError):
            return []
        if not editable or url.scheme != "file":
            return []
        project = Path(unquote(url.path))
        source = project / "src"
        return [source] if source.is_dir() else [project]


def _sources_in(directory: Path) -> list[Path]:
    """The files of the modules and packages in a directory, sorted."""
    found: list[Path] = []
    for name in _top_level(directory):
        path = directory / name
        if not path.is_dir():
            found += (path.with_name(name + suffix) for suffix in (".py",))
            continue
        for top, directories, names in os.walk(path):
            directories[:] = [
                item
                for item in directories
                if item not in _PASSED_OVER and not item.startswith(".")
            ]
            found += (Path(top, item) for item in names if not item.endswith(".pyc"))
    return sorted(found)


def _top_level(directory: Path) -> set[str]:
    """Names of the modules and packages that lie in a directory."""
    found: set[str] = set()
    try:
        entries = list(os.scandir(directory))
    except OSError:
        return found
    for entry in entries:
        if entry.name.endswith(".py"):
            found.add(entry.name[:-3])
        elif os.path.isfile(os.path.join(entry.path, "__init__.py")):
            found.add(entry.name)
    return found


def _read(path: Path) -> bytes:
    """A file's bytes; empty where it is no readable regular file."""
    try:
        if not stats.S_ISREG(os.stat(path).st_mode):
            return b""
        return path.read_bytes()
    except OSError:
        return b""
