"""The one place where a key is derived."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

import xxhash

from pytest_taskcache.model.key import SCHEMA, Identity, Key, Part
from pytest_taskcache.policies.algebra import CachePolicy, Component, Declined, TaskContext
from pytest_taskcache.policies.parts import key_function_digest


def derive(
    policy: CachePolicy,
    context: TaskContext,
    arguments: Mapping[str, object],
    *,
    serializer: str,
    extra: Sequence[Part] = (),
) -> Key:
    """The key of a computation under a policy.

    Every key covers the schema, the serializer and ``extra``. The identity is left out only
    where a key is meant to be shared by different functions: INPUTS alone, and key functions.

    Raises UndigestableError (an input, with the path to it) and Declined (the policy has no
    key for this).
    """
    if not policy.components:
        raise Declined("policy is NO_CACHE")
    parts = [*_constant(serializer, None if policy.shared else context.identity), *extra]
    named: list[tuple[Component, str]] = []
    for component in policy.components:
        found = component.parts(context, arguments, policy.excluded)
        if component.fn is None:
            parts += found
        else:
            named += [(component, text) for _, text in found]
    parts += _named(named)
    return _key(tuple(parts), context.identity, not policy.has("OBSERVED"))


def name_outright(
    text: str,
    context: TaskContext,
    *,
    serializer: str,
    part: str = "key",
    extra: Sequence[Part] = (),
) -> Key:
    """The key that its author named (``key=``; ``target=``, whose ``part`` is its own); shared
    by all who name it so."""
    parts = (*_constant(serializer, None), Part(part, text), *extra)
    return _key(parts, context.identity, True)


def _named(named: Sequence[tuple[Component, str]]) -> list[Part]:
    """The parts of key functions. Of several, each one's part carries the function's name, or
    two could change places; and its digest where the names are the same."""
    if len(named) < 2:
        return [Part("key", text) for _, text in named]
    labels = [component.label for component, _ in named]
    parts = []
    for component, text in named:
        name = f"key {component.label}"
        if component.fn is not None and labels.count(component.label) > 1:
            name += f" {key_function_digest(component.fn)}"
        parts.append(Part(name, text))
    return parts


@functools.lru_cache(1024)
def _constant(serializer: str, identity: Identity | None) -> tuple[Part, ...]:
    """The parts that every key has, and that of the identity if there is one."""
    parts = (Part("schema", str(SCHEMA)), Part("serializer", serializer))
    return parts if identity is None else (*parts, Part("identity", str(identity)))


# The same parts come again and again on warm runs: 0.5 µs instead of 4.
@functools.lru_cache(4096)
def _key(parts: tuple[Part, ...], identity: Identity, vouched: bool) -> Key:
    ordered = tuple(sorted(set(parts)))
    # With lengths, since names and key functions' texts may hold any separator.
    text = "".join([f"{len(name)},{len(digest)}:{name}{digest}" for name, digest in ordered])
    digest = xxhash.xxh3_128_hexdigest(text.encode("utf-8", "surrogatepass"))
    return Key(digest, identity, ordered, vouched)
