"""What is kept of a test file's collection: a tree of plain values, and what it rests on.

A record of a file with one class and one parametrized test::

    {"format": 3, "module": "tests.test_rates",
     "table": [["slow"], ["tmp_path"], ...],
     "children": [{"n": "TestRates", "c": [...]}, {"n": "test_rate[1]", ...}],
     "tests": {"TestRates::test_all": "<fixtures and marks>", "test_rate[1]": ...}}

Reading one executes nothing. It is decoded only when its file is collected.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

from pytest_taskcache.dataclass import dataclass, field

FORMAT = 3
"""Version of this encoding; part of the key of every record."""

Json = dict[str, Any]


class UnrecordableError(Exception):
    """Why a file has to be collected really; never leaves this room."""


class DamagedRecordError(ValueError):
    """A record that is not what was written."""


@dataclass
class CollectionRecord:
    """One file's collection. ``children`` and ``table`` as `pytest_nodes` writes them; ``tests``
    holds for each test, by the rest of its node id, a text of the marks and fixtures that it had
    when its outcome could be looked up ("" if it could not); ``warnings`` is what collecting the
    file warned of, ``module`` what it is called when imported."""

    module: str
    children: list[Json]
    table: list[Any]
    marks: int
    warnings: list[Json] = field(default_factory=list)
    tests: dict[str, str] = field(default_factory=dict)
    reason: str = ""
    """Why the file cannot be stood in for; then there is no tree."""

    def encode(self) -> bytes:
        """The record as JSON."""
        document = {"format": FORMAT, **vars(self)}
        return json.dumps(document, separators=(",", ":"), allow_nan=False).encode()

    @classmethod
    def decode(cls, data: bytes | memoryview) -> CollectionRecord:
        """The record again. Raises DamagedRecordError."""
        try:
            found = json.loads(bytes(data))
            if found.pop("format") != FORMAT:
                raise DamagedRecordError("written in another format")
            record = cls(**found)
            tests = [entry for entry in record.entries() if "c" not in entry]
            if len(tests) != len(record.tests):
                raise DamagedRecordError("incomplete")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise DamagedRecordError(str(error)) from error
        return record

    def entries(self) -> Iterator[Json]:
        """Every entry of the tree, those of tests in order."""
        pending = self.children[::-1]
        while pending:
            entry = pending.pop()
            yield entry
            pending += reversed(entry.get("c", ()))


_PRIMITIVES = frozenset({str, int, bool, type(None)})


def to_plain(value: object) -> Any:
    """A value as JSON, for `from_plain`. Raises UnrecordableError for what is not plain."""
    kind = type(value)
    if kind in _PRIMITIVES or (kind is float and math.isfinite(value)):  # type: ignore[arg-type]
        return value
    if isinstance(value, (list, tuple)) and kind in (list, tuple):
        return {kind.__name__: [to_plain(each) for each in value]}
    if isinstance(value, dict) and kind is dict and all(type(key) is str for key in value):
        return {"dict": {key: to_plain(each) for key, each in value.items()}}
    raise UnrecordableError(f"a {kind.__qualname__} is no plain value")


def from_plain(value: Any) -> Any:
    """The value again."""
    if type(value) is not dict:
        return value
    ((kind, content),) = value.items()
    if kind == "dict":
        return {key: from_plain(each) for key, each in content.items()}
    parts = [from_plain(each) for each in content]
    return tuple(parts) if kind == "tuple" else parts
