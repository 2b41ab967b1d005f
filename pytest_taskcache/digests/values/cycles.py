"""Digests of nodes that lie on cycles, equal for graphs that unfold to the same infinite tree.

Components are found by Tarjan's algorithm (1972), made iterative. Within one, nodes are told
apart by partition refinement (Moore 1956, for automata): each round digests a node from its
children's digests of the round before, until no round splits a class any more. No order of
visits enters, so neither set order nor the node one starts from matters.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from xxhash import xxh3_128_digest

from pytest_taskcache.digests.values.nodes import Node, Token, compose

MAX_STEPS: Final = 20_000_000
"""Children visited in one component, all rounds together; about 10 s. Beyond, it is refused."""


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
