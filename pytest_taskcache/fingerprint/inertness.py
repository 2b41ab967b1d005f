"""Which function definitions do nothing at import but bind their name."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Sequence

from pytest_taskcache.fingerprint.syntax import FunctionNode, dotted

_NEUTRAL = frozenset(
    {
        "property",
        "staticmethod",
        "classmethod",
        "abc.abstractmethod",
        "contextlib.contextmanager",
        "contextlib.asynccontextmanager",
        "functools.cache",
        "functools.cached_property",
        "functools.lru_cache",
        "typing.final",
        "typing.no_type_check",
        "typing.overload",
        "typing.override",
        "typing_extensions.final",
        "typing_extensions.overload",
        "typing_extensions.override",
        "unittest.skip",
        "unittest.skipIf",
        "unittest.skipUnless",
        "unittest.expectedFailure",
        "pytest_taskcache.cached",
    }
)
"""Decorators that, applied at import, touch nothing but the function they are given."""

_FIXTURES = frozenset({"pytest.fixture", "pytest_taskcache.cached_fixture"})

_PURE_CALLS = frozenset({"pytest.param", "frozenset", "set", "tuple", "list", "dict", "range"})
_PURE = (
    ast.Constant,
    ast.Name,
    ast.Attribute,
    ast.Subscript,
    ast.Slice,
    ast.Tuple,
    ast.List,
    ast.Set,
    ast.Dict,
    ast.UnaryOp,
    ast.BinOp,
    ast.BoolOp,
    ast.Compare,
    ast.IfExp,
    ast.Starred,
    ast.keyword,
    ast.expr_context,
    ast.operator,
    ast.unaryop,
    ast.boolop,
    ast.cmpop,
)
_PLAIN_ANNOTATION = (
    ast.Name,
    ast.Attribute,
    ast.Subscript,
    ast.Tuple,
    ast.List,
    ast.Constant,
    ast.expr_context,
)

Resolve = Callable[[str], str]
"""The full dotted name that a dotted name at module level stands for, e.g. ``functools.cache``
for ``cache``; empty where that cannot be told."""


def is_neutral(decorator: ast.expr, resolve: Resolve) -> bool:
    """Whether a decorator only wraps or marks the function it is given."""
    name = dotted(decorator)
    if name.endswith((".setter", ".getter", ".deleter")) and name.count(".") == 1:
        # Of a property in the same class: its name is bound twice there, so order counts too.
        return isinstance(decorator, ast.Attribute)
    full = resolve(name)
    if full in _FIXTURES:
        return not _is_autouse(decorator)
    return full in _NEUTRAL or full.startswith("pytest.mark.")


def _is_autouse(decorator: ast.expr) -> bool:
    """Whether a fixture may act on tests that do not name it."""
    return isinstance(decorator, ast.Call) and any(
        keyword.arg in (None, "autouse") for keyword in decorator.keywords
    )


def is_inert(
    node: FunctionNode, resolve: Resolve, is_settled: Callable[[str], bool], lazy_hints: bool
) -> bool:
    """Whether a definition runs no code of the project at import and cannot fail.

    ``is_settled(name)`` says whether a name is bound exactly once, or a builtin;
    ``lazy_hints`` whether annotations are not evaluated.
    """
    defaults = [*node.args.defaults, *(item for item in node.args.kw_defaults if item is not None)]
    if not all(_is_pure(default, resolve, is_settled) for default in defaults):
        return False
    for decorator in node.decorator_list:
        if not is_neutral(decorator, resolve):
            return False
        if isinstance(decorator, ast.Call):
            given = [*decorator.args, *decorator.keywords]
            if not all(_is_pure(argument, resolve, is_settled) for argument in given):
                return False
    if lazy_hints:
        return True
    return all(_is_plain_hint(hint, is_settled) for hint in annotations_of(node))


def annotations_of(node: FunctionNode) -> Iterator[ast.expr]:
    """All annotations in a signature."""
    arguments = node.args
    for argument in (
        *arguments.posonlyargs,
        *arguments.args,
        *arguments.kwonlyargs,
        *(extra for extra in (arguments.vararg, arguments.kwarg) if extra is not None),
    ):
        if argument.annotation is not None:
            yield argument.annotation
    if node.returns is not None:
        yield node.returns


def _is_pure(node: ast.AST, resolve: Resolve, is_settled: Callable[[str], bool]) -> bool:
    if isinstance(node, ast.Lambda):
        return _is_pure_list([*node.args.defaults, *node.args.kw_defaults], resolve, is_settled)
    if isinstance(node, ast.Call):
        full = resolve(dotted(node))
        if full not in _PURE_CALLS and not full.startswith("pytest.mark."):
            return False
        return _is_pure_list([*node.args, *node.keywords], resolve, is_settled)
    if isinstance(node, ast.Name):
        return is_settled(node.id)
    if not isinstance(node, _PURE):
        return False
    return _is_pure_list(list(ast.iter_child_nodes(node)), resolve, is_settled)


def _is_pure_list(
    nodes: Sequence[ast.AST | None],
    resolve: Resolve,
    is_settled: Callable[[str], bool],
) -> bool:
    return all(node is None or _is_pure(node, resolve, is_settled) for node in nodes)


def _is_plain_hint(node: ast.AST, is_settled: Callable[[str], bool]) -> bool:
    """Whether evaluating an annotation can hardly fail: names that exist, subscripts, unions."""
    if isinstance(node, ast.Name):
        return is_settled(node.id)
    if isinstance(node, ast.BinOp):
        sides = (node.left, node.right)
        if not isinstance(node.op, ast.BitOr) or any(
            isinstance(side, ast.Constant) and side.value is not None for side in sides
        ):
            return False
        return all(_is_plain_hint(side, is_settled) for side in sides)
    if not isinstance(node, _PLAIN_ANNOTATION):
        return False
    return all(_is_plain_hint(child, is_settled) for child in ast.iter_child_nodes(node))
