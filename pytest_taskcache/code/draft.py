"""What is collected of one definition while it is walked, and which of what it changes, or
gives to others, outlives it.

Worked example::

    def add(table, row):        changes ~@table: what it is given, for whoever gives it to tell
        rows = cache.get(row)   rows is part of cache
        rows.append(row)        so cache is changed, which is no local name and outlives the call
        made = []
        made.append(row)        changes nothing that outlives it
        return cache.first      hands out cache, and first of it
"""

from __future__ import annotations

import ast
import builtins
from collections import Counter
from collections.abc import Collection, Iterator, Sequence

from pytest_taskcache.code.accesses import Access
from pytest_taskcache.code.definitions import KEPT, OF_CLASS, SET_ON, DefinitionKind
from pytest_taskcache.code.syntax import executed
from pytest_taskcache.dataclass import dataclass, field

BUILTINS = frozenset(dir(builtins))
_CONSTANTS = (
    *(ast.Constant, ast.Tuple, ast.UnaryOp, ast.BinOp, ast.JoinedStr, ast.FormattedValue),
    *(ast.expr_context, ast.operator, ast.unaryop),
)
_MAKERS_OF_FIXED = frozenset(
    {
        *("re.compile", "logging.getLogger", "dataclasses.field", "enum.auto", "frozenset"),
        *("object", "pathlib.Path", "pathlib.PurePath", "pathlib.Path.cwd", "pathlib.Path.home"),
    }
)
_GIVING_WHAT_THEY_GET = frozenset(
    {
        *("os.path.join", "os.path.dirname", "os.path.abspath", "os.path.realpath"),
        *("os.path.basename", "os.path.normpath", "os.environ.get", "os.getenv"),
    }
)
"""Functions that give a text, or something that they were given."""
_GIVING_FIXED = frozenset(
    name
    for kind in (str, bytes)
    for name in dir(kind)
    if not name.startswith("_") and name not in ("split", "rsplit", "splitlines", "maketrans")
) | {
    *("absolute", "expanduser", "joinpath", "resolve", "with_name", "with_suffix"),
    *("read_bytes", "read_text"),
}
"""Methods of texts and paths that give texts, paths, numbers and tuples of them."""


class ModuleNames:
    """The names at the top of a module: ``aliases`` tells what those that it imports stand for,
    ``bound`` are all others that it binds, ``fixed`` those of things that no method changes, and
    that are bound once. ``declared`` are names that functions declare global."""

    __slots__ = ("_files", "aliases", "bound", "fixed")

    def __init__(self, tree: ast.Module, declared: Collection[str]) -> None:
        self.aliases: dict[str, str] = {}
        self.bound: set[str] = set()
        self.fixed: set[str] = set()
        self._files: set[str] = set()
        times = Counter(declared)
        values: dict[str, ast.expr] = {}
        for node in executed(tree.body):
            match node:
                case ast.Import():
                    for item in node.names:
                        root = item.name if item.asname else item.name.partition(".")[0]
                        self.aliases[item.asname or root] = root
                case ast.ImportFrom():
                    start = "." * node.level + (node.module or "")
                    for item in node.names:
                        self.aliases[item.asname or item.name] = f"{start}.{item.name}"
                case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                    self.bound.add(node.name)
                    times[node.name] += 1
                case ast.Name(ctx=ast.Store()):
                    self.bound.add(node.id)
                    times[node.id] += 1
                case ast.Assign(targets=[*targets], value=value):
                    names = (target.id for target in targets if isinstance(target, ast.Name))
                    values.update(dict.fromkeys(names, value))
                case ast.withitem(ast.Call(ast.Name("open")) as value, ast.Name(id=name)):
                    values[name] = value
        for name, value in values.items():
            empty = isinstance(value, ast.Constant) and value.value is None  # something will come
            if times[name] > 1 or name in self.aliases or empty:
                continue
            if self.is_fixed(value):
                self.fixed.add(name)
            elif isinstance(value, ast.Call) and self.resolved(value) == "open":
                self._files.add(name)

    def binds_fixed(self, names: Collection[str]) -> bool:
        """Whether all of these are names of what no method changes, or of files that are closed."""
        return bool(names) and (self.fixed | self._files).issuperset(names)

    def is_fixed(self, node: ast.expr | None) -> bool:
        """Whether it makes something that no method changes."""
        match node:
            case ast.Name(id=name):
                return name in self.fixed or (name == "__file__" and name not in self.bound)
            case ast.Attribute(value=value, attr="name" | "parent" | "stem" | "suffix"):
                return self.is_fixed(value)
            case ast.BinOp(left=left, right=right):
                return self.is_fixed(left) and self.is_fixed(right)
            case ast.Call(func=function, args=arguments):
                name = self.resolved(function)
                if name in _MAKERS_OF_FIXED:
                    return True
                if name in _GIVING_WHAT_THEY_GET:
                    return not node.keywords and all(map(self.is_fixed, arguments))
                match function:
                    case ast.Attribute(ast.Name(id=name), "read") if name in self._files:
                        return True
                    case ast.Attribute(value=value, attr=name) if name in _GIVING_FIXED:
                        return self.is_fixed(value)
                return False
        return node is not None and all(isinstance(part, _CONSTANTS) for part in ast.walk(node))

    def resolved(self, node: ast.expr) -> str:
        """The full dotted name of a decorator; of what is bound here without its first part."""
        function = node.func if isinstance(node, ast.Call) else node
        root, dot, rest = ast.unparse(function).partition(".")
        return self.aliases.get(root, "" if root in self.bound else root) + dot + rest


@dataclass(slots=True)
class Draft:
    """What is collected of one definition while it is walked.

    ``text`` is its normalised text; ``names`` are free or local names that are loaded, ``needed``
    those that annotations take, ``mentions`` is all else; ``bound`` are names that it
    binds, ``declared`` those that are another scope's; ``changed`` are accesses that are changed,
    ``set_on`` those that an attribute is set on, ``filled`` those that something is put into,
    ``returned`` those that are returned; ``origins`` tells what a local name may be another name
    of, and whether a call made it; ``body`` is that of a function without classes in it, whose
    names are local. ``children`` are the functions inside.
    """

    name: str
    kind: DefinitionKind
    owner: str = ""
    text: list[str] = field(default_factory=list)
    names: set[str] = field(default_factory=set)
    needed: set[str] = field(default_factory=set)
    mentions: set[str] = field(default_factory=set)
    bound: set[str] = field(default_factory=set)
    declared: set[str] = field(default_factory=set)
    parameters: tuple[str, ...] = ()
    stores: set[str] = field(default_factory=set)
    changes: set[str] = field(default_factory=set)
    hands: set[str] = field(default_factory=set)
    set_on: list[Access] = field(default_factory=list)
    filled: list[Access] = field(default_factory=list)
    changed: list[Access] = field(default_factory=list)
    returned: list[Access] = field(default_factory=list)
    origins: dict[str, set[tuple[str, bool]]] = field(default_factory=dict)
    body: Sequence[ast.stmt] = ()
    flags: set[str] = field(default_factory=set)
    binds: dict[str, None] = field(default_factory=dict)
    children: list[Draft] = field(default_factory=list)

    @property
    def is_function(self) -> bool:
        """Whether it is the body of a function, which is not run at import."""
        return self.kind is DefinitionKind.FUNCTION

    def settle(self, module: ModuleNames, local: Collection[str]) -> None:
        """Decides which of the accesses that are changed outlive the definition."""
        for root, called, attributes, methods in self.changed:
            outlives = self._change(module, root, called, local, 2)
            prefix = "" if outlives else OF_CLASS
            self.changes.update(prefix + name for name in attributes)
            self.changes.update(name + "()" for name in methods)
        for access in (*self.set_on, *self.filled):
            self._keep(module, access, local, 2)
        for access in self.set_on:
            found = self._handed_out(module, access, local, 2)
            self.changes.update(SET_ON + name for name in found if name[0] != OF_CLASS)
        for access in self.returned:
            # What outlives a function and is returned may be changed by who called it.
            found = self._handed_out(module, access, local, 2)
            self.hands.update(name for name in found if name not in BUILTINS)
        if not self.is_function:
            made = {name + "()" * called for each in self.origins.values() for name, called in each}
            self.hands |= made - BUILTINS

    def _keep(
        self, module: ModuleNames, access: Access, local: Collection[str], depth: int
    ) -> None:
        """Notes where something is set or filled that outlives the function: at a name of this
        module, at the class, or at what is imported, which may be a library's."""
        root, called, attributes, _ = access
        if root == "cls" or (root in module.bound and root not in local and not called):
            self.flags.add("global")
        elif root in module.aliases and root not in local and not called:
            original = module.aliases[root].rpartition(".")[2]
            self.changes.update(KEPT + name for name in (original, *attributes))
        elif root in local and depth:
            for name, made in self.origins.get(root, ()):
                self._keep(module, Access(name, made, attributes, ()), local, depth - 1)

    def _handed_out(
        self, module: ModuleNames, access: Access, local: Collection[str], depth: int
    ) -> Iterator[str]:
        """What a returned expression may be, or be part of. What the function was given, its own
        object included, is for those to tell who gave it."""
        root, called, attributes, methods = access
        yield from (name + "()" for name in methods)
        if root and root not in local:
            original = module.aliases.get(root, root).rpartition(".")[2]
            yield from (name + "()" * called for name in {root, original})
            yield from (OF_CLASS * called + name for name in attributes)
            return
        yield from (OF_CLASS + name for name in attributes)
        for name, made in self.origins.get(root, ()) if depth else ():
            origin = Access(name, made, attributes, ())
            yield from self._handed_out(module, origin, local, depth - 1)

    def _change(
        self, module: ModuleNames, root: str, called: bool, local: Collection[str], depth: int
    ) -> bool:
        """Notes what an access starts at; true where its attributes count too. What a function was
        given, its own object included, is for those to tell who gave it, and so on up to who has
        it from a variable, or from a fixture: from there, this function is reached."""
        if not root:
            return not called
        if root not in local:
            if root in module.fixed:
                self.changes.update((root, 2 * KEPT + root))
                return False
            original = module.aliases.get(root, root).rpartition(".")[2]
            self.changes.update(name + "()" * called for name in (root, original))
            if not called and root not in module.aliases and root in module.bound:
                self.flags.add("global")
            for one, made in self.origins.get(root, ()) if depth else ():  # of a comprehension
                self._change(module, one, made, local, depth - 1)
            return not called and root[0] != OF_CLASS
        if root in self.parameters:
            if root == "cls":
                self.flags.add("global")
                return True
            if self.parameters[0] != root or not self.owner:
                self.changes.add("~@" + root)
        if called:
            self.changes.add(root + "()")  # of a function inside of this one
        origins = self.origins.get(root, ()) if depth else ()
        found = [self._change(module, one, made, local, depth - 1) for one, made in origins]
        return any(found)
