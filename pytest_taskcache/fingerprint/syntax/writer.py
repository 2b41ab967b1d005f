"""The walk over a tree, which yields its text and its mentions at once."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable
from typing import Any

from pytest_taskcache.fingerprint.syntax import import_statements, lookups, names, strings
from pytest_taskcache.fingerprint.syntax.expressions import FunctionNode, parameter_names
from pytest_taskcache.fingerprint.syntax.noted import Level, Noted

_SKIPPED = frozenset({"ctx", "type_comment", "kind", "type_ignores"})
_FIELDS: dict[type, tuple[str, ...]] = {}
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


class Writer:
    """Walks nodes, collecting their normalised text in ``out`` and their mentions in ``noted``.

    ``receiver`` is the first parameter of the method to be walked, if it is one.
    ``reads_hints`` is false where nobody can make objects of the types in its annotations.
    Nodes are written by rules, each a function in one of the modules around; functions and
    classes by methods, which subclasses replace.
    """

    def __init__(self, receiver: str = "", *, reads_hints: bool = True) -> None:
        self.out: list[str] = []
        self.noted = Noted(receiver)
        self.reads_hints = reads_hints
        self._functions: list[FunctionNode] = []

    @property
    def function_around(self) -> FunctionNode | None:
        """The innermost function that is being walked."""
        return self._functions[-1] if self._functions else None

    def write(self, node: ast.AST) -> None:
        """Appends the text of a node and notes its mentions."""
        rule = _RULES.get(node.__class__)
        if rule is not None:
            rule(self, node)
        elif isinstance(node, _FUNCTIONS):
            self.function(node)
        elif isinstance(node, ast.ClassDef):
            self.class_(node)
        else:
            self.generic(node)

    def write_all(self, nodes: Iterable[ast.AST]) -> None:
        """Appends the texts of a list of nodes."""
        self.out.append("[")
        for node in nodes:
            self.write(node)
        self.out.append("]")

    def generic(self, node: ast.AST) -> None:
        """Appends the text of a node that has no rule of its own."""
        kind = node.__class__
        fields = _FIELDS.get(kind)
        if fields is None:
            fields = tuple(name for name in kind._fields if name not in _SKIPPED)
            _FIELDS[kind] = fields
        out = self.out
        out.append(kind.__name__)
        for name in fields:
            value = getattr(node, name, None)
            if value is None:
                out.append("~")
            elif value.__class__ is list:
                out.append("[")
                for item in value:
                    if isinstance(item, ast.AST):
                        self.write(item)
                    else:
                        out.append(repr(item))
                out.append("]")
            elif isinstance(value, ast.AST):
                self.write(value)
            else:
                out.append(repr(value))

    def function(self, node: FunctionNode) -> None:
        """Appends a function: its signature in this scope, its body in one of its own."""
        noted = self.noted
        noted.scope.stores.add(node.name)
        self.out.append(node.__class__.__name__)
        self.out.append(node.name)
        ignored = not self.reads_hints
        # A decorator may make objects of the types it finds in annotations.
        self.reads_hints |= bool(node.decorator_list)
        self.signature(node)
        self.reads_hints = not ignored
        noted.enter(Level.FUNCTION)
        noted.scope.stores.update(parameter_names(node.args))
        self._functions.append(node)
        self.body(node)
        self._functions.pop()
        noted.leave()

    def body(self, node: FunctionNode) -> None:
        """Appends a function's statements."""
        self.write_all(node.body)

    def signature(self, node: FunctionNode) -> None:
        """Appends a function's decorators, parameters, defaults and annotations."""
        self.write_all(node.decorator_list)
        self.write_all(getattr(node, "type_params", ()))
        self.write(node.args)
        self.out.append("->")
        names.write_annotation(self, ast.arg("", node.returns))

    def class_(self, node: ast.ClassDef) -> None:
        """Appends a class; names bound in its body hide nothing from its methods."""
        self.noted.scope.stores.add(node.name)
        self.out.append("ClassDef")
        self.out.append(node.name)
        self.write_all(getattr(node, "type_params", ()))
        self.write_all(node.bases)
        self.write_all(node.keywords)
        self.write_all(node.decorator_list)
        self.noted.enter(Level.CLASS)
        self.write_all(node.body)
        self.noted.leave()


_RULES: dict[type, Callable[[Writer, Any], None]] = {
    **names.RULES,
    **strings.RULES,
    **lookups.RULES,
    **import_statements.RULES,
}
