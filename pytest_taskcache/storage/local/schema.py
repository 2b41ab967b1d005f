"""The tables of the local index, and the steps from each version of them to the next."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

APPLICATION = 0x7463_6163  # "tcac": tells our databases from others
BUSY_SECONDS = 10.0

# AUTOINCREMENT wherever other processes remember ids: an id must never come to mean another row.
# `hash` columns stand in for unique indexes on long text, at a fifth of the space.
_VERSION_1 = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE atoms (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    hash INTEGER NOT NULL,
    kind TEXT NOT NULL,
    name BLOB NOT NULL,
    digest TEXT NOT NULL
);
CREATE INDEX atoms_hash ON atoms (hash);
CREATE TABLE traces (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    digest BLOB NOT NULL UNIQUE,
    atoms BLOB NOT NULL
);
CREATE TABLE variants (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id BLOB NOT NULL UNIQUE,
    key BLOB NOT NULL,
    identity BLOB NOT NULL,
    created REAL NOT NULL,
    expires REAL,
    used REAL NOT NULL,
    trace INTEGER NOT NULL,
    inline BLOB,
    body BLOB NOT NULL
);
CREATE INDEX variants_key ON variants (key);
CREATE INDEX variants_identity ON variants (identity, created);
CREATE TABLE staged (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    run TEXT NOT NULL,
    producer BLOB NOT NULL,
    destination BLOB NOT NULL,
    held INTEGER NOT NULL,
    retryable INTEGER NOT NULL,
    hidden INTEGER NOT NULL DEFAULT 0,
    approved INTEGER NOT NULL DEFAULT 0,
    poisoned INTEGER NOT NULL DEFAULT 0,
    decided INTEGER NOT NULL DEFAULT 0,
    retained_for BLOB NOT NULL DEFAULT x'',
    retained_at REAL,
    id BLOB NOT NULL UNIQUE,
    key BLOB NOT NULL,
    identity BLOB NOT NULL,
    created REAL NOT NULL,
    expires REAL,
    trace INTEGER NOT NULL,
    inline BLOB,
    body BLOB NOT NULL
);
CREATE INDEX staged_key ON staged (key);
CREATE INDEX staged_producer ON staged (producer);
CREATE TABLE claims (
    id BLOB NOT NULL,
    claimant BLOB NOT NULL,
    run TEXT NOT NULL,
    PRIMARY KEY (id, claimant)
) WITHOUT ROWID;
CREATE INDEX claims_claimant ON claims (claimant);
CREATE TABLE derives (
    id BLOB NOT NULL,
    source BLOB NOT NULL,
    PRIMARY KEY (id, source)
) WITHOUT ROWID;
CREATE INDEX derives_source ON derives (source);
CREATE TABLE refs (
    digest TEXT NOT NULL,
    id BLOB NOT NULL,
    size INTEGER NOT NULL,
    PRIMARY KEY (digest, id)
) WITHOUT ROWID;
CREATE INDEX refs_id ON refs (id);
CREATE TABLE pins (
    digest TEXT NOT NULL,
    run TEXT NOT NULL,
    since REAL NOT NULL,
    PRIMARY KEY (digest, run)
) WITHOUT ROWID;
CREATE TABLE shelf (
    section TEXT NOT NULL,
    name BLOB NOT NULL,
    item BLOB NOT NULL,
    PRIMARY KEY (section, name)
) WITHOUT ROWID;
INSERT INTO meta VALUES ('generation', 0), ('scanned', 0.0);
"""

# A trace may be kept as the places where it differs from another one, its base.
_VERSION_2 = """
ALTER TABLE traces ADD COLUMN base INTEGER;
CREATE INDEX traces_base ON traces (base) WHERE base IS NOT NULL;
"""

STEPS: tuple[str, ...] = (_VERSION_1, _VERSION_2)
"""``STEPS[n]`` takes an index of version n to version n + 1; an empty file has version 0."""


def version_of(connection: sqlite3.Connection) -> int:
    """The index's schema version; 0 for an empty database. Raises sqlite3.Error.

    A database that some other program made raises sqlite3.DatabaseError as a corrupt one does.
    """
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


def migrate(connection: sqlite3.Connection, steps: Sequence[str] = STEPS) -> None:
    """Brings the index to version ``len(steps)``, each step with its version in a transaction of
    its own; does nothing to one that is there already. Raises sqlite3.Error."""
    while (version := version_of(connection)) < len(steps):
        if version == 0:
            # Only an empty database takes this; it lets the file shrink after pruning.
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        connection.execute("BEGIN IMMEDIATE")
        try:
            if version_of(connection) == version:
                for statement in steps[version].split(";"):
                    if statement.strip():
                        connection.execute(statement)
                connection.execute(f"PRAGMA application_id = {APPLICATION}")
                connection.execute(f"PRAGMA user_version = {version + 1}")
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise


__all__ = ["APPLICATION", "BUSY_SECONDS", "STEPS", "migrate", "version_of"]
