"""The policies that are shipped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import ClassVar

from pytest_taskcache.dataclass import dataclass
from pytest_taskcache.digests.task_source import digest_function
from pytest_taskcache.errors import ConfigurationError
from pytest_taskcache.model.dependency import Kind
from pytest_taskcache.model.key import Part
from pytest_taskcache.policies.algebra import CachePolicy, Component
from pytest_taskcache.policies.context import TaskContext

Arguments = Mapping[str, object]
Names = frozenset[str]


@dataclass(frozen=True, slots=True)
class _TaskSource(Component):
    label: str = "TASK_SOURCE"

    def parts(self, context: TaskContext, arguments: Arguments, excluded: Names) -> Iterable[Part]:
        return (Part("source", digest_function(context.function)),)


@dataclass(frozen=True, slots=True)
class _Inputs(Component):
    label: str = "INPUTS"

    def parts(self, context: TaskContext, arguments: Arguments, excluded: Names) -> Iterable[Part]:
        return context.digest_inputs(arguments, excluded)


@dataclass(frozen=True, slots=True)
class _RunId(Component):
    label: str = "RUN_ID"

    def parts(self, context: TaskContext, arguments: Arguments, excluded: Names) -> Iterable[Part]:
        yield Part("run", context.run_id)


@dataclass(frozen=True, slots=True)
class _TestParameters(Component):
    label: str = "TEST_PARAMETERS"

    def parts(self, context: TaskContext, arguments: Arguments, excluded: Names) -> Iterable[Part]:
        return context.digest_parameters()


@dataclass(frozen=True, slots=True)
class _Observed(Component):
    """Adds nothing to the key itself: its digests live in the trace, which a lookup verifies."""

    label: str = "OBSERVED"

    def parts(self, context: TaskContext, arguments: Arguments, excluded: Names) -> Iterable[Part]:
        return ()


@dataclass(frozen=True, slots=True)
class Declared(Component):
    """A dependency that the author declares: its present digest is a part of the key.

    Unlike other parts it can be checked again later without its computation, so a consumer
    inherits it as a dependency.
    """

    kind: Kind
    name: str
    written: str
    declared: ClassVar[bool] = True

    @property
    def label(self) -> str:
        """As the author wrote it, e.g. ``ENV('TZ')``."""
        return self.written

    def parts(self, context: TaskContext, arguments: Arguments, excluded: Names) -> Iterable[Part]:
        """One part: the dependency's present digest."""
        yield Part(f"{self.kind} {self.name}", context.fingerprints.digest(self.kind, self.name))


def _declared(function: str, kind: Kind, names: tuple[str, ...]) -> CachePolicy:
    if not names or not all(isinstance(name, str) and name for name in names):
        raise ConfigurationError(
            function, f"got {names!r}", f"give at least one name, e.g. {function}('name')"
        )
    components = tuple(Declared(kind, name, f"{function}({name!r})") for name in names)
    return CachePolicy(components=components)


TASK_SOURCE = CachePolicy(components=(_TaskSource(),))
"""Identity and normalised source of the function: comments, blank lines and formatting do not
count; decorators, defaults and annotations do, and so do closure values and, for a method, its
class and bases."""

INPUTS = CachePolicy(components=(_Inputs(),))
"""The bound arguments, defaults applied."""

RUN_ID = CachePolicy(components=(_RunId(),))
"""This test run: values are shared within it and never beyond."""

TEST_PARAMETERS = CachePolicy(components=(_TestParameters(),))
"""The parameters of the running test (Prefect's FLOW_PARAMETERS)."""

OBSERVED = CachePolicy(components=(_Observed(),))
"""Everything the computation was observed to depend on, verified before every hit."""

PYTHON = CachePolicy(components=(Declared(Kind.INTERPRETER, "python", "PYTHON"),))
"""The interpreter: implementation, version, platform, flags."""

NO_CACHE = CachePolicy()
"""No key: the computation always runs. Adding it to another policy changes nothing."""

DEFAULT = TASK_SOURCE + INPUTS + OBSERVED
"""Source, inputs and everything observed: under it a hit is never stale."""


def FILES(*patterns: str) -> CachePolicy:
    """The names and contents of all files that match the patterns, relative to the root.

    ``**`` crosses directories; a directory named outright stands for all that is below it. Raises
    ConfigurationError if no pattern is given.
    """
    return _declared("FILES", Kind.FILES, patterns)


def ENV(*names: str) -> CachePolicy:
    """The values of environment variables, absence included; only digests are ever stored."""
    return _declared("ENV", Kind.ENVIRONMENT, names)


def PACKAGES(*names: str) -> CachePolicy:
    """The installed versions of distributions, absence included."""
    return _declared("PACKAGES", Kind.DISTRIBUTION, names)
