"""Whether edits that build on one another can make a replay differ from a run.

    python benchmarks/states.py [--minutes 10] [--seed 1] [--python PYTHON]
        PACKAGE SCRATCH SOURCE TESTS [-- ARGUMENTS OF PYTEST]

PACKAGE is an unpacked source distribution, SOURCE and TESTS are directories in it; it is copied to
SCRATCH and never touched. Where `mutants.py` changes one place of what a cold run recorded, here
one edit follows another, and the cache is the one that all states before have filled: by tests that
ran while others were replayed, and by runs of a part (a file, --lf, -x, -k), in another order or in
two workers. An edit removes or overrides a method, rebinds, decorates, moves or hides something,
patches it at import, by a hook or by an automatic fixture, adds, copies or removes a file, changes
a test or a byte of a data file. Sometimes all edits are undone, or an earlier state comes back. For
each state the suite runs plainly and with the cache; a test whose outcome differs is told with the
edits that led there, unless another plain run of that kind differs, too. The exit code is 1 if any
did.

Tests whose ids or outcomes differ between two plain runs do not count.
"""

from __future__ import annotations

import argparse
import ast
import builtins
import random
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from mutants import Contender, Suite

NOTHING = "lambda *a, **k: None"
_SPECIAL = (
    *("__eq__(self, o): return False", "__bool__(self): return False", "__len__(self): return 0"),
    *("__getattr__(self, n): return None", "__iter__(self): return iter(())"),
    *("__str__(self): return 'x'", "__contains__(self, o): return False"),
    *("__init_subclass__(cls, **k): cls.x = 1", "__new__(cls, *a, **k): return None"),
    *("__setattr__(self, n, v): pass", "__call__(self, *a, **k): return None"),
)
_OUTSIDE = (
    *("import warnings as w; w.simplefilter('error')", "import sys as s; s.setrecursionlimit(180)"),
    *("import os as o; o.environ.clear()", "import json as j; j.dumps = lambda *a, **k: 'x'"),
    *("import decimal as d; d.getcontext().prec = 3", "import time as t; t.time = lambda: 0"),
    *("import random as r; r.random = lambda: 0", "import builtins as b; b.sorted = list"),
)
_HOOKS = ("pytest_configure(config)", "pytest_runtest_setup(item)", "pytest_sessionstart(session)")
_SCOPES = ("function", "class", "module", "session")


class Edits:
    """Edits of a package; each method makes one, and tells what it did. Raises LookupError or
    IndexError where there is no place for it."""

    def __init__(self, root: Path, source: Path, tests: Path, seed: int) -> None:
        self.source, self.tests = source, tests
        self._root = root
        self._top = root / "src" if (root / "src").is_dir() else root
        self._chance = random.Random(seed)
        for path in (*self.files(source), *self.files(tests)):
            self._write(path, self._tree(path))  # so that an edit changes nothing besides
        self._first = self.content()
        names = (name for name in dir(type(self)) if name.startswith("edit_"))
        self.all: list[Callable[[], str]] = [getattr(self, name) for name in sorted(names)]

    def files(self, directory: Path) -> list[Path]:
        """The Python files below a directory."""
        return [path for path in sorted(directory.rglob("*.py")) if not _is_cache(path)]

    def content(self) -> dict[Path, bytes]:
        """The package as it is, without caches."""
        paths = (path for path in self._root.rglob("*") if path.is_file() and not _is_cache(path))
        return {path: path.read_bytes() for path in paths}

    def restore(self, content: dict[Path, bytes] | None = None) -> None:
        """Makes the package what it was, at first or when it had this content."""
        content = self._first if content is None else content
        present = self.content()
        for path in present.keys() - content.keys():
            path.unlink()
        for path, data in content.items():
            if present.get(path) != data:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)

    def _tree(self, path: Path) -> ast.Module:
        return ast.parse(path.read_bytes())

    def _write(self, path: Path, tree: ast.Module) -> None:
        path.write_text(ast.unparse(ast.fix_missing_locations(tree)) + "\n", encoding="utf-8")

    def _append(self, path: Path, text: str) -> str:
        before = path.read_text(encoding="utf-8") if path.exists() else ""
        path.write_text(f"{before}\n{text}\n", encoding="utf-8")
        return f"{path.relative_to(self._root)}: {text}"

    def _any(
        self, kind: type | tuple[type, ...], directory: Path | None = None
    ) -> tuple[Path, ast.Module, ast.AST]:
        files = self.files(directory or self.source)
        for path in self._chance.sample(files, len(files)):
            tree = self._tree(path)
            found = [node for node in ast.walk(tree) if isinstance(node, kind)]
            if found:
                return path, tree, self._chance.choice(found)
        raise LookupError(kind)

    def _said(self, path: Path, tree: ast.Module, what: str) -> str:
        self._write(path, tree)
        return f"{path.relative_to(self._root)}: {what}"

    def _target(self) -> tuple[str, str]:
        """A module, and something in it, or a method of something in it."""
        path = self._chance.choice(self.files(self.source))
        parts = path.relative_to(self._top).with_suffix("").parts
        tops = [one for one in self._tree(path).body if isinstance(one, _TOPS)]
        top = self._chance.choice(tops)
        methods = [one.name for one in top.body if isinstance(one, ast.FunctionDef)]
        inner = methods and isinstance(top, ast.ClassDef)
        name = f"{top.name}.{self._chance.choice(methods)}" if inner else top.name
        return ".".join(part for part in parts if part != "__init__"), name

    def _patch(self) -> str:
        module, name = self._target()
        owner, _, last = f"{module}.{name}".rpartition(".")
        by_name = f"import {module}\nsetattr({owner}, {last!r}, {NOTHING})"
        return self._chance.choice([f"import {module}\n{module}.{name} = {NOTHING}", by_name])

    def edit_method_removed(self) -> str:
        path, tree, node = self._any(ast.ClassDef)
        method = self._chance.choice([o for o in node.body if isinstance(o, ast.FunctionDef)])
        node.body = [one for one in node.body if one is not method] or [ast.Pass()]
        return self._said(path, tree, f"{node.name}.{method.name} removed")

    def edit_method_overridden(self) -> str:
        path, tree, node = self._any(ast.ClassDef)
        bases = {ast.unparse(base).rpartition(".")[2] for base in node.bases}
        classes = [o for f in self.files(self.source) for o in ast.walk(self._tree(f))]
        inherited = {
            method.name
            for one in classes
            if isinstance(one, ast.ClassDef) and one.name in bases
            for method in one.body
            if isinstance(method, ast.FunctionDef)
        }
        name = self._chance.choice(sorted(inherited))
        node.body += ast.parse(f"def {name}(self, *a, **k): return None").body
        return self._said(path, tree, f"{node.name}.{name} overridden")

    def edit_special_method(self) -> str:
        path, tree, node = self._any(ast.ClassDef)
        text = self._chance.choice(_SPECIAL)
        node.body += ast.parse(f"def {text}").body
        return self._said(path, tree, f"{node.name}: {text}")

    def edit_base_dropped(self) -> str:
        path, tree, node = self._any(ast.ClassDef)
        dropped = node.bases.pop(self._chance.randrange(len(node.bases)))
        return self._said(path, tree, f"{node.name} without {ast.unparse(dropped)}")

    def edit_return(self) -> str:
        path, tree, node = self._any(ast.Return)
        node.value = ast.Constant(None)
        return self._said(path, tree, f"line {node.lineno} returns None")

    def edit_condition(self) -> str:
        path, tree, node = self._any(ast.If)
        node.test = ast.UnaryOp(ast.Not(), node.test)
        return self._said(path, tree, f"condition in line {node.lineno} negated")

    def edit_assigned(self) -> str:
        path, tree, node = self._any(ast.Assign)
        node.value = ast.Constant(self._chance.choice([None, 0, "x"]))
        return self._said(path, tree, ast.unparse(node))

    def edit_decorated(self) -> str:
        path, tree, node = self._any(ast.FunctionDef)
        node.decorator_list.insert(0, ast.parse(f"lambda f: {NOTHING}", mode="eval").body)
        return self._said(path, tree, f"{node.name} decorated")

    def edit_moved(self) -> str:
        path, tree, node = self._any(ast.FunctionDef)
        where = tree.body.index(node)
        (path.parent / "moved_here.py").write_text(f"def {node.name}(*a, **k): return None\n")
        parts = (*path.parent.relative_to(self._top).parts, "moved_here")
        tree.body[where] = ast.parse(f"from {'.'.join(parts)} import {node.name}").body[0]
        return self._said(path, tree, f"{node.name} moved")

    def edit_rebound(self) -> str:
        path, tree, node = self._any(_TOPS)
        name = tree.body[tree.body.index(node)].name
        text = self._chance.choice(
            [f"{name} = {NOTHING}", f"globals()[{name!r}] = {NOTHING}", f"del {name}"]
        )
        return self._append(path, text)

    def edit_builtin_hidden(self) -> str:
        path, _, node = self._any(ast.Name)
        if not hasattr(builtins, node.id):
            raise LookupError(node.id)
        return self._append(path, f"{node.id} = {NOTHING}")

    def edit_patched_at_import(self) -> str:
        files = (*self.files(self.source), *self.files(self.tests))
        return self._append(self._chance.choice(files), self._patch())

    def edit_outside(self) -> str:
        files = (*self.files(self.source), *self.files(self.tests))
        return self._append(self._chance.choice(files), self._chance.choice(_OUTSIDE))

    def edit_hook(self) -> str:
        body = "\n    ".join(self._patch().splitlines())
        text = f"def {self._chance.choice(_HOOKS)}:\n    {body}"
        return self._append(self._chance.choice([self._root, self.tests]) / "conftest.py", text)

    def edit_automatic_fixture(self) -> str:
        text = (
            "import pytest, unittest.mock\n"
            f"@pytest.fixture(autouse=True, scope={self._chance.choice(_SCOPES)!r})\n"
            "def automatic():\n"
            f"    with unittest.mock.patch({'.'.join(self._target())!r}, {NOTHING}):\n"
            "        yield"
        )
        return self._append(self.tests / "conftest.py", text)

    def edit_library_hidden(self) -> str:
        _, _, node = self._any(ast.Import)
        name = node.names[0].name.partition(".")[0]
        if name not in sys.stdlib_module_names:
            raise LookupError(name)
        place = self._chance.choice([self.tests, self._top, self._root])
        return self._append(place / f"{name}.py", f"def __getattr__(name): return {NOTHING}")

    def edit_module_hidden(self) -> str:
        files = (*self.files(self.source), *self.files(self.tests))
        path = self._chance.choice([one for one in files if one.name != "__init__.py"])
        path.with_suffix("").mkdir()
        return self._append(path.with_suffix("") / "__init__.py", "")

    def edit_file_copied(self) -> str:
        path = self._chance.choice(self.files(self.tests))
        shutil.copy(path, path.with_name(f"{path.stem}_copied.py"))
        return f"{path.relative_to(self._root)} copied"

    def edit_file_removed(self) -> str:
        path = self._chance.choice([*self.files(self.source), *self.files(self.tests)])
        path.unlink()
        return f"{path.relative_to(self._root)} removed"

    def edit_data(self) -> str:
        paths = [p for p in self.content() if p.suffix not in _NO_DATA and p.stat().st_size]
        path = self._chance.choice(sorted(paths))
        content = bytearray(path.read_bytes())
        place = self._chance.randrange(len(content))
        content[place] = ord("7") if content[place] != ord("7") else ord("3")
        path.write_bytes(content)
        return f"{path.relative_to(self._root)}: byte {place}"

    def edit_statement_removed(self) -> str:
        path, tree, node = self._any((ast.Expr, ast.Assign, ast.AugAssign, ast.Raise, ast.Yield))
        blocks = [o.body for o in ast.walk(tree) if isinstance(getattr(o, "body", None), list)]
        body = next((one for one in blocks if node in one), [])
        body[body.index(node)] = ast.Pass()
        return self._said(path, tree, f"{ast.unparse(node):.60} removed")

    def edit_default(self) -> str:
        path, tree, node = self._any(ast.arguments)
        self._chance.choice(node.defaults)  # none: IndexError
        node.defaults[-1] = ast.Constant(self._chance.choice([None, 0, "x"]))
        return self._said(path, tree, f"default in ({ast.unparse(node)})")

    def edit_order(self) -> str:
        path, tree, node = self._any((ast.Module, ast.ClassDef))
        place = self._chance.randrange(len(node.body) - 1)
        node.body[place : place + 2] = reversed(node.body[place : place + 2])
        return self._said(path, tree, f"statements {place} and {place + 1} swapped")

    def edit_fixture(self) -> str:
        path, tree, node = self._any((ast.Return, ast.Yield), self.tests)
        node.value = ast.Constant(self._chance.choice([None, 0, "x"]))
        return self._said(path, tree, f"line {node.lineno} gives {node.value.value!r}")

    def edit_test(self) -> str:
        path, tree, node = self._any(ast.Constant, self.tests)
        node.value = node.value + "x" if isinstance(node.value, str) else 7
        return self._said(path, tree, f"line {node.lineno}: {node.value!r:.40}")


_WORKERS = ("-n", "2")
_NO_DATA = {".py", ".toml", ".cfg", ".ini", ".md", ".rst", ".lock"}
_TOPS = (ast.FunctionDef, ast.ClassDef)


def _is_cache(path: Path) -> bool:
    return not {"__pycache__", ".pytest_cache"}.isdisjoint(path.parts)


def states(edits: Edits, chance: random.Random) -> Iterator[tuple[str, ...]]:
    """Makes one state after the other, and tells the edits that led there."""
    trail: tuple[str, ...] = ()
    seen: dict[tuple[str, ...], dict[Path, bytes]] = {}
    while True:
        if seen and chance.random() < 0.15:
            trail = chance.choice(list(seen))
            edits.restore(seen[trail])
            yield trail
            continue
        if not trail or len(trail) > 3 or chance.random() < 0.45:
            edits.restore()
            trail = ()
        try:
            trail = (*trail, chance.choice(edits.all)())
        except (LookupError, ValueError, FileExistsError):
            continue
        seen[trail] = edits.content()
        yield trail


Outcomes: TypeAlias = Mapping[str, tuple[str, bool]]
"""Outcomes by tests, and whether each was replayed."""


@dataclass(frozen=True)
class Way:
    """A way to run the suite: arguments of pytest, and variables."""

    arguments: tuple[str, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_whole(self) -> bool:
        """Whether all tests run."""
        return self.arguments in ((), _WORKERS)

    def __str__(self) -> str:
        return " ".join(("pytest", *self.arguments, *map(str, self.variables.items())))


def ways(edits: Edits, chance: random.Random, *, workers: bool) -> Iterator[Way]:
    """How to run one state: in parts, or not; then as a whole."""
    files = [str(one) for one in edits.files(edits.tests) if one.stem.startswith("test")]
    names = [name for one in files for name in Path(one).stem.split("_")]
    parts = [("-x",), ("--lf",), ("-k", chance.choice(names)), (chance.choice(files),)]
    while chance.random() < 0.35:
        yield Way(chance.choice(parts))
    variables = {"ORDER": str(chance.randrange(5))} if chance.random() < 0.25 else {}
    yield Way(_WORKERS if workers and chance.random() < 0.25 else (), variables)


def main() -> int:
    """Runs and reports; 1 if an outcome differed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("package", type=Path)
    parser.add_argument("scratch", type=Path)
    parser.add_argument("source")
    parser.add_argument("tests")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--workers", action="store_true", help="use pytest-xdist, too")
    parser.add_argument("arguments", nargs="*", help="for pytest, e.g. tests to leave out")
    given = parser.parse_args()
    arguments = [*(("-p", "xdist") if given.workers else ()), *given.arguments]
    suite = Suite(given.package, given.scratch / "states", given.python, arguments)
    ours = Contender(
        "taskcache",
        given.python,
        ("-p", "pytest_taskcache.plugin", "--cache-tests=all"),
        ".pytest_cache",
        deselects=False,
    )
    edits = Edits(suite.root, suite.root / given.source, suite.root / given.tests, given.seed)

    def run(way: Way, contender: Contender | None = None) -> Outcomes:
        return suite.run(contender, more=way.arguments, **way.variables).outcomes

    first, shuffled = run(Way()), Way(variables={"ORDER": "0"})
    others = run(Way()), run(shuffled)
    stable = {name for name in first if all(one.get(name) == first[name] for one in others)}
    run(Way(), ours)
    replayed = [sum(hit for _, hit in run(way, ours).values()) for way in (Way(), shuffled)]
    print(f"{len(first)} tests, {len(stable)} stable, {replayed} replayed", flush=True)
    chance, deadline = random.Random(given.seed), time.monotonic() + given.minutes * 60
    tried = changed = differing = hits = passed = 0
    seen: set[tuple[str, ...]] = set()
    for trail in states(edits, chance):
        if time.monotonic() > deadline:
            break
        tried += 1
        for way in ways(edits, chance, workers=given.workers):
            plain, cached = run(way), run(way, ours)
            told = stable if way.is_whole else stable & plain.keys() & cached.keys()
            wrong = differing_in(told, plain, cached)
            if wrong and not wrong & differing_in(told, plain, run(way)):
                differing += 1
                print(f"DIFFERS in {len(wrong)} tests, e.g. {min(wrong)} ({way}); after")
                print(*(f"    {each}" for each in trail), sep="\n", flush=True)
                shutil.copytree(suite.root, given.scratch / f"differing{differing}")
        changed += plain != first
        if trail in seen:
            hits += sum(hit for _, hit in cached.values())
            passed += sum(one == "passed" for one, _ in plain.values())
        seen.add(trail)
    print(f"{hits} of {passed} replayed in states that came back")
    print(f"{tried} states, {changed} with other outcomes, {differing} in which a replay differs")
    return 1 if differing else 0


def differing_in(stable: Iterable[str], plain: Outcomes, other: Outcomes) -> set[str]:
    """The stable tests whose outcomes differ."""
    return {name for name in stable if plain.get(name, " ")[0] != other.get(name, " ")[0]}


if __name__ == "__main__":
    sys.exit(main())
