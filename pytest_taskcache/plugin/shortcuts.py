"""Fixtures that nobody needs are not set up.

    test_it(model)     model is cached, and a hit     -> neither data nor rows is set up,
    model(data)                                          unless somebody else asks for them
    data(rows)

The key of ``model`` holds what ``data`` is worth, which nobody knows without setting it up. But the
record of ``model`` also rests on all that ``data`` and ``rows`` were observed to depend on. While
that holds, and both names stand for the same fixtures, they would give the same values again. So a
record that was made of such fixtures alone says which ones they were (a part called `UPSTREAM`),
and is looked up as if they had been set up. A fixture that can know who asks for it (``request``, a
parameter, an instance), did what cannot be observed, or mentions the clock or randomness is not of
that kind: then all is set up as ever.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import CodeType, FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

import pytest

from pytest_taskcache.checksum import checksum
from pytest_taskcache.decorator import Spec
from pytest_taskcache.engine.cache import Engine
from pytest_taskcache.engine.computation import Computation
from pytest_taskcache.engine.lookup import UPSTREAM, Found
from pytest_taskcache.errors import ConfigurationError, StorageError
from pytest_taskcache.model.event import Subject
from pytest_taskcache.model.key import Part
from pytest_taskcache.model.record import Variant
from pytest_taskcache.plugin.pytest_private import (
    Closure,
    closure_of,
    is_async,
    is_handle,
    leave_out,
    set_arguments,
)
from pytest_taskcache.plugin.requests import RequestRecorder
from pytest_taskcache.plugin.running import Instance
from pytest_taskcache.policies import TaskContext

if TYPE_CHECKING:
    from pytest_taskcache.plugin.session import Session

_STEADY_HANDLES = frozenset({"tmp_path", "tmp_path_factory"})
_UNSTEADY = frozenset(
    {
        *("time", "datetime", "date", "now", "today", "utcnow", "monotonic", "perf_counter"),
        *("random", "randint", "default_rng", "urandom", "secrets", "uuid", "uuid1", "uuid4"),
        *("getpid", "faker", "Faker"),
    }
)
"""What code mentions that may give something else each time, though nothing was seen to change."""


class Shortcuts:
    """Looks ahead of each test's set-up for cached fixtures that are hits without their upstream.

    ``spec_of`` tells cached fixtures, ``live`` are the instances there are.
    """

    def __init__(
        self,
        session: Session,
        spec_of: Callable[[Any], Spec | None],
        live: Mapping[Any, Instance],
    ) -> None:
        self._session = session
        self._spec_of = spec_of
        self._live = live
        self._ready: dict[Any, Computation] = {}
        self._worthwhile: dict[int, tuple[object, bool]] = {}
        self._arguments: dict[Any, tuple[str, ...]] = {}
        """Those of definitions that go without them while their instance lives."""

    def plan(self, item: pytest.Item) -> None:
        """Before a test is set up: leaves out of it what nobody will need."""
        engine, closure = self._session.engine, closure_of(item)
        if engine is None or closure is None or not self._is_worthwhile(closure):
            return
        refused: set[Any] = set()
        while True:
            needed, served = self._needed(engine, item, closure, refused)
            left = closure.definitions.keys() - needed
            meddling = {name for name in left if self._may_change(closure, name, needed)}
            more = {
                each
                for each in served
                if meddling & (self._upstream(item, closure, each) or {}).keys()
            }
            if not more:
                break
            for each in more:
                self.end(each)
            refused |= more
        leave_out(item, left)

    def settle(self) -> None:
        """After the set-up: what was looked up and not used is forgotten."""
        for definition in list(self._ready):
            self.end(definition)

    def take(self, engine: Engine, definition: Any) -> Found | None:
        """The hit of a fixture that is being set up and was planned to go without its upstream.
        What was set up before it may have made it a miss, which goes the long way, with all its
        arguments."""
        computation = self._ready.pop(definition, None)
        if computation is None:
            return None
        peeked = engine.peek(computation)
        if peeked is None:
            self.end(definition)
            return None
        return engine.use(peeked)

    def end(self, definition: Any) -> None:
        """The instance has ended: the definition has its arguments again."""
        self._ready.pop(definition, None)
        arguments = self._arguments.pop(definition, None)
        if arguments is not None:
            set_arguments(definition, arguments)

    def stop(self) -> None:
        """Leaves everything as it was."""
        for definition in list(self._arguments):
            self.end(definition)

    def evidence(self, item: pytest.Item | None, definition: Any) -> tuple[Part, ...]:
        """The part that lets a record be found without its upstream; none where it may not."""
        closure = closure_of(item) if item is not None else None
        upstream = self._upstream(item, closure, definition) if item and closure else None
        spec = self._spec_of(definition)
        if not upstream or spec is None or not spec.options.policy.has("OBSERVED"):
            return ()  # where nothing observed is verified, only the values tell
        for each in upstream.values():
            instance = self._live.get(each)
            if instance is None or instance.basis.opaque or instance.basis.taints:
                return ()
            if not self._is_steady(inspect.unwrap(each.func)):
                return ()
        return (self._part(upstream),)

    # ------------------------------------------------------------------------ internals

    def _needed(
        self, engine: Engine, item: pytest.Item, closure: Closure, refused: set[Any]
    ) -> tuple[set[str], list[Any]]:
        """The names that a test needs, and the definitions that do without what they are made
        of."""
        needed: set[str] = set()
        served: list[Any] = []
        waiting = list(closure.initial)
        while waiting:
            name = waiting.pop()
            if name in needed:
                continue
            needed.add(name)
            for each in closure.definitions.get(name, ()):
                if each not in refused and self._is_served(engine, item, closure, each):
                    served.append(each)
                else:
                    waiting += self._arguments_of(each)
        return needed, served

    def _may_change(self, closure: Closure, name: str, needed: set[str]) -> bool:
        """Whether a fixture is given what others need, too, and may change it. (Cached ones that
        do are not kept.)"""
        for definition in closure.definitions[name]:
            shared = needed.intersection(self._arguments_of(definition)) - _STEADY_HANDLES
            if shared and self._spec_of(definition) is None:
                return True
        return False

    def _arguments_of(self, definition: Any) -> tuple[str, ...]:
        found: tuple[str, ...] = self._arguments.get(definition, definition.argnames)
        return found

    def _is_worthwhile(self, closure: Closure) -> bool:
        known = self._worthwhile.get(id(closure.token))
        if known is None:
            found = any(
                self._arguments_of(definition) and self._spec_of(definition) is not None
                for definitions in closure.definitions.values()
                for definition in definitions
            )
            known = self._worthwhile[id(closure.token)] = closure.token, found
        return known[1]

    def _is_served(
        self, engine: Engine, item: pytest.Item, closure: Closure, definition: Any
    ) -> bool:
        """Whether a fixture needs no upstream: it lives without, or is a hit without."""
        spec = self._spec_of(definition)
        if spec is None or not self._arguments_of(definition):
            return False
        if definition in self._arguments:
            return True
        observed = spec.options.policy.has("OBSERVED")
        if not observed or definition.cached_result is not None or definition.params is not None:
            return False
        upstream = self._upstream(item, closure, definition)
        if not upstream or any(each.cached_result is not None for each in upstream.values()):
            return False  # a test may have changed one that is there; its value tells
        computation = self._hit(engine, item, definition, spec, self._part(upstream))
        if computation is None:
            return False
        self._ready[definition] = computation
        self._arguments[definition] = definition.argnames
        set_arguments(definition, ())
        return True

    def _upstream(
        self, item: pytest.Item, closure: Closure, definition: Any
    ) -> dict[str, Any] | None:
        """All fixtures that a cached one is made of, by name; None if one of them may give
        something else to each who asks."""
        parameters = getattr(getattr(item, "callspec", None), "params", {})
        if inspect.ismethod(definition.func) or is_async(definition.func):
            return None
        found: dict[str, Any] = {}
        waiting = list(self._arguments_of(definition))
        while waiting:
            name = waiting.pop()
            if name in found or name in _STEADY_HANDLES:
                continue
            last = next(reversed(closure.definitions.get(name, ())), None)
            if last is None or name in parameters or last.params is not None or is_handle(last):
                return None
            if not isinstance(inspect.unwrap(last.func), FunctionType) or is_async(last.func):
                return None
            if name in self._arguments_of(last):
                return None  # it extends another one of its own name
            found[name] = last
            waiting += self._arguments_of(last)
        return found

    def _is_steady(self, function: Any) -> bool:
        """Whether a fixture, and the project's functions that it names, mention nothing that may
        give something else each time."""
        is_ours = self._session.fingerprints.is_project_file
        waiting, seen = [function], set[Any]()
        while waiting:
            one = waiting.pop()
            if one in seen:
                continue
            seen.add(one)
            names = set(_names_in(one.__code__))
            if names & _UNSTEADY or (one is function and not is_ours(one.__code__.co_filename)):
                return False
            held = [one.__globals__, *_modules_among(one.__globals__, names)]
            for found in (inspect.unwrap(each[n]) for each in held for n in names if n in each):
                if isinstance(found, FunctionType) and is_ours(found.__code__.co_filename):
                    waiting.append(found)
        return True

    def _part(self, upstream: Mapping[str, Any]) -> Part:
        def place(function: Any) -> str:
            code = inspect.unwrap(function).__code__
            return f"{self._session.fingerprints.name_of(code.co_filename)}::{code.co_qualname}"

        named = (f"{name} {place(each.func)}" for name, each in sorted(upstream.items()))
        return Part(UPSTREAM, checksum(named))

    def _hit(
        self, engine: Engine, item: pytest.Item, definition: Any, spec: Spec, part: Part
    ) -> Computation | None:
        identity = spec.identity(engine)
        try:
            records = engine.routes.of(spec.options).records
            newest = records.recent([str(identity)]).get(str(identity))
            if newest is None or part not in newest.parts:
                return None
            computation = self._computation(engine, item, definition, spec, newest)
            return computation if engine.peek(computation) is not None else None
        except (ConfigurationError, StorageError):
            return None  # the set-up meets it again, and tells

    def _computation(
        self, engine: Engine, item: pytest.Item, definition: Any, spec: Spec, newest: Variant
    ) -> Computation:
        """The set-up as if its upstream had given what it gave for that record."""
        place, fingerprints = engine.place, engine.fingerprints
        start = "inputs."
        digests = {
            name.removeprefix(start): digest
            for name, digest in newest.parts
            if name.startswith(start)
        }
        context = TaskContext(
            Subject.FIXTURE,
            spec.identity(engine),
            spec.function,
            engine.run.id,
            fingerprints,
            place.parameters,
            place.name,
            place.module,
            digests,
        )
        request: Any = getattr(item, "_request", None)
        recorder = RequestRecorder(
            request, fingerprints, self._session.observatory.add_module, lambda name: ""
        )
        wide = definition.scope != "function"
        arguments = dict.fromkeys(self._arguments_of(definition))
        return Computation(context, arguments, spec.options, (), recorder.digest, wide, place.test)


def _names_in(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names_in(constant)


def _modules_among(namespace: Mapping[str, Any], names: Iterable[str]) -> Iterator[dict[str, Any]]:
    for name in names:
        if isinstance(value := namespace.get(name), ModuleType):
            yield vars(value)
