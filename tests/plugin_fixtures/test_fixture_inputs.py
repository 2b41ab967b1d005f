"""What a cached fixture is given: each change of it is a miss, and nothing else is."""

from __future__ import annotations

import pytest
from nested_runs import cold_then_warm, run
from projects import Project


def climb(project: Project, name: str, before: str, after: str, *args: str, tests: int = 1) -> None:
    """The ladder: computed, cached, changed, computed again, cached again."""
    cold_then_warm(project, *args, computed=1, passed=tests)
    path = project.path / name
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))
    run(project, *args).assert_outcomes(passed=tests)
    assert project.counted() == 2
    run(project, *args).assert_outcomes(passed=tests)
    assert project.counted() == 2


@pytest.mark.parametrize("scope", ["function", "module"])
def test_a_changed_upstream_value_is_a_miss(project: Project, scope: str) -> None:
    """A plain fixture's value is an input of the cached fixture that takes it."""
    project.write("given.json", "[1]")
    project.write(
        "test_suite.py",
        f"""
        import json
        import pathlib
        import pytest
        from counter import count
        from pytest_taskcache import cached_fixture

        @pytest.fixture(scope={scope!r})
        def upstream():
            return json.loads(pathlib.Path("given.json").read_text())

        @cached_fixture(scope={scope!r})
        def data(upstream):
            count("body")
            return sum(upstream)

        def test_it(data, upstream):
            assert data == sum(upstream)
        """,
    )
    climb(project, "given.json", "[1]", "[1, 2]")


def test_an_equal_upstream_value_is_no_miss_where_it_is_all_that_counts(project: Project) -> None:
    """With a policy of source and inputs, upstream may be edited freely while its value stays."""
    project.write("given.py", "def value():\n    return [1, 2]\n")
    project.write(
        "test_suite.py",
        """
        import pytest
        from counter import count
        from given import value
        from pytest_taskcache import INPUTS, TASK_SOURCE, cached_fixture

        @pytest.fixture
        def upstream():
            return value()

        @cached_fixture(policy=TASK_SOURCE + INPUTS)
        def data(upstream):
            count("body")
            return sum(upstream)

        def test_it(data):
            assert data in (3, 4)
        """,
    )
    cold_then_warm(project, computed=1, passed=1)
    project.write("given.py", "def value():\n    return sorted([2, 1])\n")
    run(project).assert_outcomes(passed=1)
    assert project.counted() == 1
    project.write("given.py", "def value():\n    return [2, 2]\n")
    run(project).assert_outcomes(passed=1)
    assert project.counted() == 2


def test_an_upstream_value_that_another_fixture_changed_counts_as_it_is(project: Project) -> None:
    """A cached list that a plain fixture appends to before: what counts is what is there now."""
    project.write("given.py", "MORE = 5\n")
    project.write(
        "test_suite.py",
        """
        import pytest
        from counter import count
        from given import MORE
        from pytest_taskcache import cached_fixture

        @cached_fixture
        def base():
            return [1]

        @pytest.fixture
        def changed(base):
            base.append(MORE)

        @cached_fixture
        def data(changed, base):
            count("body")
            return sum(base)

        def test_it(data, base):
            assert data == sum(base)
        """,
    )
    climb(project, "given.py", "5", "6")


def test_a_session_value_that_a_test_changed_counts_as_it_is(project: Project) -> None:
    """One test changes the shared list; a fixture made for the next test sees that list, and is
    not served what belongs to the unchanged one."""
    suite = """
        from counter import count
        from pytest_taskcache import cached_fixture

        @cached_fixture(scope="session")
        def base():
            return [1]

        def test_a(base):
            CHANGE

        @cached_fixture
        def data(base):
            count("body")
            return sum(base)

        def test_b(data, base):
            assert data == sum(base)
    """
    project.write("test_suite.py", suite.replace("CHANGE", "pass"))
    cold_then_warm(project, computed=1, passed=2)
    run(project, "-k", "test_b").assert_outcomes(passed=1, deselected=1)
    assert project.counted() == 1
    project.write("test_suite.py", suite.replace("CHANGE", "base.append(1)"))
    run(project).assert_outcomes(passed=2)
    assert project.counted() == 2


def test_an_undigestable_upstream_makes_uncacheable_and_says_why(project: Project) -> None:
    """A connection has no digest: the fixture runs each time, the test passes, and the reason
    names the argument and the remedy."""
    project.write(
        "test_suite.py",
        """
        import sqlite3
        import pytest
        from counter import count
        from pytest_taskcache import cached_fixture

        @pytest.fixture
        def connection():
            connection = sqlite3.connect(":memory:")
            yield connection
            connection.close()

        @cached_fixture
        def data(connection):
            count("body")
            return connection.execute("select 1").fetchone()

        def test_it(data):
            assert data == (1,)
        """,
    )
    run(project, "-v").assert_outcomes(passed=1)
    second = run(project, "-v")
    second.assert_outcomes(passed=1)
    assert project.counted() == 2
    second.stdout.fnmatch_lines(
        [
            "*argument connection: sqlite3.Connection cannot be digested; leave it out with "
            "`policy - 'connection'` or register a hasher*",
            "taskcache: *1 not kept (1 input cannot be digested)*",
        ]
    )


LEFT_OUT = {
    "connection": ["(self, connection):", "connection.total_changes"],
    "param": ["(self, request):", "next(request.param)"],
    "request": ["(self, request):", "request.instance.connection, request.keywords"],
    "self": ["(self):", "self.connection"],
}


@pytest.mark.parametrize("name", LEFT_OUT)
def test_what_is_left_out_does_not_matter(project: Project, name: str) -> None:
    """``policy - "name"`` leaves out an argument, the parameter, what is read from the request,
    or the instance."""
    signature, body = LEFT_OUT[name]
    params = ", params=[iter('abc')]" if name == "param" else ""
    project.write(
        "test_suite.py",
        f"""
        import sqlite3
        import pytest
        from counter import count
        from pytest_taskcache import DEFAULT, cached_fixture

        @pytest.fixture
        def connection():
            connection = sqlite3.connect(":memory:")
            yield connection
            connection.close()

        class TestIt:
            @pytest.fixture(autouse=True)
            def prepare(self, connection):
                self.connection = connection

            @cached_fixture(policy=DEFAULT - {name!r}{params})
            def data{signature}
                count("body")
                {body}
                return 1

            def test_it(self, data):
                assert data == 1
        """,
    )
    cold_then_warm(project, computed=1, passed=1)


def test_handles_count_by_name(project: Project) -> None:
    """``tmp_path`` and its like differ in each run and are no reason for a miss."""
    project.write(
        "test_suite.py",
        """
        from counter import count
        from pytest_taskcache import cached_fixture

        @cached_fixture
        def data(tmp_path, monkeypatch, request, tmp_path_factory, capsys, caplog, recwarn):
            count("body")
            (tmp_path / "file").write_text("x")
            return (tmp_path / "file").read_text() + str(request.scope)

        def test_a(data):
            assert data == "xfunction"

        def test_b(data):
            assert data == "xfunction"
        """,
    )
    cold_then_warm(project, computed=1, passed=2)


def test_a_handle_that_someone_overrides_counts_by_value(project: Project) -> None:
    """A fixture of one's own called ``tmp_path`` is no handle."""
    project.write(
        "test_suite.py",
        """
        import pytest
        from counter import count
        from given import VALUE
        from pytest_taskcache import INPUTS, TASK_SOURCE, cached_fixture

        @pytest.fixture
        def tmp_path():
            return VALUE

        @cached_fixture(policy=TASK_SOURCE + INPUTS)
        def data(tmp_path):
            count("body")
            return tmp_path

        def test_a(data):
            assert data == VALUE
        """,
    )
    project.write("given.py", "VALUE = 1\n")
    climb(project, "given.py", "1", "2")


def test_a_fixture_that_reads_its_node_belongs_to_that_node(project: Project) -> None:
    """More tests than a key has variants: each keeps its own value, named or not by the code."""
    project.write(
        "test_suite.py",
        """
        import pytest
        from counter import count
        from pytest_taskcache import cached_fixture

        @cached_fixture
        def name(request):
            count("body")
            return request.node.name

        @pytest.mark.parametrize("i", range(20))
        def test_it(name, i):
            assert name == f"test_it[{i}]"
        """,
    )
    cold_then_warm(project, computed=20, passed=20)


def test_what_a_helper_reads_from_the_request_counts(project: Project) -> None:
    """The fixture hands its request on: what is read there is noticed all the same."""
    project.write(
        "conftest.py",
        """
        from counter import count
        from pytest_taskcache import cached_fixture

        def level(request):
            return request.node.get_closest_marker("level").args[0]

        @cached_fixture
        def data(request):
            count("body")
            return level(request)
        """,
    )
    project.write(
        "test_suite.py",
        """
        import pytest

        @pytest.mark.level(LEVEL)
        def test_it(data):
            assert data == LEVEL

        @pytest.mark.level(8)
        def test_other(data):
            assert data == 8
        """.replace("LEVEL", "3"),
    )
    project.write("pytest.ini", "[pytest]\nmarkers = level(n): how far\n")
    cold_then_warm(project, computed=2, passed=2)
    path = project.path / "test_suite.py"
    path.write_text(path.read_text().replace("level(3)", "level(4)").replace("== 3", "== 4"))
    run(project).assert_outcomes(passed=2)
    assert project.counted() >= 3


@pytest.mark.parametrize(
    ("way", "scope"),
    [
        ("fspath", "function"),
        ("path", "function"),
        ("node.path", "function"),
        ("_pyfuncitem.path", "function"),
        ("_pyfuncitem.path", "session"),
    ],
)
def test_the_file_of_the_test_counts_by_whatever_name(
    project: Project, way: str, scope: str
) -> None:
    """A fixture that asks for it has a value for each file; a session's can ask the item alone that
    was the first to need it."""
    project.write(
        "conftest.py",
        f"""
        import os
        from counter import count
        from pytest_taskcache import cached_fixture

        @cached_fixture(scope={scope!r})
        def name(request):
            count("name")
            return os.path.basename(str(request.{way}))
        """,
    )
    for file in ("test_a.py", "test_b.py"):
        project.write(file, f"def test_it(name):\n    assert name == {file!r}\n")
    for file in ("test_a.py", "test_b.py") * 2:
        run(project, file).assert_outcomes(passed=1)
    assert project.counted() == 2


def test_marks_of_the_test_count_if_they_are_read(project: Project) -> None:
    """A changed mark is a miss for the fixture that reads marks through its node."""
    project.write("pytest.ini", "[pytest]\nmarkers = level(n): how far\n")
    project.write("given.py", "LEVEL = 3\n")
    project.write(
        "test_suite.py",
        """
        import pytest
        from counter import count
        from given import LEVEL
        from pytest_taskcache import cached_fixture

        @cached_fixture
        def data(request):
            count("body")
            return request.node.get_closest_marker("level").args[0]

        @pytest.mark.level(LEVEL)
        def test_it(data):
            assert data == LEVEL
        """,
    )
    climb(project, "given.py", "3", "4")


def test_an_option_that_is_read_counts(project: Project) -> None:
    """``request.config.getoption``: another value of the option is a miss, the old one a hit."""
    project.write(
        "conftest.py",
        """
        from counter import count
        from pytest_taskcache import cached_fixture

        def pytest_addoption(parser):
            parser.addoption("--level", default="1")

        @cached_fixture(scope="session")
        def data(request):
            count("request")
            return request.config.getoption("level")

        @cached_fixture(scope="session")
        def same(pytestconfig):
            count("pytestconfig")
            return pytestconfig.getoption("level")

        @cached_fixture(scope="session")
        def dynamic(request):
            count("dynamic")
            return request.getfixturevalue("pytestconfig").getoption("level")
        """,
    )
    project.write(
        "test_suite.py",
        """
        def test_it(data, same, dynamic, pytestconfig):
            assert data == same == dynamic == pytestconfig.getoption("level")
        """,
    )
    cold_then_warm(project, computed=3, passed=1)
    run(project, "--level=2").assert_outcomes(passed=1)
    assert project.counted() == 6
    run(project, "--level=2").assert_outcomes(passed=1)
    run(project).assert_outcomes(passed=1)
    assert project.counted() == 6


def test_options_do_not_matter_to_a_fixture_that_cannot_see_them(project: Project) -> None:
    """One that reads only its parameter is not recomputed for another option."""
    project.write(
        "conftest.py",
        """
        from counter import count
        from pytest_taskcache import cached_fixture

        def pytest_addoption(parser):
            parser.addoption("--level", default="1")

        @cached_fixture(scope="session", params=[5])
        def data(request):
            count("data")
            return request.param

        @cached_fixture
        def name(request):
            count("name")
            return request.node.name
        """,
    )
    project.write(
        "test_suite.py", "def test_it(data, name):\n    assert (data, name) == (5, 'test_it[5]')\n"
    )
    cold_then_warm(project, computed=2, passed=1)
    run(project, "--level=2").assert_outcomes(passed=1)
    assert project.counted() == 2


def test_options_count_where_a_decorator_may_see_them(project: Project) -> None:
    """What is between `cached` and the function may read what the function does not."""
    project.write(
        "conftest.py",
        """
        import functools
        from counter import count
        from pytest_taskcache import cached_fixture

        def pytest_addoption(parser):
            parser.addoption("--level", default="1")

        def levelled(function):
            @functools.wraps(function)
            def wrapper(request):
                return function(request), request.config.getoption("level")
            return wrapper

        @cached_fixture
        @levelled
        def data(request):
            count("body")
            return request.scope
        """,
    )
    project.write(
        "test_suite.py",
        "def test_it(data, pytestconfig):\n    assert data[1] == pytestconfig.getoption('level')\n",
    )
    cold_then_warm(project, computed=1, passed=1)
    run(project, "--level=2").assert_outcomes(passed=1)
    assert project.counted() == 2


MODULE_READS = {
    "constant": ("X = 1\n", "X = 1", "X = 2"),
    "from_elsewhere": ("from given import VALUE as X\n", "VALUE = 1", "VALUE = 2"),
    "computed_elsewhere": ("from given import value\nX = value()\n", "return 1", "return 2"),
    "set_up": (
        "from given import value\nX = 0\ndef setup_module(module):\n    module.X = value()\n",
        "return 1",
        "return 2",
    ),
}


@pytest.mark.parametrize("way", MODULE_READS)
def test_what_is_read_from_the_test_module_counts(project: Project, way: str) -> None:
    """``request.module.X``: however X comes about, its change is noticed."""
    scope = "function" if way in ("constant", "set_up") else "module"
    text, before, after = MODULE_READS[way]
    project.write("given.py", "VALUE = 1\n\ndef value():\n    return 1\n")
    project.write(
        "conftest.py",
        f"""
        from counter import count
        from pytest_taskcache import cached_fixture

        @cached_fixture(scope={scope!r})
        def data(request):
            count("body")
            return request.module.X
        """,
    )
    project.write("test_suite.py", text + "\ndef test_it(data):\n    assert data == X\n")
    climb(project, "test_suite.py" if way == "constant" else "given.py", before, after)


def test_a_request_for_another_fixture_inside_is_an_input(project: Project) -> None:
    """``request.getfixturevalue`` inside: the value asked for counts, plain or cached; and which
    is asked for may change."""
    project.write("given.py", "NAME = 'one'\nVALUE = 1\n")
    project.write(
        "conftest.py",
        """
        import pytest
        from counter import count
        from pytest_taskcache import INPUTS, OBSERVED, TASK_SOURCE, cached_fixture

        def pytest_addoption(parser):
            parser.addoption("--value", type=int, default=1)

        @pytest.fixture
        def one(pytestconfig):
            return pytestconfig.getoption("value")

        @cached_fixture
        def two(one):
            return one * 2

        @cached_fixture
        def data(request):
            count("body")
            from given import NAME
            return request.getfixturevalue(NAME)
        """,
    )
    project.write(
        "test_suite.py",
        """
        import pytest
        from given import NAME

        def test_it(data, request):
            assert data == request.getfixturevalue(NAME)
        """,
    )
    cold_then_warm(project, computed=1, passed=1)
    run(project, "--value=2").assert_outcomes(passed=1)
    assert project.counted() == 2
    run(project).assert_outcomes(passed=1)
    project.write("given.py", "NAME = 'two'\nVALUE = 1\n")
    counted = project.counted()
    run(project).assert_outcomes(passed=1)
    assert project.counted() == counted + 1
    run(project).assert_outcomes(passed=1)
    assert project.counted() == counted + 1


def test_a_dynamic_request_without_a_digest_makes_uncacheable(project: Project) -> None:
    """What it asked for cannot be compared in the next run: the fixture runs each time."""
    project.write(
        "test_suite.py",
        """
        import sqlite3
        import pytest
        from counter import count
        from pytest_taskcache import cached_fixture

        @pytest.fixture
        def connection():
            connection = sqlite3.connect(":memory:")
            yield connection
            connection.close()

        @cached_fixture
        def data(request):
            count("body")
            return request.getfixturevalue("connection").execute("select 1").fetchone()

        def test_it(data):
            assert data == (1,)
        """,
    )
    run(project).assert_outcomes(passed=1)
    second = run(project, "-v")
    second.assert_outcomes(passed=1)
    assert project.counted() == 2
    second.stdout.fnmatch_lines(["*argument connection: sqlite3.Connection cannot be digested*"])


def test_files_made_by_a_plain_upstream_fixture_count_by_content(project: Project) -> None:
    """A path under the temporary directory says nothing: what lies there counts, by itself or
    inside another value."""
    project.write("given.py", "TEXT = 'one'\n")
    project.write(
        "test_suite.py",
        """
        import pytest
        from counter import count
        from given import TEXT
        from pytest_taskcache import INPUTS, TASK_SOURCE, cached_fixture

        POLICY = TASK_SOURCE + INPUTS

        @pytest.fixture
        def raw(tmp_path):
            (tmp_path / "file").write_text(TEXT)
            return tmp_path / "file"

        @pytest.fixture
        def wrapped(raw):
            return {"path": raw}

        @cached_fixture(policy=POLICY)
        def data(raw):
            count("data")
            return raw.read_text()

        @cached_fixture(policy=POLICY)
        def more(wrapped):
            count("more")
            return wrapped["path"].read_text()

        def test_it(data, more):
            assert data == more == TEXT
        """,
    )
    cold_then_warm(project, computed=2, passed=1)
    project.write("given.py", "TEXT = 'two'\n")
    run(project).assert_outcomes(passed=1)
    assert project.counted() == 4


def test_the_code_of_a_plain_upstream_fixture_counts(project: Project) -> None:
    """It may act by effects alone: a fixture that only writes a file is a dependency too, asked
    for by name, by autouse or by mark."""
    project.write(
        "test_suite.py",
        """
        import pytest
        from counter import count
        from given import text
        from pytest_taskcache import cached_fixture

        @pytest.fixture(NAMED)
        def write(tmp_path):
            (tmp_path / "file").write_text(text())

        @cached_fixture
        def data(tmp_path, ARGUMENT):
            count("body")
            return (tmp_path / "file").read_text()

        def test_it(data):
            assert data == text()
        """.replace("NAMED", "").replace("ARGUMENT", "write"),
    )
    project.write("given.py", "def text():\n    return 'one'\n")
    climb(project, "given.py", "one", "two")


@pytest.mark.parametrize("way", ["autouse", "usefixtures", "setup_module"])
def test_the_code_of_what_was_set_up_around_counts(project: Project, way: str) -> None:
    """Autouse fixtures, those used by mark and ``setup_module`` act by effects, too."""
    prelude = {
        "autouse": "@pytest.fixture(autouse=True)\ndef prepare():\n    state.append(text())",
        "usefixtures": "pytestmark = pytest.mark.usefixtures('prepare')\n"
        "@pytest.fixture\ndef prepare():\n    state.append(text())",
        "setup_module": "def setup_module():\n    state.append(text())",
    }[way]
    project.write("helper.py", "state = []\n")
    project.write("given.py", "def text():\n    return 'one'\n")
    project.write(
        "conftest.py",
        """
        from counter import count
        from helper import state
        from pytest_taskcache import cached_fixture

        @cached_fixture
        def data():
            count("body")
            return state[-1]
        """,
    )
    project.write(
        "test_suite.py",
        f"""
import pytest
from given import text
from helper import state

{prelude}

def test_it(data):
    assert data == text()
""",
    )
    climb(project, "given.py", "one", "two")


def test_a_variable_that_two_fixtures_set(project: Project) -> None:
    """What an automatic fixture sets counts by its value: another one may have set it since."""
    project.write(
        "test_suite.py",
        """
        import os
        import pytest
        from counter import count
        from pytest_taskcache import cached_fixture

        @pytest.fixture(autouse=True)
        def mode(monkeypatch):
            monkeypatch.setenv("MODE", "early")

        @pytest.fixture
        def late(monkeypatch):
            monkeypatch.setenv("MODE", "late")

        @cached_fixture
        def data():
            count("body")
            return os.environ["MODE"]

        def test_early(data):
            assert data == "early"

        def test_late(late, data):
            assert data == "late"
        """,
    )
    for _ in range(2):
        run(project).assert_outcomes(passed=2)
    assert project.counted() == 2


SETTERS = {
    "an entry": ("lib.CFG['mode'] = {}", "lib.CFG['mode']"),
    "a global": ("lib.MODE = {}", "lib.MODE"),
    "an attribute of a class": ("lib.Settings.mode = {}", "lib.Settings.mode"),
    "a method of the class that is read": ("lib.Settings.use({})", "lib.Settings.mode"),
    "the function that is asked": ("lib.mode({})", "lib.mode()"),
    "that function, of an object": ("lib.of_object({})", "lib.of_object()"),
    "that function, of an object in a list": ("lib.of_list({})", "lib.of_list()"),
    "that function, of a class": ("lib.Settings.now({})", "lib.Settings.now()"),
    "that function, of what was not there": ("lib.fresh({})", "lib.fresh()"),
    "what else sets a default": ("lib.configure({})", "lib.configured()"),
}
"""How fixtures set a global, and how it is read."""


@pytest.mark.parametrize("reader", ["data", "value()"])
@pytest.mark.parametrize("way", SETTERS)
def test_a_global_that_two_fixtures_set(project: Project, way: str, reader: str) -> None:
    """It counts by its value, whichever code set it, and after an edit of the second one, too."""
    project.write(
        "lib.py",
        """
        CFG, MODE, CHOSEN = {}, "", None

        class Settings:
            mode = ""

            @classmethod
            def use(cls, mode):
                cls.mode = mode

            @classmethod
            def now(cls, new=None):
                if new is not None:
                    cls.mode = new
                return cls.mode

        HOLDER, HOLDERS = Settings(), [Settings()]

        def of_object(new=None):
            if new is not None:
                HOLDER.mode = new
            return HOLDER.mode

        def of_list(new=None):
            if new is not None:
                HOLDERS[0].mode = new
            return HOLDERS[0].mode

        def fresh(new=None):
            global FRESH
            if new is not None:
                FRESH = new
            return FRESH

        def mode(new=None):
            global MODE
            if new is not None:
                MODE = new
            return MODE

        def configure(mode):
            global CHOSEN
            CHOSEN = mode

        def configured():
            if CHOSEN is None:
                configure("default")
            return CHOSEN
        """,
    )
    put, read = SETTERS[way]
    given = reader if reader == "data" else ""

    def write(late: str) -> None:
        project.write(
            "test_suite.py",
            f"""
            import lib
            import pytest
            from counter import count
            from pytest_taskcache import cached, cached_fixture

            @pytest.fixture(autouse=True)
            def early(request):
                {put.format("request.param if hasattr(request, 'param') else 'early'")}

            @pytest.fixture
            def late():
                {put.format(repr(late))}

            @cached_fixture
            def data():
                count("body")
                return {read}

            @cached
            def value():
                count("body")
                return {read}

            def test_early({given}):
                assert {reader} == "early"

            def test_late(late, {given}):
                assert {reader} == {late!r}

            @pytest.mark.parametrize("early", ["other"], indirect=True)
            def test_other(early, {given}):
                assert {reader} == "other"
            """,
        )

    write("late")
    for _ in range(2):
        run(project).assert_outcomes(passed=3)
    assert project.counted() == 3
    write("later")
    run(project).assert_outcomes(passed=3)
    assert project.counted() > 3


@pytest.mark.parametrize(
    ("reset", "read"),
    [
        ("", "lib.rows()"),
        ("lib._rows = None", "lib.rows()"),
        ("", "lib.of_object()"),
        ("lib.HOLDER.rows = None", "lib.of_object()"),
    ],
)
def test_a_global_that_is_filled_when_it_is_asked_for(
    project: Project, reset: str, read: str
) -> None:
    """It holds what the function fills it with, whoever was the first to ask; that a fixture takes
    it away again makes it no input, either."""
    project.write(
        "lib.py",
        """
        _rows = None

        def rows():
            global _rows
            if _rows is None:
                fill()
            return _rows

        def fill():
            global _rows
            _rows = [1, 2]

        class Holder:
            rows = None

        HOLDER = Holder()

        def of_object():
            if HOLDER.rows is None:
                HOLDER.rows = [1, 2]
            return HOLDER.rows
        """,
    )
    project.write(
        "test_suite.py",
        f"""
        import lib
        import pytest
        from counter import count
        from pytest_taskcache import cached

        @pytest.fixture(autouse=True)
        def clean():
            yield
            {reset or "pass"}

        @cached
        def total(factor):
            count("body")
            return sum({read}) * factor

        @pytest.mark.parametrize("factor", [1, 2, 3])
        def test_total(factor):
            assert total(factor) == 3 * factor
        """,
    )
    for options in ((), (), ("--deselect", "test_suite.py::test_total[1]")):
        run(project, *options)
        assert project.counted() == 3


WRITTEN = {
    "in tmp_path": ("tmp_path", "tmp_path"),
    "in another directory of the run": ("tmp_path_factory", "tmp_path_factory.getbasetemp()"),
    "where it works": ("there", "pathlib.Path()"),
}
"""The argument of two fixtures and a cached one, and where the two write."""


@pytest.mark.parametrize("where", WRITTEN)
def test_a_file_that_two_fixtures_write(project: Project, where: str) -> None:
    """What lies there counts by its content, whoever wrote it, and after an edit, too."""
    argument, directory = WRITTEN[where]

    def write(late: str) -> None:
        project.write(
            "test_suite.py",
            f"""
            import pathlib
            import pytest
            from counter import count
            from pytest_taskcache import cached_fixture

            @pytest.fixture
            def there(tmp_path, monkeypatch):
                monkeypatch.chdir(tmp_path)

            @pytest.fixture(autouse=True)
            def early({argument}):
                ({directory} / "file").write_text("early")

            @pytest.fixture
            def late({argument}):
                ({directory} / "file").write_text({late!r})

            @cached_fixture
            def data({argument if argument != "there" else ""}):
                count("body")
                return ({directory} / "file").read_text()

            def test_early(data):
                assert data == "early"

            def test_late(late, data):
                assert data == {late!r}
            """,
        )

    write("late")
    for _ in range(2):
        run(project).assert_outcomes(passed=2)
    assert project.counted() == 2 or argument == "there", "its own directory counts for that, too"
    write("later")
    run(project).assert_outcomes(passed=2)
