"""Generators whose items are cached, plain and asynchronous ones.

What happens is written once for both, as `Steps`: a generator that yields what is to be done
(`Do`) or handed to the consumer (`Emit`), and is told what came of it. `iterate` and
`iterating_async` do the steps. For example, the second call of ``def two(): yield 1; yield 2``

    yields Do(open the computation)     is sent Outcome(Found({"items": [1, 2], ...}))
    yields Emit(1)                      is sent Outcome(None): the consumer wants the next one
    yields Emit(2)                      is sent Outcome(None)
    returns Outcome(None)               what the generator function returned
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from pytest_taskcache.engine.cache import Attempt, Engine
from pytest_taskcache.engine.computation import Computation
from pytest_taskcache.engine.lookup import Found
from pytest_taskcache.errors import SerializationError
from pytest_taskcache.model.decision import Decision
from pytest_taskcache.ports import Restore

FORM = "items"
"""The `Computation.form` of a generator."""


class Do(NamedTuple):
    """To be called, and awaited where the generator is asynchronous."""

    run: Callable[[], Any]


class Emit(NamedTuple):
    """To be yielded to the consumer; the outcome is what it sent, or threw."""

    item: Any


class Outcome(NamedTuple):
    """What came of a step, or of a whole call: a value, or an error."""

    value: Any = None
    error: BaseException | None = None

    @property
    def steers(self) -> bool:
        """Whether a consumer asked for more than the next item."""
        return self.value is not None or self.error is not None


Steps: TypeAlias = "Generator[Do | Emit, Any, Outcome]"
"""Sent what came of each step, an `Outcome`; returns that of the call."""


class Flavour(NamedTuple):
    """What differs between plain and asynchronous generators; names are those of methods."""

    open: Callable[[Engine, Computation], Any]
    send: str
    throw: str
    close: str


PLAIN = Flavour(Engine.open, "send", "throw", "close")
ASYNC = Flavour(Engine.open_async, "asend", "athrow", "aclose")


def streaming(
    flavour: Flavour,
    engine: Engine,
    computation: Computation,
    start: Callable[[], Any],
    decisions: list[Decision],
) -> Steps:
    """The items of a computation, stored or computed by the generator that ``start`` makes. The
    outcome is what the generator returns; the decision is added to ``decisions``."""
    __tracebackhide__ = True
    opened, error = yield Do(lambda: flavour.open(engine, computation))
    if error is not None:
        return Outcome(None, error)
    decisions.append(opened.decision)
    if not isinstance(opened, Found):
        return (yield from live(flavour, start(), RecordedItems(engine, opened)))
    items, returned = opened.value["items"], opened.value["returned"]  # type: ignore[index] # FORM
    del opened
    for position, item in enumerate(items, 1):
        answer = yield Emit(item)
        if isinstance(answer.error, GeneratorExit):
            return Outcome(None, answer.error)
        if answer.steers:
            # What the generator answers is not stored: it goes on itself from here.
            generator = start()
            for _ in range(position):
                yield Do(partial(getattr(generator, flavour.send), None))
            return (yield from live(flavour, generator, answer=answer))
    return Outcome(returned)


def live(
    flavour: Flavour,
    generator: Any,
    recording: RecordedItems | None = None,
    answer: Outcome = Outcome(),  # noqa: B008 # frozen
) -> Steps:
    """A generator at work, and its items noted on the way; ``answer`` is the first it gets."""
    __tracebackhide__ = True
    send, throw = getattr(generator, flavour.send), getattr(generator, flavour.throw)
    while True:
        sent, thrown = answer
        if isinstance(thrown, GeneratorExit):
            _, failed = yield Do(getattr(generator, flavour.close))
            outcome = Outcome(None, failed or thrown)
            break
        if recording is not None:
            recording.steered |= answer.steers
        item, error = yield Do(partial(send, sent) if thrown is None else partial(throw, thrown))
        if error is not None:
            ended = isinstance(error, StopIteration | StopAsyncIteration)
            outcome = Outcome(getattr(error, "value", None)) if ended else Outcome(None, error)
            break
        if recording is not None:
            recording.add(item)
        answer = yield Emit(item)
    if recording is not None:
        recording.end(outcome)
    return outcome


def iterate(steps: Steps) -> Generator[Any, Any, Any]:
    """A generator of what the steps emit."""
    __tracebackhide__ = True
    outcome: Outcome | None = None
    while True:
        try:
            step = steps.send(outcome)
        except StopIteration as end:
            return _unwrapped(end.value)
        try:
            outcome = Outcome(step.run() if isinstance(step, Do) else (yield step.item))
        except BaseException as error:
            outcome = Outcome(None, error)


def iterating_async(steps_of: Callable[..., Steps]) -> Callable[..., AsyncGenerator[Any, Any]]:
    """An async generator function of what the steps emit that its arguments make. (Whole in
    itself: one around it would have to pass on what is sent and thrown once more.)"""

    async def iterate_async(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        __tracebackhide__ = True
        steps = steps_of(*args, **kwargs)
        outcome: Outcome | None = None
        while True:
            try:
                step = steps.send(outcome)
            except StopIteration as end:
                _unwrapped(end.value)
                return
            try:
                outcome = Outcome(await step.run() if isinstance(step, Do) else (yield step.item))
            except BaseException as error:
                outcome = Outcome(None, error)

    return iterate_async


def _unwrapped(outcome: Outcome) -> Any:
    """The value of an outcome, or its error, raised. (Not in the caller: a frame that an error's
    traceback leads to should not hold the error.)"""
    __tracebackhide__ = True
    try:
        if outcome.error is not None:
            raise outcome.error
        return outcome.value
    finally:
        del outcome


class RecordedItems:
    """Notes what a generator yields while it is computed: each item is serialized when it is
    produced, before its consumer can change it, and kept once the generator is exhausted."""

    def __init__(self, engine: Engine, attempt: Attempt) -> None:
        self._engine = engine
        self._attempt = attempt
        self._payloads = engine.parts.payloads
        self._serializer = self._payloads.chosen(attempt.computation.options.serializer)
        self._data: list[bytes] = []
        self._problem = ""
        self.steered = False
        """Whether values were sent, or errors thrown, into it: then it depends on its consumer."""

    def add(self, item: object) -> None:
        """Notes an item, or last of all what the generator returned."""
        if self._problem or self.steered:
            return
        if isinstance(item, Path) and self._payloads.is_temporary(item):
            self._problem = "it yields a path in the temporary directory; return one instead"
            return
        try:
            with self._engine.quiet():
                payload = self._serializer.dump(item)
                self._data.append(b"".join(payload.chunks))
        except Exception as error:  # users' __reduce__ and serializers; kept for the refusal
            self._problem = str(error)
            return
        if payload.blobs:
            self._problem = "an item is a tree of files; return it from a function instead"

    def end(self, outcome: Outcome) -> None:
        """Ends the attempt: keeps the items of an exhausted generator, nothing of one that raised
        or was closed before its end. Never raises for what cannot be stored."""
        if outcome.error is not None:
            self._engine.abandon(self._attempt)
            return
        self.add(outcome.value)
        if self.steered:
            self._engine.refuse(self._attempt, "generator was sent values")
            return
        items: list[object] = []
        if not self._problem:
            try:
                with self._engine.quiet():
                    items = self._thaw()
            except Exception as error:  # users' __setstate__ and serializers
                self._problem = f"{type(error).__name__}: {error}"
        if self._problem:
            self._engine.refuse(self._attempt, "value cannot be serialized", self._problem)
            return
        *items, last = items
        self._engine.complete(self._attempt, {"items": items, "returned": last})

    def _thaw(self) -> list[object]:
        def copy(digest: str, destination: object, readonly: bool) -> None:
            raise SerializationError(self._serializer.name, "", "items cannot be trees")

        restore = Restore(self._payloads.scratch, copy)
        return [self._serializer.load(memoryview(data), restore) for data in self._data]
