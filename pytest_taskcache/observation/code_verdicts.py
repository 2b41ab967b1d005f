"""Whether the code that a trace rests on is as it was, for all records of a log together.

A log's manifest (its files with their contents' digests), its footprints and its distributions
are compared with the present once. Nothing differs: the code part of every record holds. Else one
walk backwards from what changed tells for each node when it began to reach a change, and a record
is invalid if one of its nodes did before the record's window closed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from pytest_taskcache.model.dependency import Blob, Change, Dependency, Kind
from pytest_taskcache.observation.code_log import DecodedLog, decode_code, decode_log
from pytest_taskcache.ports import Fingerprints

Digest = Callable[[Kind, str], str]


class CodeVerdicts:
    """Verdicts by log. ``digest`` is the present one of a dependency."""

    def __init__(self, fingerprints: Fingerprints, digest: Digest) -> None:
        self._fingerprints = fingerprints
        self._digest = digest
        self._read: Callable[[Blob], bytes | None] = lambda blob: None
        self._logs: dict[tuple[str, ...], _Log | None] = {}

    def read_parts_by(self, read: Callable[[Blob], bytes | None]) -> None:
        """Says how segments are read; None for those that are lost."""
        self._read = read

    def reconsider(self) -> None:
        """Something that was asked for differs from what it was."""
        for log in self._logs.values():
            if log is not None:
                log.changes = None

    def check(self, dependency: Dependency, uses: Iterable[Blob]) -> list[Change]:
        """What changed of the code that a record rests on; empty if nothing did."""
        try:
            part = decode_code(dependency)
        except ValueError:
            return [Change("code log", "unreadable", dependency.digest, "")]
        if part.segments not in self._logs:
            self._logs[part.segments] = self._load(part.segments, uses)
        log = self._logs[part.segments]
        if log is None:
            return [Change("code log", "lost", dependency.digest, "")]
        if log.changes is None:
            log.changes = log.compare(self._digest)
        return log.changes

    def _load(self, segments: tuple[str, ...], uses: Iterable[Blob]) -> _Log | None:
        blobs = {blob.digest: blob for blob in uses}
        found = []
        for name in segments:
            data = self._read(blobs.get(name, Blob(name, -1)))
            if data is None:
                return None
            found.append(data)
        try:
            return _Log(decode_log(found))
        except ValueError:
            return None


class _Log:
    def __init__(self, decoded: DecodedLog) -> None:
        self.decoded = decoded
        self.changes: list[Change] | None = None

    def compare(self, digest: Digest) -> list[Change]:
        found = []
        for name, before in self.decoded.files:
            after = digest(Kind.FILE, name)
            if after != before:
                found.append(Change("file", name, before, after))
        for (kind, name, before), owner, position in self.decoded.touches:
            after = digest(kind, name)
            if after != before:
                found.append(Change(str(kind), name, before, after))
        return found
