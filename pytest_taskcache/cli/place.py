"""Where a project's cache is, and what the command does to it: an adapter over the storages."""

from __future__ import annotations

import configparser
import fnmatch
import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pytest_taskcache.config.settings import ENVIRONMENT, NAMES, Settings, Sources, read_settings
from pytest_taskcache.config.storages import StorageFactory
from pytest_taskcache.config.tiers import LOCAL, directory_of, find_tiers, read_pyproject
from pytest_taskcache.errors import ConfigurationError, StorageError
from pytest_taskcache.model.record import Variant
from pytest_taskcache.ports import Storage
from pytest_taskcache.report.history import History
from pytest_taskcache.storage.local import LocalStorage
from pytest_taskcache.storage.pointers import results_of

_INDEX = "index.sqlite3"
_INI_FILES = (
    ("pytest.ini", "pytest"),
    (".pytest.ini", "pytest"),
    ("tox.ini", "pytest"),
    ("setup.cfg", "tool:pytest"),
)


class Scannable(Protocol):
    """A storage whose records can be listed."""

    def scan(self) -> Iterable[Variant]:
        """As KeyStorage.scan."""


@dataclass(frozen=True, slots=True)
class Removed:
    """What a removal takes or took away: records, and the bytes of their results."""

    records: tuple[Variant, ...]
    bytes: int


@dataclass(frozen=True)
class Place:
    """A project: its root, its settings, and the directory of its local cache."""

    root: Path
    settings: Settings
    directory: Path

    @classmethod
    def find(cls, start: Path, cache: str = "") -> Place:
        """The project around a directory; ``cache`` names the cache's directory outright.
        Raises ConfigurationError."""
        root, ini = _configured(start)
        settings = read_settings(
            Sources(
                environ={k: v for k, v in os.environ.items() if k.startswith(ENVIRONMENT)},
                ini={name: ini.get(f"taskcache_{name}", "") for name in NAMES},
            )
        )
        if cache:
            return cls(root, settings, start / Path(cache).expanduser())
        return cls(root, settings, _directory(root, settings, ini))

    @property
    def exists(self) -> bool:
        """Whether there is a cache."""
        return (self.directory / _INDEX).is_file()

    def open(self, *, readonly: bool = True, create: bool = False) -> OpenCache:
        """The cache. Raises StorageError where there is none, naming the remedy."""
        if not (create or self.exists):
            raise StorageError(
                str(self.directory),
                "open the cache",
                "there is none yet; run pytest with something cached, or name it with --cache",
            )
        local = LocalStorage(
            self.directory,
            max_size=self.settings.max_size,
            readonly=readonly,
            create=create and not readonly,
        )
        local.size()  # what is wrong with it is told now, not half-way
        return OpenCache(self, local)


class OpenCache:
    """An open cache. All methods raise StorageError for what the storage cannot do."""

    def __init__(self, place: Place, local: LocalStorage) -> None:
        self.place = place
        self.local = local
        self.history = History(local.shelf, lambda name: place.root / name)
        self._factory: StorageFactory | None = None

    def scan(self, pattern: str = "") -> Iterator[Variant]:
        """The records that match a pattern (see `matches`); all of them without one."""
        return (each for each in self.local.scan() if not pattern or matches(each, pattern))

    def far(self, spec: str, on_fault: Callable[[str], None]) -> Storage:
        """Another storage, by its spec or name; one that is remote has the local one in front.
        Raises ConfigurationError."""
        factory = self._made(on_fault)
        written = spec or self.place.settings.storage
        tiers = find_tiers(written, factory.names)
        if all(tier.spec == LOCAL for tier in tiers):
            raise ConfigurationError(
                "storage", "no other storage is set", "name one: a directory, a URL, or a name"
            )
        records, _ = factory.route(written, written)
        return records

    def drain(self, timeout: float, on_progress: Callable[[int, int], None]) -> list[str]:
        """Awaits uploads; what did not arrive."""
        if self._factory is None:
            return []
        drained = self._factory.drain(timeout, on_progress)
        return [] if drained is None else [*drained.unsent]

    def remove(self, records: Collection[Variant], *, dry_run: bool = False) -> Removed:
        """Forgets records and deletes the results that nothing else needs."""
        going = {each.id for each in records}
        kept = {
            digest
            for each in self.local.scan()
            if each.id not in going
            for digest, _ in results_of(each)
        }
        sizes = {digest: size for each in records for digest, size in results_of(each)}
        freed = sum(size for digest, size in sizes.items() if digest not in kept)
        freed += sum(len(each.result.inline or b"") for each in records)
        if not dry_run and records:
            self.local.remove_records(going)
            self.local.prune(full=True)
        return Removed(tuple(records), freed)

    def to_prune(
        self,
        *,
        older_than: float | None = None,
        unused: float | None = None,
        max_size: int | None = None,
    ) -> list[Variant]:
        """The records that go: made, or last of use, so many seconds ago or more; those that
        have expired; then the least recently used ones until the rest is of ``max_size`` bytes."""
        now, used = time.time(), self.local.last_used()
        going: list[Variant] = []
        staying: list[Variant] = []
        for each in sorted(self.local.scan(), key=lambda each: used.get(each.id, each.created)):
            stale: bool = (
                (older_than is not None and each.created <= now - older_than)
                or (unused is not None and used.get(each.id, each.created) <= now - unused)
                or (each.expires is not None and each.expires <= now)
            )
            (going if stale else staying).append(each)
        if max_size is not None:
            total = sum(size_of(each) for each in staying)
            for each in staying:
                if total <= max_size:
                    break
                going.append(each)
                total -= size_of(each)
        return going

    def close(self) -> None:
        """Closes what was opened."""
        if self._factory is not None:
            self._factory.close()
        self.local.close()

    def _made(self, on_fault: Callable[[str], None]) -> StorageFactory:
        if self._factory is None:
            from pytest_taskcache.config.tiered_storages import Terms

            place = self.place
            self._factory = StorageFactory(
                place.root,
                self.local,
                place.settings,
                lambda: Terms(
                    place.root,
                    place.settings,
                    os.environ,
                    on_fault=lambda reason, detail: on_fault(detail or reason),
                ),
                on_fault,
            )
        return self._factory


def matches(record: Variant, pattern: str) -> bool:
    """Whether a record's identity contains the pattern, or fits it where it has a ``*``; or it
    was made by exactly that test."""
    name = str(record.identity)
    if "*" in pattern:
        return fnmatch.fnmatchcase(name, pattern.replace("[", "[[]"))
    return pattern in name or pattern == record.producer


def subject_of(record: Variant) -> str:
    """``test`` for an outcome, else ``value``."""
    return "test" if record.result.serializer.startswith(("outcome/", "mark/")) else "value"


def size_of(record: Variant) -> int:
    """Bytes of a record's results, those it shares with others included."""
    return sum(size for _, size in results_of(record)) + len(record.result.inline or b"")


def _configured(start: Path) -> tuple[Path, Mapping[str, str]]:
    """The root as pytest finds it from here, and its ini settings as text."""
    for directory in (start, *start.parents):
        for name, section in _INI_FILES:
            found = _ini(directory / name, section)
            if found is not None:
                return directory, found
        tables: Any = read_pyproject(directory)
        tool = tables.get("tool", {}).get("pytest", {})
        if tool:
            return directory, _texts(tool.get("ini_options", tool))
    for directory in (start, *start.parents):
        if any((directory / name).exists() for name in ("setup.py", "pyproject.toml", ".git")):
            return directory, {}
    return start, {}


def _ini(path: Path, section: str) -> Mapping[str, str] | None:
    parser = configparser.RawConfigParser(strict=False, allow_no_value=True)
    try:
        if not parser.read(path, encoding="utf-8"):
            return None
    except (configparser.Error, OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(str(path), f"cannot be read: {error}", "mend it") from None
    if not parser.has_section(section):
        return {} if path.name in ("pytest.ini", ".pytest.ini") else None
    return {name: value or "" for name, value in parser.items(section)}


def _texts(table: Mapping[str, Any]) -> dict[str, str]:
    return {
        name: " ".join(map(str, value)) if isinstance(value, list) else str(value)
        for name, value in table.items()
    }


def _directory(root: Path, settings: Settings, ini: Mapping[str, str]) -> Path:
    if settings.storage:
        tables: Any = read_pyproject(root)
        names = tables.get("tool", {}).get("taskcache", {}).get("storages", {})
        tiers = find_tiers(settings.storage, names)
        if len(tiers) == 1 and tiers[0].mode == "rw" and tiers[0].spec != LOCAL:
            return directory_of(tiers[0].spec, root)
    written = os.path.expandvars(ini.get("cache_dir", "") or ".pytest_cache")
    usual = root / Path(written).expanduser() / "taskcache"
    beside = root / ".taskcache"
    return beside if not usual.exists() and beside.exists() else usual
