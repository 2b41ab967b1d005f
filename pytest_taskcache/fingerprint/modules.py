"""Parsed source files by name, each parsed once, and kept between sessions by its content."""

from __future__ import annotations

import json
import os
import stat as stats
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_taskcache.checksum import checksum_bytes
from pytest_taskcache.digests.values.collecting import uncollected
from pytest_taskcache.fingerprint.mentions import ClassShape, Import, Mentions, Uses
from pytest_taskcache.fingerprint.skeleton import Digests, Module, parse_module, unparsed_module
from pytest_taskcache.model.dependency import ABSENT

if TYPE_CHECKING:
    from pytest_taskcache.ports import Shelf

FORMAT = 5
"""Raised whenever digests or mentions of the same source come out differently."""

DIGESTS = f"skeletons-{sys.implementation.cache_tag}-{FORMAT}"
MENTIONS = f"mentions-{sys.implementation.cache_tag}-{FORMAT}"

LARGEST = 16 << 20
"""Bytes above which a source file is not parsed but counts as a whole."""


class Modules:
    """The modules of the project. ``parses`` counts the files that had to be parsed.

    ``content`` returns the content digest of a path. What is found stands until ``forget``.
    """

    def __init__(
        self,
        shelf: Shelf | None,
        path_of: Callable[[str], Path],
        content: Callable[[Path], str],
    ) -> None:
        self.parses = 0
        self._shelf = shelf
        self._path_of = path_of
        self._content = content
        self._current: dict[str, str] = {}
        self._digests: dict[str, tuple[str, Digests]] = {}
        self._mentions: dict[str, tuple[str, Mentions]] = {}
        self._kept: dict[str, Mapping[str, bytes]] = {}
        self._fresh: dict[str, tuple[str, Module]] = {}

    def forget(self) -> None:
        """Files may have changed; what is known of their contents stays."""
        self._current.clear()

    def keep_on(self, shelf: Shelf) -> None:
        """Keeps facts on this shelf from now on, and finds those that are there."""
        self._shelf = shelf
        self._kept.clear()

    def content(self, name: str) -> str:
        """The content digest of a module's file."""
        found = self._current.get(name)
        if found is None:
            found = self._current[name] = self._content(self._path_of(name))
        return found

    def digests(self, name: str) -> Digests | None:
        """The digests of a module; None where there is no such file."""
        content = self.content(name)
        if content == ABSENT:
            return None
        known = self._digests.get(name)
        if known is None or known[0] != content:
            kept = self._read(DIGESTS, name, content)
            digests = None if kept is None else _digests_from(kept)
            if digests is None:
                return self._parse(name, content).digests
            known = self._digests[name] = (content, digests)
        return known[1]

    def mentions(self, name: str) -> Mentions:
        """What a module mentions; nothing where there is no such file."""
        content = self.content(name)
        if content == ABSENT:
            return Mentions()
        known = self._mentions.get(name)
        if known is None or known[0] != content:
            kept = self._read(MENTIONS, name, content)
            mentions = None if kept is None else _mentions_from(kept)
            if mentions is None:
                return self._parse(name, content).mentions
            known = self._mentions[name] = (content, mentions)
        return known[1]

    def _parse(self, name: str, content: str) -> Module:
        path = self._path_of(name)
        source = _source_of(path)
        if source is None:
            module = unparsed_module(b"", content)
        else:
            self.parses += 1
            with uncollected():
                module = parse_module(source)
            if checksum_bytes(source) == content:
                self._fresh[name] = (content, module)
            elif self._content(path) != content:
                # It changed in between: the digest must not stand for the older content.
                self._current[name] = content = self._content(path)
        self._digests[name] = (content, module.digests)
        self._mentions[name] = (content, module.mentions)
        return module

    def _read(self, section: str, name: str, content: str) -> list[Any] | None:
        """The kept facts about a module of this content."""
        if self._shelf is None:
            return None
        items = self._kept.get(section)
        if items is None:
            items = self._kept[section] = self._shelf.read(section)
        data = items.get(name)
        if data is None:
            return None
        for_content, _, rest = data.partition(b"\n")
        check, _, packed = rest.partition(b"\n")
        if for_content != content.encode() or check != checksum_bytes(packed).encode():
            return None
        try:
            facts = json.loads(packed)
        except ValueError:
            return None
        return facts if isinstance(facts, list) else None

    def save(self) -> None:
        """Puts what was newly parsed on the shelf, one write a section."""
        if self._shelf is None or not self._fresh:
            return
        fresh, self._fresh = self._fresh, {}
        self._shelf.write(
            DIGESTS,
            {
                name: _packed(content, list(module.digests))
                for name, (content, module) in fresh.items()
            },
        )
        self._shelf.write(
            MENTIONS,
            {
                name: _packed(content, _mentions_facts(module.mentions))
                for name, (content, module) in fresh.items()
            },
        )


def _source_of(path: Path) -> bytes | None:
    """The bytes of a source file; None where it is no readable regular file of a sane size."""
    try:
        found = os.stat(path)
        if not stats.S_ISREG(found.st_mode) or found.st_size > LARGEST:
            return None
        return path.read_bytes()
    except (OSError, ValueError):
        return None


def _packed(content: str, facts: list[Any]) -> bytes:
    """Facts with the content they are of and a checksum: a wrong one would make hits stale."""
    packed = json.dumps(facts, separators=(",", ":")).encode()
    return b"\n".join((content.encode(), checksum_bytes(packed).encode(), packed))


def _digests_from(facts: list[Any]) -> Digests | None:
    try:
        skeleton, tree, names, functions, interfaces, whole = facts
        return Digests(skeleton, tree, names, dict(functions), dict(interfaces), bool(whole))
    except (TypeError, ValueError):
        return None


def _mentions_facts(mentions: Mentions) -> list[Any]:
    return [
        {
            unit: [getattr(uses, name) for name in Uses.__slots__]
            for unit, uses in mentions.uses.items()
        },
        mentions.bindings,
        mentions.aliases,
        mentions.classes,
        mentions.effects,
        mentions.decorated,
        mentions.imports,
        mentions.opaque,
    ]


def _mentions_from(facts: list[Any]) -> Mentions | None:
    try:
        uses, bindings, aliases, classes, effects, decorated, imports, opaque = facts
        return Mentions(
            {unit: _uses_from(parts) for unit, parts in uses.items()},
            {name: tuple(units) for name, units in bindings.items()},
            {name: _imports_from(found) for name, found in aliases.items()},
            {name: ClassShape(*map(tuple, shape)) for name, shape in classes.items()},
            tuple((chain, unit) for chain, unit in effects),
            tuple(decorated),
            _imports_from(imports),
            bool(opaque),
        )
    except (TypeError, ValueError, AttributeError):
        return None


def _uses_from(parts: list[Any]) -> Uses:
    names, chains, attributes, affixes, parameters, imports, own, checked = parts
    return Uses(
        tuple(names),
        tuple(chains),
        tuple(attributes),
        tuple(affixes),
        tuple(parameters),
        _imports_from(imports),
        tuple(own),
        tuple(checked),
    )


def _imports_from(parts: list[Any]) -> tuple[Import, ...]:
    return tuple(Import(*item) for item in parts)
