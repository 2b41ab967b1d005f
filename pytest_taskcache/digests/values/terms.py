"""The alphabet of the value digest: every value is rewritten to a term of native types and TERM.

Native types (None, bool, int, float, str, bytes, bytearray, list, tuple, dict) stand for
themselves. Anything else is *reduced*: its reducer returns ``(TERM, arguments)`` where the first
argument is a text that names the kind and all others are values again. The fast path and the
walker read the same terms, so they can only agree on what a value is.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeAlias

Anchors: TypeAlias = Callable[[Path], str]
"""The text name of an absolute path, the same on every machine for the same file."""


class TermType:
    """Type of TERM, which marks a reduced value in a term; never called."""

    __slots__ = ()

    def __call__(self, *arguments: object) -> None:
        """Raises TypeError; the pickler accepts nothing but a callable here."""
        raise TypeError("a term is read, never evaluated")


TERM: Final = TermType()

Reduction: TypeAlias = tuple[TermType, tuple[Any, ...]]
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


class Scope:
    """What reducers may ask while one value is digested."""

    __slots__ = ("anchors",)

    def __init__(self, anchors: Anchors | None = None) -> None:
        self.anchors = anchors

    def need_walker(self) -> None:
        """Says that the value belongs to the walker; raises WalkerNeededError on the fast path.

        To be called for reasons of content alone, or equal values would digest differently.
        """
        raise WalkerNeededError


Reducer: TypeAlias = Callable[[Any, Scope], Reduction]
"""Rewrites one value. Raises RefusedError; whatever else it raises counts as a refusal too."""
