"""Reducers of classes whose instances are their attributes: dataclasses, attrs, plain objects.

A class counts by its qualified name where that name leads to it, and one of the project by its
statements and constants, too (``Scope.classes``); a local class counts by its content, since two
of them may share a name. The order of attributes counts, as any dict's does.
"""

from __future__ import annotations

import copyreg
import enum
import functools
from collections.abc import Callable
from operator import attrgetter
from pickle import whichmodule  # type: ignore[attr-defined]  # absent from the stubs
from types import FunctionType
from typing import Any

from pytest_taskcache.digests.values.callables import is_installed
from pytest_taskcache.digests.values.sentinels import fixed_name
from pytest_taskcache.digests.values.terms import (
    TERM,
    Reducer,
    Reduction,
    RefusedError,
    Scope,
    is_importable,
    qualified_name,
    shown_name,
)

_POINTER = object.__basicsize__ // 2
_OBJECT: Any = object


_importable: dict[type, tuple[str, bool]] = {}
"""Names of classes that they lead to, and whether the class, or one that it inherits from, is the
project's. Their modules do not forget them either."""


def class_term(cls: type, scope: Scope, state: bool = True) -> str | type:
    """The class's name, or the class itself where the name does not lead to it. ``state`` says that
    instances may be read for what the class holds: its constants."""
    known = _importable.get(cls)
    if known is None:
        if not is_importable(cls):
            scope.need_walker()
            return cls
        known = _importable[cls] = qualified_name(cls), _is_own(cls)
    name, own = known
    if own and state:
        scope.classes.add(cls)
    return name


def of_class(kind: str, read: Callable[[Any], tuple[Any, ...]]) -> Reducer:
    """The reducer of values that are of a kind and a class, and otherwise what ``read`` gives."""

    def reduce(value: Any, scope: Scope) -> Reduction:
        return TERM, (kind, class_term(type(value), scope), *read(value))

    return reduce


def _is_own(cls: type) -> bool:
    return not all(is_installed(base.__module__) for base in cls.__mro__)


def reduce_enum(member: enum.Enum, scope: Scope) -> Reduction:
    """Class, name and value; so a changed value changes the digest, too. A bare ``object()`` as
    value has nothing but its identity, for which class and name stand."""
    member_of = ("enum", class_term(type(member), scope, state=False), member._name_)
    if type(member._value_) is object:
        return TERM, member_of
    return TERM, (*member_of, member._value_)


def reduce_instance(value: Any, scope: Scope) -> Reduction:
    """Class, the content inherited from a native type, and the state that pickle would keep. A
    ``__getstate__`` or ``__reduce__`` of the author's own is honoured: it says what makes the
    object. Without one, containers are read by the native type's methods, so that no iteration of
    the user's runs."""
    cls: Any = type(value)
    native = _native_content(value) if reduces_by_default(cls) else None
    if native is not None:
        return TERM, ("instance", class_term(cls, scope), (), value.__getstate__(), native)
    try:
        registered = copyreg.dispatch_table.get(cls)
        reduced = registered(value) if registered else value.__reduce_ex__(4)
    except TypeError as error:
        text = str(error)
        raise RefusedError(shown_name(cls), "" if "pickle" in text else text) from error
    if isinstance(reduced, str):
        return TERM, ("global", whichmodule(value, reduced), reduced)
    head = class_term(cls, scope)
    maker, arguments, state, items, pairs = (*reduced, None, None, None)[:5]
    if maker is copyreg.__newobj__:  # type: ignore[attr-defined]  # absent from the stubs
        bare = state is None and not arguments[1:] and _has_identity(cls)
        if bare and (held := fixed_name(value)):
            return TERM, ("singleton", head, held)
        return TERM, ("instance", head, arguments[1:], state, None)
    listed = [None if part is None else list(part) for part in (items, pairs)]
    made_by = None if maker is cls else maker
    if made_by is None and len(reduced) == 2 and [*map(type, arguments)] == [list]:
        items = arguments[0]
        if items and not _keeps_order(cls, type(items[0]) is tuple):
            return TERM, ("unordered", head, scope.once(value, lambda _: scope.digest_items(items)))
    return TERM, ("reduced", head, made_by, arguments, state, listed)


@functools.cache
def _keeps_order(cls: Any, pairs: bool) -> bool:
    """Whether the order in which a container of native code has its items tells in which it was
    given them, or may tell: those that hash their items (rpds has such) have an order of each
    process, or even of each object, so what it is can be known only by trying. One that has them
    the other way round, or the last few, takes the items of each order from the same places."""
    if any(isinstance(getattr(cls, name), FunctionType) for name in ("__init__", "__new__")):
        return True
    places = []
    for order in (range(64), range(63, -1, -1)):
        items = [(one, one) for one in order] if pairs else [*order]
        try:
            _, (found,) = cls(items).__reduce_ex__(4)
            places.append([items.index(one) for one in found])
        except Exception:
            # it may raise anything of its own: it wants other items, and is read as it gives itself
            return True
    return places[0] == places[1]


def _has_identity(cls: Any) -> bool:
    """Whether instances are equal to themselves alone."""
    return cls.__eq__ is _OBJECT.__eq__


def _native_content(value: Any) -> object:
    match value:
        case list():
            return list.__getitem__(value, slice(None))
        case dict():
            return dict(dict.items(value))
        case set():
            # pickle would list the elements in an order that differs between processes
            return set(set.__iter__(value))
        case frozenset():
            return frozenset(frozenset.__iter__(value))
        case _:
            return None


def reduces_by_default(cls: Any) -> bool:
    """Whether pickle reads instances by their state and, of a native container, its content."""
    return (
        cls.__reduce_ex__ is _OBJECT.__reduce_ex__
        and cls.__reduce__ in (_OBJECT.__reduce__, set.__reduce__, frozenset.__reduce__)
        and cls not in copyreg.dispatch_table
    )


def instance_reducer(cls: type) -> Reducer:
    """The reducer of a class that is not known for anything else, dataclasses and attrs included:
    the short way where instances are their dict, or their slots, and nothing besides."""
    slots = _slots(cls)
    with_dict = cls.__dictoffset__ != 0
    if with_dict == bool(slots) or not (is_importable(cls) and _has_default_state(cls, slots)):
        return reduce_instance
    name = qualified_name(cls)
    own = frozenset({cls} if _is_own(cls) else ())
    identity = _has_identity(cls)
    fields = [*getattr(cls, "__dataclass_fields__", ())]

    def reduce_dict(value: Any, scope: Scope) -> Reduction:
        scope.classes |= own
        state = value.__dict__
        if len(state) < len(fields):
            # a field may have its default from the class alone
            state = {each: getattr(value, each) for each in fields if hasattr(value, each)} | state
        if identity and not state and (held := fixed_name(value)):
            return TERM, ("singleton", name, held)
        return TERM, ("instance", name, (), state, None)

    if with_dict:
        return reduce_dict
    read: Callable[[Any], Any] = attrgetter(*slots)
    # their names are part of it: without them, swapping two in the source would not show
    head = f"slots {name}({', '.join(slots)})"

    def reduce_slots(value: Any, scope: Scope) -> Reduction:
        scope.classes |= own
        try:
            content = read(value)
        except AttributeError:  # one of them is not set
            found = {each: getattr(value, each) for each in slots if hasattr(value, each)}
            return TERM, ("instance", name, (), found, None)
        return TERM, (head, *content) if len(slots) > 1 else (head, content)

    return reduce_slots


# Items by name, and attributes of a subclass.
reduce_named_tuple = of_class(
    "namedtuple",
    lambda value: (
        value.__getstate__(),
        dict(zip(value._fields, tuple.__getitem__(value, slice(None)), strict=True)),
    ),
)


def _has_default_state(cls: Any, slots: list[str]) -> bool:
    """Whether pickle would keep nothing of an instance but its dict and slots."""
    if not reduces_by_default(cls) or any(name.startswith("__") for name in slots):
        return False
    if hasattr(cls, "__getnewargs__") or hasattr(cls, "__getnewargs_ex__"):
        return False
    # dataclasses and attrs write one for slotted classes, which keeps exactly the fields
    module = getattr(cls.__getstate__, "__module__", None) or ""
    if cls.__getstate__ is not _OBJECT.__getstate__ and module not in {"dataclasses", "attr._make"}:
        return False
    size = object.__basicsize__ + _POINTER * len(slots)
    size += _POINTER * (cls.__dictoffset__ > 0) + _POINTER * (cls.__weakrefoffset__ > 0)
    return bool(cls.__basicsize__ == size and cls.__itemsize__ == 0)


def _slots(cls: type) -> list[str]:
    names: list[str] = []
    for base in reversed(cls.__mro__):
        own = vars(base).get("__slots__", ())
        names += [own] if isinstance(own, str) else own
    return [name for name in names if name not in {"__dict__", "__weakref__"}]
