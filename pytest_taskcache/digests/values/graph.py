"""A value as a graph of containers over leaves that are written already, and its Merkle digest.

One digest per container, so that sets can be sorted and shared objects cost once. Nodes on
cycles are told apart by partition refinement (Moore 1956, for automata); strongly connected
components are found by Tarjan's algorithm (1972), made iterative::

    a = ["x", b]     round 1:  a = digest("x", ?)   b = digest("y", ?)     two classes
    b = ["y", a]     round 2:  a = digest("x", b1)  b = digest("y", a1)    two classes still

Each round digests a node from its children's digests of the round before, until no round splits
a class any more. The digest of a member is that of its class and of the whole quotient: graphs
that unfold to the same infinite tree are equal, however they share. No order of visits enters, so
neither set order nor the node one starts from matters.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any, Final, TypeAlias

from xxhash import xxh3_128_digest, xxh3_128_hexdigest

MAX_STEPS: Final = 20_000_000
"""Children visited in one component, all rounds together; about 10 s. Beyond, it is refused."""


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


def merkle_digest(root: Node, finished: list[Node], cyclic: bool) -> str:
    """The digest of a graph by its root, 32 hexadecimal digits.

    ``finished`` lists the nodes, children before parents unless ``cyclic``. Raises
    TooUniformError.
    """
    digests: dict[Node, bytes] = {}

    def text(child: Token) -> bytes:
        return frame(child) if isinstance(child, bytes) else b"#" + digests[child]

    if cyclic:
        for component in strong_components(root):
            if len(component) > 1 or component[0] in component[0].children:
                digests.update(refine(component, text))
            else:
                digests[component[0]] = _digest(component[0], text)
    else:
        for node in finished:
            digests[node] = _digest(node, text)
    return xxh3_128_hexdigest(b"merkle" + digests[root])


def _digest(node: Node, text: Callable[[Token], bytes]) -> bytes:
    if node.shape is Shape.FLAT:
        return xxh3_128_digest(Shape.FLAT.value + node.written)
    return xxh3_128_digest(compose(node.shape, [text(child) for child in node.children]))


class TooUniformError(Exception):
    """A cycle is too long and its members too alike to tell them apart in reasonable time."""


def strong_components(root: Node) -> list[list[Node]]:
    """The strongly connected components reachable from ``root``, children before parents."""
    index: dict[Node, int] = {}
    low: dict[Node, int] = {}
    pending: list[Node] = []
    waiting: set[Node] = set()
    components: list[list[Node]] = []

    def visit(node: Node) -> tuple[Node, list[Node]]:
        index[node] = low[node] = len(index)
        pending.append(node)
        waiting.add(node)
        return node, [child for child in node.children if isinstance(child, Node)]

    path = [visit(root)]
    while path:
        node, children = path[-1]
        if children:
            child = children.pop()
            if child not in index:
                path.append(visit(child))
            elif child in waiting:
                low[node] = min(low[node], index[child])
            continue
        path.pop()
        if path:
            parent = path[-1][0]
            low[parent] = min(low[parent], low[node])
        if low[node] == index[node]:
            component = [pending.pop()]
            while component[-1] is not node:
                component.append(pending.pop())
            waiting.difference_update(component)
            components.append(component)
    return components


def refine(component: list[Node], outside: Callable[[Token], bytes]) -> dict[Node, bytes]:
    """The digest of each node of a cyclic component; ``outside`` gives the framed text of a
    child that is not in it. Raises TooUniformError."""
    inside = set(component)
    edges = sum(len(node.children) for node in component)
    before: dict[Node, bytes] = dict.fromkeys(component, b"")
    classes = 0
    steps = 0
    while True:
        after = {
            node: xxh3_128_digest(
                compose(
                    node.shape,
                    [
                        b"@" + before[child]
                        if isinstance(child, Node) and child in inside
                        else outside(child)
                        for child in node.children
                    ],
                )
            )
            for node in component
        }
        found = len(set(after.values()))
        if found == classes:
            break
        classes = found
        before = after
        steps += edges
        if steps > MAX_STEPS:
            raise TooUniformError
    # the pairs spell out the whole quotient automaton: two components with the same pairs unfold
    # to the same trees, and ones that differ only beyond the last round have different pairs
    pairs = b"".join(sorted({before[node] + after[node] for node in component}))
    return {node: xxh3_128_digest(b"cycle" + after[node] + pairs) for node in component}
