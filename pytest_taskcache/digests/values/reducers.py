"""Which reducer a value gets, decided once per type, those of the standard library's types, and the
stream that they lead to.

The reducer is, in this order: the hasher that was registered for the type or for the nearest class
it inherits from, or its ``__taskcache_key__`` method; the table of exact types; classes and enums;
the adapter of the library it derives from; named tuples; its state.
"""

from __future__ import annotations

import array
import collections
import datetime
import enum
import pathlib
import pickle
import re
import sys
import types
from collections.abc import Callable
from functools import partial
from importlib import import_module
from itertools import chain, repeat
from operator import attrgetter
from typing import Any, Final, TypeAlias, TypeVar

from xxhash import xxh3_128, xxh3_128_hexdigest

from pytest_taskcache.digests.values import callables, instances
from pytest_taskcache.digests.values.sentinels import place_of
from pytest_taskcache.digests.values.terms import (
    TERM,
    Reducer,
    Reduction,
    RefusedError,
    Scope,
    WalkerNeededError,
    is_importable,
    qualified_name,
    shown_name,
    term,
)
from pytest_taskcache.errors import ConfigurationError

T = TypeVar("T")

Hasher: TypeAlias = Callable[[Any], object]
"""From a value, something digestable that is equal exactly when the values are the same input."""

KEY_METHOD = "__taskcache_key__"

_NATIVE = (
    *(object, type, type(None), bool, int, float, str, bytes, bytearray),
    *(list, tuple, dict, set, frozenset),
)

_hashers: dict[type, Hasher] = {}


def register_hasher(cls: type[T], hasher: Callable[[T], object]) -> None:
    """Digests values of a type, and of its subclasses, by what ``hasher(value)`` returns.

    The name of the value's type is mixed in. A subclass with a hasher or a
    ``__taskcache_key__`` method of its own keeps that. Registering the same hasher again does
    nothing. Raises ConfigurationError for another hasher of the same type, and for native types,
    whose digests are fixed.
    """
    name = shown_name(cls) if isinstance(cls, type) else ""
    given: object = hasher
    if not name:
        problem = f"{cls!r} is not a type", "pass the class whose values it digests"
    elif cls in _NATIVE:
        problem = f"the digest of {name} is fixed", "register a hasher for a class of your own"
    elif not callable(given):
        remedy = "pass a function from a value to something digestable"
        problem = f"the hasher of {name} is not callable", remedy
    elif _hashers.setdefault(cls, hasher) != hasher:
        remedy = "register each type once, for instance in the root conftest.py"
        problem = f"{name} has another hasher already", remedy
    else:
        REDUCERS.clear()
        return
    raise ConfigurationError("register_hasher", *problem)


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
    """``reducers[type]`` is the reducer of values of exactly that type. Raises RefusedError for
    types without a digest. Local classes are looked up each time, so that the table keeps none of
    them alive."""

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
    exact = callables.REDUCERS.get(cls) or _EXACT.get(cls) or _NAMED.get(qualified_name(cls))
    if exact is not None:
        return exact
    if issubclass(cls, type):
        return callables.reduce_class
    if issubclass(cls, enum.Enum):
        return instances.reduce_enum
    vendor = _vendor_reducer(cls)
    if vendor is not None:
        return vendor
    _refuse_live(cls)
    if issubclass(cls, pathlib.PurePath):
        return _reduce_path
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
    """The reducer of a class that derives from numpy's, pandas's or pydantic's. Their adapters are
    imported here, when the first such value is met: it proves that the library is loaded
    already."""
    for base in cls.__mro__:
        package = (base.__module__ or "").partition(".")[0]
        if package in _ADAPTERS and package in sys.modules:
            table: dict[type, Reducer] = import_module(_ADAPTERS[package]).REDUCERS
            for kind, reducer in table.items():
                if issubclass(cls, kind):
                    return reducer
    return None


def _reduce_path(path: pathlib.PurePath, scope: Scope) -> Reduction:
    """An absolute file system path counts by its anchored name, any other by its text."""
    cls = type(path)
    # pathlib's own classes live in another module since 3.13
    kind = cls.__name__ if cls.__module__.startswith("pathlib") else qualified_name(cls)
    if isinstance(path, pathlib.Path) and path.is_absolute():
        name = str(path) if scope.anchors is None else scope.anchors(path)
        return TERM, ("path", kind, True, name)
    return TERM, ("path", kind, False, str(path))


def _reduce_memoryview(view: memoryview, scope: Scope) -> Reduction:
    try:
        digest = xxh3_128_hexdigest(view if view.c_contiguous else view.tobytes())
        return TERM, ("memoryview", view.format, view.shape, view.readonly, digest)
    except ValueError as error:
        raise RefusedError("memoryview", str(error)) from error


def _reduce_zone(value: Any, scope: Scope) -> Reduction:
    if value.key is None:
        raise RefusedError("zoneinfo.ZoneInfo", "it was read from a file and has no key")
    return TERM, ("zoneinfo", value.key)


def _reduce_bare_object(value: object, scope: Scope) -> Reduction:
    """A sentinel counts by the module and name that hold it: it has nothing but its identity."""
    place = place_of(value)
    if place is None:
        raise RefusedError(
            "object", "a bare object() has no content and no module holds it by name"
        )
    return TERM, ("sentinel", place.module, place.name)


def _naive(value: Any) -> str:
    text: str = value.replace(tzinfo=None, fold=0).isoformat()
    return text


_EXACT: dict[type, Reducer] = {
    complex: term("complex", lambda value: (value.real, value.imag)),
    datetime.datetime: term("datetime", lambda value: (_naive(value), value.fold, value.tzinfo)),
    datetime.time: term("time", lambda value: (_naive(value), value.fold, value.tzinfo)),
    datetime.date: term("date", lambda value: (value.toordinal(),)),
    datetime.timedelta: term("timedelta", attrgetter("days", "seconds", "microseconds")),
    datetime.timezone: term("timezone", lambda value: (value.utcoffset(None), value.tzname(None))),
    range: term("range", attrgetter("start", "stop", "step")),
    slice: term("slice", attrgetter("start", "stop", "step")),
    re.Pattern: term("pattern", attrgetter("pattern", "flags")),
    types.EllipsisType: term("singleton", lambda value: ("Ellipsis",)),
    types.NotImplementedType: term("singleton", lambda value: ("NotImplemented",)),
    # with its state: attributes can be set on one
    collections.OrderedDict: term("ordereddict", lambda value: (dict(value.items()), vars(value))),
    collections.defaultdict: term("defaultdict", lambda each: (each.default_factory, dict(each))),
    collections.deque: term("deque", lambda value: (list(value), value.maxlen)),
    array.array: term("array", lambda value: (value.typecode, value.tobytes())),
    types.SimpleNamespace: term("namespace", lambda value: (vars(value),)),
    types.MappingProxyType: term("mappingproxy", lambda value: (dict(value),)),
    memoryview: _reduce_memoryview,
    type({}.keys()): term("dict_keys", lambda value: (list(value),)),
    type({}.values()): term("dict_values", lambda value: (list(value),)),
    type({}.items()): term("dict_items", lambda value: (list(value),)),
    object: _reduce_bare_object,
}
"""Reducers of types whose modules are always loaded."""

_NAMED: dict[str, Reducer] = {
    # str() would depend on the present decimal context
    "decimal.Decimal": term("decimal", lambda value: tuple(value.as_tuple())),
    "fractions.Fraction": term("fraction", attrgetter("numerator", "denominator")),
    "uuid.UUID": term("uuid", lambda value: (value.int, value.is_safe.value)),
    "zoneinfo.ZoneInfo": _reduce_zone,
    "zoneinfo._zoneinfo.ZoneInfo": _reduce_zone,
}
"""Reducers of types by qualified name, so that digesting imports none of their modules."""

_STATEFUL = frozenset(
    (
        *("_asyncio", "_socket", "_ssl", "_thread", "_threading_local", "asyncio", "concurrent"),
        *("mmap", "multiprocessing", "queue", "select", "selectors", "socket", "sqlite3", "ssl"),
        *("subprocess", "threading", "weakref"),
    )
)
"""Packages whose objects stand for something outside of them."""

_RECORDS = frozenset({"subprocess.CompletedProcess"})

_LAZY = frozenset({"polars.lazyframe.frame.LazyFrame", "pyarrow._dataset.FileSystemDataset"})
"""Types whose values name files and read them later."""


def _refuse_live(cls: type) -> None:
    """Raises RefusedError for types whose values live outside their content. Iterators and open
    files are refused without being touched: to read one is to change it."""
    name = shown_name(cls)
    if hasattr(cls, "__next__") or hasattr(cls, "__anext__"):
        raise RefusedError(name, "reading an iterator or open file would change it")
    if name in _RECORDS:
        return
    if name in _LAZY:
        raise RefusedError(name, "it reads its files when it is collected: pass what that gives")
    for base in cls.__mro__:
        root = (base.__module__ or "").partition(".")[0]
        if root in _STATEFUL and not issubclass(cls, BaseException):
            raise RefusedError(name)
        if base.__module__ == "unittest.mock" and base.__name__ == "NonCallableMock":
            raise RefusedError(name, "a mock answers by what happened to it")


# The canonical byte stream of a value is its term as a pickle of protocol 3 without memo.
#
# Protocol 3 because the C pickler then shows its `reducer_override` the class of every set (newer
# protocols write sets by themselves, in an order that differs between processes). `fast` because
# without a memo the identity of objects leaves no trace; it is documented as deprecated, which is
# why the walker can write the same stream. TERM is the one object in the memo, so it costs two
# bytes.

MAX_OBJECTS: Final = 1 << 22
"""Values with more objects than this, shared ones counted each time, belong to the walker.

It bounds what shared structure can cost: 40 lists can stand for 2**40 objects, which the pickler
would visit one by one (65 ns each; so 0.27 s pass before the walker takes over).
"""

HEADER: Final = b"\x80\x03"
END: Final = b"."
TERM_CODE: Final = b"h\x00"
_MEMO: Final = {id(TERM): (0, TERM)}


def _give_up(_: None) -> None:
    raise WalkerNeededError


class StreamPickler(pickle.Pickler):
    """Writes canonical streams. Raises what reducers raise, and RecursionError."""

    def __init__(self, write: Callable[[Any], Any], scope: Scope) -> None:
        super().__init__(types.SimpleNamespace(write=write), 3)
        self.fast = True
        self.memo = _MEMO
        self.scope = scope

    def reducer_override(self, value: Any) -> Reduction:
        """The reduction of every value that is not of a native type."""
        return REDUCERS[type(value)](value, self.scope)


def digest_stream(value: object, scope: Scope) -> str:
    """xxh3-128 of the value's stream, 32 hexadecimal digits. Raises whatever keeps the value from
    being written in one go; the walker knows the reason."""
    hasher = xxh3_128()
    pickler = StreamPickler(hasher.update, scope)
    # counts the objects in C: 36 ns each, and nothing to look up
    pickler.persistent_id = partial(next, chain(repeat(None, MAX_OBJECTS), map(_give_up, [None])))  # type: ignore[method-assign]
    pickler.dump(value)
    return hasher.hexdigest()
