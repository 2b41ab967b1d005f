"""Cached fixtures that nobody needs are neither set up nor fetched.

    test_it(model)     all three are cached, and model   -> neither data nor rows is looked up,
    model(data)        is a hit                             unless somebody else asks for them
    data(rows)

The key of ``model`` holds what ``data`` is worth, which nobody knows without asking for it. But the
record of ``model`` also rests on all that ``data`` and ``rows`` rest on. While that holds, and both
names stand for the same fixtures, both are hits that give what they gave. So a record that was made
of cached fixtures alone says which ones they were (a part called `UPSTREAM`), and is looked up as
if they had been asked. A fixture that is not cached may give something else each time (a clock, a
random number) with nothing seen to change: only its value tells, so that it is set up as ever.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from types import FunctionType
from typing import TYPE_CHECKING, Any

import pytest

from pytest_taskcache.checksum import checksum
from pytest_taskcache.decorator import Spec
from pytest_taskcache.engine.cache import Engine
from pytest_taskcache.engine.computation import Computation
from pytest_taskcache.engine.lookup import UPSTREAM, Found
from pytest_taskcache.errors import ConfigurationError, StorageError
from pytest_taskcache.model.key import Part
from pytest_taskcache.plugin.fixture_inputs import computation_of, digest_of_written
from pytest_taskcache.plugin.pytest_private import (
    Closure,
    closure_of,
    is_async,
    is_handle,
    leave_out,
    set_arguments,
)

if TYPE_CHECKING:
    from pytest_taskcache.plugin.fixtures import FixtureHooks
    from pytest_taskcache.plugin.session import Session

_STEADY_HANDLES = frozenset({"tmp_path", "tmp_path_factory"})


class Shortcuts:
    """Looks ahead of each test for cached fixtures that are hits without their upstream."""

    def __init__(self, session: Session, fixtures: FixtureHooks, engine: Engine) -> None:
        self._session = session
        self._engine = engine
        self._fixtures = fixtures
        self._ready: dict[Any, Computation] = {}
        self._arguments: dict[Any, tuple[str, ...]] = {}
        """Those of definitions that go without them while their instance lives."""

    def plan(self, item: pytest.Item) -> None:
        """Before a test is set up: leaves out of it what nobody will need."""
        closure = closure_of(item)
        if closure is None or self._engine.parts.refresh.asked:
            return
        if not any(map(self.arguments_of, self._fixtures.cached_in(closure))):
            return
        refused: set[Any] = set()
        while True:
            needed, served = self._needed(item, closure, refused)
            # What somebody asks for is there: its value tells.
            more = {
                each
                for each in served
                if needed & (self._upstream(item, closure, each) or {}).keys()
            }
            if not more:
                break
            for each in more:
                self.end(each)
            refused |= more
        leave_out(item, closure.definitions.keys() - needed)

    def settle(self) -> None:
        """After the set-up: what was looked up and not used is forgotten."""
        for definition in list(self._ready):
            self.end(definition)

    def take(self, definition: Any) -> Found | None:
        """The hit of a fixture that is being set up and was planned to go without its upstream.
        What was set up before it may have made it a miss, which goes the long way, with all its
        arguments."""
        computation = self._ready.pop(definition, None)
        if computation is None:
            return None
        peeked = self._engine.peek(computation)
        if peeked is None:
            self.end(definition)
            return None
        return self._engine.use(peeked)

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

    def arguments_of(self, definition: Any) -> tuple[str, ...]:
        """What a definition asks for, or would if it did not go without."""
        found: tuple[str, ...] = self._arguments.get(definition, definition.argnames)
        return found

    def evidence(self, item: pytest.Item | None, definition: Any) -> tuple[Part, ...]:
        """The part that lets a record be found without its upstream; none where it may not."""
        closure = closure_of(item)
        upstream = self._upstream(item, closure, definition) if item and closure else None
        if not upstream or not self._is_followed(definition):
            return ()
        for each in upstream.values():
            instance = self._fixtures.live.get(each)
            if instance is None or instance.variant is None or instance.basis.taints:
                return ()
        return (self._part(upstream),)

    def _needed(
        self, item: pytest.Item, closure: Closure, refused: set[Any]
    ) -> tuple[set[str], list[Any]]:
        """The names that a test needs, and the definitions that do without their upstream."""
        needed: set[str] = set()
        served: list[Any] = []
        waiting = list(closure.initial)
        while waiting:
            name = waiting.pop()
            if name in needed:
                continue
            needed.add(name)
            for each in closure.definitions.get(name, ()):
                if each not in refused and self._is_served(item, closure, each):
                    served.append(each)
                else:
                    waiting += self.arguments_of(each)
        return needed, served

    def _is_served(self, item: pytest.Item, closure: Closure, definition: Any) -> bool:
        """Whether a fixture needs no upstream: it lives without, or is a hit without."""
        spec = self._fixtures.spec_of(definition)
        if spec is None or not self.arguments_of(definition):
            return False
        if definition in self._arguments:
            return True
        if definition.cached_result is not None or definition.params is not None:
            return False
        if not self._is_followed(definition):
            return False
        upstream = self._upstream(item, closure, definition)
        if not upstream or any(each.cached_result is not None for each in upstream.values()):
            return False  # a test may have changed one that is there; its value tells
        computation = self._hit(item, definition, spec, self._part(upstream))
        if computation is None:
            return False
        self._ready[definition] = computation
        self._arguments[definition] = definition.argnames
        set_arguments(definition, ())
        return True

    def _upstream(
        self, item: pytest.Item, closure: Closure, definition: Any
    ) -> dict[str, Any] | None:
        """All fixtures that a cached one is made of, by name; None if one of them is not cached,
        or may give something else to each who asks."""
        parameters = getattr(getattr(item, "callspec", None), "params", {})
        if inspect.ismethod(definition.func) or is_async(definition.func):
            return None
        found: dict[str, Any] = {}
        waiting = list(self.arguments_of(definition))
        while waiting:
            name = waiting.pop()
            if name in found or name in _STEADY_HANDLES:
                continue
            last = next(reversed(closure.definitions.get(name, ())), None)
            if last is None or name in parameters or last.params is not None or is_handle(last):
                return None
            if is_async(last.func) or not self._is_followed(last):
                return None
            if name in self.arguments_of(last):
                return None  # it extends another one of its own name
            found[name] = last
            waiting += self.arguments_of(last)
        return found

    def _is_followed(self, definition: Any) -> bool:
        """Whether it is cached, and its record holds for as long as what it was observed to depend
        on does: under no key or policy of its author's that asks for more."""
        spec = self._fixtures.spec_of(definition)
        if spec is None or not isinstance(inspect.unwrap(definition.func), FunctionType):
            return False
        options = spec.options
        kept = options.persist and not options.refresh
        return kept and options.plain and options.policy.has("OBSERVED")

    def _part(self, upstream: Mapping[str, Any]) -> Part:
        def place(function: Any) -> str:
            code = inspect.unwrap(function).__code__
            return f"{self._session.fingerprints.name_of(code.co_filename)}::{code.co_qualname}"

        named = (f"{name} {place(each.func)}" for name, each in sorted(upstream.items()))
        return Part(UPSTREAM, checksum(named))

    def _hit(
        self, item: pytest.Item, definition: Any, spec: Spec, part: Part
    ) -> Computation | None:
        identity = spec.identity(self._engine)
        try:
            records = self._engine.routes.of(spec.options).records
            newest = records.recent([str(identity)]).get(str(identity))
            if newest is None or part not in newest.parts:
                return None
            # The set-up as if its upstream had given what it gave for that record.
            start = "inputs."
            digests = {
                name.removeprefix(start): digest
                for name, digest in newest.parts
                if name.startswith(start)
            }
            arguments = dict.fromkeys(self.arguments_of(definition))
            pinned = functools.partial(digest_of_written, self._engine.fingerprints)
            computation = computation_of(
                self._engine, spec, definition.scope, arguments, digests, pinned
            )
            return computation if self._engine.peek(computation) is not None else None
        except (ConfigurationError, StorageError):
            return None  # the set-up meets it again, and tells
