"""The outcomes of one file, in one record: a bundle of units.

A **unit** is what was observed in one window, and the tests that passed in it::

    {"rows":  [["module", "test_x.py", "5b0c…"], …],        dependencies, each once
     "uses":  [["9a17…", 812, ""], …],                      parts that traces share
     "units": [{"rows": [0, 1, 7], "uses": [0], "digest": "77ac…", "created": 1.7e9,
                "tests": {"test_a": "0.0002 0.0031 0.0001", "test_b[1]": {"reports": […]}}}]}

A plain pass is the durations of its three phases, a fourth word the digest of what else it must
agree with (its parameters); whatever has more to tell is a mapping of JSON reports. Reading a
bundle executes nothing. A run that ran a part of the file writes a bundle that holds the rest as
well, as far as it is still true; look-ups search the newest records of a key, newest first.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from itertools import chain
from typing import Any, NamedTuple, TypeAlias

import xxhash

from pytest_taskcache.dataclass import dataclass, field, replace
from pytest_taskcache.engine.cache import Engine
from pytest_taskcache.engine.computation import Basis, Computation
from pytest_taskcache.engine.eligibility import Refusal
from pytest_taskcache.engine.keys import Keyed
from pytest_taskcache.engine.lookup import nearer
from pytest_taskcache.engine.payloads import LostResultError
from pytest_taskcache.engine.recorder import Finished
from pytest_taskcache.engine.routes import Route
from pytest_taskcache.errors import StorageError, TaskCacheError
from pytest_taskcache.model.decision import Fault, Miss, Why
from pytest_taskcache.model.dependency import Blob, Change, Dependency, Kind, Trace
from pytest_taskcache.model.event import Faulted
from pytest_taskcache.model.record import Variant
from pytest_taskcache.plugin.outcomes.reports import Outcome
from pytest_taskcache.serializers.json import JSONSerializer

Told: TypeAlias = Callable[[Refusal | None], None]


class OutcomeSerializer(JSONSerializer):
    """JSON of the reports of tests that passed."""

    @property
    def name(self) -> str:
        """``outcome/json``: told apart from JSON values, and as safe."""
        return "outcome/json"


SERIALIZER = OutcomeSerializer()


class Mark(StrEnum):
    """What a unit says of its tests."""

    PASSED = ""
    FAILED = "failed"
    FLAKY = "flaky"


@dataclass(eq=False, slots=True)
class Unit:
    """Tests by the rest of their node ids, and the trace that all of them rest on.

    ``created`` and ``expires`` in POSIX seconds. ``made_of`` are staged entries that values used
    in it came from, as far as they may not be committed yet.
    """

    trace: Trace
    tests: dict[str, Outcome]
    created: float
    expires: float | None = None
    mark: Mark = Mark.PASSED
    made_of: frozenset[str] = frozenset()


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


def duration_of(outcome: Outcome) -> float:
    """Seconds that the test took, all phases together."""
    if isinstance(outcome, str):
        return sum(map(float, outcome.split(" ")[:3]))
    return float(sum(entry.get("duration", 0.0) for entry in outcome.get("reports", ())))


def digest_of(dependencies: Iterable[Dependency]) -> str:
    """The digest of a trace of these dependencies."""
    text = "\0".join(chain.from_iterable(dependencies))
    return xxhash.xxh3_128_hexdigest(text.encode("utf-8", "surrogatepass"))


# --------------------------------------------------------------------------- the format


def encode(units: Sequence[Unit]) -> dict[str, object]:
    """Units as JSON values."""
    rows: dict[Dependency, int] = {}
    uses: dict[Blob, int] = {}
    plain: list[object] = []
    for unit in units:
        entry: dict[str, object] = {
            "rows": [rows.setdefault(each, len(rows)) for each in unit.trace.dependencies],
            "digest": unit.trace.digest,
            "created": unit.created,
            "tests": unit.tests,
        }
        if unit.trace.uses:
            entry["uses"] = [uses.setdefault(each, len(uses)) for each in unit.trace.uses]
        if unit.expires is not None:
            entry["expires"] = unit.expires
        if unit.mark:
            entry["mark"] = str(unit.mark)
        plain.append(entry)
    return {
        "rows": [[str(row.kind), row.name, row.digest] for row in rows],
        "uses": [list(blob) for blob in uses],
        "units": plain,
    }


def decode(value: Any) -> list[Unit]:
    """The units again. Raises ValueError for what `encode` did not write."""
    try:
        rows = [Dependency(Kind(kind), name, digest) for kind, name, digest in value["rows"]]
        uses = [Blob(digest, size, sha256) for digest, size, sha256 in value["uses"]]
        return [
            Unit(
                Trace(
                    tuple([rows[index] for index in entry["rows"]]),
                    entry["digest"],
                    tuple([uses[index] for index in entry.get("uses", ())]),
                ),
                dict(entry["tests"]),
                float(entry["created"]),
                entry.get("expires"),
                Mark(entry.get("mark", "")),
            )
            for entry in value["units"]
        ]
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise ValueError(f"no bundle of outcomes: {type(error).__name__}: {error}") from error


# ---------------------------------------------------------------------------- one key


@dataclass(eq=False, slots=True)
class _Stored:
    """A record of the bundle's key, decoded when it is first searched; or, without a variant,
    what was found in this process."""

    variant: Variant | None
    units: list[Unit] | None = None
    passed: dict[str, list[Unit]] = field(default_factory=dict)
    marked: list[Unit] = field(default_factory=list)

    def take(self, units: list[Unit]) -> None:
        """Takes the units, and finds them by the tests that they speak of."""
        self.units = units
        for unit in units:
            self._place(unit, len(units))

    def take_newer(self, unit: Unit) -> None:
        """Takes one more, in front of those it has."""
        self._place(unit, 0)

    def _place(self, unit: Unit, at: int) -> None:
        if unit.mark:
            self.marked.insert(at, unit)
            return
        for name in unit.tests:
            self.passed.setdefault(name, []).insert(at, unit)


@dataclass(eq=False)
class Bundle:
    """What is known of the outcomes of one file, or of one test that is keyed by itself: as
    stored, and as found in this process.

    ``ran`` are the tests that ran here; ``fresh`` the units found here. ``unsaved`` holds who is
    to be told when they are written, ``unsaved_seconds`` what they took; ``left`` is how many of
    its tests are still to come in this process, for all that is known.
    """

    engine: Engine
    computation: Computation
    keyed: Keyed
    route: Route
    fresh: list[Unit] = field(default_factory=list)
    ran: set[str] = field(default_factory=set)
    unsaved: list[Told] = field(default_factory=list)
    unsaved_seconds: float = 0.0
    left: int = 0
    is_read: bool = False
    _here: _Stored = field(default_factory=lambda: _Stored(None, []))
    _stored: list[_Stored] = field(default_factory=list)
    _nearest: Miss | None = None
    _written: Variant | None = None
    _fault: Fault | None = None
    _lost: Change | None = None

    # ------------------------------------------------------------------------ looking up

    def hold(self, variants: Sequence[Variant]) -> None:
        """Takes the records of the key that were read, newest first."""
        self._stored = [_Stored(variant) for variant in variants]

    def failed(self, fault: Fault) -> None:
        """Notes that its records could not be read: each look-up says so."""
        self._fault = fault

    def find(self, name: str, check: Callable[[], str] | None = None) -> Replayable | Miss | Fault:
        """The newest valid pass of a test, or why there is none. ``check()`` digests what it
        must agree with; None where that is known to be as it was."""
        if self._fault is not None:
            return self._fault
        miss: Miss | None = None
        for stored in chain([self._here] if self.fresh else (), self._read()):
            for unit in stored.marked:
                if unit.mark is Mark.FLAKY and name in unit.tests and self.holds(unit):
                    return Miss(Why.FLAKY)
            for unit in stored.passed.get(name, ()):
                objection = self._objection(unit, name, check, stored.variant)
                if objection is None:
                    return Replayable(unit.tests[name], stored.variant)
                miss = nearer(miss, objection)
        if miss is None and self._lost is not None:
            return Miss(Why.LOST, (self._lost,))
        return miss or self._absent()

    def holds(self, unit: Unit) -> bool:
        """Whether the unit's trace is true now."""
        return not self._changes(unit)

    def traces(self) -> Iterator[Trace]:
        """The traces of all that is stored."""
        for stored in self._read():
            for unit in stored.units or ():
                yield unit.trace

    def is_marked(self, name: str, mark: Mark) -> bool:
        """Whether a test is so marked, and nothing that it rested on then has changed."""
        marked = chain(self.fresh, chain.from_iterable(each.marked for each in self._read()))
        return any(unit.mark is mark and name in unit.tests and self.holds(unit) for unit in marked)

    def has_passed(self, name: str) -> bool:
        """Whether a pass of the test is stored whose trace is true now."""
        return any(self.holds(unit) for unit, _ in self._passes(name))

    def last_duration(self, name: str) -> float | None:
        """Seconds that the test took when it last passed; None if that is not known."""
        return next((duration_of(unit.tests[name]) for unit, _ in self._passes(name)), None)

    # --------------------------------------------------------------------------- writing

    def add(self, unit: Unit, told: Iterable[Told], seconds: float) -> None:
        """Takes a unit found in this process, to be written with the next `save`."""
        self.fresh.append(unit)
        self._here.take_newer(unit)
        self.unsaved += told
        self.unsaved_seconds += seconds

    def save(self) -> None:
        """Writes what was found here, with what is stored and still true. Who is told hears None
        once it is visible, or why it is not. Never raises."""
        told, self.unsaved, self.unsaved_seconds = self.unsaved, [], 0.0
        if not told:
            return
        previous = self._written
        free = [unit for unit in self.fresh if not unit.made_of]
        bound = [unit for unit in self.fresh if unit.made_of]
        if free or not bound:
            carried = list(self._carried())
            self._write([*reversed(free), *carried], frozenset(), told if not bound else [])
        if bound:
            made_of = frozenset(chain.from_iterable(unit.made_of for unit in bound))
            self._write(bound[::-1], made_of, told)
        if previous is not None and self._written is not previous:
            self._forget(previous)

    def _write(self, units: Sequence[Unit], made_of: frozenset[str], told: Sequence[Told]) -> None:
        observation = self.engine.parts.observation
        if observation is not None:
            with self.engine.quiet():
                units = [replace(one, trace=observation.renewed(one.trace)) for one in units]
        uses = tuple(dict.fromkeys(chain.from_iterable(unit.trace.uses for unit in units)))

        def tell(refusal: Refusal | None) -> None:
            for each in told:
                each(refusal)

        finished = Finished(
            self.computation,
            self.keyed,
            self.route,
            Basis(_only_uses(uses), derives_from=made_of),
            sum(chain.from_iterable(map(_durations, units))),
            told=tell,
        )
        kept = self.engine.recorder.keep(finished, encode(units))
        if isinstance(kept, Refusal):
            tell(kept)
        elif not made_of:
            self._written = kept

    def _forget(self, previous: Variant) -> None:
        """Removes the record that this process wrote before: the new one has all of it."""
        if self.route.records is not self.engine.parts.local:
            return
        try:
            self.engine.recorder.batch.flush()
            self.route.records.remove_records([previous.id])
        except StorageError as error:
            self.engine.notify(Faulted(f"{error.operation} failed: {error.reason}", str(error)))

    def _carried(self) -> Iterator[Unit]:
        """What is stored, did not run here, and is still true: each test once, its newest pass;
        and marks."""
        known = set(self.ran)
        marked: set[tuple[Mark, str]] = {
            (unit.mark, name) for unit in self.fresh for name in unit.tests
        }
        passed_here = {name for unit in self.fresh if not unit.mark for name in unit.tests}
        for unit in chain.from_iterable(stored.units or () for stored in self._read()):
            if self._expired(unit):
                continue
            if unit.mark:
                names = [
                    name
                    for name in unit.tests
                    if (unit.mark, name) not in marked and name not in passed_here
                ]
            else:
                names = [name for name in unit.tests if name not in known]
            if not names or not self.holds(unit):
                continue
            if unit.mark:
                marked.update((unit.mark, name) for name in names)
            else:
                known.update(names)
            yield replace(unit, tests={name: unit.tests[name] for name in names})

    # ------------------------------------------------------------------------- internals

    def _passes(self, name: str) -> Iterator[tuple[Unit, Variant | None]]:
        for unit in reversed(self.fresh):
            if unit.mark is Mark.PASSED and name in unit.tests:
                yield unit, None
        for stored in self._read():
            for unit in stored.passed.get(name, ()):
                yield unit, stored.variant

    def _read(self) -> Iterator[_Stored]:
        """The records, each decoded when it is come to."""
        for stored in self._stored:
            if stored.units is None and stored.variant is not None:
                stored.take(self._decoded(stored.variant))
            yield stored

    def _decoded(self, variant: Variant) -> list[Unit]:
        with self.engine.quiet():
            try:
                value = self.engine.parts.payloads.read(
                    variant.result, self.route.results, SERIALIZER
                )
                return decode(value)
            except (LostResultError, ValueError) as error:
                self._lost = Change("stored value", str(error), variant.result.digest, "")
            except Exception as error:  # storages may be users' code
                reason, detail = told_of("read outcomes", error)
                self.engine.notify(Faulted(reason, detail))
        return []

    def _expired(self, unit: Unit) -> bool:
        return unit.expires is not None and unit.expires <= self.engine.parts.clock()

    def _changes(self, unit: Unit) -> tuple[Change, ...]:
        observation = self.engine.parts.observation
        if self.keyed.key.vouched or observation is None:
            return ()
        return observation.verify(unit.trace)

    def _objection(
        self, unit: Unit, name: str, check: Callable[[], str] | None, variant: Variant | None
    ) -> Miss | None:
        if self._expired(unit):
            return Miss(Why.EXPIRED, nearest=_record_of(unit, variant))
        changes = self._changes(unit)
        if changes:
            return Miss(Why.TRACE, changes, _record_of(unit, variant))
        if check is not None:
            before, now = check_of(unit.tests[name]), check()
            if before != now:
                return Miss(Why.PARTS, (Change("parameter", "parameters or marks", before, now),))
        validator, present = self.computation.options.validator, self.keyed.present
        if validator is not None and present is not None and variant is not None:
            try:
                accepted = bool(validator(present, variant))
            except Exception as error:  # users' code; the test still runs
                reason = f"{type(error).__name__}: {error}"
                self.engine.notify(Faulted("validator failed", reason))
                accepted = False
            if not accepted:
                return Miss(Why.INVALID)
        return None

    def _absent(self) -> Miss:
        """Why there is no record of the test, by what differs from the file's newest."""
        if self._stored:
            return Miss(Why.ABSENT)
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


def _only_uses(uses: tuple[Blob, ...]) -> Trace:
    """A trace without dependencies of its own. Other parts, another digest: by it a storage knows
    what has to stay."""
    parts = [Dependency(Kind.TRACE, blob.digest, blob.digest) for blob in uses]
    return Trace((), digest_of(parts), uses)


def _record_of(unit: Unit, variant: Variant | None) -> Variant | None:
    """The record that a unit is in, as if it were the unit's alone."""
    return variant and replace(variant, trace=unit.trace, created=unit.created)


def _durations(unit: Unit) -> Iterable[float]:
    return [duration_of(outcome) for outcome in unit.tests.values() if outcome]


def read_all(engine: Engine, bundles: Collection[Bundle]) -> None:
    """Reads the records of bundles, those of one storage in one sweep."""
    routes: dict[int, list[Bundle]] = {}
    for bundle in bundles:
        if bundle.is_read:
            continue
        bundle.is_read = True
        routes.setdefault(id(bundle.route), []).append(bundle)
    for group in routes.values():
        by_key: Mapping[str, Bundle] = {each.keyed.key.digest: each for each in group}
        try:
            with engine.quiet():
                found = group[0].route.records.read_records(by_key)
        except Exception as error:  # storages may be users' code
            fault = Fault(*told_of("read records", error))
            for bundle in group:
                bundle.failed(fault)
            continue
        for key, variants in found.items():
            by_key[key].hold(variants)
    observation = engine.parts.observation
    if observation is not None:
        with engine.quiet():
            observation.prefetch(trace for bundle in bundles for trace in bundle.traces())


def told_of(operation: str, error: Exception) -> tuple[str, str]:
    """Reason and detail of the fault, in the words that the engine has for the same one."""
    if isinstance(error, StorageError):
        return f"{error.operation} failed: {error.reason}", str(error)
    told = str(error) if isinstance(error, TaskCacheError) else f"{type(error).__name__}: {error}"
    return f"{operation} failed: {type(error).__name__}", told
