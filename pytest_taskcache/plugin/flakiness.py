"""Proven nondeterminism: the same key, nothing changed, another outcome.

A failure leaves a mark, a record without a value: its key, and the trace it was seen with. A pass
although the mark's trace still holds, or a failure although a pass's does, is proof. It leaves a
mark of its own, and while that one's trace holds, no outcome of the test is stored or replayed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from pytest_taskcache.engine.cache import Engine
from pytest_taskcache.engine.computation import Basis
from pytest_taskcache.engine.eligibility import Refusal
from pytest_taskcache.engine.lookup import MARK
from pytest_taskcache.engine.recorder import Finished
from pytest_taskcache.errors import StorageError, TaskCacheError
from pytest_taskcache.model.dependency import Observed
from pytest_taskcache.model.event import Faulted, Noted
from pytest_taskcache.model.record import Result, Variant
from pytest_taskcache.plugin.running import Attempt

if TYPE_CHECKING:
    from pytest_taskcache.plugin.outcomes import Candidate

_FAILED, _FLAKY = f"{MARK}failed", f"{MARK}flaky"


class Flakiness:
    """Keeps the marks of failures, and finds what contradicts them."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._flaky: set[str] = set()

    def prepare(self, records: Mapping[str, Sequence[Variant]]) -> None:
        """Takes the records that were read for all tests, and notes whose are marked."""
        for key, variants in records.items():
            if any(variant.result.serializer == _FLAKY for variant in variants):
                self._flaky.add(key)

    def is_flaky(self, candidate: Candidate) -> bool:
        """Whether the test is proven nondeterministic, and nothing it depends on has changed."""
        return candidate.keyed.key.digest in self._flaky and self._holds(candidate, _is(_FLAKY))

    def objection(self, candidate: Candidate, basis: Basis, nodeid: str) -> Refusal | None:
        """Why a pass is not to be stored, or None. Marks and reports what it proves."""
        if self._holds(candidate, _is(_FAILED)):
            self._prove(candidate, basis, nodeid)
            return Refusal("proven nondeterministic", "it failed before with nothing changed")
        if self.is_flaky(candidate):
            return Refusal("proven nondeterministic", "not stored until its dependencies change")
        return None

    def failed(
        self, candidate: Candidate, basis: Basis, observed: Observed, attempt: Attempt, nodeid: str
    ) -> None:
        """Notes a failure of the test's own body. One whose cause may lie in what was not
        observed, or in a fixture that failed earlier, proves nothing."""
        reports = attempt.reports
        own = any(report.when == "call" and report.outcome == "failed" for report in reports)
        if not own or observed.opaque or observed.untrusted or not basis.trace.dependencies:
            return
        if self._holds(candidate, lambda variant: not variant.result.serializer.startswith(MARK)):
            self._prove(candidate, basis, nodeid)
        elif not self._holds(candidate, _is(_FAILED)):
            self._mark(candidate, basis, _FAILED)

    def _prove(self, candidate: Candidate, basis: Basis, nodeid: str) -> None:
        if not self.is_flaky(candidate):
            self._mark(candidate, basis, _FLAKY)
            self._flaky.add(candidate.keyed.key.digest)
        self._engine.notify(
            Noted(f"{nodeid} is flaky: it both passed and failed while nothing it uses changed")
        )

    def _holds(self, candidate: Candidate, chosen: Callable[[Variant], bool]) -> bool:
        """Whether a record of this kind is there whose trace is still true."""
        observation = self._engine.parts.observation
        if observation is None:
            return False
        return any(
            chosen(variant) and not observation.verify(variant.trace)
            for variant in self._known(candidate)
        )

    def _known(self, candidate: Candidate) -> Sequence[Variant]:
        key = candidate.keyed.key.digest
        route = self._engine.routes.of(candidate.computation.options)
        try:
            return route.records.read_records([key]).get(key, ())
        except TaskCacheError as error:
            self._engine.notify(Faulted(*_told("read records", error)))
            return ()

    def _mark(self, candidate: Candidate, basis: Basis, serializer: str) -> None:
        route = self._engine.routes.of(candidate.computation.options)
        finished = Finished(candidate.computation, candidate.keyed, route, basis, 0.0)
        variant = self._engine.recorder.record(finished, Result("", 0, serializer, b""))
        try:
            route.records.write_records([variant])
        except TaskCacheError as error:
            self._engine.notify(Faulted(*_told("write records", error)))


def _told(operation: str, error: TaskCacheError) -> tuple[str, str]:
    """Reason and detail of the fault, in the words that the engine has for the same one."""
    reason = error.reason if isinstance(error, StorageError) else type(error).__name__
    return f"{operation} failed: {reason}", str(error)


def _is(serializer: str) -> Callable[[Variant], bool]:
    return lambda variant: variant.result.serializer == serializer
