"""Small projects on which real pytest is run."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

# To load all that is installed takes longer than to run a small project's tests.
_PLUGINS = {
    "--cov": ("pytest_cov",),
    "--html": ("html", "metadata"),
    "--reruns": ("rerunfailures",),
}


class Project:
    """A small project of its own, on which real pytest is run, in-process or not.

    Bodies that are to be counted call ``count("name")`` from the module ``counter``, which
    appends to a file: a test that a memoizer passes asserts that the body did not run.
    """

    def __init__(self, pytester: pytest.Pytester) -> None:
        self.pytester = pytester
        self.path = pytester.path
        self.write("pytest.ini", "[pytest]\n")
        self.counts = self.path.parent / f"{self.path.name}-counts"
        self.write(
            "counter.py",
            f"""
            def count(name):
                import os
                handle = os.open({str(self.counts)!r}, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
                os.write(handle, (name + "\\n").encode())
                os.close(handle)
            """,
        )

    def write(self, name: str, text: str) -> Path:
        """Writes a file of the project, dedented."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text).lstrip("\n"), encoding="utf-8")
        return path

    def run(self, *args: str, plugins: tuple[str, ...] = ()) -> pytest.RunResult:
        """Runs pytest in a process of its own, with this plugin, xdist, and those that are named
        or whose options are given."""
        names = dict.fromkeys(("taskcache", "xdist", *plugins))
        for option, needed in _PLUGINS.items():
            if any(arg.startswith(option) for arg in args):
                names |= dict.fromkeys(needed)
        loaded = [arg for name in names for arg in ("-p", name)]
        return self.pytester.runpytest_subprocess("--disable-plugin-autoload", *loaded, *args)

    def counted(self, name: str | None = None) -> int:
        """How often something was counted since the beginning."""
        if not self.counts.exists():
            return 0
        lines = self.counts.read_text().splitlines()
        return len(lines) if name is None else lines.count(name)
