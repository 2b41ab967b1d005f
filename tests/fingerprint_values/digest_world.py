"""Importable types and the values of them that tests digest, here and in other processes."""

from __future__ import annotations

import array
import collections
import datetime
import decimal
import enum
import fractions
import functools
import json
import pathlib
import re
import sys
import types
import uuid
import zoneinfo
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import attrs
import numpy as np
import pandas as pd
import rpds
from pydantic import BaseModel


class Colour(enum.Enum):
    RED = 1
    GREEN = 2


class Absent(enum.Enum):
    UNSET = object()
    NEVER = object()  # noqa: PIE796 - each is an object of its own


class Level(enum.IntEnum):
    ONE = 1


class Access(enum.Flag):
    READ = 1
    WRITE = 2


class Point(NamedTuple):
    x: int
    y: int


class Size(NamedTuple):
    x: int
    y: int


class Text(str):
    __slots__ = ()


class Items(list[Any]):
    pass


class Table(dict[Any, Any]):
    pass


class Sequence(collections.OrderedDict[str, Any]):
    pass


class Bag(set[Any]):
    pass


@dataclass
class Trade:
    name: str
    price: float = 1.0
    notes: list[str] = field(default_factory=list)
    total: float = field(init=False, default=0.0)


@dataclass
class Other:
    name: str
    price: float = 1.0
    notes: list[str] = field(default_factory=list)
    total: float = field(init=False, default=0.0)


@dataclass
class Pair:
    x: int
    y: int


@dataclass(frozen=True, slots=True)
class Slotted:
    x: int
    y: object = None


@attrs.define
class Kept:
    x: int
    y: object = None


@attrs.frozen(slots=False)
class Frozen:
    x: int


class Plain:
    def __init__(self, **attributes: object) -> None:
        vars(self).update(attributes)

    def method(self) -> None: ...

    def other(self) -> None: ...


class Inner(BaseModel):
    x: int = 1


class Inner2(BaseModel):
    x: int = 1


class Outer(BaseModel):
    inner: Inner | Inner2


def add(x: int, y: int = 1) -> int:
    return x + y


def subtract(x: int, y: int = 1) -> int:
    return x - y


def closing_over(value: object) -> Any:
    def inner() -> object:
        return value

    return inner


def ring(*labels: object) -> list[Any]:
    """A cycle of lists, each holding its label and the next."""
    nodes: list[list[Any]] = [[label] for label in labels]
    for node, following in zip(nodes, [*nodes[1:], nodes[0]], strict=True):
        node.append(following)
    return nodes[0]


def parent_and_child() -> Plain:
    parent = Plain(name="parent", children={"a"})
    parent.child = Plain(name="child", parent=parent)  # type: ignore[attr-defined]
    return parent


def friends() -> Plain:
    """Objects that know each other through sets, which have no order."""
    people = [Plain(name=name) for name in "abc"]
    for person in people:
        person.friends = {other for other in people if other is not person}  # type: ignore[attr-defined]
    return people[0]


def many_values() -> dict[str, object]:
    """One value of each kind, built anew with every call."""
    words = [f"word{i}" for i in range(50)]
    structured = np.array([(1, 2.5), (3, 4.5)], dtype=[("a", "i1"), ("b", "f8")])
    return {
        "none": None,
        "int": 10**30,
        "float": float("nan"),
        "text": "\ud800 half a pair",
        "bytes": b"\x00\xff",
        "bytearray": bytearray(b"abc"),
        "list": [1, [2, [3, []]], ()],
        "dict": {"b": 1, "a": {None: 2.5}},
        "set": set(words),
        "mixed set": {1, "a", 2.5, (3, frozenset(words))},
        "frozensets": {frozenset({i, f"{i}"}) for i in range(20)},
        "set of objects": {Colour.RED, Point(1, 2), datetime.date(2024, 1, 1)},
        "hashed map": rpds.HashTrieMap({word: [word] for word in words}),
        "hashed set": rpds.HashTrieSet(words),
        "persistent list": rpds.List(words),
        "complex": 1 - 0.0j,
        "range": range(1, 10, 2),
        "slice": slice(1, None, 2),
        "ellipsis": ...,
        "not implemented": NotImplemented,
        "memoryview": memoryview(b"abcdef"),
        "array.array": array.array("i", [1, 2]),
        "datetime": datetime.datetime(2024, 1, 1, fold=1, tzinfo=zoneinfo.ZoneInfo("UTC")),
        "time": datetime.time(1, 2, tzinfo=datetime.UTC),
        "timedelta": datetime.timedelta(1, 2, 3),
        "decimal": decimal.Decimal("1.10"),
        "fraction": fractions.Fraction(1, 3),
        "uuid": uuid.UUID(int=5),
        "pattern": re.compile("a+", re.IGNORECASE),
        "path": pathlib.Path("data") / "rates.csv",
        "ordered": collections.OrderedDict(b=1, a=2),
        "default": collections.defaultdict(list, a=[1]),
        "counter": collections.Counter("hello"),
        "deque": collections.deque([1, 2], maxlen=5),
        "chain": collections.ChainMap({"a": 1}, {"b": 2}),
        "user dict": collections.UserDict(a=1),
        "namespace": types.SimpleNamespace(a=1),
        "proxy": types.MappingProxyType({"a": 1}),
        "keys": {"a": 1}.keys(),
        "enum": Colour.GREEN,
        "int enum": Level.ONE,
        "enum of sentinels": [Absent.UNSET, Absent.NEVER],
        "flag": Access.READ | Access.WRITE,
        "named tuple": Point(1, 2),
        "dataclass": Trade("a", notes=["x"]),
        "slotted": Slotted(1, {2, 3}),
        "attrs": Kept(1, [2]),
        "attrs frozen": Frozen(1),
        "plain": Plain(a=1, b={"x", "y", "z"}),
        "subclasses": [Text("a"), Items([1]), Table(a=1), Bag("abc")],
        "exception": ValueError("bad", 1),
        "pydantic": Outer(inner=Inner(x=3)),
        "function": add,
        "closure": closing_over({"a", "b", "c"}),
        "lambda": lambda x: x + 1,
        "method": Plain(a=1).method,
        "partial": functools.partial(add, 1, y=2),
        "class": Plain,
        "native class": int,
        "set class": [set, frozenset],
        "module": json,
        "builtin": len,
        "bound builtin": [1].append,
        "descriptor": str.upper,
        "alias": list[int],
        "union": int | None,
        "array": np.arange(12.0).reshape(3, 4)[:, ::2],
        "structured": structured,
        "object array": np.array([1, "a", {"k": {1, 2}}], dtype=object),
        "masked": np.ma.masked_array([1, 2, 3], mask=[0, 1, 0]),
        "numpy scalar": np.float32(1.5),
        "dates": np.array(["2024-01-01"], dtype="datetime64[D]"),
        "dtype": np.dtype([("a", "<i4"), ("b", "S3")]),
        "frame": pd.DataFrame({"a": [1, 2], "b": ["x", None]}, index=[5, 6]),
        "series": pd.Series([1.5, 2.5], name="s"),
        "categorical": pd.Categorical(["a", "b", "a"], ordered=True),
        "nullable": pd.array([1, None], dtype="Int64"),
        "times": pd.date_range("2024-01-01", periods=3, tz="UTC"),
        "multi index": pd.MultiIndex.from_tuples([(1, "a"), (2, "b")], names=["n", "l"]),
        "ring": ring(1, 2, 3),
        "parent and child": parent_and_child(),
        "friends": friends(),
    }


if __name__ == "__main__":
    # the names of __main__ are not those of the module that tests import
    import digest_world

    from pytest_taskcache.digests.values.digest import digest_value

    values = digest_world.many_values()
    json.dump({name: digest_value(value) for name, value in values.items()}, sys.stdout)
