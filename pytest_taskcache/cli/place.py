"""Where a project's cache is, and what the command does to it: an adapter over the storages."""

from __future__ import annotations

import configparser
import fnmatch
import json
import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pytest_taskcache.checksum import checksum_bytes
from pytest_taskcache.config.settings import (
    NAMES,
    Settings,
    Sources,
    project_settings,
    read_settings,
)
from pytest_taskcache.config.storage_factory import StorageFactory
from pytest_taskcache.config.tiers import (
    LOCAL,
    expanded,
    find_tiers,
    only_directory,
    project_table,
    read_pyproject,
)
from pytest_taskcache.dataclass import dataclass, replace
from pytest_taskcache.errors import ConfigurationError, StorageError
from pytest_taskcache.model.record import Result, Variant
from pytest_taskcache.ports import Storage
from pytest_taskcache.report.contents import Contents, Held, encode
from pytest_taskcache.report.history import History
from pytest_taskcache.storage.local import LocalStorage
from pytest_taskcache.storage.remote.pruning import Removed, Retention

_INDEX = "index.sqlite3"
_UPLOAD_SECONDS = 600.0
_INI_FILES = (
    ("pytest.ini", "pytest"),
    (".pytest.ini", "pytest"),
    ("tox.ini", "pytest"),
    ("setup.cfg", "tool:pytest"),
)


@dataclass
class Project:
    """A project: its root, its settings, the directory of its local cache, and what is in it.

    The cache is opened when it is first needed: all methods but `find` and `close` raise
    StorageError for what the storage cannot do. Where there is none, it is made if it is to
    ``create``, else a StorageError names the remedy.
    """

    root: Path
    settings: Settings
    directory: Path
    readonly: bool = True
    create: bool = False

    @classmethod
    def find(cls, start: Path, cache: str = "") -> Project:
        """The project around a directory; its cache is in ``cache``. Raises ConfigurationError."""
        root, ini = _configured(start)
        settings = read_settings(
            Sources(
                environ=os.environ,
                ini={name: ini.get(f"taskcache_{name}", "") for name in NAMES},
                project=project_settings(project_table(root)),
            )
        )
        if cache:
            return cls(root, settings, start / expanded(cache, "--cache"))
        return cls(root, settings, _directory(root, settings, ini))

    @property
    def exists(self) -> bool:
        """Whether there is a cache."""
        return (self.directory / _INDEX).is_file()

    @cached_property
    def local(self) -> LocalStorage:
        """The storage."""
        if not (self.create or self.exists):
            raise StorageError(
                str(self.directory),
                "open the cache",
                "there is none yet; run pytest with something cached, or name it with --cache",
            )
        local = LocalStorage(
            self.directory,
            max_size=self.settings.max_size,
            readonly=self.readonly,
            create=self.create and not self.readonly,
        )
        local.size()  # what is wrong with it is told now, not half-way
        return local

    @cached_property
    def contents(self) -> Contents:
        """What its records hold."""
        return Contents(self.local.read_result)

    @cached_property
    def history(self) -> History:
        """What is remembered of its runs."""
        return History(self.local.shelf, lambda name: self.root / name)

    def scan(self, pattern: str = "") -> Iterator[Variant]:
        """The records that hold something that matches a pattern (see `matches`)."""
        return (each for each in self.local.scan() if not pattern or self._matching(each, pattern))

    def held(self, pattern: str = "") -> list[Held]:
        """What the records hold that matches, newest first; what later ones took over, once."""
        found: dict[tuple[str, float], Held] = {}
        for record in self.local.scan():
            for each in self._matching(record, pattern):
                found[each.name, each.created] = each
        return sorted(found.values(), key=lambda each: -each.created)

    def _matching(self, record: Variant, pattern: str) -> list[Held]:
        return [each for each in self.contents.held(record) if matches(each, pattern)]

    def removing(self, act: Callable[[Project], object], *, dry_run: bool) -> tuple[list[str], int]:
        """Does what removes something; the names of the values and outcomes that it took away, and
        bytes. A dry run does it to a copy of the index."""
        before, size = self.held(), self.local.size()
        with ExitStack() as stack:
            project = self
            if dry_run:
                directory = Path(stack.enter_context(TemporaryDirectory()))
                self._copy_index(directory)
                copy = Project(self.root, self.settings, directory, readonly=False)
                copy.contents = self.contents
                project = stack.enter_context(closing(copy))
            act(project)
            left, rest = project.held(), project.local.size()
        there = {(each.name, each.created) for each in left}
        gone = [each.name for each in before if (each.name, each.created) not in there]
        return sorted(gone), max(size - rest, 0)

    def _copy_index(self, directory: Path) -> None:
        with closing(sqlite3.connect(directory / _INDEX)) as copy:
            self.local.index.read("copy the index", lambda connection: connection.backup(copy))
        (directory / _INDEX).chmod(0o600)

    @contextmanager
    def storages(self, on_fault: Callable[[str, str], None]) -> Iterator[StorageFactory]:
        """What makes the storages that the settings name; they are closed at the end."""
        factory = StorageFactory(self.local, self.root, self.settings, os.environ, on_fault)
        try:
            yield factory
        finally:
            factory.close()

    def prune_shared(self, asked: Retention) -> list[tuple[str, Removed]]:
        """As StorageFactory.prune_shared."""

        def failed(reason: str, detail: str) -> None:
            raise StorageError("shared storages", "prune", detail or reason)

        with self.storages(failed) as storages:
            return storages.prune_shared(asked)

    def forget(self, pattern: str) -> None:
        """Forgets what matches a pattern; records that hold more are written anew without it."""
        ids = []
        for record in list(self.scan(pattern)):
            ids.append(record.id)
            if any(not matches(each, pattern) for each in self.contents.held(record)):
                self.local.write_records([self._without(record, pattern)])
        self.local.remove_records(ids)
        self.local.prune(full=True)

    def _without(self, record: Variant, pattern: str) -> Variant:
        units = []
        for unit in self.contents.units(record):
            tests = {
                name: outcome
                for name, outcome in unit.tests.items()
                if not _is_match(f"{record.identity.file}::{name}", pattern)
            }
            if tests:
                units.append(replace(unit, tests=tests))
        data = json.dumps(encode(units), ensure_ascii=False).encode("utf-8", "surrogatepass")
        digest, inline = checksum_bytes(data), record.result.inline is not None
        if not inline:
            self.local.write_result(digest, [data])
        result = Result(digest, len(data), record.result.serializer, data if inline else None)
        return replace(record, id=f"{record.id}-{digest[:8]}", result=result)

    @contextmanager
    def far_storage(self, spec: str, faults: list[str], *, alone: bool) -> Iterator[Storage]:
        """Another storage than the local one, by its spec or name; ``alone``, or behind the local
        one where its tiers have that in front. What it cannot do is added to
        the faults; at the end so is what did not arrive. Raises ConfigurationError."""

        def on_fault(reason: str, detail: str = "") -> None:
            faults.append(detail or reason)

        written = spec or self.settings.storage
        with self.storages(on_fault) as storages:
            if all(tier.spec == LOCAL for tier in find_tiers(written, storages.names)):
                raise ConfigurationError(
                    "storage", "no other storage is set", "name one: a directory, a URL, or a name"
                )
            yield storages.apart(written) if alone else storages.route(written, written)[0]
            for drained in storages.drain(_UPLOAD_SECONDS):
                faults += drained.unsent

    def close(self) -> None:
        """Closes the storage, if it was opened."""
        if "local" in vars(self):
            self.local.close()


def matches(held: Held, pattern: str) -> bool:
    """Whether a name contains the pattern, or fits it where it has a ``*``; or a value was made
    by exactly that test. How a file is collected has no name but its file's."""
    if held.kind == "collection" and "<" not in pattern:
        return pattern in ("", held.record.identity.file)
    made = held.kind in ("value", "target") and pattern == held.record.producer
    return made or _is_match(held.name, pattern)


def _is_match(name: str, pattern: str) -> bool:
    if "*" in pattern:
        return fnmatch.fnmatchcase(name, pattern.replace("[", "[[]"))
    return pattern in name


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
            return directory, {
                name: " ".join(map(str, value)) if isinstance(value, list) else str(value)
                for name, value in tool.get("ini_options", tool).items()
            }
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


def _directory(root: Path, settings: Settings, ini: Mapping[str, str]) -> Path:
    named = only_directory(settings.storage, root)
    if named is not None:
        return named
    written = os.path.expandvars(ini.get("cache_dir", "") or ".pytest_cache")
    usual = root / Path(written).expanduser() / "taskcache"
    beside = root / ".taskcache"
    return beside if not usual.exists() and beside.exists() else usual
