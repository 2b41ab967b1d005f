"""The items of a generator on their way into the cache, and out of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pytest_taskcache.engine.cache import Attempt, Engine
from pytest_taskcache.engine.computation import Options
from pytest_taskcache.errors import SerializationError
from pytest_taskcache.ports import Restore

FORM = "items"
"""The `Computation.form` of a generator."""


class Recording:
    """Notes what a generator yields while it is computed: each item is serialized when it is
    produced, before its consumer can change it, and kept once the generator is exhausted."""

    def __init__(self, engine: Engine, attempt: Attempt, options: Options) -> None:
        self._engine = engine
        self._attempt = attempt
        self._payloads = engine.parts.payloads
        self._serializer = self._payloads.chosen(options.serializer)
        self._data: list[bytes] = []
        self._problem = ""
        self.steered = False
        """Whether values were sent, or errors thrown, into it: then it depends on its consumer."""

    def add(self, item: object) -> None:
        """Notes an item, or last of all what the generator returned."""
        if self._problem or self.steered:
            return
        if isinstance(item, Path) and self._payloads.is_temporary(item):
            self._problem = "it yields a path in the temporary directory; return one instead"
            return
        try:
            with self._engine.quiet():
                payload = self._serializer.dump(item)
                self._data.append(b"".join(payload.chunks))
        except Exception as error:  # users' __reduce__ and serializers; kept for the refusal
            self._problem = str(error)
            return
        if payload.blobs:
            self._problem = "an item is a tree of files; return it from a function instead"

    def complete(self, returned: object) -> None:
        """Ends the attempt of an exhausted generator. Never raises for what cannot be stored."""
        self.add(returned)
        if self.steered:
            self._engine.refuse(self._attempt, "generator was sent values")
            return
        items: list[object] = []
        if not self._problem:
            try:
                with self._engine.quiet():
                    items = self._thaw()
            except Exception as error:  # users' __setstate__ and serializers
                self._problem = f"{type(error).__name__}: {error}"
        if self._problem:
            self._engine.refuse(self._attempt, "value cannot be serialized", self._problem)
            return
        *items, last = items
        self._engine.complete(self._attempt, {"items": items, "returned": last})

    def abandon(self) -> None:
        """Ends the attempt of a generator that raised, or was closed before its end."""
        self._engine.abandon(self._attempt)

    def _thaw(self) -> list[object]:
        def copy(digest: str, destination: object, readonly: bool) -> None:
            raise SerializationError(self._serializer.name, "", "items cannot be trees")

        restore = Restore(self._payloads.scratch, copy)
        return [self._serializer.load(memoryview(data), restore) for data in self._data]


def items_of(value: Any) -> tuple[list[Any], Any]:
    """The items of a stored generator, and what it returned."""
    return value["items"], value["returned"]
