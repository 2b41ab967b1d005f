"""Watches files that are collected really, and keeps what it saw as their records."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import xxhash

from pytest_taskcache.code.asleep import namespace_of
from pytest_taskcache.config.settings import Tests
from pytest_taskcache.errors import StorageError
from pytest_taskcache.model.dependency import Dependency, Kind, Observed, Trace
from pytest_taskcache.model.event import Faulted
from pytest_taskcache.model.key import Identity
from pytest_taskcache.model.modes import Mode
from pytest_taskcache.model.record import Result, Variant
from pytest_taskcache.observation.hooks.originals import originals
from pytest_taskcache.plugin.collection.forecast import ReplayForecast
from pytest_taskcache.plugin.collection.pytest_nodes import (
    Description,
    import_root,
    is_skipped_by_mark,
    loaded_type,
    module_name,
    sources_of,
)
from pytest_taskcache.plugin.collection.record import (
    CollectionRecord,
    DamagedRecordError,
    GlobalState,
    Json,
    UnrecordableError,
    asks_the_clock,
)
from pytest_taskcache.plugin.outcomes.bundles import digest_of
from pytest_taskcache.plugin.outcomes.reports import warning_to_json
from pytest_taskcache.ports import Observation, Window

if TYPE_CHECKING:
    from pytest_taskcache.plugin.session import Session

SERIALIZER = "collection/json"
NAME = "<collection>"
"""What stands for the qualified name in the identity of a file's collection."""


class Recording:
    """One file whose collection is watched, from the start of its import to the next file's."""

    def __init__(
        self, module: pytest.Module, observation: Observation, loaded: LoadedFiles
    ) -> None:
        self.module = module
        self.refusal = ""
        self.lasting = False
        """Whether the refusal will be the same as long as the file is."""
        self.observed = Observed()
        self.items: list[pytest.Item] = []
        self.record: CollectionRecord | None = None
        self._observation = observation
        with observation.muted():
            self._before = GlobalState()
        self._warned = len(_warnings() or ())
        self._description = Description()
        self._entries: dict[pytest.Collector, list[tuple[Any, Json]]] = {}
        if str(module.path) in loaded.present():
            self.refusal = "it was imported before it was collected"
        self.window: Window = observation.open_window(None)

    def owns(self, collector: pytest.Collector) -> bool:
        """Whether a collector is a part of this file."""
        return collector.getparent(pytest.Module) is self.module

    def collected(self, collector: pytest.Collector, report: pytest.CollectReport) -> None:
        """Takes what one of its collectors gave, before any hook sees it."""
        if self.refusal:
            return
        if not report.passed:
            self.refuse(f"collecting it {report.outcome}", lasting=False)
            return
        try:
            self._entries[collector] = [
                (node, self._description.node(node)) for node in report.result
            ]
        except UnrecordableError as error:
            self.refuse(str(error))
        except Exception as error:  # a plugin's item may be as odd as it likes
            self.refuse(f"it cannot be described ({type(error).__name__})")

    def refuse(self, reason: str, *, lasting: bool = True) -> None:
        """Notes why there will be no record; the first reason counts."""
        if not self.refusal:
            self.refusal, self.lasting = reason, lasting

    def finish(self, acting: Observed) -> None:
        """Ends the watch; ``acting`` is what the project's plugins rest on."""
        try:
            if not self.refusal:
                with self._observation.muted():
                    self.record = self._describe()
        except UnrecordableError as error:
            self.refuse(str(error))
        if self.refusal:
            self.window.discard()
            return
        self.window.absorb(acting.trace)
        self.observed = self.window.close()
        doubts = (*self.observed.untrusted, *acting.untrusted)
        if doubts:
            self.refuse(doubts[0], lasting=False)
        elif self.observed.opaque:
            self.refuse(f"importing it used {self.observed.opaque[0]}")
        elif self.observed.written:
            self.refuse(f"importing it wrote {self.observed.written[0]}")

    def _describe(self) -> CollectionRecord:
        module = self.module
        if hasattr(module.obj, "pytest_plugins"):
            raise UnrecordableError("it names pytest_plugins")
        after = GlobalState()
        changed = self._before.difference(after)
        if changed:
            raise UnrecordableError(f"importing it changes {changed}")
        if not self._before.allows(after, import_root(module.config, module.path)):
            raise UnrecordableError("importing it changes sys.path")
        if asks_the_clock(module.path.read_bytes()):
            raise UnrecordableError("it asks for the time or for chance when it is imported")
        marks = self._description.marks(module.own_markers)
        return CollectionRecord(
            module=module_name(module),
            children=self._tree(module),
            table=self._description.table,
            marks=marks,
            warnings=self._warnings(),
        )

    def _tree(self, collector: pytest.Collector) -> list[Json]:
        found = self._entries.get(collector)
        if found is None:
            self.refuse("it was collected in part", lasting=False)
            raise UnrecordableError
        for node, entry in found:
            if isinstance(node, pytest.Item):
                self.items.append(node)
            else:
                entry["c"] = self._tree(node)
        return [entry for _, entry in found]

    def _warnings(self) -> list[Json]:
        log = _warnings()
        if log is None:
            return []
        return [warning_to_json(one, "collect", None) for one in log[self._warned :]]


class LoadedFiles:
    """The files that modules were loaded from so far in this session; each module is looked at
    once."""

    def __init__(self) -> None:
        self._seen: set[tuple[str, int]] = set()
        self._files: set[str] = set()

    def present(self) -> Container[str]:
        """The absolute paths of the files."""
        modules = {(name, id(module)): module for name, module in list(sys.modules.items())}
        for one in modules.keys() - self._seen:
            file = namespace_of(modules[one]).get("__file__")
            if isinstance(file, str):
                self._files.add(file)
        self._seen.update(modules)
        return self._files


def _warnings() -> list[warnings.WarningMessage] | None:
    """What pytest caught so far of what is warned of while it collects; None where it catches
    nothing."""
    log = getattr(getattr(warnings, "_showwarnmsg_impl", None), "__self__", None)
    return log if isinstance(log, list) else None


def warn_again(record: CollectionRecord) -> bool:
    """Has pytest show the warnings of a record's collection; False, and nothing is shown, where
    one cannot be made again."""
    from pytest_taskcache.plugin.outcomes.reports import warning_from_json

    if not record.warnings:
        return True
    log = _warnings()
    known = (getattr(sys.modules.get(m), n, None) for m, n in _categories(record))
    if log is None or not all(isinstance(one, type) for one in known):
        return False
    log.extend(warning_from_json(entry) for entry in record.warnings)
    return True


def _categories(record: CollectionRecord) -> list[tuple[str, str]]:
    return [tuple(entry["category"]) for entry in record.warnings]


class Records:
    """The records of files' collections, in the local index: as ordinary variants, so that what
    their traces share with others lives as long as they do."""

    def __init__(self, session: Session, forecast: ReplayForecast) -> None:
        self._session = session
        self._forecast = forecast
        self._number = 0

    def find(self, file: Path) -> tuple[Variant, CollectionRecord] | None:
        """The newest record of a file that is valid, with the variant that holds it. One that is
        damaged is dropped."""
        engine = self._session.engine
        if engine is None:
            return None
        key, observation = self._forecast.surroundings(file), engine.parts.observation
        damaged: list[str] = []
        try:
            for variant in engine.parts.local.read_records([key]).get(key, ()):
                if variant.expires is not None and variant.expires <= engine.parts.clock():
                    continue
                if observation is None or observation.verify(variant.trace):
                    continue
                found = self._decode(variant)
                if found is not None:
                    return variant, found
                damaged.append(variant.id)
            return None
        except StorageError as error:
            engine.notify(Faulted(f"{error.operation} failed: {error.reason}", str(error)))
            return None
        finally:
            self.drop(damaged)

    def _decode(self, variant: Variant) -> CollectionRecord | None:
        engine, result = self._session.engine, variant.result
        data: bytes | memoryview | None = result.inline
        if engine is None or result.serializer != SERIALIZER:
            return None
        if data is None:
            data = engine.parts.local.read_result(result.digest, result.size)
        try:
            if data is None or xxhash.xxh3_128_hexdigest(data) != result.digest:
                raise DamagedRecordError("damaged")
            record = CollectionRecord.decode(data)
            if all(loaded_type(kind) is not None for kind in record.kinds()):
                return record
        except DamagedRecordError as error:
            engine.notify(Faulted("record of a collection is damaged", str(error)))
        return None

    def drop(self, ids: Sequence[str]) -> None:
        """Forgets records. A fault is notified."""
        engine = self._session.engine
        if not ids or engine is None or engine.parts.mode is not Mode.READ_WRITE:
            return
        try:
            engine.parts.local.remove_records(ids)
        except StorageError as error:
            engine.notify(Faulted(f"{error.operation} failed: {error.reason}", str(error)))

    def keep(self, recordings: Sequence[Recording]) -> None:
        """Writes the records of what was watched, once the keys of its tests are known; of a file
        that will always be refused, that it is."""
        variants = []
        for recording in recordings:
            record, file = recording.record, recording.module.path
            if recording.refusal:
                if recording.lasting:
                    refused = CollectionRecord("", [], [], 0, reason=recording.refusal)
                    variants.append(self._variant(file, refused, self._text_of([str(file)])))
                continue
            assert record is not None
            record.tests = [self._forecast.key_of(item) for item in recording.items]
            if self._is_worth_keeping(record, recording.items):
                variants.append(self._variant(file, record, self._with_sources(recording)))
        self._write(variants)

    def again(
        self,
        file: Path,
        known: tuple[Variant, CollectionRecord],
        ids: Sequence[str],
        items: Mapping[str, pytest.Item],
    ) -> None:
        """Completes the record of a file that was valid but collected really: the keys of tests
        that were not derived before."""
        variant, record = known
        found = [self._forecast.key_of(items[one]) if one in items else ("", "") for one in ids]
        merged = [
            new if new[0] else (old[0], old[1])
            for new, old in zip(found, record.tests, strict=True)
        ]
        if merged == [tuple(pair) for pair in record.tests]:
            return
        record.tests = merged
        self._write([self._variant(file, record, variant.trace)])
        self.drop([variant.id])

    def _write(self, variants: Sequence[Variant]) -> None:
        """Writes records. A fault is notified."""
        engine = self._session.engine
        if engine is None or not variants:
            return
        try:
            for variant in variants:
                engine.recorder.write_parts(variant)
            engine.parts.local.write_records(variants)
        except StorageError as error:
            engine.notify(Faulted(f"{error.operation} failed: {error.reason}", str(error)))

    def _is_worth_keeping(self, record: CollectionRecord, items: Sequence[pytest.Item]) -> bool:
        known = [bool(key) for key, _ in record.tests]
        if self._session.settings.tests is Tests.ALL:
            return any(known) or not known
        return bool(known) and all(
            here or is_skipped_by_mark(item) for here, item in zip(known, items, strict=True)
        )

    def _with_sources(self, recording: Recording) -> Trace:
        """The trace, and the text of the files that the tests come from: where their lines are,
        and which tests a class or module has, is no matter of its code's meaning."""
        world, trace = self._session.fingerprints, recording.observed.trace
        paths = sources_of(recording.module, recording.items)
        if b"import *" in recording.module.path.read_bytes():
            code = (one for one in trace.dependencies if one.kind in (Kind.MODULE, Kind.SOURCE))
            paths |= {str(world.path_of(one.name)) for one in code}
        more = self._text_of(paths).dependencies
        known = {(one.kind, one.name) for one in trace.dependencies}
        fresh = [one for one in more if (one.kind, one.name) not in known]
        dependencies = tuple(sorted((*trace.dependencies, *fresh)))
        return Trace(dependencies, digest_of(dependencies), trace.uses)

    def _text_of(self, paths: Iterable[str]) -> Trace:
        world = self._session.fingerprints
        names = sorted({world.name_of(path) for path in paths if world.is_project_file(path)})
        found = tuple(Dependency(Kind.FILE, n, world.digest(Kind.FILE, n)) for n in names)
        return Trace(found, digest_of(found))

    def _variant(self, file: Path, record: CollectionRecord, trace: Trace) -> Variant:
        name = self._session.fingerprints.name_of(file)
        key = self._forecast.surroundings(file)
        return self.variant(key, name, NAME, SERIALIZER, record.encode(), trace)

    def variant(
        self, key: str, file: str, name: str, serializer: str, data: bytes, trace: Trace
    ) -> Variant:
        """A record of this room; nothing is written."""
        session = self._session
        engine = session.engine
        assert engine is not None
        now, age = engine.parts.clock(), session.settings.tests_max_age
        self._number += 1
        identity = Identity(file, name)
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
