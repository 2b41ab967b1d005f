"""After an edit such as people make: does a run give what a plain run gives, and at what cost?

    python benchmarks/edits.py [--count 20] [--seed 1] [--rounds 2] PACKAGE SCRATCH
        [-- ARGUMENTS OF PYTEST]

PACKAGE is an unpacked source distribution with its tests; it is copied to SCRATCH and never
touched. One cold run records all outcomes. Then, for one edit after the other (of a function's
body, a constant, a new function, a comment, a conftest, a test's body, a list of parameters, a
data file, in turns; which one is chance), the suite runs plainly and with a copy of the recorded
cache, by turns, and all outcomes are compared, test by test. Told are how many outcomes the edit
changed, how many tests ran again, their share of the tests' time, and the processor time (user and
system, the least of the rounds) over that of the plain run. The exit code is 1 if any outcome
differed, or a test was missing or too many. What runs is known on Python 3.12 and later alone.
"""

from __future__ import annotations

import argparse
import ast
import os
import random
import sys
from collections.abc import Callable, Iterator
from itertools import cycle, islice
from pathlib import Path

from mutants import Contender, Mutant, Ran, Suite, Used, changed_by, of_data, of_source

_FUNCTION = "\n\ndef edited():\n    return 1\n"
_CONFTEST = {
    "constant": "\n\n_EDITED = 1\n",
    "function": _FUNCTION,
    "fixture": f"\n\nimport pytest\n\n\n@pytest.fixture{_FUNCTION[1:]}",
    "automatic fixture": f"\n\nimport pytest\n\n\n@pytest.fixture(autouse=True){_FUNCTION[1:]}",
    "hook": "\n\ndef pytest_runtest_setup(item):\n    item.edited = 1\n",
}
_CONSTANTS = ("number", "text", "boolean")


class Edits:
    """The edits of a package, each by chance."""

    def __init__(self, root: Path, used: Used, seed: int) -> None:
        self._chance = random.Random(seed)
        self._lines = used.lines or {}
        found = map(Path, sorted(self._lines))  # templates, and what is in archives, included
        ran = [path for path in found if path.suffix == ".py" and path.is_file()]
        conftests = [path for path in ran if path.name == "conftest.py"]
        parts = {path: path.relative_to(root).parts for path in ran if path not in conftests}
        self._tests = [p for p in parts if any(part.startswith("test") for part in parts[p])]
        self._sources = [p for p in parts if p not in self._tests]
        self._conftests = conftests or sorted({p.parent / "conftest.py" for p in self._tests})
        opened = [path for path in map(Path, sorted(used.opened)) if path.is_file()]
        self._data = [p for p in opened if p.suffix not in (".py", ".pyc") and p.parent != root]

    def __iter__(self) -> Iterator[Mutant]:
        """Without end, the kinds in turns; one that the package has nothing for is left out."""
        kinds: list[Callable[[], Mutant]] = [
            lambda: self._mutant("body", self._sources),
            lambda: self._mutant("constant", self._sources),
            lambda: self._with_more("new function", self._sources, _FUNCTION),
            self._comment,
            self._conftest,
            lambda: self._mutant("test body", self._tests),
        ]
        self._lists = [(path, node) for path in self._tests for node in _lists(path)]
        kinds += [self._parameters] if self._lists else []
        kinds += [lambda: of_data(self._chance.choice(self._data), self._chance)] * bool(self._data)
        for make in cycle(kinds):
            yield make()

    def _mutant(self, kind: str, paths: list[Path]) -> Mutant:
        """A change of something that ran: of a constant, of anything in a test, else of code."""
        while True:
            path = self._chance.choice(paths)
            functions = [n for n in ast.walk(_tree(path)) if isinstance(n, ast.FunctionDef)]
            bodies = [range(n.body[0].lineno, (n.end_lineno or 0) + 1) for n in functions]
            found = [
                each
                for each in of_source(path, self._lines[str(path)])
                if kind == "test body" or (each.rule in _CONSTANTS) is (kind == "constant")
                if kind == "constant" or any(each.line in body for body in bodies)
            ]
            if found:
                each = self._chance.choice(found)
                return Mutant(path, kind, each.line, each.content)

    def _with_more(self, kind: str, paths: list[Path], text: str) -> Mutant:
        path = self._chance.choice(paths)
        content = path.read_bytes() if path.exists() else b""
        return Mutant(path, kind, content.count(b"\n") + 1, content + text.encode())

    def _comment(self) -> Mutant:
        path = self._chance.choice(self._sources)
        lines = path.read_bytes().splitlines(keepends=True)
        place = self._chance.choice([n.end_lineno or 0 for n in _tree(path).body] or [0])
        content = b"".join([*lines[:place], b"\n# edited\n", *lines[place:]])
        return Mutant(path, "comment", place + 1, content)

    def _conftest(self) -> Mutant:
        what = self._chance.choice(list(_CONFTEST))
        return self._with_more(f"conftest, {what}", self._conftests, _CONFTEST[what])

    def _parameters(self) -> Mutant:
        """One element less, or the first once more."""
        path, node = self._chance.choice(self._lists)
        lines = path.read_bytes().splitlines(keepends=True)
        start = sum(map(len, lines[: node.lineno - 1])) + node.col_offset
        end = sum(map(len, lines[: (node.end_lineno or 0) - 1])) + (node.end_col_offset or 0)
        values = list(node.elts)
        if self._chance.random() < 0.5:
            del values[self._chance.randrange(len(values))]
        else:
            values.append(values[0])
        data, new = b"".join(lines), ast.unparse(ast.List(values, ast.Load())).encode()
        return Mutant(path, "parameters", node.lineno, data[:start] + new + data[end:])


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_bytes())


def _lists(path: Path) -> Iterator[ast.List | ast.Tuple]:
    """The lists of parameters in a file that have several."""
    for node in ast.walk(_tree(path)):
        match node:
            case ast.Call(func=ast.Attribute(attr="parametrize"), args=[_, values, *_]):
                if isinstance(values, (ast.List, ast.Tuple)) and len(values.elts) > 1:
                    yield values


def least(runs: list[Ran]) -> float:
    return min(run.processor for run in runs)


def tried(edit: Mutant, suite: Suite, cache: Contender, baseline: Ran, rounds: int) -> list[str]:
    """Makes an edit, runs, tells, and takes it back: each test whose outcome was another one."""
    stat = edit.path.stat() if edit.path.exists() else None
    original = edit.path.read_bytes() if stat else b""
    limit = 3 * baseline.seconds + 20
    edit.path.write_bytes(edit.content)
    plain, warm = [], []
    for _ in range(rounds):
        plain.append(suite.run(bytecode=True, limit=limit))
        suite.restore(cache)
        warm.append(suite.run(cache, bytecode=True, limit=2 * limit))
    edit.path.write_bytes(original)
    if stat is None:
        edit.path.unlink()
    else:
        os.utime(edit.path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    tests, missing = plain[0].outcomes, ("missing", False)
    steady = [name for name in tests if plain[-1].outcomes.get(name) == tests[name]]
    found = [(name, run.outcomes.get(name, missing)[0]) for run in warm for name in steady]
    wrong = [f"{name} {one}, not {tests[name][0]}" for name, one in found if one != tests[name][0]]
    wrong += [f"{name} too many" for name in warm[0].outcomes.keys() - tests.keys()]
    again = [name for name in tests if not warm[0].outcomes.get(name, missing)[1]]
    took = plain[0].durations
    share = sum(took.get(name, 0) for name in again) / (sum(took.values()) or 1)
    print(
        f"| {edit.rule} | {edit.path.relative_to(suite.root)}:{edit.line} "
        f"| {len(changed_by(plain[0], baseline))} | {len(again)} / {len(tests)} | {share:.0%} "
        f"| {least(warm) / least(plain):.2f} |",
        *(f"\n  WRONG {each}" for each in wrong),
        flush=True,
    )
    return wrong


def main() -> int:
    """Runs and reports; 1 if any outcome was another one."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("package", type=Path)
    parser.add_argument("scratch", type=Path)
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("arguments", nargs="*", help="for pytest")
    given = parser.parse_args()
    options = ("-p", "pytest_taskcache.plugin", "--cache-tests=all")
    cache = Contender("taskcache", sys.executable, options, ".pytest_cache", False)
    suite = Suite(given.package, given.scratch / "edits", sys.executable, given.arguments)
    used, rounds = suite.used(), range(given.rounds)
    plain = [suite.run(bytecode=True) for _ in rounds]
    cold = least([suite.record(cache, bytecode=True) for _ in rounds]) / least(plain)
    warm = least([suite.run(cache, bytecode=True) for _ in rounds]) / least(plain)
    print(f"{len(plain[0].outcomes)} tests, {least(plain):.2f} s, cold {cold:.2f}, warm {warm:.2f}")
    print("\n| edit | where | outcomes changed | ran again | of the time | over plain |")
    print("|---|---|---|---|---|---|", flush=True)
    edits = islice(Edits(suite.root, used, given.seed), given.count)
    wrong = [tried(edit, suite, cache, plain[0], given.rounds) for edit in edits]
    return 1 if any(wrong) else 0


if __name__ == "__main__":
    sys.exit(main())
