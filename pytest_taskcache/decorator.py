"""The `@cached` decorator.

Where a decorated function raises, pytest's report leaves the wrappers out (``__tracebackhide__``).
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Iterable
from dataclasses import dataclass, fields, replace
from datetime import timedelta
from typing import (
    Any,
    Concatenate,
    Generic,
    NamedTuple,
    ParamSpec,
    Protocol,
    TypeVar,
    cast,
    overload,
)

from pytest_taskcache.engine import active
from pytest_taskcache.engine.cache import Attempt, Engine
from pytest_taskcache.engine.computation import Computation, Options, Place, Validator
from pytest_taskcache.engine.items import FORM, Recording, items_of
from pytest_taskcache.engine.reading import Found
from pytest_taskcache.engine.targets import check_template
from pytest_taskcache.errors import ConfigurationError
from pytest_taskcache.model.decision import Decision, Hit, Uncacheable
from pytest_taskcache.model.event import Subject
from pytest_taskcache.model.key import Identity
from pytest_taskcache.policies import CachePolicy, TaskContext
from pytest_taskcache.policies.algebra import StorageSpec
from pytest_taskcache.policies.custom import KeyFn
from pytest_taskcache.ports import Serializer
from pytest_taskcache.transactions.transaction import CommitMode, Hook

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")

MARK = "__taskcache__"
"""Attribute under which a function carries its `Spec`."""


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
        """As a method: bound to its instance, as functions are."""

    def call(self, *args: P.args, **kwargs: P.kwargs) -> State[R]:
        """The value with its decision. Awaitable for an async function; for a generator
        function the value is the list of its items."""

    def on_commit(self, hook: Hook) -> Hook:
        """Has the hook run when a transaction in which this was computed commits."""

    def on_rollback(self, hook: Hook) -> Hook:
        """Has the hook run when a transaction in which this was computed rolls back."""

    def with_options(self, **changes: Any) -> CachedFunction[P, R]:
        """The same function with other options."""


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
        if self.options.target is not None:
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
            file = engine.fingerprints.name_of(code.co_filename)
            known = (engine.run.id, Identity(file, self.function.__qualname__))
            self._identity = known
        return known[1]

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
    target: str | None = ...,
    refresh: bool = ...,
    serializer: str | Serializer | None = ...,
    result_storage: StorageSpec | None = ...,
    commit: CommitMode | str = ...,
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
            or a templated file whose existence means a hit.
        expiration: how long a value is valid, a timedelta.
        validator: ``fn(context, record) -> bool``, asked before a value is used.
        refresh: always compute, and overwrite.
        serializer: a name (``pickle``, ``json``, ``compressed``, ``tree``) or a Serializer.
        result_storage: where values go, apart from their records: a path, URL or storage.
        commit: when the value becomes visible to others, a CommitMode.
        persist: False computes always and stores nothing.
        allow: kinds of opaque deeds that are acceptable (tests only).
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


def _decorate(options: Options, function: Any) -> Any:
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
    wrapper = _wrapper(spec)
    functools.update_wrapper(wrapper, spec.function)
    spec.holder = wrapper
    wrapper.__dict__[MARK] = spec
    wrapper.__dict__["call"] = _calls(spec)

    def on_commit(hook: Hook) -> Hook:
        spec.options = replace(spec.options, on_commit=(*spec.options.on_commit, hook))
        return hook

    def on_rollback(hook: Hook) -> Hook:
        spec.options = replace(spec.options, on_rollback=(*spec.options.on_rollback, hook))
        return hook

    def with_options(**changes: Any) -> Any:
        _check_names("with_options", changes)
        return _decorate(replace(spec.options, **changes), spec.function)

    wrapper.__dict__.update(on_commit=on_commit, on_rollback=on_rollback, with_options=with_options)
    return wrapper


def _wrapper(spec: Spec) -> Callable[..., Any]:
    """A real function of the same kind, so that inspection, binding and fixtures see it so."""
    function = spec.function
    if inspect.iscoroutinefunction(function):

        async def wrapped_async(*args: Any, **kwargs: Any) -> Any:
            __tracebackhide__ = True
            return (await _state_async(spec, args, kwargs)).value

        return wrapped_async
    if inspect.isasyncgenfunction(function):
        return _async_items(spec, [])
    if inspect.isgeneratorfunction(function):

        def wrapped_generator(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
            __tracebackhide__ = True
            return (yield from _items(spec, args, kwargs, []))

        return wrapped_generator

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        engine = active.active()
        if engine is None:
            return function(*args, **kwargs)
        opened = engine.open(spec.computation(engine, args, kwargs))
        return (
            opened.value if isinstance(opened, Found) else _computed(engine, opened, args, kwargs)
        )

    return wrapped


def _calls(spec: Spec) -> Callable[..., Any]:
    function = spec.function
    if inspect.iscoroutinefunction(function):

        def call_async(*args: Any, **kwargs: Any) -> Coroutine[Any, Any, State[Any]]:
            return _state_async(spec, args, kwargs)

        return call_async
    if inspect.isasyncgenfunction(function):

        async def call_asyncgen(*args: Any, **kwargs: Any) -> State[Any]:
            __tracebackhide__ = True
            decisions: list[Decision] = []
            items = [item async for item in _async_items(spec, decisions)(*args, **kwargs)]
            return State(items, decisions[0])

        return call_asyncgen
    if inspect.isgeneratorfunction(function):

        def call_generator(*args: Any, **kwargs: Any) -> State[Any]:
            __tracebackhide__ = True
            decisions: list[Decision] = []
            items = list(_items(spec, args, kwargs, decisions))
            return State(items, decisions[0])

        return call_generator

    def call(*args: Any, **kwargs: Any) -> State[Any]:
        __tracebackhide__ = True
        return _state(spec, args, kwargs)

    return call


_INACTIVE = Uncacheable("no active cache", "open one with `with Cache(path):`, or run under pytest")


def _state(spec: Spec, args: tuple[Any, ...], kwargs: dict[str, Any]) -> State[Any]:
    __tracebackhide__ = True
    engine = active.active()
    if engine is None:
        return State(spec.function(*args, **kwargs), _INACTIVE)
    opened = engine.open(spec.computation(engine, args, kwargs))
    if isinstance(opened, Found):
        return State(opened.value, opened.decision)
    return State(_computed(engine, opened, args, kwargs), opened.decision)


def _computed(
    engine: Engine, attempt: Attempt, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    __tracebackhide__ = True
    try:
        value = attempt.computation.context.function(*args, **kwargs)
    except BaseException:
        engine.abandon(attempt)
        raise
    engine.complete(attempt, value)
    return value


async def _state_async(spec: Spec, args: tuple[Any, ...], kwargs: dict[str, Any]) -> State[Any]:
    __tracebackhide__ = True
    engine = active.active()
    if engine is None:
        return State(await spec.function(*args, **kwargs), _INACTIVE)
    opened = await _opened(engine, spec.computation(engine, args, kwargs))
    if isinstance(opened, Found):
        return State(opened.value, opened.decision)
    try:
        value = await spec.function(*args, **kwargs)
    except BaseException:
        engine.abandon(opened)
        raise
    engine.complete(opened, value)
    return State(value, opened.decision)


async def _opened(engine: Engine, computation: Computation) -> Found | Attempt:
    """As `Engine.open`, leaving the event loop free during the waits. Under another event loop
    than asyncio's the waits block."""
    try:
        asyncio.get_running_loop()
        in_asyncio = True
    except RuntimeError:
        in_asyncio = False
    steps = engine.steps(computation, blocks=not in_asyncio)
    try:
        while True:
            pause = next(steps)
            if in_asyncio:
                await asyncio.sleep(pause)
            else:
                time.sleep(pause)
    except StopIteration as end:
        return cast("Found | Attempt", end.value)


def _items(
    spec: Spec, args: tuple[Any, ...], kwargs: dict[str, Any], decisions: list[Decision]
) -> Generator[Any, Any, Any]:
    __tracebackhide__ = True
    engine = active.active()
    if engine is None:
        decisions.append(_INACTIVE)
        return (yield from spec.function(*args, **kwargs))
    opened = engine.open(spec.computation(engine, args, kwargs))
    decisions.append(opened.decision)
    if isinstance(opened, Found):
        return (yield from _replayed(spec, args, kwargs, opened.value))
    recording = Recording(engine, opened, spec.options)
    generator = spec.function(*args, **kwargs)
    try:
        item = next(generator)
        while True:
            recording.add(item)
            try:
                sent = yield item
            except GeneratorExit:
                generator.close()
                raise
            except BaseException as error:
                recording.steered = True
                item = generator.throw(error)
                continue
            recording.steered |= sent is not None
            item = next(generator) if sent is None else generator.send(sent)
    except StopIteration as end:
        returned = end.value
    except BaseException:
        recording.abandon()
        raise
    recording.complete(returned)
    return returned


def _replayed(
    spec: Spec, args: tuple[Any, ...], kwargs: dict[str, Any], value: object
) -> Generator[Any, Any, Any]:
    """Stored items. A consumer that sends or throws gets the generator itself from there on,
    since what it answers is not stored."""
    __tracebackhide__ = True
    items, returned = items_of(value)
    for position, item in enumerate(items):
        error: BaseException | None = None
        sent = None
        try:
            sent = yield item
        except GeneratorExit:
            raise
        except BaseException as thrown:
            error = thrown
        if sent is None and error is None:
            continue
        generator = spec.function(*args, **kwargs)
        for _ in range(position + 1):
            next(generator)
        try:
            item = generator.throw(error) if error is not None else generator.send(sent)
        except StopIteration as end:
            return end.value
        return (yield from _relayed(generator, item))
    return returned


def _relayed(generator: Generator[Any, Any, Any], item: Any) -> Generator[Any, Any, Any]:
    """The rest of a generator that has just yielded an item."""
    __tracebackhide__ = True
    while True:
        try:
            sent = yield item
        except GeneratorExit:
            generator.close()
            raise
        except BaseException as error:
            step = functools.partial(generator.throw, error)
        else:
            step = functools.partial(generator.send, sent)
        try:
            item = step()
        except StopIteration as end:
            return end.value


def _async_items(spec: Spec, decisions: list[Decision]) -> Callable[..., AsyncGenerator[Any, Any]]:
    """An async generator function, whole in itself: a generator around it would have to pass on
    what is sent and thrown once more."""

    async def items(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        __tracebackhide__ = True
        engine = active.active()
        recording: Recording | None = None
        stored: list[Any] = []
        if engine is None:
            decisions.append(_INACTIVE)
        else:
            opened = await _opened(engine, spec.computation(engine, args, kwargs))
            decisions.append(opened.decision)
            if isinstance(opened, Found):
                stored, _ = items_of(opened.value)
                found = True
            else:
                found = False
                recording = Recording(engine, opened, spec.options)
            del opened
            if found and not stored:
                return
        generator = spec.function(*args, **kwargs)
        position = 0
        live = not stored
        try:
            item = stored[0] if stored else await anext(generator)
            while True:
                if recording is not None:
                    recording.add(item)
                step: Any = None
                try:
                    sent = yield item
                except GeneratorExit:
                    raise
                except BaseException as error:
                    step = functools.partial(generator.athrow, error)
                else:
                    step = functools.partial(generator.asend, sent) if sent is not None else None
                position += 1
                if not live and step is not None:
                    for _ in range(position):
                        await anext(generator)
                    live = True
                if not live:
                    if position == len(stored):
                        return
                    item = stored[position]
                    continue
                if recording is not None and step is not None:
                    recording.steered = True
                item = await (step() if step is not None else anext(generator))
        except StopAsyncIteration:
            pass
        except BaseException:
            await generator.aclose()
            if recording is not None:
                recording.abandon()
            raise
        if recording is not None:
            recording.complete(None)

    return items


def _form_of(function: Callable[..., Any]) -> str:
    generates = inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)
    return FORM if generates else ""
