"""Covered lines are kept beside the values of what covered them, and brought back with these.

For each value there is a record of lines, under a key made of the value's own and of what is
measured. It rests on what the value rests on; a value without one is not reused while coverage is
measured. Lines are written before others can see the value, those of tests when the fixtures that
they share have ended: see docs/decisions/0005.

Lines belong to a version of their file. In another one they are found again where they stand in
functions whose text is the same::

    1 def f():            1 # why
    2     return 1        2 def f():          {1: 2, 2: 3}: lines of f move down by one; a test
    3 def g():            3     return 1                    that ran g runs again
    4     return 2        4 def g():
                          5     return 3
"""

from __future__ import annotations

import ast
import inspect
from collections import defaultdict
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import pytest

from pytest_taskcache.checksum import checksum, checksum_bytes
from pytest_taskcache.code.definitions import INSIDE
from pytest_taskcache.code.function_source import definitions_in, first_line
from pytest_taskcache.dataclass import dataclass, field, replace
from pytest_taskcache.engine.cache import Engine
from pytest_taskcache.engine.computation import Basis, OpenComputation, Options
from pytest_taskcache.engine.keys import Keyed
from pytest_taskcache.engine.lookup import Found, Looked
from pytest_taskcache.engine.recorder import Finished
from pytest_taskcache.engine.routes import LostResultError, Route
from pytest_taskcache.errors import StorageError
from pytest_taskcache.model.decision import Fault, Miss, Uncacheable, Why
from pytest_taskcache.model.dependency import ABSENT, Change, Kind, Trace
from pytest_taskcache.model.event import Subject
from pytest_taskcache.model.key import Identity, Key, Part
from pytest_taskcache.model.record import Variant
from pytest_taskcache.observation.source_archive import source_on
from pytest_taskcache.originals import os_path
from pytest_taskcache.plugin.coverage import (
    Covered,
    Extent,
    Lines,
    Measurement,
    Region,
    Regions,
    merge,
    watch_imports,
)
from pytest_taskcache.plugin.items import Instance
from pytest_taskcache.plugin.outcomes.bundles import Bundle
from pytest_taskcache.plugin.outcomes.units import Ended
from pytest_taskcache.plugin.session import Session
from pytest_taskcache.serializers.compressed import CompressedSerializer

_SERIALIZER = CompressedSerializer("json")
_BATCH = 500
"""So many tests' lines are held in memory before those are written that can be."""


class CoverageKeeping:
    """The part that coverage has in a run of pytest; an `Attachment` of the engine's."""

    _lines: CoverageRecords
    """There from `attach` on: before that there is nothing to keep lines for."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._regions = Regions(self._digest)
        self._digests: dict[str, str] = {}
        self._pending: list[tuple[Finished, Region]] = []
        self._batch = _BATCH
        self._refusal = ""
        self._settled = self._ended = False
        self._stop_watching = watch_imports(self._regions, lambda: self.active)
        session.config.pluginmanager.register(self, "taskcache-coverage")

    @property
    def active(self) -> bool:
        """Whether coverage is being measured and its lines can be told apart."""
        self._find()
        return self._regions.measurement is not None

    @property
    def refusal(self) -> Uncacheable | None:
        """Why no value may stand in for a computation while coverage is measured so."""
        self._find()
        if not self._refusal:
            return None
        return Uncacheable(
            self._refusal, f"{self._refusal}: the lines of one test cannot be told from another's"
        )

    def attach(self, engine: Engine) -> None:
        """Has an engine keep and bring back lines along with values."""
        self._lines = CoverageRecords(engine, self._regions, self._digest)
        engine.attachment = self

    def collected(self) -> None:
        """Before the tests."""
        self._settled = self.active
        if not self._settled:
            self.finish()

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtestloop(self) -> Generator[None, object, object]:
        """Runs the tests, and gives the lines back: innermost, so before pytest-cov saves."""
        try:
            return (yield)
        finally:
            self.finish()

    def finish(self) -> None:
        """Before coverage saves: keeps what the tests covered, and gives all lines back."""
        if self._ended:
            return
        self._ended = True
        self._stop_watching()
        try:
            self._flush()
        finally:
            self._regions.measure(None)

    def _find(self) -> None:
        """Looks for a measurement, until the tests begin for a later one, too."""
        if self._ended or self._refusal:
            return
        known = self._regions.measurement
        if known is not None:
            if self._settled or not known.is_superseded:
                return
            self._regions.measure(None)
        measurement = Measurement.running()
        if measurement is None:
            return
        config = self._session.config
        given = (config.option, config.known_args_namespace)
        self._refusal = measurement.refusal
        if any(getattr(options, "cov_context", None) for options in given):
            self._refusal = "coverage with a context for each test"
        if not self._refusal:
            self._regions.measure(measurement)

    def open(
        self, extent: Extent = "computation", instances: Sequence[Instance] = ()
    ) -> Region | None:
        """A stretch of the run begins; None where nothing is measured. A test's lines are kept
        apart from those of the fixtures that it shares, ``instances``, which grow while it runs."""
        if not self.active:
            return None
        return self._regions.open(Region(extent, instances=instances))

    def begin(self, opened: OpenComputation) -> None:
        """A computation begins."""
        opened.attached = self.open()

    def end(self, opened: OpenComputation) -> None:
        """It ended."""
        self.close(opened.attached)

    def keep(self, opened: OpenComputation, finished: Finished) -> None:
        """Its value is about to be kept and seen by others: its lines first."""
        if isinstance(opened.attached, Region):
            self._lines.write(finished, self._gathered(opened.attached))
            opened.attached.kept = finished

    def bring_back(self, found: Found) -> Looked:
        """What was found, its lines brought back; or why it is not to be reused."""
        variant, context = found.decision.variant, found.computation.context
        if variant is None and self.active:
            return Miss(Why.UNCOVERED)
        of_fixture = context.subject is Subject.FIXTURE and _has_teardown(context.function)
        torn_down = ""
        if variant is not None and of_fixture and self._session.run().id not in variant.id:
            torn_down = variant.id  # a value of this very run is torn down in it
        missing = self._bring(found.keyed.key, found.route, torn_down)
        return found if missing is None else missing

    def begin_teardown(self, instance: Instance, function: Any) -> None:
        """A fixture's teardown is part of what it stands for, for the tests that share it and for
        whoever reuses its value."""
        computed = instance.attached
        kept = computed.kept if isinstance(computed, Region) and _has_teardown(function) else None
        if instance.regions or kept is not None:
            extent: Extent = "shared" if instance.regions else "computation"
            instance.regions.append(self._regions.open(Region(extent, kept=kept)))

    def torn_down(self, instance: Instance) -> None:
        """A fixture has ended."""
        for region in instance.regions[-1:]:
            self.close(region)
            if region.kept is not None and instance.variant is not None:
                self._lines.write(region.kept, self._gathered(region), instance.variant.id)

    def close(self, region: object) -> None:
        """Ends a region, if it is one."""
        if isinstance(region, Region):
            self._regions.close(region)

    def after_kept_test(self, ended: Ended, trace: Trace) -> None:
        """An outcome is kept. What else belongs to its lines is known when its fixtures end."""
        test = ended.test
        if test.region is None:
            return
        bundle, key = test.bundle, _key_of_test(test.bundle, test.name)
        finished = Finished(
            bundle.computation, Keyed(key), bundle.route, Basis(trace), ended.seconds
        )
        self._pending.append((finished, test.region))
        if len(self._pending) >= self._batch:
            self._flush(only_done=True)
            self._batch = len(self._pending) + _BATCH  # the rest waits for a fixture

    def prefetch_tests(self, tests: Iterable[tuple[Bundle, str]]) -> None:
        """Reads the records of the lines of many tests in one sweep."""
        if self.active:
            keys = ((bundle.route, _key_of_test(bundle, name)) for bundle, name in tests)
            self._lines.prefetch(keys)

    def bring_back_test(self, bundle: Bundle, name: str) -> Miss | Fault | None:
        """Brings back the lines of a test that is to be replayed; or why they cannot be."""
        return self._bring(_key_of_test(bundle, name), bundle.route)

    def _digest(self, file: str) -> str:
        """The digest of a file as it was when it was first asked for; "" if there is none."""
        known = self._digests.get(file)
        if known is None:
            fingerprints = self._session.fingerprints
            with self._session.observatory.muted():
                found = fingerprints.digest(Kind.FILE, fingerprints.name_of(file))
            known = self._digests[file] = "" if found == ABSENT else found
        return known

    def _bring(self, key: Key, route: Route, torn_down: str = "") -> Miss | Fault | None:
        """Brings back a value's lines, those of a named teardown too; or why they cannot be."""
        if not self.active:
            return Miss(Why.UNCOVERED) if self._refusal else None
        found: list[Covered] = []
        try:
            for each in dict.fromkeys(("", torn_down)):
                covered = self._lines.find(key, route, each)
                if isinstance(covered, Miss):
                    return covered
                found.append(covered)
        except Exception as error:  # storages and serializers may be users' code
            return Fault("covered lines not read", f"{type(error).__name__}: {error}")
        for covered in found:
            self._regions.bring(covered)
        return None

    def _gathered(self, region: Region) -> Covered:
        """All that a computation stands for: its own lines, those of the fixtures it shares,
        and those of the modules that it imported, or would have if it had been first."""
        covered: Covered = {"": {}}
        imports = self._regions.imports
        waiting = [region, *(part for each in region.instances for part in each.regions)]
        for part in waiting:
            merge(covered[""], part.lines)
        while waiting:
            for file in waiting.pop().files():
                if file in imports and file not in covered:
                    covered[file] = imports[file].lines
                    waiting.append(imports[file])
        return covered

    def _flush(self, *, only_done: bool = False) -> None:
        waiting, self._pending = self._pending, []
        with self._session.observatory.muted():
            for finished, region in waiting:
                shared = (each.transaction for each in region.instances)
                if only_done and any(each is not None and each.is_active() for each in shared):
                    self._pending.append((finished, region))
                else:
                    self._lines.write(finished, self._gathered(region), at_once=False)


@dataclass
class CoverageRecords:
    """Writes covered lines under keys derived from the computations', and reads them again.

    ``digest(file)`` is the one of a file as it is now. Faults are notified, never raised.
    """

    engine: Engine
    regions: Regions
    digest: Callable[[str], str]
    _moves: dict[tuple[str, str], Mapping[int, int]] = field(default_factory=dict)
    _imported: dict[str, tuple[int, list[object] | None]] = field(default_factory=dict)
    """The entries of modules, which all tests that import them have; with the number of lines."""
    _known: dict[str, list[tuple[Variant, Covered]]] = field(default_factory=dict)
    _prefetched: dict[str, Sequence[Variant]] = field(default_factory=dict)

    @property
    def _measurement(self) -> Measurement:
        assert self.regions.measurement is not None
        return self.regions.measurement

    def _key(self, key: Key, torn_down: str) -> Key:
        """That of the lines of the computation with this key, or of the teardown of its value."""
        identity, measured = key.identity, self._measurement.identity
        return Key(
            checksum((key.digest, "coverage", measured, torn_down)),
            Identity(identity.file, f"{identity.name} (coverage)"),
            (Part("coverage", measured),),
            key.vouched,
        )

    def write(
        self, finished: Finished, covered: Covered, torn_down: str = "", *, at_once: bool = True
    ) -> None:
        """Writes the lines of a computation whose value is kept; ``torn_down`` is the id of the
        value whose teardown covered them. ``at_once``: before anything else is written."""
        computation = finished.computation
        options = Options(serializer=_SERIALIZER, expiration=computation.options.expiration)
        lines = Finished(
            replace(computation, options=options),
            Keyed(self._key(finished.keyed.key, torn_down)),
            finished.route,
            replace(finished.basis, derives_from=frozenset()),
            finished.duration,
            told=None if at_once else lambda refusal: None,
        )
        with self.engine.quiet():
            document = self._encoded(covered)
            if document is not None:
                self.engine.recorder.keep(lines, document)

    def _encoded(self, covered: Covered) -> dict[str, object] | None:
        """The lines as JSON values; None where they could not be believed later."""
        document: dict[str, object] = {}
        for module, lines in covered.items():
            count = sum(map(len, lines.values()))
            known, entries = self._imported.get(module, (-1, None))
            if not module or known != count:
                entries = self._entries(lines)
                self._imported[module] = count, entries
            if entries is None:
                return None
            document[module and self.engine.fingerprints.name_of(module)] = entries
        return document

    def _entries(self, lines: Lines) -> list[object] | None:
        name_of, measurement = self.engine.fingerprints.name_of, self._measurement
        named = ((name_of(file), file) for file in sorted(lines))
        entries = [
            [name, self.digest(file), measurement.to_plain(lines[file])]
            for name, file in named
            if not name.startswith("<tmp>")  # else it will not be there
        ]
        if measurement.is_translated(lines) or not all(digest for _, digest, _ in entries):
            return None
        return [*entries]

    def prefetch(self, keys: Iterable[tuple[Route, Key]]) -> None:
        """Reads the records of these keys in one sweep; each is handed out once by `find`."""
        routes: dict[str, tuple[Route, list[str]]] = {}
        for route, key in keys:
            routes.setdefault(route.name, (route, []))[1].append(self._key(key, "").digest)
        with self.engine.quiet(), suppress(StorageError):  # met again by `find`, which tells
            for route, digests in routes.values():
                found = route.records.read_records(digests)
                self._prefetched.update((digest, found.get(digest, ())) for digest in digests)

    def find(self, key: Key, route: Route, torn_down: str) -> Covered | Miss:
        """The lines for this key, where they stand now; else why not. Raises StorageError."""
        digest = self._key(key, torn_down).digest
        known = self._known.setdefault(digest, [])
        miss = Miss(Why.UNCOVERED)
        with self.engine.quiet():
            for variant, covered in known:
                if self._holds(variant):
                    return covered
            variants = self._prefetched.pop(digest, None)
            if variants is None:
                variants = route.records.read_records([digest]).get(digest, ())
            for variant in variants:
                if not self._holds(variant):
                    continue
                try:
                    found = self._decoded(variant, route)
                except LostResultError:
                    continue  # as if it had never been written
                if not isinstance(found, str):
                    self.engine.used.add(variant.id)
                    known.append((variant, found))
                    return found
                miss = Miss(Why.UNCOVERED, (Change("covered file", found, "", ""),))
        return miss

    def _holds(self, variant: Variant) -> bool:
        return variant.vouched or not self.engine.parts.observation.verify(variant.trace)

    def _decoded(self, variant: Variant, route: Route) -> Covered | str:
        """The lines; or the path of a file that changed where they stood."""
        payloads = self.engine.parts.payloads
        document: Any = payloads.read(variant.result, route.results, _SERIALIZER)
        covered: Covered = {}
        for name, entries in document.items():
            module = name and self._file(name)
            lines = covered[module] = {}
            if module in self.regions.imports:
                continue
            for path, digest, plain in entries:
                file = self._file(path)
                if self.digest(file) != digest:
                    plain = None if module else self._moved(plain, path, digest)
                if plain is None:
                    return str(path)
                lines.setdefault(file, set()).update(self._measurement.from_plain(plain))
        return covered

    def _moved(self, plain: Iterable[int], path: str, digest: str) -> list[int] | None:
        """Where lines now stand that were noted in an earlier version of a file."""
        moves = self._moves.get((path, digest))
        if moves is None:
            before = source_on(self.engine.parts.local.shelf, digest)
            now = self.engine.fingerprints.source(path)
            if before and now and checksum_bytes(now) == self.digest(self._file(path)):
                moves = moved_lines(before, now)
            moves = self._moves[path, digest] = moves or {}
        try:  # a negative one stands for the beginning or the end of a function
            return [moves[one] if one > 0 else -moves[-one] for one in plain]
        except KeyError:
            return None

    def _file(self, path: str) -> str:
        """The name of a file as coverage knows it: links followed."""
        return os_path.realpath(self.engine.fingerprints.path_of(path))


def moved_lines(before: bytes, now: bytes) -> dict[int, int]:
    """Where the lines of functions whose text is the same in both versions of a file now stand,
    by where they stood. Of two functions of one name with one text the first is the first."""
    moves: dict[int, int] = {}
    present = _functions(now)
    for function, firsts in _functions(before).items():
        others = present.get(function, ())
        if len(firsts) == len(others):
            for old, new in zip(firsts, others, strict=True):
                count = function[1].count(b"\n") + 1
                moves.update(zip(range(old, old + count), range(new, new + count), strict=True))
    return moves


def _functions(content: bytes) -> Mapping[tuple[str, bytes], list[int]]:
    """The first lines of the outermost functions, by qualified name and text; none of no Python."""
    # As the parser counts lines: other line breaks (form feeds, ...) are none.
    lines = content.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    found: dict[tuple[str, bytes], list[int]] = defaultdict(list)
    for name, node in definitions_in(content):
        if not isinstance(node, ast.ClassDef) and INSIDE not in name:
            text = b"\n".join(lines[first_line(node) - 1 : node.end_lineno])
            found[name, text].append(first_line(node))
    return {function: sorted(firsts) for function, firsts in found.items()}


def _key_of_test(bundle: Bundle, name: str) -> Key:
    key, file = bundle.keyed.key, bundle.computation.test.partition("::")[0]
    return replace(key, digest=checksum((key.digest, name)), identity=Identity(file, name))


def _has_teardown(function: Any) -> bool:
    function = inspect.unwrap(getattr(function, "__func__", function))
    return inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)
