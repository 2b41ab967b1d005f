"""All settings as one frozen value, from the command line, the environment and the ini file."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import timedelta
from enum import StrEnum
from typing import Any

from pytest_taskcache.dataclass import dataclass, field
from pytest_taskcache.errors import ConfigurationError
from pytest_taskcache.model.modes import IsolationLevel, Mode, Refresh
from pytest_taskcache.transactions.transaction import CommitMode

ENVIRONMENT = "PYTEST_TASKCACHE_"
"""What the names of environment variables begin with."""

INI = "taskcache_"
"""What the names of ini settings begin with."""

PROJECT = "tool.taskcache"
"""The table of pyproject.toml that holds settings, under their short names."""

_TABLES = frozenset({"storages"})
"""What else stands in that table."""

SIGNING_KEY = ENVIRONMENT + "SIGNING_KEY"
"""Read from the environment only: a key has no place in a file or on a command line."""


class Tests(StrEnum):
    """Whose outcomes are cached."""

    MARKED = "marked"
    ALL = "all"
    NONE = "none"


class Explain(StrEnum):
    """Whose decisions are explained in the terminal."""

    NONE = "none"
    MISSES = "misses"
    HIT = "hit"
    REFUSED = "refused"
    ALL = "all"


WHOLE = (Explain.HIT, Explain.ALL)
"""What needs to be told of hits, too."""


class Collect(StrEnum):
    """Whether test files may be stood in for by the record of their collection."""

    AUTO = "auto"
    REAL = "real"


@dataclass(frozen=True, slots=True)
class Sample:
    """A share of the hits, in percent; with the same seed the same ones."""

    percent: float = 0.0
    seed: str = ""


@dataclass(frozen=True, slots=True)
class Settings:
    """What a run was told. Sizes in bytes; ``tests_max_age`` None means for ever. Storages
    are specs as people write them, resolved when used; "" is the default."""

    mode: Mode = Mode.READ_WRITE
    tests: Tests = Tests.MARKED
    collect: Collect = Collect.AUTO
    storage: str = ""
    key_storage: str = ""
    result_storage: str = ""
    lock_manager: str = ""
    isolation: IsolationLevel = IsolationLevel.AUTO
    max_size: int = 5_000_000_000
    tests_max_age: timedelta | None = timedelta(days=7)
    fixtures: tuple[str, ...] = ()
    verify: Sample = field(default_factory=Sample)
    refresh: Refresh = field(default_factory=Refresh)
    serializer: str = ""
    expiration: timedelta | None = None
    commit: CommitMode | None = None
    namespace: str = ""
    read_namespaces: tuple[str, ...] = ()
    trust_remote: bool = False
    explain: Explain = Explain.NONE
    report: str = ""
    dry_run: bool = False
    recheck: bool = False


@dataclass(frozen=True, slots=True)
class Written:
    """One value as written, and where: ``--cache-mode``, ``taskcache_mode``, ..."""

    where: str
    text: str


@dataclass(frozen=True, slots=True)
class Sources:
    """Where settings come from, strongest first. Each maps short names (``mode``) to text.

    ``project`` is ``[tool.taskcache]`` of pyproject.toml, see `project_settings`.
    """

    options: Mapping[str, str] = field(default_factory=dict)
    environ: Mapping[str, str] = field(default_factory=dict)
    ini: Mapping[str, str] = field(default_factory=dict)
    project: Mapping[str, str] = field(default_factory=dict)

    def find(self, name: str) -> Written | None:
        """The strongest source's value, or None."""
        if name in self.options:
            option = "explain_of" if name == "explain" else name
            return Written(f"--cache-{option.replace('_', '-')}", self.options[name])
        variable = ENVIRONMENT + name.upper()
        if self.environ.get(variable):
            return Written(variable, self.environ[variable])
        if self.ini.get(name):
            return Written(INI + name, self.ini[name])
        if self.project.get(name):
            return Written(f"{PROJECT}.{name}", self.project[name])
        return None


_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_LARGEST = 10**18
"""Bytes; fits SQLite's integers."""
_LONGEST = 5000 * 604800
"""Seconds; about a century."""
_SPANS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def _choice(kind: type[StrEnum]) -> Callable[[Written], Any]:
    def parse(written: Written) -> Any:
        for member in kind:
            if member.value.lower() == written.text.strip().lower():
                return member
        raise _wrong(written, f"use one of {', '.join(kind)}")

    return parse


def _text(written: Written) -> str:
    return written.text.strip()


def _size(written: Written) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?i?b?)", written.text.strip().lower())
    unit = match.group(2) if match else "?"
    factor = _UNITS.get(unit.replace("i", "") if unit in ("kib", "mib", "gib", "tib") else unit)
    if match is None or factor is None:
        raise _wrong(written, "write a number of bytes, or e.g. 500MB, 5GB")
    if "i" in unit:
        factor = 1024 ** (" kmgt".index(unit[0]))
    size = float(match.group(1)) * factor
    if size > _LARGEST:
        raise _wrong(written, "no disk is that large; write e.g. 500MB, 5GB")
    return int(size)


def _age(written: Written) -> timedelta | None:
    text = written.text.strip().lower()
    if text == "never":
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhdw])", text)
    if match is None:
        raise _wrong(written, "write e.g. 12h, 7d, 2w, or never (for outcomes that do not expire)")
    seconds = float(match.group(1)) * _SPANS[match.group(2)]
    if seconds > _LONGEST:
        raise _wrong(written, "write at most 5000w, or never (for outcomes that do not expire)")
    if not seconds:
        raise _wrong(written, "write a positive time, e.g. 12h, 7d, or never")
    return timedelta(seconds=seconds)


def _sample(written: Written) -> Sample:
    share, _, seed = written.text.strip().partition("@")
    try:
        percent = float(share.strip().removesuffix("%"))
    except ValueError:
        percent = -1.0
    if not 0 <= percent <= 100:
        raise _wrong(written, "write a percentage between 0 and 100, or e.g. 10@seed")
    return Sample(percent, seed.strip())


def _names(written: Written) -> tuple[str, ...]:
    return tuple(name for name in re.split(r"[\s,]+", written.text) if name)


def _flag(written: Written) -> bool:
    text = written.text.strip().lower()
    if text in ("1", "true", "yes", "on"):
        return True
    if text in ("0", "false", "no", "off"):
        return False
    raise _wrong(written, "write true or false")


def _serializer(written: Written) -> str:
    from pytest_taskcache.serializers.catalog import serializer_for

    try:
        serializer_for(written.text.strip())
    except ConfigurationError as error:
        raise _wrong(written, error.remedy) from error
    return written.text.strip()


_PARSERS: dict[str, Callable[[Written], Any]] = {
    "mode": _choice(Mode),
    "tests": _choice(Tests),
    "collect": _choice(Collect),
    "storage": _text,
    "key_storage": _text,
    "result_storage": _text,
    "lock_manager": _text,
    "isolation": _choice(IsolationLevel),
    "max_size": _size,
    "tests_max_age": _age,
    "fixtures": _names,
    "verify": _sample,
    "serializer": _serializer,
    "expiration": _age,
    "commit": _choice(CommitMode),
    "namespace": _text,
    "read_namespaces": _names,
    "trust_remote": _flag,
    "explain": _choice(Explain),
    "report": _text,
    "dry_run": _flag,
    "recheck": _flag,
}

NAMES = (*_PARSERS, "refresh", "refresh_only")
"""Short names of all settings."""


def project_settings(table: Mapping[str, Any]) -> Mapping[str, str]:
    """The settings of ``[tool.taskcache]`` as text: lists one item a line, true and false.
    Raises ConfigurationError for a name that there is none of, and for what is no text, number,
    truth or list of texts."""
    found = {}
    for name, value in table.items():
        if name in _TABLES:
            continue
        where = f"{PROJECT}.{name}"
        if name not in NAMES:
            raise ConfigurationError(
                where, "there is no such setting", f"use one of {', '.join(NAMES)}"
            )
        if isinstance(value, list) and all(isinstance(each, str) for each in value):
            found[name] = "\n".join(value)
        elif isinstance(value, bool):
            found[name] = str(value).lower()
        elif isinstance(value, str | int | float):
            found[name] = str(value)
        else:
            raise ConfigurationError(
                where, f"{value!r} cannot be used", "write a text, a number, true, false or a list"
            )
    return found


def read_settings(sources: Sources) -> Settings:
    """The settings of a run. Raises ConfigurationError that names where a bad value stands,
    for unknown variables, and for values that contradict each other."""
    for variable in sources.environ:
        name = variable.removeprefix(ENVIRONMENT).lower()
        if variable.startswith(ENVIRONMENT) and variable != SIGNING_KEY and name not in NAMES:
            known = ", ".join(ENVIRONMENT + known.upper() for known in NAMES)
            raise ConfigurationError(variable, "there is no such setting", f"use one of {known}")
    values: dict[str, Any] = {}
    for name, parse in _PARSERS.items():
        written = sources.find(name)
        if written is not None:
            values[name] = parse(written)
    settings = Settings(**values, refresh=_refresh(sources))
    _check(settings, sources)
    return settings


def _refresh(sources: Sources) -> Refresh:
    everything, only = sources.find("refresh"), sources.find("refresh_only")
    pattern = only.text.strip() if only is not None else ""
    if only is not None and not pattern:
        raise _wrong(only, "write a part of a test's or function's name")
    if everything is not None and _flag(everything):
        if only is not None:
            raise ConfigurationError(
                f"{everything.where} and {only.where}", "contradict each other", "give one of them"
            )
        return Refresh(everything=True)
    return Refresh(pattern=pattern)


def _check(settings: Settings, sources: Sources) -> None:
    refreshing = settings.refresh.everything or settings.refresh.pattern
    if refreshing and settings.mode in (Mode.READ, Mode.OFF):
        raise ConfigurationError(
            "--cache-refresh",
            f"cannot overwrite anything with mode {settings.mode.value!r}",
            "use --cache-mode=rw, or leave one of them out",
        )
    for name, asked, what in (
        ("verify", settings.verify.percent, "hits to verify"),
        ("dry_run", settings.dry_run, "record to look up"),
        ("recheck", settings.recheck, "cached values to recheck"),
    ):
        written = sources.find(name)
        if asked and written is not None and settings.mode in (Mode.WRITE, Mode.OFF):
            raise ConfigurationError(
                written.where,
                f"has no {what} with mode {settings.mode.value!r}",
                "use --cache-mode=rw or r",
            )
    split = settings.key_storage or settings.result_storage
    written = sources.find("storage")
    if split and written is not None and settings.key_storage and settings.result_storage:
        raise ConfigurationError(
            written.where,
            "key_storage and result_storage are both given too",
            "leave one of the three out",
        )


def _wrong(written: Written, remedy: str) -> ConfigurationError:
    return ConfigurationError(written.where, f"{written.text!r} cannot be used", remedy)
