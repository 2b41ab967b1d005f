"""What the code behind a value says: the one door from values to the model of the code.

Code that is installed is identified by its name, since which version of it is there counts
elsewhere. The project's counts by its normalised source: comments and formatting do not.
"""

from __future__ import annotations

import sys
from functools import cache, lru_cache
from pathlib import PurePath
from types import CodeType, FunctionType, ModuleType
from typing import TYPE_CHECKING, NamedTuple
from weakref import WeakKeyDictionary

from pytest_taskcache.checksum import checksum

if TYPE_CHECKING:
    import ast


def is_installed(module_name: str | None) -> bool:
    """Whether a module belongs to the interpreter or to site-packages, not to the project.

    A module that is not loaded, or has no origin (``__main__`` of a console), is the project's.
    """
    module = sys.modules.get(module_name or "")
    if module is None:
        return False
    if module.__name__ in sys.builtin_module_names:
        return True
    spec = getattr(module, "__spec__", None)
    origin = getattr(spec, "origin", None) or getattr(module, "__file__", None)
    return isinstance(origin, str) and _is_installed_file(origin)


@cache
def _is_installed_file(origin: str) -> bool:
    if origin in {"built-in", "frozen"}:
        return True
    from pytest_taskcache.digests.path_names import library_roots

    parts = set(PurePath(origin).parts)
    return bool({"site-packages", "dist-packages"} & parts) or origin.startswith(library_roots())


def source_digest(function: FunctionType) -> str:
    """The digest of a function's identity and source; of a wrapper, of what it wraps."""
    # the model of the code is imported where a project's function is met, not for plain data
    from pytest_taskcache.code.function_source import function_source_digest

    return function_source_digest(function)


def code_digest(code: CodeType) -> str:
    """The digest of a code object: instructions, constants and names, but no line numbers."""
    from pytest_taskcache.code.function_source import code_digest as digest

    return digest(code)


class ClassSource(NamedTuple):
    """Two digests of a class statement: all of it, and without the bodies of its methods.

    What a method does is seen when it runs; what the other statements made is not. A method
    that is decorated with more than the language's own (a cache, say) keeps its body.
    """

    whole: str
    statements: str


_NO_SOURCE = ClassSource("", "")
_known: WeakKeyDictionary[type, ClassSource] = WeakKeyDictionary()
"""What a class's file said when it was first asked about."""


def class_source(cls: type) -> ClassSource:
    """The digests of a class; empty for installed ones, and where there is no source to read."""
    found = _known.get(cls)
    if found is None:
        found = _NO_SOURCE
        if not is_installed(cls.__module__):
            found = _classes(_text_of(cls.__module__)).get(cls.__qualname__, _NO_SOURCE)
        _known[cls] = found
    return found


def module_source(module: ModuleType) -> str:
    """The digest of a module's source; empty where there is none to read."""
    return _module(_text_of(module.__name__))


def _text_of(module_name: str) -> str:
    import linecache

    file = getattr(sys.modules.get(module_name), "__file__", None)
    if not isinstance(file, str):
        return ""
    linecache.checkcache(file)
    return "".join(linecache.getlines(file))


@lru_cache(maxsize=64)
def _module(source: str) -> str:
    import ast

    try:
        return checksum((ast.dump(ast.parse(source)),)) if source else ""
    except (SyntaxError, ValueError, RecursionError):
        return checksum(("text", source))


@lru_cache(maxsize=16)
def _classes(source: str) -> dict[str, ClassSource]:
    """The classes of a module by qualified name; several of one name count together."""
    import ast

    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        # generated or edited meanwhile; there is no class statement to speak of
        return {}
    statements = _class_statements(tree)
    whole = {name: "".join(map(ast.dump, nodes)) for name, nodes in statements.items()}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and _is_plain(node):
            node.body = []
    return {
        name: ClassSource(checksum((whole[name],)), checksum(map(ast.dump, nodes)))
        for name, nodes in statements.items()
    }


def _class_statements(tree: ast.AST) -> dict[str, list[ast.AST]]:
    import ast

    found: dict[str, list[ast.AST]] = {}
    pending: list[tuple[str, ast.AST]] = [("", tree)]
    while pending:
        prefix, node = pending.pop()
        for child in ast.iter_child_nodes(node):
            inner = prefix
            if isinstance(child, ast.ClassDef):
                found.setdefault(prefix + child.name, []).append(child)
                inner = f"{prefix}{child.name}."
            elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                inner = f"{prefix}{child.name}.<locals>."
            pending.append((inner, child))
    return found


_LANGUAGE = frozenset({"property", "staticmethod", "classmethod", "setter", "getter", "deleter"})
_LANGUAGE |= {"abstractmethod", "overload", "override", "cached_property"}


def _is_plain(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether nothing but the language's own decorators stands over a function."""
    names = (getattr(each, "attr", getattr(each, "id", "")) for each in node.decorator_list)
    return all(name in _LANGUAGE for name in names)
