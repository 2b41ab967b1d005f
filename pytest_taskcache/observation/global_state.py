"""What the project's globals hold, against what they held when collection ended.

    lib.py     RATE = 2                       test: lib.RATE = 3, or lib.set_rate(3)
               _rows = None
               def rate(): return RATE        rate()   reads RATE, which others set: changed
               def rows():                    rows()   sets _rows itself: its own memory, which
                   global _rows                        counts by the code that fills it
                   _rows = _rows or load()
                   return _rows

What a function computes while something that it reads is not as it was says nothing about another
process, in which it is: what that holds counts then, like an input. Held are the data among the
globals of modules and the attributes of classes: numbers and texts, containers, objects of the
project's classes with their public attributes, nested, as far as a budget goes. Not seen: what
lies in objects of others' classes, and what a module held when it is first looked at, where it was
imported after collection.
"""

from __future__ import annotations

import dis
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from operator import is_
from types import CodeType, FunctionType, ModuleType, SimpleNamespace
from typing import Any, NamedTuple, TypeAlias

from pytest_taskcache.code.asleep import is_a, is_function, namespace_of
from pytest_taskcache.code.definitions import definition_name
from pytest_taskcache.observation.hooks.import_hooks import source_of
from pytest_taskcache.observation.hooks.patches import PatchedState, codes_of, kept_by

_ELEMENTS = 10_000
"""How many elements of one global are held, all that is nested included."""

_PLAIN = frozenset({int, float, complex, str, bytes, bool, type(None)})
_MAKERS = frozenset({"__init__", "__new__", "__post_init__", "__setstate__", "__set_name__"})
"""Methods that set attributes of an object nobody else knows yet."""

_MUTATORS = frozenset(
    name
    for kind in (dict, list, set, bytearray, deque)
    for name in vars(kind).keys() - {*dir(tuple), *dir(frozenset), *dir(bytes), *dir(range)}
    if name not in ("get", "items", "keys", "values", "fromkeys", "maxlen")
) | {"setattr", "delattr", "__setattr__", "__delattr__"}
"""Names by which code changes an object in place."""

_BY_TEXT = frozenset({"getattr", "globals", "vars", "__dict__"})
"""Names by which code gets at what a text names."""

_LOAD = dis.opmap["LOAD_GLOBAL"]
_FROM = dis.opmap["IMPORT_FROM"]
_GET = {dis.opmap["LOAD_ATTR"]: 0 if sys.version_info < (3, 12) else 1}
if "LOAD_METHOD" in dis.opmap and sys.version_info < (3, 12):
    _GET[dis.opmap["LOAD_METHOD"]] = 0
_SETS = frozenset(
    dis.opmap[f"{verb}_{what}"] for verb in ("STORE", "DELETE") for what in ("GLOBAL", "ATTR")
)
_SETS_ITEM = frozenset({dis.opmap["STORE_SUBSCR"], dis.opmap["DELETE_SUBSCR"]})

_Owner: TypeAlias = "dict[str, Any] | type"


class _Held:
    """One value as it was: its elements, or attributes, and those of these that may change. What
    is not looked into has no ``parts``, not even an empty list of them."""

    __slots__ = ("inner", "names", "parts", "value")

    def __init__(
        self, value: object, names: tuple[str, ...] = (), parts: list[Any] | None = None
    ) -> None:
        self.value = value
        self.names = names
        self.parts = parts
        self.inner: dict[int, _Held] = {}

    def differing(self, value: Any, but_for: frozenset[str]) -> str | None:
        """What differs in a value from this one: the name of an attribute, or nothing for the value
        itself; None if nothing does. Attributes of these names aside."""
        kind = type(value)
        if kind is not type(self.value):
            return ""
        if self.parts is None:
            same = value is self.value or (kind in _PLAIN and value == self.value)
            return None if same else ""
        names, parts = _parts(value)
        if len(parts) == len(self.parts) and all(map(is_, parts, self.parts)):
            for place, each in self.inner.items():
                name = self.names[place] if self.names else ""
                found = None if name in but_for else each.differing(each.value, but_for)
                if found is not None:
                    return found or name
            return None
        if not (self.names or names):
            if len(parts) != len(self.parts):
                return ""
            found_in = (self._differing_at(at, part, but_for) for at, part in enumerate(parts))
            return next((found for found in found_in if found is not None), None)
        before = {name: place for place, name in enumerate(self.names)}
        after = dict(zip(names, parts, strict=True))
        for name in (before.keys() | after.keys()) - but_for:
            if name not in before or name not in after:
                return name
            found = self._differing_at(before[name], after[name], but_for)
            if found is not None:
                return found or name
        return None

    def _differing_at(self, place: int, part: Any, but_for: frozenset[str]) -> str | None:
        inner = self.inner.get(place)
        if inner is not None:
            return inner.differing(part, but_for)
        before = self.parts[place] if self.parts else None
        same = type(part) is type(before) and type(part) in _PLAIN and part == before
        return None if part is before or same else ""


def _parts(value: Any) -> tuple[tuple[str, ...], list[Any]]:
    """The elements of a container, or the public attributes of an object with their names."""
    kind = type(value)
    if issubclass(kind, dict):
        return (), [*dict.keys(value), *dict.values(value)]
    for container in (list, tuple, set, frozenset):
        if issubclass(kind, container):
            return (), [*container.__iter__(value)]
    if issubclass(kind, bytearray):
        return (), [bytes(value)]
    named = [each for each in list(namespace_of(value).items()) if not each[0].startswith("_")]
    return tuple(name for name, _ in named), [part for _, part in named]


class _Check(NamedTuple):
    owner: _Owner
    name: str
    held: _Held
    label: str


class _Checks(NamedTuple):
    """What to look at for a trace, but for the names that its own code sets, and that code."""

    checks: list[_Check]
    but_for: frozenset[str]
    codes: frozenset[CodeType]

    def changed(self) -> Iterator[tuple[str, str, object]]:
        """The labels of those that have changed, the names of what did in them, and what they
        hold now; None for what is gone."""
        for owner, name, held, label in self.checks:
            space = owner if type(owner) is dict else type.__getattribute__(owner, "__dict__")
            found = held.differing(space[name], self.but_for) if name in space else ""
            if found is not None:
                yield f"{label}.{name}", found or name, space.get(name)

    def without(self, name: str) -> _Checks:
        """The same, where this name is set by code that belongs to it."""
        checks = [each for each in self.checks if each.name != name]
        return _Checks(checks, self.but_for | {name}, self.codes)


class GlobalState:
    """What globals of one project held; ``patched`` tells its modules, ``name_of`` how a file is
    called in traces."""

    def __init__(self, patched: PatchedState, name_of: Callable[[str], str]) -> None:
        self._patched = patched
        self._name_of = name_of
        self._held: dict[tuple[int, str], tuple[_Owner, _Held]] = {}
        self._labels: dict[int, str] = {}
        self._files: dict[str, list[dict[str, Any]]] = {}
        self._classes: dict[str, list[type]] = {}
        self._imported: dict[str, list[dict[str, Any]]] = {}
        self._codes: dict[str, dict[str, list[CodeType]]] = {}
        self._kinds: dict[type, bool] = {}
        self._by_name: dict[str, list[CodeType]] = {}
        self._checks: dict[str, _Checks] = {}
        self._setters: dict[tuple[frozenset[CodeType], str], bool] = {}
        self._looked = False

    def keep(self) -> None:
        """From now on what is now is how it should be."""
        self._held.clear()
        self._look()

    def note_module(self) -> None:
        """A module of the project is about to be executed."""
        self._looked = False

    def stands(self, trace: str) -> bool:
        """Whether `changed` is sure to find nothing: the shortest way to know."""
        if trace not in self._checks or not self._looked:
            return False
        known = self._checks[trace]
        return not known.checks or not any(known.changed())

    def changed(
        self, trace: str, ran: Callable[[], Iterable[tuple[str, str]]]
    ) -> dict[str, object]:
        """The globals that code of a trace reads, and others have changed, with what they hold.
        ``ran`` gives the code: files and definitions."""
        if not self._looked:
            self._look()
        if trace not in self._checks:
            self._checks[trace] = self._checks_of(ran())
        known = self._checks[trace]
        for _, name, _ in known.changed():
            if self._lead_to_setter(known.codes, name):
                self._checks[trace] = self._checks[trace].without(name)
        return {label: value for label, _, value in self._checks[trace].changed()}

    def _lead_to_setter(self, codes: frozenset[CodeType], name: str) -> bool:
        """Whether code mentions, through whatever else, code that sets this name: one that fills
        a lazy global when it is first asked for, and did so at another time."""
        known = self._setters.get((codes, name))
        if known is not None:
            return known
        if not self._by_name:
            for file in self._files:
                for definition, those in self._codes_of(file).items():
                    for part in definition.split(".")[-2:]:
                        self._by_name.setdefault(part, []).extend(those)
        waiting, seen = list(codes), set(codes)
        for code in waiting:  # it grows: the nearest first
            use = _use(code)
            if name in use.sets:
                break
            for each in use.mentions():
                fresh = [one for one in self._by_name.get(each, ()) if one not in seen]
                seen.update(fresh)
                waiting += fresh
        else:
            self._setters[codes, name] = False
            return False
        self._setters[codes, name] = True
        return True

    def _look(self) -> None:
        """Holds what is new."""
        self._looked = True
        self._checks.clear()
        self._labels.clear()
        self._files.clear()
        self._codes.clear()
        self._classes.clear()
        self._imported.clear()
        self._by_name.clear()
        self._setters.clear()
        for module in self._patched.modules():
            space = namespace_of(module)
            self._labels[id(space)] = module.__name__
            self._files.setdefault(self._name_of(source_of(module) or ""), []).append(space)
            for name, value in list(space.items()):
                if is_a(value, type):
                    if value.__module__ == module.__name__:
                        self._look_into(value)
                elif self._is_data(value) and not name.startswith("__"):
                    self._imported.setdefault(name, []).append(space)
                    self._hold(space, name, value)

    def _look_into(self, cls: type) -> None:
        self._labels[id(cls)] = cls.__qualname__
        for name, value in list(type.__getattribute__(cls, "__dict__").items()):
            if not name.startswith("__") and self._is_data(value):
                self._classes.setdefault(name, []).append(cls)
                self._hold(cls, name, value)

    def _hold(self, owner: _Owner, name: str, value: object) -> None:
        key = id(owner), name
        if key not in self._held:
            self._held[key] = owner, self._held_of(value, [_ELEMENTS], set())

    def _held_of(self, value: Any, budget: list[int], seen: set[int]) -> _Held:
        kind = type(value)
        if kind in _PLAIN or not self._has_parts(kind) or id(value) in seen:
            return _Held(value)
        seen.add(id(value))
        names, parts = _parts(value)
        held = _Held(value, names, parts)
        budget[0] -= len(parts)
        for place, part in enumerate(parts if budget[0] > 0 else ()):
            if type(part) not in _PLAIN and self._has_parts(type(part)):
                held.inner[place] = self._held_of(part, budget, seen)
        return held

    def _has_parts(self, kind: type) -> bool:
        """Whether values of a type are looked into: containers, and objects of the project's."""
        known = self._kinds.get(kind)
        if known is None:
            known = self._kinds[kind] = (
                issubclass(kind, dict | list | tuple | set | frozenset | bytearray)
                or kind is SimpleNamespace
                or self._patched.is_own(sys.modules.get(kind.__module__))
            )
        return known

    def _is_data(self, value: object) -> bool:
        kind = type(value)
        return kind in _PLAIN or (not issubclass(kind, type) and self._has_parts(kind))

    def _checks_of(self, ran: Iterable[tuple[str, str]]) -> _Checks:
        owners: dict[tuple[int, str], _Owner] = {}
        sets: set[str] = set()
        codes: set[CodeType] = set()
        for file, definition in ran:
            for code in self._codes_of(file).get(definition, ()):
                use = _use(code)
                sets |= use.sets
                codes.add(code)
                for space in self._files[file]:
                    for owner, name in self._owners(space, use):
                        owners[id(owner), name] = owner
        checks = [
            _Check(owner, key[1], self._held[key][1], self._labels[key[0]])
            for key, owner in owners.items()
            if key in self._held and key[0] in self._labels and key[1] not in sets
        ]
        return _Checks(checks, frozenset(sets), frozenset(codes))

    def _codes_of(self, file: str) -> dict[str, list[CodeType]]:
        """The code of the loaded modules of a file, by definition."""
        known = self._codes.get(file)
        if known is None:
            known = self._codes[file] = {}
            for space in self._files.get(file, ()):
                for function in _functions_in(space):
                    for code in _nested(function.__code__):
                        known.setdefault(definition_name(code.co_qualname), []).append(code)
        return known

    def _owners(self, space: dict[str, Any], use: _Use) -> Iterator[tuple[_Owner, str]]:
        for name in use.globals:
            yield space, name
        for base, name in use.attributes:
            holder = space.get(base) if base else None
            if is_a(holder, ModuleType):
                yield namespace_of(holder), name
            elif is_a(holder, type):
                yield from ((each, name) for each in type.mro(holder))
            else:  # of what is found out only by running: an object, or a module after a dot
                yield from ((each, name) for each in self._classes.get(name, ()))
                yield from ((each, name) for each in self._imported.get(name, ()))
        for name in use.imported:
            yield from ((each, name) for each in self._imported.get(name, ()))


def _functions_in(space: dict[str, Any]) -> Iterator[FunctionType]:
    """The functions that a module defines, and the methods of its classes."""
    waiting: list[object] = [each for value in list(space.values()) for each in codes_of(value)]
    seen: dict[int, object] = {}
    while waiting:
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen[id(one)] = one
        if is_a(one, type):
            if one.__module__ == space.get("__name__"):
                held = list(type.__getattribute__(one, "__dict__").values())
                waiting += [each for value in held for each in codes_of(value)]
        elif is_function(one):
            waiting += [each for each in kept_by(one) if each is not None]
            if one.__globals__ is space:
                yield one


class _Use(NamedTuple):
    """What one code object reads by name, attributes with the global they are asked of, and the
    names of what it sets, or may change in place."""

    globals: frozenset[str]
    attributes: frozenset[tuple[str, str]]
    imported: frozenset[str]
    sets: frozenset[str]

    def mentions(self) -> Iterator[str]:
        """All names that it reads."""
        yield from self.globals
        yield from (name for _, name in self.attributes)
        yield from self.imported


@cache
def _use(code: CodeType) -> _Use:
    read: set[str] = set()
    attributes: set[tuple[str, str]] = set()
    imported: set[str] = set()
    sets: set[str] = set()
    names = code.co_names
    texts = [part for each in code.co_consts if type(each) is str for part in each.split(".")]
    changes = not _MUTATORS.isdisjoint(names)
    if not _BY_TEXT.isdisjoint(names):
        imported.update(texts)
    base, extended = "", 0
    text = code.co_code
    for place in range(0, len(text), 2):
        operation, argument = text[place], text[place + 1] | extended
        if not operation:
            continue  # an inline cache
        extended = argument << 8 if operation == dis.EXTENDED_ARG else 0
        if operation == _LOAD:
            base = names[argument >> 1]
            read.add(base)
        elif operation in _GET:
            attributes.add((base, names[argument >> _GET[operation]]))
            base = ""
        elif not extended:
            base = ""
            if operation == _FROM:
                imported.add(names[argument])
            elif operation in _SETS:
                if code.co_name not in _MAKERS:
                    sets.add(names[argument])
            elif operation in _SETS_ITEM:
                changes = True
    if changes:
        sets.update(read, (name for _, name in attributes))
        sets.update(texts)
    return _Use(frozenset(read), frozenset(attributes), frozenset(imported), frozenset(sets))


def _nested(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _nested(constant)
