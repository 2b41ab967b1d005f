"""The validators of Prefect 0.x: ``validator(context, record) -> bool``.

Expiry is checked before any of them is asked, so ``duration_only`` accepts everything else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from pytest_taskcache.dataclass import dataclass, field
from pytest_taskcache.model.key import Part
from pytest_taskcache.model.record import Variant


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
    return _same(context.inputs, record.inputs)


def all_parameters(context: Circumstances, record: Variant) -> bool:
    """Valid while all parameters of the running test are the recorded ones."""
    return _same(context.parameters, record.parameters)


def partial_inputs_only(
    validate_on: Iterable[str] | None = None,
) -> Callable[[Circumstances, Variant], bool]:
    """A validator that compares only the named inputs; none named: none compared."""
    names = frozenset(f"inputs.{name}" for name in validate_on or ())

    def validator(context: Circumstances, record: Variant) -> bool:
        return _same(_of(context.inputs, names), _of(record.inputs, names))

    return validator


def partial_parameters_only(
    validate_on: Iterable[str] | None = None,
) -> Callable[[Circumstances, Variant], bool]:
    """A validator that compares only the named parameters; none named: none compared."""
    names = frozenset(f"parameters.{name}" for name in validate_on or ())

    def validator(context: Circumstances, record: Variant) -> bool:
        return _same(_of(context.parameters, names), _of(record.parameters, names))

    return validator


def _same(left: Iterable[Part], right: Iterable[Part]) -> bool:
    return dict(left) == dict(right)


def _of(parts: Iterable[Part], names: frozenset[str]) -> list[Part]:
    return [part for part in parts if part.name in names]
