"""Dependencies that pytest brings: fixtures, conftests, parameters, marks, base classes."""

from __future__ import annotations

from ladder import Scenario

_PLAIN = """
from counter import count

def test_a():
    count("SELF.a")
"""
_USING = """
from counter import count

def test_a(value):
    count("SELF.a")
    assert value

def test_b(value):
    count("SELF.b")
    assert value

def test_c():
    count("SELF.c")
"""


def _fixture(scope: str, line: str) -> str:
    return f"""
import pathlib, pytest
HERE = pathlib.Path(__file__).parent

@pytest.fixture(scope="{scope}")
def value():
    {line}
"""


def _parameters(values: str) -> str:
    return f"""
import pytest
from counter import count

@pytest.mark.parametrize("x", {values})
def test_x(x):
    count("SELF.x%s" % x)
"""


_ASKING = """
from counter import count

def test_a(tmp_path):
    count("SELF.a")
"""
_OVERRIDING = """
import pytest

@pytest.fixture(scope="session")
def tmp_path_factory(tmp_path_factory):
    return tmp_path_factory
"""
_NOT_YET = _OVERRIDING.replace('@pytest.fixture(scope="session")\n', "")

PYTEST = [
    Scenario(
        "names_of_the_module_that_a_fixture_is_asked_for_in",
        files={
            "conftest.py": """
            import pytest

            @pytest.fixture
            def names(request):
                return [name for name in dir(request.module) if name.startswith("LIMIT")]
            """,
            "test_it.py": """
            from counter import count
            LIMIT = 1

            def test_a(names):
                count("SELF.a")
            """,
        },
        change={
            "test_it.py": """
            from counter import count
            LIMIT = 1
            LIMITS = 2

            def test_a(names):
                count("SELF.a")
            """
        },
        group="request-module",
    ),
    *(
        Scenario(
            f"{scope}_fixture_body",
            files={"conftest.py": _fixture(scope, "return 1"), "test_a.py": _USING},
            change={"conftest.py": _fixture(scope, "return 2")},
            stale=["a", "b"],
            free=["c"],
        )
        for scope in ("function", "module", "session")
    ),
    *(
        Scenario(
            f"{scope}_fixture_reads_a_file",
            files={
                "data.txt": "1",
                "conftest.py": _fixture(scope, "return (HERE / 'data.txt').read_text()"),
                "test_a.py": _USING,
            },
            change={"data.txt": "2"},
            named=["file changed: SELF/data.txt"],
            stale=["a", "b"],
            free=["c"],
        )
        for scope in ("function", "class", "module", "package", "session")
    ),
    Scenario(
        "fixture_of_a_fixture_reads_a_file",
        files={
            "data.txt": "1",
            "conftest.py": _fixture("session", "return (HERE / 'data.txt').read_text()")
            + '\n@pytest.fixture(scope="module")\ndef outer(value):\n    return value\n',
            "test_a.py": """
            from counter import count

            def test_a(outer):
                count("SELF.a")
                assert outer

            def test_b(outer):
                count("SELF.b")
                assert outer
            """,
        },
        change={"data.txt": "2"},
    ),
    Scenario(
        "fixture_asked_for_by_name",
        files={
            "data.txt": "1",
            "conftest.py": _fixture("session", "return (HERE / 'data.txt').read_text()"),
            "test_a.py": """
            from counter import count

            def test_a(request):
                count("SELF.a")
                assert request.getfixturevalue("value")

            def test_b(request):
                count("SELF.b")
                assert request.getfixturevalue("value")
            """,
        },
        change={"data.txt": "2"},
    ),
    Scenario(
        "autouse_session_fixture_reads_a_file",
        files={
            "data.txt": "1",
            "conftest.py": """
            import pathlib, pytest
            HERE = pathlib.Path(__file__).parent

            @pytest.fixture(scope="session", autouse=True)
            def value():
                (HERE / "data.txt").read_text()
            """,
            "test_a.py": """
            from counter import count

            def test_a():
                count("SELF.a")

            def test_b():
                count("SELF.b")
            """,
        },
        change={"data.txt": "2"},
    ),
    Scenario(
        "cached_fixture_reads_a_file",
        files={
            "data.txt": "1",
            "conftest.py": """
            import pathlib, pytest
            from counter import count
            from pytest_taskcache import cached_fixture
            HERE = pathlib.Path(__file__).parent

            @cached_fixture(scope="session")
            def value():
                count("SELF.value")
                return (HERE / "data.txt").read_text()
            """,
            "test_a.py": """
            from counter import count

            def test_a(value):
                count("SELF.a")
                assert value

            def test_b(value):
                count("SELF.b")
                assert value
            """,
        },
        change={"data.txt": "2"},
    ),
    Scenario(
        "cached_function_reads_a_file",
        files={
            "data.txt": "1",
            "helper.py": """
            import pathlib
            from counter import count
            from pytest_taskcache import cached
            HERE = pathlib.Path(__file__).parent

            @cached
            def load():
                count("SELF.load")
                return (HERE / "data.txt").read_text()
            """,
            "test_a.py": """
            from counter import count
            from .helper import load

            def test_a():
                count("SELF.a")
                assert load()

            def test_b():
                count("SELF.b")
                assert load()
            """,
        },
        change={"data.txt": "2"},
    ),
    *(
        Scenario(
            f"teardown_of_a_session_{what}",
            files={
                "data.txt": "1",
                "ending.py": f"def end(path):\n    {line}\n",
                "conftest.py": """
                import pathlib, pytest
                from .ending import end

                @pytest.fixture(scope="session")
                def value():
                    yield 1
                    end(pathlib.Path(__file__).with_name("data.txt"))
                """,
                "test_x.py": _USING,
                "test_y.py": _PLAIN.replace(".a", ".last"),
            },
            change={name: new},
            stale=["a", "b"],
            free=["c", "last"],
            named=[f"SELF/{name}"],
        )
        for what, line, name, new in (
            ("uses_a_helper", "pass", "ending.py", "def end(path):\n    return 1\n"),
            ("reads_a_file", "path.read_text()", "data.txt", "2"),
        )
    ),
    Scenario(
        "teardown_reads_a_file",
        files={
            "data.txt": "1",
            "test_a.py": """
            import pathlib, pytest
            from counter import count
            HERE = pathlib.Path(__file__).parent

            @pytest.fixture
            def value():
                yield 1
                assert (HERE / "data.txt").read_text()

            def test_a(value):
                count("SELF.a")
            """,
        },
        change={"data.txt": "2"},
    ),
    Scenario(
        "setup_module_reads_a_file",
        files={
            "data.txt": "1",
            "test_a.py": """
            import pathlib
            from counter import count
            HERE = pathlib.Path(__file__).parent

            def setup_module():
                global data
                data = (HERE / "data.txt").read_text()

            def test_a():
                count("SELF.a")
                assert data

            def test_b():
                count("SELF.b")
                assert data
            """,
        },
        change={"data.txt": "2"},
    ),
    Scenario(
        "set_up_class_reads_a_file",
        files={
            "data.txt": "1",
            "test_a.py": """
            import pathlib, unittest
            from counter import count
            HERE = pathlib.Path(__file__).parent

            class TestIt(unittest.TestCase):
                @classmethod
                def setUpClass(cls):
                    cls.data = (HERE / "data.txt").read_text()

                def test_a(self):
                    count("SELF.a")
                    assert self.data

                def test_b(self):
                    count("SELF.b")
                    assert self.data
            """,
        },
        change={"data.txt": "2"},
    ),
    Scenario(
        "set_up_class_of_a_base",
        files={
            "base.py": """
            import unittest
            from .deep import rate

            class Base(unittest.TestCase):
                @classmethod
                def setUpClass(cls):
                    cls.rate = rate()
            """,
            "deep.py": "def rate():\n    return 1\n",
            "test_a.py": """
            from counter import count
            from .base import Base

            class TestIt(Base):
                def test_a(self):
                    count("SELF.a")
                    assert self.rate

                def test_b(self):
                    count("SELF.b")
                    assert self.rate
            """,
        },
        change={"deep.py": "def rate():\n    return 2\n"},
    ),
    Scenario(
        "base_test_class_elsewhere",
        files={
            "base.py": """
            from counter import count

            class Base:
                def test_a(self):
                    count("SELF.a")
                    assert self.x
            """,
            "test_a.py": "from .base import Base\nclass TestIt(Base):\n    x = 1\n",
        },
        change={
            "base.py": """
            from counter import count

            class Base:
                def test_a(self):
                    count("SELF.a")
                    assert self.x > 0
            """
        },
    ),
    Scenario(
        "base_test_class_setup_elsewhere",
        files={
            "base.py": "class Base:\n    def setup_method(self):\n        self.x = 1\n",
            "test_a.py": """
            from counter import count
            from .base import Base

            class TestIt(Base):
                def test_a(self):
                    count("SELF.a")
                    assert self.x
            """,
        },
        change={"base.py": "class Base:\n    def setup_method(self):\n        self.x = 2\n"},
    ),
    Scenario(
        "closer_conftest_overrides",
        files={
            "conftest.py": _fixture("function", "return 1"),
            "inner/__init__.py": "",
            "inner/test_a.py": """
            from counter import count

            def test_a(value):
                count("SELF.a")
                assert value
            """,
        },
        change={"inner/conftest.py": _fixture("function", "return 2")},
    ),
    Scenario(
        "closer_module_fixture_overrides",
        files={
            "conftest.py": _fixture("function", "return 1"),
            "test_a.py": "import pytest\n" + _USING,
        },
        change={
            "test_a.py": """
            import pytest
            from counter import count

            @pytest.fixture
            def value():
                return 2

            def test_a(value):
                count("SELF.a")
                assert value

            def test_b(value):
                count("SELF.b")
                assert value

            def test_c():
                count("SELF.c")
            """
        },
        stale=["a", "b"],
        free=["c"],
    ),
    Scenario(
        "new_autouse_fixture",
        files={"test_a.py": _PLAIN},
        change={
            "conftest.py": """
            import pytest

            @pytest.fixture(autouse=True)
            def strict():
                yield
            """
        },
    ),
    Scenario(
        "new_autouse_fixture_in_the_module",
        files={"test_a.py": _PLAIN},
        change={
            "test_a.py": """
            import pytest
            from counter import count

            @pytest.fixture(autouse=True)
            def strict():
                yield

            def test_a():
                count("SELF.a")
            """
        },
    ),
    Scenario(
        "automatic_fixture_that_is_made_by_a_call",
        files={"test_a.py": _PLAIN},
        change={
            "test_a.py": _PLAIN + "import pytest\nstrict = pytest.fixture(autouse=True)(print)\n"
        },
    ),
    Scenario(
        "fixture_overrides_one_that_no_code_of_the_project_asks_for",
        files={"test_a.py": _ASKING, "inner/test_b.py": _ASKING.replace(".a", ".b")},
        change={"test_a.py": _ASKING + _OVERRIDING, "inner/conftest.py": _OVERRIDING},
    ),
    Scenario(
        "fixture_overrides_one_that_is_asked_for_by_a_computed_name",
        files={
            "conftest.py": _fixture("function", "return 1"),
            "inner/conftest.py": "import pytest\n",
            "inner/test_a.py": """
            from counter import count

            def test_a(request):
                count("SELF.a")
                assert request.getfixturevalue("".join(["val", "ue"]))
            """,
        },
        change={"inner/conftest.py": _fixture("function", "return 2")},
    ),
    Scenario(
        "fixture_overrides_one_once_it_is_declared",
        files={"conftest.py": _NOT_YET, "test_a.py": _ASKING},
        change={"conftest.py": _OVERRIDING},
    ),
    Scenario(
        "new_conftest_hook_that_is_assigned",
        files={"conftest.py": "def _check(item):\n    pass\n", "test_a.py": _PLAIN},
        change={"conftest.py": "def _check(item):\n    pass\npytest_runtest_call = _check\n"},
    ),
    Scenario(
        "new_conftest_hook",
        files={"conftest.py": "import pytest\n", "test_a.py": _PLAIN},
        change={"conftest.py": "import pytest\ndef pytest_runtest_call(item):\n    pass\n"},
        named=["conftest"],
    ),
    Scenario(
        "conftest_hook_uses_a_helper",
        files={
            "hooks.py": "def check():\n    return 1\n",
            "conftest.py": """
            from .hooks import check

            def pytest_runtest_call(item):
                assert check()
            """,
            "test_a.py": _PLAIN,
        },
        change={"hooks.py": "def check():\n    return 2\n"},
    ),
    Scenario(
        "collection_hook_adds_a_mark",
        files={
            "marks.py": "REASON = ''\n",
            "conftest.py": """
            import pytest
            from .marks import REASON

            def pytest_collection_modifyitems(items):
                for item in items:
                    if REASON and "SELF" in item.nodeid:
                        item.add_marker(pytest.mark.usefixtures("tmp_path"))
            """,
            "test_a.py": _PLAIN,
        },
        change={"marks.py": "REASON = 'x'\n"},
        group="hooks of sessions",
    ),
    *(
        Scenario(
            f"{hook}_in_a_conftest_beside",
            files={
                "a/__init__.py": "",
                "a/conftest.py": f"""
                def {hook}({given}):
                    {done}
                """,
                "a/test_a.py": _PLAIN,
                "b/__init__.py": "",
                "b/test_b.py": _PLAIN.replace("test_a", "test_b").replace("SELF.a", "SELF.b"),
            },
            change={
                "a/conftest.py": f"""
                def {hook}({given}):
                    {done} + 1
                """
            },
            group="hooks of sessions",
        )
        for hook, given, done in (
            ("pytest_configure", "config", "config.rate = 1"),
            ("pytest_collection_modifyitems", "items", "for item in items: item.rate = 1"),
        )
    ),
    Scenario(
        "parameter_values_in_the_same_file",
        files={"test_x.py": _parameters("[1, 2]")},
        change={"test_x.py": _parameters("[1, 2, 3]")},
    ),
    Scenario(
        "parameter_value_under_the_same_id",
        files={
            "test_x.py": """
            import pytest
            from counter import count

            @pytest.mark.parametrize("x", [pytest.param({"a": 1}, id="same")])
            def test_x(x):
                count("SELF.x")
                assert x
            """
        },
        change={
            "test_x.py": """
            import pytest
            from counter import count

            @pytest.mark.parametrize("x", [pytest.param({"a": 2}, id="same")])
            def test_x(x):
                count("SELF.x")
                assert x
            """
        },
    ),
    Scenario(
        "parameter_values_in_another_file",
        files={
            "cases.py": "CASES = [{'x': 1}]\n",
            "test_x.py": """
            import pytest
            from counter import count
            from .cases import CASES

            @pytest.mark.parametrize("x", CASES)
            def test_x(x):
                count("SELF.x")
                assert x
            """,
        },
        change={"cases.py": "CASES = [{'x': 2}]\n"},
    ),
    Scenario(
        "parameter_values_in_a_data_file",
        files={
            "cases.json": '[{"x": 1}, {"x": 5}]',
            "test_x.py": """
            import json, pathlib, pytest
            from counter import count
            CASES = json.loads((pathlib.Path(__file__).parent / "cases.json").read_text())

            @pytest.mark.parametrize("x", CASES)
            def test_x(x):
                count("SELF.x")
                assert x
            """,
        },
        change={"cases.json": '[{"x": 2}, {"x": 5}]'},
    ),
    Scenario(
        "parameter_values_generated_by_a_hook",
        files={
            "cases.py": "CASES = [{'x': 1}]\n",
            "conftest.py": """
            from .cases import CASES

            def pytest_generate_tests(metafunc):
                if "x" in metafunc.fixturenames:
                    metafunc.parametrize("x", CASES)
            """,
            "test_x.py": """
            from counter import count

            def test_x(x):
                count("SELF.x")
                assert x
            """,
        },
        change={"cases.py": "CASES = [{'x': 2}]\n"},
    ),
    Scenario(
        "parameter_of_a_fixture",
        files={
            "cases.py": "CASES = [{'x': 1}]\n",
            "conftest.py": """
            import pytest
            from .cases import CASES

            @pytest.fixture(params=CASES, scope="module")
            def x(request):
                return request.param
            """,
            "test_x.py": """
            from counter import count

            def test_x(x):
                count("SELF.x")
                assert x
            """,
        },
        change={"cases.py": "CASES = [{'x': 2}]\n"},
    ),
    Scenario(
        "skipif_condition",
        files={
            "flags.py": "OLD = False\n",
            "test_a.py": """
            import pytest
            from counter import count
            from .flags import OLD

            @pytest.mark.skipif(OLD, reason="old")
            def test_a():
                count("SELF.a")
            """,
        },
        change={"flags.py": "OLD = 0\n"},
    ),
    Scenario(
        "skipif_condition_from_the_environment",
        files={
            "test_a.py": """
            import os, pytest
            from counter import count

            @pytest.mark.skipif(os.environ.get("LADDER_SELF") == "skip", reason="old")
            def test_a():
                count("SELF.a")
            """
        },
        environ={"LADDER_skipif_condition_from_the_environment": ("1", "2")},
    ),
    Scenario(
        "condition_that_is_a_text",
        files={
            "rules.py": "OLD = 1\n",
            "test_a.py": """
            import pytest
            from counter import count
            from . import rules

            @pytest.mark.skipif("rules.OLD > 2", reason="old")
            def test_a():
                count("SELF.a")
            """,
        },
        change={"rules.py": "OLD = 2\n"},
    ),
    Scenario(
        "condition_that_is_a_text_on_the_environment",
        files={
            "test_a.py": """
            import pytest
            from counter import count

            @pytest.mark.xfail("os.environ.get('LADDER_SELF') == 'fails'", reason="old")
            def test_a():
                count("SELF.a")
            """
        },
        environ={"LADDER_condition_that_is_a_text_on_the_environment": ("1", "2")},
    ),
    Scenario(
        "mark_argument",
        files={
            "limits.py": "LIMIT = 1\n",
            "conftest.py": """
            import pytest

            @pytest.fixture(autouse=True)
            def limit(request):
                return request.node.get_closest_marker("usefixtures")
            """,
            "test_a.py": """
            import pytest
            from counter import count
            from .limits import LIMIT
            pytestmark = pytest.mark.usefixtures(*["tmp_path"] * LIMIT)

            def test_a():
                count("SELF.a")
            """,
        },
        change={"limits.py": "LIMIT = 2\n"},
    ),
    Scenario(
        "doctest_in_a_text_file",
        files={
            "helper.py": "def rate():\n    return 1\n",
            "test_doc.txt": """
            >>> from counter import count
            >>> from SELF.helper import rate
            >>> count("SELF.doc")
            >>> rate() > 0
            True
            """,
        },
        change={"helper.py": "def rate():\n    return 2\n"},
    ),
    Scenario(
        "what_a_doctest_only_reads",
        files={
            "helper.py": "RATE = 1\n",
            "lib.py": "from . import helper\n",
            "test_a.py": "from . import lib\n\ndef test_a():\n    pass\n",
            "test_doc.txt": """
            >>> from counter import count
            >>> import SELF.lib
            >>> count("SELF.doc")
            >>> SELF.lib.helper.RATE > 0
            True
            """,
        },
        change={"helper.py": "RATE = 2\n"},
    ),
    Scenario(
        "file_that_a_doctest_reads_itself",
        files={
            "data.txt": "1",
            "test_doc.txt": """
            >>> from counter import count
            >>> import pathlib, SELF
            >>> count("SELF.doc")
            >>> len(pathlib.Path(SELF.__file__).with_name("data.txt").read_text()) > 0
            True
            """,
        },
        change={"data.txt": "2"},
        named=["file changed: SELF/data.txt"],
    ),
    Scenario(
        "file_that_a_finalizer_reads_that_is_no_function_of_the_project",
        files={
            "data.txt": "1",
            "test_a.py": """
            import pathlib
            from counter import count

            def test_a(request):
                count("SELF.a")
                request.addfinalizer(pathlib.Path(__file__).with_name("data.txt").read_text)
            """,
        },
        change={"data.txt": "2"},
        named=["file changed: SELF/data.txt"],
    ),
    *(
        Scenario(
            f"{what}_by_what_was_handed_to_raises",
            head="import os, pytest",
            body=f"""
            try:
                result = pytest.raises({call}).type
            except pytest.fail.Exception:
                result = None
            """,
            change=change,
            environ=environ,
        )
        for what, call, change, environ in (
            ("failed_open", "OSError, (HERE / 'absent').read_text", {"absent": ""}, {}),
            ("look", "OSError, os.stat, HERE / 'absent'", {"absent": ""}, {}),
            ("listing", "OSError, os.listdir, HERE / 'no'", {"no/b": ""}, {}),
            ("variable", "KeyError, os.environ.__getitem__, 'RAISED'", {}, {"RAISED": (None, "1")}),
        )
    ),
    Scenario(
        "test_class_attribute",
        files={
            "test_a.py": """
            from counter import count

            class TestIt:
                x = 1

                def test_a(self):
                    count("SELF.a")
                    assert self.x
            """
        },
        change={
            "test_a.py": """
            from counter import count

            class TestIt:
                x = 2

                def test_a(self):
                    count("SELF.a")
                    assert self.x
            """
        },
    ),
    Scenario(
        "global_of_the_test_module",
        files={"test_a.py": "X = 1\n" + _PLAIN + "    assert X\n"},
        change={"test_a.py": "X = 2\n" + _PLAIN + "    assert X\n"},
    ),
]
