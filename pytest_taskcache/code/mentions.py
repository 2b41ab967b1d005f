"""What statements and expressions mention, store and change, by bare identifiers.

Worked example::

    registry.add(self.size + LIMIT)     mentions registry, add, size, LIMIT; may change registry
    self.seen = "a.b"                   stores seen; mentions a, b
    getattr(tool, "run_" + kind)        mentions tool, getattr, run_*

What code gets at without naming it, and how that is covered:

* strings that read like names, or lists of them, mention them; the constant parts of computed
  ones mention all that start (``visit_*``) or end (``*_handler``) so; ``@name`` in one, by which
  pandas gets at a variable of its caller, mentions it;
* ``vars``, ``dir``, ``__dict__`` and ``getmembers`` list what something has, and that is named
  where the thing comes from: a module that is handed on is mentioned whole (``=name``), with what
  its package holds, and a method binds its class. Where anything is listed (``*members``), setting
  an attribute changes the object that it is set on; what may be a module (``*listed``) that was got
  at by a computed name, or as ``request.module`` (``=*``), has all names;
* ``getattr`` with a name that a call or a look-up gives, and the globals of a function or frame,
  mention all names (``*``); of a frame, or where they are asked for a name, those of any file: a
  caller need not be imported. A function that is copied with its globals mentions what it needs;
* ``globals``, ``locals``, ``eval`` and ``exec`` all of the module they stand in (``*own``), and
  the modules that it imports; stores by computed names store into all of that; what evaluated
  texts mention, and import, is for observation to see;
* a star import gets names of another module under their own names, which mention it by
  themselves; what ``__all__`` says acts on whoever imports the importer (``*star``);
* ``__import__``, ``import_module``, ``sys.modules`` and the like get at every module
  (``*modules``); a base class's ``__subclasses__`` is bound by every class that has a base.

Not covered: names that are put together elsewhere than where they are used.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import ModuleType, NoneType
from typing import Any

from pytest_taskcache.code.accesses import access, accesses
from pytest_taskcache.code.definitions import (
    ALL_MODULES,
    ALL_NAMES,
    ANY_MODULE,
    INSIDE,
    LISTED,
    MEMBERS,
    OF_CLASS,
    OWN_NAMES,
    PART,
    STAR,
    DefinitionKind,
)
from pytest_taskcache.code.draft import BUILTINS, Draft, ModuleNames
from pytest_taskcache.code.syntax import fields_of, text_in


def _methods_of(*kinds: type) -> frozenset[str]:
    return frozenset(name for kind in kinds for name in dir(kind) if not name.startswith("_"))


METHODS = _methods_of(str, bytes, list, dict, set, frozenset, tuple, int, float)
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
_OF_FUNCTIONS = frozenset(
    {
        *("__name__", "__qualname__", "__module__", "__doc__", "__dict__", "__wrapped__"),
        *("__signature__", "__defaults__", "__kwdefaults__", "__annotations__"),
    }
)
_TEXTS = frozenset({"__name__", "__qualname__", "__module__"})
_BY_PATH = ("setattr", "delattr", "patch", "from_object")
_BY_NAME = ("getattr", "hasattr")
_GETTERS = frozenset({"attrgetter", "methodcaller"})
_OF_ATTRIBUTES = frozenset({*_BY_NAME, "setattr", "delattr", "object"})
_MANY = frozenset({MEMBERS, LISTED, ANY_MODULE, ALL_NAMES})
_OF_SCOPES = frozenset({"vars", "dir", "globals", "locals"})
_LISTS = (MEMBERS, LISTED)
_GIVING_MODULES = (ALL_MODULES, ANY_MODULE)
_GLOBALS = frozenset({"__globals__", "f_globals"})
_ANY_OBJECT = (ALL_NAMES, ALL_MODULES)
_READING: Mapping[str, Sequence[str]] = {
    **dict.fromkeys(("vars", "dir", "getmembers", "getmembers_static", "__dict__"), _LISTS),
    "f_globals": _ANY_OBJECT,
    "__globals__": (ALL_NAMES,),
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
_HARMLESS_MODULES = frozenset({"pytest", "pytest_taskcache", *sys.stdlib_module_names})
"""Modules that are called to get a value, or whose marks and fixtures act on what they are on."""
ALWAYS_LOADED = frozenset(
    {
        *("abc", "ast", "collections", "contextlib", "copy", "dataclasses", "datetime", "enum"),
        *("functools", "gc", "importlib", "inspect", "io", "itertools", "json", "math", "operator"),
        *("os", "os.path", "pathlib", "re", "sys", "threading", "time", "types", "typing"),
        *("warnings", "weakref", "collections.abc", "__future__"),
    }
)
"""Modules that this package needs itself, so that they are loaded whoever else imports them."""
ACTING = frozenset({"effect", "acts"})
_NAMES = re.compile(r"[A-Za-z_]\w*(?:[.:,\s]+[A-Za-z_]\w*)*\Z")
_SPLIT = re.compile(r"[.:,\s]+")
_PREFIX = re.compile(r"(?:^|[.\s])([A-Za-z]\w*_)(?:$|[{%])")
_SUFFIX = re.compile(r"(?:\}|%[sr])(_\w*[A-Za-z0-9])$")
_OF_CALLER = re.compile(r"@([A-Za-z_]\w*)")
_LONGEST = 200


class Mentions:
    """Walks statements and expressions, and notes in `draft` what they mention and change."""

    def __init__(self, module: ModuleNames) -> None:
        self._module = module
        self._imports: dict[tuple[int, str], dict[str, None]] = {}
        self._draft = Draft("", DefinitionKind.STATEMENT)
        self._around: ast.AST = ast.Pass()  # the class around the methods that are walked
        self._whole = True  # the name that comes next is handed on, not asked for an attribute
        self._rules: dict[type, Callable[[Any], None]] = {}

    def visit(self, node: ast.AST) -> None:
        """Notes what a node mentions, by the method for its kind, else what is in it does."""
        kind = node.__class__
        rule: Callable[[Any], None] | None = self._rules.get(kind)
        if rule is None:
            rule = self._rules[kind] = getattr(self, f"_visit_{kind.__name__}", self._generic)
        rule(node)

    def _all(self, nodes: Iterable[ast.AST | None]) -> None:
        for node in nodes:
            if node is not None:
                self.visit(node)

    def _generic(self, node: ast.AST) -> None:
        for name in fields_of(node.__class__):
            value = getattr(node, name, None)
            if value.__class__ is list:
                for item in value:
                    if isinstance(item, ast.AST):
                        self.visit(item)
            elif isinstance(value, ast.AST):
                self.visit(value)

    def _visit_keyword(self, node: ast.keyword) -> None:
        if node.arg:
            self._draft.mentions.add(node.arg)
        self.visit(node.value)

    def _visit_Name(self, node: ast.Name) -> None:
        name, draft = node.id, self._draft
        whole, self._whole = self._whole, True
        if node.ctx.__class__ is ast.Load:
            draft.names.add(name)
            if whole and name in self._module.aliases and name not in draft.bound:
                draft.mentions.add("=" + self._module.aliases[name].rpartition(".")[2])
            full = self._module.aliases.get(name, "" if name in self._module.bound else name)
            # What the package defines itself is analysed where it stands.
            if name not in draft.bound and not full.startswith("."):
                self._read_by_name(full.partition(".")[0])
                self._read_by_name(full.rpartition(".")[2])
        else:
            draft.bound.add(name)

    def _read_by_name(self, name: str) -> None:
        """Notes what a function or an attribute of this name gets at."""
        draft = self._draft
        draft.mentions.update(_READING.get(name, ()))
        if OWN_NAMES in _READING.get(name, ()):
            modules = (full.rpartition(".")[2] for full in self._module.aliases.values())
            draft.mentions.update("=" + module for module in modules)

    def _visit_Attribute(self, node: ast.Attribute) -> None:
        draft, name = self._draft, node.attr
        whole = self._whole
        self._whole = name == "__dict__" or not isinstance(node.value, (ast.Name, ast.Attribute))
        self.visit(node.value)
        self._whole = True
        if whole and access(node)[0] in self._module.aliases:
            draft.mentions.add("=" + name)  # it may be a module
        if node.ctx.__class__ is not ast.Load:
            self._store_attribute(node)
            return
        draft.mentions.add(name)
        root, listed = access(node)[0], LISTED in draft.mentions
        if name not in _OF_SCOPES or self._module.aliases.get(root) == "builtins":
            self._read_by_name(name)
        if name == "__dict__" and self._is_no_module(node.value) and not listed:
            draft.mentions.discard(LISTED)
        if name == "modules" and self._module.aliases.get(root, "").partition(".")[0] == "sys":
            draft.mentions.update(_GIVING_MODULES)
        elif name == "module" and root in draft.parameters and not self._says_its_module(root):
            draft.mentions.add(ANY_MODULE)  # that of a test, of a node or request of pytest's

    def _store_attribute(self, node: ast.Attribute) -> None:
        draft = self._draft
        root = access(node.value)[0]
        if node.attr in _OF_FUNCTIONS and root not in self._module.aliases:
            return  # of a wrapper that was just made, which whoever reads it reaches anyhow
        # Whoever reads it of an object of this class knows the class, or has it from who does.
        given = root in draft.parameters
        draft.stores.add("." + node.attr if given else node.attr)
        if not given or root == "cls":
            draft.set_on += accesses(node.value)
        if root in self._module.aliases and root not in draft.bound:
            self._note_call(node.value)

    def _visit_Constant(self, node: ast.Constant) -> None:
        text = node.value
        if not isinstance(text, str) or not text or len(text) > _LONGEST:
            return
        attributes = self._draft.mentions
        if _NAMES.match(text):
            attributes.update(_SPLIT.split(text))
        if (found := _PREFIX.search(text)) is not None:
            attributes.add(found.group(1) + "*")
        if (found := _SUFFIX.search(text)) is not None:
            attributes.add("*" + found.group(1))
        attributes.update(_OF_CALLER.findall(text))

    def _visit_BinOp(self, node: ast.BinOp | ast.JoinedStr) -> None:
        """``"visit_" + name`` and ``f"{name}_handler"`` mention what they may come to."""
        self._generic(node)
        parts = node.values if isinstance(node, ast.JoinedStr) else [node.left, node.right]
        for index in (0, -1):
            part = parts[index] if parts else None
            if not isinstance(part, ast.Constant) or not isinstance(part.value, str):
                continue
            word = part.value.rpartition(".")[2] if index == 0 else part.value
            if len(word) > 1 and word.isidentifier() and word.strip("_"):
                self._draft.mentions.add(word + "*" if index == 0 else "*" + word)

    _visit_JoinedStr = _visit_BinOp

    def _visit_Call(self, node: ast.Call) -> None:
        function = node.func
        draft = self._draft
        name = function.id if isinstance(function, ast.Name) else ""
        if name in ("setattr", "delattr") and len(node.args) > 1:
            self._set_attribute(node.args[0], node.args[1])
        method = function.attr if isinstance(function, ast.Attribute) else ""
        if node.args:
            self._visit_narrowed(function, node.args[:1])
        else:
            self.visit(function)
        path = text_in(node.args[0]) if node.args else ""
        if (name or method) in _BY_PATH and path:  # of a module, or of a name in one
            self._imports.setdefault((0, path), {})
            draft.mentions.add("=" + path.rpartition(".")[2])
        if name in _OF_SCOPES and not node.args:
            self._read_by_name("locals")
        of_builtins = self._module.aliases.get(access(function).root) == "builtins"
        if name in _BY_NAME or (method in _BY_NAME and of_builtins):
            if len(node.args) > 1 and isinstance(node.args[1], (ast.Call, ast.Subscript)):
                draft.mentions.update({MEMBERS} if self._is_no_module(node.args[0]) else _LISTS)
        elif (name or method) in _GETTERS and any(
            isinstance(each, (ast.Call, ast.Subscript)) for each in node.args
        ):
            draft.mentions.update(_LISTS)
        if method not in _HARMLESS_METHODS and name not in _HARMLESS_BUILTINS:
            if isinstance(function, ast.Attribute):
                self._change(function.value)
                if method in METHODS:
                    draft.filled += accesses(function.value)
            elif name in draft.bound:
                self._change(function)
            for argument in (*node.args, *(keyword.value for keyword in node.keywords)):
                self._change(argument)
        if not draft.is_function and (
            method not in _HARMLESS_METHODS or access(function)[0] in self._module.aliases
        ):
            self._note_call(function)
        if (name or method) in _OF_ATTRIBUTES and len(node.args) > 1 and text_in(node.args[1]):
            # Of all that the object has, it is only this attribute.
            self._whole = not isinstance(node.args[0], (ast.Name, ast.Attribute, ast.Subscript))
        self._all(node.args)
        self._all(node.keywords)

    def _visit_narrowed(
        self, node: ast.expr, keys: Iterable[ast.expr], *, reads: bool = True
    ) -> None:
        """Visits what gets at many names, or modules, when it is asked for those of these keys; for
        all of them if there is none."""
        mentions = self._draft.mentions
        before = mentions & {*_MANY, ALL_MODULES}
        self.visit(node)
        added = mentions & _MANY - before
        is_globals = not _GLOBALS.isdisjoint(mentions) and any(
            not _GLOBALS.isdisjoint(each.attributes) for each in accesses(node)
        )
        if not added and not is_globals:
            return
        modules = ANY_MODULE in added and reads
        if not is_globals:
            added.discard(ALL_NAMES)
        elif ANY_MODULE not in added and ALL_MODULES not in before:
            added.add(ALL_MODULES)
        narrowed: set[str] | None = None
        for key in keys:
            name, own = text_in(key), isinstance(key, ast.Name) and key.id == "__name__"
            found = added
            if not (name or own or not reads):
                found = {LISTED} if self._is_no_module(key) or _is_update(node) else set()
            if is_globals and not name.endswith("__"):  # which all globals have
                mentions.add(ALL_MODULES)  # a caller's file need not be imported
                found = found - {ALL_MODULES}
            if (name or own) and modules:
                mentions.add(OWN_NAMES if own else "=" + name.rpartition(".")[2])
            narrowed = added & found if narrowed is None else narrowed & found
        mentions -= narrowed or set()

    def _keys_of(self, targets: Sequence[ast.expr]) -> Iterator[ast.expr]:
        """The keys for which a local name is asked, if nothing else is done with it."""
        draft, target = self._draft, targets[0]
        if not isinstance(target, ast.Name) or len(targets) > 1 or target.id in draft.declared:
            return
        keys: list[ast.expr] = []
        left = 0
        for node in (part for statement in draft.body for part in ast.walk(statement)):
            match node:
                case ast.Name(id=target.id, ctx=ast.Load()):
                    left += 1
                case ast.Call(func=ast.Attribute(ast.Name(target.id), "get"), args=[key, *_]):
                    keys.append(key)
                case ast.Subscript(ast.Name(target.id), key, ast.Load()):
                    keys.append(key)
                case ast.Compare(ast.Name(target.id), [ast.Is() | ast.IsNot()]):
                    left -= 1  # with None, or itself
        if left == len(keys):
            yield from keys

    def _is_no_module(self, node: ast.expr) -> bool:
        """Whether it is the object that a method is called on, or its class, or a module of the
        standard library. Any other name may be that of a module that was got at by computing."""
        draft = self._draft
        match node:
            case ast.Call(func=ast.Name(id="type"), args=[of, *_]):
                node = of
        while isinstance(node, ast.Attribute) and node.attr == "__class__":
            node = node.value
        name = node.id if isinstance(node, ast.Name) else ""
        if name in ("self", "cls"):
            return bool(draft.owner) and name in draft.parameters[:1]
        return name not in draft.bound and self._module.aliases.get(name) in sys.stdlib_module_names

    def _says_its_module(self, name: str) -> bool:
        """Whether it is the object that a method is called on, and its class says what ``module``
        is of it: that of pytest's nodes cannot be set."""
        draft = self._draft
        if not draft.owner or draft.parameters[0] != name or INSIDE in draft.name:
            return False
        for part in ast.walk(self._around):
            match part:
                case ast.arg("module") | ast.Constant("module"):
                    return True
                case ast.Attribute(attr="module", ctx=ast.Store()):
                    return True
        return False

    def _set_attribute(self, target: ast.expr, name: ast.expr) -> None:
        """``setattr``: of a computed name, it may be any of something known here."""
        draft = self._draft
        root, called, *_ = access(target)
        if isinstance(name, ast.Constant) and isinstance(name.value, str):
            draft.stores.add(name.value)
            draft.set_on += accesses(target)
        elif not called and root not in draft.bound:
            draft.stores.add(OWN_NAMES)
        self._change(target)

    def _visit_ExceptHandler(self, node: ast.ExceptHandler) -> None:
        if node.name:
            self._draft.bound.add(node.name)
        self._generic(node)

    def _visit_Subscript(self, node: ast.Subscript) -> None:
        if node.ctx.__class__ is not ast.Load:
            value = node.value
            root = access(value)[0]
            if isinstance(value, ast.Call) and root in ("globals", "locals", "vars"):
                self._draft.stores.add(OWN_NAMES)
            self._change(value)
            self._draft.filled += accesses(value)
            if root in self._module.aliases and root not in self._draft.bound:
                self._note_call(value)
        if not (node.ctx.__class__ is ast.Store and self._is_globals(node.value)):
            self._visit_narrowed(node.value, [node.slice], reads=node.ctx.__class__ is ast.Load)
        self.visit(node.slice)

    def _is_globals(self, node: ast.expr) -> bool:
        """Whether it is ``globals()``: to put something there asks for nothing that is there."""
        called = isinstance(node, ast.Call) and "globals" not in self._draft.bound
        return called and self._module.resolved(node) == "globals"

    def _visit_Compare(self, node: ast.Compare) -> None:
        """Whether a module is there, ``name in sys.modules``, is no way to get at it."""
        attributes = self._draft.mentions
        self.visit(node.left)
        for operator, right in zip(node.ops, node.comparators, strict=True):
            if isinstance(operator, (ast.In, ast.NotIn)):
                known = ANY_MODULE in attributes
                self._visit_narrowed(right, [node.left])
                attributes -= set() if known else {ANY_MODULE}
            else:
                self.visit(right)

    def _visit_AugAssign(self, node: ast.AugAssign) -> None:
        self._change(node.target)
        if isinstance(node.target, ast.Name):
            self._draft.names.add(node.target.id)
        elif isinstance(node.target, ast.Attribute):
            self._draft.mentions.add(node.target.attr)
        else:
            self.visit(node.target.value)
        self._generic(node)

    def _visit_Assign(self, node: ast.Assign) -> None:
        for target in node.targets:
            self._note_origin(target, node.value)
        self._all(node.targets)
        self._visit_narrowed(node.value, self._keys_of(node.targets))

    def _visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self._note_origin(node.target, node.value)
        self._all([node.target, node.value])
        if not self._draft.is_function:  # in a function it is not executed
            self.visit(node.annotation)

    def _visit_For(self, node: ast.For | ast.AsyncFor) -> None:
        self._note_origin(node.target, node.iter)
        self._generic(node)

    _visit_AsyncFor = _visit_For

    def _visit_withitem(self, node: ast.withitem) -> None:
        if node.optional_vars is not None:
            self._note_origin(node.optional_vars, node.context_expr)
        self._generic(node)

    def _note_origin(self, target: ast.expr, value: ast.expr) -> None:
        """What a local name may be another name of."""
        found: set[tuple[str, bool]] = set()
        for root, called, attributes, methods in accesses(value):
            found |= {(name, called) for name in [root] if name}
            given = OF_CLASS * (root in self._draft.parameters)
            found |= {(given + name, False) for name in attributes if not called}
            found |= {(name, True) for name in methods}
        if not found:
            return
        targets = target.elts if isinstance(target, (ast.Tuple, ast.List)) else [target]
        for each in targets:
            each = each.value if isinstance(each, ast.Starred) else each
            if isinstance(each, ast.Name):
                self._draft.origins.setdefault(each.id, set()).update(found)
            elif isinstance(each, ast.Attribute) and each.attr in _TEXTS:
                continue  # names are texts, which nobody changes
            elif isinstance(each, (ast.Attribute, ast.Subscript)):
                self._change(value)
                self._draft.returned += accesses(value)  # whoever has the object may change it

    def _visit_NamedExpr(self, node: ast.NamedExpr) -> None:
        self._note_origin(node.target, node.value)
        self._generic(node)

    def _visit_Return(self, node: ast.Return | ast.Yield | ast.YieldFrom) -> None:
        if node.value is not None:
            self._draft.returned += accesses(node.value)
            self._draft.flags.add("returns")
        self._generic(node)

    _visit_Yield = _visit_YieldFrom = _visit_Return

    def _visit_Expr(self, node: ast.Expr) -> None:
        draft = self._draft
        if not draft.is_function and not isinstance(node.value, ast.Constant):
            draft.flags |= ACTING
        self._generic(node)

    def _visit_Raise(self, node: ast.stmt) -> None:
        if not self._draft.is_function:
            self._draft.flags |= ACTING
        self._generic(node)

    _visit_Assert = _visit_Raise

    def _visit_Match(self, node: ast.Match) -> None:
        for part in (part for case in node.cases for part in ast.walk(case.pattern)):
            if isinstance(part, (ast.MatchAs, ast.MatchStar)) and part.name:
                self._note_origin(ast.Name(part.name), node.subject)
        self._generic(node)

    def _visit_MatchAs(self, node: ast.MatchAs | ast.MatchStar | ast.MatchMapping) -> None:
        name = node.rest if isinstance(node, ast.MatchMapping) else node.name
        if name:
            self._draft.bound.add(name)
        self._generic(node)

    _visit_MatchStar = _visit_MatchMapping = _visit_MatchAs

    def _visit_Global(self, node: ast.Global | ast.Nonlocal) -> None:
        self._draft.declared.update(node.names)
        self._draft.mentions.update(node.names)
        if isinstance(node, ast.Global):
            self._draft.flags.add("global")

    _visit_Nonlocal = _visit_Global

    def _visit_Lambda(self, node: ast.Lambda | ast.GeneratorExp) -> None:
        self._draft.flags.add("lambda")
        self._generic(node)

    _visit_GeneratorExp = _visit_Lambda

    def _visit_comprehension(self, node: ast.comprehension) -> None:
        self._note_origin(node.target, node.iter)
        bound = self._draft.bound.copy()
        self.visit(node.target)
        self._draft.bound = bound  # in it alone: elsewhere the name may be a global
        self._all([node.iter, *node.ifs])

    def _visit_Import(self, node: ast.Import) -> None:
        for item in node.names:
            self._note_import(0, item.name, ())
            root = item.name if item.asname else item.name.partition(".")[0]
            self._bind_import(item.asname or root, root)

    def _visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        draft = self._draft
        self._note_import(node.level, node.module or "", tuple(item.name for item in node.names))
        for item in node.names:
            self._bind_import(item.asname or item.name, f"{node.module or ''}.{item.name}")
            draft.mentions.add(STAR if item.name == "*" else item.name)
            if item.name == "*":
                draft.flags.add("acts")

    def _bind_import(self, name: str, full: str) -> None:
        """Notes a name that an import binds. In a function, what it stands for is no local thing:
        that outlives the call."""
        if not self._draft.is_function:
            self._draft.bound.add(name)
        elif name not in self._module.bound:
            self._module.aliases.setdefault(name, full)

    def _note_import(self, level: int, module: str, names: tuple[str, ...]) -> None:
        draft = self._draft
        self._imports.setdefault((level, module), {}).update(dict.fromkeys(names))
        top, *parts = module.split(".")
        if level:
            top, parts = "", [top, *parts]
        # Names taken from a module are not got by way of the packages around it.
        draft.mentions.update(PART * bool(names) + part for part in parts if part)
        draft.mentions |= {top} - {""}
        foreign = level or module.partition(".")[0] not in sys.stdlib_module_names
        if not draft.is_function and (level or not _is_loaded(module, names)):
            draft.flags.add("loads")
        if (foreign or module == "__future__") and not draft.is_function:
            draft.flags.add("effect")  # what is told the compiler holds for all of the module

    def _change(self, node: ast.expr) -> None:
        """Notes that whoever holds the object of an expression may find it changed."""
        self._draft.changed += accesses(node)

    def _note_call(self, function: ast.expr) -> None:
        """Notes that something is called, inherited from, decorated by or set on at import."""
        root = access(function)[0]
        full = self._module.aliases.get(root)
        if full is None:
            if root and (root in self._module.bound or root not in BUILTINS):
                self._draft.flags.add("acts")
        elif full.partition(".")[0] not in _HARMLESS_MODULES:
            self._draft.flags.add("acts")


def _is_loaded(module: str, names: Iterable[str]) -> bool:
    """Whether an import of this, or of these names from it, finds all loaded in any process that
    is observed."""
    found = sys.modules.get(module) if module in ALWAYS_LOADED else None
    kinds = (type(getattr(found, name, None)) for name in names)
    return found is not None and not any(kind in (ModuleType, NoneType) for kind in kinds)


def _is_update(node: ast.expr) -> bool:
    """Whether it is ``x.__dict__.update``, which tells nothing of what was there."""
    return (
        isinstance(node, ast.Attribute)
        and node.attr == "update"
        and isinstance(node.value, ast.Attribute)
        and node.value.attr == "__dict__"
    )
