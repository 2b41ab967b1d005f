"""The staging area: entries of a run that its workers see at once and that commit, or not, later.

Staged entries are rows of the local index. Each names who produced it; whoever uses it holds a
claim on it; and what became of its users (`settlement`) decides whether it is ever committed.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TypeAlias

from pytest_taskcache.dataclass import dataclass, field
from pytest_taskcache.errors import StorageError
from pytest_taskcache.model.record import Variant
from pytest_taskcache.storage.local import runs, staged
from pytest_taskcache.storage.local.encoding import COLUMNS, chunked, from_sql, marks, to_sql
from pytest_taskcache.storage.local.index import Clock
from pytest_taskcache.storage.local.runs import RunLock
from pytest_taskcache.storage.local.variants import Records, insert_refs
from pytest_taskcache.transactions.settlement import (
    VISIBLE,
    Graph,
    Plan,
    State,
    Verdict,
    conclude,
    hide,
    plan,
)

_SHOWN = ", ".join(f"'{state}'" for state in VISIBLE)
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

    ``committed`` are visible in their key storages now; ``dropped`` counts those that are gone,
    ``held`` those that wait for other users of a held entry. ``failures`` are what publishing to
    other storages raised: their entries were dropped, the rest committed all the same.
    """

    committed: tuple[Variant, ...] = ()
    dropped: int = 0
    held: int = 0
    failures: tuple[Exception, ...] = ()


@dataclass(slots=True)
class _Seen:
    """Answers of ``visible`` that hold while the index is in one state."""

    state: tuple[int, int, int] = (-1, -1, -1)
    answers: dict[tuple[str, str], tuple[Entry, ...]] = field(default_factory=dict)


class Staging:
    """The staging area of a run, in the index that ``records`` are kept in.

    Claimants are any strings that no two users share, by convention
    ``<worker>/<node id>#<attempt>`` and ``<worker>/fixture/...``. Every method is one transaction
    and raises StorageError; then it did nothing. The run's controlling process gives the ``lock``
    by which other processes see that the run lives; it is taken before anything is staged.
    """

    def __init__(self, records: Records, run: Run, lock: RunLock | None = None) -> None:
        self.run = run
        self._lock = lock
        self._records = records
        self._index = records.index
        self._seen = _Seen()

    def hold(self) -> None:
        """Makes the run visible to others as one that lives: to be called by its controlling
        process before any other process of the run begins. Raises StorageError."""
        if self._lock is not None:
            self._lock.hold()

    # ----------------------------------------------------------------------- staging

    def stage(self, entry: Entry, claimant: str) -> None:
        """Makes an entry visible to all workers of the run, claimed by ``claimant``. Its result
        must have been written to the local results before."""
        id_ = to_sql(entry.variant.id)
        sources = [to_sql(source) for source in entry.derives_from]

        def work(connection: sqlite3.Connection) -> None:
            (row,) = self._records.rows(connection, [entry.variant])
            columns = (
                self.run.id,
                to_sql(entry.producer),
                to_sql(entry.destination),
                entry.held,
                entry.retryable,
                _first_state(connection, sources),
                *row,
            )
            cursor = connection.execute(
                "INSERT OR IGNORE INTO staged"
                f" (run, producer, destination, held, retryable, state, {COLUMNS})"
                f" VALUES ({marks(columns)})",
                columns,
            )
            if cursor.rowcount:
                insert_refs(connection, entry.variant)
                connection.executemany(
                    "INSERT OR IGNORE INTO derives (id, source) VALUES (?, ?)",
                    [(id_, source) for source in sources],
                )
            self._claim(connection, [id_], claimant)

        self.hold()
        self._records.write("stage", work, ())
        self._records.remember(entry.variant)

    def visible(self, keys: Collection[str], *, test: str = "") -> Mapping[str, tuple[Entry, ...]]:
        """The run's entries under each key that has any, newest first, but for hidden ones; and
        those retained for a retry of ``test``, whichever run left them."""
        if len(keys) == 1:
            (key,) = keys
            found = self._remembered(key, test)
            if found is not None:
                return {key: found} if found else {}

        def work(connection: sqlite3.Connection) -> dict[str, tuple[Entry, ...]]:
            (version,) = connection.execute("PRAGMA data_version").fetchone()
            state = (self._index.epoch, self._index.writes, version)
            if state != self._seen.state:
                self._seen = _Seen(state)
            entries = self._visible(connection, keys, test)
            for key in keys:
                self._seen.answers[key, test] = tuple(entries.get(key, ()))
            return {key: tuple(found) for key, found in entries.items()}

        return self._records.read("read staged entries", work)

    def claim(self, ids: Collection[str], claimant: str) -> frozenset[str]:
        """Those of the ids that are still there, now claimed: they stay as long as the claim."""
        if not ids:
            return frozenset()

        def work(connection: sqlite3.Connection) -> frozenset[str]:
            return self._claim(connection, [to_sql(id_) for id_ in ids], claimant)

        self.hold()
        return self._index.write("claim staged entries", work)

    # ---------------------------------------------------------------------- settling

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
        first, outside the write lock; whatever that raises is returned, and the rest commits.
        ``retain_for`` names the test whose retry may start from a failed claimant's retryable
        entries; when the test passes, what else was retained for it goes.
        """
        return self._settle([to_sql(claimant)], verdict, publish, to_sql(retain_for))

    def drop(
        self, ids: Collection[str], claimant: str, *, publish: Publish | None = None
    ) -> Settled:
        """Takes back a claimant's claims on entries of a savepoint that failed, and hides those
        it produced. (What others approved and only this claim held back commits.)"""
        rows = [to_sql(id_) for id_ in ids]
        name = to_sql(claimant)

        def decide(connection: sqlite3.Connection) -> tuple[Graph, dict[bytes, str], Plan]:
            graph, before = _load(connection, rows)
            own = [graph.nodes[id_] for id_ in rows if id_ in graph.nodes]
            for node in own:
                node.claimants.discard(name)
            hide(node for node in own if node.producer == name)
            for chunk in chunked(rows):
                connection.execute(
                    f"DELETE FROM claims WHERE claimant = ? AND id IN ({marks(chunk)})",
                    (name, *chunk),
                )
            return graph, before, plan(graph, rows)

        return self._carry_out(decide, publish) if rows else Settled()

    def abandon(self, worker_prefix: str, *, publish: Publish | None = None) -> Settled:
        """Settles as FAILED all claimants ``<worker_prefix>/...`` of a worker that died while
        the run lives on."""
        prefix = to_sql(worker_prefix.rstrip("/") + "/")

        def work(connection: sqlite3.Connection) -> list[bytes]:
            rows = connection.execute(
                "SELECT claimant FROM claims WHERE run = :run"
                " AND substr(claimant, 1, :length) = :prefix"
                " UNION SELECT producer FROM staged WHERE run = :run"
                " AND substr(producer, 1, :length) = :prefix",
                {"run": self.run.id, "prefix": prefix, "length": len(prefix)},
            )
            return [claimant for (claimant,) in rows]

        self._index.write(
            "free the locks of a worker", lambda c: runs.forget_locks_of_the_dead(c, self.run.id)
        )
        claimants = self._index.read("abandon a worker", work)
        return self._settle(claimants, Verdict.FAILED, publish, b"")

    # ------------------------------------------------------------------------- runs

    def sweep(self) -> int:
        """Removes what dead runs left, and what was retained for more than a week; how many
        entries went."""
        oldest = Clock.now() - RETAINED_SECONDS

        def outdated(connection: sqlite3.Connection) -> bool:
            row = connection.execute(
                "SELECT 1 FROM staged WHERE retained_at < ? LIMIT 1", (oldest,)
            ).fetchone()
            return row is not None

        count = 0
        if self._index.read("sweep", outdated):
            count = self._records.write("sweep", lambda c: _forget_retained(c, before=oldest), ())
        return count + runs.sweep(self._index, but=self.run.id)

    def end(self) -> int:
        """Removes what the run still has staged or pinned, but for what is retained; for the
        controlling process, last of all. How many entries went."""
        return self._records.write("sweep", lambda c: runs.forget(c, self.run.id), ())

    # -------------------------------------------------------------------- how it works

    def _claim(
        self, connection: sqlite3.Connection, ids: Sequence[bytes], claimant: str
    ) -> frozenset[str]:
        name = to_sql(claimant)
        found: set[str] = set()
        for chunk in chunked(ids):
            # Hidden from new readers: who produced or claimed an entry may claim it again.
            connection.execute(
                "INSERT OR IGNORE INTO claims (id, claimant, run)"
                f" SELECT id, ?, ? FROM staged WHERE id IN ({marks(chunk)})"
                f" AND (state = '{State.RETAINED}'"
                f" OR (run = ? AND (state IN ({_SHOWN}) OR producer = ?)))",
                (name, self.run.id, *chunk, self.run.id, name),
            )
            rows = connection.execute(
                f"SELECT id FROM claims WHERE claimant = ? AND id IN ({marks(chunk)})",
                (name, *chunk),
            )
            found |= {from_sql(id_) for (id_,) in rows}
        return frozenset(found)

    def _remembered(self, key: str, test: str) -> tuple[Entry, ...] | None:
        # Asked before every lookup, mostly in vain: a third of what a whole read costs.
        with self._index.lock:
            version = self._index.quick_version()
            if (self._index.epoch, self._index.writes, version) != self._seen.state:
                return None
            return self._seen.answers.get((key, test))

    def _visible(
        self, connection: sqlite3.Connection, keys: Collection[str], test: str
    ) -> dict[str, list[Entry]]:
        found: dict[str, list[Entry]] = {}
        for chunk in chunked([to_sql(key) for key in keys]):
            rows = connection.execute(
                f"SELECT producer, destination, held, retryable, seq, {COLUMNS} FROM staged"
                f" WHERE key IN ({marks(chunk)}) AND ((run = ? AND state IN ({_SHOWN}))"
                f" OR (state = '{State.RETAINED}' AND retained_for = ?))"
                " ORDER BY created DESC, seq DESC",
                (*chunk, self.run.id, to_sql(test)),
            ).fetchall()
            variants = {
                variant.id: variant
                for variant in self._records.decode(connection, "staged", [r[4:] for r in rows])
            }
            for producer, destination, held, retryable, _, id_, *_ in rows:
                variant = variants.get(from_sql(id_))
                if variant is None:
                    continue
                sources = connection.execute("SELECT source FROM derives WHERE id = ?", (id_,))
                entry = Entry(
                    variant,
                    producer=from_sql(producer),
                    derives_from=frozenset(from_sql(source) for (source,) in sources),
                    destination=from_sql(destination),
                    held=bool(held),
                    retryable=bool(retryable),
                )
                found.setdefault(variant.key, []).append(entry)
        return found

    def _settle(
        self,
        claimants: Sequence[bytes],
        verdict: Verdict,
        publish: Publish | None,
        retain_for: bytes,
    ) -> Settled:
        if not self._index.read("settle", lambda c: self._concerns(c, claimants, retain_for)):
            return Settled()

        def decide(connection: sqlite3.Connection) -> tuple[Graph, dict[bytes, str], Plan]:
            ids = staged.claimed_by(connection, self.run.id, claimants)
            graph, before = _load(connection, ids, related=False)
            if verdict is not Verdict.PASSED or not _is_simple(graph):
                # Mostly not, and then nobody else has a say, at a third of the cost.
                ids |= staged.produced_by(connection, self.run.id, claimants)
                graph, before = _load(connection, ids)
            found = conclude(graph, claimants, verdict, retains=bool(retain_for))
            for claimant in claimants:
                connection.execute(
                    "DELETE FROM claims WHERE claimant = ? AND run = ?", (claimant, self.run.id)
                )
            connection.executemany(
                "UPDATE staged SET retained_for = ?, retained_at = ?, held = 0 WHERE id = ?",
                [(retain_for, Clock.now(), id_) for id_ in found.retained],
            )
            return graph, before, found

        forgotten = retain_for if verdict is Verdict.PASSED else b""
        return self._carry_out(decide, publish, forgotten)

    def _carry_out(
        self,
        decide: Callable[[sqlite3.Connection], tuple[Graph, dict[bytes, str], Plan]],
        publish: Publish | None,
        forgotten: bytes = b"",
    ) -> Settled:
        """Commits and drops as planned, in the transaction that the plan was made in; what goes
        to other storages is marked there, published, and taken out in a second one."""

        def work(connection: sqlite3.Connection) -> tuple[Plan, list[Variant], int]:
            graph, before, plan = decide(connection)
            staged.delete(connection, plan.drop)
            rows = staged.read_rows(connection, [entry.id for entry in plan.commit])
            variants = self._records.decode(connection, "staged", rows)
            local = not any(entry.destination for entry in plan.commit)
            for entry in () if local else plan.commit:
                entry.state = State.COMMITTING
            if local:
                staged.move(connection, plan.commit, Clock.now())
            gone = {*plan.drop, *(entry.id for entry in plan.commit if local)}
            staged.save(connection, before, graph.nodes, gone)
            dropped = len(plan.drop)
            if forgotten:
                dropped += _forget_retained(connection, test=forgotten)
            return plan, variants, dropped

        plan, variants, dropped = self._records.write("settle", work)
        remote = {from_sql(e.id): from_sql(e.destination) for e in plan.commit if e.destination}
        if not remote:
            return Settled(tuple(variants), dropped, plan.waiting)
        failures: dict[str, Exception] = {}
        for destination in dict.fromkeys(remote.values()):
            batch = [variant for variant in variants if remote.get(variant.id) == destination]
            failure = _publish(publish, destination, batch)
            if failure is not None:
                failures[destination] = failure

        def complete(connection: sqlite3.Connection) -> None:
            local = [entry for entry in plan.commit if not entry.destination]
            staged.move(connection, local, Clock.now())
            staged.delete(connection, [entry.id for entry in plan.commit if entry.destination])

        self._records.write("settle", complete)
        committed = [v for v in variants if remote.get(v.id) not in failures]
        lost = len(variants) - len(committed)
        return Settled(tuple(committed), dropped + lost, plan.waiting, tuple(failures.values()))

    def _concerns(
        self, connection: sqlite3.Connection, claimants: Sequence[bytes], retain_for: bytes
    ) -> bool:
        """Whether there is anything to settle; mostly not, and then no write lock is taken."""
        names = list(claimants)
        row = connection.execute(
            f"SELECT 1 FROM claims WHERE claimant IN ({marks(names)})"
            f" UNION ALL SELECT 1 FROM staged WHERE producer IN ({marks(names)})"
            " UNION ALL SELECT 1 FROM staged WHERE retained_for = ? AND retained_for != x''"
            " LIMIT 1",
            (*names, *names, retain_for),
        ).fetchone()
        return row is not None


def _first_state(connection: sqlite3.Connection, sources: Sequence[bytes]) -> State:
    poisoned = (State.POISONED, State.CONDEMNED)
    for chunk in chunked(sources):
        row = connection.execute(
            f"SELECT 1 FROM staged WHERE state IN (?, ?) AND id IN ({marks(chunk)}) LIMIT 1",
            (*poisoned, *chunk),
        ).fetchone()
        if row is not None:
            return State.POISONED
    return State.OPEN


def _load(
    connection: sqlite3.Connection, ids: Collection[bytes], *, related: bool = True
) -> tuple[Graph, dict[bytes, str]]:
    nodes = staged.load(connection, ids, related=related)
    return Graph(nodes), {id_: node.state for id_, node in nodes.items()}


def _is_simple(graph: Graph) -> bool:
    plain = (State.OPEN, State.HIDDEN, State.RETAINED)
    return all(node.state in plain and not node.held for node in graph.nodes.values())


def _publish(
    publish: Publish | None, destination: str, variants: Sequence[Variant]
) -> Exception | None:
    if publish is None:
        return StorageError(destination, "publish", "no way to reach it was given")
    try:
        publish(destination, variants)
    except Exception as error:  # storages may be users' code; what is local must commit anyway
        return error
    return None


def _forget_retained(
    connection: sqlite3.Connection, *, before: float | None = None, test: bytes = b""
) -> int:
    unclaimed = "id NOT IN (SELECT id FROM claims)"
    if before is not None:
        rows = connection.execute(
            f"SELECT id FROM staged WHERE retained_for != x'' AND retained_at < ? AND {unclaimed}",
            (before,),
        ).fetchall()
    else:
        rows = connection.execute(
            f"SELECT id FROM staged WHERE retained_for = ? AND {unclaimed}", (test,)
        ).fetchall()
    staged.delete(connection, [id_ for (id_,) in rows])
    return len(rows)


__all__ = [
    "RETAINED_SECONDS",
    "Entry",
    "Publish",
    "Run",
    "RunLock",
    "Settled",
    "Staging",
    "Verdict",
]
