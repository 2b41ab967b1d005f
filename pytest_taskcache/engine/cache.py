"""Get or compute: the one place where windows open, and where everything else is called from."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Generator, Hashable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Protocol

from pytest_taskcache.dataclass import dataclass, replace
from pytest_taskcache.digests.values.digest import digest_value
from pytest_taskcache.engine.computation import (
    Basis,
    Computation,
    OpenComputation,
    OpenComputations,
    Options,
    Place,
    defaults_around,
)
from pytest_taskcache.engine.keys import Keyed, changed_input, key_of, parts_of_globals, shown
from pytest_taskcache.engine.lookup import Attempt as Attempt
from pytest_taskcache.engine.lookup import Found, Looked, Lookup, Repeat, repeat_of, with_declared
from pytest_taskcache.engine.recorder import Finished, Recorder
from pytest_taskcache.engine.routes import LostResultError, Parts, Routes
from pytest_taskcache.engine.validity import Refusal, access, objection
from pytest_taskcache.engine.wait_policy import Locks, computing
from pytest_taskcache.errors import (
    ConfigurationError,
    LockError,
    StorageError,
    UndigestableError,
    fault_of,
)
from pytest_taskcache.model.decision import Decision, Fault, Hit, Miss, Uncacheable, Why
from pytest_taskcache.model.dependency import Observed
from pytest_taskcache.model.event import Computed, Decided, Event, Faulted, Subject, Verified
from pytest_taskcache.model.key import Identity, Part
from pytest_taskcache.model.modes import IsolationLevel
from pytest_taskcache.model.record import Result, Variant
from pytest_taskcache.originals import originals
from pytest_taskcache.policies.algebra import TaskContext
from pytest_taskcache.ports import LockManager, Observer
from pytest_taskcache.storage.local.runs import this_process
from pytest_taskcache.transactions.transaction import (
    CommitMode,
    Transaction,
    TransactionState,
    innermost,
)

_REPEATS = 10_000


@dataclass(frozen=True, slots=True)
class Completed:
    """What became of a computed value: what it rests on, and its record if it was kept."""

    basis: Basis
    observed: Observed
    variant: Variant | None
    refusal: Refusal | None


class Attachment(Protocol):
    """What goes with values, is kept and brought back along with them: covered lines."""

    def begin(self, opened: OpenComputation) -> None:
        """A computation begins."""

    def end(self, opened: OpenComputation) -> None:
        """It ended."""

    def keep(self, opened: OpenComputation, finished: Finished) -> None:
        """Its value is about to be kept, and seen by others."""

    def bring_back(self, found: Found) -> Looked:
        """What was found is about to be reused; what is returned counts instead. Never raises."""


class Engine:
    """Answers computations from the cache, or has them run and keeps what they return.

    It never raises what a storage, a lock manager or a serializer raised: such a fault is
    notified, and the computation runs. It does raise what the author of a computation can mend
    (ConfigurationError).
    """

    def __init__(self, parts: Parts, observers: Iterable[Observer] = ()) -> None:
        self.parts = parts
        self.run = parts.run
        self.worker = parts.worker
        self.pid = os.getpid()
        self.process = this_process()
        self.clock = parts.clock
        self.staging = parts.staging
        self.fingerprints = parts.fingerprints
        self.routes = Routes(parts)
        self.open_computations = OpenComputations()
        self._options: dict[tuple[int, ...], tuple[tuple[object, ...], Options]] = {}
        """Options with the defaults applied, by the ids of both, which are kept alive."""
        self._repeats: dict[Hashable, Repeat] = {}
        self._refused: dict[str, Refusal] = {}
        self.observers = list(observers)
        self._deaf: set[int] = set()
        self.root: Transaction | None = None
        self._in_blocks: dict[str, Transaction] = {}
        self.place = Place()
        """The running test, as functions called from it see it."""
        self.attachment: Attachment | None = None
        self.verifies: Callable[[Variant], bool] | None = None
        """Which values are computed anyway, and compared, instead of being reused."""
        self.used: set[str] = set()
        """Ids of the variants that were hits; eviction is told of them at the end."""
        self.lookup = Lookup(parts, lambda: self.clock())
        self.locks = Locks(parts.run, self.lookup, self.notify)
        self.recorder = Recorder(parts, self.routes, self.lookup, self.locks, self.notify)

    def repeat(self, name: Hashable) -> tuple[object] | None:
        """The value, alone in a tuple, of a call that was a hit before and is one again; None
        where that cannot be told by the shortest way. ``name`` as of `call_name`."""
        known = self._repeats.get(name)
        if known is None or self.verifies is not None or self.attachment is not None:
            return None
        if self.parts.observation.patched(known.function):
            return None
        test = self.place.test
        if self.open_computations.none_open:
            value = known.value(self.lookup, self.current(), test)
        else:
            with self.quiet():
                value = known.value(self.lookup, self.current(), test)
        if value is None:
            return None
        self.used.add(known.variants[0].id)
        if known.event.test != test:
            known.event = replace(known.event, test=test)
        self.notify(known.event)
        self.open_computations.absorb(known.basis)
        return value

    def remember(self, name: Hashable, found: Found) -> None:
        """Has the next call of this name answered by `repeat`, if that is possible."""
        known = None if self.parts.refresh.asked else repeat_of(found, self.lookup)
        if known is not None:
            if len(self._repeats) >= _REPEATS:
                self._repeats.clear()
            self._repeats[name] = known

    def open(self, computation: Computation) -> Found | Attempt:
        """As `steps`, sleeping through the waits."""
        steps = self.steps(computation, blocks=True)
        try:
            while True:
                time.sleep(next(steps))
        except StopIteration as end:
            result: Found | Attempt = end.value
            return result

    async def open_async(self, computation: Computation) -> Found | Attempt:
        """As `open`, leaving the event loop free during the waits. Under another event loop than
        asyncio's the waits block."""
        import asyncio

        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return self.open(computation)
        steps = self.steps(computation, blocks=False)
        try:
            while True:
                await asyncio.sleep(next(steps))
        except StopIteration as end:
            result: Found | Attempt = end.value
            return result

    def steps(
        self, computation: Computation, *, blocks: bool
    ) -> Generator[float, None, Found | Attempt]:
        """Looks a computation up; yields seconds to sleep while someone else computes it.
        ``blocks``: whether nothing else runs in this thread meanwhile.

        Returns what was found, or the attempt that its caller must run, and then complete or
        abandon. Raises ConfigurationError for what the author of the computation can mend.
        """
        attempt = self._asked(computation)
        self._refuse_patched(attempt)
        keyed = attempt.keyed
        if keyed is None:
            return self._begun(attempt)
        manager = self._manager(computation.options) if attempt.access.record else None
        looked = self._look(attempt, keyed)
        if manager is not None and not isinstance(looked, Found):
            look = partial(self._look, attempt, keyed)
            locked = self.locks.acquire(attempt, keyed, manager, look, blocks)
            attempt.lease, looked = yield from locked
        if isinstance(looked, Found):
            return self.use(looked)
        attempt.decision, refused = looked, self._refused.get(keyed.key.digest)
        if refused and isinstance(looked, Miss) and looked.why in (Why.ABSENT, Why.PARTS):
            # This run computed it before, and could not keep it.
            attempt.decision = Miss(Why.REFUSED, detail=refused.detail or refused.reason)
        return self._begun(attempt)

    def peek(self, computation: Computation, *, claims: bool = True) -> Found | None:
        """A hit, of which nobody is told yet; None where the computation would have to run, or
        wait. ``claims``: it is about to be used. Raises as `open`."""
        attempt = self._asked(computation)
        self._refuse_patched(attempt)
        if not claims:
            attempt.transaction = None
        if attempt.keyed is None:
            return None
        looked = self._look(attempt, attempt.keyed)
        return looked if isinstance(looked, Found) else None

    def use(self, found: Found) -> Found:
        """What was found, which now counts as a hit."""
        variant = found.decision.variant
        if variant is not None:
            self.used.add(variant.id)
        self._tell_decided(found.computation, found.decision, found.keyed)
        self.open_computations.absorb(found.basis)
        return found

    def is_cached(self, computation: Computation) -> bool:
        """Whether the computation would be answered now; it is not run, and nobody is told.
        Whoever asks depends on the state of the cache, and is not kept itself."""
        self._taint()
        return self.peek(computation, claims=False) is not None

    def forget(self, computation: Computation) -> int:
        """Removes what is recorded for the computation, its target file too, and hides what this
        process staged for it; how many records. 0 where the run may not write, or the storage
        failed, which is notified. As with `is_cached`, whoever does this is not kept itself."""
        self._taint()
        attempt = self._asked(computation)
        keyed, route, transaction = attempt.keyed, attempt.route, attempt.transaction
        if isinstance(attempt.decision, Fault):
            self.notify(Faulted(attempt.decision.reason, attempt.decision.detail))
        if keyed is None or not attempt.access.record:
            return 0
        key = keyed.key.digest
        try:
            with self.quiet():
                self.recorder.batch.flush()
                variants = route.records.read_records([key]).get(key, ())
                route.records.remove_records([each.id for each in variants])
                visible = self.staging.visible([key], test=computation.test).get(key, ())
                staged = [each.variant.id for each in visible]
                if staged and transaction is not None:
                    self.recorder.drop(staged, transaction.claimant)
                self.lookup.dead.update(staged)
                if keyed.target:
                    file = self.lookup.target_storage(route.results).read_target(keyed.target)
                    if file is not None and file.owned and file.path is not None:
                        file.path.unlink()
        except (StorageError, OSError) as error:
            self.notify(Faulted("could not forget", str(error)))
            return 0
        self._repeats.clear()
        return len(variants) + len(staged)

    def _taint(self) -> None:
        self.open_computations.absorb(Basis(taints=("the state of the cache",)))

    def begin(self, function: Callable[..., object] | None) -> OpenComputation:
        """Opens a window for a computation, of this function if it is one, and takes it among the
        open ones, which inherit from what is used; `OpenComputations.close` ends it."""
        return self.open_computations.open(self.parts.observation.open_window(function))

    def resume(self, attempt: Attempt) -> None:
        """The computation of an attempt runs from now on, in this thread or task. What others
        patched, or set, while it was suspended is none of its own doing."""
        window = attempt.opened.window
        window.enter()
        before = attempt.state
        if before is not None and (changes := before ^ self._surroundings(attempt)):
            name = min(changes).name
            window.doubt(name)

    def suspend(self, attempt: Attempt) -> None:
        """The computation waits: others run."""
        attempt.opened.window.leave()
        if attempt.keyed is not None:
            attempt.state = self._surroundings(attempt)

    def _surroundings(self, attempt: Attempt) -> frozenset[Part]:
        computation = attempt.computation
        given = computation.arguments.values()
        patch, state = self.parts.observation.reached(computation.context.function, given)
        parts, _ = parts_of_globals(state, self.parts.fingerprints.name_of)
        return frozenset((*parts, Part(patch, "patched")) if patch else parts)

    def complete(
        self,
        attempt: Attempt,
        value: object,
        *,
        pinned: Sequence[Part] | Callable[[Observed], Sequence[Part]] = (),
        transaction: Transaction | None = None,
    ) -> Completed:
        """Takes the value of an attempt: closes its window, serializes it at once and stages it
        in a transaction, by default the innermost open one.

        ``pinned`` are parts a later look-up must agree with, known only now, or only when it is
        known what the window saw. Never raises for what cannot be stored.
        """
        duration, observed, basis = self._closed(attempt)
        refusal = self._refusal(attempt, observed)
        state, problem = self._state(attempt, observed) if refusal is None else ((), "")
        if problem:
            refusal = Refusal("patched state", problem)
        variant: Variant | None = None
        if refusal is None and attempt.keyed is not None:
            with self.quiet():
                finished = Finished(
                    attempt.computation,
                    attempt.keyed,
                    attempt.route,
                    basis,
                    duration,
                    transaction or self.current(),
                    attempt.lease,
                    (*(pinned(observed) if callable(pinned) else pinned), *state),
                )
                if self.attachment is not None:
                    self.attachment.keep(attempt.opened, finished)
                kept = self.recorder.keep(finished, value)
                if isinstance(kept, Refusal):
                    refusal = kept
                else:
                    variant = kept
                    self._hold(attempt, variant, finished.transaction)
                    basis = self._as_used(attempt, finished, variant)
        self._verify(attempt, value, variant)
        return self._ended(attempt, duration, Completed(basis, observed, variant, refusal))

    def refuse(self, attempt: Attempt, reason: str, detail: str = "") -> Completed:
        """Ends an attempt whose value was computed but may not be kept."""
        duration, observed, basis = self._closed(attempt)
        refusal = Refusal(reason, detail)
        return self._ended(attempt, duration, Completed(basis, observed, None, refusal))

    def abandon(self, attempt: Attempt) -> None:
        """Ends an attempt whose computation raised: nothing is kept, the lock goes."""
        _, _, basis = self._closed(attempt)
        if attempt.lease is not None:
            self.locks.release(attempt.lease)
        self.open_computations.absorb(basis)

    def current(self) -> Transaction | None:
        """The innermost open transaction as seen from here."""
        return innermost(self, self.root)

    def context(
        self,
        subject: Subject,
        identity: Identity,
        function: Callable[..., object],
        input_digests: Mapping[str, str] | None = None,
    ) -> TaskContext:
        """The context of a computation in the running test."""
        place, digests = self.place, input_digests or {}
        run, world, parameters = self.run.id, self.fingerprints, place.parameters
        test, module = place.name, place.module
        return TaskContext(
            subject, identity, function, run, world, parameters, test, module, digests
        )

    def is_forked(self) -> bool:
        """Whether this is a forked child: it stages, settles and ends nothing."""
        return os.getpid() != self.pid

    def quiet(self) -> AbstractContextManager[None]:
        """A context for the cache's own work, of which no window takes notice."""
        return self.parts.observation.muted()

    def read(self, result: Result, options: Options) -> object:
        """A new value of a result that was found or staged here. Raises LostResultError or
        StorageError."""
        payloads, serializer = self.parts.payloads, options.serializer
        with self.quiet():
            try:
                return payloads.read(result, self.parts.local, serializer)
            except LostResultError:
                return payloads.read(result, self.routes.of(options).results, serializer)

    def claim(self, ids: Collection[str], transaction: Transaction) -> None:
        """Makes a transaction a user of staged entries of others: it commits them if it passes.
        What a fixture staged in a block that it still holds open has that block's fate."""
        free = [each for each in ids if not self._is_held_elsewhere(each, transaction)]
        if not free or self.is_forked():
            return
        try:
            with self.quiet():
                claimed = self.staging.claim(free, transaction.claimant)
            if claimed:
                transaction.touch()
        except StorageError as error:
            self.notify(Faulted(*fault_of(error)))

    def _is_held_elsewhere(self, entry: str, user: Transaction) -> bool:
        holder = self._in_blocks.get(entry)
        if holder is None or holder.root is user.root:
            return False
        if not holder.is_held():
            del self._in_blocks[entry]
        return entry in self._in_blocks

    def notify(self, event: Event) -> None:
        """Tells every observer; one that raises is reported to the others, and breaks nothing."""
        for observer in self.observers:
            if self._deaf and id(observer) in self._deaf:
                continue
            try:
                observer.notify(event)
            except Exception as error:  # observers may be users' code
                # Told no more, or it would be reported with every event to come.
                self._deaf.add(id(observer))
                self.notify(Faulted("observer failed", f"{type(error).__name__}: {error}"))

    def close(self) -> None:
        """Gives back locks and storages. Never raises."""
        self.locks.release_all()
        self.routes.close()
        if self.parts.lock_manager is not None:
            self.parts.lock_manager.close()

    def _asked(self, computation: Computation) -> Attempt:
        """A computation with its key, and where its record would be."""
        options = computation.options = self._completed(computation)
        allowed = access(self.parts.mode, options)
        attempt = Attempt(computation, allowed, self.routes.default, self.current())
        if not any(allowed):
            off = "persist=False" if not options.persist else "cache switched off"
            attempt.decision = Uncacheable(off)
            return attempt
        keyed = key_of(computation, self.parts.payloads, self.clock)
        if not isinstance(keyed, Keyed):
            attempt.decision = keyed
            return attempt
        try:
            attempt.route = self.routes.of(options)
        except StorageError as error:
            attempt.decision = Fault(*fault_of(error))
            return attempt
        attempt.keyed = keyed
        refresh = self.parts.refresh
        if refresh.asked and options.refresh is not False:
            attempt.fresh_only = refresh.covers(str(keyed.key.identity))
        return attempt

    def _completed(self, computation: Computation) -> Options:
        options = computation.options
        around = () if computation.block else tuple(defaults_around(computation.context.function))
        # One decorator may stand in several modules.
        name = tuple(map(id, (options, *around)))
        if name not in self._options:
            completed = options
            for defaults in (*around, self.parts.defaults):
                completed = defaults.applied(completed)
            self._options[name] = (options, *around), completed
        return self._options[name][1]

    def _refuse_patched(self, attempt: Attempt) -> None:
        """A call is not answered while what it may reach is patched. A test's own patches are
        made and undone by its code, and so part of what its outcome rests on."""
        computation, allowed = attempt.computation, attempt.access
        context = computation.context
        if computation.block or context.subject is Subject.TEST or not any(allowed):
            return
        patch = self.parts.observation.patched(context.function, computation.arguments.values())
        if patch:
            remedy = "it is computed and not kept; call it before the patch, e.g. in a fixture"
            attempt.keyed = None
            attempt.decision = Uncacheable("patched state", f"{patch} is patched: {remedy}")

    def _look(self, attempt: Attempt, keyed: Keyed) -> Looked:
        if not attempt.access.consult:
            return Miss(Why.REFRESH)
        muting = nullcontext() if self.open_computations.none_open else self.quiet()
        with muting:
            looked = self.lookup.look_up(attempt, keyed)
            if self.attachment is not None and isinstance(looked, Found):
                looked = self.attachment.bring_back(looked)
        if self.verifies is not None and isinstance(looked, Found):
            variant = looked.decision.variant
            if variant is not None and self.verifies(variant):
                return Miss(Why.UNVERIFIED, nearest=variant)
        return looked

    def _manager(self, options: Options) -> LockManager | None:
        own, default = options.policy.lock_manager, self.parts.lock_manager
        level = options.policy.isolation_level or self.parts.isolation
        is_there = own is not None or default is not None
        if level is IsolationLevel.AUTO and self.parts.several_workers and is_there:
            level = IsolationLevel.SERIALIZABLE
        if level != IsolationLevel.SERIALIZABLE:
            return None
        if own is not None:
            try:
                return self.parts.resolve_locks(own)
            except LockError as error:
                self.notify(Faulted("lock manager failed", str(error)))
                return None
        if default is None:
            raise ConfigurationError(
                "isolation_level",
                "SERIALIZABLE needs a lock manager",
                "add .configure(lock_manager=...), e.g. MemoryLockManager() or "
                "FileLockManager(directory)",
            )
        return default

    def _begun(self, attempt: Attempt) -> Attempt:
        computation, decision, keyed = attempt.computation, attempt.decision, attempt.keyed
        if isinstance(decision, Fault):
            self.notify(Faulted(decision.reason, decision.detail))
        self._tell_decided(computation, decision, keyed)
        subject = None if computation.block else computation.context.function
        is_test = computation.context.subject is Subject.TEST
        if keyed is not None and not keyed.key.vouched and not is_test:
            attempt.before = self.parts.observation.globals()
        attempt.opened = self.begin(subject)
        if self.attachment is not None:
            self.attachment.begin(attempt.opened)
        if keyed is not None:
            computing.set(computing.get() | {keyed.key.digest})
        attempt.started = originals.monotonic()
        return attempt

    def _tell_decided(
        self, computation: Computation, decision: Decision, keyed: Keyed | None
    ) -> None:
        context, key = computation.context, keyed.key if keyed is not None else None
        hit = isinstance(decision, Hit) and decision.variant
        saved = hit.duration if hit else 0.0
        given = shown(computation.arguments) if isinstance(decision, Miss) else ()
        test = computation.test
        self.notify(Decided(context.subject, context.identity, decision, key, saved, test, given))

    def _closed(self, attempt: Attempt) -> tuple[float, Observed, Basis]:
        """How many seconds an attempt took, what its window saw, and what its value rests on."""
        duration, options = originals.monotonic() - attempt.started, attempt.computation.options
        opened, keyed = attempt.opened, attempt.keyed
        opened.window.leave()
        if self.attachment is not None:
            self.attachment.end(opened)
        observed = self.open_computations.close(opened)
        trace = observed.trace
        if keyed is not None:
            computing.set(computing.get() - {keyed.key.digest})
            trace = with_declared(trace, options.policy, keyed)
        return duration, observed, opened.basis(trace, observed.opaque, options.taints)

    def _state(self, attempt: Attempt, observed: Observed) -> tuple[tuple[Part, ...], str]:
        """What globals hold that are not as a later process has them, or why that cannot be told.
        A test undoes what it does."""
        if attempt.before is None:
            return (), ""
        function = attempt.computation.context.function
        state = self.parts.observation.disturbed(observed.trace, function, attempt.before)
        return parts_of_globals(state, self.parts.fingerprints.name_of) if state else ((), "")

    def _refusal(self, attempt: Attempt, observed: Observed) -> Refusal | None:
        keyed, decision = attempt.keyed, attempt.decision
        if keyed is None:
            reason = "no key" if isinstance(decision, Hit | Miss) else decision.reason
            return Refusal(reason, getattr(decision, "detail", ""))
        if not attempt.access.record:
            return Refusal("cache is read-only")
        vouched, taints = keyed.key.vouched, attempt.opened.taints
        found = objection(observed, taints, vouched=vouched, forked=self.is_forked())
        if found is not None:
            return found
        changed = changed_input(attempt.computation, keyed.key)
        if not changed:
            return None
        remedy = f"leave it out with `policy - {changed!r}`, or change a copy and return it"
        text = f"it changed {changed}, which a hit does not; {remedy}"
        return Refusal("changed its inputs", text)

    def _hold(self, attempt: Attempt, kept: Variant, transaction: Transaction | None) -> None:
        """Hands what is to happen when a kept value becomes visible, or does not, and its lock to
        the transaction that holds it."""
        options = attempt.computation.options
        if transaction is None or options.commit_mode is CommitMode.EAGER:
            if options.on_commit:
                alone = Transaction("", attempt.computation.test)
                alone.committing = [(hook, alone) for hook in options.on_commit]
                alone.end(TransactionState.COMMITTED)
                alone.run_hooks(self.notify)
            return
        if transaction.by_hand:
            self._in_blocks[kept.id] = transaction
        self.lookup.shared = True
        if attempt.lease is not None:
            self.locks.rest(attempt.lease)
            attempt.lease = None  # the transaction has it until it ends
        for hook in options.on_commit:
            transaction.on_commit(hook)
        for hook in options.on_rollback:
            transaction.on_rollback(hook)

    def _as_used(self, attempt: Attempt, finished: Finished, kept: Variant) -> Basis:
        """The basis as a consumer sees it, the same as on a hit: the author of a kept value
        answers for its opaque deeds, it rests on its target, and what is staged is derived
        from."""
        self.open_computations.forgive(attempt.opened)
        before, target = finished.basis, finished.keyed.target
        made_of, mode = before.derives_from, attempt.computation.options.commit_mode
        if mode is CommitMode.LAZY and finished.transaction is not None:
            made_of |= {kept.id}
        basis = Basis(kept.trace, (), kept.expires, made_of, before.taints)
        if target:
            path = self.lookup.target_storage(finished.route.results).target_path(target)
            basis = self.lookup.with_target(basis, path, kept.result.digest)
        return basis

    def _verify(self, attempt: Attempt, value: object, kept: Variant | None) -> None:
        """Compares a computed value with the one that would have been reused. What cannot be
        compared (it has no digest, or is a directory that was not stored) is not told of."""
        decision = attempt.decision
        if not isinstance(decision, Miss) or decision.why is not Why.UNVERIFIED:
            return
        context, before = attempt.computation.context, decision.nearest
        if before is None:
            return
        differs = kept is None or kept.result.digest != before.result.digest
        if differs and isinstance(value, Path):
            if kept is None:
                return
        elif differs:
            # The same value may be written in two ways, e.g. a set.
            try:
                with self.quiet():
                    then = self.read(before.result, attempt.computation.options)
                    differs = digest_value(then) != digest_value(value)
            except (UndigestableError, LostResultError, StorageError):
                return
        text = (
            f"{context.subject} {context.identity}: its value is another one than recorded, "
            "although nothing it was observed to depend on has changed"
        )
        self.notify(Verified(context.subject, context.identity, text if differs else ""))

    def _ended(self, attempt: Attempt, duration: float, completed: Completed) -> Completed:
        """What became of a value that was computed, which others are told now."""
        computation, refusal = attempt.computation, completed.refusal
        if attempt.lease is not None:
            self.locks.release(attempt.lease)
        if attempt.keyed is not None and attempt.access.record:
            if refusal is None:
                self._refused.pop(attempt.keyed.key.digest, None)
            elif len(self._refused) < _REPEATS:
                self._refused[attempt.keyed.key.digest] = refusal
        context, kept, test = computation.context, refusal is None, computation.test
        told = ("", "") if refusal is None else (refusal.reason, refusal.detail)
        self.notify(Computed(context.subject, context.identity, duration, kept, *told, test))
        self.open_computations.absorb(completed.basis)
        return completed
