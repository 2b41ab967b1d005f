"""Whether a changed source or data file can pass for an unchanged one, on a real test suite.

    python benchmarks/mutants.py [--count 40] [--minutes 10] [--seed 1] [--testmon PYTHON]
        PACKAGE SCRATCH [-- ARGUMENTS OF PYTEST]

PACKAGE is an unpacked source distribution with its tests; it is copied to SCRATCH and never
touched. One cold run records all outcomes. Then, for one mutant after the other (a constant, an
operator, a condition, a return value, a statement, a byte of a data file), the suite runs
plainly, and, where that changed any outcome, once more with a copy of the recorded cache. A
**stale pass** is a test that fails plainly but was replayed as passed: there must be none. Also
told is how many tests ran again against how many changed their outcome, their share by the tests'
own time, and the time taken against a plain run. The exit code is 1 if anything was stale.

Only what a plain run uses is changed: lines that ran (known on Python 3.12 and later) and data
files that were opened; the rules take turns, all else is chance. PYTHON, an interpreter with
pytest-testmon and whatever the package needs, makes that plugin run beside, on the same mutants.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

_PLUGIN = """
import json, os, random, sys

_found = {}
_durations = {}
_used = {"lines": {}, "opened": {}}

if "USED" in os.environ:
    root = os.environ["ROOT"] + os.sep

    def _note_open(event, arguments):
        if event == "open" and isinstance(arguments[0], str):
            path = os.path.abspath(arguments[0])
            if path.startswith(root):
                _used["opened"][path] = None

    def _note_line(code, line):
        if code.co_filename.startswith(root):
            _used["lines"].setdefault(code.co_filename, {})[line] = None
        return sys.monitoring.DISABLE

    sys.addaudithook(_note_open)
    if sys.version_info >= (3, 12):
        sys.monitoring.use_tool_id(3, "mutants")
        sys.monitoring.register_callback(3, sys.monitoring.events.LINE, _note_line)
        sys.monitoring.set_events(3, sys.monitoring.events.LINE)

if "ORDER" in os.environ:
    _order = random.Random(os.environ["ORDER"])

    def pytest_collection_modifyitems(items):
        _order.shuffle(items)

def pytest_runtest_logreport(report):
    _durations[report.nodeid] = _durations.get(report.nodeid, 0) + report.duration
    outcome, replayed = _found.get(report.nodeid, ("passed", True))
    if report.outcome != "passed":
        outcome = report.outcome if not hasattr(report, "wasxfail") else "xfailed"
    _found[report.nodeid] = (outcome, replayed and getattr(report, "taskcache_replayed", False))

def pytest_sessionfinish(session):
    if hasattr(session.config, "workerinput"):
        return
    with open(os.environ["OUTCOMES"], "w") as file:
        json.dump({"outcomes": _found, "durations": _durations}, file)
    if "USED" in os.environ:
        lines = {path: list(found) for path, found in _used["lines"].items()}
        with open(os.environ["USED"], "w") as file:
            json.dump({"lines": lines, "opened": list(_used["opened"])}, file)
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
_SHOWN = 5


@dataclass(frozen=True)
class Mutant:
    """One changed file: its path, which rule changed it, where, and its new bytes."""

    path: Path
    rule: str
    line: int
    content: bytes


@dataclass(frozen=True)
class Ran:
    """One run of the suite: each test's outcome and whether it was replayed, and the seconds that
    it took; the seconds of the run, and those of processors (user and system)."""

    outcomes: Mapping[str, tuple[str, bool]]
    durations: Mapping[str, float]
    seconds: float
    processor: float


@dataclass(frozen=True)
class Contender:
    """A way to leave out tests: its name, interpreter and options, and what it keeps in the
    package. One that ``deselects`` does not report the tests it leaves out."""

    name: str
    python: str
    options: tuple[str, ...]
    kept: str
    deselects: bool


@dataclass(frozen=True)
class Used:
    """What a plain run used: lines that ran, by file (None where that is not known), and files
    that were opened."""

    lines: Mapping[str, frozenset[int]] | None
    opened: frozenset[str]


@dataclass(frozen=True)
class Verdict:
    """What one killing mutant showed."""

    rule: str
    changed: int
    again: int
    again_time: float
    tests: int
    stale: tuple[str, ...]
    ratio: float


class Suite:
    """A copy of a package in which its tests are run."""

    def __init__(self, package: Path, scratch: Path, python: str, arguments: list[str]) -> None:
        self.root = scratch.resolve() / "package"
        shutil.rmtree(scratch, ignore_errors=True)
        ignored = shutil.ignore_patterns(".git", ".pytest_cache", ".taskcache", "__pycache__")
        shutil.copytree(package, self.root, ignore=ignored)
        plugins = scratch / "plugins"
        plugins.mkdir()
        (plugins / "outcome_recorder.py").write_text(_PLUGIN)
        self._scratch = scratch
        self._outcomes = scratch / "outcomes.json"
        source = self.root / "src" if (self.root / "src").is_dir() else self.root
        path = filter(None, [os.environ.get("PYTHONPATH")])
        self._environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "PYTHON"))},
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "PYTHONPATH": os.pathsep.join((str(source), str(plugins.resolve()), *path)),
            "OUTCOMES": str(self._outcomes.resolve()),
        }
        self._python = python
        self._arguments = ["-m", "pytest", "-q", "-p", "outcome_recorder", *arguments]

    def run(
        self,
        contender: Contender | None = None,
        *,
        limit: float = 900,
        bytecode: bool = False,
        more: tuple[str, ...] = (),
        **environment: str,
    ) -> Ran:
        """Runs the suite, plainly or with a contender, with ``more`` arguments. A test that did not
        finish within the limit (seconds) has no outcome."""
        self._outcomes.unlink(missing_ok=True)
        environment = {**self._environment, **environment}
        if not bytecode:
            environment["PYTHONDONTWRITEBYTECODE"] = "1"
        python = self._python if contender is None else contender.python
        options = () if contender is None else contender.options
        began, used = time.perf_counter(), _processor()
        try:
            subprocess.run(
                [python, *self._arguments, *options, *more],
                cwd=self.root,
                env=environment,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=limit,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return Ran({}, {}, limit, _processor() - used)
        seconds, processor = time.perf_counter() - began, _processor() - used
        if not self._outcomes.exists():
            return Ran({}, {}, seconds, processor)
        found = json.loads(self._outcomes.read_text())
        outcomes = {name: (one, bool(hit)) for name, (one, hit) in found["outcomes"].items()}
        return Ran(outcomes, found["durations"], seconds, processor)

    def used(self) -> Used:
        """What a plain run uses."""
        kept = self._scratch / "used.json"
        self.run(bytecode=True, ROOT=str(self.root), USED=str(kept.resolve()))
        found = json.loads(kept.read_text())
        lines = {path: frozenset(lines) for path, lines in found["lines"].items()}
        return Used(lines or None, frozenset(found["opened"]))

    def record(self, contender: Contender, *, bytecode: bool = False) -> Ran:
        """A cold run, whose cache every mutant starts from."""
        self._remove(self.root / contender.kept)
        self._remove(self._scratch / f"recorded_{contender.name}")
        ran = self.run(contender, bytecode=bytecode)
        self._copy(self.root / contender.kept, self._scratch / f"recorded_{contender.name}")
        return ran

    def restore(self, contender: Contender) -> None:
        """Puts the recorded cache in place."""
        self._remove(self.root / contender.kept)
        self._copy(self._scratch / f"recorded_{contender.name}", self.root / contender.kept)

    @staticmethod
    def _remove(path: Path) -> None:
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)

    @staticmethod
    def _copy(source: Path, target: Path) -> None:
        shutil.copytree(source, target) if source.is_dir() else shutil.copy2(source, target)

    def mutants(self, seed: int, used: Used) -> Iterator[Mutant]:
        """Mutants of sources and data files, the rules in turn, otherwise in random order."""
        chance = random.Random(seed)
        by_rule: dict[str, list[Mutant]] = {}
        for path in sorted(self.root.rglob("*")):
            parts = path.relative_to(self.root).parts
            if not path.is_file() or any(part.startswith((".", "__pycache__")) for part in parts):
                continue
            tests = any(part.startswith("test") for part in parts)
            if path.suffix == ".py":
                lines = None if used.lines is None else used.lines.get(str(path), frozenset())
                found = [] if tests else list(of_source(path, lines))
            elif str(path) in used.opened and len(parts) > 1 and path.stat().st_size:
                found = [of_data(path, chance) for _ in range(3)]
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


def _processor() -> float:
    """Seconds that child processes took of processors."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def of_data(path: Path, chance: random.Random) -> Mutant:
    content = bytearray(path.read_bytes())
    place = chance.randrange(len(content))
    content[place] = ord("7") if content[place] != ord("7") else ord("3")
    return Mutant(path, "data", content[:place].count(b"\n") + 1, bytes(content))


def of_source(path: Path, ran: frozenset[int] | None) -> Iterator[Mutant]:
    text = path.read_text(encoding="utf-8")
    lines = text.encode().splitlines(keepends=True)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line))
    data = text.encode()
    for first, node, rule, new in _changes(ast.parse(text)):
        if ran is not None and ran.isdisjoint(range(first, (node.end_lineno or first) + 1)):
            continue
        begin = starts[node.lineno - 1] + node.col_offset
        end = starts[(node.end_lineno or 0) - 1] + (node.end_col_offset or 0)
        content = data[:begin] + new.encode() + data[end:]
        try:
            ast.parse(content)
        except SyntaxError:
            continue
        yield Mutant(path, rule, node.lineno, content)


def _changes(tree: ast.Module) -> Iterator[tuple[int, ast.expr | ast.stmt, str, str]]:
    """The first line of a statement, a node in it, the rule that changes it, and its new text."""
    pending: list[tuple[int, ast.AST]] = [(1, tree)]
    while pending:
        first, node = pending.pop()
        if isinstance(node, ast.stmt):
            first = node.lineno
        match node:
            case ast.JoinedStr():
                continue
            case ast.Expr(value=ast.Constant()):
                continue  # a docstring
            case ast.Constant(value=bool() as value):
                yield first, node, "boolean", str(not value)
            case ast.Constant(value=int() as value):
                yield first, node, "number", f"({value + 1})"
            case ast.Constant(value=str() as value) if value:
                yield first, node, "text", repr(value[:-1] + ("x" if value[-1] != "x" else "y"))
            case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in _COMPARISONS:
                changed = ast.Compare(left, [_COMPARISONS[type(op)]()], [right])
                yield first, node, "comparison", f"({ast.unparse(changed)})"
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
                changed_operation = ast.BinOp(left, _ARITHMETIC[type(op)](), right)
                yield first, node, "arithmetic", f"({ast.unparse(changed_operation)})"
            case ast.BoolOp(op=op, values=values):
                other = ast.Or() if isinstance(op, ast.And) else ast.And()
                yield first, node, "boolean", f"({ast.unparse(ast.BoolOp(other, values))})"
            case ast.If(test=test) | ast.While(test=test) | ast.IfExp(test=test):
                yield first, test, "condition", f"(not ({ast.unparse(test)}))"
            case ast.Return(value=ast.expr()):
                yield first, node, "return", "return None"
            case ast.Assign() | ast.AugAssign() | ast.Expr():
                yield first, node, "statement", "pass"
        pending += ((first, child) for child in ast.iter_child_nodes(node))


def judge(
    mutant: Mutant,
    baseline: Ran,
    plain: Ran,
    warm: Ran,
    storable: frozenset[str],
    *,
    deselects: bool,
) -> Verdict:
    """What a mutant's plain and warm run show."""
    changed = changed_by(plain, baseline)
    if deselects:
        spared = storable & plain.outcomes.keys() - warm.outcomes.keys()
    else:
        spared = frozenset(name for name, (_, hit) in warm.outcomes.items() if hit)
    stale = sorted(name for name in spared & changed if name in plain.outcomes)
    again = storable - spared
    took = {name: baseline.durations.get(name, 0.0) for name in storable}
    again_time = sum(took[name] for name in again) / (sum(took.values()) or 1)
    ratio = warm.seconds / plain.seconds
    return Verdict(
        mutant.rule, len(changed), len(again), again_time, len(storable), tuple(stale), ratio
    )


def changed_by(plain: Ran, baseline: Ran) -> set[str]:
    """The tests whose outcome is another one."""
    return {
        name
        for name, (outcome, _) in baseline.outcomes.items()
        if plain.outcomes.get(name, ("missing", False))[0] != outcome
    }


def main() -> int:
    """Runs and reports; 1 if anything was stale."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("package", type=Path)
    parser.add_argument("scratch", type=Path)
    parser.add_argument("--count", type=int, default=40, help="killing mutants to find")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--testmon", help="an interpreter that has pytest-testmon")
    parser.add_argument("--only", default="", help="the rule to use alone, e.g. data")
    parser.add_argument("arguments", nargs="*", help="for pytest, e.g. tests to leave out")
    given = parser.parse_args()
    ours = ("-p", "pytest_taskcache.plugin", "--cache-tests=all")
    contenders = [Contender("taskcache", given.python, ours, ".pytest_cache", False)]
    if given.testmon:
        options = ("-p", "testmon.pytest_testmon", "--testmon")
        contenders.append(Contender("testmon", given.testmon, options, ".testmondata", True))
    suite = Suite(given.package, given.scratch / "mutants", given.python, given.arguments)
    used = suite.used()
    baseline = suite.run()
    repeated = suite.run()
    unstable = {
        name for name in baseline.outcomes if repeated.outcomes.get(name) != baseline.outcomes[name]
    }
    baseline = Ran(
        {name: one for name, one in baseline.outcomes.items() if name not in unstable},
        baseline.durations,
        baseline.seconds,
        baseline.processor,
    )
    print(f"{len(baseline.outcomes)} tests, {len(unstable)} unstable")
    storable: dict[str, frozenset[str]] = {}
    for contender in contenders:
        cold = suite.record(contender)
        warm = suite.run(contender)
        if contender.deselects:
            spared = baseline.outcomes.keys() - warm.outcomes.keys()
        else:
            spared = {name for name, (_, hit) in warm.outcomes.items() if hit}
        storable[contender.name] = frozenset(spared)
        print(
            f"{contender.name}: spares {len(spared)} when nothing changed, "
            f"cold / plain {cold.seconds / baseline.seconds:.2f}, "
            f"warm / plain {warm.seconds / baseline.seconds:.2f}",
            flush=True,
        )
    verdicts: dict[str, list[Verdict]] = {one.name: [] for one in contenders}
    tried = killing = 0
    deadline = time.monotonic() + given.minutes * 60
    limit = 3 * baseline.seconds + 20
    for mutant in suite.mutants(given.seed, used):
        if killing >= given.count or time.monotonic() > deadline:
            break
        if given.only and mutant.rule != given.only:
            continue
        tried += 1
        original, stat = mutant.path.read_bytes(), mutant.path.stat()
        mutant.path.write_bytes(mutant.content)
        try:
            plain = suite.run(limit=limit)
            if not plain.outcomes or not changed_by(plain, baseline):
                continue
            killing += 1
            where = f"{mutant.path.relative_to(suite.root)}:{mutant.line}"
            for contender in contenders:
                suite.restore(contender)
                warm = suite.run(contender, limit=10 * limit)
                if not warm.outcomes:
                    print(f"{mutant.rule:<10} {where:<45} {contender.name} did not finish")
                    continue
                verdict = judge(
                    mutant,
                    baseline,
                    plain,
                    warm,
                    storable[contender.name],
                    deselects=contender.deselects,
                )
                verdicts[contender.name].append(verdict)
                print(
                    f"{mutant.rule:<10} {where:<45} changed {verdict.changed:>4}, "
                    f"{contender.name} ran {verdict.again:>4}, time / plain {verdict.ratio:.2f}",
                    *(f"\n  STALE {name}" for name in verdict.stale[:_SHOWN]),
                    flush=True,
                )
        finally:
            mutant.path.write_bytes(original)
            os.utime(mutant.path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    print(f"{killing} of {tried} mutants changed an outcome")
    for name, found in verdicts.items():
        _report(name, found)
    return 1 if any(one.stale for one in verdicts["taskcache"]) else 0


def _report(name: str, verdicts: list[Verdict]) -> None:
    by_kind = {
        "all": verdicts,
        "sources": [one for one in verdicts if one.rule != "data"],
        "data": [one for one in verdicts if one.rule == "data"],
    }
    for kind, found in by_kind.items():
        if not found:
            continue
        tests = max(found[0].tests, 1)
        changed = statistics.mean(one.changed for one in found) / tests
        again = [one.again / tests for one in found]
        stale = sum(len(one.stale) for one in found)
        misled = sum(bool(one.stale) for one in found)
        print(
            f"{name}, {kind}: {len(found)} mutants, {stale} stale passes (in {misled} mutants); "
            f"changed {changed:.1%} of the tests, ran {statistics.mean(again):.1%} (median "
            f"{statistics.median(again):.1%}), which is "
            f"{statistics.mean(one.again_time for one in found):.1%} of their time; time / plain "
            f"{statistics.median(one.ratio for one in found):.2f} (median), "
            f"slower than plain {sum(one.ratio > 1 for one in found)} times"
        )


if __name__ == "__main__":
    sys.exit(main())
