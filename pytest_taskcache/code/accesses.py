"""What an expression may be, or be part of: the names it starts at, and the way from there.

Worked example::

    registry.tables["a"].append      starts at registry; attributes tables, append
    make(x).limit                    starts at make, which is called: what it made has ``limit``
    self.find(key).append            starts at self; find is called, and what it gives is changed
    one if x else other.part         may be either
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import NamedTuple

_GIVING_PARTS = frozenset({"get", "values", "items", "setdefault", "pop", "popitem", "popleft"})
"""Methods of containers that give what is in them."""


class Access(NamedTuple):
    """An access: the name it starts at (empty for none), whether a call is on the way that makes
    something, the attributes after that, and the methods that are called on the way."""

    root: str
    called: bool
    attributes: tuple[str, ...]
    methods: tuple[str, ...]


def access(node: ast.expr) -> Access:
    """The access that an expression is; its root is empty where it starts at no name."""
    attributes: list[str] = []
    methods: list[str] = []
    called = False
    while True:
        match node:
            case ast.Attribute(value=value, attr=name):
                if not called:  # else it is of what the method was called on
                    attributes.append(name)
                node = value
            case ast.Subscript(value=value) | ast.Starred(value=value) | ast.Await(value=value):
                node = value
            case ast.Call(func=ast.Attribute(value=value, attr=name)):
                called |= name not in _GIVING_PARTS
                methods.append(name)
                node = value
            case ast.Call(func=function):
                called = True
                node = function
            case _:
                root = node.id if isinstance(node, ast.Name) else ""
                return Access(root, called, tuple(attributes), tuple(methods))


def accesses(node: ast.expr) -> Iterator[Access]:
    """All that an expression may be, be made of, or be part of."""
    base = node
    while True:
        match base:
            case ast.Attribute() | ast.Subscript() | ast.Starred() | ast.Await():
                base = base.value
            case ast.Call(func=ast.Attribute(value=value)):
                base = value
            case _:
                break
    match base:
        case ast.IfExp(body=one, orelse=other):
            parts = [one, other]
        case ast.BoolOp(values=parts) | ast.Tuple(elts=parts) | ast.List(elts=parts):
            pass
        case ast.Set(elts=parts) | ast.Dict(values=parts):
            pass
        case ast.NamedExpr(value=value) | ast.Lambda(body=value):
            parts = [value]
        case _:
            chain = access(node)
            made = not _GIVING_PARTS.issuperset(chain.methods)
            yield chain._replace(root="") if made else chain  # by a method, not the root
            return
    outer = access(node)
    for part in parts:
        for root, called, attributes, methods in accesses(part):
            yield Access(
                root, called or outer.called, outer.attributes + attributes, outer.methods + methods
            )
