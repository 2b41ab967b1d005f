"""What a run may do with the cache, and how computations of one key relate."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


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
    """Which computations a whole run computes anew: all, or those whose identity contains a
    pattern. A value computed in this very run is fresh."""

    everything: bool = False
    pattern: str = ""

    @property
    def asked(self) -> bool:
        """Whether anything is to be computed anew."""
        return self.everything or bool(self.pattern)

    def covers(self, identity: str) -> bool:
        """Whether a computation of this identity is to be computed anew."""
        return self.everything or bool(self.pattern and self.pattern in identity)
