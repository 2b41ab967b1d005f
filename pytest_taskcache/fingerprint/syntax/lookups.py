"""Rules for code that names things without getting at them all: ``getattr`` of one attribute,
``sys.modules`` of one module, classes that something is only compared with."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from pytest_taskcache.fingerprint.mentions import Import
from pytest_taskcache.fingerprint.syntax.expressions import dotted, dotted_name
from pytest_taskcache.fingerprint.syntax.running import names_running_module
from pytest_taskcache.fingerprint.syntax.strings import reads_like_names

if TYPE_CHECKING:
    from pytest_taskcache.fingerprint.syntax.noted import Noted
    from pytest_taskcache.fingerprint.syntax.writer import Writer

_CHECKS = frozenset({"isinstance", "issubclass"})
_MODULES = "sys.modules"


def _call(writer: Writer, node: ast.Call) -> None:
    """``getattr(module, "name")`` and the like mention ``module.name``, not the module."""
    out = writer.out
    out.append("Call")
    arguments = node.args
    if arguments and _looks_modules_up(node) and _note_module(writer.noted, arguments[0]):
        out.append("=" + dotted(node.func))
    else:
        writer.write(node.func)
    if len(arguments) >= 2 and isinstance(arguments[0], ast.Name):
        second = arguments[1]
        if (
            isinstance(second, ast.Constant)
            and isinstance(second.value, str)
            and second.value.isidentifier()
        ):
            out.append("=" + arguments[0].id)
            writer.noted.scope.chains.add(f"{arguments[0].id}.{second.value}")
            arguments = arguments[1:]
    if isinstance(node.func, ast.Name) and node.func.id in _CHECKS and len(arguments) == 2:
        writer.write(arguments[0])
        _write_check(writer, arguments[1])
        arguments = []
    writer.write_all(arguments)
    writer.write_all(node.keywords)


def _looks_modules_up(node: ast.Call) -> bool:
    function = dotted_name(node.func)
    if function == "__import__":
        return len(node.args) == 1 and not node.keywords
    return function == _MODULES + ".get"


def _subscript(writer: Writer, node: ast.Subscript) -> None:
    """``sys.modules["name"]`` mentions that module, not whatever is loaded."""
    if dotted_name(node.value) == _MODULES and _note_module(writer.noted, node.slice):
        writer.out.append("Subscript=" + _MODULES)
        writer.write(node.slice)
        return
    writer.generic(node)


def _compare(writer: Writer, node: ast.Compare) -> None:
    """``"name" in sys.modules`` likewise; and a module whose code is running, or at hand,
    is loaded by whoever ran it."""
    right = node.comparators
    if (
        len(right) == 1
        and dotted_name(right[0]) == _MODULES
        and (
            _note_module(writer.noted, node.left)
            or names_running_module(node.left, writer.function_around)
        )
    ):
        writer.out.append(f"Compare {type(node.ops[0]).__name__}={_MODULES}")
        writer.write(node.left)
        return
    writer.generic(node)


def _note_module(noted: Noted, node: ast.expr) -> bool:
    """Notes the module that a constant names; false where it is not known beforehand."""
    if isinstance(node, ast.Name) and node.id == "__name__":
        return True
    if not isinstance(node, ast.Constant) or not isinstance(node.value, str):
        return False
    if reads_like_names(node.value):
        noted.imports.append(Import(0, node.value, "", ""))
    return True


def _except(writer: Writer, node: ast.ExceptHandler) -> None:
    writer.out.append("ExceptHandler")
    if node.type is None:
        writer.out.append("~")
    else:
        _write_check(writer, node.type)
    writer.out.append(node.name or "~")
    if node.name:
        writer.noted.scope.stores.add(node.name)
    writer.write_all(node.body)


def _write_check(writer: Writer, node: ast.expr) -> None:
    """Appends a class, or several, that something is only compared with."""
    if isinstance(node, ast.Tuple):
        writer.out.append("Tuple[")
        for item in node.elts:
            _write_check(writer, item)
        writer.out.append("]")
    elif name := dotted_name(node):
        writer.out.append("=" + name)
        writer.noted.scope.checked.add(name)
    else:
        writer.write(node)


RULES: Mapping[type, Callable[[Writer, Any], None]] = {
    ast.Call: _call,
    ast.Subscript: _subscript,
    ast.Compare: _compare,
    ast.ExceptHandler: _except,
}
