"""What a record points to in result storage."""

from __future__ import annotations

from pytest_taskcache.model.record import Variant


def results_of(variant: Variant) -> list[tuple[str, int]]:
    """Digest and size of everything that a record needs from result storage."""
    result = variant.result
    outer = [] if result.inline is not None else [(result.digest, result.size)]
    return outer + [(blob.digest, blob.size) for blob in (*result.blobs, *variant.trace.uses)]
