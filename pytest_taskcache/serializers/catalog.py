"""Serializers by name: those a user writes in a setting, and those a record was written with."""

from __future__ import annotations

from collections.abc import Callable

from pytest_taskcache.errors import ConfigurationError
from pytest_taskcache.ports import Serializer

SETTING = "serializer"

_WRAPPER = "compressed"


def _pickle() -> Serializer:
    from pytest_taskcache.serializers.pickle import PickleSerializer

    return PickleSerializer()


def _json() -> Serializer:
    from pytest_taskcache.serializers.json import JSONSerializer

    return JSONSerializer()


def _tree() -> Serializer:
    from pytest_taskcache.serializers.trees import TreeSerializer

    return TreeSerializer()


_KNOWN: dict[str, Callable[[], Serializer]] = {"json": _json, "pickle": _pickle, "tree": _tree}

_accepted: set[type] = set()
"""Types that were seen to have the protocol: looking takes longer than a small value's use."""


def serializer_for(spec: str | Serializer) -> Serializer:
    """The serializer that a setting means.

    ``spec`` is an object with the protocol, which is returned as it is, or a name: ``pickle``,
    ``json``, ``tree``, ``compressed`` (zlib over pickle), ``compressed(lz4)``,
    ``compressed(zstd)+json``. Raises ConfigurationError.
    """
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
    outer, plus, inner = name.strip().partition("+")
    if outer.startswith(_WRAPPER):
        from pytest_taskcache.serializers.compressed import CompressedSerializer

        method = outer.removeprefix(_WRAPPER)
        if not method:
            return CompressedSerializer(by_name(inner) if plus else _pickle())
        if method.startswith("(") and method.endswith(")"):
            return CompressedSerializer(by_name(inner) if plus else _pickle(), method[1:-1])
    elif name.strip() in _KNOWN:
        return _KNOWN[name.strip()]()
    raise ConfigurationError(
        SETTING,
        f"unknown serializer {name!r}",
        f"write one of {', '.join(sorted((*_KNOWN, _WRAPPER)))} "
        "(as in compressed(lz4) or compressed(zstd)+json), or pass an object of your own",
    )


def for_reading(recorded: str, own: Serializer | None = None) -> Serializer | None:
    """The serializer that reads what a record says was written by ``recorded``.

    ``own`` is the one that the computation is set to, tried first. None where it cannot be read
    here: a pickle of another Python version, a method whose package is missing, a serializer of
    someone's own.
    """
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
