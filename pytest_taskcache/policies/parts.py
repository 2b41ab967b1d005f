"""The policies that are shipped, and those that users write: key functions and classes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import xxhash

from pytest_taskcache.dataclass import dataclass, fields
from pytest_taskcache.digests.values.digest import digest_function, digest_value
from pytest_taskcache.errors import ConfigurationError
from pytest_taskcache.model.dependency import INTERPRETER, Kind
from pytest_taskcache.model.key import Part
from pytest_taskcache.policies.algebra import (
    CachePolicy,
    Component,
    Declined,
    KeyFn,
    Parts,
    TaskContext,
)


def _policy(label: str, parts: Parts) -> CachePolicy:
    return CachePolicy(components=(Component(label, parts),))


def _declared(label: str, kind: Kind, name: str) -> Component:
    def parts(
        context: TaskContext, arguments: Mapping[str, object], excluded: frozenset[str]
    ) -> Iterable[Part]:
        yield Part(f"{kind} {name}", context.fingerprints.digest(kind, name))

    return Component(label, parts, declared=(kind, name))


def _all_declared(function: str, kind: Kind, names: tuple[str, ...]) -> CachePolicy:
    if not names or not all(isinstance(name, str) and name for name in names):
        raise ConfigurationError(
            function, f"got {names!r}", f"give at least one name, e.g. {function}('name')"
        )
    return CachePolicy(
        components=tuple(_declared(f"{function}({name!r})", kind, name) for name in names)
    )


TASK_SOURCE = _policy(
    "TASK_SOURCE", lambda context, *_: [Part("source", digest_function(context.function))]
)
"""Identity and normalised source of the function: comments, blank lines and formatting do not
count; decorators, defaults and annotations do, and so do closure values and, for a method, its
class and bases."""

INPUTS = _policy("INPUTS", TaskContext.digest_inputs)
"""The bound arguments, defaults applied."""

RUN_ID = _policy("RUN_ID", lambda context, *_: [Part("run", context.run_id)])
"""This test run: values are shared within it and never beyond."""

TEST_PARAMETERS = _policy("TEST_PARAMETERS", lambda context, *_: context.digest_parameters())
"""The parameters of the running test (Prefect's FLOW_PARAMETERS)."""

OBSERVED = _policy("OBSERVED", lambda *_: ())
"""Everything the computation was observed to depend on, verified before every hit. It adds nothing
to the key itself: its digests live in the trace."""

PYTHON = CachePolicy(
    components=tuple(_declared("PYTHON", Kind.INTERPRETER, name) for name in INTERPRETER)
)
"""The interpreter: implementation, version, platform, flags, and the variables that it reads in C.
Part of OBSERVED, too."""

NO_CACHE = CachePolicy()
"""No key: the computation always runs. Adding it to another policy changes nothing."""

DEFAULT = TASK_SOURCE + INPUTS + OBSERVED
"""Source, inputs and everything observed: under it a hit is never stale."""


def FILES(*patterns: str) -> CachePolicy:
    """The names and contents of all files that match the patterns, relative to the root.

    ``**`` crosses directories; a directory named outright stands for all that is below it. Raises
    ConfigurationError if no pattern is given.
    """
    return _all_declared("FILES", Kind.FILES, patterns)


def ENV(*names: str) -> CachePolicy:
    """The values of environment variables, absence included; only digests are ever stored."""
    return _all_declared("ENV", Kind.ENVIRONMENT, names)


def PACKAGES(*names: str) -> CachePolicy:
    """The installed versions of distributions, absence included."""
    return _all_declared("PACKAGES", Kind.DISTRIBUTION, names)


def CacheKeyFnPolicy(cache_key_fn: KeyFn) -> CachePolicy:
    """A policy whose key is what ``cache_key_fn(context, arguments)`` returns; None means: do not
    cache this call.

    It is shared by all functions that use it. The author vouches for its validity.
    """
    if not callable(cache_key_fn):
        raise ConfigurationError(
            "cache_key_fn", f"{cache_key_fn!r} cannot be called", "give fn(context, arguments)"
        )
    # two functions of one name differ by module
    name = getattr(cache_key_fn, "__qualname__", type(cache_key_fn).__qualname__)
    label = f"CacheKeyFnPolicy({getattr(cache_key_fn, '__module__', '?')}.{name})"

    def parts(
        context: TaskContext, arguments: Mapping[str, object], excluded: frozenset[str]
    ) -> Iterable[Part]:
        inputs = {name: each for name, each in arguments.items() if name not in excluded}
        text = cache_key_fn(context, inputs)
        if text is None:
            raise Declined(f"{label} returned None")
        if not isinstance(text, str):
            raise ConfigurationError(
                label, f"returned {type(text).__name__}", "return a string, or None"
            )
        yield Part("key", text)

    return CachePolicy(components=(Component(label, parts, cache_key_fn),))


def key_function_digest(fn: KeyFn) -> str:
    """What tells a key function apart from another of the same name: its source and closure, or
    the fields of the policy that it is a method of. Raises UndigestableError."""
    policy = getattr(fn, "__self__", None)
    if not isinstance(policy, UserPolicy):
        return digest_function(fn)
    shared = {field.name for field in fields(CachePolicy)}
    own = sorted({field.name for field in fields(policy)} - shared)
    return digest_value({name: getattr(policy, name) for name in own})


@dataclass(frozen=True, repr=False)
class UserPolicy(CachePolicy):
    """A base for policies of one's own: subclass it and write ``compute_key``.

    An instance adds like any policy; a subclass with fields must be a frozen dataclass too.
    ``compute_key`` may return None: then the call is not cached. As with key functions, the
    text is the whole key: put into it whatever must tell two calls, or two policies, apart.
    """

    def __post_init__(self) -> None:
        # Made anew also where `dataclasses.replace` hands on those of the original.
        object.__setattr__(self, "components", CacheKeyFnPolicy(self.compute_key).components)
        super().__post_init__()

    def compute_key(self, context: TaskContext, inputs: dict[str, object]) -> str | None:
        """The text that names the key. Raises NotImplementedError unless overridden."""
        raise NotImplementedError(f"{type(self).__qualname__} must define compute_key")


def task_input_hash(context: TaskContext, arguments: dict[str, object]) -> str:
    """A key of the function's identity and source, and its inputs (after Prefect's function).

    Raises UndigestableError.
    """
    digest = xxhash.xxh3_128(digest_function(context.function).encode())
    for name, each in context.digest_inputs(arguments):
        digest.update(f"\0{name}\0{each}".encode())
    return digest.hexdigest()
