"""The `@cached` decorator.

Where a decorated function raises, pytest's report leaves the wrappers out (``__tracebackhide__``).
"""

from __future__ import annotations

import functools
import inspect
import os
import types
from collections.abc import Callable, Generator, Hashable, Iterable
from datetime import timedelta
from typing import Any, Concatenate, Generic, NamedTuple, ParamSpec, Protocol, TypeVar, overload

from pytest_taskcache.code.imports import PATH_ENTRY
from pytest_taskcache.dataclass import dataclass, fields, replace
from pytest_taskcache.engine import active
from pytest_taskcache.engine.cache import Engine
from pytest_taskcache.engine.computation import Computation, Options, Place, Target, Validator
from pytest_taskcache.engine.generators import (
    ASYNC,
    FORM,
    PLAIN,
    Flavour,
    Steps,
    iterate,
    iterating_async,
    live,
    streaming,
)
from pytest_taskcache.engine.keys import check_template
from pytest_taskcache.engine.lookup import Found
from pytest_taskcache.engine.repeats import call_name
from pytest_taskcache.errors import ConfigurationError
from pytest_taskcache.model.decision import Decision, Hit, Uncacheable
from pytest_taskcache.model.event import Subject
from pytest_taskcache.model.key import Identity
from pytest_taskcache.policies.algebra import CachePolicy, KeyFn, StorageSpec, TaskContext
from pytest_taskcache.ports import Serializer
from pytest_taskcache.transactions.transaction import CommitMode, Hook

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")

MARK = "__taskcache__"
"""Attribute under which a function carries its `Spec`."""

_INACTIVE = Uncacheable("no active cache", "open one with `with Cache(path):`, or run under pytest")


class State(NamedTuple, Generic[R]):
    """A value together with the decision that led to it (Prefect's ``return_state=True``)."""

    value: R
    decision: Decision

    @property
    def name(self) -> str:
        """``Cached`` for a hit, else ``Completed``."""
        return "Cached" if isinstance(self.decision, Hit) else "Completed"

    def result(self) -> R:
        """The value."""
        return self.value


class CachedFunction(Protocol[P, R]):
    """What `@cached` returns: the function, plus these."""

    __name__: str
    __wrapped__: Callable[..., Any]

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """The value, stored or computed."""

    @overload
    def __get__(self, instance: None, owner: type) -> CachedFunction[P, R]: ...
    @overload
    def __get__(
        self: CachedFunction[Concatenate[Any, Q], R], instance: object, owner: type | None = None
    ) -> CachedFunction[Q, R]: ...
    def __get__(self, instance: Any, owner: Any = None) -> Any:
        """As a method: bound to its instance, as functions are; ``k.m.call(1)`` too."""

    def call(self, *args: P.args, **kwargs: P.kwargs) -> State[R]:
        """The value with its decision. Awaitable for an async function; for a generator
        function the value is the list of its items."""

    def on_commit(self, hook: Hook) -> Hook:
        """Has the hook run when a transaction in which this was computed commits."""

    def on_rollback(self, hook: Hook) -> Hook:
        """Has the hook run when a transaction in which this was computed rolls back."""

    def with_options(self, **changes: Any) -> CachedFunction[P, R]:
        """The same function with other options."""

    def is_cached(self, *args: P.args, **kwargs: P.kwargs) -> bool:
        """Whether a call with these arguments would be answered without running; False outside an
        active cache. A test or function that asks is not cached itself, since its answer depends
        on the cache."""

    def forget(self, *args: P.args, **kwargs: P.kwargs) -> int:
        """Removes what is recorded for a call with these arguments, so that the next one computes;
        how many records. 0 outside an active cache and where the run may not write."""


@dataclass(eq=False)
class Spec:
    """A function, and the options under which it is cached."""

    function: Callable[..., Any]
    options: Options
    holder: object = None
    """What carries it: attributes are copied to whatever is wrapped around that."""

    def __post_init__(self) -> None:
        self.signature = inspect.signature(self.function)
        self._form = _form_of(self.function)
        self._identity: tuple[str, Identity] | None = None
        self._context: tuple[Place, TaskContext] | None = None
        parameters = self.signature.parameters.values()
        self._plain = all(p.kind is p.POSITIONAL_OR_KEYWORD for p in parameters)
        self._names = tuple(self.signature.parameters)
        self._defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
        name = self.function.__qualname__
        inputs = tuple(self.signature.parameters)
        if "request" in inputs:
            inputs += ("param",)  # a fixture's
        self.options.policy.check_inputs(name, inputs)
        if isinstance(self.options.target, str):
            check_template(self.options.target, name, inputs)

    def __taskcache_key__(self) -> object:
        """What a cached function counts by where another one's closure or arguments hold it."""
        return self.function

    def identity(self, engine: Engine) -> Identity:
        """File relative to the root, and qualified name."""
        known = self._identity
        if known is None or known[0] != engine.run.id:
            # Of the innermost function: a decorator's wrapper is in the decorator's file.
            inner = inspect.unwrap(self.function)
            code = getattr(inner, "__code__", self.function.__code__)
            name_of = engine.fingerprints.name_of
            file = name_of(code.co_filename)
            if _is_outside(file):
                # imported through a link to the project, perhaps
                resolved = name_of(os.path.realpath(code.co_filename))
                file = file if _is_outside(resolved) else resolved
            known = (engine.run.id, Identity(file, self.function.__qualname__))
            self._identity = known
        return known[1]

    def _check_is_no_fixture(self) -> None:
        if self.options.consumers != "any":
            raise ConfigurationError(
                f"consumers of {self.function.__qualname__}",
                "a call of a function has one consumer",
                "leave it out, or make it a fixture of a wider scope",
            )
        if self.options.allow:
            raise ConfigurationError(
                f"allow of {self.function.__qualname__}",
                "a cached function may do anything, and its author answers for it",
                "leave it out; it is for tests and fixtures",
            )

    def _arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """The bound arguments, defaults applied. Binding takes a tenth of a hit's time, so plain
        signatures go without; whatever does not fit goes through it, for its error."""
        if self._plain and len(args) <= len(self._names):
            arguments = {**self._defaults, **dict(zip(self._names, args, strict=False)), **kwargs}
            twice = kwargs and not kwargs.keys().isdisjoint(self._names[: len(args)])
            if not twice and arguments.keys() == set(self._names):
                return arguments
        bound = self.signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return bound.arguments

    def computation(
        self, engine: Engine, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Computation:
        """The computation of one call. Raises TypeError where the arguments do not fit."""
        arguments = self._arguments(args, kwargs)
        place = engine.place
        known = self._context
        if known is not None and known[0] is place and known[1].run_id == engine.run.id:
            context = known[1]
        else:
            self._check_is_no_fixture()
            context = TaskContext(
                Subject.FUNCTION,
                self.identity(engine),
                self.function,
                engine.run.id,
                engine.fingerprints,
                place.parameters,
                place.name,
                place.module,
            )
            self._context = place, context
        return Computation(context, arguments, self.options, test=place.test, form=self._form)


@overload
def cached(function: Callable[P, R], /) -> CachedFunction[P, R]: ...
@overload
def cached(
    *,
    policy: CachePolicy = ...,
    key: str | None = ...,
    key_fn: KeyFn | None = ...,
    expiration: timedelta | None = ...,
    validator: Validator | None = ...,
    target: Target | None = ...,
    refresh: bool | None = ...,
    serializer: str | Serializer | None = ...,
    result_storage: StorageSpec | None = ...,
    commit: CommitMode | str | None = ...,
    persist: bool = ...,
    allow: Iterable[str] = ...,
    consumers: str = ...,
    retry_inputs: bool = ...,
) -> Callable[[Callable[P, R]], CachedFunction[P, R]]: ...


def cached(function: Any = None, /, **options: Any) -> Any:
    """Caches a function: sync, async, generator, method; or a pytest fixture, on either side of
    ``@pytest.fixture``.

    Outside an active cache (a run of pytest, or ``with Cache(...)``) the function just runs.
    Every call gets a freshly decoded value; exceptions are never cached; a generator's items
    are stored once it is exhausted.

    Args:
        function: what to cache.
        policy: what goes into the key; DEFAULT is never stale.
        key, key_fn, target: name the key outright: a string, ``fn(context, arguments) -> str``,
            or a file whose existence means a hit, as a template or ``fn(context, arguments)``.
        expiration: how long a value is valid, a timedelta.
        validator: ``fn(context, record) -> bool``, asked before a value is used.
        refresh: True computes always, and overwrites; False does not even where a whole run is
            told to (``--cache-refresh``).
        serializer: a name (``pickle``, ``json``, ``compressed``, ``tree``) or a Serializer.
        result_storage: where values go, apart from their records: a path, URL or storage.
        commit: when the value becomes visible to others, a CommitMode.
        persist: False computes always and stores nothing.
        allow: kinds of opaque deeds that are acceptable (tests); ``effects`` beside its value
            (fixtures).
        consumers: for a fixture of a wider scope, which tests must pass: ``any`` or ``all``.
        retry_inputs: keeps the value of a failed attempt for its retry.

    Raises:
        ConfigurationError, UnknownInputError, PolicyConflictError: for options that cannot work.
    """
    _check_names("cached", options)
    settings = Options(**options)
    if function is None:
        return functools.partial(_decorate, settings)
    return _decorate(settings, function)


def _check_names(function: str, options: Iterable[str]) -> None:
    known = {each.name for each in fields(Options) if each.init} - {"on_commit", "on_rollback"}
    for name in options:
        if name not in known:
            raise ConfigurationError(
                f"{function}({name}=...)", "there is no such option", f"use one of {sorted(known)}"
            )


def spec_of(function: object) -> Spec | None:
    """The spec of a function or fixture that was decorated, or None."""
    spec = getattr(function, MARK, None)
    if not isinstance(spec, Spec) or (spec.holder is not None and spec.holder is not function):
        return None
    return spec


class _Method:
    """Stands for a cached function in its class, so that `call` is bound as the method is.

    In everything else it is the function: each attribute is that of the function, its class too.
    """

    __slots__ = ("_function", "_instance")
    __dict__ = property(lambda self: vars(_function_of(self)))

    def __init__(self, function: Any, instance: object = None) -> None:
        object.__setattr__(self, "_function", function)
        object.__setattr__(self, "_instance", instance)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        return _function_of(self)(*args, **kwargs)

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        function = _function_of(self)
        if instance is None or instance is owner:  # the latter for a class method, up to 3.12
            return function.__get__(instance, owner)
        return types.MethodType(_Method(function, instance), instance)

    def __getattribute__(self, name: str) -> Any:
        function = _function_of(self)
        instance = object.__getattribute__(self, "_instance")
        found = getattr(function, name)
        if name in ("call", "is_cached", "forget") and instance is not None:
            return functools.partial(found, instance)
        return found

    def __setattr__(self, name: str, value: object) -> None:
        setattr(_function_of(self), name, value)

    def __eq__(self, other: object) -> bool:
        return _function_of(self) is (_function_of(other) if type(other) is _Method else other)

    def __hash__(self) -> int:
        return hash(_function_of(self))

    def __taskcache_key__(self) -> object:
        return _function_of(self)


def _function_of(method: Any) -> Any:
    return object.__getattribute__(method, "_function")


def _decorate(options: Options, function: Any) -> Any:
    decorated = _decorated(options, function)
    inner = inspect.isfunction(decorated) and decorated.__qualname__.rpartition(".")[0]
    return _Method(decorated) if inner and not inner.endswith("<locals>") else decorated


def _decorated(options: Options, function: Any) -> Any:
    if isinstance(function, staticmethod | classmethod):
        return type(function)(_decorate(options, function.__func__))
    unwrap = getattr(function, "_get_wrapped_function", None)  # a pytest fixture, 8.4 to 9.2
    if unwrap is not None:
        inner = unwrap()
        inner = getattr(inner, "__func__", inner)
        earlier = spec_of(inner)
        below = earlier.function if earlier is not None else inner
        inner.__dict__[MARK] = Spec(below, options, holder=inner)
        return function
    if not inspect.isfunction(function):
        raise ConfigurationError(
            "@cached",
            f"{function!r} is not a function",
            "decorate a function, a method or a fixture",
        )
    earlier = spec_of(function)
    spec = Spec(earlier.function if earlier is not None else function, options)
    wrapper, call = _wrapper(spec)
    functools.update_wrapper(wrapper, spec.function)
    spec.holder = wrapper
    wrapper.__dict__.update({MARK: spec, "call": call, **_methods(spec)})
    return wrapper


def _methods(spec: Spec) -> dict[str, Callable[..., Any]]:
    """What a `CachedFunction` can do besides being called, by name."""

    def on_commit(hook: Hook) -> Hook:
        spec.options = replace(spec.options, on_commit=(*spec.options.on_commit, hook))
        return hook

    def on_rollback(hook: Hook) -> Hook:
        spec.options = replace(spec.options, on_rollback=(*spec.options.on_rollback, hook))
        return hook

    def with_options(**changes: Any) -> Any:
        _check_names("with_options", changes)
        return _decorated(replace(spec.options, **changes), spec.function)

    def is_cached(*args: Any, **kwargs: Any) -> bool:
        engine = active.active()
        return engine is not None and engine.is_cached(spec.computation(engine, args, kwargs))

    def forget(*args: Any, **kwargs: Any) -> int:
        engine = active.active()
        return engine.forget(spec.computation(engine, args, kwargs)) if engine is not None else 0

    methods = (on_commit, on_rollback, with_options, is_cached, forget)
    return {method.__name__: method for method in methods}


def _wrapper(spec: Spec) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """A real function of the same kind, so that inspection, binding and fixtures see it so; and
    what `CachedFunction.call` is for it."""
    if inspect.iscoroutinefunction(spec.function):
        return _async_wrapper(spec)
    if inspect.isasyncgenfunction(spec.function):
        return _async_generator_wrapper(spec)
    if inspect.isgeneratorfunction(spec.function):
        return _generator_wrapper(spec)
    return _plain_wrapper(spec)


def _plain_wrapper(spec: Spec) -> tuple[Callable[..., Any], Callable[..., Any]]:
    function = spec.function

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        engine = active.active()
        if engine is None:
            return function(*args, **kwargs)
        name = call_name(spec, args, kwargs)
        if name is not None:
            again = engine.repeat(name)
            if again is not None:
                return again[0]
        return computed(engine, name, args, kwargs).value

    def call(*args: Any, **kwargs: Any) -> State[Any]:
        __tracebackhide__ = True
        engine = active.active()
        if engine is None:
            return State(function(*args, **kwargs), _INACTIVE)
        return computed(engine, call_name(spec, args, kwargs), args, kwargs)

    def computed(engine: Engine, name: Hashable, args: Any, kwargs: Any) -> State[Any]:
        __tracebackhide__ = True
        computation = spec.computation(engine, args, kwargs)
        opened = engine.open(computation)
        if isinstance(opened, Found):
            if name is not None:
                engine.remember(name, computation, opened)
            return State(opened.value, opened.decision)
        try:
            value = function(*args, **kwargs)
        except BaseException:
            engine.abandon(opened)
            raise
        engine.complete(opened, value)
        return State(value, opened.decision)

    return wrapped, call


def _async_wrapper(spec: Spec) -> tuple[Callable[..., Any], Callable[..., Any]]:
    async def call(*args: Any, **kwargs: Any) -> State[Any]:
        __tracebackhide__ = True
        engine = active.active()
        if engine is None:
            return State(await spec.function(*args, **kwargs), _INACTIVE)
        opened = await engine.open_async(spec.computation(engine, args, kwargs))
        if isinstance(opened, Found):
            return State(opened.value, opened.decision)
        try:
            value = await spec.function(*args, **kwargs)
        except BaseException:
            engine.abandon(opened)
            raise
        engine.complete(opened, value)
        return State(value, opened.decision)

    async def wrapped(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        return (await call(*args, **kwargs)).value

    return wrapped, call


def _generator_wrapper(spec: Spec) -> tuple[Callable[..., Any], Callable[..., Any]]:
    def wrapped(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        __tracebackhide__ = True
        return (yield from iterate(_streaming(PLAIN, spec, [], args, kwargs)))

    def call(*args: Any, **kwargs: Any) -> State[Any]:
        __tracebackhide__ = True
        decisions: list[Decision] = []
        items = list(iterate(_streaming(PLAIN, spec, decisions, args, kwargs)))
        return State(items, decisions[0])

    return wrapped, call


def _async_generator_wrapper(spec: Spec) -> tuple[Callable[..., Any], Callable[..., Any]]:
    async def call(*args: Any, **kwargs: Any) -> State[Any]:
        __tracebackhide__ = True
        decisions: list[Decision] = []
        iterate = iterating_async(lambda *a, **k: _streaming(ASYNC, spec, decisions, a, k))
        return State([item async for item in iterate(*args, **kwargs)], decisions[0])

    return iterating_async(lambda *a, **k: _streaming(ASYNC, spec, [], a, k)), call


def _streaming(
    flavour: Flavour,
    spec: Spec,
    decisions: list[Decision],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Steps:
    """A call of a generator function, as `streaming` says."""
    __tracebackhide__ = True
    engine, start = active.active(), functools.partial(spec.function, *args, **kwargs)
    if engine is None:
        decisions.append(_INACTIVE)
        return (yield from live(flavour, start()))
    computation = spec.computation(engine, args, kwargs)
    return (yield from streaming(flavour, engine, computation, start, decisions))


def _is_outside(name: str) -> bool:
    """Whether a file of this name lies beside the root."""
    return name.startswith((PATH_ENTRY, "../")) or os.path.isabs(name)


def _form_of(function: Callable[..., Any]) -> str:
    generates = inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)
    return FORM if generates else ""
