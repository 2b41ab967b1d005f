"""The ways a path can be changed, as far as they differ for what it held before."""

from __future__ import annotations

from enum import Enum


class Deed(Enum):
    """What is about to happen to a path."""

    REPLACE = "replace"
    """Created, or emptied and rewritten: nothing of it remains."""
    CREATE = "create"
    """Created, and refused where it exists already."""
    ALTER = "alter"
    """Changed in part: appended to, truncated, its mode or times set."""
    REMOVE = "remove"
    """Unlinked, file or directory."""
    MAKE = "make"
    """Made as a directory."""
