"""Normalised text of syntax trees, and the names that the code in them mentions.

Two trees have the same text exactly when they differ in nothing but comments, blank lines,
formatting and positions. One walk yields both, since walking is what costs.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, auto
from typing import NamedTuple, TypeAlias

FunctionNode: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef

STAR = "*"
"""The imported name of a star import."""

TEXT = -1
"""The level of an import that is none: a string that may name a module, or something in one."""


class Import(NamedTuple):
    """One imported thing: ``from <level dots><module> import <name> as <bound>``, or ``import
    <module>`` with an empty name, which binds its first component. ``import a.b as c`` reads as
    ``from a import b as c``. ``bound`` is the name it binds."""

    level: int
    module: str
    name: str
    bound: str


@dataclass(frozen=True, slots=True)
class Uses:
    """What a piece of code mentions.

    ``names`` are free names it loads by themselves; ``chains`` dotted accesses that start at a
    free name (``np.linalg.norm``); ``attributes`` attribute names on anything else, and string
    constants that read like identifiers, since ``getattr`` may be given them; ``own`` attributes
    of the object that a method is called on; ``checked`` names, dotted or not, of classes that
    are only compared with (``isinstance``, ``except``); ``affixes`` the
    constant parts of computed identifiers (``visit_*``, ``*_handler``); ``parameters`` the
    names of its arguments; ``imports`` the imports in it.
    """

    names: tuple[str, ...] = ()
    chains: tuple[str, ...] = ()
    attributes: tuple[str, ...] = ()
    affixes: tuple[str, ...] = ()
    parameters: tuple[str, ...] = ()
    imports: tuple[Import, ...] = ()
    own: tuple[str, ...] = ()
    checked: tuple[str, ...] = ()


class _Level(Enum):
    STATEMENT = auto()
    CLASS = auto()
    FUNCTION = auto()


class _Scope:
    """Names of one scope while it is walked."""

    __slots__ = ("chains", "checked", "declared", "level", "loads", "stores")

    def __init__(self, level: _Level) -> None:
        self.level = level
        self.loads: set[str] = set()
        self.stores: set[str] = set()
        self.chains: set[str] = set()
        self.checked: set[str] = set()
        self.declared: set[str] = set()


_SKIPPED = frozenset({"ctx", "type_comment", "kind", "type_ignores"})
_FIELDS: dict[type, tuple[str, ...]] = {}
_IDENTIFIERS = re.compile(r"[A-Za-z_]\w*(?:[.:][A-Za-z_]\w*)*")
_PREFIX = re.compile(r"(?:^|[.\s])([A-Za-z]\w*_)(?:$|[{%])")
_SUFFIX = re.compile(r"(?:\}|%[sr])(_\w*[A-Za-z0-9])$")
_CHECKS = frozenset({"isinstance", "issubclass"})
_LONGEST_IDENTIFIER = 120
_MODULES = "sys.modules"


class Writer:
    """Walks nodes, collecting their normalised text in ``out`` and their mentions.

    ``declared`` collects names that functions declare global, which assignments in them bind;
    ``receiver`` is the first parameter of the method to be walked, if it is one.
    ``reads_hints`` is false where nobody can make objects of the types in its annotations.
    ``guarded`` imports that run only if a name (``TYPE_CHECKING``, dotted or not) is true.
    """

    def __init__(self, receiver: str = "", *, reads_hints: bool = True) -> None:
        self.out: list[str] = []
        self.declared: set[str] = set()
        self.guarded: list[tuple[str, Import]] = []
        self._guard = ""
        self._receiver = receiver
        self._reads_hints = reads_hints
        self._own: set[str] = set()
        self._scopes = [_Scope(_Level.STATEMENT)]
        self._attributes: set[str] = set()
        self._affixes: set[str] = set()
        self._imports: list[Import] = []
        self._functions: list[FunctionNode] = []

    # ------------------------------------------------------------------------ results

    @property
    def at_top(self) -> bool:
        """Whether the walk is inside no function, lambda, comprehension or class."""
        return len(self._scopes) == 1

    @property
    def stores(self) -> frozenset[str]:
        """Names that the outermost scope binds."""
        return frozenset(self._scopes[0].stores)

    def uses(self, parameters: Iterable[str] = ()) -> Uses:
        """What the walked code mentions."""
        outermost = self._scopes[0]
        return Uses(
            tuple(sorted(outermost.loads)),
            tuple(sorted(outermost.chains)),
            tuple(sorted(self._attributes)),
            tuple(sorted(self._affixes)),
            tuple(parameters),
            tuple(self._imports),
            tuple(sorted(self._own)),
            tuple(sorted(outermost.checked)),
        )

    # ----------------------------------------------------------------------- the walk

    def write(self, node: ast.AST) -> None:
        """Appends the text of a node and notes its mentions."""
        handler = _HANDLERS.get(node.__class__)
        if handler is not None:
            getattr(self, handler)(node)
        else:
            self.generic(node)

    def write_all(self, nodes: Iterable[ast.AST]) -> None:
        """Appends the texts of a list of nodes."""
        self.out.append("[")
        for node in nodes:
            self.write(node)
        self.out.append("]")

    def generic(self, node: ast.AST) -> None:
        """Appends the text of a node that has no rule of its own."""
        kind = node.__class__
        fields = _FIELDS.get(kind)
        if fields is None:
            fields = tuple(name for name in kind._fields if name not in _SKIPPED)
            _FIELDS[kind] = fields
        out = self.out
        out.append(kind.__name__)
        for name in fields:
            value = getattr(node, name, None)
            if value is None:
                out.append("~")
            elif value.__class__ is list:
                out.append("[")
                for item in value:
                    if isinstance(item, ast.AST):
                        self.write(item)
                    else:
                        out.append(repr(item))
                out.append("]")
            elif isinstance(value, ast.AST):
                self.write(value)
            else:
                out.append(repr(value))

    def _name(self, node: ast.Name) -> None:
        self.out.append("=" + node.id)
        scope = self._scopes[-1]
        if node.ctx.__class__ is ast.Load:
            scope.loads.add(node.id)
        else:
            scope.stores.add(node.id)
            if node.id == self._receiver:
                self._receiver_is_lost()
            if node.ctx.__class__ is ast.Del:
                scope.loads.add(node.id)

    def _attribute(self, node: ast.Attribute) -> None:
        names = [node.attr]
        value = node.value
        while isinstance(value, ast.Attribute):
            names.append(value.attr)
            value = value.value
        names.reverse()
        self.out.append("." + ".".join(names))
        if isinstance(value, ast.Name):
            self.out.append("=" + value.id)
            self._scopes[-1].chains.add(".".join((value.id, *names)))
            return
        self.write(value)
        if self._receiver and _is_super(value):
            self._own.add(names[0])
            del names[0]
        self._attributes.update(names)

    def _receiver_is_lost(self) -> None:
        """From here on nothing is known of what a method's first parameter stands for."""
        self._receiver = ""
        self._attributes |= self._own
        self._own.clear()

    def _constant(self, node: ast.Constant) -> None:
        value = node.value
        if isinstance(value, str):
            self.out.append(repr(value))
            self._mention_text(value)
        elif isinstance(value, int) and not isinstance(value, bool):
            # repr refuses integers of more than 4300 digits.
            self.out.append(hex(value))
        else:
            self.out.append(repr(value))

    def _mention_text(self, text: str) -> None:
        if not text or len(text) > _LONGEST_IDENTIFIER:
            return
        if _IDENTIFIERS.fullmatch(text):
            names = re.split("[.:]", text)
            self._attributes.update(names)
            if len(names) > 1:
                self._imports.append(Import(TEXT, ".".join(names), "", ""))
        if match := _PREFIX.search(text):
            self._affixes.add(match.group(1) + "*")
        if match := _SUFFIX.search(text):
            self._affixes.add("*" + match.group(1))

    def _call(self, node: ast.Call) -> None:
        """``getattr(module, "name")`` and the like mention ``module.name``, not the module."""
        out = self.out
        out.append("Call")
        arguments = node.args
        if arguments and _looks_modules_up(node) and self._mention_module(arguments[0]):
            out.append("=" + dotted(node.func))
        else:
            self.write(node.func)
        if len(arguments) >= 2 and isinstance(arguments[0], ast.Name):
            second = arguments[1]
            if (
                isinstance(second, ast.Constant)
                and isinstance(second.value, str)
                and second.value.isidentifier()
            ):
                out.append("=" + arguments[0].id)
                self._scopes[-1].chains.add(f"{arguments[0].id}.{second.value}")
                arguments = arguments[1:]
        if isinstance(node.func, ast.Name) and node.func.id in _CHECKS and len(arguments) == 2:
            self.write(arguments[0])
            self._write_check(arguments[1])
            arguments = []
        self.write_all(arguments)
        self.write_all(node.keywords)

    def _subscript(self, node: ast.Subscript) -> None:
        """``sys.modules["name"]`` mentions that module, not whatever is loaded."""
        if dotted_name(node.value) == _MODULES and self._mention_module(node.slice):
            self.out.append("Subscript=" + _MODULES)
            self.write(node.slice)
            return
        self.generic(node)

    def _compare(self, node: ast.Compare) -> None:
        """``"name" in sys.modules`` likewise; and a module whose code is running, or at hand,
        is loaded by whoever ran it."""
        right = node.comparators
        if (
            len(right) == 1
            and dotted_name(right[0]) == _MODULES
            and (self._mention_module(node.left) or self._names_running_module(node.left))
        ):
            self.out.append(f"Compare {type(node.ops[0]).__name__}={_MODULES}")
            self.write(node.left)
            return
        self.generic(node)

    def _names_running_module(self, node: ast.expr) -> bool:
        """Whether an expression is the name of the module of a frame or function, or a variable
        of the function around that never is anything else."""
        if not isinstance(node, ast.Name):
            return _reads_module_name(node)
        function = self._functions[-1] if self._functions else None
        if function is None or node.id in parameter_names(function.args):
            return False
        values = _values_of(function, node.id)
        return bool(values) and all(
            value is not None and _reads_module_name(value) for value in values
        )

    def _mention_module(self, node: ast.expr) -> bool:
        """Notes the module that a constant names; false where it is not known beforehand."""
        if isinstance(node, ast.Name) and node.id == "__name__":
            return True
        if not isinstance(node, ast.Constant) or not isinstance(node.value, str):
            return False
        if _IDENTIFIERS.fullmatch(node.value):
            self._imports.append(Import(0, node.value, "", ""))
        return True

    def _write_check(self, node: ast.expr) -> None:
        """Appends a class, or several, that something is only compared with."""
        if isinstance(node, ast.Tuple):
            self.out.append("Tuple[")
            for item in node.elts:
                self._write_check(item)
            self.out.append("]")
        elif name := dotted_name(node):
            self.out.append("=" + name)
            self._scopes[-1].checked.add(name)
        else:
            self.write(node)

    def _except(self, node: ast.ExceptHandler) -> None:
        self.out.append("ExceptHandler")
        if node.type is None:
            self.out.append("~")
        else:
            self._write_check(node.type)
        self.out.append(node.name or "~")
        if node.name:
            self._scopes[-1].stores.add(node.name)
        self.write_all(node.body)

    def _annotation(self, node: ast.AnnAssign | ast.arg) -> None:
        """Annotations of parameters, and of variables in functions, name types but make none."""
        scope = self._scopes[-1]
        if isinstance(node, ast.AnnAssign) and scope.level is not _Level.FUNCTION:
            self.generic(node)
            return
        loads, chains, checked = set(scope.loads), set(scope.chains), set(scope.checked)
        attributes = set(self._attributes)
        self.out.append(type(node).__name__)
        if node.annotation is None:
            self.out.append("~")
        else:
            self.write(node.annotation)
            if not self._reads_hints:
                scope.loads, scope.chains, scope.checked = loads, chains, checked
                self._attributes = attributes
        if isinstance(node, ast.arg):
            self.out.append(node.arg)
            return
        self.write(node.target)
        if node.value is None:
            self.out.append("~")
        else:
            self.write(node.value)

    def _computed(self, node: ast.BinOp | ast.JoinedStr) -> None:
        """``"visit_" + name`` and ``f"{name}_handler"`` mention what they may come to."""
        self.generic(node)
        parts = node.values if isinstance(node, ast.JoinedStr) else [node.left, node.right]
        for part in (parts[0], parts[-1]) if parts else ():
            if isinstance(part, ast.Constant) and isinstance(part.value, str):
                self._mention_end(part.value, last=part is parts[-1])

    def _mention_end(self, text: str, *, last: bool) -> None:
        word = text.rpartition(".")[2] if not last else text
        if len(word) > 1 and word.isidentifier() and word.strip("_"):
            self._affixes.add("*" + word if last else word + "*")

    def _global(self, node: ast.Global) -> None:
        self.generic(node)
        self._scopes[-1].declared.update(node.names)
        self.declared.update(node.names)

    def _import(self, node: ast.Import) -> None:
        self.generic(node)
        for alias in node.names:
            parent, _, last = alias.name.rpartition(".")
            if alias.asname and parent:
                self._note_import(Import(0, parent, last, alias.asname))
            else:
                bound = alias.asname or alias.name.partition(".")[0]
                self._note_import(Import(0, alias.name, "", bound))

    def _import_from(self, node: ast.ImportFrom) -> None:
        self.generic(node)
        for alias in node.names:
            bound = alias.asname or alias.name
            self._note_import(Import(node.level, node.module or "", alias.name, bound))

    def _if(self, node: ast.If) -> None:
        guard = dotted(node.test)
        if guard.rpartition(".")[2] != "TYPE_CHECKING" or self._guard:
            self.generic(node)
            return
        self.out.append("If")
        self.write(node.test)
        self._guard = guard
        self.write_all(node.body)
        self._guard = ""
        self.write_all(node.orelse)

    def _note_import(self, imported: Import) -> None:
        if self._guard:
            self.guarded.append((self._guard, imported))
        else:
            self._imports.append(imported)
        if imported.bound != STAR:
            self._scopes[-1].stores.add(imported.bound)

    def _binding_name(self, node: ast.MatchAs | ast.MatchStar) -> None:
        self.generic(node)
        if node.name:
            self._scopes[-1].stores.add(node.name)

    def _binding_rest(self, node: ast.MatchMapping) -> None:
        self.generic(node)
        if node.rest:
            self._scopes[-1].stores.add(node.rest)

    # ------------------------------------------------------------------------- scopes

    def function(self, node: FunctionNode) -> None:
        """Appends a function: its signature in this scope, its body in one of its own."""
        self.bind(node.name)
        self.out.append(node.__class__.__name__)
        self.out.append(node.name)
        ignored = not self._reads_hints
        # A decorator may make objects of the types it finds in annotations.
        self._reads_hints |= bool(node.decorator_list)
        self.signature(node)
        self._reads_hints = not ignored
        self._enter(_Level.FUNCTION)
        self._parameters(node.args)
        self._functions.append(node)
        self.body(node)
        self._functions.pop()
        self._leave()

    def body(self, node: FunctionNode) -> None:
        """Appends a function's statements."""
        self.write_all(node.body)

    def declares_global(self, name: str) -> bool:
        """Whether the present scope declares a name global."""
        return name in self._scopes[-1].declared

    def bind(self, name: str) -> None:
        """Notes that a name is bound in the present scope."""
        self._scopes[-1].stores.add(name)

    def signature(self, node: FunctionNode) -> None:
        """Appends a function's decorators, parameters, defaults and annotations."""
        self.write_all(node.decorator_list)
        self.write_all(getattr(node, "type_params", ()))
        self.write(node.args)
        self.out.append("->")
        self._annotation(ast.arg("", node.returns))

    def _lambda(self, node: ast.Lambda) -> None:
        self.out.append("Lambda")
        self.write(node.args)
        self._enter(_Level.FUNCTION)
        self._parameters(node.args)
        self.write(node.body)
        self._leave()

    def class_(self, node: ast.ClassDef) -> None:
        """Appends a class; names bound in its body hide nothing from its methods."""
        self.bind(node.name)
        self.out.append("ClassDef")
        self.out.append(node.name)
        self.write_all(getattr(node, "type_params", ()))
        self.write_all(node.bases)
        self.write_all(node.keywords)
        self.write_all(node.decorator_list)
        self._enter(_Level.CLASS)
        self.write_all(node.body)
        self._leave()

    def _comprehension(self, node: ast.AST) -> None:
        self._enter(_Level.FUNCTION)
        self.generic(node)
        self._leave()

    def _parameters(self, arguments: ast.arguments) -> None:
        self._scopes[-1].stores.update(parameter_names(arguments))

    def _enter(self, level: _Level) -> None:
        self._scopes.append(_Scope(level))

    def _leave(self) -> None:
        """Hands the free names of the innermost scope to the one around it."""
        scope = self._scopes.pop()
        around = self._scopes[-1]
        if scope.level is _Level.CLASS:
            around.loads |= scope.loads
            around.chains |= scope.chains
            around.checked |= scope.checked
            return
        bound = scope.stores - scope.declared
        around.loads |= scope.loads - bound
        around.checked |= {name for name in scope.checked if name.partition(".")[0] not in bound}
        for chain in scope.chains:
            root, _, rest = chain.partition(".")
            if root in bound:
                names = rest.split(".")
                if root == self._receiver and len(self._scopes) == 1:
                    self._own.add(names[0])
                    del names[0]
                self._attributes.update(names)
            else:
                around.chains.add(chain)


_HANDLERS: dict[type, str] = {
    ast.Name: "_name",
    ast.Attribute: "_attribute",
    ast.Constant: "_constant",
    ast.Call: "_call",
    ast.Subscript: "_subscript",
    ast.Compare: "_compare",
    ast.If: "_if",
    ast.BinOp: "_computed",
    ast.JoinedStr: "_computed",
    ast.FunctionDef: "function",
    ast.AsyncFunctionDef: "function",
    ast.Lambda: "_lambda",
    ast.ClassDef: "class_",
    ast.Global: "_global",
    ast.Import: "_import",
    ast.ImportFrom: "_import_from",
    ast.ExceptHandler: "_except",
    ast.AnnAssign: "_annotation",
    ast.arg: "_annotation",
    ast.MatchAs: "_binding_name",
    ast.MatchStar: "_binding_name",
    ast.MatchMapping: "_binding_rest",
    ast.ListComp: "_comprehension",
    ast.SetComp: "_comprehension",
    ast.DictComp: "_comprehension",
    ast.GeneratorExp: "_comprehension",
}


def _looks_modules_up(node: ast.Call) -> bool:
    function = dotted_name(node.func)
    if function == "__import__":
        return len(node.args) == 1 and not node.keywords
    return function == _MODULES + ".get"


def _values_of(function: FunctionNode, name: str) -> list[ast.expr | None]:
    """What is assigned to a variable anywhere in a function; None for whatever else binds it,
    there or in a function inside."""
    found: list[ast.expr | None] = []
    plain: set[int] = set()
    for node in ast.walk(function):
        match node:
            case ast.Assign(targets=[ast.Name(id=bound) as target]) if bound == name:
                plain.add(id(target))
                found.append(node.value)
            case ast.Name(id=bound, ctx=ast.Store()) if bound == name:
                if id(node) not in plain:
                    found.append(None)
            case ast.Global(names=names) | ast.Nonlocal(names=names) if name in names:
                found.append(None)
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef() if (
                node is not function and node.name == name
            ):
                found.append(None)
            case ast.arg(arg=bound) | ast.alias(asname=bound) if bound == name:
                found.append(None)
            case ast.alias(asname=None) if node.name.partition(".")[0] == name:
                found.append(None)
            case (
                ast.ExceptHandler(name=bound)
                | ast.MatchAs(name=bound)
                | ast.MatchStar(name=bound)
                | ast.MatchMapping(rest=bound)
            ) if bound == name:
                found.append(None)
    return found


def _reads_module_name(node: ast.expr) -> bool:
    """Whether an expression is ``x.f_globals["__name__"]``, or the like by ``get`` or of a
    function's ``__globals__``."""
    match node:
        case (
            ast.Subscript(
                value=ast.Attribute(attr="f_globals" | "__globals__"),
                slice=ast.Constant(value="__name__"),
            )
            | ast.Call(
                func=ast.Attribute(
                    value=ast.Attribute(attr="f_globals" | "__globals__"), attr="get"
                ),
                args=[ast.Constant(value="__name__")],
                keywords=[],
            )
        ):
            return True
    return False


def _is_super(node: ast.expr) -> bool:
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "super"
        and not node.args
    )


def parameter_names(arguments: ast.arguments) -> list[str]:
    """The names of all parameters, in order."""
    listed = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    listed += [extra for extra in (arguments.vararg, arguments.kwarg) if extra is not None]
    return [argument.arg for argument in listed]


def dotted_name(node: ast.expr) -> str:
    """``a.b.c`` for a chain of attributes that starts at a name; else empty."""
    return "" if isinstance(node, ast.Call) else dotted(node)


def dotted(node: ast.expr) -> str:
    """``a.b.c`` for a chain of attributes that starts at a name, or for a call of one; else
    empty."""
    if isinstance(node, ast.Call):
        node = node.func
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return ""
    return ".".join((node.id, *reversed(names)))
