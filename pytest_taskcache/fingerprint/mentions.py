"""What a source file mentions, by the units that mention it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from pytest_taskcache.fingerprint.syntax import STAR, Import, Uses

EVERYTHING = "s:0"
"""The one unit of a module that could not be parsed."""


class ClassShape(NamedTuple):
    """A class: last components of its bases' names, its methods' names, other names it binds,
    and its keywords (``metaclass``)."""

    bases: tuple[str, ...]
    methods: tuple[str, ...]
    attributes: tuple[str, ...]
    keywords: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Mentions:
    """What the units of one module mention.

    Units are ``f:qualname`` (functions and methods), ``c:qualname`` (classes) and ``s:number``
    (other statements). ``bindings`` gives the units that bind a top-level name, ``aliases`` the
    imports that do. ``effects`` pairs a dotted callable or target with the unit whose execution
    at import may store something there. ``decorated`` are functions a decorator may have handed
    elsewhere. ``imports`` are all imports at any level, ``typing_only`` ones excepted.
    """

    uses: Mapping[str, Uses] = field(default_factory=dict)
    bindings: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    aliases: Mapping[str, tuple[Import, ...]] = field(default_factory=dict)
    classes: Mapping[str, ClassShape] = field(default_factory=dict)
    effects: tuple[tuple[str, str], ...] = ()
    decorated: tuple[str, ...] = ()
    imports: tuple[Import, ...] = ()
    opaque: bool = False

    @property
    def at_import(self) -> tuple[Import, ...]:
        """The imports that importing the module may execute: all but those that are inside of
        functions."""
        inside: set[Import] = set()
        outside: set[Import] = set()
        for unit, uses in self.uses.items():
            (inside if unit.startswith("f:") else outside).update(uses.imports)
        inside -= outside
        return tuple(item for item in self.imports if item not in inside)

    @property
    def stars(self) -> tuple[Import, ...]:
        """The star imports among the imports."""
        return tuple(item for item in self.imports if item.name == STAR)
