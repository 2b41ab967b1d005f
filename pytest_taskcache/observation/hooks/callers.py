"""Who asked: the first frame outside the standard library, and whether it belongs to the test
machinery, whose own reads are nobody's dependency."""

from __future__ import annotations

import functools
import os
import re
import threading
from enum import Enum
from types import FrameType

from pytest_taskcache.code.distributions import standard_directories
from pytest_taskcache.originals import os_path

_PACKAGE = os.path.dirname(os.path.dirname(os.path.dirname(os_path.abspath(__file__)))) + os.sep
_HOOKS = os.path.join(os.path.dirname(os_path.abspath(__file__)), "")
_STDLIB = tuple(os.path.join(path, "") for path in standard_directories())
_SITE = re.compile(r"[/\\](?:site|dist)-packages[/\\]")
_MACHINERY = re.compile(
    r"[/\\](?:site|dist)-packages[/\\]"
    r"(?:_pytest|pytest|pluggy|xdist|execnet|coverage|pytest_cov)[/\\.]"
)
# What these read they read for themselves: settings, notes, sources to rewrite or to show. Whatever
# else the test runner does while a test runs, such as calling what was handed to `pytest.raises` or
# `addfinalizer`, it does for the test.
_FOR_ITSELF = re.compile(
    r"[/\\](?:pluggy|xdist|execnet|coverage|pytest_cov)[/\\.]"
    r"|[/\\]_pytest[/\\](?:_code|_io|assertion|config)[/\\]"
    r"|[/\\]_pytest[/\\](?:capture|compat|debugging|doctest|faulthandler|helpconfig|junitxml|logging"
    r"|main|monkeypatch|nodes|pastebin|pathlib|python_path|reports|stepwise|terminal|terminalprogress"
    r"|tmpdir|tracemalloc|warnings)\.py$"
)
# These act on a test's behalf: what they read is the test's own doing.
_ON_BEHALF = re.compile(r"[/\\]_pytest[/\\](?:pytester|outcomes)\.py$")
# These act for whoever called them, a test or pytest itself: py.path, the ``cache`` fixture.
_FOR_CALLERS = re.compile(r"[/\\]_pytest[/\\](?:_py[/\\]\w+|legacypath|cacheprovider)\.py$")

# Functions of pytest that ask each object of a file whether it is a fixture or a test.
_COLLECTING = frozenset({"FixtureManager.parsefactories", "PyCollector.collect"})


class ActsFor(Enum):
    """Whose code a file holds."""

    LIBRARY = "library"
    """The standard library, or generated code: acts for whoever called it."""
    RENDERING = "rendering"
    """Reads source files to show them."""
    INSPECTING = "inspecting"
    """Reads source files because it was asked for their text."""
    MACHINERY = "machinery"
    """The test runner, coverage, ourselves."""
    FOR_CALLERS = "for callers"
    """The test runner's, and acts for whoever called it."""
    OUTSIDE = "outside"
    """Anything else: the project and third-party packages."""


_known: dict[str, ActsFor] = {}


def origin_of(filename: str) -> ActsFor:
    """Whose code a code object's file name stands for; remembered per name."""
    try:
        return _known[filename]
    except KeyError:
        origin = _known[filename] = _classify(filename)
        return origin


def _classify(filename: str) -> ActsFor:
    if filename.startswith(_HOOKS):
        return ActsFor.LIBRARY  # its wrappers stand in for functions of the standard library
    if filename.startswith(_PACKAGE):
        return ActsFor.MACHINERY
    if filename.startswith("<"):
        return ActsFor.OUTSIDE if filename.startswith("<doctest ") else ActsFor.LIBRARY
    if filename.startswith(_STDLIB) and not _SITE.search(filename):
        name = os.path.basename(filename)
        if name in ("traceback.py", "tracemalloc.py", "warnings.py", "_py_warnings.py"):
            return ActsFor.RENDERING
        return ActsFor.INSPECTING if name == "inspect.py" else ActsFor.LIBRARY
    if _FOR_CALLERS.search(filename):
        return ActsFor.FOR_CALLERS
    if _MACHINERY.search(filename) and not _ON_BEHALF.search(filename):
        return ActsFor.MACHINERY
    return ActsFor.OUTSIDE


@functools.cache
def _reads_for_itself(filename: str) -> bool:
    return filename.startswith(_PACKAGE) or _FOR_ITSELF.search(filename) is not None


def is_machinery(filename: str) -> bool:
    """Whether a file is the test machinery's, whoever its code acts for."""
    return origin_of(filename) in (ActsFor.MACHINERY, ActsFor.FOR_CALLERS)


def asked_by_machinery(frame: FrameType | None, path: object = "") -> bool:
    """Whether the code that runs in this frame acts for the test machinery, or only reads
    source lines, of a Python file at this path, to render a traceback or a warning."""
    rendering = False
    while frame is not None:
        origin = origin_of(frame.f_code.co_filename)
        if origin is ActsFor.OUTSIDE:
            return rendering
        if origin is ActsFor.MACHINERY:
            return rendering or _reads_for_itself(frame.f_code.co_filename)
        if origin is ActsFor.RENDERING:
            rendering = not path or str(path).endswith((".py", ".pyw"))
        elif origin is ActsFor.INSPECTING:
            rendering = False
        frame = frame.f_back
    return rendering


def is_collecting(frame: FrameType | None) -> bool:
    """Whether code of a library runs since the test runner looks at the objects of a file: one of
    them may load itself only then."""
    called = False
    while frame is not None:
        code = frame.f_code
        if code.co_qualname in _COLLECTING and is_machinery(code.co_filename):
            return called
        called = called or origin_of(code.co_filename) is ActsFor.OUTSIDE
        frame = frame.f_back
    return False


class Aside(threading.local):
    """A context in which what this thread reads and does is the cache's own work, credited to no
    open window. Reentrant.

    Other than `dispatcher.muted` it leaves imports their footprints, since a module that is first
    imported to decode a value is used by others later, and it leaves writes to the windows, since
    what is restored for a computation is not something it read.
    """

    depth = 0

    def __enter__(self) -> None:
        self.depth += 1

    def __exit__(self, *exception: object) -> None:
        self.depth -= 1
