"""Doctests: their examples are code that stands in no source file of its own."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from typing import Any

import xxhash
from _pytest.doctest import DoctestItem

from pytest_taskcache.plugin.project_plugins import run_in_name_only


def doctest_source(item: DoctestItem) -> str:
    """A digest of the examples: sources, expected output and options."""
    test: Any = item.dtest
    examples = [(example.source, example.want, example.options) for example in test.examples]
    return xxhash.xxh3_128_hexdigest(repr(examples).encode("utf-8", "surrogatepass"))


def run_in_its_modules(item: DoctestItem) -> None:
    """Runs an empty statement in the file of the doctest's own module and of each module that
    its examples import, for the open window to see: names that the examples only read, without
    running a function, belong to these modules."""
    for file in {*_files(item)}:
        run_in_name_only(file)


def _files(item: DoctestItem) -> Iterator[str]:
    test: Any = item.dtest
    if str(test.filename or "").endswith(".py"):
        yield test.filename
    for example in test.examples:
        try:
            tree = ast.parse(example.source)
        except SyntaxError:
            continue  # an example may show one
        for node in ast.walk(tree):
            for name in _imported(node):
                file = getattr(sys.modules.get(name), "__file__", None)
                if isinstance(file, str) and file.endswith(".py"):
                    yield file


def _imported(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield from _with_parents(alias.name)
    elif isinstance(node, ast.ImportFrom) and node.module:
        yield from _with_parents(node.module)
        for alias in node.names:
            yield f"{node.module}.{alias.name}"


def _with_parents(name: str) -> Iterator[str]:
    while name:
        yield name
        name = name.rpartition(".")[0]
