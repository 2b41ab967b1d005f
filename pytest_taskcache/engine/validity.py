"""Who may consult the cache, which records are valid, and whose value may be kept. Pure.

The validators are those of Prefect 0.x: ``validator(context, record) -> bool``. Expiry is checked
before any of them is asked, so `duration_only` accepts everything else.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from pytest_taskcache.dataclass import dataclass, field
from pytest_taskcache.engine.computation import Options
from pytest_taskcache.model.decision import Miss
from pytest_taskcache.model.dependency import ABSENT, Change, Observed, Opaque
from pytest_taskcache.model.key import Part
from pytest_taskcache.model.modes import Mode
from pytest_taskcache.model.record import Variant

UPSTREAM = "upstream"
"""A part of a fixture's record, but of no key: which fixtures it was made of."""

GLOBAL = "global "
"""First word of the name of a part that says what a global held: of a record, but of no key."""


class Access(NamedTuple):
    """What one computation may do: look for a record, keep its own."""

    consult: bool
    record: bool


def access(mode: Mode, options: Options) -> Access:
    """What the mode of the run and the options of the computation allow together."""
    if mode is Mode.OFF or not options.persist:
        return Access(False, False)
    return Access(mode is not Mode.WRITE and not options.refresh, mode is not Mode.READ)


def forbidden(opaque: Iterable[Opaque], allowed: Collection[str]) -> tuple[Opaque, ...]:
    """The opaque deeds that were not allowed by kind."""
    return tuple(deed for deed in opaque if deed.kind not in allowed)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a value is not kept: in the few words that counts are kept by, and at length."""

    reason: str
    detail: str = ""


def objection(
    observed: Observed, taints: Collection[str], *, vouched: bool, forked: bool
) -> Refusal | None:
    """Why a computed value may not be kept, or None.

    A vouched value is kept whatever was observed: its author answers for it.
    """
    if forked:
        return Refusal("computed in a forked child")
    if taints and not vouched:
        taint = sorted(taints)[0]
        return Refusal("depends on something uncached", f"it used {taint}")
    if observed.untrusted and not vouched:
        return Refusal("changed while it ran", observed.untrusted[0])
    return None


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What a validator is told about the call at hand: its inputs' and the running test's
    parameters' digests, and the values themselves by name. (The record has digests only, beside
    ``created``, ``expires``, ``duration`` and ``producer``.)"""

    inputs: tuple[Part, ...]
    parameters: tuple[Part, ...]
    values: Mapping[str, object] = field(default_factory=dict)


def duration_only(context: Circumstances, record: Variant) -> bool:
    """Valid until it expires."""
    return True


def never_use(context: Circumstances, record: Variant) -> bool:
    """Never valid: always computed again."""
    return False


def all_inputs(context: Circumstances, record: Variant) -> bool:
    """Valid while all inputs are the recorded ones."""
    return dict(context.inputs) == dict(record.inputs)


def all_parameters(context: Circumstances, record: Variant) -> bool:
    """Valid while all parameters of the running test are the recorded ones."""
    return dict(context.parameters) == dict(record.parameters)


def partial_inputs_only(
    validate_on: Iterable[str] | None = None,
) -> Callable[[Circumstances, Variant], bool]:
    """A validator that compares only the named inputs; none named: none compared."""
    return _partial("inputs", validate_on)


def partial_parameters_only(
    validate_on: Iterable[str] | None = None,
) -> Callable[[Circumstances, Variant], bool]:
    """A validator that compares only the named parameters; none named: none compared."""
    return _partial("parameters", validate_on)


def _partial(
    kind: str, validate_on: Iterable[str] | None
) -> Callable[[Circumstances, Variant], bool]:
    names = [f"{kind}.{name}" for name in validate_on or ()]

    def validator(context: Circumstances, record: Variant) -> bool:
        now, then = dict(getattr(context, kind)), dict(getattr(record, kind))
        return all(now.get(name) == then.get(name) for name in names)

    return validator


_KINDS = {
    "schema": ("cache schema", "pytest-taskcache"),
    "serializer": ("serializer", "serializer"),
    "source": ("source", "its own code"),
    "run": ("run", "this test run"),
    "key": ("key", "named outright"),
    "identity": ("identity", "where it is defined"),
}


def difference(parts: Sequence[Part], recorded: Sequence[Part]) -> tuple[Change, ...]:
    """The parts that differ, in name order; a part only one side has counts as absent there."""
    now = {part.name: part.digest for part in parts}
    then = {part.name: part.digest for part in recorded if not part.name.startswith(_OF_RECORDS)}
    return tuple(
        _change(name, then.get(name, ABSENT), now.get(name, ABSENT))
        for name in sorted(now.keys() | then.keys())
        if now.get(name) != then.get(name)
    )


def nearer(one: Miss | None, other: Miss) -> Miss:
    """Of two misses against the same key's records, the newer first, the one that names fewer
    changes: what an edit since undone had changed is not named."""
    if one is None or 0 < len(other.changes) < len(one.changes):
        return other
    return one


_OF_RECORDS = UPSTREAM, GLOBAL


def _change(name: str, before: str, after: str) -> Change:
    kind, _, rest = name.partition(" ")
    label = rest or kind
    if name in _KINDS:
        kind, label = _KINDS[name]
    elif name.startswith(("inputs.", "parameters.")):
        kind, _, label = name.partition("s.")
    return Change(kind, label, before, after)
