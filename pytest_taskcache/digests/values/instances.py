"""Reducers of classes whose instances are their attributes: dataclasses, attrs, plain objects.

A class counts by its qualified name where that name leads to it, and one of the project by its
statements and constants, too (``Scope.classes``); a local class counts by its content, since two
of them may share a name. The order of attributes counts, as any dict's does.
"""

from __future__ import annotations

import copyreg
import enum
from collections.abc import Callable
from operator import attrgetter
from pickle import whichmodule  # type: ignore[attr-defined]  # absent from the stubs
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


_importable: dict[type, tuple[str, bool]] = {}
"""Names of classes that they lead to, and whether the class, or one that it inherits from, is the
project's. Their modules do not forget them either."""


def class_term(cls: type, scope: Scope, state: bool = True) -> str | type:
    """The class's name, or the class itself where the name does not lead to it.

    ``state`` says that instances may be read for what the class holds: its constants.
    """
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
    """Class, the content inherited from a native type, and the state that pickle would keep.

    A ``__getstate__`` or ``__reduce__`` of the author's own is honoured: it says what makes the
    object. Without one, containers are read by the native type's methods, so that no iteration
    of the user's runs.
    """
    cls = type(value)
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
    return TERM, ("reduced", head, made_by, arguments, state, listed)


def _has_identity(cls: Any) -> bool:
    """Whether instances are equal to themselves alone."""
    plain: Any = object
    return cls.__eq__ is plain.__eq__


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
    plain: Any = object
    return (
        cls.__reduce_ex__ is plain.__reduce_ex__
        and cls.__reduce__ in (plain.__reduce__, set.__reduce__, frozenset.__reduce__)
        and cls not in copyreg.dispatch_table
    )


def instance_reducer(cls: type) -> Reducer:
    """The reducer of a class that is not known for anything else."""
    if not is_importable(cls) or not _keeps_default_state(cls):
        return reduce_instance
    if _slots(cls) or cls.__dictoffset__ == 0 or not _is_plain(cls, []):
        return reduce_instance
    name = qualified_name(cls)
    own = _is_own(cls)
    identity = _has_identity(cls)

    def reduce(value: Any, scope: Scope) -> Reduction:
        if own:
            scope.classes.add(cls)
        state = value.__dict__
        if identity and not state and (held := fixed_name(value)):
            return TERM, ("singleton", name, held)
        return TERM, ("instance", name, (), state, None)

    return reduce


def dataclass_reducer(cls: type) -> Reducer:
    """The reducer of a dataclass: its fields in order, and all else its instances hold."""
    return _record_reducer(cls, "dataclass", [*cls.__dataclass_fields__])  # type: ignore[attr-defined]


def attrs_reducer(cls: type) -> Reducer:
    """The reducer of an attrs class."""
    names = [field.name for field in cls.__attrs_attrs__]  # type: ignore[attr-defined]
    return _record_reducer(cls, "attrs", names)


def reduce_named_tuple(value: Any, scope: Scope) -> Reduction:
    """Class, field names, items, and attributes of a subclass."""
    cls = type(value)
    head = class_term(cls, scope)
    items = tuple.__getitem__(value, slice(None))
    return TERM, ("namedtuple", head, cls._fields, value.__getstate__(), *items)


def _record_reducer(cls: type, kind: str, fields: list[str]) -> Reducer:
    if not is_importable(cls) or not _keeps_default_state(cls):
        return reduce_instance
    slots = _slots(cls)
    # field names are part of it: without them, swapping two fields in the source would not show
    head = f"{kind} {qualified_name(cls)}({', '.join(fields)})"
    loose = f"{kind} {qualified_name(cls)} by name"
    if not _is_plain(cls, slots):
        return reduce_instance
    own = frozenset({cls} if _is_own(cls) else ())
    if not slots:
        return _by_dict(head, loose, fields, own)
    if cls.__dictoffset__ == 0 and slots == fields:
        return _by_slots(head, loose, fields, own)
    return reduce_instance


def _by_dict(head: str, loose: str, fields: list[str], own: frozenset[type]) -> Reducer:
    def reduce(value: Any, scope: Scope) -> Reduction:
        scope.classes |= own
        state = value.__dict__
        if [*state] == fields:
            return TERM, (head, *state.values())
        # a field may have its default from the class alone, and the instance more than fields
        shown = {name: getattr(value, name) for name in fields if hasattr(value, name)}
        return TERM, (loose, shown | state)

    return reduce


def _by_slots(head: str, loose: str, fields: list[str], own: frozenset[type]) -> Reducer:
    read: Callable[[Any], Any] = attrgetter(*fields)
    single = len(fields) == 1

    def reduce(value: Any, scope: Scope) -> Reduction:
        scope.classes |= own
        try:
            content = read(value)
        except AttributeError:
            return TERM, (
                loose,
                {name: getattr(value, name) for name in fields if hasattr(value, name)},
            )
        return TERM, (head, content) if single else (head, *content)

    return reduce


def _keeps_default_state(cls: Any) -> bool:
    plain: Any = object
    if not reduces_by_default(cls):
        return False
    if hasattr(cls, "__getnewargs__") or hasattr(cls, "__getnewargs_ex__"):
        return False
    # dataclasses and attrs write one for slotted classes, which keeps exactly the fields
    module = getattr(cls.__getstate__, "__module__", None) or ""
    return cls.__getstate__ is plain.__getstate__ or module in {"dataclasses", "attr._make"}


def _slots(cls: type) -> list[str]:
    names: list[str] = []
    for base in reversed(cls.__mro__):
        own = vars(base).get("__slots__", ())
        names += [own] if isinstance(own, str) else own
    return [name for name in names if name not in {"__dict__", "__weakref__"}]


def _is_plain(cls: type, slots: list[str]) -> bool:
    """Whether instances hold nothing but their dict and slots: the rule pickle goes by."""
    if any(name.startswith("__") for name in slots):
        return False
    size = object.__basicsize__ + _POINTER * len(slots)
    size += _POINTER * (cls.__dictoffset__ > 0) + _POINTER * (cls.__weakrefoffset__ > 0)
    return cls.__basicsize__ == size and cls.__itemsize__ == 0
