"""Where the functions of a source file stand, so that their lines are found again after edits."""

from __future__ import annotations

import ast
import bisect
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import xxhash

from pytest_taskcache.dataclass import dataclass, field


class Block(NamedTuple):
    """A function that is in no other: qualified name, first line (a decorator's, if it has
    any), last line, digest of its text."""

    name: str
    first: int
    last: int
    digest: str


@dataclass(frozen=True)
class Layout:
    """The functions of one version of a file in the order of their lines."""

    blocks: tuple[Block, ...]


@dataclass
class Source:
    """One file as it was when its first line was covered, or was to be brought back.

    ``digest`` is of the content, "" where it cannot be read; ``layout`` is None then, and where
    the content is not Python or has changed since.
    """

    path: str
    digest: str
    _layout: Layout | None = field(default=None, repr=False)
    _parsed: bool = False

    @property
    def layout(self) -> Layout | None:
        """Parsed when it is first asked for."""
        if not self._parsed:
            self._parsed = True
            content = _read(self.path)
            if content is not None and _digest(content) == self.digest:
                self._layout = layout_of(content)
        return self._layout


def source_of(path: str) -> Source:
    """A file as it is now."""
    content = _read(path)
    return Source(path, "" if content is None else _digest(content))


def layout_of(content: bytes) -> Layout | None:
    """Where functions stand; None where it is not Python."""
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError, RecursionError):
        return None
    # As the parser counts lines: other line breaks (form feeds, ...) are none.
    lines = content.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    blocks = []
    for name, node in _functions(tree, ""):
        first = min([node.lineno, *(one.lineno for one in node.decorator_list)])
        last = node.end_lineno or node.lineno
        blocks.append(Block(name, first, last, _digest(b"\n".join(lines[first - 1 : last]))))
    return Layout(tuple(sorted(blocks, key=lambda block: block.first)))


class Relocation:
    """Where the lines of an older version of a file stand in a newer one.

    Only lines of functions whose text is the same in both can be told; of two functions of one
    name with one text, the first is the first.
    """

    def __init__(self, before: Sequence[Block], now: Sequence[Block]) -> None:
        present: Mapping[tuple[str, str], list[Block]] = defaultdict(list)
        for block in now:
            present[block.name, block.digest].append(block)
        former: Mapping[tuple[str, str], list[Block]] = defaultdict(list)
        for block in before:
            former[block.name, block.digest].append(block)
        self._blocks = sorted(before, key=lambda block: block.first)
        self._firsts = [block.first for block in self._blocks]
        self._shifts: dict[int, int] = {}
        for key, blocks in former.items():
            if len(blocks) == len(present.get(key, ())):
                for old, new in zip(blocks, present[key], strict=True):
                    self._shifts[old.first] = new.first - old.first

    def line(self, line: int) -> int | None:
        """The line's present number (negative ones stand for a function's beginning or end);
        None where it is not known."""
        number = abs(line)
        index = bisect.bisect_right(self._firsts, number) - 1
        if index < 0 or number > self._blocks[index].last:
            return None
        shift = self._shifts.get(self._blocks[index].first)
        if shift is None:
            return None
        return number + shift if line > 0 else -(number + shift)


def _functions(
    node: ast.AST, prefix: str
) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield prefix + child.name, child
        elif isinstance(child, ast.ClassDef):
            yield from _functions(child, f"{prefix}{child.name}.")
        elif isinstance(child, ast.stmt | ast.ExceptHandler | ast.match_case):
            yield from _functions(child, prefix)


def _read(path: str) -> bytes | None:
    try:
        return Path(path).read_bytes()
    except OSError:
        return None


def _digest(content: bytes) -> str:
    return xxhash.xxh3_128_hexdigest(content)
