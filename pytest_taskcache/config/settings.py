"""All settings as one frozen value, from the command line, the environment and the ini file."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import timedelta
from enum import StrEnum
from typing import Any

from pytest_taskcache.dataclass import dataclass, field, fields
from pytest_taskcache.errors import ConfigurationError
from pytest_taskcache.model.modes import IsolationLevel, Mode, Refresh
from pytest_taskcache.storage.remote.location import parse_size, parse_span
from pytest_taskcache.transactions.transaction import CommitMode

ENVIRONMENT = "PYTEST_TASKCACHE_"
"""What the names of environment variables begin with."""

INI = "taskcache_"
"""What the names of ini settings begin with."""

PROJECT = "tool.taskcache"
"""The table of pyproject.toml that holds settings, under their short names."""

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


_LONGEST = 5000 * 604800
"""Seconds; about a century."""


def _age(text: str) -> timedelta | None:
    if text.lower() == "never":
        return None
    try:
        seconds = parse_span(text)
    except ValueError as error:
        raise ValueError(f"{error}, or never (for outcomes that do not expire)") from None
    if seconds > _LONGEST:
        raise ValueError("write at most 5000w, or never (for outcomes that do not expire)")
    if not seconds:
        raise ValueError("write a positive time, e.g. 12h, 7d, or never")
    return timedelta(seconds=seconds)


def _choice(kind: type[StrEnum]) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        for member in kind:
            if member.value.lower() == text.lower():
                return member
        raise ValueError(f"use one of {', '.join(kind)}")

    return parse


def _sample(text: str) -> Sample:
    share, _, seed = text.partition("@")
    try:
        percent = float(share.strip().removesuffix("%"))
    except ValueError:
        percent = -1.0
    if not 0 <= percent <= 100:
        raise ValueError("write a percentage between 0 and 100, or e.g. 10@seed")
    return Sample(percent, seed.strip())


def _names(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"[^\s,]+", text))


def _flag(text: str) -> bool:
    if text.lower() in ("1", "true", "yes", "on"):
        return True
    if text.lower() in ("0", "false", "no", "off"):
        return False
    raise ValueError("write true or false")


def _part_of_name(text: str) -> str:
    if not text:
        raise ValueError("write a part of a test's or function's name")
    return text


def _serializer(text: str) -> str:
    from pytest_taskcache.serializers.catalog import serializer_for

    try:
        serializer_for(text)
    except ConfigurationError as error:
        raise ValueError(error.remedy) from error
    return text


def _setting(default: Any, parse: Callable[[str], Any]) -> Any:
    """A setting, and what its text means, without the spaces around it; ValueErrors of ``parse``
    say the remedy."""
    return field(default=default, metadata={"parse": parse})


@dataclass(frozen=True, slots=True)
class Settings:
    """What a run was told. Sizes in bytes; ``tests_max_age`` None means for ever. Storages
    are specs as people write them, resolved when used; "" is the default."""

    mode: Mode = _setting(Mode.READ_WRITE, _choice(Mode))
    tests: Tests = _setting(Tests.MARKED, _choice(Tests))
    collect: Collect = _setting(Collect.AUTO, _choice(Collect))
    storage: str = _setting("", str)
    key_storage: str = _setting("", str)
    result_storage: str = _setting("", str)
    lock_manager: str = _setting("", str)
    isolation: IsolationLevel = _setting(IsolationLevel.AUTO, _choice(IsolationLevel))
    max_size: int = _setting(5_000_000_000, parse_size)
    tests_max_age: timedelta | None = _setting(timedelta(days=7), _age)
    fixtures: tuple[str, ...] = _setting((), _names)
    verify: Sample = _setting(Sample(), _sample)
    serializer: str = _setting("", _serializer)
    expiration: timedelta | None = _setting(None, _age)
    commit: CommitMode | None = _setting(None, _choice(CommitMode))
    namespace: str = _setting("", str)
    read_namespaces: tuple[str, ...] = _setting((), _names)
    trust_remote: bool = _setting(False, _flag)
    explain: Explain = _setting(Explain.NONE, _choice(Explain))
    report: str = _setting("", str)
    dry_run: bool = _setting(False, _flag)
    recheck: bool = _setting(False, _flag)
    refresh: Refresh = field(default_factory=Refresh, metadata={"parse": _flag})


_PARSERS: dict[str, Callable[[str], Any]] = {
    **{each.name: each.metadata["parse"] for each in fields(Settings)},
    "refresh_only": _part_of_name,  # makes a Refresh of both
}

NAMES = tuple(_PARSERS)
"""Short names of all settings."""


@dataclass(frozen=True, slots=True)
class Sources:
    """Where settings come from, strongest first. Each maps short names (``mode``) to text.

    ``project`` is ``[tool.taskcache]`` of pyproject.toml, see `project_settings`.
    """

    options: Mapping[str, str] = field(default_factory=dict)
    environ: Mapping[str, str] = field(default_factory=dict)
    ini: Mapping[str, str] = field(default_factory=dict)
    project: Mapping[str, str] = field(default_factory=dict)

    def find(self, name: str) -> tuple[str, str] | None:
        """Where the strongest source has it (``--cache-mode``, ``taskcache_mode``, ...), and as
        written there; None if none has."""
        if name in self.options:
            option = "explain_of" if name == "explain" else name
            return f"--cache-{option.replace('_', '-')}", self.options[name]
        variable = ENVIRONMENT + name.upper()
        others = (
            (variable, self.environ.get(variable)),
            (INI + name, self.ini.get(name)),
            (f"{PROJECT}.{name}", self.project.get(name)),
        )
        return next(((where, text) for where, text in others if text), None)


def project_settings(table: Mapping[str, Any]) -> Mapping[str, str]:
    """The settings of ``[tool.taskcache]`` as text: lists one item a line, true and false.
    Raises ConfigurationError for a name that there is none of, and for what is no text, number,
    truth or list of texts."""
    found = {}
    for name, value in table.items():
        if name == "storages":  # a table of its own
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
            where, text = written
            try:
                values[name] = parse(text.strip())
            except ValueError as error:
                raise ConfigurationError(where, f"{text!r} cannot be used", str(error)) from error
    everything, only = values.pop("refresh", False), values.pop("refresh_only", "")
    settings = Settings(**values, refresh=Refresh(everything, only))
    _check(settings, sources)
    return settings


def _check(settings: Settings, sources: Sources) -> None:
    refresh, mode = settings.refresh, settings.mode
    if refresh.everything and refresh.pattern:
        both = [each[0] for each in map(sources.find, ("refresh", "refresh_only")) if each]
        raise ConfigurationError(" and ".join(both), "contradict each other", "give one of them")
    either = "rw, or leave one of them out"
    for name, asked, useless, problem, right in (
        ("refresh", refresh.everything, Mode.READ, "cannot overwrite anything", either),
        ("refresh_only", refresh.pattern, Mode.READ, "cannot overwrite anything", either),
        ("verify", settings.verify.percent, Mode.WRITE, "has no hits to verify", "rw or r"),
        ("dry_run", settings.dry_run, Mode.WRITE, "has no record to look up", "rw or r"),
        ("recheck", settings.recheck, Mode.WRITE, "has no cached values to recheck", "rw or r"),
    ):
        written = sources.find(name)
        if asked and written is not None and mode in (useless, Mode.OFF):
            raise ConfigurationError(
                written[0], f"{problem} with mode {mode.value!r}", f"use --cache-mode={right}"
            )
    written = sources.find("storage")
    if written is not None and settings.key_storage and settings.result_storage:
        raise ConfigurationError(
            written[0],
            "key_storage and result_storage are both given too",
            "leave one of the three out",
        )
