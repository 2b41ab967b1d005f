"""Plugins that look at reports, or keep books of their own, cannot tell a replay from a run."""

from __future__ import annotations

import importlib
import os
import sys
import time
import types
from pathlib import Path

import pytest
from inner_runs import line_of, run
from projects import Project


@pytest.mark.parametrize("name", ["dependency", "pytest_dependency"])
def test_a_replayed_test_is_a_prerequisite(project: Project, name: str) -> None:
    """pytest-dependency's dependants run, or are replayed, after a replayed prerequisite; where
    that fails they are skipped though their own pass is stored. ``-p`` knows it by two names."""
    pytest.importorskip("pytest_dependency")
    project.write(
        "test_suite.py",
        """
        import os
        import pytest
        from counter import count

        @pytest.mark.cached
        @pytest.mark.dependency()
        def test_first():
            count("first")
            assert os.environ.get("FIRST") != "bad"

        @pytest.mark.dependency(depends=["test_first"])
        def test_plain():
            count("plain")
        """,
    )
    project.write(
        "test_suite_two.py",
        """
        import pytest
        from counter import count

        @pytest.mark.cached
        @pytest.mark.dependency(scope="session", depends=["test_suite.py::test_first"])
        def test_stored():
            count("stored")
        """,
    )
    args = ("--disable-plugin-autoload", "-p", "pytest_taskcache.plugin", "-p", name)
    for _ in range(2):
        run(project, *args).assert_outcomes(passed=3)
    assert [project.counted(each) for each in ("first", "plain", "stored")] == [1, 2, 1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FIRST", "bad")
        run(project, *args).assert_outcomes(failed=1, skipped=2)


RECIPE = """
    import pytest
    from counter import count

    REPORTS = pytest.StashKey()

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(item, call):
        report = yield
        assert call.excinfo is None and call.duration == report.duration
        item.stash.setdefault(REPORTS, {})[report.when] = report.passed
        report.noted = "by the conftest"
        return report

    def pytest_runtest_logreport(report):
        assert report.noted == "by the conftest"

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logfinish(nodeid):
        count("finished")

    def pytest_sessionfinish(session):
        for item in session.items:
            assert item.stash[REPORTS] == {"setup": True, "call": True, "teardown": True}
            count("told")
"""


def test_the_documented_recipe_sees_replays(project: Project) -> None:
    """A conftest that takes reports from ``pytest_runtest_makereport``, and adds to them, gets
    those of a replayed test, and what it adds reaches the others."""
    project.write("conftest.py", RECIPE)
    project.write("test_suite.py", "from counter import count\ndef test_it():\n    count('body')\n")
    for _ in range(2):
        run(project, "--cache-tests=all").assert_outcomes(passed=1)
    assert (project.counted("body"), project.counted("told")) == (1, 2)


def test_a_hook_that_needs_the_run_has_the_test_run(project: Project) -> None:
    """A conftest's hook that cannot do with a test that did not run (it wants the value of a
    fixture) ends no run: the test runs, and a note says why."""
    project.write(
        "conftest.py",
        """
        import pytest

        @pytest.hookimpl(wrapper=True)
        def pytest_runtest_makereport(item, call):
            report = yield
            if call.when == "call":
                item.funcargs["tmp_path"].joinpath("shot").write_text("")
            return report
        """,
    )
    project.write(
        "test_suite.py", "from counter import count\ndef test_it(tmp_path):\n    count('body')\n"
    )
    for _ in range(2):
        result = run(project, "--cache-tests=all")
        result.assert_outcomes(passed=1)
    assert project.counted() == 2
    result.stdout.fnmatch_lines(["*test_it runs each time: a hook cannot do*KeyError*"])


def test_snapshots_of_replayed_tests_are_used(project: Project) -> None:
    """syrupy counts the snapshots of a replayed test as used and passed, as in the run that was
    recorded, and deletes none; with ``--snapshot-update`` the tests run."""
    pytest.importorskip("syrupy")
    project.write(
        "test_suite.py",
        """
        import pytest
        from counter import count

        @pytest.mark.cached
        def test_a(snapshot):
            count("body")
            assert {"a": 1} == snapshot
            assert "named" == snapshot(name="own name")

        def test_b(snapshot):
            assert {"b": 1} == snapshot
        """,
    )
    snapshots = project.path / "__snapshots__" / "test_suite.ambr"

    def ran(*args: str) -> tuple[int, str]:
        result = run(project, *args, plugins=("syrupy",))
        result.assert_outcomes(passed=2)
        told = [line for line in result.outlines if "snapshot" in line and "passed" in line]
        return int(result.ret), told[0] if told else ""

    ran("--snapshot-update")
    written = snapshots.read_text()
    cold, warm = ran(), ran()
    assert project.counted() == 2
    assert cold == warm
    assert cold[0] == 0
    for _ in range(2):
        ran("--snapshot-update")
    assert project.counted() == 4
    assert snapshots.read_text() == written
    project.write("test_suite.py", (project.path / "test_suite.py").read_text() + "\n# more\n")
    assert ran() == cold


def test_derandomized_hypothesis_tests_are_cached(project: Project) -> None:
    """A test whose examples are the same in each run is cached like any other; for the others
    the summary says how to have them."""
    pytest.importorskip("hypothesis")
    project.write(
        "test_suite.py",
        """
        from counter import count
        from hypothesis import given, settings, strategies

        @settings(max_examples=3, derandomize=True)
        @given(strategies.integers())
        def test_same(n):
            count("same")

        @settings(max_examples=3, database=None, derandomize=False)
        @given(strategies.integers())
        def test_drawn(n):
            count("drawn")
        """,
    )
    run(project, "--cache-tests=all", plugins=("hypothesispytest",)).assert_outcomes(passed=2)
    same, drawn = project.counted("same"), project.counted("drawn")
    warm = run(project, "--cache-tests=all", "-v", plugins=("hypothesispytest",))
    warm.assert_outcomes(passed=2)
    assert project.counted("same") == same
    assert project.counted("drawn") > drawn
    warm.stdout.fnmatch_lines(["*derandomize=True*makes it cacheable*"])


def test_what_hypothesis_keeps_is_no_file_of_the_projects(project: Project) -> None:
    """It reads and rewrites its own files as a function of the project draws, and they differ after
    each run; those who use that function rested on them. (Done by hand here: to make its tables of
    characters takes it half a minute.)"""
    project.write(
        "test_suite.py",
        """
        import os
        from pathlib import Path

        def words():
            kept = Path(__file__).parent / ".hypothesis" / "unicode_data" / "codec"
            found = kept.read_bytes() if kept.exists() else b""
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_bytes(os.urandom(8))
            return [found]

        def test_drawn():
            assert words()

        def test_it():
            assert words
        """,
    )
    run(project, "--cache-tests=all").assert_outcomes(passed=2)
    project.write(".hypothesis/unicode_data/codec", "made by someone else")
    warm = run(project, "--cache-tests=all")
    warm.assert_outcomes(passed=2)
    assert line_of(warm).startswith("2 tests reused")


def test_benchmarks_are_refused_by_name(project: Project) -> None:
    """A replay measures nothing: a test that uses a ``benchmark`` runs each time."""
    project.write(
        "test_suite.py",
        """
        import pytest
        from counter import count

        @pytest.fixture
        def benchmark():
            return lambda function: function()

        def test_it(benchmark):
            benchmark(lambda: count("body"))
        """,
    )
    for _ in range(2):
        result = run(project, "--cache-tests=all", "-p", "no:benchmark")
        result.assert_outcomes(passed=1)
    assert project.counted() == 2
    assert "uses benchmark" in line_of(result)


@pytest.mark.parametrize("name", ["________step_name_", "steps_data", "results_bag"])
def test_tests_that_leave_something_to_others_run(project: Project, name: str) -> None:
    """A step of pytest-steps is where the one before it stopped, and pytest-harvest's bag is read
    by whoever comes later: a replay would leave nothing there."""
    project.write(
        "test_suite.py",
        f"""
        import pytest
        from counter import count

        @pytest.fixture
        def {name}():
            return []

        def test_it({name}):
            count("body")
        """,
    )
    for _ in range(2):
        result = run(project, "--cache-tests=all")
        result.assert_outcomes(passed=1)
    assert project.counted() == 2
    assert f"uses {name}" in line_of(result)


class _Option:
    """A plugin with one option, of this name and default."""

    def __init__(self, name: str, default: object) -> None:
        self.name, self.default = name, default

    def pytest_addoption(self, parser: pytest.Parser) -> None:
        parser.addoption(f"--their-{self.name}", dest=self.name, default=self.default)


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("allure_report_dir", "allure_pytest"),
        ("codspeed", "pytest_codspeed"),
        ("force_regen", "pytest_regressions"),
        ("forked", "pytest_forked"),
        ("memray", "pytest_memray"),
        ("profile", "pytest_profiling"),
        ("profile_svg", "pytest_profiling"),
    ],
)
def test_tests_run_for_a_plugin_that_looks_on(
    project: Project, monkeypatch: pytest.MonkeyPatch, name: str, module: str
) -> None:
    """Where a plugin measures tests, or tells of more than their reports, each test runs; where it
    is only loaded, or its option is another plugin's, they are replayed."""
    project.write("test_suite.py", "from counter import count\ndef test_it(): count('body')\n")
    for given, loaded, runs in ((True, True, 2), (False, True, 1), (True, False, 1)):
        before = project.counted()
        with monkeypatch.context() as patch:
            if loaded:
                patch.setitem(sys.modules, module, types.ModuleType(module))
            for _ in range(2):
                result = run(project, "--cache-tests=all", objects=(_Option(name, given),))
                result.assert_outcomes(passed=1)
        assert project.counted() == before + runs
        assert ("wants it to run" in line_of(result)) == (runs == 2)


def test_the_seed_of_an_order_that_each_run_draws_makes_nothing_run_again(project: Project) -> None:
    """pytest-random-order has one by default, whether it shuffles or not."""
    project.write("test_suite.py", "from counter import count\ndef test_it(): count('body')\n")
    for seed in ("1", "2"):
        plugin = _Option("random_order_seed", seed)
        run(project, "--cache-tests=all", objects=(plugin,)).assert_outcomes(passed=1)
    assert project.counted() == 1


class _Variables:
    """As pytest-variables: reads a file that an option names, and hands tests what is in it. Writes
    another one, as reports are written."""

    def pytest_addoption(self, parser: pytest.Parser) -> None:
        parser.addoption("--variables", action="append")
        parser.addoption("--written")

    def pytest_configure(self, config: pytest.Config) -> None:
        self.text = Path(config.getoption("variables")[0]).read_text()

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        Path(session.config.getoption("written")).write_text(f"{time.time()}")

    @pytest.fixture(scope="session")
    def variables(self) -> str:
        return self.text


def test_a_file_that_an_option_names_counts_where_a_plugin_read_it(project: Project) -> None:
    """A test is handed what was in it, and reads nothing. One that is written there does not
    count."""
    project.write("host.txt", "near")
    project.write(
        "test_suite.py",
        """
        from counter import count

        def test_it(variables):
            count("body")
            assert variables == "near"
        """,
    )
    args = ("--cache-tests=all", "--variables=host.txt", "--written=out.txt", "--cache-explain")
    for _ in range(3):
        run(project, *args, objects=(_Variables(),)).assert_outcomes(passed=1)
    assert project.counted() == 1
    project.write("host.txt", "far")
    result = run(project, *args, objects=(_Variables(),))
    result.assert_outcomes(failed=1)
    assert "host.txt" in result.stdout.str()
    project.write("host.txt", "near")
    run(project, *args, objects=(_Variables(),)).assert_outcomes(passed=1)
    assert project.counted() == 2


class _Loads:
    """As pytest-django: loads the project's settings before any conftest; and the variables of a
    file, as others do."""

    @pytest.hookimpl(tryfirst=True)
    def pytest_load_initial_conftests(self, early_config: pytest.Config) -> None:
        os.environ["COLOUR"] = (early_config.rootpath / "colour.txt").read_text()
        sys.path.insert(0, str(early_config.rootpath))
        importlib.import_module("settings")

    def pytest_sessionstart(self, session: pytest.Session) -> None:
        os.environ["SHAPE"] = (session.config.rootpath / "shape.txt").read_text()


@pytest.mark.parametrize("name", ["key.txt", "colour.txt", "local.py", "shape.txt"])
def test_what_a_plugin_loads_or_sets_before_the_tests_counts(
    project: Project, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Files, variables and modules that settings of the project take in are seen, also where it
    is another plugin that loads these as soon as pytest starts, or sets a variable later."""
    monkeypatch.setenv("COLOUR", "")
    monkeypatch.setenv("SHAPE", "")
    monkeypatch.syspath_prepend(project.path)
    project.write("key.txt", "1")
    project.write("colour.txt", "red")
    project.write("shape.txt", "round")
    project.write("shapes.py", "import os\nSHAPE = os.environ['SHAPE']\n")
    project.write(
        "settings.py",
        """
        import os
        from pathlib import Path

        KEY = Path(__file__).with_name("key.txt").read_text()
        COLOUR = os.environ["COLOUR"]
        try:
            from local import *
        except ImportError:
            pass
        """,
    )
    project.write(
        "test_suite.py",
        """
        import sys
        from counter import count
        from shapes import SHAPE

        def test_it():
            count("body")
            assert sys.modules["settings"].KEY and SHAPE
        """,
    )
    for _ in range(2):
        run(project, "--cache-tests=all", objects=(_Loads(),)).assert_outcomes(passed=1)
    assert project.counted() == 1
    project.write(name, "KEY = 2")
    for _ in range(2):
        run(project, "--cache-tests=all", objects=(_Loads(),)).assert_outcomes(passed=1)
    assert project.counted() == 2
