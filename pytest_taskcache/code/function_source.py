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
from types import CodeType, FunctionType, MethodType
from typing import Any, TypeAlias

from pytest_taskcache.checksum import checksum
from pytest_taskcache.originals import originals

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
    directory, base = os.path.split(os.path.abspath(file))
    found = os.path.splitext(base)[0]
    while os.path.isfile(os.path.join(directory, "__init__.py")):
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


class _SourceFile:
    """A parsed file, with its functions by qualified name."""

    def __init__(self, source: bytes) -> None:
        self._nodes: dict[str, list[_Node]] = {}
        self._collect(ast.parse(source))

    def _collect(self, tree: ast.AST) -> None:
        pending = [(tree, "")]
        while pending:
            parent, where = pending.pop()
            for child in ast.iter_child_nodes(parent):
                inner = where
                match child:
                    case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                        self._nodes.setdefault(where + name, []).append(child)
                        inner = f"{where}{name}.<locals>."
                    case ast.Lambda():
                        self._nodes.setdefault(where + "<lambda>", []).append(child)
                        inner = f"{where}<lambda>.<locals>."
                    case ast.ClassDef(name=name):
                        inner = f"{where}{name}."
                pending.append((child, inner))

    def nodes_of(self, code: CodeType) -> list[_Node]:
        """The definitions that a code object may have been compiled from: one, unless several
        of one name share a line and look the same from outside."""
        named = self._nodes.get(code.co_qualname) or self._by_line(code)
        here = [node for node in named if _first_line(node) == code.co_firstlineno]
        if len(here) > 1:
            end = _end_of(code)
            return [node for node in here if _end_of_body(node) == end] or here
        return here

    def _by_line(self, code: CodeType) -> list[_Node]:
        """Definitions of this name anywhere: code in a comprehension, or below a ``global``
        statement, has another qualified name than its place suggests."""
        last = code.co_qualname.rpartition(".")[2]
        found = (nodes for name, nodes in self._nodes.items() if name.rpartition(".")[2] == last)
        return [node for nodes in found for node in nodes]


def _first_line(node: _Node) -> int:
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


_files: dict[str, tuple[tuple[int, ...], _SourceFile | None]] = {}
_bodies: dict[int, tuple[CodeType, str]] = {}
"""Digests by code object's id, with the code kept alive."""


def _source_file(filename: str) -> _SourceFile | None:
    """A file as it is now, parsed; None where it is no readable Python source."""
    stamp: tuple[int, ...]
    try:
        found = originals.stat(filename)
        stamp = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
        kept = _files.get(filename)
        if kept is not None and kept[0] == stamp:
            return kept[1]
        with open(filename, "rb") as stream:
            source = stream.read()
    except (OSError, ValueError):
        # In a zip file, or made at run time: loaders, and the interactive shell, keep its lines.
        source = "".join(linecache.getlines(filename)).encode("utf-8", "surrogatepass")
        stamp = (len(source), hash(source))
        kept = _files.get(filename)
        if not source or (kept is not None and kept[0] == stamp):
            return None if kept is None else kept[1]
    try:
        parsed: _SourceFile | None = _SourceFile(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        parsed = None
    _files[filename] = (stamp, parsed)
    return parsed


def _body_digest(code: CodeType) -> str:
    known = _bodies.get(id(code))
    if known is None:
        found = _source_file(code.co_filename)
        nodes = [] if found is None else found.nodes_of(code)
        from pytest_taskcache.code.source_file import normalised_text

        digest = checksum(map(normalised_text, nodes)) if nodes else code_digest(code)
        known = _bodies[id(code)] = (code, digest)
    return known[1]
