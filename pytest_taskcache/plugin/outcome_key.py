"""What a test's outcome is keyed on, beyond what the test is observed to depend on."""

from __future__ import annotations

import inspect
import types
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import xxhash
from _pytest.doctest import DoctestItem

from pytest_taskcache.digests.task_source import digest_function
from pytest_taskcache.digests.values.digest import digest_value
from pytest_taskcache.engine.cache import Engine
from pytest_taskcache.engine.computation import Computation, Options
from pytest_taskcache.errors import UndigestableError
from pytest_taskcache.model.dependency import ABSENT, Kind, Observed
from pytest_taskcache.model.event import Subject
from pytest_taskcache.model.key import Identity, Part
from pytest_taskcache.plugin.doctests import doctest_source
from pytest_taskcache.plugin.facts import Facts
from pytest_taskcache.plugin.project_plugins import ProjectPlugins
from pytest_taskcache.plugin.pytest_private import definitions, is_handle
from pytest_taskcache.plugin.reports import OutcomeSerializer
from pytest_taskcache.plugin.surroundings import option_parts, plugin_parts
from pytest_taskcache.policies import TaskContext

if TYPE_CHECKING:
    from pytest_taskcache.plugin.session import Session

SERIALIZER = OutcomeSerializer()


class OutcomeKeys:
    """Builds the computations that tests are. What tests share is digested once per session."""

    def __init__(self, session: Session, engine: Engine) -> None:
        self._session = session
        self._engine = engine
        config = session.config
        world = engine.fingerprints
        self._surroundings = (
            *option_parts(config),
            *plugin_parts(config),
            Part("python", world.digest(Kind.INTERPRETER, "python")),
            Part("taskcache", dict(engine.parts.versions).get("taskcache", "")),
        )
        self._plugins = ProjectPlugins(config, world, engine.parts.observation)
        self._by_file: dict[Path, tuple[Part, ...]] = {}
        self._by_closure: dict[tuple[str, tuple[object, ...]], tuple[Part]] = {}
        self._by_definition: dict[object, str] = {}
        self._names: dict[str, str] = {}

    def computation(self, facts: Facts, options: Options) -> Computation:
        """The computation of a test. Raises UndigestableError for a parameter or a mark."""
        item, function = facts.item, facts.function
        callspec = getattr(item, "callspec", None)
        parameters: dict[str, object] = dict(callspec.params) if callspec is not None else {}
        file, _, name = facts.nodeid.partition("::")
        extra = (
            *self._surrounding(item.path),
            *self._fixtures(item),
            *self._marks(facts.marks),
            Part("source", self._source(item, function)),
        )
        context = TaskContext(
            Subject.TEST,
            Identity(file, name),
            function if function is not None else _no_function,
            self._engine.run.id,
            self._engine.fingerprints,
            parameters,
            item.name,
        )
        return Computation(context, parameters, options, extra, test=facts.nodeid)

    def _source(self, item: pytest.Item, function: types.FunctionType | None) -> str:
        """The code of the test itself, by name where it holds no values of its own: that is kept
        between sessions, and what its decorators and class say is in every trace."""
        if isinstance(item, DoctestItem):
            return doctest_source(item)
        if function is None:
            return ""
        if not (function.__closure__ or function.__defaults__ or function.__kwdefaults__):
            world, file = self._engine.fingerprints, function.__code__.co_filename
            name = self._names.get(file)
            if name is None:
                name = world.name_of(file) if world.is_project_file(file) else ""
                self._names[file] = name
            digest = world.digest(Kind.FUNCTION, f"{name}::{function.__qualname__}")
            if name and digest != ABSENT:
                return digest
        return digest_function(function, anchors=self._engine.fingerprints.name_of)

    def around(self, item: pytest.Item) -> Observed:
        """What the project's plugins that act on a test rest on."""
        return self._plugins.observed(item.path.parent)

    def _surrounding(self, path: Path) -> Sequence[Part]:
        """What all tests of a file share: the options, and the project's plugins that act on
        them (conftests of its directories, and others)."""
        known = self._by_file.get(path)
        if known is None:
            name_of = self._engine.fingerprints.name_of
            conftests = self._plugins.acting_on(path.parent).items()
            parts = (Part(f"conftest {name_of(plugin)}", digest) for plugin, digest in conftests)
            known = self._by_file[path] = (*self._surroundings, *parts)
        return known

    def _fixtures(self, item: pytest.Item) -> Sequence[Part]:
        """Which definitions an item's fixtures resolve to, and their sources."""
        found = definitions(item)
        if not found:
            return ()
        names = ",".join(getattr(item, "fixturenames", ()))
        members = tuple([definition for name in sorted(found) for definition in found[name]])
        known = self._by_closure.get((names, members))
        if known is None:
            known = self._by_closure[names, members] = (self._closure(names, members),)
        return known

    def _closure(self, names: str, members: Sequence[Any]) -> Part:
        digest = xxhash.xxh3_128()
        for definition in members:
            digest.update(self._definition(definition).encode())
        digest.update(names.encode())
        return Part("fixtures", digest.hexdigest())

    def _definition(self, definition: Any) -> str:
        known = self._by_definition.get(definition)
        if known is None:
            known = self._by_definition[definition] = self._digest_definition(definition)
        return known

    def _digest_definition(self, definition: Any) -> str:
        text = f"{definition.argname}\0{definition.scope}\0{definition.baseid}\0"
        function = inspect.unwrap(getattr(definition.func, "__func__", definition.func))
        if is_handle(definition) or not isinstance(function, types.FunctionType):
            return text
        if not self._engine.fingerprints.is_project_file(function.__code__.co_filename):
            return f"{text}{function.__module__}.{function.__qualname__}"
        return text + digest_function(function, anchors=self._engine.fingerprints.name_of)

    def _marks(self, all_marks: Sequence[pytest.Mark]) -> Sequence[Part]:
        """The marks with their evaluated arguments (a skipif's condition, say). Those of
        parametrize are left out: the parameters themselves count, and a new one is no change."""
        marks = [m for m in all_marks if m.name not in ("parametrize", "cached")]
        if not marks:
            return ()
        try:
            digest = digest_value([(m.name, m.args, m.kwargs) for m in marks], path="marks")
        except UndigestableError:
            # Their expressions stand in the module's skeleton, which every trace has.
            digest = ",".join(m.name for m in marks)
        return (Part("marks", digest),)


def _no_function() -> None:
    """Stands for the function of a test that has none."""
