"""The process-wide state that hooks share: who listens, whether anyone does, who is muted.

Hooks are installed once per process and tell every armed listener, so that a pytest run inside
a pytest run is seen by both.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import CodeType, FrameType, ModuleType
from typing import Any, Protocol

from pytest_taskcache.model.dependency import Kind
from pytest_taskcache.observation.deeds import Deed


class Listener(Protocol):
    """Is told what happens in the process while armed. Paths are absolute; ``frame`` is that of
    the code that did it. May raise: the caller absorbs it."""

    @property
    def watching(self) -> bool:
        """Whether a window is open."""

    def on_read(self, kind: Kind, path: str, frame: FrameType | None) -> bool:
        """A path is about to be read, listed or looked at; False if nobody was credited."""

    def on_change(self, path: str, deed: Deed) -> None:
        """A path is about to be changed."""

    def on_move(self, source: str, target: str) -> None:
        """A path is about to be renamed."""

    def on_link(self, source: str, target: str) -> None:
        """``target`` is about to become a link to ``source``."""

    def on_database(self, path: str, frame: FrameType | None) -> None:
        """A database file is about to be connected to, for reading and writing."""

    def on_distributions(self, name: str, frame: FrameType | None) -> None:
        """An installed distribution's metadata is looked up; ``*`` for all."""

    def on_variable(self, name: str, frame: FrameType | None) -> bool:
        """An environment variable is about to be read; False if nobody was credited."""

    def on_environment(self, frame: FrameType | None) -> None:
        """The whole environment is about to be read."""

    def on_variable_change(self, name: str) -> None:
        """An environment variable is about to be set or deleted."""

    def on_opaque(self, kind: str, detail: str, frame: FrameType | None) -> None:
        """A deed that cannot be observed is about to be done."""

    def on_native(self, path: str, kind: str, frame: FrameType | None) -> None:
        """A shared library is about to be loaded."""

    def on_bind(self, sock: Any) -> None:
        """A socket is about to be bound."""

    def on_connect(self, sock: Any, address: object, frame: FrameType | None) -> None:
        """A socket is about to connect or send to an address."""

    def on_code(self, code: CodeType) -> None:
        """Code is about to be executed or made into a function."""

    def on_execution(self, code: CodeType, frame: FrameType | None) -> None:
        """A module's body is about to be executed; ``frame`` is the importer's."""

    def on_import_code(self, filename: str, code: CodeType) -> None:
        """Code runs while the module of this file is being executed."""

    def on_import_tried(self, name: str, frame: FrameType | None) -> None:
        """An import that is not in ``sys.modules`` was begun."""

    def on_import_asked(
        self, name: str, module: ModuleType | None, frame: FrameType | None
    ) -> None:
        """``importlib.import_module`` returned this module, or failed."""

    def on_unnamed_code(self, code: CodeType, frame: FrameType | None) -> None:
        """Code that may be in no file of the project is about to be executed."""

    def on_foreign_trace(self) -> None:
        """Someone else set a trace function."""

    def on_stir(self, path: str | None = None) -> None:
        """Something happened, to this path or anywhere, after which earlier digests may be
        wrong."""

    def on_fork(self) -> None:
        """This is a forked child; nothing is observed here any more."""


class _Mute(threading.local):
    depth = 0


_mute = _Mute()


@contextmanager
def muted() -> Iterator[None]:
    """What this thread does inside is credited to no window. Writes inside still make earlier
    digests stale."""
    _mute.depth += 1
    try:
        yield
    finally:
        _mute.depth -= 1


def is_muted() -> bool:
    """Whether this thread is muted, by `muted` or because it is inside a hook."""
    return _mute.depth > 0


class Switchboard:
    """The armed listeners.

    ``attentive`` is the one flag that hooks check first: true while a window is open or a module
    is being executed. ``seen`` holds what was credited to all that are listening now, absolute
    path or variable name by kind: seeing it again tells nothing new.
    """

    def __init__(self) -> None:
        self.listeners: tuple[Listener, ...] = ()
        self.attentive = False
        self.executing = False
        self.faults = 0
        self.seen: set[tuple[Kind, str]] = set()

    def update(self) -> None:
        """Recomputes ``attentive``; called when a window opens or closes, or a body begins."""
        self.seen = set()
        self.attentive = self.executing or any(one.watching for one in self.listeners)

    def tell(self, call: Callable[[Listener], bool | None]) -> bool:
        """Calls every listener with this thread muted; never raises. Whether none of them
        returned False, which means: not credited this time, tell again."""
        _mute.depth += 1
        try:
            return False not in [call(listener) for listener in self.listeners]
        except Exception:
            # A hook runs inside the user's own calls: whatever went wrong in it (a vanished
            # directory, a hostile path object) must not surface there. Counted, for reports.
            self.faults += 1
            return False
        finally:
            _mute.depth -= 1


board = Switchboard()
