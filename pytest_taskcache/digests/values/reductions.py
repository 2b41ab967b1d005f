"""The table that finds a type's reducer, and decides it once per type."""

from __future__ import annotations

import dataclasses
import enum
import pathlib
import sys
from importlib import import_module
from typing import Any

from pytest_taskcache.digests.values import callables, standard
from pytest_taskcache.digests.values import instances as records
from pytest_taskcache.digests.values.hashers import Hasher, hasher_for, on_registration
from pytest_taskcache.digests.values.terms import (
    TERM,
    Reducer,
    Reduction,
    RefusedError,
    Scope,
)
from pytest_taskcache.digests.values.type_names import is_importable, qualified_name, shown_name


class Reductions(dict[type, Reducer]):
    """``reductions[type]`` is the reducer of values of exactly that type.

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

REDUCTIONS = Reductions()
on_registration(REDUCTIONS.clear)


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
        return records.reduce_enum
    vendor = _vendor_reducer(cls)
    if vendor is not None:
        return vendor
    standard.refuse_live(cls)
    if issubclass(cls, pathlib.PurePath):
        return standard.reduce_path
    if dataclasses.is_dataclass(cls):
        return records.dataclass_reducer(cls)
    if "__attrs_attrs__" in vars(cls):
        return records.attrs_reducer(cls)
    if issubclass(cls, tuple) and hasattr(cls, "_fields"):
        return records.reduce_named_tuple
    return records.instance_reducer(cls)


def _by_hasher(cls: type, hasher: Hasher) -> Reducer:
    name = shown_name(cls)

    def reduce(value: Any, scope: Scope) -> Reduction:
        result = hasher(value)
        if result is value:
            raise RefusedError(name, "its hasher returned the value itself")
        return TERM, ("hasher", records.class_term(cls, scope), result)

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
