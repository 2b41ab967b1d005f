"""Values to results and back: serializer, digest, result storage."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import xxhash

from pytest_taskcache.dataclass import dataclass
from pytest_taskcache.errors import ConfigurationError, SerializationError, StorageError
from pytest_taskcache.model.record import Blob, Result
from pytest_taskcache.ports import Buffer, Payload, Restore, ResultStorage, Serializer
from pytest_taskcache.serializers.catalog import for_reading, serializer_for
from pytest_taskcache.serializers.named_paths import vanishing

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
        data: memoryview | None
        if result.inline is not None:
            data = memoryview(result.inline)
            if len(data) != result.size or xxhash.xxh3_128_hexdigest(data) != result.digest:
                raise LostResultError("damaged")
        else:
            data = results.read_result(result.digest, result.size)
            if data is None:
                raise LostResultError("absent or damaged")

        try:
            return serializer.load(data, self._restore(results))
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
