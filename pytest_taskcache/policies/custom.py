"""Policies that users write: key functions and classes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import ClassVar, TypeAlias

import xxhash

from pytest_taskcache.dataclass import dataclass, field, fields
from pytest_taskcache.digests.task_source import digest_function
from pytest_taskcache.digests.values.digest import digest_value
from pytest_taskcache.errors import ConfigurationError
from pytest_taskcache.model.key import Part
from pytest_taskcache.policies.algebra import CachePolicy, Component, Declined
from pytest_taskcache.policies.context import TaskContext

KeyFn: TypeAlias = Callable[[TaskContext, "dict[str, object]"], "str | None"]


@dataclass(frozen=True, slots=True)
class KeyFunction(Component):
    """Names the key by what a function returns; None means: do not cache this call.

    ``policy`` is the user's policy that the function is a method of, if it is one.
    """

    fn: KeyFn
    policy: UserPolicy | None = field(default=None, compare=False, repr=False)
    names_key: ClassVar[bool] = True

    @property
    def label(self) -> str:
        """The function's own name; two functions of one name differ by module."""
        name = getattr(self.fn, "__qualname__", type(self.fn).__qualname__)
        return f"CacheKeyFnPolicy({getattr(self.fn, '__module__', '?')}.{name})"

    def digest(self) -> str:
        """What tells this function apart from another of the same name: its source and closure,
        or the policy's own fields. Raises UndigestableError."""
        if self.policy is None:
            return digest_function(self.fn)
        shared = {field.name for field in fields(CachePolicy)}
        own = {f.name: getattr(self.policy, f.name) for f in fields(self.policy)}
        return digest_value({name: own[name] for name in sorted(own.keys() - shared)})

    def parts(
        self, context: TaskContext, arguments: Mapping[str, object], excluded: frozenset[str]
    ) -> Iterable[Part]:
        """One part, the text. Raises Declined, or whatever the function raises."""
        inputs = {name: value for name, value in arguments.items() if name not in excluded}
        text = self.fn(context, inputs)
        if text is None:
            raise Declined(f"{self.label} returned None")
        if not isinstance(text, str):
            raise ConfigurationError(
                self.label, f"returned {type(text).__name__}", "return a string, or None"
            )
        yield Part("key", text)


def CacheKeyFnPolicy(cache_key_fn: KeyFn) -> CachePolicy:
    """A policy whose key is what ``cache_key_fn(context, arguments)`` returns.

    It is shared by all functions that use it. The author vouches for its validity.
    """
    if not callable(cache_key_fn):
        raise ConfigurationError(
            "cache_key_fn", f"{cache_key_fn!r} cannot be called", "give fn(context, arguments)"
        )
    return CachePolicy(components=(KeyFunction(cache_key_fn),))


@dataclass(frozen=True, repr=False)
class UserPolicy(CachePolicy):
    """A base for policies of one's own: subclass it and write ``compute_key``.

    An instance adds like any policy; a subclass with fields must be a frozen dataclass too.
    ``compute_key`` may return None: then the call is not cached. As with key functions, the
    text is the whole key: put into it whatever must tell two calls, or two policies, apart.
    """

    def __post_init__(self) -> None:
        # Made anew also where `dataclasses.replace` hands on those of the original.
        component = KeyFunction(self.compute_key, self)
        object.__setattr__(self, "components", (component,))
        super().__post_init__()

    def compute_key(self, context: TaskContext, inputs: dict[str, object]) -> str | None:
        """The text that names the key. Raises NotImplementedError unless overridden."""
        raise NotImplementedError(f"{type(self).__qualname__} must define compute_key")


def task_input_hash(context: TaskContext, arguments: dict[str, object]) -> str:
    """A key of the function's identity and source, and its inputs (after Prefect's function).

    Raises UndigestableError.
    """
    inputs = context.digest_inputs(arguments)
    digest = xxhash.xxh3_128(digest_function(context.function).encode())
    for part in inputs:
        digest.update(f"\0{part.name}\0{part.digest}".encode())
    return digest.hexdigest()
