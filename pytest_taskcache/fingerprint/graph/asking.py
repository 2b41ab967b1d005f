"""The graph as those see it who ask it: functions in, functions out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from pytest_taskcache.fingerprint.graph.closing import reachable
from pytest_taskcache.fingerprint.graph.connecting import connect
from pytest_taskcache.fingerprint.graph.hands import Hands
from pytest_taskcache.fingerprint.graph.masks import bits_in, bits_of, pieces_of, set_bits
from pytest_taskcache.fingerprint.links import Linker
from pytest_taskcache.fingerprint.mentions import Mentions


class Reached(NamedTuple):
    """The functions reached, as a mask; those, too, that are at hand but never ran (``seen``);
    those whose imports count (``importing``); modules that act on what was reached, e.g. by
    entering themselves into a registry; and whether something reached looks modules up by names
    that cannot be known."""

    mask: int
    seen: int
    importing: int
    acting: frozenset[str]
    asks: bool


class NameGraph:
    """The graph over the functions, classes and statements of a set of modules.

    ``mentions`` gives each module's by the name of its file; ``linker`` resolves imports.
    Building takes time in proportion to the mentions; afterwards a question costs one bitwise
    or per function asked about.
    """

    def __init__(self, mentions: Mapping[str, Mentions], linker: Linker) -> None:
        web, asking, self._asking_at_import = connect(mentions, linker)
        self._mentions = mentions
        self._ids = web.ids
        self._nodes = web.nodes
        self._bits = bits_of(web, mentions)
        self._own = self._bits.own
        self._asking = 0
        for node in asking:
            self._asking |= self._own[node]
        self._masks = reachable(web.edges, self._own)
        self._hands = Hands(web, self._bits)
        self._insides: dict[frozenset[str], tuple[int, bool]] = {}

    def reach(
        self,
        functions: Iterable[tuple[str, str]],
        inside: frozenset[str],
        among: int | None = None,
    ) -> Reached:
        """The functions, inside these modules, that can be reached from those given by module and
        qualified name; they are included. An empty name stands for all that a module runs at
        import. ``among`` narrows the answer down, but for names whose presence or absence
        matters."""
        bits = self._bits
        mask = 0
        given = 0
        for path, name in functions:
            for node in self._seeds(path, name):
                mask |= self._masks[node]
                given |= self._own[node]
        inside_mask, asks = self._inside(inside)
        within = inside_mask
        if among is not None:
            within &= among | given | bits.unrunnable
        acting = mask & bits.all_acting
        found = mask & within
        return Reached(
            found,
            0 if among is None else self._hands.of(found) & mask & inside_mask & ~found,
            (found | within & ~bits.tests) & bits.importing,
            frozenset(
                path
                for bit, (where, path) in bits.acting.items()
                if acting & bit and where in inside
            )
            if acting
            else frozenset(),
            asks or bool(found & self._asking),
        )

    def _inside(self, modules: frozenset[str]) -> tuple[int, bool]:
        """The functions of these modules, and whether one of them asks for modules at import."""
        known = self._insides.get(modules)
        if known is None:
            mask = 0
            for path in modules:
                mask |= self._bits.modules.get(path, 0)
            asks = not self._asking_at_import.isdisjoint(modules)
            known = self._insides[modules] = (mask, asks)
        return known

    def _seeds(self, path: str, name: str) -> list[int]:
        mentions = self._mentions.get(path)
        if mentions is None:
            return []
        if name and not mentions.opaque:
            found = self._ids.get((path, "f:" + name))
            return [] if found is None else [found]
        return [self._ids[path, unit] for unit in mentions.uses if not unit.startswith("f:")]

    def mask_of(self, functions: Iterable[tuple[str, str]]) -> int:
        """The mask of just these functions, of all of a module for an empty name; unknown ones
        are left out."""
        mask = 0
        for path, name in functions:
            if not name:
                mask |= self._bits.modules.get(path, 0)
            node = self._ids.get((path, "f:" + name))
            if node is not None:
                mask |= self._own[node]
        return mask

    def places(self, mask: int) -> list[tuple[str, str]]:
        """The functions of a mask by module and qualified name."""
        nodes = self._bits.nodes
        found = (self._nodes[nodes[bit]] for bit in set_bits(mask))
        return [(path, unit[2:]) for path, unit in found]

    @property
    def functions(self) -> Sequence[str]:
        """All functions as ``path::qualname``, sorted; ``*`` for the names a module binds, and
        names that are not bound at all where their absence matters."""
        return self._bits.names

    def pieces(self, mask: int) -> list[bytes]:
        """A mask cut into pieces, as many for each, for `members`."""
        return pieces_of(mask, len(self._bits.names))

    def members(self, number: int, piece: bytes) -> list[int]:
        """The functions of a piece, given its number among the pieces, by their places among
        ``functions``, ascending."""
        return bits_in(number, piece)
