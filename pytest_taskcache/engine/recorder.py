"""Keeping a computed value: serialized at once, staged in a transaction, published on commit."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Collection, Sequence
from functools import partial

import xxhash

from pytest_taskcache.dataclass import dataclass, field, replace
from pytest_taskcache.engine.computation import Basis, Computation, earliest
from pytest_taskcache.engine.keys import Keyed
from pytest_taskcache.engine.lookup import OFF, Lookup, with_sources
from pytest_taskcache.engine.routes import Parts, Route, Routes, bytes_of
from pytest_taskcache.engine.validity import Refusal
from pytest_taskcache.engine.wait_policy import Locks
from pytest_taskcache.errors import ConfigurationError, SerializationError, StorageError, fault_of
from pytest_taskcache.model.event import Event, Faulted, Subject
from pytest_taskcache.model.key import Part
from pytest_taskcache.model.record import Result, Variant
from pytest_taskcache.originals import originals
from pytest_taskcache.ports import Lease, TargetStorage
from pytest_taskcache.storage.records import copy_results, results_of
from pytest_taskcache.transactions.settlement import Verdict
from pytest_taskcache.transactions.staging import Entry, Settled
from pytest_taskcache.transactions.transaction import CommitMode, Transaction, TransactionStateError

_MANY = 64
_LONG = 0.25
"""Seconds; what a killed process loses is at most so much of its work, and what ran since."""


@dataclass(frozen=True, slots=True)
class Finished:
    """A computation that ran to its end, and where its value is to go.

    ``transaction`` stages it (None: it commits by itself), ``lease`` is the lock it ran under.
    ``pinned`` are parts that a later look-up must agree with, known only now. With ``told`` a
    record that commits by itself may be written a little later, together with others
    (`WriteBatch`); then this is told what became of every record that is returned.
    """

    computation: Computation
    keyed: Keyed
    route: Route
    basis: Basis
    duration: float
    transaction: Transaction | None = None
    lease: Lease | None = None
    pinned: tuple[Part, ...] = ()
    told: Callable[[Refusal | None], None] | None = None


@dataclass
class Recorder:
    """Stages values and settles what becomes of them. Faults are notified, never raised."""

    parts: Parts
    routes: Routes
    lookup: Lookup
    locks: Locks
    notify: Callable[[Event], None]
    _numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    def __post_init__(self) -> None:
        self.staging = self.parts.staging
        self.local = self.parts.local
        self.payloads = self.parts.payloads
        self.batch = WriteBatch(self.publish)
        self._suffix = f"{self.parts.run.id}-{os.getpid()}"

    def keep(self, finished: Finished, value: object) -> Variant | Refusal:
        """Serializes and stages a value, or commits it where no transaction is open; or a little
        later, as `Finished` says. Its record, or why it is not kept."""
        computation, variant = finished.computation, None
        try:
            portable = computation.context.subject is not Subject.TEST  # its output may tell
            serializer = computation.options.serializer
            payload, name = self.payloads.dump(value, serializer, portable=portable)
            result = self.payloads.store(payload, name, self.local)
            if payload.holds:
                files = {file for file, _ in payload.holds}
                trace = with_sources(finished.basis.trace, files, self.parts.fingerprints)
                finished = replace(finished, basis=replace(finished.basis, trace=trace))
            variant = self._record(finished, result)
            self.write_parts(variant)
            return self._put(finished, variant) or variant
        except SerializationError as error:
            return Refusal("value cannot be serialized", str(error))
        except TransactionStateError:
            if variant is not None and finished.transaction is not None:
                self.drop([variant.id], finished.transaction.claimant)
            return Refusal("its transaction had ended", "it was computed in a thread of its own")
        except ConfigurationError:
            raise  # the author of the computation can mend it
        except Exception as error:  # storages and serializers may be users' code
            return self._not_stored(error)

    def write_parts(self, variant: Variant) -> None:
        """Writes the shared parts of a trace, so that they are there before the record is. Raises
        StorageError."""
        for blob in variant.trace.uses:
            data = self.parts.observation.part(blob.digest)
            if data is not None:
                self.local.write_result(blob.digest, [data])

    def _record(self, finished: Finished, result: Result) -> Variant:
        now = self.lookup.clock()
        computation, keyed, basis = finished.computation, finished.keyed, finished.basis
        expires = basis.expires
        if computation.options.expiration is not None:
            expires = earliest(expires, now + computation.options.expiration.total_seconds())
        present = keyed.present
        return Variant(
            id=f"{originals.now():016x}-{self._suffix}-{next(self._numbers)}",
            key=keyed.key.digest,
            identity=keyed.key.identity,
            parts=keyed.key.parts + finished.pinned,
            trace=basis.trace,
            result=result,
            created=now,
            expires=expires,
            duration=finished.duration,
            producer=computation.test or str(keyed.key.identity),
            versions=self.parts.versions,
            inputs=present.inputs if present is not None else (),
            parameters=present.parameters if present is not None else (),
            vouched=keyed.key.vouched,
        )

    def _put(self, finished: Finished, variant: Variant) -> Refusal | None:
        options, transaction = finished.computation.options, finished.transaction
        told = finished.told
        if told is not None and transaction is None and not finished.basis.derives_from:
            self.batch.add(
                finished.route.name,
                variant,
                lambda error: told(None if error is None else self._not_stored(error)),
            )
            return None
        mode = options.commit_mode
        if transaction is None and mode is CommitMode.OFF:
            return Refusal("commit is off")
        entry = Entry(
            variant,
            self.parts.worker if transaction is None else transaction.claimant,
            finished.basis.derives_from,
            destination=finished.route.name,
            held=finished.computation.wide and options.consumers == "all",
            retryable=options.retry_inputs and transaction is not None,
        )
        if transaction is not None and mode is not CommitMode.EAGER:
            self._stage(entry, finished, transaction)
        elif finished.lease is not None and not self.locks.still_held(finished.lease):
            self.notify(Faulted("lock lost before commit", entry.producer))
            return Refusal("lock lost before commit")
        else:
            if entry.derives_from:
                # Together with the staged ones it was made of.
                claimant = f"{entry.producer}/eager/{variant.id}"
                self.staging.claim(entry.derives_from, claimant)
                self.staging.stage(replace(entry, producer=claimant), claimant)
                if self.settle(claimant, Verdict.PASSED) is None:
                    return Refusal("not stored")
            else:
                self.publish(entry.destination, [variant])
            if finished.keyed.target:
                self._export(variant, finished)
        if told is not None:
            told(None)
        return None

    def settle(self, claimant: str, verdict: Verdict, *, retain_for: str = "") -> int | None:
        """Ends a claimant: how many records became visible, or were dropped. A fault is
        notified; then nothing became visible, and the answer is None."""
        settle = partial(self.staging.settle, claimant, verdict, retain_for=retain_for)
        settled = self._settled(settle)
        if settled is None:
            return None
        return settled.dropped if verdict is Verdict.FAILED else len(settled.committed)

    def drop(self, ids: Collection[str], claimant: str) -> bool:
        """Drops entries of a savepoint that failed; whether they are gone. A fault is
        notified."""
        return self._settled(partial(self.staging.drop, ids, claimant)) is not None

    def _settled(self, settle: Callable[..., Settled]) -> Settled | None:
        try:
            settled = settle(publish=self.publish)
        except StorageError as error:
            self.notify(Faulted(*fault_of(error)))
            return None
        for failure in settled.failures:
            self.notify(Faulted("not published", fault_of(failure)[1]))
        return settled

    def publish(self, destination: str, variants: Sequence[Variant]) -> None:
        """Writes records, their results first, to a storage other than the local index. Raises
        StorageError."""
        route = self.routes.named(destination)
        if route.results is not self.local:
            wanted = {digest for variant in variants for digest, _ in results_of(variant)}
            present = set(route.results.has_results(wanted)) if wanted else set()
            for variant in variants:
                copy_results(variant, self.local, route.results, present)
        elif route.records is not self.local:
            self.local.write_records([_reference(variant, route) for variant in variants])
        route.records.write_records(variants)

    def _stage(self, entry: Entry, finished: Finished, transaction: Transaction) -> None:
        mode = finished.computation.options.commit_mode
        claimant = transaction.claimant
        if mode is CommitMode.OFF:
            claimant = f"{claimant}{OFF}{entry.variant.id}"
            entry = replace(entry, producer=claimant)

            def end(_: Transaction) -> None:
                self.settle(claimant, Verdict.FAILED)

            transaction.on_commit(end)
            transaction.on_rollback(end)
        self.staging.stage(entry, claimant)
        transaction.hold(entry.variant.id, finished.lease)
        if finished.keyed.target and mode is not CommitMode.OFF:
            transaction.on_commit(lambda _: self._export(entry.variant, finished))

    def _not_stored(self, error: Exception) -> Refusal:
        """Tells of a fault. Storages and serializers may be users' code and raise anything."""
        reason, detail = fault_of(error)
        self.notify(Faulted(reason, detail))
        return Refusal("not stored", detail)

    def _export(self, variant: Variant, finished: Finished) -> None:
        result, route, target = variant.result, finished.route, finished.keyed.target
        try:
            data = bytes_of(result, self.local)
            if data is None:
                raise StorageError("target", "export", "stored value lost")
            key = variant.key
            if route.results is self.local and route.records is not self.local:
                key = _reference(variant, route).key
            elif not isinstance(route.results, TargetStorage):
                key = ""  # it lies in the local cache, and the record elsewhere
            self.lookup.target_storage(route.results).write_target(target, data, key)
        except StorageError as error:
            self.notify(Faulted("target not exported", f"{target}: {error}"))


def _reference(variant: Variant, route: Route) -> Variant:
    """A record that keeps a result in local storage from being taken for unreferenced, where
    the record proper is kept elsewhere. No look-up asks for its key."""
    key = xxhash.xxh3_128_hexdigest(f"{route.name}\n{variant.key}".encode())
    return replace(variant, key=f"elsewhere/{key}")


@dataclass
class WriteBatch:
    """Holds records of computations that committed by themselves (outcomes, mostly) until there
    are some: one transaction of the storage a record would take longer than most tests.

    ``publish(destination, records)`` writes them, and raises where it cannot; then each is
    written by itself. Who handed in a record is told what became of it: None once it is visible,
    else the error.
    """

    publish: Callable[[str, Sequence[Variant]], None]
    _waiting: list[tuple[str, Variant, Callable[[Exception | None], None]]] = field(
        default_factory=list
    )
    _since: float = 0.0
    _pid: int = field(default_factory=os.getpid)

    def add(
        self, destination: str, variant: Variant, told: Callable[[Exception | None], None]
    ) -> None:
        """Takes a record, and writes all there are if it is time to."""
        now = originals.monotonic()
        if not self._waiting:
            self._since = now
        self._waiting.append((destination, variant, told))
        if len(self._waiting) >= _MANY or now - self._since > _LONG or variant.duration > _LONG:
            self.flush()

    def flush(self) -> None:
        """Writes all. A forked child leaves that to its parent."""
        waiting, self._waiting = self._waiting, []
        if os.getpid() != self._pid:
            return
        destinations: dict[str, list[tuple[Variant, Callable[[Exception | None], None]]]] = {}
        for destination, variant, told in waiting:
            destinations.setdefault(destination, []).append((variant, told))
        for destination, entries in destinations.items():
            failed = self._written(destination, [variant for variant, _ in entries])
            for variant, told in entries:
                told(None if failed is None else self._written(destination, [variant]))

    def _written(self, destination: str, variants: Sequence[Variant]) -> Exception | None:
        try:
            self.publish(destination, variants)
        except Exception as error:  # storages may be users' code; who handed it in is told
            return error
        return None
