"""What the project's globals hold, against what they held when collection ended.

    lib.py     RATE = 2                       test: lib.RATE = 3, or lib.set_rate(3)
               _rows = None
               def rate(): return RATE        rate()   reads RATE, which others set: changed
               def rows():                    rows()   alone sets _rows: its own memory, which
                   global _rows                        counts by the code that fills it
                   _rows = _rows or load()
                   return _rows

What a function computes while something that it reads is not as it was says nothing about another
process, in which it is: what that holds counts then, like an input. Held are the globals of
modules and the attributes of classes, and that they are not there: containers and objects of the
project's classes with what is in them, public attributes, nested, as far as a budget goes; anything
else, functions and classes too, by its identity. So are the globals of `builtins` and of libraries
that the project's modules import, which code names, and the time zone. Not seen: what lies in
objects of others' classes but for some of Python's own, a value that the same code puts in place
and takes back, and what a module held when it is first looked at, where it was imported after
collection.
"""

from __future__ import annotations

import builtins
import functools
import gc
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from inspect import CO_OPTIMIZED
from itertools import compress, count, repeat
from operator import call, is_, is_not
from types import (
    BuiltinFunctionType,
    CodeType,
    FunctionType,
    GenericAlias,
    MappingProxyType,
    MemberDescriptorType,
    MethodType,
    ModuleType,
    UnionType,
)
from typing import Any, NamedTuple, TypeAlias

from pytest_taskcache.code.asleep import is_a, is_asleep, is_function, namespace_of
from pytest_taskcache.code.byte_code import Use, may_set, nested, use_of
from pytest_taskcache.code.definitions import definition_name
from pytest_taskcache.observation.held_values import (
    CONTAINERS,
    NAMESPACES,
    NOTHING,
    PLAIN,
    Held,
    is_of_threads,
    parts_of,
)
from pytest_taskcache.observation.hooks.import_hooks import source_of
from pytest_taskcache.observation.hooks.patches import SYSTEM, PatchedState, codes_of, kept_by

_ELEMENTS = 10_000
"""How many elements of one global are held, all that is nested included."""

_DEPTH = 3
_REMEMBERS = type(functools.lru_cache(len))
_CODE = (
    *(FunctionType, BuiltinFunctionType, MethodType, ModuleType, GenericAlias, UnionType),
    *(classmethod, staticmethod, property, partial, MemberDescriptorType),
)

_ZONE = "tzname", "timezone"
"""Globals of `time` that say in which time zone the process is, which any code may read."""

_Owner: TypeAlias = "dict[str, Any] | type"


_NONE = repeat(NOTHING)


def _space_of(owner: _Owner) -> dict[str, Any] | MappingProxyType[str, Any]:
    return owner if isinstance(owner, dict) else type.__getattribute__(owner, "__dict__")


def _has_attributes(held: Held) -> bool:
    """Whether there are objects in a value, of which attributes may be set."""
    if held.parts is not None and not issubclass(type(held.value), CONTAINERS):
        return True
    return any(map(_has_attributes, held.inner.values()))


def _is_code(value: object) -> bool:
    return issubclass(type(value), (type, *_CODE))


class _Strange:
    """Stands for what has no digest."""

    def __reduce__(self) -> str:
        raise TypeError("nothing tells what it holds")


def _is_plain(value: object) -> bool:
    if type(value) in (list, tuple):
        return all(type(each) in PLAIN for each in value)  # type: ignore[attr-defined]
    return type(value) in PLAIN


class _Check(NamedTuple):
    owner: _Owner
    name: str
    held: Held
    label: str


class _Changed(NamedTuple):
    """Where a change is, the name of what did in it, whether this is of an attribute, and what is
    there now, `NOTHING` for what is gone."""

    key: tuple[int, str]
    label: str
    name: str
    inside: bool
    value: object


class Before(NamedTuple):
    """What globals that code of the project may set held when a computation began, those that were
    not as they should be; ``looked_at`` are all of these, ``owners`` who has them."""

    held: dict[tuple[int, str], Held]
    looked_at: frozenset[tuple[int, str]]
    owners: frozenset[int]


class _Checks:
    """What to look at for a trace, but for the names ``but_for`` that stand for its own memory;
    ``sets`` and ``alters`` are the globals, and attributes, that its code sets itself."""

    def __init__(
        self,
        checks: list[_Check],
        sets: frozenset[str],
        alters: frozenset[str],
        but_for: frozenset[str] = frozenset(),
    ) -> None:
        self.checks, self.sets, self.alters, self.but_for = checks, sets, alters, but_for
        self.given: dict[str, object] = {}
        self.gets: list[Any] = [_space_of(each.owner).get for each in checks]
        self.names = [each.name for each in checks]
        self.values = [NOTHING if each.held is NOTHING else each.held.value for each in checks]
        self.within = [at for at, each in enumerate(checks) if each.held.parts is not None]

    def _places(self) -> Iterator[int]:
        """Where something else is held, or what is held is not what it was."""
        found = map(call, self.gets, self.names, _NONE)
        moved = [*compress(count(), map(is_not, found, self.values))]
        yield from moved
        for place in self.within:
            held = self.checks[place].held
            if place not in moved and held.differing(held.value, self.but_for) is not None:
                yield place

    def changed(self) -> Iterator[_Changed]:
        """Those that have changed."""
        for place in self._places():
            owner, name, held, label = self.checks[place]
            space = _space_of(owner)
            if name not in space:
                found = None if held is NOTHING else ""
            elif held is NOTHING and type(owner) is dict and _is_code(space[name]):
                found = None  # of a lazy package, or imported where it is first needed
            else:
                found = held.differing(space[name], self.but_for)
            if found is not None:
                inside, value = bool(found) or type(owner) is not dict, space.get(name, NOTHING)
                yield _Changed((id(owner), name), f"{label}.{name}", found or name, inside, value)

    def is_own(self, change: _Changed) -> bool:
        """Whether its own code sets this."""
        return change.name in (self.alters if change.inside else self.sets)

    def without(self, name: str) -> _Checks:
        """The same, where this name stands for its own memory."""
        checks = [each for each in self.checks if each.name != name]
        found = _Checks(checks, self.sets, self.alters, self.but_for | {name})
        found.given = self.given
        return found


class _Settable:
    """What code of the project may set, as far as names tell: the checks of these, and all that
    have globals with what they held, for what is new in them."""

    def __init__(self, checks: _Checks, owners: list[tuple[_Owner, dict[str, Any]]]) -> None:
        self._checks, self._owners = checks, owners
        self._keys = frozenset((id(each.owner), each.name) for each in checks.checks)
        self._known = frozenset(id(owner) for owner, _ in owners)
        self._spaces = [_space_of(owner) for owner, _ in owners]
        self._sizes = [len(before) for _, before in owners]

    def present(self, hold: Callable[[object], Held]) -> Before:
        """What there is, with what `hold` makes of it."""
        held = {each.key: hold(each.value) for each in self._checks.changed()}
        if [*map(len, self._spaces)] != self._sizes:
            for owner, before in self._owners:
                for name in (_space_of(owner).keys() - before.keys()) & self._checks.sets:
                    held[id(owner), name] = hold(_space_of(owner)[name])
        return Before(held, self._keys, self._known)


class GlobalState:
    """What globals of one project held; ``patched`` tells its modules, ``name_of`` how a file is
    called in traces."""

    def __init__(self, patched: PatchedState, name_of: Callable[[str], str]) -> None:
        self._patched = patched
        self._name_of = name_of
        self._before: dict[int, tuple[_Owner, dict[str, Any]]] = {}
        self._whole: set[int] = set()
        self._held: dict[tuple[int, str], Held] = {}
        self._labels: dict[int, str] = {}
        self._files: dict[str, list[dict[str, Any]]] = {}
        self._classes: dict[str, list[type]] = {}
        self._methods: dict[str, list[type]] = {}
        self._imported: dict[str, list[dict[str, Any]]] = {}
        self._codes: dict[str, dict[str, list[CodeType]]] = {}
        self._kinds: dict[type, bool] = {}
        self._by_name: dict[str, list[CodeType]] = {}
        self._checks: dict[str, _Checks] = {}
        self._setters: dict[str, list[CodeType]] = {}
        self._settable: _Settable | None = None
        self._memories: dict[tuple[CodeType | None, str, bool], bool] = {}
        self._filled: dict[tuple[int, str], Held] = {}
        self._libraries: set[int] = set()
        self._digest: Callable[[object], str] | None = None
        self._early: frozenset[int] = frozenset()
        self._digests: dict[tuple[int, str], str] = {}
        self._looked = False

    def keep(self, digest: Callable[[object], str] | None = None) -> None:
        """From now on what is now is how it should be. With a ``digest``, which raises where there
        is none, nobody knows how it came to be so, as nothing was observed until now: then what is
        held in what is there already counts by it."""
        self._held.clear()
        self._filled.clear()
        self._before.clear()
        self._whole.clear()
        self._look()
        self._digest = digest
        self._early = frozenset(self._labels.keys() - {id(vars(time))} if digest else ())
        self._digests.clear()
        for owner, space in self._before.values() if digest else ():
            for name, value in space.items():
                if type(value) is _REMEMBERS and value.cache_info().currsize:
                    self._digests[id(owner), name] = self._digest_of_answers(value)

    def note_module(self) -> None:
        """A module of the project is about to be executed."""
        self._looked = False

    def standing(self, trace: str) -> dict[str, object] | None:
        """What `changed` tells where nothing has changed, always the same object: the shortest way
        to know. None where something may have."""
        if trace not in self._checks or not self._looked:
            return None
        known = self._checks[trace]
        if False not in map(is_, map(call, known.gets, known.names, _NONE), known.values):
            for place in known.within:
                held = known.checks[place].held
                if held.differing(held.value, known.but_for) is not None:
                    break
            else:
                return known.given
        return None if any(known.changed()) else known.given

    def present(self) -> Before:
        """What there is, for who is about to compute something."""
        if not self._looked:
            self._look()
        if self._settable is None:
            self._settable = self._all_settable()
        return self._settable.present(lambda value: self._held_of(value, [_ELEMENTS], set()))

    def _all_settable(self) -> _Settable:
        names = self._index()
        keys = [key for key in self._labels if key not in self._libraries]
        owners = [self._before[key] for key in keys]
        places = {(id(owner), name) for owner, before in owners for name in before.keys() & names}
        places.update(key for key, held in self._held.items() if _has_attributes(held))
        checks = [
            _Check(owner, name, held, "")
            for key, name in places
            if (held := self._held_there(owner := self._before[key][0], name)) is not None
        ]
        return _Settable(_Checks(checks, names, names), owners)

    def changed(
        self,
        trace: str,
        ran: Callable[[], Iterable[tuple[str, str]]],
        root: CodeType | None,
        since: Before | None = None,
    ) -> dict[str, object]:
        """The globals that code of a trace reads, and others have changed, with what they hold.
        ``ran`` gives the code: files and definitions; ``root`` is that of what was called.
        ``since`` is what was `present` when it was: what is new was put there by itself."""
        if not self._looked:
            self._look()
        if trace not in self._checks:
            self._checks[trace] = self._checks_of(ran(), root.co_name if root else "")
        while True:
            known = self._checks[trace]
            memory = (e.name for e in known.changed() if self._is_memory(root, e.name, e.inside))
            name = next(memory, "")
            if not name:
                break
            self._checks[trace] = known.without(name)
        found: dict[str, object] = {}
        for each in known.changed():
            if known.is_own(each) and since is not None and self._is_told(since, each.key):
                before = since.held.get(each.key)
                if before is None or before.differing(each.value, known.but_for) is not None:
                    self._filled[each.key] = self._held_of(each.value, [_ELEMENTS], set())
            filled = self._filled.get(each.key) if known.is_own(each) else None
            if filled is None or filled.differing(each.value, known.but_for) is not None:
                value = None if each.value is NOTHING else each.value
                found[each.label] = self._told(value)
        return {**known.given, **found} if found else known.given

    def _is_told(self, since: Before, key: tuple[int, str]) -> bool:
        """Whether this says what a global held: it was looked at, or it is new."""
        if key in since.looked_at or key[0] not in since.owners:
            return True
        owner, before = self._before[key[0]]
        return key[1] not in before and before.keys() <= _space_of(owner).keys()

    def _digest_of(self, value: Any, depth: int = _DEPTH) -> str:
        """The digest of a value; of what has none as a whole (a client with a lock) that of its
        parts, as far as they have any."""
        if self._digest is None:
            return ""
        try:
            return self._digest(value)
        except Exception:  # of whoever wrote its class
            names, parts = parts_of(value)
            return self._digest((names, [self._digest_of(e, depth - 1) for e in parts if depth]))

    def _digest_of_answers(self, wrapper: object) -> str:
        """That of what a `functools.lru_cache` holds."""
        held = gc.get_referents(wrapper)
        inside = [each for one in held if type(one) is dict for each in one.values()]
        return self._digest_of([self._digest_of(each) for each in (*held, *inside)])

    def _given(self, checks: Iterable[_Check]) -> dict[str, object]:
        """The digests of what was there before anything was observed."""
        found: dict[str, object] = {}
        for owner, name, held, label in checks if self._digest else ():
            key, value = (id(owner), name), held.value
            if key[0] not in self._early or held is NOTHING or _is_code(value):
                continue
            if key[0] in self._libraries and not _is_plain(value):
                continue  # that is for them to say: the environment, modules
            if key not in self._digests:
                self._digests[key] = self._digest_of(held.as_it_was())
            found[f"{label}.{name}"] = self._digests[key]
        return found

    def _told(self, value: object) -> object:
        """What says of a value which one it is. Code of a library does not by its name, where
        somebody put it in place of what was there: a clock that stands still has a time."""
        if issubclass(type(value), FunctionType | type):
            module = str(getattr(value, "__module__", ""))
            is_standard = module.partition(".")[0] in sys.stdlib_module_names
            if not is_standard and not self._patched.is_own(sys.modules.get(module)):
                return _Strange()
        if is_of_threads(type(value)):
            value = parts_of(value)
        if self._digest is None:
            return value
        try:
            return self._digest(value)
        except Exception:  # of whoever wrote its class
            return _Strange()

    def _is_memory(self, root: CodeType | None, name: str, inside: bool) -> bool:
        """Whether a global, or an attribute, of this name is set by nobody but code that fills it
        when it is first asked for, and that a function leads to, through whatever else: it then
        holds what the function would fill it with, whoever was the first to ask."""
        known = self._memories.get((root, name, inside))
        if known is not None:
            return known
        self._index()
        uses = {code: use_of(code) for code in self._setters.get(name, ())}
        setters = [e for e, use in uses.items() if name in (use.alters if inside else use.sets)]
        led_to = [*nested(root)] if root and setters else []
        seen = {*led_to}
        asking: set[str] = set()
        for code in led_to:  # it grows: the nearest first
            mentions = {*use_of(code).mentions()}
            if name in mentions:
                asking |= mentions | {code.co_name}
            for each in mentions:
                fresh = [one for one in self._by_name.get(each, ()) if one not in seen]
                seen.update(fresh)
                led_to += fresh
        found = bool(setters) and all(
            each in seen and each.co_name in asking and name not in use_of(each).given
            for each in setters
        )
        self._memories[root, name, inside] = found
        return found

    def _index(self) -> frozenset[str]:
        """Lists all code by its name, and by those that it may set; gives these."""
        for file in () if self._by_name else self._files:
            for definition, those in self._codes_of(file).items():
                around, _, own = definition.rpartition(".")
                self._by_name.setdefault(own, []).extend(those)
                if own.startswith("__"):  # is called where its class is mentioned
                    self._by_name.setdefault(around.rpartition(".")[2], []).extend(those)
                for code in those:
                    for name in may_set(code):
                        self._setters.setdefault(name, []).append(code)
        return frozenset(self._setters)

    def _look(self) -> None:
        """Holds what is new."""
        self._looked = True
        self._checks.clear()
        self._labels.clear()
        self._libraries.clear()
        self._files.clear()
        self._codes.clear()
        self._classes.clear()
        self._methods.clear()
        self._imported.clear()
        self._by_name.clear()
        self._setters.clear()
        self._settable = None
        self._memories.clear()
        for library in (builtins, time):
            self._look_at_library(vars(library), library.__name__)
        for module in self._patched.modules():
            space = namespace_of(module)
            is_whole = not getattr(space.get("__spec__"), "_initializing", False)
            self._looked = self._looked and is_whole  # what is not is to be looked at once more
            is_whole = is_whole and not is_asleep(module)  # which tells when it wakes
            own = str(space.get("__name__"))  # of a lazy module, too, which would load itself
            is_new = self._is_new(space, own, is_whole)
            self._files.setdefault(self._name_of(source_of(module) or ""), []).append(space)
            for name, value in list(space.items()):
                if is_a(value, ModuleType):
                    if name[:1] != "@" and not self._patched.is_own(value):
                        self._look_at_library(namespace_of(value), name)
                elif is_a(value, type):
                    if value.__module__ == own:
                        self._look_into(value, is_whole)
                elif not _is_code(value) and not name.startswith("__"):
                    self._imported.setdefault(name, []).append(space)
                    if is_new:
                        self._hold(space, name, value)

    def _look_at_library(self, space: dict[str, Any], name: str) -> None:
        self._libraries.add(id(space))
        self._is_new(space, name, is_whole=True)

    def _is_new(self, owner: _Owner, label: str, is_whole: bool) -> bool:
        """Whether this was not looked at when all of it was there: if it is now, it is known."""
        self._labels[id(owner)] = label
        is_new = id(owner) not in self._whole
        if is_new:
            self._before[id(owner)] = owner, dict(_space_of(owner))
        if is_whole:
            self._whole.add(id(owner))
        return is_new

    def _look_into(self, cls: type, is_whole: bool) -> None:
        is_new = self._is_new(cls, cls.__qualname__, is_whole)
        for name, value in list(type.__getattribute__(cls, "__dict__").items()):
            if is_a(value, type):
                if value.__qualname__ == f"{cls.__qualname__}.{name}":
                    self._look_into(value, is_whole)
            elif not name.startswith("__"):
                known = self._methods if _is_code(value) else self._classes
                known.setdefault(name, []).append(cls)
                if is_new and known is self._classes:
                    self._hold(cls, name, value)

    def _hold(self, owner: _Owner, name: str, value: object) -> None:
        if self._has_parts(type(value)):
            self._held[id(owner), name] = self._held_of(value, [_ELEMENTS], set())

    def _held_of(self, value: Any, budget: list[int], seen: set[int]) -> Held:
        kind = type(value)
        if kind in PLAIN or not self._has_parts(kind) or id(value) in seen:
            return Held(value)
        seen.add(id(value))
        names, parts = parts_of(value)
        held = Held(value, names, parts)
        budget[0] -= len(parts)
        for place, part in enumerate(parts if budget[0] > 0 else ()):
            if type(part) not in PLAIN and self._has_parts(type(part)):
                held.inner[place] = self._held_of(part, budget, seen)
        return held

    def _has_parts(self, kind: type) -> bool:
        """Whether values of a type are looked into: containers, and objects of the project's."""
        known = self._kinds.get(kind)
        if known is None:
            known = self._kinds[kind] = (
                issubclass(kind, CONTAINERS)
                or f"{kind.__module__}.{kind.__qualname__}" in NAMESPACES
                or self._patched.is_own(sys.modules.get(kind.__module__))
            )
        return known

    def _checks_of(self, ran: Iterable[tuple[str, str]], root: str) -> _Checks:
        clock = vars(time)
        owners: dict[tuple[int, str], _Owner] = {(id(clock), name): clock for name in _ZONE}
        sets: set[str] = set()
        alters: set[str] = set()
        codes: dict[CodeType, str] = {}
        for file, definition in ran:
            for space in self._files.get(file, ()):
                for owner, name in self._path(space, definition):
                    owners[id(owner), name] = owner
            for code in self._codes_of(file).get(definition, ()):
                codes[code] = file
        mentioned = {root, *(name for code in codes for name in use_of(code).mentions())}
        around = {definition_name(code.co_qualname) for code in codes if code.co_name == "<lambda>"}
        for code, file in list(codes.items()):
            name = code.co_name
            of_lambda = code.co_qualname in around and not name.startswith(("__", "<"))
            if of_lambda and name not in mentioned:
                del codes[code]  # of a test, say: what ran is a lambda in it
                continue
            use = use_of(code)
            sets |= use.sets
            alters |= use.alters
            for space in self._files[file]:
                for owner, name in self._owners(space, use):
                    owners[id(owner), name] = owner
        checks = [
            _Check(owner, key[1], held, self._labels[key[0]])
            for key, owner in owners.items()
            if key[0] in self._labels
            if (held := self._held_there(owner, key[1])) is not None
        ]
        found = _Checks(checks, frozenset(sets), frozenset(alters))
        found.given = self._given(checks)
        return found

    def _held_there(self, owner: _Owner, name: str) -> Held | None:
        """What a global or an attribute held, `NOTHING` where there was none."""
        before = self._before[id(owner)][1]
        if name in before:
            value = before[name]
            held = self._held.get((id(owner), name))
            return None if is_a(value, ModuleType) else held or Held(value)
        is_builtin = type(owner) is dict and hasattr(builtins, name)
        return None if is_builtin or name.startswith("__") else NOTHING

    def _path(self, space: dict[str, Any], definition: str) -> Iterator[tuple[_Owner, str]]:
        """Where a definition is had from, as far as this is by name: a module, its classes."""
        owner: Any = space
        for name in definition.split("."):
            if id(owner) not in self._before:
                break
            yield owner, name
            owner = self._before[id(owner)][1].get(name)

    def _codes_of(self, file: str) -> dict[str, list[CodeType]]:
        """The code of the loaded modules of a file, by definition."""
        known = self._codes.get(file)
        if known is None:
            known = self._codes[file] = {}
            for space in self._files.get(file, ()):
                for function in _functions_in(space):
                    for code in nested(function.__code__):
                        name = code.co_qualname
                        if not code.co_flags & CO_OPTIMIZED:  # the body of a class is its owner's
                            name = name.rpartition(".<locals>.")[0] or name
                        known.setdefault(definition_name(name), []).append(code)
        return known

    def _owners(self, space: dict[str, Any], use: Use) -> Iterator[tuple[_Owner, str]]:
        for name in use.globals:
            yield space, name
            if name not in space:
                yield vars(builtins), name
        for base, name in use.attributes:
            holder = space.get(base) if base else None
            if holder is sys and name in (*SYSTEM, "stdin"):
                continue  # pytest's own, for as long as a test runs
            if is_a(holder, ModuleType):
                yield namespace_of(holder), name
            elif is_a(holder, type):
                yield from ((each, name) for each in type.mro(holder))
            else:  # of what is found out only by running: an object, or a module after a dot
                for each in self._classes.get(name, ()):
                    yield from ((one, name) for one in _with_subclasses(each))
                for each in self._methods.get(name, ()):  # those that ran count anyway
                    if _space_of(each).get(name) is not self._before[id(each)][1].get(name):
                        yield each, name
                yield from ((each, name) for each in self._imported.get(name, ()))
        for name in use.imported:
            yield from ((each, name) for each in self._imported.get(name, ()))


def _with_subclasses(cls: type) -> Iterator[type]:
    yield cls
    below: list[type] = type.__subclasses__(cls)
    for each in below:
        yield from _with_subclasses(each)


def _functions_in(space: dict[str, Any]) -> Iterator[FunctionType]:
    """The functions that a module defines, and the methods of its classes."""
    waiting: list[object] = list(space.values())
    seen = {id(space.get("__builtins__"))}
    for one in waiting:  # it grows
        kind = type(one)
        if kind in PLAIN or kind is ModuleType or id(one) in seen:
            continue
        seen.add(id(one))
        if is_a(one, type):
            if one.__module__ == space.get("__name__"):
                waiting += type.__getattribute__(one, "__dict__").values()
        elif not is_function(one):
            waiting += codes_of(one)
        else:
            waiting += kept_by(one)
            if one.__globals__ is space:
                yield one
