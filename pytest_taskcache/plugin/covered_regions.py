"""Which lines were covered while what was going on: a test, a fixture, a function, an import."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import TYPE_CHECKING

from pytest_taskcache.dataclass import dataclass, field
from pytest_taskcache.plugin.coverage import Lines, Measurement
from pytest_taskcache.plugin.covered_imports import Request

if TYPE_CHECKING:
    from pytest_taskcache.plugin.running import Instance


class Extent(Enum):
    """What a region stands for. Lines of a fixture that tests share, and of an import, belong to
    these alone: the tests get them because they use the fixture, or import the module."""

    COMPUTATION = "computation"
    TEST = "test"
    SHARED = "shared"
    IMPORT = "import"


@dataclass(eq=False)
class Region:
    """What one stretch of the run covered.

    ``imported`` are the files of modules first imported in it, ``requested`` all imports;
    ``instances`` the fixtures that a test used, which goes on growing while it runs.
    """

    extent: Extent = Extent.COMPUTATION
    lines: Lines = field(default_factory=dict)
    imported: set[str] = field(default_factory=set)
    requested: set[Request] = field(default_factory=set)
    instances: Sequence[Instance] = ()

    def add(self, lines: Lines) -> None:
        """Adds what was covered."""
        merge(self.lines, lines)


class Regions:
    """The open regions of the process. What any thread covers counts for all of them, as with
    windows: which thread works for whom cannot be known.

    ``on_file`` is told of each file when its first line is seen.
    """

    def __init__(self, on_file: Callable[[str], object]) -> None:
        self._on_file = on_file
        self._open: list[Region] = []
        self._total: Lines = {}
        self._guard = threading.RLock()
        self.measurement: Measurement | None = None

    def open(self, region: Region, file: str = "") -> Region:
        """Begins a region; of an import, ``file`` is the module's."""
        with self._guard:
            self._settle()
            if file:
                for around in self._receivers():
                    around.imported.add(file)
            self._open.append(region)
        return region

    def request(self, request: Request) -> None:
        """Notes an import, of a loaded module perhaps."""
        if self._open:
            with self._guard:
                for region in self._receivers():
                    region.requested.add(request)

    def close(self, region: Region) -> None:
        """Ends a region. Regions may end in any order."""
        with self._guard:
            self._settle()
            if region in self._open:
                self._open.remove(region)

    def bring(self, lines: Lines, imported: Mapping[str, Lines]) -> None:
        """Counts lines that were not covered now but belong to a value that is reused, and
        those of the modules that were imported for it."""
        with self._guard:
            self._settle()
            self._credit(lines)
            for region in self._receivers():
                region.imported.update(imported)
            for each in imported.values():
                merge(self._total, each)

    def measure(self, measurement: Measurement | None) -> None:
        """From now on, takes lines from this measurement; the one before gets its lines back.
        To be called with None before coverage saves."""
        with self._guard:
            if self.measurement is not None:
                self.measurement.give(self._total)
            self._total = {}
            self.measurement = measurement

    # ------------------------------------------------------------------------ internals

    def _settle(self) -> None:
        if self.measurement is None:
            return
        taken = self.measurement.take()
        self.measurement.rearm()
        if taken:
            self._credit(taken)

    def _credit(self, lines: Lines) -> None:
        for file in lines:
            if file not in self._total:
                self._on_file(file)
        merge(self._total, lines)
        for region in self._receivers():
            region.add(lines)

    def _receivers(self) -> list[Region]:
        """The open regions that lines belong to now: not those around an import, nor a test
        around a fixture that it shares."""
        receivers: list[Region] = []
        for region in self._open:
            if region.extent is Extent.IMPORT:
                receivers.clear()
            elif region.extent is Extent.SHARED:
                receivers = [one for one in receivers if one.extent is not Extent.TEST]
            receivers.append(region)
        return receivers


def merge(target: Lines, lines: Lines) -> None:
    """Adds lines to others."""
    for file, noted in lines.items():
        known = target.get(file)
        if known is None:
            target[file] = set(noted)
        else:
            known |= noted
