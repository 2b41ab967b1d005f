"""Short names, without secrets, for what a database reports."""

from __future__ import annotations

from sqlalchemy.exc import DBAPIError, SQLAlchemyError

_STATES = {
    "28P01": "wrong credentials",
    "28000": "wrong credentials",
    "3D000": "no such database",
    "42501": "permission denied",
    "25006": "read-only database",
    "57014": "timed out",
    "53100": "no space left",
    "53300": "too many connections",
    "57P03": "server is starting or stopping",
}
"""PostgreSQL's SQLSTATE codes."""

_PHRASES = (
    ("password authentication failed", "wrong credentials"),
    ("no password supplied", "wrong credentials"),
    ("does not exist", "no such database or role"),
    ("timeout expired", "timed out"),
    ("onnection timed out", "timed out"),
    ("onnection refused", "connection refused"),
    ("resolve", "unknown host"),
    ("readonly database", "read-only database"),
    ("database is locked", "locked by others for too long"),
    ("unable to open database file", "file cannot be opened"),
    ("disk is full", "no space left"),
    ("malformed", "not a database, or a damaged one"),
    ("not a database", "not a database, or a damaged one"),
    ("server closed the connection", "connection lost"),
    ("connection is lost", "connection lost"),
    ("too many connections", "too many connections"),
)


def reason_of(error: SQLAlchemyError) -> str:
    """A short class of errors. The texts of drivers, which may show statements, parameters and
    connection strings, are searched but not repeated."""
    origin = error.orig if isinstance(error, DBAPIError) else None
    state = getattr(origin, "sqlstate", None)
    if state in _STATES:
        return _STATES[state]
    text = str(origin if origin is not None else error)
    for phrase, reason in _PHRASES:
        if phrase in text:
            return reason
    return type(origin if origin is not None else error).__name__


__all__ = ["reason_of"]
