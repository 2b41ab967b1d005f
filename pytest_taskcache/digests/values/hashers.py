"""Which reducer a value gets, decided once per type.

In this order: the hasher that was registered for the type or for the nearest class it inherits
from, or its ``__taskcache_key__`` method; the table of exact types; classes and enums; the
adapter of the library it derives from; dataclasses, attrs and named tuples; its state.
"""

from __future__ import annotations

import enum
import pathlib
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any, TypeAlias, TypeVar

from pytest_taskcache.digests.values import callables, instances, standard
from pytest_taskcache.digests.values.terms import (
    TERM,
    Reducer,
    Reduction,
    RefusedError,
    Scope,
    is_importable,
    qualified_name,
    shown_name,
)
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
    REDUCERS.clear()


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


class Reducers(dict[type, Reducer]):
    """``reducers[type]`` is the reducer of values of exactly that type.

    Raises RefusedError for types without a digest. Local classes are looked up each time, so
    that the table keeps none of them alive.
    """

    def __missing__(self, cls: type) -> Reducer:
        reducer = _find(cls)
        if is_importable(cls):
            self[cls] = reducer
        return reducer


_ADAPTERS = {
    "numpy": "pytest_taskcache.digests.values.arrays",
    "pandas": "pytest_taskcache.digests.values.dataframes",
    "pydantic": "pytest_taskcache.digests.values.models",
}

REDUCERS = Reducers()


def _find(cls: type) -> Reducer:
    hasher = hasher_for(cls)
    if hasher is not None:
        return _by_hasher(cls, hasher)
    exact = (
        callables.REDUCERS.get(cls)
        or standard.EXACT.get(cls)
        or standard.NAMED.get(qualified_name(cls))
    )
    if exact is not None:
        return exact
    if issubclass(cls, type):
        return callables.reduce_class
    if issubclass(cls, enum.Enum):
        return instances.reduce_enum
    vendor = _vendor_reducer(cls)
    if vendor is not None:
        return vendor
    standard.refuse_live(cls)
    if issubclass(cls, pathlib.PurePath):
        return standard.reduce_path
    if hasattr(cls, "__dataclass_fields__"):
        return instances.dataclass_reducer(cls)
    if "__attrs_attrs__" in vars(cls):
        return instances.attrs_reducer(cls)
    if issubclass(cls, tuple) and hasattr(cls, "_fields"):
        return instances.reduce_named_tuple
    return instances.instance_reducer(cls)


def _by_hasher(cls: type, hasher: Hasher) -> Reducer:
    name = shown_name(cls)

    def reduce(value: Any, scope: Scope) -> Reduction:
        result = hasher(value)
        if result is value:
            raise RefusedError(name, "its hasher returned the value itself")
        return TERM, ("hasher", instances.class_term(cls, scope, state=False), result)

    return reduce


def _vendor_reducer(cls: type) -> Reducer | None:
    """The reducer of a class that derives from numpy's, pandas's or pydantic's.

    Their adapters are imported here, when the first such value is met: it proves that the
    library is loaded already.
    """
    for base in cls.__mro__:
        package = (base.__module__ or "").partition(".")[0]
        adapter = _ADAPTERS.get(package)
        if adapter is None or package not in sys.modules:
            continue
        found: Reducer | None = import_module(adapter).reducer_for(cls)
        if found is not None:
            return found
    return None
