"""What functions can get hold of in one step, without anything else having run."""

from __future__ import annotations

from pytest_taskcache.fingerprint.graph.masks import Bits, set_bits
from pytest_taskcache.fingerprint.graph.web import Web
from pytest_taskcache.fingerprint.qualnames import INSIDE


class Hands:
    """The functions at hand for each function of a web, found when it is first asked for."""

    def __init__(self, web: Web, bits: Bits) -> None:
        self._web = web
        self._own = bits.own
        self._functions = bits.nodes
        self._near: dict[int, int] = {}
        self._common = (0, 0)

    def of(self, mask: int) -> int:
        """The functions that those of a mask can get hold of in one step: by naming them, or
        variables, classes or attributes that may hold them."""
        # Most tests of a project share most of what they reach: that part is done once.
        base, found = self._common
        if base & ~mask:
            shared = base & mask
            if shared.bit_count() * 2 < base.bit_count():
                return self._of_each(mask)
            base, found = shared, self._of_each(shared)
            self._common = base, found
        elif not base:
            base, found = mask, self._of_each(mask)
            self._common = base, found
        return found | self._of_each(mask & ~base)

    def _of_each(self, mask: int) -> int:
        found = 0
        near, functions = self._near.get, self._functions
        for bit in set_bits(mask):
            node = functions[bit]
            known = near(node)
            found |= self._of_one(node) if known is None else known
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
