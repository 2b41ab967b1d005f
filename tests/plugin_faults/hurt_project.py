"""A project whose cache is hurt before, between and within its runs.

Every run is a process of its own: limits, signals and lost privileges belong to a process.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

LIMIT = 300
"""Seconds after which a run counts as one that hangs."""

SUITE = """
    import os
    import pytest
    from counter import count
    from pytest_taskcache import cached, cached_fixture

    @cached_fixture(scope="session")
    def data():
        count("fixture")
        return [str(n) for n in range(30_000)]

    @cached
    def total(n):
        count("function")
        return ["x"] * n

    @pytest.mark.cached
    @pytest.mark.parametrize("n", range(3))
    def test_before(n, data):
        count("test")
        assert len(total(30_000)) == len(data)

    def test_deed(data):  # passes in every run: what it uses is kept
        exec(os.environ.get("DEED", ""), {})

    @pytest.mark.cached
    @pytest.mark.parametrize("n", range(3))
    def test_after(n, data):
        count("test")
        assert len(total(20_000)) < len(data)

    def test_fails(data):
        assert len(data) == 0

    @pytest.mark.cached
    def test_errs(no_such_fixture):
        pass

    @pytest.mark.skip(reason="never")
    def test_skipped():
        pass

    @pytest.mark.cached
    @pytest.mark.xfail(reason="known")
    def test_xfails():
        assert 0
"""
ALL_COUNTED = Counter(fixture=1, function=2, test=6)

_START = """
import runpy
{prelude}
runpy.run_module("pytest", run_name="__main__", alter_sys=True)
"""


@dataclass(frozen=True)
class Ran:
    """One run: its exit code, what it wrote, and what was counted in it."""

    code: int
    out: str
    err: str
    counts: Counter[str]

    @property
    def outcomes(self) -> Counter[str]:
        """Each line of the short summary, as ``PASSED test_suite.py::test_it``. A replay is a
        pass."""
        words = ("PASSED", "FAILED", "ERROR", "SKIPPED", "XFAIL", "XPASS")
        shown = re.sub("^CACHED ", "PASSED ", self.out, flags=re.MULTILINE)
        lines = [line.partition(" - ")[0] for line in shown.splitlines()]
        return Counter(line for line in lines if line.partition(" ")[0] in words)

    @property
    def line(self) -> str:
        """The plugin's line of counts, without its first word; "" if there is none."""
        found = [line for line in self.out.splitlines() if line.startswith("taskcache: ")]
        return found[-1].removeprefix("taskcache: ") if found else ""

    @property
    def faults(self) -> dict[str, int]:
        """How often each reason was counted in that line."""
        told = re.search(r"\d+ faults? \((.*)\)", self.line)
        pieces = re.split(r", (?=\d+ )", told.group(1)) if told else []
        return {text: int(number) for number, _, text in (each.partition(" ") for each in pieces)}

    @property
    def shown(self) -> str:
        """All of it, for a failing assertion to show."""
        return f"exit code {self.code}\n{self.out}\n{self.err}"


class HurtProject:
    """A small project. Bodies that are to be counted call ``count("name")``."""

    def __init__(self, directory: Path) -> None:
        self.root = directory / "project"
        self.root.mkdir()
        self.cache = self.root / ".pytest_cache" / "taskcache"
        self.index = self.cache / "index.sqlite3"
        # Of two runs that end at once, one finds pytest's link to the newest directory gone.
        temporary = directory / "temporary"
        temporary.mkdir()
        self._apart = {"PYTEST_DEBUG_TEMPROOT": str(temporary)}
        self._counts = directory / "counts"
        self._counts.touch()
        self.write("pytest.ini", "[pytest]\nmarkers = cached: the outcome is replayed\n")
        self.write(
            "counter.py",
            f"""
            import os

            def count(name):
                handle = os.open({str(self._counts)!r}, os.O_WRONLY | os.O_APPEND)
                os.write(handle, (name + "\\n").encode())
                os.close(handle)
            """,
        )
        self.write("test_suite.py", SUITE)

    def write(self, name: str, text: str) -> Path:
        """Writes a file of the project, dedented."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text).lstrip("\n"), encoding="utf-8")
        return path

    def results(self) -> list[Path]:
        """The files in which values are kept."""
        return sorted(path for path in (self.cache / "results").rglob("*") if path.is_file())

    def counted(self) -> Counter[str]:
        """What was counted since the beginning."""
        return Counter(self._counts.read_text().split())

    def run(self, *args: str, plugin: bool = True, prelude: str = "", **variables: str) -> Ran:
        """Runs the tests; ``prelude`` is executed in that process before pytest is imported.
        One that takes longer than `LIMIT` is an error."""
        before = self.counted()
        process = self.start(*args, plugin=plugin, prelude=prelude, **variables)
        return self.end(process, before)

    def start(
        self, *args: str, plugin: bool = True, prelude: str = "", **variables: str
    ) -> subprocess.Popen[str]:
        """Starts a run, as the leader of a process group."""
        kept = {name: text for name, text in os.environ.items() if not name.startswith("PYTEST_")}
        options = ["-p", "pytest_taskcache.plugin"] if plugin else []
        script = _START.format(prelude=textwrap.dedent(prelude))
        return subprocess.Popen(
            [sys.executable, "-c", script, *options, "-rA", *args],
            cwd=self.root,
            env=kept | self._apart | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"} | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )

    def end(self, process: subprocess.Popen[str], before: Counter[str]) -> Ran:
        """Waits for a run. One that hangs is killed, with its workers, and is an error."""
        try:
            out, err = process.communicate(timeout=LIMIT)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            out, err = process.communicate()
            raise AssertionError(f"the run hangs\n{out}\n{err}") from None
        return Ran(process.returncode, out, err, self.counted() - before)

    def wait_for(self, name: str, process: subprocess.Popen[str]) -> None:
        """Returns once the run has made that file."""
        until = time.monotonic() + LIMIT
        while not (self.root / name).exists():
            assert process.poll() is None, "".join(process.communicate())
            assert time.monotonic() < until, f"{name} never appeared"
            time.sleep(0.01)


def check_unharmed(hurt: Ran, plain: Ran) -> None:
    """The outcomes are those of a run without the plugin, and no error of ours is shown."""
    assert hurt.outcomes == plain.outcomes, hurt.shown
    assert hurt.code == plain.code, hurt.shown
    for sign in ("INTERNALERROR", "pytest_taskcache/", "Exception ignored"):
        assert sign not in hurt.out + hurt.err, hurt.shown
    assert hurt.err == plain.err, hurt.shown


def check_told(hurt: Ran, reasons: Sequence[str]) -> None:
    """The line counts faults for exactly these reasons."""
    assert sorted(hurt.faults) == sorted(reasons), hurt.shown


def check_recovered(project: HurtProject) -> None:
    """The next run computes what is missing, and the one after it nothing."""
    first = project.run()
    assert not first.faults, first.shown
    again = project.run()
    assert not again.faults, again.shown
    assert not again.counts, again.shown
    assert "6 tests reused" in again.line, again.shown
    assert again.outcomes == first.outcomes, again.shown
