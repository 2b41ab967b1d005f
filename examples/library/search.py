"""A full-text index of the library, in SQLite's FTS5."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from corpus import sources


def build_index(path: Path) -> int:
    """Writes the index to a new file; how many modules are in it."""
    with sqlite3.connect(path) as database:
        database.execute("CREATE VIRTUAL TABLE modules USING fts5(name, text, tokenize='porter')")
        database.executemany("INSERT INTO modules VALUES (?, ?)", sources())
        database.execute("INSERT INTO modules(modules) VALUES ('optimize')")
        (count,) = database.execute("SELECT count(*) FROM modules").fetchone()
    database.close()
    return int(count)


def find(path: Path, words: str, limit: int = 10) -> list[str]:
    """The names of the modules that fit the words best."""
    database = sqlite3.connect(path)
    try:
        rows = database.execute(
            "SELECT name FROM modules WHERE modules MATCH ? ORDER BY rank LIMIT ?", (words, limit)
        )
        return [name for (name,) in rows]
    finally:
        database.close()
