"""A small measured project, and what a run of it reports."""

from __future__ import annotations

import json
from typing import NamedTuple

import coverage
import pytest
from inner_runs import run
from projects import Project

CORE = '''
    """Numbers."""

    def add(a, b):
        if a > 100:
            return -1
        return a + b

    def subtract(a, b):
        if b:
            return a - b
        return a

    class Scale:
        factor = 2

        def times(self, count):
            found = []
            for each in range(count):
                found.append(each * self.factor)
            return found
'''

LATE = """
    from pkg import core

    START = core.add(1, 2)

    def helper(value):
        if value:
            return value
        return START
"""

RESOURCE = """
    def make():
        return {"a": 1}

    def release(resource):
        if resource:
            resource.clear()
"""

CONFTEST = """
    import pytest
    from counter import count
    from pkg import resource
    from pytest_taskcache import cached, cached_fixture

    @pytest.fixture(scope="session")
    def plain():
        made = resource.make()
        yield made
        resource.release(made)

    @cached_fixture(scope="session")
    def dear():
        count("dear")
        from pkg import core
        yield core.Scale().times(4)
        core.subtract(1, 0)

    @cached
    def difference(a, b):
        count("difference")
        from pkg import core
        return core.subtract(a, b)

    @pytest.fixture
    def minus():
        return difference
"""

TEST_ONE = """
    from counter import count
    from pkg import core

    def test_add():
        count("add")
        assert core.add(1, 2) == 3

    def test_plain(plain):
        count("plain")
        assert plain["a"] == 1

    def test_late():
        count("late")
        from pkg import late
        assert late.helper(1) == 1
"""

TEST_TWO = """
    from counter import count

    def test_dear(dear):
        count("dear user")
        assert dear[1] == 2

    def test_plain_again(plain):
        count("plain again")
        assert plain["a"] == 1

    def test_late_again():
        count("late again")
        from pkg import late
        assert late.helper(0) == 3

    def test_minus(minus):
        count("minus")
        assert minus(3, 1) == 2
"""

COV = ("--cov=pkg", "--cov-report=json")
CACHED = ("--cache-tests=all",)


class Report(NamedTuple):
    """What coverage says: the JSON report, and the raw data with its contexts."""

    files: dict[str, object]
    totals: object
    data: dict[str, object]
    contexts: list[str]


class Measured:
    """Runs the project with coverage, with the cache and without it."""

    def __init__(self, project: Project) -> None:
        self.project = project
        project.write("pkg/__init__.py", "")
        project.write("pkg/core.py", CORE)
        project.write("pkg/late.py", LATE)
        project.write("pkg/resource.py", RESOURCE)
        project.write("conftest.py", CONFTEST)
        project.write("test_one.py", TEST_ONE)
        project.write("test_two.py", TEST_TWO)

    def pytest(self, *args: str) -> pytest.RunResult:
        """Any run: in this process but for one with workers."""
        if "-n" in args:
            return self.project.run(*args)
        return run(self.project, *args, plugins=("cov",))

    def plain(self, *args: str) -> Report:
        """What a run without the cache reports."""
        self.pytest(*COV, "--cache-mode=off", *args)
        return self.report()

    def run(self, *args: str) -> tuple[Report, pytest.RunResult]:
        """A run with everything cached."""
        result = self.pytest(*COV, *CACHED, *args)
        return self.report(), result

    def bodies(self, *args: str) -> tuple[Report, int]:
        """A run with everything cached: what it reports, and how many counted bodies ran."""
        before = self.project.counted()
        report, _ = self.run(*args)
        return report, self.project.counted() - before

    def report(self) -> Report:
        """What the last run left behind."""
        told = json.loads((self.project.path / "coverage.json").read_text())
        data = coverage.CoverageData(str(self.project.path / ".coverage"))
        data.read()
        raw: dict[str, object] = {}
        for file in data.measured_files():
            raw[file] = sorted((data.arcs(file) if data.has_arcs() else data.lines(file)) or ())
        files = {
            name: {key: found[key] for key in found if key.startswith(("executed", "missing"))}
            for name, found in told["files"].items()
        }
        return Report(files, told["totals"], raw, sorted(data.measured_contexts()))
