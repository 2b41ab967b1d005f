"""Sets of functions as integers, and which bit stands for which function."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pytest_taskcache.fingerprint.graph.special_names import is_test
from pytest_taskcache.fingerprint.graph.web import Web
from pytest_taskcache.fingerprint.mentions import Mentions

_BITS_OF = tuple(tuple(bit for bit in range(8) if byte >> bit & 1) for byte in range(256))


def set_bits(mask: int) -> list[int]:
    """The numbers of the bits that are set, ascending."""
    return [
        start * 8 + offset
        for start, byte in enumerate(mask.to_bytes((mask.bit_length() + 7) // 8, "little"))
        if byte
        for offset in _BITS_OF[byte]
    ]


_PIECE = 32
"""Bytes of a mask for which answers are kept: masks that differ share most of them."""


def pieces_of(mask: int, count: int) -> list[bytes]:
    """A mask of ``count`` functions in pieces of one length, but for the last."""
    data = mask.to_bytes((count + 7) // 8, "little")
    return [data[start : start + _PIECE] for start in range(0, len(data), _PIECE)]


def bits_in(number: int, piece: bytes) -> list[int]:
    """The numbers of the bits that are set in a piece, given its own number, ascending."""
    first = number * _PIECE * 8
    return [first + bit for bit in set_bits(int.from_bytes(piece, "little"))]


@dataclass(frozen=True, slots=True)
class Bits:
    """The bits of a web's functions, in the order of their names, so that what a mask stands
    for comes out sorted; and after them those of its ``m:`` nodes.

    ``own`` gives each node's bit as a mask, 0 for nodes that have none; ``names`` and ``nodes``
    are what each bit stands for, ``modules`` masks of all functions of a module. ``unrunnable``
    is the mask of those that are names only, ``importing`` of those with imports inside,
    ``tests`` of those called like tests. ``acting`` gives the module that is acted on, and the
    one that does, by the bit of the ``m:`` node; ``all_acting`` is the mask of these bits.
    """

    own: list[int]
    names: list[str]
    nodes: list[int]
    modules: Mapping[str, int]
    unrunnable: int
    importing: int
    tests: int
    acting: Mapping[int, tuple[str, str]]
    all_acting: int


def bits_of(web: Web, mentions: Mapping[str, Mentions]) -> Bits:
    """The bits of the functions of a web that was made of these mentions."""
    own = [0] * len(web.nodes)
    functions = sorted(
        (f"{path}::{unit[2:]}", node)
        for node, (path, unit) in enumerate(web.nodes)
        if path and unit.startswith("f:")
    )
    modules: dict[str, int] = {}
    unrunnable = importing = tests = 0
    for place, (_, node) in enumerate(functions):
        own[node] = bit = 1 << place
        path, unit = web.nodes[node]
        modules[path] = modules.get(path, 0) | bit
        known = mentions.get(path)
        if known is None or unit not in known.uses:
            unrunnable |= bit
        elif known.uses[unit].imports:
            importing |= bit
        if is_test(unit[2:]):
            tests |= bit
    acting: dict[int, tuple[str, str]] = {}
    all_acting = 0
    for node, (path, unit) in enumerate(web.nodes):
        if not path and unit.startswith("m:"):
            own[node] = bit = 1 << len(functions) + len(acting)
            changed, _, actor = unit[2:].partition("\0")
            acting[bit] = (changed, actor)
            all_acting |= bit
    return Bits(
        own,
        [name for name, _ in functions],
        [node for _, node in functions],
        modules,
        unrunnable,
        importing,
        tests,
        acting,
        all_acting,
    )
