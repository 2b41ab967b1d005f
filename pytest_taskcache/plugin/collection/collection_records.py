"""Where the records of files' collections are kept: in the local index, as ordinary variants, so
that what their traces share with others lives as long as they do."""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import xxhash

from pytest_taskcache.engine.cache import Engine
from pytest_taskcache.errors import StorageError
from pytest_taskcache.model.dependency import Dependency, Kind, Trace
from pytest_taskcache.model.event import Faulted
from pytest_taskcache.model.key import SCHEMA, Identity
from pytest_taskcache.model.modes import Mode
from pytest_taskcache.model.record import Result, Variant
from pytest_taskcache.observation.trace_recorder import digest_of
from pytest_taskcache.originals import originals
from pytest_taskcache.plugin.collection.collection_record import (
    FORMAT,
    CollectionRecord,
    DamagedRecordError,
)
from pytest_taskcache.plugin.collection.pytest_nodes import (
    is_skipped_by_mark,
    loaded_type,
    prepare_import,
    sources_of,
)
from pytest_taskcache.plugin.collection.recording import Recording
from pytest_taskcache.plugin.items import node_id
from pytest_taskcache.plugin.pytest_private import written_ini
from pytest_taskcache.plugin.surroundings import option_parts, plugin_distributions, plugin_parts

if TYPE_CHECKING:
    from pytest_taskcache.plugin.session import Session

_RECORD = "collection/json"
_SELECTION = "selection/json"

_COLLECTING = ("python_files", "python_classes", "python_functions", "markers")
"""Ini settings that no outcome depends on, but which tests there are."""

_SELECTING = (
    "keyword", "markexpr", "deselect", "ignore", "ignore_glob", "pyargs", "doctestmodules",
    "doctestglob", "keepduplicates", "collect_in_virtualenv", "noconftest",
)  # fmt: skip
_BY_HISTORY = ("lf", "stepwise", "newfirst", "looponfail", "collectonly", "rsyncdir")


class Kept(NamedTuple):
    """A record that is valid, and the variant that holds it."""

    variant: Variant
    record: CollectionRecord


class CollectionRecords:
    """The records of one run, to be asked for where there is an engine. A fault of the storage is
    notified, and there is no record."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._around: dict[Path, str] = {}
        self._number = 0

    @functools.cached_property
    def _engine(self) -> Engine:
        engine = self._session.engine
        assert engine is not None
        return engine

    def find(self, file: Path) -> Kept | None:
        """The newest record of a file that is valid. One that is damaged is dropped."""
        damaged: list[Variant] = []
        try:
            for variant in self.read(self.key(file)):
                if self._session.observatory.verify(variant.trace):
                    continue
                record = self._decoded(variant)
                if record is not None:
                    return Kept(variant, record)
                damaged.append(variant)
            return None
        finally:
            self.drop(damaged)

    def keep(self, recordings: Sequence[Recording]) -> None:
        """Writes records of what was watched, and of files that they will always be refused."""
        variants = []
        for each in recordings:
            record, file = each.record, each.module.path
            if not each.refusal:
                variants.append(self.variant_of(file, record, self._with_sources(each)))
            elif each.lasting:
                refused = CollectionRecord("", [], [], 0, reason=each.refusal)
                variants.append(self.variant_of(file, refused, self._text_of([str(file)])))
        self.write(variants)

    def variant_of(self, file: Path, record: CollectionRecord, trace: Trace) -> Variant:
        """A record of a file; nothing is written."""
        identity = Identity(self._session.fingerprints.name_of(file), "<collection>")
        return self.variant(self.key(file), identity, _RECORD, record.encode(), trace)

    def variant(
        self, key: str, identity: Identity, serializer: str, data: bytes, trace: Trace
    ) -> Variant:
        """A record of this room; nothing is written."""
        engine, age = self._engine, self._session.settings.tests_max_age
        now = engine.parts.clock()
        self._number += 1
        return Variant(
            id=f"{originals.now():016x}-{engine.run.id}-{engine.process}-c{self._number}",
            key=key,
            identity=identity,
            parts=(),
            trace=trace,
            result=Result(xxhash.xxh3_128_hexdigest(data), len(data), serializer, data),
            created=now,
            expires=None if age is None else now + age.total_seconds(),
            duration=0.0,
            producer=str(identity),
            versions=engine.parts.versions,
        )

    def read(self, key: str) -> list[Variant]:
        """The records under a key that have not expired, newest first."""
        try:
            found = self._engine.parts.local.read_records([key]).get(key, ())
        except StorageError as error:
            self._session.failed(error)
            return []
        now = self._engine.parts.clock()
        return [each for each in found if each.expires is None or each.expires > now]

    def write(self, variants: Sequence[Variant]) -> None:
        """Writes records."""
        if not variants:
            return
        try:
            for variant in variants:
                self._engine.recorder.write_parts(variant)
            self._engine.parts.local.write_records(variants)
        except StorageError as error:
            self._session.failed(error)

    def drop(self, variants: Sequence[Variant]) -> None:
        """Forgets records."""
        if not variants or self._engine.parts.mode is not Mode.READ_WRITE:
            return
        try:
            self._engine.parts.local.remove_records([variant.id for variant in variants])
        except StorageError as error:
            self._session.failed(error)

    def _decoded(self, variant: Variant) -> CollectionRecord | None:
        result = variant.result
        data: bytes | memoryview | None = result.inline
        try:
            if data is None:
                data = self._engine.parts.local.read_result(result.digest, result.size)
            if data is None or xxhash.xxh3_128_hexdigest(data) != result.digest:
                raise DamagedRecordError("damaged")
            record = CollectionRecord.decode(data)
            if all(loaded_type(one["T"]) for one in record.entries() if "T" in one):
                return record
        except StorageError as error:
            self._session.failed(error)
        except DamagedRecordError as error:
            self._session.notify(Faulted("record of a collection is damaged", str(error)))
        return None

    def _with_sources(self, recording: Recording) -> Trace:
        """The trace, and the text of the files that the tests come from: where their lines are,
        and which tests a class or module has, is no matter of its code's meaning."""
        world, trace = self._session.fingerprints, recording.observed.trace
        paths = sources_of(recording.module, recording.items)
        if b"import *" in recording.module.path.read_bytes():
            code = (one for one in trace.dependencies if one.kind in (Kind.MODULE, Kind.SOURCE))
            paths |= {str(world.path_of(one.name)) for one in code}
        known = {(one.kind, one.name) for one in trace.dependencies}
        more = self._text_of(paths).dependencies
        fresh = [one for one in more if (one.kind, one.name) not in known]
        dependencies = tuple(sorted((*trace.dependencies, *fresh)))
        return Trace(dependencies, digest_of(dependencies), trace.uses)

    def _text_of(self, paths: Iterable[str]) -> Trace:
        world = self._session.fingerprints
        names = sorted({world.name_of(path) for path in paths if world.is_project_file(path)})
        found = tuple(Dependency(Kind.FILE, n, world.digest(Kind.FILE, n)) for n in names)
        return Trace(found, digest_of(found))

    def key(self, file: Path) -> str:
        """The key of a file's records: what surrounds its collection, the same in every process
        of a run. Options, plugins, interpreter, and the sources of the conftests that act on it,
        loaded or not."""
        world, directory = self._session.fingerprints, file.parent
        around = self._around.get(directory)
        if around is None:
            root = self._session.config.rootpath
            above = [one for one in (directory, *directory.parents) if one.is_relative_to(root)]
            names = [world.name_of(one / "conftest.py") for one in above]
            chain = ",".join(world.digest(Kind.SOURCE, name) for name in names)
            around = self._around[directory] = f"{self._digest_of_run}\0{chain}"
        return xxhash.xxh3_128_hexdigest(f"{around}\0{world.name_of(file)}".encode())

    @functools.cached_property
    def _digest_of_run(self) -> str:
        session = self._session
        config, world = session.config, session.fingerprints
        written = written_ini(config)
        parts: list[tuple[str, str]] = [
            *((part.name, part.digest) for part in (*option_parts(config), *plugin_parts(config))),
            *((f"ini {name}", repr(_value(written.get(name)))) for name in _COLLECTING),
            # Those included that no outcome depends on: their hooks may act on collection.
            *((f"distribution {name}", version) for name, version in plugin_distributions(config)),
            ("python", world.digest(Kind.INTERPRETER, "python")),
            ("pytest", pytest.__version__),
            ("record", f"{SCHEMA}.{FORMAT}"),
            ("tests", session.settings.tests.value),
            *self._other_plugins(),
        ]
        return _digest_of(sorted(parts))

    def _other_plugins(self) -> Iterable[tuple[str, str]]:
        """The project's plugins that are no conftests under the root, by source."""
        config, world = self._session.config, self._session.fingerprints
        for plugin in config.pluginmanager.get_plugins():
            file = str(getattr(plugin, "__file__", None) or "")
            conftest = Path(file).name == "conftest.py"
            if not file.endswith(".py") or not world.is_project_file(file):
                continue
            if not (conftest and Path(file).is_relative_to(config.rootpath)):
                name = world.name_of(file)
                yield f"plugin {name}", world.digest(Kind.SOURCE, name)


class Selection:
    """Remembers which tests of which files a run of these arguments selects, so that the next one
    knows before it collects whether anything is left to run: if not, pytest-xdist need not start
    its workers. It is a guess: where it is wrong, the tests that are left run in this process."""

    def __init__(self, session: Session, records: CollectionRecords) -> None:
        self._session = session
        self._records = records
        option = session.config.option
        self._by_history = any(getattr(option, name, None) for name in _BY_HISTORY)

    def keep(self, items: Sequence[pytest.Item]) -> None:
        """Remembers what was selected, if all of it are tests that can be stood in for, and which
        files their directories hold, and those above them."""
        if self._by_history or not all(isinstance(item, pytest.Function) for item in items):
            return
        name_of = self._session.fingerprints.name_of
        files: dict[str, list[str]] = {}
        for item in items:
            file, _, name = node_id(item).partition("::")
            selected = files.setdefault(f"{name_of(item.path)}\n{file}", [])
            if not is_skipped_by_mark(item):
                selected.append(name)
        root, within = self._session.config.rootpath, {item.path.parent for item in items}
        above = {each for path in within for each in path.parents if each.is_relative_to(root)}
        named = {name_of(path): path for path in within | above}
        # A run's own temporary directory may lie where tests are looked for.
        directories = {n: _names_in(path) for n, path in named.items() if not n.startswith("<tmp>")}
        data = json.dumps({"directories": directories, "files": files}).encode()
        key = self._key()
        known = self._records.read(key)
        if not known or known[0].result.inline != data:
            identity = Identity("<selection>", "")
            self._records.write([self._records.variant(key, identity, _SELECTION, data, Trace())])
            self._records.drop(known)

    def is_replayed_whole(self) -> bool:
        """Whether every test that this run selects will be replayed, as far as can be told."""
        known = [] if self._by_history else self._records.read(self._key())
        if not known or known[0].result.inline is None:
            return False
        try:
            found = json.loads(known[0].result.inline)
        except ValueError:
            return False
        path_of, before = self._session.fingerprints.path_of, list(sys.path)
        whole = all(
            _names_in(path_of(name)) == names for name, names in found["directories"].items()
        ) and all(self._replays(name, selected) for name, selected in found["files"].items())
        if not whole:
            sys.path[:] = before  # which workers are given as it is
        return whole

    def _replays(self, name: str, selected: Sequence[str]) -> bool:
        file, _, nodeid = name.partition("\n")
        path = self._session.fingerprints.path_of(file)
        prepare_import(self._session.config, path)
        found = self._records.find(path)
        if found is None or found.record.reason:
            return False
        forecast = self._session.outcomes.forecast(path, nodeid)
        return all(found.record.tests.get(each) and each in forecast for each in selected)

    def _key(self) -> str:
        config = self._session.config
        return _digest_of(
            [
                *((name, repr(getattr(config.option, name, None))) for name in _SELECTING),
                ("arguments", [str(arg) for arg in config.args]),
                ("directory", str(config.invocation_params.dir)),
                ("norecursedirs", repr(_value(written_ini(config).get("norecursedirs")))),
                self._records.key(config.rootpath / "."),
            ]
        )


def _names_in(directory: Path) -> str:
    """A digest of the files in a directory. A new directory is missed: its tests run here."""
    try:
        with os.scandir(directory) as entries:
            found = sorted(one.name for one in entries if one.is_file() and one.name[0] != ".")
    except OSError:
        return ""
    return _digest_of(found)


def _digest_of(parts: list[Any]) -> str:
    return xxhash.xxh3_128_hexdigest(repr(parts).encode("utf-8", "surrogatepass"))


def _value(written: Any) -> object:
    """What was written for an ini setting: in an object of pytest's since 9.1."""
    return getattr(written, "value", written)
