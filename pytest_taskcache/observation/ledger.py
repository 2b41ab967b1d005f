"""What was imported since arming: a record per first-party module, and one for all others."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from types import CodeType, ModuleType

from pytest_taskcache.model.dependency import Opaque
from pytest_taskcache.observation.imports import ImportRecord, identity_of, source_of
from pytest_taskcache.observation.sightings import Sightings
from pytest_taskcache.observation.sources import Sources

_EXTENSIONS = (".so", ".pyd")


class Ledger:
    """Import records by file.

    What third-party modules read while they were imported is in ``ambient``: nobody can tell
    which test needs it, so every window includes it (their deeds and names tried do not count,
    since a distribution counts as a whole).
    """

    def __init__(self, sources: Sources, begin: Sightings) -> None:
        self.ambient = ImportRecord("", begin)
        self.natives: dict[str, tuple[Opaque, str]] = {}
        self.version = 0
        self._sources = sources
        self._records: dict[str, ImportRecord] = {}
        self._by_name: dict[str, ImportRecord] = {}
        self._present: dict[str, tuple[str, tuple[int, ...] | None]] = {}
        self._uses: dict[str, frozenset[str]] = {}

    def take_stock(self) -> bool:
        """Notes the modules that are loaded already: their sources as they are now. Whether
        there are any."""
        for name, module in list(sys.modules.items()):
            filename = source_of(module)
            source = self._sources.find(filename) if filename else None
            if source is None:
                continue
            if source.path.endswith(_EXTENSIONS):
                self.add_native(name, Opaque("native", source.name), source.path)
            else:
                self._present[source.name] = (source.path, identity_of(source.path))
        return bool(self._present)

    @property
    def loaded_before(self) -> Iterable[str]:
        """The names of the modules that were loaded before anyone looked."""
        return self._present.keys()

    def begin(self, filename: str, sightings: Sightings) -> ImportRecord | None:
        """The record of a first-party module whose body is about to be executed (again)."""
        source = self._sources.find(filename)
        if source is None:
            return None
        self.version += 1
        before = self._records.get(filename)
        if before is not None:
            before.status = identity_of(source.path)
            return before
        record = ImportRecord(source.path, sightings)
        self._records[filename] = self._by_name[source.name] = record
        return record

    def of_body(self, filename: str) -> ImportRecord:
        """The record to credit while the body of this file is executed."""
        return self._records.get(filename, self.ambient)

    def of_module(self, name: str) -> ImportRecord | None:
        """The record of a module by its name in traces."""
        return self._by_name.get(name)

    def all(self) -> Iterable[ImportRecord]:
        """Every record, the ambient one included."""
        return [self.ambient, *self._records.values()]

    def latest(self, names: Iterable[str]) -> int:
        """When the youngest of these modules' sources last changed, as it was when imported
        (POSIX nanoseconds); 0 if none is loaded."""
        return max(
            (max(status[3:]) for _, status in self._imported(names) if status is not None),
            default=0,
        )

    def changed(self, names: Iterable[str]) -> list[str]:
        """Those modules whose source is no longer the file that was imported."""
        return [
            self._sources.name_of(path)
            for path, status in self._imported(names)
            if identity_of(path) != status
        ]

    def _imported(self, names: Iterable[str]) -> Iterator[tuple[str, tuple[int, ...] | None]]:
        for name in names:
            record = self._by_name.get(name)
            if record is not None:
                yield record.filename, record.status
            elif name in self._present:
                yield self._present[name]

    # -------------------------------------------------------------- native extensions

    def add_native(self, module: str, opaque: Opaque, path: str) -> None:
        """A native extension of the project was loaded."""
        self.version += 1
        self.natives[module] = (opaque, path)
        self._uses = {}

    def natives_of(
        self, modules: Iterable[str], codes: Iterable[CodeType]
    ) -> list[tuple[Opaque, str]]:
        """The project's native extensions that these modules, or this code, refer to."""
        if not self.natives:
            return []
        used: set[str] = set()
        for name in modules:
            if name not in self._uses:
                self._uses[name] = self._referred(name)
            used |= self._uses[name]
        short = {name.rpartition(".")[2]: name for name in self.natives}
        for code in codes:
            used.update(short[name] for name in short.keys() & set(code.co_names))
        return [self.natives[name] for name in sorted(used)]

    def _referred(self, name: str) -> frozenset[str]:
        record = self._by_name.get(name)
        path = record.filename if record else self._present.get(name, ("", None))[0]
        found: set[str] = set()
        for module in list(sys.modules.values()):
            if path and source_of(module) == path:
                for value in list(vars(module).values()):
                    owner = (
                        value.__name__
                        if isinstance(value, ModuleType)
                        else getattr(value, "__module__", None)
                    )
                    if isinstance(owner, str) and owner in self.natives:
                        found.add(owner)
        return frozenset(found)
