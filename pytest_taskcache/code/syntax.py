"""Syntax trees: parsed, and told apart by a text that neither formatting nor comments change.

Worked example::

    def price(x):        FunctionDef, 'price', parameters x, body: Return(BinOp(x Mult 2))
        return x * 2     the same for ``return (x*2)``, another for ``return x * 3``
"""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterable, Iterator
from typing import Any, TypeAlias

FunctionNode: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef

_SKIPPED = frozenset({"ctx", "type_comment", "kind", "type_ignores", "type_params"})


def parsed(source: str | bytes) -> ast.Module:
    """The syntax tree of a module. What Python warns of in it (``"\\d"``) is for who imports it to
    say, and no error here. Raises SyntaxError, ValueError, RecursionError and MemoryError."""
    with warnings.catch_warnings(action="ignore"):
        return ast.parse(source)


def normalised_text(node: ast.AST | list[ast.stmt], *, bodies: bool = True) -> str:
    """The text of a whole tree, which tells it apart from any other; the same in all versions of
    Python. Neither positions nor what an expression is used for are in it; without ``bodies``
    nothing of functions but what executing their ``def`` takes."""
    out: list[str] = []
    pending: list[Any] = [node]
    while pending:
        part = pending.pop()
        kind = part.__class__
        if kind is list:
            out.append(f"[{len(part)}")
            values = part
        else:
            out.append(kind.__name__)
            values = [getattr(part, name) for name in _FIELDS.get(kind) or fields_of(kind)]
            if kind in _GENERIC:
                if getattr(part, "type_params", None):
                    values.append(part.type_params)  # new in 3.12
                if not bodies and kind in _FUNCTIONS:
                    values.remove(part.body)
                    values.append(part.body[: is_text(part.body[0])])
        for value in values:
            if value.__class__ is str:
                out.append(repr(value))
            elif isinstance(value, (list, ast.AST)):
                out.append(".")  # to come
                pending.append(value)
            elif value.__class__ is int:
                # repr refuses integers of more than 4300 digits.
                out.append(hex(value))
            else:
                out.append(repr(value))
    return "\0".join(out)


_FIELDS: dict[type, tuple[str, ...]] = {}
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_GENERIC = frozenset({*_FUNCTIONS, ast.ClassDef, getattr(ast, "TypeAlias", ast.ClassDef)})
"""What may have type parameters."""


def fields_of(kind: type[ast.AST]) -> tuple[str, ...]:
    """The fields of a kind of node that tell what it means."""
    fields = _FIELDS.get(kind)
    if fields is None:
        fields = _FIELDS[kind] = tuple(name for name in kind._fields if name not in _SKIPPED)
    return fields


def executed(statements: Iterable[ast.AST]) -> Iterator[ast.AST]:
    """All nodes of these that are not inside of a function or class."""
    for node in statements:
        yield node
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)):
            yield from executed(ast.iter_child_nodes(node))


def is_text(node: ast.stmt) -> bool:
    """Whether it is a string that stands for itself: a docstring, where it is the first."""
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def text_in(node: ast.expr) -> str:
    """The text that an expression is; empty for any other."""
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def parameters_of(arguments: ast.arguments) -> Iterator[ast.arg]:
    """All parameters of a function."""
    yield from (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)
    if arguments.vararg is not None:
        yield arguments.vararg
    if arguments.kwarg is not None:
        yield arguments.kwarg
