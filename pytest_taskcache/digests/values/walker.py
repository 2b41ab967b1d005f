"""The slow exact path: digests what the pickler cannot, and says where a value cannot be digested.

It explores the value's term iteratively, each object once, and then writes

* the canonical stream, the same as the pickler's, if the term is a finite tree of native types
  that was merely too deep for the interpreter's stack at that moment; so the digest never
  depends on how deep the caller was;
* else a Merkle digest, one for each container, because a set, a cycle or much shared structure is
  in it: so sets can be sorted, and shared objects cost once.

::

    [[[... 20,000 levels ...]]]       the stream: what the pickler would have written
    {"b", "a"}                        Merkle: digests of "a" and "b", sorted
    [rows, rows] with rows = [{1}]    Merkle: rows explored once, and digested once

Which of the two it is depends on the value's content alone. Where something cannot be digested,
the trail of open containers is its place, in the words a user would write: ``rows[3].conn``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import Enum
from itertools import chain
from typing import Any, Final, TypeAlias

from xxhash import xxh3_128, xxh3_128_digest, xxh3_128_hexdigest

from pytest_taskcache.digests.values.reducers import (
    END,
    HEADER,
    MAX_OBJECTS,
    REDUCERS,
    TERM_CODE,
    StreamPickler,
)
from pytest_taskcache.digests.values.terms import Anchors, Apart, RefusedError, Scope, shown_name
from pytest_taskcache.errors import UndigestableError


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
    """One container of a value. ``value`` is kept so that its ``id`` stays its own, ``content`` is
    what children are drawn from (the reduction's arguments, or the value), ``written`` the stream
    of a FLAT node, and ``objects`` what the pickler would count in it. ``open`` while its children
    are explored."""

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


def walk(value: object, path: str, exploration: Exploration) -> str:
    """The digest of any digestable value, 32 hexadecimal digits, by an exploration of its own.
    Raises UndigestableError with the place of the first part that has none."""
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
        return merkle_digest(root, exploration.finished, exploration.cyclic)
    except RefusedError as error:
        raise UndigestableError(path, shown_name(type(value)), error.reason) from None


class Exploration(Scope):
    """Finds all containers of a value; what reducers ask for is answered here, too. ``finished``
    lists the nodes, children before parents unless ``cyclic``. ``exact_only`` says that the pickler
    would have refused the value whatever the stack."""

    def __init__(self, anchors: Anchors | None = None, apart: Apart | None = None) -> None:
        super().__init__(anchors, apart)
        self.cyclic = False
        self.exact_only = False
        self.finished: list[Node] = []
        self._known: dict[int, Node] = {}
        self._trail: list[tuple[Node, Iterator[Any]]] = []
        self._current: Any = None
        self._chunks: list[bytes] = []
        self._pickler = StreamPickler(self._chunks.append, self)

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
            _, content = REDUCERS[kind](value, self)
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
        if text := self._write(value):
            return text
        self.exact_only = True
        data = value if isinstance(value, bytes) else value.encode("utf-8", "surrogatepass")
        return b"huge" + type(value).__name__.encode() + xxh3_128_digest(data)

    def _write_flat(self, value: Any, shape: Shape) -> bytes:
        """The text of a container of leaves, written in C; empty where it is none."""
        if shape not in _UNORDERED:
            return self._write(value) if _is_flat(value, shape) else b""
        # by value, which is ten times faster than by the digests of the elements
        types = set(map(type, value))
        text = self._write(sorted(value)) if len(types) <= 1 and types <= _SORTABLE else b""
        return text and shape.value + text

    def _write(self, value: Any) -> bytes:
        """The stream; empty for texts of 4 GiB and more, for which protocol 3 has no code."""
        self._chunks.clear()
        try:
            self._pickler.dump(value)
        except OverflowError:
            return b""
        return b"".join(self._chunks)[len(HEADER) : -len(END)]


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
        case _:  # a term: sets have no stream
            return [TERM_CODE, *_tuple(children), b"R"]


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


# Nodes on cycles are told apart by partition refinement (Moore 1956, for automata); strongly
# connected components are found by Tarjan's algorithm (1972), made iterative:
#
#     a = ["x", b]     round 1:  a = digest("x", ?)   b = digest("y", ?)     two classes
#     b = ["y", a]     round 2:  a = digest("x", b1)  b = digest("y", a1)    two classes still
#
# Each round digests a node from its children's digests of the round before, until no round splits
# a class any more. The digest of a member is that of its class and of the whole quotient: graphs
# that unfold to the same infinite tree are equal, however they share. No order of visits enters,
# so neither set order nor the node one starts from matters.

MAX_STEPS: Final = 20_000_000
"""Children visited in one component, all rounds together; about 10 s. Beyond, it is refused."""


def merkle_digest(root: Node, finished: list[Node], cyclic: bool) -> str:
    """The digest of a graph by its root, 32 hexadecimal digits. ``finished`` lists the nodes,
    children before parents unless ``cyclic``. Raises RefusedError."""
    digests: dict[Token, bytes] = {}

    def text(child: Token) -> bytes:
        return frame(child) if isinstance(child, bytes) else b"#" + digests[child]

    for component in strong_components(root) if cyclic else zip(finished):
        if len(component) > 1 or (cyclic and component[0] in component[0].children):
            digests.update(refine(component, text))
        else:
            digests[component[0]] = _digest(component[0], text)
    return xxh3_128_hexdigest(b"merkle" + digests[root])


def _digest(node: Node, text: Callable[[Token], bytes]) -> bytes:
    """That of a container, given the framed texts of its children."""
    if node.shape is Shape.FLAT:
        return xxh3_128_digest(Shape.FLAT.value + node.written)
    tokens = [text(child) for child in node.children]
    if node.shape in _UNORDERED:
        tokens.sort()
    return xxh3_128_digest(node.shape.value + b"".join(tokens))


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


def refine(component: Sequence[Node], outside: Callable[[Token], bytes]) -> dict[Token, bytes]:
    """The digest of each node of a cyclic component; ``outside`` gives the framed text of a
    child that is not in it. Raises RefusedError."""
    edges = sum(len(node.children) for node in component)
    before: dict[Token, bytes] = dict.fromkeys(component, b"")
    classes = steps = 0

    def text(child: Token) -> bytes:
        return b"@" + before[child] if child in before else outside(child)

    while True:
        after: dict[Token, bytes] = {node: _digest(node, text) for node in component}
        found = len(set(after.values()))
        if found == classes:
            break
        classes = found
        before = after
        steps += edges
        if steps > MAX_STEPS:
            raise RefusedError("", "the members of its cycle are too many and too alike")
    # the pairs spell out the whole quotient automaton: two components with the same pairs unfold
    # to the same trees, and ones that differ only beyond the last round have different pairs
    pairs = b"".join(sorted({before[node] + after[node] for node in component}))
    return {node: xxh3_128_digest(b"cycle" + after[node] + pairs) for node in component}


_LONGEST_KEY: Final = 40

_ATTRIBUTES: Final = "attributes"
"""The part is a dict of attributes: its keys are shown as ``.name``."""

_PARTS: Final[Mapping[str, Mapping[int, tuple[str, str]]]] = {
    "instance": {3: ("", _ATTRIBUTES)},
    "reduced": {4: ("", _ATTRIBUTES)},
    "local class": {3: ("", _ATTRIBUTES)},
    "namespace": {1: ("", _ATTRIBUTES)},
    "namedtuple": {2: ("", _ATTRIBUTES), 3: ("", _ATTRIBUTES)},
    "pydantic": {2: ("", _ATTRIBUTES), 4: ("", _ATTRIBUTES)},
    "function source": {
        3: (".__defaults__", ""),
        4: (".__kwdefaults__", ""),
        5: (".<closure>", _ATTRIBUTES),
    },
    "method": {1: (".__self__", ""), 2: (".__func__", "")},
    "partial": {2: (".func", ""), 3: (".args", ""), 4: (".keywords", "")},
    "hasher": {2: (".<hasher>", "")},
    "enum": {3: (".value", "")},
    "array of objects": {3: (".flat", "")},
}


def locate(trail: Sequence[Node]) -> str:
    """The path from the outermost node to the child that the innermost could not add."""
    text = style = ""
    for depth, node in enumerate(trail, 1):
        index = len(node.children) - (depth < len(trail))
        match node.shape:
            case Shape.TERM:
                step, style = _part(node.content, index)
            case Shape.DICT:
                key = list(node.content)[index // 2]
                shown = f".{key}" if style == _ATTRIBUTES else f"[{_shown(key)}]"
                step, style = shown if index % 2 else f".keys()[{index // 2}]", ""
            case Shape.UNORDERED | Shape.FROZEN:
                step, style = "[*]", ""
            case _:
                # state may be a pair of dicts, of attributes and of slots
                step = "" if style == _ATTRIBUTES else f"[{index}]"
        text += step
    return text


def _part(content: Sequence[object], index: int) -> tuple[str, str]:
    kind = str(content[0])
    if kind.startswith("slots "):
        names = kind[kind.index("(") + 1 : -1].split(", ")
        return f".{names[index - 1]}", ""
    if index == 1 and isinstance(content[1], type):
        # a local class counts by its content
        return ".__class__", ""
    return _PARTS.get(kind, {}).get(index, ("", ""))


def _shown(key: object) -> str:
    if type(key) not in {str, bytes, int, float, bool, type(None)}:
        # the repr of anything else is the user's code
        return f"<{type(key).__name__}>"
    text = repr(key)
    return text if len(text) <= _LONGEST_KEY else text[:_LONGEST_KEY] + "..."
