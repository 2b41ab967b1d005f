"""Which classes inherit from which, as far as their names tell."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from pytest_taskcache.fingerprint.graph.attributes import Attributes
from pytest_taskcache.fingerprint.graph.special_names import XUNIT, comes_with_class
from pytest_taskcache.fingerprint.graph.web import SUBCLASSES, Web
from pytest_taskcache.fingerprint.mentions import Mentions


class Classes:
    """The classes of a set of modules, each by its module and qualified name.

    A base is any class whose name ends like it. ``connect`` needs the nodes of all classes.
    """

    def __init__(self, mentions: Mapping[str, Mentions], web: Web, attributes: Attributes) -> None:
        self._mentions = mentions
        self._web = web
        self._attributes = attributes
        self._by_name: dict[str, list[tuple[str, str]]] = {}
        self._derived: dict[str, list[tuple[str, str]]] = {}
        self._families: dict[tuple[str, str], set[tuple[str, str]]] = {}
        for path, each in mentions.items():
            for name, shape in each.classes.items():
                self._by_name.setdefault(name.rpartition(".")[2], []).append((path, name))
                for base in shape.bases:
                    self._derived.setdefault(base, []).append((path, name))

    def with_class(self, path: str, name: str) -> list[int]:
        """What whoever names a class may run: its body's mentions, and methods that are called
        by operators or under names too common to follow."""
        shape = self._mentions[path].classes[name]
        return [
            self._web.node(path, "b:" + name),
            *(
                self._web.ids[path, f"f:{name}.{method}"]
                for method in shape.methods
                if comes_with_class(method)
            ),
        ]

    def own_targets(self, path: str, owner: str, names: Iterable[str]) -> Iterator[int]:
        """What ``self.name`` may mean: a member of the family, else anything of that name."""
        family = sorted(self._family(path, owner))
        for name in names:
            found = False
            for where, kin in family:
                shape = self._mentions[where].classes[kin]
                if name in shape.methods:
                    yield self._web.ids[where, f"f:{kin}.{name}"]
                    found = True
                elif name in shape.attributes:
                    yield self._web.node(where, "b:" + kin)
                    found = True
            if not found:
                yield from self._attributes.named(name)

    def set_up_of(self, path: str, owner: str) -> Iterator[int]:
        """The set-up and tear-down methods that belong to a test method's class."""
        for where, kin in self._above((path, owner)):
            for method in self._mentions[where].classes[kin].methods:
                if method in XUNIT:
                    yield self._web.ids[where, f"f:{kin}.{method}"]

    def connect(self) -> None:
        """Whoever names a class that gets to know its subclasses may reach all of them."""
        edges = self._web.edges
        everyone = self._web.node(*SUBCLASSES)
        registering = [
            (path, name)
            for path, mentions in self._mentions.items()
            for name, shape in mentions.classes.items()
            if shape.keywords or "__init_subclass__" in shape.methods
        ]
        seen = set(registering)
        while registering:
            found = registering.pop()
            for derived in self._derived.get(found[1].rpartition(".")[2], ()):
                edges[self._node(found)].append(self._node(derived))
                if derived not in seen:
                    seen.add(derived)
                    registering.append(derived)
        for classes in self._derived.values():
            edges[everyone].extend(map(self._node, classes))

    def _node(self, key: tuple[str, str]) -> int:
        return self._web.ids[key[0], "c:" + key[1]]

    def _above(self, start: tuple[str, str]) -> set[tuple[str, str]]:
        """A class and all its bases in the project, by their names."""
        found = {start}
        pending = [start]
        while pending:
            path, name = pending.pop()
            for base in self._mentions[path].classes[name].bases:
                for key in self._by_name.get(base, ()):
                    if key not in found:
                        found.add(key)
                        pending.append(key)
        return found

    def _family(self, path: str, name: str) -> set[tuple[str, str]]:
        """All classes that an instance of a class may have its methods from: its subclasses and
        all their bases."""
        known = self._families.get((path, name))
        if known is None:
            below = {(path, name)}
            pending = [(path, name)]
            while pending:
                _, last = pending.pop()
                for key in self._derived.get(last.rpartition(".")[2], ()):
                    if key not in below:
                        below.add(key)
                        pending.append(key)
            known = set().union(*map(self._above, below))
            self._families[path, name] = known
        return known
