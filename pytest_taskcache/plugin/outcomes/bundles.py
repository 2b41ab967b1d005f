"""The outcomes of one file, in one record: a bundle of units (written as `report.contents` says).

A **unit** is what was observed in one window, and the tests that passed in it. A run that ran a
part of the file writes a bundle that holds the rest as well, as far as it is still true; look-ups
search the newest records of a key, newest first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import NamedTuple, TypeAlias

from pytest_taskcache.dataclass import dataclass, field, replace
from pytest_taskcache.engine.cache import Engine
from pytest_taskcache.engine.computation import Basis, Computation
from pytest_taskcache.engine.keys import Keyed
from pytest_taskcache.engine.recorder import Finished
from pytest_taskcache.engine.routes import LostResultError, Route
from pytest_taskcache.engine.validity import Refusal, nearer
from pytest_taskcache.errors import StorageError, fault_of
from pytest_taskcache.model.decision import Fault, Miss, Why
from pytest_taskcache.model.dependency import Change, Dependency, Kind, Trace
from pytest_taskcache.model.event import Faulted
from pytest_taskcache.model.record import Variant
from pytest_taskcache.observation.trace_recorder import digest_of
from pytest_taskcache.plugin.outcomes.outcome_keys import SERIALIZER, Check
from pytest_taskcache.report.contents import Mark, Outcome, Unit, decode, duration_of, encode

Told: TypeAlias = Callable[[Refusal | None], None]

NOBODY: tuple[str, Told] = "", lambda refusal: None
"""Is told that something was written that is no test's outcome."""


class Replayable(NamedTuple):
    """A stored outcome that is valid now, and the record it is from (None: of this process)."""

    outcome: Outcome
    variant: Variant | None


def check_of(outcome: Outcome) -> str:
    """What a test must agree with beyond the trace; "" if nothing."""
    if isinstance(outcome, str):
        words = outcome.split(" ")
        return words[3] if len(words) > 3 else ""
    return str(outcome.get("check", ""))


@dataclass(eq=False)
class Bundle:
    """What is known of the outcomes of one file, or of one test that is keyed by itself: as
    stored, and as found in this process.

    ``ran`` are the tests that ran here; ``fresh`` the units found here, ``stored`` those that were
    read, newest first. ``unsaved`` holds who is to be told when they are written, by the test,
    ``unsaved_seconds`` what they took.
    """

    engine: Engine
    computation: Computation
    keyed: Keyed
    route: Route
    fresh: list[Unit] = field(default_factory=list)
    stored: list[Unit] = field(default_factory=list)
    ran: set[str] = field(default_factory=set)
    unsaved: list[tuple[str, Told]] = field(default_factory=list)
    unsaved_seconds: float = 0.0
    is_read: bool = False
    fault: Fault | None = None
    """Why its records could not be read: each look-up says so."""
    of_test: dict[str, list[Unit]] = field(default_factory=dict)
    """The units by the tests in them, newest first."""
    _nearest: Miss | None = None
    _written: Variant | None = None
    _kept: list[str] = field(default_factory=list)
    _lost: Change | None = None

    def hold(self, variants: Sequence[Variant]) -> None:
        """Takes the records of the key that were read, newest first."""
        if variants:
            self._nearest = Miss(Why.ABSENT)
        for variant in variants:
            for unit in self._decoded(variant):
                unit.variant = variant
                self.stored.append(unit)
                for name in unit.tests:
                    self.of_test.setdefault(name, []).append(unit)

    def find(
        self, name: str, check: Callable[[], Check] | None = None
    ) -> Replayable | Miss | Fault:
        """The newest valid pass of a test, or why there is none. ``check()`` gives what it
        must agree with; None where that is known to be as it was."""
        if self.fault is not None:
            return self.fault
        miss: Miss | None = None
        for unit in self.of_test.get(name, ()):
            if unit.mark:
                differs = check is not None and check().changes(check_of(unit.tests[name]))
                if unit.mark is Mark.FLAKY and not differs and self.holds(unit):
                    return Miss(Why.FLAKY)
                continue
            objection = self._objection(unit, name, check)
            if objection is None:
                return Replayable(unit.tests[name], unit.variant)
            miss = nearer(miss, objection)
        if miss is None and self._lost is not None:
            return Miss(Why.LOST, (self._lost,))
        return miss or self._absent()

    def holds(self, unit: Unit) -> bool:
        """Whether the unit's trace is true now."""
        return not self._changes(unit)

    def _changes(self, unit: Unit) -> tuple[Change, ...]:
        vouched = self.keyed.key.vouched
        return () if vouched else self.engine.parts.observation.verify(unit.trace)

    def is_marked(self, name: str, mark: Mark, check: str) -> bool:
        """Whether a test is so marked, and nothing that it rested on then has changed, nor what
        it must agree with beyond that."""
        return any(
            unit.mark is mark and check_of(unit.tests[name]) == check and self.holds(unit)
            for unit in self.of_test.get(name, ())
        )

    def last_duration(self, name: str) -> float | None:
        """Seconds that the test took when it last passed; None if that is not known."""
        passes = (unit for unit in self.of_test.get(name, ()) if not unit.mark)
        return next((duration_of(unit.tests[name]) for unit in passes), None)

    def add(self, unit: Unit, told: Iterable[tuple[str, Told]], seconds: float) -> None:
        """Takes a unit found in this process, to be written with the next `save`; ``told`` are
        those of its tests, by name, who are told then."""
        self.fresh.append(unit)
        for name in unit.tests:
            self.of_test.setdefault(name, []).insert(0, unit)
        self.unsaved += told
        self.unsaved_seconds += seconds

    def withdraw(self, name: str, refusal: Refusal) -> None:
        """What was found of a test in this process is not to be kept after all, and what was
        found before, while all was as it is, has been disproved; where that is written, it is
        written anew without it. Never raises."""
        for unit in self.fresh:
            if not unit.mark:
                unit.tests.pop(name, None)
        self.fresh = [unit for unit in self.fresh if unit.tests]
        older = [unit for unit in self.of_test.pop(name, ()) if unit.variant and not unit.mark]
        with self.engine.quiet():  # the window of a test may be open
            disproved = {each.variant.id for each in older if each.variant and self.holds(each)}
        doomed = [*self._kept, *disproved]
        for told_name, told in self.unsaved:
            if told_name == name:
                told(refusal)
        self.unsaved = [each for each in self.unsaved if each[0] != name]
        self._kept, self._written = [], None
        if doomed:
            self.unsaved.append(NOBODY)
            self._remove(doomed)

    def _remove(self, ids: Sequence[str]) -> None:
        records, local = self.route.records, self.engine.parts.local
        try:
            with self.engine.quiet():
                self.engine.recorder.batch.flush()
                if records is local:
                    local.remove_records(ids, None)
                else:
                    records.remove_records(ids)
        except Exception as error:  # storages may be users' code
            self.engine.notify(Faulted(*fault_of(error, "remove records failed")))

    def save(self) -> None:
        """Writes what was found here, with what is stored and still true. Who is told hears None
        once it is visible, or why it is not. Never raises."""
        told, self.unsaved, self.unsaved_seconds = self.unsaved, [], 0.0
        if not told:
            return
        previous = self._written
        free = [unit for unit in reversed(self.fresh) if not unit.made_of]
        bound = [unit for unit in reversed(self.fresh) if unit.made_of]
        if free:
            self._write([*free, *self._carried()], told if not bound else [])
        if bound:
            self._write(bound, told)
        is_local = self.route.records is self.engine.parts.local
        if previous is not None and previous is not self._written and is_local:
            self._remove([previous.id])  # the new record has all of it

    def _write(self, units: Sequence[Unit], told: Sequence[tuple[str, Told]]) -> None:
        renewed = self.engine.parts.observation.renewed
        with self.engine.quiet():
            units = [replace(one, trace=renewed(one.trace)) for one in units]
        uses = tuple(dict.fromkeys(chain.from_iterable(unit.trace.uses for unit in units)))
        # Other parts, another digest: by it a storage knows what has to stay.
        parts = [Dependency(Kind.TRACE, blob.digest, blob.digest) for blob in uses]
        made_of = frozenset(chain.from_iterable(unit.made_of for unit in units))

        def tell(refusal: Refusal | None) -> None:
            for _, each in told:
                each(refusal)

        finished = Finished(
            self.computation,
            self.keyed,
            self.route,
            Basis(Trace((), digest_of(parts), uses), derives_from=made_of),
            sum(duration_of(one) for unit in units for one in unit.tests.values() if not unit.mark),
            told=tell,
        )
        kept = self.engine.recorder.keep(finished, encode(units))
        if isinstance(kept, Refusal):
            tell(kept)
            return
        self._kept.append(kept.id)
        if not made_of:
            self._written = kept

    def _carried(self) -> Iterator[Unit]:
        """What is stored, did not run here, and is still true: each test once, its newest pass;
        and marks, unless the test passed here."""
        passed_here = {name for unit in self.fresh if not unit.mark for name in unit.tests}
        known = {(unit.mark, name) for unit in self.fresh for name in unit.tests}
        known |= {(Mark.PASSED, name) for name in self.ran}
        known |= {(mark, name) for mark in (Mark.FAILED, Mark.FLAKY) for name in passed_here}
        for unit in self.stored:
            if self._expired(unit):
                continue
            names = [name for name in unit.tests if (unit.mark, name) not in known]
            if names and self.holds(unit):
                known.update((unit.mark, name) for name in names)
                yield replace(unit, tests={name: unit.tests[name] for name in names})

    def _decoded(self, variant: Variant) -> list[Unit]:
        payloads = self.engine.parts.payloads
        try:
            with self.engine.quiet():
                return decode(payloads.read(variant.result, self.route.results, SERIALIZER))
        except (LostResultError, ValueError) as error:
            self._lost = Change("stored value", str(error), variant.result.digest, "")
        except Exception as error:  # storages may be users' code
            what = f"read outcomes failed: {type(error).__name__}"
            self.engine.notify(Faulted(*fault_of(error, what)))
        return []

    def _expired(self, unit: Unit) -> bool:
        return unit.expires is not None and unit.expires <= self.engine.parts.clock()

    def _objection(self, unit: Unit, name: str, check: Callable[[], Check] | None) -> Miss | None:
        if self._expired(unit):
            return Miss(Why.EXPIRED, nearest=_record_of(unit))
        changes = self._changes(unit)
        if changes:
            return Miss(Why.TRACE, changes, _record_of(unit))
        if check is not None:
            differing = check().changes(check_of(unit.tests[name]))
            if differing:
                return Miss(Why.PARTS, differing)
        validator, present = self.computation.options.validator, self.keyed.present
        if validator is None or present is None or unit.variant is None:
            return None
        try:
            return None if validator(present, unit.variant) else Miss(Why.INVALID)
        except Exception as error:  # users' code; the test still runs
            self.engine.notify(Faulted("validator failed", f"{type(error).__name__}: {error}"))
            return Miss(Why.INVALID)

    def _absent(self) -> Miss:
        """Why there is no record of the test, by what differs from the file's newest."""
        if self._nearest is None:
            key = self.keyed.key
            name = str(key.identity)
            try:
                with self.engine.quiet():
                    newest = self.route.records.recent([name]).get(name)
                    self._nearest = self.engine.lookup.explain_absence(key, newest)
            except StorageError:
                self._nearest = Miss(Why.ABSENT)  # an explanation less
        return self._nearest


def _record_of(unit: Unit) -> Variant | None:
    """The record that a unit is in, as if it were the unit's alone."""
    return unit.variant and replace(unit.variant, trace=unit.trace, created=unit.created)


def read_all(engine: Engine, bundles: Iterable[Bundle]) -> None:
    """Reads the records of bundles that are not read yet, those of one storage in one sweep."""
    unread = [bundle for bundle in bundles if not bundle.is_read]
    routes: dict[int, list[Bundle]] = {}
    for bundle in unread:
        bundle.is_read = True
        routes.setdefault(id(bundle.route), []).append(bundle)
    for group in routes.values():
        keys = dict.fromkeys(bundle.keyed.key.digest for bundle in group)
        try:
            with engine.quiet():
                found = group[0].route.records.read_records(keys)
        except Exception as error:  # storages may be users' code
            fault = Fault(*fault_of(error, f"read records failed: {type(error).__name__}"))
            for bundle in group:
                bundle.fault = fault
            continue
        for bundle in group:
            bundle.hold(found.get(bundle.keyed.key.digest, ()))
    with engine.quiet():
        traces = (unit.trace for bundle in unread for unit in bundle.stored)
        engine.parts.observation.prefetch(traces)
