"""Values as they were, against what they are: containers and objects by their elements and public
attributes, anything else by whether it is the same object."""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from contextvars import ContextVar
from operator import is_
from threading import local
from types import FunctionType, MappingProxyType, MemberDescriptorType
from typing import Any

from pytest_taskcache.code.asleep import namespace_of

PLAIN = frozenset({int, float, complex, str, bytes, bool, type(None)})
CONTAINERS = (dict, list, tuple, set, frozenset, bytearray, deque, MappingProxyType, ContextVar)
NAMESPACES = frozenset({"types.SimpleNamespace", "argparse.Namespace", "_thread._local"})
"""Types of Python's own with nothing but attributes, which whoever has them sets."""


def is_of_threads(kind: type) -> bool:
    """Whether it holds something for each thread or task, and may be looked at: an ``__init__``
    of its own would be executed in a thread that is the first to look."""
    own: object = kind.__init__  # type: ignore[misc]
    return kind is ContextVar or (issubclass(kind, local) and own is object.__init__)


class Held:
    """One value as it was: its elements, or attributes, and those of these that may change. What
    is not looked into has no ``parts``, not even an empty list of them."""

    __slots__ = ("inner", "names", "parts", "value")

    def __init__(
        self, value: object, names: tuple[str, ...] = (), parts: list[Any] | None = None
    ) -> None:
        self.value = value
        self.names = names
        self.parts = parts
        self.inner: dict[int, Held] = {}

    def as_it_was(self) -> object:
        """The value, or what was in it, for a digest; private attributes as they are."""
        if self.parts is None:
            return self.value
        kind, space = type(self.value), namespace_of(self.value)
        if issubclass(kind, (set, frozenset)):
            return kind.__name__, frozenset(self.parts)
        inside = [
            self.inner[place].as_it_was() if place in self.inner else part
            for place, part in enumerate(self.parts)
        ]
        return kind.__name__, self.names, inside, {n: v for n, v in space.items() if n[:1] == "_"}

    def differing(self, value: Any, but_for: frozenset[str]) -> str | None:
        """What differs in a value from this one: the name of an attribute, or nothing for the value
        itself; None if nothing does. Attributes of these names aside."""
        kind = type(value)
        if kind is not type(self.value):
            return ""
        if self.parts is None:
            return None if _is_same(value, self.value) else ""
        names, parts = parts_of(value)
        if not parts and value is not self.value and not issubclass(kind, CONTAINERS):
            return ""  # what makes it another one is not shown
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
                part = after[name] if name in after else self.parts[before[name]]
                if is_memo(kind, name) or _is_same(part, _default(kind, name)):
                    continue
                return name
            found = self._differing_at(before[name], after[name], but_for)
            if found is not None:
                return found or name
        return None

    def _differing_at(self, place: int, part: Any, but_for: frozenset[str]) -> str | None:
        inner = self.inner.get(place)
        if inner is not None:
            return inner.differing(part, but_for)
        return None if self.parts and _is_same(part, self.parts[place]) else ""


def _is_same(one: Any, other: Any) -> bool:
    if one is other:
        return True
    if type(one) is type(other) is FunctionType:
        return _is_made_anew(one, other)
    if type(one) is type(other) is tuple and len(one) == len(other):
        return all(map(_is_same, one, other))
    plain = type(one) is type(other) and type(one) in PLAIN and one == other
    return plain and (bool(one) or repr(one) == repr(other))  # as 0.0 and -0.0 are not


def _is_made_anew(one: FunctionType, other: FunctionType) -> bool:
    """Whether two functions are of one statement, executed twice with the same end."""
    if one.__code__ != other.__code__ or one.__globals__ is not other.__globals__:
        return False
    if one.__closure__ or other.__closure__:
        return False
    given, before = (
        {**dict(enumerate(each.__defaults__ or ())), **(each.__kwdefaults__ or {})}
        for each in (one, other)
    )
    return given.keys() == before.keys() and all(map(_is_same, given.values(), before.values()))


def _default(kind: type, name: str) -> object:
    """What an object has that has no such attribute of its own: who put it back left it there."""
    return next((vars(each)[name] for each in kind.__mro__ if name in vars(each)), NOTHING)


def is_memo(kind: type, name: str) -> bool:
    """Whether an attribute comes and goes as its class computes it: a `functools.cached_property`,
    or another's like it."""
    made = _default(kind, name)
    return hasattr(type(made), "__get__") and not isinstance(made, _OF_THE_CLASS)


_OF_THE_CLASS = (FunctionType, MemberDescriptorType)


def parts_of(value: Any) -> tuple[tuple[str, ...], list[Any]]:
    """The elements of a container, or the public attributes of an object with their names."""
    kind = type(value)
    if kind is MappingProxyType:
        return (), [*value.keys(), *value.values()]
    if kind is ContextVar:
        try:
            return (), [value.get()]
        except LookupError:
            return (), []
    if issubclass(kind, dict):
        return (), [*dict.keys(value), *dict.values(value)]
    for container in (list, tuple, set, frozenset, deque):
        if issubclass(kind, container):
            return (), [*container.__iter__(value)]
    if issubclass(kind, bytearray):
        return (), [bytes(value)]
    look = local.__getattribute__ if is_of_threads(kind) else None
    space = list((look(value, "__dict__") if look else namespace_of(value)).items())
    for cls in kind.__mro__:
        slots = cls.__dict__.get("__slots__", ())
        for name in (slots,) if type(slots) is str else slots:
            with suppress(AttributeError):
                space.append((name, object.__getattribute__(value, name)))
    named = [each for each in space if not each[0].startswith("_")]
    return tuple(name for name, _ in named), [part for _, part in named]


NOTHING = Held(object())
"""Stands for what was not there: nothing that is there equals it."""
