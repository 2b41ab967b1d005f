"""The alphabet of the value digest: every value is rewritten to a term of native types and TERM.

Native types (None, bool, int, float, str, bytes, bytearray, list, tuple, dict) stand for
themselves. Anything else is *reduced*: its reducer returns ``(TERM, arguments)`` where the first
argument is a text that names the kind and all others are values again::

    [1, Decimal("1.5")]    is    [1, TERM("decimal", 0, (1, 5), -1)]

The fast path and the walker read the same terms, so they can only agree on what a value is.

Here too: what classes and functions are called in terms, and whether a name leads back to one.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final, TypeAlias, TypeVar

from pytest_taskcache.checksum import checksum
from pytest_taskcache.errors import UndigestableError

T = TypeVar("T")
R = TypeVar("R")

Anchors: TypeAlias = Callable[[Path], str]
"""The text name of an absolute path, the same on every machine for the same file."""


def TERM(*arguments: object) -> None:
    """Marks a reduced value in a term. The pickler accepts nothing but a callable here; this one
    raises TypeError."""
    raise TypeError("a term is read, never evaluated")


Reduction: TypeAlias = tuple[Callable[..., None], tuple[Any, ...]]
"""``(TERM, (kind, *content))``."""


class RefusedError(Exception):
    """A value of this type has no digest; the walker adds where it sits.

    Attributes:
        type_name: the type as users write it, e.g. ``sqlite3.Connection``.
        reason: why, when it is more than an unknown type.
    """

    def __init__(self, type_name: str, reason: str = "") -> None:
        super().__init__(type_name, reason)
        self.type_name = type_name
        self.reason = reason


class WalkerNeededError(Exception):
    """The value holds something only the walker digests exactly (a set, a local class)."""


Apart: TypeAlias = dict[int, tuple[object, Any]]
"""What was found of parts of values, by identity, with the part that it was found of. To be kept no
longer than nobody changes them."""


_ASKED: Final = object()
"""Stands for what is being found."""


class Scope:
    """What reducers may ask and say while one value is digested. ``classes`` are those of the
    project that instances in the value belong to: what their statements say is part of the value,
    and is added once, at the end."""

    __slots__ = ("anchors", "apart", "classes")

    def __init__(self, anchors: Anchors | None = None, apart: Apart | None = None) -> None:
        self.anchors = anchors
        self.apart = {} if apart is None else apart
        self.classes: set[type] = set()

    def once(self, part: T, find: Callable[[T], R]) -> R:
        """What ``find`` finds of a part, asked once. Raises RefusedError if the answer needs
        itself."""
        known = self.apart.get(id(part))
        if known is None:
            self.apart[id(part)] = part, _ASKED
            try:
                known = part, find(part)
            finally:
                self.apart.pop(id(part))
            self.apart[id(part)] = known
        if known[1] is _ASKED:
            raise RefusedError(shown_name(type(part)), "it holds itself")
        found: R = known[1]
        return found

    def digest_items(self, items: Iterable[object]) -> str:
        """One digest of all items of a container, in whatever order they come. Raises RefusedError
        for an item without a digest."""
        from pytest_taskcache.digests.values.digest import digest_value

        try:
            digests = [digest_value(one, anchors=self.anchors, apart=self.apart) for one in items]
        except UndigestableError as error:
            raise RefusedError(error.type_name, error.reason) from error
        return checksum(sorted(digests))

    def need_walker(self) -> None:
        """Says that the value belongs to the walker; raises WalkerNeededError on the fast path. To
        be called for reasons of content alone, or equal values would digest differently."""
        raise WalkerNeededError


Reducer: TypeAlias = Callable[[Any, Scope], Reduction]
"""Rewrites one value. Raises RefusedError; whatever else it raises counts as a refusal too."""


def term(kind: str, read: Callable[[Any], tuple[Any, ...]]) -> Reducer:
    """The reducer of values that are of a kind and otherwise what ``read`` gives."""

    def reduce(value: Any, scope: Scope) -> Reduction:
        return TERM, (kind, *read(value))

    return reduce


def qualified_name(named: type | object) -> str:
    """``module.qualified.name`` of a class or function, the same where its module is run."""
    module = getattr(named, "__module__", None) or "builtins"
    if module == "__main__":
        # imported here: what holds nothing of a script's needs no model of the code
        from pytest_taskcache.code.function_source import module_name

        module = module_name(module)
    name = getattr(named, "__qualname__", None) or getattr(named, "__name__", "?")
    return f"{module}.{name}"


def shown_name(cls: type) -> str:
    """The type as users write it: ``builtins.`` is left out."""
    return qualified_name(cls).removeprefix("builtins.")


_HEAP_TYPE: Final = 1 << 9
"""Flag of types made at run time (CPython's ``Py_TPFLAGS_HEAPTYPE``)."""


def is_importable(named: object) -> bool:
    """Whether importing its module and following its qualified name gives this very object. Types
    that are part of the interpreter or of an extension (NoneType) count as if it did: no two of
    them share a name."""
    if isinstance(named, type) and not named.__flags__ & _HEAP_TYPE:
        return True
    module = sys.modules.get(getattr(named, "__module__", None) or "builtins")
    name = getattr(named, "__qualname__", None)
    if module is None or not isinstance(name, str) or "<locals>" in name:
        return False
    first, *rest = name.split(".")
    # not getattr: a module's own __getattr__ may import, or warn
    found: object = vars(module).get(first)
    for attribute in rest:
        found = getattr(found, attribute, None)
    return found is named
