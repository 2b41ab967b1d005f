"""What outcomes are keyed on, beyond what tests are observed to depend on.

All outcomes of a file share one key: options and ini settings, plugins, the interpreter, and the
project's own plugins that act on the file. It is worked out once a file; a test costs no digest,
unless it has parameters, or marks with arguments, that its record must agree with.

Conftests, and modules that ``-p`` names, have hooks that ran before any window opened, and their
modules need not be imported by the tests that they act on. So each is made to run once more in a
window, in name only: an empty statement in its file stands for the module, an empty function of a
hook's name for the hook. The window then counts the module with its imports, and the functions
that its hooks reach by name.
"""

from __future__ import annotations

import ast
import sys
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import starmap
from pathlib import Path
from typing import Any

import pytest
import xxhash
from _pytest.doctest import DoctestItem

from pytest_taskcache.dataclass import replace
from pytest_taskcache.digests.environment import interpreter_facts
from pytest_taskcache.digests.values.digest import digest_value
from pytest_taskcache.engine.cache import Engine
from pytest_taskcache.engine.computation import Computation, Options
from pytest_taskcache.engine.keys import shown
from pytest_taskcache.errors import UndigestableError
from pytest_taskcache.model.dependency import Observed
from pytest_taskcache.model.event import Subject
from pytest_taskcache.model.key import Identity, Part
from pytest_taskcache.plugin.pytest_private import index_of_parameter
from pytest_taskcache.plugin.surroundings import given_options, option_parts, plugin_parts
from pytest_taskcache.policies import TaskContext
from pytest_taskcache.ports import Fingerprints, Observation

_OWN = Path(__file__).parents[1]

_PRESENT = "present"
"""Stands for the digest of a plugin of the project: that it acts on a test is part of the key,
what it does is told by the trace."""

OF_FILE = "(outcomes)"
"""Stands for the name of a test in the identity of the outcomes of a whole file."""

_NO_CHECK = frozenset({"parametrize", "cached", "usefixtures"})
"""Marks that are no part of a check: the parameters themselves count, and a new one is no change;
which fixtures a test uses is said by its module, which every trace has."""

_SCALARS = frozenset({int, float, complex, bool, str, bytes, type(None)})


class OutcomeKeys:
    """Builds the computations that files of tests are, and single tests with a policy of their
    own. What tests share is digested once."""

    def __init__(self, config: pytest.Config, engine: Engine) -> None:
        self._engine = engine
        world = engine.fingerprints
        self._run_wide = (
            *option_parts(config),
            *plugin_parts(config),
            *starmap(Part, interpreter_facts().items()),
            Part("taskcache", dict(engine.parts.versions).get("taskcache", "")),
        )
        self.shown = shown(given_options(config))
        """What the given options look like to people."""
        self._plugins = ProjectPlugins(config, world, engine.parts.observation)
        self._by_directory: dict[Path, tuple[Part, ...]] = {}
        self._checks: dict[tuple[int, ...], tuple[Sequence[pytest.Mark], str]] = {}

    def of_file(self, path: Path, file: str, options: Options) -> Computation:
        """The computation that all outcomes of a file are; ``file`` is its name in node ids."""
        context = self._context(Identity(file, OF_FILE), _no_function, {}, "", {})
        return Computation(context, {}, options, self._surrounding(path), test=file)

    def of_test(self, item: pytest.Item, nodeid: str, options: Options) -> Computation:
        """The computation of a test that its mark gives a key of its own. Raises
        UndigestableError for what its policy cannot do without."""
        callspec = getattr(item, "callspec", None)
        parameters: dict[str, object] = dict(callspec.params) if callspec is not None else {}
        file, _, name = nodeid.partition("::")
        function = test_function(item) or _no_function
        known = self._without_content(item, parameters)
        context = self._context(Identity(file, name), function, parameters, item.name, known)
        return Computation(context, parameters, options, self._surrounding(item.path), test=nodeid)

    def check(self, item: pytest.Item) -> str:
        """A digest of what an outcome must agree with beyond its trace, since the trace may not
        determine it: parameters by value, marks by their arguments, what a generated function
        closed over, the examples of a doctest; "" where there is none of these. A parameter
        without content counts by where it comes from, which is in the test's module."""
        digest = xxhash.xxh3_64()
        callspec = getattr(item, "callspec", None)
        if callspec is not None:
            for name, value in callspec.params.items():
                digest.update(f"{name}\0{self._digest_of(item, name, value)}\0".encode())
        marks = self._check_of_marks(list(item.iter_markers()))
        digest.update(marks.encode())
        held = self._held(item)
        for name, value in held.items():
            digest.update(f"{name}\0{self._digest_held(name, value)}\0".encode())
        if isinstance(item, DoctestItem):
            digest.update(doctest_source(item).encode())
        elif callspec is None and not marks and not held:
            return ""
        return digest.hexdigest()

    def may_change(self, item: pytest.Item) -> bool:
        """Whether tests may change what a test is given before it begins: then it is digested
        before any begins."""
        if is_stand_in(item):
            return False
        callspec = getattr(item, "callspec", None)
        return callspec is not None and not _SCALARS.issuperset(map(type, callspec.params.values()))

    def around(self, path: Path) -> Observed:
        """What the project's plugins that act on the tests of a file rest on."""
        return self._plugins.observed(path.parent)

    # ------------------------------------------------------------------------ internals

    def _context(
        self,
        identity: Identity,
        function: Any,
        parameters: dict[str, object],
        name: str,
        digests: Mapping[str, str],
    ) -> TaskContext:
        return TaskContext(
            Subject.TEST,
            identity,
            function,
            self._engine.run.id,
            self._engine.fingerprints,
            parameters,
            name,
            input_digests=digests,
        )

    def _surrounding(self, path: Path) -> tuple[Part, ...]:
        """What all tests of a file share: the options, and which of the project's plugins act on
        them (conftests of its directories, and others)."""
        known = self._by_directory.get(path.parent)
        if known is None:
            name_of = self._engine.fingerprints.name_of
            acting = self._plugins.acting_on(path.parent)
            parts = (Part(f"conftest {name_of(plugin)}", _PRESENT) for plugin in acting)
            known = self._by_directory[path.parent] = (*self._run_wide, *parts)
        return known

    @staticmethod
    def _held(item: pytest.Item) -> Mapping[str, object]:
        """What the test's function closed over, by name: functions that one call after another
        made are the same code."""
        function = test_function(item)
        if function is None or not function.__closure__:
            return {}
        cells = zip(function.__code__.co_freevars, function.__closure__, strict=True)
        return {name: _content(cell) for name, cell in cells if name != "__class__"}

    def _digest_held(self, name: str, value: object) -> str:
        try:
            return digest_value(value, path=name, anchors=self._engine.fingerprints.name_of)
        except UndigestableError:
            return type(value).__qualname__

    def _digest_of(self, item: pytest.Item, name: str, value: object) -> str:
        try:
            return digest_value(value, path=name, anchors=self._engine.fingerprints.name_of)
        except UndigestableError:
            return f"from {index_of_parameter(item, name)}"

    def _without_content(
        self, item: pytest.Item, parameters: Mapping[str, object]
    ) -> dict[str, str]:
        """Stand-ins for the digests of those parameters that have none."""
        found = {}
        for name, value in parameters.items():
            digest = self._digest_of(item, name, value)
            if digest.startswith("from "):
                found[name] = digest
        return found

    def _check_of_marks(self, all_marks: Sequence[pytest.Mark]) -> str:
        """A digest of the marks with their evaluated arguments (a skipif's condition, say)."""
        marks = [m for m in all_marks if m.name not in _NO_CHECK and (m.args or m.kwargs)]
        if not marks:
            return ""
        key = tuple(map(id, marks))
        known = self._checks.get(key)
        if known is None:
            try:
                digest = digest_value([(m.name, m.args, m.kwargs) for m in marks], path="marks")
            except UndigestableError:
                # Their expressions stand in the module's skeleton, which every trace has.
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
    import inspect

    found: Any = getattr(item, "obj", None)
    found = getattr(found, "__func__", found)
    found = inspect.unwrap(found) if found is not None else None
    # Hypothesis does not set __wrapped__ on what it makes of a test.
    drawn: Any = getattr(getattr(found, "hypothesis", None), "inner_test", None)
    found = inspect.unwrap(drawn) if drawn is not None else found
    return found if isinstance(found, types.FunctionType) else None


def _content(cell: types.CellType) -> object:
    try:
        return cell.cell_contents
    except ValueError:
        return None  # not assigned yet


class ProjectPlugins:
    """The project's plugins by path; what acts on the tests of a directory is worked out once."""

    def __init__(
        self, config: pytest.Config, fingerprints: Fingerprints, observation: Observation | None
    ) -> None:
        self._config = config
        self._fingerprints = fingerprints
        self._observation = observation
        self._count = 0
        self._modules: dict[Path, types.ModuleType] = {}
        self._observed: dict[Path, Observed] = {}

    def acting_on(self, directory: Path) -> Sequence[Path]:
        """The conftests of the directory and those above it, and all other plugins."""
        self._take_stock()
        return [
            path
            for path in self._modules
            if path.name != "conftest.py" or directory.is_relative_to(path.parent)
        ]

    def observed(self, directory: Path) -> Observed:
        """What they rest on. Opaque deeds are left out: a conftest that asks git for the version
        would have no test cached."""
        if directory not in self._observed:
            self._observed[directory] = self._observe(self.acting_on(directory))
        return self._observed[directory]

    def _take_stock(self) -> None:
        """Conftests are loaded while their directories are collected."""
        plugins = self._config.pluginmanager.get_plugins()
        if len(plugins) == self._count:
            return
        self._count = len(plugins)
        for plugin in plugins:
            file = getattr(plugin, "__file__", None)
            if not file or not file.endswith(".py") or Path(file) in self._modules:
                continue
            if not self._fingerprints.is_project_file(file):
                continue
            if isinstance(plugin, types.ModuleType) and not Path(file).is_relative_to(_OWN):
                self._modules[Path(file)] = plugin

    def _observe(self, paths: Iterable[Path]) -> Observed:
        if self._observation is None:
            return Observed()
        window = self._observation.open_window(None)
        try:
            for path in paths:
                hooks = [name for name in vars(self._modules[path]) if name.startswith("pytest_")]
                run_in_name_only(str(path), hooks)
        finally:
            observed = window.close()
        return replace(observed, opaque=())


def run_in_name_only(file: str, functions: Iterable[str] = ()) -> None:
    """Runs an empty statement in a source file, and empty functions of these names, so that
    whoever watches counts the file, and its functions of these names, as having run."""
    namespace: dict[str, types.FunctionType] = {}
    names = [name for name in functions if name.isidentifier()]
    text = "\n".join(f"def {name}(): pass" for name in names)
    exec(compile(text, file, "exec", dont_inherit=True), namespace)
    for name in names:
        namespace[name]()


# ------------------------------------------------------------------------------ doctests


def doctest_source(item: DoctestItem) -> str:
    """A digest of the examples: sources, expected output and options. They are code that stands
    in no source file of its own."""
    test: Any = item.dtest
    examples = [(example.source, example.want, example.options) for example in test.examples]
    return xxhash.xxh3_128_hexdigest(repr(examples).encode("utf-8", "surrogatepass"))


def run_in_modules_of(item: DoctestItem) -> None:
    """Runs an empty statement in the file of the doctest's own module and of each module that
    its examples import, for the open window to see: names that the examples only read, without
    running a function, belong to these modules."""
    for file in {*_files(item)}:
        run_in_name_only(file)


def _files(item: DoctestItem) -> Iterator[str]:
    test: Any = item.dtest
    if str(test.filename or "").endswith(".py"):
        yield test.filename
    for example in test.examples:
        try:
            tree = ast.parse(example.source)
        except SyntaxError:
            continue  # an example may show one
        for node in ast.walk(tree):
            for name in _imported(node):
                file = getattr(sys.modules.get(name), "__file__", None)
                if isinstance(file, str) and file.endswith(".py"):
                    yield file


def _imported(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield from _with_parents(alias.name)
    elif isinstance(node, ast.ImportFrom) and node.module:
        yield from _with_parents(node.module)
        for alias in node.names:
            yield f"{node.module}.{alias.name}"


def _with_parents(name: str) -> Iterator[str]:
    while name:
        yield name
        name = name.rpartition(".")[0]
