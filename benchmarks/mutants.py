"""Whether a changed source or data file can pass for an unchanged one, on a real test suite.

    python benchmarks/mutants.py PACKAGE SCRATCH [--count 40] [--minutes 10] [--seed 1]

PACKAGE is an unpacked source distribution with its tests; it is copied to SCRATCH and never
touched. One cold run records all outcomes. Then, for one mutant after the other (a constant, an
operator, a condition, a return value, a statement, a byte of a data file), the suite runs
plainly, and, where that changed any outcome, once more with a copy of the recorded cache. A
**stale pass** is a test that fails plainly but was replayed as passed: there must be none. Also
told is how many tests ran again against how many changed their outcome, and the time taken
against a plain run. The exit code is 1 if anything was stale.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

_PLUGIN = """
import json, os

_found = {}

def pytest_runtest_logreport(report):
    outcome, replayed = _found.get(report.nodeid, ("passed", True))
    if report.outcome != "passed":
        outcome = report.outcome if not hasattr(report, "wasxfail") else "xfailed"
    _found[report.nodeid] = (outcome, replayed and getattr(report, "taskcache_replayed", False))

def pytest_sessionfinish():
    with open(os.environ["OUTCOMES"], "w") as file:
        json.dump(_found, file)
"""
_COMPARISONS: Mapping[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Lt: ast.GtE,
    ast.GtE: ast.Lt,
    ast.Gt: ast.LtE,
    ast.LtE: ast.Gt,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
_ARITHMETIC: Mapping[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
}
_DATA = {".txt", ".json", ".jsonl", ".csv", ".md", ".yaml", ".yml", ".toml", ".html", ".cfg"}


@dataclass(frozen=True)
class Mutant:
    """One changed file: its path, which rule changed it, where, and its new bytes."""

    path: Path
    rule: str
    line: int
    content: bytes


@dataclass(frozen=True)
class Ran:
    """One run of the suite: each test's outcome and whether it was replayed; seconds."""

    outcomes: Mapping[str, tuple[str, bool]]
    seconds: float


@dataclass(frozen=True)
class Verdict:
    """What one killing mutant showed."""

    changed: int
    again: int
    tests: int
    stale: tuple[str, ...]
    ratio: float


class Suite:
    """A copy of a package in which its tests are run."""

    def __init__(self, package: Path, scratch: Path, python: str, arguments: list[str]) -> None:
        self.root = scratch / "package"
        shutil.rmtree(scratch, ignore_errors=True)
        ignored = shutil.ignore_patterns(".git", ".pytest_cache", ".taskcache", "__pycache__")
        shutil.copytree(package, self.root, ignore=ignored)
        plugins = scratch / "plugins"
        plugins.mkdir()
        (plugins / "outcome_recorder.py").write_text(_PLUGIN)
        self._outcomes = scratch / "outcomes.json"
        self._recorded = scratch / "recorded"
        self._cache = self.root / ".pytest_cache"
        source = self.root / "src" if (self.root / "src").is_dir() else self.root
        self._environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")},
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "PYTHONPATH": os.pathsep.join((str(source), str(plugins))),
            "OUTCOMES": str(self._outcomes),
        }
        self._command = [python, "-m", "pytest", "-q", "-p", "outcome_recorder", *arguments]

    def run(self, *, cached: bool, limit: float = 900, bytecode: bool = False) -> Ran:
        """Runs the suite. A test that did not finish within the limit (seconds) has no outcome."""
        self._outcomes.unlink(missing_ok=True)
        environment = dict(self._environment)
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        if not bytecode:
            environment["PYTHONDONTWRITEBYTECODE"] = "1"
        options = ["-p", "pytest_taskcache.plugin", "--cache-tests=all"] if cached else []
        began = time.perf_counter()
        try:
            subprocess.run(
                [*self._command, *options],
                cwd=self.root,
                env=environment,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=limit,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return Ran({}, limit)
        seconds = time.perf_counter() - began
        found = json.loads(self._outcomes.read_text()) if self._outcomes.exists() else {}
        return Ran({name: (one, bool(hit)) for name, (one, hit) in found.items()}, seconds)

    def record(self) -> Ran:
        """A cold run, whose cache every mutant starts from."""
        shutil.rmtree(self._cache, ignore_errors=True)
        ran = self.run(cached=True)
        shutil.copytree(self._cache, self._recorded)
        return ran

    def restore(self) -> None:
        """Puts the recorded cache in place."""
        shutil.rmtree(self._cache, ignore_errors=True)
        shutil.copytree(self._recorded, self._cache)

    def mutants(self, seed: int) -> Iterator[Mutant]:
        """Mutants of sources and data files, the rules in turn, otherwise in random order."""
        chance = random.Random(seed)
        by_rule: dict[str, list[Mutant]] = {}
        for path in sorted(self.root.rglob("*")):
            parts = path.relative_to(self.root).parts
            if not path.is_file() or any(part.startswith(".") for part in parts):
                continue
            tests = any(part.startswith("test") for part in parts)
            if path.suffix == ".py" and not tests and parts[0] not in ("docs", "benchmarks"):
                found = list(_of_source(path))
            elif path.suffix in _DATA and len(parts) > 1 and path.stat().st_size:
                found = [_of_data(path, chance) for _ in range(3)]
            else:
                continue
            for mutant in found:
                by_rule.setdefault(mutant.rule, []).append(mutant)
        for mutants in by_rule.values():
            chance.shuffle(mutants)
        while by_rule:
            for rule in list(by_rule):
                yield by_rule[rule].pop()
                if not by_rule[rule]:
                    del by_rule[rule]


def _of_data(path: Path, chance: random.Random) -> Mutant:
    content = bytearray(path.read_bytes())
    place = chance.randrange(len(content))
    content[place] = ord("7") if content[place] != ord("7") else ord("3")
    return Mutant(path, "data", content[:place].count(b"\n") + 1, bytes(content))


def _of_source(path: Path) -> Iterator[Mutant]:
    text = path.read_text(encoding="utf-8")
    lines = text.encode().splitlines(keepends=True)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line))
    data = text.encode()
    for node, rule, new in _changes(ast.parse(text)):
        begin = starts[node.lineno - 1] + node.col_offset
        end = starts[(node.end_lineno or 0) - 1] + (node.end_col_offset or 0)
        content = data[:begin] + new.encode() + data[end:]
        try:
            ast.parse(content)
        except SyntaxError:
            continue
        yield Mutant(path, rule, node.lineno, content)


def _changes(tree: ast.Module) -> Iterator[tuple[ast.expr | ast.stmt, str, str]]:
    """Nodes, the rule that changes them, and their new text."""
    pending: list[ast.AST] = [tree]
    while pending:
        node = pending.pop()
        match node:
            case ast.JoinedStr():
                continue
            case ast.Expr(value=ast.Constant()):
                continue  # a docstring
            case ast.Constant(value=bool() as value):
                yield node, "boolean", str(not value)
            case ast.Constant(value=int() as value):
                yield node, "number", f"({value + 1})"
            case ast.Constant(value=str() as value) if value:
                yield node, "text", repr(value[:-1] + ("x" if value[-1] != "x" else "y"))
            case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in _COMPARISONS:
                changed = ast.Compare(left, [_COMPARISONS[type(op)]()], [right])
                yield node, "comparison", f"({ast.unparse(changed)})"
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
                changed_operation = ast.BinOp(left, _ARITHMETIC[type(op)](), right)
                yield node, "arithmetic", f"({ast.unparse(changed_operation)})"
            case ast.BoolOp(op=op, values=values):
                other = ast.Or() if isinstance(op, ast.And) else ast.And()
                yield node, "boolean", f"({ast.unparse(ast.BoolOp(other, values))})"
            case ast.If(test=test) | ast.While(test=test) | ast.IfExp(test=test):
                yield test, "condition", f"(not ({ast.unparse(test)}))"
            case ast.Return(value=ast.expr()):
                yield node, "return", "return None"
            case ast.Assign() | ast.AugAssign() | ast.Expr():
                yield node, "statement", "pass"
        pending += ast.iter_child_nodes(node)


def judge(baseline: Ran, plain: Ran, warm: Ran, storable: frozenset[str]) -> Verdict:
    """What a mutant's plain and warm run show."""
    changed = {
        name
        for name, (outcome, _) in baseline.outcomes.items()
        if plain.outcomes.get(name, ("missing", False))[0] != outcome
    }
    replayed = {name for name, (_, hit) in warm.outcomes.items() if hit}
    stale = sorted(name for name in replayed & changed if name in plain.outcomes)
    again = len(storable - replayed)
    return Verdict(len(changed), again, len(storable), tuple(stale), warm.seconds / plain.seconds)


def main() -> int:
    """Runs and reports; 1 if anything was stale."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("package", type=Path)
    parser.add_argument("scratch", type=Path)
    parser.add_argument("--count", type=int, default=40, help="killing mutants to find")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--only", default="", help="the rule to use alone, e.g. data")
    parser.add_argument("arguments", nargs="*", help="for pytest, e.g. tests to leave out")
    given = parser.parse_args()
    suite = Suite(given.package, given.scratch / "mutants", given.python, given.arguments)
    suite.run(cached=False, bytecode=True)
    baseline = suite.run(cached=False)
    repeated = suite.run(cached=False)
    unstable = {
        name for name in baseline.outcomes if repeated.outcomes.get(name) != baseline.outcomes[name]
    }
    baseline = Ran(
        {name: one for name, one in baseline.outcomes.items() if name not in unstable},
        baseline.seconds,
    )
    cold = suite.record()
    warm = suite.run(cached=True)
    storable = frozenset(name for name, (_, hit) in warm.outcomes.items() if hit)
    print(f"{len(baseline.outcomes)} tests, {len(storable)} stored, {len(unstable)} unstable")
    print(f"cold / plain {cold.seconds / baseline.seconds:.2f}, ", end="")
    print(f"warm / plain {warm.seconds / baseline.seconds:.2f}")
    verdicts: list[Verdict] = []
    tried = 0
    deadline = time.monotonic() + given.minutes * 60
    for mutant in suite.mutants(given.seed):
        if len(verdicts) >= given.count or time.monotonic() > deadline:
            break
        if given.only and mutant.rule != given.only:
            continue
        tried += 1
        original, stat = mutant.path.read_bytes(), mutant.path.stat()
        mutant.path.write_bytes(mutant.content)
        try:
            limit = 4 * baseline.seconds + 20
            plain = suite.run(cached=False, limit=limit)
            if not plain.outcomes or all(
                plain.outcomes.get(name, ("missing", False))[0] == outcome
                for name, (outcome, _) in baseline.outcomes.items()
            ):
                continue
            suite.restore()
            verdict = judge(baseline, plain, suite.run(cached=True, limit=limit), storable)
        finally:
            mutant.path.write_bytes(original)
            os.utime(mutant.path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        verdicts.append(verdict)
        where = f"{mutant.path.relative_to(suite.root)}:{mutant.line}"
        print(
            f"{mutant.rule:<10} {where:<45} changed {verdict.changed:>4}, "
            f"ran {verdict.again:>4}, time / plain {verdict.ratio:.2f}",
            *(f"\n  STALE {name}" for name in verdict.stale),
            flush=True,
        )
    return _report(verdicts, tried)


def _report(verdicts: list[Verdict], tried: int) -> int:
    if not verdicts:
        print(f"none of {tried} mutants changed an outcome")
        return 0
    tests = max(verdicts[0].tests, 1)
    changed = statistics.mean(one.changed for one in verdicts) / tests
    again = statistics.mean(one.again for one in verdicts) / tests
    stale = sum(len(one.stale) for one in verdicts)
    slower = sum(one.ratio > 1 for one in verdicts)
    print(
        f"{len(verdicts)} killing mutants of {tried}: {stale} stale passes; changed {changed:.1%} "
        f"of the tests, ran {again:.1%} (median "
        f"{statistics.median(one.again for one in verdicts) / tests:.1%}); time / plain "
        f"{statistics.median(one.ratio for one in verdicts):.2f} (median), "
        f"slower than plain {slower} times"
    )
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
