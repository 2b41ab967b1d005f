"""The definitions of a source file: their form, their text, and how two versions differ.

See `source_file` for how they are found, and for the rules behind what they mention.
"""

from __future__ import annotations

import json
import math
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Any, NamedTuple, TypeAlias

from pytest_taskcache.checksum import checksum
from pytest_taskcache.dataclass import dataclass

FORMAT = f"14 {sys.version_info[0]}.{sys.version_info[1]}"
"""Version of analyses: part of what they are kept under. Syntax trees differ between Pythons."""

ALL_NAMES = "*"
OWN_NAMES = "*own"
LISTED = "*listed"
MEMBERS = "*members"
ALL_MODULES = "*modules"
ANY_MODULE = "=*"
OF_CLASS = "%"
"""Begins an attribute of an object that lives no longer, unless the attribute is its class's."""
SET_ON = "+"
"""Begins a name of what an attribute is set on."""
KEPT = "!"
"""Begins a name of what is imported that something is set on or put into: its callers say what, if
it is the project's. Twice, a name of what nobody changes unless another module binds it too."""
PART = "/"
"""Begins a part of the name of a module that names are imported from."""
STAR = "*star"
EFFECTS = "#effects"
EVERYTHING = "#everything"
ORDER = "#order"

INSIDE = ".<locals>."

EXAMPLES = "<doctest> "
"""Begins the name of code that stands in no source file; the identifiers it mentions follow."""

GIVEN = "<given> "
"""The same, of the fixtures that a test had."""

MENTIONS = "<mentions> "
"""Begins the name of a node that tells what another one mentions besides what its source does; the
name of that one and the identifiers follow."""

SESSION_HOOKS = frozenset(
    {
        *("pytest_addoption", "pytest_addhooks", "pytest_configure", "pytest_plugin_registered"),
        *("pytest_sessionstart", "pytest_collection", "pytest_collection_modifyitems"),
        *("pytest_collection_finish", "pytest_runtestloop"),
    }
)
"""Hooks that are called once for all tests, in whichever conftest they are."""

TEARDOWN = "<teardown> "
"""Begins the name of a node after which something is torn down: the position of its set-up, and
one to tell it from others, follow. What happens until the next such node, or until one without a
position, is a matter of all who had been given what is torn down."""

IMPORTED = "<imported> "
"""Begins the name of a node that stands for a module that is not the project's, whose name follows:
what its body touches is a matter of all who import it."""

IN_NO_FUNCTION = frozenset({"<module>", "<lambda>"})
"""What code is called that a module's body runs, or may run: comprehensions, too."""


def definition_name(qualname: str) -> str:
    """The definition that a code object of this qualified name belongs to: the function around
    a lambda, a comprehension or the scope of type parameters; ``<module>`` for a module's own
    code, ``<lambda>`` for lambdas and comprehensions in no function."""
    if qualname.startswith((EXAMPLES, GIVEN, IMPORTED, MENTIONS, TEARDOWN)):
        return qualname
    kept: list[str] = []
    for part in qualname.split(INSIDE):
        if "<generic" in part:
            continue
        if "<" in part:
            return INSIDE.join(kept) or ("<module>" if part == "<module>" else "<lambda>")
        kept.append(part)
    return INSIDE.join(kept) or "<module>"


class DefinitionKind(StrEnum):
    """What a definition is."""

    FUNCTION = "function"
    STATEMENT = "statement"
    CLASS = "class"
    IMPORT = "import"


@dataclass(frozen=True, slots=True)
class Definition:
    """One definition of a file; see the worked example.

    ``digest`` is of the normalised syntax tree. ``binds``: identifiers by which others get at it.
    ``mentions``: identifiers it mentions. ``stores``: names and attributes that it assigns, and
    that outlive it; ``changes``: those whose objects it may change (by a method, an item, or by
    handing them on). ``effect``: an edit of it matters to all who import the module; ``acts``: so
    does an edit of what it mentions. ``implicit``: it applies without being mentioned.
    ``constant``: what it binds cannot be changed. ``wrapped``: something that may keep results is
    around it. ``hands``: what outlives a function that it returns, or a part of which it returns.
    ``takes``: its callers say what it stores in globals; ``called``: something outside of the
    project may call it. ``outward``: it is executed at import, or called once for all tests, for
    what it does to others.
    """

    name: str
    kind: DefinitionKind
    digest: str
    binds: tuple[str, ...] = ()
    mentions: frozenset[str] = frozenset()
    stores: frozenset[str] = frozenset()
    changes: frozenset[str] = frozenset()
    hands: frozenset[str] = frozenset()
    effect: bool = False
    acts: bool = False
    implicit: bool = False
    constant: bool = False
    wrapped: bool = False
    takes: bool = False
    called: bool = False
    outward: bool = False
    loads: bool = False

    @property
    def label(self) -> str:
        """Its name as people write it."""
        return self.name.rstrip("():=")

    @property
    def call_names(self) -> tuple[str, ...]:
        """The names by which what it hands out is had: its own, or its class's if it is a special
        method."""
        own = self.label.rpartition(".")[2]
        return self.binds if own.endswith("__") else tuple(own.split(","))


class Import(NamedTuple):
    """``from <level dots><module> import <names>``, or ``import <module>`` without names; ``*``
    is a star import."""

    level: int
    module: str
    names: tuple[str, ...]


_KINDS = {str(kind): kind for kind in DefinitionKind}
_FLAGS = (
    *("effect", "acts", "implicit", "constant", "wrapped", "takes", "called", "outward"),
    "loads",
)


@dataclass(frozen=True, slots=True)
class Analysis:
    """What one source file defines. One that cannot be parsed is a single definition.
    ``order``: which definition each part of the file belongs to that is executed at import, by
    index; ``~index`` for one that needs none of the others."""

    definitions: tuple[Definition, ...] = ()
    imports: tuple[Import, ...] = ()
    order: tuple[int, ...] = ()

    @property
    def by_name(self) -> Mapping[str, Definition]:
        """The definitions by name."""
        return {item.name: item for item in self.definitions}

    @property
    def digest(self) -> str:
        """The digest of all of the file but comments and formatting."""
        parts = [part for item in self.definitions for part in (item.name, item.digest)]
        return checksum([*parts, *map(str, self.order)])

    def to_text(self) -> str:
        """JSON, about as long as the source. Identifiers hold no blanks."""
        rows = [
            [
                *(item.name, item.kind, item.digest, " ".join(item.binds)),
                *(
                    " ".join(sorted(each))
                    for each in (item.mentions, item.stores, item.changes, item.hands)
                ),
                sum(getattr(item, name) << bit for bit, name in enumerate(_FLAGS)),
            ]
            for item in self.definitions
        ]
        found = [FORMAT, rows, self.imports, self.order]
        return json.dumps(found, separators=(",", ":"))

    @classmethod
    def from_text(cls, text: str) -> Analysis:
        """The inverse of `to_text`. Raises ValueError for anything else."""
        try:
            version, *rest = json.loads(text)
            if version != FORMAT:
                raise ValueError("analysis of another version")
            rows, imports, order = rest
            return cls(
                tuple(_definition(*row) for row in rows),
                tuple(Import(level, module, tuple(names)) for level, module, names in imports),
                tuple(map(int, order)),
            )
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"no analysis: {error!r}") from error


def _definition(name: str, kind: str, digest: str, *found: Any) -> Definition:
    binds, *sets = (map(sys.intern, each.split()) for each in found[:-1])
    mentions, stores, changes, hands = map(frozenset, sets)
    return Definition(
        name,
        _KINDS[kind],  # ten times as fast as asking the class
        digest,
        tuple(binds),
        mentions,
        stores,
        changes,
        hands,
        *(bool(found[-1] >> bit & 1) for bit in range(len(_FLAGS))),
    )


class Changed(NamedTuple):
    """One definition that differs: as it was, and as it is (None where it is not there)."""

    before: Definition | None
    after: Definition | None

    @property
    def name(self) -> str:
        """Its name, which both have."""
        found = self.before or self.after
        assert found is not None
        return found.name

    def __str__(self) -> str:
        found = self.before or self.after
        assert found is not None
        verb = "changed"
        if self.before is None or self.after is None:
            verb = "vanished" if self.before else "appeared"
        return f"{found.label} {verb}"


Changes: TypeAlias = Sequence[Changed]
"""How two versions of a file differ."""


def everything(digest: str) -> Definition:
    """All of a file that is not known by its parts."""
    every = frozenset({ALL_NAMES})
    return Definition(
        EVERYTHING,
        DefinitionKind.STATEMENT,
        digest,
        binds=(ALL_NAMES,),
        mentions=every,
        stores=every,
        effect=True,
        acts=True,
    )


def diff(old: Analysis, new: Analysis) -> Changes:
    """The definitions that differ."""
    before, after = old.by_name, new.by_name
    found = [
        Changed(item, after.get(name))
        for name, item in before.items()
        if name not in after or not _same(item, after[name])
    ]
    found += (Changed(None, item) for name, item in after.items() if name not in before)
    for name in _moved(old, new):
        place = Definition(name, DefinitionKind.STATEMENT, "")
        found.append(Changed(before.get(name, place), after.get(name, place)))
    return found


def _same(one: Definition, two: Definition) -> bool:
    # The meaning of a name may change though the text does not: an import of it, a global.
    return one.digest == two.digest and one.mentions == two.mentions and one.stores == two.stores


def _moved(old: Analysis, new: Analysis) -> Iterable[str]:
    """The definitions that come before another instead of after it, where one of the two may need
    the other (fields of a dataclass, an assignment and what reads it), or both are in one class.
    `ORDER` stands for that there are any, which is seen by whoever looks at all of a module."""
    before, after = ([one.definitions[max(i, ~i)].name for i in one.order] for one in (old, new))
    counts = Counter(before)
    counts.subtract(Counter(after))
    before, after = ([name for name in each if not counts[name]] for each in (before, after))
    differing = [at for at, pair in enumerate(zip(before, after, strict=True)) if len({*pair}) > 1]
    if not differing:
        return ()
    needing = {one.definitions[i].name for one in (old, new) for i in one.order if i >= 0}
    part = slice(differing[0], differing[-1] + 1)
    places = {each: at for at, each in enumerate(_numbered(after[part]))}
    found = [(name, places[name, number]) for name, number in _numbered(before[part])]
    moved = {ORDER, *_passed(found, lambda name: name in needing)}
    moved |= needing.intersection(_passed(found, lambda name: True))
    for scope in {name.rpartition(".")[0] for name, _ in found} - {""}:
        inside = [each for each in found if each[0].rpartition(".")[0] == scope]
        moved.update(_passed(inside, lambda name: True))
    return sorted(moved)


def _passed(found: Sequence[tuple[str, int]], among: Callable[[str], bool]) -> Iterator[str]:
    """Which names, each with its new place, came before any of those ``among`` and come after it
    now, or the other way round."""
    for part, sign in ((found, 1), (found[::-1], -1)):
        furthest = -math.inf
        for name, place in part:
            if furthest > sign * place:
                yield name
            if among(name):
                furthest = max(furthest, sign * place)


def _numbered(names: Iterable[str]) -> Iterator[tuple[str, int]]:
    """Each name with how often it was there before."""
    seen: Counter[str] = Counter()
    for name in names:
        yield name, seen[name]
        seen[name] += 1
