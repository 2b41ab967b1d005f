"""Fixtures that one does not own, cached by a mark or by the ini file."""

from __future__ import annotations

import pytest
from nested_runs import cold_then_warm, run
from projects import Project

OWNER = """
    import pytest
    from counter import count

    @pytest.fixture(scope="module")
    def database():
        count("database")
        yield {"rows": [1, 2]}
        count("teardown")

    @pytest.fixture
    def data():
        count("data")
        return 1
"""

PLACES = {
    "test": ("", "", "@pytest.mark.cached(fixtures=['database'])\n"),
    "class": ("", "@pytest.mark.cached(fixtures=['database'])\n", ""),
    "module": ("pytestmark = pytest.mark.cached(fixtures=['database'])\n", "", ""),
    "list": ("pytestmark = [pytest.mark.cached(fixtures=('database',))]\n", "", ""),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_mark_caches_the_fixtures_it_names(project: Project, place: str) -> None:
    """On a test, a class or a module; only those named, and the tests themselves run."""
    on_module, on_class, on_test = PLACES[place]
    project.write("conftest.py", OWNER)
    project.write(
        "test_suite.py",
        "import pytest\nfrom counter import count\n\n"
        + on_module
        + on_class
        + "class TestIt:\n"
        + ("    " + on_test if on_test else "")
        + "    def test_it(self, database, data):\n"
        + "        count('test')\n"
        + "        assert database == {'rows': [1, 2]} and data == 1\n",
    )
    run(project).assert_outcomes(passed=1)
    run(project).assert_outcomes(passed=1)
    counts = {name: project.counted(name) for name in ("database", "teardown", "data", "test")}
    assert counts == {"database": 1, "teardown": 1, "data": 2, "test": 2}


@pytest.mark.parametrize("names", ["database data", "database\n    data", "database, data"])
def test_the_ini_file_names_fixtures_to_cache(project: Project, names: str) -> None:
    """``taskcache_fixtures``: no code need be touched."""
    project.write("pytest.ini", f"[pytest]\ntaskcache_fixtures = {names}\n")
    project.write("conftest.py", OWNER)
    project.write("test_suite.py", "def test_it(database, data):\n    assert data == 1\n")
    cold_then_warm(project, computed=3, passed=1)


def test_a_foreign_fixture_is_as_fresh_as_one_of_ones_own(project: Project) -> None:
    """Its code and its inputs count."""
    project.write("pytest.ini", "[pytest]\ntaskcache_fixtures = data\n")
    owner = """
        import pytest
        from counter import count

        @pytest.fixture
        def data(base):
            count("data")
            return base + 1

        @pytest.fixture
        def base():
            return 1
    """
    project.write("conftest.py", owner)
    project.write("test_suite.py", "def test_it(data, base):\n    assert data > base\n")
    cold_then_warm(project, computed=1, passed=1)
    project.write("conftest.py", owner.replace("return 1", "return 5"))
    run(project).assert_outcomes(passed=1)
    assert project.counted() == 2
    project.write("conftest.py", owner.replace("base + 1", "base + 2"))
    run(project).assert_outcomes(passed=1)
    assert project.counted() == 3


def test_pytests_own_handles_are_never_cached(project: Project) -> None:
    """Naming ``tmp_path`` or ``monkeypatch`` changes nothing."""
    project.write(
        "test_suite.py",
        """
        import os
        import pytest

        @pytest.mark.cached(fixtures=["tmp_path", "monkeypatch", "request", "capsys"])
        def test_it(tmp_path, monkeypatch, request, capsys):
            monkeypatch.setenv("MINE", "1")
            print("out")
            assert capsys.readouterr().out == "out\\n"
            assert list(tmp_path.iterdir()) == []
            assert request.node.name == "test_it"
        """,
    )
    run(project).assert_outcomes(passed=1)
    run(project).assert_outcomes(passed=1)


def test_a_foreign_async_fixture_is_cached(project: Project) -> None:
    """One of pytest-asyncio, named in the ini file."""
    project.write(
        "pytest.ini",
        """
        [pytest]
        asyncio_default_fixture_loop_scope = function
        taskcache_fixtures = data
        """,
    )
    project.write(
        "test_suite.py",
        """
        import asyncio
        import pytest
        import pytest_asyncio
        from counter import count

        @pytest_asyncio.fixture
        async def data():
            count("body")
            await asyncio.sleep(0)
            yield [1]

        @pytest.mark.asyncio
        async def test_it(data):
            assert data == [1]
        """,
    )
    cold_then_warm(project, computed=1, passed=1)
