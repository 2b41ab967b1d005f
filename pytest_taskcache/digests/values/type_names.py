"""What types, functions and modules are called, and whether that name leads back to them."""

from __future__ import annotations

import sys
import sysconfig
from functools import cache
from pathlib import PurePath
from types import ModuleType


def qualified_name(named: type | object) -> str:
    """``module.qualified.name`` of a class or function."""
    module = getattr(named, "__module__", None) or "builtins"
    name = getattr(named, "__qualname__", None) or getattr(named, "__name__", "?")
    return f"{module}.{name}"


def shown_name(cls: type) -> str:
    """The type as users write it: ``builtins.`` is left out."""
    return qualified_name(cls).removeprefix("builtins.")


_HEAP_TYPE = 1 << 9
"""Flag of types made at run time (CPython's ``Py_TPFLAGS_HEAPTYPE``)."""


def is_importable(named: object) -> bool:
    """Whether importing its module and following its qualified name gives this very object.

    Types that are part of the interpreter or of an extension (NoneType) count as if it did: no
    two of them share a name.
    """
    if isinstance(named, type) and not named.__flags__ & _HEAP_TYPE:
        return True
    module = sys.modules.get(getattr(named, "__module__", None) or "builtins")
    name = getattr(named, "__qualname__", None)
    if module is None or not isinstance(name, str) or "<locals>" in name:
        return False
    first, *rest = name.split(".")
    # not getattr: a module's own __getattr__ may import, or warn
    found: object = vars(module).get(first)
    for attribute in rest:
        found = getattr(found, attribute, None)
    return found is named


def is_installed(module_name: str | None) -> bool:
    """Whether a module belongs to the interpreter or to site-packages, not to the project.

    Such code is identified by its name; which version of it is installed counts elsewhere. A
    module that is not loaded, or has no origin (``__main__`` of a console), is the project's.
    """
    module = sys.modules.get(module_name or "")
    if module is None:
        return False
    if module.__name__ in sys.builtin_module_names:
        return True
    origin = _origin(module)
    return origin is not None and _is_installed_file(origin)


def _origin(module: ModuleType) -> str | None:
    spec = getattr(module, "__spec__", None)
    origin = getattr(spec, "origin", None) or getattr(module, "__file__", None)
    return origin if isinstance(origin, str) else None


@cache
def _is_installed_file(origin: str) -> bool:
    if origin in {"built-in", "frozen"}:
        return True
    path = PurePath(origin)
    if {"site-packages", "dist-packages"} & set(path.parts):
        return True
    return any(
        path.is_relative_to(root)
        for name in ("stdlib", "platstdlib", "purelib", "platlib")
        if (root := sysconfig.get_path(name))
    )
