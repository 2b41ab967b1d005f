"""Functions of other modules, replaced: while anything is armed, or for good once the module is
imported by whoever imports it.

Importing `unittest.mock` or polars just to amend them would cost more than most runs. So the
finder that notes imports hands out their spec with a loader that amends what it has loaded.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib import import_module as plain_import
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any, NamedTuple

from pytest_taskcache.observation.hooks.dispatcher import dispatcher

Amend = Callable[[ModuleType], None]

_CAPABILITIES = (
    "supports_dir_fd",
    "supports_effective_ids",
    "supports_fd",
    "supports_follow_symlinks",
)
_amendments: dict[str, Amend] = {}


class _Module(NamedTuple):
    """Pickles as a module."""

    name: str

    def __reduce__(self) -> tuple[Any, ...]:
        return __import__, (self.name,)


class Replacement:
    """Stands in for a function of a module: has ``tell`` called with the arguments while anyone
    listens, then does the same.

    An object, because a plain function would rebind as a class's attribute. It pickles as what it
    stands in for, and is among what `os` says to support a capability.
    """

    def __init__(
        self, module: str, name: str, tell: Callable[[tuple[Any, ...], dict[str, Any]], None]
    ) -> None:
        self.__name__ = name
        self.__module__ = self._module = module
        self._tell = tell
        self.plain: Any = None

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (_Module(self._module), self.__name__)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """As what it stands for."""
        __tracebackhide__ = True
        if dispatcher.listeners:
            self._tell(args, kwargs)
        return self.plain(*args, **kwargs)

    def install(self) -> None:
        """Puts it in place, where the platform has such a function."""
        try:
            module = plain_import(self._module)
        except ImportError:
            return
        if self.plain is None:
            self.plain = getattr(module, self.__name__)
        swap(module, self.__name__, self.plain, self)

    def remove(self) -> None:
        """Puts the function back; references to this go on working, unseen."""
        if self.plain is not None:
            swap(sys.modules[self._module], self.__name__, self, self.plain)


def swap(module: Any, name: str, before: Any, after: Any) -> None:
    """Puts one thing in the place of another, unless something else is there by now."""
    if getattr(module, name) is not before:
        return  # someone wrapped it after us; theirs calls ours, which are gated
    setattr(module, name, after)
    for capability in _CAPABILITIES:
        group: set[Any] = getattr(module, capability, set())
        if before in group:
            group.discard(before)
            group.add(after)


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
