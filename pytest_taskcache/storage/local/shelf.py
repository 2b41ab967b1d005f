"""The shelf: small derived facts, in a table of the index."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Mapping

from pytest_taskcache.errors import StorageError
from pytest_taskcache.storage.local import encoding
from pytest_taskcache.storage.local.index import Index


class IndexShelf:
    """A ports.Shelf; what fails is told to the index's ``on_fault`` and otherwise ignored."""

    def __init__(self, index: Index) -> None:
        self._index = index

    def read(self, section: str) -> Mapping[str, bytes]:
        """All items of a section; empty if there are none or they cannot be read."""

        def work(connection: sqlite3.Connection) -> dict[str, bytes]:
            rows = connection.execute("SELECT name, item FROM shelf WHERE section = ?", (section,))
            found = {}
            for name, item in rows:
                try:
                    found[encoding.from_sql(name)] = encoding.unseal(item, section.encode(), name)
                except encoding.DAMAGE:
                    # Nobody finds it, and the next one written takes its place.
                    self._index.tell("damaged row in the index")
            return found

        try:
            return self._index.read("read the shelf", work)
        except StorageError as error:
            self._index.tell(error.reason)
            return {}

    def write(self, section: str, items: Mapping[str, bytes]) -> None:
        """Adds or replaces items. Never raises; a read-only index keeps nothing, silently."""

        def work(connection: sqlite3.Connection) -> None:
            connection.executemany(
                "INSERT OR REPLACE INTO shelf (section, name, item) VALUES (?, ?, ?)",
                [
                    (section, name, encoding.seal(item, section.encode(), name))
                    for name, item in zip(map(encoding.to_sql, items), items.values(), strict=True)
                ],
            )

        if items:
            self._written(work)

    def remove(self, section: str, names: Collection[str]) -> None:
        """Forgets items. As `write`."""

        def work(connection: sqlite3.Connection) -> None:
            rows = [(section, name) for name in map(encoding.to_sql, names)]
            connection.executemany("DELETE FROM shelf WHERE section = ? AND name = ?", rows)

        if names:
            self._written(work)

    def _written(self, work: Callable[[sqlite3.Connection], None]) -> None:
        if self._index.readonly:
            return
        try:
            self._index.write("write the shelf", work)
        except StorageError as error:
            self._index.tell(error.reason)
