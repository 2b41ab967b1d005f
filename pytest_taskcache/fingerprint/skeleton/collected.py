"""What is collected of one module while its tree is walked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from pytest_taskcache.fingerprint.builtin_names import BUILTINS
from pytest_taskcache.fingerprint.inertness import is_neutral
from pytest_taskcache.fingerprint.mentions import STAR, ClassShape, Import, Mentions, Uses
from pytest_taskcache.fingerprint.skeleton.definitions import Definition
from pytest_taskcache.fingerprint.syntax import Noted, dotted


class Collected:
    """The definitions, bindings and mentions of a module; see ``Mentions`` for the units.

    ``counts`` tells how often each name is bound, at module level under an empty name and in
    each class under its qualified name; ``declared`` are names that functions declare global;
    ``lazy_hints`` tells whether annotations are not evaluated when a function is defined.
    """

    def __init__(self) -> None:
        self.definitions: list[Definition] = []
        self.uses: dict[str, Uses] = {}
        self.bindings: dict[str, list[str]] = {}
        self.aliases: dict[str, list[Import]] = {}
        self.classes: dict[str, ClassShape] = {}
        self.effects: list[tuple[str, str]] = []
        self.imports: dict[Import, None] = {}
        self.declared: set[str] = set()
        self.counts: dict[str, Counter[str]] = {"": Counter()}
        self.lazy_hints = False
        self._guarded: list[tuple[str, Import]] = []

    def bind(self, name: str, unit: str) -> None:
        """Notes that a function or class binds a top-level name."""
        units = self.bindings.setdefault(name, [])
        if unit not in units:
            units.append(unit)

    def merge(self, unit: str, uses: Uses) -> None:
        """Adds to what a unit mentions."""
        known = self.uses.get(unit)
        if known is not None:
            uses = Uses(
                *(
                    tuple(dict.fromkeys((*getattr(known, name), *getattr(uses, name))))
                    for name in Uses.__slots__
                )
            )
        self.uses[unit] = uses

    def note(self, noted: Noted) -> None:
        """Notes what is not the matter of the unit alone that mentions it."""
        self.add_imports(noted.imports)
        self.declared |= noted.declared
        self._guarded += noted.guarded

    def add_imports(self, imports: Iterable[Import]) -> None:
        """Notes what importing or calling something in the module may import."""
        self.imports.update(dict.fromkeys(imports))

    def add_class(self, qualname: str, shape: ClassShape) -> ClassShape:
        """Notes a class; one that is defined twice has the shape of both, which is returned."""
        known = self.classes.get(qualname)
        if known is not None:
            shape = ClassShape(
                *(tuple(sorted({*a, *b})) for a, b in zip(known, shape, strict=True))
            )
        self.classes[qualname] = shape
        return shape

    def settle(self) -> None:
        """Decides, once all is collected, what depends on the meaning of names."""
        self.lazy_hints = any(
            item.module == "__future__" and item.name == "annotations" for item in self.imports
        )
        for name in self.declared:
            self.counts[""][name] += 1
        for guard, item in self._guarded:
            if self.resolve(guard) != "typing.TYPE_CHECKING":
                self.imports[item] = None
                self.aliases.setdefault(item.bound, []).append(item)

    def resolve(self, name: str) -> str:
        """The full dotted name of a name at module level, empty where it is not an import."""
        root, _, rest = name.partition(".")
        imports = self.aliases.get(root, [])
        if not imports and root not in self.bindings:
            return name if root in BUILTINS else ""
        if len(imports) != 1 or root in self.bindings or imports[0].level:
            return ""
        found = imports[0]
        base = f"{found.module}.{found.name}" if found.name else root
        return f"{base}.{rest}" if rest else base

    @property
    def has_stars(self) -> bool:
        """Whether other modules decide which names there are."""
        return any(item.name == STAR for item in self.imports)

    def mentions(self) -> Mentions:
        """What the module mentions."""
        handed_on = [
            (chain, "f:" + item.qualname)
            for item in self.definitions
            for decorator in item.node.decorator_list
            if not is_neutral(decorator, self.resolve) and (chain := dotted(decorator))
        ]
        return Mentions(
            self.uses,
            {name: tuple(units) for name, units in self.bindings.items()},
            {name: tuple(found) for name, found in self.aliases.items()},
            self.classes,
            tuple(dict.fromkeys((*self.effects, *handed_on))),
            tuple(
                dict.fromkeys(
                    item.qualname for item in self.definitions if item.node.decorator_list
                )
            ),
            tuple(self.imports),
        )
