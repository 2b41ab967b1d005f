"""Storages by URL: what a URL says, how it is shown to people, and who opens it.

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

import re
from collections.abc import Collection, Mapping
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from urllib.parse import parse_qsl, unquote

from pytest_taskcache.dataclass import dataclass, field
from pytest_taskcache.errors import ConfigurationError, MissingExtraError, TaskCacheError
from pytest_taskcache.ports import Storage

GROUP = "pytest_taskcache.storages"
LIMITS = ("older_than", "unused", "max_size")
"""Options that any URL may have: what goes when the storage is pruned."""

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://(.*)", re.DOTALL).fullmatch
"""A scheme has two letters at least: ``C://`` is a drive."""
_ONE_SLASH = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/(?!/)").match
_LARGEST = 10**18
"""Bytes; fits SQLite's integers."""
_SPANS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}

_NO_USERINFO = {"s3", "s3a", "gs", "gcs", "az", "azure", "adl", "file", "sqlite"}
"""Schemes whose path may well contain an ``@`` that ends no password."""

_OBJECTS = ("obstore_blobs", "ObstoreBlobs", "obstore", "objects")
_DATABASE = ("sql_blobs", "SqlBlobs", "sqlalchemy", "sql")
_REDIS = ("redis_blobs", "RedisBlobs", "redis", "redis")
_FSSPEC = ("fsspec_blobs", "FsspecBlobs", "fsspec", "fsspec")
"""Module and class of an adapter, the library it needs, and the extra that installs it."""

_BUILT_IN = {
    **dict.fromkeys(("s3", "s3a", "gs", "az", "azure", "file"), _OBJECTS),
    **dict.fromkeys(("postgresql", "postgresql+psycopg", "postgres", "sqlite"), _DATABASE),
    **dict.fromkeys(("redis", "rediss"), _REDIS),
}


@dataclass(frozen=True, slots=True)
class Location:
    """A storage URL. ``base`` is the URL without options and may hold a password; ``shown`` holds
    none and nothing else that is secret. ``limits`` are the options that say what is pruned.
    ``setting`` names where the user wrote it."""

    scheme: str
    base: str = field(repr=False)
    options: Mapping[str, str] = field(repr=False)
    shown: str
    setting: str
    limits: Mapping[str, str] = field(default_factory=dict)

    def error(self, problem: str, remedy: str) -> ConfigurationError:
        """The error to raise about this URL; shows no secret of it."""
        return ConfigurationError(self.setting, f"{self.shown}: {problem}", remedy)

    def missing(self, problem: str, remedy: str) -> MissingExtraError:
        """The error to raise where a library is not installed; shows no secret of the URL."""
        return MissingExtraError(self.setting, f"{self.shown}: {problem}", remedy)

    def expect(self, known: Collection[str]) -> None:
        """Raises ConfigurationError if there is an option that is not known."""
        for name in self.options:
            if name not in known:
                remedy = f"use one of: {', '.join(sorted(known)) or 'none'}"
                raise self.error(f"unknown option {name!r}", remedy)

    def seconds(self, name: str, default: float) -> float:
        """A duration given as an option (``30``, ``30s``, ``5m``, ``2h``, ``7d``, ``1w``), in
        seconds. Raises ConfigurationError if it is none or not positive."""
        text = self.options.get(name, self.limits.get(name))
        if text is None:
            return default
        value = 0.0
        with suppress(ValueError):
            value = parse_span(f"{text}s" if text[-1:].isdigit() else text)
        if value <= 0:
            raise self.error(f"option {name}: {text!r} is no duration", "write e.g. 30s or 7d")
        return value

    def directory(self) -> Path:
        """The absolute directory that a ``file://`` URL names. Raises ConfigurationError."""
        path = unquote(self.base.removeprefix("file://"))
        if not path.startswith("/") or not path.strip("/"):
            raise self.error("a file URL names an absolute directory", "write file:///directory")
        return Path(path)


def parse_size(text: str) -> int:
    """The bytes of ``500MB``, ``5G`` or ``1.5 GiB``. Raises ValueError, which says the remedy."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(?:([kmgt])(i?)b?|b?)", text.strip().lower())
    if match is None:
        raise ValueError("write a number of bytes, or e.g. 500MB, 5GB")
    number, unit, binary = match.groups()
    size = float(number) * (1024 if binary else 1000) ** " kmgt".index(unit or " ")
    if size > _LARGEST:
        raise ValueError("no disk is that large; write e.g. 500MB, 5GB")
    return int(size)


def parse_span(text: str) -> float:
    """The seconds of ``12h``, ``7d`` or ``2w``. Raises ValueError, which says the remedy."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhdw])", text.strip().lower())
    if match is None:
        raise ValueError("write e.g. 12h, 7d, 2w")
    return float(match[1]) * _SPANS[match[2]]


def shown(url: str) -> str:
    """A URL as people may see it: without user, password and options."""
    return parse_location(url).shown if is_url(url) else "what is no URL"


def is_url(text: str) -> bool:
    """Whether a text has the form of a URL (``scheme://...``), known or not."""
    return _URL(text) is not None


def parse_location(url: str, setting: str = "storage") -> Location:
    """The parts of a storage URL. Raises ConfigurationError if it is no URL.

    The last ``@`` ends the user's name and password, even where an unescaped ``/`` or ``?`` in
    the password makes other parsers see a path: what is shown must not depend on the care with
    which a secret was escaped.
    """
    match = _URL(url)
    if match is None:
        raise ConfigurationError(setting, "it is not a URL", "write scheme://..., e.g. s3://bucket")
    scheme, rest = match[1].lower(), match[2]
    base, _, query = rest.partition("#")[0].partition("?")
    if scheme.partition("+")[0] in _NO_USERINFO:
        host, slash, path = base.partition("/")
        visible = host.rpartition("@")[2] + slash + path
    else:
        visible = re.split(r"[?#]", rest.rpartition("@")[2], maxsplit=1)[0]
    options = dict(parse_qsl(query, keep_blank_values=True))
    limits = {name: options.pop(name) for name in LIMITS if name in options}
    return Location(scheme, f"{scheme}://{base}", options, f"{scheme}://{visible}", setting, limits)


def check_place(text: str, setting: str) -> None:
    """Raises ConfigurationError for a URL whose scheme nobody has but one is near to, and for what
    was meant to be one but has one slash, among places separated by commas. Nothing is opened, and
    what else may be wrong is told by whoever opens it."""
    for place in map(str.strip, text.split(",")):
        if slip := _ONE_SLASH(place):
            remedy = f"write {slip[1]}://..., or ./{slip[1]}:/... for a directory"
            raise ConfigurationError(setting, f"{slip[1]}:/... is no URL", remedy)
        if is_url(place):
            _check_scheme(parse_location(place, setting))


def _check_scheme(location: Location) -> None:
    from difflib import get_close_matches

    near = get_close_matches(location.scheme, _BUILT_IN, cutoff=0.7)
    if not near or location.scheme in _BUILT_IN:
        return
    from importlib.metadata import entry_points  # slow to import, and rarely needed

    known = {each.name for each in entry_points(group=GROUP)}
    with suppress(ImportError):
        from fsspec.registry import known_implementations, registry

        known |= {*known_implementations, *registry}
    if location.scheme not in known:
        problem = f"unknown scheme {location.scheme!r}"
        raise location.error(problem, f"did you mean {near[0]}://?")


def storage_by_url(url: str, setting: str = "storage") -> Storage:
    """The storage that a URL names; it connects when it is first used.

    ``setting`` names where the user wrote the URL. Raises ConfigurationError for what is no URL,
    an unknown scheme or option, and a missing extra; its text holds no password.
    """
    location = parse_location(url, setting)
    adapter = _BUILT_IN.get(location.scheme)
    if adapter is None:
        from importlib.metadata import entry_points  # slow to import, and rarely needed

        for entry_point in entry_points(group=GROUP, name=location.scheme):
            try:
                made: Storage = entry_point.load()(url)
            except TaskCacheError:
                raise
            except Exception as error:
                # Whatever a third party's adapter raises, the user needs to know which one.
                what = f"{entry_point.value!r} cannot be loaded ({type(error).__name__})"
                remedy = "mend or remove the distribution that registers it"
                raise location.error(f"the adapter {what}", remedy) from None
            return made
    module, name, library, extra = adapter or _FSSPEC
    try:
        import_module(library)
    except ImportError:
        problem = f"{library} is not installed"
        if library == "fsspec":
            problem = f"unknown scheme {location.scheme!r}, unless fsspec has it; {problem}"
        raise location.missing(problem, f"pip install 'pytest-taskcache[{extra}]'") from None
    from pytest_taskcache.storage.remote.store import RemoteStore

    adapter = getattr(import_module(f"pytest_taskcache.storage.remote.{module}"), name)
    return RemoteStore(adapter(location))
