"""Reducers of the standard library's value types, by exact type."""

from __future__ import annotations

import array
import collections
import datetime
import pathlib
import re
import types
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from xxhash import xxh3_128_hexdigest

from pytest_taskcache.digests.values.sentinels import place_of
from pytest_taskcache.digests.values.terms import (
    TERM,
    Reducer,
    Reduction,
    RefusedError,
    Scope,
    qualified_name,
    shown_name,
    term,
)

if TYPE_CHECKING:
    import zoneinfo


def reduce_path(path: pathlib.PurePath, scope: Scope) -> Reduction:
    """An absolute file system path counts by its anchored name, any other by its text."""
    cls = type(path)
    # pathlib's own classes live in another module since 3.13
    kind = cls.__name__ if cls.__module__.startswith("pathlib") else qualified_name(cls)
    if isinstance(path, pathlib.Path) and path.is_absolute():
        name = str(path) if scope.anchors is None else scope.anchors(path)
        return TERM, ("path", kind, True, name)
    return TERM, ("path", kind, False, str(path))


def reduce_memoryview(view: memoryview, scope: Scope) -> Reduction:
    """Format, shape, writability and the bytes in C order."""
    try:
        content = view if view.c_contiguous else view.tobytes()
        return TERM, (
            "memoryview",
            view.format,
            view.shape,
            view.readonly,
            xxh3_128_hexdigest(content),
        )
    except ValueError as error:
        raise RefusedError("memoryview", str(error)) from error


def _reduce_zone(value: zoneinfo.ZoneInfo, scope: Scope) -> Reduction:
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


EXACT: dict[type, Reducer] = {
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
    collections.defaultdict: term(
        "defaultdict", lambda value: (value.default_factory, dict(value))
    ),
    collections.deque: term("deque", lambda value: (list(value), value.maxlen)),
    array.array: term("array", lambda value: (value.typecode, value.tobytes())),
    types.SimpleNamespace: term("namespace", lambda value: (vars(value),)),
    types.MappingProxyType: term("mappingproxy", lambda value: (dict(value),)),
    memoryview: reduce_memoryview,
    type({}.keys()): term("dict_keys", lambda value: (list(value),)),
    type({}.values()): term("dict_values", lambda value: (list(value),)),
    type({}.items()): term("dict_items", lambda value: (list(value),)),
    object: _reduce_bare_object,
}
"""Reducers of types whose modules are always loaded."""

NAMED: dict[str, Reducer] = {
    # str() would depend on the present decimal context
    "decimal.Decimal": term("decimal", lambda value: tuple(value.as_tuple())),
    "fractions.Fraction": term("fraction", attrgetter("numerator", "denominator")),
    "uuid.UUID": term("uuid", lambda value: (value.int, value.is_safe.value)),
    "zoneinfo.ZoneInfo": _reduce_zone,
    "zoneinfo._zoneinfo.ZoneInfo": _reduce_zone,
}
"""Reducers of types by qualified name, so that digesting imports none of their modules."""

_STATEFUL = frozenset(
    [
        "_asyncio",
        "_socket",
        "_ssl",
        "_thread",
        "_threading_local",
        "asyncio",
        "concurrent",
        "mmap",
        "multiprocessing",
        "queue",
        "select",
        "selectors",
        "socket",
        "sqlite3",
        "ssl",
        "subprocess",
        "threading",
        "weakref",
    ]
)
"""Packages whose objects stand for something outside of them."""

_RECORDS = frozenset({"subprocess.CompletedProcess"})


def refuse_live(cls: type) -> None:
    """Raises RefusedError for types whose values live outside their content.

    Iterators and open files are refused without being touched: to read one is to change it.
    """
    name = shown_name(cls)
    if hasattr(cls, "__next__") or hasattr(cls, "__anext__"):
        raise RefusedError(name, "reading an iterator or open file would change it")
    if name in _RECORDS:
        return
    for base in cls.__mro__:
        root = (base.__module__ or "").partition(".")[0]
        if root in _STATEFUL and not issubclass(cls, BaseException):
            raise RefusedError(name)
        if base.__module__ == "unittest.mock" and base.__name__ == "NonCallableMock":
            raise RefusedError(name, "a mock answers by what happened to it")
