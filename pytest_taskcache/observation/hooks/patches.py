"""What tests have patched at the moment: by `monkeypatch`, by `unittest.mock`.

While something that a computation reaches is patched, what it returns says nothing about the
unpatched program, and what was recorded says nothing about the patched one. Environment variables
and the working directory are observed by value and are no patches in this sense. Not seen: plain
assignments to modules and classes.
"""

from __future__ import annotations

import functools
import os
import sys
import weakref
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, NamedTuple

from pytest_taskcache.observation.hooks.replacing import amend

_ENVIRONMENT = (os.environ, getattr(os, "environb", os.environ))


class Patch(NamedTuple):
    """One patch in force: the object whose attribute or item it is, the name of that, whether
    it is an item, and what was there before (of an attribute)."""

    target: Any
    name: str
    item: bool
    original: Any = None

    def __str__(self) -> str:
        owner = getattr(self.target, "__qualname__", None) or getattr(
            self.target, "__name__", type(self.target).__name__
        )
        return f"{owner}[{self.name!r}]" if self.item else f"{owner}.{self.name}"


class Patches:
    """The patches in force. ``any`` is what the hot path asks."""

    def __init__(self) -> None:
        self._monkeypatches: weakref.WeakSet[Any] = weakref.WeakSet()
        self._mocks: dict[int, Patch] = {}

    @property
    def any(self) -> bool:
        """Whether anything may be patched; false is certain."""
        if self._mocks:
            return True
        made = self._monkeypatches
        return len(made) > 0 and any(one._setattr or one._setitem for one in made)

    def in_force(self) -> Iterator[Patch]:
        """Every patch that stands now."""
        yield from list(self._mocks.values())
        for one in list(self._monkeypatches):
            for target, name, original in list(one._setattr):
                yield Patch(target, name, item=False, original=original)
            for target, name, _ in list(one._setitem):
                if not any(target is each for each in (*_ENVIRONMENT, sys.modules)):
                    yield Patch(target, str(name), item=True)

    def install(self) -> None:
        """Starts to note patches, now or once their library is imported. The wrappers stay."""
        amend("_pytest.monkeypatch", self._wrap_monkeypatch)
        amend("unittest.mock", self._wrap_mock)

    def _wrap_monkeypatch(self, module: ModuleType) -> None:
        for name in ("setattr", "delattr", "setitem", "delitem"):
            self._before(module.MonkeyPatch, name, self._monkeypatches.add)

    def _wrap_mock(self, module: ModuleType) -> None:
        mocks = self._mocks

        def attribute(patch: Any) -> None:
            mocks[id(patch)] = Patch(
                patch.target, patch.attribute, item=False, original=patch.temp_original
            )

        def items(patch: Any) -> None:
            if not any(patch.in_dict is each for each in (*_ENVIRONMENT, sys.modules)):
                name = str(next(iter(patch.values), "..."))  # it may only clear
                mocks[id(patch)] = Patch(patch.in_dict, name, item=True)

        def end(patch: Any) -> None:
            mocks.pop(id(patch), None)

        self._after(module._patch, "__enter__", attribute)
        self._before(module._patch, "__exit__", end)
        self._after(module._patch_dict, "_patch_dict", items)
        self._before(module._patch_dict, "_unpatch_dict", end)

    @staticmethod
    def _before(cls: Any, name: str, note: Callable[[Any], None]) -> None:
        original = getattr(cls, name)

        @functools.wraps(original)
        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            __tracebackhide__ = True
            note(self)
            return original(self, *args, **kwargs)

        setattr(cls, name, call)

    @staticmethod
    def _after(cls: Any, name: str, note: Callable[[Any], None]) -> None:
        original = getattr(cls, name)

        @functools.wraps(original)
        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            __tracebackhide__ = True
            result = original(self, *args, **kwargs)
            note(self)
            return result

        setattr(cls, name, call)


patches = Patches()
