"""What a bare attribute name may mean: anything in any module that is called so."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence

from pytest_taskcache.fingerprint.graph.special_names import comes_with_class
from pytest_taskcache.fingerprint.graph.web import Web
from pytest_taskcache.fingerprint.mentions import Mentions
from pytest_taskcache.fingerprint.qualnames import INSIDE, NAMES


class Attributes:
    """The functions, classes and variables of a set of modules by the last part of their names.

    The nodes of all units are made here; those that stand for all of one name when it is first
    asked for.
    """

    def __init__(self, mentions: Mapping[str, Mentions], web: Web) -> None:
        self._web = web
        self._by_name: dict[str, list[int]] = {}
        self._forwards: list[str] = []
        self._backwards: list[str] = []
        for path, each in mentions.items():
            self._index(path, each)

    def _index(self, path: str, mentions: Mentions) -> None:
        web, by_name = self._web, self._by_name
        for unit in mentions.uses:
            node = web.node(path, unit)
            if unit.startswith("f:"):
                owner, _, last = unit[2:].rpartition(".")
                if INSIDE in owner:
                    continue
                if not owner or not comes_with_class(last):
                    by_name.setdefault(last, []).append(node)
            elif unit.startswith("c:"):
                by_name.setdefault(unit[2:].rpartition(".")[2], []).append(node)
        for name, units in mentions.bindings.items():
            by_name.setdefault(name, []).extend(
                web.ids[path, unit] for unit in units if unit.startswith("s:")
            )
        for name, shape in mentions.classes.items():
            for attribute in shape.attributes:
                if not comes_with_class(attribute):
                    by_name.setdefault(attribute, []).append(web.node(path, "b:" + name))
        web.node(path, "f:" + NAMES)

    def named(self, name: str) -> tuple[int, ...]:
        """The node that stands for an attribute of this name on anything; none where nothing is
        called so."""
        candidates = self._by_name.get(name)
        if not candidates:
            return ()
        if len(candidates) == 1:
            return (candidates[0],)
        web = self._web
        known = web.ids.get(("", "a:" + name))
        if known is None:
            known = web.node("", "a:" + name)
            web.edges[known].extend(dict.fromkeys(candidates))
        return (known,)

    def all_named(self, names: Sequence[str]) -> list[int]:
        """The nodes that stand for attributes of any of these names."""
        return [node for name in names for node in self.named(name)]

    def affixed(self, affix: str) -> int:
        """The node that stands for all attributes that start, or end, like this."""
        web = self._web
        known = web.ids.get(("", "x:" + affix))
        if known is None:
            known = web.node("", "x:" + affix)
            for name in self._with_affix(affix):
                web.edges[known].extend(self._by_name[name])
        return known

    def _with_affix(self, affix: str) -> list[str]:
        if affix.endswith("*"):
            if not self._forwards:
                self._forwards = sorted(self._by_name)
            return _starting_with(affix[:-1], self._forwards)
        if not self._backwards:
            self._backwards = sorted(name[::-1] for name in self._by_name)
        return [name[::-1] for name in _starting_with(affix[:0:-1], self._backwards)]


def _starting_with(text: str, names: Sequence[str]) -> list[str]:
    """Those of sorted names that start with a text."""
    found: list[str] = []
    for name in names[bisect_left(names, text) :]:
        if not name.startswith(text):
            break
        found.append(name)
    return found
