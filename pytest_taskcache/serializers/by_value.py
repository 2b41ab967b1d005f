"""Pickles of what the standard library's pickler refuses: functions without a name of their own.

The only file that imports cloudpickle; it is imported when a value needs it.
"""

from __future__ import annotations

import io
import pickle
import sys
from collections.abc import Callable
from types import FunctionType
from typing import Any

import cloudpickle

from pytest_taskcache.serializers.origins import AMBIGUOUS

BufferCallback = Callable[[pickle.PickleBuffer], bool]


def dumps(value: object, buffer_callback: BufferCallback) -> tuple[bytes, frozenset[str]]:
    """The pickle (protocol 5) of a value, and the ambiguous modules that names in it refer to.

    Raises whatever the value's own methods raise, and PicklingError.
    """
    file = io.BytesIO()
    pickler = _Pickler(file, 5, buffer_callback)
    pickler.dump(value)
    return file.getvalue(), frozenset(pickler.ambiguous)


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # cloudpickle is untyped
    """Cloudpickle, less what would come back as something else."""

    def __init__(
        self, file: io.BytesIO, protocol: int, buffer_callback: BufferCallback | None
    ) -> None:
        super().__init__(file, protocol=protocol, buffer_callback=buffer_callback)
        self.ambiguous: set[str] = set()

    def reducer_override(self, obj: Any) -> Any:
        kind = type(obj)
        if issubclass(kind, type) or kind is FunctionType:
            if _is_reachable(obj):
                if obj.__module__ in AMBIGUOUS:
                    self.ambiguous.add(obj.__module__)
                return NotImplemented  # by reference, as pickle itself does
            if kind is not FunctionType:
                _refuse_copy(obj)
        elif kind is memoryview:
            raise pickle.PicklingError("a memoryview would come back as bytes; return bytes(view)")
        elif kind is io.TextIOWrapper and obj not in (sys.stdin, sys.stdout, sys.stderr):
            raise pickle.PicklingError(
                f"an open file ({obj.name}) would come back as a copy of its text"
            )
        return super().reducer_override(obj)


def _is_reachable(obj: Any) -> bool:
    """Whether the object is found under its own module and qualified name."""
    found: object = sys.modules.get(obj.__module__) if isinstance(obj.__module__, str) else None
    for name in obj.__qualname__.split("."):
        found = getattr(found, name, None)
        if found is None:
            return False
    return found is obj


def _refuse_copy(cls: type) -> None:
    """Raises PicklingError for a class that cannot be found by name.

    Its copy would be another type: ``isinstance`` and ``==`` of what was cached would be false
    where they were true of what was computed. A named tuple compares as the tuple it is, and the
    interpreter's own types are always the same.
    """
    if cls.__module__ == "builtins" or (cls.__bases__ == (tuple,) and hasattr(cls, "_fields")):
        return
    raise pickle.PicklingError(
        f"class {cls.__module__}.{cls.__qualname__} cannot be found under this name when it is "
        f"read back, and a copy would be another type; define it at the top level of a module"
    )
