"""Modules that are amended as soon as they are imported, by whoever imports them.

Importing `unittest.mock` or polars just to amend them would cost more than most runs. So the
finder that notes imports hands out their spec with a loader that amends what it has loaded.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

Amend = Callable[[ModuleType], None]

_amendments: dict[str, Amend] = {}


def amend(name: str, amendment: Amend) -> None:
    """Has a module amended once it is imported, or now if it is. Idempotent by name."""
    if name in _amendments:
        return
    _amendments[name] = amendment
    module = sys.modules.get(name)
    if module is not None:
        amendment(module)


def spec_of(name: str, path: Sequence[str] | None) -> ModuleSpec | None:
    """The spec of a module that is to be amended; None for all others."""
    amendment = _amendments.get(name)
    if amendment is None:
        return None
    spec = PathFinder.find_spec(name, path)
    if spec is None or spec.loader is None:
        return None
    loader: Any = _AmendingLoader(spec.loader, amendment)
    spec.loader = loader
    return spec


class _AmendingLoader:
    """A loader in all else as the one it stands for, which is put back once it has loaded."""

    def __init__(self, loader: Any, amendment: Amend) -> None:
        self._loader = loader
        self._amendment = amendment

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """As the loader's own."""
        made: ModuleType | None = self._loader.create_module(spec)
        return made

    def exec_module(self, module: ModuleType) -> None:
        """As the loader's own; then the module is amended."""
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        module.__loader__ = self._loader
        self._loader.exec_module(module)
        self._amendment(module)
