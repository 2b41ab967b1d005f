"""The `@cached` decorator.

Where a decorated function raises, pytest's report leaves the wrappers out (``__tracebackhide__``).
"""

from __future__ import annotations

import functools
import inspect
import os
import types
from collections.abc import AsyncGenerator, Callable, Generator, Hashable, Iterable
from datetime import timedelta
from pathlib import Path
from typing import (
    Any,
    Concatenate,
    Generic,
    NamedTuple,
    ParamSpec,
    Protocol,
    TypeAlias,
    TypeVar,
    overload,
)

from pytest_taskcache.code.imports import PATH_ENTRY
from pytest_taskcache.dataclass import dataclass, fields, replace
from pytest_taskcache.engine import active
from pytest_taskcache.engine.cache import Attempt, Engine
from pytest_taskcache.engine.computation import Computation, Options, Place, Target, Validator
from pytest_taskcache.engine.keys import check_template
from pytest_taskcache.engine.lookup import Found, call_name
from pytest_taskcache.errors import ConfigurationError, fault_of
from pytest_taskcache.model.decision import Decision, Hit, Uncacheable
from pytest_taskcache.model.event import Subject
from pytest_taskcache.model.key import Identity
from pytest_taskcache.originals import os_path
from pytest_taskcache.policies.algebra import CachePolicy, KeyFn, StorageSpec, TaskContext
from pytest_taskcache.ports import Serializer
from pytest_taskcache.transactions.transaction import CommitMode, Hook

__tracebackhide__ = True

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")

FORM = "items"
"""The `Computation.form` of a generator."""

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

    made = False
    """Of the class: whether there is any."""

    def __post_init__(self) -> None:
        Spec.made = True
        self.signature = inspect.signature(self.function)
        kinds = inspect.isgeneratorfunction, inspect.isasyncgenfunction
        self._form = FORM if any(is_one(self.function) for is_one in kinds) else ""
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
                resolved = name_of(os_path.realpath(code.co_filename))
                file = file if _is_outside(resolved) else resolved
            known = (engine.run.id, Identity(file, self.function.__qualname__))
            self._identity = known
        return known[1]

    def _check_is_no_fixture(self) -> None:
        name, allow = self.function.__qualname__, self.options.allow
        if self.options.consumers != "any":
            problem = "a call of a function has one consumer"
            remedy = "leave it out, or make it a fixture of a wider scope"
            raise ConfigurationError(f"consumers of {name}", problem, remedy)
        if allow:
            problem = "a cached function may do anything, and its author answers for it"
            remedy = "leave it out; it is for tests and fixtures"
            raise ConfigurationError(f"allow of {name}", problem, remedy)

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
            context = engine.context(Subject.FUNCTION, self.identity(engine), self.function)
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
        refresh: True computes always, and the newest is found; False does not even where a run is
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
        engine = active.active()
        if engine is None:
            return State(function(*args, **kwargs), _INACTIVE)
        return computed(engine, call_name(spec, args, kwargs), args, kwargs)

    def computed(engine: Engine, name: Hashable, args: Any, kwargs: Any) -> State[Any]:
        opened = engine.open(spec.computation(engine, args, kwargs))
        if isinstance(opened, Found):
            if name is not None:
                engine.remember(name, opened)
            return State(opened.value, opened.decision)
        engine.resume(opened)
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
        engine = active.active()
        if engine is None:
            return State(await spec.function(*args, **kwargs), _INACTIVE)
        opened = await engine.open_async(spec.computation(engine, args, kwargs))
        if isinstance(opened, Found):
            return State(opened.value, opened.decision)
        try:
            value = await _Driven(Turns(engine, opened), spec.function(*args, **kwargs))
        except BaseException:
            engine.abandon(opened)
            raise
        engine.complete(opened, value)
        return State(value, opened.decision)

    async def wrapped(*args: Any, **kwargs: Any) -> Any:
        return (await call(*args, **kwargs)).value

    return wrapped, call


def _generator_wrapper(spec: Spec) -> tuple[Callable[..., Any], Callable[..., Any]]:
    def wrapped(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        return (yield from _iterate(_streaming("", spec, [], args, kwargs)))

    def call(*args: Any, **kwargs: Any) -> State[Any]:
        decisions: list[Decision] = []
        items = list(_iterate(_streaming("", spec, decisions, args, kwargs)))
        return State(items, decisions[0])

    return wrapped, call


def _async_generator_wrapper(spec: Spec) -> tuple[Callable[..., Any], Callable[..., Any]]:
    async def call(*args: Any, **kwargs: Any) -> State[Any]:
        decisions: list[Decision] = []
        iterate = _iterating_async(spec, decisions)
        return State([item async for item in iterate(*args, **kwargs)], decisions[0])

    return _iterating_async(spec, []), call


# The items of generators, plain and asynchronous ones, are cached by what is written once for both:
# a generator of steps. It yields what is to be called (and awaited), or handed to the consumer, and
# is told what came of it. For example, the second call of ``def two(): yield 1; yield 2``
#
#     yields Step(open the computation)   is sent Outcome(Found({"items": [1, 2], ...}))
#     yields Step(None, 1)                is sent Outcome(None): the consumer wants the next one
#     yields Step(None, 2)                is sent Outcome(None)
#     returns Outcome(None)               what the generator function returned


class Step(NamedTuple):
    """What is to be called, and awaited where the generator is asynchronous; else an item for
    the consumer, and the outcome is what it sent, or threw."""

    run: Callable[[], Any] | None
    item: Any = None


class Outcome(NamedTuple):
    """What came of a step, or of a whole call: a value, or an error."""

    value: Any = None
    error: BaseException | None = None

    @property
    def steers(self) -> bool:
        """Whether a consumer asked for more than the next item."""
        return self.value is not None or self.error is not None


Steps: TypeAlias = "Generator[Step, Any, Outcome]"
"""Sent what came of each step, an `Outcome`; returns that of the call."""


def _streaming(
    prefix: str,
    spec: Spec,
    decisions: list[Decision],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Steps:
    """The items of a call, stored or computed. ``prefix`` is what the names of the methods of an
    asynchronous generator begin with, else "". The decision is added to ``decisions``."""
    engine, start = active.active(), functools.partial(spec.function, *args, **kwargs)
    if engine is None:
        decisions.append(_INACTIVE)
        return (yield from _live(prefix, start()))
    ask = engine.open_async if prefix else engine.open
    opened, error = yield Step(functools.partial(ask, spec.computation(engine, args, kwargs)))
    if error is not None:
        return Outcome(None, error)
    decisions.append(opened.decision)
    if not isinstance(opened, Found):
        return (yield from _live(prefix, start(), RecordedItems(engine, opened)))
    items, returned = opened.value["items"], opened.value["returned"]  # type: ignore[index] # FORM
    del opened
    for position, item in enumerate(items, 1):
        answer = yield Step(None, item)
        if isinstance(answer.error, GeneratorExit):
            return Outcome(None, answer.error)
        if answer.steers:
            # What the generator answers is not stored: it goes on itself from here.
            generator = start()
            for _ in range(position):
                yield Step(functools.partial(getattr(generator, f"{prefix}send"), None))
            return (yield from _live(prefix, generator, answer=answer))
    return Outcome(returned)


def _live(
    prefix: str,
    generator: Any,
    recording: Turns | None = None,
    answer: Outcome = Outcome(),  # noqa: B008 # frozen
) -> Steps:
    """A generator at work, and its items noted on the way; ``answer`` is the first it gets."""
    send, throw, close = (getattr(generator, prefix + name) for name in ("send", "throw", "close"))
    while True:
        sent, thrown = answer
        if isinstance(thrown, GeneratorExit):
            _, failed = yield Step(close)
            outcome = Outcome(None, failed or thrown)
            break
        if recording is not None:
            recording.steered |= answer.steers
            recording.resume()
        run, given = (send, sent) if thrown is None else (throw, thrown)
        item, error = yield Step(functools.partial(run, given))
        if recording is not None:
            recording.suspend()
        if error is not None:
            ended = isinstance(error, StopIteration | StopAsyncIteration)
            outcome = Outcome(getattr(error, "value", None)) if ended else Outcome(None, error)
            break
        if recording is not None:
            recording.add(item)
        answer = yield Step(None, item)
    if recording is not None:
        recording.end(outcome)
    return outcome


def _with_end(steps: Steps) -> Generator[Step | Outcome, Any, None]:
    """The steps, and last of all what came of the call."""
    yield (yield from steps)


def _iterate(steps: Steps) -> Generator[Any, Any, Any]:
    """A generator of what the steps give the consumer."""
    outcome, ending = None, _with_end(steps)
    while not isinstance(step := ending.send(outcome), Outcome):
        try:
            outcome = Outcome(step.run() if step.run is not None else (yield step.item))
        except BaseException as error:  # the steps raise it where the generator stands
            outcome = Outcome(None, error)
    return _unwrapped(step)


def _iterating_async(spec: Spec, decisions: list[Decision]) -> Callable[..., Any]:
    """An async generator function that does the same. (Whole in itself: one around it would have
    to pass on what is sent and thrown once more.)"""

    async def iterate(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        outcome, ending = None, _with_end(_streaming("a", spec, decisions, args, kwargs))
        while not isinstance(step := ending.send(outcome), Outcome):
            try:
                outcome = Outcome(await step.run() if step.run is not None else (yield step.item))
            except BaseException as error:  # the steps raise it where the generator stands
                outcome = Outcome(None, error)
        _unwrapped(step)

    return iterate


def _unwrapped(outcome: Outcome) -> Any:
    """The value of an outcome, or its error, raised. (Not in the caller: a frame that an error's
    traceback leads to should not hold the error.)"""
    try:
        if outcome.error is not None:
            raise outcome.error
        return outcome.value
    finally:
        del outcome


class Turns:
    """Tells when a computation that is suspended at times is at work."""

    steered = False
    """Whether values were sent, or errors thrown, into it: then it depends on its consumer."""

    def __init__(self, engine: Engine, attempt: Attempt) -> None:
        self._engine = engine
        self._attempt = attempt
        self.resume = functools.partial(engine.resume, attempt)
        self.suspend = functools.partial(engine.suspend, attempt)

    def add(self, item: object) -> None:
        """It handed this on."""

    def end(self, outcome: Outcome) -> None:
        """It ended."""


class _Driven(NamedTuple):
    """A coroutine that is awaited, and tells when it is suspended."""

    turns: Turns
    coroutine: Any

    def __await__(self) -> Generator[Any, Any, Any]:
        return _iterate(_live("", self.coroutine.__await__(), self.turns))


class RecordedItems(Turns):
    """Notes what a generator yields while it is computed: each item is copied when it is produced,
    before its consumer can change it, and all are kept once the generator is exhausted."""

    def __init__(self, engine: Engine, attempt: Attempt) -> None:
        super().__init__(engine, attempt)
        self._items: list[object] = []
        self._problem = ""

    def add(self, item: object) -> None:
        """Notes an item, or last of all what the generator returned."""
        if self._problem or self.steered:
            return
        payloads, local = self._engine.parts.payloads, self._engine.parts.local
        serializer = self._attempt.computation.options.serializer
        if isinstance(item, Path) and payloads.is_temporary(item):
            self._problem = "it yields a path in the temporary directory; return one instead"
            return
        try:
            with self._engine.quiet():
                self._items.append(payloads.copied(item, local, serializer))
        except Exception as error:  # users' __reduce__ and serializers; kept for the refusal
            self._problem = fault_of(error)[1]

    def end(self, outcome: Outcome) -> None:
        """Ends the attempt: keeps the items of an exhausted generator, nothing of one that raised
        or was closed before its end. Never raises for what cannot be stored."""
        if outcome.error is not None:
            self._engine.abandon(self._attempt)
            return
        self.add(outcome.value)
        if self.steered:
            self._engine.refuse(self._attempt, "generator was sent values")
        elif self._problem:
            self._engine.refuse(self._attempt, "value cannot be serialized", self._problem)
        else:
            *items, last = self._items
            self._engine.complete(self._attempt, {"items": items, "returned": last})


def _is_outside(name: str) -> bool:
    return name.startswith((PATH_ENTRY, "../")) or os.path.isabs(name)
