"""The tables of a database storage, and how older ones become the present ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    func,
    inspect,
    select,
)

VERSION: Final = 1
"""Version of the tables below; one more for each step in MIGRATIONS."""
CHUNK: Final = 1024 * 1024
"""Bytes of a result in one row."""
_ADVISORY: Final = 0x7461736B63616368
"""PostgreSQL's lock that lets one session at a time create or migrate ("taskcach")."""

metadata = MetaData()

schema = Table("taskcache_schema", metadata, Column("version", Integer, primary_key=True))
"""The versions that have been reached; the largest is the present one."""

records = Table(
    "taskcache_records",
    metadata,
    Column("id", Text().with_variant(Text(collation="C"), "postgresql"), primary_key=True),
    Column("key_digest", String(32), nullable=False),
    Column("identity_digest", String(32), nullable=False),
    Column("body", LargeBinary, nullable=False),
)
"""A row for each variant. Keys and identities are indexed by their digest, since they may be
longer than an index allows; ``body`` holds them in full. Ids sort by their bytes."""
by_key = Index("taskcache_records_by_key", records.c.key_digest, records.c.id)
by_identity = Index("taskcache_records_by_identity", records.c.identity_digest, records.c.id)

results = Table(
    "taskcache_results",
    metadata,
    Column("digest", String(32), primary_key=True),
    Column("size", BigInteger, nullable=False),
)
chunks = Table(
    "taskcache_chunks",
    metadata,
    Column("digest", String(32), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("data", LargeBinary, nullable=False),
)
"""The bytes of results, CHUNK at a time, from number 0."""

MIGRATIONS: Final[dict[int, Callable[[Connection], None]]] = {}
"""For each version the step to the next one, run in the transaction that records it."""


class NewerSchemaError(Exception):
    """The tables were made by a newer version of this package."""


def prepare(connection: Connection) -> None:
    """Creates or migrates the tables, in the transaction that is open; does nothing where they
    are up to date. Raises NewerSchemaError."""
    if version_of(connection) == VERSION:
        return
    if connection.dialect.name == "postgresql":
        # With SQLite every transaction that writes excludes the others from its beginning.
        connection.execute(select(func.pg_advisory_xact_lock(_ADVISORY)))
    present = version_of(connection)
    if present is None:
        metadata.create_all(connection)
        connection.execute(schema.insert().values(version=VERSION))
        return
    if present > VERSION:
        raise NewerSchemaError(present)
    for version in range(present, VERSION):
        MIGRATIONS[version](connection)
        connection.execute(schema.insert().values(version=version + 1))


def version_of(connection: Connection) -> int | None:
    """The version that the tables have; None where there are none."""
    if not inspect(connection).has_table(schema.name):
        return None
    version: int | None = connection.execute(select(func.max(schema.c.version))).scalar()
    return version


__all__ = [
    "CHUNK",
    "MIGRATIONS",
    "VERSION",
    "NewerSchemaError",
    "chunks",
    "metadata",
    "prepare",
    "records",
    "results",
    "schema",
    "version_of",
]
