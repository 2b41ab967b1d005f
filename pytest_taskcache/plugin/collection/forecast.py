"""Whether a test will be replayed, known before its file is imported.

The key of a test's outcome follows from what its collection rests on: as long as a collection's
record is valid, the key that was derived when it was made is the key that would be derived now.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest
import xxhash

from pytest_taskcache.engine.lookup import MARK
from pytest_taskcache.errors import TaskCacheError
from pytest_taskcache.model.decision import Hit, Origin
from pytest_taskcache.model.dependency import Kind, Observed
from pytest_taskcache.model.event import Decided, Faulted, Subject
from pytest_taskcache.model.key import SCHEMA, Identity, Key
from pytest_taskcache.model.modes import Mode
from pytest_taskcache.model.record import Variant
from pytest_taskcache.plugin.collection.pytest_nodes import signature
from pytest_taskcache.plugin.collection.record import FORMAT
from pytest_taskcache.plugin.outcome_key import SERIALIZER
from pytest_taskcache.plugin.project_plugins import ProjectPlugins
from pytest_taskcache.plugin.pytest_private import written_ini
from pytest_taskcache.plugin.replay import replay
from pytest_taskcache.plugin.running import node_id
from pytest_taskcache.plugin.surroundings import option_parts, plugin_parts

if TYPE_CHECKING:
    from pytest_taskcache.engine.cache import Engine
    from pytest_taskcache.plugin.session import Session

_COLLECTING = ("python_files", "python_classes", "python_functions", "markers")
"""Ini settings that no outcome depends on, but which tests there are."""

_NEVER_REPLAYING = ("usepdb", "trace", "setupplan", "setuponly", "setupshow")


class ReplayForecast(Protocol):
    """What collection asks of the outcomes."""

    @property
    def consults(self) -> bool:
        """Whether any outcome may be replayed in this run."""

    def surroundings(self, file: Path) -> str:
        """A digest of what surrounds the collection of a file, the same in every process of a
        run: options, plugins, interpreter, and the sources of the conftests that act on it."""

    def acting_on(self, file: Path) -> Observed:
        """What the project's plugins that act on a file rest on themselves."""

    def key_of(self, item: pytest.Item) -> tuple[str, str]:
        """The key under which the outcome of a real item is looked up, and a text of what else
        the item must have for this to hold; ("", "") where the key rests on more than the
        collection. To be asked when the tests' keys were derived."""

    def read(self, keys: Mapping[str, str]) -> None:
        """Reads the outcomes of tests by node id, in one sweep."""

    def will_replay(self, nodeid: str) -> bool:
        """Whether a test that was read will be replayed."""

    def replay(self, item: pytest.Item, nextitem: pytest.Item | None) -> bool:
        """Replays a test that will be; False if it cannot be after all."""


class StoredOutcomes:
    """As ReplayForecast, of the outcomes in the run's storage."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._found: dict[str, tuple[Variant, object]] = {}
        self._base = ""
        self._plugins: tuple[int, ProjectPlugins] | None = None
        self._chains: dict[Path, str] = {}

    @property
    def consults(self) -> bool:
        """As ReplayForecast.consults."""
        session, option = self._session, self._session.config.option
        return (
            session.settings.mode in (Mode.READ_WRITE, Mode.READ)
            and not session.settings.refresh.asked
            and session.coverage is None
            and not any(getattr(option, name, False) for name in _NEVER_REPLAYING)
        )

    def surroundings(self, file: Path) -> str:
        """As ReplayForecast.surroundings."""
        if not self._base:
            self._base = self._digest_base()
        directory = file.parent
        known = self._chains.get(directory)
        if known is None:
            known = self._chains[directory] = self._chain(directory)
        name = self._session.fingerprints.name_of(file)
        return xxhash.xxh3_128_hexdigest(f"{self._base}\0{known}\0{name}".encode())

    def acting_on(self, file: Path) -> Observed:
        """As ReplayForecast.acting_on."""
        config, engine = self._session.config, self._session.engine
        count = len(config.pluginmanager.get_plugins())
        if self._plugins is None or self._plugins[0] != count:
            observation = engine.parts.observation if engine is not None else None
            plugins = ProjectPlugins(config, self._session.fingerprints, observation)
            self._plugins = count, plugins
        return self._plugins[1].observed(file.parent)

    def key_of(self, item: pytest.Item) -> tuple[str, str]:
        """As ReplayForecast.key_of."""
        candidate = self._session.outcomes.candidate_of(item)
        if candidate is None:
            return "", ""
        options = candidate.computation.options
        follows = (
            options.validator is None
            and options.key is None
            and options.key_fn is None
            and options.target is None
            and options.persist
            and not options.refresh
            and options.result_storage is None
            and options.policy.key_storage is None
            and options.policy.result_storage is None
            and not options.policy.declares
        )
        return (candidate.keyed.key.digest, signature(item)) if follows else ("", "")

    def read(self, keys: Mapping[str, str]) -> None:
        """As ReplayForecast.read."""
        engine = self._session.engine
        if engine is None:
            return
        from pytest_taskcache.plugin.verification import Verification

        verification = Verification(self._session)
        route = engine.routes.default
        try:
            records = route.records.read_records(set(keys.values()))
            for nodeid, key in keys.items():
                found = self._valid(engine, records.get(key, ()))
                if found is None or str(found[0].identity) != nodeid:
                    continue  # a record that gives a test another's key is no ground
                if not verification.picks(key) and _can_warn(found[1]):
                    self._found[nodeid] = found
        except TaskCacheError as error:
            engine.notify(Faulted("outcomes could not be read", str(error)))

    def _valid(
        self, engine: Engine, variants: tuple[Variant, ...]
    ) -> tuple[Variant, object] | None:
        """The newest outcome that holds; None also where a mark says that it may be flaky."""
        if any(variant.result.serializer.startswith(MARK) for variant in variants):
            return None
        observation, now = engine.parts.observation, engine.parts.clock()
        for variant in variants:
            if variant.expires is not None and variant.expires <= now:
                continue
            if observation is not None and observation.verify(variant.trace):
                continue
            results = engine.routes.default.results
            return variant, engine.parts.payloads.read(variant.result, results, SERIALIZER)
        return None

    def will_replay(self, nodeid: str) -> bool:
        """As ReplayForecast.will_replay."""
        return nodeid in self._found

    def replay(self, item: pytest.Item, nextitem: pytest.Item | None) -> bool:
        """As ReplayForecast.replay."""
        engine, running = self._session.engine, self._session.items.running
        found = self._found.get(node_id(item))
        if engine is None or running is None or found is None:
            return False
        variant, outcome = found
        observation = engine.parts.observation
        if observation is not None and observation.verify(variant.trace):
            return False  # a test before this one changed what it rests on
        running.replayed = True
        engine.used.add(variant.id)
        file, _, name = running.nodeid.partition("::")
        identity = Identity(file, name)
        key = Key(variant.key, identity, variant.parts)
        hit = Hit(variant, Origin.COMMITTED)
        engine.notify(Decided(Subject.TEST, identity, hit, key, variant.duration, running.nodeid))
        replay(item, nextitem, outcome)
        return True

    # ------------------------------------------------------------------------ internals

    def _digest_base(self) -> str:
        session = self._session
        config, world = session.config, session.fingerprints
        written = written_ini(config)
        parts: list[tuple[str, str]] = [
            *((part.name, part.digest) for part in option_parts(config)),
            *((part.name, part.digest) for part in plugin_parts(config)),
            *((f"ini {name}", repr(_text(written.get(name)))) for name in _COLLECTING),
            *_all_distributions(config),
            ("python", world.digest(Kind.INTERPRETER, "python")),
            ("pytest", pytest.__version__),
            ("record", f"{SCHEMA}.{FORMAT}"),
            ("tests", session.settings.tests.value),
            *self._other_plugins(),
        ]
        return xxhash.xxh3_128_hexdigest(repr(sorted(parts)).encode("utf-8", "surrogatepass"))

    def _other_plugins(self) -> list[tuple[str, str]]:
        """The project's plugins that are no conftests under the root, by source."""
        config, world = self._session.config, self._session.fingerprints
        found = []
        for plugin in config.pluginmanager.get_plugins():
            file = getattr(plugin, "__file__", None)
            if not file or not file.endswith(".py") or not world.is_first_party(file):
                continue
            path = Path(file)
            if path.name == "conftest.py" and path.is_relative_to(config.rootpath):
                continue
            name = world.name_of(path)
            found.append((f"plugin {name}", world.digest(Kind.SOURCE, name)))
        return found

    def _chain(self, directory: Path) -> str:
        """The sources of the conftests from the root down to a directory, loaded or not."""
        world, root = self._session.fingerprints, self._session.config.rootpath
        found = []
        for parent in (directory, *directory.parents):
            if not parent.is_relative_to(root):
                break
            name = world.name_of(parent / "conftest.py")
            found.append(world.digest(Kind.SOURCE, name))
        return ",".join(found)


def _can_warn(outcome: Any) -> bool:
    """Whether an outcome's warnings' classes are loaded: the test's own come with its file."""
    named = (entry["category"] for entry in outcome.get("warnings", ()))
    return all(hasattr(sys.modules.get(module), name) for module, name in named)


def _text(raw: Any) -> str:
    return str(getattr(raw, "value", raw))


def _all_distributions(config: pytest.Config) -> list[tuple[str, str]]:
    """Every distribution with plugins, those included that no outcome depends on: they may have
    hooks that act on collection."""
    return [
        (f"distribution {dist.project_name}", str(dist.version))
        for _, dist in config.pluginmanager.list_plugin_distinfo()
    ]
