"""Lock managers by name or URL; each adapter is imported when it is asked for."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from pytest_taskcache.errors import ConfigurationError
from pytest_taskcache.locking.secrecy import without_secrets
from pytest_taskcache.ports import LockManager

_KNOWN = (
    'write "memory", "file", a directory, file://DIRECTORY, redis://HOST[:PORT][/DB], '
    "postgresql://[USER@]HOST/DATABASE, or give an object with the methods of a lock manager"
)


def lock_manager_for(
    spec: str | os.PathLike[str] | LockManager, *, directory: Path | None = None
) -> LockManager:
    """The lock manager that a setting stands for: a new object, or the object itself.

    Two objects made from the same spec exclude each other, except for ``"memory"``, whose locks
    are the object's own: whoever resolves a spec twice keeps the first object. ``"file"`` puts the
    locks into ``directory``. ``redis://`` (``rediss://``, ``unix://``) takes the options ``lease``,
    ``heartbeat`` and ``prefix`` beside the client's own, e.g. ``?lease=60&heartbeat=20``.

    Raises ConfigurationError for anything else, and where the adapter's library is missing.
    """
    if isinstance(spec, os.PathLike):
        return _in_directory(Path(spec))
    if not isinstance(spec, str):
        if isinstance(spec, LockManager) and not isinstance(spec, type):
            return spec
        raise _wrong(f"a {type(spec).__name__} is no lock manager")
    if spec == "memory":
        from pytest_taskcache.locking.memory import MemoryLockManager

        return MemoryLockManager()
    if spec == "file":
        if directory is None:
            raise _wrong('"file" needs a directory here')
        return _in_directory(directory)
    scheme, found, _ = spec.partition("://")
    if not found:
        if os.sep in spec or "/" in spec or spec.startswith("."):
            return _in_directory(Path(spec))
        raise _wrong(f"there is no {spec!r}")
    match scheme.lower():
        case "file":
            return _in_directory(_local_path(spec))
        case "redis" | "rediss" | "unix":
            return _on_redis(spec)
        case "postgresql" | "postgres" | "postgresql+psycopg":
            from pytest_taskcache.locking.postgres import PostgresLockManager

            return PostgresLockManager(spec)
        case _:
            raise _wrong(f"there are no locks for {scheme}://")


def _in_directory(directory: Path) -> LockManager:
    from pytest_taskcache.locking.file import FileLockManager

    return FileLockManager(directory)


def _local_path(url: str) -> Path:
    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost") or not parts.path.strip("/"):
        raise _wrong(f"{without_secrets(url)} names no directory; it needs three slashes")
    return Path(unquote(parts.path))


def _on_redis(url: str) -> LockManager:
    from pytest_taskcache.locking import redis

    bare, _, query = url.partition("?")
    own = {"lease": str(redis.LEASE), "heartbeat": str(redis.HEARTBEAT), "prefix": redis.PREFIX}
    rest: list[tuple[str, str]] = []
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name in own:
            own[name] = value
        else:
            rest.append((name, value))
    return redis.RedisLockManager(
        f"{bare}?{urlencode(rest)}" if rest else bare,
        lease=_seconds("lease", own["lease"]),
        heartbeat=_seconds("heartbeat", own["heartbeat"]),
        prefix=own["prefix"],
    )


def _seconds(name: str, value: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise _wrong(f"{name}={value} is not a number of seconds") from None


def _wrong(problem: str) -> ConfigurationError:
    return ConfigurationError("lock_manager", problem, _KNOWN)
