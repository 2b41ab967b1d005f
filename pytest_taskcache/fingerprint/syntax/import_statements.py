"""Rules for import statements, and for the test that leaves them to type checkers."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from pytest_taskcache.fingerprint.mentions import Import
from pytest_taskcache.fingerprint.syntax.expressions import dotted

if TYPE_CHECKING:
    from pytest_taskcache.fingerprint.syntax.writer import Writer


def _import(writer: Writer, node: ast.Import) -> None:
    writer.generic(node)
    for alias in node.names:
        parent, _, last = alias.name.rpartition(".")
        if alias.asname and parent:
            writer.noted.add_import(Import(0, parent, last, alias.asname))
        else:
            bound = alias.asname or alias.name.partition(".")[0]
            writer.noted.add_import(Import(0, alias.name, "", bound))


def _import_from(writer: Writer, node: ast.ImportFrom) -> None:
    writer.generic(node)
    for alias in node.names:
        bound = alias.asname or alias.name
        writer.noted.add_import(Import(node.level, node.module or "", alias.name, bound))


def _if(writer: Writer, node: ast.If) -> None:
    guard = dotted(node.test)
    noted = writer.noted
    if guard.rpartition(".")[2] != "TYPE_CHECKING" or noted.guard:
        writer.generic(node)
        return
    writer.out.append("If")
    writer.write(node.test)
    noted.guard = guard
    writer.write_all(node.body)
    noted.guard = ""
    writer.write_all(node.orelse)


RULES: Mapping[type, Callable[[Writer, Any], None]] = {
    ast.Import: _import,
    ast.ImportFrom: _import_from,
    ast.If: _if,
}
