"""Holders as text that lock managers write down, and holders of such text."""

from __future__ import annotations

import json

from pytest_taskcache.ports import Holder


def to_text(holder: Holder) -> str:
    """The holder as one line of ASCII JSON."""
    fields = holder.run, holder.started, holder.process, holder.attempt, holder.label
    return json.dumps(fields)


def from_text(
    text: object, label: str = "somebody who cannot be named", process: str = "unknown"
) -> Holder:
    """The holder that ``to_text`` wrote as this. For anything else one of this label, who holds
    the lock all the same: older than every run, so that nobody with uncommitted keys waits for
    them."""
    try:
        run, started, process_, attempt, label_ = json.loads(text)  # type: ignore[arg-type]
        return Holder(str(run), float(started), str(process_), str(attempt), str(label_))
    except (TypeError, ValueError, RecursionError):
        return Holder("unknown", 0.0, process, "unknown", label)
