"""Walks the statements of a module and of its classes, unit by unit."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterable

from pytest_taskcache.fingerprint.mentions import ClassShape, Import, Uses
from pytest_taskcache.fingerprint.skeleton.collected import Collected
from pytest_taskcache.fingerprint.skeleton.definitions import definition_of
from pytest_taskcache.fingerprint.skeleton.effects import plugin_modules, targets_of
from pytest_taskcache.fingerprint.syntax import FunctionNode, Writer, dotted


def walk(tree: ast.Module) -> tuple[Collected, list[str]]:
    """What a module defines and mentions; and the text of its statements, with marks (a zero
    character and a number) where its definitions are."""
    found = Collected()
    text = _Walk(found).body(tree.body, "")
    found.settle()
    return found, text


class _Walk:
    """Writes units and collects what is in them."""

    def __init__(self, found: Collected) -> None:
        self._found = found
        self._statements = 0

    def body(self, statements: Iterable[ast.stmt], owner: str) -> list[str]:
        """The text of a module's or class's statements, with marks where functions are."""
        out: list[str] = []
        counts = self._found.counts[owner]
        for statement in statements:
            if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
                counts[statement.name] += 1
                out.append(self.define(statement, owner, direct=True))
            elif isinstance(statement, ast.ClassDef):
                counts[statement.name] += 1
                out += self.class_(statement, owner)
            else:
                out += self._statement(statement, owner)
        return out

    def _statement(self, statement: ast.stmt, owner: str) -> list[str]:
        found = self._found
        writer = _UnitWriter(self, owner)
        writer.write(statement)
        uses = writer.noted.uses()
        if owner:
            unit = "c:" + owner
            found.merge(unit, uses)
        else:
            unit = f"s:{self._statements}"
            self._statements += 1
            found.uses[unit] = uses
        found.note(writer.noted)
        for name in writer.noted.stores:
            found.counts[owner][name] += 1
            if not owner and not isinstance(statement, ast.Import | ast.ImportFrom):
                found.bindings.setdefault(name, []).append(unit)
        if not owner:
            for item in uses.imports:
                if item.bound:
                    found.aliases.setdefault(item.bound, []).append(item)
            found.add_imports(Import(0, module, "", "") for module in plugin_modules(statement))
        found.effects += ((chain, unit) for chain in targets_of(statement))
        return writer.out

    def define(self, node: FunctionNode, owner: str, *, direct: bool) -> str:
        """The mark of a function definition, which is digested by itself."""
        found = self._found
        definition, noted = definition_of(node, owner, direct=direct)
        arguments = node.args
        uses = noted.uses(
            argument.arg
            for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)
        )
        found.note(noted)
        unit = "f:" + definition.qualname
        found.merge(unit, uses)
        for nested in definition.nested:
            # What it mentions is among what the function around it mentions.
            found.merge("f:" + nested, Uses())
        if not owner:
            found.bind(node.name, unit)
        found.definitions.append(definition)
        return f"\0{len(found.definitions) - 1}"

    def class_(self, node: ast.ClassDef, owner: str) -> list[str]:
        """The text of a class, with marks where its methods are."""
        found = self._found
        qualname = f"{owner}.{node.name}" if owner else node.name
        unit = "c:" + qualname
        header = Writer()
        header.write_all(getattr(node, "type_params", ()))
        header.write_all(node.bases)
        header.write_all(node.keywords)
        header.write_all(node.decorator_list)
        found.merge(unit, header.noted.uses())
        counts = found.counts.setdefault(qualname, Counter())
        first = len(found.definitions)
        body = self.body(node.body, qualname)
        methods = {item.name for item in found.definitions[first:] if item.owner == qualname}
        shape = ClassShape(
            tuple(filter(None, map(_last_component, node.bases))),
            tuple(sorted(methods)),
            tuple(sorted(set(counts) - methods)),
            tuple(keyword.arg or "**" for keyword in node.keywords),
        )
        shape = found.add_class(qualname, shape)
        if not owner:
            found.bind(node.name, unit)
        found.effects += ((chain, unit) for chain in map(dotted, node.decorator_list) if chain)
        return ["ClassDef", node.name, *header.out, "{", *body, "}", *shape.methods, ";"]


class _UnitWriter(Writer):
    """Writes one unit; definitions outside of functions are units of their own instead."""

    def __init__(self, walk: _Walk, owner: str) -> None:
        super().__init__()
        self._walk = walk
        self._owner = owner

    def function(self, node: FunctionNode) -> None:
        if self.noted.at_top:
            self.noted.scope.stores.add(node.name)
            self.out.append(self._walk.define(node, self._owner, direct=False))
        else:
            super().function(node)

    def class_(self, node: ast.ClassDef) -> None:
        if self.noted.at_top:
            self.noted.scope.stores.add(node.name)
            self.out += self._walk.class_(node, self._owner)
        else:
            super().class_(node)


def _last_component(base: ast.expr) -> str:
    """``B`` for a base written ``a.B``, ``B[int]`` or ``make(B)``; else empty."""
    while isinstance(base, ast.Subscript):
        base = base.value
    return dotted(base).rpartition(".")[2]
