"""The staging area: entries of a run that its workers see at once and that commit, or not, later.

Staged entries are rows of the local index. Each names who produced it; whoever uses it holds a
claim on it; and what became of its users (`settlement`) decides whether it is ever committed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from sqlite3 import Connection
from typing import TypeAlias

from pytest_taskcache.dataclass import dataclass
from pytest_taskcache.errors import StorageError
from pytest_taskcache.model.record import Variant
from pytest_taskcache.originals import originals
from pytest_taskcache.storage.local import runs
from pytest_taskcache.storage.local.encoding import COLUMNS, each, from_sql, to_sql
from pytest_taskcache.storage.local.runs import RunLock
from pytest_taskcache.storage.local.variants import Records, delete_variants, trim
from pytest_taskcache.transactions.settlement import (
    HIDE,
    VISIBLE,
    EntryState,
    Graph,
    Plan,
    StagedNode,
    Verdict,
    conclude,
    plan,
)

_SHOWN = ", ".join(f"'{state}'" for state in VISIBLE)
_OWN = (
    "SELECT id FROM claims WHERE claimant = :name AND run = :run UNION ALL"
    " SELECT id FROM variants WHERE state != '' AND run = :run AND producer = :name"
)
_CONCERNED = (
    f"{_OWN} UNION ALL"
    " SELECT id FROM variants WHERE state != '' AND :test != x'' AND retained_for = :test LIMIT 1"
)
RETAINED_SECONDS = 7 * 86400.0
"""How long a failed test's inputs are kept for its retry."""

Publish: TypeAlias = Callable[[str, Sequence[Variant]], None]
"""``publish(destination, variants)``: writes records to another key storage than this index."""


@dataclass(frozen=True, slots=True)
class Run:
    """One test run, with all its workers; ``started`` in POSIX seconds."""

    id: str
    started: float


@dataclass(frozen=True, slots=True)
class Entry:
    """A staged record. ``producer`` is the claimant that computed it; ``derives_from`` are the
    ids of staged entries it used; ``destination`` names the key storage it is to be committed to
    ("" is this index); ``held`` makes it wait until all its users passed; ``retryable`` lets a
    retry of its test start from it."""

    variant: Variant
    producer: str
    derives_from: frozenset[str] = frozenset()
    destination: str = ""
    held: bool = False
    retryable: bool = False


@dataclass(frozen=True, slots=True)
class Settled:
    """What became of a claimant's entries.

    ``committed`` are visible in their key storages now; ``dropped`` counts those that are gone.
    ``failures`` are what publishing to other storages raised: their entries were dropped, the rest
    committed all the same.
    """

    committed: tuple[Variant, ...] = ()
    dropped: int = 0
    failures: tuple[Exception, ...] = ()


class Staging:
    """The staging area of a run, in the index that ``records`` are kept in.

    Claimants are any strings that no two users share, by convention
    ``<worker>/<node id>#<attempt>`` and ``<worker>/fixture/...``. Every method is one transaction
    and raises StorageError; then it did nothing. The run's controlling process gives the ``lock``
    by which other processes see that the run lives; it is taken before anything is staged.
    """

    def __init__(self, records: Records, run: Run, lock: RunLock | None = None) -> None:
        self.run = run
        self.hold = lock.hold if lock is not None else lambda: None
        """Makes the run visible to others as one that lives: to be called by its controlling
        process before any other process of the run begins. Raises StorageError."""
        self._records = records
        self._index = records.index

    def stage(self, entry: Entry, claimant: str) -> None:
        """Makes an entry visible to all workers of the run, claimed by ``claimant``. Its result
        must have been written to the local results before."""
        id_ = to_sql(entry.variant.id)
        sources = [to_sql(source) for source in entry.derives_from]

        def work(connection: Connection) -> None:
            poisoned = each(
                connection,
                "SELECT 1 FROM variants WHERE id IN (...) AND state IN (?, ?)",
                sources,
                EntryState.POISONED,
                EntryState.CONDEMNED,
            )
            is_new = self._records.insert(
                connection,
                entry.variant,
                state=EntryState.POISONED if poisoned else EntryState.OPEN,
                run=self.run.id,
                producer=to_sql(entry.producer),
                destination=to_sql(entry.destination),
                held=entry.held,
                retryable=entry.retryable,
            )
            if is_new:
                connection.executemany(
                    "INSERT OR IGNORE INTO derives (id, source) VALUES (?, ?)",
                    [(id_, source) for source in sources],
                )
            self._claim(connection, [id_], claimant)

        self.hold()
        self._records.write_index("stage", work, ())
        self._records.remember(entry.variant)

    def visible(self, keys: Collection[str], *, test: str = "") -> Mapping[str, tuple[Entry, ...]]:
        """The run's entries under each key that has any, newest first, but for hidden ones; and
        those retained for a retry of ``test``, whichever run left them."""
        run = self.run.id
        with self._index.lock:
            # Asked before every lookup, mostly in vain: a third of what a whole read costs.
            known = self._records.answers().staged
            unknown = [key for key in keys if (run, key, test) not in known]
            if unknown:
                found = self._records.read_index(
                    "read staged entries", lambda c: self._visible(c, unknown, test)
                )
                known |= {(run, key, test): tuple(found.get(key, ())) for key in unknown}
            return {key: entries for key in keys if (entries := known[run, key, test])}

    def claim(self, ids: Collection[str], claimant: str) -> frozenset[str]:
        """Those of the ids that are still there, now claimed: they stay as long as the claim."""
        if not ids:
            return frozenset()
        self.hold()
        rows = [to_sql(id_) for id_ in ids]
        return self._index.write("claim staged entries", lambda c: self._claim(c, rows, claimant))

    def settle(
        self,
        claimant: str,
        verdict: Verdict,
        *,
        publish: Publish | None = None,
        retain_for: str = "",
    ) -> Settled:
        """Ends a claimant: what it used commits, waits or goes, as its verdict says.

        Entries for this index commit in one transaction. Those for other storages are published
        after it, outside the write lock; whatever that raises is returned.
        ``retain_for`` names the test whose retry may start from a failed claimant's retryable
        entries; when the test passes, what else was retained for it goes.
        """
        run, name, retaining = self.run.id, to_sql(claimant), to_sql(retain_for)
        names = {"name": name, "run": run, "test": retaining}
        # Mostly there is nothing to settle, and then no write lock is taken.
        if not self._index.read("settle", lambda c: c.execute(_CONCERNED, names).fetchone()):
            return Settled()

        def work(connection: Connection) -> _Outcome:
            own = connection.execute(_OWN, names)
            graph = _load(connection, [id_ for (id_,) in own])
            plan = conclude(graph, name, verdict, retains=bool(retain_for))
            connection.execute("DELETE FROM claims WHERE claimant = ? AND run = ?", (name, run))
            connection.executemany(
                "UPDATE variants SET retained_for = ?, retained_at = ?, held = 0 WHERE id = ?",
                [(retaining, originals.seconds(), id_) for id_ in plan.retained],
            )
            committed, dropped = self._carry_out(connection, graph, plan)
            if retain_for and verdict is Verdict.PASSED:
                others = "SELECT id FROM variants WHERE state != '' AND retained_for = ?"
                dropped += _forget_unclaimed(connection, others, retaining)
            return committed, dropped

        return self._end(work, publish)

    def drop(
        self, ids: Collection[str], claimant: str, *, publish: Publish | None = None
    ) -> Settled:
        """Takes back a claimant's claims on entries of a savepoint that failed, and hides those
        it produced. (What others approved and only this claim held back commits.)"""
        rows = [to_sql(id_) for id_ in ids]
        name = to_sql(claimant)

        def work(connection: Connection) -> _Outcome:
            graph = _load(connection, rows)
            own = [graph.nodes[id_] for id_ in rows if id_ in graph.nodes]
            for node in own:
                node.claimants.discard(name)
            graph.change((node for node in own if node.producer == name), HIDE)
            each(connection, "DELETE FROM claims WHERE id IN (...) AND claimant = ?", rows, name)
            return self._carry_out(connection, graph, plan(graph))

        return self._end(work, publish) if rows else Settled()

    def abandon(self, worker_prefix: str, *, publish: Publish | None = None) -> None:
        """Settles as FAILED all claimants ``<worker_prefix>/...`` of a worker that died while
        the run lives on, one after the other."""
        prefix = to_sql(worker_prefix.rstrip("/") + "/")

        def work(connection: Connection) -> list[str]:
            runs.forget_locks_of_the_dead(connection, self.run.id)
            rows = connection.execute(
                "SELECT claimant FROM claims WHERE run = :run"
                " AND substr(claimant, 1, :length) = :prefix"
                " UNION SELECT producer FROM variants WHERE state != '' AND run = :run"
                " AND substr(producer, 1, :length) = :prefix",
                {"run": self.run.id, "prefix": prefix, "length": len(prefix)},
            )
            return [from_sql(claimant) for (claimant,) in rows]

        for claimant in self._index.write("abandon a worker", work):
            self.settle(claimant, Verdict.FAILED, publish=publish)

    def sweep(self) -> None:
        """Removes what dead runs left, or was retained for over a week."""
        oldest = originals.seconds() - RETAINED_SECONDS
        outdated = "SELECT id FROM variants WHERE state != '' AND retained_at < ?"
        if self._index.read("sweep", lambda c: c.execute(outdated, (oldest,)).fetchone()):
            self._records.write_index("sweep", lambda c: _forget_unclaimed(c, outdated, oldest), ())
        runs.sweep(self._index, but=self.run.id)

    def end(self) -> None:
        """Removes what the run still has staged or pinned, but for what is retained; for the
        controlling process, last of all."""
        self._records.write_index("sweep", lambda c: runs.forget(c, self.run.id), ())

    def _claim(self, connection: Connection, ids: Sequence[bytes], claimant: str) -> frozenset[str]:
        name = to_sql(claimant)
        # Hidden from new readers: who produced or claimed an entry may claim it again.
        found = each(
            connection,
            f"SELECT id FROM variants WHERE id IN (...) AND (state = '{EntryState.RETAINED}'"
            f" OR (run = ? AND (state IN ({_SHOWN}) OR producer = ?))"
            " OR EXISTS (SELECT 1 FROM claims WHERE claims.id = variants.id AND claimant = ?))",
            ids,
            self.run.id,
            name,
            name,
        )
        connection.executemany(
            "INSERT OR IGNORE INTO claims (id, claimant, run) VALUES (?, ?, ?)",
            [(id_, name, self.run.id) for (id_,) in found],
        )
        return frozenset(from_sql(id_) for (id_,) in found)

    def _visible(
        self, connection: Connection, keys: Collection[str], test: str
    ) -> dict[str, list[Entry]]:
        rows = each(
            connection,
            f"SELECT producer, destination, seq, {COLUMNS} FROM variants"
            f" WHERE key IN (...) AND ((run = ? AND state IN ({_SHOWN}))"
            f" OR (state = '{EntryState.RETAINED}' AND retained_for = ?))"
            " ORDER BY created DESC, seq DESC",
            [to_sql(key) for key in keys],
            self.run.id,
            to_sql(test),
        )
        decoded = self._records.decode_rows(connection, [row[2:] for row in rows])
        variants = {to_sql(variant.id): variant for variant in decoded}
        found: dict[str, list[Entry]] = {}
        for producer, destination, _, id_, *_ in rows:
            if id_ in variants:
                where = from_sql(destination)
                entry = Entry(variants[id_], from_sql(producer), destination=where)
                found.setdefault(entry.variant.key, []).append(entry)
        return found

    def _carry_out(self, connection: Connection, graph: Graph, plan: Plan) -> _Outcome:
        delete_variants(connection, plan.drop, None)
        destinations = {entry.id: entry.destination for entry in plan.commit}
        rows = each(
            connection, f"SELECT seq, {COLUMNS} FROM variants WHERE id IN (...)", destinations
        )
        variants = self._records.decode_rows(connection, sorted(rows))
        _commit(connection, [e for e in plan.commit if not e.destination])
        delete_variants(connection, [e.id for e in plan.commit if e.destination], None)
        gone = plan.drop.union(destinations)
        connection.executemany(
            "UPDATE variants SET state = ? WHERE id = ?",
            [(graph.nodes[id_].state, id_) for id_ in graph.changed - gone],
        )
        named = [(from_sql(destinations[to_sql(v.id)]), v) for v in variants]
        return named, len(plan.drop)

    def _end(self, work: Callable[[Connection], _Outcome], publish: Publish | None) -> Settled:
        """Does the work in one transaction; what goes to other storages is published after it."""
        named, dropped = self._records.write_index("settle", work)
        failures: dict[str, Exception] = {}
        for destination in dict.fromkeys(name for name, _ in named if name):
            batch = [variant for name, variant in named if name == destination]
            try:
                if publish is None:
                    raise StorageError(destination, "publish", "no way to reach it was given")
                publish(destination, batch)
            except Exception as error:  # storages may be users' code; what is local is committed
                failures[destination] = error
        committed = tuple(variant for name, variant in named if name not in failures)
        dropped += len(named) - len(committed)
        return Settled(committed, dropped, tuple(failures.values()))


_Outcome: TypeAlias = tuple[list[tuple[str, Variant]], int]
"""What commits, each with its destination, and how many entries were dropped."""


def _load(connection: Connection, ids: Iterable[bytes]) -> Graph:
    """The entries, and all whose fate may depend on theirs, or theirs on it."""
    nodes: dict[bytes, StagedNode] = {}
    seen: set[bytes] = set()
    edge = set(ids)
    while edge:
        seen |= edge
        rows = each(
            connection,
            "SELECT id, key, destination, producer, held, retryable, state"
            " FROM variants WHERE id IN (...) AND state != ''",
            edge,
        )
        fresh = {row[0]: StagedNode(*row) for row in rows}
        further = set()
        for id_, source in each(
            connection, "SELECT id, source FROM derives WHERE id IN (...)", fresh
        ):
            fresh[id_].sources.add(source)
            further.add(source)
        for id_, claimant in each(
            connection, "SELECT id, claimant FROM claims WHERE id IN (...)", fresh
        ):
            fresh[id_].claimants.add(claimant)
        rows = each(connection, "SELECT id FROM derives WHERE source IN (...)", fresh)
        nodes |= fresh
        edge = (further | {id_ for (id_,) in rows}) - seen
    for node in nodes.values():
        node.sources &= nodes.keys()  # one that was committed meanwhile is no concern any more
    return Graph(nodes)


def _commit(connection: Connection, entries: Collection[StagedNode]) -> None:
    ids = [entry.id for entry in entries]
    each(
        connection,
        f"UPDATE variants SET state = '', used = {originals.seconds()!r}, run = NULL,"
        " producer = NULL, destination = NULL, held = NULL, retryable = NULL, retained_for = NULL,"
        " retained_at = NULL WHERE id IN (...)",
        ids,
    )
    for table in ("claims", "derives"):
        each(connection, f"DELETE FROM {table} WHERE id IN (...)", ids)
    trim(connection, {entry.key for entry in entries})


def _forget_unclaimed(connection: Connection, which: str, value: object) -> int:
    rows = connection.execute(f"{which} AND id NOT IN (SELECT id FROM claims)", (value,)).fetchall()
    delete_variants(connection, [id_ for (id_,) in rows], None)
    return len(rows)
