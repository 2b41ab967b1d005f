"""Calls that were hits before, answered again by the shortest way.

It asks every question that a look-up asks (is the code as it was, has the key no other records
since, is the value not expired, is the trace valid), but derives nothing anew: on a warm hit the
rest costs twice what these take. ``f(1)`` is named by ``f``, ``(1,)`` and ``(int,)``; whatever is
answered otherwise goes the long way, which explains itself.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

from pytest_taskcache.dataclass import dataclass, replace
from pytest_taskcache.digests.values.digest import digest_function
from pytest_taskcache.engine.computation import Basis, Computation
from pytest_taskcache.engine.lookup import Found, Lookup
from pytest_taskcache.engine.routes import Route
from pytest_taskcache.errors import TaskCacheError
from pytest_taskcache.model.decision import Origin
from pytest_taskcache.model.dependency import Trace
from pytest_taskcache.model.event import Decided
from pytest_taskcache.model.key import Key
from pytest_taskcache.model.record import Variant
from pytest_taskcache.ports import KeyStorage
from pytest_taskcache.transactions.transaction import Transaction

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
    read: Callable[[], object]
    basis: Basis
    event: Decided

    def value(
        self, lookup: Lookup, transaction: Transaction | None, test: str, clock: Callable[[], float]
    ) -> tuple[object] | None:
        """The value anew; None if anything is not as it was, or cannot be told: then the long
        way tells."""
        key, expires = self.key, self.basis.expires
        try:
            if digest_function(self.function) != self.source:
                return None
            staged = transaction is not None or lookup.shared
            if staged and lookup.staging.visible((key,), test=test):
                return None
            if self.records.read_records((key,)).get(key) is not self.variants:
                return None
            if expires is not None and expires <= clock():
                return None
            if self.trace is not None and lookup.observation.verify(self.trace):
                return None
            return (self.read(),)
        except Exception:  # storages and serializers may be users' code
            return None

    def told_in(self, test: str) -> Decided:
        """The event of a repetition in another test."""
        self.event = replace(self.event, test=test)
        return self.event


def repeat_of(
    computation: Computation, found: Found, route: Route, lookup: Lookup
) -> Repeat | None:
    """A hit as it can be repeated: on the newest record of a key that follows from source and
    arguments alone."""
    variant, context, options = found.decision.variant, computation.context, computation.options
    if variant is None or found.decision.origin is not Origin.COMMITTED or not options.plain:
        return None
    # A text may be a path, which counts by where it lies.
    if any(isinstance(value, str) and "/" in value for value in computation.arguments.values()):
        return None
    try:
        variants = route.records.read_records((variant.key,)).get(variant.key, ())
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
        route.records,
        variants,
        None if variant.vouched else variant.trace,
        lookup.payloads.reader(variant.result, route.results, options.serializer),
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
