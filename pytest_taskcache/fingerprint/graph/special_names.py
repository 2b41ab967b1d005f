"""Names that mean more, or less, than what is called so."""

from __future__ import annotations

import io

IMPORTERS = frozenset(
    {
        "__import__",
        "import_module",
        "iter_modules",
        "walk_packages",
        "exec_module",
        "run_module",
        "run_path",
        "resolve_name",
        "importorskip",
    }
)
"""Functions that get at modules by names that need not be written anywhere."""

XUNIT = frozenset(
    {
        "setUp",
        "tearDown",
        "setUpClass",
        "tearDownClass",
        "asyncSetUp",
        "asyncTearDown",
        "setup_class",
        "teardown_class",
        "setup_method",
        "teardown_method",
    }
)
"""Methods that run around each test of a class."""

XUNIT_OF_MODULES = (
    "setup_module",
    "setUpModule",
    "setup_function",
    "setup",
    "teardown_module",
    "tearDownModule",
    "teardown_function",
    "teardown",
)
"""Functions that run around the tests of a module."""

_GENERIC = frozenset(
    name
    for kind in (str, bytes, list, dict, set, tuple, int, float, io.TextIOWrapper, io.BytesIO)
    for name in dir(kind)
    if not name.startswith("_")
)


def comes_with_class(method: str) -> bool:
    """Whether a method is reached through its class, not through its own name."""
    return method in _GENERIC or method in XUNIT or is_dunder(method)


def is_dunder(name: str) -> bool:
    """Whether a name is one that Python itself gives a meaning."""
    return name.startswith("__") and name.endswith("__")


def is_test(function: str) -> bool:
    """Whether a function or method, by its qualified name, is called like a test."""
    return function.rpartition(".")[2].startswith("test")
