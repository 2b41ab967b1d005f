"""Whether something that a function reaches is patched at the moment.

    lib.py     K = 1                          test: monkeypatch.setattr(lib, "K", 2)
               def rate(): return K
               def area(): return 3           rate()   K is among its identifiers: patched
    test_a.py  @cached                        total()  mentions rate, which mentions K: patched
               def total(): return rate()     area()   mentions nothing of the sort: not patched

From a function, each identifier that its code mentions (names, attributes, texts that read like
names) leads to every function and class of that name in the project's loaded modules. A patch of
something of the project counts if the name it patches is among these; for an item of a dict, the
name that holds the dict. A patch of anything else (the standard library, an installed package, an
object that nobody holds by name) counts always: how code of others leads there is not known.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from pytest_taskcache.code.asleep import is_a, is_function, namespace_of
from pytest_taskcache.observation.hooks.callers import is_machinery
from pytest_taskcache.observation.hooks.imports import source_of
from pytest_taskcache.observation.hooks.patches import Patch, patches

_SYSTEM = frozenset({"argv", "dont_write_bytecode", "path", "stderr", "stdin", "stdout"})
"""Of `sys`: what shows in no value, or is observed by what is found there."""

_CONTAINERS = (dict, list, tuple, set, frozenset)
_ELEMENTS = 1000
"""How many elements of a global container are looked at."""

_Code = FunctionType | type


class PatchedState:
    """What is patched, for one project; ``is_project`` tells its files."""

    def __init__(self, is_project: Callable[[str], bool]) -> None:
        self._is_project = is_project
        self._loaded: list[int] = []
        self._project: list[ModuleType] = []
        self._size = -1
        self._named: dict[str, list[_Code]] = {}
        self._reached: dict[object, frozenset[str]] = {}

    def of(self, function: Callable[..., Any], values: Iterable[object] = ()) -> str:
        """The first patch in force that this function may notice, as ``lib.K``; empty if there
        is none. ``values`` are its arguments, of which those that can be called count as well."""
        if not patches.any:
            return ""
        identifiers: frozenset[str] | None = None
        for patch in patches.in_force():
            names = self._names(patch)
            if names is None:
                continue
            if not names:
                return str(patch)
            if identifiers is None:
                identifiers = self._identifiers(function, values)
            if not identifiers.isdisjoint(names):
                return str(patch)
        return ""

    def _names(self, patch: Patch) -> frozenset[str] | None:
        """The names by which code of the project gets at what is patched; none where it may by
        any, None where nothing is patched that matters."""
        target = patch.target
        if target is sys and patch.name in _SYSTEM:
            return None
        if patch.item:
            return self._holders(target)
        if not isinstance(target, ModuleType | type) and _is_of_the_runner(target):
            return None
        owner = target if isinstance(target, ModuleType | type) else type(target)
        module = owner if isinstance(owner, ModuleType) else sys.modules.get(owner.__module__)
        filename = source_of(module)
        if filename and is_machinery(filename):
            return None
        return frozenset([patch.name]) if self._is_ours(filename) else frozenset()

    def _is_ours(self, filename: str | None) -> bool:
        """Whether a file is the project's, and not of what runs its tests."""
        return (
            bool(filename) and not is_machinery(str(filename)) and self._is_project(str(filename))
        )

    def _holders(self, target: object) -> frozenset[str]:
        """The names of globals, and of attributes of classes, that are this object."""
        found: set[str] = set()
        for module in self._modules():
            for name, value in list(namespace_of(module).items()):
                if value is target:
                    found.add(name)
                elif is_a(value, type) and value.__module__ == module.__name__:
                    found.update(key for key, each in list(vars(value).items()) if each is target)
        return frozenset(found)

    # ------------------------------------------------------------------------- identifiers

    def _identifiers(
        self, function: Callable[..., Any], values: Iterable[object]
    ) -> frozenset[str]:
        self._renew()
        starts = [function, *(value for value in values if callable(value))]
        found: frozenset[str] = frozenset()
        for start in starts:
            known = self._reached.get(start) if is_function(start) else None
            if known is None:
                known = self._walk(start)
                if is_function(start):
                    self._reached[start] = known
            found |= known
        return found

    def _walk(self, start: object) -> frozenset[str]:
        found: set[str] = set()
        seen: set[int] = set()
        kept: list[object] = []  # so that no id is given away meanwhile
        waiting = [start]
        while waiting:
            one = waiting.pop()
            if id(one) in seen:
                continue
            seen.add(id(one))
            kept.append(one)
            waiting.extend(self._inner(one))
            if is_function(one) and self._is_ours(one.__code__.co_filename):
                for name in _mentioned(one.__code__):
                    if name not in found:
                        found.add(name)
                        waiting.extend(self._named.get(name, ()))
        return frozenset(found)

    def _inner(self, one: Any) -> Iterator[object]:
        """What runs when this does without being named: what it wraps, holds or inherits."""
        if is_a(one, type):
            for base in one.__mro__:
                if self._is_ours(source_of(sys.modules.get(base.__module__))):
                    for value in list(vars(base).values()):
                        yield from _accessors(value)
        elif is_a(one, functools.partial):
            yield one.func
        elif is_a(one, MethodType):
            yield one.__func__
            yield type(one.__self__)
        else:
            attributes = namespace_of(one)
            if "__wrapped__" in attributes:
                yield attributes["__wrapped__"]
            if is_function(one):
                yield from _kept_by(one)
            else:
                yield type(one)

    # ------------------------------------------------------------------------------- names

    def _modules(self) -> list[ModuleType]:
        """The project's loaded modules."""
        loaded = list(map(id, sys.modules.values()))
        if loaded != self._loaded:
            self._loaded = loaded
            self._size = -1
            self._project = [
                module
                for module in list(sys.modules.values())
                if is_a(module, ModuleType) and self._is_ours(source_of(module))
            ]
        return self._project

    def _renew(self) -> None:
        """Lists by name what the modules hold, if they hold something else than they did. What
        was patched before counts as it was: it comes back."""
        modules = self._modules()
        size = sum(len(namespace_of(module)) for module in modules)
        if size == self._size:
            return
        self._size = size
        self._named, self._reached = {}, {}
        for module in modules:
            for name, value in list(namespace_of(module).items()):
                self._add(name, _codes_of(value))
                if is_a(value, type) and value.__module__ == module.__name__:
                    for each, attribute in list(vars(value).items()):
                        self._add(each, _accessors(attribute))
        for patch in patches.in_force():
            self._add(patch.name, _codes_of(patch.original))
            self._add(patch.name, _accessors(patch.original))

    def _add(self, name: str, found: Iterable[_Code]) -> None:
        for code in found:
            self._named.setdefault(name, []).append(code)


def _is_of_the_runner(value: object) -> bool:
    """Whether an object is a test item, a session or the like, of pytest's or a plugin's class:
    pytest-asyncio patches what its items run."""
    modules = (sys.modules.get(base.__module__) for base in type(value).__mro__)
    return any(is_machinery(source_of(module) or "") for module in modules)


def _codes_of(value: Any) -> Iterator[_Code]:
    """What may run where a name stands for this: itself, what it wraps, its class for an object,
    what is in it for a container."""
    if is_function(value) or is_a(value, type):
        yield value
    elif issubclass(type(value), _CONTAINERS):
        elements = value.values() if is_a(value, dict) else value
        for each in islice(list(elements), _ELEMENTS):
            if is_function(each) or is_a(each, type):
                yield each
    elif not is_a(value, ModuleType):
        inner = namespace_of(value).get("__wrapped__")
        if is_a(value, functools.partial):
            inner = value.func
        elif is_a(value, MethodType):
            inner = value.__func__
        if is_function(inner):
            yield inner
        yield type(value)


def _accessors(value: Any) -> Iterator[FunctionType]:
    """The functions that an attribute of a class stands for."""
    if issubclass(type(value), classmethod | staticmethod):
        value = value.__func__
    parts: tuple[object, ...] = (value,)
    if is_a(value, property):
        parts = (value.fget, value.fset, value.fdel)
    elif is_a(value, functools.cached_property):
        parts = (value.func,)
    for each in parts:
        each = namespace_of(each).get("__wrapped__", each)
        if is_function(each):
            yield each


def _kept_by(function: FunctionType) -> Iterator[object]:
    """What can be called of a function's closure and defaults."""
    for cell in function.__closure__ or ():
        try:
            value = cell.cell_contents
        except ValueError:  # not filled yet
            continue
        if callable(value):
            yield value
    for value in (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()):
        if callable(value):
            yield value


def _mentioned(code: CodeType) -> Iterator[str]:
    """The identifiers in a code object and those in it."""
    yield from code.co_names
    yield from code.co_freevars
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _mentioned(constant)
        elif isinstance(constant, str):
            yield from (part for part in constant.split(".") if part.isidentifier())
