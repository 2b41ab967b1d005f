"""A project with one of every kind of test that collection can meet."""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ElementTree

import pytest
from inner_runs import run
from projects import Project

PLUGINS = ("anyio",)

CONFTEST = """
    import pytest

    def pytest_addoption(parser):
        parser.addini("extra_marks", "", default="")

    def pytest_generate_tests(metafunc):
        if "generated" in metafunc.fixturenames:
            metafunc.parametrize("generated", ["one", "two"])

    def pytest_collection_modifyitems(items):
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(pytest.mark.timely)

    class YamlFile(pytest.File):
        def collect(self):
            yield YamlItem.from_parent(self, name="entry")

    class YamlItem(pytest.Item):
        def runtest(self):
            pass

        def reportinfo(self):
            return self.path, 0, "yaml entry"

    def pytest_collect_file(file_path, parent):
        if file_path.suffix == ".yaml":
            return YamlFile.from_parent(parent, path=file_path)

    @pytest.fixture(scope="session", params=["red", "blue"])
    def colour(request):
        return request.param
"""

FILES = {
    "test_odd_functions.py": """
        import warnings
        import pytest

        warnings.warn("made when collected", DeprecationWarning)

        class Thing:
            pass

        @pytest.fixture(scope="module", params=["m1", "m2"])
        def size(request):
            return request.param

        @pytest.mark.parametrize("x", [1, "a", Thing(), (1, 2)])
        def test_objects(x):
            pass

        def test_sizes(size):
            pass

        def test_sizes_again(size, tmp_path):
            pass

        def test_colours(colour):
            pass

        @pytest.mark.slow(reason="long")
        def test_marked(record_property):
            record_property("ticket", 7)

        def test_generated(generated):
            print(generated)

        test_marked.purpose = "attribute"

        @pytest.mark.skip(reason="not today")
        def test_skipped():
            raise RuntimeError

        @pytest.mark.skipif(True, reason="never")
        def test_skipped_if():
            raise RuntimeError

        @pytest.mark.withargs(kind=Thing)
        def test_withargs():
            pass

        def test_subtests(subtests):
            with subtests.test("first", i=1):
                pass
    """,
    "test_odd_classes.py": """
        import unittest
        import pytest

        pytestmark = pytest.mark.modmark

        class TestOuter:
            @pytest.fixture(autouse=True)
            def around(self):
                yield

            @classmethod
            def setup_class(cls):
                cls.value = 1

            def test_method(self):
                assert self.value == 1

            class TestInner:
                def test_deep(self, colour):
                    pass

        @pytest.mark.slow
        class TestSlow:
            @pytest.mark.withargs(1)
            class TestInside:
                def test_slow(self):
                    pass

        @pytest.mark.skip(reason="all of it")
        class TestNever:
            def test_never(self):
                raise RuntimeError

        class Base:
            def test_inherited(self):
                pass

        class TestChild(Base):
            def test_own(self):
                pass

        class Case(unittest.TestCase):
            def setUp(self):
                self.x = 1

            def test_case(self):
                self.assertEqual(self.x, 1)

        class Later(unittest.IsolatedAsyncioTestCase):
            async def test_later(self):
                pass
    """,
    "test_odd_async.py": """
        import pytest

        @pytest.mark.asyncio
        async def test_loop():
            pass

        @pytest.mark.anyio
        @pytest.mark.parametrize("anyio_backend", ["asyncio"])
        async def test_any(anyio_backend):
            pass
    """,
    "test_odd_skipping.py": """
        import test_odd_helper
        import pytest

        needed = pytest.importorskip("odd_and_not_there")

        def test_needing():
            assert needed.value
    """,
    "test_odd_helper.py": "",
    "sub/__init__.py": "",
    "sub/conftest.py": """
        import pytest

        @pytest.fixture(autouse=True)
        def beside():
            yield

        @pytest.fixture
        def colour():
            return "none"
    """,
    "sub/test_odd_below.py": """
        '''
        >>> 1 + 1
        2
        '''
        def test_below(colour):
            assert colour == "none"

        def test_p(beside):
            pass
    """,
    "data.yaml": "entry: 1\n",
    "test_text.txt": ">>> 1 + 1\n2\n",
    "counting.py": '''
        def double(x):
            """
            >>> double(2)
            4
            """
            return 2 * x
    ''',
}


def write_odd_project(project: Project) -> None:
    """Writes it, without anything of ours in its files."""
    project.write(
        "pytest.ini",
        "[pytest]\nasyncio_default_fixture_loop_scope = function\n"
        "markers =\n    slow\n    timely\n    modmark\n    withargs\n",
    )
    project.write("conftest.py", CONFTEST)
    for name, text in FILES.items():
        project.write(name, text)


class Seen:
    """What a run looked like: its test cases in order, without times, its counts, what it said of
    tests, and which test files were imported."""

    def __init__(self, project: Project, result: pytest.RunResult, imported: list[str]) -> None:
        self.result = result
        self.outcomes = result.parseoutcomes()
        self.imported = imported
        self.ids = [line for line in result.outlines if "::" in line and " " not in line]
        self.cases: list[tuple[object, ...]] = []
        file = project.path / "seen.xml"
        if file.exists():
            for case in ElementTree.parse(file).iter("testcase"):
                inside = [
                    (part.tag, sorted(part.items()), (part.text or "").strip())
                    for part in case.iter()
                    if part.tag not in ("testcase", "properties")
                    and part.get("name") != "taskcache"
                ]
                self.cases.append((case.get("classname"), case.get("name"), inside))
            file.unlink()


class Looks:
    """A plugin that looks which test files are imported when the run ends."""

    def __init__(self) -> None:
        self.imported: list[str] = []

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self) -> None:
        names = (name.rpartition(".")[2] for name in sys.modules)
        self.imported = sorted(name for name in names if name.startswith("test_odd_"))


def see(project: Project, *options: str, plugins: tuple[str, ...] = PLUGINS) -> Seen:
    """Runs the project and says what was seen."""
    looks = Looks()
    given = ("--junitxml=seen.xml", *options)
    result = run(project, *given, plugins=plugins, objects=(looks,))
    return Seen(project, result, looks.imported)
