"""What memoizing outcomes costs, and what it gives back, on a real suite: ratios of one run.

    python benchmarks/costs.py [--rounds 5] [--testmon] PACKAGE|empty:N|writing:N [PYTEST ARGUMENTS]

PACKAGE is an unpacked source distribution with its tests, copied before it is touched;
``empty:N`` is a suite of N empty tests, a hundred to a file; in ``writing:N`` each writes a file
of the project, and a hook of the conftest appends to one. These take turns, so that what else
the machine does falls on all of them:

* plain: without the plugin;
* cold: every outcome observed and recorded, into an empty cache (the sources' analysis included);
* re-recorded: the same with the analysis kept from before (``--cache-refresh``);
* warm: nothing changed, every outcome replayed;
* re-emitting: a bare plugin that emits three ready reports per test and runs nothing;
* collect only: ``pytest --collect-only``;
* with ``--testmon``, if it is installed: its first run, and one with nothing changed.

Told are medians of processor time (user and system) and of wall-clock time, as ratios, and the
bytes that the cache takes for each test. The bars: cold over plain 1.10 (1.6 on Python 3.11),
warm over re-emitting 1.2.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

_REEMITTING = """
import pytest

@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item, nextitem):
    hook = item.ihook
    hook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for when in ("setup", "call", "teardown"):
        report = pytest.TestReport(item.nodeid, item.location, {}, "passed", None, when)
        hook.pytest_runtest_logreport(report=report)
    hook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True
"""

_APPENDING = """
def pytest_runtest_setup(item):
    with open("log.txt", "a") as log:
        log.write(item.nodeid)
"""
_MADE = {"empty": ("", "pass"), "writing": (_APPENDING, 'open("out-{}.txt", "w").write("x")')}
"""The conftest and the body of each test of a made suite."""


@dataclass
class Times:
    """Seconds of each round, of processors and of the clock."""

    cpu: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)

    def over(self, other: Times) -> str:
        cpu = statistics.median(self.cpu) / statistics.median(other.cpu)
        wall = statistics.median(self.wall) / statistics.median(other.wall)
        return f"{cpu:.2f} (wall clock {wall:.2f})"

    def __str__(self) -> str:
        return f"{statistics.median(self.cpu):.2f} s ({statistics.median(self.wall):.2f} s)"


class Suite:
    """A copy of a suite, and how to run it."""

    def __init__(self, package: str, scratch: Path, arguments: list[str]) -> None:
        self.root = scratch / "suite"
        kind, _, number = package.partition(":")
        if kind in _MADE:
            conftest, body = _MADE[kind]
            self.root.mkdir()
            (self.root / "pytest.ini").write_text("[pytest]\n")
            (self.root / "conftest.py").write_text(conftest)
            tests = "\n".join(f"def test_{n}():\n    {body.format(n)}\n" for n in range(100))
            for file in range(int(number) // 100):
                (self.root / f"test_{file:03}.py").write_text(tests)
        else:
            ignored = shutil.ignore_patterns(".git", ".pytest_cache", ".taskcache", "__pycache__")
            shutil.copytree(package, self.root, ignore=ignored)
        self._cache = scratch / "cache"
        self._temporary = scratch / "temporary"
        self._testmon = scratch / "testmon"
        plugins = scratch / "plugins"
        plugins.mkdir()
        (plugins / "reemitting.py").write_text(_REEMITTING)
        source = self.root / "src" if (self.root / "src").is_dir() else self.root
        kept = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
        self._environment = {
            **{k: v for k, v in kept.items() if not k.startswith("PYTEST_")},
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "PYTHONPATH": os.pathsep.join((str(source), str(plugins))),
        }
        self._command = [
            *(sys.executable, "-m", "pytest", "-q", "-o", f"cache_dir={scratch / 'pytest'}"),
            *(f"--basetemp={self._temporary}", *arguments),
        ]

    def plain(self) -> str:
        return self._run()

    def cold(self) -> str:
        shutil.rmtree(self._cache, ignore_errors=True)
        return self._cached()

    def rerecorded(self) -> str:
        return self._cached("--cache-refresh")

    def warm(self) -> str:
        return self._cached()

    def reemitting(self) -> str:
        return self._run("-p", "reemitting")

    def collecting(self) -> str:
        return self._run("--collect-only")

    def testmon_cold(self) -> str:
        for file in self._testmon.parent.glob(f"{self._testmon.name}*"):
            file.unlink()
        return self.testmon_warm()

    def testmon_warm(self) -> str:
        options = ("-p", "testmon.pytest_testmon", "--testmon")
        return self._run(*options, TESTMON_DATAFILE=str(self._testmon))

    def bytes(self) -> int:
        """The cache directory's size, once what SQLite's log holds is in its file."""
        connection = sqlite3.connect(self._cache / "index.sqlite3")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.close()
        return sum(file.stat().st_size for file in self._cache.rglob("*") if file.is_file())

    def _cached(self, *more: str) -> str:
        plugin = ("-p", "pytest_taskcache.plugin", "--cache-tests=all")
        return self._run(*plugin, f"--cache-storage={self._cache}", *more)

    def _run(self, *more: str, **variables: str) -> str:
        done = subprocess.run(
            [*self._command, *more],
            cwd=self.root,
            env=self._environment | variables,
            capture_output=True,
            text=True,
        )
        if done.returncode not in (0, 1, 5):  # testmon deselects everything
            raise SystemExit(f"pytest failed with {done.returncode}:\n{done.stdout}{done.stderr}")
        return next((line for line in done.stdout.splitlines()[::-1] if " in " in line), "")


def measure(run: Callable[[], str], times: Times) -> None:
    """Adds one run's times."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    run()
    times.wall.append(time.perf_counter() - began)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    times.cpu.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


@dataclass(frozen=True)
class Costs:
    """What was measured of one suite."""

    times: dict[str, Times]
    tests: int
    bytes: int
    last_lines: dict[str, str]

    def __str__(self) -> str:
        lines = [f"{name:12} {line}" for name, line in self.last_lines.items()]
        lines += [f"{name:12} {times}" for name, times in self.times.items()]
        times = self.times
        for one, other, bar in (
            ("cold", "plain", "; bar 1.10, Python 3.11: 1.6"),
            ("re-recorded", "plain", ""),
            ("warm", "plain", ""),
            ("warm", "collect only", ""),
            ("warm", "re-emitting", "; bar 1.2"),
            ("warm", "testmon warm", "; bar 1"),
        ):
            if other in times:
                ratio = times[one].over(times[other])
                lines.append(f"{one + ' over ' + other:26} {ratio}{bar}")
        size = f"{self.bytes / max(self.tests, 1):,.0f} bytes for each of {self.tests} tests"
        return "\n".join([*lines, f"the cache: {size}"])


def costs_of(package: str, arguments: list[str], rounds: int, *, testmon: bool) -> Costs:
    """Runs a suite in every way ``rounds`` times, by turns, after one run of each."""
    with tempfile.TemporaryDirectory() as name:
        suite = Suite(package, Path(name), arguments)
        first = {"plain": suite.plain(), "cold": suite.cold(), "warm": suite.warm()}
        passed = re.search(r"(\d+) passed", first["cold"])
        tests, size = int(passed.group(1)) if passed else 0, suite.bytes()
        ways = {
            "plain": suite.plain,
            "collect only": suite.collecting,
            "re-emitting": suite.reemitting,
            "cold": suite.cold,
            "warm": suite.warm,
            "re-recorded": suite.rerecorded,
        }
        if testmon:
            try:
                first["testmon"] = suite.testmon_cold()
                ways |= {"testmon cold": suite.testmon_cold, "testmon warm": suite.testmon_warm}
            except SystemExit as error:  # jinja2's templates have names that it cannot split
                first["testmon"] = f"fails: {str(error).strip().splitlines()[-1]}"
        times = {way: Times() for way in ways}
        for _ in range(rounds):
            for way, run in ways.items():
                measure(run, times[way])
    return Costs(times, tests, size, first)


def main() -> None:
    """Prints the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("package", help="an unpacked source distribution, empty:N or writing:N")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--testmon", action="store_true", help="beside pytest-testmon")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="for pytest")
    options = parser.parse_args()
    print(costs_of(options.package, options.arguments, options.rounds, testmon=options.testmon))


if __name__ == "__main__":
    main()
