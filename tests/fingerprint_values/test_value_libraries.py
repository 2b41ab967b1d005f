"""Models, records and arrays of other libraries count by content, as their authors define it."""

from __future__ import annotations

import copy
import pickle
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import Annotated, Any

import attrs
import numpy as np
import pandas as pd
import pytest
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    PrivateAttr,
    RootModel,
    create_model,
    field_serializer,
    model_serializer,
)

from pytest_taskcache.digests.values.digest import digest_value
from pytest_taskcache.errors import UndigestableError


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(":memory:")) as connection:
        yield connection


class Open(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)


class Session(Open):
    conn: Any
    user: str

    @model_serializer
    def serialize(self) -> dict[str, object]:
        return {"user": self.user}


class Field1(Open):
    conn: Any
    user: str

    @field_serializer("conn")
    def serialize_conn(self, conn: object) -> str:
        return "a connection"


class Annotated1(Open):
    conn: Annotated[Any, PlainSerializer(lambda conn: "a connection")]
    user: str


class Excluded(Open):
    conn: Any = Field(exclude=True)
    user: str


class Bare(Open):
    conn: Any
    user: str


@pytest.mark.parametrize("cls", [Session, Field1, Annotated1, Excluded])
def test_custom_serializer_of_a_model_is_honoured(cls: Any, connection: sqlite3.Connection) -> None:
    """A model that leaves its connection out of what it serializes digests fine."""
    assert digest_value(cls(conn=connection, user="a")) == digest_value(
        cls(conn=connection, user="a")
    )
    assert digest_value(cls(conn=connection, user="a")) != digest_value(
        cls(conn=connection, user="b")
    )


def test_models_of_different_classes_differ_though_they_serialize_alike(
    connection: sqlite3.Connection,
) -> None:
    """The type is kept apart."""
    classes: list[Any] = [Session, Excluded]
    assert len({digest_value(cls(conn=connection, user="a")) for cls in classes}) == 2


def test_model_that_serializes_what_cannot_be_digested_is_refused(
    connection: sqlite3.Connection,
) -> None:
    """And the path names the field."""
    with pytest.raises(UndigestableError) as caught:
        digest_value([Bare(conn=connection, user="a")], path="jobs")
    assert (caught.value.path, caught.value.type_name) == ("jobs[0].conn", "sqlite3.Connection")


class Animal(BaseModel):
    name: str = "x"


class Dog(Animal):
    tricks: int = 0


class Owner(BaseModel):
    pet: Animal
    others: list[Animal] = []
    by_name: dict[str, Any] = {}


@dataclass
class Left:
    x: int = 1


@dataclass
class Right:
    x: int = 1


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (Owner(pet=Animal()), Owner(pet=Dog())),
        (Owner(pet=Dog(tricks=1)), Owner(pet=Dog(tricks=2))),
        (Owner(pet=Animal(), others=[Dog()]), Owner(pet=Animal(), others=[Animal()])),
        (Owner(pet=Animal(), by_name={"a": Left()}), Owner(pet=Animal(), by_name={"a": Right()})),
        (Owner(pet=Animal(), by_name={"a": Left()}), Owner(pet=Animal(), by_name={"a": {"x": 1}})),
        (RootModel[list[int]]([1]), RootModel[list[int]]([2])),
        (create_model("M", x=(Any, 1))(), create_model("M", x=(int, 1))()),
        (create_model("M", x=(int, 1)), create_model("M", x=(int, 2))),
    ],
)
def test_nested_models_keep_their_types_and_all_their_fields(left: object, right: object) -> None:
    """A dump would make dicts of them, and of a declared base's fields only."""
    assert digest_value(left) != digest_value(right)


class Counter(BaseModel):
    start: int = 0
    _step: int = PrivateAttr(default=1)


def test_private_attributes_of_a_model_count() -> None:
    """They change what the model does, though ``model_dump`` leaves them out."""
    plain, other = Counter(), Counter()
    assert digest_value(plain) == digest_value(other)
    other._step = 2
    assert digest_value(plain) != digest_value(other)


class Flexible(BaseModel):
    model_config = ConfigDict(extra="allow")


def test_extra_fields_of_a_model_count() -> None:
    """What is allowed beyond the fields is content."""
    assert digest_value(Flexible(a=1)) != digest_value(Flexible(a=2))  # type: ignore[call-arg]


@attrs.define
class Account:
    owner: str
    balance: float = attrs.field(default=0.0, eq=False)


def test_attrs_fields_count_whatever_takes_part_in_equality() -> None:
    """Two instances may compare equal and still be different inputs."""
    assert Account("a", 1.0) == Account("a", 2.0)
    assert digest_value(Account("a", 1.0)) != digest_value(Account("a", 2.0))


def test_unset_slots_are_told_apart_from_set_ones() -> None:
    """A slotted instance may lack an attribute."""
    whole, part = Account("a", 1.0), Account("a", 1.0)
    del part.balance
    assert digest_value(whole) != digest_value(part)
    other = Account("b")
    del other.balance
    assert digest_value(part) != digest_value(other)


class Sheet(pd.DataFrame):
    _metadata = ("unit",)

    @property
    def _constructor(self) -> type[Sheet]:
        return Sheet


def test_subclass_of_a_frame_keeps_its_declared_attributes() -> None:
    """What a subclass asks pandas to carry along is content."""
    metres, feet = Sheet({"a": [1]}), Sheet({"a": [1]})
    metres.unit, feet.unit = "m", "ft"  # type: ignore[attr-defined]
    assert digest_value(metres) != digest_value(feet)
    assert digest_value(metres) != digest_value(pd.DataFrame({"a": [1]}))


def test_frame_attributes_and_flags_count() -> None:
    """``attrs`` and flags travel with a frame, so they are input."""
    plain, noted = pd.DataFrame({"a": [1]}), pd.DataFrame({"a": [1]})
    assert digest_value(plain) == digest_value(noted)
    noted.attrs["source"] = "x"
    assert digest_value(plain) != digest_value(noted)
    strict = pd.DataFrame({"a": [1]}).set_flags(allows_duplicate_labels=False)
    assert digest_value(plain) != digest_value(strict)


def test_every_byte_of_a_large_array_counts() -> None:
    """No sampling, no elision."""
    values = np.zeros(1_000_000)
    before = digest_value(values)
    values[500_000] = 5e-324
    assert digest_value(values) != before


def test_mapped_array_digests_by_content(tmp_path: Any) -> None:
    """Where a mapped file lies does not count."""
    digests = set()
    for name in ("a", "b"):
        mapped = np.memmap(tmp_path / name, dtype="i4", mode="w+", shape=(3,))
        mapped[:] = [1, 2, 3]
        digests.add(digest_value(mapped))
        del mapped
    assert len(digests) == 1


@pytest.mark.skipif(not hasattr(np.dtypes, "StringDType"), reason="numpy 1 has no such strings")
def test_strings_of_variable_width_count_by_content() -> None:
    """numpy's own string dtype stores pointers, which no digest may see."""
    string = np.dtypes.StringDType()
    texts = ["a" * 50, "b" * 100]
    assert digest_value(np.array(texts, dtype=string)) == digest_value(
        np.array(list(texts), dtype=string)
    )
    assert digest_value(np.array(texts, dtype=string)) != digest_value(
        np.array(texts[::-1], dtype=string)
    )


def test_generators_of_random_numbers_count_by_state() -> None:
    """The same seed is the same input; after a draw it is another."""
    first, second = np.random.default_rng(1), np.random.default_rng(1)
    assert digest_value(first) == digest_value(second)
    second.random()
    assert digest_value(first) != digest_value(second)


# -------------------------------------------------------------------- before and after pickling

_STRUCTURE = np.dtype([("a", "i1"), ("b", "f8"), ("c", "f4", (2, 2))], align=True)
_DATES = pd.date_range("2020", periods=3)

PICKLED: dict[str, object] = {
    "float64": np.arange(9.0),
    "matrix": np.ones((2, 3), int),
    "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "strided": np.arange(10.0)[::2],
    "empty": np.zeros((0, 3)),
    "large": np.arange(100_000.0),
    "other byte order": np.arange(3, dtype=">f8"),
    "longlong": np.arange(3, dtype=np.longlong),
    "dates": np.array(["2020-01-01"], "M8[D]"),
    "durations": np.array([1], "m8[ns]"),
    "texts": np.array(["a", "bcd"]),
    "objects": np.array([1, "a", None], object),
    "structure": np.zeros(2, _STRUCTURE),
    "record": np.rec.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")]),
    "masked": np.ma.array([1.0, 2.0], mask=[0, 1]),
    "metadata": np.zeros(2, np.dtype("f8", metadata={"a": 1})),
    "scalar": np.float64(1.5),
    "longlong scalar": np.longlong(4),
    "date scalar": np.datetime64("2020-01-01"),
    "dtype": np.dtype("f8"),
    "dtype of a structure": _STRUCTURE,
    "series": pd.Series([1.0], name="q", index=["z"]),
    "frame": pd.DataFrame({"a": [1.0], "b": [2.0]}),
    "mixed frame": pd.DataFrame({"a": [1], "b": ["x"], "c": _DATES[:1]}),
    "transposed": pd.DataFrame({"a": [1, 2], "b": [3, 4]}).T,
    "sliced": pd.DataFrame({"a": range(10), "b": range(10)}).iloc[::2],
    "categories": pd.Series(["a", "b"], dtype="category"),
    "times": pd.Series(_DATES.tz_localize("UTC")),
    "index of times": _DATES,
    "nullable": pd.array([1, None], dtype="Int64"),
    "strings": pd.array(["a", None], dtype="string"),
    "periods": pd.period_range("2020", periods=3, freq="M"),
    "index of pairs": pd.MultiIndex.from_product([[1, 2], ["a"]], names=["x", None]),
}


@pytest.mark.parametrize("value", PICKLED.values(), ids=PICKLED)
def test_arrays_and_frames_have_one_digest_before_and_after_pickling(value: Any) -> None:
    """A cached result is the same input as the value it was computed as, however it was stored."""
    before = digest_value(value)
    buffers: list[pickle.PickleBuffer] = []
    beside = pickle.dumps(value, 5, buffer_callback=buffers.append)
    assert digest_value(pickle.loads(pickle.dumps(value, 5))) == before
    assert digest_value(pickle.loads(beside, buffers=buffers)) == before
    assert digest_value(copy.deepcopy(value)) == before


def test_scalars_keep_their_type_apart() -> None:
    """Of numpy's own, by width and kind, and a subclass by its name."""

    class Length(np.float64):
        pass

    scalars = [np.float64(1), np.float32(1), np.int64(1), np.uint8(1), np.bool_(True), Length(1)]
    assert len({digest_value(scalar) for scalar in [*scalars, np.array(1.0), 1.0]}) == 8


class Limits:
    def __init__(self, level: int) -> None:
        self.level = level


@dataclass
class Guarded:
    name: str
    limits: Limits = field(default=Limits(1), init=False)


def test_a_field_that_the_class_alone_holds_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dataclass's default is part of its instances though none of them stores it."""
    before = digest_value(Guarded("a"))
    assert "limits" not in vars(Guarded("a"))
    monkeypatch.setattr(Guarded, "limits", Limits(2))
    assert digest_value(Guarded("a")) != before
