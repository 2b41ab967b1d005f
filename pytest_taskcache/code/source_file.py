"""One source file, analysed once per content: its definitions, and what each of them mentions.

Worked example::

    from rates import RATE          import    RATE=       mentions rates, RATE; binds RATE
    def price(x, by=RATE):          statement price()     mentions RATE; binds price
        return x * by * factor()    function  price       mentions factor; binds price
    class Box(Base):                class     Box:        mentions Base; binds Box
        limit = 5                   statement Box.limit=  binds limit, Box
        def size(self):             statement Box.size()  binds size, Box
            self.seen = self.limit  function  Box.size    mentions limit, Box; stores seen

The body of a function is a definition, named like ``code.co_qualname``, with lambdas and
comprehensions in it; what executing its ``def`` takes (decorators, parameters, defaults,
annotations, docstring) is another, named with ``()``, and part of the function around it where
there is one. Every other statement of the module or of a class is named by what it binds.
Identifiers are bare: ``a.b.c`` mentions a, b and c, whatever they are. Lambdas outside of
functions are also one function, ``<lambda>``.

What code gets at without naming it, and how that is covered:

* strings that read like names, or lists of them, mention them; the constant parts of computed
  ones mention all that start (``visit_*``) or end (``*_handler``) so;
* ``vars``, ``dir``, ``__dict__`` and ``inspect`` mention all names (``*``);
  ``globals``, ``locals``, ``eval`` and ``exec`` all of the module they stand in (``*own``), and
  stores by computed names store into all of that; texts that are evaluated mention what they
  read like, and what they import is for observation to see;
* a star import gets names of another module under their own names, which mention it by
  themselves; what ``__all__`` says acts on whoever imports the importer (``*star``);
* ``__import__``, ``import_module``, ``sys.modules`` and the like get at every module
  (``*modules``); a base class's ``__subclasses__`` is bound by every class that has a base;
* parameters of what is called by pytest mention fixtures (``@name``), which decorated functions
  bind;
* dunder methods, xunit set-ups, wrapped methods and those called like methods of builtin types
  come with their class, as do all statements of its body: they bind its name too;
* module-level ``__getattr__`` and ``__dir__``, hooks, automatic fixtures and ``pytestmark`` act
  on code that names none of them: ``implicit``, or ``effect`` for all who import the module;
* a statement that binds nothing may act on all others in the process, and does ``act``; so may
  one that calls, is decorated by, or inherits from something of an installed distribution, whose
  module is then in ``calls``. Imports only have an ``effect`` when they are edited;
* what is assigned, as a global or as an attribute, is in ``stores``. What calls, or keeps, or
  changes anything that it did not just make may change all that it mentions (``changes``). What
  keeps or returns things that outlive it (``shares``) depends on who calls it.

Not covered: operators at module level, and what the standard library is called for to get a
value, are taken to act on nothing else.
"""

from __future__ import annotations

import ast
import builtins
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeAlias

from pytest_taskcache.checksum import checksum, checksum_bytes
from pytest_taskcache.code.definitions import (
    ALL_MODULES,
    ALL_NAMES,
    EFFECTS,
    EVERYTHING,
    NEW_NAMES,
    OWN_NAMES,
    STAR,
    Analysis,
    Definition,
    Import,
    Kind,
    Trait,
)

FunctionNode: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef

INSIDE = ".<locals>."

_BUILTINS = frozenset(dir(builtins))
_METHODS = frozenset(
    name
    for kind in (str, bytes, list, dict, set, frozenset, tuple, int, float)
    for name in dir(kind)
    if not name.startswith("_")
)
_CHANGING = frozenset(
    name
    for kind in (list, dict, set, bytearray)
    for name in dir(kind)
    if name not in dir(tuple) and name not in dir(frozenset) and name not in dir(bytes)
) - {"get", "items", "keys", "values", "copy"}
_HARMLESS_METHODS = (
    _METHODS - _CHANGING
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
_NAMESPACES = frozenset(
    {
        *("vars", "dir", "getmembers", "getmembers_static", "get_type_hints"),
        *("get_annotations", "getsource"),
    }
)
_OF_FUNCTIONS = frozenset(
    {
        *("__name__", "__qualname__", "__module__", "__doc__", "__dict__", "__wrapped__"),
        *("__signature__", "__defaults__", "__kwdefaults__", "__annotations__"),
    }
)
_NAMES_OF_MODULE = frozenset({"globals", "locals", "eval", "exec"})
_IMPORTERS = frozenset(
    {
        *("__import__", "import_module", "iter_modules", "walk_packages", "exec_module"),
        *("run_module", "run_path", "resolve_name", "importorskip"),
    }
)
_PLAIN_WRAPPERS = frozenset(
    {
        *("property", "staticmethod", "classmethod", "abc.abstractmethod", "typing.final"),
        *("typing.overload", "typing.override", "typing.no_type_check", "enum.property"),
        *("contextlib.contextmanager", "contextlib.asynccontextmanager"),
        *("typing_extensions.final", "typing_extensions.overload", "typing_extensions.override"),
        *("pytest.fixture", "pytest_taskcache.cached_fixture", "pytest_taskcache.cached"),
        *("unittest.skip", "unittest.skipIf", "unittest.skipUnless", "unittest.expectedFailure"),
    }
)
_FIXTURES = frozenset(
    {"pytest.fixture", "pytest_taskcache.cached_fixture", "pytest_asyncio.fixture"}
)
_MARKERS = frozenset({"pytest", "pytest_taskcache"})
"""Modules whose marks and fixtures act on nothing but what they are put on."""
_CONSTANTS: tuple[type[ast.AST], ...] = (
    *(ast.Constant, ast.Tuple, ast.UnaryOp, ast.BinOp, ast.JoinedStr, ast.FormattedValue),
    *(ast.expr_context, ast.operator, ast.unaryop),
)
_HELD: tuple[type[ast.AST], ...] = (
    *(ast.Name, ast.Attribute, ast.Subscript, ast.Starred, ast.Await, ast.Call),
    *(ast.BoolOp, ast.IfExp, ast.NamedExpr),
)
"""Expressions whose object somebody else may hold: it was not just made."""
_SKIPPED = frozenset({"ctx", "type_comment", "kind", "type_ignores"})
_NAMES = re.compile(r"[A-Za-z_]\w*(?:[.:,\s]+[A-Za-z_]\w*)*\Z")
_SPLIT = re.compile(r"[.:,\s]+")
_PREFIX = re.compile(r"(?:^|[.\s])([A-Za-z]\w*_)(?:$|[{%])")
_SUFFIX = re.compile(r"(?:\}|%[sr])(_\w*[A-Za-z0-9])$")
_LONGEST = 200


def analyse(content: bytes, *, is_test: bool = False) -> Analysis:
    """The analysis of a file's content. Never raises: what cannot be parsed is one definition,
    which has all effects. ``is_test`` tells that pytest collects its functions."""
    try:
        tree = ast.parse(content)
        walker = _Walker(tree, is_test=is_test)
        walker.statements(tree.body)
        return Analysis(walker.definitions(), _grouped(walker.imports))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        whole = Definition(
            EVERYTHING,
            Kind.STATEMENT,
            checksum_bytes(content),
            (ALL_NAMES,),
            mentions=frozenset({ALL_NAMES}),
            stores=frozenset({ALL_NAMES}),
            traits=frozenset({Trait.EFFECT, Trait.ACTS}),
        )
        return Analysis((whole,), (), whole=True)


def _grouped(imports: Iterable[Import]) -> tuple[Import, ...]:
    """The imports, those of one module and place as one."""
    found: dict[Import, dict[str, None]] = {}
    for item in imports:
        found.setdefault(item._replace(names=()), {}).update(dict.fromkeys(item.names))
    return tuple(item._replace(names=tuple(names)) for item, names in found.items())


def normalised_text(node: ast.AST) -> list[str]:
    """The text of a whole tree, which tells it apart from any other; the same in all versions of
    Python. Neither positions nor what an expression is used for are in it."""
    out: list[str] = []
    pending: list[Any] = [node]
    while pending:
        part = pending.pop()
        if isinstance(part, ast.AST):
            out.append(part.__class__.__name__)
            pending.append(")")
            for name in reversed(_fields_of(part.__class__)):
                value = getattr(part, name, None)
                # Type parameters are new in 3.12.
                if value or name != "type_params":
                    pending.append(value)
        elif isinstance(part, list):
            out.append(f"[{len(part)}")
            pending += reversed(part)
        elif part.__class__ is int:
            # repr refuses integers of more than 4300 digits.
            out.append(hex(part))
        else:
            out.append(repr(part))
    return out


def definition_name(qualname: str) -> str:
    """The definition that a code object of this qualified name belongs to: the function around
    a lambda, a comprehension or the scope of type parameters; ``<module>`` for a module's own
    code and class bodies' comprehensions."""
    if "<" not in qualname:
        return qualname
    kept: list[str] = []
    for part in qualname.split(INSIDE):
        head, _, last = part.rpartition(".")
        if last.startswith("<generic"):
            continue
        if last.startswith("<") or head.startswith("<"):
            if kept:
                break
            return "<module>" if last == "<module>" else "<lambda>"
        kept.append(part)
    return INSIDE.join(kept)


class _Unit:
    """What is collected of one definition while it is walked.

    ``names`` are free or local names that are loaded, ``attributes`` all other mentions.
    """

    def __init__(self, name: str, kind: Kind, owner: str = "") -> None:
        self.name = name
        self.kind = kind
        self.owner = owner
        self.out: list[str] = []
        self.names: set[str] = set()
        self.attributes: set[str] = set()
        self.bound: set[str] = set()
        self.declared: set[str] = set()
        self.parameters: tuple[str, ...] = ()
        self.stores: set[str] = set()
        self.calls: set[str] = set()
        self.traits: set[Trait] = set()
        self.nameless = False
        self.binds: dict[str, None] = {}
        self.children: list[_Unit] = []


class _Walker:
    """Walks a module's tree once."""

    def __init__(self, tree: ast.Module, *, is_test: bool) -> None:
        self.imports: list[Import] = []
        self._is_test = is_test
        self._units: list[_Unit] = []
        self._unit = _Unit("", Kind.STATEMENT)
        self._prefix = ""
        self._owner = ""
        self._aliases: dict[str, str] = {}
        self._bound: set[str] = set()
        self._stars: list[str] = []
        self._find_aliases(tree.body)
        self._rules: dict[type, Callable[[Any], None]] = {
            ast.Name: self._name,
            ast.Attribute: self._attribute,
            ast.Constant: self._constant,
            ast.Call: self._call,
            ast.FunctionDef: self._inner_function,
            ast.AsyncFunctionDef: self._inner_function,
            ast.ClassDef: self._inner_class,
            ast.Lambda: self._lambda,
            ast.ListComp: self._comprehension,
            ast.SetComp: self._comprehension,
            ast.DictComp: self._comprehension,
            ast.GeneratorExp: self._comprehension,
            ast.Import: self._import,
            ast.ImportFrom: self._import_from,
            ast.Global: self._global,
            ast.Nonlocal: self._global,
            ast.Subscript: self._subscript,
            ast.AugAssign: self._aug_assign,
            ast.AnnAssign: self._ann_assign,
            ast.Return: self._return,
            ast.Expr: self._expression,
            ast.Raise: self._acting,
            ast.Assert: self._acting,
            ast.ExceptHandler: self._handler,
            ast.MatchAs: self._binding,
            ast.MatchStar: self._binding,
            ast.MatchMapping: self._binding,
            ast.BinOp: self._computed,
            ast.JoinedStr: self._computed,
        }

    def _find_aliases(self, statements: Iterable[ast.stmt]) -> None:
        """What the names that the module imports stand for."""
        for node in statements:
            match node:
                case ast.Import():
                    for item in node.names:
                        root = item.name if item.asname else item.name.partition(".")[0]
                        self._aliases[item.asname or root] = root
                case ast.ImportFrom():
                    start = "." * node.level + (node.module or "")
                    for item in node.names:
                        self._aliases[item.asname or item.name] = f"{start}.{item.name}"
                        if item.name == "*":
                            self._stars.append(start.partition(".")[0])
                case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                    self._bound.add(node.name)
                case ast.Assign():
                    self._bound.update(t.id for t in node.targets if isinstance(t, ast.Name))
                case ast.If() | ast.Try() | ast.With():
                    self._find_aliases(node.body)
                    self._find_aliases(getattr(node, "orelse", ()))
                    for handler in getattr(node, "handlers", ()):
                        self._find_aliases(handler.body)

    # ---- definitions

    def statements(self, body: Sequence[ast.stmt], prefix: str = "") -> None:
        """Walks the statements of the module, or of a class or condition in it."""
        for index, node in enumerate(body):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                self._function(node, prefix)
            elif isinstance(node, ast.ClassDef):
                self._class(node, prefix)
            elif index == 0 and _is_text(node):
                self._docstring(node, prefix)
            elif isinstance(node, ast.Pass):
                continue
            elif isinstance(node, (ast.If, ast.Try)):
                self._condition(node, prefix)
            elif isinstance(node, (ast.Import, ast.ImportFrom)):
                for alias in node.names:
                    self._statement(_import_of(node, alias), prefix)
            else:
                self._statement(node, prefix)

    def _condition(self, node: ast.If | ast.Try, prefix: str) -> None:
        """What is inside of ``if`` or ``try`` are definitions of their own, each of which depends
        on the text of all, and on what is asked for."""
        first = len(self._units)
        asked = self._open(prefix + EFFECTS, Kind.STATEMENT)
        self._all([node.test] if isinstance(node, ast.If) else [])
        for handler in getattr(node, "handlers", ()):
            if handler.type is not None:
                self.visit(handler.type)
        self._close(asked)
        for body in (node.body, node.orelse, getattr(node, "finalbody", ())):
            self.statements([_NOTHING, *body], prefix)
        for handler in getattr(node, "handlers", ()):
            self.statements([_NOTHING, *handler.body], prefix)
        text = checksum(normalised_text(node))
        for unit in self._units[first:]:
            if unit.kind is not Kind.FUNCTION:
                unit.out.append(text)
                unit.attributes |= asked.attributes
                unit.calls |= asked.calls

    def _docstring(self, node: ast.stmt, prefix: str) -> None:
        unit = self._open(f"{prefix}__doc__=", Kind.STATEMENT)
        unit.binds["__doc__"] = None
        unit.traits.add(Trait.CONSTANT)
        unit.out.append(ast.dump(node))
        self._close(unit)

    def _open(self, name: str, kind: Kind) -> _Unit:
        unit = _Unit(name, kind, self._owner)
        self._unit = unit
        self._units.append(unit)
        return unit

    def _close(self, unit: _Unit) -> None:
        """Ends a statement or class outside of functions."""
        if self._owner:
            cls = self._owner.rpartition(".")[2]
            unit.binds[cls] = None
        unit.attributes |= unit.names

    def _statement(self, node: ast.stmt, prefix: str) -> None:
        unit = self._open("", Kind.STATEMENT)
        self._prefix = prefix
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            unit.kind = Kind.IMPORT
        if isinstance(node, (ast.Assign, ast.AnnAssign)) and _is_constant(node.value):
            unit.traits.add(Trait.CONSTANT)
        self.visit(node)
        names = sorted(unit.bound)
        unit.name = f"{prefix}{','.join(names)}=" if names else prefix + EFFECTS
        unit.binds.update(dict.fromkeys(names))
        if not names:
            unit.traits.add(Trait.EFFECT)
        if _IMPLICIT.intersection(names):
            unit.traits.add(Trait.IMPLICIT)
        if "__all__" in unit.bound:
            unit.binds[STAR] = None
            unit.attributes.clear()
        unit.bound = set()
        self._close(unit)
        if unit.nameless:
            self._loose_lambda(unit)

    def _loose_lambda(self, around: _Unit) -> None:
        unit = _Unit("<lambda>", Kind.FUNCTION)
        unit.out = around.out
        unit.attributes = around.attributes
        unit.stores, unit.traits = around.stores, around.traits & {Trait.CHANGES}
        self._units.append(unit)

    def _class(self, node: ast.ClassDef, prefix: str) -> None:
        unit = self._open(f"{prefix}{node.name}:", Kind.CLASS)
        unit.binds[node.name] = None
        self._class_head(node)
        for decorator in node.decorator_list:
            self._note_call(_root(decorator))
        for base in (*node.bases, *(keyword.value for keyword in node.keywords)):
            self._note_call(_root(base))
        if node.bases:
            unit.binds["__subclasses__"] = None
        self._close(unit)
        before, self._owner = self._owner, prefix + node.name
        self.statements(node.body, f"{prefix}{node.name}.")
        self._owner = before

    def _class_head(self, node: ast.ClassDef) -> None:
        self._unit.out.append("ClassDef " + node.name)
        for part in (getattr(node, "type_params", ()), node.decorator_list, node.bases):
            self._all(part)
        self._all(node.keywords)
        for base in (*node.bases, *(keyword.value for keyword in node.keywords)):
            self._change(base)

    def _function(self, node: FunctionNode, prefix: str) -> None:
        """A function at module or class level: its ``def``, and its body."""
        made = self._open(f"{prefix}{node.name}()", Kind.STATEMENT)
        with_class = bool(prefix) and _comes_with_class(node.name)
        if not with_class:
            made.binds[node.name] = None
        self._signature(node)
        self._decorate(node, made)
        if not prefix and (node.name in _IMPLICIT or node.name.startswith("pytest_")):
            made.traits.add(Trait.IMPLICIT)
        if not prefix and node.name in _OF_MODULES:
            made.traits.add(Trait.EFFECT)
        self._close(made)
        unit = self._body(node, prefix + node.name)
        if not with_class:
            unit.binds[node.name] = None
        unit.traits |= made.traits & {Trait.IMPLICIT, Trait.WRAPPED}
        if not prefix and node.name in _OF_MODULES:
            unit.traits |= {Trait.EFFECT, Trait.ACTS}
        if node.decorator_list:
            unit.attributes |= made.attributes
            made.binds["@" + node.name] = unit.binds["@" + node.name] = None
        if self._owner:
            cls = self._owner.rpartition(".")[2]
            unit.attributes.add(cls)
            if with_class or unit.traits & {Trait.WRAPPED, Trait.IMPLICIT}:
                unit.binds[cls] = None
        self._resolve(unit, frozenset())

    def _decorate(self, node: FunctionNode, unit: _Unit) -> None:
        """Notes what decorators do: all but the plain ones may keep results."""
        for decorator in node.decorator_list:
            name = self._resolved(decorator)
            if name in _FIXTURES:
                keywords = decorator.keywords if isinstance(decorator, ast.Call) else ()
                for keyword in keywords:
                    if keyword.arg in (None, "autouse"):
                        unit.traits.add(Trait.IMPLICIT)
                    if keyword.arg in (None, "scope"):
                        unit.traits.add(Trait.WRAPPED)
                continue
            if name.startswith("pytest.mark.") or name in _PLAIN_WRAPPERS:
                continue
            if name.endswith((".setter", ".getter", ".deleter")):
                continue
            unit.traits.add(Trait.WRAPPED)
            self._note_call(_root(decorator))
            self._change(decorator)

    def _signature(self, node: FunctionNode) -> None:
        out = self._unit.out
        out.append(f"{node.__class__.__name__} {node.name}")
        self._all(node.decorator_list)
        self._all(getattr(node, "type_params", ()))
        self._arguments(node.args)
        out.append("->")
        hints = [item.annotation for item in _parameters(node.args)] + [node.returns]
        self._annotations(hints, count=bool(node.decorator_list))
        out.append(ast.get_docstring(node, clean=False) or "")

    def _annotations(self, hints: Iterable[ast.expr | None], *, count: bool) -> None:
        """Nobody makes objects of the types in the annotations of a plain function, and of its
        variables: they are part of the text only."""
        unit = self._unit
        attributes, names = set(unit.attributes), set(unit.names)
        for hint in hints:
            unit.out.append("~") if hint is None else self.visit(hint)
        if not count:
            unit.attributes, unit.names = attributes, names

    def _arguments(self, arguments: ast.arguments) -> None:
        out = self._unit.out
        for group in (arguments.posonlyargs, arguments.args, arguments.kwonlyargs):
            out.append("/" + ",".join(item.arg for item in group))
        out.append(f"*{arguments.vararg and arguments.vararg.arg}")
        out.append(f"**{arguments.kwarg and arguments.kwarg.arg}")
        for default in (*arguments.defaults, None, *arguments.kw_defaults):
            out.append("~") if default is None else self.visit(default)

    def _body(self, node: FunctionNode, qualname: str) -> _Unit:
        """Walks a function's statements into a definition of their own."""
        around, prefix = self._unit, self._prefix
        unit = _Unit(qualname, Kind.FUNCTION, self._owner)
        self._units.append(unit)
        self._unit, self._prefix = unit, qualname + INSIDE
        unit.parameters = tuple(item.arg for item in _parameters(node.args))
        unit.bound.update(unit.parameters)
        called_by_pytest = node.name.startswith(("test", "setup", "pytest"))
        if self._is_test or node.decorator_list or called_by_pytest:
            unit.attributes.update("@" + name for name in unit.parameters)
        body = node.body[1:] if _is_text(node.body[0]) else node.body
        self._all(body)
        self._unit, self._prefix = around, prefix
        return unit

    def _inner_function(self, node: FunctionNode) -> None:
        unit = self._unit
        unit.bound.add(node.name)
        self._signature(node)
        unit.out.append("\0")
        if unit.kind is not Kind.FUNCTION:
            self._decorate(node, unit)
        prefix = "" if node.name in unit.declared else self._prefix
        inner = self._body(node, prefix + node.name)
        if unit.kind is Kind.FUNCTION:
            # It lives in the cells and on the results of the function around it.
            inner.attributes.add("^" + unit.name)
            unit.attributes.add("^" + inner.name)
            inner.binds["^" + inner.name] = unit.binds["^" + unit.name] = None
            unit.children.append(inner)
        else:
            inner.binds[node.name] = None
            self._resolve(inner, frozenset())

    def _inner_class(self, node: ast.ClassDef) -> None:
        """A class that is defined as some other statement or function runs: part of it."""
        unit = self._unit
        unit.bound.add(node.name)
        self._class_head(node)
        prefix, bound = self._prefix, unit.bound
        self._prefix = f"{prefix}{node.name}."
        unit.bound = set()
        self._all(node.body)
        names = (name for name in unit.bound if not _comes_with_class(name))
        unit.binds.update(dict.fromkeys(names))
        self._prefix, unit.bound = prefix, bound

    def _resolve(self, unit: _Unit, around: frozenset[str]) -> None:
        """Ends a function and those inside of it: names of functions around are no mentions."""
        bound = unit.bound - unit.declared
        free = {name for name in unit.names if name not in bound and name not in around}
        unit.attributes |= free
        unit.stores |= unit.bound & unit.declared
        if unit.parameters and self._holds(unit):
            unit.traits.add(Trait.SHARES)
        hidden = around | bound
        for child in unit.children:
            self._resolve(child, hidden)

    def _holds(self, unit: _Unit) -> bool:
        """Whether a function may keep what it is given, in variables of its module or class."""
        own = self._bound - self._aliases.keys()
        return Trait.CHANGES in unit.traits and (
            unit.parameters[0] == "cls" or not own.isdisjoint(unit.attributes)
        )

    # ---- nodes

    def visit(self, node: ast.AST) -> None:
        """Appends a node's text, and notes what it mentions."""
        self._rules.get(node.__class__, self._generic)(node)

    def _all(self, nodes: Iterable[ast.AST]) -> None:
        out = self._unit.out
        out.append("[")
        for node in nodes:
            self._rules.get(node.__class__, self._generic)(node)
        out.append("]")

    def _generic(self, node: ast.AST) -> None:
        out = self._unit.out
        kind = node.__class__
        out.append(kind.__name__)
        for name in _fields_of(kind):
            value = getattr(node, name, None)
            if value is None:
                out.append("~")
            elif value.__class__ is list:
                out.append("[")
                for item in value:
                    if isinstance(item, ast.AST):
                        self.visit(item)
                    else:
                        out.append(repr(item))
                out.append("]")
            elif isinstance(value, ast.AST):
                self.visit(value)
            else:
                if kind is ast.keyword:
                    self._unit.attributes.add(value)
                out.append(repr(value))

    def _name(self, node: ast.Name) -> None:
        name, unit = node.id, self._unit
        unit.out.append("=" + name)
        if node.ctx.__class__ is ast.Load:
            unit.names.add(name)
            if name in _NAMESPACES:
                unit.attributes.add(ALL_NAMES)
            elif name in _NAMES_OF_MODULE:
                unit.attributes.add(OWN_NAMES)
            elif name in _IMPORTERS:
                unit.attributes.add(ALL_MODULES)
        else:
            unit.bound.add(name)

    def _attribute(self, node: ast.Attribute) -> None:
        unit, name = self._unit, node.attr
        unit.out.append("." + name)
        self.visit(node.value)
        if node.ctx.__class__ is ast.Load:
            unit.attributes.add(name)
            if name == "__dict__":
                # Of a module or class known here all names count; of what is given, new ones do.
                known = isinstance(node.value, ast.Name) and node.value.id not in unit.bound
                unit.attributes.add(ALL_NAMES if known else NEW_NAMES)
            elif name in _NAMESPACES:
                unit.attributes.add(ALL_NAMES)
            elif name in _IMPORTERS or (
                name == "modules" and isinstance(node.value, ast.Name) and node.value.id == "sys"
            ):
                unit.attributes.add(ALL_MODULES)
            return
        self._store_attribute(node)

    def _store_attribute(self, node: ast.Attribute) -> None:
        unit = self._unit
        unit.traits.add(Trait.CHANGES)
        if node.attr in _OF_FUNCTIONS:
            return  # of a wrapper that was just made, which whoever reads it reaches anyhow
        unit.stores.add(node.attr)
        root = _root(node.value)
        if root in self._aliases and root not in unit.bound:
            self._note_call(root)

    def _constant(self, node: ast.Constant) -> None:
        value = node.value
        if value.__class__ is str:
            self._unit.out.append(repr(value))
            self._note_text(value)
        elif value.__class__ is int:
            self._unit.out.append(hex(value))
        else:
            self._unit.out.append(repr(value))

    def _note_text(self, text: str) -> None:
        if not text or len(text) > _LONGEST:
            return
        attributes = self._unit.attributes
        if _NAMES.match(text):
            attributes.update(_SPLIT.split(text))
        if (found := _PREFIX.search(text)) is not None:
            attributes.add(found.group(1) + "*")
        if (found := _SUFFIX.search(text)) is not None:
            attributes.add("*" + found.group(1))

    def _computed(self, node: ast.BinOp | ast.JoinedStr) -> None:
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

    def _call(self, node: ast.Call) -> None:
        function = node.func
        unit = self._unit
        unit.out.append("Call")
        name = function.id if isinstance(function, ast.Name) else ""
        if name in ("setattr", "delattr") and len(node.args) > 1:
            self._set_attribute(node.args[0], node.args[1])
        self.visit(function)
        method = function.attr if isinstance(function, ast.Attribute) else ""
        if method not in _HARMLESS_METHODS and name not in _HARMLESS_BUILTINS:
            if isinstance(function, ast.Attribute) and not self._is_module(function.value):
                self._change(function.value)
            for argument in (*node.args, *(keyword.value for keyword in node.keywords)):
                self._change(argument)
        if unit.kind is not Kind.FUNCTION:
            self._note_call(_root(function))
        self._all(node.args)
        self._all(node.keywords)

    def _set_attribute(self, target: ast.expr, name: ast.expr) -> None:
        """``setattr``: of a computed name, it may be any of something known here; of an own
        object, it goes with the class; what was given is for who gave it to tell."""
        unit = self._unit
        root = _root(target)
        if isinstance(name, ast.Constant) and isinstance(name.value, str):
            unit.stores.add(name.value)
        elif unit.owner and unit.parameters[:1] == (root,):
            unit.binds[unit.owner.rpartition(".")[2]] = None
        elif root not in unit.bound:
            unit.stores.add(OWN_NAMES)
        unit.traits.add(Trait.CHANGES)

    def _handler(self, node: ast.ExceptHandler) -> None:
        if node.name:
            self._unit.bound.add(node.name)
        self._generic(node)

    def _subscript(self, node: ast.Subscript) -> None:
        if node.ctx.__class__ is not ast.Load:
            unit, root = self._unit, _root(node.value)
            unit.traits.add(Trait.CHANGES)
            if root in ("globals", "locals", "vars"):
                unit.stores.add(OWN_NAMES)
            elif root in self._aliases and root not in unit.bound:
                self._note_call(root)
        self._generic(node)

    def _aug_assign(self, node: ast.AugAssign) -> None:
        self._unit.traits.add(Trait.CHANGES)
        if isinstance(node.target, ast.Name):
            self._unit.names.add(node.target.id)
        elif isinstance(node.target, ast.Attribute):
            self._unit.attributes.add(node.target.attr)
        self._generic(node)

    def _ann_assign(self, node: ast.AnnAssign) -> None:
        self._annotations([node.annotation], count=self._unit.kind is not Kind.FUNCTION)
        self._all([node.target] if node.value is None else [node.target, node.value])

    def _return(self, node: ast.Return) -> None:
        if isinstance(node.value, _HELD) and not isinstance(node.value, (ast.Call, ast.Await)):
            self._unit.traits |= {Trait.CHANGES, Trait.SHARES}
        self._generic(node)

    def _expression(self, node: ast.Expr) -> None:
        unit = self._unit
        if unit.kind is not Kind.FUNCTION and not isinstance(node.value, ast.Constant):
            unit.traits.add(Trait.EFFECT)
            # What a method does to an object that is named here is found by that name.
            called = node.value.func if isinstance(node.value, ast.Call) else None
            held = called.value if isinstance(called, ast.Attribute) else None
            if not isinstance(held, ast.Name) or held.id not in self._bound:
                unit.traits.add(Trait.ACTS)
        self._generic(node)

    def _acting(self, node: ast.stmt) -> None:
        if self._unit.kind is not Kind.FUNCTION:
            self._unit.traits |= {Trait.EFFECT, Trait.ACTS}
        self._generic(node)

    def _binding(self, node: ast.MatchAs | ast.MatchStar | ast.MatchMapping) -> None:
        name = node.rest if isinstance(node, ast.MatchMapping) else node.name
        if name:
            self._unit.bound.add(name)
        self._generic(node)

    def _global(self, node: ast.Global | ast.Nonlocal) -> None:
        self._unit.declared.update(node.names)
        self._unit.attributes.update(node.names)
        if isinstance(node, ast.Global) and self._unit.parameters:
            self._unit.traits.add(Trait.SHARES)
        self._generic(node)

    def _lambda(self, node: ast.Lambda) -> None:
        unit = self._unit
        unit.nameless = True
        unit.out.append("Lambda")
        self._arguments(node.args)
        names = {item.arg for item in _parameters(node.args)}
        self._scoped([node.body], names)

    def _comprehension(
        self, node: ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp
    ) -> None:
        unit = self._unit
        unit.out.append(node.__class__.__name__)
        if isinstance(node, ast.GeneratorExp):
            unit.nameless = True
        first = node.generators[0]
        self.visit(first.iter)
        bound = unit.bound
        unit.bound = set()
        for generator in node.generators:
            self.visit(generator.target)
        targets, unit.bound = unit.bound, bound
        inside: list[ast.AST] = list(first.ifs)
        inside += node.generators[1:]
        inside += [node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt]
        self._scoped(inside, targets)

    def _scoped(self, nodes: Sequence[ast.AST], hidden: set[str]) -> None:
        unit = self._unit
        before, bound = unit.names, set(unit.bound)
        unit.names = set()
        self._all(nodes)
        unit.names = before | (unit.names - hidden)
        unit.bound = bound | (unit.bound - hidden)

    def _import(self, node: ast.Import) -> None:
        unit = self._unit
        for item in node.names:
            unit.out.append(f"import {item.name} as {item.asname}")
            self._note_import(Import(0, item.name, ()))
            unit.bound.add(item.asname or item.name.partition(".")[0])
            unit.attributes.update(item.name.split("."))

    def _import_from(self, node: ast.ImportFrom) -> None:
        unit = self._unit
        module = node.module or ""
        names = tuple(item.name for item in node.names)
        self._note_import(Import(node.level, module, names))
        unit.out.append(f"from {'.' * node.level}{module}")
        unit.attributes.update(filter(None, module.split(".")))
        for item in node.names:
            unit.out.append(f"import {item.name} as {item.asname}")
            unit.bound.add(item.asname or item.name)
            unit.attributes.add(STAR if item.name == "*" else item.name)
            if item.name == "*":
                unit.traits.add(Trait.ACTS)

    def _note_import(self, found: Import) -> None:
        inside = self._unit.name if self._unit.kind is Kind.FUNCTION else ""
        self.imports.append(found._replace(function=inside))
        standard = not found.level and found.module.partition(".")[0] in sys.stdlib_module_names
        if not inside and not standard:
            self._unit.traits.add(Trait.EFFECT)

    # ---- what is changed and called

    def _change(self, node: ast.expr) -> None:
        """Notes that whoever holds the object of an expression may find it changed."""
        if isinstance(node, (ast.Tuple, ast.List, ast.Set)):
            for item in node.elts:
                self._change(item)
        elif isinstance(node, _HELD) and not self._is_module(node):
            self._unit.traits.add(Trait.CHANGES)

    def _is_module(self, node: ast.expr) -> bool:
        """Whether an expression is a module for certain."""
        if not isinstance(node, ast.Name) or node.id in self._unit.bound:
            return False
        full = self._aliases.get(node.id, "")
        return bool(full) and ("." not in full or full.partition(".")[0] in sys.stdlib_module_names)

    def _note_call(self, root: str) -> None:
        """Notes that something is called, inherited from or decorated by at import."""
        full = self._aliases.get(root)
        if full is None:
            if root and root not in self._bound and root not in _BUILTINS:
                self._unit.calls.update(self._stars)
            return
        top = full.partition(".")[0]
        if top and top not in sys.stdlib_module_names and top not in _MARKERS:
            self._unit.calls.add(top)

    def _resolved(self, node: ast.expr) -> str:
        """The full dotted name of a decorator; empty where it is bound here."""
        if isinstance(node, ast.Call):
            node = node.func
        parts: list[str] = []
        while isinstance(node, ast.Attribute):
            parts.append(node.attr)
            node = node.value
        if not isinstance(node, ast.Name):
            return ".".join(["", *reversed(parts)])
        root = self._aliases.get(node.id, "" if node.id in self._bound else node.id)
        return ".".join([root, *reversed(parts)])

    def definitions(self) -> tuple[Definition, ...]:
        """All that was found; what has one name is one definition."""
        merged: dict[str, list[_Unit]] = {}
        for unit in self._units:
            merged.setdefault(unit.name, []).append(unit)
        return tuple(_definition_of(name, units) for name, units in merged.items())


_FIELDS: dict[type[ast.AST], tuple[str, ...]] = {}


def _fields_of(kind: type[ast.AST]) -> tuple[str, ...]:
    if kind not in _FIELDS:
        _FIELDS[kind] = tuple(name for name in kind._fields if name not in _SKIPPED)
    return _FIELDS[kind]


def _definition_of(name: str, units: Sequence[_Unit]) -> Definition:
    traits = set().union(*(unit.traits for unit in units))
    if not all(Trait.CONSTANT in unit.traits for unit in units):
        traits.discard(Trait.CONSTANT)
    return Definition(
        name,
        units[0].kind,
        # Compared only with others of the same file: 80 bits tell these apart.
        checksum(part for unit in units for part in ("\0", *unit.out))[:20],
        tuple(dict.fromkeys(bound for unit in units for bound in unit.binds)),
        mentions=frozenset().union(*(unit.attributes for unit in units)),
        stores=frozenset().union(*(unit.stores for unit in units)),
        calls=frozenset().union(*(unit.calls for unit in units)),
        traits=frozenset(traits),
    )


_NOTHING = ast.Pass()
"""Stands before a body that has no docstring."""


def _import_of(node: ast.Import | ast.ImportFrom, alias: ast.alias) -> ast.Import | ast.ImportFrom:
    """An import of one of several names."""
    if isinstance(node, ast.Import):
        return ast.Import([alias])
    return ast.ImportFrom(node.module, [alias], node.level)


def _is_text(node: ast.stmt) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def _is_constant(node: ast.expr | None) -> bool:
    return node is not None and all(isinstance(part, _CONSTANTS) for part in ast.walk(node))


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


def _root(node: ast.expr) -> str:
    """The name that an access or a call starts at; empty for none."""
    while True:
        match node:
            case ast.Attribute(value=inner) | ast.Subscript(value=inner) | ast.Call(func=inner):
                node = inner
            case ast.Starred(value=inner) | ast.Await(value=inner):
                node = inner
            case ast.Name(id=name):
                return name
            case _:
                return ""
