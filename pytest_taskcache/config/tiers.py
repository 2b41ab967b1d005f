"""From what people wrote for a storage to its tiers: what each is, and how it is used.

A spec is a path, a URL, a name of ``[tool.taskcache.storages]``, the word ``local``, or several
of these with modes, nearest first: ``local:rw,s3://bucket/prefix:r``. A remote storage that is
given alone gets the local one in front.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pytest_taskcache.dataclass import dataclass, field, replace
from pytest_taskcache.errors import ConfigurationError
from pytest_taskcache.storage.remote.location import check_place, is_url, parse_location

LOCAL = "local"
_MODED = re.compile(r"^(?P<spec>.*):(?P<mode>rw|wr|r|w)$", re.IGNORECASE | re.DOTALL)
_PATHLIKE = re.compile(r"[/\\.~$]")
_VARIABLE = re.compile(r"\$(\w+|\{\w+\})").search


@dataclass(frozen=True, slots=True)
class TierSpec:
    """One tier as written: what, how it is used, and in which setting it stands."""

    spec: str
    mode: str = "rw"
    setting: str = field(default="storage", compare=False)

    @property
    def remote(self) -> bool:
        """Whether it is a URL, and so trusted with nothing, even where it is a directory."""
        return is_url(self.spec)


def _pieces(text: str) -> Iterator[tuple[str, str]]:
    """The specs between commas, each with the mode behind it, "" if there is none."""
    for piece in map(str.strip, text.split(",")):
        match = _MODED.match(piece)
        yield (match["spec"], match["mode"].lower()) if match else (piece, "")


def find_tiers(text: str, names: Mapping[str, str], setting: str = "storage") -> list[TierSpec]:
    """The tiers of a spec, nearest first, with all names replaced by what they stand for, and the
    local storage in front where a remote one stands alone. Raises ConfigurationError; its text
    shows no URL, which may hold a password."""
    tiers = list(_tiers(text or LOCAL, names, setting, ()))
    if len(tiers) == 1 and tiers[0].remote:
        tiers.insert(0, TierSpec(LOCAL))
    return tiers


def _tiers(
    text: str, names: Mapping[str, str], setting: str, through: tuple[str, ...]
) -> Iterator[TierSpec]:
    for spec, mode in _pieces(text):
        if not spec:
            raise ConfigurationError(
                setting, "a tier is empty", "write e.g. local:rw,s3://bucket/prefix:r"
            )
        if spec not in names:
            if not is_url(spec):
                check_place(spec, setting)
                _check_word(spec, names, setting)
            yield TierSpec(spec, mode or "rw", setting)
            continue
        inner = f"tool.taskcache.storages.{spec}"
        if spec in through:
            chain = " = ".join((*through, spec))
            raise ConfigurationError(inner, f"{chain} goes round", "end it with a URL")
        for one in _tiers(names[spec], names, inner, (*through, spec)):
            # A mode beside a name narrows that of each tier it stands for.
            both = [letter for letter in "rw" if letter in one.mode and letter in (mode or "rw")]
            if both:
                yield replace(one, mode="".join(both))


def _check_word(word: str, names: Mapping[str, str], setting: str) -> None:
    """A mistyped name must not become a directory where there are names to be mistyped."""
    if names and word != LOCAL and not _PATHLIKE.search(word):
        raise ConfigurationError(
            setting,
            f"there is no storage named {word!r}",
            f"use one of {', '.join(sorted(names))}, or write ./{word} for a directory",
        )


def shown(text: str) -> str:
    """A spec as it may be shown: URLs without names, passwords and options."""
    return ",".join(
        (parse_location(spec).shown if is_url(spec) else spec) + (mode and f":{mode}")
        for spec, mode in _pieces(text)
    )


def directory_of(spec: str, root: Path) -> Path:
    """The directory of a tier; a relative one is beneath the root. Raises ConfigurationError."""
    return root / expanded(spec, "storage")


def only_directory(spec: str, root: Path) -> Path | None:
    """The directory that a setting names, if that is all it names. Raises ConfigurationError."""
    tiers = find_tiers(spec, named_storages(root))
    if len(tiers) == 1 and tiers[0].mode == "rw" and tiers[0].spec != LOCAL:
        return directory_of(tiers[0].spec, root)
    return None


def expanded(text: str, setting: str) -> Path:
    """A path as a shell user expects it: ``~`` and variables filled in. Raises ConfigurationError
    where there is no such user or variable."""
    filled = os.path.expandvars(text)
    missing = _VARIABLE(filled)
    if missing:
        raise ConfigurationError(
            setting, f"{text}: {missing[0]} is not set", "set it, or write the whole path"
        )
    try:
        return Path(filled).expanduser()
    except RuntimeError as error:
        raise ConfigurationError(
            setting, f"{text}: nobody of that name has a home here", "write the whole path"
        ) from error


def read_pyproject(root: Path) -> Mapping[str, Any]:
    """The project's pyproject.toml, empty if there is none. Raises ConfigurationError."""
    try:
        with (root / "pyproject.toml").open("rb") as file:
            import tomllib

            return tomllib.load(file)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            "pyproject.toml", f"cannot be read: {error}", "mend it, or name no storages"
        ) from error


def named_storages(root: Path) -> Mapping[str, str]:
    """What ``[tool.taskcache.storages]`` names. Raises ConfigurationError for what is no text."""
    found = _table(project_table(root), "storages")
    for name, spec in found.items():
        if not isinstance(spec, str) or not spec.strip():
            raise ConfigurationError(
                f"tool.taskcache.storages.{name}", f"{spec!r} is no text", "write a path or a URL"
            )
        if name == LOCAL:
            raise ConfigurationError(
                f"tool.taskcache.storages.{name}", "this name is taken", "choose another one"
            )
    return dict(found)


def project_table(root: Path) -> Mapping[str, Any]:
    """The table ``[tool.taskcache]``, empty if there is none. Raises ConfigurationError."""
    return _table(_table(read_pyproject(root), "tool"), "taskcache")


def _table(tables: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = tables.get(name, {})
    if not isinstance(found, dict):
        raise ConfigurationError(
            "pyproject.toml", f"{name!r} is no table", "write [tool.taskcache.storages]"
        )
    return found
