"""A project that uses nothing of the plugin pays nothing for it; one that does is never missed."""

from __future__ import annotations

from pathlib import Path

import pytest
from projects import Project

# The name of the plugin in a conftest would be a use of it.
LOOK = """
    import sys
    import pytest

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish():
        ours = sorted(name for name in sys.modules if name.startswith("pytest_task" "cache"))
        sys.__stderr__.write("LOADED " + " ".join(ours) + "\\n")
"""


def _loaded(result: pytest.RunResult) -> list[str]:
    lines = [line for line in result.errlines if line.startswith("LOADED")]
    assert lines
    return lines[-1].split()[1:]


def test_unused_plugin_loads_nothing(project: Project) -> None:
    """Without an option, a setting, a mark or a decorator, two small modules are all there is;
    and no directory is made."""
    project.write("conftest.py", LOOK)
    project.write("tests/test_suite.py", "import functools\n\ndef test_it():\n    pass\n")
    result = project.run()
    result.assert_outcomes(passed=1)
    assert _loaded(result) == [
        "pytest_taskcache", "pytest_taskcache.plugin", "pytest_taskcache.plugin.hookspecs"
    ]  # fmt: skip
    assert not (project.path / ".pytest_cache" / "taskcache").exists()


def test_unused_plugin_where_pytests_own_cache_is_switched_off(project: Project) -> None:
    """``-p no:cacheprovider`` takes the setting ``cache_dir`` away, and the run goes on."""
    project.write("tests/test_suite.py", "def test_it():\n    pass\n")
    project.run("-p", "no:cacheprovider").assert_outcomes(passed=1)
    assert not (project.path / ".taskcache").exists()


USES = {
    "mark": {
        "test_suite.py": """
            import pytest
            from counter import count

            @pytest.mark.cached
            def test_it():
                count("body")
        """
    },
    "late mark": {
        "conftest.py": """
            import pytest
            name = "cach" + "ed"
            def pytest_collection_modifyitems(items):
                for item in items:
                    item.add_marker(name)
        """,
        "test_suite.py": "from counter import count\ndef test_it(): count('body')\n",
    },
    "helper": {
        "far/helpers.py": """
            from pytest_taskcache import cached
            from counter import count

            @cached
            def helper():
                count("body")
                return 1
        """,
        "test_suite.py": "from far.helpers import helper\ndef test_it(): assert helper()\n",
    },
    "fixture setting": {
        "pytest.ini": "[pytest]\ntaskcache_fixtures = data\n",
        "test_suite.py": """
            import pytest
            from counter import count

            @pytest.fixture
            def data():
                count("body")
                return 1

            def test_it(data):
                pass
        """,
    },
}


@pytest.mark.parametrize("use", USES)
def test_every_use_is_noticed(project: Project, use: str) -> None:
    """A mark, one that a conftest adds, a decorator in a module far from the tests, a setting: in
    the first run as in the second, the body runs once."""
    for name, text in USES[use].items():
        project.write(name, text)
    for _ in range(2):
        project.run("-p", "no:asyncio").assert_outcomes(passed=1)
    assert project.counted("body") == 1


def test_cache_directory_is_as_pytest_makes_it(project: Project) -> None:
    """The directory that ours lies in is kept out of repositories and backups."""
    project.write("test_suite.py", "def test_it(): pass\n")
    project.run("--cache-tests=all").assert_outcomes(passed=1)
    directory = Path(project.path, ".pytest_cache")
    assert (directory / "taskcache").is_dir()
    for name in (".gitignore", "CACHEDIR.TAG", "README.md"):
        assert (directory / name).is_file(), name


def test_what_is_loaded_takes_pythons_own_way(project: Project) -> None:
    """Pytest's rewriting of assertions, by which it loads a plugin's modules, takes twice the time;
    afterwards the ways in which modules are found are as they were."""
    project.write(
        "conftest.py",
        """
        import sys
        import pytest

        @pytest.hookimpl(trylast=True)
        def pytest_unconfigure():
            for name, module in sorted(sys.modules.items()):
                if name.startswith("pytest_task" "cache."):
                    print("BY", type(module.__loader__).__name__, name, file=sys.__stderr__)
            finders = [repr(finder) for finder in sys.meta_path]
            print("FINDERS", *finders, file=sys.__stderr__)
        """,
    )
    project.write("test_suite.py", "def test_it():\n    pass\n")
    result = project.run("--cache-tests=all")
    rewritten = {line.split()[2] for line in result.errlines if line.startswith("BY Assertion")}
    early = {"plugin", "plugin.hookspecs"}
    assert rewritten <= {f"pytest_taskcache.{name}" for name in early}
    assert any("BY SourceFileLoader pytest_taskcache.plugin.session" in x for x in result.errlines)
    assert "pytest_taskcache" not in next(x for x in result.errlines if x.startswith("FINDERS"))
