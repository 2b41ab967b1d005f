"""Who may consult the cache, and whose value may be kept. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from pytest_taskcache.dataclass import dataclass
from pytest_taskcache.engine.computation import Options
from pytest_taskcache.model.dependency import Observed, Opaque
from pytest_taskcache.model.modes import Mode


@dataclass(frozen=True, slots=True)
class Access:
    """What one computation may do: look for a record, keep its own."""

    consult: bool
    record: bool


_ACCESS = {
    (consult, record): Access(consult, record)
    for consult in (False, True)
    for record in (False, True)
}


def access(mode: Mode, options: Options) -> Access:
    """What the mode of the run and the options of the computation allow together."""
    if mode is Mode.OFF or not options.persist:
        return _ACCESS[False, False]
    return _ACCESS[mode is not Mode.WRITE and not options.refresh, mode is not Mode.READ]


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
