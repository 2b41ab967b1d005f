"""What is read off a test item once, however often it is asked for."""

from __future__ import annotations

import inspect
import types
from dataclasses import dataclass
from typing import Any

import pytest

from pytest_taskcache.plugin.running import node_id


@dataclass(eq=False, slots=True)
class Facts:
    """A test item with its id (`node_id`), its function (`test_function`) and its marks, the
    closest first. Not to be changed."""

    item: pytest.Item
    nodeid: str
    function: types.FunctionType | None
    marks: list[pytest.Mark]


def facts_of(item: pytest.Item) -> Facts:
    """The facts of a collected item."""
    return Facts(item, node_id(item), test_function(item), list(item.iter_markers()))


def test_function(item: pytest.Item) -> types.FunctionType | None:
    """The plain function under a test item; None where there is none (a doctest)."""
    found: Any = getattr(item, "obj", None)
    found = getattr(found, "__func__", found)
    found = inspect.unwrap(found) if found is not None else None
    # Hypothesis does not set __wrapped__ on what it makes of a test.
    drawn: Any = getattr(getattr(found, "hypothesis", None), "inner_test", None)
    found = inspect.unwrap(drawn) if drawn is not None else found
    return found if isinstance(found, types.FunctionType) else None


def is_hypothesis_test(item: pytest.Item) -> bool:
    """Whether Hypothesis draws the test's arguments. Its own wrapper says so, not what it wraps."""
    found: Any = getattr(item, "obj", None)
    found = getattr(found, "__func__", found)
    while found is not None:
        if getattr(found, "is_hypothesis_test", False):
            return True
        found = getattr(found, "__wrapped__", None)
    return False
