"""Every touch of coverage's private parts, behind names of ours (checked on coverage 7.17)."""

from __future__ import annotations

import sys
import threading
from collections.abc import Collection, Iterable
from typing import Any, TypeAlias

import pytest
import xxhash

Lines: TypeAlias = dict[str, set[Any]]
"""What was covered by file name, as coverage's tracers write it down: line numbers, or arcs."""

Arc: TypeAlias = tuple[int, int]

_TRACERS = frozenset({"CTracer", "PyTracer", "SysMonitor"})

_SETTINGS = (
    "branch",
    "concurrency",
    "cover_pylib",
    "include",
    "omit",
    "plugins",
    "source",
    "source_dirs",
    "source_pkgs",
    "timid",
)
"""What decides which lines are noted, and how."""


def is_expected(config: pytest.Config) -> bool:
    """Whether coverage is measured in this process, or may be by when the tests begin. Nothing
    here imports coverage."""
    if "coverage" not in sys.modules:
        return False
    return running() is not None or config.pluginmanager.hasplugin("_cov")


def running() -> Measurement | None:
    """The measurement that goes on in this process; None where there is none."""
    coverage: Any = sys.modules.get("coverage")
    found = coverage.Coverage.current() if coverage is not None else None
    collector = getattr(found, "_collector", None)
    if found is None or not getattr(found, "_started", False) or collector is None:
        return None
    return Measurement(found, collector)


class Measurement:
    """A running measurement, whose collected lines can be taken out and put back.

    ``identity`` is a digest of what decides which lines are noted; lines collected under
    another identity cannot stand in for this one's. ``refusal`` says why the lines of one test
    cannot be told from another's, "" where they can.
    """

    def __init__(self, measuring: Any, collector: Any) -> None:
        self._measuring = measuring
        self._collector = collector
        self._tracer: str = collector.tracer_name()
        self.arcs: bool = bool(collector.branch)
        self._packed: bool = self.arcs and bool(getattr(collector.core, "packed_arcs", False))
        self.identity = self._identity(measuring)
        self.refusal = self._refusal(measuring)

    @property
    def label(self) -> str:
        """What is measured, for people."""
        return f"{'branch' if self.arcs else 'line'} coverage by {self._tracer}"

    @property
    def is_superseded(self) -> bool:
        """Whether another measurement was begun over this one, which sees nothing meanwhile
        (as in a worker of pytest-xdist, where pytest-cov begins two)."""
        coverage: Any = sys.modules.get("coverage")
        current = coverage.Coverage.current() if coverage is not None else None
        return current is not None and current is not self._measuring

    def rearm(self) -> None:
        """Has lines noted again that were noted before: one tracer tells of each only once."""
        if self._tracer == "SysMonitor":
            monitoring: Any = sys.monitoring  # type: ignore[attr-defined, unused-ignore]
            monitoring.restart_events()

    def take(self) -> Lines:
        """What was collected since the last time. The collector's sets are emptied in place,
        because its tracers hold on to them."""
        taken: Lines = {}
        alone = threading.active_count() == 1
        for file, noted in list(self._collector.data.items()):
            if not noted:
                continue
            taken[file] = copied = noted.copy()
            if alone:
                noted.clear()
            else:
                noted.difference_update(copied)  # what a thread adds meanwhile stays
        return taken

    def give(self, lines: Lines) -> None:
        """Puts lines back, as if they had been collected just now."""
        data = self._collector.data
        for file, noted in lines.items():
            if file in data:
                data[file].update(noted)
            else:
                data[file] = set(noted)

    def is_translated(self, files: Iterable[str]) -> bool:
        """Whether a plugin of coverage's maps any of the files from something else."""
        translated: Collection[str] = self._collector.file_tracers
        return bool(translated) and any(file in translated for file in files)

    def to_plain(self, noted: Iterable[Any]) -> list[int] | list[Arc]:
        """Line numbers or arcs, sorted."""
        if not self._packed:
            return sorted(noted)
        return sorted(map(_unpacked, noted))

    def from_plain(self, plain: Iterable[Any]) -> set[Any]:
        """As this measurement's tracer would have noted them."""
        return {_packed(*arc) for arc in plain} if self._packed else set(plain)

    # ------------------------------------------------------------------------ internals

    def _identity(self, measuring: Any) -> str:
        version = getattr(sys.modules.get("coverage"), "__version__", "")
        told = [(name, _option(measuring, name)) for name in _SETTINGS]
        text = repr((version, self._tracer, self.arcs, told))
        return xxhash.xxh3_128_hexdigest(text.encode("utf-8", "surrogatepass"))

    def _refusal(self, measuring: Any) -> str:
        if self._tracer not in _TRACERS:
            return f"coverage's core {self._tracer} does not tell tests apart"
        if self._collector.should_start_context is not None:
            return "coverage with dynamic contexts"
        if _option(measuring, "dynamic_context"):
            return "coverage with dynamic contexts"
        return ""


def _option(measuring: Any, name: str) -> object:
    value: object = getattr(
        measuring.config, {"include": "run_include", "omit": "run_omit"}.get(name, name), None
    )
    return value


_BITS = 28
_MASK = (1 << _BITS) - 1


def _unpacked(packed: int) -> Arc:
    """An arc from the number that the C tracer makes of it (``CTracer_record_pair``)."""
    begin, end = packed & _MASK, packed >> _BITS & _MASK
    return (
        -begin if packed >> 2 * _BITS & 1 else begin,
        -end if packed >> (2 * _BITS + 1) & 1 else end,
    )


def _packed(begin: int, end: int) -> int:
    signs = (begin < 0) | (end < 0) << 1
    return abs(begin) | abs(end) << _BITS | signs << 2 * _BITS
