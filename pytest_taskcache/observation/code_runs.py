"""Where code that runs is noted, shared by all windows that are open at the time.

    noted:      [a b c]   [b d]        [d e]
    windows:              |-- one ------------|
                                       |-two -|

Whenever a window opens a new piece begins; each open window keeps every piece of its time, and
the pieces in order tell what ran first in the process. Nothing is copied and no event takes a
lock; an event that another thread is about to note still arrives in a piece that all windows of
its moment hold.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from types import CodeType

Piece = dict[int, CodeType]
"""Code objects by `identity`: as keys, those of two files would collapse, since they compare
equal when their text and position do."""

identity = object.__hash__
"""A number that two living objects never share; unlike ``id`` it raises no audit event."""


class CodeRuns:
    """The pieces; ``current`` is what events note code in."""

    def __init__(self) -> None:
        self.current: Piece = {}
        self._unread: list[Piece] = [self.current]
        self._open: tuple[list[Piece], ...] = ()
        self._lock = threading.Lock()

    @property
    def watched(self) -> bool:
        """Whether a window is open."""
        return bool(self._open)

    def begin(self) -> list[Piece]:
        """The pieces of a window that opens, which grow until `end`."""
        with self._lock:
            fresh: Piece = {}
            pieces = [fresh]
            self._open = (*self._open, pieces)
            for each in self._open[:-1]:
                each.append(fresh)
            self._unread.append(fresh)
            self.current = fresh
            return pieces

    def end(self, pieces: list[Piece]) -> None:
        """A window closes; what runs from now on is noted in a piece that it does not hold."""
        with self._lock:
            self._open = tuple(each for each in self._open if each is not pieces)
            fresh: Piece = {}
            for each in self._open:
                each.append(fresh)
            self._unread.append(fresh)
            self.current = fresh

    def unread(self) -> Iterator[CodeType]:
        """What was noted since this was last asked, in order. The youngest pieces are read again
        the next time, because a thread may be about to add to them."""
        with self._lock:
            pieces = list(self._unread)
            del self._unread[:-2]
        for piece in pieces:
            yield from list(piece.values())

    def clear(self) -> None:
        """Forgets everything, e.g. in a forked child, where the lock may be held by nobody."""
        self.__init__()  # type: ignore[misc]  # a state as new is what is meant


code_runs = CodeRuns()
