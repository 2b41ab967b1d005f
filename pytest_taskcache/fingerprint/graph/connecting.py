"""Draws the edges: from each unit to all that what it mentions may mean."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from pytest_taskcache.fingerprint.builtin_names import NAMESPACE_READERS
from pytest_taskcache.fingerprint.graph.attributes import Attributes
from pytest_taskcache.fingerprint.graph.classes import Classes
from pytest_taskcache.fingerprint.graph.resolving import Names
from pytest_taskcache.fingerprint.graph.special_names import (
    IMPORTERS,
    XUNIT_OF_MODULES,
    is_test,
)
from pytest_taskcache.fingerprint.graph.web import EVERYTHING, SUBCLASSES, Web
from pytest_taskcache.fingerprint.links import Linker
from pytest_taskcache.fingerprint.mentions import STAR, TEXT, Mentions, Uses
from pytest_taskcache.fingerprint.qualnames import INSIDE, NAMES, function_around


class Connected(NamedTuple):
    """A web whose edges are all drawn. ``asking`` are the nodes of functions that look modules
    up by names that cannot be known, ``asking_at_import`` modules that do so at import."""

    web: Web
    asking: tuple[int, ...]
    asking_at_import: frozenset[str]


def connect(mentions: Mapping[str, Mentions], linker: Linker) -> Connected:
    """The web of what a set of modules mentions, each by the name of its file."""
    connecting = _Connecting(mentions, linker)
    connecting.connect()
    return Connected(
        connecting.web, tuple(connecting.asking), frozenset(connecting.asking_at_import)
    )


class _Connecting:
    """A web while its edges are drawn."""

    def __init__(self, mentions: Mapping[str, Mentions], linker: Linker) -> None:
        self.web = Web()
        self.asking: list[int] = []
        self.asking_at_import: set[str] = set()
        self._mentions = mentions
        self._attributes = Attributes(mentions, self.web)
        self._classes = Classes(mentions, self.web, self._attributes)
        self._names = Names(mentions, linker, self.web, self._attributes)
        self._fixtures: dict[str, list[int]] = {}
        for path, each in mentions.items():
            for name in each.decorated:
                fixture = self.web.ids[path, "f:" + name]
                self._fixtures.setdefault(name.rpartition(".")[2], []).append(fixture)

    def connect(self) -> None:
        """Draws all edges, once."""
        everything = self.web.node(*EVERYTHING)
        for path, mentions in self._mentions.items():
            self.web.edges[everything].append(self.web.ids[path, "f:" + NAMES])
            self._connect_module(path, mentions)
        for path, mentions in self._mentions.items():
            self._connect_effects(path, mentions)
        self._classes.connect()

    def _connect_module(self, path: str, mentions: Mentions) -> None:
        ids, edges = self.web.ids, self.web.edges
        around_tests = [
            ids[path, "f:" + name] for name in XUNIT_OF_MODULES if "f:" + name in mentions.uses
        ]
        for unit, uses in mentions.uses.items():
            is_function = unit.startswith("f:")
            if is_function and INSIDE in unit:
                self._connect_nested(path, unit)
                continue
            if _asks_for_modules(mentions, uses):
                if is_function:
                    self.asking.append(ids[path, unit])
                else:
                    self.asking_at_import.add(path)
            owner = unit[2:].rpartition(".")[0] if is_function else ""
            targets = dict.fromkeys(self._targets(path, uses))
            if owner:
                targets.update(dict.fromkeys(self._classes.own_targets(path, owner, uses.own)))
            if unit.startswith("c:"):
                edges[self.web.node(path, "b:" + unit[2:])].extend(targets)
                edges[ids[path, unit]].extend(self._classes.with_class(path, unit[2:]))
                continue
            if is_function:
                targets.update(dict.fromkeys(around_tests))
            if owner and is_test(unit[2:]):
                targets.update(dict.fromkeys(self._classes.set_up_of(path, owner)))
            edges[ids[path, unit]].extend(targets)

    def _connect_nested(self, path: str, unit: str) -> None:
        """Whoever reaches a function may reach those inside of it, and they it."""
        nested = self.web.ids[path, unit]
        around = self.web.node(path, "f:" + function_around(unit[2:]))
        self.web.edges[nested].append(around)
        self.web.edges[around].append(nested)

    def _connect_effects(self, path: str, mentions: Mentions) -> None:
        """Whoever reads what a module changes at import may reach the code that does."""
        web = self.web
        for chain, unit in mentions.effects:
            node = web.ids[path, unit]
            for state in self._names.states(path, chain):
                web.edges[state].append(node)
                where = web.nodes[state][0]
                if where not in ("", path):
                    web.edges[state].append(web.node("", f"m:{where}\0{path}"))

    def _targets(self, path: str, uses: Uses) -> Iterator[int]:
        """All that the mentions of a unit may mean, attributes of its own object excepted."""
        web, names, attributes = self.web, self._names, self._attributes
        for name in uses.names:
            yield from names.resolve(path, name)
            if name in NAMESPACE_READERS:
                yield web.ids[path, "f:" + NAMES]
            elif name in IMPORTERS:
                yield web.ids[EVERYTHING]
        for chain in uses.chains:
            yield from names.resolve_chain(path, chain)
            last = chain.rpartition(".")[2]
            if last in IMPORTERS or chain.startswith("sys.modules"):
                yield web.ids[EVERYTHING]
            if last == "__subclasses__":
                yield web.node(*SUBCLASSES)
        for name in uses.attributes:
            if name == "__subclasses__":
                yield web.node(*SUBCLASSES)
            yield from attributes.named(name)
        for name in uses.checked:
            for node in names.resolve_chain(path, name):
                where, unit = web.nodes[node]
                yield web.node(where, "b:" + unit[2:]) if unit.startswith("c:") else node
        for affix in uses.affixes:
            yield attributes.affixed(affix)
        for name in uses.parameters:
            yield from self._fixtures.get(name, ())
        for item in uses.imports:
            if item.name != STAR and item.level != TEXT:
                yield from names.imported(path, item)


def _asks_for_modules(mentions: Mentions, uses: Uses) -> bool:
    """Whether code gets at modules by names that are not written in it, unseen: by
    ``__import__`` or in ``sys.modules``, where they may be loaded already."""
    if "__import__" in uses.names:
        return True
    if any(chain.startswith("sys.modules") for chain in uses.chains):
        return True
    if any(
        item.module == "sys" and item.name == "modules"
        for name in uses.names
        for item in mentions.aliases.get(name, ())
    ):
        return True
    # Where ``sys`` is a local name, ``modules`` is an attribute of anything.
    return "modules" in uses.attributes and any(item.module == "sys" for item in uses.imports)
