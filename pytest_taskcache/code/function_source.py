"""Digests of functions and classes by their source, or by their code where there is none.

What counts is what a file said when the function was first asked about, which for a decorated
function is when it was imported.
"""

from __future__ import annotations

import ast
import functools
import inspect
import linecache
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from types import CodeType, FunctionType, MethodType
from typing import Any, TypeAlias

from pytest_taskcache.checksum import checksum
from pytest_taskcache.originals import originals, os_path

Defined: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
_Node: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda


def function_source_digest(function: FunctionType, file: str | None = None) -> str:
    """The digest of a function's identity and normalised source.

    Identity is the qualified name and ``file`` (its name relative to the root), or the module's
    name where no file is given; the module that runs as ``__main__`` goes by the name it is
    imported under. Comments, blank lines, formatting and line numbers do not count; decorators,
    defaults, annotations and docstrings do. Of a function that was wrapped, what was wrapped
    counts. A function without source counts by its bytecode, which is the same only for the same
    version of Python.
    """
    function = unwrapped(function)
    code = function.__code__
    where = file if file is not None else module_name(function.__module__ or "")
    return checksum(("function", where, code.co_qualname, _body_digest(code)))


def module_name(name: str) -> str:
    """The name a module is imported under, also for the one that runs as ``__main__``: by its
    spec (``python -m``), else by its file and the packages that this lies in."""
    main = sys.modules.get("__main__")
    if name != "__main__" or main is None:
        return name
    spec = getattr(main, "__spec__", None)
    if spec is not None:
        return str(spec.name.removesuffix(".__main__"))
    file = getattr(main, "__file__", None)
    if not isinstance(file, str):
        return name
    directory, base = os.path.split(os_path.abspath(file))
    found = os.path.splitext(base)[0]
    while os_path.isfile(os.path.join(directory, "__init__.py")):
        directory, package = os.path.split(directory)
        found = package if found == "__main__" else f"{package}.{found}"
    return found


def unwrapped(function: Any) -> FunctionType:
    """The plain function inside methods, partials and ``functools.wraps`` wrappers.

    Raises TypeError for what has none.
    """
    seen: set[int] = set()
    while id(function) not in seen:
        seen.add(id(function))
        if isinstance(function, functools.partial):
            function = function.func
        elif isinstance(function, MethodType | staticmethod | classmethod):
            function = function.__func__
        else:
            # Looked up without running any __getattr__, which may invent attributes.
            function = inspect.getattr_static(function, "__wrapped__", function)
    if not isinstance(function, FunctionType):
        raise TypeError(f"{function!r} is no Python function")
    return function


def owner_of(function: Any) -> type | None:
    """The class a function is defined in, found by its qualified name; None for a function, and
    for a method of a local class."""
    *outer, _ = getattr(function, "__qualname__", "?").split(".")
    if not outer or "<locals>" in outer:
        return None
    found: object = sys.modules.get(function.__module__)
    for name in outer:
        found = getattr(found, name, None)
    return found if isinstance(found, type) else None


def is_of_a_module(function: Any) -> bool:
    """Whether the globals of a function, and of what it wraps, are those of a loaded module: what
    other namespaces hold, such as a copy of a module that nobody can import, is not looked at.
    (pytest drops a ``conftest`` from ``sys.modules`` where it loads another.)"""
    for one in (function, inspect.unwrap(function)):
        space = getattr(one, "__globals__", None)
        name = (space or {}).get("__name__", "")
        loaded = getattr(sys.modules.get(name), "__dict__", None)
        if space is not None and space is not loaded and name != "conftest":
            return False
    return True


def code_digest(code: CodeType) -> str:
    """The digest of a code object: instructions, constants and names, those of nested code
    included; neither file name nor line numbers."""
    return checksum(_code_parts(code))


def _code_parts(code: CodeType) -> Iterator[str]:
    yield sys.implementation.cache_tag or sys.version
    yield code.co_code.hex()
    yield getattr(code, "co_exceptiontable", b"").hex()
    yield repr((code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags))
    for names in (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars):
        yield str(len(names))
        yield from names
    for constant in code.co_consts:
        yield from _constant_parts(constant)


def _constant_parts(constant: object) -> Iterator[str]:
    if isinstance(constant, CodeType):
        yield "code"
        yield from _code_parts(constant)
    elif isinstance(constant, tuple):
        yield f"tuple {len(constant)}"
        for item in constant:
            yield from _constant_parts(item)
    elif isinstance(constant, frozenset):
        # Its order differs from process to process.
        yield f"frozenset {len(constant)}"
        yield from sorted(checksum(_constant_parts(item)) for item in constant)
    elif isinstance(constant, int) and not isinstance(constant, bool):
        yield "int " + hex(constant)
    else:
        yield f"{type(constant).__name__} {constant!r}"


def definitions_in(source: str | bytes) -> Iterator[tuple[str, Defined]]:
    """The functions and classes of a module by qualified name, those inside one after it; none
    where the source cannot be parsed."""
    from pytest_taskcache.code.syntax import parsed

    pending: list[tuple[str, ast.AST]] = []
    with suppress(SyntaxError, ValueError, RecursionError):  # edited meanwhile, or made
        pending.append(("", parsed(source)))
    while pending:
        prefix, node = pending.pop()
        for child in ast.iter_child_nodes(node):
            inner = prefix
            if isinstance(child, Defined):
                yield prefix + child.name, child
                scope = "." if isinstance(child, ast.ClassDef) else ".<locals>."
                inner = f"{prefix}{child.name}{scope}"
            pending.append((inner, child))


_Functions: TypeAlias = dict[int, list[_Node]]
"""The functions of a file, by the line they begin in."""


def _functions_in(tree: ast.Module) -> _Functions:
    found: _Functions = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            found.setdefault(first_line(node), []).append(node)
    return found


def _nodes_of(code: CodeType, functions: _Functions) -> list[_Node]:
    """The definitions that a code object may have been compiled from: one, unless several of one
    name share a line and look the same from outside."""
    here = [
        node
        for node in functions.get(code.co_firstlineno, ())
        if getattr(node, "name", "<lambda>") == code.co_name
    ]
    if len(here) > 1:
        end = _end_of(code)
        return [node for node in here if _end_of_body(node) == end] or here
    return here


def first_line(node: _Node | Defined) -> int:
    """Where a definition begins, its decorators included."""
    decorators = [] if isinstance(node, ast.Lambda) else node.decorator_list
    return min([node.lineno, *(item.lineno for item in decorators)])


def _end_of(code: CodeType) -> tuple[int | None, int | None]:
    """The last line and column that any instruction comes from."""
    ends = [
        (position[1], position[3])
        for position in code.co_positions()
        if position[1] is not None and position[3] is not None
    ]
    return max(ends, default=(None, None))


def _end_of_body(node: _Node) -> tuple[int | None, int | None]:
    body = node.body if isinstance(node, ast.Lambda) else node.body[-1]
    return (body.end_lineno, body.end_col_offset)


_files: dict[str, tuple[tuple[int, ...], _Functions]] = {}
_bodies: dict[int, tuple[CodeType, str]] = {}
"""Digests by code object's id, with the code kept alive."""


def forget_files() -> None:
    """Lets go of all syntax trees, which every full garbage collection walks."""
    _files.clear()


def _functions_of(filename: str) -> _Functions:
    """Those of a file as it is now; none where it is no readable Python source."""
    source: bytes | None = None
    try:
        found = originals.stat(filename)
        stamp = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    except (OSError, ValueError):
        # In a zip file, or made at run time: loaders, and the interactive shell, keep its lines.
        source = "".join(linecache.getlines(filename)).encode("utf-8", "surrogatepass")
        stamp = (len(source), hash(source), 0, 0, 0)
    kept = _files.get(filename)
    if kept is not None and (kept[0] == stamp or source == b""):
        return kept[1]
    try:
        if source is None:
            with open(filename, "rb") as stream:
                source = stream.read()
        from pytest_taskcache.code.syntax import parsed

        functions = _functions_in(parsed(source))
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        functions = {}
    _files[filename] = (stamp, functions)
    return functions


def _body_digest(code: CodeType) -> str:
    known = _bodies.get(id(code))
    if known is None:
        nodes = _nodes_of(code, _functions_of(code.co_filename))
        from pytest_taskcache.code.syntax import normalised_text

        digest = checksum(map(normalised_text, nodes)) if nodes else code_digest(code)
        known = _bodies[id(code)] = (code, digest)
    return known[1]
