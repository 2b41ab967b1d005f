"""What memoizing outcomes costs, and what it gives back, on a real suite: ratios of one run.

    python benchmarks/costs.py [--rounds 5] PACKAGE|empty:N [PYTEST ARGUMENTS]

PACKAGE is an unpacked source distribution with its tests, copied before it is touched;
``empty:N`` is a suite of N empty tests, a hundred to a file. These take turns, so that what else
the machine does falls on all of them:

* plain: without the plugin;
* cold: every outcome observed and recorded, into an empty cache (the sources' analysis included);
* re-recorded: the same with the analysis kept from before (``--cache-refresh``);
* warm: nothing changed, every outcome replayed;
* re-emitting: a bare plugin that emits three ready reports per test and runs nothing.

Told are medians of processor time (user and system) and of wall-clock time, as ratios, and the
bytes that the cache takes for each test. The bars: cold over plain 1.10 (1.6 on Python 3.11),
warm over re-emitting 1.2.
"""

from __future__ import annotations

import argparse
import os
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
        if package.startswith("empty:"):
            self.root.mkdir()
            (self.root / "pytest.ini").write_text("[pytest]\n")
            for number in range(int(package[6:]) // 100):
                tests = "\n".join(f"def test_{n}():\n    pass\n" for n in range(100))
                (self.root / f"test_{number:03}.py").write_text(tests)
        else:
            ignored = shutil.ignore_patterns(".git", ".pytest_cache", ".taskcache", "__pycache__")
            shutil.copytree(package, self.root, ignore=ignored)
        self._cache = scratch / "cache"
        self._temporary = scratch / "temporary"
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
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"),
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

    def tests(self) -> int:
        """How many records the cache holds."""
        with sqlite3.connect(self._cache / "index.sqlite3") as connection:
            found: tuple[int] = connection.execute("SELECT count(*) FROM variants").fetchone()
        return found[0]

    def bytes(self) -> int:
        """The cache directory's size, once what SQLite's log holds is in its file."""
        connection = sqlite3.connect(self._cache / "index.sqlite3")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.close()
        return sum(file.stat().st_size for file in self._cache.rglob("*") if file.is_file())

    def _cached(self, *more: str) -> str:
        plugin = ("-p", "pytest_taskcache.plugin", "--cache-tests=all")
        return self._run(*plugin, f"--cache-storage={self._cache}", *more)

    def _run(self, *more: str) -> str:
        done = subprocess.run(
            [*self._command, *more],
            cwd=self.root,
            env=self._environment,
            capture_output=True,
            text=True,
        )
        if done.returncode not in (0, 1):
            raise SystemExit(f"pytest failed with {done.returncode}:\n{done.stdout}{done.stderr}")
        return next((line for line in done.stdout.splitlines()[::-1] if " in " in line), "")


def measure(run: Callable[[], str], times: Times) -> None:
    """Adds one run's times."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    run()
    times.wall.append(time.perf_counter() - began)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    times.cpu.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def main() -> None:
    """Prints the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("package", help="an unpacked source distribution, or empty:N")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="for pytest")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        suite = Suite(options.package, Path(name), options.arguments)
        print(f"plain: {suite.plain()}")  # compiles, too
        print(f"cold:  {suite.cold()}")
        print(f"warm:  {suite.warm()}", flush=True)
        tests, size = suite.tests(), suite.bytes()
        plain, cold, rerecorded, warm, reemitting = (Times() for _ in range(5))
        for _ in range(options.rounds):
            measure(suite.plain, plain)
            measure(suite.cold, cold)
            measure(suite.warm, warm)
            measure(suite.reemitting, reemitting)
            measure(suite.rerecorded, rerecorded)
    print(f"medians of {options.rounds}, processors (wall clock):")
    print(f"  plain {plain}, cold {cold}, re-recorded {rerecorded}")
    print(f"  warm {warm}, re-emitting {reemitting}")
    print(f"cold over plain          {cold.over(plain)}; bar 1.10, Python 3.11: 1.6")
    print(f"re-recorded over plain   {rerecorded.over(plain)}")
    print(f"warm over re-emitting    {warm.over(reemitting)}; bar 1.2")
    print(f"warm over plain          {warm.over(plain)}")
    print(f"the cache: {size / tests:,.0f} bytes for each of {tests} recorded tests")


if __name__ == "__main__":
    main()
