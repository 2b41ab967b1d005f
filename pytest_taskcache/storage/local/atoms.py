"""Traces and key parts of one index, each read and written once a process and shared."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import cast

from pytest_taskcache.model.dependency import Dependency, Trace
from pytest_taskcache.model.key import Part
from pytest_taskcache.storage.local import encoding
from pytest_taskcache.storage.local.deltas import Base, added_by, applied
from pytest_taskcache.storage.local.encoding import Atom

_CHUNK = 500
_BASES = 8
_WORTH_IT = 16
"""Shorter traces are no base of others."""


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
        self._bases: dict[int, Base] = {}
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
            self._bases.clear()
            self._generation = generation

    def revoke(self) -> None:
        """Forgets ids to write, after a transaction that made them was rolled back."""
        self._generation = None

    def intern(self, connection: sqlite3.Connection, atoms: Sequence[Atom]) -> list[int]:
        """The ids of atoms, adding those that are new."""
        known = self._ids.get
        found = list(map(known, atoms))
        if None in found:
            pairs = zip(atoms, found, strict=True)
            self._add(connection, list(dict.fromkeys(atom for atom, id_ in pairs if id_ is None)))
            found = [
                known(atom) if id_ is None else id_ for atom, id_ in zip(atoms, found, strict=True)
            ]
        return cast("list[int]", found)

    def _add(self, connection: sqlite3.Connection, missing: Sequence[Atom]) -> None:
        """Learns the ids of atoms that are not known here, adding those that are nowhere."""
        known = self._ids
        hashes = {atom: encoding.atom_hash(atom) for atom in missing}
        for chunk in chunked(list(hashes.values())):
            rows = connection.execute(
                f"SELECT id, kind, name, digest FROM atoms WHERE hash IN ({marks(chunk)})", chunk
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

    def intern_trace(self, connection: sqlite3.Connection, trace: Trace) -> int:
        """The row id of a trace, adding it if it is new."""
        name = encoding.trace_name(trace)
        found = self._trace_ids.get(name)
        if found is not None:
            return found
        row = connection.execute("SELECT id FROM traces WHERE digest = ?", (name,)).fetchone()
        id_ = int(row[0]) if row is not None else self._add_trace(connection, name, trace)
        self._trace_ids[name] = id_
        return id_

    def _add_trace(self, connection: sqlite3.Connection, name: bytes, trace: Trace) -> int:
        ids = self.intern(connection, trace.dependencies)
        base, numbers = self._shortest(ids)
        cursor = connection.execute(
            "INSERT INTO traces (digest, atoms, base) VALUES (?, ?, ?)",
            (name, encoding.pack(numbers), base),
        )
        id_ = cursor.lastrowid
        assert id_ is not None
        if base is None and len(ids) >= _WORTH_IT:
            if len(self._bases) >= _BASES:
                self._bases.pop(next(iter(self._bases)))
            self._bases[id_] = Base(ids)
        return id_

    def _shortest(self, ids: Sequence[int]) -> tuple[int | None, Sequence[int]]:
        """How to keep a trace: by what makes it of which other one, or as it is. The bases that
        were of use last are tried first."""
        for id_ in reversed(self._bases):
            edits = self._bases[id_].edits_to(ids)
            if edits is not None:
                self._bases[id_] = self._bases.pop(id_)
                return id_, edits
        return None, ids

    # ----------------------------------------------------------------------- reading

    def load_traces(self, connection: sqlite3.Connection, ids: Iterable[int]) -> None:
        """Puts the traces of these row ids into ``traces``, but for damaged and lost ones."""
        whole: list[tuple[int, bytes, Sequence[int]]] = []
        parts: list[tuple[int, bytes, int, Sequence[int]]] = []
        for chunk in chunked({id_ for id_ in ids if id_ not in self.traces}):
            rows = connection.execute(
                f"SELECT id, digest, atoms, base FROM traces WHERE id IN ({marks(chunk)})", chunk
            )
            for id_, digest, data, base in rows:
                numbers = encoding.unpack(data)
                if numbers is None:
                    continue
                if base is None:
                    whole.append((id_, digest, numbers))
                else:
                    parts.append((id_, digest, base, numbers))
        wanted = set[int]().union(
            *(numbers for _, _, numbers in whole), *(added_by(edits) for *_, edits in parts)
        )
        self._load(connection, wanted.difference(self._dependencies))
        for id_, digest, members in whole:
            dependencies = self._named(members)
            if dependencies is not None:
                self.traces[id_] = Trace(dependencies, encoding.trace_digest(digest))
        if parts:
            self.load_traces(connection, {base for _, _, base, _ in parts})
        for id_, digest, base, edits in parts:
            fresh = self._named(added_by(edits))
            if base in self.traces and fresh is not None:
                made = applied(self.traces[base].dependencies, edits, fresh)
                if made is not None:
                    self.traces[id_] = Trace(made, encoding.trace_digest(digest))

    def _named(self, members: Iterable[int]) -> tuple[Dependency, ...] | None:
        try:
            return tuple(map(self._dependencies.__getitem__, members))
        except KeyError:
            return None

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
