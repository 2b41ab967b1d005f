"""A storage URL taken apart: where it leads, its options, and how it is shown to people."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl

from pytest_taskcache.errors import ConfigurationError, MissingExtraError

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://(.*)", re.DOTALL).fullmatch
"""A scheme has two letters at least: ``C://`` is a drive."""
_DURATION = re.compile(r"(\d+(?:\.\d+)?)([smhdw]?)").fullmatch
_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}

_NO_USERINFO = {"s3", "s3a", "gs", "gcs", "az", "azure", "adl", "file", "sqlite"}
"""Schemes whose path may well contain an ``@`` that ends no password."""


@dataclass(frozen=True, slots=True)
class Location:
    """A storage URL. ``base`` is the URL without options and may hold a password; ``shown`` holds
    none and nothing else that is secret. ``setting`` names where the user wrote it."""

    scheme: str
    base: str = field(repr=False)
    options: Mapping[str, str] = field(repr=False)
    shown: str
    setting: str

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
                raise self.error(
                    f"unknown option {name!r}",
                    f"use one of: {', '.join(sorted(known)) or 'none'}",
                )

    def seconds(self, name: str, default: float | None) -> float | None:
        """A duration given as an option (``30``, ``30s``, ``5m``, ``2h``, ``7d``, ``1w``), in
        seconds. Raises ConfigurationError if it is none or not positive."""
        text = self.options.get(name)
        if text is None:
            return default
        match = _DURATION(text)
        value = float(match[1]) * _UNITS[match[2]] if match else 0.0
        if value <= 0:
            raise self.error(f"option {name}: {text!r} is no duration", "write e.g. 30s or 7d")
        return value


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
    plain = scheme.partition("+")[0]
    if plain in _NO_USERINFO:
        host, slash, path = base.partition("/")
        visible = host.rpartition("@")[2] + slash + path
    else:
        visible = re.split(r"[?#]", rest.rpartition("@")[2], maxsplit=1)[0]
    return Location(
        scheme=scheme,
        base=f"{scheme}://{base}",
        options=dict(parse_qsl(query, keep_blank_values=True)),
        shown=f"{scheme}://{visible}",
        setting=setting,
    )


__all__ = ["Location", "is_url", "parse_location"]
