"""The digest of a class statement's syntax tree, methods included; comments do not count."""

from __future__ import annotations

import ast
import linecache
import sys
from functools import lru_cache
from weakref import WeakKeyDictionary

from xxhash import xxh3_128_hexdigest

from pytest_taskcache.digests.values.type_names import is_installed, qualified_name


def class_sources(cls: type) -> list[tuple[str, str]]:
    """Name and source digest of a class and of all it inherits from, in resolution order.

    The digest is empty for installed classes, and where there is no source to read.
    """
    return [
        (qualified_name(base), "" if is_installed(base.__module__) else _source_digest(base))
        for base in cls.__mro__
        if base is not object
    ]


_known: WeakKeyDictionary[type, str] = WeakKeyDictionary()
"""What a class's file said when it was first asked about."""


def _source_digest(cls: type) -> str:
    digest = _known.get(cls)
    if digest is None:
        digest = _known[cls] = _read_digest(cls)
    return digest


def _read_digest(cls: type) -> str:
    file = getattr(sys.modules.get(cls.__module__), "__file__", None)
    if not isinstance(file, str):
        return ""
    return _digests("".join(linecache.getlines(file))).get(cls.__qualname__, "")


@lru_cache(maxsize=16)
def _digests(source: str) -> dict[str, str]:
    """Digests of all classes in a module by qualified name; several of one name count together."""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        # generated or edited meanwhile; there is no class statement to speak of
        return {}
    texts: dict[str, str] = {}
    pending: list[tuple[str, ast.AST]] = [("", tree)]
    while pending:
        prefix, node = pending.pop()
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.ClassDef):
                name = prefix + child.name
                texts[name] = texts.get(name, "") + ast.dump(child)
                pending.append((name + ".", child))
            elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                pending.append((f"{prefix}{child.name}.<locals>.", child))
            else:
                pending.append((prefix, child))
    return {
        name: xxh3_128_hexdigest(text.encode("utf-8", "surrogatepass"))
        for name, text in texts.items()
    }
