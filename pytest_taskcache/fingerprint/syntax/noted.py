"""What the code that is being walked mentions, scope by scope."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum, auto

from pytest_taskcache.fingerprint.mentions import STAR, Import, Uses


class Level(Enum):
    """What a scope is the scope of."""

    STATEMENT = auto()
    CLASS = auto()
    FUNCTION = auto()


class Scope:
    """Names of one scope while it is walked: see ``Uses`` for ``chains`` and ``checked``."""

    __slots__ = ("chains", "checked", "declared", "level", "loads", "stores")

    def __init__(self, level: Level) -> None:
        self.level = level
        self.loads: set[str] = set()
        self.stores: set[str] = set()
        self.chains: set[str] = set()
        self.checked: set[str] = set()
        self.declared: set[str] = set()


class Noted:
    """The mentions noted so far. ``scope`` is the innermost one.

    ``receiver`` is the first parameter of the method that is walked, if it is one, as long as
    nothing else is bound to it; ``own`` its attributes. ``declared`` collects names that
    functions declare global, which assignments in them bind. ``guarded`` are imports that run
    only if a name (``TYPE_CHECKING``, dotted or not) is true: the ``guard`` while it is not
    empty.
    """

    __slots__ = (
        "_around",
        "_outermost",
        "affixes",
        "attributes",
        "declared",
        "guard",
        "guarded",
        "imports",
        "own",
        "receiver",
        "scope",
    )

    def __init__(self, receiver: str) -> None:
        self.receiver = receiver
        self.own: set[str] = set()
        self.attributes: set[str] = set()
        self.affixes: set[str] = set()
        self.imports: list[Import] = []
        self.declared: set[str] = set()
        self.guard = ""
        self.guarded: list[tuple[str, Import]] = []
        self.scope = self._outermost = Scope(Level.STATEMENT)
        self._around: list[Scope] = []

    @property
    def at_top(self) -> bool:
        """Whether the walk is inside no function, lambda, comprehension or class."""
        return not self._around

    @property
    def stores(self) -> frozenset[str]:
        """Names that the outermost scope binds."""
        return frozenset(self._outermost.stores)

    def uses(self, parameters: Iterable[str] = ()) -> Uses:
        """What the walked code mentions."""
        outermost = self._outermost
        return Uses(
            tuple(sorted(outermost.loads)),
            tuple(sorted(outermost.chains)),
            tuple(sorted(self.attributes)),
            tuple(sorted(self.affixes)),
            tuple(parameters),
            tuple(self.imports),
            tuple(sorted(self.own)),
            tuple(sorted(outermost.checked)),
        )

    def add_import(self, imported: Import) -> None:
        """Notes an import statement's import, and the name it binds."""
        if self.guard:
            self.guarded.append((self.guard, imported))
        else:
            self.imports.append(imported)
        if imported.bound != STAR:
            self.scope.stores.add(imported.bound)

    def lose_receiver(self) -> None:
        """From here on nothing is known of what a method's first parameter stands for."""
        self.receiver = ""
        self.attributes |= self.own
        self.own.clear()

    def enter(self, level: Level) -> None:
        """A scope begins."""
        self._around.append(self.scope)
        self.scope = Scope(level)

    def leave(self) -> None:
        """The innermost scope ends: its free names belong to the one around it."""
        scope = self.scope
        around = self.scope = self._around.pop()
        if scope.level is Level.CLASS:
            around.loads |= scope.loads
            around.chains |= scope.chains
            around.checked |= scope.checked
            return
        bound = scope.stores - scope.declared
        around.loads |= scope.loads - bound
        around.checked |= {name for name in scope.checked if name.partition(".")[0] not in bound}
        for chain in scope.chains:
            root, _, rest = chain.partition(".")
            if root in bound:
                names = rest.split(".")
                if root == self.receiver and not self._around:
                    self.own.add(names[0])
                    del names[0]
                self.attributes.update(names)
            else:
                around.chains.add(chain)
