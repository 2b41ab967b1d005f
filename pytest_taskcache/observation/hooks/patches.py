"""What tests have patched at the moment, and who may notice it.

    lib.py     K = 1                          test: monkeypatch.setattr(lib, "K", 2)
               def rate(): return K
               def area(): return 3           rate()   K is among its identifiers: patched
    test_a.py  @cached                        total()  mentions rate, which mentions K: patched
               def total(): return rate()     area()   mentions nothing of the sort: not patched

While something that a computation reaches is patched, by `monkeypatch` or `unittest.mock`, what it
returns says nothing about the unpatched program, and what was recorded says nothing about the
patched one. Environment variables and the working directory are observed by value and are no
patches in this sense, and plain assignments are the business of `global_state`.

From a function, each identifier that its code mentions (names, attributes, texts that read like
names) leads to every function and class of that name in the project's loaded modules. A patch of
something of the project counts if the name it patches is among these; for an item of a dict, the
name that holds the dict. A patch of anything else (the standard library, an installed package, an
object that nobody holds by name) counts always: how code of others leads there is not known.
"""

from __future__ import annotations

import _locale
import functools
import os
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any, NamedTuple

from pytest_taskcache.code.asleep import is_a, is_function, namespace_of
from pytest_taskcache.observation.hooks.callers import is_machinery
from pytest_taskcache.observation.hooks.import_hooks import source_of
from pytest_taskcache.observation.hooks.replacing import amend

_BY_VALUE = (os.environ, getattr(os, "environb", os.environ), sys.modules)
"""Dictionaries of which an item is observed by its value, or restored by the runner."""

SYSTEM = frozenset({"dont_write_bytecode", "path", "stderr", "stdout"})
"""Of `sys`: what shows in no value, or is observed by what is found there."""

_CONTAINERS = (dict, list, tuple, set, frozenset)
_ELEMENTS = 1000
"""How many elements of a global container are looked at."""

_Code = FunctionType | type


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
                if not any(target is each for each in _BY_VALUE):
                    yield Patch(target, str(name), item=True)

    def install(self) -> None:
        """Starts to note patches, now or once their library is imported. The wrappers stay."""
        amend("_pytest.monkeypatch", self._wrap_monkeypatch)
        amend("unittest.mock", self._wrap_mock)

    def _wrap_monkeypatch(self, module: ModuleType) -> None:
        for name in ("setattr", "delattr", "setitem", "delitem"):
            _wrap(module.MonkeyPatch, name, before=self._monkeypatches.add)

    def _wrap_mock(self, module: ModuleType) -> None:
        mocks = self._mocks

        def attribute(patch: Any) -> None:
            mocks[id(patch)] = Patch(
                patch.target, patch.attribute, item=False, original=patch.temp_original
            )

        def items(patch: Any) -> None:
            if not any(patch.in_dict is each for each in _BY_VALUE):
                name = str(next(iter(patch.values), "..."))  # it may only clear
                mocks[id(patch)] = Patch(patch.in_dict, name, item=True)

        def end(patch: Any) -> None:
            mocks.pop(id(patch), None)

        _wrap(module._patch, "__enter__", after=attribute)
        _wrap(module._patch, "__exit__", before=end)
        _wrap(module._patch_dict, "_patch_dict", after=items)
        _wrap(module._patch_dict, "_unpatch_dict", before=end)


def _wrap(
    cls: Any,
    name: str,
    before: Callable[[Any], None] = lambda patch: None,
    after: Callable[[Any], None] = lambda patch: None,
) -> None:
    """Has a method tell of its object before and after it does what it did."""
    original = getattr(cls, name)

    @functools.wraps(original)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        before(self)
        result = original(self, *args, **kwargs)
        after(self)
        return result

    setattr(cls, name, call)


patches = Patches()


class Ambient:
    """What calculation and formatting depend on without naming it: the thread's decimal context,
    and the locale. While one is not as it was kept, everything counts as patched."""

    def __init__(self) -> None:
        self.keep()

    def keep(self) -> None:
        """From now on what is now is how it should be."""
        self._locale = _locale.setlocale(_locale.LC_ALL)
        decimal = sys.modules.get("decimal")
        self._context = None if decimal is None else decimal.getcontext().copy()

    def changed(self) -> str:
        """What is not as it was kept; empty if all is."""
        if _locale.setlocale(_locale.LC_ALL) != self._locale:
            return "locale"
        decimal = sys.modules.get("decimal")
        if decimal is None:
            return ""
        now, before = decimal.getcontext(), self._context or decimal.DefaultContext
        same = now.prec == before.prec and now.rounding == before.rounding
        same = same and now.capitals == before.capitals and now.clamp == before.clamp
        same = same and (now.Emin, now.Emax) == (before.Emin, before.Emax)
        return "" if same and now.traps == before.traps else "decimal context"


class PatchedState:
    """What is patched, for one project; ``is_project`` tells its files."""

    def __init__(self, is_project: Callable[[str], bool]) -> None:
        self._is_project = is_project
        self._loaded: list[int] = []
        self._project: list[ModuleType] = []
        self._size = -1
        self._named: dict[str, list[_Code]] = {}
        self._reached: dict[object, tuple[frozenset[str], list[FunctionType]]] = {}

    def of(self, function: Callable[..., Any], values: Iterable[object] = ()) -> str:
        """The first patch in force that this function may notice, as ``lib.K``; empty if there
        is none. ``values`` are its arguments, of which those that can be called count as well."""
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
        if target is sys and patch.name in SYSTEM:
            return None
        if patch.item:
            return self._holders(target)
        if not isinstance(target, ModuleType | type) and _is_of_the_runner(target):
            return None
        owner = target if isinstance(target, ModuleType | type) else type(target)
        module = owner if isinstance(owner, ModuleType) else sys.modules.get(owner.__module__)
        if is_machinery(source_of(module) or ""):
            return None
        return frozenset([patch.name]) if self._is_ours(source_of(module)) else frozenset()

    def _is_ours(self, filename: str | None) -> bool:
        """Whether a file is the project's, and not of what runs its tests."""
        return filename is not None and not is_machinery(filename) and self._is_project(filename)

    def _holders(self, target: object) -> frozenset[str]:
        """The names of globals, and of attributes of classes, that are this object."""
        return frozenset(name for name, value in self._values() if value is target)

    def _identifiers(
        self, function: Callable[..., Any], values: Iterable[object]
    ) -> frozenset[str]:
        self._renew()
        starts = (function, *filter(callable, values))
        return frozenset().union(*(self._walk(start)[0] for start in starts))

    def reach(self, function: Callable[..., Any]) -> list[FunctionType]:
        """The functions of the project that this one may reach, itself included."""
        self._renew()
        return self._walk(function)[1]

    def _walk(self, start: object) -> tuple[frozenset[str], list[FunctionType]]:
        if not is_function(start):
            return self._walked(start)
        if start not in self._reached:
            self._reached[start] = self._walked(start)
        return self._reached[start]

    def _walked(self, start: object) -> tuple[frozenset[str], list[FunctionType]]:
        found: set[str] = set()
        functions: list[FunctionType] = []
        seen: dict[int, object] = {}  # with the objects, so that no id is given away meanwhile
        waiting = [start]
        while waiting:
            one = waiting.pop()
            if id(one) in seen:
                continue
            seen[id(one)] = one
            waiting.extend(self._inner(one))
            if is_function(one) and self._is_ours(one.__code__.co_filename):
                functions.append(one)
                for name in _mentioned(one.__code__):
                    if name not in found:
                        found.add(name)
                        waiting.extend(self._named.get(name, ()))
        return frozenset(found), functions

    def _inner(self, one: Any) -> Iterator[object]:
        """What runs when this does without being named: what it wraps, holds or inherits."""
        if is_a(one, type):
            for base in one.__mro__:
                if self._is_ours(source_of(sys.modules.get(base.__module__))):
                    for value in list(vars(base).values()):
                        yield from codes_of(value)
        elif is_function(one):
            yield from kept_by(one)
        else:
            yield from codes_of(one)

    def is_own(self, module: ModuleType | None) -> bool:
        """Whether a module is the project's."""
        return module is not None and self._is_ours(source_of(module))

    def modules(self) -> list[ModuleType]:
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

    def _values(self) -> Iterator[tuple[str, object]]:
        """The globals of the project's modules, and the attributes of their classes, by name."""
        for module in self.modules():
            for name, value in list(namespace_of(module).items()):
                yield name, value
                if is_a(value, type) and value.__module__ == module.__name__:
                    yield from list(vars(value).items())

    def _renew(self) -> None:
        """Lists by name what the modules hold, if they hold something else than they did. What
        was patched before counts as it was: it comes back."""
        size = sum(len(namespace_of(module)) for module in self.modules())
        if size == self._size:
            return
        self._size = size
        self._named, self._reached = {}, {}
        patched = [(patch.name, patch.original) for patch in patches.in_force()]
        for name, value in (*self._values(), *patched):
            self._named.setdefault(name, []).extend(codes_of(value))


def _is_of_the_runner(value: object) -> bool:
    """Whether an object is a test item, a session or the like, of pytest's or a plugin's class:
    pytest-asyncio patches what its items run."""
    modules = (sys.modules.get(base.__module__) for base in type(value).__mro__)
    return any(is_machinery(source_of(module) or "") for module in modules)


def codes_of(value: Any, depth: int = 8) -> Iterator[_Code]:
    """What may run where a name stands for this: itself, what it wraps or holds, its class for an
    object, what is in it for a container."""
    kind = type(value)
    if is_function(value) or issubclass(kind, type):
        yield value
    elif issubclass(kind, _CONTAINERS):
        elements = value.values() if issubclass(kind, dict) else value
        for each in islice(list(elements), _ELEMENTS):
            if is_function(each) or is_a(each, type):
                yield each
    elif not issubclass(kind, ModuleType):
        inner = namespace_of(value).get("__wrapped__")
        if issubclass(kind, functools.partial | functools.cached_property):
            inner = value.func
        elif issubclass(kind, MethodType | classmethod | staticmethod):
            inner = value.__func__
        if issubclass(kind, MethodType):
            yield type(value.__self__)
        parts = (value.fget, value.fset, value.fdel) if issubclass(kind, property) else (inner,)
        for part in parts:
            if part is not None and depth:
                yield from codes_of(part, depth - 1)
        yield kind


def kept_by(function: FunctionType) -> Iterator[object]:
    """What can be called of what a function wraps, closes over and has as defaults."""
    yield namespace_of(function).get("__wrapped__")
    kept = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    for cell in function.__closure__ or ():
        try:
            kept.append(cell.cell_contents)
        except ValueError:  # not filled yet
            continue
    yield from filter(callable, kept)


def _mentioned(code: CodeType) -> Iterator[str]:
    """The identifiers in a code object and those in it."""
    yield from code.co_names
    yield from code.co_freevars
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _mentioned(constant)
        elif isinstance(constant, str):
            yield from (part for part in constant.split(".") if part.isidentifier())
