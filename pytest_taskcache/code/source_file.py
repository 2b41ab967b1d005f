"""One source file, analysed once per content: its definitions, and what each of them mentions.

Worked example::

    from rates import RATE          import    RATE=       mentions rates, RATE; binds RATE
    def price(x, by=RATE):          statement price()     mentions RATE; binds price
        return x * by * factor()    function  price       mentions factor; binds price
    class Box(Base):                class     Box:        mentions Base; binds Box
        limit = 5                   statement Box.limit=  binds limit, Box
        def size(self):             statement Box.size()  binds size, Box
            self.seen = self.limit  function  Box.size    the same; mentions limit; stores seen

The body of a function is a definition, named like ``code.co_qualname``, with lambdas and
comprehensions in it; what executing its ``def`` takes (decorators, parameters, defaults,
annotations, docstring) is another, named with ``()``, and part of the function around it where
there is one. Every other statement of the module or of a class is named by what it binds.
Identifiers are bare: ``a.b.c`` mentions a, b and c, whatever they are. Lambdas outside of
functions are also one function, ``<lambda>``.

What code gets at without naming it, and how that is covered:

* strings that read like names, or lists of them, mention them; the constant parts of computed
  ones mention all that start (``visit_*``) or end (``*_handler``) so; ``@name`` in one, by which
  pandas gets at a variable of its caller, mentions it;
* ``vars``, ``dir``, ``__dict__`` and ``getmembers`` list what something has, and that is named
  where the thing comes from: a module that is handed on is mentioned whole (``=name``), with what
  its package holds, and a method binds its class. Where anything is listed (``*members``), setting
  an attribute changes the object that it is set on; what may be a module (``*listed``) that was got
  at by a computed name, or as ``request.module`` (``=*``), has all names;
* ``getattr`` with a name that a call or a look-up gives, and the ``__globals__`` of a function,
  mention all names (``*``);
* ``globals``, ``locals``, ``eval`` and ``exec`` all of the module they stand in (``*own``), and
  the modules that it imports; stores by computed names store into all of that; what evaluated
  texts mention, and import, is for observation to see;
* a star import gets names of another module under their own names, which mention it by
  themselves; what ``__all__`` says acts on whoever imports the importer (``*star``);
* ``__import__``, ``import_module``, ``sys.modules`` and the like get at every module
  (``*modules``); a base class's ``__subclasses__`` is bound by every class that has a base;
* parameters of what is called by pytest mention fixtures (``@name``), which decorated functions
  bind;
* methods, as all statements of a class, bind its name too: who hands an object on need not know
  what is called of it; dunder methods, xunit set-ups and those called like methods of builtin types
  bind no other. Decorators, metaclasses and bases from elsewhere may call methods, too (`called`);
* module-level ``__getattr__`` and ``__dir__``, hooks, automatic fixtures and ``pytestmark`` act
  on code that names none of them: ``implicit``, or ``effect`` for all who import the module;
* a statement that binds nothing may act on all others in the process, and does ``act``; so may
  one that calls, is decorated by, or inherits from something of the project or an installed
  distribution. What it does to things that are named here is in ``stores`` and ``changes``, too.
  Imports only have an ``effect`` when they are edited.

Not covered: operators at module level, and what the standard library is called for to get a
value, are taken to act on nothing else; names that are put together elsewhere than where they are
used; annotations of plain functions that `inspect.signature` is asked for.
"""

from __future__ import annotations

import ast
import builtins
import copy
import gc
import re
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from pytest_taskcache.checksum import checksum, checksum_bytes
from pytest_taskcache.code.definitions import (
    ALL_MODULES,
    ALL_NAMES,
    ANY_MODULE,
    EFFECTS,
    INSIDE,
    LISTED,
    MEMBERS,
    OF_CLASS,
    OWN_NAMES,
    SET_ON,
    STAR,
    Analysis,
    Definition,
    DefinitionKind,
    Import,
    everything,
)
from pytest_taskcache.dataclass import dataclass, field

FunctionNode: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef

_BUILTINS = frozenset(dir(builtins))


def _methods_of(*kinds: type) -> frozenset[str]:
    return frozenset(name for kind in kinds for name in dir(kind) if not name.startswith("_"))


_METHODS = _methods_of(str, bytes, list, dict, set, frozenset, tuple, int, float)
_HARMLESS_METHODS = (
    _methods_of(str, bytes, frozenset, tuple, int, float)
    | {"get", "items", "keys", "values", "copy"}
    | {"match", "search", "fullmatch", "findall", "finditer", "exists", "is_file", "is_dir"}
    | {"read_text", "read_bytes", "resolve", "joinpath", "with_suffix", "with_name"}
)
_HARMLESS_BUILTINS = frozenset(
    {
        *("len", "isinstance", "issubclass", "hasattr", "callable", "repr", "str", "int", "float"),
        *("bool", "bytes", "abs", "sum", "hash", "id", "print", "range", "ord", "chr", "hex"),
        *("type", "ascii", "format", "round", "divmod", "pow", "any", "all"),
    }
)
_XUNIT_OF_CLASSES = frozenset(
    {
        *("setUp", "tearDown", "setUpClass", "tearDownClass", "asyncSetUp", "asyncTearDown"),
        *("setup_class", "teardown_class", "setup_method", "teardown_method", "setup", "teardown"),
    }
)
_IMPLICIT = frozenset(
    {
        *("setup_module", "teardown_module", "setUpModule", "tearDownModule", "setup", "teardown"),
        *("setup_function", "teardown_function", "load_tests", "pytestmark", "pytest_plugins"),
        *("collect_ignore", "collect_ignore_glob"),
    }
)
_OF_MODULES = frozenset({"__getattr__", "__dir__", "__path__"})
_OF_FUNCTIONS = frozenset(
    {
        *("__name__", "__qualname__", "__module__", "__doc__", "__dict__", "__wrapped__"),
        *("__signature__", "__defaults__", "__kwdefaults__", "__annotations__"),
    }
)
_BY_PATH = ("setattr", "delattr", "patch", "from_object")
_BY_NAME = ("getattr", "hasattr")
_GETTERS = frozenset({"attrgetter", "methodcaller"})
_OF_ATTRIBUTES = frozenset({*_BY_NAME, "setattr", "delattr", "object"})
_MANY = frozenset({MEMBERS, LISTED, ANY_MODULE, ALL_NAMES})
_OF_SCOPES = frozenset({"vars", "dir", "globals", "locals"})
_LISTS = (MEMBERS, LISTED)
_GIVING_MODULES = (ALL_MODULES, ANY_MODULE)
_ANY_OBJECT = (ALL_NAMES, ALL_MODULES)
_READING: Mapping[str, Sequence[str]] = {
    **dict.fromkeys(("vars", "dir", "getmembers", "getmembers_static", "__dict__"), _LISTS),
    **dict.fromkeys(("__globals__", "f_globals"), (ALL_NAMES,)),
    **dict.fromkeys(("get_type_hints", "get_annotations", "getsource"), (ALL_NAMES,)),
    **dict.fromkeys(("globals", "locals", "eval", "exec", "numexpr"), (OWN_NAMES,)),
    **dict.fromkeys(("__import__", "import_module"), _GIVING_MODULES),
    "getmodule": (ANY_MODULE,),
    **dict.fromkeys(("iter_modules", "walk_packages", "importorskip"), _GIVING_MODULES),
    **dict.fromkeys(("exec_module", "run_module", "run_path", "resolve_name"), _GIVING_MODULES),
    **dict.fromkeys(("pydoc", "import_string", "dictConfig", "fileConfig"), _ANY_OBJECT),
    **dict.fromkeys(("loadTestsFromName", "loadTestsFromNames"), _ANY_OBJECT),
    **dict.fromkeys(("unsafe_load", "unsafe_load_all", "UnsafeLoader"), _ANY_OBJECT),
}
"""What functions and modules of these names get at without naming it."""
_PLAIN_WRAPPERS = frozenset(
    {
        *("property", "staticmethod", "classmethod", "abc.abstractmethod", "typing.overload"),
        *("contextlib.contextmanager", "pytest_taskcache.cached"),
    }
)
_FIXTURES = frozenset(
    {"pytest.fixture", "pytest_taskcache.cached_fixture", "pytest_asyncio.fixture"}
)
_HARMLESS_MODULES = frozenset({"pytest", "pytest_taskcache", *sys.stdlib_module_names})
"""Modules that are called to get a value, or whose marks and fixtures act on what they are on."""
_CONSTANTS = (
    *(ast.Constant, ast.Tuple, ast.UnaryOp, ast.BinOp, ast.JoinedStr, ast.FormattedValue),
    *(ast.expr_context, ast.operator, ast.unaryop),
)
_GIVING_PARTS = frozenset({"get", "values", "items", "setdefault", "pop", "popitem", "popleft"})
"""Methods of containers that give what is in them."""
_MAKERS_OF_FIXED = frozenset(
    {"re.compile", "logging.getLogger", "frozenset", "dataclasses.field", "enum.auto"}
)
_PASSIVE = frozenset({"abc", "enum", "typing", "typing_extensions"})
"""Modules with base classes that call no method of theirs by name."""
_POSTPONED = "__future__.annotations"
_ACTING = frozenset({"effect", "acts"})
_SKIPPED = frozenset({"ctx", "type_comment", "kind", "type_ignores", "type_params"})
_NAMES = re.compile(r"[A-Za-z_]\w*(?:[.:,\s]+[A-Za-z_]\w*)*\Z")
_SPLIT = re.compile(r"[.:,\s]+")
_PREFIX = re.compile(r"(?:^|[.\s])([A-Za-z]\w*_)(?:$|[{%])")
_SUFFIX = re.compile(r"(?:\}|%[sr])(_\w*[A-Za-z0-9])$")
_OF_CALLER = re.compile(r"@([A-Za-z_]\w*)")
_LONGEST = 200


def analyse(content: bytes, *, is_test: bool = False) -> Analysis:
    """The analysis of a file's content. Never raises: what cannot be parsed is one definition,
    which has all effects. ``is_test`` tells that pytest collects its functions."""
    collecting = gc.isenabled()
    gc.disable()  # a tree is many objects, none of them garbage yet
    try:
        return _Walker(parsed(content), is_test=is_test).analysis()
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return Analysis((everything(checksum_bytes(content)),))
    finally:
        if collecting:
            gc.enable()


def parsed(source: str | bytes) -> ast.Module:
    """The syntax tree of a module. What Python warns of in it (``"\\d"``) is for who imports it to
    say, and no error here. Raises SyntaxError, ValueError, RecursionError and MemoryError."""
    with warnings.catch_warnings(action="ignore"):
        return ast.parse(source)


def normalised_text(node: ast.AST | list[ast.stmt], *, bodies: bool = True) -> str:
    """The text of a whole tree, which tells it apart from any other; the same in all versions of
    Python. Neither positions nor what an expression is used for are in it; without ``bodies``
    nothing of functions but what executing their ``def`` takes."""
    out: list[str] = []
    pending: list[Any] = [node]
    while pending:
        part = pending.pop()
        kind = part.__class__
        if kind is list:
            out.append(f"[{len(part)}")
            values = part
        else:
            out.append(kind.__name__)
            values = [getattr(part, name) for name in _FIELDS.get(kind) or _fields_of(kind)]
            if kind in _GENERIC:
                if getattr(part, "type_params", None):
                    values.append(part.type_params)  # new in 3.12
                if not bodies and kind in _FUNCTIONS:
                    values.remove(part.body)
                    values.append(part.body[: _is_text(part.body[0])])
        for value in values:
            if value.__class__ is str:
                out.append(repr(value))
            elif isinstance(value, (list, ast.AST)):
                out.append(".")  # to come
                pending.append(value)
            elif value.__class__ is int:
                # repr refuses integers of more than 4300 digits.
                out.append(hex(value))
            else:
                out.append(repr(value))
    return "\0".join(out)


_FIELDS: dict[type, tuple[str, ...]] = {}
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_GENERIC = frozenset({*_FUNCTIONS, ast.ClassDef, getattr(ast, "TypeAlias", ast.ClassDef)})
"""What may have type parameters."""


def _fields_of(kind: type[ast.AST]) -> tuple[str, ...]:
    fields = _FIELDS.get(kind)
    if fields is None:
        fields = _FIELDS[kind] = tuple(name for name in kind._fields if name not in _SKIPPED)
    return fields


@dataclass(slots=True)
class _Unit:
    """What is collected of one definition while it is walked.

    ``text`` is its normalised text; ``names`` are free or local names that are loaded, ``needed``
    those that annotations take, ``attributes`` all other mentions; ``bound`` are names that it
    binds, ``declared`` those that are another scope's; ``roots`` are accesses that are changed,
    ``set_on`` those that an attribute is set on, ``returned`` those that are returned; ``origins``
    tells what a local name may be another name of, and whether a call made it. ``children`` are
    the functions inside of it.
    """

    name: str
    kind: DefinitionKind
    owner: str = ""
    text: list[str] = field(default_factory=list)
    names: set[str] = field(default_factory=set)
    needed: set[str] = field(default_factory=set)
    attributes: set[str] = field(default_factory=set)
    bound: set[str] = field(default_factory=set)
    declared: set[str] = field(default_factory=set)
    parameters: tuple[str, ...] = ()
    stores: set[str] = field(default_factory=set)
    changes: set[str] = field(default_factory=set)
    hands: set[str] = field(default_factory=set)
    set_on: list[_Chain] = field(default_factory=list)
    roots: list[_Chain] = field(default_factory=list)
    returned: list[_Chain] = field(default_factory=list)
    origins: dict[str, set[tuple[str, bool]]] = field(default_factory=dict)
    flags: set[str] = field(default_factory=set)
    binds: dict[str, None] = field(default_factory=dict)
    children: list[_Unit] = field(default_factory=list)

    @property
    def is_function(self) -> bool:
        """Whether it is the body of a function, which is not run at import."""
        return self.kind is DefinitionKind.FUNCTION


class _Walker:
    """Walks a module's tree once."""

    def __init__(self, tree: ast.Module, *, is_test: bool) -> None:
        self._imports: dict[tuple[int, str], dict[str, None]] = {}
        self._is_test = is_test
        self._units: list[_Unit] = []
        self._unit = _Unit("", DefinitionKind.STATEMENT)
        self._owner = ""
        self._prefix = ""
        self._aliases: dict[str, str] = {}
        self._bound: set[str] = set()
        self._fixed: set[str] = set()
        self._whole = True
        self._called: set[str] = set()
        self._acting: set[str] = set()  # classes of which making another calls something
        self._rules: dict[type, Callable[[Any], None]] = {}
        self._find_names(tree)
        self._body(tree, "")

    def _find_names(self, tree: ast.Module) -> None:
        """What the names that the module imports stand for, and what else it binds."""
        for node in _executed(tree.body):
            match node:
                case ast.Import():
                    for item in node.names:
                        root = item.name if item.asname else item.name.partition(".")[0]
                        self._aliases[item.asname or root] = root
                case ast.ImportFrom():
                    start = "." * node.level + (node.module or "")
                    for item in node.names:
                        self._aliases[item.asname or item.name] = f"{start}.{item.name}"
                case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                    self._bound.add(node.name)
                case ast.Name(ctx=ast.Store()):
                    self._bound.add(node.id)
        assigned = [node for node in tree.body if isinstance(node, ast.Assign)]
        fixed = (node for node in assigned if self._is_fixed(node.value))
        self._fixed.update(
            target.id for node in fixed for target in node.targets if isinstance(target, ast.Name)
        )

    def _is_fixed(self, node: ast.expr | None) -> bool:
        """Whether it makes something that no method changes."""
        if isinstance(node, ast.Call):
            return self._resolved(node) in _MAKERS_OF_FIXED
        return node is not None and all(isinstance(part, _CONSTANTS) for part in ast.walk(node))

    def _body(self, node: ast.Module | ast.ClassDef, prefix: str) -> None:
        """All statements of the module, or of a class."""
        statements = node.body
        if statements and _is_text(statements[0]):
            unit = self._open(f"{prefix}__doc__=", DefinitionKind.STATEMENT, statements[0])
            unit.binds["__doc__"] = None
            unit.flags.add("constant")
            self._close(unit)
            statements = statements[1:]
        self._statements(statements, prefix)

    def _statements(self, body: Iterable[ast.stmt], prefix: str) -> None:
        for node in body:
            match node:
                case ast.FunctionDef() | ast.AsyncFunctionDef():
                    self._function(node, prefix)
                case ast.ClassDef():
                    self._class(node, prefix)
                case ast.Pass():
                    continue
                case ast.If() | ast.Try():
                    self._condition(node, prefix)
                case ast.Import():
                    for alias in node.names:
                        self._statement(ast.Import([alias]), prefix)
                case ast.ImportFrom():
                    for alias in node.names:
                        one = ast.ImportFrom(node.module, [alias], node.level)
                        self._statement(one, prefix)
                case _:
                    self._statement(node, prefix)

    def _condition(self, node: ast.If | ast.Try, prefix: str) -> None:
        """What is inside of ``if`` or ``try`` are definitions of their own, each of which depends
        on the text of all, and on what is asked for."""
        first = len(self._units)
        handlers: list[ast.ExceptHandler] = getattr(node, "handlers", [])
        asked = self._open(prefix + EFFECTS, DefinitionKind.STATEMENT)
        if isinstance(node, ast.If):
            self.visit(node.test)
        self._all(handler.type for handler in handlers)
        self._close(asked)
        for body in (node.body, node.orelse, getattr(node, "finalbody", ())):
            self._statements(body, prefix)
        for handler in handlers:
            self._statements(handler.body, prefix)
        text = checksum((normalised_text(node),))
        for unit in self._units[first:]:
            if not unit.is_function:
                unit.text.append(text)
                unit.attributes |= asked.attributes
                unit.flags |= asked.flags & {"acts"}

    def _open(self, name: str, kind: DefinitionKind, node: ast.AST | None = None) -> _Unit:
        """A new definition, which what is walked from now on is part of."""
        text = [] if node is None else [normalised_text(node, bodies=False)]
        unit = _Unit(name, kind, self._owner, text)
        self._unit = unit
        self._units.append(unit)
        return unit

    def _close(self, unit: _Unit) -> None:
        """Ends a statement or class outside of functions."""
        if self._owner:
            cls = self._owner.rpartition(".")[2]
            unit.binds[cls] = None
        unit.binds.update(dict.fromkeys(sorted(unit.bound)))
        unit.bound = set()
        unit.attributes |= unit.names
        self._settle(unit, frozenset())

    def _statement(self, node: ast.stmt, prefix: str) -> None:
        unit = self._open("", DefinitionKind.STATEMENT, node)
        self._prefix = prefix
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            unit.kind = DefinitionKind.IMPORT
        value = node.value if isinstance(node, (ast.Assign, ast.AnnAssign)) else None
        if self._is_fixed(value) or (isinstance(node, ast.AnnAssign) and value is None):
            unit.flags.add("constant")
        self.visit(node)
        names = sorted(unit.bound)
        unit.name = f"{prefix}{','.join(names)}=" if names else prefix + EFFECTS
        if not names:
            unit.flags.add("effect")
            if isinstance(node, (ast.Assign, ast.AugAssign)):
                unit.flags.add("acts")  # on what it sets something on, a library's too
        called = [value, value.func] if isinstance(value, ast.Call) else []
        by_call = any(self._resolved(each) in _FIXTURES for each in called)
        if by_call or any(_is_implicit(name) for name in names):
            unit.flags.add("implicit")
        if "__all__" in unit.bound:
            unit.binds[STAR] = None
            unit.attributes.clear()
        self._close(unit)
        if "lambda" in unit.flags:
            loose = _Unit("<lambda>", DefinitionKind.FUNCTION, text=unit.text)
            loose.attributes = unit.attributes
            loose.stores, loose.changes = unit.stores, unit.changes
            self._units.append(loose)

    def _class(self, node: ast.ClassDef, prefix: str) -> None:
        bare = copy.copy(node)
        bare.body = []
        unit = self._open(f"{prefix}{node.name}:", DefinitionKind.CLASS, bare)
        unit.binds[node.name] = None
        self._all(_making(node))
        for decorator in node.decorator_list:
            self._note_call(decorator)
        given = "acts" in unit.flags
        words = [keyword.value for keyword in node.keywords]
        for base in (*node.bases, *words):
            if _chain(base)[0] not in self._bound - self._acting:
                self._note_call(base)
            self._change(base)
        if node.bases:
            unit.binds["__subclasses__"] = None
        self._close(unit)
        own = any(getattr(part, "name", "") == "__init_subclass__" for part in node.body)
        own |= any(_chain(word)[0] in self._bound for word in words)
        if own or "acts" in unit.flags:
            self._acting.add(node.name)
        if given or own or any(self._calls_methods(maker) for maker in (*node.bases, *words)):
            self._called.add(node.name)
        before, self._owner = self._owner, prefix + node.name
        self._body(node, f"{prefix}{node.name}.")
        self._owner = before

    def _calls_methods(self, base: ast.expr) -> bool:
        """Whether a base class comes from elsewhere, or has one that does: what it has methods
        for, it calls."""
        root = _chain(base)[0]
        full = self._aliases.get(root)
        if full is None:
            known = self._bound - self._called | _BUILTINS | {""}
            return root not in known  # what is bound nowhere here comes by a star import
        return full.partition(".")[0] not in _PASSIVE

    def _function(self, node: FunctionNode, prefix: str) -> None:
        """A function at module or class level: its ``def``, and its body."""
        made = self._open(f"{prefix}{node.name}()", DefinitionKind.STATEMENT, node)
        with_class = bool(prefix) and _comes_with_class(node.name)
        if not with_class:
            made.binds[node.name] = None
        self._signature(node)
        self._decorate(node, made)
        if not prefix and _is_implicit(node.name):
            made.flags.add("implicit")
        if not prefix and node.name in _OF_MODULES:
            made.flags.add("effect")
        self._close(made)
        unit = self._inside(node, prefix + node.name)
        marks = (self._resolved(each) for each in node.decorator_list)
        is_test = (
            self._is_test
            and node.name.startswith("test")
            and "returns" not in unit.flags
            and all(name.startswith("pytest.mark.") for name in marks)
        )
        if not with_class and not is_test:
            unit.binds[node.name] = None
        unit.flags |= made.flags & {"implicit", "wrapped"}
        if not prefix and node.name in _OF_MODULES:
            unit.flags |= _ACTING
        if node.decorator_list:
            unit.attributes |= made.attributes
            for each in (made,) if is_test else (made, unit):
                each.binds["@" + node.name] = None
                if "wrapped" in made.flags:  # its value outlives a test
                    each.binds[f"~@{node.name}"] = None
        if self._owner:
            cls = self._owner.rpartition(".")[2]
            unit.attributes.add(cls)
            if not is_test:
                unit.binds[cls] = None
                unit.flags |= {"called"} if cls in self._called else set()
        self._resolve(unit, frozenset())

    def _decorate(self, node: FunctionNode, unit: _Unit) -> None:
        """Notes what decorators do."""
        for decorator in node.decorator_list:
            name = self._resolved(decorator)
            if name.endswith((".setter", ".getter", ".deleter")):
                continue
            if name in _FIXTURES:
                keywords = decorator.keywords if isinstance(decorator, ast.Call) else ()
                for keyword in keywords:
                    if keyword.arg in (None, "autouse"):
                        unit.flags.add("implicit")
                    if keyword.arg in (None, "scope"):
                        unit.flags.add("wrapped")
            elif not name.startswith("pytest.mark.") and name not in _PLAIN_WRAPPERS:
                unit.flags.add("wrapped")
                self._note_call(decorator)
                self._change(decorator)

    def _signature(self, node: FunctionNode) -> None:
        """What executing a ``def`` takes."""
        self._all(node.decorator_list)
        self._all(getattr(node, "type_params", ()))
        self._all(node.args.defaults)
        self._all(node.args.kw_defaults)
        unit = self._unit
        kept = unit.attributes, unit.names
        if not node.decorator_list:  # nobody makes objects of the types that they name
            unit.attributes, unit.names = set(), set()
        self._all([*(item.annotation for item in _parameters(node.args)), node.returns])
        if not unit.is_function and self._aliases.get("annotations") != _POSTPONED:
            unit.needed |= unit.names
        unit.attributes, unit.names = kept

    def _inside(self, node: FunctionNode, qualname: str) -> _Unit:
        """Walks a function's statements into a definition of their own."""
        around, prefix = self._unit, self._prefix
        body = node.body[_is_text(node.body[0]) :]
        text = [normalised_text(body, bodies=False)]
        unit = _Unit(qualname, DefinitionKind.FUNCTION, self._owner, text)
        self._units.append(unit)
        self._unit, self._prefix = unit, qualname + INSIDE
        unit.parameters = tuple(item.arg for item in _parameters(node.args))
        unit.bound.update(unit.parameters)
        if (
            self._is_test
            or node.decorator_list
            or node.name.startswith(("test", "setup", "pytest"))
        ):
            unit.attributes.update("@" + name for name in unit.parameters)
        self._all(body)
        self._unit, self._prefix = around, prefix
        return unit

    def visit_FunctionDef(self, node: FunctionNode) -> None:
        """A function inside of another, or of a compound statement."""
        unit = self._unit
        unit.bound.add(node.name)
        self._signature(node)
        if not unit.is_function:
            self._decorate(node, unit)
        inner = self._inside(node, ("" if node.name in unit.declared else self._prefix) + node.name)
        if unit.is_function:
            # It lives in the cells and on the results of the function around it.
            inner.attributes.add("^" + unit.name)
            unit.attributes.add("^" + inner.name)
            inner.binds["^" + inner.name] = unit.binds["^" + unit.name] = None
            unit.children.append(inner)
        else:
            inner.binds[node.name] = None
            self._resolve(inner, frozenset())

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        """A class that is defined as some other statement or function runs: part of it."""
        unit = self._unit
        unit.bound.add(node.name)
        self._all(_making(node))
        for base in node.bases:
            self._change(base)
        prefix, bound = self._prefix, unit.bound
        self._prefix = f"{prefix}{node.name}."
        unit.bound = set()
        self._all(node.body)
        names = (name for name in unit.bound if not _comes_with_class(name))
        unit.binds.update(dict.fromkeys(names))
        self._prefix, unit.bound = prefix, bound

    def _resolve(self, unit: _Unit, around: frozenset[str]) -> None:
        """Ends a function and those inside of it: names of functions around are no mentions."""
        local = around | (unit.bound - unit.declared)
        unit.attributes |= unit.names - local
        unit.stores.update("." + name for name in unit.bound & unit.declared)
        self._settle(unit, local)
        for child in unit.children:
            self._resolve(child, local)

    def _settle(self, unit: _Unit, local: Collection[str]) -> None:
        """Decides which of the chains that are changed outlive the definition."""
        for root, called, attributes, methods in unit.roots:
            outlives = self._settle_root(unit, root, called, local, 2)
            prefix = "" if outlives else OF_CLASS
            unit.changes.update(prefix + name for name in attributes)
            unit.changes.update(name + "()" for name in methods)
        for chain in unit.set_on:
            found = self._handed_out(unit, chain, local, 2)
            unit.changes.update(SET_ON + name for name in found if name[0] != OF_CLASS)
        for chain in unit.returned:
            # What outlives a function and is returned may be changed by who called it.
            found = self._handed_out(unit, chain, local, 2)
            unit.hands.update(name for name in found if name not in _BUILTINS)
        if not unit.is_function:
            made = {name + "()" * called for each in unit.origins.values() for name, called in each}
            unit.hands |= made - _BUILTINS

    def _handed_out(
        self, unit: _Unit, chain: _Chain, local: Collection[str], depth: int
    ) -> Iterator[str]:
        """What a returned expression may be, or be part of. What the function was given, its own
        object included, is for those to tell who gave it."""
        root, called, attributes, methods = chain
        yield from (name + "()" for name in methods)
        if root and root not in local:
            original = self._aliases.get(root, root).rpartition(".")[2]
            yield from (name + "()" * called for name in {root, original})
            yield from (OF_CLASS * called + name for name in attributes)
            return
        yield from (OF_CLASS + name for name in attributes)
        for name, made in unit.origins.get(root, ()) if depth else ():
            origin = _Chain(name, made, attributes, ())
            yield from self._handed_out(unit, origin, local, depth - 1)

    def _settle_root(
        self, unit: _Unit, root: str, called: bool, local: Collection[str], depth: int
    ) -> bool:
        """Notes what a chain starts at; true where its attributes count too. What a function was
        given, its own object included, is for those to tell who gave it, and so on up to who has
        it from a variable, or from a fixture: from there, this function is reached."""
        if not root:
            return not called
        if root not in local:
            if root in self._fixed:
                return False
            original = self._aliases.get(root, root).rpartition(".")[2]
            unit.changes.update(name + "()" * called for name in (root, original))
            if not called and root not in self._aliases and root in self._bound:
                unit.flags.add("global")
            for one, made in unit.origins.get(root, ()) if depth else ():  # of a comprehension
                self._settle_root(unit, one, made, local, depth - 1)
            return not called and root[0] != OF_CLASS
        if root in unit.parameters:
            if root == "cls":
                unit.flags.add("global")
                return True
            if unit.parameters[0] != root or not unit.owner:
                unit.changes.add("~@" + root)
        if called:
            unit.changes.add(root + "()")  # of a function inside of this one
        origins = unit.origins.get(root, ()) if depth else ()
        found = [self._settle_root(unit, one, made, local, depth - 1) for one, made in origins]
        return any(found)

    def visit(self, node: ast.AST) -> None:
        """Notes what a node mentions, by the method for its kind, else what is in it does."""
        kind = node.__class__
        rule: Callable[[Any], None] | None = self._rules.get(kind)
        if rule is None:
            rule = self._rules[kind] = getattr(self, f"visit_{kind.__name__}", self._generic)
        rule(node)

    def _all(self, nodes: Iterable[ast.AST | None]) -> None:
        for node in nodes:
            if node is not None:
                self.visit(node)

    def _generic(self, node: ast.AST) -> None:
        for name in _fields_of(node.__class__):
            value = getattr(node, name, None)
            if value.__class__ is list:
                for item in value:
                    if isinstance(item, ast.AST):
                        self.visit(item)
            elif isinstance(value, ast.AST):
                self.visit(value)

    def visit_keyword(self, node: ast.keyword) -> None:
        if node.arg:
            self._unit.attributes.add(node.arg)
        self.visit(node.value)

    def visit_Name(self, node: ast.Name) -> None:
        name, unit = node.id, self._unit
        whole, self._whole = self._whole, True
        if node.ctx.__class__ is ast.Load:
            unit.names.add(name)
            if whole and name in self._aliases and name not in unit.bound:
                unit.attributes.add("=" + self._aliases[name].rpartition(".")[2])
            full = self._aliases.get(name, "" if name in self._bound else name)
            # What the package defines itself is analysed where it stands.
            if name not in unit.bound and not full.startswith("."):
                self._read_by_name(full.partition(".")[0])
                self._read_by_name(full.rpartition(".")[2])
        else:
            unit.bound.add(name)

    def _read_by_name(self, name: str) -> None:
        """Notes what a function or an attribute of this name gets at."""
        unit = self._unit
        unit.attributes.update(_READING.get(name, ()))
        if OWN_NAMES in _READING.get(name, ()):
            modules = (full.rpartition(".")[2] for full in self._aliases.values())
            unit.attributes.update("=" + module for module in modules)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        unit, name = self._unit, node.attr
        whole = self._whole
        self._whole = name == "__dict__" or not isinstance(node.value, (ast.Name, ast.Attribute))
        self.visit(node.value)
        self._whole = True
        if whole and _chain(node)[0] in self._aliases:
            unit.attributes.add("=" + name)  # it may be a module
        if node.ctx.__class__ is not ast.Load:
            self._store_attribute(node)
            return
        unit.attributes.add(name)
        root, listed = _chain(node)[0], LISTED in unit.attributes
        if name not in _OF_SCOPES or self._aliases.get(root) == "builtins":
            self._read_by_name(name)
        if name == "__dict__" and self._is_no_module(node.value) and not listed:
            unit.attributes.discard(LISTED)
        if name == "modules" and self._aliases.get(root, "").partition(".")[0] == "sys":
            unit.attributes.update(_GIVING_MODULES)
        elif name == "module" and root in unit.parameters:
            unit.attributes.add(ANY_MODULE)  # that of a test, of a node or request of pytest's

    def _store_attribute(self, node: ast.Attribute) -> None:
        unit = self._unit
        root = _chain(node.value)[0]
        if node.attr in _OF_FUNCTIONS and root not in self._aliases:
            return  # of a wrapper that was just made, which whoever reads it reaches anyhow
        # Whoever reads it of an object of this class knows the class, or has it from who does.
        given = root in unit.parameters
        unit.stores.add("." + node.attr if given else node.attr)
        if not given:
            unit.set_on += _chains(node.value)
        if root in self._aliases and root not in unit.bound:
            self._note_call(node.value)

    def visit_Constant(self, node: ast.Constant) -> None:
        text = node.value
        if not isinstance(text, str) or not text or len(text) > _LONGEST:
            return
        attributes = self._unit.attributes
        if _NAMES.match(text):
            attributes.update(_SPLIT.split(text))
        if (found := _PREFIX.search(text)) is not None:
            attributes.add(found.group(1) + "*")
        if (found := _SUFFIX.search(text)) is not None:
            attributes.add("*" + found.group(1))
        attributes.update(_OF_CALLER.findall(text))

    def visit_BinOp(self, node: ast.BinOp | ast.JoinedStr) -> None:
        """``"visit_" + name`` and ``f"{name}_handler"`` mention what they may come to."""
        self._generic(node)
        parts = node.values if isinstance(node, ast.JoinedStr) else [node.left, node.right]
        for index in (0, -1):
            part = parts[index] if parts else None
            if not isinstance(part, ast.Constant) or not isinstance(part.value, str):
                continue
            word = part.value.rpartition(".")[2] if index == 0 else part.value
            if len(word) > 1 and word.isidentifier() and word.strip("_"):
                self._unit.attributes.add(word + "*" if index == 0 else "*" + word)

    visit_JoinedStr = visit_BinOp

    def visit_Call(self, node: ast.Call) -> None:
        function = node.func
        unit = self._unit
        name = function.id if isinstance(function, ast.Name) else ""
        if name in ("setattr", "delattr") and len(node.args) > 1:
            self._set_attribute(node.args[0], node.args[1])
        method = function.attr if isinstance(function, ast.Attribute) else ""
        if node.args:
            self._visit_narrowed(function, node.args[0])
        else:
            self.visit(function)
        path = _string(node.args[0]) if node.args else ""
        if (name or method) in _BY_PATH and path:  # of a module, or of a name in one
            self._imports.setdefault((0, path), {})
            unit.attributes.add("=" + path.rpartition(".")[2])
        if name in _OF_SCOPES and not node.args:
            self._read_by_name("locals")
        of_builtins = self._aliases.get(_chain(function).root) == "builtins"
        if name in _BY_NAME or (method in _BY_NAME and of_builtins):
            if len(node.args) > 1 and isinstance(node.args[1], (ast.Call, ast.Subscript)):
                unit.attributes.update({MEMBERS} if self._is_no_module(node.args[0]) else _LISTS)
        elif (name or method) in _GETTERS and any(
            isinstance(each, (ast.Call, ast.Subscript)) for each in node.args
        ):
            unit.attributes.update(_LISTS)
        if method not in _HARMLESS_METHODS and name not in _HARMLESS_BUILTINS:
            if isinstance(function, ast.Attribute):
                self._change(function.value)
            elif name in unit.bound:
                self._change(function)
            for argument in (*node.args, *(keyword.value for keyword in node.keywords)):
                self._change(argument)
        if not unit.is_function and (
            method not in _HARMLESS_METHODS or _chain(function)[0] in self._aliases
        ):
            self._note_call(function)
        if (name or method) in _OF_ATTRIBUTES and len(node.args) > 1 and _string(node.args[1]):
            # Of all that the object has, it is only this attribute.
            self._whole = not isinstance(node.args[0], (ast.Name, ast.Attribute, ast.Subscript))
        self._all(node.args)
        self._all(node.keywords)

    def _visit_narrowed(self, node: ast.expr, key: ast.expr, *, reads: bool = True) -> None:
        """Visits what gets at many names, or modules, when it is asked for the one of this key."""
        attributes = self._unit.attributes
        before = attributes & _MANY
        self.visit(node)
        added = attributes & _MANY - before
        if not added:
            return
        name, own = _string(key), isinstance(key, ast.Name) and key.id == "__name__"
        if not {"f_globals", "__globals__"}.intersection(_chain(node)[2]):
            added.discard(ALL_NAMES)
        if name or own or not reads:
            if ANY_MODULE in added and reads:
                attributes.add(OWN_NAMES if own else "=" + name.rpartition(".")[2])
            attributes -= added
        elif self._is_no_module(key) or _is_update(node):
            attributes -= added & {LISTED}

    def _is_no_module(self, node: ast.expr) -> bool:
        """Whether it is the object that a method is called on, or its class, or a module of the
        standard library. Any other name may be that of a module that was got at by computing."""
        unit = self._unit
        match node:
            case ast.Call(func=ast.Name(id="type"), args=[of, *_]):
                node = of
        while isinstance(node, ast.Attribute) and node.attr == "__class__":
            node = node.value
        name = node.id if isinstance(node, ast.Name) else ""
        if name in ("self", "cls"):
            return bool(unit.owner) and name in unit.parameters[:1]
        return name not in unit.bound and self._aliases.get(name) in sys.stdlib_module_names

    def _set_attribute(self, target: ast.expr, name: ast.expr) -> None:
        """``setattr``: of a computed name, it may be any of something known here."""
        unit = self._unit
        root, called, *_ = _chain(target)
        if isinstance(name, ast.Constant) and isinstance(name.value, str):
            unit.stores.add(name.value)
        elif not called and root not in unit.bound:
            unit.stores.add(OWN_NAMES)
        self._change(target)

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> None:
        if node.name:
            self._unit.bound.add(node.name)
        self._generic(node)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        if node.ctx.__class__ is not ast.Load:
            value = node.value
            root = _chain(value)[0]
            if isinstance(value, ast.Call) and root in ("globals", "locals", "vars"):
                self._unit.stores.add(OWN_NAMES)
            self._change(value)
            if root in self._aliases and root not in self._unit.bound:
                self._note_call(value)
        self._visit_narrowed(node.value, node.slice, reads=node.ctx.__class__ is ast.Load)
        self.visit(node.slice)

    def visit_Compare(self, node: ast.Compare) -> None:
        """Whether a module is there, ``name in sys.modules``, is no way to get at it."""
        attributes = self._unit.attributes
        self.visit(node.left)
        for operator, right in zip(node.ops, node.comparators, strict=True):
            if isinstance(operator, (ast.In, ast.NotIn)):
                known = ANY_MODULE in attributes
                self._visit_narrowed(right, node.left)
                attributes -= set() if known else {ANY_MODULE}
            else:
                self.visit(right)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self._change(node.target)
        if isinstance(node.target, ast.Name):
            self._unit.names.add(node.target.id)
        elif isinstance(node.target, ast.Attribute):
            self._unit.attributes.add(node.target.attr)
        self._generic(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        for target in node.targets:
            self._note_origin(target, node.value)
        self._generic(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self._note_origin(node.target, node.value)
        self._all([node.target, node.value])
        if not self._unit.is_function:  # in a function it is not executed
            self.visit(node.annotation)

    def visit_For(self, node: ast.For | ast.AsyncFor) -> None:
        self._note_origin(node.target, node.iter)
        self._generic(node)

    visit_AsyncFor = visit_For

    def visit_withitem(self, node: ast.withitem) -> None:
        if node.optional_vars is not None:
            self._note_origin(node.optional_vars, node.context_expr)
        self._generic(node)

    def _note_origin(self, target: ast.expr, value: ast.expr) -> None:
        """What a local name may be another name of."""
        found: set[tuple[str, bool]] = set()
        for root, called, attributes, methods in _chains(value):
            found |= {(name, called) for name in [root] if name}
            given = OF_CLASS * (root in self._unit.parameters)
            found |= {(given + name, False) for name in attributes if not called}
            found |= {(name, True) for name in methods}
        if not found:
            return
        targets = target.elts if isinstance(target, (ast.Tuple, ast.List)) else [target]
        for each in targets:
            each = each.value if isinstance(each, ast.Starred) else each
            if isinstance(each, ast.Name):
                self._unit.origins.setdefault(each.id, set()).update(found)
            elif isinstance(each, (ast.Attribute, ast.Subscript)):
                self._change(value)
                self._unit.returned += _chains(value)  # whoever has the object may change it

    def visit_NamedExpr(self, node: ast.NamedExpr) -> None:
        self._note_origin(node.target, node.value)
        self._generic(node)

    def visit_Return(self, node: ast.Return | ast.Yield | ast.YieldFrom) -> None:
        if node.value is not None:
            self._unit.returned += _chains(node.value)
            self._unit.flags.add("returns")
        self._generic(node)

    visit_Yield = visit_YieldFrom = visit_Return

    def visit_Expr(self, node: ast.Expr) -> None:
        unit = self._unit
        if not unit.is_function and not isinstance(node.value, ast.Constant):
            unit.flags |= _ACTING
        self._generic(node)

    def visit_Raise(self, node: ast.stmt) -> None:
        if not self._unit.is_function:
            self._unit.flags |= _ACTING
        self._generic(node)

    visit_Assert = visit_Raise

    def visit_Match(self, node: ast.Match) -> None:
        for part in (part for case in node.cases for part in ast.walk(case.pattern)):
            if isinstance(part, (ast.MatchAs, ast.MatchStar)) and part.name:
                self._note_origin(ast.Name(part.name), node.subject)
        self._generic(node)

    def visit_MatchAs(self, node: ast.MatchAs | ast.MatchStar | ast.MatchMapping) -> None:
        name = node.rest if isinstance(node, ast.MatchMapping) else node.name
        if name:
            self._unit.bound.add(name)
        self._generic(node)

    visit_MatchStar = visit_MatchMapping = visit_MatchAs

    def visit_Global(self, node: ast.Global | ast.Nonlocal) -> None:
        self._unit.declared.update(node.names)
        self._unit.attributes.update(node.names)
        if isinstance(node, ast.Global):
            self._unit.flags.add("global")

    visit_Nonlocal = visit_Global

    def visit_Lambda(self, node: ast.Lambda | ast.GeneratorExp) -> None:
        self._unit.flags.add("lambda")
        self._generic(node)

    visit_GeneratorExp = visit_Lambda

    def visit_comprehension(self, node: ast.comprehension) -> None:
        self._note_origin(node.target, node.iter)
        bound = self._unit.bound.copy()
        self.visit(node.target)
        self._unit.bound = bound  # in it alone: elsewhere the name may be a global
        self._all([node.iter, *node.ifs])

    def visit_Import(self, node: ast.Import) -> None:
        for item in node.names:
            self._note_import(0, item.name, ())
            root = item.name if item.asname else item.name.partition(".")[0]
            self._bind_import(item.asname or root, root)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        unit = self._unit
        self._note_import(node.level, node.module or "", tuple(item.name for item in node.names))
        for item in node.names:
            self._bind_import(item.asname or item.name, f"{node.module or ''}.{item.name}")
            unit.attributes.add(STAR if item.name == "*" else item.name)
            if item.name == "*":
                unit.flags.add("acts")

    def _bind_import(self, name: str, full: str) -> None:
        """Notes a name that an import binds. In a function, what it stands for is no local thing:
        that outlives the call."""
        if not self._unit.is_function:
            self._unit.bound.add(name)
        elif name not in self._bound:
            self._aliases.setdefault(name, full)

    def _note_import(self, level: int, module: str, names: tuple[str, ...]) -> None:
        unit = self._unit
        self._imports.setdefault((level, module), {}).update(dict.fromkeys(names))
        unit.attributes.update(filter(None, module.split(".")))
        foreign = level or module.partition(".")[0] not in sys.stdlib_module_names
        if (foreign or module == "__future__") and not unit.is_function:
            unit.flags.add("effect")  # what is told the compiler holds for all of the module

    def _change(self, node: ast.expr) -> None:
        """Notes that whoever holds the object of an expression may find it changed."""
        self._unit.roots += _chains(node)

    def _note_call(self, function: ast.expr) -> None:
        """Notes that something is called, inherited from, decorated by or set on at import."""
        root = _chain(function)[0]
        full = self._aliases.get(root)
        if full is None:
            if root and (root in self._bound or root not in _BUILTINS):
                self._unit.flags.add("acts")
        elif full.partition(".")[0] not in _HARMLESS_MODULES:
            self._unit.flags.add("acts")

    def _resolved(self, node: ast.expr) -> str:
        """The full dotted name of a decorator; of what is bound here without its first part."""
        function = node.func if isinstance(node, ast.Call) else node
        root, dot, rest = ast.unparse(function).partition(".")
        return self._aliases.get(root, "" if root in self._bound else root) + dot + rest

    def analysis(self) -> Analysis:
        """All that was found; what has one name is one definition."""
        merged: dict[str, list[_Unit]] = {}
        for unit in self._units:
            merged.setdefault(unit.name, []).append(unit)
        numbers = {name: number for number, name in enumerate(merged)}
        placed = [each for each in self._units if not each.is_function]
        labels = Counter(each.name.rstrip(":()=") for each in placed)
        needs = (self._needs(each) or labels[each.name.rstrip(":()=")] > 1 for each in placed)
        return Analysis(
            tuple(_definition_of(name, units) for name, units in merged.items()),
            tuple(Import(*place, tuple(names)) for place, names in self._imports.items()),
            order=tuple(
                numbers[each.name] if needed else ~numbers[each.name]
                for each, needed in zip(placed, needs, strict=True)
            ),
        )

    def _needs(self, unit: _Unit) -> bool:
        """Whether executing it may take something that the module has defined before."""
        return bool(unit.flags & _ACTING) or any(
            name in self._bound or name in self._aliases or name not in _BUILTINS
            for name in unit.names | unit.needed
        )


def _definition_of(name: str, units: Sequence[_Unit]) -> Definition:
    first = units[0]
    flags = set().union(*(unit.flags for unit in units))
    is_function = first.is_function
    changes = frozenset().union(*(unit.changes for unit in units))
    return Definition(
        name,
        first.kind,
        # Compared only with others of the same file: 80 bits tell these apart.
        checksum(part for unit in units for part in ("\0", *unit.text))[:20],
        tuple(dict.fromkeys(bound for unit in units for bound in unit.binds)),
        frozenset().union(*(unit.attributes for unit in units)),
        frozenset().union(*(unit.stores for unit in units)),
        changes,
        frozenset().union(*(unit.hands for unit in units)),
        effect="effect" in flags,
        acts="acts" in flags,
        implicit="implicit" in flags,
        constant=all("constant" in unit.flags for unit in units),
        wrapped="wrapped" in flags,
        takes=is_function and "global" in flags,
        called="called" in flags,
    )


def _is_implicit(name: str) -> bool:
    return name in _IMPLICIT or name.startswith("pytest_")


def _executed(statements: Iterable[ast.AST]) -> Iterator[ast.AST]:
    """All nodes of these that are not inside of a function or class."""
    for node in statements:
        yield node
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)):
            yield from _executed(ast.iter_child_nodes(node))


def _making(node: ast.ClassDef) -> list[ast.AST]:
    """What making a class takes."""
    parameters = getattr(node, "type_params", ())
    return [*parameters, *node.decorator_list, *node.bases, *node.keywords]


def _is_text(node: ast.stmt) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def _is_update(node: ast.expr) -> bool:
    """Whether it is ``x.__dict__.update``, which tells nothing of what was there."""
    return (
        isinstance(node, ast.Attribute)
        and node.attr == "update"
        and isinstance(node.value, ast.Attribute)
        and node.value.attr == "__dict__"
    )


def _string(node: ast.expr) -> str:
    """The text that an expression is; empty for any other."""
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def _comes_with_class(name: str) -> bool:
    """Whether a method is reached through its class, not by its own name."""
    special = name.startswith("_") and name.endswith("_")
    return special or name in _METHODS or name in _XUNIT_OF_CLASSES


def _parameters(arguments: ast.arguments) -> Iterator[ast.arg]:
    yield from (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)
    if arguments.vararg is not None:
        yield arguments.vararg
    if arguments.kwarg is not None:
        yield arguments.kwarg


class _Chain(NamedTuple):
    """An access: the name it starts at (empty for none), whether a call is on the way that makes
    something, the attributes after that, and the methods that are called on the way."""

    root: str
    called: bool
    attributes: tuple[str, ...]
    methods: tuple[str, ...]


def _chain(node: ast.expr) -> _Chain:
    attributes: list[str] = []
    methods: list[str] = []
    called = False
    while True:
        match node:
            case ast.Attribute(value=value, attr=name):
                if not called:  # else it is of what the method was called on
                    attributes.append(name)
                node = value
            case ast.Subscript(value=value) | ast.Starred(value=value) | ast.Await(value=value):
                node = value
            case ast.Call(func=ast.Attribute(value=value, attr=name)):
                called |= name not in _GIVING_PARTS
                methods.append(name)
                node = value
            case ast.Call(func=function):
                called = True
                node = function
            case _:
                root = node.id if isinstance(node, ast.Name) else ""
                return _Chain(root, called, tuple(attributes), tuple(methods))


def _chains(node: ast.expr) -> Iterator[_Chain]:
    """All that an expression may be, be made of, or be part of."""
    base = node
    while True:
        match base:
            case ast.Attribute() | ast.Subscript() | ast.Starred() | ast.Await():
                base = base.value
            case ast.Call(func=ast.Attribute(value=value)):
                base = value
            case _:
                break
    match base:
        case ast.IfExp(body=one, orelse=other):
            parts = [one, other]
        case ast.BoolOp(values=parts) | ast.Tuple(elts=parts) | ast.List(elts=parts):
            pass
        case ast.Set(elts=parts) | ast.Dict(values=parts):
            pass
        case ast.NamedExpr(value=value) | ast.Lambda(body=value):
            parts = [value]
        case _:
            chain = _chain(node)
            made = not _GIVING_PARTS.issuperset(chain.methods)
            yield chain._replace(root="") if made else chain  # by a method, not the root
            return
    outer = _chain(node)
    for part in parts:
        for root, called, attributes, methods in _chains(part):
            yield _Chain(
                root, called or outer.called, outer.attributes + attributes, outer.methods + methods
            )
