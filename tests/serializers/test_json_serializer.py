"""JSON: what comes back is the same, or it was refused with its place."""

from __future__ import annotations

import json
import math
import random
from collections import OrderedDict
from enum import IntEnum
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stored_payloads import NO_FILES, stored, there_and_back

from pytest_taskcache.errors import SerializationError
from pytest_taskcache.serializers.json import JSONSerializer

JSON = JSONSerializer()
every_text = st.text(st.characters())  # with lone surrogates

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | every_text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(every_text, inner, max_size=4),
    max_leaves=15,
)


def identical(left: Any, right: Any) -> bool:
    """Equal, of the same types, in the same order, with the same sign of zero."""
    if type(left) is not type(right):
        return False
    if isinstance(left, dict):
        return list(left) == list(right) and all(identical(left[k], right[k]) for k in left)
    if isinstance(left, list):
        return len(left) == len(right) and all(map(identical, left, right))
    if isinstance(left, float):
        return left == right and math.copysign(1, left) == math.copysign(1, right)
    return bool(left == right)


@given(values)
@settings(deadline=None)
def test_any_accepted_value_comes_back_identical(value: object) -> None:
    """Also -0.0, the order of keys, and text that is no valid Unicode."""
    assert identical(there_and_back(JSON, value), value)


def test_surrogates_side_by_side_do_not_melt_into_one_character() -> None:
    """JSON's escapes would read two lone surrogates back as one character."""
    for text in ("\ud83d\ude00", "\N{GRINNING FACE}", "\udc80\udcff"):
        assert there_and_back(JSON, [text]) == [text]


class Number(IntEnum):
    ONE = 1


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ((1, 2), "value is a tuple"),
        ({"a": [1, {"b": (2,)}]}, r"value\['a'\]\[1\]\['b'\] is a tuple"),
        ([{1, 2}], r"value\[0\] is a set"),
        ({"raw": b"x"}, r"value\['raw'\] is a bytes"),
        ({"a": {1: "one"}}, r"value\['a'\] has the key 1, a int"),
        ({True: 1}, "has the key True, a bool"),
        ({None: 1}, "has the key None, a NoneType"),
        ([1.0, math.nan], r"value\[1\] is nan"),
        ({"x": -math.inf}, r"value\['x'\] is -inf"),
        ([Number.ONE], r"value\[0\] is a Number"),
        (OrderedDict(a=1), "value is a OrderedDict"),
        ([object()], r"value\[0\] is a object"),
    ],
)
def test_what_would_come_back_different_is_refused_with_its_place(
    value: object, place: str
) -> None:
    """The message names the place in the value, so that it can be found and changed."""
    with pytest.raises(SerializationError, match=place):
        JSON.dump(value)


def test_a_value_that_contains_itself_is_refused() -> None:
    """With the place, and without running for ever."""
    inner: list[object] = []
    value = {"a": inner}
    inner.append(value)
    with pytest.raises(SerializationError, match=r"value\['a'\]\[0\] contains itself"):
        JSON.dump(value)


def test_one_list_in_two_places_is_accepted() -> None:
    """Sharing is no cycle; two equal lists come back."""
    shared = [1]
    assert there_and_back(JSON, {"a": shared, "b": [shared]}) == {"a": [1], "b": [[1]]}


def test_limits_of_the_interpreter_are_errors_not_crashes() -> None:
    """Very deep values and integers too long to be written as text."""
    deep: list[object] = []
    for _ in range(50_000):
        deep = [deep]
    for value in (deep, 10**10_000):
        with pytest.raises(SerializationError):
            JSON.dump(value)
    for data in (b"[" * 100_000, b"1" * 10_000):
        with pytest.raises(SerializationError):
            JSON.load(memoryview(data), NO_FILES)


@pytest.mark.parametrize(
    "data", [b"", b"{", b'{"a":NaN}', b"Infinity", b"\xff", b"[1] 2", b"'a'", b'"\n"']
)
def test_bytes_that_are_no_json_are_refused(data: bytes) -> None:
    """Also what Python's own reader would take."""
    with pytest.raises(SerializationError):
        JSON.load(memoryview(data), NO_FILES)


def test_the_payload_is_plain_json() -> None:
    """A person, and any other program, can read what is stored."""
    data = stored(JSON.dump({"name": "käse", "sizes": [1, 2.5, None]}))
    assert json.loads(data) == {"name": "käse", "sizes": [1, 2.5, None]}
    assert data == '{"name":"käse","sizes":[1,2.5,null]}'.encode()


def test_damage_is_an_error_or_another_value() -> None:
    """Flipped bits raise nothing but the one error."""
    data = stored(JSON.dump({"a": [1, 2.5, None, True, "text"], "b": {"c": -1e300}}))
    picks = random.Random(2)
    refused = 0
    for _ in range(1000):
        damaged = bytearray(data)
        damaged[picks.randrange(len(data))] ^= 1 << picks.randrange(8)
        try:
            JSON.load(memoryview(damaged), NO_FILES)
        except SerializationError:
            refused += 1
    assert refused > 0
