"""Which functions can be reached by name from which.

An over-approximation: ``x.parse`` reaches every method ``parse`` of every class unless ``x`` is
known to be a module. Names that every container and string has (``get``, ``items``, ...) and
dunder methods are reached through their class instead, once the class itself is.
"""

from __future__ import annotations

import io
import sys
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from pytest_taskcache.fingerprint.inertness import BUILTINS
from pytest_taskcache.fingerprint.links import Linker, Reference
from pytest_taskcache.fingerprint.skeleton import (
    EVERYTHING,
    INSIDE,
    NAMES,
    Mentions,
    function_around,
)
from pytest_taskcache.fingerprint.syntax import STAR, TEXT, Import, Uses

_NAMESPACE_READERS = frozenset({"globals", "locals", "vars", "dir", "eval", "exec"})
_IMPORTERS = frozenset(
    {
        "__import__",
        "import_module",
        "iter_modules",
        "walk_packages",
        "exec_module",
        "run_module",
        "run_path",
        "resolve_name",
        "importorskip",
    }
)
_GENERIC = frozenset(
    name
    for kind in (str, bytes, list, dict, set, tuple, int, float, io.TextIOWrapper, io.BytesIO)
    for name in dir(kind)
    if not name.startswith("_")
)
_XUNIT = frozenset(
    {
        "setUp",
        "tearDown",
        "setUpClass",
        "tearDownClass",
        "asyncSetUp",
        "asyncTearDown",
        "setup_class",
        "teardown_class",
        "setup_method",
        "teardown_method",
    }
)
_XUNIT_MODULE = (
    "setup_module",
    "setUpModule",
    "setup_function",
    "setup",
    "teardown_module",
    "tearDownModule",
    "teardown_function",
    "teardown",
)


class Reached(NamedTuple):
    """The functions reached, as a mask; those, too, that are at hand but never ran (``seen``);
    those whose imports count (``importing``); modules that act on what was reached, e.g. by
    entering themselves into a registry; and whether something reached looks modules up by names
    that cannot be known."""

    mask: int
    seen: int
    importing: int
    acting: frozenset[str]
    asks: bool


_NOWHERE = sys.maxsize

_BITS_OF = tuple(tuple(bit for bit in range(8) if byte >> bit & 1) for byte in range(256))


def _set_bits(mask: int) -> list[int]:
    """The numbers of the bits that are set, ascending."""
    return [
        start * 8 + offset
        for start, byte in enumerate(mask.to_bytes((mask.bit_length() + 7) // 8, "little"))
        if byte
        for offset in _BITS_OF[byte]
    ]


def _comes_with_class(method: str) -> bool:
    """Whether a method is reached through its class, not through its own name."""
    return method in _GENERIC or method in _XUNIT or _is_dunder(method)


def _is_dunder(name: str) -> bool:
    return name.startswith("__") and name.endswith("__")


class NameGraph:
    """The graph over the functions, classes and statements of a set of modules.

    ``mentions`` gives each module's by the name of its file; ``linker`` resolves imports.
    Building takes time in proportion to the mentions; afterwards a question costs one bitwise
    or per function asked about.
    """

    def __init__(self, mentions: Mapping[str, Mentions], linker: Linker) -> None:
        self._mentions = mentions
        self._linker = linker
        self._ids: dict[tuple[str, str], int] = {}
        self._nodes: list[tuple[str, str]] = []
        self._edges: list[list[int]] = []
        self._names: dict[tuple[str, str], tuple[int, ...]] = {}
        self._visiting: dict[tuple[str, str], int] = {}
        self._walks: dict[tuple[Reference, tuple[str, ...]], list[int]] = {}
        self._outermost = _NOWHERE
        self._stars = {path: each.stars for path, each in mentions.items()}
        self._by_name: dict[str, list[int]] = {}
        self._fixtures: dict[str, list[int]] = {}
        self._derived: dict[str, list[tuple[str, str]]] = {}
        self._classes: dict[str, list[tuple[str, str]]] = {}
        self._families: dict[tuple[str, str], set[tuple[str, str]]] = {}
        self._module_bits: dict[str, int] = {}
        self._forwards: list[str] = []
        self._backwards: list[str] = []
        self._asking_at_import: set[str] = set()
        self._asking_nodes: list[int] = []
        self._index()
        self._connect()
        self._bits: list[str] = []
        self._own: list[int] = []
        self._unrunnable = 0
        self._acting: dict[int, tuple[str, str]] = {}
        self._all_acting = 0
        self._asking = 0
        self._importing = 0
        self._tests = 0
        self._functions: list[int] = []
        self._near: dict[int, int] = {}
        self._common = (0, 0)
        self._insides: dict[frozenset[str], tuple[int, bool]] = {}
        self._masks = self._close()

    # ------------------------------------------------------------------------ asking

    def reach(
        self,
        functions: Iterable[tuple[str, str]],
        inside: frozenset[str],
        among: int | None = None,
    ) -> Reached:
        """The functions, inside these modules, that can be reached from those given by module and
        qualified name; they are included. An empty name stands for all that a module runs at
        import. ``among`` narrows the answer down, but for names whose presence or absence
        matters."""
        mask = 0
        given = 0
        for path, name in functions:
            for node in self._seeds(path, name):
                mask |= self._masks[node]
                given |= self._own[node]
        within = 0
        asks = False
        known = self._insides.get(inside)
        if known is None:
            for path in inside:
                within |= self._module_bits.get(path, 0)
                asks |= path in self._asking_at_import
            known = self._insides[inside] = (within, asks)
        within, asks = known
        inside_mask = within
        if among is not None:
            within &= among | given | self._unrunnable
        acting = mask & self._all_acting
        found = mask & within
        return Reached(
            found,
            0 if among is None else self._at_hand(found) & mask & inside_mask & ~found,
            (found | within & ~self._tests) & self._importing,
            frozenset(
                path
                for bit, (where, path) in self._acting.items()
                if acting & bit and where in inside
            )
            if acting
            else frozenset(),
            asks or bool(found & self._asking),
        )

    def _at_hand(self, mask: int) -> int:
        """The functions that those of a mask can get hold of in one step: by naming them, or
        variables, classes or attributes that may hold them."""
        # Most tests of a project share most of what they reach: that part is done once.
        base, found = self._common
        if base & ~mask:
            shared = base & mask
            if shared.bit_count() * 2 < base.bit_count():
                return self._all_hands(mask)
            base, found = shared, self._all_hands(shared)
            self._common = base, found
        elif not base:
            base, found = mask, self._all_hands(mask)
            self._common = base, found
        return found | self._all_hands(mask & ~base)

    def _all_hands(self, mask: int) -> int:
        found = 0
        near, functions = self._near.get, self._functions
        for bit in _set_bits(mask):
            node = functions[bit]
            known = near(node)
            found |= self._hands(node) if known is None else known
        return found

    def _hands(self, node: int) -> int:
        known = 0
        seen = set(self._edges[node])
        pending = list(seen)
        while pending:
            target = pending.pop()
            unit = self._nodes[target][1]
            if unit.startswith("f:"):
                # How nested ones look from outside is part of the function around them.
                known |= 0 if INSIDE in unit else self._own[target]
                continue
            fresh = [one for one in self._edges[target] if one not in seen]
            seen.update(fresh)
            pending += fresh
        self._near[node] = known
        return known

    def mask_of(self, functions: Iterable[tuple[str, str]]) -> int:
        """The mask of just these functions, of all of a module for an empty name; unknown ones
        are left out."""
        mask = 0
        for path, name in functions:
            if not name:
                mask |= self._module_bits.get(path, 0)
            node = self._ids.get((path, "f:" + name))
            if node is not None:
                mask |= self._own[node]
        return mask

    def _seeds(self, path: str, name: str) -> list[int]:
        mentions = self._mentions.get(path)
        if mentions is None:
            return []
        if name and not mentions.opaque:
            found = self._ids.get((path, "f:" + name))
            return [] if found is None else [found]
        return [self._ids[path, unit] for unit in mentions.uses if not unit.startswith("f:")]

    def places(self, mask: int) -> list[tuple[str, str]]:
        """The functions of a mask by module and qualified name."""
        found = (self._nodes[self._functions[bit]] for bit in _set_bits(mask))
        return [(path, unit[2:]) for path, unit in found]

    @property
    def functions(self) -> Sequence[str]:
        """All functions as ``path::qualname``, sorted; ``*`` for the names a module binds, and
        names that are not bound at all where their absence matters."""
        return self._bits

    def members(self, mask: int) -> list[int]:
        """The functions of a mask, by their places among ``functions``, ascending."""
        return _set_bits(mask)

    # ---------------------------------------------------------------------- building

    def _node(self, path: str, unit: str) -> int:
        key = (path, unit)
        found = self._ids.get(key)
        if found is None:
            found = self._ids[key] = len(self._nodes)
            self._nodes.append(key)
            self._edges.append([])
        return found

    def _index(self) -> None:
        """Makes the nodes and the lists of what a bare attribute name may mean."""
        for path, mentions in self._mentions.items():
            for unit in mentions.uses:
                node = self._node(path, unit)
                if unit.startswith("f:"):
                    owner, _, last = unit[2:].rpartition(".")
                    if INSIDE in owner:
                        continue
                    if not owner or not _comes_with_class(last):
                        self._by_name.setdefault(last, []).append(node)
                elif unit.startswith("c:"):
                    self._by_name.setdefault(unit[2:].rpartition(".")[2], []).append(node)
            for name, units in mentions.bindings.items():
                self._by_name.setdefault(name, []).extend(
                    self._ids[path, unit] for unit in units if unit.startswith("s:")
                )
            for name, shape in mentions.classes.items():
                self._classes.setdefault(name.rpartition(".")[2], []).append((path, name))
                for attribute in shape.attributes:
                    if not _comes_with_class(attribute):
                        body = self._node(path, "b:" + name)
                        self._by_name.setdefault(attribute, []).append(body)
                for base in shape.bases:
                    self._derived.setdefault(base, []).append((path, name))
            for name in mentions.decorated:
                self._fixtures.setdefault(name.rpartition(".")[2], []).append(
                    self._ids[path, "f:" + name]
                )
            self._node(path, "f:" + NAMES)

    def _connect(self) -> None:
        everything = self._node("", "*")
        for path, mentions in self._mentions.items():
            self._edges[everything].append(self._ids[path, "f:" + NAMES])
            xunit = [
                self._ids[path, "f:" + name]
                for name in _XUNIT_MODULE
                if "f:" + name in mentions.uses
            ]
            for unit, uses in mentions.uses.items():
                if unit.startswith("f:") and INSIDE in unit:
                    self._connect_nested(path, unit)
                    continue
                if self._asks_for_modules(mentions, uses):
                    if unit.startswith("f:"):
                        self._asking_nodes.append(self._ids[path, unit])
                    else:
                        self._asking_at_import.add(path)
                owner = unit[2:].rpartition(".")[0] if unit.startswith("f:") else ""
                edges = dict.fromkeys(self._targets(path, uses))
                if owner:
                    edges.update(dict.fromkeys(self._own_targets(path, owner, uses)))
                if unit.startswith("c:"):
                    self._edges[self._node(path, "b:" + unit[2:])].extend(edges)
                    self._edges[self._ids[path, unit]].extend(self._with_class(path, unit[2:]))
                    continue
                if unit.startswith("f:"):
                    edges.update(dict.fromkeys(xunit))
                if owner and unit[2:].rpartition(".")[2].startswith("test"):
                    edges.update(dict.fromkeys(self._set_up_of(path, owner)))
                self._edges[self._ids[path, unit]].extend(edges)
        for path, mentions in self._mentions.items():
            for chain, unit in mentions.effects:
                node = self._ids[path, unit]
                for state in self._states(path, chain):
                    self._edges[state].append(node)
                    if self._nodes[state][0] not in ("", path):
                        where = self._nodes[state][0]
                        self._edges[state].append(self._node("", f"m:{where}\0{path}"))
        self._connect_registering()

    def _connect_nested(self, path: str, unit: str) -> None:
        """Whoever reaches a function may reach those inside of it, and they it."""
        nested = self._ids[path, unit]
        around = self._node(path, "f:" + function_around(unit[2:]))
        self._edges[nested].append(around)
        self._edges[around].append(nested)

    def _asks_for_modules(self, mentions: Mentions, uses: Uses) -> bool:
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

    def _with_class(self, path: str, name: str) -> list[int]:
        """What whoever names a class may run: its body's mentions, and methods that are called
        by operators or under names too common to follow."""
        shape = self._mentions[path].classes[name]
        return [
            self._node(path, "b:" + name),
            *(
                self._ids[path, f"f:{name}.{method}"]
                for method in shape.methods
                if _comes_with_class(method)
            ),
        ]

    def _connect_registering(self) -> None:
        """Whoever names a class that gets to know its subclasses may reach all of them."""
        everyone = self._node("", "subclasses")
        registering = [
            (path, name)
            for path, mentions in self._mentions.items()
            for name, shape in mentions.classes.items()
            if shape.keywords or "__init_subclass__" in shape.methods
        ]
        seen = set(registering)
        while registering:
            path, name = registering.pop()
            for derived in self._derived.get(name.rpartition(".")[2], ()):
                self._edges[self._ids[path, "c:" + name]].append(self._class_node(derived))
                if derived not in seen:
                    seen.add(derived)
                    registering.append(derived)
        for found in self._derived.values():
            self._edges[everyone].extend(map(self._class_node, found))

    def _class_node(self, key: tuple[str, str]) -> int:
        return self._ids[key[0], "c:" + key[1]]

    def _above(self, start: tuple[str, str]) -> set[tuple[str, str]]:
        """A class and all its bases in the project, by their names."""
        found = {start}
        pending = [start]
        while pending:
            path, name = pending.pop()
            for base in self._mentions[path].classes[name].bases:
                for key in self._classes.get(base, ()):
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

    def _own_targets(self, path: str, owner: str, uses: Uses) -> Iterable[int]:
        """What ``self.name`` may mean: a member of the family, else anything of that name."""
        family = sorted(self._family(path, owner))
        for name in uses.own:
            found = False
            for where, kin in family:
                shape = self._mentions[where].classes[kin]
                if name in shape.methods:
                    yield self._ids[where, f"f:{kin}.{name}"]
                    found = True
                elif name in shape.attributes:
                    yield self._node(where, "b:" + kin)
                    found = True
            if not found:
                yield from self._attribute(name)

    def _set_up_of(self, path: str, owner: str) -> Iterable[int]:
        """The set-up and tear-down methods that belong to a test method's class."""
        for where, kin in self._above((path, owner)):
            for method in self._mentions[where].classes[kin].methods:
                if method in _XUNIT:
                    yield self._ids[where, f"f:{kin}.{method}"]

    def _targets(self, path: str, uses: Uses) -> Iterable[int]:
        for name in uses.names:
            yield from self._resolve(path, name)
            if name in _NAMESPACE_READERS:
                yield self._ids[path, "f:" + NAMES]
            elif name in _IMPORTERS:
                yield self._ids["", "*"]
        for chain in uses.chains:
            yield from self._resolve_chain(path, chain)
            last = chain.rpartition(".")[2]
            if last in _IMPORTERS or chain.startswith("sys.modules"):
                yield self._ids["", "*"]
            if last == "__subclasses__":
                yield self._node("", "subclasses")
        for name in uses.attributes:
            if name == "__subclasses__":
                yield self._node("", "subclasses")
            yield from self._attribute(name)
        for name in uses.checked:
            for node in self._resolve_chain(path, name):
                where, unit = self._nodes[node]
                yield self._node(where, "b:" + unit[2:]) if unit.startswith("c:") else node
        for affix in uses.affixes:
            yield self._affix(affix)
        for name in uses.parameters:
            yield from self._fixtures.get(name, ())
        for item in uses.imports:
            if item.name != STAR and item.level != TEXT:
                yield from self._imported(path, item, ())

    def _attribute(self, name: str) -> tuple[int, ...]:
        """The node that stands for an attribute of this name on anything."""
        candidates = self._by_name.get(name)
        if not candidates:
            return ()
        if len(candidates) == 1:
            return (candidates[0],)
        known = ("", "a:" + name) in self._ids
        node = self._node("", "a:" + name)
        if not known:
            self._edges[node].extend(dict.fromkeys(candidates))
        return (node,)

    def _affix(self, affix: str) -> int:
        """The node that stands for all attributes that start, or end, like this."""
        known = ("", "x:" + affix) in self._ids
        node = self._node("", "x:" + affix)
        if not known:
            if affix.endswith("*"):
                names, text = self._sorted(), affix[:-1]
            else:
                names, text = self._sorted_backwards(), affix[:0:-1]
            first = bisect_left(names, text)
            for name in names[first:]:
                if not name.startswith(text):
                    break
                original = name if affix.endswith("*") else name[::-1]
                self._edges[node].extend(self._by_name[original])
        return node

    def _sorted(self) -> list[str]:
        if not self._forwards:
            self._forwards = sorted(self._by_name)
        return self._forwards

    def _sorted_backwards(self) -> list[str]:
        if not self._backwards:
            self._backwards = sorted(name[::-1] for name in self._by_name)
        return self._backwards

    # --------------------------------------------------------------------- resolving

    def _resolve(self, path: str, name: str) -> tuple[int, ...]:
        """The nodes that a global name of a module stands for."""
        key = (path, name)
        known = self._names.get(key)
        if known is not None:
            return known
        if not self._enter(key):
            return ()
        around, self._outermost = self._outermost, _NOWHERE
        found = tuple(dict.fromkeys(self._lookup(path, name, ())))
        del self._visiting[key]
        if self._outermost >= len(self._visiting):
            self._names[key] = found
        self._outermost = min(around, self._outermost)
        return found

    def _enter(self, key: tuple[str, str]) -> bool:
        """Whether a name is not being looked up already, further out; then it is now."""
        depth = self._visiting.get(key)
        if depth is not None:
            self._outermost = min(self._outermost, depth)
            return False
        self._visiting[key] = len(self._visiting)
        return True

    def _resolve_chain(self, path: str, chain: str) -> tuple[int, ...]:
        key = (path, chain)
        known = self._names.get(key)
        if known is None:
            root, *rest = chain.split(".")
            known = self._names[key] = tuple(dict.fromkeys(self._lookup(path, root, rest)))
        return known

    def _lookup(self, path: str, name: str, rest: Sequence[str]) -> list[int]:
        """The nodes of ``name.rest`` at the top level of a module."""
        mentions = self._mentions.get(path)
        if mentions is None:
            return self._anywhere((name, *rest))
        found, bound = self._bound(path, mentions, name, rest)
        if bound or name in BUILTINS or _is_dunder(name):
            return found
        return [*found, self._node(path, "f:" + name), *self._anywhere((name, *rest))]

    def _bound(
        self, path: str, mentions: Mentions, name: str, rest: Sequence[str]
    ) -> tuple[list[int], bool]:
        """The nodes that a module's own bindings, or else its star imports, give a name; and
        whether any of them binds it. A module that is imported so and does not bind the name
        counts with the names that it does bind."""
        found: list[int] = []
        units = mentions.bindings.get(name, ())
        if units:
            found += (self._ids[path, unit] for unit in units if (path, unit) in self._ids)
            found += self._anywhere(rest)
        for item in mentions.aliases.get(name, ()):
            found += self._imported(path, item, rest)
        if units or name in mentions.aliases:
            return found, True
        bound = False
        for item in self._stars[path]:
            reference = self._linker.reference(path, item.level, item.module)
            if reference is None or reference.foreign or not reference.name:
                continue
            found.append(self._node(reference.name, "f:" + NAMES))
            starred = self._mentions.get(reference.name)
            if starred is None:
                found += self._anywhere((name, *rest))
            elif self._enter((reference.name, name)):
                if starred.opaque:
                    found.append(self._ids[reference.name, EVERYTHING])
                more, here = self._bound(reference.name, starred, name, rest)
                found += more
                bound |= here
                del self._visiting[reference.name, name]
        if self._stars[path]:
            found += self._anywhere(rest)
        return found, bound

    def _anywhere(self, names: Sequence[str]) -> list[int]:
        return [node for name in names for node in self._attribute(name)]

    def _imported(self, path: str, item: Import, rest: Sequence[str]) -> list[int]:
        """The nodes of ``bound.rest``, where an import binds ``bound``."""
        if item.name:
            reference = self._linker.reference(path, item.level, item.module)
            return self._walk(reference, [item.name, *rest])
        top = item.module.partition(".")[0]
        return self._walk(self._linker.reference(path, 0, top), list(rest))

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
        if not parts:
            # The module itself is handed on, and whoever gets it may ask for any name.
            return [self._node(reference.name, "f:" + NAMES)] if reference.name else []
        name, rest = parts[0], parts[1:]
        found: list[int] = []
        submodule = self._linker.submodule(reference, name)
        if submodule is not None:
            found += self._walk(submodule, rest)
        if not reference.name or reference.name not in self._mentions:
            return found
        mentions = self._mentions[reference.name]
        if mentions.opaque:
            return [*found, self._ids[reference.name, EVERYTHING]]
        key = (reference.name, ".".join(parts))
        if name in mentions.bindings or name in mentions.aliases:
            if self._enter(key):
                found += self._lookup(reference.name, name, rest)
                del self._visiting[key]
            return found
        if submodule is not None:
            return found
        if name == "__dict__":
            return [self._ids[reference.name, "f:" + NAMES]]
        if _is_dunder(name):
            return []
        if self._stars[reference.name] and self._enter(key):
            found += self._lookup(reference.name, name, rest)
            del self._visiting[key]
        found.append(self._node(reference.name, "f:" + name))
        if "__getattr__" in mentions.bindings:
            found += self._resolve(reference.name, "__getattr__")
            found += self._anywhere(parts)
        return found

    def _states(self, path: str, chain: str) -> Iterable[int]:
        """The nodes of the state that a call of, or a store into, something may change: the
        variable or class itself, or the variables that the called function mentions."""
        for node in (
            self._resolve_chain(path, chain) if "." in chain else self._resolve(path, chain)
        ):
            where, unit = self._nodes[node]
            if unit.startswith(("s:", "c:")):
                yield node
            elif unit.startswith("f:") and where in self._mentions:
                uses = self._mentions[where].uses.get(unit)
                if uses is None:
                    continue
                for name in (*uses.names, *(item.partition(".")[0] for item in uses.chains)):
                    for state in self._resolve(where, name):
                        if self._nodes[state][1].startswith("s:"):
                            yield state

    # ----------------------------------------------------------------------- closing

    def _close(self) -> list[int]:
        """For each node the mask of the functions that can be reached from it, itself included.

        Strongly connected components by Tarjan's algorithm, without recursion; components come
        out in an order in which those they lead to are done.
        """
        count = len(self._nodes)
        own = self._own = [0] * count
        functions = [
            (f"{path}::{unit[2:]}", node)
            for node, (path, unit) in enumerate(self._nodes)
            if path and unit.startswith("f:")
        ]
        # In order of their names, so that what a mask stands for comes out sorted.
        for name, node in sorted(functions):
            own[node] = bit = 1 << len(self._bits)
            self._bits.append(name)
            self._functions.append(node)
            path, unit = self._nodes[node]
            self._module_bits[path] = self._module_bits.get(path, 0) | bit
            mentions = self._mentions.get(path)
            if mentions is None or unit not in mentions.uses:
                self._unrunnable |= bit
            elif mentions.uses[unit].imports:
                self._importing |= bit
            if unit[2:].rpartition(".")[2].startswith("test"):
                self._tests |= bit
        for node in self._asking_nodes:
            self._asking |= own[node]
        beyond = len(self._bits)
        for node, (path, unit) in enumerate(self._nodes):
            if not path and unit.startswith("m:"):
                own[node] = bit = 1 << beyond
                beyond += 1
                where, _, acting = unit[2:].partition("\0")
                self._acting[bit] = (where, acting)
                self._all_acting |= bit
        masks = [0] * count
        order = [-1] * count
        low = [0] * count
        done = [False] * count
        stack: list[int] = []
        clock = 0
        for start in range(count):
            if order[start] >= 0:
                continue
            work = [(start, iter(self._edges[start]))]
            order[start] = low[start] = clock
            clock += 1
            stack.append(start)
            while work:
                node, edges = work[-1]
                for target in edges:
                    if order[target] < 0:
                        order[target] = low[target] = clock
                        clock += 1
                        stack.append(target)
                        work.append((target, iter(self._edges[target])))
                        break
                    if not done[target] and order[target] < low[node]:
                        low[node] = order[target]
                else:
                    work.pop()
                    if work and low[node] < low[work[-1][0]]:
                        low[work[-1][0]] = low[node]
                    if low[node] == order[node]:
                        self._finish(node, stack, own, masks, done)
        return masks

    def _finish(
        self, root: int, stack: list[int], own: list[int], masks: list[int], done: list[bool]
    ) -> None:
        """Completes the component on top of the stack."""
        position = len(stack) - 1
        while stack[position] != root:
            position -= 1
        component = stack[position:]
        del stack[position:]
        mask = 0
        for node in component:
            mask |= own[node]
            for target in self._edges[node]:
                if done[target]:
                    mask |= masks[target]
        for node in component:
            masks[node] = mask
            done[node] = True
