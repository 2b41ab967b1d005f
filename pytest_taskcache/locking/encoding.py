"""Holders as JSON text, and the holder that is named when the text cannot be read."""

from __future__ import annotations

import json
from collections.abc import Mapping

from pytest_taskcache.ports import Holder


def to_fields(holder: Holder) -> dict[str, str | float]:
    """The holder's fields as plain JSON values."""
    return {
        "run": holder.run,
        "started": holder.started,
        "process": holder.process,
        "attempt": holder.attempt,
        "label": holder.label,
    }


def from_fields(fields: object) -> Holder | None:
    """The holder those fields describe; None if they do not describe one."""
    if not isinstance(fields, Mapping):
        return None
    texts = [fields.get(name) for name in ("run", "process", "attempt", "label")]
    started = fields.get("started")
    run, process, attempt, label = texts
    if not (
        isinstance(run, str)
        and isinstance(process, str)
        and isinstance(attempt, str)
        and isinstance(label, str)
        and isinstance(started, int | float)
    ):
        return None
    return Holder(run, float(started), process, attempt, label)


def to_text(holder: Holder) -> str:
    """The holder as one line of ASCII JSON."""
    return json.dumps(to_fields(holder))


def from_text(text: str | bytes) -> Holder | None:
    """The holder in a line of JSON; None if there is none in it."""
    return from_fields(parse(text))


def parse(text: str | bytes) -> object:
    """The value of a JSON text; None if it is none, or one that is nested absurdly deep."""
    try:
        value: object = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value


def unknown(label: str, process: str = "unknown") -> Holder:
    """Stands for somebody who holds the lock and cannot be named; older than every run, so that
    nobody with uncommitted keys waits for them."""
    return Holder(run="unknown", started=0.0, process=process, attempt="unknown", label=label)
