"""What code mentions: by the piece, and by the units of a source file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

STAR = "*"
"""The imported name of a star import."""

TEXT = -1
"""The level of an import that is none: a string that may name a module, or something in one."""

EVERYTHING = "s:0"
"""The one unit of a module that could not be parsed."""


class Import(NamedTuple):
    """One imported thing: ``from <level dots><module> import <name> as <bound>``, or ``import
    <module>`` with an empty name, which binds its first component. ``import a.b as c`` reads as
    ``from a import b as c``. ``bound`` is the name it binds."""

    level: int
    module: str
    name: str
    bound: str


@dataclass(frozen=True, slots=True)
class Uses:
    """What a piece of code mentions.

    ``names`` are free names it loads by themselves; ``chains`` dotted accesses that start at a
    free name (``np.linalg.norm``); ``attributes`` attribute names on anything else, and string
    constants that read like identifiers, since ``getattr`` may be given them; ``own`` attributes
    of the object that a method is called on; ``checked`` names, dotted or not, of classes that
    are only compared with (``isinstance``, ``except``); ``affixes`` the
    constant parts of computed identifiers (``visit_*``, ``*_handler``); ``parameters`` the
    names of its arguments; ``imports`` the imports in it.
    """

    names: tuple[str, ...] = ()
    chains: tuple[str, ...] = ()
    attributes: tuple[str, ...] = ()
    affixes: tuple[str, ...] = ()
    parameters: tuple[str, ...] = ()
    imports: tuple[Import, ...] = ()
    own: tuple[str, ...] = ()
    checked: tuple[str, ...] = ()


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
