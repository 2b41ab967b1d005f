"""Climbs the ladder with many small packages at once: run; cached; change; not cached; cached.

Each scenario is a package of its own in one project. All are run, changed and run again
together, so that a scenario costs milliseconds, not four starts of pytest. Bodies are counted
in a file: a body that did not run again is a hit, whatever any label says.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from pathlib import Path

import pytest_taskcache

_TESTED = Path(pytest_taskcache.__file__).parents[1]

Change = str | bytes | None | Callable[[Path], None]
"""A file's new text or bytes, None to remove it, or what is to be done to its path."""


class Expect(Enum):
    """What a scenario's change must do to what its package recorded."""

    STALE = auto()
    """The bodies run again."""
    KEPT = auto()
    """The bodies do not run again."""
    REFUSED = auto()
    """The bodies run each time: what they do cannot be observed."""


class Form(Enum):
    """What is cached."""

    OUTCOME = "outcome"
    FUNCTION = "function"
    FIXTURE = "fixture"


EVERY = (Form.OUTCOME, Form.FUNCTION, Form.FIXTURE)


@dataclass(frozen=True)
class Scenario:
    """One kind of dependency.

    ``body`` sets ``result``; it becomes a test, and where ``forms`` says so a cached function
    and a cached fixture too; ``head`` are the imports above it, with ``HERE`` the package's
    directory. Without a body, ``files`` hold tests that call ``count("SELF.label")`` themselves.
    SELF stands for the package's name everywhere. ``change`` maps files to what happens to
    them; ``environ`` maps variables to their values before and after (None: not set).
    ``named`` must appear in what ``-vv`` says of this package. ``stale`` narrows the labels
    that must run again down; the others must not, but for ``free`` ones, which share a window with
    them or not, as it comes. Scenarios of one ``group`` share a project:
    one that acts on the whole process has its own.
    """

    name: str
    body: str = ""
    head: str = ""
    files: Mapping[str, str | bytes] = field(default_factory=dict)
    change: Mapping[str, Change] = field(default_factory=dict)
    environ: Mapping[str, tuple[str | None, str | None]] = field(default_factory=dict)
    expect: Expect = Expect.STALE
    named: Sequence[str] = ()
    forms: Sequence[Form] = (Form.OUTCOME,)
    stale: Sequence[str] | None = None
    free: Sequence[str] = ()
    make: Callable[[Path], None] | None = None
    group: str = ""

    def __str__(self) -> str:
        return self.name

    def write(self, root: Path) -> None:
        """Makes the package."""
        self._put(root, "__init__.py", "")
        for name, content in self.files.items():
            self._put(root, name, content)
        if self.make is not None:
            self.make(root / self.name)
        if self.body:
            for form in self.forms:
                self._put(root, f"test_{form.value}.py", self._test(form))

    def apply(self, root: Path) -> None:
        """Does the change."""
        for name, content in self.change.items():
            path = root / self.name / name.replace("SELF", self.name)
            if content is None:
                path.unlink()
            elif callable(content):
                content(path)
            else:
                self._put(root, name, content)

    def _put(self, root: Path, name: str, content: str | bytes) -> None:
        path = root / self.name / name.replace("SELF", self.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str):
            text = textwrap.dedent(content).lstrip("\n").replace("SELF", self.name)
            content = text.encode("utf-8", "surrogateescape")
        path.write_bytes(content)

    def _test(self, form: Form) -> str:
        body = textwrap.indent(textwrap.dedent(self.body).strip(), "    ")
        head = [
            "import pathlib, pytest",
            "from counter import count",
            "from pytest_taskcache import cached, cached_fixture",
            "HERE = pathlib.Path(__file__).parent",
            textwrap.dedent(self.head).strip(),
            "",
        ]
        called = {
            Form.OUTCOME: "def test_it():",
            Form.FUNCTION: "@cached\ndef compute():",
            Form.FIXTURE: "@cached_fixture\ndef value():",
        }
        lines = [*head, called[form], f'    count("SELF.{form.value}")', body]
        if form is not Form.OUTCOME:
            given, call = ("", "compute()") if form is Form.FUNCTION else ("value", "value")
            lines += ["    return repr(result)", "", "@pytest.mark.cached(False)"]
            lines += [f"def test_it({given}):", f"    assert {call}"]
        return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Rung:
    """One run: what was counted in it, its output, and whether every test passed."""

    counts: Counter[str]
    output: str
    passed: bool


@dataclass(frozen=True)
class Climb:
    """The four runs of one project."""

    first: Rung
    again: Rung
    changed: Rung
    settled: Rung


def climb(directory: Path, scenarios: Sequence[Scenario]) -> Climb:
    """Makes one project with these scenarios, and runs it four times."""
    root, counts = directory / "project", directory / "counts"
    root.mkdir()
    counts.touch()
    (root / "pytest.ini").write_text("[pytest]\naddopts = --cache-tests=all\n")
    (root / "counter.py").write_text(counter_source(counts))
    for scenario in scenarios:
        scenario.write(root)

    def run(moment: int) -> Rung:
        variables = {
            name: values[moment]
            for scenario in scenarios
            for name, values in scenario.environ.items()
        }
        before = counts.stat().st_size
        completed = run_pytest(root, "-vv", variables=variables)
        with counts.open() as lines:
            lines.seek(before)
            counted = Counter(lines.read().split())
        output = completed.stdout + completed.stderr
        return Rung(counted, output, completed.returncode == 0)

    first, again = run(0), run(0)
    for scenario in scenarios:
        scenario.apply(root)
    return Climb(first, again, run(1), run(1))


def counter_source(path: Path) -> str:
    """A module whose ``count(name)`` appends a line to a file outside of the project."""
    return textwrap.dedent(
        f"""
        import os

        def count(name):
            handle = os.open({str(path)!r}, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            os.write(handle, (name + "\\n").encode())
            os.close(handle)
        """
    )


def run_pytest(
    root: Path,
    *args: str,
    variables: Mapping[str, str | None] | None = None,
    python: Sequence[str] = (),
) -> subprocess.CompletedProcess[str]:
    """Runs pytest on a project in a process of its own, with no plugin but ours and pytest's.

    ``python`` are flags of the interpreter. No bytecode is written: two edits of one size in
    one second would be one to the interpreter.
    """
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTEST_", "COV_", "COVERAGE_"))
    }
    environment |= {
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PYTHONPATH": os.pathsep.join(map(str, [*root.glob("*/site-packages"), _TESTED])),
    }
    for name, value in (variables or {}).items():
        if value is None:
            environment.pop(name, None)
        else:
            environment[name] = value
    command = [sys.executable, *python, "-m", "pytest", "-p", "pytest_taskcache.plugin", *args]
    return subprocess.run(
        command,
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=300,
        check=False,
    )
