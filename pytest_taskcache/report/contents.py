"""What records hold and rest on, as people see it.

record test_suite.py::(outcomes)    ->  test_suite.py::test_a, test_suite.py::test_b
trace of test_a
    file size.txt                   ->  file size.txt
    code 37af:a320:7:2,5-6          ->  code 2 functions of 1 file ran
                                        file rates.csv, which one of them opened at any time

The outcomes of one file are a bundle of units, each of tests that share a trace::

    {"rows":  [["module", "test_x.py", "5b0c…"], …],        dependencies, each once
     "uses":  [["9a17…", 812, ""], …],                      parts that traces share
     "units": [{"rows": [0, 1, 7], "uses": [0], "digest": "77ac…", "created": 1.7e9,
                "tests": {"test_a": "0.0002 0.0031 0.0001", "test_b[1]": {"reports": […]}}}]}

A plain pass is the durations of its three phases, a fourth word the digest of what else it must
agree with (its parameters); whatever has more to tell is a mapping of JSON reports. Reading a
bundle executes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import StrEnum
from typing import Any, TypeAlias

from pytest_taskcache.dataclass import dataclass
from pytest_taskcache.model.dependency import Blob, Dependency, Kind, Trace
from pytest_taskcache.model.record import Variant
from pytest_taskcache.observation.code_log import DecodedLog, decode_code, decode_log
from pytest_taskcache.ports import Buffer
from pytest_taskcache.report.wording import counted

Read = Callable[[str, int], Buffer | None]
"""A result by its digest and size; None where it is lost."""

Outcome: TypeAlias = str | dict[str, Any]
"""A plain pass as the durations of its phases (and, a fourth word, the digest of what it must
agree with), or JSON reports."""


class Mark(StrEnum):
    """What a unit says of its tests."""

    PASSED = ""
    FAILED = "failed"
    FLAKY = "flaky"


@dataclass(eq=False, slots=True)
class Unit:
    """Tests by the rest of their node ids, and the trace that all of them rest on.

    ``created`` and ``expires`` in POSIX seconds. ``made_of`` are staged entries that values used
    in it came from, as far as they may not be committed yet. ``variant`` is the record that it was
    read from (None: found in this process).
    """

    trace: Trace
    tests: dict[str, Outcome]
    created: float
    expires: float | None = None
    mark: Mark = Mark.PASSED
    made_of: frozenset[str] = frozenset()
    variant: Variant | None = None


def duration_of(outcome: Outcome) -> float:
    """Seconds that the test took, all phases together."""
    if isinstance(outcome, str):
        return sum(map(float, outcome.split()[:3]))
    reports = (entry for entry in outcome.get("reports", ()) if "special" not in entry)
    return float(sum(entry.get("duration", 0.0) for entry in reports))


def encode(units: Sequence[Unit]) -> dict[str, object]:
    """Units as JSON values."""
    rows: dict[Dependency, int] = {}
    uses: dict[Blob, int] = {}
    plain: list[object] = []
    for unit in units:
        entry: dict[str, object] = {
            "rows": [rows.setdefault(each, len(rows)) for each in unit.trace.dependencies],
            "digest": unit.trace.digest,
            "created": unit.created,
            "tests": unit.tests,
        }
        if unit.trace.uses:
            entry["uses"] = [uses.setdefault(each, len(uses)) for each in unit.trace.uses]
        if unit.expires is not None:
            entry["expires"] = unit.expires
        if unit.mark:
            entry["mark"] = str(unit.mark)
        plain.append(entry)
    return {
        "rows": [[str(row.kind), row.name, row.digest] for row in rows],
        "uses": [list(blob) for blob in uses],
        "units": plain,
    }


def decode(value: Any) -> list[Unit]:
    """The units again. Raises ValueError for what `encode` did not write."""
    try:
        rows = [Dependency(Kind(kind), name, digest) for kind, name, digest in value["rows"]]
        uses = [Blob(digest, size, sha256) for digest, size, sha256 in value["uses"]]
        return [
            Unit(
                Trace(
                    tuple([rows[index] for index in entry["rows"]]),
                    entry["digest"],
                    tuple([uses[index] for index in entry.get("uses", ())]),
                ),
                dict(entry["tests"]),
                float(entry["created"]),
                entry.get("expires"),
                Mark(entry.get("mark", "")),
            )
            for entry in value["units"]
        ]
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise ValueError(f"no bundle of outcomes: {type(error).__name__}: {error}") from error


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
        units = self.units(record)
        share = size // max(sum(len(unit.tests) for unit in units), 1)
        for unit in units:
            kind = "mark" if unit.mark else "test"
            for rest, outcome in unit.tests.items():
                name = f"{record.identity.file}::{rest}"
                times = (unit.created, unit.expires, duration_of(outcome))
                found.append(Held(name, kind, record, unit.trace, *times, share))
        return found

    def units(self, record: Variant) -> list[Unit]:
        """The units of a record of outcomes; none where it is lost."""
        result = record.result
        data: Buffer | None = result.inline
        try:
            if data is None:
                data = self._read(result.digest, result.size) or b""
            return decode(json.loads(str(data, "utf-8", "surrogatepass")))
        except ValueError:
            return []

    def grounds(self, trace: Trace) -> tuple[list[Dependency], list[str]]:
        """What a trace rests on, its code told in numbers, with what the functions that ran in it
        touched at any time; and these functions. What they reach is worked out only when it
        changed."""
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
        return sorted(found), list(ran)

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
                found = [dependency]
                if dependency.kind is Kind.CODE:
                    log = self._log(dependency, trace.uses)
                    if log is None or id(log) in known:  # most records name the same one
                        continue
                    known.add(id(log))
                    touched = dict.fromkeys(each for each, _, _ in log.touches)
                    found = [each for each in touched if each not in known]
                known.update(found)
                yield from found

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
