"""Which attributes of an argument a function reads, as far as its byte code tells."""

from __future__ import annotations

import dis
import functools
import inspect
from collections.abc import Iterator
from types import CodeType, FunctionType

_LOADS = ("LOAD_FAST", "LOAD_FAST_CHECK", "LOAD_DEREF")
_READS = frozenset({"LOAD_ATTR", "LOAD_METHOD"})
_USES = _READS | {"LOAD_SUPER_ATTR", "LOAD_SUPER_METHOD", "STORE_ATTR"}


def reads_of(function: FunctionType, argument: str) -> frozenset[str] | None:
    """Names of the attributes that are read or set on an argument; None where the argument is
    handed on, so that anything may be read. A name that is only read for an attribute of its own
    comes as ``name.attribute``. Checked on CPython 3.11 to 3.13."""
    found: set[str] = set()
    for code in _codes(function.__code__):
        cells = {*code.co_cellvars, *code.co_freevars}
        if "super" in code.co_names:
            found.update(code.co_names)  # before 3.12 it does not show whose attribute is meant
        instructions = [i for i in dis.get_instructions(code) if i.opname != "CACHE"]
        ahead = [*instructions[1:], None, None]
        for here, following, last in zip(instructions, ahead, ahead[1:], strict=False):
            names = _locals_of(here)
            if argument not in names or (argument in cells and "DEREF" not in here.opname):
                continue  # a cell itself is only passed on to the function that is looked at next
            loaded = here.opname.endswith(_LOADS) and argument not in names[:-1]
            if not loaded or following is None or following.opname not in _USES:
                return None
            name = str(following.argval)
            if last is not None and last.opname in _READS and following.opname in _READS:
                name = f"{name}.{last.argval}"
            found.add(name)
    return frozenset(found)


def reads_of_self(function: FunctionType, cls: type) -> frozenset[str] | None:
    """As `reads_of`, first names only, for the first argument of a method; with what those methods
    and properties of the class read that it calls by name."""
    todo, done, found = [function], {function}, set[str]()
    while todo:
        method = todo.pop()
        if not method.__code__.co_argcount:
            continue
        names = reads_of(method, method.__code__.co_varnames[0])
        if names is None:
            return None
        names = frozenset(name.partition(".")[0] for name in names)
        for name in names - found:
            for called in _methods(cls, name):
                if called not in done:
                    done.add(called)
                    todo.append(called)
        found |= names
    return frozenset(found)


def _methods(cls: type, name: str) -> Iterator[FunctionType]:
    for owner in cls.__mro__:
        attribute = vars(owner).get(name)
        if isinstance(attribute, property):
            candidates = [attribute.fget, attribute.fset]
        elif isinstance(attribute, functools.cached_property):
            candidates = [attribute.func]
        else:
            candidates = [getattr(attribute, "__func__", attribute)]
        for candidate in candidates:
            plain = inspect.unwrap(candidate) if callable(candidate) else None
            if isinstance(plain, FunctionType):
                yield plain


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _locals_of(instruction: dis.Instruction) -> tuple[str, ...]:
    """The local variables an instruction names: one, or two where the compiler joined two
    loads."""
    if instruction.opcode not in dis.haslocal and instruction.opcode not in dis.hasfree:
        return ()
    value = instruction.argval
    return value if isinstance(value, tuple) else (value,)
