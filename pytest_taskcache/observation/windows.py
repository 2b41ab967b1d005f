"""One open observation of one computation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from types import CodeType

from pytest_taskcache.model.dependency import Dependency, Observed, Opaque, Trace
from pytest_taskcache.observation.network import Listeners
from pytest_taskcache.observation.segments import CodeLog
from pytest_taskcache.observation.sightings import Sightings


class OpenWindow:
    """Collects until it is closed; see `ports.Window`.

    ``complete`` is false once code may have run unseen: then all functions of the modules
    count. ``running`` is the first-party code that other threads ran when it was opened.
    """

    def __init__(
        self,
        sightings: Sightings,
        subject: str | None,
        end: Callable[[OpenWindow], None],
        settle: Callable[[OpenWindow], Observed],
        inherit: Callable[[OpenWindow, Sequence[Dependency]], Sequence[Dependency]],
    ) -> None:
        self.sightings = sightings
        self.subject = subject
        self.complete = True
        self.log = CodeLog()
        self.running: list[CodeType] = []
        self.listeners = Listeners()
        self.absorbed: list[Sequence[Dependency]] = []
        self.upstream: set[str] = set()
        self._end = end
        self._settle = settle
        self._inherit = inherit
        self._observed: Observed | None = None

    def absorb(self, trace: Trace) -> None:
        """Adds what a reused value rests on, with the digests as stored.

        Left out is what this computation brought about itself: files that it wrote, variables
        that it set.
        """
        if trace.digest not in self.upstream:
            self.upstream.add(trace.digest)
            self.absorbed.append(self._inherit(self, trace.dependencies))

    def absorb_observed(self, observed: Observed) -> None:
        """Adds all that a shared computation (a fixture of wider scope) was seen to touch."""
        self.absorb(observed.trace)
        self.absorb_opaque(observed.opaque)
        for reason in observed.untrusted:
            self.sightings.untrusted[reason] = None

    def absorb_opaque(self, opaque: Iterable[Opaque]) -> None:
        """Adds deeds that a reused value rests on."""
        for deed in opaque:
            self.sightings.deed(deed)

    def forgive(self, other: OpenWindow) -> None:
        """As ports.Window.forgive."""
        self.sightings.forgive(other.sightings)

    def opaque_so_far(self) -> int:
        """As ports.Window.opaque_so_far."""
        return sum(self.sightings.opaque.values())

    def close(self) -> Observed:
        """Ends the window; what it saw. Never raises; asked again, gives the same."""
        if self._observed is None:
            try:
                self._end(self)
                self._observed = self._settle(self)
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
