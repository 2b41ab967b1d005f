"""Traces and key parts of one index, each read and written once a process and shared."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Iterator, Sequence

from pytest_taskcache.model.dependency import Dependency, Trace
from pytest_taskcache.model.key import Part
from pytest_taskcache.storage.local import encoding
from pytest_taskcache.storage.local.encoding import Atom

_CHUNK = 500


def chunked(items: Collection[int] | Collection[bytes]) -> Iterator[Sequence[int | bytes]]:
    """The items in lists short enough for one SQL statement."""
    whole: list[int | bytes] = list(items)
    for start in range(0, len(whole), _CHUNK):
        yield whole[start : start + _CHUNK]


def marks(items: Sequence[object]) -> str:
    """As many SQL placeholders as there are items."""
    return ",".join("?" * len(items))


class Atoms:
    """Interned atoms and traces. Not thread-safe: to be used with the index's lock held.

    Ids are never reused, so what was read stays true for as long as the connection does. Ids to
    *write* may have been pruned meanwhile by another process, which then counts up
    ``meta.generation``; ``expect`` forgets them.
    """

    def __init__(self) -> None:
        self._epoch = 0
        self._generation: int | None = None
        self._ids: dict[Atom, int] = {}
        self._trace_ids: dict[bytes, int] = {}
        self._dependencies: dict[int, Dependency] = {}
        self.parts: dict[int, Part] = {}
        self.traces: dict[int, Trace] = {}

    def renew(self, epoch: int) -> None:
        """Forgets everything if the connection is another one than before."""
        if epoch != self._epoch:
            self.__init__()  # type: ignore[misc]
            self._epoch = epoch

    # ----------------------------------------------------------------------- writing

    def expect(self, connection: sqlite3.Connection) -> None:
        """To be called in a write transaction before ids are used in it."""
        (generation,) = connection.execute(
            "SELECT value FROM meta WHERE name = 'generation'"
        ).fetchone()
        if generation != self._generation:
            self._ids.clear()
            self._trace_ids.clear()
            self._generation = generation

    def revoke(self) -> None:
        """Forgets ids to write, after a transaction that made them was rolled back."""
        self._generation = None

    def intern(self, connection: sqlite3.Connection, atoms: Sequence[Atom]) -> list[int]:
        """The ids of atoms, adding those that are new."""
        known = self._ids
        try:
            return [known[atom] for atom in atoms]
        except KeyError:
            pass  # some are new here
        missing = [atom for atom in dict.fromkeys(atoms) if atom not in known]
        if missing:
            hashes = {atom: encoding.atom_hash(atom) for atom in missing}
            for chunk in chunked(list(hashes.values())):
                rows = connection.execute(
                    f"SELECT id, kind, name, digest FROM atoms WHERE hash IN ({marks(chunk)})",
                    chunk,
                )
                for id_, kind, name, digest in rows:
                    known[kind, encoding.from_sql(name), digest] = id_
            for atom in missing:
                if atom not in known:
                    kind, name, digest = atom
                    cursor = connection.execute(
                        "INSERT INTO atoms (hash, kind, name, digest) VALUES (?, ?, ?, ?)",
                        (hashes[atom], str(kind), encoding.to_sql(name), digest),
                    )
                    assert cursor.lastrowid is not None
                    known[atom] = cursor.lastrowid
        return [known[atom] for atom in atoms]

    def intern_trace(self, connection: sqlite3.Connection, trace: Trace) -> int:
        """The row id of a trace, adding it if it is new."""
        name = encoding.trace_name(trace)
        found = self._trace_ids.get(name)
        if found is not None:
            return found
        row = connection.execute("SELECT id FROM traces WHERE digest = ?", (name,)).fetchone()
        if row is None:
            packed = encoding.pack(self.intern(connection, trace.dependencies))
            cursor = connection.execute(
                "INSERT INTO traces (digest, atoms) VALUES (?, ?)", (name, packed)
            )
            assert cursor.lastrowid is not None
            row = (cursor.lastrowid,)
        self._trace_ids[name] = row[0]
        return int(row[0])

    # ----------------------------------------------------------------------- reading

    def load_traces(self, connection: sqlite3.Connection, ids: Iterable[int]) -> None:
        """Puts the traces of these row ids into ``traces``, but for damaged and lost ones."""
        packed: dict[int, tuple[bytes, tuple[int, ...]]] = {}
        for chunk in chunked({id_ for id_ in ids if id_ not in self.traces}):
            rows = connection.execute(
                f"SELECT id, digest, atoms FROM traces WHERE id IN ({marks(chunk)})", chunk
            )
            for id_, digest, data in rows:
                members = encoding.unpack(data)
                if members is not None:
                    packed[id_] = (digest, members)
        wanted = set[int]().union(*(members for _, members in packed.values()))
        self._load(connection, wanted.difference(self._dependencies))
        known = self._dependencies.__getitem__
        for id_, (digest, members) in packed.items():
            try:
                dependencies = tuple(map(known, members))
            except KeyError:
                continue
            self.traces[id_] = Trace(dependencies, encoding.trace_digest(digest))

    def load_parts(self, connection: sqlite3.Connection, ids: Iterable[int]) -> None:
        """Puts the key parts of these ids into ``parts``."""
        self._load(connection, set(ids).difference(self.parts))

    def _load(self, connection: sqlite3.Connection, ids: set[int]) -> None:
        for chunk in chunked(ids):
            rows = connection.execute(
                f"SELECT id, kind, name, digest FROM atoms WHERE id IN ({marks(chunk)})", chunk
            )
            for id_, kind, name, digest in rows:
                if kind == "":
                    self.parts[id_] = Part(encoding.from_sql(name), digest)
                elif kind in encoding.KINDS:
                    self._dependencies[id_] = Dependency(
                        encoding.KINDS[kind], encoding.from_sql(name), digest
                    )


__all__ = ["Atoms", "chunked", "marks"]
