"""Functions defined at module or class level: each is digested by itself."""

from __future__ import annotations

import ast
from dataclasses import dataclass

from pytest_taskcache.checksum import checksum
from pytest_taskcache.fingerprint.mentions import Uses
from pytest_taskcache.fingerprint.qualnames import INSIDE
from pytest_taskcache.fingerprint.syntax import FunctionNode, Noted, Writer, dotted


@dataclass(frozen=True, slots=True)
class Definition:
    """A function definition, until it can be decided what of it belongs to the skeleton.

    ``owner`` is the qualified name of its class, empty for a function; ``direct`` is false for
    one inside of another statement (``if``, ``try``), which may not be executed. ``uses`` is
    what the signature mentions, ``interface`` its text and the docstring; ``digest`` is of all
    but the functions inside, whose digests are ``nested``, by qualified name.
    """

    qualname: str
    name: str
    owner: str
    node: FunctionNode
    direct: bool
    uses: Uses
    interface: list[str]
    digest: str
    nested: dict[str, str]


def definition_of(node: FunctionNode, owner: str, *, direct: bool) -> tuple[Definition, Noted]:
    """A definition at module or class level, and what was noted of it."""
    writer = _FunctionWriter(_receiver_of(node) if owner else "", owner)
    writer.function(node)
    signature = Writer()
    signature.signature(node)
    definition = Definition(
        f"{owner}.{node.name}" if owner else node.name,
        node.name,
        owner,
        node,
        direct,
        signature.noted.uses(),
        [*signature.out, ast.get_docstring(node, clean=False) or ""],
        checksum(writer.out),
        writer.nested,
    )
    return definition, writer.noted


class _FunctionWriter(Writer):
    """Writes a function without the statements of those nested in it, which may never run:
    their digests are in ``nested``, by qualified name."""

    def __init__(self, receiver: str, owner: str) -> None:
        super().__init__(receiver, reads_hints=False)
        self.nested: dict[str, str] = {}
        self._prefix = f"{owner}." if owner else ""
        self._splits = True

    def function(self, node: FunctionNode) -> None:
        before = self._prefix, self._splits
        # Their code goes by a name that does not tell where it is.
        self._splits &= not (self._is_global(node.name) or _has_type_parameters(node))
        super().function(node)
        self._prefix, self._splits = before

    def class_(self, node: ast.ClassDef) -> None:
        before = self._prefix, self._splits
        self._splits &= not (self._is_global(node.name) or _has_type_parameters(node))
        self._prefix += f"{node.name}."
        super().class_(node)
        self._prefix, self._splits = before

    def body(self, node: FunctionNode) -> None:
        qualname = self._prefix + node.name
        self._prefix = f"{qualname}{INSIDE}."
        if INSIDE not in qualname or not self._splits:
            super().body(node)
            return
        around, self.out = self.out, []
        super().body(node)
        found, self.out = self.out, around
        known = self.nested.get(qualname, "")
        self.nested[qualname] = checksum((known, *found))
        self.out += ("\0", ast.get_docstring(node, clean=False) or "")

    def _is_global(self, name: str) -> bool:
        return name in self.noted.scope.declared


def _receiver_of(node: FunctionNode) -> str:
    """The parameter that stands for the object, or class, a method is called on."""
    if any(dotted(decorator) == "staticmethod" for decorator in node.decorator_list):
        return ""
    positional = [*node.args.posonlyargs, *node.args.args]
    return positional[0].arg if positional else ""


def _has_type_parameters(node: FunctionNode | ast.ClassDef) -> bool:
    return bool(getattr(node, "type_params", None))
