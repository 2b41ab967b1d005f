"""Dataclasses whose methods are compiled when they are first used.

``dataclasses`` compiles up to six methods of each class, and makes a slotted one twice, in about a
millisecond. A run loads a hundred such classes, and makes instances of half of them: that was a
fifth of what starting the plugin took. Here

    @dataclass(frozen=True, slots=True)
    class Point:
        x: int
        y: int = 0

    Point(1)                     compiles ``__init__``; the next instance takes half as long as one
                                 of the standard library's, since slots are set by descriptors
    Point(1) == Point(1, 0)      compiles nothing: an ``attrgetter`` fetches what is compared
    dataclasses.fields(Point)    works as ever: ``__dataclass_fields__`` holds the library's own
                                 fields; so ``replace``, ``asdict`` and subclasses work, too

A class means what the standard library says, as far as this package uses it; a type checker sees
``dataclasses`` itself. Annotations must be text (``from __future__ import annotations``). Of the
library's private parts this uses the type of a field.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import _FIELD as _IS_FIELD  # type: ignore[attr-defined] # of a regular field
from dataclasses import MISSING, Field, FrozenInstanceError, field, fields, make_dataclass, replace
from functools import partial
from operator import attrgetter
from types import MemberDescriptorType, SimpleNamespace
from typing import TYPE_CHECKING, Any

_FIELDS = "__dataclass_fields__"
_OVERRIDABLE = ("__init__", "__repr__", "__eq__", "__hash__", "__match_args__")


def _dataclass(
    cls: Any = None,
    *,
    frozen: bool = False,
    slots: bool = False,
    eq: bool = True,
    repr: bool = True,
) -> Any:
    if cls is None:
        return partial(_dataclass, frozen=frozen, slots=slots, eq=eq, repr=repr)
    written = vars(cls)
    own: dict[str, Field[Any]] = {}
    for name, annotation in written.get("__annotations__", {}).items():
        if not annotation.startswith("ClassVar"):
            given = written.get(name, MISSING)
            own[name] = _field(name, annotation, given)
    every: dict[str, Field[Any]] = {}
    for base in reversed(cls.__mro__[1:]):
        every |= vars(base).get(_FIELDS, {})
    added = _methods(every | own, frozen=frozen, eq=eq, repr=repr)
    for name in added.keys() & written.keys():
        # An __eq__ alone makes Python say that there is no __hash__.
        if name in _OVERRIDABLE and (name, written[name]) != ("__hash__", None):
            del added[name]
    if not slots:
        for name, value in added.items():
            setattr(cls, name, value)
        for name, one in own.items():
            if one.default is not MISSING:
                setattr(cls, name, one.default)
            elif name in written:
                delattr(cls, name)
        return cls
    taken = {name for base in cls.__mro__[1:] for name in vars(base).get("__slots__", ())}
    left_out = own.keys() | {"__dict__", "__weakref__"}
    content = {name: value for name, value in written.items() if name not in left_out} | added
    content["__slots__"] = tuple(name for name in own if name not in taken)
    if frozen:  # pickle would set slots one by one
        content = {"__getstate__": _state, "__setstate__": _set_state} | content
    made: Any = type(cls)(cls.__name__, cls.__bases__, content)
    made.__qualname__ = cls.__qualname__
    return made


def _field(name: str, annotation: str, given: object) -> Field[Any]:
    one: Any = given if type(given) is Field else field(default=given)
    one.name, one.type, one._field_type = name, annotation, _IS_FIELD
    one.kw_only = one.kw_only is True
    return one  # type: ignore[no-any-return]


def _methods(
    every: dict[str, Field[Any]], *, frozen: bool, eq: bool, repr: bool
) -> dict[str, object]:
    made: dict[str, object] = {
        _FIELDS: every,
        "__dataclass_params__": SimpleNamespace(frozen=frozen),  # all that a subclass asks for
        "__match_args__": tuple(n for n, one in every.items() if one.init and not one.kw_only),
        "__init__": _compiled_when_called(frozen),
        "__replace__": replace,
        "__signature__": _Signature(),
    }
    if repr:
        made["__repr__"] = _repr
    if eq:
        compared = _getter([name for name, one in every.items() if one.compare])
        made["__eq__"] = lambda self, other: (
            compared(self) == compared(other) if type(other) is type(self) else NotImplemented
        )
        made["__hash__"] = (lambda self: hash(compared(self))) if frozen else None
    if frozen:
        made |= {"__setattr__": _refuse_setting, "__delattr__": _refuse_deleting}
    return made


def _getter(names: list[str]) -> Callable[[Any], Any]:
    if len(names) > 1:
        return attrgetter(*names)
    return lambda value: tuple(getattr(value, name) for name in names)


def _repr(self: Any) -> str:
    shown = (f"{one.name}={getattr(self, one.name)!r}" for one in fields(self) if one.repr)
    return f"{type(self).__qualname__}({', '.join(shown)})"


def _refuse_setting(self: Any, name: str, value: object) -> None:
    raise FrozenInstanceError(f"cannot assign to field {name!r}")


def _refuse_deleting(self: Any, name: str) -> None:
    raise FrozenInstanceError(f"cannot delete field {name!r}")


def _state(self: Any) -> list[Any]:
    return [getattr(self, one.name) for one in fields(self)]


def _set_state(self: Any, state: list[Any]) -> None:
    for one, value in zip(fields(self), state, strict=True):
        object.__setattr__(self, one.name, value)


def _compiled_when_called(frozen: bool) -> Callable[..., None]:
    """Stands for ``__init__`` until an instance, of a subclass perhaps, is first made."""
    made: Callable[..., None] | None = None

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        nonlocal made
        for cls in type(self).__mro__ if made is None else ():
            if vars(cls).get("__init__") is __init__:  # else another thread was faster
                made = _compiled(cls, frozen)
                type.__setattr__(cls, "__init__", made)
        assert made is not None
        made(self, *args, **kwargs)

    return __init__


def _compiled(cls: Any, frozen: bool) -> Callable[..., None]:
    space: dict[str, Any] = {"_missing": MISSING, "_set": object.__setattr__}
    parameters: list[str] = []
    keywords: list[str] = []
    lines: list[str] = []
    for one in vars(cls)[_FIELDS].values():
        name = value = one.name
        default = ""
        if one.default_factory is not MISSING:
            space[f"_made_{name}"] = one.default_factory
            default, value = "=_missing", f"_made_{name}()"
            if one.init:
                value += f" if {name} is _missing else {name}"
        elif one.default is not MISSING:
            space[f"_default_{name}"] = one.default
            default = f"=_default_{name}"
            if not one.init:
                value = f"_default_{name}"
        if one.init:
            (keywords if one.kw_only else parameters).append(name + default)
        elif not default:
            continue  # __post_init__ sets it
        member = getattr(cls, name, None)
        if type(member) is MemberDescriptorType:
            space[f"_slot_{name}"] = member.__set__
            lines.append(f"_slot_{name}(self, {value})")
        elif frozen:
            lines.append(f"_set(self, {name!r}, {value})")
        else:
            lines.append(f"self.{name} = {value}")
    if hasattr(cls, "__post_init__"):
        lines.append("self.__post_init__()")
    signature = ", ".join(["self", *parameters, *(["*", *keywords] if keywords else ())])
    body = "\n    ".join(lines) or "pass"
    exec(f"def __init__({signature}):\n    {body}", space)
    made: Callable[..., None] = space["__init__"]
    made.__qualname__ = f"{cls.__qualname__}.__init__"
    made.__module__ = cls.__module__
    return made


class _Signature:
    """``__signature__``, of a class that the standard library makes of the same fields."""

    def __get__(self, instance: object, owner: Any) -> Any:
        if vars(owner).get("__signature__") is not self:
            raise AttributeError  # a subclass has one of its own
        import inspect

        every = [(one.name, one.type, one) for one in fields(owner)]
        return inspect.signature(make_dataclass(owner.__name__, every))


if TYPE_CHECKING:
    from dataclasses import dataclass
else:
    dataclass = _dataclass

__all__ = ["dataclass", "field", "fields", "replace"]
