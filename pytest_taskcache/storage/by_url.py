"""Storages by URL, imported when used.

========================================================  =============================
``s3://``, ``gs://``, ``az://``, ``file://``              objects (extra ``objects``)
``postgresql+psycopg://``, ``sqlite:///``                 database (extra ``sql``)
``redis://``, ``rediss://``                               Redis (extra ``redis``)
a scheme that a distribution registers                    its own
``sftp://``, ``memory://`` and all that fsspec knows      fsspec (extra ``fsspec``)
========================================================  =============================

A distribution registers a scheme by an entry point of the group ``pytest_taskcache.storages``:
its name is the scheme, its object a callable that takes the URL and returns a Storage. The
schemes of the first three lines cannot be taken over.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.metadata import entry_points
from typing import NamedTuple, cast

from pytest_taskcache.errors import TaskCacheError
from pytest_taskcache.ports import Storage
from pytest_taskcache.storage.location import Location, is_url, parse_location

GROUP = "pytest_taskcache.storages"


class _Adapter(NamedTuple):
    """The function ``opener`` of ``module``, which needs ``library`` from the extra ``extra``."""

    module: str
    opener: str
    library: str
    extra: str


_OBJECTS = _Adapter("pytest_taskcache.storage.objects", "open_objects", "obstore", "objects")
_DATABASE = _Adapter("pytest_taskcache.storage.database", "open_database", "sqlalchemy", "sql")
_REDIS = _Adapter("pytest_taskcache.storage.redis", "open_redis", "redis", "redis")
_FSSPEC = _Adapter("pytest_taskcache.storage.fsspec", "open_fsspec", "fsspec", "fsspec")

_BUILT_IN = {
    "s3": _OBJECTS,
    "s3a": _OBJECTS,
    "gs": _OBJECTS,
    "az": _OBJECTS,
    "azure": _OBJECTS,
    "file": _OBJECTS,
    "postgresql": _DATABASE,
    "postgresql+psycopg": _DATABASE,
    "postgres": _DATABASE,
    "sqlite": _DATABASE,
    "redis": _REDIS,
    "rediss": _REDIS,
}


def storage_by_url(url: str, setting: str = "storage") -> Storage:
    """The storage that a URL names; it connects when it is first used.

    ``setting`` names where the user wrote the URL. Raises ConfigurationError for what is no URL,
    an unknown scheme or option, and a missing extra; its text holds no password.
    """
    location = parse_location(url, setting)
    adapter = _BUILT_IN.get(location.scheme)
    if adapter is not None:
        return _open(adapter, location)
    registered = entry_points(group=GROUP, name=location.scheme)
    for entry_point in registered:
        try:
            make = cast("Callable[[str], Storage]", entry_point.load())
            return make(url)
        except TaskCacheError:
            raise
        except Exception as error:
            # Whatever a third party's adapter raises, the user needs to know which one it was.
            raise location.error(
                f"the adapter {entry_point.value!r} cannot be loaded ({type(error).__name__})",
                "mend or remove the distribution that registers it",
            ) from None
    return _open(_FSSPEC, location)


def known_schemes() -> tuple[str, ...]:
    """The schemes that are built in or registered; those of fsspec come in addition."""
    return tuple(sorted({*_BUILT_IN, *entry_points(group=GROUP).names}))


def _open(adapter: _Adapter, location: Location) -> Storage:
    try:
        import_module(adapter.library)
    except ImportError:
        problem = f"{adapter.library} is not installed"
        if adapter is _FSSPEC:
            problem = f"unknown scheme {location.scheme!r}, unless fsspec has it; {problem}"
        remedy = f"pip install 'pytest-taskcache[{adapter.extra}]'"
        raise location.missing(problem, remedy) from None
    make = getattr(import_module(adapter.module), adapter.opener)
    return cast("Callable[[Location], Storage]", make)(location)


__all__ = ["GROUP", "is_url", "known_schemes", "storage_by_url"]
