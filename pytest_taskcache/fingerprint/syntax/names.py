"""Rules for what loads or binds names: variables, attributes, parameters, patterns."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from pytest_taskcache.fingerprint.syntax.expressions import parameter_names
from pytest_taskcache.fingerprint.syntax.noted import Level

if TYPE_CHECKING:
    from pytest_taskcache.fingerprint.syntax.writer import Writer


def _name(writer: Writer, node: ast.Name) -> None:
    writer.out.append("=" + node.id)
    noted = writer.noted
    scope = noted.scope
    if node.ctx.__class__ is ast.Load:
        scope.loads.add(node.id)
    else:
        scope.stores.add(node.id)
        if node.id == noted.receiver:
            noted.lose_receiver()
        if node.ctx.__class__ is ast.Del:
            scope.loads.add(node.id)


def _attribute(writer: Writer, node: ast.Attribute) -> None:
    names = [node.attr]
    value = node.value
    while isinstance(value, ast.Attribute):
        names.append(value.attr)
        value = value.value
    names.reverse()
    writer.out.append("." + ".".join(names))
    noted = writer.noted
    if isinstance(value, ast.Name):
        writer.out.append("=" + value.id)
        noted.scope.chains.add(".".join((value.id, *names)))
        return
    writer.write(value)
    if noted.receiver and _is_super(value):
        noted.own.add(names[0])
        del names[0]
    noted.attributes.update(names)


def _is_super(node: ast.expr) -> bool:
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "super"
        and not node.args
    )


def write_annotation(writer: Writer, node: ast.AnnAssign | ast.arg) -> None:
    """Annotations of parameters, and of variables in functions, name types but make none."""
    if isinstance(node, ast.AnnAssign) and writer.noted.scope.level is not Level.FUNCTION:
        writer.generic(node)
        return
    writer.out.append(type(node).__name__)
    if node.annotation is None:
        writer.out.append("~")
    elif writer.reads_hints:
        writer.write(node.annotation)
    else:
        _write_hint(writer, node.annotation)
    if isinstance(node, ast.arg):
        writer.out.append(node.arg)
        return
    writer.write(node.target)
    if node.value is None:
        writer.out.append("~")
    else:
        writer.write(node.value)


def _write_hint(writer: Writer, node: ast.expr) -> None:
    """Appends an annotation whose names do not count."""
    noted = writer.noted
    scope = noted.scope
    loads, chains, checked = set(scope.loads), set(scope.chains), set(scope.checked)
    attributes = set(noted.attributes)
    writer.write(node)
    scope.loads, scope.chains, scope.checked = loads, chains, checked
    noted.attributes = attributes


def _global(writer: Writer, node: ast.Global) -> None:
    writer.generic(node)
    writer.noted.scope.declared.update(node.names)
    writer.noted.declared.update(node.names)


def _binding_name(writer: Writer, node: ast.MatchAs | ast.MatchStar) -> None:
    writer.generic(node)
    if node.name:
        writer.noted.scope.stores.add(node.name)


def _binding_rest(writer: Writer, node: ast.MatchMapping) -> None:
    writer.generic(node)
    if node.rest:
        writer.noted.scope.stores.add(node.rest)


def _lambda(writer: Writer, node: ast.Lambda) -> None:
    writer.out.append("Lambda")
    writer.write(node.args)
    writer.noted.enter(Level.FUNCTION)
    writer.noted.scope.stores.update(parameter_names(node.args))
    writer.write(node.body)
    writer.noted.leave()


def _comprehension(writer: Writer, node: ast.AST) -> None:
    writer.noted.enter(Level.FUNCTION)
    writer.generic(node)
    writer.noted.leave()


RULES: Mapping[type, Callable[[Writer, Any], None]] = {
    ast.Name: _name,
    ast.Attribute: _attribute,
    ast.AnnAssign: write_annotation,
    ast.arg: write_annotation,
    ast.Global: _global,
    ast.MatchAs: _binding_name,
    ast.MatchStar: _binding_name,
    ast.MatchMapping: _binding_rest,
    ast.Lambda: _lambda,
    ast.ListComp: _comprehension,
    ast.SetComp: _comprehension,
    ast.DictComp: _comprehension,
    ast.GeneratorExp: _comprehension,
}
