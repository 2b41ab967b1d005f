"""Consecutive tests of one file share a window, so that recording costs a bounded share of a run.

Opening and closing a window costs about the same whatever ran in it. So a unit goes on until its
tests have taken twenty times what that was measured to cost in this run::

    closings so far 4 ms on average, so a unit takes 80 ms of tests:
    test_a 30 ms | test_b 30 ms | test_c 30 ms || test_d 1 ms | ... the next unit

What the window saw is the ground of every test that passed in it. A test that failed, or did
what cannot be observed, is left out and its neighbours are kept: deeds are asked for at the end
of each test, and where there is one the unit ends, so that it is the last test's. Tests that are
known to take longer than a unit, and marked ones, are units of their own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_taskcache.dataclass import dataclass, field
from pytest_taskcache.engine.cache import Engine
from pytest_taskcache.engine.computation import Basis, OpenComputation, earliest
from pytest_taskcache.engine.lookup import with_declared, with_more
from pytest_taskcache.engine.validity import Refusal, forbidden, objection
from pytest_taskcache.errors import SerializationError
from pytest_taskcache.model.dependency import Dependency, Kind, Observed, Opaque, Trace
from pytest_taskcache.model.event import Computed, Noted, Subject
from pytest_taskcache.model.key import Identity
from pytest_taskcache.plugin.items import Instance
from pytest_taskcache.plugin.outcomes.bundles import NOBODY, Bundle
from pytest_taskcache.plugin.outcomes.other_plugins import keeps_books
from pytest_taskcache.plugin.outcomes.outcome_keys import SERIALIZER, Asked, Check
from pytest_taskcache.report.contents import Mark, Outcome, Unit

if TYPE_CHECKING:
    from pytest_taskcache.plugin.coverage import Region

SHARE = 20
"""How many times what a closing costs the tests of a unit may take."""


@dataclass(eq=False, slots=True)
class Candidate:
    """A test whose outcome may be cached: what it asks for, and where its outcomes are.
    ``expected``: a run for verification is to end as its record says. ``check``: what its outcome
    must agree with, once that is known. ``ended``: its last attempt."""

    asked: Asked
    bundle: Bundle
    name: str
    expected: bool = False
    recording: bool = False
    check: Check | None = None
    region: Region | None = None
    ended: Ended | None = None

    @property
    def identity(self) -> Identity:
        """The test's own, whoever it shares its bundle with."""
        return Identity(self.bundle.computation.test.partition("::")[0], self.name)

    @property
    def checked(self) -> str:
        """The text of what it must agree with; "" if nothing."""
        return self.check.text if self.check else ""

    def is_marked(self, mark: Mark) -> bool:
        """Whether it is so marked, and all that counted for it then is as it was."""
        return self.bundle.is_marked(self.name, mark, self.checked)


@dataclass(eq=False, slots=True)
class Ended:
    """An attempt at a test that ended inside a unit: what is to be kept of it, or why nothing is.

    ``outcome`` is None for a test that did not pass. ``proves`` says whether a failure was the
    test's own, so that it proves something; ``drew`` whether it drew from what a plugin seeds.
    """

    test: Candidate
    outcome: Outcome | None
    seconds: float
    refusal: Refusal | None = None
    proves: bool = False
    drew: bool = False
    inherited: tuple[Opaque, ...] = ()
    taints: tuple[str, ...] = ()
    did: bool = False

    def told(self, refusal: Refusal | None) -> None:
        """Tells that the test ran, and why it is not kept (None: it is)."""
        identity, why = self.test.identity, refusal or Refusal("")
        told = (self.seconds, refusal is None, why.reason, why.detail, str(identity))
        self.test.bundle.engine.notify(Computed(Subject.TEST, identity, *told))

    def refuse_opaque(self, deeds: Iterable[Opaque]) -> Refusal | None:
        """Why it is not kept if it did this, or its fixtures did something opaque."""
        options = self.test.asked.options
        refused = forbidden([*deeds, *self.inherited], options.allow)
        if not refused or any(label.startswith("FILES") for label in options.policy.labels):
            return None
        kinds = sorted({deed.kind for deed in refused})
        return Refusal(f"used {kinds[0]}", f"{refused[0]}; allow={{{kinds[0]!r}}} accepts it")


_NOT_PASSED = Refusal("did not pass")


class Cost:
    """``mean`` is what closing a window was measured to cost in this run, in seconds; 0.0 while it
    is not known. The first is left out: it has the sources to read that all others need, too."""

    def __init__(self) -> None:
        self._count = 0
        self.mean = 0.0

    def add(self, seconds: float) -> None:
        """Takes a measurement."""
        self._count += 1
        if self._count > 1:
            self.mean += (seconds - self.mean) / (self._count - 1)


class Units:
    """The units of a process. ``on_kept(ended, trace)`` is called for tests that are kept."""

    def __init__(
        self, engine: Engine, on_kept: Callable[[Ended, Trace], None] | None = None
    ) -> None:
        self._engine = engine
        self._on_kept = on_kept
        self._open: _Unit | None = None
        self.cost = Cost()

    def is_slow(self, seconds: float | None) -> bool:
        """Whether a test that took so long is a unit of its own."""
        return seconds is not None and 0.0 < SHARE * self.cost.mean <= seconds

    def begin(
        self,
        path: Path,
        function: Callable[..., object] | None,
        around: Callable[[], Trace],
        *,
        alone: bool,
        stranger: bool,
    ) -> OpenComputation | None:
        """A test begins: the frame it runs in. ``around()`` is what all tests of the file rest
        on. A stranger, of which nothing is to be kept, runs in a unit if there is one, and has
        none opened for it. All tests of a file give the same ``path``."""
        unit = self._open
        if unit is not None and (unit.path is not path or unit.alone or (alone and not stranger)):
            self.close()
        if self._open is None and not stranger:
            trace, started = around(), time.perf_counter()
            frame = self._engine.begin(function)
            frame.absorb(Basis(trace))
            self._open = _Unit(self._engine, path, frame, alone, time.perf_counter() - started)
        if self._open is None:
            return None
        frame = self._open.frame
        frame.taints.clear()
        frame.opaque.clear()
        return frame

    def end(self, ended: Ended | None, instances: Sequence[Instance], seconds: float) -> None:
        """A test ended. Closes the unit if it has taken long enough, if the test was to be alone,
        or if it did what cannot be observed."""
        unit = self._open
        if unit is None:
            return
        frame = unit.frame
        inherited, taints = list(frame.opaque), set(frame.taints)
        for instance in instances:
            if id(instance) not in unit.instances:
                unit.instances[id(instance)] = instance
                frame.absorb(instance.basis)
            inherited += instance.basis.opaque
            taints |= set(instance.basis.taints)
        did = frame.window.opaque_so_far() > 0
        if ended is not None:
            ended.inherited, ended.taints, ended.did = tuple(inherited), tuple(taints), did
            if did or inherited:  # told now: a unit of which nothing is kept need not be closed
                ended.proves = False
                deeds = frame.window.acts() if did else ()
                ended.refusal = ended.refusal or ended.refuse_opaque(deeds)
            unit.ended.append(ended)
        unit.seconds += seconds
        if unit.alone or did or unit.seconds >= SHARE * self.cost.mean:
            self.close()

    def close(self) -> None:
        """Ends the unit that is open, and hands what is to be kept to the bundles."""
        unit, self._open = self._open, None
        if unit is None:
            return
        passed = (ended.outcome is not None and ended.refusal is None for ended in unit.ended)
        if not (any(passed) or any(ended.proves for ended in unit.ended)):
            self._engine.open_computations.discard(unit.frame)
            for ended in unit.ended:
                ended.told(_NOT_PASSED if ended.outcome is None else ended.refusal)
            return
        unit.frame.opaque.clear()
        started = time.perf_counter()
        with self._engine.quiet():
            unit.observed = self._engine.open_computations.close(unit.frame)
        self.cost.add(unit.opening + time.perf_counter() - started)
        unit.keep(self._on_kept)


@dataclass(eq=False, slots=True)
class _Unit:
    """A unit while its window is open; and, once that is closed, on its way into the bundles of
    its tests."""

    engine: Engine
    path: Path
    frame: OpenComputation
    alone: bool
    opening: float
    ended: list[Ended] = field(default_factory=list)
    seconds: float = 0.0
    instances: dict[int, Instance] = field(default_factory=dict)
    """By id, which stays theirs."""
    observed: Observed = Observed()
    inherited: tuple[Opaque, ...] = ()
    """Known only when the window is closed, and true of all its tests: what imports did, and
    extension modules of the project."""
    now: float = 0.0
    traces: dict[tuple[Bundle, bool], Trace] = field(default_factory=dict)

    def keep(self, on_kept: Callable[[Ended, Trace], None] | None) -> None:
        """Adds the tests that passed, and the marks of those that failed, to their bundles."""
        self.now, own = self.engine.parts.clock(), frozenset(self.frame.window.acts())
        self.inherited = tuple(act for act in self.observed.opaque if act not in own)
        kept: dict[tuple[Bundle, bool, float | None], list[Ended]] = {}
        failed = {ended.test for ended in self.ended if ended.outcome is None}
        for ended in self.ended:
            refusal = self._refusal(ended, failed)
            if refusal is not None:
                ended.told(refusal)
                continue
            expires = earliest(self.frame.expires, self._expiry(ended))
            kept.setdefault((ended.test.bundle, ended.drew, expires), []).append(ended)
        made_of = frozenset(self.frame.derives_from)
        for (bundle, drew, expires), group in kept.items():
            tests = {ended.test.name: ended.outcome or "" for ended in group}
            trace = self._trace(bundle, drew=drew)
            unit = Unit(trace, tests, self.now, expires, made_of=made_of)
            told = [(each.test.name, each.told) for each in group]
            bundle.add(unit, told, sum(each.seconds for each in group))
            if on_kept is not None:
                for each in group:
                    on_kept(each, trace)

    def _expiry(self, ended: Ended) -> float | None:
        age = ended.test.asked.options.expiration
        return None if age is None else self.now + age.total_seconds()

    def _refusal(self, ended: Ended, failed: Collection[Candidate]) -> Refusal | None:
        """Why nothing is kept of a test. Marks what a failure, or a pass after it, proves."""
        if ended.outcome is None:
            self._failed(ended)
            return _NOT_PASSED
        if ended.refusal is not None:
            return ended.refusal
        if ended.test in failed:
            return Refusal("passed only when run again")
        books = keeps_books(self.observed.written)
        refusal = (
            ended.refuse_opaque(self.observed.opaque if ended.did else self.inherited)
            or objection(self.observed, ended.taints, vouched=False, forked=False)
            or (Refusal(f"used {books}", "a replay would be missing in its log") if books else None)
        )
        if refusal is not None:
            return refusal
        if ended.test.is_marked(Mark.FAILED):
            self._prove(ended)
            return Refusal("proven nondeterministic", "it failed before with nothing changed")
        if ended.test.is_marked(Mark.FLAKY):
            return Refusal("proven nondeterministic", "not stored until its dependencies change")
        if not isinstance(ended.outcome, str):
            try:
                SERIALIZER.dump(ended.outcome)
            except SerializationError as error:
                return Refusal("value cannot be serialized", str(error))
        return None

    def _failed(self, ended: Ended) -> None:
        """Notes a failure of the test's own body. One whose cause may lie in what was not
        observed, or in a fixture that failed earlier, proves nothing."""
        observed = self.observed
        unseen = self.inherited or observed.untrusted or not observed.trace.dependencies
        if not ended.proves or unseen:
            return
        if ended.test.is_marked(Mark.PASSED):
            self._prove(ended)
        elif not ended.test.is_marked(Mark.FAILED):
            self._mark(ended, Mark.FAILED)

    def _prove(self, ended: Ended) -> None:
        test = ended.test
        if not test.is_marked(Mark.FLAKY):
            self._mark(ended, Mark.FLAKY)
        text = "is flaky: it both passed and failed while nothing it uses changed"
        self.engine.notify(Noted(f"{test.identity} {text}"))

    def _mark(self, ended: Ended, mark: Mark) -> None:
        bundle = ended.test.bundle
        trace, expires = self._trace(bundle, drew=ended.drew), self._expiry(ended)
        unit = Unit(
            trace, {ended.test.name: {"check": ended.test.checked}}, self.now, expires, mark
        )
        bundle.add(unit, [NOBODY], ended.seconds)

    def _trace(self, bundle: Bundle, *, drew: bool) -> Trace:
        known = self.traces.get((bundle, drew))
        if known is not None:
            return known
        trace = self.observed.trace
        # What lies in the run's own temporary directory was made in this run, by code that this
        # test's trace or one of its fixtures' has.
        kept = [
            each
            for each in trace.dependencies
            if each.kind not in (Kind.FILE, Kind.LISTING, Kind.STAT)
            or not each.name.startswith("<tmp>")
        ]
        if drew:
            digest = self.engine.fingerprints.digest
            names = ("randomly_seed", "randomly_reset_seed")
            kept += [Dependency(Kind.SETTING, n, digest(Kind.SETTING, n)) for n in names]
        if drew or len(kept) < len(trace.dependencies):
            trace = with_more(Trace(uses=trace.uses), kept)
        trace = with_declared(trace, bundle.computation.options.policy, bundle.keyed)
        self.traces[bundle, drew] = trace
        return trace
