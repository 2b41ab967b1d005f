"""Where in a value something sits, in the words a user would write: ``rows[3].conn``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from pytest_taskcache.digests.values.nodes import Node, Shape

_LONGEST_KEY: Final = 40

_ATTRIBUTES: Final = "attributes"
"""The part is a dict of attributes: its keys are shown as ``.name``."""

_PARTS: Final[Mapping[str, Mapping[int, tuple[str, str]]]] = {
    "instance": {3: ("", _ATTRIBUTES)},
    "reduced": {4: ("", _ATTRIBUTES)},
    "local class": {3: ("", _ATTRIBUTES)},
    "namespace": {1: ("", _ATTRIBUTES)},
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
    text = ""
    style = ""
    for depth, node in enumerate(trail, 1):
        index = len(node.children) - (depth < len(trail))
        step, style = _step(node, index, style)
        text += step
    return text


def _step(node: Node, index: int, style: str) -> tuple[str, str]:
    match node.shape:
        case Shape.TERM:
            return _part(node.content, index)
        case Shape.DICT:
            key = list(node.content)[index // 2]
            if index % 2 == 0:
                return f".keys()[{index // 2}]", ""
            if style == _ATTRIBUTES:
                return f".{key}", ""
            return f"[{_shown(key)}]", ""
        case Shape.UNORDERED | Shape.FROZEN:
            return "[*]", ""
        case _:
            # state may be a pair of dicts, of attributes and of slots
            return ("", style) if style == _ATTRIBUTES else (f"[{index}]", "")


def _part(content: Sequence[object], index: int) -> tuple[str, str]:
    kind = str(content[0])
    if kind.startswith(("dataclass ", "attrs ")):
        if kind.endswith(" by name"):
            return "", _ATTRIBUTES
        names = kind[kind.index("(") + 1 : -1].split(", ")
        return f".{names[index - 1]}", ""
    if kind == "namedtuple" and index > 3:
        fields = content[2]
        return (f".{fields[index - 4]}" if isinstance(fields, tuple) else ""), ""
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
