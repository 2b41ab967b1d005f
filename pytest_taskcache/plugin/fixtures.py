"""Cached fixtures, and what the instances of other fixtures rest on."""

from __future__ import annotations

import functools
import importlib
import inspect
import itertools
import types
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar, overload

import pytest

from pytest_taskcache.checksum import checksum
from pytest_taskcache.dataclass import fields
from pytest_taskcache.decorator import Spec, cached, spec_of
from pytest_taskcache.engine.active import end_of_scope, roll_back
from pytest_taskcache.engine.cache import Attempt, Completed, Engine
from pytest_taskcache.engine.computation import (
    EFFECTS,
    Basis,
    Computation,
    OpenComputation,
    Options,
)
from pytest_taskcache.engine.lookup import Found
from pytest_taskcache.engine.validity import UPSTREAM
from pytest_taskcache.errors import ConfigurationError, StorageError, UndigestableError
from pytest_taskcache.model.decision import Hit
from pytest_taskcache.model.dependency import Observed
from pytest_taskcache.model.event import Noted
from pytest_taskcache.model.key import Part
from pytest_taskcache.plugin.fixture_effects import Effects
from pytest_taskcache.plugin.fixture_inputs import (
    OF_FIXTURE,
    OF_WRITTEN,
    PRESENT,
    FixtureInputs,
    computation_of,
    digest_of_written,
    is_machinery,
    value_digest,
)
from pytest_taskcache.plugin.items import Instance
from pytest_taskcache.plugin.outcomes.other_plugins import random_state
from pytest_taskcache.plugin.outcomes.outcome_keys import is_stand_in
from pytest_taskcache.plugin.pytest_private import (
    HANDLES,
    Closure,
    active_definition,
    all_definitions,
    asking_definition,
    closure_of,
    is_async,
    is_handle,
    leave_out,
    marks_of,
    set_arguments,
    swapped_function,
    watch_dynamic_requests,
)
from pytest_taskcache.transactions.transaction import Transaction

if TYPE_CHECKING:
    from pytest_taskcache.plugin.session import Session

__tracebackhide__ = True

F = TypeVar("F", bound=Callable[..., Any])
_OPTIONS = {field.name for field in fields(Options)}
_STEADY_HANDLES = frozenset({"tmp_path", "tmp_path_factory"})
_SCOPES = ("function", "class", "module", "package", "session")


@overload
def cached_fixture(function: F, /) -> F: ...
@overload
def cached_fixture(**options: Any) -> Callable[[F], F]: ...
def cached_fixture(function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """A pytest fixture whose value is cached: ``@pytest.fixture`` and ``@cached`` in one.

    Takes the arguments of both (``scope``, ``params``, ``autouse``, ``ids``, ``name``; and those
    of `cached`), and ``loop_scope``, which makes it a fixture of pytest-asyncio's. On a hit neither
    set-up nor teardown of the fixture runs. Raises what either raises for options that cannot work.
    """
    for_fixture = {k: v for k, v in options.items() if k not in _OPTIONS}
    for_cache = {k: v for k, v in options.items() if k in _OPTIONS}
    keep: Callable[[Any], Any] = cached(**for_cache)
    make: Callable[..., Any] = pytest.fixture
    if "loop_scope" in for_fixture:
        try:
            make = importlib.import_module("pytest_asyncio").fixture
        except ImportError as error:
            raise ConfigurationError(
                "cached_fixture(loop_scope=...)",
                "pytest-asyncio is not installed, whose option it is",
                "pip install pytest-asyncio",
            ) from error

    def decorate(function: Callable[..., Any]) -> Any:
        return keep(make(**for_fixture)(function))

    return decorate if function is None else decorate(function)


class FixtureHooks:
    """Swaps a cached fixture's function on a hit, and keeps its value on a miss.

    Every fixture that outlives a test, cached or not, has a transaction of its own and an
    account of what it rests on: the tests that use it share both. A test's own fixtures have an
    account where something cached may use them.
    """

    def __init__(self, session: Session, engine: Engine) -> None:
        self._session = session
        self._engine = engine
        self.live: dict[Any, Instance] = {}
        """The instances that there are, by their definitions."""
        self._setting_up: list[
            tuple[Any, OpenComputation, FixtureInputs | None, Effects | None]
        ] = []
        """Definitions, frames, and the inputs and effects of those that are cached."""
        self._numbers = itertools.count(1)
        self._named = frozenset(session.settings.fixtures)
        self._foreign: dict[object, Spec] = {}
        self._closures: dict[int, tuple[object, tuple[Any, ...]]] = {}
        self._inputs: set[str] | None = None
        self._is_project = functools.cache(session.fingerprints.is_project_file)
        self.shortcuts = Shortcuts(self, engine)
        self._stop_watching = watch_dynamic_requests(self._requested)

    def stop(self) -> None:
        """Ends watching dynamic requests."""
        self.shortcuts.stop()
        self._stop_watching()

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_fixture_setup(self, fixturedef: Any, request: Any) -> Generator[None, Any, Any]:
        """Sets a fixture up, from the cache if it can be."""
        engine, option = self._engine, self._session.config.option
        if getattr(option, "setupplan", False) or is_handle(fixturedef):
            return (yield)
        spec = self.spec_of(fixturedef)
        wide = request.scope != "function"
        if spec is None and not wide:
            cached = self.cached_in(closure_of(self._session.running_item))
            if not any(definition.scope == "function" for definition in cached):
                return (yield)
        instance = Instance()
        outer, known = engine.root, len(self._session.decisions)
        seeded = self._session.outcomes.randomness is not None
        drawn = random_state() if seeded else None
        coverage = self._session.coverage
        if coverage is not None and wide and (region := coverage.open("shared")):
            instance.regions.append(region)
        if wide:
            claimant = f"{engine.worker}/fixture/{fixturedef.argname}/{next(self._numbers)}"
            instance.transaction = Transaction(claimant, f"fixture {fixturedef.argname}")
            engine.root = instance.transaction
            instance.position = self._session.observatory.set_up()
        try:
            if spec is None:
                value = yield from self._observed(fixturedef, request, instance)
            else:
                value = yield from self._cached(spec, fixturedef, request, instance)
                if wide and self._is_input(fixturedef.argname, request.session):
                    with suppress(UndigestableError):
                        instance.digest = value_digest(self._session, value, fixturedef.argname)
        except BaseException:
            if instance.transaction is not None:
                roll_back(instance.transaction, engine, reason="its set-up failed")
            raise
        finally:
            engine.root = outer
            if coverage is not None:
                for region in instance.regions:
                    coverage.close(region)
        # Called first of its finalizers, since it is added last.
        fixturedef.addfinalizer(lambda: self._begin_teardown(instance, fixturedef.func))
        instance.drew = seeded and random_state() != drawn
        instance.reused = tuple(
            event for event in self._session.decisions[known:] if isinstance(event.decision, Hit)
        )
        self.live[fixturedef] = instance
        self._session.items.uses(instance)
        return value

    @pytest.hookimpl
    def pytest_fixture_post_finalizer(self, fixturedef: Any) -> None:
        """Ends the instance; the tests that used it have decided what becomes of its values."""
        self.shortcuts.end(fixturedef)
        instance = self.live.pop(fixturedef, None)
        engine, coverage = self._engine, self._session.coverage
        if instance is not None and coverage is not None:
            coverage.torn_down(instance)
        if instance is None or instance.transaction is None:
            return
        self._session.outcomes.torn_down.append(instance)
        self._session.observatory.tear_down(None)
        transaction = instance.transaction
        if engine.root is transaction:
            engine.root = instance.outer
            if instance.outer is not None:
                engine.claim(transaction.entries, instance.outer)
        end_of_scope(transaction, engine)

    def _begin_teardown(self, instance: Instance, function: Any) -> None:
        if instance.transaction is not None:  # tests that were given it ended long ago
            self._session.observatory.tear_down(instance.position)
        if instance.transaction is not None and instance.variant is None:
            # What it computes until its end, in a transaction that it holds open, is its own.
            instance.outer, self._engine.root = self._engine.root, instance.transaction
        if self._session.coverage is not None:
            self._session.coverage.begin_teardown(instance, function)

    def check_names(self, items: Sequence[pytest.Item]) -> None:
        """Raises pytest.UsageError for a name in the settings that no fixture has, where all files
        were really collected, and with them all fixtures that there are."""
        config = self._session.config
        narrowed = config.args_source is config.ArgsSource.ARGS or any(
            getattr(config.option, name, None) for name in ("lf", "ignore", "ignore_glob")
        )
        if not (self._named and items) or narrowed or any(map(is_stand_in, items)):
            return
        known = {definition.argname for definition in all_definitions(items[0].session)}
        for name in sorted(self._named - known - HANDLES):
            import difflib

            near = difflib.get_close_matches(name, known)
            remedy = f"did you mean {near[0]!r}?" if near else "take it out"
            problem = f"no fixture is named {name!r}"
            text = str(ConfigurationError("taskcache_fixtures", problem, remedy))
            if not self._session.is_worker:
                raise pytest.UsageError(text)
            self._session.notify(Noted(text))  # a worker that stopped would seem to have crashed

    def spec_of(self, fixturedef: Any) -> Spec | None:
        """How a fixture is cached, by itself or because the settings, or marks of the running test,
        want it; None if it is not."""
        function = getattr(fixturedef.func, "__func__", fixturedef.func)
        spec = spec_of(function)
        if spec is not None:
            return spec
        marks = marks_of(self._session.running_item)
        lists = (m.kwargs.get("fixtures", ()) for m in marks if m.name == "cached")
        wanted = self._named.union(*lists)
        if fixturedef.argname not in wanted or not inspect.isfunction(function):
            return None
        if function not in self._foreign:
            self._foreign[function] = Spec(function, Options())
        return self._foreign[function]

    def cached_in(self, closure: Closure) -> tuple[Any, ...]:
        """The definitions in a closure that are cached."""
        known = self._closures.get(id(closure.token))
        if known is None:
            definitions = itertools.chain.from_iterable(closure.definitions.values())
            cached = tuple(each for each in definitions if self.spec_of(each) is not None)
            known = self._closures[id(closure.token)] = closure.token, cached
        return known[1]

    def _is_input(self, name: str, session: pytest.Session) -> bool:
        if self._inputs is None:
            cached = (each for each in all_definitions(session) if self.spec_of(each) is not None)
            taken = map(self.shortcuts.arguments_of, cached)
            self._inputs = set(itertools.chain.from_iterable(taken))
        return name in self._inputs

    def _observed(
        self, fixturedef: Any, request: Any, instance: Instance
    ) -> Generator[None, Any, Any]:
        """Runs a fixture that is not cached, noting what it rests on."""
        frame = self._engine.begin(None)
        self._inherit(frame, fixturedef, request)
        self._setting_up.append((fixturedef, frame, None, None))
        try:
            value = yield
        finally:
            self._setting_up.pop()
            observed = self._engine.open_computations.close(frame)
        instance.basis = frame.basis(observed.trace, observed.opaque, observed.untrusted)
        return value

    def _cached(
        self, spec: Spec, fixturedef: Any, request: Any, instance: Instance
    ) -> Generator[None, Any, Any]:
        engine = self._engine
        opened: Found | Attempt | None = self.shortcuts.take(fixturedef)
        if opened is None:
            inputs = FixtureInputs(self._session, spec, fixturedef, request)
            opened = engine.open(inputs.computation(engine))
        if isinstance(opened, Found):
            value, instance.basis = opened.value, opened.basis
            instance.variant = opened.decision.variant
            with swapped_function(fixturedef, lambda **_: value):
                return (yield)
        opened.opened.window.counts = inputs.counts
        self._inherit(opened.opened, fixturedef, request)
        effects = None
        if EFFECTS not in spec.options.allow:
            of = request.instance if request.scope in ("function", "class") else None
            with engine.parts.observation.unseen():
                given, digest = inputs.given, functools.partial(value_digest, self._session)
                temporary = self._session.temporary()
                effects = Effects(self._is_project, of, inputs.directory, temporary, given, digest)
        self._setting_up.append((fixturedef, opened.opened, inputs, effects))
        inputs.watch()
        try:
            with swapped_function(fixturedef, _undecorated(fixturedef.func)):
                value = yield
        except BaseException:
            engine.abandon(opened)
            raise
        finally:
            inputs.stop()
            self._setting_up.pop()
        completed = self._complete(opened, value, inputs, effects, fixturedef)
        instance.basis, instance.variant = completed.basis, completed.variant
        instance.attached = opened.opened.attached
        if value is None and completed.variant is not None:
            observed = completed.observed
            deeds = [*map(str, observed.opaque), *(f"wrote {path}" for path in observed.written)]
            if deeds:
                text = f"cached fixture {fixturedef.argname!r} returned None but had effects"
                remedy = "on a hit they are lost; return what it made"
                engine.notify(Noted(f"{text} ({deeds[0]}): {remedy}"))
        return value

    def _complete(
        self,
        opened: Attempt,
        value: object,
        inputs: FixtureInputs,
        effects: Effects | None,
        fixturedef: Any,
    ) -> Completed:
        keyed = opened.keyed
        if keyed is not None and not keyed.key.vouched:
            if inputs.problem:
                return self._engine.refuse(opened, "input cannot be digested", inputs.problem)
            changed = inputs.changed()
            if changed:
                text = f"it changed what {changed} shows, which a hit would not do"
                return self._engine.refuse(opened, "changed the test it was made for", text)
        if effects is not None and keyed is not None:
            with self._engine.parts.observation.unseen():
                effect = effects.found(value)
            if effect is not None:
                text = (
                    f"it {effect}, which a hit would not do; do that in a fixture that is not "
                    f"cached (allow={{{EFFECTS!r}}} accepts it)"
                )
                return self._engine.refuse(opened, effect.kind, text)

        def pinned(observed: Observed) -> tuple[Part, ...]:
            written = (path for path in observed.written if not path.startswith("<tmp>"))
            there = (Part(OF_WRITTEN + path, PRESENT) for path in written)
            upstream = self.shortcuts.evidence(closure_of(self._session.running_item), fixturedef)
            return (*inputs.pinned(), *there, *upstream)

        return self._engine.complete(opened, value, pinned=pinned)

    def _inherit(self, frame: OpenComputation, fixturedef: Any, request: Any) -> None:
        """What was set up before without being asked for (autouse, ``setup_module``, marks), of the
        same scope or a wider one, counts: it may rest on its effects."""
        closure, least = closure_of(self._session.running_item), _SCOPES.index(request.scope)
        for name in (each for each in closure.initial if each not in closure.named):
            for definition in closure.definitions.get(name, ())[-1:]:
                instance = self.live.get(definition)
                if (
                    instance is not None
                    and instance.variant is None
                    and definition is not fixturedef
                    and _SCOPES.index(definition.scope) >= least
                ):
                    self._absorb(frame, instance, Basis(instance.basis.trace))

    def _absorb(self, frame: OpenComputation, instance: Instance, basis: Basis) -> None:
        frame.absorb(basis)
        if frame.window.subject and instance.variant is None:
            frame.window.inherited.add(basis.trace.digest)

    def _requested(self, request: Any, name: str, caller: Any) -> None:
        """After a request by name: whoever asked inherits what the fixture rests on."""
        definition = active_definition(request, name)
        if definition is None:
            return
        asking = asking_definition(request)
        instance = self.live.get(definition)
        if instance is not None:
            self._session.items.uses(instance)
            instance.handed_to.add(asking or self._session.items.reader or "a test's body")
        for setting_up, frame, inputs, effects in self._setting_up:
            if setting_up is asking:
                if instance is not None:
                    self._absorb(frame, instance, instance.basis)
                named = is_machinery(caller) or name in asking.argnames
                if inputs is not None and inputs.sees_request and not named:
                    inputs.look(OF_FIXTURE + name)
                    if effects is not None and not is_handle(definition):
                        result: Any = definition.cached_result
                        with self._engine.parts.observation.unseen():
                            effects.add_input(name, result[0])


class Shortcuts:
    """Looks ahead of each test: cached fixtures that nobody needs are neither set up nor fetched.

        test_it(model)     all three are cached, and model   -> neither data nor rows is looked up,
        model(data)        is a hit                             unless somebody else asks for them
        data(rows)

    The key of ``model`` holds what ``data`` is worth, which nobody knows without asking for it. But
    the record of ``model`` also rests on all that ``data`` and ``rows`` rest on. While that holds,
    and both names stand for the same fixtures, both are hits that give what they gave. So a record
    that was made of cached fixtures alone says which ones they were (a part called `UPSTREAM`), and
    is looked up as if they had been asked. A fixture that is not cached may give something else
    each time (a clock, a random number) with nothing seen to change: only its value tells, so that
    it is set up as ever.
    """

    def __init__(self, fixtures: FixtureHooks, engine: Engine) -> None:
        self._engine = engine
        self._fixtures = fixtures
        self._served: dict[Any, tuple[str, ...]] = {}
        """The arguments of definitions that go without them while their instance lives."""
        self._planned: dict[Any, Computation] = {}
        """The hit that each of those is to be that are not set up yet."""

    def plan(self, item: pytest.Item) -> None:
        """Before a test is set up: leaves out of it what nobody will need."""
        closure = closure_of(item)
        cached = self._fixtures.cached_in(closure)
        if self._engine.parts.refresh.asked or not any(map(self.arguments_of, cached)):
            return
        refused: set[Any] = set()
        while True:
            needed, served = self._needed(closure, refused)
            # What somebody asks for is there: its value tells.
            more = {each for each in served if needed & self._upstream(closure, each).keys()}
            if not more:
                break
            for each in more:
                self.end(each)
            refused |= more
        leave_out(item, closure.definitions.keys() - needed)

    def settle(self) -> None:
        """After the set-up: what was looked up and not used is forgotten."""
        for definition in list(self._planned):
            self.end(definition)

    def take(self, definition: Any) -> Found | None:
        """The hit of a fixture that is being set up and was planned to go without its upstream.
        What was set up before it may have made it a miss, which goes the long way, with all its
        arguments."""
        computation = self._planned.pop(definition, None)
        if computation is None:
            return None
        found = self._engine.peek(computation)
        if found is None:
            self.end(definition)
            return None
        return self._engine.use(found)

    def end(self, definition: Any) -> None:
        """The instance has ended: the definition has its arguments again."""
        self._planned.pop(definition, None)
        if definition in self._served:
            set_arguments(definition, self._served.pop(definition))

    def stop(self) -> None:
        """Leaves everything as it was."""
        for definition in list(self._served):
            self.end(definition)

    def arguments_of(self, definition: Any) -> tuple[str, ...]:
        """What a definition asks for, or would if it did not go without."""
        found: tuple[str, ...] = self._served.get(definition, definition.argnames)
        return found

    def evidence(self, closure: Closure, definition: Any) -> tuple[Part, ...]:
        """The part that lets a record be found without its upstream; none where it may not."""
        upstream = self._upstream(closure, definition)
        instances = map(self._fixtures.live.get, upstream.values())
        kept = all(one and one.variant and not one.basis.taints for one in instances)
        return (self._part(upstream),) if upstream and kept else ()

    def _needed(self, closure: Closure, refused: set[Any]) -> tuple[set[str], list[Any]]:
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
                if each not in refused and self._is_served(closure, each):
                    served.append(each)
                else:
                    waiting += self.arguments_of(each)
        return needed, served

    def _is_served(self, closure: Closure, definition: Any) -> bool:
        """Whether a fixture needs no upstream: it lives without, or is a hit without."""
        if definition in self._served:
            return True
        spec = self._fixtures.spec_of(definition)
        if spec is None or not definition.argnames or definition.params is not None:
            return False
        if definition.cached_result is not None:
            return False
        upstream = self._upstream(closure, definition)
        if not upstream or any(each.cached_result is not None for each in upstream.values()):
            return False  # a test may have changed one that is there; its value tells
        computation = self._hit(definition, spec, self._part(upstream))
        if computation is None:
            return False
        self._served[definition], self._planned[definition] = definition.argnames, computation
        set_arguments(definition, ())
        return True

    def _upstream(self, closure: Closure, definition: Any) -> dict[str, Any]:
        """All fixtures that a cached one is made of, by name; none if one of them is not cached,
        or may give something else to each who asks."""
        found: dict[str, Any] = {}
        around = itertools.chain.from_iterable(closure.definitions.values())
        alone = all(is_handle(each) or self._fixtures.spec_of(each) for each in around)
        steady = _STEADY_HANDLES if alone else {"tmp_path_factory"}  # others may write in the first
        made_of = [] if inspect.ismethod(definition.func) else [definition]
        for each in made_of:
            if is_async(each.func) or not self._is_followed(each):
                return {}
            for name in self.arguments_of(each):
                if name in found or name in steady:
                    continue
                last = next(reversed(closure.definitions.get(name, ())), None)
                if last is None or name in closure.given or last.params is not None:
                    return {}
                if is_handle(last) or name in self.arguments_of(last):
                    return {}  # it extends another one of its own name
                found[name] = last
                made_of.append(last)
        return found

    def _is_followed(self, definition: Any) -> bool:
        """Whether it is cached, and its record holds for as long as what it was observed to depend
        on does: under no key or policy of its author's that asks for more."""
        spec = self._fixtures.spec_of(definition)
        if spec is None or not isinstance(inspect.unwrap(definition.func), types.FunctionType):
            return False
        options = spec.options
        kept = options.persist and not options.refresh
        return kept and options.plain and options.policy.has("OBSERVED")

    def _part(self, upstream: Mapping[str, Any]) -> Part:
        specs = ((name, self._fixtures.spec_of(each)) for name, each in sorted(upstream.items()))
        named = (f"{name} {spec.identity(self._engine)}" for name, spec in specs if spec)
        return Part(UPSTREAM, checksum(named))

    def _hit(self, definition: Any, spec: Spec, part: Part) -> Computation | None:
        """The set-up as if its upstream had given what it gave for the newest record that holds."""
        engine, name = self._engine, str(spec.identity(self._engine))
        arguments = dict.fromkeys(self.arguments_of(definition))
        pinned = functools.partial(digest_of_written, engine.fingerprints)
        tried: list[dict[str, str]] = []
        try:
            newest = engine.routes.of(spec.options).records.recent([name]).values()
            for record in itertools.chain(
                newest, engine.parts.local.latest(name) if newest else ()
            ):
                parts = (one for one in record.parts if one.name.startswith("inputs."))
                digests = {one.name.removeprefix("inputs."): one.digest for one in parts}
                if part in record.parts and digests not in tried:
                    tried.append(digests)
                    computation = computation_of(
                        engine, spec, definition.scope, arguments, digests, pinned
                    )
                    if engine.peek(computation) is not None:
                        return computation
        except (ConfigurationError, StorageError):
            pass  # the set-up meets it again, and tells
        return None


def _undecorated(function: Any) -> Any:
    """The function under `cached`, bound as the decorated one is: as a fixture it is cached by
    its fixture's inputs, not once more by its arguments."""
    plain = getattr(function, "__func__", function)
    spec = spec_of(plain)
    if spec is None or spec.function is plain:
        return function
    inner = spec.function
    for name, value in vars(plain).items():
        if name != "__wrapped__":  # which would lead from it to itself
            inner.__dict__.setdefault(name, value)  # by which plugins know their own
    bound = getattr(function, "__self__", None)
    return types.MethodType(inner, bound) if bound is not None else inner
