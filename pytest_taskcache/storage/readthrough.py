"""What was read from a further storage, on its way into the nearer ones."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Collection, Sequence
from pathlib import Path

from pytest_taskcache.errors import StorageError
from pytest_taskcache.model.record import Variant
from pytest_taskcache.ports import Storage
from pytest_taskcache.storage.pointers import results_of
from pytest_taskcache.storage.tally import Tally
from pytest_taskcache.storage.uploads import Uploads

_KEPT = 50_000


class ReadThrough:
    """Fills storages with the records that were read behind them, each once all of its results
    are there. Results are not fetched for that: they come when someone reads them.

    Those of ``targets`` are written to at once; what they hold goes on to ``uploads``. One that
    cannot be filled breaks no read; ``tally`` counts it.
    """

    def __init__(
        self, targets: Sequence[Storage], uploads: Sequence[Uploads], tally: Tally
    ) -> None:
        self._targets = tuple(targets)
        self._uploads = tuple(uploads)
        self._tally = tally
        self._lock = threading.Lock()
        self._missing: OrderedDict[str, tuple[Variant, set[str]]] = OrderedDict()
        self._waiting: dict[str, set[str]] = {}

    def add_records(self, variants: Sequence[Variant]) -> None:
        """Takes note of records; those that need no further result are filled in at once."""
        ready = []
        with self._lock:
            for variant in variants:
                missing = {digest for digest, _ in results_of(variant)}
                if not missing:
                    ready.append(variant)
                    continue
                self._missing[variant.id] = (variant, missing)
                for digest in missing:
                    self._waiting.setdefault(digest, set()).add(variant.id)
            while len(self._missing) > _KEPT:
                self._forget(next(iter(self._missing)))
        self._write(ready)

    def wants(self, digest: str) -> bool:
        """Whether a record waits for this result."""
        return digest in self._waiting

    def add_result(
        self, digest: str, content: memoryview | Path, holder: Storage | None = None
    ) -> None:
        """Fills in a result, bytes or a file, and then the records that waited only for it.
        ``holder`` has it already."""
        filled = [
            self._fill(target, digest, content) for target in self._targets if target is not holder
        ]
        if not all(filled):
            return
        ready = []
        with self._lock:
            for id_ in self._waiting.pop(digest, ()):
                variant, missing = self._missing[id_]
                missing.discard(digest)
                if not missing:
                    del self._missing[id_]
                    ready.append(variant)
        self._write(ready)

    def forget(self, ids: Collection[str]) -> None:
        """Does not fill in records that have been removed."""
        with self._lock:
            for id_ in ids:
                self._forget(id_)

    def _forget(self, id_: str) -> None:
        if id_ not in self._missing:
            return
        for digest in self._missing.pop(id_)[1]:
            waiting = self._waiting[digest]
            waiting.discard(id_)
            if not waiting:
                del self._waiting[digest]

    def _fill(self, target: Storage, digest: str, content: memoryview | Path) -> bool:
        try:
            if isinstance(content, Path):
                target.add_file(digest, content)
            else:
                target.write_result(digest, (content,))
        except StorageError as error:
            self._tally.count(f"fill: {error.reason}")
            return False
        return True

    def _write(self, variants: Sequence[Variant]) -> None:
        if not variants:
            return
        for target in self._targets:
            try:
                target.write_records(variants)
            except StorageError as error:
                self._tally.count(f"fill: {error.reason}")
        for uploads in self._uploads:
            uploads.offer(variants)
