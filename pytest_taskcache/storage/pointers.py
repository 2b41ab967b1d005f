"""What a record points to in result storage."""

from __future__ import annotations

from pytest_taskcache.model.record import Result


def results_of(result: Result) -> list[tuple[str, int]]:
    """Digest and size of everything that a result needs from result storage."""
    outer = [] if result.inline is not None else [(result.digest, result.size)]
    return outer + [(blob.digest, blob.size) for blob in result.blobs]
