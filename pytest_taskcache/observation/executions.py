"""Which module body a thread is executing: what runs meanwhile belongs to that import.

A body is noted when it is about to be executed (the audit event ``exec``). Nothing tells when
it ended, so each question walks the asking thread's frames and drops what is no longer there.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from types import CodeType, FrameType

from pytest_taskcache.observation.switchboard import board


class Executions:
    """Per thread, the bodies begun and perhaps not yet ended, outermost first."""

    def __init__(self) -> None:
        self._stacks: dict[int, list[CodeType]] = {}

    def begin(self, code: CodeType) -> None:
        """A module body is about to be executed by this thread."""
        self._stacks.setdefault(threading.get_ident(), []).append(code)
        board.executing = True
        board.update()

    def innermost(self, frame: FrameType | None) -> CodeType | None:
        """The body that this thread, now in ``frame``, is executing."""
        thread = threading.get_ident()
        stack = self._stacks.get(thread)
        return self._find(thread, stack, frame) if stack else None

    def prune(self, frames: Mapping[int, FrameType]) -> None:
        """Drops the bodies that ended, of all threads, given each thread's current frame."""
        for thread, stack in list(self._stacks.items()):
            self._find(thread, stack, frames.get(thread))

    def clear(self) -> None:
        """Forgets everything, e.g. in a forked child."""
        self._stacks.clear()
        board.executing = False

    def _find(self, thread: int, stack: list[CodeType], frame: FrameType | None) -> CodeType | None:
        while frame is not None:
            code = frame.f_code
            if code.co_name == "<module>":
                for index in range(len(stack) - 1, -1, -1):
                    if stack[index] is code:
                        del stack[index + 1 :]
                        return code
            frame = frame.f_back
        self._stacks.pop(thread, None)
        if not self._stacks:
            board.executing = False
            board.update()
        return None


executions = Executions()
