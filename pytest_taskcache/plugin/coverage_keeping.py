"""Covered lines are kept with what covered them, and brought back when it is reused."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Generator, Iterable, Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import pytest
import xxhash

from pytest_taskcache.dataclass import fields, replace
from pytest_taskcache.engine.cache import Engine
from pytest_taskcache.engine.computation import Basis, Computation
from pytest_taskcache.engine.eligibility import Refusal
from pytest_taskcache.engine.keys import Keyed
from pytest_taskcache.engine.lookup import Found, Lookup
from pytest_taskcache.engine.open_computations import OpenComputation, OpenComputations
from pytest_taskcache.engine.recorder import Finished, Recorder
from pytest_taskcache.engine.routes import Route
from pytest_taskcache.model.decision import Fault, Miss, Uncacheable, Why
from pytest_taskcache.model.dependency import Observed, Trace
from pytest_taskcache.model.event import Subject as Sort
from pytest_taskcache.model.key import Identity
from pytest_taskcache.model.record import Variant
from pytest_taskcache.plugin.coverage import Lines, running
from pytest_taskcache.plugin.covered_imports import ImportWatch, files_of, reached
from pytest_taskcache.plugin.covered_records import Covered, CoveredRecords, Subject
from pytest_taskcache.plugin.covered_regions import Extent, Region, Regions, merge
from pytest_taskcache.plugin.covered_source import Source, source_of
from pytest_taskcache.plugin.outcomes.bundles import Bundle
from pytest_taskcache.plugin.outcomes.units import Ended
from pytest_taskcache.plugin.pytest_private import is_handle
from pytest_taskcache.plugin.running import Instance
from pytest_taskcache.ports import Window
from pytest_taskcache.transactions.transaction import Transaction

if TYPE_CHECKING:
    from pytest_taskcache.plugin.session import Session

_TEARDOWN = "teardown"
_BATCH = 500
"""So many tests' lines are held in memory before those are written that can be."""


class CoverageKeeping:
    """The part that coverage has in a run of pytest.

    A record of lines lies beside each record of a value, under a key of its own; a value
    without one is not reused while coverage is measured.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._sources: dict[str, Source] = {}
        self._regions = Regions(self.source)
        self._imports: dict[str, Region] = {}
        self._by_frame: dict[OpenComputation, Region] = {}
        self._fixtures: WeakKeyDictionary[Instance, list[Region]] = WeakKeyDictionary()
        self._live: set[Instance] = set()
        self._kept: dict[str, Subject] = {}
        self._replayed: list[str] = []
        self._pending: list[tuple[Subject, Region]] = []
        self._last = threading.local()
        self._records: CoveredRecords | None = None
        self._engine: Engine | None = None
        self._refusal = ""
        self._batch = _BATCH
        self._settled = self._ended = False
        self._watch = ImportWatch(self._import_begins, self._regions.close, self._regions.request)
        session.config.pluginmanager.register(RunHooks(self), "taskcache-coverage-run")

    # --------------------------------------------------------------------- life of a run

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
        self._engine = engine
        engine.open_computations = CoveredComputations(self)
        lookup: CoveredLookup = _as(CoveredLookup, engine.lookup)
        recorder: CoveredRecorder = _as(CoveredRecorder, engine.recorder)
        lookup.coverage = recorder.coverage = self
        engine.lookup, engine.recorder = lookup, recorder

    def collected(self) -> None:
        """Before the tests."""
        if not self.active:
            self.finish()
            return
        self._settled = True
        hooks = FixtureCoverageHooks(self, self._session)
        self._session.config.pluginmanager.register(hooks, "taskcache-coverage-fixtures")

    def finish(self) -> None:
        """After the tests, before coverage saves: keeps what the tests covered, and gives all
        lines back."""
        if self._ended:
            return
        self._ended = True
        self._watch.stop()
        try:
            self._flush()
        finally:
            self._regions.measure(None)

    # --------------------------------------------------------------------------- regions

    def begin(self, frame: OpenComputation) -> None:
        """A computation begins."""
        if self.active:
            self._by_frame[frame] = self._regions.open(Region())

    def begin_test(self, instances: Sequence[Instance]) -> Region | None:
        """A test begins, whose lines are kept apart from those of the fixtures that it shares;
        ``instances`` grows while it runs."""
        if not self.active:
            return None
        return self._regions.open(Region(Extent.TEST, instances=instances))

    def end_test(self, region: Region | None) -> None:
        """Ends what `begin_test` began."""
        if region is not None:
            self._regions.close(region)

    def end(self, frame: OpenComputation) -> None:
        """A computation ended; what it covered goes with its value, if that is kept next."""
        region = self._by_frame.pop(frame, None)
        if region is not None:
            self._regions.close(region)
        self._last.region = region

    def open(self, extent: Extent) -> Region:
        """Begins a region that is no computation's."""
        return self._regions.open(Region(extent))

    def close(self, region: Region) -> None:
        """Ends it."""
        self._regions.close(region)

    def set_up(self, instance: Instance, regions: list[Region]) -> None:
        """What a fixture covers belongs to the tests that use it."""
        self._fixtures[instance] = regions
        self._live.add(instance)

    # ------------------------------------------------------------------- keeping lines

    def before_kept(self, subject: Subject) -> None:
        """A function's or a fixture's value is about to be seen by others: its lines first."""
        region = getattr(self._last, "region", None)
        if region is not None and self._lines is not None:
            self._lines.write([(subject, self._gathered(region), "")])

    def after_kept(self, subject: Subject, variant: Variant) -> None:
        """A value is kept. What else belongs to a test's lines is known when its fixtures end."""
        region, self._last.region = getattr(self._last, "region", None), None
        if region is not None and subject.computation.context.subject is Sort.FIXTURE:
            self._kept[variant.id] = subject

    def after_kept_test(self, ended: Ended, trace: Trace) -> None:
        """The outcome of a test is kept. What else belongs to its lines is known when its
        fixtures end."""
        if not isinstance(ended.region, Region):
            return
        bundle = ended.bundle
        keyed = _keyed_of_test(bundle, ended.name)
        subject = Subject(bundle.computation, keyed, bundle.route, Basis(trace), ended.seconds)
        self._pending.append((subject, ended.region))
        if len(self._pending) >= self._batch:
            self._flush(only_done=True)
            self._batch = len(self._pending) + _BATCH  # the rest waits for a fixture

    def torn_down(self, instance: Instance, region: Region) -> None:
        """A fixture's teardown ran: it is part of what its value stands for."""
        self._live.discard(instance)
        variant = instance.variant
        if variant is None or variant.id in self._replayed or self._lines is None:
            return
        subject = self._kept.pop(variant.id, None)
        if subject is not None:
            covered = self._gathered(region)
            self._lines.write([(subject, covered, f"{_TEARDOWN} {variant.id}")])

    # ----------------------------------------------------------------- bringing them back

    def replay(self, lookup: CoveredLookup, computation: Computation, keyed: Keyed,
               route: Route, found: Found) -> Found | Miss:  # fmt: skip
        """What was found, its lines brought back; or a miss where there are none."""
        variant = found.decision.variant
        if self._lines is None or variant is None:
            return Miss(Why.UNCOVERED)
        additions = [""]
        context = computation.context
        if (
            context.subject is Sort.FIXTURE
            and _has_teardown(context.function)
            and lookup.run_id not in variant.id  # else this run tears it down itself
        ):
            additions.append(f"{_TEARDOWN} {variant.id}")
        brought = []
        for addition in additions:
            covered = self._lines.find(
                keyed.key.digest,
                route,
                lookup.records_of,
                vouched=keyed.key.vouched,
                addition=addition,
            )
            if isinstance(covered, Miss):
                return covered
            brought.append(covered)
        for covered in brought:
            self._bring(covered)
        self._replayed.append(variant.id)
        return found

    def prefetch_tests(self, tests: Iterable[tuple[Bundle, str]]) -> None:
        """Reads the records of the lines of many tests in one sweep."""
        if self._lines is None or self._engine is None or not self.active:
            return
        routes: dict[str, tuple[Route, dict[str, str]]] = {}
        for bundle, name in tests:
            keys = routes.setdefault(bundle.route.name, (bundle.route, {}))[1]
            keys[self._lines.key(_keyed_of_test(bundle, name).key.digest)] = ""
        for route, keys in routes.values():
            self._engine.lookup.prefetch(route, keys)

    def bring_back_test(self, bundle: Bundle, name: str) -> Miss | Fault | None:
        """Brings back the lines of a test that is to be replayed; or why they cannot be."""
        if self.refusal is not None:
            return Miss(Why.UNCOVERED)
        if not self.active or self._engine is None:
            return None
        lookup = self._engine.lookup
        assert isinstance(lookup, CoveredLookup)
        if self._lines is None:
            return Miss(Why.UNCOVERED)
        key = _keyed_of_test(bundle, name).key
        try:
            covered = self._lines.find(
                key.digest, bundle.route, lookup.records_of, vouched=key.vouched
            )
        except Exception as error:  # storages and serializers may be users' code
            return Fault("covered lines not read", f"{type(error).__name__}: {error}")
        if isinstance(covered, Miss):
            return covered
        self._bring(covered)
        return None

    def _bring(self, covered: Covered) -> None:
        for file, lines in covered.imported.items():
            self._imports.setdefault(file, Region(Extent.IMPORT, lines))
        self._regions.bring(covered.ran, covered.imported)

    @property
    def replayed(self) -> Sequence[str]:
        """Ids of the variants that were reused, in order."""
        return self._replayed

    # ------------------------------------------------------------------------ internals

    @property
    def _lines(self) -> CoveredRecords | None:
        measurement = self._regions.measurement
        if self._records is None and self._engine is not None and measurement is not None:
            self._records = CoveredRecords(
                self._engine, measurement, self.source, self._imports.__contains__
            )
        return self._records

    def _find(self) -> None:
        if self._ended or self._refusal:
            return
        known = self._regions.measurement
        if known is not None:
            if self._settled or not known.is_superseded:
                return
            self._regions.measure(None)
            self._records = None
            self._imports.clear()
        measurement = running()
        if measurement is None:
            return
        config = self._session.config
        given = (config.option, config.known_args_namespace)
        self._refusal = measurement.refusal
        if any(getattr(options, "cov_context", None) for options in given):
            self._refusal = "coverage with a context for each test"
        if not self._refusal:
            self._regions.measure(measurement)

    def source(self, file: str) -> Source:
        """A file as it was when it was first asked for."""
        known = self._sources.get(file)
        if known is None:
            with self._session.observatory.muted():
                known = self._sources[file] = source_of(file)
        return known

    def _import_begins(self, file: str) -> Region:
        region = Region(Extent.IMPORT)
        if self.active:
            self._imports[file] = self._regions.open(region, file)
        return region

    def _gathered(self, region: Region) -> Covered:
        """All that a computation stands for: its own lines, those of the fixtures it shares,
        and those of the modules that it imported, or would have if it had been first."""
        ran: Lines = {}
        start: set[str] = set()
        for part in (region, *self._shared(region)):
            merge(ran, part.lines)
            start |= self._imported_in(part)
        found = reached(start, lambda file: self._imported_in(self._imports[file]), self._imports)
        return Covered(ran, {file: self._imports[file].lines for file in found})

    def _shared(self, region: Region) -> Iterable[Region]:
        for instance in region.instances:
            yield from self._fixtures.get(instance, ())

    def _imported_in(self, region: Region) -> set[str]:
        return {*region.imported, *files_of(region.requested)}

    def _flush(self, *, only_done: bool = False) -> None:
        waiting, self._pending = self._pending, []
        if not waiting or self._lines is None:
            return
        with self._session.observatory.muted():
            ready = []
            for subject, region in waiting:
                if only_done and not self._is_done(region):
                    self._pending.append((subject, region))
                else:
                    ready.append((subject, self._gathered(region), ""))
            self._lines.write(ready)

    def _is_done(self, region: Region) -> bool:
        return self._live.isdisjoint(region.instances)


class CoveredComputations(OpenComputations):
    """OpenComputations that are regions of coverage too."""

    def __init__(self, coverage: CoverageKeeping) -> None:
        super().__init__()
        self._coverage = coverage

    def open(self, window: Window | None) -> OpenComputation:
        """As OpenComputations.open."""
        frame = super().open(window)
        self._coverage.begin(frame)
        return frame

    def discard(self, frame: OpenComputation) -> None:
        """As OpenComputations.discard."""
        self._coverage.end(frame)
        super().discard(frame)

    def close(self, frame: OpenComputation) -> Observed:
        """As OpenComputations.close."""
        self._coverage.end(frame)
        return super().close(frame)


class CoveredRecorder(Recorder):
    """Keeps the lines of a computation along with its value."""

    coverage: CoverageKeeping

    def keep(self, finished: Finished, value: object) -> Variant | Refusal:
        """As Recorder.keep."""
        computation = finished.computation
        subject = Subject(
            computation, finished.keyed, finished.route, finished.basis, finished.duration
        )
        if computation.context.subject is not Sort.TEST:
            self.coverage.before_kept(subject)
        kept = super().keep(finished, value)
        if isinstance(kept, Variant):
            self.coverage.after_kept(subject, kept)
        return kept


class CoveredLookup(Lookup):
    """Finds a value only together with its lines."""

    coverage: CoverageKeeping

    def look_up(
        self,
        computation: Computation,
        keyed: Keyed,
        route: Route,
        transaction: Transaction | None,
        **how: Any,
    ) -> Found | Miss | Fault:
        """As Lookup.look_up."""
        found = super().look_up(computation, keyed, route, transaction, **how)
        if not isinstance(found, Found):
            return found
        if self.coverage.refusal is not None:
            return Miss(Why.UNCOVERED)
        if not self.coverage.active:
            return found
        try:
            return self.coverage.replay(self, computation, keyed, route, found)
        except Exception as error:  # storages and serializers may be users' code
            return Fault("covered lines not read", f"{type(error).__name__}: {error}")

    def records_of(self, route: Route, key: str) -> Sequence[Variant]:
        """The records of a key, from what was read ahead if it was. Raises StorageError."""
        known = self._prefetched.pop(key, None)
        return known if known is not None else route.records.read_records([key]).get(key, ())


class RunHooks:
    """Gives the lines back when the tests have run: innermost, so before pytest-cov saves."""

    def __init__(self, coverage: CoverageKeeping) -> None:
        self._coverage = coverage

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtestloop(self) -> Generator[None, object, object]:
        """Runs the tests."""
        try:
            return (yield)
        finally:
            self._coverage.finish()


class FixtureCoverageHooks:
    """Tells apart what fixtures cover when they are set up and torn down."""

    def __init__(self, coverage: CoverageKeeping, session: Session) -> None:
        self._coverage = coverage
        self._session = session

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_fixture_setup(self, fixturedef: Any, request: Any) -> Generator[None, Any, Any]:
        """Sets a fixture up. Its finalizers run last in, first out: ours around its own."""
        shared = fixturedef.scope != "function"
        if is_handle(fixturedef) or not (shared or _has_teardown(fixturedef.func)):
            return (yield)
        coverage = self._coverage
        opened: list[tuple[Instance, Region]] = []

        def torn_down() -> None:
            for instance, region in opened:
                coverage.close(region)
                if not reused:
                    coverage.torn_down(instance, region)

        fixturedef.addfinalizer(torn_down)
        known = len(coverage.replayed)
        regions = [coverage.open(Extent.SHARED)] if shared else []
        try:
            value = yield
        finally:
            for region in regions:
                coverage.close(region)
        instance = self._session.fixtures.instance(fixturedef)
        if instance is None:
            return value
        reused = instance.variant is not None and instance.variant.id in coverage.replayed[known:]
        if shared:
            coverage.set_up(instance, regions)

        def begins() -> None:
            region = coverage.open(Extent.SHARED if shared else Extent.COMPUTATION)
            regions.append(region)
            opened.append((instance, region))

        fixturedef.addfinalizer(begins)
        return value


def _keyed_of_test(bundle: Bundle, name: str) -> Keyed:
    """A key for the lines of one of the tests of a bundle."""
    key = bundle.keyed.key
    digest = xxhash.xxh3_128_hexdigest(f"{key.digest}\0{name}".encode("utf-8", "surrogatepass"))
    file = bundle.computation.test.partition("::")[0]
    return Keyed(replace(key, digest=digest, identity=Identity(file, name)))


def _has_teardown(function: Any) -> bool:
    function = inspect.unwrap(getattr(function, "__func__", function))
    return inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)


def _as(kind: Any, original: Any) -> Any:
    """Another kind of the same thing."""
    return kind(**{one.name: getattr(original, one.name) for one in fields(original) if one.init})
