"""What a run selected last time, so that the next one knows before it collects whether anything is
left to run: if not, pytest-xdist need not start its workers.

It is a guess. Where it is wrong, the tests that are left run in this process, and nothing is lost.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import xxhash

from pytest_taskcache.errors import StorageError
from pytest_taskcache.model.dependency import Trace
from pytest_taskcache.model.event import Faulted
from pytest_taskcache.plugin.collection.forecast import ReplayForecast
from pytest_taskcache.plugin.collection.pytest_nodes import (
    ids_of,
    is_skipped_by_mark,
    prepare_import,
)
from pytest_taskcache.plugin.collection.recording import Records
from pytest_taskcache.plugin.pytest_private import written_ini
from pytest_taskcache.plugin.running import node_id

if TYPE_CHECKING:
    from pytest_taskcache.plugin.session import Session

_SELECTING = (
    "keyword", "markexpr", "deselect", "ignore", "ignore_glob", "pyargs", "doctestmodules",
    "doctestglob", "keepduplicates", "collect_in_virtualenv", "noconftest",
)  # fmt: skip
_BY_HISTORY = ("lf", "stepwise", "newfirst", "looponfail", "collectonly", "rsyncdir")
_NAME = "selection/json"


class Selection:
    """Remembers which tests of which files a run of these arguments selects."""

    def __init__(self, session: Session, forecast: ReplayForecast, records: Records) -> None:
        self._session = session
        self._forecast = forecast
        self._records = records
        self._directories: set[Path] = set()

    def entered(self, directory: Path) -> None:
        """Notes a directory whose files were collected."""
        self._directories.add(directory)

    def keep(self, items: Sequence[pytest.Item]) -> None:
        """Remembers what was selected, if all of it are tests that can be stood in for."""
        engine = self._session.engine
        if engine is None or self._depends_on_history():
            return
        files: dict[str, list[str]] = {}
        for item in items:
            if not isinstance(item, pytest.Function):
                return
            module = item.getparent(pytest.Module)
            if module is None:
                return
            name = f"{self._session.fingerprints.name_of(item.path)}\n{module.nodeid}"
            selected = files.setdefault(name, [])
            if not is_skipped_by_mark(item):
                selected.append(node_id(item))
        name_of = self._session.fingerprints.name_of
        named = {name_of(path): path for path in self._directories}
        # A run's own temporary directory may lie where tests are looked for.
        directories = {
            name: _names_in(path) for name, path in named.items() if not name.startswith("<tmp>")
        }
        data = json.dumps({"directories": directories, "files": files}).encode()
        key = self._key()
        try:
            known = engine.parts.local.read_records([key]).get(key, ())
            if known and known[0].result.inline == data:
                return
            variant = self._records.variant(key, "<selection>", "", _NAME, data, Trace())
            engine.parts.local.write_records([variant])
            engine.parts.local.remove_records([one.id for one in known])
        except StorageError as error:
            engine.notify(Faulted(f"{error.operation} failed: {error.reason}", str(error)))

    def is_replayed_whole(self) -> bool:
        """Whether every test that this run selects will be replayed, as far as can be told."""
        engine = self._session.engine
        if engine is None or not self._forecast.consults or self._depends_on_history():
            return False
        key = self._key()
        try:
            known = engine.parts.local.read_records([key]).get(key, ())
            if not known or known[0].result.inline is None:
                return False
            found = json.loads(known[0].result.inline)
        except (StorageError, ValueError):
            return False  # whoever needs it next meets the same fault, and reports it
        path_of, before = self._session.fingerprints.path_of, list(sys.path)
        whole = all(
            _names_in(path_of(name)) == names for name, names in found["directories"].items()
        ) and all(self._replays(name, selected) for name, selected in found["files"].items())
        if not whole:
            sys.path[:] = before  # which workers are given as it is
        return whole

    def _replays(self, name: str, selected: Sequence[str]) -> bool:
        file, _, module = name.partition("\n")
        path = self._session.fingerprints.path_of(file)
        prepare_import(self._session.config, path)
        found = self._records.find(path)
        if found is None or found[1].reason:
            return False
        pairs = zip(ids_of(found[1], module), found[1].tests, strict=True)
        keys = {nodeid: key for nodeid, (key, _) in pairs}
        if not all(keys.get(nodeid) for nodeid in selected):
            return False
        self._forecast.read({nodeid: keys[nodeid] for nodeid in selected})
        return all(self._forecast.will_replay(nodeid) for nodeid in selected)

    def _depends_on_history(self) -> bool:
        option = self._session.config.option
        return any(getattr(option, name, None) for name in _BY_HISTORY)

    def _key(self) -> str:
        config = self._session.config
        ignored = getattr(written_ini(config).get("norecursedirs"), "value", None)
        parts: list[Any] = [
            *((name, repr(getattr(config.option, name, None))) for name in _SELECTING),
            ("arguments", [str(arg) for arg in config.args]),
            ("directory", str(config.invocation_params.dir)),
            ("norecursedirs", repr(ignored)),
            self._forecast.surroundings(config.rootpath / "."),
        ]
        return xxhash.xxh3_128_hexdigest(repr(parts).encode("utf-8", "surrogatepass"))


def _names_in(directory: Path) -> str:
    """A digest of the files in a directory. A new directory is missed: its tests run here."""
    try:
        with os.scandir(directory) as entries:
            found = sorted(one.name for one in entries if one.is_file() and one.name[0] != ".")
    except OSError:
        return ""
    return xxhash.xxh3_128_hexdigest("\0".join(found).encode("utf-8", "surrogateescape"))
