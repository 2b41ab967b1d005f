"""What can be read off a node by itself."""

from __future__ import annotations

import ast
from typing import TypeAlias

FunctionNode: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef


def dotted_name(node: ast.expr) -> str:
    """``a.b.c`` for a chain of attributes that starts at a name; else empty."""
    return "" if isinstance(node, ast.Call) else dotted(node)


def dotted(node: ast.expr) -> str:
    """``a.b.c`` for a chain of attributes that starts at a name, or for a call of one; else
    empty."""
    if isinstance(node, ast.Call):
        node = node.func
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return ""
    return ".".join((node.id, *reversed(names)))


def parameter_names(arguments: ast.arguments) -> list[str]:
    """The names of all parameters, in order."""
    listed = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    listed += [extra for extra in (arguments.vararg, arguments.kwarg) if extra is not None]
    return [argument.arg for argument in listed]
