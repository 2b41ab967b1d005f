"""The digests of a module, from what was collected of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pytest_taskcache.checksum import checksum
from pytest_taskcache.fingerprint.builtin_names import BUILTINS, NAMESPACE_READERS
from pytest_taskcache.fingerprint.inertness import is_inert
from pytest_taskcache.fingerprint.mentions import STAR
from pytest_taskcache.fingerprint.skeleton.collected import Collected
from pytest_taskcache.fingerprint.skeleton.parsed import Digests

_SPECIAL_PREFIXES = ("pytest_", "__")
_SPECIAL = frozenset(
    {
        "setup_module",
        "teardown_module",
        "setup_function",
        "teardown_function",
        "setUpModule",
        "tearDownModule",
        "load_tests",
        "setup",
        "teardown",
    }
)


def digests_of(found: Collected, text: Sequence[str]) -> Digests:
    """The digests of a module whose statements have this text, with marks (a zero character
    and a number) where its definitions are."""
    functions: dict[str, list[str]] = {}
    interfaces: dict[str, list[str]] = {}
    for item in found.definitions:
        functions.setdefault(item.qualname, []).append(item.digest)
        for name, digest in item.nested.items():
            functions.setdefault(name, []).append(digest)
        interfaces.setdefault(item.qualname, []).extend(item.interface)
    seen = {name: checksum(parts) for name, parts in interfaces.items()}
    names = sorted({*found.bindings, *found.aliases, *found.declared})
    return Digests(
        checksum(_skeleton(found, text, names)),
        checksum(_tree(found, text)),
        checksum(
            (
                *names,
                *(repr(item) for item in found.imports if item.name == STAR),
                *(part for item in sorted(seen.items()) for part in item),
            )
        ),
        {
            name: digests[0] if len(digests) == 1 else checksum(digests)
            for name, digests in functions.items()
        },
        seen,
    )


def _tree(found: Collected, text: Sequence[str]) -> Iterator[str]:
    """The text of all there is: each definition counts where it is, with all inside of it."""
    for part in text:
        if part.startswith("\0"):
            item = found.definitions[int(part[1:])]
            yield from ("\0", item.name, item.digest, *item.nested.values())
        else:
            yield part


def _skeleton(found: Collected, text: Sequence[str], names: Sequence[str]) -> Iterator[str]:
    """The text of what runs at import, which may notice some of the definitions."""
    top = found.counts[""]
    stars = found.has_stars
    at_import = _names_at_import(found)
    exposed = stars or bool(at_import & NAMESPACE_READERS)

    def is_settled(name: str) -> bool:
        return top[name] == 1 if name in top else name in BUILTINS and not stars

    for part in text:
        if not part.startswith("\0"):
            yield part
            continue
        item = found.definitions[int(part[1:])]
        if not is_inert(item.node, found.resolve, is_settled, found.lazy_hints):
            yield from ("\0", item.name, *item.interface)
        elif (
            not item.direct
            or found.counts[item.owner][item.name] > 1
            or item.name in at_import
            or (not item.owner and (exposed or _is_special(item.name)))
        ):
            yield from ("\0", item.name)
    if exposed:
        yield from names
    if not stars:
        # A new function could give a meaning to a name that had none. Where only functions
        # mention it, its absence is a dependency of theirs.
        yield "unbound"
        yield from sorted(
            name
            for name in at_import
            if name not in top and name not in BUILTINS and not name.startswith("__")
        )
        yield "declared"
        yield from sorted(found.declared - found.bindings.keys() - found.aliases.keys())


def _names_at_import(found: Collected) -> set[str]:
    """The names that importing the module may look up."""
    names: set[str] = set()
    for unit, uses in found.uses.items():
        if not unit.startswith("f:"):
            names.update(uses.names)
            names.update(name.partition(".")[0] for name in (*uses.chains, *uses.checked))
    for item in found.definitions:
        names.update(item.uses.names)
        names.update(chain.partition(".")[0] for chain in item.uses.chains)
    return names


def _is_special(name: str) -> bool:
    """Whether a function is found by its name alone, by Python, pytest or unittest."""
    return name in BUILTINS or name in _SPECIAL or name.startswith(_SPECIAL_PREFIXES)
