"""What records hold and rest on, as people see it.

record test_suite.py::(outcomes)    ->  test_suite.py::test_a, test_suite.py::test_b
trace of test_a
    file size.txt                   ->  file size.txt
    code 37af:a320:7:2,5-6          ->  code 2 functions of 1 file ran
                                        file rates.csv, which one of them opened at any time
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from pytest_taskcache.dataclass import dataclass
from pytest_taskcache.model.dependency import Blob, Dependency, Kind, Trace
from pytest_taskcache.model.record import Variant
from pytest_taskcache.observation.code_log import DecodedLog, decode_code, decode_log
from pytest_taskcache.ports import Buffer
from pytest_taskcache.report.wording import counted

Read = Callable[[str, int], Buffer | None]
"""A result by its digest and size; None where it is lost."""

_OUTCOMES = "outcome/"
_COLLECTED = ("::<collection>", "<selection>::")


@dataclass(frozen=True, slots=True)
class Held:
    """One value or outcome that a record holds; ``kind`` is test, mark, collection, value or
    target, size in bytes is its share of what only this record needs. Times as those of a record.
    """

    name: str
    kind: str
    record: Variant
    trace: Trace
    created: float
    expires: float | None
    seconds: float
    size: int


@dataclass(frozen=True, slots=True)
class Grounds:
    """What a trace rests on, by kind and name, and the functions that ran."""

    rests_on: tuple[Dependency, ...]
    ran: tuple[str, ...]


class Contents:
    """Reads records' contents. What is lost or damaged shows as nothing; raises StorageError."""

    def __init__(self, read: Read) -> None:
        self._read = read
        self._logs: dict[tuple[str, ...], DecodedLog | None] = {}

    def held(self, record: Variant) -> list[Held]:
        """What a record holds: the tests of a bundle of outcomes, else the one value."""
        size = record.result.size + sum(blob.size for blob in record.result.blobs)
        if not record.result.serializer.startswith(_OUTCOMES):
            kind = "collection" if str(record.identity).endswith(_COLLECTED) else "value"
            name = str(record.identity).removesuffix("::")
            for target in (part.digest for part in record.parts if part.name == "target"):
                kind, name = "target", f"{name} -> {target}"
            times = (record.created, record.expires, record.duration)
            return [Held(name, kind, record, record.trace, *times, size)]
        found = []
        bundle = self.bundle(record)
        rows = [Dependency(Kind(kind), name, digest) for kind, name, digest in bundle["rows"]]
        uses = [Blob(*blob) for blob in bundle["uses"]]
        share = size // max(sum(len(unit["tests"]) for unit in bundle["units"]), 1)
        for unit in bundle["units"]:
            trace = Trace(
                tuple(rows[index] for index in unit["rows"]),
                unit["digest"],
                tuple(uses[index] for index in unit.get("uses", ())),
            )
            kind = "mark" if unit.get("mark") else "test"
            for rest, told in unit["tests"].items():
                name = f"{record.identity.file}::{rest}"
                times = (float(unit["created"]), unit.get("expires"), _seconds(told))
                found.append(Held(name, kind, record, trace, *times, share))
        return found

    def bundle(self, record: Variant) -> dict[str, Any]:
        """The value of a record of outcomes, as JSON; an empty one where it is lost."""
        result = record.result
        data: Buffer | None = result.inline
        try:
            if data is None:
                data = self._read(result.digest, result.size) or b""
            found: dict[str, Any] = json.loads(str(data, "utf-8", "surrogatepass"))
        except ValueError:
            return {"rows": [], "uses": [], "units": []}
        return found

    def grounds(self, trace: Trace) -> Grounds:
        """What a trace rests on, its code told in numbers, with what the functions that ran in it
        touched at any time. What these functions reach is worked out only when it changed."""
        found: dict[Dependency, None] = {}
        ran: dict[str, None] = {}
        for dependency in trace.dependencies:
            if dependency.kind is not Kind.CODE:
                found[dependency] = None
                continue
            log = self._log(dependency, trace.uses)
            if log is None:
                found[Dependency(Kind.CODE, "that is lost", "")] = None
                continue
            part = decode_code(dependency)
            nodes = {node for each in part.ran for node in each if node < len(log.nodes)}
            for file, name in (log.nodes[node] for node in sorted(nodes)):
                if not name.startswith("<"):
                    ran[f"{log.files[file][0]}::{name}"] = None
            for touched, owner, position in log.touches:
                if owner in nodes and position <= part.position:
                    found[touched] = None
        if ran:
            files = len({name.partition("::")[0] for name in ran})
            told = f"{counted(len(ran), 'function')} of {counted(files, 'file')} ran"
            found[Dependency(Kind.CODE, told, "")] = None
        return Grounds(tuple(sorted(found)), tuple(ran))

    def touched(self, records: Iterable[Variant]) -> Iterator[Dependency]:
        """All but code that anything in these records rests on, each once."""
        known: set[object] = set()
        for trace in (held.trace for record in records for held in self.held(record)):
            if trace.digest in known:
                continue
            known.add(trace.digest)
            for dependency in trace.dependencies:
                if dependency in known:
                    continue
                known.add(dependency)
                if dependency.kind is not Kind.CODE:
                    yield dependency
                    continue
                log = self._log(dependency, trace.uses)
                for each, _, _ in log.touches if log is not None else ():
                    if each not in known:
                        known.add(each)
                        yield each

    def _log(self, dependency: Dependency, uses: Iterable[Blob]) -> DecodedLog | None:
        sizes = {blob.digest: blob.size for blob in uses}
        try:
            segments = decode_code(dependency).segments
            if segments not in self._logs:
                found = [
                    bytes(self._read(digest, sizes.get(digest, -1)) or b"") for digest in segments
                ]
                self._logs[segments] = decode_log(found)
        except ValueError:
            return None
        return self._logs[segments]


def _seconds(told: Any) -> float:
    """What a test took: three durations, or reports."""
    if isinstance(told, str):
        return sum(map(float, told.split()[:3]))
    return float(sum(each.get("duration", 0.0) for each in told.get("reports", ())))
