"""What a run may do with the cache, and how computations of one key relate."""

from __future__ import annotations

import fnmatch
import functools
import re
from enum import StrEnum

from pytest_taskcache.dataclass import dataclass, field


class Mode(StrEnum):
    """What a run may do with the cache: read and write, read only, write only, nothing."""

    READ_WRITE = "rw"
    READ = "r"
    WRITE = "w"
    OFF = "off"


class IsolationLevel(StrEnum):
    """How concurrent computations of one key relate.

    ``READ_COMMITTED``: readers see the latest committed record, or their own run's staged
    value; several may compute at once. ``SERIALIZABLE``: one computes, the others wait for it;
    needs a lock manager. ``AUTO``: SERIALIZABLE where pytest-xdist runs several workers,
    READ_COMMITTED elsewhere.
    """

    AUTO = "AUTO"
    READ_COMMITTED = "READ_COMMITTED"
    SERIALIZABLE = "SERIALIZABLE"


@dataclass(frozen=True, slots=True)
class Refresh:
    """Which computations a whole run computes anew: all, or those that a pattern names. A value
    computed in this very run is fresh.

    ``pattern`` holds patterns, separated by commas (outside of brackets) or newlines: a part of
    an identity (``file::qualified.name``; a test's is its node id), or a glob that matches all of
    it, its file or its name. ``matched`` collects those that named something.
    """

    everything: bool = False
    pattern: str = ""
    matched: set[str] = field(default_factory=set, compare=False, repr=False)

    @property
    def asked(self) -> bool:
        """Whether anything is to be computed anew."""
        return self.everything or bool(self.patterns)

    @property
    def patterns(self) -> tuple[str, ...]:
        """Each pattern by itself."""
        return _patterns(self.pattern)

    @property
    def unmatched(self) -> tuple[str, ...]:
        """The patterns that named nothing so far."""
        return tuple(each for each in self.patterns if each not in self.matched)

    def covers(self, identity: str) -> bool:
        """Whether a computation of this identity is to be computed anew."""
        named = [each for each in self.patterns if _names(each, identity)]
        self.matched.update(named)
        return self.everything or bool(named)


@functools.cache
def _patterns(text: str) -> tuple[str, ...]:
    separate = re.split(r"\n|,(?![^\[]*\])", text)
    return tuple(each.strip() for each in separate if each.strip())


def _names(pattern: str, identity: str) -> bool:
    file, _, name = identity.partition("::")
    # A node id's brackets are its parameters, no glob's.
    glob = pattern.replace("[", "[[]")
    return pattern in identity or any(
        fnmatch.fnmatchcase(each, glob) for each in (identity, file, name)
    )
