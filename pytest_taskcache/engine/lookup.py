"""The decision about a key's variants: pure, with clock and digests handed in."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pytest_taskcache.model.decision import Hit, Miss, Origin, Why
from pytest_taskcache.model.dependency import Change
from pytest_taskcache.model.record import Variant

MARK = "mark/"
"""Serializer names that begin so denote records without a value (failures, flakiness)."""


def choose(
    variants: Sequence[Variant],
    *,
    now: float,
    changes: Callable[[Variant], tuple[Change, ...]],
    accepts: Callable[[Variant], bool],
    origin: Origin = Origin.COMMITTED,
) -> Hit | Miss:
    """A hit on the newest variant that is valid, else a miss that says why the newest is not.

    ``changes(variant)`` names what differs now (nothing, for a valid trace); ``accepts`` is the
    author's validator. ``now`` in POSIX seconds.
    """
    reason: Miss | None = None
    for variant in variants:
        if variant.result.serializer.startswith(MARK):
            continue
        miss = _objection(variant, now, changes, accepts)
        if miss is None:
            return Hit(variant, origin, variant.vouched)
        reason = reason or miss
    return reason or Miss(Why.ABSENT)


def _objection(
    variant: Variant,
    now: float,
    changes: Callable[[Variant], tuple[Change, ...]],
    accepts: Callable[[Variant], bool],
) -> Miss | None:
    if variant.expires is not None and variant.expires <= now:
        return Miss(Why.EXPIRED, nearest=variant)
    different = changes(variant)
    if different:
        return Miss(Why.TRACE, different, variant)
    if not accepts(variant):
        return Miss(Why.INVALID, nearest=variant)
    return None
