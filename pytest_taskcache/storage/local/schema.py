"""The tables of the local index, and the steps from each version of them to the next."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from functools import partial
from sqlite3 import Connection
from typing import TypeVar

T = TypeVar("T")

APPLICATION = 0x7463_6163  # "tcac": tells our databases from others
BUSY_SECONDS = 10.0
OLDEST = 5
"""Indexes of versions before this one are emptied rather than converted: it is a cache."""

# AUTOINCREMENT wherever other processes remember ids: an id must never come to mean another row.
# What is believed carries a checksum (`encoding`); text is stored as bytes, because file names may
# hold what SQLite's text cannot. A variant is staged as long as it has a state, then committed.
_VERSION_5 = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE shared (
    id INTEGER PRIMARY KEY AUTOINCREMENT, name BLOB NOT NULL UNIQUE, body BLOB NOT NULL
);
CREATE TABLE uses (
    trace INTEGER NOT NULL, digest TEXT NOT NULL, size INTEGER NOT NULL,
    PRIMARY KEY (trace, digest)
) WITHOUT ROWID;
CREATE TABLE small_results (digest TEXT PRIMARY KEY, data BLOB NOT NULL);
CREATE TABLE variants (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, used REAL NOT NULL,
    state TEXT NOT NULL DEFAULT '', run TEXT, producer BLOB, destination BLOB,
    held INTEGER, retryable INTEGER, retained_for BLOB, retained_at REAL,
    id BLOB NOT NULL UNIQUE, key BLOB NOT NULL, identity BLOB NOT NULL,
    created REAL NOT NULL, expires REAL,
    trace INTEGER NOT NULL, common INTEGER NOT NULL, inline BLOB, body BLOB NOT NULL
);
CREATE INDEX variants_key ON variants (key);
CREATE INDEX variants_identity ON variants (identity, created);
CREATE INDEX variants_staged ON variants (run, producer) WHERE state != '';
CREATE TABLE claims (
    id BLOB NOT NULL, claimant BLOB NOT NULL, run TEXT NOT NULL, PRIMARY KEY (id, claimant)
) WITHOUT ROWID;
CREATE INDEX claims_claimant ON claims (claimant);
CREATE TABLE derives (
    id BLOB NOT NULL, source BLOB NOT NULL, PRIMARY KEY (id, source)
) WITHOUT ROWID;
CREATE INDEX derives_source ON derives (source);
CREATE TABLE refs (
    digest TEXT NOT NULL, id BLOB NOT NULL, size INTEGER NOT NULL, PRIMARY KEY (digest, id)
) WITHOUT ROWID;
CREATE INDEX refs_id ON refs (id);
CREATE TABLE pins (
    digest TEXT NOT NULL, run TEXT NOT NULL, since REAL NOT NULL, PRIMARY KEY (digest, run)
) WITHOUT ROWID;
CREATE TABLE locks (
    key BLOB PRIMARY KEY, run TEXT NOT NULL, process TEXT NOT NULL, token INTEGER NOT NULL,
    holder TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE shelf (
    section TEXT NOT NULL, name BLOB NOT NULL, item BLOB NOT NULL, PRIMARY KEY (section, name)
) WITHOUT ROWID;
CREATE TABLE removals (
    identity BLOB PRIMARY KEY, reason TEXT NOT NULL, at REAL NOT NULL
) WITHOUT ROWID;
"""

STEPS: tuple[str, ...] = (_VERSION_5,)
"""``STEPS[n]`` takes an index of version OLDEST + n - 1 to OLDEST + n, the first an empty one."""

VERSION = OLDEST + len(STEPS) - 1
_TABLES = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"


def version_of(connection: Connection) -> int:
    """The index's schema version; 0 for an empty database. Raises sqlite3.Error. A database that
    some other program made raises sqlite3.DatabaseError as a corrupt one does."""
    # One statement, since another process may be creating the tables right now.
    version, application, tables = connection.execute(
        "SELECT user_version, application_id, (SELECT count(*) FROM sqlite_schema)"
        " FROM pragma_user_version, pragma_application_id"
    ).fetchone()
    if application == APPLICATION:
        return int(version)
    if tables or version:
        error = sqlite3.DatabaseError("not an index of ours")
        error.sqlite_errorcode = sqlite3.SQLITE_NOTADB
        raise error
    return 0


def migrate(connection: Connection, steps: Sequence[str] = STEPS) -> None:
    """Brings the index to version ``OLDEST + len(steps) - 1``, each step with its version in a
    transaction of its own; does nothing to one that is there already. Raises sqlite3.Error."""
    newest = OLDEST + len(steps) - 1
    while (version := version_of(connection)) < newest:
        if version == 0:
            # Only an empty database takes this; it lets the file shrink after pruning.
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        in_transaction(connection, partial(_step, version=version, steps=steps))


def _step(connection: Connection, version: int, steps: Sequence[str]) -> None:
    if version_of(connection) != version:
        return  # another process was first
    target = max(version + 1, OLDEST)
    if target == OLDEST:
        for (name,) in connection.execute(_TABLES).fetchall():
            connection.execute(f"DROP TABLE {name}")
    for statement in filter(str.strip, steps[target - OLDEST].split(";")):
        connection.execute(statement)
    connection.execute(f"PRAGMA application_id = {APPLICATION}")
    connection.execute(f"PRAGMA user_version = {target}")


def in_transaction(
    connection: Connection, work: Callable[[Connection], T], begin: str = "BEGIN IMMEDIATE"
) -> T:
    """What ``work`` returns, once all that it did is committed; on any error nothing is."""
    connection.execute(begin)
    try:
        found = work(connection)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return found
