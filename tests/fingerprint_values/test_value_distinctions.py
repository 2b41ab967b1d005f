"""Inputs that differ never share an entry, however alike they look; equal ones always do."""

from __future__ import annotations

import array
import collections
import datetime
import decimal
import fractions
import functools
import math
import operator
import pathlib
import re
import struct
import types
import zoneinfo
from dataclasses import make_dataclass
from typing import Any, NamedTuple

import digest_world as world
import numpy as np
import pandas as pd
import pytest
import rpds

from pytest_taskcache.digests.values.digest import digest_value


def local_class(**namespace: object) -> type:
    return type("Local", (), namespace)


def with_attribute(value: Any, **attributes: object) -> Any:
    vars(value).update(attributes)
    return value


def without(value: Any, name: str) -> Any:
    delattr(value, name)
    return value


def moved_to_end(cls: Any = collections.OrderedDict) -> Any:
    ordered = cls(a=1, b=2)
    ordered.move_to_end("a")
    return ordered


def wrapped_twice(number: int) -> Any:
    if number == 1:

        @functools.wraps(world.add)
        def wrapper(*arguments: Any) -> Any:
            return world.add(*arguments)
    else:

        @functools.wraps(world.add)
        def wrapper(*arguments: Any) -> Any:
            return -world.add(*arguments)

    return wrapper


SENTINEL = object()
ANOTHER = object()

FIELDS = [("a", "i1"), ("b", "f8")]

DIFFERENT: list[tuple[object, object]] = [
    (1, True),
    (1, 1.0),
    (1, "1"),
    ("1", b"1"),
    (1, [1]),
    ([1], (1,)),
    (0, False),
    (0, None),
    ("", b""),
    ([], ()),
    ({}, set()),
    ({}, []),
    (0.0, -0.0),
    (math.nan, struct.unpack(">d", b"\x7f\xf8\0\0\0\0\0\1")[0]),
    (1j, complex(0.0, 1.0) * 2),
    (complex(0.0, -0.0), complex(0.0, 0.0)),
    (1.0, 1 + 0j),
    ("None", None),
    ("é", "e\u0301"),
    ([[1], 2], [[1, 2]]),
    ([1, [2]], [[1], 2]),
    (["ab", "c"], ["a", "bc"]),
    ({1: "a"}, {"1": "a"}),
    ({1: "a"}, {True: "a"}),
    ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
    ({"a": 1}, [("a", 1)]),
    ({1, 2}, frozenset({1, 2})),
    ({1, 2}, [1, 2]),
    ({1, 2}, {1, 2.0}),
    ({1}, {True}),
    ({(1, 2)}, {(2, 1)}),
    ({1, "a"}, frozenset({1, "a"})),
    ([set()], [frozenset()]),
    ([{"a"}, {"b"}], [{"b"}, {"a"}]),
    (set, set()),
    ([set], [frozenset]),
    (b"a", bytearray(b"a")),
    (b"a", memoryview(b"a")),
    (memoryview(b"abcd"), memoryview(b"abcd").cast("B", (2, 2))),
    (memoryview(b"abcd"), memoryview(b"abcd").cast("H")),
    (memoryview(b"a"), memoryview(bytearray(b"a"))),
    (bytearray, b""),
    (array.array("i", [1]), array.array("I", [1])),
    (range(3), [0, 1, 2]),
    (range(3), range(0, 3, 2)),
    (slice(1), slice(1, None)),
    (world.Level.ONE, 1),
    (world.Colour.RED, 1),
    (world.Colour.RED, world.Level.ONE),
    (world.Access.READ, world.Access.READ | world.Access.WRITE),
    (world.Point(1, 2), (1, 2)),
    (world.Point(1, 2), world.Size(1, 2)),
    (world.Text("a"), "a"),
    (world.Items([1]), [1]),
    (world.Items([1]), with_attribute(world.Items([1]), unit="m")),
    (world.Table(a=1), {"a": 1}),
    (world.Bag("ab"), set("ab")),
    (world.Bag("ab"), world.Bag("abc")),
    (world.Trade("a"), world.Other("a")),
    (world.Trade("a"), world.Trade("a", 2.0)),
    (world.Trade("a"), with_attribute(world.Trade("a"), total=1.0)),
    (world.Trade("a"), with_attribute(world.Trade("a"), extra=1)),
    (world.Trade("a"), with_attribute(world.Trade("a"), extra=0.0)),
    (world.Trade("a"), {"name": "a", "price": 1.0, "notes": [], "total": 0.0}),
    (world.Trade("a"), vars(world.Trade("a"))),
    (world.Pair(1, 2), with_attribute(without(world.Pair(1, 2), "y"), z=2)),
    (world.Slotted(1), world.Slotted(2)),
    (world.Slotted(1), world.Kept(1)),
    (world.Kept(1), world.Kept(2)),
    (world.Frozen(1), world.Frozen(2)),
    (world.Plain(a=1), world.Plain(b=1)),
    (world.Plain(a=1), types.SimpleNamespace(a=1)),
    (world.Outer(inner=world.Inner()), world.Outer(inner=world.Inner2())),
    (make_dataclass("Row", ["a", "b"])(1, 2), make_dataclass("Row", ["b", "a"])(1, 2)),
    (collections.OrderedDict(a=1), {"a": 1}),
    (collections.OrderedDict(a=1, b=2), moved_to_end()),
    (moved_to_end(world.Sequence), world.Sequence(a=1, b=2)),
    (collections.defaultdict(list), collections.defaultdict(set)),
    (collections.defaultdict(list), {}),
    (collections.Counter("a"), {"a": 1}),
    (collections.deque([1]), [1]),
    (collections.deque([1]), collections.deque([1], maxlen=1)),
    ({"a": 1}.keys(), ["a"]),
    ({1: 1}.keys(), {1: 1}.values()),
    (types.MappingProxyType({}), {}),
    (datetime.datetime(2024, 1, 1), datetime.date(2024, 1, 1)),
    (datetime.datetime(2024, 1, 1), datetime.datetime(2024, 1, 1, fold=1)),
    (datetime.datetime(2024, 1, 1), datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC)),
    (
        datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC),
        datetime.datetime(2024, 1, 1, tzinfo=zoneinfo.ZoneInfo("UTC")),
    ),
    (datetime.UTC, datetime.timezone(datetime.timedelta(0), "Z")),
    (datetime.timedelta(1), 86400),
    (decimal.Decimal("1.0"), decimal.Decimal("1.00")),
    (decimal.Decimal("1"), 1),
    (decimal.Decimal("NaN"), decimal.Decimal("sNaN")),
    (fractions.Fraction(1), 1),
    (re.compile("a"), re.compile("a", re.IGNORECASE)),
    (re.compile("a"), re.compile(b"a")),
    (pathlib.Path("a"), "a"),
    (pathlib.Path("a"), pathlib.PurePath("a")),
    (pathlib.PurePosixPath("a"), pathlib.PureWindowsPath("a")),
    (pathlib.Path("a"), pathlib.Path("a").absolute()),
    (..., NotImplemented),
    (None, type(None)),
    (SENTINEL, ANOTHER),
    (ValueError("a"), TypeError("a")),
    (ValueError("a"), ValueError("b")),
    (int, "builtins.int"),
    (list[int], list[str]),
    (int | None, int | str),
    (world.add, world.subtract),
    (world.add, "digest_world.add"),
    (world.closing_over(1), world.closing_over(True)),
    (wrapped_twice(1), wrapped_twice(2)),
    (lambda: 1, lambda: 2),
    (lambda x=1: x, lambda x=2: x),
    (functools.partial(world.add, 1), functools.partial(world.add, 2)),
    (functools.partial(world.add, 1), functools.partial(world.add, y=1)),
    (functools.partial(world.add), world.add),
    (world.Plain(a=1).method, world.Plain(a=2).method),
    (world.Plain(a=1).method, world.Plain(a=1).other),
    (world.Plain(a=1).method, world.Plain.method),
    ([].append, [1].append),
    (len, abs),
    (str.upper, str.lower),
    (operator.itemgetter(1), operator.itemgetter(2)),
    (local_class(x=1), local_class(x=2)),
    (local_class(x=1)(), local_class(x=2)()),
    (local_class(f=lambda self: 1), local_class(f=lambda self: 2)),
    (world.ring(1), world.ring(2)),
    (world.ring(1, 2), world.ring(2, 1)),
    (world.ring(1, 1, 2), world.ring(1, 2)),
    (world.ring(1), [1, [1, [1]]]),
    (np.int64(1), 1),
    (np.int64(1), np.int32(1)),
    (np.float64(1), 1.0),
    (np.bool_(True), True),
    (np.str_("a"), "a"),
    (np.float64(1), np.array(1.0)),
    (np.arange(4), np.arange(4.0)),
    (np.arange(4), np.arange(4).reshape(2, 2)),
    (np.arange(4), [0, 1, 2, 3]),
    (np.zeros(4, "i4"), np.zeros(2, "i8")),
    (np.zeros(1, ">i4"), np.zeros(1, "<i4")),
    (np.zeros((0, 2)), np.zeros((2, 0))),
    (np.array([0.0]), np.array([-0.0])),
    (np.array([b"a"]), np.array(["a"])),
    (np.array([b"a"], "S1"), np.array([b"a"], "S2")),
    (np.array([1], "M8[s]"), np.array([1], "M8[ms]")),
    (np.array([1], "M8[s]"), np.array([1], "m8[s]")),
    (np.array([1], "M8[s]"), np.array([1])),
    (np.array([1, True], dtype=object), np.array([1, 1], dtype=object)),
    (np.zeros(1, FIELDS), np.zeros(1, [("b", "i1"), ("a", "f8")])),
    (np.zeros(1, FIELDS), np.zeros(1, np.dtype(FIELDS, align=True))),
    (np.ma.masked_array([1, 2], [0, 1]), np.ma.masked_array([1, 2], [1, 0])),
    (np.ma.masked_array([1, 2]), np.array([1, 2])),
    (np.array([[1]]), np.array([[1]]).view(np.recarray)),
    (np.dtype("f4"), np.dtype("f8")),
    (np.sin, np.cos),
    (np.sum, np.mean),
    (pd.DataFrame({"a": [1]}), pd.DataFrame({"b": [1]})),
    (pd.DataFrame({"a": [1]}), pd.DataFrame({"a": [1.0]})),
    (pd.DataFrame({"a": [1]}), pd.DataFrame({"a": [1]}, index=[1])),
    (pd.DataFrame({"a": [1], "b": [1]}), pd.DataFrame({"b": [1], "a": [1]})),
    (pd.DataFrame({"a": [1, 2]}), pd.DataFrame({"a": [1, 2]}).T),
    (pd.DataFrame({"a": ["x"]}), pd.DataFrame({"a": [None]})),
    (pd.DataFrame({"a": ["x"]}), pd.DataFrame({"a": pd.Categorical(["x"])})),
    (pd.Series([1], name="a"), pd.Series([1], name="b")),
    (pd.Series([1], name="a"), pd.DataFrame({"a": [1]})),
    (pd.Series([1]), pd.Series([1], dtype="Int64")),
    (pd.Series([1]), pd.Index([1])),
    (pd.RangeIndex(2), pd.Index([0, 1])),
    (pd.Index([1], name="a"), pd.Index([1], name="b")),
    (pd.Index([1]), pd.Index([1], dtype=object)),
    (pd.Categorical(["a"]), pd.Categorical(["a"], categories=["a", "b"])),
    (pd.Categorical(["a"]), pd.Categorical(["a"], ordered=True)),
    (pd.array([1, None], dtype="Int64"), pd.array([1, 0], dtype="Int64")),
    (pd.date_range("2024", periods=2), pd.date_range("2024", periods=2, tz="UTC")),
    (pd.date_range("2024", periods=2), pd.DatetimeIndex(["2024-01-01", "2024-01-02"])),
    (pd.interval_range(0, 2), pd.interval_range(0, 2, closed="both")),
    (pd.period_range("2024", periods=1, freq="M"), pd.period_range("2024", periods=1, freq="Y")),
    (pd.Timestamp("2024"), datetime.datetime(2024, 1, 1)),
    (pd.NA, pd.NaT),
    (pd.NA, None),
]


@pytest.mark.parametrize(
    ("left", "right"), DIFFERENT, ids=[f"{index:03}" for index in range(len(DIFFERENT))]
)
def test_values_that_look_alike_have_different_digests(left: object, right: object) -> None:
    """A hit for one of the two is never served to the other, at whatever depth they sit."""
    assert digest_value(left) != digest_value(right)
    assert digest_value([left]) != digest_value([right])
    assert digest_value({"k": (left,)}) != digest_value({"k": (right,)})
    # and in company of a set, where the walker digests them
    assert digest_value([{1}, left]) != digest_value([{1}, right])


def fortran(values: Any) -> Any:
    return np.asfortranarray(values)


def not_consolidated() -> pd.DataFrame:
    frame = pd.DataFrame({"a": [1, 2]})
    frame["b"] = [3, 4]
    return frame


def padded(filler: int) -> Any:
    dtype = np.dtype(FIELDS, align=True)
    values = np.full(2 * dtype.itemsize, filler, dtype=np.uint8).view(dtype)
    values["a"] = 1
    values["b"] = 2.0
    return values


def long_double(filler: int) -> Any:
    raw = np.full(np.dtype(np.longdouble).itemsize, filler, dtype=np.uint8)
    values = raw.view(np.longdouble)
    values[...] = 0
    raw[10:] = filler
    raw[:10] = np.array([1.5], dtype=np.longdouble).view(np.uint8)[:10]
    return values


def nullable(hidden: int) -> Any:
    return pd.arrays.IntegerArray(np.array([1, hidden]), np.array([False, True]))


shared = [1, 2]
nan = float("nan")

SAME: list[tuple[object, object]] = [
    (nan, float("nan")),
    ([shared, shared], [[1, 2], [1, 2]]),
    ((shared, {"k": shared}), ([1, 2], {"k": [1, 2]})),
    ({1, "a", (2, 3)}, {(2, 3), "a", 1}),
    ("".join(["a", "b"]), "ab"),
    (world.ring(1, 2), world.ring(1, 2)),
    (world.ring(1), world.ring(1, 1)),
    (world.friends(), world.friends()),
    (np.arange(6).reshape(2, 3), fortran(np.arange(6).reshape(2, 3))),
    (np.arange(6)[::2], np.array([0, 2, 4])),
    (np.arange(6).astype("M8[s]")[::2], np.array([0, 2, 4]).astype("M8[s]")),
    (np.zeros(3, dtype=object), np.array([0, 0, 0], dtype=object)),
    (padded(0), padded(255)),
    (long_double(0), long_double(255)),
    (nullable(0), nullable(7)),
    (not_consolidated(), pd.DataFrame({"a": [1, 2], "b": [3, 4]})),
    (world.closing_over([1]), world.closing_over([1])),
    (with_attribute(world.closing_over(1), calls=1), world.closing_over(1)),
    (local_class(x=1), local_class(x=1)),
    (decimal.Decimal("1E+3"), decimal.Decimal("1E3")),
]


@pytest.mark.parametrize(("left", "right"), SAME, ids=[f"{index:03}" for index in range(len(SAME))])
def test_equal_content_has_one_digest(left: object, right: object) -> None:
    """Sharing, order in sets, memory layout and undefined bytes do not cost a hit."""
    assert digest_value(left) == digest_value(right)
    assert digest_value([{1}, left]) == digest_value([{1}, right])


def test_decimal_digest_ignores_the_decimal_context() -> None:
    """A context that writes exponents in lower case changes no digest."""
    value = decimal.Decimal("1E+30")
    before = digest_value(value)
    with decimal.localcontext() as context:
        context.capitals = 0
        assert digest_value(value) == before


def test_anchors_name_absolute_paths_and_leave_relative_ones(tmp_path: pathlib.Path) -> None:
    """A path under the root digests alike on every machine; a relative one stays itself."""

    def anchored(root: pathlib.Path) -> Any:
        return lambda path: path.relative_to(root).as_posix()

    here, there = tmp_path / "here", tmp_path / "there"
    first = digest_value([here / "a.csv", {1}], anchors=anchored(here))
    assert first == digest_value([there / "a.csv", {1}], anchors=anchored(there))
    assert first != digest_value([there / "b.csv", {1}], anchors=anchored(there))
    assert digest_value(here / "a.csv") != digest_value(there / "a.csv")
    relative = pathlib.Path("a.csv")
    assert digest_value(relative, anchors=anchored(here)) == digest_value(relative)
    assert digest_value(relative) != digest_value(here / "a.csv", anchors=anchored(here))


def test_pairs_are_as_tricky_as_they_claim() -> None:
    """Enough pairs stand here for the promise to mean something; each is of two objects."""
    assert len(DIFFERENT) > 150
    assert all(left is not right for left, right in DIFFERENT)


class Coordinates(NamedTuple):
    x: int


def test_named_tuple_keeps_the_attributes_of_a_subclass() -> None:
    """A named tuple's subclass may hold more than its fields; that counts."""

    class Marked(Coordinates):
        pass

    plain, marked = Marked(1), Marked(1)
    marked.note = "x"  # type: ignore[attr-defined]
    assert digest_value(plain) != digest_value(marked)


class Stack(list[object]):
    """Is made by native code of its items, which it gives the other way round."""

    def __reduce__(self) -> Any:
        return Stack, (self[::-1],)


@pytest.mark.parametrize("made", [Stack, rpds.List])
def test_containers_that_pickle_makes_of_their_items_keep_the_order(made: Any) -> None:
    """Though one gives them in another order than it was given."""
    assert digest_value(made([1, 2])) != digest_value(made([2, 1]))
    assert digest_value(made([1, 2])) == digest_value(made([1, 2]))
