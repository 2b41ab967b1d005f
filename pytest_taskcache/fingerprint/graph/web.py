"""What the nodes and edges of the graph are."""

from __future__ import annotations

EVERYTHING = ("", "*")
"""The node that leads to the names of all modules."""

SUBCLASSES = ("", "subclasses")
"""The node that leads to all classes that have a base."""


class Web:
    """Nodes by number, and the edges between them while they are drawn.

    A node is a module, by the name of its file, and a unit of it: those of ``Mentions``, and
    ``b:qualname``, the body of a class. Without a module: ``a:name`` stands for all attributes
    of a name, ``x:affix`` for all whose names start (``visit_*``) or end (``*_handler``) so, and
    ``m:changed\\0acting`` for a module that another acts on. An edge leads from a node to what
    whoever has it may get at.
    """

    __slots__ = ("edges", "ids", "nodes")

    def __init__(self) -> None:
        self.ids: dict[tuple[str, str], int] = {}
        self.nodes: list[tuple[str, str]] = []
        self.edges: list[list[int]] = []

    def node(self, path: str, unit: str) -> int:
        """The number of a node, which is made if there is none yet."""
        key = (path, unit)
        found = self.ids.get(key)
        if found is None:
            found = self.ids[key] = len(self.nodes)
            self.nodes.append(key)
            self.edges.append([])
        return found
