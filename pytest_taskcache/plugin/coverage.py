"""What coverage notes while what is going on: a test, a fixture, a cached call, an import.

For example, ``test_a`` uses the session's fixture ``db``, and imports ``late`` in its body::

    region                lines noted in it
    test_a                those of its body, and of what it calls
      db                  its own, set-up and teardown; test_a gets them for using it
      late                those of its import; test_a gets them for asking for it

At each boundary what coverage's collector holds is taken out and credited to the regions that are
open; after the last test all of it is put back, before coverage saves. Coverage's private parts
are touched in `Measurement` alone (checked on coverage 7.17).
"""

from __future__ import annotations

import builtins
import functools
import importlib
import importlib.util
import sys
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from importlib.machinery import SourceFileLoader
from itertools import accumulate, chain
from types import ModuleType
from typing import Any, Literal, TypeAlias

from pytest_taskcache.checksum import checksum
from pytest_taskcache.dataclass import dataclass, field
from pytest_taskcache.engine.recorder import Finished
from pytest_taskcache.observation.hooks.replacing import swap
from pytest_taskcache.originals import os_path
from pytest_taskcache.plugin.items import Instance

Lines: TypeAlias = dict[str, set[Any]]
"""What was covered by file name, as coverage's tracers write it down: line numbers, or arcs."""

Covered: TypeAlias = dict[str, Lines]
"""All lines of a computation: under "" those that ran in it, under the files of modules those that
ran while these were imported for it. The former are found again when functions have moved. The
latter stand or fall with the content of their files, since what these define is part of it."""

_TRACERS = frozenset({"CTracer", "PyTracer", "SysMonitor"})

_SETTINGS = (
    *("branch", "concurrency", "cover_pylib", "run_include", "run_omit"),
    *("plugins", "source", "source_dirs", "source_pkgs", "timid"),
)
"""What decides which lines are noted, and how."""

_INTERNAL = "<frozen importlib._bootstrap_external>"
"""Python leaves frames of such code out where it looks for the importer: to whom a warning is
shown, and in the traceback of a failing import."""


def merge(target: Lines, lines: Lines) -> None:
    """Adds lines to others."""
    for file, noted in lines.items():
        target.setdefault(file, set()).update(noted)


class Measurement:
    """A running measurement, whose collected lines can be taken out and put back.

    ``identity`` is a digest of what decides which lines are noted; lines collected under
    another identity cannot stand in for this one's. ``refusal`` says why the lines of one test
    cannot be told from another's, "" where they can.
    """

    def __init__(self, measuring: Any, collector: Any) -> None:
        self._measuring = measuring
        self._collector = collector
        tracer: str = collector.tracer_name()
        self._tells_once = tracer == "SysMonitor"
        self._arcs = bool(collector.branch)
        self._packed = self._arcs and bool(getattr(collector.core, "packed_arcs", False))
        settings = [(name, getattr(measuring.config, name, None)) for name in _SETTINGS]
        version = getattr(sys.modules.get("coverage"), "__version__", "")
        self.identity = checksum((version, tracer, repr(self._arcs), repr(settings)))
        self.refusal = ""
        if tracer not in _TRACERS:
            self.refusal = f"coverage's core {tracer} does not tell tests apart"
        elif collector.should_start_context is not None or measuring.config.dynamic_context:
            self.refusal = "coverage with dynamic contexts"

    @classmethod
    def running(cls) -> Measurement | None:
        """The one that goes on in this process; None where there is none."""
        coverage: Any = sys.modules.get("coverage")
        found = coverage.Coverage.current() if coverage is not None else None
        collector = getattr(found, "_collector", None)
        if collector is None or not getattr(found, "_started", False):
            return None
        return cls(found, collector)

    @property
    def is_superseded(self) -> bool:
        """Whether another measurement was begun over this one, which sees nothing meanwhile
        (as in a worker of pytest-xdist, where pytest-cov begins two)."""
        coverage: Any = sys.modules["coverage"]
        return coverage.Coverage.current() not in (None, self._measuring)

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
        if self._tells_once:
            monitoring: Any = sys.monitoring  # type: ignore[attr-defined, unused-ignore]
            monitoring.restart_events()
        return taken

    def give(self, lines: Lines) -> None:
        """Puts lines back, as if they had been collected just now."""
        merge(self._collector.data, lines)

    def is_translated(self, files: Iterable[str]) -> bool:
        """Whether a plugin of coverage's maps any of the files from something else."""
        translated: Collection[str] = self._collector.file_tracers
        return bool(translated) and any(file in translated for file in files)

    def to_plain(self, noted: Iterable[Any]) -> list[int]:
        """Line numbers, sorted; of arcs both ends, one after the other."""
        if not self._arcs:
            return sorted(noted)
        return [*chain.from_iterable(sorted(map(_unpacked, noted) if self._packed else noted))]

    def from_plain(self, plain: Sequence[int]) -> set[Any]:
        """As this measurement's tracer would have noted them."""
        if not self._arcs:
            return set(plain)
        arcs = zip(plain[::2], plain[1::2], strict=True)
        return {_packed(*arc) for arc in arcs} if self._packed else set(arcs)


_BITS = 28
_MASK = (1 << _BITS) - 1


@functools.cache
def _unpacked(packed: int) -> tuple[int, int]:
    """An arc from the number that the C tracer makes of it (``CTracer_record_pair``); the same ones
    are met in test after test."""
    begin, end, signs = packed & _MASK, packed >> _BITS & _MASK, packed >> 2 * _BITS
    return -begin if signs & 1 else begin, -end if signs & 2 else end


def _packed(begin: int, end: int) -> int:
    signs = (begin < 0) | (end < 0) << 1
    return abs(begin) | abs(end) << _BITS | signs << 2 * _BITS


Extent: TypeAlias = Literal["computation", "test", "shared", "import"]
"""What a region stands for. Lines of a fixture that tests share, and of an import, belong to these
alone: the tests get them because they use the fixture, or import the module."""


@dataclass(eq=False)
class Region:
    """What one stretch of the run covered.

    ``imported`` are the files of modules first imported in it; ``asked`` are the modules that were
    asked for, loaded or not, each with what was taken from it; ``instances`` the fixtures that a
    test used, which goes on growing while it runs; ``kept`` the computation that it is of, or of
    whose value the teardown, if that was kept.
    """

    extent: Extent = "computation"
    lines: Lines = field(default_factory=dict)
    imported: set[str] = field(default_factory=set)
    asked: set[tuple[str, tuple[str, ...]]] = field(default_factory=set)
    instances: Sequence[Instance] = ()
    kept: Finished | None = None

    def files(self) -> Iterator[str]:
        """The files of the modules that it imported, or would have, had it been first."""
        yield from self.imported
        for name, taken in self.asked:
            packages = accumulate(name.split("."), "{}.{}".format)
            for each in (*packages, *(f"{name}.{one}" for one in taken)):
                file = getattr(sys.modules.get(each), "__file__", None)
                if isinstance(file, str):
                    yield _real(file)


@functools.cache
def _real(file: str) -> str:
    """Where a module's file is, links followed: each test asks for all that it imports."""
    return os_path.realpath(file)


class Regions:
    """The open regions of the process. What any thread covers counts for all of them, as with
    windows: which thread works for whom cannot be known.

    ``on_file`` is told of each file when its first line is seen. ``imports`` are the regions of
    imports by the modules' files.
    """

    def __init__(self, on_file: Callable[[str], object]) -> None:
        self._on_file = on_file
        self._open: list[Region] = []
        self._total: Lines = {}
        self._guard = threading.RLock()
        self.measurement: Measurement | None = None
        self.imports: dict[str, Region] = {}

    def open(self, region: Region) -> Region:
        """Begins a region."""
        with self._guard:
            self._settle()
            self._open.append(region)
        return region

    def open_import(self, file: str) -> Region:
        """Begins the import of a module from this file."""
        with self._guard:
            for around in self._receivers():
                around.imported.add(file)
            region = self.imports[file] = Region("import")
            return self.open(region)

    def ask(self, name: str, taken: Sequence[str] | None) -> None:
        """Notes that a module was asked for, a loaded one perhaps, and what is taken from it."""
        if self._open:
            with self._guard:
                for region in self._receivers():
                    region.asked.add((name, tuple(taken or ())))

    def close(self, region: Region) -> None:
        """Ends a region. Regions may end in any order, and twice."""
        with self._guard:
            self._settle()
            if region in self._open:
                self._open.remove(region)

    def bring(self, covered: Covered) -> None:
        """Counts lines that were not covered now but belong to a value that is reused. What was
        imported for it is not needed of a module that this process has imported too."""
        with self._guard:
            self._settle()
            for file, lines in covered.items():
                if not file:
                    self._credit(lines)
                elif file not in self.imports:
                    self.imports[file] = Region("import", lines)
                    merge(self._total, lines)
            for region in self._receivers():
                region.imported.update(filter(None, covered))

    def measure(self, measurement: Measurement | None) -> None:
        """From now on, takes lines from this measurement; the one before gets its lines back.
        To be called with None before coverage saves."""
        with self._guard:
            if self.measurement is not None:
                self.measurement.give(self._total)
            self._total = {}
            self.imports.clear()
            self.measurement = measurement

    def _settle(self) -> None:
        if self.measurement is not None:
            self._credit(self.measurement.take())

    def _credit(self, lines: Lines) -> None:
        if not lines:
            return
        for file in lines:
            if file not in self._total:
                self._on_file(file)
        merge(self._total, lines)
        for region in self._receivers():
            merge(region.lines, lines)

    def _receivers(self) -> list[Region]:
        """The open regions that lines belong to now: not those around an import, nor a test
        around a fixture that it shares."""
        receivers: list[Region] = []
        for region in self._open:
            if region.extent == "import":
                receivers.clear()
            elif region.extent == "shared":
                receivers = [one for one in receivers if one.extent != "test"]
            receivers.append(region)
        return receivers


def watch_imports(regions: Regions, measures: Callable[[], bool]) -> Callable[[], None]:
    """Tells the regions of imports while ``measures()``; returns what ends that.

    Each module that is loaded from a source file has a region of its own; not those that pytest
    rewrites, which it loads anew in each run. What is asked for is noted by statement and by name.
    """
    execute, import_statement = SourceFileLoader.exec_module, builtins.__import__
    import_by_name = importlib.import_module

    def exec_module(self: SourceFileLoader, module: ModuleType) -> None:
        region = regions.open_import(_real(self.path)) if measures() else None
        try:
            execute(self, module)
        finally:
            if region is not None:
                regions.close(region)

    def import_(
        name: str,
        globals: Mapping[str, object] | None = None,
        locals: Mapping[str, object] | None = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> ModuleType:
        package = str((globals or {}).get("__package__") or "") if level else ""
        regions.ask(_absolute("." * level + name, package), fromlist)
        return import_statement(name, globals, locals, fromlist or (), level)

    def import_module(name: str, package: str | None = None) -> ModuleType:
        regions.ask(_absolute(name, package), ())
        return import_by_name(name, package)

    places: list[tuple[Any, str, Any, Any]] = [
        (SourceFileLoader, "exec_module", execute, exec_module),
        (builtins, "__import__", import_statement, import_),
        (importlib, "import_module", import_by_name, import_module),
    ]
    for holder, name, original, replacement in places:
        replacement.__code__ = replacement.__code__.replace(co_filename=_INTERNAL)
        swap(holder, name, original, replacement)

    def stop() -> None:
        for holder, name, original, replacement in places:
            swap(holder, name, replacement, original)

    return stop


def _absolute(name: str, package: str | None) -> str:
    """The full name of a module that is asked for; "" where the import will raise."""
    try:
        return importlib.util.resolve_name(name, package or None)
    except ImportError:
        return ""
