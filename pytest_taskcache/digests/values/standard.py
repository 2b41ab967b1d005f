"""Reducers of the standard library's value types, by exact type."""

from __future__ import annotations

import array
import collections
import datetime
import pathlib
import re
import types
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
)

if TYPE_CHECKING:
    import decimal
    import fractions
    import uuid
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


def _reduce_complex(value: complex, scope: Scope) -> Reduction:
    return TERM, ("complex", value.real, value.imag)


def _reduce_datetime(value: datetime.datetime, scope: Scope) -> Reduction:
    return TERM, (
        "datetime",
        value.replace(tzinfo=None, fold=0).isoformat(),
        value.fold,
        value.tzinfo,
    )


def _reduce_time(value: datetime.time, scope: Scope) -> Reduction:
    return TERM, ("time", value.replace(tzinfo=None, fold=0).isoformat(), value.fold, value.tzinfo)


def _reduce_date(value: datetime.date, scope: Scope) -> Reduction:
    return TERM, ("date", value.toordinal())


def _reduce_timedelta(value: datetime.timedelta, scope: Scope) -> Reduction:
    return TERM, ("timedelta", value.days, value.seconds, value.microseconds)


def _reduce_timezone(value: datetime.timezone, scope: Scope) -> Reduction:
    return TERM, ("timezone", value.utcoffset(None), value.tzname(None))


def _reduce_zone(value: zoneinfo.ZoneInfo, scope: Scope) -> Reduction:
    if value.key is None:
        raise RefusedError("zoneinfo.ZoneInfo", "it was read from a file and has no key")
    return TERM, ("zoneinfo", value.key)


def _reduce_decimal(value: decimal.Decimal, scope: Scope) -> Reduction:
    # str() would depend on the present decimal context
    return TERM, ("decimal", *value.as_tuple())


def _reduce_fraction(value: fractions.Fraction, scope: Scope) -> Reduction:
    return TERM, ("fraction", value.numerator, value.denominator)


def _reduce_uuid(value: uuid.UUID, scope: Scope) -> Reduction:
    return TERM, ("uuid", value.int, value.is_safe.value)


def _reduce_range(value: range, scope: Scope) -> Reduction:
    return TERM, ("range", value.start, value.stop, value.step)


def _reduce_slice(value: slice, scope: Scope) -> Reduction:
    return TERM, ("slice", value.start, value.stop, value.step)


def _reduce_pattern(value: re.Pattern[Any], scope: Scope) -> Reduction:
    return TERM, ("pattern", value.pattern, value.flags)


def _reduce_ellipsis(value: types.EllipsisType, scope: Scope) -> Reduction:
    return TERM, ("singleton", "Ellipsis")


def _reduce_not_implemented(value: object, scope: Scope) -> Reduction:
    return TERM, ("singleton", "NotImplemented")


def _reduce_ordered(value: collections.OrderedDict[Any, Any], scope: Scope) -> Reduction:
    # state: attributes can be set on an OrderedDict
    return TERM, ("ordereddict", dict(value.items()), vars(value))


def _reduce_defaultdict(value: collections.defaultdict[Any, Any], scope: Scope) -> Reduction:
    return TERM, ("defaultdict", value.default_factory, dict(value))


def _reduce_deque(value: collections.deque[Any], scope: Scope) -> Reduction:
    return TERM, ("deque", list(value), value.maxlen)


def _reduce_array(value: array.array[Any], scope: Scope) -> Reduction:
    return TERM, ("array", value.typecode, value.tobytes())


def _reduce_namespace(value: types.SimpleNamespace, scope: Scope) -> Reduction:
    return TERM, ("namespace", vars(value))


def _reduce_proxy(value: types.MappingProxyType[Any, Any], scope: Scope) -> Reduction:
    return TERM, ("mappingproxy", dict(value))


def _reduce_view(view: Any, scope: Scope) -> Reduction:
    return TERM, (type(view).__name__, list(view))


def _reduce_bare_object(value: object, scope: Scope) -> Reduction:
    """A sentinel counts by the module and name that hold it: it has nothing but its identity."""
    place = place_of(value)
    if place is None:
        raise RefusedError(
            "object", "a bare object() has no content and no module holds it by name"
        )
    return TERM, ("sentinel", *place)


EXACT: dict[type, Reducer] = {
    complex: _reduce_complex,
    datetime.datetime: _reduce_datetime,
    datetime.time: _reduce_time,
    datetime.date: _reduce_date,
    datetime.timedelta: _reduce_timedelta,
    datetime.timezone: _reduce_timezone,
    range: _reduce_range,
    slice: _reduce_slice,
    re.Pattern: _reduce_pattern,
    types.EllipsisType: _reduce_ellipsis,
    types.NotImplementedType: _reduce_not_implemented,
    collections.OrderedDict: _reduce_ordered,
    collections.defaultdict: _reduce_defaultdict,
    collections.deque: _reduce_deque,
    array.array: _reduce_array,
    types.SimpleNamespace: _reduce_namespace,
    types.MappingProxyType: _reduce_proxy,
    memoryview: reduce_memoryview,
    type({}.keys()): _reduce_view,
    type({}.values()): _reduce_view,
    type({}.items()): _reduce_view,
    object: _reduce_bare_object,
}
"""Reducers of types whose modules are always loaded."""

NAMED: dict[str, Reducer] = {
    "decimal.Decimal": _reduce_decimal,
    "fractions.Fraction": _reduce_fraction,
    "uuid.UUID": _reduce_uuid,
    "zoneinfo.ZoneInfo": _reduce_zone,
    "zoneinfo._zoneinfo.ZoneInfo": _reduce_zone,
}
"""Reducers of types by qualified name, so that digesting imports none of their modules."""

_STATEFUL = frozenset(
    {
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
    }
)

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
