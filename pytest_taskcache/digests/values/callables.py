"""Reducers of functions, methods, partials, builtins, classes and modules.

Code of the project counts by its normalised source, without comments and formatting; installed
code counts by its name, since the version that is installed is digested elsewhere. Attributes set
on a function do not count: a call counter kept there would make every call a new input.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from operator import attrgetter
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

from pytest_taskcache.checksum import checksum
from pytest_taskcache.digests.values.terms import (
    TERM,
    Reducer,
    Reduction,
    RefusedError,
    Scope,
    is_importable,
    qualified_name,
    shown_name,
    term,
)

if TYPE_CHECKING:
    import ast

_CLASS_MACHINERY = frozenset(
    (
        *("__abstractmethods__", "__annotations__", "__annotate__", "__dict__", "__doc__"),
        *("__firstlineno__", "__module__", "__qualname__", "__static_attributes__"),
        *("__weakref__", "_abc_impl"),
    )
)
_IMMUTABLE = frozenset({type(None), bool, int, float, complex, str, bytes})
_PLAIN = _IMMUTABLE | {list, tuple, dict, set, frozenset}
_DESCRIPTORS = (
    types.MemberDescriptorType,
    types.GetSetDescriptorType,
    types.WrapperDescriptorType,
    types.MethodDescriptorType,
    types.ClassMethodDescriptorType,
)


def is_installed(module_name: str | None) -> bool:
    """Whether a module belongs to the interpreter or to site-packages, not to the project. A module
    that is not loaded, or has no origin (``__main__`` of a console), is the project's."""
    module = sys.modules.get(module_name or "")
    if module is None:
        return False
    if module.__name__ in sys.builtin_module_names:
        return True
    spec = getattr(module, "__spec__", None)
    origin = getattr(spec, "origin", None) or getattr(module, "__file__", None)
    return isinstance(origin, str) and _is_installed_file(origin)


@functools.cache
def _is_installed_file(origin: str) -> bool:
    if origin in {"built-in", "frozen"}:
        return True
    from pytest_taskcache.code.distributions import installed_directories

    if not {"site-packages", "dist-packages"}.isdisjoint(PurePath(origin).parts):
        return True
    return origin.startswith(installed_directories())


class ClassSource(NamedTuple):
    """Two digests of a class statement: all of it, and without the bodies of its methods. What a
    method does is seen when it runs; what the other statements made is not. A method that is
    decorated with more than the language's own (a cache, say) keeps its body."""

    whole: str
    statements: str


_NO_SOURCE = ClassSource("", "")
_known: WeakKeyDictionary[type, ClassSource] = WeakKeyDictionary()
"""What a class's file said when it was first asked about."""


def class_source(cls: type) -> ClassSource:
    """The digests of a class; empty for installed ones, and where there is no source to read."""
    found = _known.get(cls)
    if found is None:
        text = "" if is_installed(cls.__module__) else _text_of(cls.__module__)
        statements = _statements(text).get(cls.__qualname__)
        found = _known[cls] = _digests_of(statements) if statements else _NO_SOURCE
    return found


def _text_of(module_name: str) -> str:
    import linecache

    file = getattr(sys.modules.get(module_name), "__file__", None)
    if not isinstance(file, str):
        return ""
    linecache.checkcache(file)
    return "".join(linecache.getlines(file))


@functools.lru_cache(maxsize=64)
def _module_digest(source: str) -> str:
    """The digest of a module's source; empty where there is none to read."""
    from pytest_taskcache.code.source_file import analyse

    return analyse(source.encode("utf-8", "surrogatepass")).digest if source else ""


@functools.lru_cache(maxsize=16)
def _statements(source: str) -> dict[str, list[str]]:
    """The texts of a module's class statements by qualified name; several of one name count
    together."""
    import ast

    from pytest_taskcache.code.function_source import definitions_in, first_line

    lines = source.split("\n")
    found: dict[str, list[str]] = {}
    for name, node in definitions_in(source):
        if isinstance(node, ast.ClassDef):
            text = "\n".join(lines[first_line(node) - 1 : node.end_lineno])
            found.setdefault(name, []).append(text)
    return found


def _digests_of(statements: Sequence[str]) -> ClassSource:
    import ast

    from pytest_taskcache.code.syntax import parsed

    # Those inside of something are indented.
    nodes = [parsed(f"if 1:\n{text}" if text[:1].isspace() else text) for text in statements]
    whole = checksum([ast.dump(node) for node in nodes])
    for node in chain.from_iterable(map(ast.walk, nodes)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and _is_plain(node):
            node.body = []
    return ClassSource(whole, checksum([ast.dump(node) for node in nodes]))


_LANGUAGE = frozenset({"property", "staticmethod", "classmethod", "setter", "getter", "deleter"})
_LANGUAGE |= {"abstractmethod", "overload", "override", "cached_property"}


def _is_plain(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether nothing but the language's own decorators stands over a function."""
    names = (getattr(each, "attr", getattr(each, "id", "")) for each in node.decorator_list)
    return all(name in _LANGUAGE for name in names)


def reduce_function(function: types.FunctionType, scope: Scope) -> Reduction:
    """Installed functions by name; others by source, defaults and closure."""
    if is_installed(function.__module__) and is_importable(function):
        return TERM, ("function", qualified_name(function))
    return _by_source(function, scope)


def _by_source(function: types.FunctionType, scope: Scope, *around: object) -> Reduction:
    values = _bound_values(function, scope)
    return TERM, ("function source", *scope.once(function, _source), *values, *around)


def _source(function: types.FunctionType) -> tuple[str, str]:
    # the model of the code is imported where a project's function is met, not for plain data
    from pytest_taskcache.code.function_source import code_digest, function_source_digest

    # of a wrapper, the source digest is that of what it wraps; lambdas may share a line
    hidden = "__wrapped__" in vars(function) or function.__name__ == "<lambda>"
    code = code_digest(function.__code__) if hidden else ""
    return function_source_digest(function), code


def _bound_values(function: types.FunctionType, scope: Scope) -> tuple[Any, ...]:
    if function.__closure__:
        # a closure often leads back to its function, which only the walker can follow
        scope.need_walker()
    values: dict[str, object] = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        # `__class__`, the cell behind `super()`, is the class around; a cell may be empty: never
        # assigned, or deleted
        if name != "__class__":
            with contextlib.suppress(ValueError):
                values[name] = cell.cell_contents
    return function.__defaults__, function.__kwdefaults__, values


class TaskCode(NamedTuple):
    """A callable as the code of a task, to be digested by source wherever it comes from. ``owner``
    is the class it is a method of."""

    function: Callable[..., object]
    owner: type | None


def reduce_task(code: TaskCode, scope: Scope) -> Reduction:
    """As a function, and the source of the class around with what it inherits from."""
    function, owner = code
    if not isinstance(function, types.FunctionType):
        return TERM, ("task callable", function, _class_sources(type(function)))
    return _by_source(function, scope, [] if owner is None else _class_sources(owner))


def reduce_builtin(function: types.BuiltinFunctionType, scope: Scope) -> Reduction:
    """By name; a bound one (``[].append``) with the object it is bound to."""
    owner = function.__self__
    if owner is None or isinstance(owner, types.ModuleType):
        return TERM, ("builtin", function.__module__ or "builtins", function.__qualname__)
    return TERM, ("bound builtin", owner, function.__name__)


def reduce_class(cls: type, scope: Scope) -> Reduction:
    """Installed classes by name, the project's by source and present constants (tests patch
    those), local ones by content, since two of them may share name and place."""
    if cls in (set, frozenset):
        # the pickler shows a set instance by its class, so the fast path must refuse both
        scope.need_walker()
    if not is_importable(cls):
        scope.need_walker()
        return TERM, ("local class", qualified_name(cls), cls.__bases__, _content(cls))
    if is_installed(cls.__module__):
        return TERM, ("class", qualified_name(cls))
    own = [base for base in cls.__mro__ if not is_installed(base.__module__)]
    return TERM, ("class source", _class_sources(cls), [_constants(base) for base in own])


def _class_sources(cls: type) -> list[tuple[str, str]]:
    bases = (base for base in cls.__mro__ if base is not object)
    return [(qualified_name(base), class_source(base).whole) for base in bases]


def class_definition(cls: type) -> Sequence[object]:
    """What a class of the project is to its instances, as native types: its name, its statements,
    and its constants as they are now. Methods count where they run. Empty for installed ones."""
    if is_installed(cls.__module__):
        return ()
    return qualified_name(cls), class_source(cls).statements, _immutable(vars(cls))


def _immutable(namespace: Mapping[str, object]) -> dict[str, object]:
    """The constants of a namespace that nothing can have changed in place since: registries and
    counters that live in containers would make every call a new input."""
    return {
        name: value
        for name, value in list(namespace.items())
        if not name.startswith("__") and _is_immutable(value)
    }


def _is_immutable(value: object) -> bool:
    kind = type(value)
    if kind is tuple or kind is frozenset:
        return all(map(_is_immutable, value))  # type: ignore[call-overload]
    return kind in _IMMUTABLE


def reduce_module(module: types.ModuleType, scope: Scope) -> Reduction:
    """Installed modules by name, the project's by source, present constants, and the modules of
    the project that can be reached through it."""
    name = module.__name__
    if sys.modules.get(name) is not module:
        raise RefusedError("module", f"{name} is not the module imported by that name")
    if is_installed(name):
        return TERM, ("module", name)
    namespace = vars(module)
    reached = {
        key: value
        for key, value in list(namespace.items())
        if isinstance(value, types.ModuleType)
        and sys.modules.get(value.__name__) is value
        and not is_installed(value.__name__)
    }
    if reached:
        # modules that import each other are a cycle
        scope.need_walker()
    source = _module_digest(_text_of(name))
    return TERM, ("module source", name, source, _immutable(namespace), reached)


def _content(cls: type) -> dict[str, object]:
    """All that distinguishes a class from another of the same name; raises if it cannot tell."""
    own = vars(cls)
    if "_member_map_" in own:
        members = own["_member_map_"].items()
        return {"members": {name: each.value for name, each in members}, "code": _code(cls)}
    fields = getattr(cls, "__pydantic_fields__", None)
    if fields is not None:
        # the rest of a model's namespace is compiled from these
        return {"fields": {name: repr(field) for name, field in fields.items()}, "code": _code(cls)}
    content = {name: value for name, value in own.items() if name not in _CLASS_MACHINERY}
    content["__annotations__"] = [*own.get("__annotations__", ())]
    if "__dataclass_fields__" in content:
        parameters = content.pop("__dataclass_params__", None)
        content["__dataclass_fields__"] = [*content["__dataclass_fields__"]], repr(parameters)
    if "__attrs_attrs__" in content:
        content["__attrs_attrs__"] = [field.name for field in content["__attrs_attrs__"]]
    return content


def _constants(cls: type) -> dict[str, object]:
    return {
        name: value
        for name, value in vars(cls).items()
        if not name.startswith("__") and type(value) in _PLAIN
    }


def _code(cls: type) -> dict[str, object]:
    functions = {
        name: value
        for name, value in vars(cls).items()
        if isinstance(value, staticmethod | classmethod | property)
        # dataclasses, attrs and namedtuple compile methods from text that names no file
        or (isinstance(value, types.FunctionType) and value.__code__.co_filename[:1] != "<")
    }
    return functions | _constants(cls)


def _refuse_code(code: Any, scope: Scope) -> Reduction:
    raise RefusedError(shown_name(type(code)), "pass the function instead")


REDUCERS: dict[type, Reducer] = {
    types.FunctionType: reduce_function,
    TaskCode: reduce_task,
    types.MethodType: term("method", attrgetter("__self__", "__func__")),
    types.BuiltinFunctionType: reduce_builtin,
    # (5).__add__
    types.MethodWrapperType: term("bound builtin", attrgetter("__self__", "__name__")),
    types.GenericAlias: term("generic alias", attrgetter("__origin__", "__args__")),
    types.ModuleType: reduce_module,
    types.CodeType: _refuse_code,
    functools.partial: term(
        "partial",
        # with the attributes set on it
        lambda value: ("functools.partial", value.func, value.args, value.keywords, vars(value)),
    ),
    # its lock (before 3.12) and its documentation do not count
    functools.cached_property: term("cached property", attrgetter("func", "attrname")),
    # what it has cached does not count
    type(functools.lru_cache(len)): term(
        "lru_cache", lambda value: (value.__wrapped__, value.cache_parameters())
    ),
    staticmethod: term("staticmethod", lambda value: (value.__func__,)),
    classmethod: term("classmethod", lambda value: (value.__func__,)),
    property: term("property", attrgetter("fget", "fset", "fdel")),
    # str.upper, a slot
    **dict.fromkeys(
        _DESCRIPTORS,
        term("descriptor", lambda value: (qualified_name(value.__objclass__), value.__name__)),
    ),
}
"""Reducers of callables, of what classes are made of, and of modules, by exact type."""
