"""Looking at what is loaded without waking it.

Lazy modules and objects (`importlib.util.LazyLoader`, Django's settings) act as soon as they are
asked for an attribute, and ``isinstance`` asks for ``__class__`` whatever is not of the type by
itself. What a look at all that is loaded meets is therefore told by its type, and read past what it
computes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import FunctionType
from typing import Any, TypeGuard, TypeVar

T = TypeVar("T")


def is_a(value: object, kind: type[T]) -> TypeGuard[T]:
    """As ``isinstance``, by the type alone."""
    return issubclass(type(value), kind)


def is_function(value: object) -> TypeGuard[FunctionType]:
    """Whether it is a function, or can be called and says that it is one, as wrapt's do."""
    if type(value) is FunctionType:
        return True
    try:
        return callable(value) and isinstance(value, FunctionType)
    except Exception:  # code of a proxy, which may fail as it likes; then it is no function
        return False


def is_asleep(module: object) -> bool:
    """Whether a module was found, and is executed once somebody asks for something in it."""
    return type(module).__name__ == "_LazyModule"


def namespace_of(value: object) -> dict[str, Any]:
    """The attributes of a module or an object itself; empty where it has no dictionary."""
    try:
        found = object.__getattribute__(value, "__dict__")
    except AttributeError:
        return {}
    return found if type(found) is dict else {}


def loaded_namespaces() -> Iterator[tuple[str, dict[str, Any]]]:
    """The loaded modules' names and attributes."""
    for name, module in list(sys.modules.items()):
        yield name, namespace_of(module)
