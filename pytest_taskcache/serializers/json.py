"""Values as JSON text: what comes back is equal and of the same types, or it is refused."""

from __future__ import annotations

import json
import math
from typing import NoReturn, cast

from pytest_taskcache.dataclass import dataclass
from pytest_taskcache.errors import SerializationError
from pytest_taskcache.ports import Payload, Restore
from pytest_taskcache.serializers.named_paths import distinct, in_json

NAME = "json"


@dataclass(frozen=True, slots=True)
class JSONSerializer:
    """JSON in UTF-8, for None, bool, int, float, str, list, and dict with str keys.

    Everything that JSON would turn into something else is refused, with its place in the value:
    tuples, sets, bytes, keys that are not text, subclasses (an IntEnum is no int here), and the
    floats that JSON lacks (NaN, infinities). The order of keys is kept; a list that occurs twice
    comes back as two equal lists. Lone surrogates, as in undecodable file names, are kept
    (as UTF-8 would write them, were it allowed to), so such text is for Python to read.
    """

    name = NAME
    executes = False

    def dump(self, value: object) -> Payload:
        """The payload: one chunk of JSON text. Raises SerializationError, naming the place."""
        try:
            _check(value, "value", set())
            text = _ENCODER.encode(value)
        except RecursionError as error:
            raise SerializationError(NAME, type(value).__name__, "nested too deeply") from error
        except ValueError as error:
            # Ours, and an integer of more digits than the interpreter agrees to convert.
            raise SerializationError(NAME, type(value).__name__, str(error)) from error
        data = text.encode("utf-8", "surrogatepass")
        return Payload((data,), paths=distinct(in_json(data)))

    def load(self, data: memoryview, restore: Restore) -> object:
        """A new value. Raises SerializationError."""
        try:
            text = str(data, "utf-8", "surrogatepass")
            value: object = _DECODER.decode(text)
        except RecursionError as error:
            raise SerializationError(NAME, "", "nested too deeply") from error
        except ValueError as error:
            raise SerializationError(NAME, "", str(error)) from error
        return value


def _check(value: object, path: str, around: set[int]) -> None:
    """Raises ValueError where something in the value would not come back the same; ``around`` are
    the ids of the containers that it lies in."""
    kind = type(value)
    if kind is list and _PLAIN.issuperset(map(type, cast("list[object]", value))):
        return  # most of what is large
    if kind is list or kind is dict:
        if id(value) in around:
            raise ValueError(f"{path} contains itself")
        around.add(id(value))
        if isinstance(value, dict):
            for key in value:
                if type(key) is not str:
                    what = f"the key {key!r}, a {type(key).__qualname__}"
                    raise ValueError(f"{path} has {what}; JSON has only str keys")
        items = value.items() if isinstance(value, dict) else enumerate(cast("list[object]", value))
        for place, item in items:
            if type(item) not in _PLAIN:
                _check(item, f"{path}[{place!r}]", around)
        around.discard(id(value))
    elif isinstance(value, float) and kind is float:
        if not math.isfinite(value):
            raise ValueError(f"{path} is {value}, which JSON lacks")
    elif kind not in _PLAIN:
        raise ValueError(
            f"{path} is a {kind.__qualname__}, which would come back as something else or not at "
            f"all; return lists and dicts of plain values, or use the pickle serializer"
        )


_PLAIN = frozenset((type(None), bool, int, str))


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


# Made once: `json.dumps` and `json.loads` make theirs anew in each call with such options.
_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)
