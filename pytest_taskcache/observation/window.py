"""One open observation of one computation."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from types import CodeType

from pytest_taskcache.model.dependency import Blob, Dependency, Observed, Opaque, Trace
from pytest_taskcache.observation.access_log import AccessLog
from pytest_taskcache.observation.hooks.opaque import Listeners
from pytest_taskcache.observation.running_code import Piece


class OpenWindow:
    """Collects until it is closed; see `ports.Window`.

    ``complete`` is false once code may have run unseen: then all functions of the modules
    count. ``running`` is the code that other threads ran when it was opened, ``subject`` the
    file of what is about to run.
    """

    def __init__(
        self,
        access: AccessLog,
        subject: str | None,
        end: Callable[[OpenWindow], None],
        record: Callable[[OpenWindow], Observed],
        inherited: Callable[[AccessLog, Sequence[Dependency]], Sequence[Dependency]],
    ) -> None:
        self.access = access
        self.subject = subject
        self.complete = True
        self.pieces: list[Piece] = []
        self.running: list[CodeType] = []
        self.listeners = Listeners()
        self.absorbed: dict[str, Sequence[Dependency]] = {}
        self.uses: dict[Blob, None] = {}
        self._inherited = inherited
        self._end = end
        self._record = record
        self._observed: Observed | None = None

    def acts(self) -> Collection[Opaque]:
        """As ports.Window.acts."""
        return tuple(self.access.opaque)

    def opaque_so_far(self) -> int:
        """As ports.Window.opaque_so_far."""
        return sum(self.access.opaque.values())

    def absorb(self, trace: Trace) -> None:
        """Adds what a reused value rests on, with the digests as stored.

        Left out is what this computation brought about itself: files that it wrote, variables
        that it set.
        """
        if trace.digest not in self.absorbed:
            self.absorbed[trace.digest] = self._inherited(self.access, trace.dependencies)
            self.uses.update(dict.fromkeys(trace.uses))

    def absorb_opaque(self, opaque: Iterable[Opaque]) -> None:
        """Adds acts that a reused value rests on."""
        for act in opaque:
            self.access.act(act)

    def forgive(self, other: OpenWindow) -> None:
        """As ports.Window.forgive."""
        self.access.forgive(other.access)

    def close(self) -> Observed:
        """Ends the window; what it saw. Never raises; asked again, gives the same."""
        if self._observed is None:
            try:
                self._end(self)
                self._observed = self._record(self)
            except Exception as error:
                # The computation is done and its value is right: only its trace is lost, and
                # with it the right to be stored.
                reason = f"observation failed: {type(error).__name__}: {error}"
                self._observed = Observed(untrusted=(reason,))
        return self._observed

    def discard(self) -> None:
        """As ports.Window.discard."""
        if self._observed is None:
            self._observed = Observed(untrusted=("nobody asked what it saw",))
            self._end(self)
