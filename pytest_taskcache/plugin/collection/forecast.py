"""Whether a test will be replayed, known before its file is imported.

The key of a test's outcome follows from what its collection rests on: as long as a collection's
record is valid, the key that was derived when it was made is the key that would be derived now.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest
import xxhash

from pytest_taskcache.model.dependency import Kind, Observed
from pytest_taskcache.model.key import SCHEMA
from pytest_taskcache.model.modes import Mode
from pytest_taskcache.plugin.collection.pytest_nodes import signature
from pytest_taskcache.plugin.collection.record import FORMAT
from pytest_taskcache.plugin.pytest_private import written_ini
from pytest_taskcache.plugin.surroundings import option_parts, plugin_parts

if TYPE_CHECKING:
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
        self._forecasts: dict[str, Container[str]] = {}
        self._base = ""
        self._chains: dict[Path, str] = {}

    @property
    def consults(self) -> bool:
        """As ReplayForecast.consults."""
        session, option = self._session, self._session.config.option
        return (
            session.settings.mode in (Mode.READ_WRITE, Mode.READ)
            and not session.settings.refresh.asked
            and session.coverage is None
            and not session.settings.verify.percent
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
        return self._session.outcomes.acting_on(file)

    def key_of(self, item: pytest.Item) -> tuple[str, str]:
        """As ReplayForecast.key_of."""
        if not self._session.outcomes.is_keyed_with_its_file(item):
            return "", ""
        return "file", signature(item)

    def read(self, keys: Mapping[str, str]) -> None:
        """As ReplayForecast.read."""
        root = self._session.config.rootpath
        for nodeid in keys:
            file = nodeid.partition("::")[0]
            if file not in self._forecasts:
                self._forecasts[file] = self._session.outcomes.forecast(root / file, file)

    def will_replay(self, nodeid: str) -> bool:
        """As ReplayForecast.will_replay."""
        file, _, name = nodeid.partition("::")
        return name in self._forecasts.get(file, ())

    def replay(self, item: pytest.Item, nextitem: pytest.Item | None) -> bool:
        """As ReplayForecast.replay."""
        return bool(self._session.outcomes.pytest_runtest_protocol(item, nextitem))

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
            if not file or not file.endswith(".py") or not world.is_project_file(file):
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


def _text(raw: Any) -> str:
    return str(getattr(raw, "value", raw))


def _all_distributions(config: pytest.Config) -> list[tuple[str, str]]:
    """Every distribution with plugins, those included that no outcome depends on: they may have
    hooks that act on collection."""
    return [
        (f"distribution {dist.project_name}", str(dist.version))
        for _, dist in config.pluginmanager.list_plugin_distinfo()
    ]
