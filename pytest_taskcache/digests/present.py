"""The digests of things as they are now: what every verification compares with."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING, assert_never

from pytest_taskcache.checksum import checksum
from pytest_taskcache.digests import environment, files
from pytest_taskcache.digests.path_names import Anchors
from pytest_taskcache.digests.stat_cache import KeptContents
from pytest_taskcache.fingerprint.closure import Closure, loaded_files
from pytest_taskcache.fingerprint.imports import Finder
from pytest_taskcache.fingerprint.links import Linker
from pytest_taskcache.fingerprint.modules import Modules
from pytest_taskcache.fingerprint.packages import Distributions
from pytest_taskcache.fingerprint.qualnames import NAMES, function_key
from pytest_taskcache.model.dependency import ABSENT, Dependency, Kind

if TYPE_CHECKING:
    from pytest_taskcache.ports import Shelf


def _no_setting(name: str) -> str:
    """The digest of any setting outside of a test run."""
    return ABSENT


class Present:
    """Implements ``ports.Fingerprints`` for one project and one session.

    ``temporary`` is the run's temporary directory, or a function that returns it once there is
    one; ``ignore`` are directories that are not the project's (the cache's own); ``shelf`` keeps
    contents' digests and syntax trees between sessions; ``clock`` returns nanoseconds since the
    epoch; ``settings`` the digest of a pytest option or ini value; ``path`` the import path.
    Digests stand until ``forget``. May be used from several threads.
    """

    def __init__(
        self,
        root: Path,
        *,
        temporary: Path | Callable[[], Path | None] | None = None,
        ignore: Collection[Path] = (),
        shelf: Shelf | None = None,
        clock: Callable[[], int] = time.time_ns,
        settings: Callable[[str], str] = _no_setting,
        path: Callable[[], list[str]] = lambda: sys.path,
    ) -> None:
        where = temporary if callable(temporary) else lambda: temporary
        self.anchors = Anchors(root, where, ignore)
        self.contents = KeptContents(shelf, clock)
        self.modules = Modules(shelf, self.anchors.path_of, self.contents.digest)
        self._settings = settings
        self._finder = Finder(path, clock)
        self._distributions = Distributions(
            path, self._finder.names_in, self.contents.digest, self.anchors.is_first_party
        )
        self._linker = Linker(
            self.modules,
            self._finder,
            self.anchors.name_of,
            self.anchors.path_of,
            self.anchors.is_first_party,
            self._distributions.owners,
            path,
        )
        self.closure = Closure(self.modules, self._linker, self.digest, self._loaded)
        self._memo: dict[tuple[Kind, str], str] = {}
        self._lock = RLock()

    def name_of(self, path: str | Path) -> str:
        """As ``ports.Fingerprints.name_of``."""
        return self.anchors.name_of(path)

    def path_of(self, name: str) -> Path:
        """As ``ports.Fingerprints.path_of``."""
        return self.anchors.path_of(name)

    def is_first_party(self, path: str | Path) -> bool:
        """As ``ports.Fingerprints.is_first_party``."""
        return self.anchors.is_first_party(path)

    def owners(self, module: str) -> Collection[str]:
        """As ``ports.Fingerprints.owners``."""
        with self._lock:
            return self._distributions.owners(module)

    def digest(self, kind: Kind, name: str) -> str:
        """As ``ports.Fingerprints.digest``."""
        key = (kind, name)
        if kind is Kind.ENVIRONMENT:
            return environment.environment_digest(name)  # changes too often to be remembered
        found = self._memo.get(key)
        if found is None:
            with self._lock:
                try:
                    found = self._digest(kind, name)
                except Exception as error:  # the port never raises, whatever the world does
                    found = checksum(("undigestable", type(error).__name__, str(error)))
                self._memo[key] = found
        return found

    def _digest(self, kind: Kind, name: str) -> str:
        match kind:
            case Kind.FUNCTION:
                return self._function_digest(name)
            case Kind.MODULE:
                digests = self.modules.digests(name)
                return ABSENT if digests is None else digests.skeleton
            case Kind.SOURCE:
                digests = self.modules.digests(name)
                return ABSENT if digests is None else digests.tree
            case Kind.FILE:
                return self.contents.digest(self.path_of(name))
            case Kind.STAT:
                return files.stat_digest(self.path_of(name))
            case Kind.LISTING:
                return files.listing_digest(self.path_of(name))
            case Kind.WORKING_DIRECTORY:
                return self.name_of(os.getcwd())
            case Kind.FILES:
                return self._glob_digest(name)
            case Kind.ENVIRONMENT:
                return environment.environment_digest(name)
            case Kind.DISTRIBUTION:
                return self._distributions.digest(name)
            case Kind.DISTRIBUTIONS:
                return self._distributions.list_digest()
            case Kind.IMPORT:
                return self._linker.import_digest(name)
            case Kind.INTERPRETER:
                return environment.interpreter_digest()
            case Kind.SETTING:
                return self._settings(name)
            case Kind.CODE | Kind.TRACE:
                return ABSENT  # shared parts, which stand for nothing that is there by itself
        assert_never(kind)

    def _function_digest(self, name: str) -> str:
        path, _, qualname = name.rpartition("::")
        digests = self.modules.digests(path)
        if digests is None:
            return ABSENT
        if qualname == NAMES:
            return digests.names
        if qualname.endswith("()") and not digests.whole:
            return digests.interfaces.get(qualname[:-2], ABSENT)
        found = digests.functions.get(qualname)
        if found is not None:
            return found
        key = function_key(qualname)
        if not key or digests.whole:
            return digests.skeleton
        return digests.functions.get(key, ABSENT)

    def _glob_digest(self, pattern: str) -> str:
        parts: list[str] = []
        for match in files.matches_of(self.anchors.root, pattern):
            path = self.anchors.root / match
            name = self.name_of(path)
            parts += (name, "" if os.path.isdir(path) else self.digest(Kind.FILE, name))
        return checksum(("glob", *parts))

    def reach(
        self,
        functions: Collection[str],
        modules: Collection[str],
        ran: Sequence[str] | None = None,
    ) -> Collection[Dependency]:
        """As ``ports.Fingerprints.reach``."""
        with self._lock:
            return self.closure.reach(functions, modules, ran)

    def _loaded(self) -> list[str]:
        return [self.name_of(file) for file in loaded_files(self.is_first_party)]

    def is_project_file(self, path: str) -> bool:
        """As ``ports.Fingerprints.is_project_file``."""
        return os.path.isfile(path) and self.anchors.is_first_party(path)

    def variable_digest(self, name: str, variables: Mapping[bytes, bytes]) -> str:
        """As ``ports.Fingerprints.variable_digest``."""
        if name != environment.ALL:
            value = variables.get(os.fsencode(name))
            found = {} if value is None else {name: os.fsdecode(value)}
            return environment.environment_digest(name, found)
        decoded = {os.fsdecode(each): os.fsdecode(value) for each, value in variables.items()}
        return environment.environment_digest(name, decoded)

    def forget(self, name: str = "", *, tree: bool = False) -> None:
        """As ``ports.Fingerprints.forget``."""
        if name:
            for kind in (Kind.FILE, Kind.STAT, Kind.SOURCE, Kind.MODULE):
                self._memo.pop((kind, name), None)
            self._memo.pop((Kind.LISTING, name.rpartition("/")[0] or "."), None)
            below = name + "/"
            for key in list(self._memo):
                if key[0] in (Kind.FILES, Kind.IMPORT) or (tree and key[1].startswith(below)):
                    self._memo.pop(key, None)
            return
        with self._lock:
            self._memo.clear()
            self.modules.forget()
            self._finder.forget()
            self._distributions.forget()
            self.closure.forget()

    def keep_on(self, shelf: Shelf) -> None:
        """Keeps digests and syntax trees on this shelf from now on: a run opens its storage only
        when it first needs it."""
        with self._lock:
            self.contents.keep_on(shelf)
            self.modules.keep_on(shelf)

    def save(self) -> None:
        """Puts what was newly found out on the shelf. Never raises."""
        with self._lock:
            self.contents.save()
            self.modules.save()
