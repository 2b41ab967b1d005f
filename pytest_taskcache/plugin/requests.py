"""What a fixture looked at through its ``request``: recorded, and checked before a hit."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable
from types import FunctionType
from typing import Any

import pytest

from pytest_taskcache.digests.values.digest import digest_value
from pytest_taskcache.errors import UndigestableError
from pytest_taskcache.model.dependency import ABSENT, Kind
from pytest_taskcache.model.key import Part
from pytest_taskcache.ports import Fingerprints

WATCHED = ("cls", "fixturenames", "function", "instance", "keywords", "module", "node", "path")
"""Attributes of a request that lead to the test it was made for."""

_OF_NODES = (
    *("add_marker", "callspec", "cls", "function", "get_closest_marker", "iter_markers"),
    *("keywords", "module", "name", "nodeid", "obj", "originalname", "own_markers", "path"),
)
_LEAD_ON = frozenset({"keywords", "node"})
HARMLESS = frozenset(
    {
        *("addfinalizer", "fixturename", "param", "raiseerror", "scope"),
        *(name for name in WATCHED if name not in _LEAD_ON),
        *(f"node.{name}" for name in _OF_NODES),
    }
)
"""What may be read from a request without coming to pytest's options."""

_MACHINERY = frozenset({"_pytest", "pluggy", "pytest_asyncio", "anyio", "pytest_taskcache"})
_FIXTURE = "request.fixture "
_WRITTEN = "request.written file "
_GONE = "not available"
_PRESENT = "present"


def is_machinery(frame: Any) -> bool:
    """Whether the code of a frame is pytest's, or that of a plugin that acts for it."""
    return str(frame.f_globals.get("__name__", "")).split(".")[0] in _MACHINERY


class RequestRecorder:
    """Watches one fixture's request while the fixture is set up.

    Only what the fixture really looks at counts: one that uses nothing but ``request.param`` is
    shared by all tests, one that reads ``request.node`` belongs to that node. ``seen_module`` is
    called with the file of a module that the fixture was handed this way; ``value_digest``
    digests a fixture's value by name.
    """

    def __init__(
        self,
        request: pytest.FixtureRequest,
        fingerprints: Fingerprints,
        seen_module: Callable[[str], None],
        value_digest: Callable[[str], str],
    ) -> None:
        self._request = request
        self._fingerprints = fingerprints
        self._class = type(request)
        self._seen_module = seen_module
        self._value_digest = value_digest
        self.seen: dict[str, str] = {}
        self.problem = ""

    @property
    def is_watching(self) -> bool:
        """Whether it records at the moment."""
        return "_taskcache_recorder" in self._request.__dict__

    def start(self) -> None:
        """Begins to record."""
        self._request.__class__ = _recording(self._class)
        self._request.__dict__["_taskcache_recorder"] = self

    def stop(self) -> None:
        """Ends recording; the request is as it was."""
        self._request.__class__ = self._class
        self._request.__dict__.pop("_taskcache_recorder", None)

    def look(self, name: str) -> None:
        """Notes that an attribute was looked at, as it is before the fixture can change it."""
        if name not in ("fixturenames", "path"):
            file = getattr(self._module(), "__file__", None)
            if file is not None:
                self._seen_module(file)
        self._note(f"request.{name}", lambda: self._digest_attribute(name))

    def look_at_fixture(self, name: str) -> None:
        """Notes that another fixture was asked for by name: its value is an input."""
        self._note(_FIXTURE + name, lambda: self._value_digest(name))

    def note_written(self, path: str) -> None:
        """Notes that the set-up wrote a file, which must be there at a hit. ``path`` is its
        name in traces."""
        if not path.startswith("<tmp>"):
            self.seen[_WRITTEN + path] = _PRESENT

    def parts(self, *, known: frozenset[str]) -> tuple[Part, ...]:
        """A part for each thing that was looked at, but for attributes that are ``known`` to the
        key already."""
        return tuple(
            Part(name, digest)
            for name, digest in sorted(self.seen.items())
            if name.removeprefix("request.") not in known
        )

    def changed(self) -> str:
        """The attribute that the fixture itself changed while it ran, e.g. by adding a mark to
        its node; "" if there is none."""
        for name, before in self.seen.items():
            if not name.startswith(_FIXTURE) and self.digest(name) != before:
                return name
        return ""

    def digest(self, name: str) -> str:
        """What a part of this name shows now."""
        try:
            if name.startswith(_FIXTURE):
                return self._value_digest(name.removeprefix(_FIXTURE))
            if name.startswith(_WRITTEN):
                path = self._fingerprints.path_of(name.removeprefix(_WRITTEN))
                return _PRESENT if os.path.lexists(path) else ABSENT
            return self._digest_attribute(name.removeprefix("request."))
        except (Exception, pytest.skip.Exception, pytest.fail.Exception):
            # A set-up that fails will do so again when the fixture itself asks for it.
            return _GONE

    def shown(self, name: str) -> object:
        """What an attribute shows, as a value that can be digested: which node, class or file it
        is, its marks and parameters, and what was set on it while it ran."""
        request = self._request
        if name == "path":
            return self._fingerprints.name_of(request.path)
        if name == "fixturenames":
            return list(request.fixturenames)
        if name == "module":
            module = request.module
            return [module.__name__, _globals_of(module)]
        if name == "cls":
            return _class_shown(request.cls)
        if name == "instance":
            state = {} if request.instance is None else vars(request.instance)
            return [_class_shown(request.cls), dict(state)]
        node = request.node
        callspec = getattr(node, "callspec", None)
        shown: list[object] = [
            node.nodeid,
            [(mark.name, mark.args, dict(mark.kwargs)) for mark in node.iter_markers()],
            {} if callspec is None else dict(callspec.params),
        ]
        if name == "keywords":
            shown.append(sorted(request.keywords))
        elif name == "function":
            path = self._fingerprints.name_of(request.path)
            shown.append(self._fingerprints.digest(Kind.SOURCE, path))
        return shown

    # ------------------------------------------------------------------------ internals

    def _digest_attribute(self, name: str) -> str:
        anchors = self._fingerprints.name_of
        return digest_value(self.shown(name), path=f"request.{name}", anchors=anchors)

    def _note(self, name: str, digest: Callable[[], str]) -> None:
        if name in self.seen:
            return
        try:
            self.seen[name] = digest()
        except UndigestableError as error:
            self.problem = self.problem or str(error)

    def _module(self) -> object:
        request = self._request
        return None if request.scope in ("package", "session") else request.module


_classes: dict[type, type] = {}


def _recording(original: type) -> type:
    known = _classes.get(original)
    if known is None:
        namespace = {name: _property(original, name) for name in WATCHED}
        known = _classes[original] = type(original.__name__, (original,), namespace)
    return known


def _property(original: type, name: str) -> property:
    inherited = getattr(original, name)

    def get(self: Any) -> Any:
        value = inherited.fget(self)
        recorder = self.__dict__.get("_taskcache_recorder")
        if recorder is not None and not is_machinery(sys._getframe(1)):
            recorder.look(name)
        return value

    return property(get)


def _class_shown(cls: type | None) -> object:
    """A class by name, and the values set on it and its bases; methods count by their source."""
    if cls is None:
        return None
    values: dict[str, object] = {}
    for owner in reversed(cls.__mro__):
        if owner.__module__ != "builtins":
            values.update((n, v) for n, v in vars(owner).items() if is_plain_value(n, v))
    values.pop("pytestmark", None)
    return [cls.__module__, cls.__qualname__, values]


def _globals_of(module: object) -> dict[str, str]:
    """The values of a module's globals, by digest: those set while it ran show nowhere else.
    What has no digest counts by its type, and by the module's source like everything in it."""
    found = {}
    for name, value in sorted(vars(module).items()):
        if inspect.ismodule(value) or inspect.isclass(value) or not is_plain_value(name, value):
            continue
        try:
            found[name] = digest_value(value, path=name)
        except UndigestableError:
            found[name] = type(value).__qualname__
    return found


def is_plain_value(name: str, value: object) -> bool:
    """Whether an attribute holds a value, rather than code that is digested as source."""
    if name.startswith(("__", "@")) or isinstance(value, FunctionType):
        return False
    if hasattr(type(value), "__get__"):
        return False  # methods of all kinds, properties, slots, fixtures
    return not hasattr(value, "_get_wrapped_function") and name != "_abc_impl"
