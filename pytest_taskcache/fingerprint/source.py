"""Digests of functions by their source, or by their code where there is none."""

from __future__ import annotations

import ast
import functools
import inspect
import os
import sys
from collections.abc import Iterator
from types import CodeType, FunctionType, MethodType
from typing import Any, TypeAlias

from pytest_taskcache.checksum import checksum
from pytest_taskcache.digests.files import identity_of
from pytest_taskcache.fingerprint.syntax import FunctionNode, Writer

_Node: TypeAlias = FunctionNode | ast.Lambda

_REWRITTEN = "@pytest_ar"
"""A global name that pytest puts into every module whose assertions it rewrites."""


def function_source_digest(function: FunctionType, file: str | None = None) -> str:
    """The digest of a function's identity and normalised source.

    Identity is the qualified name and ``file`` (its name relative to the root), or the module's
    name where no file is given. Comments, blank lines, formatting and line numbers do not count;
    decorators, defaults, annotations and docstrings do. Of a function that was wrapped, what
    was wrapped counts. A function without source counts by its bytecode, which is the same only
    for the same version of Python.
    """
    function = unwrapped(function)
    code = function.__code__
    where = file if file is not None else function.__module__ or ""
    return checksum(("function", where, code.co_qualname, _body_digest(code)))


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


def is_current(function: FunctionType) -> bool:
    """Whether the source on disk is what was loaded; false too where it cannot be told.

    The definition at the function's place is compiled and compared with its code. Where pytest
    has rewritten assertions, only names and nesting are compared.
    """
    function = unwrapped(function)
    code = function.__code__
    found = _source_file(code.co_filename)
    if found is None or not found.nodes_of(code):
        return False
    rewritten = _REWRITTEN in function.__globals__
    describe = _outline if rewritten else code_digest
    return any(describe(candidate) == describe(code) for candidate in found.codes_of(code))


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


def _outline(code: CodeType) -> tuple[object, ...]:
    """What rewriting assertions leaves as it is: arguments, and nested definitions."""
    arguments = code.co_argcount + code.co_kwonlyargcount
    nested = [item.co_qualname for item in code.co_consts if isinstance(item, CodeType)]
    return (code.co_varnames[:arguments], code.co_firstlineno, sorted(nested))


class _SourceFile:
    """A parsed file, with its functions by qualified name."""

    def __init__(self, source: bytes, filename: str) -> None:
        self._source = source
        self._filename = filename
        self._nodes: dict[str, list[_Node]] = {}
        self._codes: dict[str, list[CodeType]] | None = None
        self._digests: dict[int, str] = {}
        self._collect(ast.parse(source), "")

    def _collect(self, node: ast.AST, prefix: str) -> None:
        pending = [(node, prefix)]
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
            exact = [node for node in here if _end_of_body(node) == end]
            return exact or here
        return here

    def _by_line(self, code: CodeType) -> list[_Node]:
        """Definitions of this name anywhere: code in a comprehension, or below a ``global``
        statement, has another qualified name than its place suggests."""
        last = code.co_qualname.rpartition(".")[2]
        return [
            node
            for name, nodes in self._nodes.items()
            if name.rpartition(".")[2] == last
            for node in nodes
        ]

    def codes_of(self, code: CodeType) -> list[CodeType]:
        """The code objects of the same name and line, as the file compiles now."""
        if self._codes is None:
            self._codes = {}
            compiled = compile(self._source, self._filename, "exec", dont_inherit=True)
            pending = [compiled]
            while pending:
                item = pending.pop()
                self._codes.setdefault(item.co_qualname, []).append(item)
                pending += (inner for inner in item.co_consts if isinstance(inner, CodeType))
        return [
            item
            for item in self._codes.get(code.co_qualname, ())
            if item.co_firstlineno == code.co_firstlineno
        ]

    def digest(self, node: _Node) -> str:
        """The digest of a definition's normalised text."""
        found = self._digests.get(id(node))
        if found is None:
            writer = Writer()
            writer.write(node)
            found = self._digests[id(node)] = checksum(writer.out)
        return found


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
_known: dict[int, tuple[CodeType, str]] = {}
"""Digests by code object's id, with the code kept alive: what a file said when its function was
first asked about, which for a decorated function is when it was imported."""


def _source_file(filename: str) -> _SourceFile | None:
    """A file as it is now, parsed; None where it is no readable Python source."""
    try:
        stamp = identity_of(os.stat(filename))
        kept = _files.get(filename)
        if kept is not None and kept[0] == stamp:
            return kept[1]
        with open(filename, "rb") as stream:
            found: _SourceFile | None = _SourceFile(stream.read(), filename)
    except OSError:
        return None
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        found = None
    _files[filename] = (stamp, found)
    return found


def _body_digest(code: CodeType) -> str:
    known = _known.get(id(code))
    if known is None:
        known = _known[id(code)] = (code, _compute(code))
    return known[1]


def _compute(code: CodeType) -> str:
    found = _source_file(code.co_filename)
    nodes = [] if found is None else found.nodes_of(code)
    if found is None or not nodes:
        return code_digest(code)
    return checksum([found.digest(node) for node in nodes])
