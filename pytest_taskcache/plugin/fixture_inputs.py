"""What a cached fixture is given, and so what its key is made of; and what it looks at through its
``request``, which its records are compared with.

For example, a fixture reads ``request.param``, and asks for another one by name in its body:

    key       its parameter, and each of its arguments by value (a handle of pytest's by name)
    pinned    what the other fixture gave, in a part of the record called "request.fixture other"

What it reads from its request is part of the key as far as its byte code tells, and pinned where
that does not tell: so one that reads nothing is shared by all tests.
"""

from __future__ import annotations

import dis
import functools
import inspect
import itertools
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import FunctionType
from typing import TYPE_CHECKING, Any

import pytest

from pytest_taskcache.code.byte_code import nested
from pytest_taskcache.decorator import Spec
from pytest_taskcache.digests.values.digest import digest_value
from pytest_taskcache.engine.cache import Engine
from pytest_taskcache.engine.computation import Computation
from pytest_taskcache.errors import UndigestableError
from pytest_taskcache.model.dependency import ABSENT, Kind
from pytest_taskcache.model.event import Subject
from pytest_taskcache.model.key import Part
from pytest_taskcache.originals import originals, os_path
from pytest_taskcache.plugin.pytest_private import (
    ITEM,
    active_definition,
    closure_of,
    is_async,
    is_handle,
)
from pytest_taskcache.ports import Fingerprints
from pytest_taskcache.serializers.trees import scan

if TYPE_CHECKING:
    from pytest_taskcache.plugin.session import Session

_WATCHED = frozenset(
    {
        ITEM, "cls", "fixturenames", "fspath", "function", "instance", "keywords", "module",
        "node", "path",
    }
)  # fmt: skip
"""Attributes of a request that lead to the test it was made for."""

_OF_TESTS = _WATCHED - {"fixturenames", "fspath", "path"}
"""Those through which its module may be read."""

_OF_NODES = (
    *("add_marker", "callspec", "cls", "function", "get_closest_marker", "iter_markers"),
    *("keywords", "module", "name", "nodeid", "obj", "originalname", "own_markers", "path"),
)
_HARMLESS = (_WATCHED - {ITEM, "keywords", "node"}).union(
    ("addfinalizer", "fixturename", "param", "raiseerror", "scope"),
    (f"node.{name}" for name in _OF_NODES),
)
"""What may be read from a request without coming to pytest's options."""

_DIRECTORY = frozenset({"tmp_path", "tmpdir"})
_MACHINERY = frozenset({"_pytest", "pluggy", "pytest_asyncio", "anyio", "pytest_taskcache"})
_REQUEST = "request."
OF_FIXTURE = "request.fixture "
OF_WRITTEN = "request.written file "
"""How the parts of a record begin that name another fixture that was asked for by name, and a file
that the set-up wrote (named as in traces), which must be there at a hit."""
PRESENT = "present"
_GONE = "not available"

_LOADS = ("LOAD_FAST", "LOAD_FAST_CHECK", "LOAD_DEREF")
_READS = frozenset({"LOAD_ATTR", "LOAD_METHOD"})
_USES = _READS | {"LOAD_SUPER_ATTR", "LOAD_SUPER_METHOD", "STORE_ATTR"}


def is_machinery(frame: Any) -> bool:
    """Whether the code of a frame is pytest's, or that of a plugin that acts for it."""
    return str(frame.f_globals.get("__name__", "")).split(".")[0] in _MACHINERY


class FixtureInputs:
    """The inputs of one set-up: gathered when it is made, and watched while the fixture runs.

    ``given`` are the arguments that other fixtures gave, handles of pytest's left out.
    ``sees_request``: whether it has a request that counts. ``problem``: why something that was
    looked at has no digest. ``directory`` is the test's temporary one where others may look for
    what is left there; it makes a key of its own, since only then files that are left matter.
    What has no digest stays without one: whether that matters is for the policy to say.
    """

    def __init__(self, session: Session, spec: Spec, fixturedef: Any, request: Any) -> None:
        policy, function = spec.options.policy, spec.function
        self._session = session
        self._spec = spec
        self._request = request
        self._class: Any = type(request)
        self._fingerprints = session.fingerprints
        self._definition = fixturedef
        self._excluded = policy.excluded
        self._function: FunctionType | None = None
        if isinstance(function, FunctionType) and not hasattr(function, "__wrapped__"):
            self._function = function  # else a decorator between may read what it likes
        self._seen: dict[str, str] = {}
        self.problem = ""
        self._arguments: dict[str, object] = {}
        self.given: dict[str, object] = {}
        self._counted: list[Path] = []
        self._digests: dict[str, str] = {}
        self._parts: list[Part] = []
        self.sees_request = "request" in fixturedef.argnames and "request" not in self._excluded
        reads: frozenset[str] | None = frozenset()
        if self.sees_request:
            reads = reads_of(self._function, "request") if self._function is not None else None
        is_harmless = reads is not None and all(
            name in _HARMLESS or name.partition(".")[0] in _HARMLESS for name in reads
        )
        if not is_harmless or "pytestconfig" in fixturedef.argnames:
            self._parts.append(Part("options", session.options_digest))
        self._known = frozenset(name.partition(".")[0] for name in reads or ()) & _WATCHED
        self._add_owner(getattr(fixturedef.func, "__self__", None))
        names = list(fixturedef.argnames)
        if is_async(fixturedef.func) and "anyio_backend" in {*request.fixturenames} - {*names}:
            names.append("anyio_backend")  # which event loop it runs in, though it does not say so
        for name in names:
            value = self._arguments[name] = request.getfixturevalue(name)
            if active_definition(request, name) is not None:
                self.given[name] = value
            if policy.has("INPUTS") and name not in self._excluded:
                try:
                    self._digests[name] = self._given_by(name)
                except UndigestableError as error:
                    self.problem = str(error) if name in _DIRECTORY else self.problem
        self.directory: Path | None = None
        self._add_directory(_directory(session.running_item, fixturedef))
        if hasattr(request, "param"):
            self._arguments["param"] = request.param
        for name in sorted(self._known):
            self.look(_REQUEST + name)
            self._arguments[f"request.{name}"] = self._shown(name)

    def _add_directory(self, directory: Path | None) -> None:
        """What lies in the test's ``tmp_path``, and whether that is shared, are inputs, too."""
        if directory is None:
            return
        if _DIRECTORY.isdisjoint(self._definition.argnames):
            try:
                self._parts.append(Part("files in tmp_path", self._files_in(directory)))
            except UndigestableError as error:
                self.problem = str(error)
        if _is_shared(self._session.running_item, self._definition):
            self.directory = directory
            self._parts.append(Part("tmp_path", "shared"))

    def computation(self, engine: Engine) -> Computation:
        """The set-up with these inputs."""
        scope = self._request.scope
        return computation_of(
            engine, self._spec, scope, self._arguments, self._digests, self.digest, self._parts
        )

    def _add_owner(self, bound: object) -> None:
        """For a method: its class, and what it may read from itself."""
        if bound is None or inspect.ismodule(bound):
            return
        if isinstance(bound, type):
            cls, state = bound, dict[str, object]()
        else:
            present = self._request.instance
            owner = present if isinstance(present, type(bound)) else bound
            cls, state = type(owner), dict(getattr(owner, "__dict__", {}))
            unittest: Any = sys.modules.get("unittest.case")
            if unittest is not None and isinstance(owner, unittest.TestCase):
                for name in vars(unittest.TestCase()):
                    state.pop(name, None)
        self._parts.append(Part("class", f"{cls.__module__}.{cls.__qualname__}"))
        if "self" in self._excluded or "cls" in self._excluded:
            return
        names = reads_of_self(self._function, cls) if self._function is not None else None
        for name, value in sorted({**_values_of(cls, "unittest.case"), **state}.items()):
            if names is None or name in names:
                self._arguments[f"self.{name}"] = value

    def counts(self, path: str) -> bool:
        """Whether a path is below one that was given, so that what lies there is in the key."""
        return any(Path(path).is_relative_to(each) for each in self._counted)

    def watch(self) -> None:
        """Notes from now on what the fixture looks at: only that counts. One that uses nothing but
        ``request.param`` is shared by all tests, one that reads ``request.node`` belongs to it."""
        for name in self._known:
            self.look(_REQUEST + name)  # once more, now that there is a window
        if self.sees_request:
            self._request.__class__ = _watched(self._class)
            self._request.__dict__["_taskcache_inputs"] = self

    def stop(self) -> None:
        """Ends watching; the request is as it was."""
        self._request.__class__ = self._class
        self._request.__dict__.pop("_taskcache_inputs", None)

    def look(self, name: str) -> None:
        """Notes what a part of this name shows, before the fixture can change it: ``request.node``,
        or ``request.fixture db``, which was asked for by name."""
        request, attribute = self._request, name.removeprefix(_REQUEST)
        if attribute in _OF_TESTS and request.scope not in ("package", "session"):
            file = getattr(request.module, "__file__", None)
            if file is not None:
                self._session.observatory.add_module(file)
        if name not in self._seen:
            try:
                self._seen[name] = self._present(name)
            except UndigestableError as error:
                self.problem = self.problem or str(error)

    def pinned(self) -> tuple[Part, ...]:
        """A part for each thing that was looked at, but for what is in the key already."""
        return tuple(
            Part(name, digest)
            for name, digest in sorted(self._seen.items())
            if name.removeprefix(_REQUEST) not in self._known
        )

    def changed(self) -> str:
        """The attribute that the fixture itself changed while it ran, e.g. by adding a mark to
        its node; "" if there is none."""
        for name, before in self._seen.items():
            if not name.startswith(OF_FIXTURE) and self.digest(name) != before:
                return name
        return ""

    def digest(self, name: str) -> str:
        """What a part of this name shows now."""
        try:
            return self._present(name)
        except (Exception, pytest.skip.Exception, pytest.fail.Exception):
            # A set-up that fails will do so again when the fixture itself asks for it.
            return _GONE

    def _present(self, name: str) -> str:
        if name.startswith(OF_FIXTURE):
            return self._given_by(name.removeprefix(OF_FIXTURE))
        if name.startswith(OF_WRITTEN):
            return digest_of_written(self._fingerprints, name)
        shown = self._shown(name.removeprefix(_REQUEST))
        return digest_value(shown, path=name, anchors=self._fingerprints.name_of)

    def _given_by(self, name: str) -> str:
        """What the value of another fixture counts by; sets it up if need be. Raises
        UndigestableError.

        A handle of pytest's counts by its name, and the test's temporary directory also by what
        lies in it. The value of a cached fixture counts by its result
        while nobody else can have changed it, or it is seen to be unchanged. Everything else
        counts by value.
        """
        session, definition = self._session, active_definition(self._request, name)
        if definition is None and name not in _DIRECTORY:
            return f"handle {name}"
        value = self._request.getfixturevalue(name)
        if definition is None:
            return f"handle {name} {self._files_in(Path(value))}"
        if isinstance(value, Path):
            self._counted.append(value)
        instance = session.fixtures.live.get(definition)
        if instance is None or instance.variant is None:
            return value_digest(session, value, name)
        result = instance.variant.result
        as_stored = f"{result.serializer} {result.digest}"
        if instance.handed_to <= {self._definition, session.items.reader}:
            return as_stored
        present = value_digest(session, value, name)
        return as_stored if present == instance.digest else present

    def _files_in(self, directory: Path) -> str:
        """What lies in a directory whose own name says nothing. Raises UndigestableError."""
        self._counted.append(directory)
        there = sorted(os.listdir(directory))
        found = [value_digest(self._session, directory / each, each) for each in there]
        return digest_value(found) if found else ""

    def _shown(self, name: str) -> object:
        """What an attribute shows, as a value that can be digested: which node, class or file it
        is, its marks and parameters, and what was set on it while it ran."""
        request = self._request
        if name in ("fspath", "path"):
            return self._fingerprints.name_of(request.path)
        if name == "fixturenames":
            return list(request.fixturenames)
        if name == "module":
            module = request.module
            return [module.__name__, _globals_of(module)]
        if name == "cls":
            return _class_shown(request.cls)
        if name == "instance":
            return [_class_shown(request.cls), dict(getattr(request.instance, "__dict__", {}))]
        node = getattr(request, ITEM) if name == ITEM else request.node
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


def _directory(item: pytest.Item | None, fixturedef: Any) -> Path | None:
    """The test's temporary directory, where a fixture is given it, or works in it; else None."""
    made = next(reversed(closure_of(item).definitions.get("tmp_path", ())), None)
    if made is None or fixturedef.scope != "function" or not is_handle(made):
        return None
    if made.cached_result is None:
        return None
    directory: Any = made.cached_result[0]
    works_there = Path(os.getcwd()).is_relative_to(directory)
    return directory if works_there or _DIRECTORY.intersection(fixturedef.argnames) else None


def _is_shared(item: pytest.Item | None, fixturedef: Any) -> bool:
    """Whether others are given the test's temporary directory, too, and may look for files that a
    fixture left there."""
    closure = closure_of(item)
    users = [closure.initial]
    for definition in itertools.chain.from_iterable(closure.definitions.values()):
        if definition is not fixturedef and not is_handle(definition):
            users.append(definition.argnames)
    return not _DIRECTORY.isdisjoint(itertools.chain(*users))


@functools.cache
def _watched(original: type) -> type:
    """A class of requests that tell their inputs what is read from them."""

    def watched(name: str) -> property:
        inherited = getattr(original, name, None)

        def get(self: Any) -> Any:
            value = self.__dict__[name] if inherited is None else inherited.fget(self)
            inputs = self.__dict__.get("_taskcache_inputs")
            if inputs is not None and not is_machinery(originals.getframe(1)):
                inputs.look(_REQUEST + name)
            return value

        return property(get)

    names = (name for name in _WATCHED if name == ITEM or hasattr(original, name))
    return type(original.__name__, (original,), {name: watched(name) for name in names})


def _class_shown(cls: type | None) -> object:
    return None if cls is None else [cls.__module__, cls.__qualname__, _values_of(cls)]


def _values_of(cls: type, *foreign: str) -> dict[str, object]:
    """The values set on a class and its bases, but for those of ``foreign`` modules."""
    values: dict[str, object] = {}
    for owner in reversed(cls.__mro__):
        if owner.__module__ not in ("builtins", *foreign):
            values.update((n, v) for n, v in vars(owner).items() if _is_plain_value(n, v))
    values.pop("pytestmark", None)
    return values


def _globals_of(module: object) -> dict[str, str]:
    """The values of a module's globals, by digest: those set while it ran show nowhere else.
    What has no digest counts by its type, and by the module's source like everything in it."""
    found = {}
    for name, value in sorted(vars(module).items()):
        if inspect.ismodule(value) or inspect.isclass(value) or not _is_plain_value(name, value):
            continue
        try:
            found[name] = digest_value(value, path=name)
        except UndigestableError:
            found[name] = type(value).__qualname__
    return found


def _is_plain_value(name: str, value: object) -> bool:
    """Whether an attribute holds a value, rather than code that is digested as source."""
    if name.startswith(("__", "@")) or isinstance(value, FunctionType):
        return False
    if hasattr(type(value), "__get__"):
        return False  # methods of all kinds, properties, slots, fixtures
    return not hasattr(value, "_get_wrapped_function") and name != "_abc_impl"


def digest_of_written(fingerprints: Fingerprints, name: str) -> str:
    """What a part shows now that says that a file was written, which must be there at a hit."""
    if not name.startswith(OF_WRITTEN):
        return _GONE
    path = fingerprints.path_of(name.removeprefix(OF_WRITTEN))
    return PRESENT if os_path.lexists(path) else ABSENT


def computation_of(
    engine: Engine,
    spec: Spec,
    scope: str,
    arguments: Mapping[str, object],
    digests: Mapping[str, str],
    pinned: Callable[[str], str],
    extra: Iterable[Part] = (),
) -> Computation:
    """The set-up of a cached fixture with these inputs; see `Computation` for the others."""
    context = engine.context(Subject.FIXTURE, spec.identity(engine), spec.function, digests)
    test = engine.place.test
    wide = scope != "function"
    return Computation(context, arguments, spec.options, tuple(extra), pinned, wide, test)


def value_digest(session: Session, value: object, name: str) -> str:
    """The digest of a fixture's value as it is now. A path below the run's temporary directory
    counts by what lies there, since its name says nothing. Raises UndigestableError."""
    return digest_value(value, path=name, anchors=functools.partial(_name_of, session))


def _name_of(session: Session, path: str | Path) -> str:
    temporary, text = session.temporary(), os_path.abspath(path)
    if temporary is None or not Path(text).is_relative_to(temporary):
        return session.fingerprints.name_of(path)
    try:
        manifest, _ = scan(text)
    except (ValueError, OSError) as error:
        if os_path.lexists(text):
            raise UndigestableError("", "pathlib.Path", f"{text}: {error}") from error
        return "<tmp> absent"
    entries = [(e.path, str(e.kind), e.mode, e.digest, e.target) for e in manifest.entries]
    return f"<tmp> {digest_value([manifest.name, entries])}"


def reads_of(function: FunctionType, argument: str) -> frozenset[str] | None:
    """Names of the attributes that are read or set on an argument; None where the argument is
    handed on, so that anything may be read. A name that is only read for an attribute of its own
    comes as ``name.attribute``. Checked on CPython 3.11 to 3.13."""
    found: set[str] = set()
    for code in nested(function.__code__):
        cells = {*code.co_cellvars, *code.co_freevars}
        if "super" in code.co_names:
            found.update(code.co_names)  # before 3.12 it does not show whose attribute is meant
        instructions = [i for i in dis.get_instructions(code) if i.opname != "CACHE"]
        ahead = [*instructions[1:], None, None]
        for here, following, last in zip(instructions, ahead, ahead[1:], strict=False):
            if here.opcode not in dis.haslocal and here.opcode not in dis.hasfree:
                continue
            # Two where the compiler joined two loads.
            names = here.argval if isinstance(here.argval, tuple) else (here.argval,)
            if argument not in names or (argument in cells and "DEREF" not in here.opname):
                continue  # a cell itself is only passed on to the function that is looked at next
            loaded = here.opname.endswith(_LOADS) and argument not in names[:-1]
            if not loaded or following is None or following.opname not in _USES:
                return None
            name = str(following.argval)
            if last is not None and last.opname in _READS and following.opname in _READS:
                name = f"{name}.{last.argval}"
            found.add(name)
    return frozenset(found)


def reads_of_self(function: FunctionType, cls: type) -> frozenset[str] | None:
    """As `reads_of`, first names only, for the first argument of a method; with what those methods
    and properties of the class read that it calls by name."""
    methods, found = [function], set[str]()
    for method in methods:
        if not method.__code__.co_argcount:
            continue
        reads = reads_of(method, method.__code__.co_varnames[0])
        if reads is None:
            return None
        names = {name.partition(".")[0] for name in reads} - found
        methods += [each for name in names for each in _methods(cls, name) if each not in methods]
        found |= names
    return frozenset(found)


def _methods(cls: type, name: str) -> Iterator[FunctionType]:
    for owner in cls.__mro__:
        attribute = vars(owner).get(name)
        candidates = [getattr(attribute, "__func__", attribute)]
        if isinstance(attribute, property):
            candidates = [attribute.fget, attribute.fset]
        elif isinstance(attribute, functools.cached_property):
            candidates = [attribute.func]
        for candidate in candidates:
            plain = inspect.unwrap(candidate) if callable(candidate) else None
            if isinstance(plain, FunctionType):
                yield plain
