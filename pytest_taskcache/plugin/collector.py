"""Keeps the garbage collector from walking what was made before the tests, as long as none of
the project's own code runs that could tell."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

_AT_START = gc.get_freeze_count()
"""Python 3.12 itself begins with some hundred frozen objects."""


class Collector:
    """Of a warm run of many tests the collector takes a quarter: each full collection walks all
    items and records again, and frees nothing."""

    def __init__(self) -> None:
        self._frozen = False

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Nothing is collected inside."""
        collecting = gc.isenabled()
        gc.disable()
        try:
            yield
        finally:
            if collecting:
                gc.enable()

    def freeze(self) -> None:
        """What is there now is not walked until `thaw`; unless someone else did that before."""
        if gc.get_freeze_count() == _AT_START:
            gc.freeze()
            self._frozen = True

    def thaw(self) -> None:
        """Before a test's body, or a fixture's, runs: everything is walked as ever."""
        if self._frozen:
            self._frozen = False
            gc.unfreeze()
