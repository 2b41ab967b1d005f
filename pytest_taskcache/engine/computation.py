"""A computation about to happen, and what its author asked for; and those that are open right now:
each inherits what its parts rest on."""

from __future__ import annotations

import inspect
import os
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from datetime import timedelta
from typing import Any, TypeAlias

from pytest_taskcache.code.function_source import owner_of
from pytest_taskcache.dataclass import dataclass, field, fields, replace
from pytest_taskcache.errors import ConfigurationError
from pytest_taskcache.model.dependency import OPAQUE, Observed, Opaque, Trace
from pytest_taskcache.model.key import Part
from pytest_taskcache.model.record import Variant
from pytest_taskcache.observation.window import OpenWindow
from pytest_taskcache.policies.algebra import CachePolicy, KeyFn, StorageSpec, TaskContext
from pytest_taskcache.policies.parts import DEFAULT
from pytest_taskcache.ports import Serializer
from pytest_taskcache.serializers.catalog import serializer_for
from pytest_taskcache.storage.remote.location import check_place
from pytest_taskcache.transactions.transaction import CommitMode, Hook

EFFECTS = "effects"
"""What a fixture may be allowed: effects beside its value."""

DEFAULTS = "taskcache_defaults"
"""The attribute of a module or class that holds its `Defaults`."""

_PLAIN = frozenset({"TASK_SOURCE", "INPUTS", "OBSERVED"})

Validator: TypeAlias = "Callable[[Any, Variant], bool]"
Target: TypeAlias = "str | Callable[[TaskContext, dict[str, object]], str]"
"""A template, or ``fn(context, arguments)`` that returns a name."""


@dataclass(frozen=True)
class Options:
    """What `@cached`, `@cached_fixture` and `@pytest.mark.cached` can be told.

    Raises ConfigurationError for a value that cannot work.
    """

    policy: CachePolicy = DEFAULT
    key: str | None = None
    key_fn: KeyFn | None = None
    expiration: timedelta | None = None
    validator: Validator | None = None
    target: Target | None = None
    refresh: bool | None = None
    serializer: str | Serializer | None = None
    result_storage: StorageSpec | None = None
    commit: CommitMode | str | None = None
    persist: bool = True
    allow: Collection[str] = frozenset()
    consumers: str = "any"
    retry_inputs: bool = False
    on_commit: tuple[Hook, ...] = ()
    on_rollback: tuple[Hook, ...] = ()
    taints: tuple[str, ...] = field(init=False, repr=False, compare=False)
    """Why whoever uses such a value cannot be cached this time."""
    plain: bool = field(init=False, repr=False, compare=False)
    """Whether the key follows from the function's source and its arguments alone."""

    def __post_init__(self) -> None:
        for setting, problem, remedy in self._problems():
            raise ConfigurationError(setting, problem, remedy)
        if self.commit is not None:
            object.__setattr__(self, "commit", CommitMode.parse(self.commit))
        if isinstance(self.serializer, str):
            serializer_for(self.serializer)  # an unknown one is told where it is written
        if isinstance(self.result_storage, str | os.PathLike):
            check_place(os.fspath(self.result_storage), "result_storage")
        allow = frozenset({self.allow} if isinstance(self.allow, str) else self.allow)
        object.__setattr__(self, "allow", allow)
        for kind in allow - OPAQUE - {EFFECTS}:
            raise ConfigurationError(
                "allow", f"there is no kind {kind!r}", f"use of {sorted(OPAQUE | {EFFECTS})}"
            )
        plain = not self._named and not self.validator and self.policy.labels <= _PLAIN
        object.__setattr__(self, "plain", plain)
        object.__setattr__(self, "taints", tuple(self._taints()))

    def _problems(self) -> Iterator[tuple[str, str, str]]:
        """What cannot work: the setting, what is wrong with it, and what to write instead."""
        given: Any = self  # whatever was written
        if not isinstance(given.policy, CachePolicy):
            yield "policy", f"{given.policy!r} is no policy", "combine those of pytest_taskcache"
        if len(self._named) > 1:
            names = " and ".join(self._named)
            yield names, "each names the key outright", "give only one of them"
        if given.key is not None and not (isinstance(given.key, str) and given.key):
            yield "key", f"{given.key!r} is no name", "give a non-empty string"
        if given.key_fn is not None and not callable(given.key_fn):
            yield (
                "key_fn",
                f"{given.key_fn!r} cannot be called",
                "give fn(context, arguments) -> str",
            )
        if given.target is not None and not (
            callable(given.target) or (isinstance(given.target, str) and given.target)
        ):
            remedy = "give a templated file name, or fn(context, arguments) that returns one"
            yield "target", f"{given.target!r} is no name", remedy
        if given.validator is not None and not callable(given.validator):
            remedy = "give fn(context, record) -> bool"
            yield "validator", f"{given.validator!r} cannot be called", remedy
        if given.expiration is not None and not isinstance(given.expiration, timedelta):
            remedy = "give a datetime.timedelta, e.g. timedelta(days=1)"
            yield "expiration", f"{given.expiration!r} is no duration", remedy
        elif given.expiration is not None and given.expiration <= timedelta(0):
            remedy = "give a positive timedelta; persist=False stores nothing"
            yield "expiration", f"{given.expiration} has passed already", remedy
        if given.consumers not in ("any", "all"):
            yield "consumers", f"{given.consumers!r} is unknown", "use 'any' or 'all'"

    @property
    def _named(self) -> list[str]:
        """Which options name the key outright."""
        return [name for name in ("key", "key_fn", "target") if getattr(self, name) is not None]

    @property
    def commit_mode(self) -> CommitMode:
        """When the value becomes visible to others."""
        return CommitMode.LAZY if self.commit is None else CommitMode(self.commit)

    def _taints(self) -> Iterator[str]:
        if not self._named and self.policy.has("RUN_ID"):
            yield "a value with policy RUN_ID"
        if not self._named and not self.policy.components:
            yield "a value with policy NO_CACHE"
        if self.validator is not None:
            yield "a value with a validator"
        if self.refresh:
            yield "a value with refresh=True"


@dataclass(frozen=True, slots=True)
class Defaults:
    """What functions and fixtures get that were not told otherwise: those of a module or class as
    its attribute ``taskcache_defaults``, those of a run by settings. The nearest wins.

    Raises ConfigurationError for a value that cannot work.
    """

    serializer: str | Serializer | None = None
    expiration: timedelta | None = None
    commit: CommitMode | str | None = None
    result_storage: StorageSpec | None = None

    def __post_init__(self) -> None:
        self.applied(Options())

    def applied(self, options: Options) -> Options:
        """The options of a computation, completed."""
        missing = {
            each.name: getattr(self, each.name)
            for each in fields(self)
            if getattr(options, each.name) is None and getattr(self, each.name) is not None
        }
        return replace(options, **missing) if missing else options


def defaults_around(function: Callable[..., object]) -> Iterator[Defaults]:
    """Those of the class that a function is defined in, then those of its module. Raises
    ConfigurationError for something else of that name."""
    inner = inspect.unwrap(function) if hasattr(function, "__wrapped__") else function
    module = getattr(inner, "__globals__", {}).get(DEFAULTS)
    for found in (getattr(owner_of(function), DEFAULTS, None), module):
        if isinstance(found, Defaults):
            yield found
        elif found is not None:
            raise ConfigurationError(
                DEFAULTS, f"{found!r} are no defaults", "write e.g. Defaults(serializer='json')"
            )


@dataclass(frozen=True, slots=True)
class Place:
    """The test that is running: its node id, module, name and parameters."""

    test: str = ""
    module: str = ""
    name: str = ""
    parameters: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Basis:
    """What the validity of a value rests on; its consumers inherit it.

    ``opaque``: deeds that nobody answers for (the author of a value that is kept answers for
    its own). ``derives_from``: staged entries it was made of. ``taints``: why a consumer cannot
    be cached this time. ``expires``: POSIX seconds.
    """

    trace: Trace = field(default_factory=Trace)
    opaque: tuple[Opaque, ...] = ()
    expires: float | None = None
    derives_from: frozenset[str] = frozenset()
    taints: tuple[str, ...] = ()


# Not frozen, like `Found`: that would cost each hit half a microsecond.
@dataclass(eq=False, slots=True)
class Computation:
    """One call, set-up or run: what it is called, what it is given, what was asked for. Not to
    be changed.

    ``extra`` are parts of the key beyond the policy's. ``pinned`` are parts that a record must
    agree with if it has them, without being part of the key (what a fixture looked at through
    its ``request``).
    """

    context: TaskContext
    arguments: Mapping[str, object]
    options: Options
    extra: tuple[Part, ...] = ()
    pinned: Callable[[str], str] | None = None
    wide: bool = False
    """Whether it outlives the test that asked for it (a fixture of a wider scope)."""
    test: str = ""
    block: bool = False
    """Whether it is a transaction's block, and no function."""
    form: str = ""
    """How the stored value stands for what was computed; ``items`` for a generator's."""


@dataclass(eq=False, slots=True)
class OpenComputation:
    """One open computation: its window, and what it has inherited so far."""

    window: OpenWindow
    derives_from: set[str] = field(default_factory=set)
    taints: set[str] = field(default_factory=set)
    opaque: list[Opaque] = field(default_factory=list)
    expires: float | None = None
    attached: object = None
    """What an attachment of the engine's knows of it."""

    def absorb(self, basis: Basis) -> None:
        """Makes what a used value rests on part of what this computation rests on."""
        if basis.trace.dependencies:
            self.window.absorb(basis.trace)
        self.derives_from |= basis.derives_from
        self.taints |= set(basis.taints)
        self.opaque += basis.opaque
        self.expires = earliest(self.expires, basis.expires)

    def basis(self, trace: Trace, opaque: tuple[Opaque, ...], taints: Iterable[str]) -> Basis:
        """What its value rests on, given what its window saw: that, and what it inherited."""
        all_taints = tuple(sorted({*self.taints, *taints}))
        return Basis(trace, opaque, self.expires, frozenset(self.derives_from), all_taints)


class OpenComputations:
    """All open computations of the process. A value used in any thread counts for every one of
    them, as with windows: which thread works for whom cannot be known."""

    def __init__(self) -> None:
        self._open: list[OpenComputation] = []
        self._guard = threading.Lock()

    @property
    def none_open(self) -> bool:
        """Whether nothing is being computed, so that nothing can inherit."""
        return not self._open

    def open(self, window: OpenWindow) -> OpenComputation:
        """A new one, open until `close`."""
        opened = OpenComputation(window)
        with self._guard:
            self._open.append(opened)
        return opened

    def discard(self, opened: OpenComputation) -> None:
        """Ends one of which nothing is to be kept, which costs next to nothing."""
        self._end(opened)
        opened.window.discard()

    def close(self, opened: OpenComputation) -> Observed:
        """Ends one; what its window saw, with the opaque deeds it inherited."""
        self._end(opened)
        observed = opened.window.close()
        if not opened.opaque:
            return observed
        deeds = dict.fromkeys((*observed.opaque, *opened.opaque))
        return replace(observed, opaque=tuple(deeds))

    def _end(self, opened: OpenComputation) -> None:
        with self._guard:
            if opened in self._open:
                self._open.remove(opened)

    def absorb(self, basis: Basis) -> None:
        """Credits a used value to every open computation."""
        if not self._open:
            return
        with self._guard:
            for opened in self._open:
                opened.absorb(basis)

    def forgive(self, kept: OpenComputation) -> None:
        """Takes back from every open one the opaque deeds of a computation whose value is kept.
        A hit will not do them again, and cold and warm runs must agree."""
        with self._guard:
            for opened in self._open:
                opened.window.forgive(kept.window)


def earliest(left: float | None, right: float | None) -> float | None:
    """The earlier of two expiry times; None never expires."""
    if left is None or right is None:
        return right if left is None else left
    return min(left, right)
