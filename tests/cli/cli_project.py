"""A small project in which ``taskcache`` and pytest are run."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from pytest_taskcache.cli import main

SUITE = """
    import subprocess, sys
    import pytest
    from helpers import make_rows
    from pytest_taskcache import cached

    @cached
    def rows(n_rows):
        return make_rows(n_rows)

    @cached
    def größe(x):
        return "x" * 50_000 + str(x)

    @pytest.mark.cached
    def test_rows():
        assert len(rows(int(open("size.txt").read()))) > 5

    @pytest.mark.cached
    @pytest.mark.parametrize("n", [1], ids=["\\x1b[31mred\\x1b[0m"])
    def test_escapes(n):
        assert größe(n)

    @pytest.mark.cached
    def test_child():
        subprocess.run([sys.executable, "-c", ""], check=True)
"""


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


@dataclass
class Commands:
    """A project in which ``taskcache`` and pytest are run."""

    path: Path

    def run(self, *args: str, env: dict[str, str] | None = None) -> Done:
        """What ``taskcache`` with these arguments did, in this process."""
        out, err = io.StringIO(), io.StringIO()
        with (
            mock.patch.dict(os.environ, env or {}),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            code = main(["-C", str(self.path), *args])
        return Done(code, out.getvalue(), err.getvalue())

    def apart(self, *args: str, **env: str) -> Done:
        """The same in a process of its own."""
        command = [sys.executable, "-m", "pytest_taskcache", *args]
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "COLUMNS"))}
        done = subprocess.run(
            command,
            cwd=self.path,
            env={**kept, "PYTHONUTF8": "1", **env},
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=120,
            stdin=subprocess.DEVNULL,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def json(self, *args: str, code: int = 0) -> Any:
        """What it printed as JSON."""
        done = self.run(*args, "--json")
        assert done.returncode == code, done.stderr
        return json.loads(done.stdout)

    def pytest(self, *args: str) -> str:
        """What a run of pytest with this plugin alone printed; its tests passed."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST")}
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-p", "pytest_taskcache.plugin", *args],
            cwd=self.path,
            env={**kept, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    def names(self) -> list[str]:
        """What is cached."""
        return sorted(each["name"] for each in self.json("ls"))
