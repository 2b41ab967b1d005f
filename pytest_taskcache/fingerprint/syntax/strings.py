"""Rules for constants and computed strings, which may be names or parts of them."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from pytest_taskcache.fingerprint.mentions import TEXT, Import

if TYPE_CHECKING:
    from pytest_taskcache.fingerprint.syntax.noted import Noted
    from pytest_taskcache.fingerprint.syntax.writer import Writer

_IDENTIFIERS = re.compile(r"[A-Za-z_]\w*(?:[.:][A-Za-z_]\w*)*")
_PREFIX = re.compile(r"(?:^|[.\s])([A-Za-z]\w*_)(?:$|[{%])")
_SUFFIX = re.compile(r"(?:\}|%[sr])(_\w*[A-Za-z0-9])$")
_LONGEST_IDENTIFIER = 120


def reads_like_names(text: str) -> bool:
    """Whether a text is an identifier, or several with dots or colons between them."""
    return _IDENTIFIERS.fullmatch(text) is not None


def _constant(writer: Writer, node: ast.Constant) -> None:
    value = node.value
    if isinstance(value, str):
        writer.out.append(repr(value))
        _note_text(writer.noted, value)
    elif isinstance(value, int) and not isinstance(value, bool):
        # repr refuses integers of more than 4300 digits.
        writer.out.append(hex(value))
    else:
        writer.out.append(repr(value))


def _note_text(noted: Noted, text: str) -> None:
    if not text or len(text) > _LONGEST_IDENTIFIER:
        return
    if _IDENTIFIERS.fullmatch(text):
        names = re.split("[.:]", text)
        noted.attributes.update(names)
        if len(names) > 1:
            noted.imports.append(Import(TEXT, ".".join(names), "", ""))
    if match := _PREFIX.search(text):
        noted.affixes.add(match.group(1) + "*")
    if match := _SUFFIX.search(text):
        noted.affixes.add("*" + match.group(1))


def _computed(writer: Writer, node: ast.BinOp | ast.JoinedStr) -> None:
    """``"visit_" + name`` and ``f"{name}_handler"`` mention what they may come to."""
    writer.generic(node)
    parts = node.values if isinstance(node, ast.JoinedStr) else [node.left, node.right]
    for part in (parts[0], parts[-1]) if parts else ():
        if isinstance(part, ast.Constant) and isinstance(part.value, str):
            _note_end(writer.noted, part.value, last=part is parts[-1])


def _note_end(noted: Noted, text: str, *, last: bool) -> None:
    word = text.rpartition(".")[2] if not last else text
    if len(word) > 1 and word.isidentifier() and word.strip("_"):
        noted.affixes.add("*" + word if last else word + "*")


RULES: Mapping[type, Callable[[Writer, Any], None]] = {
    ast.Constant: _constant,
    ast.BinOp: _computed,
    ast.JoinedStr: _computed,
}
