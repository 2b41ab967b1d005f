"""Lock managers by name or URL; each adapter is imported when it is asked for."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import urlencode

from pytest_taskcache.errors import ConfigurationError
from pytest_taskcache.locking.leases import MemoryLockManager
from pytest_taskcache.ports import LockManager
from pytest_taskcache.storage.remote.location import Location, is_url, parse_location

_KNOWN = (
    'write "memory", "file", a directory, file://DIRECTORY, redis://HOST[:PORT][/DB], '
    "postgresql://[USER@]HOST/DATABASE, or give an object with the methods of a lock manager"
)


def lock_manager_for(spec: str | os.PathLike[str] | LockManager) -> LockManager:
    """The lock manager that a setting stands for: a new object, or the object itself.

    Two objects made from the same spec exclude each other, except for ``"memory"``, whose locks
    are the object's own: whoever resolves a spec twice keeps the first object. ``redis://``
    (``rediss://``, ``unix://``) takes the options ``lease``, ``heartbeat`` and ``prefix`` beside
    the client's own, e.g. ``?lease=60&heartbeat=20``. (``"file"`` is made where its directory is
    known.)

    Raises ConfigurationError for anything else, and where the adapter's library is missing.
    """
    if not isinstance(spec, str | os.PathLike):
        if isinstance(spec, LockManager) and not isinstance(spec, type):
            return spec
        raise _wrong(f"a {type(spec).__name__} is no lock manager")
    if spec == "memory":
        return MemoryLockManager()
    if isinstance(spec, str) and is_url(spec):
        location = parse_location(spec, "lock_manager")
        if location.scheme != "file":
            return _on_server(location, spec)
        spec = location.directory()
    elif isinstance(spec, str) and not (os.sep in spec or "/" in spec or spec.startswith(".")):
        raise _wrong(f"there is no {spec!r}")
    from pytest_taskcache.locking.file import FileLockManager

    return FileLockManager(Path(spec))


def _on_server(location: Location, url: str) -> LockManager:
    match location.scheme:
        case "postgresql" | "postgres" | "postgresql+psycopg":
            from pytest_taskcache.locking.postgres import PostgresLockManager

            return PostgresLockManager(url)
        case "redis" | "rediss" | "unix":
            from pytest_taskcache.locking.redis import HEARTBEAT, LEASE, PREFIX, RedisLockManager

            own = {"lease", "heartbeat", "prefix"}
            rest = {name: text for name, text in location.options.items() if name not in own}
            return RedisLockManager(
                f"{location.base}?{urlencode(rest)}" if rest else location.base,
                lease=location.seconds("lease", LEASE),
                heartbeat=location.seconds("heartbeat", HEARTBEAT),
                prefix=location.options.get("prefix", PREFIX),
            )
    raise _wrong(f"there are no locks for {location.scheme}://")


def _wrong(problem: str) -> ConfigurationError:
    return ConfigurationError("lock_manager", problem, _KNOWN)
