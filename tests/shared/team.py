"""Checkouts of one project in several places, each with its own local cache."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

KEY = "a-signing-key-of-the-team-0123456789"
LIMIT = 90.0
"""Seconds after which a run of pytest has hung."""

SUITE = """
    import pytest
    from counter import count
    from pytest_taskcache import cached, cached_fixture

    @cached
    def total(values):
        count("function")
        return sum(values)

    @cached_fixture(scope="session")
    def data():
        count("fixture")
        return [1, 2, 3]

    def test_total(data):
        assert total(data) == 6

    @pytest.mark.cached
    def test_outcome():
        count("test")
        assert 1 + 1 == 2
"""
"""A function, a fixture and a test that are cached; counted as that."""

# All plugins that our tests need take longer to be imported than these tests take to run.
_PLUGINS = ("-p", "taskcache", "-p", "xdist")


@dataclass(frozen=True)
class Place:
    """A shared storage that nobody has used: its URL, and what its clients' environment needs."""

    url: str
    environ: dict[str, str] = field(default_factory=dict)


@dataclass
class Running:
    """A run of pytest under way."""

    process: subprocess.Popen[str]
    began: float

    def finish(self) -> pytest.RunResult:
        """Its result; kills it, and fails, where it hangs."""
        try:
            out, err = self.process.communicate(timeout=LIMIT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            out, err = self.process.communicate()
            pytest.fail(f"the run hung:\n{out}\n{err}")
        result = pytest.RunResult(
            self.process.returncode,
            out.splitlines(),
            err.splitlines(),
            time.monotonic() - self.began,
        )
        result.shown = f"{out}\n{err}"  # type: ignore[attr-defined]
        return result

    def kill(self) -> None:
        """Ends it as the kernel would (SIGKILL)."""
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()


@dataclass
class Checkout:
    """One place where the project lies. ``environ`` is the whole environment of its runs."""

    path: Path
    environ: dict[str, str]

    def write(self, name: str, text: str) -> Path:
        """Writes a file of the project, dedented."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text).lstrip("\n"), encoding="utf-8")
        return path

    def start(self, *args: str, **environ: str) -> Running:
        """Starts pytest in a process of its own."""
        process = subprocess.Popen(
            [sys.executable, "-m", "pytest", *_PLUGINS, *args],
            cwd=self.path,
            env={**self.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", **environ},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        return Running(process, time.monotonic())

    def run(self, *args: str, **environ: str) -> pytest.RunResult:
        """Runs pytest to its end."""
        return self.start(*args, **environ).finish()

    def forget(self) -> None:
        """Loses the local cache, as a fresh machine has none."""
        shutil.rmtree(self.path / ".pytest_cache", ignore_errors=True)


@dataclass
class Team:
    """Several checkouts of the same files; bodies count into one file that all of them know."""

    directory: Path
    files: dict[str, str] = field(default_factory=dict)
    environ: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.counts = self.directory / "counts"
        self.files["counter.py"] = f"""
            def count(name):
                import os
                handle = os.open({str(self.counts)!r}, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
                os.write(handle, (name + "\\n").encode())
                os.close(handle)
            """
        kept = {"PATH", "HOME", "LANG", "TMPDIR", "SYSTEMROOT", "PYTHONPATH"}
        self.environ = {k: v for k, v in os.environ.items() if k in kept} | self.environ

    def checkout(self, name: str, ini: Mapping[str, str] | None = None) -> Checkout:
        """A checkout with an empty local cache; ``ini`` are settings without their prefix."""
        made = Checkout(self.directory / name, dict(self.environ))
        for file, text in self.files.items():
            made.write(file, text)
        lines = [f"taskcache_{key} = {value}" for key, value in (ini or {}).items()]
        made.write("pytest.ini", "\n".join(["[pytest]", *lines, ""]))
        return made

    def counted(self, name: str | None = None) -> int:
        """How often something was counted since the beginning."""
        if not self.counts.exists():
            return 0
        lines = self.counts.read_text().splitlines()
        return len(lines) if name is None else lines.count(name)


def line_of(result: pytest.RunResult) -> str:
    """The summary line of the cache."""
    lines = [line for line in result.outlines if line.startswith("taskcache: ")]
    return lines[-1] if len(lines) > 1 else ""


def notes_of(result: pytest.RunResult) -> list[str]:
    """What the cache had to say besides: the lines between its header and its summary line."""
    return [line for line in result.outlines if line.startswith("taskcache: ")][1:-1]
