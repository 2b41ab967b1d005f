"""Whether a test drew from the generators that pytest-randomly seeds.

It seeds them anew before each phase of a test (unless told not to), and a Mersenne Twister that
was just seeded stands at the end of its state: one that stands elsewhere was drawn from.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Generator
from typing import Any

import pytest

from pytest_taskcache.plugin.pytest_private import definitions

_END = 624
"""Words of the state of MT19937; where the position is right after seeding."""


class Randomness:
    """Follows draws, in tests and in the fixtures that they share."""

    def __init__(self, config: pytest.Config) -> None:
        self._reseeds = bool(getattr(config.option, "randomly_reset_seed", True))
        self._before: object = None
        self._drawn = False
        self._drawing: set[Any] = set()

    def begin(self) -> None:
        """A test begins."""
        self._drawn = False
        self._before = _state()

    def has_drawn(self, item: pytest.Item) -> bool:
        """Whether the test that began last, or a fixture that it uses, drew."""
        if not self._reseeds:
            self._drawn |= _state() != self._before
        return self._drawn or any(
            definition in self._drawing
            for those_of_name in definitions(item).values()
            for definition in those_of_name
        )

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_call(self) -> Generator[None, object, object]:
        """Looks after each phase of a test."""
        try:
            return (yield)
        finally:
            if self._reseeds and any(each != _END for each in _positions()):
                self._drawn = True

    pytest_runtest_setup = pytest_runtest_teardown = pytest_runtest_call

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any) -> Generator[None, object, object]:
        """Notes a fixture whose set-up drew: its value depends on the seed, whoever uses it."""
        before = _state()
        try:
            return (yield)
        finally:
            if _state() != before:
                self._drawing.add(fixturedef)

    @pytest.hookimpl
    def pytest_fixture_post_finalizer(self, fixturedef: Any) -> None:
        """Its value is gone."""
        self._drawing.discard(fixturedef)


def _positions() -> list[int]:
    positions = [random.getstate()[1][-1]]
    numpy: Any = sys.modules.get("numpy.random")
    if numpy is not None and numpy.get_state()[0] == "MT19937":
        positions.append(int(numpy.get_state()[2]))
    return positions


def _state() -> object:
    numpy: Any = sys.modules.get("numpy.random")
    drawn = random.getstate()
    if numpy is None:
        return hash(drawn)
    name, words, *rest = numpy.get_state()
    return hash((drawn, name, words.tobytes(), *rest))
