"""Where code that ran is noted, shared by all windows that are open at the time.

Whenever a window opens, a new segment begins; each open window keeps a reference to every
segment of its time. Nothing is copied and no event takes a lock; an event that another thread
is just about to note still arrives in a segment that all windows of its moment hold.
"""

from __future__ import annotations

import threading
from types import CodeType

_FOLD = 64

Segment = dict[int, CodeType]
"""Code objects by `identity`: as keys, those of two files would collapse, since they compare
equal when their text and position do."""

identity = object.__hash__
"""A number that two living objects never share; unlike ``id`` it raises no audit event."""


class CodeLog:
    """The code that ran during one window."""

    def __init__(self) -> None:
        self._segments: list[Segment] = []

    def add_segment(self, segment: Segment) -> None:
        """From now on what this segment gets is ours too."""
        if len(self._segments) >= _FOLD:
            # The two youngest stay apart: a thread may be about to add to them.
            self._segments = [_merged(self._segments[:-2]), *self._segments[-2:]]
        self._segments.append(segment)

    def codes(self) -> list[CodeType]:
        """The distinct code objects."""
        return list(_merged(self._segments).values())


def _merged(segments: list[Segment]) -> Segment:
    found: Segment = {}
    for segment in segments:
        found.update(segment)
    return found


class Segments:
    """The current segment, None while no window is open; and ``between`` windows another."""

    def __init__(self) -> None:
        self.current: Segment | None = None
        self.between: Segment = {}
        self._logs: tuple[CodeLog, ...] = ()
        self._lock = threading.Lock()
        self._unread: list[Segment] = []
        self._ran: Segment = {}

    def open(self, log: CodeLog) -> None:
        """Starts a segment for this log and all that are open."""
        with self._lock:
            self._logs = (*self._logs, log)
            fresh: Segment = {}
            for each in self._logs:
                each.add_segment(fresh)
            self._unread.append(fresh)
            if len(self._unread) > _FOLD:
                self._read()
            self.current = fresh

    def close(self, log: CodeLog) -> None:
        """Ends this log; the others go on."""
        with self._lock:
            self._logs = tuple(each for each in self._logs if each is not log)
            if not self._logs:
                self.current = None

    def ran(self) -> Segment:
        """All code that was noted since the beginning, in windows and between them, in the order
        in which it was first told of."""
        with self._lock:
            self._read()
            return self._ran

    def _read(self) -> None:
        self._ran.update(self.between)
        for segment in self._unread:
            self._ran.update(segment)
        # The two youngest are read again: a thread may be about to add to them.
        del self._unread[:-2]

    def clear(self) -> None:
        """Forgets everything, e.g. in a forked child, where the lock may be held by nobody."""
        self._lock = threading.Lock()
        self._logs = ()
        self.current = None


segments = Segments()
