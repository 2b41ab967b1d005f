"""What functions can get hold of in one step, without anything else having run."""

from __future__ import annotations

from pytest_taskcache.fingerprint.graph.masks import Bits, bits_in, pieces_of
from pytest_taskcache.fingerprint.graph.web import Web
from pytest_taskcache.fingerprint.qualnames import INSIDE

_KEPT = 4096
"""Answers kept at a time, each as large as a mask."""


class Hands:
    """The functions at hand for each function of a web, found when it is first asked for."""

    def __init__(self, web: Web, bits: Bits) -> None:
        self._web = web
        self._own = bits.own
        self._functions = bits.nodes
        self._near: dict[int, int] = {}
        self._pieces: dict[tuple[int, bytes], int] = {}

    def of(self, mask: int) -> int:
        """The functions that those of a mask can get hold of in one step: by naming them, or
        variables, classes or attributes that may hold them."""
        if len(self._pieces) > _KEPT:
            self._pieces.clear()
        found = 0
        for key in enumerate(pieces_of(mask, len(self._functions))):
            known = self._pieces.get(key)
            found |= self._of_piece(key) if known is None else known
        return found

    def _of_piece(self, key: tuple[int, bytes]) -> int:
        found = 0
        near, functions = self._near.get, self._functions
        for bit in bits_in(*key):
            node = functions[bit]
            known = near(node)
            found |= self._of_one(node) if known is None else known
        self._pieces[key] = found
        return found

    def _of_one(self, node: int) -> int:
        nodes, edges, own = self._web.nodes, self._web.edges, self._own
        known = 0
        seen = set(edges[node])
        pending = list(seen)
        while pending:
            target = pending.pop()
            unit = nodes[target][1]
            if unit.startswith("f:"):
                # How nested ones look from outside is part of the function around them.
                known |= 0 if INSIDE in unit else own[target]
                continue
            fresh = [one for one in edges[target] if one not in seen]
            seen.update(fresh)
            pending += fresh
        self._near[node] = known
        return known
