"""A cache that is used without pytest."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from collections.abc import Iterable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

from pytest_taskcache.config.factory import Composed, Surroundings, compose
from pytest_taskcache.config.settings import Settings
from pytest_taskcache.dataclass import dataclass
from pytest_taskcache.digests.present import Present
from pytest_taskcache.digests.values.digest import digest_value
from pytest_taskcache.engine import active
from pytest_taskcache.engine.active import TransactionBlock, transaction
from pytest_taskcache.engine.cache import Engine
from pytest_taskcache.engine.computation import Options
from pytest_taskcache.errors import ConfigurationError
from pytest_taskcache.model.decision import Fault, Hit, Miss, Uncacheable
from pytest_taskcache.model.event import Computed, Decided, Event, Faulted
from pytest_taskcache.model.modes import IsolationLevel, Mode, Refresh
from pytest_taskcache.observation.observatory import Observatory
from pytest_taskcache.ports import Observer
from pytest_taskcache.transactions.transaction import CommitMode


@dataclass(frozen=True, slots=True)
class CacheStatistics:
    """What happened since a cache was opened.

    ``hits``, ``misses``, ``uncacheable`` and ``failed`` are look-ups by decision; ``kept``
    counts computed values that were stored or staged, ``faults`` all that went wrong and was
    survived, ``saved`` the seconds that the hits took when they were computed.
    """

    hits: int = 0
    misses: int = 0
    uncacheable: int = 0
    failed: int = 0
    kept: int = 0
    faults: int = 0
    saved: float = 0.0


class _Counting:
    """An observer that counts. In plain attributes: it is told of every hit."""

    def __init__(self) -> None:
        self.decided = {Hit: 0, Miss: 0, Uncacheable: 0, Fault: 0}
        self.kept = 0
        self.faults = 0
        self.saved = 0.0
        self._lock = threading.Lock()

    def notify(self, event: Event) -> None:
        """As Observer.notify."""
        with self._lock:
            if isinstance(event, Decided):
                self.decided[type(event.decision)] += 1
                self.saved += event.saved
            elif isinstance(event, Computed):
                self.kept += event.staged
            elif isinstance(event, Faulted):
                self.faults += 1


class Cache:
    """A cache that is used without pytest: ``with Cache(path) as cache: ...``.

    While it is open, functions decorated with `cached` are answered from it, in every thread.
    Without a path it lives in a temporary directory and ends with the block. It may be opened
    again once it is closed. ``root`` is the directory that names in traces are relative to
    (default: the current one); the further arguments are those of the ini settings.

    Raises ConfigurationError, or StorageError where the directory cannot be used.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        root: str | os.PathLike[str] | None = None,
        mode: Mode | str = Mode.READ_WRITE,
        isolation: IsolationLevel | str = IsolationLevel.READ_COMMITTED,
        lock_manager: str = "",
        max_size: int = 5_000_000_000,
        storage: str = "",
        refresh: bool | str = False,
        serializer: str = "",
        expiration: timedelta | None = None,
        commit: CommitMode | str | None = None,
        observers: Iterable[Observer] = (),
    ) -> None:
        self._path = Path(path) if path is not None else None
        self._root = Path(root) if root is not None else None
        try:
            self._settings = Settings(
                mode=Mode(mode),
                isolation=IsolationLevel(str(isolation).upper()),
                lock_manager=lock_manager,
                max_size=max_size,
                storage=storage,
                serializer=serializer,
                expiration=expiration,
                commit=None if commit is None else CommitMode.parse(commit),
                refresh=Refresh(pattern=refresh) if isinstance(refresh, str) else Refresh(refresh),
            )
        except ValueError as error:
            raise ConfigurationError(
                "Cache(...)", str(error), "see Mode and IsolationLevel for what there is"
            ) from None
        Options(serializer=serializer or None, expiration=expiration)  # refused where written
        self._observers = tuple(observers)
        self._counting = _Counting()
        self._composed: Composed | None = None
        self._temporary: tempfile.TemporaryDirectory[str] | None = None

    @property
    def engine(self) -> Engine:
        """The engine of the open cache. Raises ConfigurationError while it is closed."""
        return self._opened().engine

    def transaction(
        self, commit_mode: CommitMode | str = CommitMode.LAZY, **options: Any
    ) -> TransactionBlock:
        """As `transaction`, for this cache. Raises ConfigurationError while it is closed."""
        self._opened()
        return transaction(commit_mode, **options)

    def clear(self) -> None:
        """Forgets everything that is stored locally, but for what transactions that are open
        have staged. Raises StorageError, and ConfigurationError while it is closed."""
        self._opened().local.clear()

    def statistics(self) -> CacheStatistics:
        """What happened since it was opened, or between its last opening and closing."""
        counted = self._counting
        hits, misses, uncacheable, failed = counted.decided.values()
        return CacheStatistics(
            hits, misses, uncacheable, failed, counted.kept, counted.faults, counted.saved
        )

    def _opened(self) -> Composed:
        if self._composed is None:
            raise ConfigurationError("Cache", "it is not open", "use it as `with cache:`")
        return self._composed

    def _provide(self) -> Engine | None:
        return self._composed.engine if self._composed is not None else None

    def __enter__(self) -> Cache:
        if self._composed is not None:
            raise ConfigurationError("Cache", "it is open already", "make another one to nest them")
        temporary = tempfile.TemporaryDirectory(prefix="taskcache-")
        scratch = Path(temporary.name).resolve()
        directory = self._path if self._path is not None else scratch / "cache"
        root = (self._root or Path.cwd()).resolve()
        directory = directory.absolute()
        fingerprints = Present(root, temporary=scratch, ignore=[directory])
        observatory = Observatory(fingerprints, scratch=[scratch], own=[directory])
        surroundings = Surroundings(
            root,
            directory,
            fingerprints,
            observatory,
            temporary=lambda: scratch,
            scratch=lambda: Path(tempfile.mkdtemp(dir=scratch)),
        )
        self._counting = _Counting()
        observatory.arm()
        observatory.begin_late(partial(digest_value, anchors=fingerprints.name_of))
        try:
            observers = (self._counting, *self._observers)
            self._composed = compose(self._settings, surroundings, observers)
        except BaseException:
            observatory.disarm()
            temporary.cleanup()
            raise
        self._temporary = temporary
        active.activate(self._provide)
        return self

    def __exit__(self, *_: object) -> None:
        composed, temporary = self._composed, self._temporary
        self._composed = self._temporary = None
        if composed is None or temporary is None:
            return
        active.deactivate(self._provide)
        composed.finish()
        composed.surroundings.observatory.disarm()
        if composed.engine.is_forked():
            temporary._finalizer.detach()  # type: ignore[attr-defined] # the parent's to remove
            return
        shutil.rmtree(temporary.name, ignore_errors=True)
        temporary.cleanup()
