"""Looking a key up: staged values of this run first, then committed records, then a target.

For example, key ``k`` has two variants: the newer one names ``data.csv`` with another digest than
the file has now, the older one (made before ``data.csv`` was edited, and now it is as it was
again) agrees with everything. The look-up passes over the first and hits the second. Had neither
agreed, the miss would name what differs from the one that differs least, the first of equals:
``file changed: data.csv``.

Calls that were hits before are answered again by the shortest way (`Repeat`). It asks every
question that a look-up asks (is the code as it was, has the key no other records since, is the
value not expired, is the trace valid), but derives nothing anew: on a warm hit the rest costs
twice what these take. ``f(1)`` is named by ``f``, ``(1,)`` and ``(int,)``; whatever is answered
otherwise goes the long way, which explains itself.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from pytest_taskcache.dataclass import dataclass, field, replace
from pytest_taskcache.digests.values.digest import digest_function
from pytest_taskcache.engine.computation import Basis, Computation, OpenComputation
from pytest_taskcache.engine.keys import Keyed, parts_of_globals
from pytest_taskcache.engine.routes import LostResultError, Parts, Route, bytes_of
from pytest_taskcache.engine.validity import GLOBAL, Access, difference, nearer
from pytest_taskcache.errors import ConfigurationError, StorageError, TaskCacheError, fault_of
from pytest_taskcache.model.decision import Decision, Fault, Hit, Miss, Origin, Why
from pytest_taskcache.model.dependency import Change, Dependency, Kind, Trace
from pytest_taskcache.model.event import Decided
from pytest_taskcache.model.key import Key, Part
from pytest_taskcache.model.record import Result, Variant
from pytest_taskcache.observation.global_state import Before
from pytest_taskcache.observation.trace_recorder import digest_of
from pytest_taskcache.policies.algebra import CachePolicy
from pytest_taskcache.ports import (
    Fingerprints,
    KeyStorage,
    Lease,
    ResultStorage,
    TargetFile,
    TargetStorage,
)
from pytest_taskcache.transactions.transaction import Transaction

OFF = "/off/"
"""In the name of the claimant of an entry that is never to be committed."""


class ValidatorFailedError(Exception):
    """A user's validator raised; ``args[0]`` says what."""


@dataclass(eq=False, slots=True)
class Attempt:
    """A computation that was asked for and, when `Engine.open` returns it, has to run: call it,
    then `Engine.complete`, `Engine.refuse` or `Engine.abandon`.

    Without a ``keyed`` it cannot be looked up; the decision says why. ``transaction`` is the one
    it was asked for in. ``fresh_only``: only what this very run computed counts. ``state``: what
    was patched, and which globals were changed, when the computation was suspended; ``before``
    what the globals held when it began, None where nobody will ask.
    """

    computation: Computation
    access: Access
    route: Route
    transaction: Transaction | None
    keyed: Keyed | None = None
    fresh_only: bool = False
    decision: Decision = Miss(Why.ABSENT)  # frozen
    lease: Lease | None = None
    state: frozenset[Part] | None = None
    before: Before | None = None
    opened: OpenComputation = field(init=False)
    started: float = field(init=False)


@dataclass(eq=False, slots=True)
class Found:
    """A hit: the freshly decoded value, and what it rests on. Not to be changed."""

    value: object
    decision: Hit
    basis: Basis
    computation: Computation
    keyed: Keyed
    route: Route


Looked: TypeAlias = Found | Miss | Fault


@dataclass
class Lookup:
    """Answers lookups. Faults of storages come back as `Fault`, never as exceptions."""

    parts: Parts
    clock: Callable[[], float]

    def __post_init__(self) -> None:
        parts = self.parts
        self.run_id = parts.run.id
        self.staging = parts.staging
        self.local = parts.local
        self.payloads = parts.payloads
        self.observation = parts.observation
        self._pid = os.getpid()
        self.dead: set[str] = set()
        """Ids of entries that were rolled back and, for a fault of the storage, are still there."""
        self.shared = parts.several_workers
        """Whether anything may be staged that a computation outside of all transactions sees:
        by other workers, or by a transaction of another thread."""

    def look_up(self, attempt: Attempt, keyed: Keyed) -> Looked:
        """The valid value of a key, or why there is none."""
        try:
            if attempt.transaction is not None or self.shared:
                found = self._staged(attempt, keyed)
                if found is not None:
                    return found
            return self._committed(attempt, keyed)
        except ValidatorFailedError as error:
            return Fault("validator failed", str(error))
        except ConfigurationError:
            raise
        except Exception as error:  # storages and serializers may be users' code
            return Fault(*fault_of(error, "look-up failed"))

    def is_staged(self, keyed: Keyed, test: str) -> bool:
        """Whether a value of the key is staged in this run; False where that cannot be told."""
        try:
            return bool(self.staging.visible([keyed.key.digest], test=test))
        except StorageError:
            return False  # the look-up meets the same fault, and reports it

    def _staged(self, attempt: Attempt, keyed: Keyed) -> Found | None:
        key, transaction = keyed.key.digest, attempt.transaction
        entries = {
            entry.variant.id: entry
            for entry in self.staging.visible([key], test=attempt.computation.test).get(key, ())
            if entry.destination == attempt.route.name and entry.variant.id not in self.dead
        }
        if not entries:
            return None
        variants = self._fresh(attempt, [entry.variant for entry in entries.values()])
        found = self._first_valid(attempt, keyed, variants, self.local, Origin.STAGED)
        if not isinstance(found, Found) or found.decision.variant is None:
            return None
        name = found.decision.variant.id
        if OFF in entries[name].producer:
            # Never to be committed, not even by those who used it.
            return replace(found, basis=replace(found.basis, derives_from=frozenset()))
        if transaction is None or os.getpid() != self._pid:
            return found
        if name not in self.staging.claim([name], transaction.claimant):
            return None
        transaction.touch()
        return found

    def _fresh(self, attempt: Attempt, variants: Sequence[Variant]) -> Sequence[Variant]:
        if not attempt.fresh_only:
            return variants
        return [variant for variant in variants if self.run_id in variant.id]

    def _committed(self, attempt: Attempt, keyed: Keyed) -> Found | Miss:
        key, route = keyed.key, attempt.route
        records = route.records.read_records([key.digest]).get(key.digest, ())
        variants = self._fresh(attempt, records)
        if keyed.target:
            looked = self._of_target(attempt, keyed, variants)
        else:
            results = route.results
            looked = self._first_valid(attempt, keyed, variants, results, Origin.COMMITTED)
        if isinstance(looked, Found) or looked.why is not Why.ABSENT:
            return looked
        if attempt.fresh_only:
            return Miss(Why.REFRESH)
        name = str(key.identity)
        return self.explain_absence(key, route.records.recent([name]).get(name))

    def explain_absence(self, key: Key, newest: Variant | None) -> Miss:
        """The miss for a key without variants: what became of those it had, or what differs from
        the record of its identity that differs least; ``newest`` is the last of them. Raises
        StorageError."""
        why = self.local.gone(key.digest)
        if why is None and newest is None:
            why = self.local.gone(str(key.identity)) or Why.ABSENT
        if why is not None or newest is None:
            return Miss(why or Why.ABSENT)
        changes, nearest = difference(key.parts, newest.parts), newest
        if len(changes) > 1:
            for other in self.local.latest(str(key.identity)):
                fewer = difference(key.parts, other.parts)
                if len(fewer) < len(changes):
                    changes, nearest = fewer, other
        return Miss(Why.PARTS, changes, nearest) if changes else Miss(Why.ABSENT)

    def _first_valid(
        self,
        attempt: Attempt,
        keyed: Keyed,
        variants: Sequence[Variant],
        results: ResultStorage,
        origin: Origin,
    ) -> Found | Miss:
        """A hit on the newest variant that is valid and can be read, else a miss that says why
        the nearest is not."""
        computation, options = attempt.computation, attempt.computation.options
        reason: Miss | None = None
        lost: Miss | None = None
        for variant in variants:
            miss = self._invalidity(computation, keyed, variant)
            if miss is not None:
                reason = nearer(reason, miss)
                continue
            try:
                value = self.payloads.read(variant.result, results, options.serializer)
            except LostResultError as error:
                change = Change("stored value", str(error), variant.result.digest, "")
                lost = Miss(Why.LOST, (change,))
                continue
            basis = Basis(
                with_declared(variant.trace, options.policy, keyed),
                expires=variant.expires,
                derives_from=frozenset([variant.id] if origin is Origin.STAGED else ()),
                taints=options.taints,
            )
            hit = Hit(variant, origin, variant.vouched)
            return Found(value, hit, basis, computation, keyed, attempt.route)
        return lost or reason or Miss(Why.ABSENT)

    def _invalidity(self, computation: Computation, keyed: Keyed, variant: Variant) -> Miss | None:
        if variant.expires is not None and variant.expires <= self.clock():
            return Miss(Why.EXPIRED, nearest=variant)
        changes = () if variant.vouched else self._changes(computation, variant)
        if changes:
            return Miss(Why.TRACE, changes, variant)
        validator = computation.options.validator
        if validator is None or keyed.present is None:
            return None
        try:
            accepted = bool(validator(keyed.present, variant))
        except Exception as error:  # users' code; the computation still runs
            where = f"the validator of {keyed.key.identity}"
            raise ValidatorFailedError(f"{where}: {type(error).__name__}: {error}") from error
        return None if accepted else Miss(Why.INVALID, nearest=variant)

    def _changed_global(self, computation: Computation, variant: Variant) -> Change | None:
        state = self.observation.disturbed(variant.trace, computation.context.function)
        before = {one.name: one.digest for one in variant.parts if one.name.startswith(GLOBAL)}
        if not state and not before:
            return None
        parts, _ = parts_of_globals(state, self.parts.fingerprints.name_of)
        now = dict(parts)
        for name in sorted(before.keys() | now.keys()):
            if before.get(name) != now.get(name):
                as_collected = "as it was when collection ended"
                told = (before.get(name, as_collected), now.get(name, as_collected))
                return Change("global", name.removeprefix(GLOBAL), *told)
        return None

    def _changes(self, computation: Computation, variant: Variant) -> tuple[Change, ...]:
        changes = self.observation.verify(variant.trace)
        if changes:
            return changes
        if change := self._changed_global(computation, variant):
            return (change,)
        if computation.pinned is None:
            return ()
        # Last, since asking may set up a fixture: one that this very code would ask for.
        for part in variant.parts:
            if part.name.startswith("request."):
                now = computation.pinned(part.name)
                if now != part.digest:
                    return (Change("request", part.name[8:], part.digest, now),)
        return ()

    def _of_target(
        self, attempt: Attempt, keyed: Keyed, variants: Sequence[Variant]
    ) -> Found | Miss:
        """The value a target file stands for: a record's whose bytes it holds, or, in a target
        directory of our own, the file's by itself. No file: no hit."""
        results, origin = attempt.route.results, Origin.COMMITTED
        storage = self.target_storage(results)
        file = storage.read_target(keyed.target)
        if file is None:
            return Miss(Why.ABSENT)
        matching = [variant for variant in variants if variant.result.digest == file.digest]
        if not matching and file.owned and not attempt.fresh_only:
            origin, matching = Origin.TARGET, [self._bare(attempt.computation, keyed, file)]
        found = self._first_valid(attempt, keyed, matching, results, origin)
        if not isinstance(found, Found):
            return found
        path = file.path or _placed(storage, keyed.target, found.decision.variant, results)
        basis = self.with_target(found.basis, path, file.digest)
        hit = Hit(None, origin, vouched=True) if origin is Origin.TARGET else found.decision
        return replace(found, decision=hit, basis=basis)

    def target_storage(self, results: ResultStorage) -> TargetStorage:
        """Where the targets of these results lie: with them, or else in the local cache. Raises
        StorageError where neither keeps any."""
        for storage in (results, self.local):
            if isinstance(storage, TargetStorage):
                return storage
        raise StorageError(results.describe(), "use a target", "it keeps no targets")

    def with_target(self, basis: Basis, path: Path | None, digest: str) -> Basis:
        """A basis that also rests on a target. Whether one that is no local file is as it was is
        asked where it is looked up, and not for each of its consumers."""
        if path is None:
            return replace(basis, taints=(*basis.taints, "a value with a target elsewhere"))
        target = Dependency(Kind.FILE, self.parts.fingerprints.name_of(path), digest)
        return replace(basis, trace=with_more(basis.trace, [target]))

    def _bare(self, computation: Computation, keyed: Keyed, file: TargetFile) -> Variant:
        expires = None
        if computation.options.expiration is not None:
            expires = file.modified + computation.options.expiration.total_seconds()
        serializer = self.payloads.chosen(computation.options.serializer).name
        return Variant(
            id=f"target-{self.run_id}",
            key=keyed.key.digest,
            identity=keyed.key.identity,
            parts=keyed.key.parts,
            trace=Trace(),
            result=Result(file.digest, len(file.data), serializer, bytes(file.data)),
            created=file.modified,
            expires=expires,
            duration=0.0,
            producer="",
            vouched=True,
        )


def _placed(
    storage: TargetStorage, name: str, variant: Variant | None, results: ResultStorage
) -> Path | None:
    """Where another machine's target now lies as a local file, too, so that consumers of its value
    can rest on it; None where it cannot. What is written is what the record vouches for."""
    path = storage.target_path(name)
    if path is None or variant is None or not results.trusted:
        return None
    try:
        data = bytes_of(variant.result, results)
        if data is None:
            return None
        storage.write_target(name, data, variant.key)
    except StorageError:
        return None  # read-only, perhaps; nothing but the consumers' records depends on it
    return path


def with_declared(trace: Trace, policy: CachePolicy, keyed: Keyed) -> Trace:
    """A trace that also holds what the policy declares, so that a consumer verifies it."""
    if not policy.declares:
        return trace
    declared = [each.declared for each in policy.components if each.declared]
    digests = dict(keyed.key.parts)
    known = {(dependency.kind, dependency.name) for dependency in trace.dependencies}
    more = tuple(
        Dependency(kind, name, digests[f"{kind} {name}"])
        for kind, name in declared
        if (kind, name) not in known and f"{kind} {name}" in digests
    )
    return with_more(trace, more)


def with_sources(trace: Trace, files: Collection[str], fingerprints: Fingerprints) -> Trace:
    """A trace that also rests on the source of these files, whose code a value holds, run or
    not."""
    names = {fingerprints.name_of(file) for file in files}
    names -= {each.name for each in trace.dependencies if each.kind is Kind.SOURCE}
    held = (Dependency(Kind.SOURCE, n, fingerprints.digest(Kind.SOURCE, n)) for n in names)
    return with_more(trace, held)


def with_more(trace: Trace, more: Iterable[Dependency]) -> Trace:
    """A trace that also rests on these, of which it has none."""
    ordered = tuple(sorted((*trace.dependencies, *more)))
    return Trace(ordered, digest_of(ordered), trace.uses)


_SCALARS = frozenset({int, bool, str, type(None)})


@dataclass(eq=False, slots=True)
class Repeat:
    """A hit as it was: what is to be asked again, and what happens then."""

    function: Callable[..., object]
    source: str
    key: str
    records: KeyStorage
    variants: tuple[Variant, ...]
    trace: Trace | None
    state: Mapping[str, object]
    read: Callable[[], object]
    basis: Basis
    event: Decided

    def value(
        self, lookup: Lookup, transaction: Transaction | None, test: str
    ) -> tuple[object] | None:
        """The value anew, alone in a tuple; None if anything is not as it was, or cannot be told:
        then the long way tells."""
        key, expires = self.key, self.basis.expires
        try:
            if digest_function(self.function) != self.source:
                return None
            staged = transaction is not None or lookup.shared
            if staged and lookup.staging.visible((key,), test=test):
                return None
            if self.records.read_records((key,)).get(key) is not self.variants:
                return None
            if expires is not None and expires <= lookup.clock():
                return None
            if self.trace is not None and (
                lookup.observation.verify(self.trace)
                or lookup.observation.disturbed(self.trace, self.function) is not self.state
            ):
                return None
            return (self.read(),)
        except Exception:  # storages and serializers may be users' code
            return None


def repeat_of(found: Found, lookup: Lookup) -> Repeat | None:
    """A hit as it can be repeated: on the newest record of a key that follows from source and
    arguments alone."""
    computation, variant, records = found.computation, found.decision.variant, found.route.records
    context, options = computation.context, computation.options
    if variant is None or found.decision.origin is not Origin.COMMITTED or not options.plain:
        return None
    # A text may be a path, which counts by where it lies.
    if any(isinstance(value, str) and "/" in value for value in computation.arguments.values()):
        return None
    try:
        variants = records.read_records((variant.key,)).get(variant.key, ())
        source = digest_function(context.function)
    except TaskCacheError:
        return None
    if not variants or variants[0] is not variant:
        return None
    key = Key(variant.key, context.identity, variant.parts, variant.vouched)
    saved, test = variant.duration, computation.test
    return Repeat(
        context.function,
        source,
        variant.key,
        records,
        variants,
        None if variant.vouched else variant.trace,
        lookup.observation.disturbed(variant.trace, context.function),
        lookup.payloads.reader(variant.result, found.route.results, options.serializer),
        found.basis,
        Decided(context.subject, context.identity, found.decision, key, saved, test),
    )


def call_name(task: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Hashable | None:
    """A name for a call of a task that tells it from all others; None where its arguments are
    not plain."""
    kinds = tuple(map(type, args))
    if not kwargs:
        return (task, args, kinds) if _SCALARS.issuperset(kinds) else None
    more = tuple(map(type, kwargs.values()))
    if not (_SCALARS.issuperset(kinds) and _SCALARS.issuperset(more)):
        return None
    return task, args, kinds, tuple(kwargs.items()), more
