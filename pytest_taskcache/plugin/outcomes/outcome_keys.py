"""What a test's marks ask of the cache, and what outcomes are keyed on, beyond what tests are
observed to depend on.

All outcomes of a file share one key: options and ini settings, plugins, the interpreter, and the
project's own plugins that act on the file. It is worked out once a file; a test costs no digest,
unless it has parameters, or marks with arguments, that its record must agree with.

Conftests, and modules that ``-p`` names, have hooks that ran before any window opened, and their
modules need not be imported by the tests that they act on. So each is handed to a window, in which
its hooks run once more, in name only: an empty function of a hook's name stands for the hook. The
window then counts what acts on all of a conftest (each statement of another module), and what the
hooks reach by name.
"""

from __future__ import annotations

import functools
import inspect
import os
import platform
import re
import sys
import types
import warnings
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from itertools import accumulate, chain, compress, starmap
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import xxhash

from pytest_taskcache.code.definitions import EXAMPLES, GIVEN
from pytest_taskcache.config.settings import Settings, Tests
from pytest_taskcache.dataclass import dataclass, replace
from pytest_taskcache.digests.environment import interpreter_facts
from pytest_taskcache.digests.values.digest import digest_value
from pytest_taskcache.digests.values.terms import Apart
from pytest_taskcache.engine.cache import Engine
from pytest_taskcache.engine.computation import Computation, Options
from pytest_taskcache.engine.keys import shown
from pytest_taskcache.errors import TaskCacheError, UndigestableError
from pytest_taskcache.model.decision import Uncacheable
from pytest_taskcache.model.dependency import Change, Observed
from pytest_taskcache.model.event import Subject
from pytest_taskcache.model.key import Identity, Part
from pytest_taskcache.observation.hooks.import_hooks import imported_by
from pytest_taskcache.plugin.hookspecs import adjusted
from pytest_taskcache.plugin.pytest_private import (
    DoctestItem,
    index_of_parameter,
    is_fixture,
    marks_of,
    parameters_of,
)
from pytest_taskcache.plugin.surroundings import given_options, option_parts, plugin_parts
from pytest_taskcache.policies.algebra import CachePolicy, TaskContext
from pytest_taskcache.policies.parts import DEFAULT
from pytest_taskcache.serializers.json import JSONSerializer

_OWN = Path(__file__).parents[1]

OF_FILE = "(outcomes)"
"""Stands for the name of a test in the identity of the outcomes of a whole file."""

_NO_CHECK = frozenset({"parametrize", "cached", "usefixtures"})
"""Marks that are no part of a check: the parameters themselves count, and a new one is no change;
which fixtures a test uses is said by its module, which every trace has."""

_IDENTIFIER = re.compile(r"[^\W\d]\w*")

_FROM = "from "
"""Begins what stands for the digest of a parameter that has no content."""

_SCALARS = frozenset({int, float, complex, bool, str, bytes, type(None)})

_KNOWN = frozenset({"expiration", "allow", "validator", "refresh", "persist", "key", "key_fn"})

_KEYED_APART = frozenset({"policy", "expiration", "validator", "key", "key_fn"})
"""What cannot be said in the key that the outcomes of a file share."""


class OutcomeSerializer(JSONSerializer):
    """JSON of the reports of tests that passed: told apart from JSON values, and as safe."""

    name = "outcome/json"


SERIALIZER = OutcomeSerializer()


@dataclass(frozen=True, slots=True)
class Asked:
    """What a test asks for. ``marked``: in so many words; ``apart``: with a key of its own."""

    options: Options
    marked: bool = False
    apart: bool = False


def asked_of(item: pytest.Item, settings: Settings) -> Asked | Uncacheable | None:
    """What a test asks for, with what other plugins say of it; why it cannot be cached; or None
    if its outcome is not to be.

    Raises pytest.UsageError for a mark that cannot work, on whatever test it stands.
    """
    marks = [mark for mark in marks_of(item) if mark.name == "cached"]
    for mark in marks:
        _check_mark(mark, item)
    own = next((mark for mark in marks if not _only_fixtures(mark)), None)
    if settings.tests is Tests.NONE or (own is None and settings.tests is not Tests.ALL):
        return None
    if own is not None and own.args and own.args[0] is False:
        return None
    if not isinstance(item, pytest.Function | DoctestItem):
        return Uncacheable("not a function", f"{type(item).__name__} has no function to key on")
    age = settings.tests_max_age
    asked = unmarked(age) if own is None else _marked(own, item, age)
    options = adjusted(item, asked.options)
    if isinstance(options, Uncacheable):
        return options
    return asked if options is asked.options else replace(asked, options=options, apart=True)


def is_marked_itself(item: pytest.Item) -> bool:
    """Whether the mark stands on the test, not on its class or module."""
    return any(mark.name == "cached" and not _only_fixtures(mark) for mark in item.own_markers)


def _check_mark(mark: pytest.Mark, item: pytest.Item) -> None:
    """Raises pytest.UsageError, naming the test and what to write instead."""
    where = f"{item.nodeid}: cached"
    for name in mark.kwargs.keys() - _KNOWN - {"policy", "fixtures"}:
        known = ", ".join(sorted(_KNOWN | {"policy", "fixtures"}))
        raise pytest.UsageError(f"{where}({name}=...) does nothing on a test; use one of {known}")
    if len(mark.args) > 1:
        raise pytest.UsageError(f"{where} takes one policy, got {mark.args!r}; add them with +")
    if mark.args and "policy" in mark.kwargs:
        raise pytest.UsageError(f"{where} is given a policy twice; leave policy=... out")
    given = mark.args[0] if mark.args else mark.kwargs.get("policy")
    switch = bool(mark.args) and isinstance(given, bool)
    if not (given is None or switch or isinstance(given, CachePolicy)):
        raise pytest.UsageError(
            f"{where}({given!r}): this is no policy; write e.g. ENV('TZ') or FILES('data/*.csv'), "
            "or False to leave the test out"
        )
    if switch and given is False and mark.kwargs.keys() - {"fixtures"}:
        raise pytest.UsageError(f"{where}(False) leaves the test out; give it nothing else")
    fixtures = mark.kwargs.get("fixtures", ())
    if isinstance(fixtures, str) or not all(isinstance(name, str) for name in fixtures):
        raise pytest.UsageError(
            f"{where}(fixtures={fixtures!r}): give a list of names, e.g. fixtures=['data']"
        )
    for name in () if is_stand_in(item) else fixtures:
        if not is_fixture(name, item):
            raise pytest.UsageError(
                f"{where}(fixtures={fixtures!r}): it can see no fixture named {name!r}"
            )


@functools.lru_cache(4)
def unmarked(max_age: timedelta | None) -> Asked:
    """What the tests ask for that are cached without a mark; one object for all."""
    return Asked(Options(policy=_policy(None), serializer=SERIALIZER, expiration=max_age))


def _policy(more: CachePolicy | None) -> CachePolicy:
    whole = DEFAULT + more if more is not None else DEFAULT
    # The source of a test is in its trace, since it ran.
    return replace(whole, components=tuple(c for c in whole.components if c.label != "TASK_SOURCE"))


def _marked(mark: pytest.Mark, item: pytest.Item, max_age: timedelta | None) -> Asked:
    given: dict[str, Any] = dict(mark.kwargs)
    given.pop("fixtures", None)
    policy = given.pop("policy", None)
    if mark.args and mark.args[0] is not True:
        policy = mark.args[0]
    apart = policy is not None or not _KEYED_APART.isdisjoint(given)
    given.setdefault("expiration", max_age)
    try:
        options = Options(policy=_policy(policy), serializer=SERIALIZER, **given)
    except TaskCacheError as error:
        raise pytest.UsageError(f"{item.nodeid}: {error}") from error
    return Asked(options, marked=True, apart=apart)


def _only_fixtures(mark: pytest.Mark) -> bool:
    return not mark.args and set(mark.kwargs) == {"fixtures"}


_WHOLE, _HINT = 16, 3


class Check(NamedTuple):
    """What an outcome must agree with beyond its trace: ``text``, which is stored, is a digest of
    all of it, and the first digits of one of each part; ``names`` are the parts' kinds and
    names."""

    text: str
    names: Sequence[tuple[str, str]] = ()

    def changes(self, before: str) -> tuple[Change, ...]:
        """What differs from the text that was stored; empty if nothing does."""
        if before == self.text:
            return ()
        names = [("parameter", "or mark")]
        if len(before) == len(self.text):
            places = range(_WHOLE, len(self.text), _HINT)
            hints = [self.text[at : at + _HINT] != before[at : at + _HINT] for at in places]
            names = [*compress(self.names, hints)] or names
        return tuple(Change(*name, before, self.text) for name in names)


NO_CHECK = Check("")


class OutcomeKeys:
    """Builds the computations that files of tests are, and single tests with a policy of their
    own. What tests share is digested once."""

    def __init__(self, config: pytest.Config, engine: Engine) -> None:
        self._engine = engine
        self.run_wide = (
            *option_parts(config, engine.parts.observation.read_early, engine.fingerprints),
            *plugin_parts(config, engine.fingerprints),
            *starmap(Part, interpreter_facts().items()),
            Part("taskcache", dict(engine.parts.versions).get("taskcache", "")),
        )
        self.shown = shown(given_options(config))
        """What the given options look like to people."""
        self._manager = config.pluginmanager
        self._plugins: dict[Path, types.ModuleType] = {}
        """The project's, by path."""
        self._plugin_count = 0
        self._observed: dict[Path, Observed] = {}
        self._surrounding: dict[Path, tuple[Part, ...]] = {}
        self._checks: dict[tuple[int, ...], tuple[Sequence[pytest.Mark], str]] = {}
        self._digested: Apart | None = None
        self._apart: Apart | None = None

    def of_file(self, path: Path, file: str, options: Options) -> Computation:
        """The computation that all outcomes of a file are; ``file`` is its name in node ids."""
        engine = self._engine
        identity, world = Identity(file, OF_FILE), engine.fingerprints
        context = TaskContext(Subject.TEST, identity, _no_function, engine.run.id, world)
        return Computation(context, {}, options, self._parts_around(path), test=file)

    def of_test(self, item: pytest.Item, nodeid: str, options: Options) -> Computation:
        """The computation of a test that its mark gives a key of its own. Raises
        UndigestableError for what its policy cannot do without."""
        file, _, name = nodeid.partition("::")
        parameters = parameters_of(item)
        digests = {n: self._of_parameter(item, n, value) for n, value in parameters.items()}
        context = TaskContext(
            Subject.TEST,
            Identity(file, name),
            test_function(item) or _no_function,
            self._engine.run.id,
            self._engine.fingerprints,
            parameters,
            item.name,
            # Of those without content only: the others are digested where the policy asks.
            input_digests={n: found for n, found in digests.items() if found.startswith(_FROM)},
        )
        around = self._parts_around(item.path)
        return Computation(context, parameters, options, around, test=nodeid)

    def check(self, item: pytest.Item) -> Check:
        """What an outcome must agree with beyond its trace, since the trace may not determine it:
        parameters by value, marks by their arguments, what a generated function closed over, the
        examples of a doctest. A parameter without content counts by where it comes from, which is
        in the test's module."""
        marks, parameters = self._of_marks(marks_of(item)), parameters_of(item)
        parts = {
            ("parameter", name): self._of_parameter(item, name, value)
            for name, value in parameters.items()
        }
        for name, value in _held(item).items():
            parts["closure", name] = self._digest(name, value, type(value).__qualname__)
        if isinstance(item, DoctestItem):  # code that stands in no source file of its own
            test: Any = item.dtest
            examples = [(one.source, one.want, one.options) for one in test.examples]
            parts["doctest", "examples"] = repr(examples)
        elif not (marks or parts or hasattr(item, "callspec")):
            return NO_CHECK
        parts["mark", "arguments"] = marks
        encoded = [
            "\0".join((*name, one, "")).encode("utf-8", "surrogatepass")
            for name, one in parts.items()
        ]
        hints = [xxhash.xxh3_64_hexdigest(one)[:_HINT] for one in encoded]
        whole = xxhash.xxh3_64_hexdigest(b"".join(encoded))
        return Check("".join((whole, *hints)), tuple(parts))

    def may_change(self, item: pytest.Item) -> bool:
        """Whether tests may change what a test is given, or its function closed over: it is
        digested before any begins."""
        if is_stand_in(item):
            return False
        given = chain(parameters_of(item).values(), _held(item).values())
        return not _SCALARS.issuperset(map(type, given))

    def run_examples(self, item: DoctestItem) -> None:
        """Runs an empty statement in the file of the doctest's own module and of each module that
        its examples import, and in the first of these, or of the project's plugins, what the
        examples mention: names that they only read, without running a function, are found by
        these."""
        files = list(dict.fromkeys(_files(item)))
        for file in files:
            run_in_name_only(file)
        test: Any = item.dtest
        for file in [*files, *map(str, self._acting_on(item.path.parent))][:1]:
            _run_mentioning(file, (example.source for example in test.examples))

    def run_given(self, item: pytest.Item, fixtures: frozenset[str]) -> None:
        """Runs, in the item's file, or else in the first of the project's plugins, an empty
        function that mentions all fixtures that the item had: of those that others asked for on
        its behalf the project's code knows nothing, and may yet come to override them."""
        file: Path | None = item.path
        if item.path.suffix != ".py":
            file = next(iter(self._acting_on(item.path.parent)), None)
        if file is not None and fixtures:
            _named(str(file), GIVEN + " ".join(f"@{name}" for name in sorted(fixtures)))()

    def around(self, path: Path) -> Observed:
        """What the project's plugins that act on the tests of a file rest on. Opaque deeds are left
        out: a conftest that asks git for the version would have no test cached."""
        directory = path.parent
        known = self._observed.get(directory)
        if known is not None:
            return known
        observation = self._engine.parts.observation
        window = observation.open_window(None)
        try:
            for plugin in self._acting_on(directory):
                if plugin.name == "conftest.py":
                    observation.add_module(str(plugin))
                else:  # may have been loaded before anyone looked
                    run_in_name_only(str(plugin))
                for name in vars(self._plugins[plugin]):
                    if name.startswith("pytest_"):
                        _named(str(plugin), name)()
        finally:
            observed = window.close()
        known = self._observed[directory] = replace(observed, opaque=())
        return known

    def project_plugins(self) -> Mapping[Path, types.ModuleType]:
        """The project's plugins that are loaded, conftests included, by path."""
        plugins = self._manager.get_plugins()
        if len(plugins) != self._plugin_count:  # conftests are loaded with their directories
            self._plugin_count = len(plugins)
            for plugin in (one for one in plugins if isinstance(one, types.ModuleType)):
                file = getattr(plugin, "__file__", None) or ""
                ours = Path(file).is_relative_to(_OWN) or not file.endswith(".py")
                if not ours and self._engine.fingerprints.is_project_file(file):
                    self._plugins[Path(file)] = plugin
        return self._plugins

    def _acting_on(self, directory: Path) -> Sequence[Path]:
        """The conftests of the directory and those above it, and all other plugins."""
        return [
            path
            for path in self.project_plugins()
            if path.name != "conftest.py" or directory.is_relative_to(path.parent)
        ]

    def _parts_around(self, path: Path) -> tuple[Part, ...]:
        """What all tests of a file share: the options, and which of the project's plugins act on
        them (conftests of its directories, and others). What these do is told by the trace."""
        known = self._surrounding.get(path.parent)
        if known is None:
            name_of = self._engine.fingerprints.name_of
            acting = self._acting_on(path.parent)
            parts = (Part(f"conftest {name_of(plugin)}", "present") for plugin in acting)
            known = self._surrounding[path.parent] = (*self.run_wide, *parts)
        return known

    def _digest(self, name: str, value: object, otherwise: str) -> str:
        known = (self._digested or {}).get(id(value))
        if known is not None:
            return known[1] or otherwise
        try:
            world = self._engine.fingerprints
            digest = digest_value(value, path=name, anchors=world.name_of, apart=self._apart)
        except UndigestableError:
            digest = ""
        if self._digested is not None:
            self._digested[id(value)] = value, digest
        return digest or otherwise

    @contextmanager
    def of_new_tests(self) -> Generator[None]:
        """While no test runs: each parameter is digested once, however many tests are given it."""
        self._digested, self._apart = {}, {}
        try:
            yield
        finally:
            self._digested = self._apart = None

    def _of_parameter(self, item: pytest.Item, name: str, value: object) -> str:
        return self._digest(name, value, f"{_FROM}{index_of_parameter(item, name)}")

    def _of_marks(self, all_marks: Sequence[pytest.Mark]) -> str:
        """A digest of the marks with their evaluated arguments (a skipif's condition, say)."""
        given = (m for m in all_marks if m.args or m.kwargs or m.name == "xfail")
        marks = [mark for mark in given if mark.name not in _NO_CHECK]
        if not marks:
            return ""
        key = tuple(map(id, marks))
        known = self._checks.get(key)
        if known is None:
            try:
                digest = digest_value([(m.name, m.args, m.kwargs) for m in marks], path="marks")
            except UndigestableError:
                # Their expressions stand in code that every trace has.
                digest = ",".join(m.name for m in marks)
            known = self._checks[key] = (marks, digest)
        return known[1]


def is_stand_in(item: pytest.Item) -> bool:
    """Whether an item stands for a test whose file was not collected because its collection
    rests on nothing that changed: then its parameters and marks are what they were."""
    return bool(getattr(item, "taskcache_stand_in", False))


def _no_function() -> None:
    """Stands for the function of what has none."""


def test_function(item: pytest.Item) -> types.FunctionType | None:
    """The plain function under a test item; None where there is none (a doctest)."""
    found: Any = getattr(item, "obj", None)
    found = getattr(found, "__func__", found)
    found = inspect.unwrap(found) if found is not None else None
    # Hypothesis does not set __wrapped__ on what it makes of a test.
    drawn: Any = getattr(getattr(found, "hypothesis", None), "inner_test", None)
    found = inspect.unwrap(drawn) if drawn is not None else found
    return found if isinstance(found, types.FunctionType) else None


def _held(item: pytest.Item) -> dict[str, object]:
    """What the test's function closed over, by name: functions that one call after another made
    are the same code. A cell that is not assigned yet holds None."""
    function = test_function(item)
    found: dict[str, object] = {}
    if function is not None and function.__closure__:
        for name, cell in zip(function.__code__.co_freevars, function.__closure__, strict=True):
            if name != "__class__":
                found[name] = None
                with suppress(ValueError):
                    found[name] = cell.cell_contents
    return found


def run_in_name_only(file: str) -> None:
    """Runs an empty statement in a source file, so that whoever watches counts the file."""
    exec(compile("", file, "exec", dont_inherit=True), {})


@functools.cache
def _named(file: str, name: str) -> types.FunctionType:
    """An empty function of this name in a source file."""
    code = (lambda: None).__code__.replace(co_filename=file, co_name=name, co_qualname=name)
    return types.FunctionType(code, {})


def _run_mentioning(file: str, texts: Iterable[str]) -> None:
    """Runs an empty function in a source file that has the identifiers of texts for a name, so
    that whoever watches counts what they mention."""
    names = {name for text in texts for name in _IDENTIFIER.findall(text)}
    _named(file, EXAMPLES + " ".join(sorted(names)))()


def run_conditions(item: pytest.Item) -> None:
    """Evaluates the texts among the conditions of an item's marks as pytest does, but as code of
    the item's file, for the open window to see what they rest on."""
    for mark in (each for each in marks_of(item) if each.name in ("skipif", "xfail")):
        texts = [one for one in (*mark.args, mark.kwargs.get("condition")) if isinstance(one, str)]
        if not texts:
            continue
        file, space = str(item.path), dict[str, object](os=os, sys=sys, platform=platform)
        space["config"] = item.config
        for names in reversed(item.ihook.pytest_markeval_namespace(config=item.config)):
            space.update(names)
        space.update(getattr(getattr(item, "obj", None), "__globals__", {}))
        _run_mentioning(file, texts)
        with warnings.catch_warnings(action="ignore"):  # pytest shows them
            for text in texts:
                try:
                    eval(compile(text, file, "eval", dont_inherit=True), space)
                except Exception:
                    return  # pytest fails the test for it


def _files(item: DoctestItem) -> Iterator[str]:
    test: Any = item.dtest
    if str(test.filename or "").endswith(".py"):
        yield test.filename
    for name in chain.from_iterable(_imported(example.source) for example in test.examples):
        file = getattr(sys.modules.get(name), "__file__", None)
        if isinstance(file, str) and file.endswith(".py"):
            yield file


def _imported(source: str) -> Iterator[str]:
    """The names of modules that an example imports, with those of the packages they are in."""
    with suppress(SyntaxError):  # an example may show one
        with warnings.catch_warnings(action="ignore"):  # it is compiled once more when it runs
            code = compile(source, "<example>", "exec", dont_inherit=True)
        for name in sorted(imported_by(code)):
            yield from accumulate(name.split("."), "{}.{}".format)
