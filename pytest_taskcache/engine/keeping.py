"""Keeping a computed value: serialized at once, staged in a transaction, published on commit."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace

import xxhash

from pytest_taskcache.engine.computation import Basis, Computation
from pytest_taskcache.engine.deferring import Deferred
from pytest_taskcache.engine.eligibility import Refusal
from pytest_taskcache.engine.frames import earliest
from pytest_taskcache.engine.keying import Keyed
from pytest_taskcache.engine.payloads import Payloads, transfer
from pytest_taskcache.engine.reading import off_claimant
from pytest_taskcache.engine.routes import Route, Routes
from pytest_taskcache.engine.targets import export
from pytest_taskcache.errors import (
    ConfigurationError,
    SerializationError,
    StorageError,
    TaskCacheError,
)
from pytest_taskcache.model.event import Event, Faulted, Subject
from pytest_taskcache.model.key import Part
from pytest_taskcache.model.record import Result, Variant
from pytest_taskcache.ports import Lease, Storage
from pytest_taskcache.transactions.staging import Entry, Staging, Verdict
from pytest_taskcache.transactions.transaction import (
    CommitMode,
    Transaction,
    TransactionStateError,
)


@dataclass
class Keeper:
    """Stages values and settles what becomes of them. Faults are notified, never raised."""

    run_id: str
    worker: str
    process: str
    staging: Staging
    local: Storage
    routes: Routes
    payloads: Payloads
    versions: tuple[tuple[str, str], ...]
    notify: Callable[[Event], None]
    clock: Callable[[], float]
    confirm: Callable[[Lease], bool]
    """Whether a lease is still held."""
    part: Callable[[str], bytes | None] = lambda digest: None
    _numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    def __post_init__(self) -> None:
        self.deferred = Deferred(self.publish)

    def keep(
        self,
        value: object,
        computation: Computation,
        keyed: Keyed,
        route: Route,
        basis: Basis,
        *,
        duration: float,
        transaction: Transaction | None,
        lease: Lease | None,
        pinned: Sequence[Part] = (),
        told: Callable[[Refusal | None], None] | None = None,
    ) -> Variant | Refusal:
        """Serializes and stages a value, or commits it where no transaction is open; its record,
        or why it is not kept.

        With ``told`` a record that commits by itself may be written a little later, together
        with others (`Deferred`); then this is told what became of every record that is returned.
        """
        options = computation.options
        try:
            portable = computation.context.subject is not Subject.TEST  # its output may tell
            result = self.payloads.write(value, options.serializer, self.local, portable=portable)
        except SerializationError as error:
            return Refusal("value cannot be serialized", str(error))
        except ConfigurationError:
            raise  # the author of the computation can mend it
        except Exception as error:  # storages and serializers may be users' code
            return self._not_stored(error)
        variant = self.record(computation, keyed, result, basis, duration=duration, pinned=pinned)
        return self.put(
            variant,
            computation,
            route,
            basis,
            keyed,
            transaction=transaction,
            lease=lease,
            told=told,
        )

    def record(
        self,
        computation: Computation,
        keyed: Keyed,
        result: Result,
        basis: Basis,
        *,
        duration: float,
        pinned: Sequence[Part] = (),
    ) -> Variant:
        """The record of a computation; nothing is written."""
        now = self.clock()
        options = computation.options
        expires = basis.expires
        if options.expiration is not None:
            expires = earliest(expires, now + options.expiration.total_seconds())
        present = keyed.present
        return Variant(
            id=f"{time.time_ns():016x}-{self.run_id}-{self.process}-{next(self._numbers)}",
            key=keyed.key.digest,
            identity=keyed.key.identity,
            parts=keyed.key.parts + tuple(pinned),
            trace=basis.trace,
            result=result,
            created=now,
            expires=expires,
            duration=duration,
            producer=computation.test or str(keyed.key.identity),
            versions=self.versions,
            inputs=present.inputs if present is not None else (),
            parameters=present.parameters if present is not None else (),
            vouched=keyed.key.vouched,
        )

    def _write_parts(self, variant: Variant) -> None:
        for blob in variant.trace.uses:
            data = self.part(blob.digest)
            if data is not None:
                self.local.write_result(blob.digest, [data])

    def put(
        self,
        variant: Variant,
        computation: Computation,
        route: Route,
        basis: Basis,
        keyed: Keyed,
        *,
        transaction: Transaction | None,
        lease: Lease | None,
        told: Callable[[Refusal | None], None] | None = None,
    ) -> Variant | Refusal:
        """Stages a record in a transaction, or publishes it at once where there is none; or a
        little later, as `keep` says."""
        if told is not None and transaction is None and not basis.derives_from:
            self._write_parts(variant)
            self.deferred.add(
                route.name,
                variant,
                lambda error: told(None if error is None else self._not_stored(error)),
            )
            return variant
        kept = self._put(variant, computation, route, basis, keyed, transaction, lease)
        if told is not None and isinstance(kept, Variant):
            told(None)
        return kept

    def _put(
        self,
        variant: Variant,
        computation: Computation,
        route: Route,
        basis: Basis,
        keyed: Keyed,
        transaction: Transaction | None,
        lease: Lease | None,
    ) -> Variant | Refusal:
        options = computation.options
        mode = CommitMode.parse(options.commit)
        retryable = options.retry_inputs and transaction is not None
        entry = Entry(
            variant,
            producer=transaction.claimant if transaction is not None else self.worker,
            derives_from=basis.derives_from,
            destination=route.name,
            held=options.consumers == "all" and computation.wide,
            retryable=retryable,
        )
        try:
            self._write_parts(variant)
            if transaction is None and mode is CommitMode.OFF:
                return Refusal("commit is off")
            if transaction is None or mode is CommitMode.EAGER:
                if lease is not None and not self.confirm(lease):
                    self.notify(Faulted("lock lost before commit", entry.producer))
                    return Refusal("lock lost before commit")
                self._publish_alone(entry, transaction)
                if keyed.target:
                    self._export(variant, keyed.target)
            else:
                self._stage(entry, transaction, mode)
                transaction.stage(variant.id, lease)
                if keyed.target and mode is not CommitMode.OFF:
                    transaction.on_commit(lambda _: self._export(variant, keyed.target))
        except TransactionStateError:
            self.drop([variant.id], entry.producer)
            return Refusal("its transaction had ended", "it was computed in a thread of its own")
        except ConfigurationError:
            raise  # the author of the computation can mend it
        except Exception as error:  # storages and serializers may be users' code
            return self._not_stored(error)
        return variant

    def settle(self, claimant: str, verdict: Verdict, *, retain_for: str = "") -> int | None:
        """Ends a claimant: how many records became visible, or were dropped. A fault is
        notified; then nothing became visible, and the answer is None."""
        try:
            settled = self.staging.settle(
                claimant, verdict, publish=self.publish, retain_for=retain_for
            )
        except StorageError as error:
            self.notify(Faulted(f"{error.operation} failed: {error.reason}", str(error)))
            return None
        for failure in settled.failures:
            self.notify(Faulted("not published", _told(failure)))
        return settled.dropped if verdict is Verdict.FAILED else len(settled.committed)

    def drop(self, ids: Collection[str], claimant: str) -> bool:
        """Drops entries of a savepoint that failed; whether they are gone. A fault is
        notified."""
        try:
            self.staging.drop(ids, claimant, publish=self.publish)
        except StorageError as error:
            self.notify(Faulted(f"{error.operation} failed: {error.reason}", str(error)))
            return False
        return True

    def publish(self, destination: str, variants: Sequence[Variant]) -> None:
        """Writes records, their results first, to a storage other than the local index. Raises
        StorageError."""
        route = self.routes.named(destination)
        if route.results is not self.local:
            for variant in variants:
                transfer(variant.result, self.local, route.results)
        elif route.records is not self.local:
            self.local.write_records([_reference(variant, route) for variant in variants])
        route.records.write_records(variants)

    def _stage(self, entry: Entry, transaction: Transaction, mode: CommitMode) -> None:
        claimant = transaction.claimant
        if mode is CommitMode.OFF:
            claimant = off_claimant(claimant, entry.variant.id)
            entry = replace(entry, producer=claimant)

            def end(_: Transaction) -> None:
                self.settle(claimant, Verdict.FAILED)

            transaction.on_commit(end)
            transaction.on_rollback(end)
        self.staging.stage(entry, claimant)

    def _publish_alone(self, entry: Entry, transaction: Transaction | None) -> None:
        """Commits an entry at once, together with the staged ones it was made of."""
        if not entry.derives_from:
            self.publish(entry.destination, [entry.variant])
            return
        user = transaction.claimant if transaction is not None else self.worker
        claimant = f"{user}/eager/{entry.variant.id}"
        self.staging.claim(entry.derives_from, claimant)
        self.staging.stage(replace(entry, producer=claimant), claimant)
        settled = self.staging.settle(claimant, Verdict.PASSED, publish=self.publish)
        for failure in settled.failures:
            self.notify(Faulted("not published", _told(failure)))

    def _not_stored(self, error: Exception) -> Refusal:
        """Tells of a fault. Storages and serializers may be users' code and raise anything."""
        if isinstance(error, StorageError):
            self.notify(Faulted(f"{error.operation} failed: {error.reason}", str(error)))
        else:
            self.notify(Faulted("storage failed", _told(error)))
        return Refusal("not stored", _told(error))

    def _export(self, variant: Variant, target: str) -> None:
        result = variant.result
        try:
            data = result.inline
            if data is None:
                stored = self.local.read_result(result.digest, result.size)
                data = bytes(stored) if stored is not None else None
            if data is None:
                raise StorageError("target", "export", "stored value lost")
            export(self.payloads.targets, target, data)
        except (OSError, StorageError) as error:
            self.notify(Faulted("target not exported", f"{target}: {error}"))


def _reference(variant: Variant, route: Route) -> Variant:
    """A record that keeps a result in local storage from being taken for unreferenced, where
    the record proper is kept elsewhere. No look-up asks for its key."""
    key = xxhash.xxh3_128_hexdigest(f"{route.name}\n{variant.key}".encode())
    return replace(variant, key=f"elsewhere/{key}")


def _told(error: Exception) -> str:
    return str(error) if isinstance(error, TaskCacheError) else f"{type(error).__name__}: {error}"
