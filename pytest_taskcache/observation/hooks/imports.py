"""Imports: which module bodies are executed, which names were tried, which were asked for."""

from __future__ import annotations

import dis
import importlib
import importlib.util
import os
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import CodeType, FrameType, ModuleType
from typing import Any

from pytest_taskcache.code.asleep import namespace_of
from pytest_taskcache.observation.hooks.after_import import spec_of
from pytest_taskcache.observation.hooks.audit import Handler
from pytest_taskcache.observation.hooks.callers import Origin, origin_of
from pytest_taskcache.observation.hooks.dispatcher import dispatcher, is_muted
from pytest_taskcache.observation.hooks.originals import originals

_IMPORT = dis.opmap["IMPORT_NAME"]


def identity_of(path: str) -> tuple[int, ...] | None:
    """What changes when a file does: device, inode, size, mtime and ctime in nanoseconds."""
    try:
        status = originals.stat(path)
    except (OSError, ValueError):
        return None
    return (
        status.st_dev,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )


def source_of(module: ModuleType | None) -> str | None:
    """The absolute path a loaded module came from; None for built-in and namespace ones."""
    filename = namespace_of(module).get("__file__")
    return os.path.abspath(filename) if isinstance(filename, str) else None


class NotingFinder:
    """First on ``sys.meta_path``: notes what was tried, and leaves finding it to the others. A
    missing import raises no audit event of its own."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """None, but for modules that are amended once they are imported."""
        if dispatcher.listeners and not is_muted():
            frame = sys._getframe(1)
            dispatcher.tell(lambda listener: listener.on_import_tried(fullname, frame))
        return spec_of(fullname, path)


class Asking:
    """A wrapper of `importlib.import_module`: a module that is loaded already is handed out
    without any event, yet whoever asks depends on it."""

    def __init__(self) -> None:
        self._import_module = importlib.import_module

    def __reduce__(self) -> tuple[Any, ...]:
        return (__import__, ("importlib",))

    def import_module(self, name: str, package: str | None = None) -> ModuleType:
        """As `importlib.import_module`."""
        __tracebackhide__ = True
        if not dispatcher.listeners or is_muted():
            return self._import_module(name, package)
        frame = sys._getframe(1)
        module: ModuleType | None = None
        try:
            module = self._import_module(name, package)
            return module
        finally:
            dispatcher.tell(
                lambda listener: listener.on_import_asked(
                    importlib.util.resolve_name(name, package), module, frame
                )
            )

    def install(self) -> None:
        """Puts the wrapper in place."""
        if importlib.import_module == self._import_module:
            importlib.import_module = self.import_module

    def remove(self) -> None:
        """Puts the original back."""
        if importlib.import_module == self.import_module:
            importlib.import_module = self._import_module


def _execute(arguments: tuple[Any, ...]) -> None:
    code = arguments[0]
    _tell_code(code)
    _tell_imports(code, sys._getframe(2))
    if code.co_name != "<module>" or code.co_filename.startswith("<") or is_muted():
        return
    frame = sys._getframe(2)
    dispatcher.tell(lambda listener: listener.on_execution(code, frame))


def _make_function(arguments: tuple[Any, ...]) -> None:
    _tell_code(arguments[0])
    _tell_imports(arguments[0], sys._getframe(2))


def _set_attribute(arguments: tuple[Any, ...]) -> None:
    if arguments[1] == "__code__":
        _tell_code(arguments[2])


def _tell_code(code: CodeType) -> None:
    if not code.co_filename.startswith("<"):
        dispatcher.tell(lambda listener: listener.on_code(code))


def _tell_imports(code: CodeType, frame: FrameType) -> None:
    """What is imported by code that no file of the project holds shows nowhere else, where the
    module is loaded already."""
    if not dispatcher.listeners or is_muted() or code.co_filename.startswith("<frozen"):
        return
    if origin_of(code.co_filename) is Origin.OUTSIDE or code.co_filename.startswith("<"):
        dispatcher.tell(lambda listener: listener.on_unnamed_code(code, frame))


def imported_by(code: CodeType) -> set[str]:
    """The absolute names of the modules that this code, and what is nested in it, imports; of
    the names that it takes from one, those that are loaded modules themselves."""
    found: set[str] = set()
    unseen = [code]
    while unseen:
        each = unseen.pop()
        unseen += [constant for constant in each.co_consts if isinstance(constant, CodeType)]
        if _IMPORT not in each.co_code[::2]:
            continue
        module = ""
        for instruction in dis.get_instructions(each):
            if instruction.opcode == _IMPORT:
                module = str(instruction.argval)
                found.add(module)
            elif instruction.opname == "IMPORT_FROM":
                name = f"{module}.{instruction.argval}"
                if name in sys.modules:
                    found.add(name)
    found.discard("")
    return found


def _find_class(arguments: tuple[Any, ...]) -> None:
    """Unpickling looks a name up in a module, which may be loaded already."""
    name = arguments[0]
    if not dispatcher.listeners or is_muted() or not isinstance(name, str):
        return
    frame = sys._getframe(2)
    dispatcher.tell(lambda listener: listener.on_import_asked(name, sys.modules.get(name), frame))


finder = NotingFinder()
asking = Asking()

EVENTS: dict[str, Handler] = {
    "exec": _execute,
    "function.__new__": _make_function,
    "object.__setattr__": _set_attribute,
    "pickle.find_class": _find_class,
}
"""Handlers by audit event."""


def install() -> None:
    """Starts noting imports."""
    if finder not in sys.meta_path:
        sys.meta_path.insert(0, finder)
    asking.install()


def remove() -> None:
    """Stops noting imports."""
    if finder in sys.meta_path:
        sys.meta_path.remove(finder)
    asking.remove()
