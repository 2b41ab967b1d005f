"""Values to results and back (serializer, digest, storage); and which storages a computation's
records and results go to, among all that an engine is made of."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xxhash

from pytest_taskcache.dataclass import dataclass, field
from pytest_taskcache.engine.computation import Defaults, Options
from pytest_taskcache.errors import ConfigurationError, SerializationError, StorageError
from pytest_taskcache.model.modes import IsolationLevel, Mode, Refresh
from pytest_taskcache.model.record import Blob, Result
from pytest_taskcache.policies.algebra import LockSpec, StorageSpec
from pytest_taskcache.ports import (
    Buffer,
    Fingerprints,
    KeyStorage,
    LockManager,
    Payload,
    Restore,
    ResultStorage,
    Serializer,
)
from pytest_taskcache.serializers.catalog import for_reading, serializer_for
from pytest_taskcache.serializers.named_paths import vanishing
from pytest_taskcache.storage.local import LocalStorage
from pytest_taskcache.transactions.staging import Run, Staging

if TYPE_CHECKING:
    from pytest_taskcache.observation.observatory import Observatory

INLINE = 4096
"""Payloads up to this many bytes ride inside their record."""


class LostResultError(Exception):
    """A record's value is absent, damaged or unreadable here; ``args[0]`` says which."""


@dataclass
class Payloads:
    """Writes values to, and reads them from, result storages.

    ``scratch`` makes a fresh directory for restored trees; a ``Path`` under ``temporary()`` is
    stored as a tree unless its author chose a serializer. What lies in ``lasting`` is there in
    later runs, wherever that is.
    """

    scratch: Callable[[], Path]
    temporary: Callable[[], Path | None]
    lasting: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        self._default = serializer_for("pickle")
        self.default_name = self._default.name
        self._restores: dict[int, tuple[ResultStorage, Restore]] = {}
        """One for each storage; made anew it would be a tenth of a hit's time."""

    def chosen(self, spec: str | Serializer | None) -> Serializer:
        """The serializer a computation asked for; pickle by default."""
        return self._default if spec is None else serializer_for(spec)

    def dump(
        self, value: object, spec: str | Serializer | None, *, portable: bool = False
    ) -> tuple[Payload, str]:
        """The payload of a value, and its serializer's name. ``portable`` refuses one that names
        a temporary directory, which a later run does not have. Raises SerializationError."""
        serializer, kind = self.chosen(spec), type(value).__qualname__
        if spec is None and isinstance(value, Path) and self.is_temporary(value):
            serializer = serializer_for("tree")
        try:
            payload = serializer.dump(value)
        except (SerializationError, ConfigurationError):
            raise
        except Exception as error:  # a user's __reduce__ or serializer may raise anything
            reason = f"{type(error).__name__}: {error}"
            raise SerializationError(serializer.name, kind, reason) from error
        gone = vanishing(payload, self.temporary(), self.lasting) if portable else ""
        if gone:
            raise SerializationError(
                serializer.name,
                kind,
                f"it names a path in {gone}, which the next run does not have; return the "
                f"directory or file itself, as a pathlib.Path, with serializer='tree', and it is "
                f"stored whole",
            )
        return payload, serializer.name

    def store(self, payload: Payload, serializer: str, results: ResultStorage) -> Result:
        """Stores a payload; its pointer. Raises StorageError."""
        blobs = []
        for blob in payload.blobs:
            results.add_file(blob.digest, blob.path)
            blobs.append(Blob(blob.digest, blob.size))
        digest = xxhash.xxh3_128()
        for chunk in payload.chunks:
            digest.update(chunk)
        name, size, inline = digest.hexdigest(), payload.size, None
        if size <= INLINE:
            inline = b"".join(payload.chunks)
        else:
            results.write_result(name, payload.chunks)
        return Result(name, size, serializer, inline, "", tuple(blobs))

    def read(
        self, result: Result, results: ResultStorage, spec: str | Serializer | None = None
    ) -> object:
        """A new value; ``spec`` is the serializer its computation asked for. Raises
        LostResultError, or StorageError where the storage failed."""
        if spec is None and result.serializer == self.default_name:
            serializer: Serializer | None = self._default
        else:
            serializer = for_reading(result.serializer, self.chosen(spec))
        if serializer is None:
            raise LostResultError(f"written by {result.serializer}, which is not readable here")
        if serializer.executes and not results.trusted:
            raise LostResultError(f"{results.describe()} is not trusted with {serializer.name}")
        data = bytes_of(result, results)
        if data is None:
            raise LostResultError("absent or damaged")
        if data is result.inline and xxhash.xxh3_128_hexdigest(data) != result.digest:
            raise LostResultError("damaged")
        try:
            return serializer.load(memoryview(data), self._restore(results))
        except (SerializationError, StorageError) as error:
            raise LostResultError(str(error)) from error
        except Exception as error:  # a user's serializer or class may raise anything
            raise LostResultError(f"{type(error).__name__}: {error}") from error

    def copied(
        self, value: object, results: ResultStorage, spec: str | Serializer | None
    ) -> object:
        """A value as it would be read again; nothing is stored. Raises what the serializer, or a
        class of the user's, does; SerializationError for a tree of files."""
        serializer = self.chosen(spec)
        payload = serializer.dump(value)
        if payload.blobs:
            reason = "an item is a tree of files; return it from a function instead"
            raise SerializationError(serializer.name, type(value).__qualname__, reason)
        return serializer.load(memoryview(b"".join(payload.chunks)), self._restore(results))

    def reader(
        self, result: Result, results: ResultStorage, spec: str | Serializer | None = None
    ) -> Callable[[], object]:
        """What returns a new value each time, as `read`, of a result that was read before: an
        inline one is not checked again."""
        serializer = for_reading(result.serializer, self.chosen(spec))
        if result.inline is None or serializer is None:
            return functools.partial(self.read, result, results, spec)
        load, data, restore = serializer.load, memoryview(result.inline), self._restore(results)
        return lambda: load(data, restore)

    def _restore(self, results: ResultStorage) -> Restore:
        known = self._restores.get(id(results))
        if known is not None and known[0] is results:
            return known[1]

        def copy(digest: str, destination: Path, readonly: bool) -> None:
            if not results.copy_file(digest, destination, readonly):
                raise StorageError(results.describe(), "restore a file", "absent or damaged")

        restore = Restore(self.scratch, copy)
        self._restores[id(results)] = results, restore
        return restore

    def is_temporary(self, path: Path) -> bool:
        """Whether a path lies in the run's temporary directory, which will not outlive it."""
        temporary = self.temporary()
        return temporary is not None and path.is_absolute() and path.is_relative_to(temporary)


def bytes_of(result: Result, results: ResultStorage) -> Buffer | None:
    """The payload of a result; None where it is lost. Raises StorageError."""
    if result.inline is not None:
        return result.inline
    return results.read_result(result.digest, result.size)


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
    the default's.
    """

    run: Run
    worker: str
    route: Route
    local: LocalStorage
    staging: Staging
    fingerprints: Fingerprints
    observation: Observatory
    payloads: Payloads
    resolve_route: Callable[[str, str], tuple[KeyStorage, ResultStorage]]
    resolve_locks: Callable[[LockSpec], LockManager]
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
            import hashlib  # takes long to import, and few need it

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
