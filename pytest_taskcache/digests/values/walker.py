"""The slow exact path: digests what the pickler cannot, and says where a value cannot be digested.

It explores the value's term iteratively, each object once, and then writes

* the canonical stream, the same as the pickler's, if the term is a finite tree of native types
  that was merely too deep for the interpreter's stack at that moment; so the digest never
  depends on how deep the caller was;
* else a Merkle digest: one per container, so that sets can be sorted, shared objects cost once,
  and cycles are told apart by partition refinement (see ``cycles``).

Which of the two it is depends on the value's content alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any, Final

from xxhash import xxh3_128, xxh3_128_digest, xxh3_128_hexdigest

from pytest_taskcache.digests.values.cycles import TooUniformError, refine, strong_components
from pytest_taskcache.digests.values.location import locate
from pytest_taskcache.digests.values.nodes import Node, Shape, Token, compose, frame
from pytest_taskcache.digests.values.reductions import REDUCTIONS
from pytest_taskcache.digests.values.stream import (
    END,
    HEADER,
    MAX_OBJECTS,
    TERM_CODE,
    Sink,
    StreamPickler,
)
from pytest_taskcache.digests.values.terms import Anchors, RefusedError, Scope
from pytest_taskcache.digests.values.type_names import shown_name
from pytest_taskcache.errors import UndigestableError

_LEAVES: Final = frozenset({type(None), bool, int, float, str, bytes, bytearray})
_FLAT: Final = _LEAVES - {bytearray}
_SORTABLE: Final = frozenset({int, str, bytes})
"""Types with a total order that agrees with equality; float is not one, because of NaN."""

_NATIVE: Final[dict[type, Shape]] = {
    list: Shape.LIST,
    tuple: Shape.TUPLE,
    dict: Shape.DICT,
    set: Shape.UNORDERED,
    frozenset: Shape.FROZEN,
}
_UNORDERED: Final = (Shape.UNORDERED, Shape.FROZEN)
_BATCH: Final = 1000
"""Items the pickler writes between two marks."""

_BYTEARRAY_OBJECTS: Final = 8
"""What the pickler counts for a bytearray, which it writes as a call of its class on its bytes;
one less for an empty one, which it calls without any."""


def walk(value: object, path: str, anchors: Anchors | None) -> str:
    """The digest of any digestable value, 32 hexadecimal digits.

    Raises UndigestableError with the place of the first part that has none.
    """
    exploration = Exploration(anchors)
    root = exploration.explore(value, path)
    if isinstance(root, bytes):
        if not exploration.exact_only:
            return xxh3_128_hexdigest(HEADER + root + END)
        return xxh3_128_hexdigest(frame(root))
    if not exploration.exact_only and not exploration.cyclic:
        _count(exploration.finished)
        if root.objects <= MAX_OBJECTS:
            return _stream(root)
    try:
        return _merkle(root, exploration)
    except TooUniformError:
        raise UndigestableError(
            path, shown_name(type(value)), "the members of its cycle are too many and too alike"
        ) from None


class Exploration(Scope):
    """Finds all containers of a value; what reducers ask for is answered here, too.

    ``finished`` lists the nodes, children before parents unless ``cyclic``. ``exact_only`` says
    that the pickler would have refused the value whatever the stack.
    """

    def __init__(self, anchors: Anchors | None) -> None:
        super().__init__(anchors)
        self.cyclic = False
        self.exact_only = False
        self.finished: list[Node] = []
        self._known: dict[int, Node] = {}
        self._trail: list[tuple[Node, Iterator[Any]]] = []
        self._current: Any = None
        self._chunks: list[bytes] = []
        self._pickler = StreamPickler(Sink(self._chunks.append), self)

    def need_walker(self) -> None:
        """Notes that only a Merkle digest is exact."""
        self.exact_only = True

    def explore(self, value: object, path: str) -> Token:
        """The value's root node, or its text if it is a leaf. Raises UndigestableError."""
        try:
            root = self._meet(value)
            while self._trail:
                node, items = self._trail[-1]
                for item in items:
                    node.children.append(self._meet(item))
                    if self._trail[-1][0] is not node:
                        break
                else:
                    self._trail.pop()
                    node.open = False
                    self.finished.append(node)
        except MemoryError:
            raise
        except Exception as error:
            # reducers run code of the value's author, which may fail in any way
            where = path + locate([node for node, _ in self._trail])
            if isinstance(error, RefusedError):
                raise UndigestableError(where, error.type_name, error.reason) from error
            reason = f"{type(error).__name__}: {error}"
            raise UndigestableError(where, shown_name(type(self._current)), reason) from error
        return root

    def _meet(self, value: Any) -> Token:
        self._current = value
        kind = type(value)
        if kind in _LEAVES:
            return self._write_leaf(value)
        node = self._known.get(id(value))
        if node is not None:
            self.cyclic = self.cyclic or node.open
            return node
        shape = _NATIVE.get(kind)
        self.exact_only = self.exact_only or shape in _UNORDERED
        if shape is None:
            _, content = REDUCTIONS[kind](value, self)
            node = Node(Shape.TERM, value, content)
            self._trail.append((node, iter(content)))
        elif written := self._write_flat(value, shape):
            node = Node(Shape.FLAT, value, value)
            node.written = written
            node.objects = 1 + len(value) * (2 if shape is Shape.DICT else 1)
            node.open = False
            self.finished.append(node)
        else:
            node = Node(shape, value, value)
            items = chain.from_iterable(value.items()) if shape is Shape.DICT else iter(value)
            self._trail.append((node, items))
        self._known[id(value)] = node
        return node

    def _write_leaf(self, value: Any) -> bytes:
        try:
            return self._write(value)
        except OverflowError:
            # protocol 3 has no code for texts of 4 GiB and more
            self.exact_only = True
            text = value if isinstance(value, bytes) else value.encode("utf-8", "surrogatepass")
            return b"huge" + type(value).__name__.encode() + xxh3_128_digest(text)

    def _write_flat(self, value: Any, shape: Shape) -> bytes:
        """The text of a container of leaves, written in C; empty where it is none."""
        try:
            if shape in _UNORDERED:
                # by value, which is ten times faster than by the digests of the elements
                return shape.value + self._write(sorted(value)) if _is_sortable(value) else b""
            return self._write(value) if _is_flat(value, shape) else b""
        except OverflowError:
            # a leaf of 4 GiB, which needs a text of its own
            return b""

    def _write(self, value: Any) -> bytes:
        self._chunks.clear()
        self._pickler.dump(value)
        return b"".join(self._chunks)[len(HEADER) : -len(END)]


def _is_sortable(value: Any) -> bool:
    types = set(map(type, value))
    return len(types) <= 1 and types <= _SORTABLE


def _is_flat(value: Any, shape: Shape) -> bool:
    if not value:
        return True
    if shape is Shape.DICT:
        return set(map(type, value.values())) <= _FLAT and set(map(type, value)) <= _FLAT
    # the first item decides for most containers of containers; the rest is decided in C
    return type(value[0]) in _FLAT and set(map(type, value)) <= _FLAT


def _count(finished: list[Node]) -> None:
    for node in finished:
        if node.shape is Shape.FLAT:
            continue
        # TERM itself and the tuple of its arguments
        total = 3 if node.shape is Shape.TERM else 1
        for child in node.children:
            if isinstance(child, Node):
                total += child.objects
            elif child[:2] == TERM_CODE:
                total += _BYTEARRAY_OBJECTS - child.endswith(b")R")
            else:
                total += 1
        node.objects = total


def _stream(root: Node) -> str:
    hasher = xxh3_128(HEADER)
    pending: list[Token] = [root]
    while pending:
        token = pending.pop()
        if isinstance(token, bytes):
            hasher.update(token)
        elif token.shape is Shape.FLAT:
            hasher.update(token.written)
        else:
            pending.extend(reversed(_pieces(token)))
    hasher.update(END)
    return hasher.hexdigest()


def _pieces(node: Node) -> list[Token]:
    """A node's stream with its children in place, as the pickler of protocol 3 writes it."""
    children = node.children
    match node.shape:
        case Shape.LIST:
            return [b"]", *_batches(children, _BATCH, b"a", b"e")]
        case Shape.DICT:
            pieces = [b"}", *_batches(children, 2 * _BATCH, b"s", b"u")]
            # after a full batch the pickler looks for more and writes an empty one
            full = len(children) > 2 and len(children) % (2 * _BATCH) == 0
            return [*pieces, b"(u"] if full else pieces
        case Shape.TUPLE:
            return _tuple(children)
        case Shape.TERM:
            return [TERM_CODE, *_tuple(children), b"R"]
        case _:
            raise AssertionError(node.shape)


def _batches(children: list[Token], size: int, single: bytes, several: bytes) -> list[Token]:
    if len(children) == size // _BATCH:
        return [*children, single]
    pieces: list[Token] = []
    for start in range(0, len(children), size):
        pieces += [b"(", *children[start : start + size], several]
    return pieces


def _tuple(children: list[Token]) -> list[Token]:
    if len(children) <= 3:
        return [*children, (b")", b"\x85", b"\x86", b"\x87")[len(children)]]
    return [b"(", *children, b"t"]


def _merkle(root: Node, exploration: Exploration) -> str:
    digests: dict[Node, bytes] = {}

    def text(child: Token) -> bytes:
        return frame(child) if isinstance(child, bytes) else b"#" + digests[child]

    if exploration.cyclic:
        for component in strong_components(root):
            if len(component) > 1 or component[0] in component[0].children:
                digests.update(refine(component, text))
            else:
                digests[component[0]] = _digest(component[0], text)
    else:
        for node in exploration.finished:
            digests[node] = _digest(node, text)
    return xxh3_128_hexdigest(b"merkle" + digests[root])


def _digest(node: Node, text: Callable[[Token], bytes]) -> bytes:
    if node.shape is Shape.FLAT:
        return xxh3_128_digest(Shape.FLAT.value + node.written)
    return xxh3_128_digest(compose(node.shape, [text(child) for child in node.children]))
