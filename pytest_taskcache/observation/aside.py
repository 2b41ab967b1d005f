"""Work that a thread does for the cache, and for no computation."""

from __future__ import annotations

import threading


class Aside(threading.local):
    """A context in which this thread's reads and deeds are credited to no open window.

    Other than `switchboard.muted` it leaves imports their own records, since a module that is
    first imported to decode a value is used by others later, and it leaves writes to the windows,
    since what is restored for a computation is not something it read. Reentrant.
    """

    depth = 0

    def __enter__(self) -> None:
        self.depth += 1

    def __exit__(self, *exception: object) -> None:
        self.depth -= 1
