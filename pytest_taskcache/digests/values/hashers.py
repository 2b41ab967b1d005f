"""The hashers users registered, by type, and the ``__taskcache_key__`` protocol."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

from pytest_taskcache.digests.values.type_names import shown_name
from pytest_taskcache.errors import ConfigurationError

T = TypeVar("T")

Hasher: TypeAlias = Callable[[Any], object]
"""From a value, something digestable that is equal exactly when the values are the same input."""

KEY_METHOD = "__taskcache_key__"

_NATIVE = (
    object,
    type,
    type(None),
    bool,
    int,
    float,
    str,
    bytes,
    bytearray,
    list,
    tuple,
    dict,
    set,
    frozenset,
)

_hashers: dict[type, Hasher] = {}
_listeners: list[Callable[[], None]] = []


def register_hasher(cls: type[T], hasher: Callable[[T], object]) -> None:
    """Digests values of a type, and of its subclasses, by what ``hasher(value)`` returns.

    The name of the value's type is mixed in. A subclass with a hasher or a
    ``__taskcache_key__`` method of its own keeps that. Registering the same hasher again does
    nothing. Raises ConfigurationError for another hasher of the same type, and for native types,
    whose digests are fixed.
    """
    if not isinstance(cls, type):
        raise ConfigurationError(
            "register_hasher", f"{cls!r} is not a type", "pass the class whose values it digests"
        )
    if cls in _NATIVE:
        raise ConfigurationError(
            "register_hasher",
            f"the digest of {shown_name(cls)} is fixed",
            "register a hasher for a class of your own",
        )
    if not callable(hasher):
        raise ConfigurationError(
            "register_hasher",
            f"the hasher of {shown_name(cls)} is not callable",
            "pass a function from a value to something digestable",
        )
    present = _hashers.setdefault(cls, hasher)
    if present is not hasher and present != hasher:
        raise ConfigurationError(
            "register_hasher",
            f"{shown_name(cls)} has another hasher already",
            "register each type once, for instance in the root conftest.py",
        )
    for listener in _listeners:
        listener()


def hasher_for(cls: type) -> Hasher | None:
    """The hasher or ``__taskcache_key__`` of the nearest class in the method resolution order."""
    for base in cls.__mro__:
        if base in _hashers:
            return _hashers[base]
        method = vars(base).get(KEY_METHOD)
        if callable(method):
            # looked up on the type, so that no instance attribute (a mock's) can pose as it
            return lambda value: getattr(type(value), KEY_METHOD)(value)
    return None


def on_registration(listener: Callable[[], None]) -> None:
    """Calls ``listener`` after each registration, so that it can forget what it looked up."""
    _listeners.append(listener)
