"""The explored form of a value: a graph of containers over leaves that are written already."""

from __future__ import annotations

from enum import Enum
from typing import Any, TypeAlias


class Shape(Enum):
    """How a node's children are put together; the value starts its Merkle digest."""

    LIST = b"l"
    TUPLE = b"t"
    DICT = b"d"
    """Children are keys and values in turn."""
    UNORDERED = b"s"
    FROZEN = b"f"
    TERM = b"r"
    """Children are the arguments of a reduction."""
    FLAT = b"="
    """No children: a container of leaves only, written in one go."""


class Node:
    """One container of a value.

    ``value`` is kept so that its ``id`` stays its own, ``content`` is what children are drawn
    from (the reduction's arguments, or the value), ``written`` the stream of a FLAT node, and
    ``objects`` what the pickler would count in it. ``open`` while its children are explored.
    """

    __slots__ = ("children", "content", "objects", "open", "shape", "value", "written")

    def __init__(self, shape: Shape, value: object, content: Any) -> None:
        self.shape = shape
        self.value = value
        self.content = content
        self.children: list[Token] = []
        self.objects = 1
        self.written = b""
        self.open = True


Token: TypeAlias = Node | bytes
"""A node, or the stream of a leaf."""


def frame(text: bytes) -> bytes:
    """A leaf's text with its length before it, so that texts in a row cannot be confused."""
    return b"=" + len(text).to_bytes(8, "big") + text


def compose(shape: Shape, tokens: list[bytes]) -> bytes:
    """The text a container's digest is taken of, from the framed texts of its children."""
    if shape is Shape.UNORDERED or shape is Shape.FROZEN:
        tokens = sorted(tokens)
    return shape.value + b"".join(tokens)
