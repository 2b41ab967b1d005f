"""What a fixture's set-up leaves behind besides its value, which a hit would not leave.

A hit hands out the value and runs nothing. So a fixture that also sets a variable, patches,
changes the directory, starts a server or changes what another fixture gave it is refused, by
name, when it is computed. For example:

    @cached_fixture
    def settings(monkeypatch):
        monkeypatch.setenv("MODE", "test")     # refused: "changed the environment (MODE)"
        return load_settings()

The process is photographed before and after: names and identities, and what containers and
objects that modules and classes of the project hold contain themselves, three steps deep.
"""

from __future__ import annotations

import contextvars
import dis
import faulthandler
import functools
import gc
import logging
import os
import random
import signal
import socket
import stat
import sys
import tempfile
import threading
import tracemalloc
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from enum import Enum
from functools import cache
from itertools import chain
from operator import is_
from pathlib import Path, PurePath
from types import BuiltinFunctionType, CellType, FunctionType, ModuleType
from typing import Any, NamedTuple

from pytest_taskcache.code.asleep import is_a, namespace_of
from pytest_taskcache.code.byte_code import nested
from pytest_taskcache.errors import UndigestableError
from pytest_taskcache.observation.held_values import CONTAINERS, is_memo, parts_of
from pytest_taskcache.observation.hooks import environ
from pytest_taskcache.observation.hooks.callers import is_machinery
from pytest_taskcache.observation.hooks.import_hooks import source_of
from pytest_taskcache.observation.hooks.opaque import children
from pytest_taskcache.observation.hooks.patches import Ambient, patches
from pytest_taskcache.originals import os_path
from pytest_taskcache.serializers.references import References, pickler
from pytest_taskcache.storage.local.runs import is_unreaped

_OWN_VARIABLES = frozenset({b"PYTEST_CURRENT_TEST", b"PYTEST_VERSION"})
_OWN_CONTEXT = ("pytest_taskcache", "decimal_context")
"""Context variables of ours, and the one that is set by who first looks at it."""
_ELEMENTS = 10_000
_DEPTH = 3
_SCALARS: frozenset[type[Any]] = frozenset({int, float, complex, str, bytes, bool, type(None)})
_STILL: tuple[type[Any], ...] = (
    *(type, ModuleType, BuiltinFunctionType, property, staticmethod, classmethod, Enum),
    logging.Logger,  # seen as such
    signal.Handlers,
)
_PLAIN: tuple[type[Any], ...] = (
    *_SCALARS,
    PurePath,
    FunctionType,
    BuiltinFunctionType,
    ModuleType,
    type,
    range,
)
_TWISTS = 64
"""Times 624 numbers drawn from a generator are told from seeding it."""

_SIGNALS = {int(each): str(getattr(each, "name", each)) for each in signal.valid_signals()}

_getsignal: Callable[[int], object] = getattr(sys.modules["_signal"], "getsignal")  # noqa: B009
"""Python's own wrapper makes members of an enumeration, in twenty times the time."""

_THREAD = "left a thread running"
_CHILD = "left a child process running"
_SOCKET = "left a socket listening"
_IN_MODULES = "changed a module"
_IN_CLASSES = "changed a class"
_MODULES = "changed sys.modules"
_LOGGING = "changed logging"
_WARNINGS = "changed the warning filters"
_SEED = "seeded a random generator"
_FILES = "left files in tmp_path"
_HOLDS = "holds what another fixture gave it"
_GONE = object()
_LEFT = frozenset({_THREAD, _CHILD, _SOCKET})


class Effect(NamedTuple):
    """What kind of effect, as the summary counts it, and on what."""

    kind: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} ({self.name})" if self.name else self.kind


class Effects:
    """A photograph, taken before a fixture is set up; `found` takes another and compares.

    ``is_project(file)`` says whether a module belongs to the project; ``instance`` is the test's
    class instance; ``directory`` its temporary one, where others use it, too; ``temporary`` that of
    the run; ``inputs`` are what
    other fixtures gave, and ``digest(value, name)`` digests one (it raises UndigestableError).
    """

    def __init__(
        self,
        is_project: Callable[[str], bool],
        instance: object,
        directory: Path | None,
        temporary: Path | None,
        inputs: Mapping[str, object],
        digest: Callable[[object, str], str],
    ) -> None:
        self._is_project = is_project
        self._instance = instance
        self._directory = directory
        self._temporary = temporary
        self._inputs: dict[str, object] = {}
        self._digests: dict[str, str] = {}
        self._digest = digest
        for name, each in inputs.items():
            self.add_input(name, each)
        self._loaded = frozenset(sys.modules)
        self._modules = [each for each in list(sys.modules.items()) if self._is_ours(each[1])]
        self._libraries = [(name, each, dict(each)) for name, each in self._spaces_of_libraries()]
        self._ambient = Ambient()
        self._before = self._photograph()

    def add_input(self, name: str, value: object) -> None:
        """Another fixture has given this: as an argument, or when it was asked for by name."""
        if name not in self._inputs and (not _is_plain(value) or self._is_temporary(value)):
            self._inputs[name] = value
            with suppress(UndigestableError):
                self._digests[name] = self._digest(value, name)

    def _is_temporary(self, value: object) -> bool:
        """Whether it is a path that the next run does not have, so that a hit has a copy of it."""
        within = self._temporary
        return within is not None and isinstance(value, PurePath) and value.is_relative_to(within)

    def found(self, value: object) -> Effect | None:
        """The first effect of what ran since, where ``value`` is what it returned."""
        after = self._photograph()
        attributes = namespace_of(self._instance).items()
        own = {f"self.{n}": v for n, v in attributes if n[:1] != "_" and not _is_plain(v)}
        parts = _Parts(value, self._inputs | own, self._directory, self._is_ours)
        if parts.names_path:
            after[_FILES] = self._before[_FILES]  # a hit brings it back
        for kind, before in self._before.items():
            for name in _differing(kind, before, after[kind]):
                if not self._is_an_import(kind, name, after[kind]):
                    return Effect(kind, name)
        for name in self._changed_in_libraries():
            return Effect("changed a library", name)
        ambient = self._ambient.changed()
        if ambient:
            return Effect("changed the process", ambient)
        for name, known in self._digests.items():
            with suppress(UndigestableError):
                if self._digest(self._inputs[name], name) != known:
                    return Effect("changed what another fixture gave it", name)
        if parts.held:
            kind = "holds what its test holds" if parts.held in own else _HOLDS
            return Effect(kind, parts.held)
        held = chain(self._before[_IN_MODULES].items(), self._before[_IN_CLASSES].items())
        names = (name for name, seen in held if _is_or_holds(seen, value))
        name = next(names, "") if _can_be_told_from_copy(value) else ""
        return Effect("returns what a module holds", name) if name else None

    def _photograph(self) -> dict[str, Mapping[str, Any]]:
        attributes = namespace_of(self._instance)
        in_modules, in_classes = self._globals()
        return {
            "changed the environment": _environment(),
            "changed the working directory": {"": _working_directory()},
            "patched something": {str(each): True for each in patches.in_force()},
            "changed its test": {n: _seen(v) for n, v in attributes.items() if n[:1] != "_"},
            _IN_MODULES: in_modules,
            _IN_CLASSES: in_classes,
            "changed sys.path": {"": list(sys.path)},
            _MODULES: dict(sys.modules),
            _LOGGING: _logging(),
            _WARNINGS: {"": list(warnings.filters)},
            "changed the process": {
                **_settings(),
                **{f"sys.{n}": v[:] for n, v in list(vars(sys).items()) if type(v) is list},
                **{
                    f"context variable {variable.name}": _seen(value)
                    for variable, value in contextvars.copy_context().items()
                    if not variable.name.startswith(_OWN_CONTEXT)
                },
            },
            _SEED: _generators(),
            "set a signal handler": _signal_handlers(),
            _FILES: dict(_files(self._directory)),
            _THREAD: dict.fromkeys(_threads(), True),
            _CHILD: dict.fromkeys(_children(), True),
            _SOCKET: dict.fromkeys(_listening(), True),
        }

    def _globals(self) -> tuple[dict[str, object], dict[str, object]]:
        """What the project's modules hold, and what the classes do that they define."""
        in_modules, in_classes = {}, {}
        for module_name, module in self._modules:
            for name, value in list(namespace_of(module).items()):
                if not name.startswith(("__", "@")) and not is_a(value, ModuleType):
                    in_modules[f"{module_name}.{name}"] = _seen(value)
                if not is_a(value, type) or value.__module__ != module_name:
                    continue
                for attribute, held in list(vars(value).items()):
                    if not attribute.startswith(("__", "_abc_")) or is_a(held, FunctionType):
                        in_classes[f"{module_name}.{value.__qualname__}.{attribute}"] = _seen(held)
        return in_modules, in_classes

    def _is_ours(self, module: object) -> bool:
        file = namespace_of(module).get("__file__")
        return isinstance(file, str) and self._is_project(file)

    def _spaces_of_libraries(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Those of Python's own modules, and of what the project's modules have imported: modules
        with their classes, and classes."""
        standard = sys.stdlib_module_names
        found = {n: m for n, m in list(sys.modules.items()) if n.partition(".")[0] in standard}
        classes: dict[int, type] = {}
        for _, module in self._modules:
            values = list(namespace_of(module).values())
            for value in list(values):
                if is_a(value, ModuleType) and not is_machinery(source_of(value) or ""):
                    found[value.__name__] = value
                    values += namespace_of(value).values()
            classes |= {id(value): value for value in values if is_a(value, type)}
        for name, library in found.items():
            if name[:1] != "_" and not self._is_ours(library):
                yield name, namespace_of(library)
        for each in classes.values():
            if not self._is_of_project(each):
                yield f"{each.__module__}.{each.__qualname__}", vars(each)

    def _changed_in_libraries(self) -> Iterator[str]:
        """Names of installed modules that hold something else, put there by others than their own
        code, which remembers what it worked out, and than modules that were imported meanwhile."""
        may_be_imports = self._were_imports()
        for module, space, before in self._libraries:
            if len(space) == len(before) and all(map(is_, space.values(), before.values())):
                continue
            for name in sorted(before.keys() | space.keys()):
                value, was = space.get(name, _GONE), before.get(name, _GONE)
                plain = type(value) is type(was) and type(value) in (*_SCALARS, tuple)
                special = name.startswith("__") and not is_a(value, FunctionType)
                if value is was or (plain and value == was) or special:
                    continue
                if not self._is_of_project(value) and (
                    type(space) is not dict  # a class's, which keeps what it works out
                    or is_a(value, ModuleType)
                    or may_be_imports
                    or (was is _GONE and "__getattr__" in space)
                    or _sets(space, name)
                ):
                    continue
                yield f"{module}.{name}"

    def _is_of_project(self, value: object) -> bool:
        cls = value if is_a(value, type) or is_a(value, FunctionType) else type(value)
        return self._is_ours(sys.modules.get(cls.__module__))

    def _is_an_import(self, kind: str, name: str, after: Mapping[str, Any]) -> bool:
        """Whether it is what importing modules does: a hit imports what its value needs."""
        if kind == _MODULES:
            return name not in self._loaded and (_has_spec(name) or self._were_imports())
        if not self._were_imports():
            return False
        before = self._before[kind]
        if kind == _LOGGING:
            return name not in before
        return kind == _WARNINGS and all(each in after[name] for each in before[name])

    def _were_imports(self) -> bool:
        """Whether modules were imported that may act on others: ours, and those that Python has
        with it, do not."""
        fresh = (name for name in sys.modules.keys() - self._loaded if _has_spec(name))
        tops = {name.partition(".")[0] for name in fresh}
        return bool(tops - sys.stdlib_module_names - {"pytest_taskcache"})


def _seen(value: Any, depth: int = _DEPTH, budget: list[int] | None = None) -> object:
    """What equals that of the same object (or of an equal number or text) with the same elements
    and public attributes, which may hold others; all are held, so that their ids stay theirs."""
    kind = type(value)
    if kind in _SCALARS:
        return kind, value
    if kind is FunctionType:
        code, defaults, more = value.__code__, value.__defaults__, value.__dict__
        if depth and (defaults or more):
            return id(value), (code, _seen(defaults, depth), _seen(more, depth)), value
        return id(value), (code,), value
    if not depth or issubclass(kind, _STILL):
        return id(value), (), value
    budget = [_ELEMENTS] if budget is None else budget
    inner: list[object] = []
    names, parts = parts_of(value)
    if names:
        lasting = [each for each in zip(names, parts, strict=True) if not is_memo(kind, each[0])]
        inner, parts = [name for name, _ in lasting], [part for _, part in lasting]
    parts = parts[: budget[0]]
    budget[0] -= len(parts)
    for part in parts:
        plain = type(part) in _SCALARS  # most are: spares a call
        inner.append((type(part), part) if plain else _seen(part, depth - 1, budget))
    return id(value), inner, value


def _differing(kind: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    for name in after.keys() - before.keys() if kind in _LEFT else before.keys() | after.keys():
        missing = name not in before or name not in after
        if kind == _SEED:
            if not missing and _was_seeded(before[name], after[name]):
                yield name
        elif missing or (before[name] is not after[name] and before[name] != after[name]):
            yield name


def _has_spec(module: str) -> bool:
    """Whether it came by an import."""
    return namespace_of(sys.modules.get(module)).get("__spec__") is not None


def _sets(space: dict[str, Any], name: str) -> bool:
    spaces = [space, *(vars(each) for each in list(space.values()) if is_a(each, type))]
    codes = (each.__code__ for one in spaces for each in one.values() if is_a(each, FunctionType))
    return any(
        each.opname in ("STORE_GLOBAL", "DELETE_GLOBAL") and each.argval == name
        for code in chain.from_iterable(map(nested, codes))
        if name in code.co_names
        for each in dis.get_instructions(code)
    )


def _environment() -> dict[str, object]:
    found = environ.snapshot().items()
    return {os.fsdecode(name): value for name, value in found if name not in _OWN_VARIABLES}


def _working_directory() -> str:
    try:
        return os.getcwd()
    except OSError:
        return ""


def _logging() -> dict[str, object]:
    shown: dict[str, object] = {"logging.disable": logging.root.manager.disable}
    loggers = [("root", logging.root), *list(logging.root.manager.loggerDict.items())]
    for name, logger in loggers:
        if not isinstance(logger, logging.Logger):
            continue
        handlers = [h for h in logger.handlers if not isinstance(h, logging.NullHandler)]
        inside = [(each.level, each.formatter, [*each.filters]) for each in handlers]
        state = (logger.level, handlers, logger.disabled, logger.propagate, [*logger.filters])
        if name == "root" or state != (0, [], False, True, []):
            shown[name] = state, inside
    return shown


def _settings() -> dict[str, object]:
    found = {
        "the recursion limit": sys.getrecursionlimit(),
        "the switch interval": sys.getswitchinterval(),
        "the longest number as text": sys.get_int_max_str_digits(),
        "garbage collection": (gc.isenabled(), gc.get_threshold(), gc.get_debug(), [*gc.callbacks]),
        "the profile function": sys.getprofile(),
        "the fault handler": faulthandler.is_enabled(),
        "the default time-out of sockets": socket.getdefaulttimeout(),
        "the directory for temporary files": tempfile.tempdir,
        "tracemalloc": tracemalloc.is_tracing(),
        "hooks of asynchronous generators": sys.get_asyncgen_hooks(),
    }
    with suppress(AttributeError, ImportError, OSError):  # Linux alone has all of them
        timers = (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)
        found["the timers"] = [bool(signal.getitimer(each)[0]) for each in timers]
        found["the signal mask"] = signal.pthread_sigmask(signal.SIG_BLOCK, [])
        found["the priority"] = os.getpriority(os.PRIO_PROCESS, 0)
        found |= _limits()
        found["the processors"] = os.sched_getaffinity(0)
        with open("/proc/self/status", "rb", 0) as file:
            found["the umask"] = file.read(200).partition(b"Umask:")[2].partition(b"\n")[0]
    return found


def _limits() -> dict[str, object]:
    import resource

    limits = _limit_numbers(resource)
    return {name: resource.getrlimit(number) for name, number in limits.items()}


@cache
def _limit_numbers(resource: ModuleType) -> dict[str, int]:
    return {name: getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")}


def _signal_handlers() -> dict[str, object]:
    handlers = {name: _getsignal(number) for number, name in _SIGNALS.items()}
    return {name: _seen(one) if one else one for name, one in handlers.items()}


def _generators() -> dict[str, tuple[int, ...]]:
    """The states of the Mersenne twisters: 624 words, and how many of them were used."""
    states = {"random": random.getstate()[1]}
    numpy: Any = sys.modules.get("numpy")  # which imports its part ``random`` when asked for it
    if numpy is not None:
        with suppress(Exception):  # another generator than its own may be set
            _, words, position, *_ = numpy.random.get_state()
            states["numpy.random"] = (*words.tolist(), position)
    return states


def _was_seeded(before: tuple[int, ...], after: tuple[int, ...]) -> bool:
    """Whether a Mersenne twister was seeded: drawing numbers does not lead to its state."""
    twister = random.Random()
    twister.setstate((3, before, None))
    for _ in range(_TWISTS):
        if twister.getstate()[1][:-1] == after[:-1]:
            return False
        twister.getrandbits(32 * 624)
    return True


def _files(directory: Path | None) -> Iterator[tuple[str, object]]:
    for top, _, names in os.walk(directory) if directory is not None else ():
        for name in names:
            with suppress(OSError):
                found = os.lstat(os.path.join(top, name))
                shown = os_path.relpath(os.path.join(top, name), directory)
                yield shown, (found.st_ino, found.st_size, found.st_mtime_ns)


def _threads() -> set[str]:
    """The threads that are running, but for those of the cache and its storages."""
    names = {f"{each.name} ({each.ident})" for each in threading.enumerate()}
    return {name for name in names if not name.startswith(("taskcache", "fsspecIO"))}


def _children() -> set[str]:
    multiprocessing: Any = sys.modules.get("multiprocessing")
    made = multiprocessing.active_children() if multiprocessing is not None else ()
    found = children().union(str(each.pid) for each in made)  # only Linux tells of the others
    return {pid for pid in found if not is_unreaped(pid)}


def _listening() -> set[str]:
    found = set()
    with suppress(OSError):
        for descriptor in os.listdir("/dev/fd"):
            with suppress(OSError, ValueError):
                if stat.S_ISSOCK(os.fstat(int(descriptor)).st_mode):
                    with socket.socket(fileno=os.dup(int(descriptor))) as seen:
                        if seen.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                            found.add(str(seen.getsockname()))
    return found


def global_state() -> dict[str, Any]:
    """What other tests may rely on that an import can leave behind in the process, as it is now.

    Patched foreign modules are not seen: ``taskcache_collect = real`` is for those.
    """
    root = logging.getLogger()
    return {
        "sys.path": list(sys.path),
        "the environment": _environment(),
        "the working directory": _working_directory(),
        "signal handlers": _signal_handlers(),
        **_settings(),
        "threads": _threads(),
        "logging": (root.level, list(root.handlers), root.manager.disable),
        "the random state": random.getstate(),
    }


def _is_plain(value: object) -> bool:
    """Whether nobody can change a value, or tell it from a copy."""
    if isinstance(value, tuple | frozenset):
        return all(map(_is_plain, value))
    if isinstance(value, FunctionType):
        return not (value.__closure__ or value.__defaults__ or value.__kwdefaults__ or vars(value))
    return isinstance(value, _PLAIN)


def _is_or_holds(seen: Any, value: object) -> bool:
    """Whether a value is what was seen (by `_seen`), or an element of it."""
    return len(seen) == 3 and (
        seen[2] is value
        or any(_is_or_holds(each, value) for each in seen[1] if type(each) is tuple)
    )


def _can_be_told_from_copy(value: object) -> bool:
    """Whether a value can be changed, or be told by what it is, and a serializer would copy it
    rather than write where it is found."""
    kind = type(value)
    if kind in _SCALARS or issubclass(kind, (*_STILL, FunctionType)):
        return False
    if kind.__hash__ is not None and kind.__eq__ is not object.__eq__:
        return False
    with suppress(Exception):
        return References().reduce(value) is NotImplemented
    return True


class _Parts:
    """What a value is or holds, as a serializer goes through it: the name of one of ``inputs`` that
    it shares something with ("" if none), and whether it names a path in a directory."""

    def __init__(
        self,
        value: object,
        inputs: Mapping[str, object],
        within: Path | None,
        is_ours: Callable[[object], bool],
    ) -> None:
        self._within = within and str(within)
        self._is_ours = is_ours
        self._inputs: dict[int, tuple[object, str]] = {}
        self._walks: list[object] = []  # hold what they met, so that its id stays its own
        self.held = ""
        self.names_path = False
        self._paths = [(p, name) for name, p in inputs.items() if isinstance(p, PurePath)]
        if not _is_plain(value):
            for name, each in inputs.items():
                self._walk(each, functools.partial(self._note, name))
        if within is not None or self._inputs or self._paths:
            self._walk(value, self._look)

    def _walk(self, value: object, look: Callable[[object], object]) -> None:
        for copies in (False, True):
            walk = pickler(_Nowhere(), lambda _: False, References(copies))
            walk.persistent_id = look
            self._walks.append(walk)
            with suppress(Exception):  # its own methods may raise anything; it is not stored then
                walk.dump(value)
                break

    def _note(self, name: str, part: object) -> object:
        """Notes what an input is or holds; but not what is inside a library's object, which others
        may share that cannot change it."""
        kind = type(part)
        if kind in _SCALARS:
            return None
        self._inputs.setdefault(id(part), (part, name))
        looks_inside = issubclass(kind, (*CONTAINERS, FunctionType, CellType))
        return None if looks_inside or self._is_ours(sys.modules.get(kind.__module__)) else name

    def _look(self, part: object) -> object:
        if self._within and isinstance(part, str | PurePath) and self._within in str(part):
            self.names_path = True
        if isinstance(part, PurePath):
            self.held = self.held or next((n for p, n in self._paths if part.is_relative_to(p)), "")
        _, name = self._inputs.get(id(part), (None, ""))
        if name and not self.held and _can_be_told_from_copy(part):
            self.held = name
        return name if self.held else None


class _Nowhere:
    def write(self, data: bytes) -> int:
        return len(data)
