"""What one source file defines: digests of its functions, its skeleton, and what it mentions.

The skeleton is what runs when the module is imported: every statement of the module and of its
classes. A plain function definition only binds a name, so the skeleton leaves it out as long as
nobody can notice whether that name is bound: then a new function changes no one who does not
use it. Classes always count the names of their methods, since a method may override another.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from pytest_taskcache.fingerprint.checksum import checksum, checksum_bytes
from pytest_taskcache.fingerprint.inertness import BUILTINS, is_inert, is_neutral
from pytest_taskcache.fingerprint.syntax import STAR, FunctionNode, Import, Uses, Writer, dotted

NAMES = "*"
"""Name of the pseudo-function that stands for all names a module binds."""

EVERYTHING = "s:0"
"""The one unit of a module that could not be parsed."""

INSIDE = ".<locals>"
"""What follows the name of a function in the names of all that is defined inside of it."""

_IMPORT_LINES = re.compile(
    r"^[ \t]*(?:from[ \t]+(\.*)([\w.]*)[ \t]+import[ \t]*(\([^)]*\)|[^#\n]*)"
    r"|import[ \t]+([\w., \t]+))",
    re.MULTILINE,
)
_NAMESPACE_READERS = frozenset({"globals", "locals", "vars", "dir", "eval", "exec"})
_SPECIAL_PREFIXES = ("pytest_", "__")
_SPECIAL = frozenset(
    {
        "setup_module",
        "teardown_module",
        "setup_function",
        "teardown_function",
        "setUpModule",
        "tearDownModule",
        "load_tests",
        "setup",
        "teardown",
    }
)


_NESTING = (ast.stmt, ast.ExceptHandler, ast.match_case, ast.Tuple, ast.List, ast.Starred)


class Digests(NamedTuple):
    """Digests of one module: ``skeleton``; ``tree`` of all there is; ``names`` of the names it
    binds and its functions' interfaces; ``functions`` by qualified name, and their
    ``interfaces``: decorators, signature and docstring, which is all that those see who have a
    function but do not call it. ``whole`` is true where it could not be parsed and all digests
    are of its bytes."""

    skeleton: str
    tree: str
    names: str
    functions: Mapping[str, str]
    interfaces: Mapping[str, str]
    whole: bool = False


class ClassShape(NamedTuple):
    """A class: last components of its bases' names, its methods' names, other names it binds,
    and its keywords (``metaclass``)."""

    bases: tuple[str, ...]
    methods: tuple[str, ...]
    attributes: tuple[str, ...]
    keywords: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Mentions:
    """What the units of one module mention.

    Units are ``f:qualname`` (functions and methods), ``c:qualname`` (classes) and ``s:number``
    (other statements). ``bindings`` gives the units that bind a top-level name, ``aliases`` the
    imports that do. ``effects`` pairs a dotted callable or target with the unit whose execution
    at import may store something there. ``decorated`` are functions a decorator may have handed
    elsewhere. ``imports`` are all imports at any level, ``typing_only`` ones excepted.
    """

    uses: Mapping[str, Uses] = field(default_factory=dict)
    bindings: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    aliases: Mapping[str, tuple[Import, ...]] = field(default_factory=dict)
    classes: Mapping[str, ClassShape] = field(default_factory=dict)
    effects: tuple[tuple[str, str], ...] = ()
    decorated: tuple[str, ...] = ()
    imports: tuple[Import, ...] = ()
    opaque: bool = False

    @property
    def at_import(self) -> tuple[Import, ...]:
        """The imports that importing the module may execute: all but those that are inside of
        functions."""
        inside: set[Import] = set()
        outside: set[Import] = set()
        for unit, uses in self.uses.items():
            (inside if unit.startswith("f:") else outside).update(uses.imports)
        inside -= outside
        return tuple(item for item in self.imports if item not in inside)

    @property
    def stars(self) -> tuple[Import, ...]:
        """The star imports among the imports."""
        return tuple(item for item in self.imports if item.name == STAR)


class Module(NamedTuple):
    """One parsed source file."""

    digests: Digests
    mentions: Mentions


def parse_module(source: bytes) -> Module:
    """What a source file defines and mentions.

    Source that cannot be parsed, or only by Python's own parser, is digested as bytes, and
    mentions every identifier in it.
    """
    try:
        tree = ast.parse(source)
        return _Skeleton().build(tree)
    except (SyntaxError, ValueError, RecursionError, MemoryError, UnicodeError):
        return unparsed_module(source, checksum_bytes(source))


def unparsed_module(source: bytes, digest: str) -> Module:
    """A module of which only the digest of its content is known, and its text."""
    text = source.decode("utf-8", "replace")
    imports: dict[Import, None] = {}
    for dots, module, names, plain in _IMPORT_LINES.findall(text):
        for name in re.findall(r"[\w.]+", plain):
            imports[Import(0, name, "", name.partition(".")[0])] = None
        for name in re.findall(r"\w+|\*", names):
            imports[Import(len(dots), module, name, name)] = None
    uses = Uses(attributes=tuple(sorted(set(re.findall(r"[^\W\d]\w*", text)))))
    mentions = Mentions({EVERYTHING: uses}, imports=tuple(imports), opaque=True)
    return Module(Digests(digest, digest, digest, {}, {}, whole=True), mentions)


def interface_name(qualname: str) -> str:
    """The name under which a function's interface counts."""
    return qualname + "()"


def function_key(qualname: str) -> str:
    """The name a function counts under: lambdas and comprehensions belong to the function around
    them; empty for code that runs at import and so belongs to the skeleton."""
    outermost = qualname.partition(INSIDE)[0]
    head, _, last = outermost.rpartition(".")
    if last.startswith("<") or head.startswith("<"):
        return ""
    while True:
        around, nested, last = qualname.rpartition(INSIDE + ".")
        if not nested or "<" not in last:
            return qualname
        qualname = around


def function_around(qualname: str) -> str:
    """The name of the function that a nested one is defined in; empty for one that is not
    nested."""
    return qualname.rpartition(INSIDE)[0]


@dataclass(slots=True)
class _Definition:
    """A function definition at module or class level, until its place can be decided."""

    qualname: str
    name: str
    owner: str
    node: FunctionNode
    direct: bool
    uses: Uses
    signature: list[str]
    digest: str
    nested: dict[str, str]


class _FunctionWriter(Writer):
    """Writes a function without the statements of those nested in it, which may never run:
    their digests are in ``nested``, by qualified name."""

    def __init__(self, receiver: str, owner: str) -> None:
        super().__init__(receiver, reads_hints=False)
        self.nested: dict[str, str] = {}
        self._prefix = f"{owner}." if owner else ""
        self._splits = True

    def function(self, node: FunctionNode) -> None:
        before = self._prefix, self._splits
        # Their code goes by a name that does not tell where it is.
        self._splits &= not (self.declares_global(node.name) or _has_type_parameters(node))
        super().function(node)
        self._prefix, self._splits = before

    def class_(self, node: ast.ClassDef) -> None:
        before = self._prefix, self._splits
        self._splits &= not (self.declares_global(node.name) or _has_type_parameters(node))
        self._prefix += f"{node.name}."
        super().class_(node)
        self._prefix, self._splits = before

    def body(self, node: FunctionNode) -> None:
        qualname = self._prefix + node.name
        self._prefix = f"{qualname}{INSIDE}."
        if INSIDE not in qualname or not self._splits:
            super().body(node)
            return
        around, self.out = self.out, []
        super().body(node)
        found, self.out = self.out, around
        known = self.nested.get(qualname, "")
        self.nested[qualname] = checksum((known, *found))
        self.out += ("\0", ast.get_docstring(node, clean=False) or "")


class _UnitWriter(Writer):
    """Writes one unit; definitions outside of functions go to the skeleton instead."""

    def __init__(self, skeleton: _Skeleton, owner: str) -> None:
        super().__init__()
        self._skeleton = skeleton
        self._owner = owner

    def function(self, node: FunctionNode) -> None:
        if self.at_top:
            self.bind(node.name)
            self.out.append(self._skeleton.define(node, self._owner, direct=False))
        else:
            super().function(node)

    def class_(self, node: ast.ClassDef) -> None:
        if self.at_top:
            self.bind(node.name)
            self.out += self._skeleton.class_(node, self._owner)
        else:
            super().class_(node)


class _Skeleton:
    """Builds a Module from a tree."""

    def __init__(self) -> None:
        self._definitions: list[_Definition] = []
        self._uses: dict[str, Uses] = {}
        self._bindings: dict[str, list[str]] = {}
        self._aliases: dict[str, list[Import]] = {}
        self._classes: dict[str, ClassShape] = {}
        self._effects: list[tuple[str, str]] = []
        self._imports: dict[Import, None] = {}
        self._declared: set[str] = set()
        self._guarded: list[tuple[str, Import]] = []
        self._counts: dict[str, Counter[str]] = {"": Counter()}
        self._statements = 0

    def build(self, tree: ast.Module) -> Module:
        out = self._body(tree.body, "")
        future = any(
            item.module == "__future__" and item.name == "annotations" for item in self._imports
        )
        for name in self._declared:
            self._counts[""][name] += 1
        for guard, item in self._guarded:
            if self._resolve(guard) != "typing.TYPE_CHECKING":
                self._imports[item] = None
                self._aliases.setdefault(item.bound, []).append(item)
        return self._finish(out, future)

    # -------------------------------------------------------------------------- units

    def _body(self, statements: Iterable[ast.stmt], owner: str) -> list[str]:
        """The text of a module's or class's statements, with marks where functions are."""
        out: list[str] = []
        counts = self._counts[owner]
        for statement in statements:
            if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
                counts[statement.name] += 1
                out.append(self.define(statement, owner, direct=True))
            elif isinstance(statement, ast.ClassDef):
                counts[statement.name] += 1
                out += self.class_(statement, owner)
            else:
                out += self._statement(statement, owner)
        return out

    def _statement(self, statement: ast.stmt, owner: str) -> list[str]:
        writer = _UnitWriter(self, owner)
        writer.write(statement)
        if owner:
            unit = "c:" + owner
            self._merge(unit, writer.uses())
        else:
            unit = f"s:{self._statements}"
            self._statements += 1
            self._uses[unit] = writer.uses()
        uses = writer.uses()
        self._note(uses.imports, writer)
        for name in writer.stores:
            self._counts[owner][name] += 1
            if not owner and not isinstance(statement, ast.Import | ast.ImportFrom):
                self._bindings.setdefault(name, []).append(unit)
        if not owner:
            for item in uses.imports:
                if item.bound:
                    self._aliases.setdefault(item.bound, []).append(item)
            for module in _plugin_modules(statement):
                self._note((Import(0, module, "", ""),))
        self._effects += ((chain, unit) for chain in _targets(statement))
        return writer.out

    def define(self, node: FunctionNode, owner: str, *, direct: bool) -> str:
        """The mark of a function definition, which is digested by itself."""
        qualname = f"{owner}.{node.name}" if owner else node.name
        writer = _FunctionWriter(_receiver_of(node) if owner else "", owner)
        writer.function(node)
        signature = Writer()
        signature.signature(node)
        from_arguments = [
            argument.arg
            for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
        ]
        uses = writer.uses(from_arguments)
        self._note(uses.imports, writer)
        unit = "f:" + qualname
        self._merge(unit, uses)
        for nested in writer.nested:
            # What it mentions is among what the function around it mentions.
            self._merge("f:" + nested, Uses())
        if not owner:
            self._bind(node.name, unit)
        index = len(self._definitions)
        self._definitions.append(
            _Definition(
                qualname,
                node.name,
                owner,
                node,
                direct,
                signature.uses(),
                [*signature.out, ast.get_docstring(node, clean=False) or ""],
                checksum(writer.out),
                writer.nested,
            )
        )
        return f"\0{index}"

    def class_(self, node: ast.ClassDef, owner: str) -> list[str]:
        """The text of a class, with marks where its methods are."""
        qualname = f"{owner}.{node.name}" if owner else node.name
        unit = "c:" + qualname
        header = Writer()
        header.write_all(getattr(node, "type_params", ()))
        header.write_all(node.bases)
        header.write_all(node.keywords)
        header.write_all(node.decorator_list)
        self._merge(unit, header.uses())
        counts = self._counts.setdefault(qualname, Counter())
        first = len(self._definitions)
        body = self._body(node.body, qualname)
        methods = [item.name for item in self._definitions[first:] if item.owner == qualname]
        shape = ClassShape(
            tuple(filter(None, (_last_component(base) for base in node.bases))),
            tuple(sorted(set(methods))),
            tuple(sorted(set(counts) - set(methods))),
            tuple(keyword.arg or "**" for keyword in node.keywords),
        )
        known = self._classes.get(qualname)
        if known is not None:
            shape = ClassShape(
                *(tuple(sorted({*a, *b})) for a, b in zip(known, shape, strict=True))
            )
        self._classes[qualname] = shape
        if not owner:
            self._bind(node.name, unit)
        self._effects += ((chain, unit) for chain in map(dotted, node.decorator_list) if chain)
        return ["ClassDef", node.name, *header.out, "{", *body, "}", *shape.methods, ";"]

    def _bind(self, name: str, unit: str) -> None:
        units = self._bindings.setdefault(name, [])
        if unit not in units:
            units.append(unit)

    def _merge(self, unit: str, uses: Uses) -> None:
        known = self._uses.get(unit)
        if known is not None:
            uses = Uses(
                *(
                    tuple(dict.fromkeys((*getattr(known, name), *getattr(uses, name))))
                    for name in Uses.__slots__
                )
            )
        self._uses[unit] = uses

    def _note(self, imports: Iterable[Import], writer: Writer | None = None) -> None:
        self._imports.update(dict.fromkeys(imports))
        if writer is not None:
            self._declared |= writer.declared
            self._guarded += writer.guarded

    # ------------------------------------------------------------------------- result

    def _resolve(self, name: str) -> str:
        """The full dotted name of a name at module level, empty where it is not an import."""
        root, _, rest = name.partition(".")
        imports = self._aliases.get(root, [])
        if not imports and root not in self._bindings:
            return name if root in BUILTINS else ""
        if len(imports) != 1 or root in self._bindings or imports[0].level:
            return ""
        found = imports[0]
        base = f"{found.module}.{found.name}" if found.name else root
        return f"{base}.{rest}" if rest else base

    def _finish(self, out: list[str], future: bool) -> Module:
        top = self._counts[""]
        at_import: set[str] = set()
        for unit, uses in self._uses.items():
            if not unit.startswith("f:"):
                at_import.update(uses.names)
                dotted_names = (*uses.chains, *uses.checked)
                at_import.update(name.partition(".")[0] for name in dotted_names)
        for item in self._definitions:
            at_import.update(item.uses.names)
            at_import.update(chain.partition(".")[0] for chain in item.uses.chains)
        stars = any(item.name == STAR for item in self._imports)
        exposed = stars or bool(at_import & _NAMESPACE_READERS)

        def is_settled(name: str) -> bool:
            return top[name] == 1 if name in top else name in BUILTINS and not stars

        resolved: list[str] = []
        whole: list[str] = []
        decorated: list[str] = []
        for text in out:
            if not text.startswith("\0"):
                resolved.append(text)
                whole.append(text)
                continue
            item = self._definitions[int(text[1:])]
            whole += ("\0", item.name, item.digest, *item.nested.values())
            handed_on = [
                chain
                for decorator in item.node.decorator_list
                if not is_neutral(decorator, self._resolve) and (chain := dotted(decorator))
            ]
            self._effects += ((chain, "f:" + item.qualname) for chain in handed_on)
            if item.node.decorator_list:
                decorated.append(item.qualname)
            if not is_inert(item.node, self._resolve, is_settled, future):
                resolved += ("\0", item.name, *item.signature)
                continue
            counts = self._counts[item.owner]
            if (
                not item.direct
                or counts[item.name] > 1
                or item.name in at_import
                or (not item.owner and (exposed or _is_special(item.name)))
            ):
                resolved += ("\0", item.name)
        names = sorted({*self._bindings, *self._aliases, *self._declared})
        if exposed:
            resolved += names
        if not stars:
            # A new function could give a meaning to a name that had none. Where only functions
            # mention it, its absence is a dependency of theirs.
            resolved.append("unbound")
            resolved += sorted(
                name
                for name in at_import
                if name not in top and name not in BUILTINS and not name.startswith("__")
            )
            resolved.append("declared")
            resolved += sorted(self._declared - self._bindings.keys() - self._aliases.keys())
        functions: dict[str, list[str]] = {}
        interfaces: dict[str, list[str]] = {}
        for item in self._definitions:
            functions.setdefault(item.qualname, []).append(item.digest)
            for name, digest in item.nested.items():
                functions.setdefault(name, []).append(digest)
            interfaces.setdefault(item.qualname, []).extend(item.signature)
        seen = {name: checksum(found) for name, found in interfaces.items()}
        digests = Digests(
            checksum(resolved),
            checksum(whole),
            checksum(
                (
                    *names,
                    *(repr(item) for item in self._imports if item.name == STAR),
                    *(text for item in sorted(seen.items()) for text in item),
                )
            ),
            {
                name: found[0] if len(found) == 1 else checksum(found)
                for name, found in functions.items()
            },
            seen,
        )
        mentions = Mentions(
            self._uses,
            {name: tuple(units) for name, units in self._bindings.items()},
            {name: tuple(found) for name, found in self._aliases.items()},
            self._classes,
            tuple(dict.fromkeys(self._effects)),
            tuple(dict.fromkeys(decorated)),
            tuple(self._imports),
        )
        return Module(digests, mentions)


def _receiver_of(node: FunctionNode) -> str:
    """The parameter that stands for the object, or class, a method is called on."""
    if any(dotted(decorator) == "staticmethod" for decorator in node.decorator_list):
        return ""
    positional = [*node.args.posonlyargs, *node.args.args]
    return positional[0].arg if positional else ""


def _has_type_parameters(node: FunctionNode | ast.ClassDef) -> bool:
    return bool(getattr(node, "type_params", None))


def _is_special(name: str) -> bool:
    """Whether a function is found by its name alone, by Python, pytest or unittest."""
    return name in BUILTINS or name in _SPECIAL or name.startswith(_SPECIAL_PREFIXES)


def _last_component(base: ast.expr) -> str:
    """``B`` for a base written ``a.B``, ``B[int]`` or ``make(B)``; else empty."""
    while isinstance(base, ast.Subscript):
        base = base.value
    return dotted(base).rpartition(".")[2]


def _targets(statement: ast.stmt) -> list[str]:
    """Dotted names of what a statement calls or stores into, at import, in its own right."""
    found: list[str] = []
    pending: list[ast.AST] = [statement]
    while pending:
        node = pending.pop()
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef() | ast.Lambda():
                continue
            case (
                ast.Expr(value=ast.Call() as call)
                | ast.Expr(value=ast.Await(value=ast.Call() as call))
            ):
                found.append(_root_of(call.func))
            case ast.Subscript(ctx=ast.Store()) | ast.Attribute(ctx=ast.Store()):
                found.append(_root_of(node.value))
            case ast.AugAssign():
                found.append(_root_of(node.target))
        if isinstance(node, _NESTING):
            pending += ast.iter_child_nodes(node)
    return [chain for chain in found if chain]


def _root_of(node: ast.expr) -> str:
    """The dotted name at the start of an expression such as ``a.b(c).d[e]``."""
    while True:
        if name := dotted(node):
            return name
        if isinstance(node, ast.Call):
            node = node.func
        elif isinstance(node, ast.Attribute | ast.Subscript | ast.Starred):
            node = node.value
        else:
            return ""


def _plugin_modules(statement: ast.stmt) -> list[str]:
    """The modules that an assignment to ``pytest_plugins`` makes pytest import."""
    if not isinstance(statement, ast.Assign) or not any(
        isinstance(target, ast.Name) and target.id == "pytest_plugins"
        for target in statement.targets
    ):
        return []
    return [
        node.value
        for node in ast.walk(statement.value)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value
    ]
