"""The digests of things as they are now: what every verification compares with."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from threading import RLock, get_ident

from pytest_taskcache.changed_paths import ChangedPaths
from pytest_taskcache.checksum import checksum, checksum_bytes
from pytest_taskcache.code.distributions import Distributions, library_directories, normalized
from pytest_taskcache.code.imports import PATH_ENTRY, Finder, SourceFiles, archive_of
from pytest_taskcache.digests import environment, files
from pytest_taskcache.digests.path_names import Anchors
from pytest_taskcache.model.dependency import ABSENT, Kind
from pytest_taskcache.originals import originals, os_path
from pytest_taskcache.ports import Shelf


class Present:
    """Implements ``ports.Fingerprints`` for one project and one session. ``temporary`` is the run's
    temporary directory, or a function that returns it once there is one; ``ignore`` are directories
    that are not the project's (the cache's own); ``clock`` returns nanoseconds since the epoch;
    ``settings`` the digest of a pytest option or ini value; ``path`` the import path. Digests stand
    until ``forget``. May be used from several threads."""

    def __init__(
        self,
        root: Path,
        *,
        temporary: Path | Callable[[], Path | None] | None = None,
        ignore: Collection[Path] = (),
        clock: Callable[[], int] = time.time_ns,
        settings: Callable[[str], str] = lambda name: ABSENT,
        path: Callable[[], list[str]] = lambda: sys.path,
    ) -> None:
        where = temporary if callable(temporary) else lambda: temporary
        self.anchors = Anchors(root, where)
        self.contents = files.KeptContents(clock)
        self._settings = settings
        self._distributions = Distributions(path, lambda file: self.contents.digest(Path(file)))
        self._sources = SourceFiles(
            root, self._distributions, Finder(path), ignore=ignore, path=path
        )
        self._libraries = {
            os.path.join(directory, ""): _time_of_change(directory)
            for directory in library_directories()
        }
        self._memo: dict[tuple[Kind, str], str] = {}
        self._matches: dict[str, str] = {}
        self._changed = ChangedPaths()
        self._doubted: Callable[[], bool] | None = None
        self._looking: set[int] = set()
        self._lock = RLock()

    def name_of(self, path: str | Path) -> str:
        """As ``ports.Fingerprints.name_of``."""
        name = self.anchors.name_of(path)
        if not os.path.isabs(name):
            return name
        self._catch_up()
        return self._sources.name_of(name)

    def _name(self, path: str) -> str:
        name = self.anchors.name_of(path)
        return self._sources.name_of(name) if os.path.isabs(name) else name

    def path_of(self, name: str) -> Path:
        """As ``ports.Fingerprints.path_of``."""
        if name.startswith((PATH_ENTRY, "../")):
            return Path(self._sources.path_of(name))
        return self.anchors.path_of(name)

    def is_project_file(self, path: str) -> bool:
        """As ``ports.Fingerprints.is_project_file``."""
        self._catch_up()
        for directory, changed in self._libraries.items():
            if path.startswith(directory):
                top = path[len(directory) :].partition(os.sep)[0].partition(".")[0]
                if _is_installed(directory, changed, top):
                    return False
        return self._sources.is_project(path) and (
            os_path.isfile(path) or self._sources.content(self.name_of(path)) is not None
        )

    def owners(self, module: str) -> Collection[str]:
        """As ``ports.Fingerprints.owners``."""
        self._catch_up()
        with self._lock:
            return self._distributions.owners(module)

    def hiding(self, path: Sequence[str]) -> Collection[str]:
        """As ``ports.Fingerprints.hiding``."""
        return self._sources.hiding(path)

    def requirements(self, distribution: str) -> Collection[str]:
        """As ``ports.Fingerprints.requirements``."""
        self._catch_up()
        with self._lock:
            return self._distributions.requirements(distribution)

    def source(self, name: str) -> bytes | None:
        """As ``ports.Fingerprints.source``."""
        return self._sources.content(name)

    def digest(self, kind: Kind, name: str) -> str:
        """As ``ports.Fingerprints.digest``."""
        key = (kind, name)
        if kind is Kind.ENVIRONMENT:
            return environment.environment_digest(name)  # changes too often to be remembered
        self._catch_up()
        if self._doubted is not None and get_ident() not in self._looking:
            self._drift(self._doubted)
        found = self._memo.get(key)
        if found is None:
            with self._lock:
                try:
                    found = self._digest(kind, name)
                except Exception as error:  # the port never raises, whatever the world does
                    found = checksum(("undigestable", type(error).__name__, str(error)))
                # An import hangs on sys.path, and is remembered by it.
                if kind not in (Kind.IMPORT, Kind.WORKING_DIRECTORY, Kind.FILES):
                    self._memo[key] = found
        return found

    def _digest(self, kind: Kind, name: str) -> str:
        match kind:
            case Kind.SOURCE:
                content = self.source(name)
                from pytest_taskcache.code.source_file import analyse

                return ABSENT if content is None else analyse(content).digest
            case Kind.FILE:
                return self._file_digest(name)
            case Kind.STAT:
                return files.stat_digest(self.path_of(name))
            case Kind.LISTING:
                return files.listing_digest(self.path_of(name))
            case Kind.WORKING_DIRECTORY:
                return self.name_of(os.getcwd())
            case Kind.FILES:
                return self._glob_digest(name)
            case Kind.DISTRIBUTION:
                return self._distributions.digest(name)
            case Kind.DISTRIBUTIONS:
                return self._distributions.list_digest()
            case Kind.IMPORT:
                return self._sources.import_digest(name)
            case Kind.INTERPRETER:
                return _interpreter_digest(name)
            case Kind.SETTING:
                return self._settings(name)
            case _:
                return ABSENT  # shared parts, or names of two: nothing that is there by itself

    def _file_digest(self, name: str) -> str:
        path = self.path_of(name)
        found = self.contents.digest(path)
        if found == ABSENT and archive_of(str(path))[0]:
            content = self.source(name)
            return ABSENT if content is None else checksum_bytes(content)
        return found

    def _glob_digest(self, given: str) -> str:
        known = self._matches.get(given)
        if known is not None:
            return known
        parts, pattern = list[str](), given
        if (self.anchors.root / pattern).is_dir():  # named outright, and not what a glob met
            parts, pattern = [pattern], f"{pattern}/**/*"
        for match in files.matches_of(self.anchors.root, pattern):
            path = self.anchors.root / match
            if self._sources.is_left_out(str(path)):
                continue  # a run writes it: no two would agree
            name = self.name_of(path)
            parts += (name, "" if os_path.isdir(path) else self.digest(Kind.FILE, name))
        found = self._matches[given] = checksum(("glob", *parts))
        return found

    def variable_digest(self, name: str, variables: Mapping[bytes, bytes]) -> str:
        """As ``ports.Fingerprints.variable_digest``."""
        if name != environment.ALL:
            value = variables.get(os.fsencode(name))
            found = {} if value is None else {name: os.fsdecode(value)}
            return environment.environment_digest(name, found)
        decoded = {os.fsdecode(each): os.fsdecode(value) for each, value in variables.items()}
        return environment.environment_digest(name, decoded)

    def forget(self, path: str = "", *, tree: bool = False) -> None:
        """As ``ports.Fingerprints.forget``."""
        if path:
            self._changed.note(path, tree=tree)
            return
        with self._lock:
            self._memo.clear()
            self._matches.clear()
            self._sources.forget()

    def doubt(self, lasts: Callable[[], bool]) -> None:
        """As ``ports.Fingerprints.doubt``."""
        self._doubted = lasts

    @contextmanager
    def one_look(self) -> Iterator[None]:
        """As ``ports.Fingerprints.one_look``."""
        thread = get_ident()
        if thread in self._looking:
            yield
            return
        if self._doubted is not None:
            self._drift(self._doubted)
        self._looking.add(thread)
        try:
            yield
        finally:
            self._looking.discard(thread)

    def _drift(self, lasts: Callable[[], bool]) -> None:
        with self._lock:
            if not lasts():
                self._doubted = None
            self._memo.clear()
            self._matches.clear()
            self._sources.forget_places()

    def _catch_up(self) -> None:
        if not self._changed.noted:
            return
        with self._lock:
            paths, trees = self._changed.take()
            for path in paths:
                name = self._name(path)
                for kind in (Kind.FILE, Kind.STAT, Kind.SOURCE):
                    self._memo.pop((kind, name), None)
                self._memo.pop((Kind.LISTING, name.rpartition("/")[0] or "."), None)
            names = (self._name(path) for path in trees)
            below = tuple("" if name == "." else name + "/" for name in names)
            for key in [*self._memo] if below else ():
                if key[1].startswith(below):
                    del self._memo[key]
            self._matches.clear()
            modules = (path for path in paths if path.endswith(".py"))
            if self._sources.may_rest_on((*trees, *modules)):
                self._sources.forget()

    def keep_on(self, shelf: Shelf) -> None:
        """Keeps digests on this shelf from now on: a run opens its storage only when it first
        needs it."""
        with self._lock:
            self.contents.keep_on(shelf)

    def save(self) -> None:
        """Puts what was newly found out on the shelf. Never raises."""
        with self._lock:
            self.contents.save()


_interpreter_digest = cache(environment.interpreter_digest)
"""As it was when it was first asked for: at the start of a run."""


@cache
def _is_installed(directory: str, changed: int, top: str) -> bool:
    """Whether a distribution in a directory of installed packages, last changed then, recorded a
    top-level module of this name. Those that are called like it are asked first: to read all that
    was ever installed costs more than most runs."""
    try:
        names = [name for name in originals.listdir(directory) if name.endswith(".dist-info")]
    except OSError:
        names = []
    alike = normalized(top).strip("-")

    def is_unlike(name: str) -> bool:
        called = normalized(name.partition("-")[0])
        return alike not in called and called not in alike

    start = top.encode("utf-8", "surrogateescape")
    return any(
        _records(os.path.join(directory, name, "RECORD"), start)
        for name in sorted(names, key=is_unlike)
    )


def _time_of_change(directory: str) -> int:
    """When entries of a directory last came or went (POSIX nanoseconds); 0 where there is none."""
    try:
        return originals.stat(directory).st_mtime_ns
    except OSError:
        return 0


def _records(record: str, top: bytes) -> bool:
    """Whether an installed distribution's list of files has a top-level module of this name."""
    try:
        with open(record, "rb") as stream:
            text = b"\n" + stream.read()
    except OSError:
        return False
    return b"\n" + top + b"/" in text or b"\n" + top + b"." in text
