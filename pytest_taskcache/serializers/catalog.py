"""Serializers by name: those a user writes in a setting, and those a record was written with."""

from __future__ import annotations

import re
from importlib import import_module

from pytest_taskcache.errors import ConfigurationError
from pytest_taskcache.ports import Serializer

SETTING = "serializer"

_COMPRESSED = re.compile(r"compressed(?:\(([^()]+)\))?(?:\+(.*))?").fullmatch
_HOMES = {
    "json": ("json", "JSONSerializer"),
    "pickle": ("pickle", "PickleSerializer"),
    "tree": ("trees", "TreeSerializer"),
    "compressed": ("compressed", "CompressedSerializer"),
}
"""Module and class by name; imported when they are used."""

_accepted: set[type] = set()
"""Types that were seen to have the protocol: looking takes longer than a small value's use."""


def serializer_for(spec: str | Serializer) -> Serializer:
    """The serializer that a setting means. ``spec`` is an object with the protocol, which is
    returned as it is, or a name: ``pickle``, ``json``, ``tree``, ``compressed`` (zlib over pickle),
    ``compressed(bz2)``, ``compressed(zstd)+json``. Raises ConfigurationError."""
    if isinstance(spec, str):
        return by_name(spec)
    if type(spec) in _accepted:
        return spec
    if isinstance(spec, type):
        raise ConfigurationError(
            SETTING, f"{spec.__name__} is a class", f"write {spec.__name__}(), an object of it"
        )
    if isinstance(spec, Serializer):
        _accepted.add(type(spec))
        return spec
    raise ConfigurationError(
        SETTING,
        f"a {type(spec).__qualname__} is no serializer",
        "give it name, executes, dump and load, as ports.Serializer has them",
    )


def by_name(name: str) -> Serializer:
    """The serializer that a name means, see `serializer_for`. Raises ConfigurationError."""
    text = name.strip()
    arguments: tuple[object, ...] = ()
    if compressed := _COMPRESSED(text):
        codec, inner = compressed.groups()
        inner = "pickle" if inner is None else inner
        text, arguments = "compressed", (by_name(inner), codec or "zlib")
    if text not in _HOMES:
        raise ConfigurationError(
            SETTING,
            f"unknown serializer {name!r}",
            f"write one of {', '.join(sorted(_HOMES))} "
            "(as in compressed(lz4) or compressed(zstd)+json), or pass an object of your own",
        )
    module, cls = _HOMES[text]
    made: Serializer = getattr(import_module(f"{__package__}.{module}"), cls)(*arguments)
    return made


def for_reading(recorded: str, own: Serializer | None = None) -> Serializer | None:
    """The serializer that reads what a record says was written by ``recorded``. ``own`` is the one
    that the computation is set to, tried first. None where it cannot be read here: a pickle of
    another Python version, a codec whose package is missing, a serializer of someone's own."""
    if own is not None and own.name == recorded:
        return own
    # Records name the Python version; settings do not.
    *wrappers, innermost = recorded.split("+")
    spec = "+".join((*wrappers, innermost.partition("/")[0]))
    try:
        found = by_name(spec)
    except ConfigurationError:
        return None
    return found if found.name == recorded else None
