"""What a pickle refers to besides data: code, modules, singletons and paths.

    value                                  in the pickle
    Colour.RED, json.dumps, models.Order   by name: the very objects come back
    lib.MISSING, made by object()          by the module and the name that hold it
    lambda x: x + n                        by value: byte code, defaults, cells; its globals are
                                           those of its module, as they are when it comes back
    object() that nobody holds             refused: another object would come back
    a class local to a function            refused: another type would come back

What is stored by value rests on its source, and so does an instance on the methods that pickle
and unpickle it: they are reported as held.
"""

from __future__ import annotations

import copyreg
import enum
import io
import marshal
import pickle
import sys
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import PurePath
from types import CellType, CodeType, FunctionType, ModuleType
from typing import Any, Final, TypeAlias

from pytest_taskcache.digests.values.callables import is_installed
from pytest_taskcache.digests.values.instances import reduces_by_default
from pytest_taskcache.digests.values.sentinels import held_ids, place_of
from pytest_taskcache.digests.values.terms import is_importable
from pytest_taskcache.originals import os_path
from pytest_taskcache.serializers import named_paths

BufferCallback: TypeAlias = Callable[[pickle.PickleBuffer], bool]

AMBIGUOUS: Final = frozenset({"__main__", "conftest"})
"""Module names that mean different files in different runs, or at different times of one."""


class RefusedValueError(pickle.PicklingError):
    """A value that would come back as something else, whichever pickler writes it."""


class References:
    """Gathers what one value refers to while it is pickled; ``reduce`` is a pickler's
    ``reducer_override``. ``copies`` says that the pickler is cloudpickle's. ``held`` is code by
    file and qualified name, ``ambiguous`` are modules that go by an ambiguous name, ``paths`` the
    path objects. ``uncertain`` says that code of the value's authors runs when it comes back,
    which may fail."""

    def __init__(self, copies: bool = False) -> None:
        self.copies = copies
        self.held: set[tuple[str, str]] = set()
        self.ambiguous: set[str] = set()
        self.paths: list[str] = []
        self.uncertain = False
        self._makers: list[FunctionType] = []
        self.made = False
        self._held_ids: frozenset[int] | None = None

    def reduce(self, value: Any) -> Any:
        """The reduction of a value, NotImplemented where pickle's own is right. Raises
        RefusedValueError, and PicklingError for what only cloudpickle writes."""
        rule = _RULES[type(value)]
        return NotImplemented if rule is None else rule(self, value)

    def held_code(self) -> tuple[tuple[str, str], ...]:
        """``held`` in order; with functions that are referred to by name, if some of them may
        make the instances that they stand beside."""
        if self.made:
            for function in self._makers:
                self.hold(function)
        return tuple(sorted(self.held))

    def hold(self, function: FunctionType) -> None:
        """Notes code of the project that the bytes hold, or that reads and writes them."""
        code = function.__code__
        if not (is_installed(_home(function)) or code.co_filename.startswith("<")):
            self.held.add((os_path.abspath(code.co_filename), code.co_qualname))

    def _name(self, module: str) -> None:
        if module in AMBIGUOUS:
            self.ambiguous.add(module)

    def by_copy(self) -> Any:
        """NotImplemented where cloudpickle is at work; raises PicklingError elsewhere."""
        if self.copies:
            return NotImplemented
        raise pickle.PicklingError("only cloudpickle writes it")

    def add_class(self, cls: type) -> Any:
        """By name; a copy only of what compares equal to its original."""
        if is_importable(cls):
            self._name(cls.__module__)
            return NotImplemented
        if cls.__module__ == "builtins":
            return NotImplemented
        if not (cls.__bases__ == (tuple,) and hasattr(cls, "_fields")):
            raise RefusedValueError(
                f"class {cls.__module__}.{cls.__qualname__} cannot be found under this name when "
                f"it is read back, and a copy would be another type; define it at the top level of "
                f"a module"
            )
        return self.by_copy()

    def add_function(self, function: FunctionType) -> Any:
        """By name where that leads to it, else by value, with its module's present globals."""
        if is_importable(function):
            self._name(function.__module__)
            self._makers.append(function)
            return NotImplemented
        self.hold(function)
        name = _home(function)
        module = sys.modules.get(name)
        if module is None or vars(module) is not function.__globals__:
            return self.by_copy()  # compiled from text: its globals are its own
        self._name(name)
        code = function.__code__
        moves = code.co_filename == getattr(module, "__file__", None)
        made = (name, marshal.dumps(code), moves, function.__name__, function.__closure__)
        state = {each: value for each in _STATE if (value := getattr(function, each, None))}
        return _make_function, made, (state, vars(function)), None, None, _set_function

    def add_cell(self, cell: CellType) -> Any:
        """By content, which may lead back to it, and is shared by those that share the cell."""
        try:
            content = cell.cell_contents
        except ValueError:
            return CellType, ()  # never assigned, or deleted
        return CellType, (), (content,), None, None, _set_cell

    def add_module(self, module: ModuleType) -> Any:
        """By name."""
        if sys.modules.get(module.__name__) is not module:
            return self.by_copy()
        self._name(module.__name__)
        return import_module, (module.__name__,)

    def add_path(self, path: PurePath) -> Any:
        """As pickle does, but whole: Python 3.13 writes the pieces that it was joined from, and the
        first may be a path that the value does not name. That it is a path is noted."""
        text = str(path)
        self.paths.append(text)
        if type(path).__reduce__ is PurePath.__reduce__:
            return type(path), (text,)
        return NotImplemented

    def add_bare_object(self, value: object) -> Any:
        """By the module and name that hold it."""
        found = self._by_place(value, None)
        if found is None:
            raise RefusedValueError(
                "a bare object() that no module holds would come back as another one; make it a "
                "global of a module, or an enum's member"
            )
        return found

    def _by_place(self, value: object, state: object) -> Any:
        place = place_of(value)
        if place is None or not place.fixed:
            return None
        self._name(place.module)
        return _held_object, (place.module, place.name, type(value), state)

    def add_singleton(self, value: Any) -> Any:
        """By the module and name that hold it, if any do and it is at most a few texts."""
        if self._held_ids is None:
            # one look at all modules serves the thousands of instances that a value may have
            self._held_ids = held_ids()
        if id(value) not in self._held_ids:
            return NotImplemented
        # raises TypeError for what cannot be pickled: a connection is no singleton
        _, arguments, state, *_ = value.__reduce_ex__(4)
        # what its slots hold stands beside what its dict holds
        parts = [part for part in (state if type(state) is tuple else (state,)) if part is not None]
        few = len(arguments) == 1 and all(
            type(part) is dict and set(map(type, part.values())) <= {str} for part in parts
        )
        return (few and self._by_place(value, state)) or NotImplemented


_Rule: TypeAlias = Callable[[References, Any], Any] | None

_STATE = (
    *("__defaults__", "__kwdefaults__", "__annotations__", "__doc__", "__qualname__"),
    *("__module__", "__type_params__"),
)


def _home(function: FunctionType) -> str:
    """The module that a function's code belongs to; ``functools.wraps`` changes ``__module__``."""
    return str(function.__globals__.get("__name__"))


def _make_function(
    module: str, code: bytes, moves: bool, name: str, closure: tuple[CellType, ...] | None
) -> FunctionType:
    found = import_module(module)
    made: CodeType = marshal.loads(code)
    if moves and isinstance(found.__file__, str):
        made = _moved(made, found.__file__)
    return FunctionType(made, vars(found), name, None, closure)


def _moved(code: CodeType, file: str) -> CodeType:
    """The code as of the module's file here: its record may come from another checkout."""
    if code.co_filename == file:
        return code
    constants = tuple(
        _moved(each, file) if isinstance(each, CodeType) else each for each in code.co_consts
    )
    return code.replace(co_filename=file, co_consts=constants)


def _set_function(function: FunctionType, state: tuple[dict[str, Any], dict[str, Any]]) -> None:
    attributes, own = state
    for name, value in attributes.items():
        setattr(function, name, value)
    vars(function).update(own)


def _set_cell(cell: CellType, state: tuple[object]) -> None:
    cell.cell_contents = state[0]


def _held_object(module: str, name: str, kind: type, state: object) -> object:
    found: object = getattr(import_module(module), name)
    if type(found) is not kind or (kind is not object and found.__getstate__() != state):
        raise pickle.UnpicklingError(f"{module}.{name} is no longer what it was")
    return found


def _loses_read_only(array: Any) -> bool:
    """Whether an array is read-only, and numpy's pickle does not say so: where it hands out no
    buffer, of strided or broadcast views, elements that are objects or dates, subclasses."""
    if array.flags.writeable:
        return False
    if array.dtype.hasobject or type(array).__name__ != "ndarray":
        return True
    try:
        pickle.PickleBuffer(array).raw()
    except (BufferError, ValueError):
        return True
    return False


def _read_only(array: Any) -> Any:
    array.flags.writeable = False
    return array


def _add_array(rule: _Rule, references: References, array: Any) -> Any:
    if _loses_read_only(array):
        return _read_only, (array.copy(order="K"),)
    return NotImplemented if rule is None else rule(references, array)


_PICKLING = (
    *("__reduce__", "__reduce_ex__", "__getstate__", "__setstate__", "__new__"),
    *("__getnewargs__", "__getnewargs_ex__"),
)
_CALLED = (*_PICKLING, "__getattr__", "__getattribute__", "__setattr__")
_FILLING: Final[dict[type, tuple[str, ...]]] = {
    list: ("append", "extend"),
    dict: ("__setitem__",),
    set: ("__init__",),
    BaseException: ("__init__",),
}
"""What a subclass is filled with as it comes back: cls(*args) for an exception, which an __init__
of its own may not take."""
_TRUSTED = sys.stdlib_module_names | {"attr", "numpy", "pandas", "polars", "pyarrow", "pydantic"}
"""Packages whose own methods are known to bring back what they stored."""


def _rule_of(kind: type) -> _Rule:
    exact = _EXACT.get(kind)
    if exact is not None:
        return exact
    if issubclass(kind, type):
        return References.add_class
    if issubclass(kind, PurePath):
        return References.add_path
    if issubclass(kind, enum.Enum):
        return None
    # one that a module holds is known by nothing but its identity
    singleton = (
        kind.__eq__ is object.__eq__
        and reduces_by_default(kind)
        and kind.__getstate__ is object.__getstate__
        and kind.__itemsize__ == 0
    )
    uncertain, picklers = _hooks(kind)
    if not (uncertain or picklers):
        return References.add_singleton if singleton else None

    def add_instance(references: References, value: object) -> Any:
        references.uncertain |= uncertain
        for function in picklers:
            references.hold(function)
        references.made |= bool(picklers)
        return references.add_singleton(value) if singleton else NotImplemented

    return add_instance


def _hooks(kind: type) -> tuple[bool, tuple[FunctionType, ...]]:
    """Whether code of the class's authors runs when an instance comes back, and the functions of
    the project that pickle it."""
    names = {*_CALLED}.union(*(each for base, each in _FILLING.items() if issubclass(kind, base)))
    found = [
        (name, function)
        for base in kind.__mro__
        for name in sorted(names)
        if isinstance(hook := vars(base).get(name), FunctionType | staticmethod)
        and isinstance(function := getattr(hook, "__func__", hook), FunctionType)
        # what namedtuple compiles says so in the name of its module
        and not _home(function).startswith("namedtuple_")
        and _home(function).partition(".")[0] not in _TRUSTED
    ]
    registered = (
        kind in copyreg.dispatch_table and kind.__module__.partition(".")[0] not in _TRUSTED
    )
    picklers = tuple(function for name, function in found if name in _PICKLING)
    return bool(found) or registered, picklers


def _refuse_view(references: References, value: object) -> Any:
    raise RefusedValueError("a memoryview would come back as bytes; return bytes(view)")


def _refuse_text_file(references: References, value: io.TextIOWrapper) -> Any:
    if value in (sys.stdin, sys.stdout, sys.stderr):
        return references.by_copy()
    reason = f"an open file ({value.name}) would come back as a copy of its text"
    raise RefusedValueError(reason)


_EXACT: Final[dict[type, Callable[[References, Any], Any]]] = {
    object: References.add_bare_object,
    FunctionType: References.add_function,
    CellType: References.add_cell,
    ModuleType: References.add_module,
    memoryview: _refuse_view,
    io.TextIOWrapper: _refuse_text_file,
}


class _Rules(dict[type, _Rule]):
    """Rules by type, None where pickle's own way is right. A local class is decided each time, so
    that the table keeps none of them alive."""

    def __missing__(self, kind: type) -> _Rule:
        rule = _rule_of(kind)
        numpy: Any = sys.modules.get("numpy")
        if numpy is not None and issubclass(kind, numpy.ndarray):
            rule = partial(_add_array, rule)
        if is_importable(kind):
            self[kind] = rule
        return rule


_RULES = _Rules(_EXACT)


def pickled(
    value: object, keep_in_band: BufferCallback, beside: list[memoryview]
) -> tuple[bytes, References]:
    """The pickle (protocol 5) of a value, and what it refers to, all the paths in it included;
    buffers that are not kept in band are in ``beside``. Raises RefusedValueError, whatever the
    value's own methods raise."""
    for copies in (False, True):
        beside.clear()
        file, references = io.BytesIO(), References(copies)
        try:
            pickler(file, keep_in_band, references).dump(value)
            break
        except RefusedValueError:
            raise
        except (
            Exception
        ) as error:  # a value's own methods may raise anything; cloudpickle may manage
            if copies:
                raise RefusedValueError(f"{type(error).__name__}: {error}") from error
    stream = file.getvalue()
    if references.uncertain:
        _refuse_lost(stream, beside)
    if references.paths or named_paths.PICKLED.search(stream):
        found = [*references.paths, *named_paths.in_pickle(stream)]
        references.paths = [*named_paths.distinct(found)]
    return stream, references


class _Pickler(pickle.Pickler):
    """A class of our own, since only such have room for a ``reducer_override``."""


def pickler(file: Any, keep_in_band: BufferCallback, references: References) -> Any:
    """What writes a value. The only place that imports cloudpickle, whose pickler takes its turn
    when a value needs it, less what would come back as something else."""
    if not references.copies:
        plain: Any = _Pickler(file, 5, buffer_callback=keep_in_band)
        plain.reducer_override = references.reduce
        return plain
    import cloudpickle

    class Copier(cloudpickle.Pickler):  # type: ignore[misc]  # cloudpickle is untyped
        def reducer_override(self, obj: Any) -> Any:
            reduced = references.reduce(obj)
            return super().reducer_override(obj) if reduced is NotImplemented else reduced

    return Copier(file, protocol=5, buffer_callback=keep_in_band)


def _refuse_lost(stream: bytes, buffers: list[memoryview]) -> None:
    """Raises RefusedValueError for a stream that does not come back."""
    try:
        # copies, since the value's code may change what it is given
        pickle.loads(stream, buffers=[bytearray(buffer) for buffer in buffers])
    except Exception as error:
        raise RefusedValueError(
            f"it would not come back: {type(error).__name__}: {error}; give its class a "
            f"__reduce__, or return plain data"
        ) from error
