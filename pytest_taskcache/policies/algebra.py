"""Cache policies as values: they add, subtract input names, and carry configuration; and what they
may look at when a key is derived."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from typing import Any, TypeAlias

from pytest_taskcache.dataclass import dataclass, field, replace
from pytest_taskcache.digests.values.digest import digest_arguments
from pytest_taskcache.errors import ConfigurationError, PolicyConflictError, UnknownInputError
from pytest_taskcache.model.dependency import Kind
from pytest_taskcache.model.event import Subject
from pytest_taskcache.model.key import Identity, Part
from pytest_taskcache.model.modes import IsolationLevel
from pytest_taskcache.ports import Fingerprints, KeyStorage, LockManager, ResultStorage

StorageSpec: TypeAlias = "str | os.PathLike[str] | KeyStorage | ResultStorage"
LockSpec: TypeAlias = "str | os.PathLike[str] | LockManager"


@dataclass(frozen=True, slots=True)
class TaskContext:
    """One computation about to be looked up; also what a key function gets as its first argument.

    ``parameters`` are those of the running test (empty outside one), ``test_name`` and
    ``test_module`` name it. ``input_digests`` holds inputs that count by a digest already known
    (a handle of pytest's by its name, a cached upstream fixture by its result) instead of by
    value.
    """

    subject: Subject
    identity: Identity
    function: Callable[..., object]
    run_id: str
    fingerprints: Fingerprints
    parameters: Mapping[str, object] = field(default_factory=dict)
    test_name: str = ""
    test_module: str = ""
    input_digests: Mapping[str, str] = field(default_factory=dict)

    @property
    def task_name(self) -> str:
        """The qualified name of the function, fixture or test."""
        return self.identity.name

    def digest_inputs(
        self, arguments: Mapping[str, object], excluded: frozenset[str] = frozenset()
    ) -> tuple[Part, ...]:
        """A part per input that is not excluded. Raises UndigestableError."""
        known = self.input_digests
        if known or excluded:
            left_out = excluded | known.keys()
            arguments = {name: each for name, each in arguments.items() if name not in left_out}
        digests = digest_arguments(arguments, anchors=self.fingerprints.name_of)
        if known:
            digests |= {name: each for name, each in known.items() if name not in excluded}
        return _parts("inputs", digests)

    def digest_parameters(self) -> tuple[Part, ...]:
        """A part per parameter of the running test. Raises UndigestableError."""
        digests = digest_arguments(self.parameters, anchors=self.fingerprints.name_of)
        return _parts("parameters", digests)


def _parts(what: str, digests: Mapping[str, str]) -> tuple[Part, ...]:
    return tuple(sorted([Part(f"{what}.{name}", each) for name, each in digests.items()]))


class Declined(Exception):
    """A policy says that this computation has no key; ``args[0]`` is the reason."""


KeyFn: TypeAlias = Callable[[TaskContext, "dict[str, object]"], "str | None"]
Parts: TypeAlias = Callable[[TaskContext, Mapping[str, object], frozenset[str]], Iterable[Part]]
"""From a computation, its arguments and the names of those left out, parts of its key. Raises
UndigestableError, or Declined."""


@dataclass(frozen=True, slots=True)
class Component:
    """One kind of thing a key is made of. ``label`` is its text with its settings; components are
    sorted by it. With ``fn``, its one part is the whole key of whoever uses it; two such of one
    label may be different functions. A ``declared`` dependency can be checked again later without
    its computation, so a consumer inherits it."""

    label: str
    parts: Parts = field(compare=False, repr=False)
    fn: KeyFn | None = None
    declared: tuple[Kind, str] | None = None


@dataclass(frozen=True)
class CachePolicy:
    """Decides what goes into a key, where records and results live, and how they are locked.

    Without components (``CachePolicy(key_storage=...)``) it only carries configuration.
    Addition is commutative and associative; two different settings of one field raise
    PolicyConflictError. A string or path for a storage or lock manager names a directory or a
    URL and is resolved when it is used (a path is kept as its text); an object is used as it is.
    ``lock_timeout`` bounds the wait for a lock, after which the computation runs unlocked and
    says so (default: 10 minutes, or three times what it took last if that is more).

    Raises ConfigurationError for an unknown isolation level, a time-out that is no positive
    timedelta, and for a setting that is neither a path, a URL nor an object of the kind.
    """

    key_storage: StorageSpec | None = None
    result_storage: StorageSpec | None = None
    isolation_level: IsolationLevel | str | None = None
    lock_manager: LockSpec | None = None
    lock_timeout: timedelta | None = None
    components: tuple[Component, ...] = field(default=(), kw_only=True)
    excluded: frozenset[str] = field(default=frozenset(), kw_only=True)
    labels: frozenset[str] = field(init=False, repr=False, compare=False)
    shared: bool = field(init=False, repr=False, compare=False)
    """Whether different functions share keys under it: INPUTS alone, and key functions."""
    declares: bool = field(init=False, repr=False, compare=False)
    """Whether a consumer inherits more than the trace."""

    def __post_init__(self) -> None:
        level = self.isolation_level
        if level is not None and not isinstance(level, IsolationLevel):
            try:
                object.__setattr__(self, "isolation_level", IsolationLevel(str(level).upper()))
            except ValueError:
                raise ConfigurationError(
                    "isolation_level",
                    f"{level!r} is not a level",
                    f"use one of {', '.join(IsolationLevel)}",
                ) from None
        wait = self.lock_timeout
        if wait is not None and not (isinstance(wait, timedelta) and wait > timedelta(0)):
            raise ConfigurationError(
                "lock_timeout", f"{wait!r} cannot be waited for", "give a positive timedelta"
            )
        for name in ("key_storage", "result_storage", "lock_manager"):
            object.__setattr__(self, name, _as_text(name, getattr(self, name)))
        # Two key functions of one name are two components; which comes first must not matter.
        components = sorted(
            dict.fromkeys(self.components), key=lambda each: (each.label, id(each.fn))
        )
        labels = frozenset(component.label for component in components)
        named = any(component.fn for component in components)
        shared = labels == {"INPUTS"} or (named and not labels & {"OBSERVED", "TASK_SOURCE"})
        object.__setattr__(self, "components", tuple(components))
        object.__setattr__(self, "labels", labels)
        object.__setattr__(self, "shared", shared)
        object.__setattr__(self, "declares", any(one.declared for one in components))

    def configure(
        self,
        *,
        key_storage: StorageSpec | None = None,
        result_storage: StorageSpec | None = None,
        isolation_level: IsolationLevel | str | None = None,
        lock_manager: LockSpec | None = None,
        lock_timeout: timedelta | None = None,
    ) -> CachePolicy:
        """A copy with these settings; None leaves a setting as it is."""
        given = (key_storage, result_storage, isolation_level, lock_manager, lock_timeout)
        named: dict[str, Any] = dict(zip(_SETTINGS, given, strict=True))
        return replace(self, **{name: value for name, value in named.items() if value is not None})

    def __add__(self, other: CachePolicy) -> CachePolicy:
        if not isinstance(other, CachePolicy):
            return NotImplemented
        settings = {
            name: _agreed(name, getattr(self, name), getattr(other, name)) for name in _SETTINGS
        }
        return CachePolicy(
            **settings,
            components=self.components + other.components,
            excluded=self.excluded | other.excluded,
        )

    def __sub__(self, name: str) -> CachePolicy:
        if not isinstance(name, str):
            return NotImplemented
        return replace(self, excluded=self.excluded | {name})

    def has(self, label: str) -> bool:
        """Whether a component of this label is part of the policy."""
        return label in self.labels

    def check_inputs(self, function: str, known: Iterable[str]) -> None:
        """Raises UnknownInputError if an input that is left out does not exist."""
        names = tuple(known)
        for name in sorted(self.excluded):
            if name not in names:
                raise UnknownInputError(function, name, names)

    def __repr__(self) -> str:
        text = " + ".join(component.label for component in self.components) or "NO_CACHE"
        text += "".join(f" - {name!r}" for name in sorted(self.excluded))
        settings = [
            f"{name}={value!r}" for name in _SETTINGS if (value := getattr(self, name)) is not None
        ]
        return f"({text}).configure({', '.join(settings)})" if settings else text


_SETTINGS = ("key_storage", "result_storage", "isolation_level", "lock_manager", "lock_timeout")


def _agreed(field_name: str, left: Any, right: Any) -> Any:
    if left is None or right is None:
        return right if left is None else left
    if left is right or bool(left == right):
        return left
    raise PolicyConflictError(field_name, repr(left), repr(right))


def _as_text(setting: str, value: object) -> object:
    if not isinstance(value, os.PathLike):
        if isinstance(value, bytes | int | float) or value == "":
            raise ConfigurationError(
                setting, f"{value!r} names no place", "give a path, a URL or an object"
            )
        if isinstance(value, str) and setting != "lock_manager":
            from pytest_taskcache.storage.remote.location import check_place

            check_place(value, setting)
        return value
    text = os.fspath(value)
    if not isinstance(text, str):
        raise ConfigurationError(setting, f"{value!r} is no text", "give a path of text")
    return text
