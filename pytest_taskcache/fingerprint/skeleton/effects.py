"""What a statement does to others, when a module is imported."""

from __future__ import annotations

import ast

from pytest_taskcache.fingerprint.syntax import dotted

_NESTING = (ast.stmt, ast.ExceptHandler, ast.match_case, ast.Tuple, ast.List, ast.Starred)


def targets_of(statement: ast.stmt) -> list[str]:
    """Dotted names of what a statement calls or stores into, at import, in its own right."""
    found: list[str] = []
    pending: list[ast.AST] = [statement]
    while pending:
        node = pending.pop()
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef() | ast.Lambda():
                continue
            case (
                ast.Expr(value=ast.Call() as call)
                | ast.Expr(value=ast.Await(value=ast.Call() as call))
            ):
                found.append(_root_of(call.func))
            case ast.Subscript(ctx=ast.Store()) | ast.Attribute(ctx=ast.Store()):
                found.append(_root_of(node.value))
            case ast.AugAssign():
                found.append(_root_of(node.target))
        if isinstance(node, _NESTING):
            pending += ast.iter_child_nodes(node)
    return [chain for chain in found if chain]


def _root_of(node: ast.expr) -> str:
    """The dotted name at the start of an expression such as ``a.b(c).d[e]``."""
    while True:
        if name := dotted(node):
            return name
        if isinstance(node, ast.Call):
            node = node.func
        elif isinstance(node, ast.Attribute | ast.Subscript | ast.Starred):
            node = node.value
        else:
            return ""


def plugin_modules(statement: ast.stmt) -> list[str]:
    """The modules that an assignment to ``pytest_plugins`` makes pytest import."""
    if not isinstance(statement, ast.Assign) or not any(
        isinstance(target, ast.Name) and target.id == "pytest_plugins"
        for target in statement.targets
    ):
        return []
    return [
        node.value
        for node in ast.walk(statement.value)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value
    ]
