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

What an expression mentions and changes is told in `mentions`. Beyond that:

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

Not covered: operators at module level, and what the standard library is called for to get a value,
are taken to act on nothing else; annotations of plain functions that `inspect.signature` is asked
for.
"""

from __future__ import annotations

import ast
import copy
from collections import Counter
from collections.abc import Collection, Iterable, Sequence

from pytest_taskcache.checksum import checksum, checksum_bytes
from pytest_taskcache.code.accesses import access
from pytest_taskcache.code.definitions import (
    EFFECTS,
    INSIDE,
    SESSION_HOOKS,
    STAR,
    Analysis,
    Definition,
    DefinitionKind,
    Import,
    everything,
)
from pytest_taskcache.code.draft import BUILTINS, Draft, ModuleNames
from pytest_taskcache.code.mentions import ACTING, METHODS, Mentions
from pytest_taskcache.code.syntax import (
    FunctionNode,
    is_text,
    normalised_text,
    parameters_of,
    parsed,
)
from pytest_taskcache.garbage import uncollected

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
_PLAIN_WRAPPERS = frozenset(
    {
        *("property", "staticmethod", "classmethod", "abc.abstractmethod", "typing.overload"),
        *("contextlib.contextmanager", "pytest_taskcache.cached"),
    }
)
_FIXTURES = frozenset(
    {"pytest.fixture", "pytest_taskcache.cached_fixture", "pytest_asyncio.fixture"}
)
_PASSIVE = frozenset({"abc", "enum", "typing", "typing_extensions"})
"""Modules with base classes that call no method of theirs by name."""
_TELLING = ("pytest.", "warnings.warn", "print")
"""Who is called for its own sake, and changes nothing that lasts."""
_SCOPES = frozenset({"globals", "locals", "vars"})
_COMPOUND = (
    *(ast.For, ast.AsyncFor, ast.While, ast.With, ast.AsyncWith, ast.If),
    *(ast.Try, ast.TryStar, ast.ExceptHandler, ast.Match, ast.match_case),
)
_BLOCKS = ("body", "orelse", "handlers", "finalbody", "cases")
_POSTPONED = "__future__.annotations"


def analyse(content: bytes, *, is_test: bool = False) -> Analysis:
    """The analysis of a file's content. Never raises: what cannot be parsed is one definition,
    which has all effects. ``is_test`` tells that pytest collects its functions."""
    try:
        with uncollected():
            tree = parsed(content)
            found = ast.walk(tree) if b"global" in content else ()
            globals_ = (node for node in found if isinstance(node, ast.Global))
            declared = {name for node in globals_ for name in node.names}
            return _Walker(tree, declared, is_test=is_test).analysis()
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return Analysis((everything(checksum_bytes(content)),))


class _Walker(Mentions):
    """Walks a module's tree once."""

    def __init__(self, tree: ast.Module, declared: Collection[str], *, is_test: bool) -> None:
        super().__init__(ModuleNames(tree, declared))
        self._is_test = is_test
        self._drafts: list[Draft] = []
        self._owner = ""
        self._prefix = ""
        self._called: set[str] = set()
        self._acting: set[str] = set()  # classes of which making another calls something
        self._as_script = False
        self._body(tree, "")

    def _body(self, node: ast.Module | ast.ClassDef, prefix: str) -> None:
        """All statements of the module, or of a class."""
        statements = node.body
        if statements and is_text(statements[0]):
            draft = self._open(f"{prefix}__doc__=", DefinitionKind.STATEMENT, statements[0])
            draft.binds["__doc__"] = None
            draft.flags.add("constant")
            self._close(draft)
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
        first = len(self._drafts)
        handlers: list[ast.ExceptHandler] = getattr(node, "handlers", [])
        asked = self._open(prefix + EFFECTS, DefinitionKind.STATEMENT)
        before = self._as_script
        if isinstance(node, ast.If):
            self.visit(node.test)
            self._as_script |= "__name__" in asked.names
        self._all(handler.type for handler in handlers)
        self._close(asked)
        for body in (node.body, node.orelse, getattr(node, "finalbody", ())):
            self._statements(body, prefix)
        for handler in handlers:
            self._statements(handler.body, prefix)
        self._as_script = before
        text = checksum((normalised_text(node),))
        for draft in self._drafts[first:]:
            if not draft.is_function:
                draft.text.append(text)
                draft.mentions |= asked.mentions
                draft.flags |= asked.flags & {"acts"}

    def _open(self, name: str, kind: DefinitionKind, node: ast.AST | None = None) -> Draft:
        """A new definition, which what is walked from now on is part of."""
        text = [] if node is None else [normalised_text(node, bodies=False)]
        draft = Draft(name, kind, self._owner, text)
        self._draft = draft
        self._drafts.append(draft)
        return draft

    def _close(self, draft: Draft) -> None:
        """Ends a statement or class outside of functions."""
        if self._owner:
            cls = self._owner.rpartition(".")[2]
            draft.binds[cls] = None
        draft.binds.update(dict.fromkeys(sorted(draft.bound)))
        draft.bound = set()
        draft.mentions |= draft.names
        draft.settle(self._module, frozenset())

    def _statement(self, node: ast.stmt, prefix: str) -> None:
        draft = self._open("", DefinitionKind.STATEMENT, node)
        self._prefix = prefix
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            draft.kind = DefinitionKind.IMPORT
        value = node.value if isinstance(node, (ast.Assign, ast.AnnAssign)) else None
        if self._module.is_fixed(value) or (isinstance(node, ast.AnnAssign) and value is None):
            draft.flags.add("constant")
        self.visit(node)
        names = sorted(draft.bound)
        if not prefix and self._module.binds_fixed(names):
            draft.flags.add("constant")
        draft.name = f"{prefix}{','.join(names)}=" if names else prefix + EFFECTS
        if not names:
            draft.flags.add("effect")
            if isinstance(node, (ast.Assign, ast.AugAssign)):
                draft.flags.add("acts")  # on what it sets something on, a library's too
        if not self._as_script and self._is_outward(node):
            draft.flags.add("outward")
        called = [value, value.func] if isinstance(value, ast.Call) else []
        by_call = any(self._module.resolved(each) in _FIXTURES for each in called)
        if by_call or any(_is_implicit(name) for name in names):
            draft.flags.add("implicit")
        if "__all__" in draft.bound:
            draft.binds[STAR] = None
            draft.mentions.clear()
        self._close(draft)
        if "lambda" in draft.flags:
            loose = Draft("<lambda>", DefinitionKind.FUNCTION, text=draft.text)
            loose.mentions = draft.mentions
            loose.stores, loose.changes = draft.stores, draft.changes
            self._drafts.append(loose)

    def _is_outward(self, node: ast.AST, *, local: bool = False) -> bool:
        """Whether executing it is for what it does to others: it calls what is not its own, for no
        value, or sets something there. ``local``: in a function, where only imports are others."""
        changed: list[ast.expr] = []
        match node:
            case ast.Assign(targets=targets) | ast.Delete(targets=targets):
                parts = (part for target in targets for part in ast.walk(target))
                changed += (one for one in parts if isinstance(one, (ast.Attribute, ast.Subscript)))
            case ast.AugAssign(target=ast.Attribute() | ast.Subscript() as target):
                changed = [target]
            case ast.Expr(value=ast.Call(func=ast.Name(id="setattr" | "delattr"), args=[of, *_])):
                changed = [of]
            case ast.Expr(value=ast.Call(func=ast.Name(id=name))) if name in self._module.bound:
                return True  # what its own function does, for no value, it does to others
            case ast.Expr(value=ast.Call(func=function)):
                changed = [] if self._module.resolved(function).startswith(_TELLING) else [function]
            case ast.AnnAssign(ast.Attribute() | ast.Subscript() as target, value=ast.expr()):
                changed = [target]
            case _ if isinstance(node, _COMPOUND) or (local and isinstance(node, FunctionNode)):
                blocks = (getattr(node, name, ()) for name in _BLOCKS)
                return any(self._is_outward(one, local=local) for each in blocks for one in each)
        return not all(self._is_own(each, local=local or bool(self._owner)) for each in changed)

    def _is_own(self, node: ast.expr, *, local: bool) -> bool:
        """Whether what an expression starts at is the module's, or of the class or function around
        it."""
        root = access(node).root
        inside = local and root not in self._module.aliases
        return inside or root in self._module.bound or root in _SCOPES

    def _registers(self, decorator: ast.expr) -> bool:
        """Whether it is a method of something imported, which is told of what it decorates."""
        function = decorator.func if isinstance(decorator, ast.Call) else decorator
        full = self._module.aliases.get(access(function).root, "")
        return isinstance(function, ast.Attribute) and "." in full

    def _class(self, node: ast.ClassDef, prefix: str) -> None:
        bare = copy.copy(node)
        bare.body = []
        draft = self._open(f"{prefix}{node.name}:", DefinitionKind.CLASS, bare)
        draft.binds[node.name] = None
        self._all(_making(node))
        for decorator in node.decorator_list:
            self._note_call(decorator)
        given = "acts" in draft.flags
        if given and any(map(self._registers, node.decorator_list)):
            draft.flags.add("outward")
        words = [keyword.value for keyword in node.keywords]
        for base in (*node.bases, *words):
            if access(base)[0] not in self._module.bound - self._acting:
                self._note_call(base)
            self._change(base)
        if node.bases:
            draft.binds["__subclasses__"] = None
        self._close(draft)
        own = any(getattr(part, "name", "") == "__init_subclass__" for part in node.body)
        own |= any(access(word)[0] in self._module.bound for word in words)
        if own or "acts" in draft.flags:
            self._acting.add(node.name)
        if given or own or any(self._calls_methods(maker) for maker in (*node.bases, *words)):
            self._called.add(node.name)
        before = self._owner, self._around
        self._owner, self._around = prefix + node.name, node
        self._body(node, f"{prefix}{node.name}.")
        self._owner, self._around = before

    def _calls_methods(self, base: ast.expr) -> bool:
        """Whether a base class comes from elsewhere, or has one that does: what it has methods
        for, it calls."""
        root = access(base)[0]
        full = self._module.aliases.get(root)
        if full is None:
            known = self._module.bound - self._called | BUILTINS | {""}
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
        draft = self._inside(node, prefix + node.name)
        marks = (self._module.resolved(each) for each in node.decorator_list)
        is_test = (
            self._is_test
            and node.name.startswith("test")
            and "returns" not in draft.flags
            and all(name.startswith("pytest.mark.") for name in marks)
        )
        if not with_class and not is_test:
            draft.binds[node.name] = None
        draft.flags |= made.flags & {"implicit", "wrapped"}
        if not prefix and node.name in SESSION_HOOKS and self._is_outward(node, local=True):
            draft.flags.add("outward")
        if not prefix and node.name in _OF_MODULES:
            draft.flags |= ACTING
        if node.decorator_list:
            draft.mentions |= made.mentions
            for each in (made,) if is_test else (made, draft):
                each.binds["@" + node.name] = None
                if "wrapped" in made.flags:  # its value outlives a test
                    each.binds[f"~@{node.name}"] = None
        if self._owner:
            cls = self._owner.rpartition(".")[2]
            draft.mentions.add(cls)
            if not is_test:
                draft.binds[cls] = None
                draft.flags |= {"called"} if cls in self._called else set()
        self._resolve(draft, frozenset())

    def _decorate(self, node: FunctionNode, draft: Draft) -> None:
        """Notes what decorators do."""
        for decorator in node.decorator_list:
            name = self._module.resolved(decorator)
            if name.endswith((".setter", ".getter", ".deleter")):
                continue
            if name in _FIXTURES:
                keywords = decorator.keywords if isinstance(decorator, ast.Call) else ()
                for keyword in keywords:
                    if keyword.arg in (None, "autouse"):
                        draft.flags.add("implicit")
                    if keyword.arg in (None, "scope"):
                        draft.flags.add("wrapped")
            elif not name.startswith("pytest.mark.") and name not in _PLAIN_WRAPPERS:
                draft.flags.add("wrapped")
                self._note_call(decorator)
                self._change(decorator)
                if "acts" in draft.flags and self._registers(decorator):
                    draft.flags.add("outward")

    def _signature(self, node: FunctionNode) -> None:
        """What executing a ``def`` takes."""
        self._all(node.decorator_list)
        self._all(getattr(node, "type_params", ()))
        self._all(node.args.defaults)
        self._all(node.args.kw_defaults)
        draft = self._draft
        kept = draft.mentions, draft.names
        if not node.decorator_list:  # nobody makes objects of the types that they name
            draft.mentions, draft.names = set(), set()
        self._all([*(item.annotation for item in parameters_of(node.args)), node.returns])
        if not draft.is_function and self._module.aliases.get("annotations") != _POSTPONED:
            draft.needed |= draft.names
        draft.mentions, draft.names = kept

    def _inside(self, node: FunctionNode, qualname: str) -> Draft:
        """Walks a function's statements into a definition of their own."""
        around, prefix = self._draft, self._prefix
        body = node.body[is_text(node.body[0]) :]
        text = [normalised_text(body, bodies=False)]
        draft = Draft(qualname, DefinitionKind.FUNCTION, self._owner, text)
        self._drafts.append(draft)
        self._draft, self._prefix = draft, qualname + INSIDE
        draft.parameters = tuple(item.arg for item in parameters_of(node.args))
        draft.bound.update(draft.parameters)
        draft.body = body
        if (
            self._is_test
            or node.decorator_list
            or node.name.startswith(("test", "setup", "pytest"))
        ):
            draft.mentions.update("@" + name for name in draft.parameters)
        self._all(body)
        self._draft, self._prefix = around, prefix
        return draft

    def _visit_FunctionDef(self, node: FunctionNode) -> None:
        """A function inside of another, or of a compound statement."""
        draft = self._draft
        draft.bound.add(node.name)
        self._signature(node)
        if not draft.is_function:
            self._decorate(node, draft)
        inner = self._inside(
            node, ("" if node.name in draft.declared else self._prefix) + node.name
        )
        if draft.is_function:
            # It lives in the cells and on the results of the function around it.
            inner.mentions.add("^" + draft.name)
            draft.mentions.add("^" + inner.name)
            inner.binds["^" + inner.name] = draft.binds["^" + draft.name] = None
            draft.children.append(inner)
        else:
            inner.binds[node.name] = None
            self._resolve(inner, frozenset())

    _visit_AsyncFunctionDef = _visit_FunctionDef

    def _visit_ClassDef(self, node: ast.ClassDef) -> None:
        """A class that is defined as some other statement or function runs: part of it."""
        draft = self._draft
        draft.bound.add(node.name)
        self._all(_making(node))
        for base in node.bases:
            self._change(base)
        draft.body = ()  # a name of its own is one of an attribute
        prefix, bound = self._prefix, draft.bound
        self._prefix = f"{prefix}{node.name}."
        draft.bound = set()
        self._all(node.body)
        names = (name for name in draft.bound if not _comes_with_class(name))
        draft.binds.update(dict.fromkeys(names))
        self._prefix, draft.bound = prefix, bound

    def _resolve(self, draft: Draft, around: frozenset[str]) -> None:
        """Ends a function and those inside of it: names of functions around are no mentions."""
        local = around | (draft.bound - draft.declared)
        draft.mentions |= draft.names - local
        draft.stores.update("." + name for name in draft.bound & draft.declared)
        draft.settle(self._module, local)
        for child in draft.children:
            self._resolve(child, local)

    def analysis(self) -> Analysis:
        """All that was found; what has one name is one definition."""
        merged: dict[str, list[Draft]] = {}
        for draft in self._drafts:
            merged.setdefault(draft.name, []).append(draft)
        numbers = {name: number for number, name in enumerate(merged)}
        placed = [each for each in self._drafts if not each.is_function]
        labels = Counter(each.name.rstrip(":()=") for each in placed)
        needs = (self._needs(each) or labels[each.name.rstrip(":()=")] > 1 for each in placed)
        return Analysis(
            tuple(_definition_of(name, drafts) for name, drafts in merged.items()),
            tuple(Import(*place, tuple(names)) for place, names in self._imports.items()),
            order=tuple(
                numbers[each.name] if needed else ~numbers[each.name]
                for each, needed in zip(placed, needs, strict=True)
            ),
        )

    def _needs(self, draft: Draft) -> bool:
        """Whether executing it may take something that the module has defined before."""
        return bool(draft.flags & ACTING) or any(
            name in self._module.bound or name in self._module.aliases or name not in BUILTINS
            for name in draft.names | draft.needed
        )


def _definition_of(name: str, drafts: Sequence[Draft]) -> Definition:
    first = drafts[0]
    flags = set().union(*(draft.flags for draft in drafts))
    is_function = first.is_function
    changes = frozenset().union(*(draft.changes for draft in drafts))
    return Definition(
        name,
        first.kind,
        # Compared only with others of the same file: 80 bits tell these apart.
        checksum(part for draft in drafts for part in ("\0", *draft.text))[:20],
        tuple(dict.fromkeys(bound for draft in drafts for bound in draft.binds)),
        frozenset().union(*(draft.mentions for draft in drafts)),
        frozenset().union(*(draft.stores for draft in drafts)),
        changes,
        frozenset().union(*(draft.hands for draft in drafts)),
        effect="effect" in flags,
        acts="acts" in flags,
        implicit="implicit" in flags,
        constant=all("constant" in draft.flags for draft in drafts),
        wrapped="wrapped" in flags,
        takes=is_function and "global" in flags,
        called="called" in flags,
        outward="outward" in flags,
        loads="loads" in flags,
    )


def _is_implicit(name: str) -> bool:
    return name in _IMPLICIT or name.startswith("pytest_")


def _making(node: ast.ClassDef) -> list[ast.AST]:
    """What making a class takes."""
    parameters = getattr(node, "type_params", ())
    return [*parameters, *node.decorator_list, *node.bases, *node.keywords]


def _comes_with_class(name: str) -> bool:
    """Whether a method is reached through its class, not by its own name."""
    special = name.startswith("_") and name.endswith("_")
    return special or name in METHODS or name in _XUNIT_OF_CLASSES
