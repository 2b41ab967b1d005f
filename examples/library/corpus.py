"""The input: the sources of Python's own standard library, which every machine has."""

from __future__ import annotations

import ast
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

LIBRARY = Path(sysconfig.get_paths()["stdlib"])
LEFT_OUT = {"site-packages", "__pycache__", "idlelib", "lib2to3"}


def sources() -> Iterator[tuple[str, str]]:
    """The name and text of every module, in name order."""
    for path in sorted(LIBRARY.rglob("*.py")):
        if LEFT_OUT.isdisjoint(path.parts):
            text = path.read_text(encoding="utf-8", errors="replace")
            yield path.relative_to(LIBRARY).as_posix(), text


def trees() -> Iterator[tuple[str, ast.Module]]:
    """The name and syntax tree of every module that parses (a few test files are not meant to)."""
    for name, text in sources():
        try:
            with warnings.catch_warnings(action="ignore", category=SyntaxWarning):
                tree = ast.parse(text)
        except (SyntaxError, ValueError, RecursionError):
            continue
        yield name, tree


def docstrings() -> Iterator[str]:
    """Every docstring of the library."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for _, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, documented):
                text = ast.get_docstring(node)
                if text:
                    yield text
