"""Which storages a computation's records and results go to, among all that an engine is made of."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

from pytest_taskcache.dataclass import dataclass, field
from pytest_taskcache.engine.computation import Defaults, Options
from pytest_taskcache.engine.payloads import Payloads
from pytest_taskcache.errors import ConfigurationError
from pytest_taskcache.model.decision import Why
from pytest_taskcache.model.modes import IsolationLevel, Mode, Refresh
from pytest_taskcache.model.record import Variant
from pytest_taskcache.policies.algebra import LockSpec, StorageSpec
from pytest_taskcache.ports import (
    Fingerprints,
    KeyStorage,
    LockManager,
    Observation,
    ResultStorage,
    Storage,
)
from pytest_taskcache.transactions.staging import Run, Staging


@dataclass(frozen=True, slots=True)
class Route:
    """Where records and results of a computation live. ``name`` is "" for the local index, else
    a text under which any worker of the run finds this route again."""

    name: str
    records: KeyStorage
    results: ResultStorage


@dataclass(frozen=True)
class Parts:
    """What an engine is composed of; `config.factory` composes it.

    ``resolve_route`` turns two paths or URLs, for records and for results, into storages; "" is
    the default's. ``latest`` are the last records of an identity, ``gone`` says what became of
    those of a key or an identity that had some; both raise StorageError.
    """

    run: Run
    worker: str
    route: Route
    local: Storage
    staging: Staging
    fingerprints: Fingerprints
    observation: Observation
    payloads: Payloads
    resolve_route: Callable[[str, str], tuple[KeyStorage, ResultStorage]]
    resolve_locks: Callable[[LockSpec], LockManager]
    latest: Callable[[str], Sequence[Variant]]
    gone: Callable[[str], Why | None]
    lock_manager: LockManager | None
    isolation: IsolationLevel
    several_workers: bool = False
    mode: Mode = Mode.READ_WRITE
    refresh: Refresh = field(default_factory=Refresh)
    defaults: Defaults = field(default_factory=Defaults)
    versions: tuple[tuple[str, str], ...] = ()
    clock: Callable[[], float] = time.time


class Routes:
    """Finds routes, each once. Raises ConfigurationError where a storage does not play the role
    it is given for."""

    def __init__(self, parts: Parts) -> None:
        self.default = parts.route
        self._resolve = parts.resolve_route
        self._routes: dict[str, Route] = {self.default.name: self.default}
        self._given: list[Any] = []

    def of(self, options: Options) -> Route:
        """The route of a computation."""
        records = options.policy.key_storage
        results = options.result_storage or options.policy.result_storage
        if records is None and results is None:
            return self.default
        name = f"{_text(records)}\n{_text(results)}"
        if "@" in name or "?" in name:
            # The name is written down while an entry is staged; these may hold a password.
            name = f"secret:{hashlib.sha256(name.encode()).hexdigest()}\n"
        if name not in self._routes:
            self._routes[name] = self._route(name, records, results)
        return self._routes[name]

    def named(self, name: str) -> Route:
        """The route of this name. Raises ConfigurationError if it cannot be found here."""
        if name not in self._routes:
            records, _, results = name.partition("\n")
            if records.startswith(("object:", "secret:")) or results.startswith("object:"):
                raise ConfigurationError(
                    "key_storage",
                    "a storage given as an object, or with a password, is unknown to this worker",
                    "name it by path or URL; take passwords from the environment or from "
                    "[tool.taskcache.storages]",
                )
            self._routes[name] = self._route(name, records or None, results or None)
        return self._routes[name]

    def results(self) -> tuple[ResultStorage, ...]:
        """The storages of results that were asked for so far, each once."""
        return tuple({id(each.results): each.results for each in self._routes.values()}.values())

    def close(self) -> None:
        """Closes the storages that policies gave as objects; the others are who made them's."""
        for storage in self._given:
            storage.close()

    def _route(self, name: str, records: StorageSpec | None, results: StorageSpec | None) -> Route:
        found: list[Any] = list(self._resolve(_path(records), _path(results)))
        roles = ("key_storage", KeyStorage, "records"), ("result_storage", ResultStorage, "results")
        for at, given in enumerate((records, results)):
            setting, role, held = roles[at]
            if _is_object(given):
                found[at] = given
            if not isinstance(found[at], role):
                raise ConfigurationError(
                    setting,
                    f"{found[at]!r} holds no {held}",
                    f"give a path, a URL or a {role.__name__}",
                )
        self._given += (each for each in (records, results) if _is_object(each))
        return Route(name, *found)


def _is_object(spec: StorageSpec | None) -> bool:
    return spec is not None and not isinstance(spec, str | os.PathLike)


def _path(spec: StorageSpec | None) -> str:
    return os.fspath(spec) if isinstance(spec, str | os.PathLike) else ""


def _text(spec: StorageSpec | None) -> str:
    return f"object:{id(spec)}" if _is_object(spec) else _path(spec)
