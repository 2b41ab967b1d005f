"""Imports: which module bodies are executed, which names were tried, which were asked for."""

from __future__ import annotations

import dis
import importlib.util
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib.machinery import ModuleSpec
from types import CodeType, FrameType, ModuleType
from typing import Any

from pytest_taskcache.code.asleep import namespace_of
from pytest_taskcache.code.byte_code import nested
from pytest_taskcache.code.distributions import installed_directories
from pytest_taskcache.observation.hooks.callers import ActsFor, origin_of
from pytest_taskcache.observation.hooks.dispatcher import dispatcher, handles, is_muted, muted
from pytest_taskcache.observation.hooks.replacing import spec_of
from pytest_taskcache.observation.running_code import MONITORING, running_code
from pytest_taskcache.originals import originals, os_path

_IMPORT = dis.opmap["IMPORT_NAME"]
_IMPORT_FROM = dis.opmap["IMPORT_FROM"]
_NAMED = ("<frozen", *installed_directories())
"""How the names of files begin whose code counts by its distribution, or not at all."""


def source_of(module: ModuleType | None) -> str | None:
    """The absolute path a loaded module came from; None for built-in and namespace ones."""
    filename = namespace_of(module).get("__file__")
    return os_path.abspath(filename) if isinstance(filename, str) else None


class NotingFinder:
    """First on ``sys.meta_path``: notes what was tried, and leaves finding it to the others. A
    missing import raises no audit event of its own."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """None, but for modules that are amended once they are imported."""
        if dispatcher.listeners and not is_muted():
            frame = originals.getframe(1)
            dispatcher.tell(lambda listener: listener.on_import_tried(fullname, frame))
        return spec_of(fullname, path)


class _Bootstrap(ModuleType):
    """What `importlib._bootstrap` is while anyone listens. `importlib.import_module` calls a
    function of it: a module that is loaded already is handed out without any event, yet whoever
    asks depends on it.

    It is seen as the function is looked up, and not called by one of ours, since a frame of ours
    between whoever asks and the module's own code would be counted: by
    ``warnings.warn(stacklevel=...)``, for one.
    """

    @property
    def _gcd_import(self) -> Any:
        if dispatcher.listeners and not is_muted():
            _tell_asked(originals.getframe(1))
        return vars(self)["_gcd_import"]

    @_gcd_import.setter
    def _gcd_import(self, value: Any) -> None:
        vars(self)["_gcd_import"] = value


def _tell_asked(frame: FrameType) -> None:
    given = frame.f_locals
    with suppress(ImportError, KeyError):  # a relative name of no package
        name = importlib.util.resolve_name(given["name"], given["package"])
        module, caller = sys.modules.get(name), frame.f_back
        dispatcher.tell(lambda listener: listener.on_import_asked(name, module, caller))


@handles("exec", even_muted=True)
def _execute(frame: FrameType, code: CodeType) -> None:
    _made(frame, code)
    if code.co_name == "<module>" and not code.co_filename.startswith("<") and not is_muted():
        dispatcher.tell(lambda listener: listener.on_execution(code, frame))


@handles("function.__new__", even_muted=True)
def _made(frame: FrameType, code: CodeType) -> None:
    _tell_code(code)
    # What is imported by code that no file of the project holds shows nowhere else, where the
    # module is loaded already.
    filename = code.co_filename
    if is_muted() or filename.startswith(_NAMED):
        return
    if filename.startswith("<") or origin_of(filename) is ActsFor.OUTSIDE:
        dispatcher.tell(lambda listener: listener.on_unnamed_code(code, frame))


@handles("object.__setattr__", even_muted=True)
def _set_attribute(frame: FrameType, owner: object, name: str, value: Any) -> None:
    if name == "__code__":
        _tell_code(value)


if MONITORING:  # on 3.11 all code of a module that was imported counts as having run

    @handles("__code__")
    def _get_code(frame: FrameType, function: Any, name: str) -> None:
        """Who reads a function's code may look at what is in it, or run it by other means than
        the interpreter (numba). The standard library, but for `dis`, asks how it is called, and
        where it stands."""
        asking = frame.f_code.co_filename
        if origin_of(asking) is ActsFor.OUTSIDE or asking == dis.__file__:
            with muted():
                running_code.note(function.__code__)


def _tell_code(code: CodeType) -> None:
    if not code.co_filename.startswith("<"):
        dispatcher.tell(lambda listener: listener.on_code(code))


def mentioned_by(code: CodeType) -> set[str]:
    """The identifiers that are no local names of this code, and of what is nested in it."""
    return {name for each in nested(code) for name in each.co_names}


def imported_by(code: CodeType) -> set[str]:
    """The absolute names of the modules that this code, and what is nested in it, imports; of
    the names that it takes from one, those that are loaded modules themselves."""
    found: set[str] = set()
    for each in nested(code):
        operations = each.co_code[::2]
        if _IMPORT not in operations:
            continue
        module = ""
        # `dis` would tell the same, at the price of a template's compilation.
        for place, operation in enumerate(operations):
            if operation == _IMPORT:
                module = _name_at(each, place)
                found.add(module)
            elif operation == _IMPORT_FROM:
                name = f"{module}.{_name_at(each, place)}"
                if name in sys.modules:
                    found.add(name)
    found.discard("")
    return found


def _name_at(code: CodeType, place: int) -> str:
    """The name that an import's instruction is about, given how many come before it."""
    argument = code.co_code[2 * place + 1]
    shift = 8
    while place and code.co_code[2 * place - 2] == dis.EXTENDED_ARG:
        place -= 1
        argument |= code.co_code[2 * place + 1] << shift
        shift += 8
    return code.co_names[argument]


@handles("pickle.find_class")
def _find_class(frame: FrameType, module: object, name: object) -> None:
    """Unpickling looks a name up in a module, which may be loaded already."""
    if isinstance(module, str):
        found, wanted = sys.modules.get(module), str(name)
        dispatcher.tell(lambda listener: listener.on_import_asked(module, found, frame, wanted))


finder = NotingFinder()
_bootstrap: ModuleType = vars(importlib)["_bootstrap"]


def install() -> None:
    """Starts noting imports."""
    if finder not in sys.meta_path:
        sys.meta_path.insert(0, finder)
    _bootstrap.__class__ = _Bootstrap


def remove() -> None:
    """Stops noting imports."""
    if finder in sys.meta_path:
        sys.meta_path.remove(finder)
    _bootstrap.__class__ = ModuleType
