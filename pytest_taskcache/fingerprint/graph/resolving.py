"""What a name, or a chain of them, at the top level of a module stands for."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence

from pytest_taskcache.fingerprint.builtin_names import BUILTINS
from pytest_taskcache.fingerprint.graph.attributes import Attributes
from pytest_taskcache.fingerprint.graph.special_names import is_dunder
from pytest_taskcache.fingerprint.graph.web import Web
from pytest_taskcache.fingerprint.links import Linker, Reference
from pytest_taskcache.fingerprint.mentions import EVERYTHING, Import, Mentions
from pytest_taskcache.fingerprint.qualnames import NAMES

_NOWHERE = sys.maxsize


class Names:
    """Follows names through bindings, imports and star imports to nodes.

    An unbound name has a node too: binding it may change what is found. Modules that import
    each other in circles end the search; what was found inside of a circle is not remembered
    for others, who may enter it elsewhere.
    """

    def __init__(
        self,
        mentions: Mapping[str, Mentions],
        linker: Linker,
        web: Web,
        attributes: Attributes,
    ) -> None:
        self._mentions = mentions
        self._linker = linker
        self._web = web
        self._attributes = attributes
        self._stars = {path: each.stars for path, each in mentions.items()}
        self._known: dict[tuple[str, str], tuple[int, ...]] = {}
        self._walks: dict[tuple[Reference, tuple[str, ...]], list[int]] = {}
        self._visiting: dict[tuple[str, str], int] = {}
        self._outermost = _NOWHERE

    def resolve(self, path: str, name: str) -> tuple[int, ...]:
        """The nodes that a global name of a module stands for."""
        key = (path, name)
        known = self._known.get(key)
        if known is not None:
            return known
        if not self._enter(key):
            return ()
        around, self._outermost = self._outermost, _NOWHERE
        found = tuple(dict.fromkeys(self._lookup(path, name, ())))
        del self._visiting[key]
        if self._outermost >= len(self._visiting):
            self._known[key] = found
        self._outermost = min(around, self._outermost)
        return found

    def resolve_chain(self, path: str, chain: str) -> tuple[int, ...]:
        """The nodes that a dotted access on a global name may lead to."""
        key = (path, chain)
        known = self._known.get(key)
        if known is None:
            root, *rest = chain.split(".")
            known = self._known[key] = tuple(dict.fromkeys(self._lookup(path, root, rest)))
        return known

    def imported(self, path: str, item: Import, rest: Sequence[str] = ()) -> list[int]:
        """The nodes of ``bound.rest``, where an import binds ``bound``."""
        if item.name:
            reference = self._linker.reference(path, item.level, item.module)
            return self._walk(reference, [item.name, *rest])
        top = item.module.partition(".")[0]
        return self._walk(self._linker.reference(path, 0, top), list(rest))

    def states(self, path: str, chain: str) -> Iterator[int]:
        """The nodes of the state that a call of, or a store into, something may change: the
        variable or class itself, or the variables that the called function mentions."""
        nodes = self._web.nodes
        for node in self.resolve_chain(path, chain) if "." in chain else self.resolve(path, chain):
            where, unit = nodes[node]
            if unit.startswith(("s:", "c:")):
                yield node
            elif unit.startswith("f:") and where in self._mentions:
                uses = self._mentions[where].uses.get(unit)
                if uses is None:
                    continue
                for name in (*uses.names, *(item.partition(".")[0] for item in uses.chains)):
                    for state in self.resolve(where, name):
                        if nodes[state][1].startswith("s:"):
                            yield state

    def _enter(self, key: tuple[str, str]) -> bool:
        """Whether a name is not being looked up already, further out; then it is now."""
        depth = self._visiting.get(key)
        if depth is not None:
            self._outermost = min(self._outermost, depth)
            return False
        self._visiting[key] = len(self._visiting)
        return True

    def _lookup(self, path: str, name: str, rest: Sequence[str]) -> list[int]:
        """The nodes of ``name.rest`` at the top level of a module."""
        mentions = self._mentions.get(path)
        if mentions is None:
            return self._attributes.all_named((name, *rest))
        found, bound = self._bound(path, mentions, name, rest)
        if bound or name in BUILTINS or is_dunder(name):
            return found
        unbound = self._web.node(path, "f:" + name)
        return [*found, unbound, *self._attributes.all_named((name, *rest))]

    def _bound(
        self, path: str, mentions: Mentions, name: str, rest: Sequence[str]
    ) -> tuple[list[int], bool]:
        """The nodes that a module's own bindings, or else its star imports, give a name; and
        whether any of them binds it. A module that is imported so and does not bind the name
        counts with the names that it does bind."""
        found: list[int] = []
        units = mentions.bindings.get(name, ())
        if units:
            ids = self._web.ids
            found += (ids[path, unit] for unit in units if (path, unit) in ids)
            found += self._attributes.all_named(rest)
        for item in mentions.aliases.get(name, ()):
            found += self.imported(path, item, rest)
        if units or name in mentions.aliases:
            return found, True
        bound = False
        for item in self._stars[path]:
            reference = self._linker.reference(path, item.level, item.module)
            if reference is None or reference.foreign or not reference.name:
                continue
            found.append(self._web.node(reference.name, "f:" + NAMES))
            starred = self._mentions.get(reference.name)
            if starred is None:
                found += self._attributes.all_named((name, *rest))
            elif self._enter((reference.name, name)):
                if starred.opaque:
                    found.append(self._web.ids[reference.name, EVERYTHING])
                more, here = self._bound(reference.name, starred, name, rest)
                found += more
                bound |= here
                del self._visiting[reference.name, name]
        if self._stars[path]:
            found += self._attributes.all_named(rest)
        return found, bound

    def _walk(self, reference: Reference | None, parts: list[str]) -> list[int]:
        """The nodes that a dotted access on a module leads to; none in foreign modules."""
        if reference is None or reference.foreign:
            return []
        key = (reference, tuple(parts))
        known = self._walks.get(key)
        if known is None:
            around, self._outermost = self._outermost, _NOWHERE
            known = self._walked(reference, parts)
            if self._outermost >= len(self._visiting):
                self._walks[key] = known  # it hangs on nothing that is being looked up around it
            self._outermost = min(around, self._outermost)
        return known

    def _walked(self, reference: Reference, parts: list[str]) -> list[int]:
        web = self._web
        if not parts:
            # The module itself is handed on, and whoever gets it may ask for any name.
            return [web.node(reference.name, "f:" + NAMES)] if reference.name else []
        name, rest = parts[0], parts[1:]
        found: list[int] = []
        submodule = self._linker.submodule(reference, name)
        if submodule is not None:
            found += self._walk(submodule, rest)
        if not reference.name or reference.name not in self._mentions:
            return found
        mentions = self._mentions[reference.name]
        if mentions.opaque:
            return [*found, web.ids[reference.name, EVERYTHING]]
        key = (reference.name, ".".join(parts))
        if name in mentions.bindings or name in mentions.aliases:
            if self._enter(key):
                found += self._lookup(reference.name, name, rest)
                del self._visiting[key]
            return found
        if submodule is not None:
            return found
        if name == "__dict__":
            return [web.ids[reference.name, "f:" + NAMES]]
        if is_dunder(name):
            return []
        if self._stars[reference.name] and self._enter(key):
            found += self._lookup(reference.name, name, rest)
            del self._visiting[key]
        found.append(web.node(reference.name, "f:" + name))
        if "__getattr__" in mentions.bindings:
            found += self.resolve(reference.name, "__getattr__")
            found += self._attributes.all_named(parts)
        return found
