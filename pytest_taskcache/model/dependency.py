"""What a computation was observed to depend on."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from pytest_taskcache.dataclass import dataclass, field

ABSENT = "absent"
"""Digest of a file, variable, module or attribute that does not exist."""


class Kind(StrEnum):
    """The kinds of dependency, and what their ``name`` means.

    Paths are POSIX text: relative to the root (``src/x.py``), under the run's temporary
    directory (``<tmp>/x``), else absolute.
    """

    SOURCE = "source"
    """Path of a source file; digest of the whole normalised syntax tree."""
    FILE = "file"
    """Path; digest of its content (of size and mode where it is no regular file)."""
    STAT = "stat"
    """Path; digest of existence, type, mode and size."""
    LISTING = "listing"
    """Directory path; digest of the sorted names in it, and which are directories or links."""
    LEFT = "left"
    """``file``, ``stat`` or ``listing``, a space and a path which the computation itself put there,
    and then looked at; that digest as it left the path. Fits as well where nothing is there."""
    WORKING_DIRECTORY = "working directory"
    """``.``; digest: the name of the directory, as paths are named."""
    FILES = "files"
    """A declared glob pattern; digest of the names and contents of all files it matches."""
    ENVIRONMENT = "env"
    """Variable name, or ``*`` for all but the documented volatile ones; digest of the value."""
    DISTRIBUTION = "distribution"
    """Distribution name; digest of version and RECORD, by content where edited or editable."""
    DISTRIBUTIONS = "distributions"
    """``*``; digest of the names and versions of all installed distributions."""
    IMPORT = "import"
    """Absolute module name whose import was tried; digest of where it is found, or absent."""
    INTERPRETER = "interpreter"
    """``python``; digest of implementation, version, platform and flags. `READ_IN_C`; of the
    variables that are read in C, but for PYTHONHASHSEED, which some runners draw anew each time."""
    CODE = "code"
    """``segments:position:ran``: the functions that ran in a window, as ranges of positions in
    their process's code log, and how far that log had come; the log's segments are shared parts,
    named by their digests. Digest of the last segment."""
    TRACE = "trace"
    """Digest of a shared trace, e.g. that of a fixture; the same digest."""
    SETTING = "setting"
    """Name of a pytest option or ini value; digest of its present value."""


READ_IN_C = "TZ, LANG, LC_* or PYTHON*"
INTERPRETER = "python", READ_IN_C
"""The names of what there is of this kind."""


class Dependency(NamedTuple):
    """One observed thing: its kind, its name, and its digest when it was used."""

    kind: Kind
    name: str
    digest: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


OPAQUE = frozenset({"subprocess", "fork", "multiprocessing", "native", "ctypes", "network"})
"""Kinds of opaque deeds."""


class Opaque(NamedTuple):
    """A deed whose effects cannot be observed, e.g. ``subprocess`` running ``git``."""

    kind: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.kind} ({self.detail})" if self.detail else self.kind


class Blob(NamedTuple):
    """A further result that a record refers to: one file of a tree, a shared part of a trace.

    ``digest`` is xxh3-128 in hexadecimal and names it in result storage; ``sha256`` is filled
    where records are signed, else empty. ``size`` in bytes.
    """

    digest: str
    size: int
    sha256: str = ""


@dataclass(frozen=True, slots=True)
class Trace:
    """The dependencies of one execution, sorted, each (kind, name) once.

    ``digest`` names the trace; two traces are equal when their digests are. Storages return the
    same object for the same digest where they can, so that it is verified once. A trace is a
    tree: dependencies of the kinds CODE and TRACE stand for parts that many traces share.
    ``uses`` lists all of these parts, those of the parts included: results that must be there
    before the record is, and for as long as it is.
    """

    dependencies: tuple[Dependency, ...] = ()
    digest: str = field(default="")
    uses: tuple[Blob, ...] = ()


@dataclass(frozen=True, slots=True)
class Observed:
    """What a closed window saw.

    ``opaque``: deeds that cannot be observed. ``untrusted``: reasons why the trace may not
    describe what ran, e.g. ``src/x.py changed while the computation ran``; such a computation
    is not stored. ``written``: names of a few of the paths it created or changed.
    """

    trace: Trace = Trace()
    opaque: tuple[Opaque, ...] = ()
    untrusted: tuple[str, ...] = ()
    written: tuple[str, ...] = ()


class Change(NamedTuple):
    """One part or dependency whose digest differs from the recorded one."""

    kind: str
    name: str
    before: str
    after: str

    def __str__(self) -> str:
        if self.before == ABSENT:
            verb = "appeared"
        elif self.after == ABSENT:
            verb = "vanished"
        else:
            verb = "changed"
        return f"{self.kind} {verb}: {self.name}"
