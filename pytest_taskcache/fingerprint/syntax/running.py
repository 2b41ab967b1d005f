"""Which expressions are the name of a module that is loaded, since its code runs."""

from __future__ import annotations

import ast

from pytest_taskcache.fingerprint.syntax.expressions import FunctionNode, parameter_names


def names_running_module(node: ast.expr, function: FunctionNode | None) -> bool:
    """Whether an expression is the name of the module of a frame or function, or a variable
    of the function around that never is anything else."""
    if not isinstance(node, ast.Name):
        return _reads_module_name(node)
    if function is None or node.id in parameter_names(function.args):
        return False
    values = _values_of(function, node.id)
    return bool(values) and all(value is not None and _reads_module_name(value) for value in values)


def _values_of(function: FunctionNode, name: str) -> list[ast.expr | None]:
    """What is assigned to a variable anywhere in a function; None for whatever else binds it,
    there or in a function inside."""
    found: list[ast.expr | None] = []
    plain: set[int] = set()
    for node in ast.walk(function):
        match node:
            case ast.Assign(targets=[ast.Name(id=bound) as target]) if bound == name:
                plain.add(id(target))
                found.append(node.value)
            case ast.Name(id=bound, ctx=ast.Store()) if bound == name:
                if id(node) not in plain:
                    found.append(None)
            case ast.Global(names=names) | ast.Nonlocal(names=names) if name in names:
                found.append(None)
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef() if (
                node is not function and node.name == name
            ):
                found.append(None)
            case ast.arg(arg=bound) | ast.alias(asname=bound) if bound == name:
                found.append(None)
            case ast.alias(asname=None) if node.name.partition(".")[0] == name:
                found.append(None)
            case (
                ast.ExceptHandler(name=bound)
                | ast.MatchAs(name=bound)
                | ast.MatchStar(name=bound)
                | ast.MatchMapping(rest=bound)
            ) if bound == name:
                found.append(None)
    return found


def _reads_module_name(node: ast.expr) -> bool:
    """Whether an expression is ``x.f_globals["__name__"]``, or the like by ``get`` or of a
    function's ``__globals__``."""
    match node:
        case (
            ast.Subscript(
                value=ast.Attribute(attr="f_globals" | "__globals__"),
                slice=ast.Constant(value="__name__"),
            )
            | ast.Call(
                func=ast.Attribute(
                    value=ast.Attribute(attr="f_globals" | "__globals__"), attr="get"
                ),
                args=[ast.Constant(value="__name__")],
                keywords=[],
            )
        ):
            return True
    return False
